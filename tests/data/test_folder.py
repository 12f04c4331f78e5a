"""Own data: what `dataset.toml` means, one clear line for every mistake in it, and what a split takes."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from deconvseg.data.dataset import DataSet
from deconvseg.data.folder import folder_dataset
from deconvseg.data.masks import VOID, read_mask
from deconvseg.errors import DataError
from deconvseg.images.palette import voc_color

CLASSES = '[[classes]]\nname = "background"\n[[classes]]\nname = "road"\n'
SPLITS = '[splits]\ntrain = "train.txt"\n'
MANY = "".join(f'[[classes]]\nname = "{i}"\n' for i in range(256))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for name in ("images", "masks", "photos"):
        (tmp_path / name).mkdir()
    return tmp_path / "dataset.toml"


def make(root: Path, photos: Iterable[str], splits: str, head: str = "", images: str = "images") -> Path:
    """Writes empty photo files (their content is not looked at) and a description."""
    for folder in ("masks", images):
        (root / folder).mkdir(exist_ok=True)
    for photo in photos:
        path = root / images / photo
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "dataset.toml").write_text(f"{head}\n[splits]\n{splits}\n{CLASSES}")
    return root


def names(dataset: DataSet) -> list[str]:
    return [example.name for example in dataset.examples]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_everything_can_be_said(path: Path, encoding: str) -> None:
    text = (
        'images = "photos"\nmasks = "photos"\nignore = "#E0e0c0"\n'
        '[splits]\ntrain = "rest"\nval = 0.1\ntest = ["a", "b/c"]\n'
        '[[classes]]\nname = "gründ"\ncolor = [0, 0, 9]\nid = 4\n'
        '[[classes]]\nname = "road"\ncolor = "#804080"\nid = 7\n'
    )
    path.write_text(text, encoding=encoding)
    dataset = folder_dataset(path.parent, "test")
    photos = path.parent / "photos"
    assert [example.image for example in dataset.examples] == [photos / "a", photos / "b/c"]
    assert dataset.classes == ("gründ", "road")
    assert dataset.palette == ((0, 0, 9), (128, 64, 128))
    assert dataset.masks.ids == {4: 0, 7: 1, 255: VOID}
    assert dataset.masks.colors == {(0, 0, 9): 0, (128, 64, 128): 1, (224, 224, 192): VOID}


ONE = '[splits]\ntrain = ["a"]\n'


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (ONE + CLASSES, {0: 0, 1: 1, 255: VOID}),
        # Black and white masks: white is a class, nothing is void.
        (ONE + CLASSES + "id = 255\n", {0: 0, 255: 1}),
        ("ignore = 128\n" + ONE + CLASSES + "id = 255\n", {0: 0, 128: VOID, 255: 1}),
        ("ignore = 0\n" + ONE + CLASSES.replace('d"', 'd"\nid = 9', 1), {9: 0, 1: 1, 0: VOID}),
        (ONE + MANY.rsplit("[[", 1)[0], {i: i for i in range(256)}),
    ],
    ids=["nothing said", "255", "255 and another void", "0 is void", "255 classes"],
)
def test_255_is_void_unless_something_else_is_said(path: Path, text: str, ids: dict[int, int]) -> None:
    path.write_text(text)
    dataset = folder_dataset(path.parent, "train")
    assert dataset.masks.ids == ids
    assert dataset.palette[:2] == ((0, 0, 0), (128, 0, 0))  # VOC's


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images = ", "Invalid value"),
        ('image = "x"\n' + SPLITS + CLASSES, "unknown key 'image'; known are images, masks, ignore, splits"),
        (SPLITS + CLASSES + 'colour = "#ff0000"', "class 1: unknown key 'colour'; known are name, color, id"),
        ("images = 3\n" + SPLITS + CLASSES, "images = 3 should be the name of a folder"),
        (CLASSES, "has no table [splits]"),
        ("[splits]\nval = 1.0\n" + CLASSES, "split val = 1.0 should be a list file"),
        ('[splits]\nb = 0.1\na = ["a"]\n' + CLASSES, "there is no split named 'train'; splits here: a, b"),
        ('[splits]\ntrain = "rest"\n' + CLASSES, "split 'train' is empty; 0 photos are in"),
        ("[splits]\na = 0.6\nb = 0.5\n" + CLASSES, "the splits' shares add up to 1.1"),
        (SPLITS, "has no [[classes]]"),
        (SPLITS + '[[classes]]\nname = "x"\n', "has 1 classes; 2 to 255 are possible"),
        (SPLITS + "[[classes]]\n" + CLASSES, "class 0: name = None should be text"),
        (SPLITS + CLASSES + CLASSES, "classes 0 and 2 have the same name, background"),
        (SPLITS + CLASSES + 'color = "#000000"\n', "classes 0 and 1 have the same color, #000000"),
        (SPLITS + CLASSES + "id = 0\n", "classes 0 and 1 have the same id, 0"),
        (SPLITS + CLASSES + "id = 256\n", "class 1: id = 256 should be a whole number from 0 to 255"),
        (SPLITS + CLASSES + 'color = "red"\n', "class 1: color = 'red' should be like \"#804080\""),
        ("ignore = 255\n" + SPLITS + CLASSES + "id = 255\n", "ignore = 255 is class 1 as well"),
        ("ignore = 256\n" + SPLITS + CLASSES, "ignore = 256 should be"),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        folder_dataset(path.parent, "train")
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("road", "bird", "values", "palette", "is_fault"),
    [
        ("", "", [0, 1, 2], [0, 2, 1], True),
        ("id = 2", "id = 4", [0, 2, 4], [0, 1, 2, 3, 4], False),
        ("id = 2", "id = 4", [0, 2, 4], [0, 1, 4, 3, 2], True),
        ('color = "#008080"', "", [0, 1, 2], [0, 2, 6], True),
        ('color = "#ffff00"', "", [0, 1, 2], [0, 1, 2], False),
    ],
    ids=["swapped", "by id", "by id, swapped", "as said, swapped", "of no class"],
)
def test_palettes_are_held_against_what_the_description_says(
    tmp_path: Path, road: str, bird: str, values: list[int], palette: list[int], is_fault: bool
) -> None:
    root = make(tmp_path, ["a.jpg"], 'train = ["a"]')
    with (root / "dataset.toml").open("a") as file:
        file.write(f'{road}\n[[classes]]\nname = "bird"\n{bird}\n')
    mask = Image.fromarray(np.array([values], np.uint8))
    mask.putpalette([channel for label in palette for channel in voc_color(label)])
    mask.save(root / "masks/a.png")
    (example,) = (data := folder_dataset(root, "train")).examples
    if is_fault:
        with pytest.raises(DataError, match=r"a\.png: in the mask's palette id \d has the colour of"):
            read_mask(example.mask, data.masks)
    else:
        assert read_mask(example.mask, data.masks).tolist() == [[0, 1, 2]]


def test_a_list_file_names_photos_in_its_order_and_masks_may_be_of_other_kinds(tmp_path: Path) -> None:
    root = make(tmp_path, ["b.JPG", "a b.tif", "sub/c.jpg", "other.jpg"], 'train = "lists/train.txt"')
    for mask in ("b.PNG", "a b.bmp"):
        (root / "masks" / mask).touch()
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_text("sub\\c.jpg\n\na b\nb.JPG\n")
    assert [(e.name, e.image, e.mask) for e in folder_dataset(root, "train").examples] == [
        ("sub/c", root / "images/sub/c.jpg", root / "masks/sub/c.png"),
        ("a b", root / "images/a b.tif", root / "masks/a b.bmp"),
        ("b", root / "images/b.JPG", root / "masks/b.PNG"),
    ]


@pytest.mark.parametrize(("photo", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_lists_and_masks_may_be_composed_otherwise_than_photos(
    tmp_path: Path, photo: str, listed: str
) -> None:
    root = make(tmp_path, [normalize(photo, "é.jpg"), "b.jpg"], 'val = "val.txt"\ntrain = "rest"')
    (root / "masks" / normalize(listed, "é.png")).touch()
    (root / "val.txt").write_text(normalize(listed, "é"))
    (example,) = folder_dataset(root, "val").examples
    assert example.image.is_file() and example.mask.is_file()
    assert names(folder_dataset(root, "train")) == ["b"]


def test_linked_folders_of_photos_and_masks_belong_to_the_data(tmp_path: Path) -> None:
    root = make(tmp_path, ["a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg"], 'train = "rest"')
    for folder, file in (("images", "p.jpg"), ("masks", "p.png")):
        (tmp_path / f"more {folder}").mkdir()
        (tmp_path / f"more {folder}" / file).touch()
        (root / folder / "more").symlink_to(tmp_path / f"more {folder}")
    dataset = folder_dataset(root, "train")
    assert names(dataset) == ["a", "more/p"]
    assert dataset.examples[1].mask.is_file()


def test_a_listed_photo_that_is_missing_is_found_when_it_is_read(tmp_path: Path) -> None:
    root = make(tmp_path, ["a.jpg"], 'train = ["a", "gone.jpg"]')
    dataset = folder_dataset(root, "train")
    assert dataset.examples[1].image == root / "images/gone.jpg"


def test_shares_and_the_rest_divide_the_photos_no_list_names(tmp_path: Path) -> None:
    photos = [f"{i:03}.jpg" for i in range(200)]
    splits = 'train = "rest"\nval = 0.1\ntest = 0.2\nextra = ["003", "007.jpg"]'
    root = make(tmp_path, photos, splits)
    parts = {split: names(folder_dataset(root, split)) for split in ("train", "val", "test", "extra")}
    assert sorted(chain(*parts.values())) == [photo[:3] for photo in photos]  # disjoint and complete
    assert parts["extra"] == ["003", "007"]
    assert 10 < len(parts["val"]) < 30
    assert 25 < len(parts["test"]) < 55
    # They keep their split when others come and go.
    make(tmp_path, [f"new{i}.jpg" for i in range(60)], splits)
    (root / "images/000.jpg").unlink()
    for split in ("train", "val", "test"):
        after = names(folder_dataset(root, split))
        assert {name for name in after if "new" not in name} == {*parts[split]} - {"000"}


@pytest.mark.parametrize(
    ("images", "masks", "files"),
    [
        (".", ".", ["a.jpg", "a.png", "sub/b.jpg", "sub/b.png"]),
        ("masks/photos", "masks", ["a.png", "sub/b.png", "../a.png"]),
    ],
    ids=["side by side", "photos below masks"],
)
def test_masks_are_no_photos(tmp_path: Path, images: str, masks: str, files: list[str]) -> None:
    head = f'images = "{images}"\nmasks = "{masks}"'
    root = make(tmp_path, files, 'train = "rest"', head, images)
    assert names(folder_dataset(root, "train")) == ["a", "sub/b"]


def test_a_folder_of_masks_among_the_photos_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, ["a.png"], 'train = "rest"', 'images = "."', images=".")
    with pytest.raises(DataError, match=r"dataset\.toml: .*masks is a folder inside .*; move it out"):
        folder_dataset(root, "train")

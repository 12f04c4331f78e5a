"""Own data: which photos a split takes, and where their masks are."""

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.data.dataset import DataSet
from deconvseg.data.folder import folder_dataset
from deconvseg.errors import DataError

Make = Callable[..., Path]

CLASSES = '[[classes]]\nname = "background"\n[[classes]]\nname = "road"\nid = 7\ncolor = "#804080"\n'


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes empty photo files (their content is not looked at) and a description."""

    def make(photos: Iterable[str], splits: str, head: str = "", images: str = "images") -> Path:
        for folder in (images, "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for photo in photos:
            path = tmp_path / images / photo
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "dataset.toml").write_text(f"{head}\n[splits]\n{splits}\n{CLASSES}")
        return tmp_path

    return make


def names(dataset: DataSet) -> list[str]:
    return [example.name for example in dataset.examples]


def test_photos_and_masks_of_both_kinds_are_read(make: Make) -> None:
    root = make([], 'train = ["indexed", "sub/colored"]')
    (root / "images/sub").mkdir()
    (root / "masks/sub").mkdir()
    Image.new("RGB", (3, 2)).save(root / "images/indexed.jpg")
    Image.new("RGB", (3, 2)).save(root / "images/sub/colored.tif")
    Image.new("L", (3, 2), 7).save(root / "masks/indexed.png")
    Image.new("RGB", (3, 2), "#804080").save(root / "masks/sub/colored.png")
    dataset = folder_dataset(root, "train")
    assert dataset.classes == ("background", "road")
    assert dataset.palette == ((0, 0, 0), (128, 64, 128))
    for example in dataset.examples:
        np.testing.assert_array_equal(dataset.read(example)[1], np.ones((2, 3)))


def test_a_list_file_names_photos_with_or_without_suffix_in_its_order(make: Make) -> None:
    root = make(["b.JPG", "a b.png", "v1.2.jpg", "sub/c.jpg", "other.jpg"], 'train = "lists/train.txt"')
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_bytes("\ufeffsub/c.jpg\r\n\r\na b\r\nv1.2\r\nb.JPG\r\n".encode())
    dataset = folder_dataset(root, "train")
    assert names(dataset) == ["sub/c", "a b", "v1.2", "b"]
    assert dataset.examples[0].image == root / "images/sub/c.jpg"
    assert dataset.examples[0].mask == root / "masks/sub/c.png"
    assert dataset.examples[3].image == root / "images/b.JPG"


def test_a_listed_photo_that_is_missing_is_found_when_it_is_read(make: Make) -> None:
    root = make(["a.jpg"], 'train = ["a", "gone.jpg"]')
    dataset = folder_dataset(root, "train")
    assert dataset.examples[1].image == root / "images/gone"


def test_shares_and_the_rest_divide_the_photos_no_list_names(make: Make) -> None:
    photos = [f"{i:04}.jpg" for i in range(1000)]
    root = make(photos, 'train = "rest"\nval = 0.1\ntest = 0.2\nextra = ["0003", "0007.jpg"]')
    parts = {split: names(folder_dataset(root, split)) for split in ("train", "val", "test", "extra")}
    assert sorted(chain(*parts.values())) == [photo[:4] for photo in photos]  # disjoint and complete
    assert parts["extra"] == ["0003", "0007"]
    assert 70 < len(parts["val"]) < 130
    assert 160 < len(parts["test"]) < 240


def test_photos_keep_their_split_when_others_come_and_go(make: Make) -> None:
    root = make([f"{i}.jpg" for i in range(200)], 'train = "rest"\nval = 0.25')
    before = {split: set(names(folder_dataset(root, split))) for split in ("train", "val")}
    make([f"new{i}.jpg" for i in range(200)], 'train = "rest"\nval = 0.25')
    (root / "images/0.jpg").unlink()
    for split, members in before.items():
        after = folder_dataset(root, split)
        assert {name for name in names(after) if not name.startswith("new")} == members - {"0"}
        assert len(after) > len(members)


def test_what_is_no_photo_is_passed_over(make: Make) -> None:
    root = make(["a.jpg", "._a.jpg", "notes.txt", "Thumbs.db"], 'train = "rest"')
    assert names(folder_dataset(root, "train")) == ["a"]


@pytest.mark.parametrize(
    ("head", "files"),
    [
        ('images = "."\nmasks = "."', ["a.jpg", "a.png", "sub/b.jpg", "sub/b.png"]),
        ('images = "."\nmasks = "masks"', ["a.png", "masks/a.png", "sub/b.png", "masks/sub/b.png"]),
        ('images = "masks/photos"\nmasks = "masks"', []),
    ],
    ids=["side by side", "masks below photos", "photos below masks"],
)
def test_masks_are_no_photos(make: Make, head: str, files: list[str]) -> None:
    root = make(files, 'train = "rest"', head, ".")
    if not files:
        make(["a.png", "sub/b.png"], 'train = "rest"', head, "masks/photos")
    assert names(folder_dataset(root, "train")) == ["a", "sub/b"]


def test_two_photos_with_one_mask_are_named(make: Make) -> None:
    root = make(["a.jpg", "a.png"], 'train = "rest"')
    with pytest.raises(DataError, match=r"images/a\.png: a\.jpg would have the same mask, a\.png"):
        folder_dataset(root, "train")


@pytest.mark.parametrize(
    ("splits", "split", "message"),
    [
        ('train = "rest"\nval = ["a"]', "test", "no split named 'test'; splits here: train, val"),
        ('train = ["a"]\nval = "rest"', "val", "split 'val' is empty; 1 photos are in"),
        ('train = "none.txt"', "train", r"none\.txt: list cannot be read \(No such file or directory\)"),
        ('train = "rest"\nval = "none.txt"', "train", r"none\.txt: list cannot be read"),
    ],
)
def test_splits_that_cannot_be_had(make: Make, splits: str, split: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        folder_dataset(make(["a.jpg"], splits), split)

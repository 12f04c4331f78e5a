"""`dataset.toml`: what it means, and one clear line for every mistake in it."""

from pathlib import Path

import pytest

from deconvseg.data.description import read_description
from deconvseg.data.masks import VOID
from deconvseg.errors import DataError

CLASSES = '[[classes]]\nname = "background"\n[[classes]]\nname = "road"\n'
SPLITS = '[splits]\ntrain = "train.txt"\n'
MANY = "".join(f'[[classes]]\nname = "{i}"\n' for i in range(256))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for name in ("images", "masks", "photos"):
        (tmp_path / name).mkdir()
    return tmp_path / "dataset.toml"


def test_everything_can_be_said(path: Path) -> None:
    path.write_text(
        'images = "photos"\nmasks = "photos"\nignore = "#E0e0c0"\n'
        '[splits]\ntrain = "rest"\nval = 0.1\ntest = ["a", "b/c"]\n'
        '[[classes]]\nname = "ground"\ncolor = [0, 0, 9]\nid = 4\n'
        '[[classes]]\nname = "road"\ncolor = "#804080"\nid = 7\n'
    )
    description = read_description(path)
    assert description.images == description.masks == path.parent / "photos"
    assert description.splits == {"train": "rest", "val": 0.1, "test": ("a", "b/c")}
    assert description.classes == ("ground", "road")
    assert description.palette == ((0, 0, 9), (128, 64, 128))
    assert description.format.ids == {4: 0, 7: 1, 255: VOID}
    assert description.format.colors == {(0, 0, 9): 0, (128, 64, 128): 1, (224, 224, 192): VOID}


def test_little_need_be_said(path: Path) -> None:
    path.write_text(SPLITS + CLASSES)
    description = read_description(path)
    assert (description.images, description.masks) == (path.parent / "images", path.parent / "masks")
    assert description.palette == ((0, 0, 0), (128, 0, 0))  # VOC's
    assert description.format.ids == {0: 0, 1: 1, 255: VOID}
    assert description.format.colors == {(0, 0, 0): 0, (128, 0, 0): 1}


@pytest.mark.parametrize(
    ("head", "ids"),
    [
        ("", {0: 0, 255: 1}),  # black and white masks: white is a class, nothing is void
        ("ignore = 128\n", {0: 0, 128: VOID, 255: 1}),
    ],
)
def test_255_is_void_unless_a_class_has_it(path: Path, head: str, ids: dict[int, int]) -> None:
    path.write_text(head + SPLITS + CLASSES + "id = 255\n")
    assert read_description(path).format.ids == ids


def test_another_id_may_be_void(path: Path) -> None:
    path.write_text("ignore = 0\n" + SPLITS + CLASSES.replace('"background"', '"background"\nid = 9'))
    assert read_description(path).format.ids == {9: 0, 1: 1, 0: VOID}


def test_255_classes_are_possible(path: Path) -> None:
    path.write_text(SPLITS + MANY.rsplit("[[", 1)[0])
    description = read_description(path)
    assert len(set(description.palette)) == len(description.classes) == 255
    assert description.format.ids[254] == 254 and description.format.ids[255] == VOID


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images = ", "cannot be read (Invalid value"),
        ('image = "x"\n' + SPLITS + CLASSES, "unknown key 'image'; did you mean 'images'?"),
        (SPLITS + CLASSES + 'colour = "#ff0000"', "class 1: unknown key 'colour'; did you mean 'color'?"),
        (SPLITS + CLASSES + "ignore = 3", "class 1: unknown key 'ignore'; move it above the first [table]"),
        ("images = 3\n" + SPLITS + CLASSES, "images = 3 should be the name of a folder"),
        ('masks = "labels"\n' + SPLITS + CLASSES, "masks = 'labels': there is no folder "),
        (CLASSES, "has no table [splits]"),
        ("[splits]\n" + CLASSES, "has no table [splits]"),
        ("[splits]\nval = 2\n" + CLASSES, "split val = 2 should be a list file"),
        ("[splits]\nval = 1.0\n" + CLASSES, "split val = 1.0 should be a list file"),
        ('[splits]\nval = ["a", 3]\n' + CLASSES, "split val = ['a', 3] should be"),
        ("[splits]\nval = []\n" + CLASSES, "split val = [] should be"),
        ("[splits]\na = 0.6\nb = 0.5\n" + CLASSES, "the splits' shares add up to 1.1"),
        ('[splits]\na = "rest"\nb = "rest"\n' + CLASSES, 'two splits are "rest"; only one can be'),
        (SPLITS, "has no [[classes]]"),
        ("classes = 3\n" + SPLITS, "has no [[classes]]"),
        (SPLITS + '[[classes]]\nname = "x"\n', "has 1 classes; 2 to 255 are possible"),
        (SPLITS + MANY, "has 256 classes; 2 to 255"),
        (SPLITS + "[[classes]]\n" + CLASSES, "class 0: name = None should be text"),
        (SPLITS + CLASSES + "[[classes]]\nname = 3\n", "class 2: name = 3 should be text"),
        (SPLITS + CLASSES + CLASSES, "classes 0 and 2 have the same name, 'background'"),
        (SPLITS + CLASSES + 'color = "#000000"\n', "classes 0 and 1 have the same color, #000000"),
        (SPLITS + CLASSES + "id = 0\n", "classes 0 and 1 have the same id, 0"),
        (SPLITS + CLASSES + "id = 256\n", "class 1: id = 256 should be a whole number from 0 to 255"),
        (SPLITS + CLASSES + "id = true\n", "class 1: id = True should be"),
        (SPLITS + CLASSES + 'color = "red"\n', "class 1: color = 'red' should be like \"#804080\""),
        (SPLITS + CLASSES + "color = [1, 2, 256]\n", "class 1: color = [1, 2, 256] should be like"),
        ("ignore = 1\n" + SPLITS + CLASSES, "ignore = 1 is class 1 as well"),
        ("ignore = 255\n" + SPLITS + CLASSES + "id = 255\n", "ignore = 255 is class 1 as well"),
        ('ignore = "#800000"\n' + SPLITS + CLASSES, "ignore = '#800000' is class 1 as well"),
        ("ignore = 256\n" + SPLITS + CLASSES, "ignore = 256 should be"),
        ('ignore = "void"\n' + SPLITS + CLASSES, "ignore = 'void' should be"),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_description(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.toml: cannot be read"):
        read_description(path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"dataset\.toml: cannot be read"):
        read_description(path)

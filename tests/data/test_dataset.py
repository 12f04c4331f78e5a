"""Data sets: recognised by what their folder holds, read photo by photo, upright and of one size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.data.dataset import DataSet, Example, find_pictures, photo_name, read_lines
from deconvseg.data.masks import MaskFormat
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError, InputError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.images.read import read_image

from ..conftest import OWN_CLASSES, describe

CLASSES = ("background", "thing")


@pytest.fixture
def pair(tmp_path: Path) -> Example:
    Image.new("RGB", (6, 4), (9, 8, 7)).save(tmp_path / "a.png")
    Image.new("L", (6, 4), 1).save(tmp_path / "mask.png")
    return Example("a", tmp_path / "a.png", tmp_path / "mask.png")


def dataset(*examples: Example) -> DataSet:
    palette = palette_for(2)
    return DataSet(CLASSES, palette, MaskFormat.indexed(CLASSES, palette), examples, Path("list.txt"))


def test_a_photo_comes_with_its_mask(pair: Example) -> None:
    image, mask = dataset(pair).read(pair)
    np.testing.assert_array_equal(image, np.full((4, 6, 3), [9, 8, 7]))
    np.testing.assert_array_equal(mask, np.ones((4, 6)))
    pair.image.unlink()
    with pytest.raises(InputError, match=r"a\.png: no such file"):
        dataset(pair).read(pair)


def test_other_sizes_are_named_and_photos_are_upright(pair: Example) -> None:
    Image.new("L", (6, 5)).save(pair.mask)
    with pytest.raises(DataError, match=r"mask\.png: mask is 6x5, its photo a\.png 6x4; they must agree$"):
        dataset(pair).read(pair)
    Image.new("L", (6, 4)).save(pair.mask)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    Image.new("RGB", (6, 4)).save(pair.image, exif=exif)
    with pytest.raises(DataError, match=r"mask is 6x4, its photo a\.png 4x6; they must agree .* EXIF"):
        dataset(pair).read(pair)
    Image.new("L", (4, 6)).save(pair.mask)
    assert dataset(pair).read(pair)[0].shape == (6, 4, 3)


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=r"gone\.jpg: no such file"):
        read_image(find_pictures(tmp_path)["gone"])
    (tmp_path / "folder").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"folder: cannot be read \(the link leads nowhere\)"):
        find_pictures(tmp_path)


def test_of_pictures_of_one_name_the_preferred_one_is_taken(tmp_path: Path) -> None:
    for name in ("a.PNG", "a.bmp", "a.jpg", "b.png", "c.bmp", "notes.txt", "._a.png"):
        (tmp_path / name).touch()
    found = find_pictures(tmp_path, ".png")
    assert found == {"a": tmp_path / "a.PNG", "b": tmp_path / "b.png", "c": tmp_path / "c.bmp"}
    with pytest.raises(DataError, match=r"a\.bmp: a\.PNG has the same name"):
        find_pictures(tmp_path)


def test_entries_of_lists() -> None:
    photos = {"a", "sub/b", "v1.2", "a\\b", "scan.jpg"}
    entries = ["a.JPG", "./sub/b.png", "sub\\b.png", "v1.2", "v1.2.jpg", "a\\b", "scan.jpg", "gone.jpg"]
    want = ["a", "sub/b", "sub/b", "v1.2", "v1.2", "a\\b", "scan.jpg", "gone"]
    assert [photo_name(entry, photos) for entry in entries] == want


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_are_read_as_any_editor_saves_them(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "l.txt").write_bytes("sub\\ä b\r\n\r\n  c \rd".encode(encoding))
    assert read_lines(tmp_path / "l.txt") == ["sub\\ä b", "c", "d"]
    (tmp_path / "l.txt").write_bytes(b"\xff\xfa")
    with pytest.raises(DataError, match=r"l\.txt: list cannot be read"):
        read_lines(tmp_path / "l.txt")


def test_the_layout_is_recognised(tmp_path: Path, make_shapes: Callable[..., Path]) -> None:
    root = make_shapes(tmp_path / "devkit" / "VOC2012", train=2, val=1).parent
    voc = open_dataset(root, "train")
    assert (voc.classes, len(voc)) == (VOC_CLASSES, 2)
    assert voc.source == root / "VOC2012/ImageSets/Segmentation/train.txt"

    sbd = tmp_path / "benchmark_RELEASE" / "dataset"
    for part in ("img", "cls"):
        (sbd / part).mkdir(parents=True)
    (sbd / "val.txt").write_text("x\n")
    assert open_dataset(tmp_path, "val").examples[0].mask == sbd / "cls" / "x.mat"

    # A description goes first: it can give a VOC folder classes of its own.
    own = open_dataset(describe(root / "VOC2012", few=["shape001"]), "few")
    assert own.classes == tuple(OWN_CLASSES)
    for mine, theirs in zip(own.read(own.examples[0]), voc.read(voc.examples[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)

    for other in (root / "VOC2012/JPEGImages", tmp_path / "nowhere"):
        words = rf"^{other}: not a VOC folder \(JPEG.*SBD.*img, cls.*dataset\.toml"
        with pytest.raises(DataError, match=words):
            open_dataset(other, "train")

"""VOC's layout: every way to name the root, and what is said when something is missing or wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.data.voc import read_examples, read_mask, read_split, voc_dir
from deconvseg.errors import DataError


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (5, 4)).save(folder / "JPEGImages" / f"{name}.jpg")
        Image.new("P", (5, 4)).save(folder / "SegmentationClass" / f"{name}.png")
    (folder / "ImageSets/Segmentation/val.txt").write_text("b\na\n")
    (folder / "ImageSets/Segmentation/none.txt").write_text("\n")
    return tmp_path / "VOCdevkit"


def test_root_may_be_the_devkit_its_year_or_its_parent(devkit: Path) -> None:
    folder = devkit / "VOC2012"
    assert voc_dir(devkit) == voc_dir(folder) == voc_dir(devkit.parent) == folder
    with pytest.raises(DataError, match="not a VOC folder"):
        voc_dir(folder / "JPEGImages")


def test_splits(devkit: Path) -> None:
    assert read_split(devkit, "val") == ["b", "a"]
    assert [e.name for e in read_examples(devkit, "val")] == ["b", "a"]
    with pytest.raises(DataError, match="no split named 'trian'; splits here: none, val"):
        read_split(devkit, "trian")
    with pytest.raises(DataError, match="the split is empty"):
        read_split(devkit, "none")


def test_a_missing_photo_or_mask_is_named(devkit: Path) -> None:
    (devkit / "VOC2012/SegmentationClass/a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: named by split 'val' but missing \(1 such"):
        read_examples(devkit, "val")


def test_masks(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    mask = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    image = Image.fromarray(mask, "P")
    image.putpalette([i for j in range(256) for i in (j, 255 - j, 7)])
    image.save(path)
    assert np.array_equal(read_mask(path, 3), mask)
    with pytest.raises(DataError, match=r"holds ids \[2\]; the classes are 0..1, void is 255"):
        read_mask(path, 2)
    image.convert("RGB").save(path)
    with pytest.raises(DataError, match="mode RGB"):
        read_mask(path, 3)
    path.write_bytes(b"not a png")
    with pytest.raises(DataError, match="cannot be read"):
        read_mask(path, 3)

"""VOC's layout: every way to name the root, and what is said when something is missing or wrong."""

from pathlib import Path

import pytest
from PIL import Image

from deconvseg.data.voc import read_split, voc_dataset, voc_dir
from deconvseg.errors import DataError
from deconvseg.images.palette import VOC_CLASSES, palette_for


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
    val = voc_dataset(devkit, "val")
    assert [example.name for example in val.examples] == ["b", "a"]
    assert (val.classes, val.palette) == (VOC_CLASSES, palette_for(21))
    image, mask = val.read(val.examples[0])
    assert image.shape == (4, 5, 3) and mask.shape == (4, 5)
    with pytest.raises(DataError, match="no split named 'trian'; splits here: none, val"):
        voc_dataset(devkit, "trian")
    with pytest.raises(DataError, match=r"none\.txt: the split is empty"):
        voc_dataset(devkit, "none")


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n",
        "\ufeffa\r\n\r\nb  \r\n",
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/b.jpg /SegmentationClassAug/b.png",
        "a  1\nb -1\n",
    ],
    ids=["names", "from Windows", "pairs of paths", "with flags"],
)
def test_lists_as_they_are_published(devkit: Path, text: str) -> None:
    (devkit / "VOC2012/ImageSets/Segmentation/some.txt").write_bytes(text.encode())
    assert read_split(devkit, "some") == ["a", "b"]


def test_a_list_that_is_no_text_is_named(devkit: Path) -> None:
    (devkit / "VOC2012/ImageSets/Segmentation/bad.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"bad\.txt: list cannot be read"):
        read_split(devkit, "bad")


def test_a_missing_mask_is_named_only_when_it_is_read(devkit: Path) -> None:
    (devkit / "VOC2012/SegmentationClass/a.png").unlink()
    val = voc_dataset(devkit, "val")
    with pytest.raises(DataError, match=r"SegmentationClass/a\.png: no such mask"):
        val.read(val.examples[1])


def test_masks_laid_over_the_folder_fill_gaps_alone(devkit: Path) -> None:
    folder = devkit / "VOC2012"
    (folder / "SegmentationClassAug").mkdir()
    for name in ("a", "b"):
        Image.new("P", (5, 4)).save(folder / "SegmentationClassAug" / f"{name}.png")
    (folder / "SegmentationClass/a.png").unlink()
    masks = {example.name: example.mask for example in voc_dataset(devkit, "val").examples}
    assert masks == {"a": folder / "SegmentationClassAug/a.png", "b": folder / "SegmentationClass/b.png"}

"""The layouts of VOC and SBD: every way to name the root, the lists as they are published, and mistakes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix
from torchvision.datasets import SBDataset

from deconvseg.data.open import open_dataset
from deconvseg.data.voc import find_voc, sbd_dataset
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
    (folder / "ImageSets/Segmentation/._val.txt").write_text("x\n")
    return tmp_path / "VOCdevkit"


def test_root_may_be_the_devkit_its_year_or_its_parent(devkit: Path) -> None:
    folder = devkit / "VOC2012"
    assert find_voc(devkit) == find_voc(folder) == find_voc(devkit.parent) == folder


def test_splits(devkit: Path) -> None:
    val = open_dataset(devkit, "val")
    assert [example.name for example in val.examples] == ["b", "a"]
    assert (val.classes, val.palette) == (VOC_CLASSES, palette_for(21))
    image, mask = val.read(val.examples[0])
    assert image.shape == (4, 5, 3) and mask.shape == (4, 5)
    with pytest.raises(DataError, match=r"no split named 'trian'; splits here: none, val$"):
        open_dataset(devkit, "trian")
    with pytest.raises(DataError, match=r"none\.txt: the split is empty"):
        open_dataset(devkit, "none")


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\nfoo bar",
        "\ufeffa\r\n\r\nb  \r\nfoo bar.jpg\r\n",
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n\\JPEGImages\\b.jpg \\Aug\\b.png\nfoo bar",
        "a  1\nb -1\nfoo bar",
    ],
    ids=["names", "from Windows", "pairs of paths", "with flags"],
)
def test_lists_as_they_are_published(devkit: Path, text: str) -> None:
    (devkit / "VOC2012/JPEGImages/foo bar.jpg").touch()
    (devkit / "VOC2012/ImageSets/Segmentation/some.txt").write_bytes(text.encode())
    assert [example.name for example in open_dataset(devkit, "some").examples] == ["a", "b", "foo bar"]


def test_suffixes_may_be_others_and_masks_laid_over_the_folder_fill_gaps(devkit: Path) -> None:
    folder = devkit / "VOC2012"
    (folder / "JPEGImages/b.jpg").rename(folder / "JPEGImages/b.JPEG")
    (folder / "SegmentationClass/b.png").rename(folder / "SegmentationClass/b.PNG")
    assert open_dataset(devkit, "val").read(open_dataset(devkit, "val").examples[0])[1].shape == (4, 5)
    (folder / "SegmentationClass/a.png").unlink()
    val = open_dataset(devkit, "val")
    with pytest.raises(DataError, match=r"SegmentationClass/a\.png: no such mask"):
        val.read(val.examples[1])
    (folder / "SegmentationClassAug").mkdir()
    for name in ("a", "b"):
        Image.new("P", (5, 4)).save(folder / "SegmentationClassAug" / f"{name}.png")
    masks = {example.name: example.mask for example in open_dataset(devkit, "val").examples}
    assert masks == {"a": folder / "SegmentationClassAug/a.png", "b": folder / "SegmentationClass/b.PNG"}


def write_benchmark(folder: Path, names: list[str]) -> None:
    for part in ("img", "cls"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.new("RGB", (7, 5)).save(folder / "img" / f"{name}.jpg")
        # As the original has it: boundaries are a cell array of sparse matrices beside the segmentation.
        boundaries = np.empty((20, 1), object)
        boundaries[:, 0] = [csc_matrix((5, 7), dtype=bool)] * 20
        segmentation = rng.integers(0, 21, (5, 7)).astype(np.uint8)
        present = np.unique(segmentation[segmentation > 0])[:, None]
        struct = {"Boundaries": boundaries, "Segmentation": segmentation, "CategoriesPresent": present}
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": struct}, do_compression=True)
    (folder / "train.txt").write_text("\n".join(names[:2]) + "\n")
    (folder / "val.txt").write_text("\n".join(names[2:]) + "\n")


@pytest.mark.parametrize("depth", ["", "benchmark_RELEASE/dataset"])
def test_sbd_is_read_as_torchvision_reads_it(tmp_path: Path, depth: str) -> None:
    folder = tmp_path / depth
    write_benchmark(folder, ["2008_a", "2008_b", "2008_c"])
    for split, names in (("train", ["2008_a", "2008_b"]), ("val", ["2008_c"])):
        dataset = sbd_dataset(tmp_path, split)
        theirs = SBDataset(str(folder), image_set=split, mode="segmentation")
        assert [example.name for example in dataset.examples] == names
        for example, (image, mask) in zip(dataset.examples, theirs, strict=True):
            photo, labels = dataset.read(example)
            np.testing.assert_array_equal(photo, np.asarray(image))
            np.testing.assert_array_equal(labels, np.asarray(mask))


@pytest.mark.parametrize("place", ["ImageSets/Segmentation/train_aug.txt", "train_aug.txt"])
def test_sbd_as_png(tmp_path: Path, place: str) -> None:
    for part in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / place).write_text("x\n")
    Image.new("RGB", (3, 2)).save(tmp_path / "JPEGImages/x.jpg")
    Image.new("L", (3, 2), 20).save(tmp_path / "SegmentationClassAug/x.png")
    dataset = sbd_dataset(tmp_path, "train_aug")
    np.testing.assert_array_equal(dataset.read(dataset.examples[0])[1], np.full((2, 3), 20))
    assert dataset.source == tmp_path / place


def test_other_folders_and_splits_of_sbd_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an SBD folder"):
        sbd_dataset(tmp_path, "train")
    write_benchmark(tmp_path, ["a", "b", "c"])
    with pytest.raises(DataError, match="no split named 'test'; splits here: train, val"):
        sbd_dataset(tmp_path, "test")

"""The layouts of VOC and SBD: every way to name the root, the lists as they are published, and mistakes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix
from torchvision.datasets import SBDataset

from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError
from deconvseg.images.palette import VOC_CLASSES, palette_for

from ..conftest import make_shapes


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Photos `shape000` and `shape001`, both in `val`; `train` is empty."""
    folder = make_shapes(tmp_path / "VOCdevkit/VOC2012", train=0, val=2)
    (folder / "ImageSets/Segmentation/._val.txt").write_text("x\n")
    return tmp_path / "VOCdevkit"


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_root_may_be_the_devkit_its_year_or_its_parent(devkit: Path, root: str) -> None:
    val = open_dataset(devkit.parent / root, "val")
    assert val.examples[0].image == devkit / "VOC2012/JPEGImages/shape000.jpg"
    assert (val.classes, val.palette) == (VOC_CLASSES, palette_for(21))


def test_splits_that_cannot_be_had(devkit: Path) -> None:
    with pytest.raises(DataError, match=r"no split named 'trian'; splits here: train, val$"):
        open_dataset(devkit, "trian")
    with pytest.raises(DataError, match=r"train\.txt: the split is empty"):
        open_dataset(devkit, "train")


@pytest.mark.parametrize(
    "text",
    [
        "shape001\nshape000\nfoo bar",
        "\ufeffshape001\r\n\r\nshape000  \r\nfoo bar.jpg\r\n",
        "/JPEGImages/shape001.jpg /Aug/shape001.png\n\\JPEGImages\\shape000.jpg \\Aug\\shape000.png\nfoo bar",
        "shape001  1\nshape000 -1\nfoo bar",
    ],
    ids=["names", "from Windows", "pairs of paths", "with flags"],
)
def test_lists_as_they_are_published(devkit: Path, text: str) -> None:
    (devkit / "VOC2012/JPEGImages/foo bar.jpg").touch()
    (devkit / "VOC2012/ImageSets/Segmentation/some.txt").write_bytes(text.encode())
    found = [example.name for example in open_dataset(devkit, "some").examples]
    assert found == ["shape001", "shape000", "foo bar"]


def test_suffixes_may_be_others_and_masks_laid_over_the_folder_fill_gaps(devkit: Path) -> None:
    photos, masks, more = (
        devkit / "VOC2012" / part for part in ("JPEGImages", "SegmentationClass", "SegmentationClassAug")
    )
    shutil.copytree(masks, more)
    (photos / "shape001.jpg").rename(photos / "shape001.JPEG")
    (masks / "shape001.png").rename(masks / "shape001.PNG")
    (masks / "shape000.png").unlink()
    val = open_dataset(devkit, "val")
    assert [example.mask for example in val.examples] == [more / "shape000.png", masks / "shape001.PNG"]
    for example in val.examples:
        val.read(example)
    shutil.rmtree(more)
    val = open_dataset(devkit, "val")
    with pytest.raises(DataError, match=r"SegmentationClass/shape000\.png: no such mask"):
        val.read(val.examples[0])


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
        dataset = open_dataset(tmp_path, split)
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
    dataset = open_dataset(tmp_path, "train_aug")
    np.testing.assert_array_equal(dataset.read(dataset.examples[0])[1], np.full((2, 3), 20))
    assert dataset.source == tmp_path / place


def test_other_splits_of_sbd_are_refused(tmp_path: Path) -> None:
    write_benchmark(tmp_path, ["a", "b", "c"])
    with pytest.raises(DataError, match="no split named 'test'; splits here: train, val"):
        open_dataset(tmp_path, "test")

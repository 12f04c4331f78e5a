"""SBD in its authors' form and as PNG; the first as torchvision reads it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix
from torchvision.datasets import SBDataset

from deconvseg.data.sbd import sbd_dataset
from deconvseg.errors import DataError


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


@pytest.mark.parametrize("depth", ["", "dataset", "benchmark_RELEASE/dataset"])
def test_the_benchmark_is_read_as_torchvision_reads_it(tmp_path: Path, depth: str) -> None:
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


def test_without_a_split_every_mask_counts(tmp_path: Path) -> None:
    write_benchmark(tmp_path, ["c", "b", "a"])
    assert [example.name for example in sbd_dataset(tmp_path).examples] == ["a", "b", "c"]
    for mask in (tmp_path / "cls").iterdir():
        mask.unlink()
    with pytest.raises(DataError, match=r"cls: holds no \.mat masks"):
        sbd_dataset(tmp_path)


@pytest.mark.parametrize("place", ["ImageSets/Segmentation/train_aug.txt", "train_aug.txt"])
def test_the_png_form(tmp_path: Path, place: str) -> None:
    for part in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / place).write_text("x\n")
    Image.new("RGB", (3, 2)).save(tmp_path / "JPEGImages/x.jpg")
    Image.new("L", (3, 2), 20).save(tmp_path / "SegmentationClassAug/x.png")
    for dataset in (sbd_dataset(tmp_path, "train_aug"), sbd_dataset(tmp_path)):
        _, mask = dataset.read(dataset.examples[0])
        np.testing.assert_array_equal(mask, np.full((2, 3), 20))
    assert sbd_dataset(tmp_path, "train_aug").source == tmp_path / place


def test_other_folders_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an SBD folder"):
        sbd_dataset(tmp_path, "train")
    write_benchmark(tmp_path, ["a", "b", "c"])
    with pytest.raises(DataError, match="no split named 'test'; splits here: train, val"):
        sbd_dataset(tmp_path, "test")

"""What a run learns from: data sets that fit together, and clear words when they do not."""

from pathlib import Path

import numpy as np
import pytest

from deconvseg.data.check import check_dataset
from deconvseg.errors import DataError, UsageError
from deconvseg.images.palette import VOC_CLASSES
from deconvseg.training.data import open_training_data

from ..conftest import describe, make_shapes


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_shapes(tmp_path / "voc", train=3, val=2)


def test_all_photos_have_a_name_of_their_own(tmp_path: Path, voc: Path) -> None:
    extras = [make_shapes(tmp_path / name, train=count, val=1) for name, count in (("more", 2), ("few", 1))]
    data = open_training_data(voc, extra_roots=extras)
    names = ["shape000", "shape001", "shape002", "more/shape000", "more/shape001", "few/shape000"]
    assert [example.name for example in data.examples] == names
    assert len(data.validation) == 2 and len(data.validation.classes) == 21


def test_sbd_joins_in_without_the_photos_to_validate_on(tmp_path: Path) -> None:
    voc, sbd = make_shapes(tmp_path / "voc", train=2, val=2), make_shapes(tmp_path / "sbd", train=6, val=0)
    (sbd / "SegmentationClass").rename(sbd / "SegmentationClassAug")
    lists = sbd / "ImageSets/Segmentation"
    (lists / "train.txt").rename(lists / "train_aug.txt")
    data = open_training_data(voc, sbd_root=sbd)
    # shape000 and 001 are in VOC's train, 002 and 003 in its val.
    assert [example.name for example in data.examples] == [f"shape00{i}" for i in (0, 1, 4, 5)]


def test_mistakes_are_named(tmp_path: Path, voc: Path) -> None:
    lists = voc / "ImageSets/Segmentation"
    (lists / "leaky.txt").write_text("shape003\nshape000\n")
    with pytest.raises(DataError, match=r"shape003\.jpg: both in the split .* \(1 such"):
        open_training_data(voc, split="leaky")
    open_training_data(voc, split="val", val_split="val")  # asked for: to see whether it can overfit
    own = describe(make_shapes(tmp_path / "own", train=1, val=0), train="rest")
    with pytest.raises(DataError, match="its classes are not those of"):
        open_training_data(voc, extra_roots=[own])
    (lists / "again.txt").write_text("shape000\nshape000\n")
    with pytest.raises(DataError, match="shape000: named twice"):
        open_training_data(voc, split="again")
    (tmp_path / "link").symlink_to(voc)
    with pytest.raises(DataError, match=r"shape000\.jpg: named twice"):
        open_training_data(voc, extra_roots=[tmp_path / "link"])
    (lists / "train_aug.txt").write_text("shape000\nshape003\n")
    with pytest.raises(UsageError, match="voc: has no photo besides those"):
        open_training_data(voc, sbd_root=voc)


def score(folder: Path, name: str) -> Path:
    """A score file that calls all of a photo class 1."""
    folder.mkdir(exist_ok=True)
    probabilities = np.zeros((21, 9, 9), np.float16)
    probabilities[1] = 1
    np.savez(folder / f"{name}.scores.npz", probabilities=probabilities, classes=np.array(VOC_CLASSES))
    return folder / f"{name}.scores.npz"


def test_score_files_are_found_by_data_set_and_stand_in_for_masks(tmp_path: Path, voc: Path) -> None:
    extra = make_shapes(tmp_path / "more", train=3, val=1)
    beside, anywhere = score(extra / "scores", "shape000"), score(tmp_path / "other", "shape001")
    (extra / "SegmentationClass/shape000.png").unlink()
    folders = [extra / "scores", tmp_path / "other"]
    data = open_training_data(voc, extra_roots=[extra], scores=folders)
    # Those beside a data set are for it alone, the others for all of them.
    assert [example.scores for example in data.examples] == [None, anywhere, None, beside, anywhere, None]
    more = data.datasets[1]
    photo, mask = more.read(more.examples[0])
    assert mask.shape == photo.shape[:2] and (mask == 1).all()
    assert check_dataset(more).photos["aeroplane"] >= 1
    beside.write_bytes(b"")
    (fault,) = check_dataset(more).faults
    assert fault.startswith(f"{beside}: scores cannot be read")
    with pytest.raises(UsageError, match=r"none: holds no NAME\.scores\.npz of any photo to train on"):
        open_training_data(voc, scores=[tmp_path / "none"])

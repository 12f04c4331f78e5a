"""Soft labels: read, checked, and cut exactly where the crops are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deconvseg.data.crops import ImageStore, cut_crops
from deconvseg.errors import DataError
from deconvseg.training.scores import SoftLabels

CPU = torch.device("cpu")
CLASSES = ("ground", "left", "right")


@pytest.fixture
def store() -> ImageStore:
    """One photo of 64x48; the mask says left and right halves."""
    mask = np.ones((48, 64), np.uint8)
    mask[:, 32:] = 2
    return ImageStore.load([(np.zeros((48, 64, 3), np.uint8), mask)], 1, 64)


def save(path: Path, classes: tuple[str, ...] = CLASSES, **changes: object) -> None:
    probabilities = np.zeros((3, 96, 128), np.float16)  # scores may be of the photo's own, larger size
    probabilities[1, :, :64] = 1
    probabilities[2, :, 64:] = 1
    np.savez(path, **{"probabilities": probabilities, "classes": np.array(classes), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("mirror", [False, True])
def test_soft_labels_lie_where_the_labels_do(tmp_path: Path, store: ImageStore, mirror: bool) -> None:
    save(tmp_path / "a.scores.npz")
    soft = SoftLabels.load(tmp_path, ["a"], store, CLASSES, CPU)
    photo, boxes, flip = torch.tensor([0]), torch.tensor([[8.0, 8.0, 56.0, 56.0]]), torch.tensor([mirror])
    _, labels = cut_crops(store, photo, boxes, flip, 32)
    found = soft.cut(photo, boxes, flip, 32)
    inside = torch.arange(32) < 26  # below row 48 of the photo there is nothing
    assert (found.argmax(1)[0][inside] == labels[0][inside]).float().mean() > 0.95
    assert found[0, :, :20].sum(0).allclose(torch.ones(20, 32), atol=1e-3)
    assert found[0, :, -1].sum() == 0


def test_bad_files_are_named(tmp_path: Path, store: ImageStore) -> None:
    def load() -> None:
        SoftLabels.load(tmp_path, ["a"], store, CLASSES, CPU)

    path = tmp_path / "a.scores.npz"
    with pytest.raises(DataError, match=r"a\.scores\.npz: there is no such score file"):
        load()
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read"):
        load()
    save(path, ("ground", "left", "up"))
    with pytest.raises(DataError, match="scores of other classes"):
        load()
    save(path, probabilities=np.full((3, 4, 4), np.nan))
    with pytest.raises(DataError, match="finite numbers"):
        load()

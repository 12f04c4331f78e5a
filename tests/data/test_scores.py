"""Score files: read, checked, made masks, and cut exactly where the crops are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deconvseg.data.scores import cut_scores, load_scores, mask_from_scores
from deconvseg.errors import DataError

CLASSES = ("ground", "left", "right")
SIZES = torch.tensor([[48, 65], [30, 30]])
Soft = list[torch.Tensor | None]


def save(path: Path, classes: tuple[str, ...] = CLASSES, **changes: object) -> Path:
    """`right` grows from left to right, `left` falls; at an eighth of a photo of 65 x 48 pixels."""
    ramp = np.tile((np.arange(8, dtype=np.float16) + 0.5) / 8, (6, 1))
    probabilities = np.stack([0 * ramp, 1 - ramp, ramp])
    np.savez(path, **{"probabilities": probabilities, "classes": np.array(classes), **changes})  # type: ignore[arg-type]
    return path


@pytest.fixture
def soft(tmp_path: Path) -> Soft:
    """Of two photos, the second has none."""
    return load_scores([save(tmp_path / "a.scores.npz"), None], SIZES, CLASSES)


@pytest.mark.parametrize("mirror", [False, True])
def test_soft_labels_follow_crop_scale_and_mirror_exactly(soft: Soft, mirror: bool) -> None:
    box, size = (10.5, -3.0, 47.25, 33.75), 21
    where = torch.tensor([box]), torch.tensor([mirror])
    found = cut_scores(soft, SIZES, torch.tensor([0]), *where, size)[0]
    x = box[0] + (torch.arange(size) + 0.5) / size * (box[2] - box[0])  # centres of the crop's pixels
    wanted = (x.flip(0) if mirror else x) / 65  # a share of the photo's width
    torch.testing.assert_close(found[2], wanted.expand(size, -1), atol=2 / 255, rtol=0)
    torch.testing.assert_close(found.sum(0), torch.ones(size, size))


def test_photos_without_soft_labels_have_zeros(soft: Soft) -> None:
    photo, boxes = torch.tensor([1, 0]), torch.tensor([[0.0, 0, 30, 30]] * 2)
    without, found = cut_scores(soft, SIZES, photo, boxes, torch.zeros(2, dtype=torch.bool), 8)
    assert not without.any() and found.any()


def test_they_are_held_as_bytes_at_a_quarter_of_the_photo_at_most(tmp_path: Path) -> None:
    large = np.full((3, 480, 640), 1 / 3, np.float16)
    path = save(tmp_path / "a.scores.npz", probabilities=large)
    (held,) = load_scores([path], torch.tensor([[48, 64]]), CLASSES)
    assert held is not None and held.dtype == torch.uint8 and held.shape == (3, 12, 16)
    (small,) = load_scores([save(path)], torch.tensor([[384, 520]]), CLASSES)
    assert small is not None and small.shape == (3, 6, 8)  # what the file has is enough


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.scores.npz"

    def refused(words: str) -> None:
        with pytest.raises(DataError, match=rf"a\.scores\.npz: {words}"):
            load_scores([path], SIZES[:1], CLASSES, workers=2)

    refused("scores cannot be read .*No such file")
    path.write_bytes(b"no zip")
    refused("scores cannot be read")
    save(path, ("ground", "left", "up"))
    refused("scores of other classes")
    for wrong in (np.full((3, 6, 8), np.nan), np.full((3, 6, 8), 1.5), np.zeros((6, 8))):
        save(path, probabilities=wrong)
        refused("scores must be numbers .* from 0 to 1")
    save(path, probabilities=np.zeros((3, 8, 6)))
    refused("scores 6x8 are not of a photo 65x48")


def test_a_mask_made_of_scores_is_void_where_they_are_unsure(tmp_path: Path) -> None:
    probabilities = np.zeros((3, 6, 8))
    probabilities[:, :, :2] = np.array([0.2, 0.4, 0.4])[:, None, None]
    probabilities[2, :, 2:] = 0.9
    path = save(tmp_path / "a.scores.npz", probabilities=probabilities)
    mask = mask_from_scores(path, (48, 64), CLASSES)
    assert mask.shape == (48, 64) and mask.dtype == np.uint8
    assert (mask[:, :10] == 255).all() and (mask[:, 20:] == 2).all()

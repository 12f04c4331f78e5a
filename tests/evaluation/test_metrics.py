"""Metrics: hand-computed 3x3 cases, VOC's rules, and an independent count on random masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deconvseg.evaluation.metrics import Scores, confusion_matrix

NAMES = ("background", "cat", "dog")


def test_by_hand() -> None:
    truth = np.array([[0, 0, 1], [0, 1, 1], [255, 255, 1]], np.uint8)
    found = np.array([[0, 1, 1], [0, 1, 0], [1, 2, 1]], np.uint8)
    confusion = confusion_matrix(truth, found, 3)
    assert confusion.tolist() == [[2, 1, 0], [1, 3, 0], [0, 0, 0]]
    scores = Scores.of(confusion, NAMES)
    assert scores.per_class_iou["background"] == pytest.approx(2 / 4)
    assert scores.per_class_iou["cat"] == pytest.approx(3 / 5)
    assert scores.per_class_iou["dog"] is None  # predicted on void alone: in neither map
    assert scores.mean_iou == pytest.approx((2 / 4 + 3 / 5) / 2)
    assert scores.pixel_accuracy == pytest.approx(5 / 7)
    assert scores.mean_accuracy == pytest.approx((2 / 3 + 3 / 4) / 2)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    scores = Scores.of(
        confusion_matrix(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 2]], np.uint8), 3), NAMES
    )
    assert scores.per_class_iou["dog"] == 0
    assert scores.mean_iou == pytest.approx((3 / 4 + 0) / 2)
    assert scores.mean_accuracy == pytest.approx(3 / 4)


@given(
    arrays(np.uint8, (7, 5), elements=st.sampled_from([0, 1, 2, 255])),
    arrays(np.uint8, (7, 5), elements=st.integers(0, 2)),
)
def test_against_a_plain_count(truth: np.ndarray, found: np.ndarray) -> None:
    confusion = confusion_matrix(truth, found, 3)
    for t in range(3):
        for f in range(3):
            assert confusion[t, f] == sum(
                (a, b) == (t, f) for a, b in zip(truth.flat, found.flat, strict=True)
            )


def test_sizes_must_agree_and_something_must_count() -> None:
    with pytest.raises(ValueError, match="one size"):
        confusion_matrix(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)
    with pytest.raises(ValueError, match="every one is void"):
        Scores.of(np.zeros((3, 3), np.int64), NAMES)

"""Metrics: hand-computed 3x3 cases, VOC's rules, and torchmetrics on random masks."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

from deconvseg.evaluation.counts import confusion_matrix, count
from deconvseg.evaluation.metrics import boundary_f, figures, mean_iou_interval

NAMES = ("background", "cat", "dog")


def masks(*values: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.uint8, (7, 5), elements=st.sampled_from(values))


TRUTHS = st.one_of(masks(0, 1, 2, 255), masks(0, 255), masks(1), masks(0, 2))
"""Random masks with void, without a class, and of one class."""
FOUND = st.one_of(masks(0, 1, 2), masks(0), masks(2))


def test_by_hand() -> None:
    truth = np.array([[0, 0, 1], [0, 1, 1], [255, 255, 1]], np.uint8)
    found = np.array([[0, 2, 1], [0, 1, 0], [1, 3, 1]], np.uint8)
    confusion = confusion_matrix(truth, found, 4)
    assert confusion.tolist() == [[2, 0, 1, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    told = figures(count(truth, found, 4), (*NAMES, "cow"))
    # The dog is only predicted, the cow on void alone: in neither map.
    assert told["per_class_iou"] == {"background": 2 / 4, "cat": 3 / 4, "dog": 0, "cow": None}
    assert told["mean_iou"] == pytest.approx((2 / 4 + 3 / 4 + 0) / 3)
    assert told["voc_mean_iou"] == pytest.approx((2 / 4 + 3 / 4 + 0 + 0) / 4)
    assert told["pixel_accuracy"] == pytest.approx(5 / 7)
    assert told["mean_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert told["frequency_weighted_iou"] == pytest.approx(3 / 7 * 2 / 4 + 4 / 7 * 3 / 4)


@settings(deadline=None, max_examples=30)
@given(TRUTHS.filter(lambda truth: bool((truth != 255).any())), FOUND)
def test_figures_are_torchmetrics_and_vocs(truth: np.ndarray, found: np.ndarray) -> None:
    """VOC: a class's accuracy is tp / (tp + fp + fn), and 0 where that is 0 / 0; so has it torchmetrics."""
    pair = torch.from_numpy(found).long(), torch.from_numpy(truth).long()
    options: Any = {"num_classes": 3, "ignore_index": 255}
    confusion = confusion_matrix(truth, found, 3)
    assert confusion.tolist() == multiclass_confusion_matrix(*pair, **options).tolist()
    told = figures(count(truth, found, 3), NAMES)
    want = multiclass_jaccard_index(*pair, **options, average="none").tolist()
    assert [value or 0 for value in told["per_class_iou"].values()] == pytest.approx(want, abs=1e-6)
    assert told["voc_mean_iou"] == pytest.approx(sum(want) / 3, abs=1e-6)
    assert told["pixel_accuracy"] == pytest.approx((truth == found)[truth != 255].mean())
    assert told["mean_iou"] >= told["voc_mean_iou"] - 1e-12


def test_boundary_f_of_pooled_counts() -> None:
    found = boundary_f(np.array([[20, 40, 20, 50], [9, 9, 9, 9], [0, 9, 0, 9], [0, 9, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(found, [2 * 0.5 * 0.4 / (0.5 + 0.4), 1, 0, 0, np.nan])


def test_an_interval_is_as_wide_as_the_photos_differ() -> None:
    """One class alone, so that a sample's mean IoU is the share of right pixels among those counted once."""
    rng = np.random.default_rng(1)
    right = rng.uniform(0.3, 0.9, 400)
    photos = np.zeros((400, 2, 2), np.int64)
    photos[:, 1, 1] = 10_000 * right
    photos[:, 1, 0] = 10_000 - photos[:, 1, 1]
    photos[:, 0, 0] = 1_000_000_000  # so the background's IoU is 1 nearly exactly
    low, high = mean_iou_interval(photos)
    centre, error = (1 + right.mean()) / 2, right.std() / 20 / 2
    assert low == pytest.approx(centre - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(centre + 1.96 * error, abs=0.3 * error)
    assert mean_iou_interval(photos) == (low, high)


def test_alike_void_and_absent_leave_an_interval_a_point() -> None:
    low, high = mean_iou_interval(np.tile(np.array([[[3, 1], [2, 4]]]), (5, 1, 1)))
    assert low == high == pytest.approx((3 / 6 + 4 / 7) / 2)
    photos = np.zeros((2, 3, 3), np.int64)
    photos[0, 1, 1] = 5
    assert mean_iou_interval(photos) == (1, 1)


def test_what_there_is_nothing_of_is_none() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    told = figures(count(truth, truth, 3), NAMES)
    assert told["per_class_boundary_f"] == {"background": 1, "cat": 1, "dog": None}
    per_class = {"background": None, "cat": 1, "dog": None}
    assert told["sizes"]["large"] == {"mean_iou": 1, "objects": 1, "per_class_iou": per_class}
    assert told["sizes"]["small"]["mean_iou"] is None
    json.dumps(told, allow_nan=False)
    assert figures(count(0 * truth, 0 * truth, 3), NAMES)["boundary_f"] is None

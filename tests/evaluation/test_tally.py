"""Counts of photos: they add up in any order, survive JSON, and give every figure."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deconvseg.evaluation.tally import Reference, Tally

NAMES = ("background", "cat", "dog")
TRUTHS = arrays(np.uint8, (12, 9), elements=st.sampled_from([0, 1, 2, 255]))
FOUND = arrays(np.uint8, (12, 9), elements=st.integers(0, 2))


@settings(deadline=None, max_examples=30)
@given(TRUTHS, FOUND, FOUND)
def test_json_and_back(truth: np.ndarray, one: np.ndarray, other: np.ndarray) -> None:
    reference = Reference(truth, 3)
    first, second = reference.tally(one), reference.tally(other)
    again = Tally.from_json(json.loads(json.dumps(first.to_json())), 3)
    for name, counts in vars(again).items():
        np.testing.assert_array_equal(counts, getattr(first, name))
    for name, counts in vars(first + second).items():
        np.testing.assert_array_equal(counts, getattr(second + again, name))


def test_figures() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    figures = Reference(truth, 3).tally(truth).figures(NAMES)
    assert figures["mean_iou"] == figures["boundary_f"] == figures["pixel_accuracy"] == 1
    assert figures["per_class_boundary_f"] == {"background": 1, "cat": 1, "dog": None}
    assert figures["sizes"]["large"] == {
        "mean_iou": 1,
        "objects": 1,
        "per_class_iou": {"background": None, "cat": 1, "dog": None},
    }
    assert figures["sizes"]["small"]["mean_iou"] is None
    json.dumps(figures, allow_nan=False)


def test_a_photo_of_one_class_has_no_outline() -> None:
    blank = np.zeros((5, 5), np.uint8)
    figures = Reference(blank, 3).tally(blank).figures(NAMES)
    assert figures["mean_iou"] == 1
    assert figures["boundary_f"] is None


@pytest.mark.parametrize("document", [{}, {"confusion": [[0, 7, 1]], "outlines": [], "objects": []}])
def test_other_documents_are_refused(document: dict[str, list[list[int]]]) -> None:
    with pytest.raises((KeyError, IndexError)):
        Tally.from_json(document, 3)

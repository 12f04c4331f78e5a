"""Boundary F: cases counted by hand, an independent count, and properties."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deconvseg.evaluation.boundary import TOLERANCE, count_outlines
from deconvseg.evaluation.metrics import boundary_f

SMALL = (8, 10)
"""So small that the tolerance is its least, 1 pixel."""


def square(x: int, y: int, side: int = 4, label: int = 1, shape: tuple[int, int] = SMALL) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[y : y + side, x : x + side] = label
    return mask


def test_the_same_mask_agrees_wholly_and_the_frame_is_no_outline() -> None:
    counts = count_outlines(square(2, 2), square(2, 2), 3)
    assert counts[1].tolist() == [12] * 4  # the rim of 4x4
    assert counts[0].tolist() == [16] * 4  # four along each side, none at the corners
    f = boundary_f(counts)
    assert f[:2].tolist() == [1, 1]
    assert np.isnan(f[2])
    assert boundary_f(count_outlines(square(2, 2), square(2, 2, label=2), 3))[1:].tolist() == [0, 0]
    assert not count_outlines(np.zeros(SMALL, np.uint8), np.ones(SMALL, np.uint8), 2).any()


def test_pooled_counts_are_weighed_by_length() -> None:
    counts = np.array([[10, 10, 10, 40]]) + np.array([[10, 30, 10, 10]])
    precision, recall = 20 / 40, 20 / 50
    assert boundary_f(counts)[0] == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_void_border_puts_the_outline_into_its_middle() -> None:
    exact = square(20, 20, side=30, shape=(120, 160))  # diagonal 200, tolerance 1.5
    bordered = exact.copy()
    bordered[18:52, 18:52] = 255
    bordered[22:48, 22:48] = 1  # 2 pixels to each side of the edge
    counts = count_outlines(bordered, exact, 2)
    assert counts[1, 0] == counts[1, 1] > 100
    assert counts[1, 2] == counts[1, 3] > 100


def test_nothing_counts_in_wide_void() -> None:
    truth = np.full((120, 160), 255, np.uint8)
    truth[:, :20] = 0
    truth[:, 140:] = 1
    inside = square(60, 40, side=30, shape=truth.shape)
    assert not count_outlines(truth, inside, 2).any()
    assert not count_outlines(np.full_like(truth, 255), inside, 2).any()


@settings(deadline=None, max_examples=30)
@given(
    arrays(np.uint8, (9, 7), elements=st.integers(0, 2)),
    arrays(np.uint8, (9, 7), elements=st.integers(0, 2)),
)
def test_against_a_count_pixel_by_pixel(truth: np.ndarray, found: np.ndarray) -> None:
    counts = count_outlines(truth, found, 3)
    tolerance = max(TOLERANCE * math.hypot(9, 7), 1)
    for label in range(3):
        one, other = plain_outline(truth, label), plain_outline(found, label)
        right = sum(any(math.dist(p, q) <= tolerance for q in one) for p in other)
        hit = sum(any(math.dist(p, q) <= tolerance for q in other) for p in one)
        assert counts[label].tolist() == [right, len(other), hit, len(one)]


def plain_outline(mask: np.ndarray, label: int) -> list[tuple[int, int]]:
    height, width = mask.shape
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    return [
        (y, x)
        for y, x in itertools.product(range(height), range(width))
        if mask[y, x] == label
        and any(0 <= y + j < height and 0 <= x + i < width and mask[y + j, x + i] != label for j, i in steps)
    ]

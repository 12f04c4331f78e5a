"""What is counted of a photo: cases by hand, and an independent count of outlines."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deconvseg.evaluation.counts import LARGE, MEDIUM, SIZES, TOLERANCE, count_objects, count_outlines

SMALL = (40, 50)
"""2,000 pixels: objects are medium from 40, large from 300 on."""
LARGER = (120, 160)
"""Of diagonal 200, so the tolerance is 1.5."""


def mask(*boxes: tuple[int, int, int, int, int], shape: tuple[int, int] = SMALL) -> np.ndarray:
    """Boxes x, y, width, height, label on background, later ones on top."""
    canvas = np.zeros(shape, np.uint8)
    for x, y, width, height, label in boxes:
        canvas[y : y + height, x : x + width] = label
    return canvas


def test_a_void_border_puts_the_outline_into_its_middle() -> None:
    exact = mask((20, 20, 30, 30, 1), shape=LARGER)
    bordered = mask((18, 18, 34, 34, 255), (22, 22, 26, 26, 1), shape=LARGER)  # 2 pixels to each side
    counts = count_outlines(bordered, exact, 2)
    assert counts[1, 0] == counts[1, 1] > 100
    assert counts[1, 2] == counts[1, 3] > 100


def test_no_outline_counts_in_wide_void() -> None:
    truth = mask((20, 0, 120, 120, 255), (140, 0, 20, 120, 1), shape=LARGER)
    inside = mask((60, 40, 30, 30, 1), shape=LARGER)
    assert not count_outlines(truth, inside, 2).any()
    assert not count_outlines(np.full_like(truth, 255), inside, 2).any()


@settings(deadline=None, max_examples=30)
@given(
    arrays(np.uint8, (9, 7), elements=st.integers(0, 2)),
    arrays(np.uint8, (9, 7), elements=st.integers(0, 2)),
)
def test_outlines_are_those_of_a_count_pixel_by_pixel(truth: np.ndarray, found: np.ndarray) -> None:
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


def test_sizes_of_objects_by_share_of_the_photo() -> None:
    assert (MEDIUM * 2000, LARGE * 2000) == (40, 300)
    boxes = ((0, 0, 13, 3, 1), (0, 10, 10, 4, 1), (20, 0, 23, 13, 1), (20, 20, 20, 15, 1))
    truth = mask(*boxes)  # of 39, 40, 299 and 300 pixels
    counts = count_objects(truth, truth, 2)
    assert counts[:, 1, 0].tolist() == [1, 2, 1]
    assert counts[:, 1, 1].tolist() == counts[:, 1, 2].tolist() == [39, 339, 300]
    assert not counts[:, 0].any()  # background is no object


def test_misses_and_false_pixels_nearby_count() -> None:
    truth = mask((20, 16, 6, 6, 1))
    found = mask((22, 16, 6, 6, 1), (45, 0, 5, 5, 1))  # 2 columns aside; and a patch far away
    counts = count_objects(truth, found, 3)
    assert counts[SIZES.index("small"), 1].tolist() == [1, 24, 36 + 12]
    assert counts.sum() == 1 + 24 + 48


def test_false_pixels_are_those_around_that_are_neither_void_nor_of_another_object_of_the_class() -> None:
    everywhere = np.ones(SMALL, np.uint8)
    truth = mask((20, 16, 6, 6, 1))  # surroundings: x 17..28, y 13..24
    assert count_objects(truth, everywhere, 2)[0, 1].tolist() == [1, 36, 12 * 12]
    truth = mask((20, 16, 6, 6, 1), (27, 16, 6, 6, 1), (20, 23, 6, 1, 255))
    # Each: 12x12 surroundings, less those pixels of the other within: columns 27, 28 (and 24, 25), 6 rows.
    first = 144 - 12 - 6  # and 6 pixels of void
    second = 144 - 12 - 2  # void reaches to x = 25: two pixels
    assert count_objects(truth, everywhere, 2)[0, 1].tolist() == [2, 72, first + second]


def test_what_is_an_object() -> None:
    for side, objects in ((1, 0), (2, 1)):  # 0.1 and 0.2 % of the photo
        truth = mask((5, 5, 2, side, 1))
        assert count_objects(truth, truth, 2)[0, 1, 0] == objects
    corner = mask((5, 5, 4, 4, 1), (9, 9, 4, 4, 1))
    assert count_objects(corner, corner, 2)[0, 1].tolist() == [1, 32, 32]
    assert not count_objects(np.full(SMALL, 255, np.uint8), mask(), 2).any()

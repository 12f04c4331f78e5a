"""Connected regions, against OpenCV's and by hand."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from deconvseg.images.components import components

small_masks = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([0, 1, 2, 255]),
)


def assert_as_opencv_finds(mask: NDArray[np.uint8]) -> None:
    parts, found = components(mask)
    assert parts.shape == mask.shape and parts.dtype == np.int32
    assert not parts[(mask == 0) | (mask == 255)].any()
    number = 0
    for label in np.setdiff1d(mask, (0, 255)):
        count, theirs, stats, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8))
        # Theirs are in another order: by their first pixel in reading order, as ours are.
        order = np.argsort([np.argmax(theirs == k) for k in range(1, count)])
        for k in order + 1:
            x, y, width, height, area = stats[k].tolist()
            assert np.array_equal(parts == number + 1, theirs == k)
            assert found.labels[number] == label
            assert found.boxes[number].tolist() == [x, y, x + width, y + height]
            assert found.areas[number] == area
            number += 1
    assert len(found.labels) == len(found.boxes) == len(found.areas) == number == parts.max()


@given(small_masks)
def test_random_masks(mask: NDArray[np.uint8]) -> None:
    assert_as_opencv_finds(mask)


@pytest.mark.parametrize("label", [1, 254])
def test_regions_that_meet_late(label: int) -> None:
    comb = np.zeros((30, 61), np.uint8)
    comb[:, ::2] = label
    comb[-1] = label
    spiral = np.zeros((41, 41), np.uint8)
    for ring in range(0, 20, 2):
        spiral[ring, ring : 41 - ring] = spiral[40 - ring, ring : 41 - ring] = label
        spiral[ring : 41 - ring, 40 - ring] = label
        spiral[ring + 2 : 41 - ring, ring] = label
        spiral[ring + 2, ring : ring + 2] = label
    checks = np.indices((20, 20)).sum(0).astype(np.uint8) % 2 * np.uint8(label)  # touch at corners alone
    for mask in (comb, comb[::-1], comb.T, spiral, checks):
        assert components(np.ascontiguousarray(mask))[1].labels.tolist() == [label]
        assert_as_opencv_finds(np.ascontiguousarray(mask))


def test_the_right_border_does_not_touch_the_next_rows_left_one() -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 4] = mask[2, 0] = mask[3, 4] = 3
    parts, found = components(mask)
    assert found.boxes.tolist() == [[4, 1, 5, 2], [0, 2, 1, 3], [4, 3, 5, 4]]
    assert parts[1, 4] == 1 and parts[2, 0] == 2 and parts[3, 4] == 3


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (1, 1)])
def test_masks_without_any_object(shape: tuple[int, int]) -> None:
    parts, found = components(np.zeros(shape, np.uint8))
    assert parts.shape == shape and not parts.any()
    assert found.boxes.shape == (0, 4)

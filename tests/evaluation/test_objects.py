"""IoU by the size of objects: cases counted by hand."""

import numpy as np

from deconvseg.evaluation.objects import LARGE, MEDIUM, SIZES, count_objects

SHAPE = (40, 50)  # 2,000 pixels: medium from 40, large from 300 on


def mask(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """Boxes x, y, width, height, label on background, later ones on top."""
    canvas = np.zeros(SHAPE, np.uint8)
    for x, y, width, height, label in boxes:
        canvas[y : y + height, x : x + width] = label
    return canvas


def test_sizes_by_share_of_the_photo() -> None:
    assert (MEDIUM * 2000, LARGE * 2000) == (40, 300)
    truth = mask(
        (0, 0, 13, 3, 1), (0, 10, 10, 4, 1), (20, 0, 23, 13, 1), (20, 20, 20, 15, 1)
    )  # 39 40 299 300
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


def test_the_surroundings_are_half_the_box_on_each_side() -> None:
    truth = mask((20, 16, 6, 6, 1))  # surroundings: x 17..28, y 13..24
    everywhere = np.ones(SHAPE, np.uint8)
    assert count_objects(truth, everywhere, 2)[0, 1].tolist() == [1, 36, 12 * 12]


def test_void_and_other_objects_of_the_class_are_not_blamed() -> None:
    truth = mask((20, 16, 6, 6, 1), (27, 16, 6, 6, 1), (20, 23, 6, 1, 255))
    everywhere = np.ones(SHAPE, np.uint8)
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
    assert not count_objects(np.full(SHAPE, 255, np.uint8), mask(), 2).any()

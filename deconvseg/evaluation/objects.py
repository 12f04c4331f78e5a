"""How well objects of different sizes are found: counts for the IoU of small, medium and large ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.crops import MIN_OBJECT_SHARE
from deconvseg.data.masks import VOID
from deconvseg.images.components import components

SIZES = ("small", "medium", "large")
MEDIUM, LARGE = 0.02, 0.15
"""From which share of the photo's area on an object is medium or large."""
SURROUNDINGS = 0.5
"""How far around an object's box wrong pixels are blamed on it, as a share of the box's sides."""


def count_objects(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Returns counts int64 (3, C, 3) by size and class: objects, intersection, union.

    An object is a connected part (8 neighbours) of a class other than background, as in the crops that
    training draws; parts under 0.2 % of the photo are slivers cut off by void borders and left out. It is
    small under 2 % of the photo's area, large from 15 % on, and medium between.

    Its intersection are its pixels that are predicted as its class; its union are its pixels and those that
    are wrongly predicted as its class in its surroundings: its box with half its width and height added on
    each side. Pixels of void, or of another object of the class, are not blamed on it.

    Args:
        truth: uint8 (H, W), class indices and 255.
        found: the prediction, uint8 (H, W), class indices.
        classes: C.
    """
    counts = np.zeros((len(SIZES), classes, 3), np.int64)
    numbers, objects = components(truth)
    for number, (label, x0, y0, x1, y1, area) in enumerate(objects.tolist(), 1):
        if area < MIN_OBJECT_SHARE * truth.size:
            continue
        aside, above = round(SURROUNDINGS * (x1 - x0)), round(SURROUNDINGS * (y1 - y0))
        window = np.s_[max(y0 - above, 0) : y1 + above, max(x0 - aside, 0) : x1 + aside]
        inside, hit = numbers[window] == number, found[window] == label
        blamed = hit & (truth[window] != label) & (truth[window] != VOID)
        size = int(area >= MEDIUM * truth.size) + int(area >= LARGE * truth.size)
        counts[size, label] += (1, np.count_nonzero(hit & inside), np.count_nonzero(inside | blamed))
    return counts

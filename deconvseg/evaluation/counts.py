"""What is counted of a photo: pixels by class, outlines that agree, and objects by size."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from deconvseg.data.crops import find_objects
from deconvseg.data.masks import VOID
from deconvseg.images.components import outline

TOLERANCE = 0.0075  # up to which two outlines agree, of the photo's diagonal: 4.7 pixels at 500x375
BORDER = 3.0  # pixels; void nowhere deeper (or than the tolerance) is a border of objects: VOC's is 5 wide
SIZES = ("small", "medium", "large")
MEDIUM, LARGE = 0.02, 0.15  # from which share of the photo's area on an object is medium or large
SURROUNDINGS = 0.5  # how far around an object's box wrong pixels are blamed on it, as a share of its sides


def count(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Everything counted of a photo, int64 (C * (C + 13),): the three counts below, one after the other.

    `truth` and `found` are uint8 (H, W), class indices; where the truth is 255, void, `found` does not count.
    """
    parts = (confusion_matrix, count_outlines, count_objects)
    return np.concatenate([part(truth, found, classes).ravel() for part in parts])


def confusion_of(counts: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The confusion matrices (..., C, C) in counts (..., C * (C + 13))."""
    return counts[..., : classes * classes].reshape(*counts.shape[:-1], classes, classes)


def confusion_matrix(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixels int64 (C, C): row = true class, column = predicted class; void truth is dropped.

    Where the truth is not void, each pixel of the prediction is a class.
    """
    valid = truth != VOID
    pairs = truth[valid].astype(np.int64) * classes + found[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def count_outlines(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Outline pixels int64 (C, 4): predicted and right, predicted, true and found, true.

    The outline of a class are its pixels with a pixel of another class above, below, left or right. A pixel
    of the predicted outline is right if the true outline of the class is at most the tolerance away
    (Euclidean, `TOLERANCE` of the diagonal and at least 1 pixel), and the other way round.

    Void, of either side, is first given to the nearest labelled pixel's class, so that the true outline runs
    in the middle of the border that VOC draws around objects. Where void is more than a border (a pixel of it
    is further than both the tolerance and `BORDER` from every label) nobody knows an outline: no outline
    pixel of either side counts there, nor within the tolerance around.
    """
    counts = np.zeros((classes, 4), np.int64)
    if (truth == VOID).all():
        return counts
    tolerance = max(TOLERANCE * math.hypot(*truth.shape), 1.0)
    border = max(tolerance, BORDER)
    truth, depth = _without_void(truth)
    counted = ~_near(depth > border, border + tolerance)
    found, _ = _without_void(found)
    true_edge, found_edge = outline(truth, 1), outline(found, 1)
    for label in np.union1d(truth[true_edge], found[found_edge]):
        true, predicted = true_edge & (truth == label), found_edge & (found == label)
        right, hit = predicted & _near(true, tolerance), true & _near(predicted, tolerance)
        counts[label] = [np.count_nonzero(part & counted) for part in (right, predicted, hit, true)]
    return counts


def count_objects(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Counts int64 (3, C, 3) by size and class of what `find_objects` finds: objects, intersection, union.

    An object is small under 2 % of the photo's area, large from 15 % on, and medium between. Its intersection
    are its pixels that are predicted as its class; its union are its pixels and those that are wrongly
    predicted as its class in its surroundings: its box with half its width and height added on each side.
    Pixels of void, or of another object of the class, are not blamed on it.
    """
    counts = np.zeros((len(SIZES), classes, 3), np.int64)
    numbers, objects = find_objects(truth)
    for number, (label, (x0, y0, x1, y1)) in enumerate(objects, 1):
        aside, above = round(SURROUNDINGS * (x1 - x0)), round(SURROUNDINGS * (y1 - y0))
        window = np.s_[max(y0 - above, 0) : y1 + above, max(x0 - aside, 0) : x1 + aside]
        inside, hit = numbers[window] == number, found[window] == label
        blamed = hit & (truth[window] != label) & (truth[window] != VOID)
        area = np.count_nonzero(inside)
        size = int(area >= MEDIUM * truth.size) + int(area >= LARGE * truth.size)
        counts[size, label] += (1, np.count_nonzero(hit & inside), np.count_nonzero(inside | blamed))
    return counts


def _without_void(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The mask with void given to the nearest class, and how far away that is, in pixels (0 elsewhere)."""
    void = mask == VOID
    if not void.any():
        return mask, np.zeros(mask.shape)
    depth, nearest = distance_transform_edt(void, return_indices=True)
    return mask[tuple(nearest)], depth


def _near(pixels: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """Where one of `pixels` is at most `distance` away."""
    if not pixels.any():
        return np.zeros(pixels.shape, bool)
    away = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= distance)

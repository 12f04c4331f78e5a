"""Boundary F: how well the outlines of two labellings agree."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from deconvseg.data.masks import VOID
from deconvseg.images.components import outline

TOLERANCE = 0.0075
"""Distance up to which two outlines agree, as a share of the photo's diagonal: 4.7 pixels at 500x375."""
BORDER = 3.0
"""Pixels. Void nowhere deeper than this (or the tolerance) is a border around objects: VOC's is 5 wide."""


def count_outlines(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Returns outline pixels int64 (C, 4): predicted and right, predicted, true and found, true.

    The outline of a class are its pixels with a pixel of another class above, below, left or right; the
    photo's frame is no outline. A pixel of the predicted outline is right if the true outline of the class is
    at most the tolerance away (Euclidean, `TOLERANCE` of the diagonal and at least 1 pixel), and a pixel of
    the true outline is found if the predicted one is.

    Void is first given to the nearest labelled pixel's class, so that the true outline runs in the middle of
    the border that VOC draws around objects. Where void is more than a border (a pixel of it is further than
    both the tolerance and `BORDER` from every label) nobody knows an outline: no outline pixel of either side
    counts there, nor within the tolerance around.

    Args:
        truth: uint8 (H, W), class indices and 255.
        found: the prediction, uint8 (H, W), class indices; 255 is filled as in the truth.
        classes: C.
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

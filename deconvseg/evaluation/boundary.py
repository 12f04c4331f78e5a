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


class Outlines:
    """The outlines of a true mask, against which predictions are held.

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
        classes: C.
    """

    def __init__(self, truth: NDArray[np.uint8], classes: int) -> None:
        self._classes = classes
        self._tolerance = max(TOLERANCE * math.hypot(*truth.shape), 1.0)
        void = truth == VOID
        self._counted = np.full(truth.shape, not void.all())
        if void.any() and not void.all():
            truth, depth = _without_void(truth)
            border = max(self._tolerance, BORDER)
            self._counted = ~_near(depth > border, border + self._tolerance)
        self._true = _outlines(truth)
        self._near_true = {label: _near(edge, self._tolerance) for label, edge in self._true.items()}

    def count(self, found: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns outline pixels int64 (C, 4) of a prediction: predicted and right, predicted, true and
        found, true.

        Args:
            found: uint8 (H, W), class indices; 255 is filled as in the truth.
        """
        if (found == VOID).any():
            found, _ = _without_void(found)
        counts = np.zeros((self._classes, 4), np.int64)
        nothing = np.zeros(found.shape, bool)
        outlines = _outlines(found)
        for label in {*outlines, *self._true}:
            edge = outlines.get(label, nothing)
            predicted = edge & self._counted
            true = self._true.get(label, nothing) & self._counted
            right = predicted & self._near_true.get(label, nothing)
            hit = true & _near(edge, self._tolerance)
            counts[label] = [np.count_nonzero(part) for part in (right, predicted, hit, true)]
        return counts


def _without_void(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The mask with void given to the nearest class, and how far away that is, in pixels (0 elsewhere)."""
    depth, nearest = distance_transform_edt(mask == VOID, return_indices=True)
    filled: NDArray[np.uint8] = mask[tuple(nearest)]
    return filled, depth


def _outlines(mask: NDArray[np.uint8]) -> dict[int, NDArray[np.bool_]]:
    """The outline of each class in the mask, bool (H, W); a class without one is left out."""
    edge = outline(mask, 1)
    return {int(label): edge & (mask == label) for label in np.unique(mask[edge])}


def _near(pixels: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """Where one of `pixels` is at most `distance` away."""
    if not pixels.any():
        return np.zeros(pixels.shape, bool)
    away = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= distance)

"""Boundary F: how well the outlines of two labellings agree."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from deconvseg.data.masks import VOID
from deconvseg.evaluation.metrics import share

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
        self.classes = classes
        self.tolerance = max(TOLERANCE * math.hypot(*truth.shape), 1.0)
        void = truth == VOID
        self.counted = np.ones(truth.shape, bool)
        if void.all():
            self.counted[:] = False
        elif void.any():
            truth, depth = _without_void(truth)
            border = max(self.tolerance, BORDER)
            self.counted = ~_near(depth > border, border + self.tolerance)
        self._true = {label: _outline(truth, label) for label in _labels(truth)}
        self._near_true = {label: _near(outline, self.tolerance) for label, outline in self._true.items()}

    def count(self, found: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Outline pixels (C, 4) of a prediction: predicted and right, predicted, true and found, true.

        Args:
            found: uint8 (H, W), class indices; 255 is filled as in the truth.
        """
        if (found == VOID).any():
            found, _ = _without_void(found)
        counts = np.zeros((self.classes, 4), np.int64)
        nothing = np.zeros(found.shape, bool)
        for label in {*_labels(found), *self._true}:
            outline = _outline(found, label)
            predicted = outline & self.counted
            true = self._true.get(label, nothing) & self.counted
            right = predicted & self._near_true.get(label, nothing)
            hit = true & _near(outline, self.tolerance)
            counts[label] = [np.count_nonzero(part) for part in (right, predicted, hit, true)]
        return counts


def boundary_f(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F (C,) of precision and recall, 0 to 1, from counts (C, 4) pooled over a set.

    0 where only one side has an outline, NaN for a class of which neither has any.
    """
    precision, recall = share(counts[:, 0], counts[:, 1]), share(counts[:, 2], counts[:, 3])
    either = (counts[:, 1] > 0) | (counts[:, 3] > 0)
    precision, recall = np.nan_to_num(precision), np.nan_to_num(recall)
    return np.where(either, 2 * precision * recall / np.maximum(precision + recall, 1e-300), np.nan)


def _labels(mask: NDArray[np.uint8]) -> list[int]:
    return [int(label) for label in np.flatnonzero(np.bincount(mask.ravel())) if label != VOID]


def _without_void(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The mask with void given to the nearest class, and how far away that is, in pixels (0 elsewhere)."""
    depth, nearest = distance_transform_edt(mask == VOID, return_indices=True)
    filled: NDArray[np.uint8] = mask[tuple(nearest)]
    return filled, depth


def _outline(mask: NDArray[np.uint8], label: int) -> NDArray[np.bool_]:
    inside = mask == label
    # Beyond the frame everything counts as the same class (it is repeated there).
    padded = np.pad(inside, 1, mode="edge")
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: NDArray[np.bool_] = inside & ~surrounded
    return outline


def _near(pixels: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """Where one of `pixels` is at most `distance` away."""
    if not pixels.any():
        return np.zeros(pixels.shape, bool)
    away = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= distance)

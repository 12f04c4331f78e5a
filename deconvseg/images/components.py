"""Connected objects of a labelling, and where labels meet."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

VOID = 255


def connected(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Groups of pixels that touch at a side or a corner, numbered by their first pixel in reading order.

    Returns int32 (H, W), the group's number or 0; and int32 (K, 5), half-open box x0, y0, x1, y1 and area.
    """
    mask = np.ascontiguousarray(inside).view(np.uint8)
    # Of OpenCV's algorithms this one numbers in reading order.
    found = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_SAUF)
    numbers, stats = found[1], found[2][1:]
    stats[:, 2:4] += stats[:, :2]
    return numbers, stats


def components(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected objects (8 neighbours) of every class but background and void, by class and first pixel.

    Returns int32 (H, W), the 1-based number of the object or 0; and int64 (K, 6): class, box and area.
    """
    numbers = np.zeros(labels.shape, np.int32)
    objects = np.zeros((0, 6), np.int64)
    for label in np.setdiff1d(labels, (0, VOID)):
        own, found = connected(labels == label)
        numbers += np.where(own > 0, own + len(objects), 0)
        objects = np.concatenate((objects, np.insert(found, 0, label, axis=1)))
    return numbers, objects


def outline(labels: NDArray[np.integer[Any]], width: int) -> NDArray[np.bool_]:
    """Every pixel (H, W) that has another label at most `width` pixels up, down, left or right of it."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (2 * width + 1, 2 * width + 1))
    values = labels if labels.dtype == np.uint8 else labels.astype(np.float32)  # OpenCV takes no int32
    return np.asarray(cv2.morphologyEx(values, cv2.MORPH_GRADIENT, cross) > 0)

"""Connected objects of a labelling, and where labels meet."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

VOID = 255


def connected(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[tuple[int, ...]]]:
    """Groups of pixels that touch at a side or a corner, ordered by their first pixel in reading order.

    Returns int32 (H, W), the group's number or 0; and number, half-open box x0, y0, x1, y1 and area of each.
    """
    mask = np.ascontiguousarray(inside).view(np.uint8)
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = [
        (number, x, y, x + width, y + height, area)
        for number, (x, y, width, height, area) in enumerate(stats[1:count].tolist(), 1)
    ]
    return numbers, sorted(found, key=lambda it: (it[2], np.argmax(numbers[it[2], it[1] :] == it[0]) + it[1]))


def components(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected objects (8 neighbours) of every class but background and void, by class and first pixel.

    Returns int32 (H, W), the 1-based number of the object or 0; and int64 (K, 6): class, box and area.
    """
    numbers = np.zeros(labels.shape, np.int32)
    rows: list[tuple[int, ...]] = []
    for label in np.setdiff1d(labels, (0, VOID)).tolist():
        own, found = connected(labels == label)
        rank = np.zeros(len(found) + 1, np.int32)
        for number, *box_and_area in found:
            rows.append((label, *box_and_area))
            rank[number] = len(rows)
        numbers += rank[own]
    return numbers, np.array(rows, np.int64).reshape(-1, 6)


def outline(labels: NDArray[np.integer[Any]], width: int) -> NDArray[np.bool_]:
    """Every pixel (H, W) that has another label at most `width` pixels up, down, left or right of it."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (2 * width + 1, 2 * width + 1))
    values = labels if labels.dtype == np.uint8 else labels.astype(np.float32)  # OpenCV takes no int32
    return np.asarray(cv2.morphologyEx(values, cv2.MORPH_GRADIENT, cross) > 0)

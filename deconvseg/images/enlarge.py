"""From the probabilities of a small image to the labels of a large one."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_Indices = NDArray[np.int64]
# Where the pixels along a side of a large image lie on a small one: low, high, and what of the way to it.
_Places = tuple[_Indices, _Indices, NDArray[np.float32]]
_STRIP_PIXELS = 1 << 17


def enlarge(
    probabilities: NDArray[np.float32], height: int, width: int, keep: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Labels uint8 (height, width) of probabilities float32 (C, h, w) at another size, bilinear.

    The second result are the probabilities at that size, or None unless `keep`. In strips, so that large
    photos fit. Among four neighbours of one label every mixture has that label, so the classes are only
    compared near borders: 400 megapixels take seconds in place of minutes.
    """
    classes, *size = probabilities.shape
    present = np.flatnonzero(probabilities.reshape(classes, -1).max(1) != 0)  # the CRF leaves many out
    some, present = probabilities[present], present.astype(np.uint8)
    best = present[some.argmax(0)]
    if size == [height, width]:
        return best, probabilities if keep else None
    down, across = _places(best.shape[0], height), _places(best.shape[1], width)
    # Where a pixel and those to the right of it and below it are not all of one label.
    border = cv2.morphologyEx(best, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8), anchor=(0, 0)) > 0
    values = np.ascontiguousarray(some.transpose(1, 2, 0))
    labels = np.empty((height, width), np.uint8)
    kept = np.zeros((classes, height, width), np.float32) if keep else None
    rows = max(_STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        part = labels[top : top + rows]
        near = down[0][top : top + rows]
        part[:] = np.take(best[near], across[0], 1)
        row, column = np.nonzero(np.take(border[near], across[0], 1))
        part[row, column] = present[_mix(values, down, row + top, across, column).argmax(1)]
        if kept is not None:
            row, column = np.indices(part.shape).reshape(2, -1)
            mixture = _mix(values, down, row + top, across, column)
            kept[present, top : top + rows] = mixture.T.reshape(-1, *part.shape)
    return labels, kept


def _places(small: int, large: int) -> _Places:
    place = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, small - 1), (place - low).astype(np.float32)


def _mix(
    values: NDArray[np.float32], down: _Places, row: _Indices, across: _Places, column: _Indices
) -> NDArray[np.float32]:
    """`values` (h, w, C) of the small image at N pixels of the large one, (N, C)."""
    (above, below, y), (left, right, x) = (part[row] for part in down), (part[column] for part in across)
    x, y = x[:, None], y[:, None]
    mixture = np.zeros((len(row), values.shape[2]), np.float32)
    for at_row, by_row in ((above, 1 - y), (below, y)):
        for at_column, by_column in ((left, 1 - x), (right, x)):
            corner = values[at_row, at_column]
            corner *= by_row * by_column
            mixture += corner
    return mixture

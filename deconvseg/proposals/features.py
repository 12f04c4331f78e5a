"""OpenCV's features for structured edges, computed in Python: what a forest is trained on.

The same numbers as inside `cv2.ximgproc.StructuredEdgeDetection.detectEdges` (opencv_contrib,
modules/ximgproc/src/structured_edge_detection.cpp and rf_feature_getter.cpp), so that a tree meets in use
what it met in training; the tests hold both to be equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deconvseg.proposals.forest_file import CELLS, CHANNELS, GRID, INNER_SIZE, PATCH_SIZE, SHRINK
from deconvseg.proposals.opencv import opencv

BORDER = 16
"""Pixels of mirrored photo that `EdgeDetector` adds on each side before OpenCV adds its own 8. OpenCV's
windows alone leave the outer 16 pixels with few votes (a mean response of 0.01 there against 0.10 inside)."""
_REGULAR = CELLS * CELLS * CHANNELS
_GRID_CELLS = np.array((1, 4, 8, 11, 14))
"""Rows and columns of the 5 x 5 grid whose cells are compared pairwise, as OpenCV rounds them."""
_OPENCV_BORDER = (PATCH_SIZE - INNER_SIZE) // 2


def channels(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Feature channels of an image at half size: LUV, gradient magnitudes and orientation histograms.

    Args:
        image: uint8 (H, W, 3) RGB, as handed to OpenCV (so with `BORDER` already around it).

    Returns:
        Two float32 ((H + 16) / 2, (W + 16) / 2, 13): smoothed by a triangle of radius 1, for features that
        read a cell, and of radius 4, for features that compare two.
    """
    pad = _OPENCV_BORDER
    cv2 = opencv()
    padded = cv2.copyMakeBorder(image.astype(np.float32) / 255, pad, pad, pad, pad, cv2.BORDER_REFLECT)
    height, width = padded.shape[:2]
    raw = np.empty((round(height / SHRINK), round(width / SHRINK), CHANNELS), np.float32)
    cv2.ximgproc.createRFFeatureGetter().getFeatures(padded, raw, 4, 0, SHRINK, CHANNELS, 4)
    return _smooth(raw, 1), _smooth(raw, 4)


def _smooth(raw: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    cv2 = opencv()
    rising = np.arange(1, radius + 2)
    kernel = np.concatenate((rising, rising[-2::-1])).astype(np.float32) / (radius + 1) ** 2
    smooth = np.empty_like(raw)
    for channel in range(CHANNELS):
        smooth[..., channel] = cv2.sepFilter2D(np.ascontiguousarray(raw[..., channel]), -1, kernel, kernel)
    return smooth


def gather(
    cells: NDArray[np.float32],
    blurred: NDArray[np.float32],
    positions: NDArray[np.int64],
    feature_ids: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Features of windows.

    Args:
        cells: float32 (h, w, 13), the first result of `channels`.
        blurred: float32 (h, w, 13), the second.
        positions: int64 (P, 2), row and column of each window's top left cell.
        feature_ids: int64 (F,), ascending, 0..7227. The first 3,328 are single cells, channel by channel and
            column by column; then come 300 differences in each channel.

    Returns:
        float32 (P, F).
    """
    width = cells.shape[1]
    start = ((positions[:, 0] * width + positions[:, 1]) * CHANNELS)[:, None]

    def offset(
        row: NDArray[np.int64], column: NDArray[np.int64], channel: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        index: NDArray[np.int64] = (row * width + column) * CHANNELS + channel
        return index

    split = int(np.searchsorted(feature_ids, _REGULAR))
    values = np.empty((len(positions), len(feature_ids)), np.float32)
    channel, cell = np.divmod(feature_ids[:split], CELLS * CELLS)
    values[:, :split] = cells.reshape(-1)[start + offset(cell % CELLS, cell // CELLS, channel)]

    first, second = np.triu_indices(GRID * GRID, 1)
    channel, pair = np.divmod(feature_ids[split:] - _REGULAR, len(first))
    flat = blurred.reshape(-1)
    one, other = (
        flat[start + offset(_GRID_CELLS[point % GRID], _GRID_CELLS[point // GRID], channel)]
        for point in (first[pair], second[pair])
    )
    values[:, split:] = one - other
    return values

"""Hand-made edge forests: their files, and their features as OpenCV numbers them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from deconvseg.proposals.edges import BORDER

WINDOW = 32  # side in pixels of what a tree looks at
PATCH = 16  # side in pixels of the segmentation in a leaf, at the window's centre
CELL = 2  # side in pixels of a feature cell, and the step between windows
CHANNELS = 13  # LUV, and of two scales a gradient's magnitude and its histogram of 4 orientations
CELLS = WINDOW // CELL
GRID = np.array([1, 4, 8, 11, 14])  # rows and columns of cells that are compared, as OpenCV rounds them
GEOMETRY = {
    "stride": CELL,
    "shrinkNumber": CELL,
    "patchSize": WINDOW,
    "patchInnerSize": PATCH,
    "numberOfGradientOrientations": 4,
    "gradientSmoothingRadius": 0,
    "regFeatureSmoothingRadius": 2,
    "ssFeatureSmoothingRadius": 8,
    "gradientNormalizationRadius": 4,
    "selfsimilarityGridSize": len(GRID),
}
"""What every published forest has, by OpenCV's names."""


class Node(NamedTuple):
    """A node of a tree, which is a list of nodes, the root first. A leaf has child 0."""

    child: int = 0  # place in the tree of the right child; the left one, feature < threshold, is just before
    feature: int = 0  # 0..7227, see `window_features`
    threshold: np.float32 = np.float32(0)
    edges: tuple[int, ...] = ()  # of a leaf, the edge's pixels: column * 16 + row


Forest = list[list[Node]]


def window_features(image: NDArray[np.uint8], corners: NDArray[np.int64]) -> NDArray[np.float32]:
    """All features (P, 7228) of a photo's windows, as OpenCV numbers and computes them.

    The first 3,328 are single cells, channel by channel and column by column; then come 300 differences of
    two cells in each channel. The photo is uint8 (H, W, 3) RGB; the corners are those of the windows' inner
    16 x 16 pixels: even rows and columns (P, 2).
    """
    padded = image.astype(np.float32) / 255
    for border in (BORDER, (WINDOW - PATCH) // 2):  # `EdgeDetector`'s, and then OpenCV's own
        padded = cv2.copyMakeBorder(padded, border, border, border, border, cv2.BORDER_REFLECT)
    height, width = padded.shape[:2]
    raw = np.empty((round(height / CELL), round(width / CELL), CHANNELS), np.float32)
    cv2.ximgproc.createRFFeatureGetter().getFeatures(padded, raw, 4, 0, CELL, CHANNELS, 4)
    seen = []
    for radius in (1, 4):  # of triangles by which single cells and those to compare are smoothed
        triangle = np.array([*range(1, radius + 2), *range(radius, 0, -1)], np.float32) / (radius + 1) ** 2
        smooth = cv2.sepFilter2D(raw, -1, triangle, triangle)
        windows = sliding_window_view(smooth, (CELLS, CELLS), (0, 1))
        seen.append(windows[*((corners + BORDER) // CELL).T].swapaxes(2, 3))  # (P, 13, columns, rows)
    cells, blurred = seen
    grid = blurred[:, :, GRID][..., GRID].reshape(len(corners), CHANNELS, -1)
    one, other = np.triu_indices(grid.shape[2], 1)
    differences = grid[..., one] - grid[..., other]
    return np.concatenate([part.reshape(len(corners), -1) for part in (cells, differences)], 1)


def write_forest(forest: Forest, path: Path, votes: int = 4) -> None:
    """Write trees as YAML for OpenCV, gzip-packed if the name ends in `.gz`: the same ones give the same
    bytes. At each position so many trees vote, at most half of them."""
    size = max(map(len, forest))  # of all trees in the file
    padded = [tree + [Node()] * (size - len(tree)) for tree in forest]
    edges = [node.edges for tree in padded for node in tree]
    columns: dict[str, Any] = {
        "childs": [[node.child for node in tree] for tree in padded],
        "featureIds": [[node.feature for node in tree] for tree in padded],
        "thresholds": [[node.threshold for node in tree] for tree in padded],
        "edgeBoundaries": [np.cumsum([0, *map(len, edges)])],  # the edges of a node among those of all
        "edgeBins": [[edge for one in edges for edge in one]],
    }
    options = GEOMETRY | {"numberOfTrees": len(forest), "numberOfTreesToEvaluate": votes}
    lines = ["%YAML:1.0", "---", "options:", *(f"   {name}: {value}" for name, value in options.items())]
    for name, rows in columns.items():
        lines += [f"{name}:", *(f"   - [{','.join(map(str, row))}]" for row in rows)]
    data = ("\n".join(lines) + "\n").encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, 9, mtime=0)
    path.write_bytes(data)

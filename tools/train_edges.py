"""Trains the structured edge forest behind the object proposals, on the outlines of a data set's objects.

    python tools/train_edges.py --voc-root VOC2012 --out edges.yml.gz

The recipe is that of P. Dollar and C. L. Zitnick, "Fast Edge Detection Using Structured Forests" (PAMI 2015),
with the settings of their released edgesTrain.m; where this differs (a tree's windows, photos, and windows by
which a split is judged) a comment says so. The result goes straight into `deconvseg segment --forest`, or
into OpenCV's createStructuredEdgeDetection.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import typer
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from deconvseg.cli import console
from deconvseg.cli.options import DEBUG, refuse_target
from deconvseg.data.dataset import DataSet
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError
from deconvseg.files import replacing
from deconvseg.images.components import VOID, components, outline
from deconvseg.proposals.edges import BORDER

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

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
PAIRS = len(GRID) ** 2 * (len(GRID) ** 2 - 1) // 2  # of cells that are compared in a channel: 300
FEATURES = CHANNELS * (CELLS**2 + PAIRS)  # 7,228

TREES, VOTES = 8, 4  # of which this many vote at each position
WINDOWS = 200_000  # that a tree learns from, half of them with an edge; published: 1,000,000
PHOTOS = 400  # that a tree learns from; published: all
FEATURES_OF_A_TREE = FEATURES // 4
TRIED = 43  # features at a node: the square root of the tree's
JUDGED = 8192  # windows that choose a node's split; published: all of the node's
COMPARED = 256  # pairs of pixels by which two segmentations are compared
MIN_CHILD = 8  # fewest windows in a node
EDGE_REACH = 8  # pixels: an edge nearer to a window's centre is one that it shows
VOID_REACH = 6  # pixels: VOC's void border is about 5 wide, with the edge somewhere within


class Node(NamedTuple):
    """A node of a tree, which is a list of nodes, the root first. A leaf has child 0."""

    child: int = 0  # place in the tree of the right child; the left one, feature < threshold, is just before
    feature: int = 0  # 0..7227, see `window_features`
    threshold: np.float32 = np.float32(0)
    edges: tuple[int, ...] = ()  # of a leaf, the edge's pixels: column * 16 + row


Forest = list[list[Node]]


def train_edges(
    out: Annotated[Path, typer.Option(help="Forest file to write: .yml.gz or .yml.")],
    voc_root: Annotated[Path, typer.Option(help="Data set in any layout that training reads.")],
    split: Annotated[str, typer.Option(help="Split of --voc-root.")] = "train",
    debug: bool = DEBUG,
) -> None:
    """Train a structured edge forest on the outlines of objects."""
    refuse_target(out, overwrite=True, option="--out")
    dataset = open_dataset(voc_root, split)
    console.say(f"training on {len(dataset)} photos")
    write_forest(train_forest(dataset), out)
    console.say(f"{out}: {TREES} trees, {out.stat().st_size / 1e6:.1f} MB")


def train_forest(dataset: DataSet, trees: int = TREES, windows: int = WINDOWS) -> Forest:
    """Train trees, each on up to so many windows, with 9 KB of memory for each: the same photos give the
    same forest. Raises DataError if the photos have no outlines."""
    forest = []
    for number in range(trees):
        rng = np.random.default_rng(number)
        features = rng.choice(FEATURES, FEATURES_OF_A_TREE, replace=False)
        values, labels = draw_windows(dataset, features, windows, rng)
        forest.append(grow(values, labels, features, rng))
        leaves = sum(node.child == 0 for node in forest[-1])
        console.say(f"tree {number + 1} of {trees}: {len(labels)} windows, {leaves} leaves")
        if leaves == 1:
            raise DataError(f"{dataset.source}: the photos have no outlines to learn from")
    return forest


def draw_windows(
    dataset: DataSet, features: Ints, count: int, rng: Generator
) -> tuple[NDArray[np.float16], NDArray[np.uint16]]:
    """The values of some features of windows (F, P), and the segmentations (P, 256), column by column."""
    values, labels = [], []
    photos = rng.permutation(len(dataset))[:PHOTOS]
    share = -(-count // (2 * len(photos)))
    for photo in photos:
        image, mask = dataset.read(dataset.examples[photo])
        segments = segments_of_mask(mask)
        distance = distance_transform_edt(~outline(segments, 1))
        half = PATCH // 2
        centres = distance[half : len(mask) - half + 1 : CELL, half : mask.shape[1] - half + 1 : CELL]
        kinds = [np.argwhere(kind) for kind in (centres < EDGE_REACH, centres >= EDGE_REACH)]
        corners = CELL * np.concatenate([rng.permutation(kind)[:share] for kind in kinds])
        patches = sliding_window_view(segments, (PATCH, PATCH))[*corners.T]
        known = (patches >= 0).all((1, 2))
        values.append(window_features(image, corners[known])[:, features].T.astype(np.float16))
        labels.append(patches[known].swapaxes(1, 2).reshape(-1, PATCH**2).astype(np.uint16))
    return np.concatenate(values, 1), np.concatenate(labels)


def segments_of_mask(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Segments of a class mask: 0 background, 1.. one for every connected object of a class.

    Void takes the label of the nearest pixel that has one, so that the edge runs in the middle of the void
    border; void farther than 6 pixels from any becomes -1, unknown.
    """
    distance, nearest = distance_transform_edt(mask == VOID, return_indices=True)
    segments: NDArray[np.int32] = components(mask)[0][*nearest]
    segments[distance > VOID_REACH] = -1
    return segments


def window_features(image: NDArray[np.uint8], corners: Ints) -> Floats:
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


def grow(
    values: NDArray[np.float16], labels: NDArray[np.uint16], features: Ints, rng: Generator
) -> list[Node]:
    """A tree that learned from windows; see `draw_windows`."""
    tree = [Node()]
    waiting = [(0, np.arange(len(labels)))]
    while waiting:
        place, members = waiting.pop()
        judged = rng.permutation(members)[:JUDGED]
        one, other = rng.integers(PATCH**2, size=(2, COMPARED))
        shown = labels[judged]
        equal = (shown[:, one] == shown[:, other]).astype(np.float32)
        tried = rng.choice(len(features), TRIED, replace=False)
        split = best_split(values[tried[:, None], judged].astype(np.float32), two_classes(equal, rng))
        if split is None:
            # The most typical segmentation: the one nearest to the mean of all.
            typical = shown[((equal - equal.mean(0)) ** 2).sum(1).argmin()].reshape(PATCH, PATCH)
            tree[place] = Node(edges=tuple(np.flatnonzero(outline(typical, 1)).tolist()))
            continue
        best, threshold = split
        left = values[tried[best], members].astype(np.float32) < threshold
        tree[place] = Node(len(tree) + 1, int(features[tried[best]]), threshold)
        waiting += [(len(tree), members[left]), (len(tree) + 1, members[~left])]
        tree += [Node(), Node()]
    return tree


def two_classes(equal: Floats, rng: Generator) -> NDArray[np.bool_]:
    """The sign (P,) of the first principal component of (P, C): the coarsest distinction between them."""
    centred = equal - equal.mean(0)
    # Power iteration: enough for a sign, and far cheaper than an SVD in each of 10,000s of nodes.
    component = rng.standard_normal(equal.shape[1], np.float32)
    for _ in range(8):
        component = centred.T @ (centred @ component)
        component /= np.linalg.norm(component) + np.float32(1e-12)
    signs: NDArray[np.bool_] = centred @ component > 0
    return signs


def best_split(values: Floats, classes: NDArray[np.bool_]) -> tuple[int, np.float32] | None:
    """The feature, of some (F, P), and the threshold with the lowest Gini impurity of two classes (P,), or
    None if no split makes it lower."""
    count, ones = len(classes), int(classes.sum())
    left = np.arange(1, count)
    order = values.argsort(1)
    values = np.take_along_axis(values, order, 1)
    left_ones = classes[order].cumsum(1)[:, :-1]
    right, right_ones = count - left, ones - left_ones
    purity = (left_ones**2 + (left - left_ones) ** 2) / left
    purity += (right_ones**2 + (right - right_ones) ** 2) / right
    purity[(values[:, 1:] == values[:, :-1]) | (left < MIN_CHILD) | (right < MIN_CHILD)] = 0
    if purity.max(initial=0) <= (ones**2 + (count - ones) ** 2) / count + 1e-9:
        return None
    feature, place = np.unravel_index(purity.argmax(), purity.shape)
    return int(feature), values[feature, place : place + 2].mean()


def write_forest(forest: Forest, path: Path, votes: int = VOTES) -> None:
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
    with replacing(path) as stream:
        stream.write(data)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(train_edges)
    sys.exit(console.run(app))

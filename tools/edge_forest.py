"""Trains a structured edge forest: photos with drawn outlines in, a `Forest` that OpenCV can use out.

The recipe is that of P. Dollar and C. L. Zitnick, "Fast Edge Detection Using Structured Forests" (PAMI 2015),
with the settings of their released edgesTrain.m; where this differs (how many patches, quantised features,
splits judged on a sample of a large node) a comment says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator
from numpy.typing import NDArray

from deconvseg.errors import DataError
from deconvseg.images.components import outline
from deconvseg.proposals.edges import BORDER

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

PATCH_SIZE = 32  # side in pixels of the window a tree looks at
INNER_SIZE = 16  # side in pixels of the segmentation in a leaf, at the window's centre
SHRINK = 2  # side in pixels of a feature cell, and the step between windows
CHANNELS, CELLS, GRID = 13, PATCH_SIZE // SHRINK, 5
FEATURES = CELLS * CELLS * CHANNELS + CHANNELS * (GRID**2 * (GRID**2 - 1) // 2)
"""7,228: 16 x 16 x 13 cells and 300 differences of a 5 x 5 grid in each of 13 channels."""
GEOMETRY = {
    "stride": SHRINK,
    "shrinkNumber": SHRINK,
    "patchSize": PATCH_SIZE,
    "patchInnerSize": INNER_SIZE,
    "numberOfGradientOrientations": 4,
    "gradientSmoothingRadius": 0,
    "regFeatureSmoothingRadius": 2,
    "ssFeatureSmoothingRadius": 8,
    "gradientNormalizationRadius": 4,
    "selfsimilarityGridSize": GRID,
}
"""What every published forest has; OpenCV derives buffer sizes and feature indices from these unchecked."""

_PAIRS = 256  # of pixels, by which two segmentations are compared at a node
_STEPS = 4096  # equal steps a feature's range is cut into before 256 of them become the possible thresholds
_JUDGED = 8192  # patches of a node that choose its split; the published recipe uses all: same trees, slower
_PHOTOS = 400  # a tree learns from; the published recipe uses all, but reading them is half of the time
_FEATURES_OF_A_TREE = FEATURES // 4
_MIN_CHILD = 8  # fewest windows in a node
_MAX_DEPTH = 64  # most splits from the root to a leaf


@dataclass(frozen=True)
class Forest:
    """A structured edge forest of T trees, each padded to N nodes.

    A child of 0 marks a leaf. Otherwise it is the index in the same tree of the right child; the left child
    (feature < threshold) is the node just before it. Node g = tree * N + node has the edge bins
    `bins[boundaries[g] : boundaries[g + 1]]`: edge pixels of a 16 x 16 patch, column-major (row = bin % 16).
    """

    childs: NDArray[np.int32]  # (T, N)
    feature_ids: NDArray[np.int32]  # (T, N), 0..7227
    thresholds: NDArray[np.float32]  # (T, N), finite
    boundaries: NDArray[np.int64]  # (T * N + 1,), not decreasing
    bins: NDArray[np.int32]  # (B,), 0..255
    trees_evaluated: int  # trees that vote at each position, 1..T


def check_forest(forest: Forest) -> None:
    """Raise a ValueError unless OpenCV, which does not check it, can walk the forest and comes to an end."""
    trees, nodes = forest.childs.shape
    if not 1 <= forest.trees_evaluated <= trees:
        raise ValueError(f"numberOfTreesToEvaluate is {forest.trees_evaluated}, but there are {trees} trees")
    if len(forest.boundaries) != trees * nodes + 1:
        raise ValueError(f"edgeBoundaries holds {len(forest.boundaries)} numbers for {trees * nodes} nodes")
    childs, ids, bins, bounds = forest.childs, forest.feature_ids, forest.bins, forest.boundaries
    for name, values, wrong in (
        # Children after their parent: no walk goes in circles.
        ("childs", childs, (childs != 0) & ((childs < np.arange(nodes) + 2) | (childs >= nodes))),
        ("featureIds", ids, (ids < 0) | (ids >= FEATURES)),
        ("thresholds", forest.thresholds, ~np.isfinite(forest.thresholds)),
        ("edgeBoundaries", bounds, (np.diff(bounds, prepend=0) < 0) | (bounds > len(bins))),
        ("edgeBins", bins, (bins < 0) | (bins >= INNER_SIZE**2)),
    ):
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(f"{name} holds {values.flat[at]} at position {at}, which is out of range")


Photo = tuple[NDArray[np.uint8], NDArray[np.int32]]
"""A photo, uint8 (H, W, 3) RGB, and its segments (H, W). Neighbours with different labels have an edge in
between; negative means that nobody can tell, and no window that touches such a pixel is used."""


class _Windows(NamedTuple):
    codes: NDArray[np.uint8]  # (F, P): which of 256 intervals each feature is in
    edges: NDArray[np.float32]  # (F, 256): a code below c means a feature below edges[:, c]
    labels: NDArray[np.uint16]  # (P, 256): segmentation, column-major


_Node = tuple[int, int, float, NDArray[np.int32]]  # child, feature id, threshold, bins: a row of `Forest`
_NO_BINS = np.zeros(0, np.int32)
_EMPTY: _Node = (0, 0, 0.0, _NO_BINS)


def train_forest(
    photos: Sequence[Callable[[], Photo]],
    *,
    trees: int = 8,
    windows: int = 200_000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> Forest:
    """Train a forest, in about 6 KB of memory a window of one tree; the defaults made the shipped one.

    Args:
        photos: each reads one when called; every tree goes through its share of them once.
        trees: 1 or more; half of them vote at each position.
        windows: that a tree learns from, half of them with an edge.
        seed: the same one and the same photos give the same forest.
        progress: told a line a tree.

    Raises DataError if the photos hold no window with an edge, or none without.
    """
    grown: list[list[_Node]] = []
    for number, own_seed in enumerate(np.random.SeedSequence(seed).spawn(trees), start=1):
        rng = np.random.default_rng(own_seed)
        ids = np.sort(rng.choice(FEATURES, _FEATURES_OF_A_TREE, replace=False))
        drawn = _draw_windows(photos, ids, windows // 2, rng)
        grown.append(_grow(drawn, ids, rng))
        leaves = sum(child == 0 for child, *_ in grown[-1])
        progress(f"tree {number} of {trees}: {len(drawn.labels)} windows, {leaves} leaves")
    # All trees are padded to one size, as the file format wants it.
    shape = len(grown), max(map(len, grown))
    nodes = [node for tree in grown for node in [*tree, *[_EMPTY] * (shape[1] - len(tree))]]
    childs, feature_ids, thresholds, bins = zip(*nodes, strict=True)
    return Forest(
        childs=np.array(childs, np.int32).reshape(shape),
        feature_ids=np.array(feature_ids, np.int32).reshape(shape),
        thresholds=np.array(thresholds, np.float32).reshape(shape),
        boundaries=np.cumsum([0, *map(len, bins)], dtype=np.int64),
        bins=np.concatenate(bins),
        trees_evaluated=-(-len(grown) // 2),
    )


def _draw_windows(photos: Sequence[Callable[[], Photo]], ids: Ints, count: int, rng: Generator) -> _Windows:
    values: list[NDArray[np.float16]] = []
    labels: list[NDArray[np.uint16]] = []
    found = np.zeros(2, int)
    drawn = rng.permutation(len(photos))[:_PHOTOS]
    for index in drawn:
        image, segments = photos[int(index)]()
        corners = _choose(segments, -(-count // len(drawn)), rng)
        found += [len(part) for part in corners]
        where = np.concatenate(corners)
        padded = cv2.copyMakeBorder(image, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REFLECT)
        # Label window (y, x) lies at BORDER + y in the padded image, where OpenCV's window for it starts.
        values.append(gather(*channels(padded), (where + BORDER) // SHRINK, ids).astype(np.float16))
        if len(where):  # else the photo may be smaller than a window
            patches = sliding_window_view(segments, (INNER_SIZE, INNER_SIZE))[*where.T]
            labels.append(patches.transpose(0, 2, 1).reshape(len(where), -1).astype(np.uint16))
    if not found.all():
        lacking = "without" if found[1] else "with"
        raise DataError(f"the {len(photos)} photos hold no window {lacking} an edge to learn from")
    return _quantise(values, np.concatenate(labels))


def _choose(segments: NDArray[np.int32], count: int, rng: Generator) -> list[Ints]:
    """Top left corners (even, (P, 2)) of up to `count` label windows without, and with, an edge inside."""
    height, width = (max(side - INNER_SIZE + 1, 0) for side in segments.shape)
    half = INNER_SIZE // 2
    centres = (slice(half, half + height, SHRINK), slice(half, half + width, SHRINK))
    # An edge within 8 pixels of the centre, as in edgesTrain.m.
    near = cv2.distanceTransform((~outline(segments, 1)).astype(np.uint8), cv2.DIST_L2, 5)[centres] < half
    reach = np.ones((INNER_SIZE + 1, INNER_SIZE + 1), np.uint8)
    usable = cv2.dilate((segments < 0).astype(np.uint8), reach)[centres] == 0
    corners = []
    for positive in (False, True):
        found = np.flatnonzero(usable & (near == positive))
        picked = rng.choice(found, min(count, len(found)), replace=False)
        corners.append(np.stack(np.divmod(picked, near.shape[1]), 1) * SHRINK)
    return corners


def _quantise(values: list[NDArray[np.float16]], labels: NDArray[np.uint16]) -> _Windows:
    """Replace features by 8-bit codes: a quarter of the memory, and a split by histogram, not by sorting."""
    sample = np.concatenate([part[:: max(1, len(labels) // 4096)] for part in values]).astype(np.float32)
    low, high = sample.min(0), sample.max(0)
    scale = _STEPS / np.maximum(high - low, 1e-6)
    steps = np.clip((sample - low) * scale, 0, _STEPS - 1).astype(np.int64)
    # Thresholds at quantiles: gradients crowd near zero, where equal steps would be too coarse.
    cuts = np.quantile(steps, np.arange(1, 256) / 256, axis=0, method="nearest").T + 1
    table = np.zeros((len(low), _STEPS + 1), np.int64)
    np.add.at(table, (np.arange(len(low))[:, None], cuts), 1)
    table = np.cumsum(table, 1)[:, :_STEPS].astype(np.uint8)
    edges = np.zeros((len(low), 256), np.float32)
    edges[:, 1:] = low[:, None] + cuts / scale[:, None]

    codes = np.empty((len(low), len(labels)), np.uint8)
    rows = np.arange(len(low), dtype=np.int32) * _STEPS
    start = 0
    for part in values:
        step = np.clip((part - low) * scale, 0, _STEPS - 1).astype(np.int32)
        codes[:, start : start + len(part)] = table.reshape(-1).take(step + rows).T
        start += len(part)
    return _Windows(codes, edges, labels)


def _grow(windows: _Windows, ids: Ints, rng: Generator) -> list[_Node]:
    nodes = [_EMPTY]
    tries = round(np.sqrt(len(ids)))
    queue = [(0, 0, np.arange(len(windows.labels)))]
    while queue:
        node, depth, members = queue.pop()
        judged = members if len(members) <= _JUDGED else rng.choice(members, _JUDGED, replace=False)
        equal = _compare(windows.labels[judged], rng)
        split = None
        if depth < _MAX_DEPTH and len(members) >= 2 * _MIN_CHILD:
            candidates = rng.choice(len(ids), tries, replace=False)
            split = _best_split(windows, candidates, judged, _two_classes(equal, rng))
        if split is not None:
            feature, code = split
            goes_left = windows.codes[feature, members] < code
            if min(goes_left.sum(), (~goes_left).sum()) < _MIN_CHILD:  # the sample judged wrongly
                split = None
        if split is None:
            nodes[node] = (0, 0, 0.0, _leaf(windows.labels[judged], equal))
            continue
        nodes[node] = (len(nodes) + 1, int(ids[feature]), float(windows.edges[feature, code]), _NO_BINS)
        for part in (members[goes_left], members[~goes_left]):
            queue.append((len(nodes), depth + 1, part))
            nodes.append(_EMPTY)
    return nodes


def _compare(labels: NDArray[np.uint16], rng: Generator) -> NDArray[np.float32]:
    """(P, 256) of 0 and 1: whether the two pixels of each random pair lie in one segment."""
    one = rng.integers(0, INNER_SIZE**2, _PAIRS)
    other = (one + rng.integers(1, INNER_SIZE**2, _PAIRS)) % INNER_SIZE**2
    equal: NDArray[np.bool_] = labels.take(one, 1) == labels.take(other, 1)
    return equal.astype(np.float32)


def _two_classes(equal: NDArray[np.float32], rng: Generator) -> NDArray[np.bool_]:
    """Sign of the first principal component: the coarsest distinction between these segmentations."""
    centred = equal - equal.mean(0)
    if not centred.any():
        return np.zeros(len(equal), bool)
    # Power iteration: enough for a sign, and far cheaper than an SVD in each of 10,000s of nodes.
    component = rng.standard_normal(_PAIRS).astype(np.float32)
    for _ in range(8):
        component = centred.T @ (centred @ component)
        component /= np.sqrt(component @ component) + 1e-12
    positive: NDArray[np.bool_] = (centred @ component) > 0
    return positive


def _best_split(
    windows: _Windows, candidates: Ints, judged: Ints, classes: NDArray[np.bool_]
) -> tuple[int, int] | None:
    """Feature and code with the lowest Gini impurity, or None if no split separates anything."""
    total, ones = len(judged), int(classes.sum())
    if ones in (0, total):
        return None
    # Few windows do not need 256 thresholds, and the sums over them are most of a small node's time.
    shift = 0 if total > 1024 else 2
    levels = 256 >> shift
    codes = (windows.codes[candidates[:, None], judged] >> shift).astype(np.int64)
    codes += np.arange(len(candidates))[:, None] * levels
    size = len(candidates) * levels
    left, left_ones = (
        np.bincount(part.reshape(-1), minlength=size).reshape(-1, levels).cumsum(1)[:, :-1]
        for part in (codes, codes[:, classes])
    )
    right, right_ones = total - left, ones - left_ones
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (left_ones**2 + (left - left_ones) ** 2) / left
        gain += (right_ones**2 + (right - right_ones) ** 2) / right
    gain = np.where((left >= _MIN_CHILD) & (right >= _MIN_CHILD), gain, -1.0)
    best = int(gain.argmax())
    if gain.reshape(-1)[best] <= (ones**2 + (total - ones) ** 2) / total + 1e-9:
        return None
    feature, level = divmod(best, levels - 1)
    return int(candidates[feature]), (level + 1) << shift


def _leaf(labels: NDArray[np.uint16], equal: NDArray[np.float32]) -> NDArray[np.int32]:
    """Edge bins of the most typical segmentation: the one nearest to the mean of all."""
    nearest = int(((equal - equal.mean(0)) ** 2).sum(1).argmin())
    patch = labels[nearest].reshape(INNER_SIZE, INNER_SIZE).astype(np.int32)
    for label, count in zip(*np.unique(patch, return_counts=True), strict=True):
        if count <= 5 and count < patch.size:  # noise of drawing; replaced by what lies nearest
            patch, _ = fill_from_nearest(patch, patch == label)
    # `patch` is column-major, so its transpose is the picture; the outline is the same either way.
    return np.flatnonzero(outline(patch, 1)).astype(np.int32)


_REGULAR = CELLS * CELLS * CHANNELS
_GRID_CELLS = np.array((1, 4, 8, 11, 14))  # rows and columns of the 5 x 5 grid, as OpenCV rounds them


def channels(image: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Feature channels of an image at half size: LUV, gradient magnitudes and orientation histograms.

    The image, uint8 (H, W, 3) RGB, is as handed to OpenCV (so with `BORDER` already around it). Returns two
    float32 ((H + 16) / 2, (W + 16) / 2, 13): smoothed by a triangle of radius 1, for features that read a
    cell, and of radius 4, for features that compare two.
    """
    # OpenCV's own border is 8 pixels wide.
    padded = cv2.copyMakeBorder(image.astype(np.float32) / 255, 8, 8, 8, 8, cv2.BORDER_REFLECT)
    height, width = padded.shape[:2]
    raw = np.empty((round(height / SHRINK), round(width / SHRINK), CHANNELS), np.float32)
    cv2.ximgproc.createRFFeatureGetter().getFeatures(padded, raw, 4, 0, SHRINK, CHANNELS, 4)
    one, four = (
        np.array([*range(1, radius + 2), *range(radius, 0, -1)], np.float32) / (radius + 1) ** 2
        for radius in (1, 4)
    )
    return cv2.sepFilter2D(raw, -1, one, one), cv2.sepFilter2D(raw, -1, four, four)


def gather(cells: Floats, blurred: Floats, positions: Ints, ids: Ints) -> Floats:
    """Features of windows, float32 (P, F).

    Args:
        cells, blurred: float32 (h, w, 13), the results of `channels`.
        positions: int64 (P, 2), row and column of each window's top left cell.
        ids: int64 (F,), ascending, 0..7227. The first 3,328 are single cells, channel by channel and column
            by column; then come 300 differences in each channel.
    """
    rows, columns = positions.T[:, :, None]
    split = int(np.searchsorted(ids, _REGULAR))
    channel, cell = np.divmod(ids[:split], CELLS * CELLS)
    single = cells[rows + cell % CELLS, columns + cell // CELLS, channel]

    first, second = np.triu_indices(GRID * GRID, 1)
    channel, pair = np.divmod(ids[split:] - _REGULAR, len(first))
    one, other = (
        blurred[rows + _GRID_CELLS[point % GRID], columns + _GRID_CELLS[point // GRID], channel]
        for point in (first[pair], second[pair])
    )
    return np.concatenate((single, one - other), 1)


def fill_from_nearest(labels: NDArray[np.int32], hole: NDArray[np.bool_]) -> tuple[NDArray[np.int32], Floats]:
    """`labels` (H, W) with each pixel of `hole` replaced by the nearest outside it, and its distance."""
    distance, nearest = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    value = np.zeros(int(nearest.max()) + 1, np.int32)
    value[nearest[~hole]] = labels[~hole]
    return value[nearest], distance

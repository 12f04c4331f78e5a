"""Trains a structured edge forest: photos with drawn outlines in, a `Forest` that OpenCV can use out.

The recipe is that of P. Dollar and C. L. Zitnick, "Fast Edge Detection Using Structured Forests" (PAMI 2015),
with the settings of their released edgesTrain.m; where this differs (how many patches, quantised features,
splits judged on a sample of a large node) a comment says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import DataError
from deconvseg.images.components import outline
from deconvseg.proposals.edges import BORDER
from deconvseg.proposals.forest_file import CELLS, CHANNELS, FEATURES, GRID, INNER_SIZE, SHRINK, Forest

Floats = NDArray[np.float32]

_PAIRS = 256
"""Pixel pairs by which two segmentations are compared at a node."""
_STEPS = 4096
"""Equal steps a feature's range is cut into before 256 of them become the possible thresholds."""
_JUDGED = 8192
"""Patches of a node that choose its split. The published recipe uses all: the same trees, slower."""


@dataclass(frozen=True)
class ForestRecipe:
    """How a forest is trained; the defaults are those of the shipped one.

    Attributes:
        trees: number of trees, 1 or more.
        trees_evaluated: trees that vote at each position, at most `trees`.
        positives: windows with an edge, a tree.
        negatives: windows without an edge, a tree.
        photos: drawn at random for each tree, or all if there are fewer.
        feature_share: share of the 7,228 features that a tree may use, 0..1.
        min_child: fewest windows in a node.
        max_depth: splits from the root to a leaf at most.
        seed: of every random choice; the same seed, photos and settings give the same forest.
    """

    trees: int = 8
    trees_evaluated: int = 4
    positives: int = 100_000
    negatives: int = 100_000
    photos: int = 400
    feature_share: float = 0.25
    min_child: int = 8
    max_depth: int = 64
    seed: int = 0


Photo = tuple[NDArray[np.uint8], NDArray[np.int32]]
"""A photo, uint8 (H, W, 3) RGB, and its segments (H, W). Neighbours with different labels have an edge in
between; negative means that nobody can tell, and no window that touches such a pixel is used."""


class _Windows(NamedTuple):
    codes: NDArray[np.uint8]  # (F, P): which of 256 intervals each feature is in
    edges: NDArray[np.float32]  # (F, 256): a code below c means a feature below edges[:, c]
    labels: NDArray[np.uint16]  # (P, 256): segmentation, column-major


class _Tree(NamedTuple):
    childs: list[int]
    feature_ids: list[int]
    thresholds: list[float]
    bins: list[NDArray[np.int32]]


def train_forest(
    photos: Sequence[Callable[[], Photo]],
    recipe: ForestRecipe = ForestRecipe(),
    *,
    progress: Callable[[str], None] = lambda message: None,
) -> Forest:
    """Train a forest.

    Args:
        photos: each reads one when called; every tree goes through its share of them once.
        recipe: takes about 6 KB of memory a window of one tree.
        progress: is told in a line what has been done, twice a tree.

    Raises:
        DataError: the photos hold no window with an edge or none without.
    """
    trees: list[_Tree] = []
    for number, seed in enumerate(np.random.SeedSequence(recipe.seed).spawn(recipe.trees), start=1):
        rng = np.random.default_rng(seed)
        ids = np.sort(rng.choice(FEATURES, max(1, round(FEATURES * recipe.feature_share)), replace=False))
        windows = _draw_windows(photos, ids, recipe, rng)
        progress(f"tree {number} of {recipe.trees}: {windows.labels.shape[0]} windows drawn")
        trees.append(_grow(windows, ids, recipe, rng))
        leaves = sum(child == 0 for child in trees[-1].childs)
        progress(f"tree {number} of {recipe.trees}: grown to {leaves} leaves")
    return _plant(trees, recipe.trees_evaluated)


def _draw_windows(
    photos: Sequence[Callable[[], Photo]],
    ids: NDArray[np.int64],
    recipe: ForestRecipe,
    rng: np.random.Generator,
) -> _Windows:
    values: list[NDArray[np.float16]] = []
    labels: list[NDArray[np.uint16]] = []
    found = np.zeros(2, int)
    # Other than in the published recipe a tree need not see all photos: reading them is half of the time.
    drawn = rng.permutation(len(photos))[: recipe.photos]
    shares = [-(-count // len(drawn)) for count in (recipe.negatives, recipe.positives)]
    for index in drawn:
        image, segments = photos[int(index)]()
        corners = _choose(segments, shares, rng)
        found += [len(part) for part in corners]
        where = np.concatenate(corners)
        padded = cv2.copyMakeBorder(image, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REFLECT)
        # Label window (y, x) lies at BORDER + y in the padded image, and OpenCV's window for it starts at
        # that row.
        values.append(gather(*channels(padded), (where + BORDER) // SHRINK, ids).astype(np.float16))
        labels.append(_cut(segments, where))
    if not found.all():
        lacking = "without" if found[1] else "with"
        raise DataError(
            f"the {len(photos)} photos hold no window {lacking} an edge; nothing can be learned from them"
        )
    return _quantise(values, np.concatenate(labels))


def _choose(
    segments: NDArray[np.int32], counts: Sequence[int], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Top left corners (even, (P, 2)) of up to `counts` label windows without and with an edge near the
    centre."""
    height, width = (max(side - INNER_SIZE + 1, 0) for side in segments.shape)
    half = INNER_SIZE // 2
    centres = (slice(half, half + height, SHRINK), slice(half, half + width, SHRINK))
    # An edge within 8 pixels of the centre, as in edgesTrain.m.
    near = cv2.distanceTransform((~outline(segments, 1)).astype(np.uint8), cv2.DIST_L2, 5)[centres] < half
    reach = np.ones((INNER_SIZE + 1, INNER_SIZE + 1), np.uint8)
    usable = cv2.dilate((segments < 0).astype(np.uint8), reach)[centres] == 0
    corners = []
    for positive, count in enumerate(counts):
        found = np.flatnonzero(usable & (near == bool(positive)))
        picked = rng.choice(found, min(count, len(found)), replace=False)
        corners.append(np.stack(np.divmod(picked, near.shape[1]), 1) * SHRINK)
    return corners


def _cut(segments: NDArray[np.int32], corners: NDArray[np.int64]) -> NDArray[np.uint16]:
    if not len(corners):  # as of photos smaller than a window
        return np.zeros((0, INNER_SIZE**2), np.uint16)
    windows = np.lib.stride_tricks.sliding_window_view(segments, (INNER_SIZE, INNER_SIZE))
    patches = windows[corners[:, 0], corners[:, 1]]
    return patches.transpose(0, 2, 1).reshape(len(corners), INNER_SIZE**2).astype(np.uint16)


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


def _grow(windows: _Windows, ids: NDArray[np.int64], recipe: ForestRecipe, rng: np.random.Generator) -> _Tree:
    tree = _Tree([0], [0], [0.0], [np.zeros(0, np.int32)])
    tries = max(1, round(np.sqrt(len(ids))))
    queue = [(0, 0, np.arange(len(windows.labels)))]
    while queue:
        node, depth, members = queue.pop()
        judged = members if len(members) <= _JUDGED else rng.choice(members, _JUDGED, replace=False)
        equal = _compare(windows.labels[judged], rng)
        split = None
        if depth < recipe.max_depth and len(members) >= 2 * recipe.min_child:
            candidates = rng.choice(len(ids), tries, replace=False)
            split = _best_split(windows, candidates, judged, _two_classes(equal, rng), recipe.min_child)
        if split is not None:
            feature, code = split
            goes_left = windows.codes[feature, members] < code
            if min(goes_left.sum(), (~goes_left).sum()) < recipe.min_child:  # the sample judged wrongly
                split = None
        if split is None:
            tree.bins[node] = _leaf(windows.labels[judged], equal)
            continue
        tree.childs[node] = len(tree.childs) + 1
        tree.feature_ids[node] = int(ids[feature])
        tree.thresholds[node] = float(windows.edges[feature, code])
        for part in (members[goes_left], members[~goes_left]):
            queue.append((len(tree.childs), depth + 1, part))
            tree.childs.append(0)
            tree.feature_ids.append(0)
            tree.thresholds.append(0.0)
            tree.bins.append(np.zeros(0, np.int32))
    return tree


def _compare(labels: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.float32]:
    """(P, 256) of 0 and 1: whether the two pixels of each random pair lie in one segment."""
    one = rng.integers(0, INNER_SIZE**2, _PAIRS)
    other = (one + rng.integers(1, INNER_SIZE**2, _PAIRS)) % INNER_SIZE**2
    equal: NDArray[np.bool_] = labels.take(one, 1) == labels.take(other, 1)
    return equal.astype(np.float32)


def _two_classes(equal: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.bool_]:
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
    windows: _Windows,
    candidates: NDArray[np.int64],
    judged: NDArray[np.int64],
    classes: NDArray[np.bool_],
    min_child: int,
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
    gain = np.where((left >= min_child) & (right >= min_child), gain, -1.0)
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


def _plant(trees: list[_Tree], evaluated: int) -> Forest:
    """Pad all trees to one size, as the file format wants it."""
    nodes = max(len(tree.childs) for tree in trees)

    def padded(rows: Iterable[Sequence[float]], dtype: Any) -> NDArray[Any]:
        return np.array([[*row, *[0] * (nodes - len(row))] for row in rows], dtype)

    counts = padded(([len(bins) for bins in tree.bins] for tree in trees), np.int64)
    return Forest(
        childs=padded((tree.childs for tree in trees), np.int32),
        feature_ids=padded((tree.feature_ids for tree in trees), np.int32),
        thresholds=padded((tree.thresholds for tree in trees), np.float32),
        boundaries=np.cumsum(np.append(0, counts)),
        bins=np.concatenate([bins for tree in trees for bins in tree.bins]),
        trees_evaluated=evaluated,
    )


_REGULAR = CELLS * CELLS * CHANNELS
_GRID_CELLS = np.array((1, 4, 8, 11, 14))
"""Rows and columns of the 5 x 5 grid whose cells are compared pairwise, as OpenCV rounds them."""
_OPENCV_BORDER = 8


def channels(image: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Feature channels of an image at half size: LUV, gradient magnitudes and orientation histograms.

    Args:
        image: uint8 (H, W, 3) RGB, as handed to OpenCV (so with `BORDER` already around it).

    Returns:
        Two float32 ((H + 16) / 2, (W + 16) / 2, 13): smoothed by a triangle of radius 1, for features that
        read a cell, and of radius 4, for features that compare two.
    """
    pad = _OPENCV_BORDER
    padded = cv2.copyMakeBorder(image.astype(np.float32) / 255, pad, pad, pad, pad, cv2.BORDER_REFLECT)
    height, width = padded.shape[:2]
    raw = np.empty((round(height / SHRINK), round(width / SHRINK), CHANNELS), np.float32)
    cv2.ximgproc.createRFFeatureGetter().getFeatures(padded, raw, 4, 0, SHRINK, CHANNELS, 4)
    one, four = (
        np.array([*range(1, radius + 2), *range(radius, 0, -1)], np.float32) / (radius + 1) ** 2
        for radius in (1, 4)
    )
    return cv2.sepFilter2D(raw, -1, one, one), cv2.sepFilter2D(raw, -1, four, four)


def gather(cells: Floats, blurred: Floats, positions: NDArray[np.int64], ids: NDArray[np.int64]) -> Floats:
    """Features of windows.

    Args:
        cells, blurred: float32 (h, w, 13), the results of `channels`.
        positions: int64 (P, 2), row and column of each window's top left cell.
        ids: int64 (F,), ascending, 0..7227. The first 3,328 are single cells, channel by channel and column
            by column; then come 300 differences in each channel.

    Returns:
        float32 (P, F).
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

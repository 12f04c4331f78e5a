"""Connected regions of one class in a mask, from its horizontal runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VOID = 255


class Components(NamedTuple):
    """The K connected regions of a mask, ordered by class, then by their first pixel in reading order.

    Attributes:
        labels: int64 (K,), class of each region.
        boxes: int64 (K, 4), tight x0 y0 x1 y1 in pixels, half-open.
        areas: int64 (K,), pixels.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]


class Runs(NamedTuple):
    """Pixels of one label side by side, in reading order: row, columns start to stop (half-open), label."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    label: NDArray[np.int64]

    @classmethod
    def of(cls, mask: NDArray[np.uint8]) -> Runs:
        """All runs of a mask (H, W); together they cover it."""
        begins = np.ones(mask.shape, bool)
        np.not_equal(mask[:, 1:], mask[:, :-1], out=begins[:, 1:])
        place = np.flatnonzero(begins)
        row, start = np.divmod(place, mask.shape[1])
        return cls(row, start, start + np.diff(place, append=mask.size), mask.ravel()[place].astype(np.int64))


def components(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int32], Components]:
    """Regions of pixels (H, W) of one class that touch at a side or a corner; background and void are none.

    Returns:
        int32 (H, W): 0, or the 1-based number of the region a pixel belongs to; and the regions.
    """
    runs = Runs.of(mask)
    inside = (runs.label != 0) & (runs.label != VOID)
    region, found = regions(Runs(*(values[inside] for values in runs)))
    number = np.zeros(len(inside), np.int32)
    number[inside] = region + 1
    return np.repeat(number, runs.stop - runs.start).reshape(mask.shape), found


def regions(runs: Runs) -> tuple[NDArray[np.int64], Components]:
    """The connected regions that runs of a mask make up, and int64 (N,), the region (from 0) of each run."""
    root = _connect(len(runs.row), *_touching(runs))
    roots = np.flatnonzero(root == np.arange(len(root)))
    roots = roots[np.argsort(runs.label[roots], kind="stable")]
    region = np.empty(len(root), np.int64)
    region[roots] = np.arange(len(roots))
    region = region[root]

    boxes = np.empty((len(roots), 4), np.int64)
    boxes[:, :2], boxes[:, 2:] = np.iinfo(np.int64).max, 0
    np.minimum.at(boxes[:, 0], region, runs.start)
    np.minimum.at(boxes[:, 1], region, runs.row)
    np.maximum.at(boxes[:, 2], region, runs.stop)
    np.maximum.at(boxes[:, 3], region, runs.row + 1)
    areas = np.zeros(len(roots), np.int64)
    np.add.at(areas, region, runs.stop - runs.start)
    return region, Components(runs.label[roots], boxes, areas)


def _touching(runs: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs of one label in neighbouring rows that touch, corners included."""
    # On a line on which rows follow each other with a gap, runs are in order, and those of the row above that
    # a run touches are neighbours in the list.
    row_length = int(runs.stop.max(initial=0)) + 1
    start, stop = runs.row * row_length + runs.start, runs.row * row_length + runs.stop
    low = np.searchsorted(stop, start - row_length, side="left")
    high = np.searchsorted(start, stop - row_length, side="right")
    count = high - low
    below = np.repeat(np.arange(len(count)), count)
    above = np.arange(count.sum()) + np.repeat(low - (np.cumsum(count) - count), count)
    same = runs.label[below] == runs.label[above]
    return above[same], below[same]


def _connect(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest member of the group of each of `count` things, of which the pairs are in one group.

    Union-find on all pairs at once: every root is hung below the smallest root it is paired with, then all
    paths are made short, until all pairs agree. Masks of real photos take two or three such rounds.
    """
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        differ = one != other
        if not differ.any():
            return root
        first, second, one, other = first[differ], second[differ], one[differ], other[differ]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(shorter := root[root], root):
            root = shorter

"""Gaussian sums over scattered points in a few dimensions, on the permutohedral lattice."""

from __future__ import annotations

import copy
import math
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

Floats = NDArray[np.float32]
_BLOCK = 16384  # points whose coordinates fit into a core's cache together


class Lattice:
    """A Gaussian kernel between N points in d dimensions, at a cost that grows with N and not with N * N.

    After Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (2010). A
    value at a point is spread over the d + 1 corners of the point's simplex by its barycentric coordinates,
    the M corners in use are blurred with 1/2, 1, 1/2 along each of the lattice's d + 1 directions, and each
    point gathers from its corners again. That approximates a Gaussian: it is nowhere negative, weighted means
    are right to some hundredths, and sums are 10 to 45 % too small (5 dimensions).

    The features are float32 (d, N), N > 0, the points in units of the kernel's deviation. ValueError if they
    are too many deviations apart: in 5 dimensions several thousand in each.
    """

    def __init__(self, features: Floats) -> None:
        base, rank, weights = _simplices(features)
        corners, keys, strides = _numbered(base, rank)
        self._neighbours = _neighbours(keys, strides)
        # One row for each point; the column after the corners' is nothing's, see `_neighbours`.
        starts = np.arange(0, corners.size + 1, corners.shape[1], dtype=np.int32)
        self._matrix = csr_matrix((weights.ravel(), corners.ravel(), starts), (len(corners), len(keys) + 1))

    def spread(self, values: Floats, total: Floats | None = None) -> Floats:
        """The first half of sums over all points, weighted by the kernel: float32 (N, C) to (M + 1, C), the
        last row 0, added to `total`."""
        spread: Floats = self._matrix.T @ values
        return spread if total is None else np.add(total, spread, out=total)

    def gather(self, corners: Floats) -> Floats:
        """The second half: float32 (M + 1, C) to (N, C)."""
        for before, after in self._neighbours:
            blurred = np.take(corners, before, 0)
            blurred += np.take(corners, after, 0)
            blurred *= np.float32(0.5)
            blurred += corners
            corners = blurred
        gathered: Floats = self._matrix @ corners
        return gathered

    def scale(self, factors: Floats) -> None:
        """Multiply the kernel between points i and j by factors[i] * factors[j], float32 (N, 1)."""
        self._matrix.data *= np.repeat(factors, len(self._neighbours))

    def part(self, points: NDArray[np.int64]) -> Lattice:
        """The same lattice with some of its points to spread from and to gather at: indices (P,)."""
        other = copy.copy(self)
        other._matrix = self._matrix[points]
        return other


def _simplices(features: Floats) -> tuple[Floats, NDArray[np.int8], Floats]:
    """All coordinates but one (d, N) of the corner of remainder 0 of each point's simplex, in units of d + 1,
    and their ranks (d, N); and the weights (N, d + 1) of the corners of remainder 0 to d."""
    base, rank = np.empty_like(features), np.empty_like(features, dtype=np.int8)
    weights = np.empty((features.shape[1], len(features) + 1), np.float32)
    # The kernel is multiplied by the authors' factor, half of it on each way.
    factor = (1 + 2.0 ** -len(features)) ** -0.5
    for start in range(0, len(weights), _BLOCK):
        part = slice(start, start + _BLOCK)
        corner, rest, order = _nearest(_elevated(features[:, part]))
        base[:, part], rank[:, part] = corner[1:], order[1:]
        falling = list(rest * np.float32(factor))
        for turn in range(len(rest)):  # odd-even transposition sort, ten times as fast as NumPy's
            for i in range(turn % 2, len(features), 2):
                one, other = falling[i : i + 2]
                falling[i : i + 2] = np.maximum(one, other), np.minimum(one, other)
        weights[part, 0] = (factor + falling[-1] - falling[0]).clip(0)  # below 0 by rounding alone
        for k in range(1, len(rest)):
            weights[part, k] = falling[-k - 1] - falling[-k]
    return base, rank, weights


def _elevated(features: Floats) -> Floats:
    """Positions (d + 1, N) in the plane where coordinates sum to 0, in units of d + 1 of the lattice's and
    scaled so that spreading, blurring and gathering together have the deviation 1 of the features."""
    elevated = np.empty((len(features) + 1, features.shape[1]), np.float32)
    total = np.zeros_like(features[0])
    for i in range(len(features), 0, -1):
        scaled = features[i - 1] * np.float32(math.sqrt(2 / 3 / (i * (i + 1))))
        elevated[i] = total - i * scaled
        total += scaled
    elevated[0] = total
    return elevated


def _nearest(elevated: Floats) -> tuple[Floats, Floats, NDArray[np.int8]]:
    """The corner of remainder 0 of each point's simplex, the way from there, and its coordinates' ranks,
    0 for the largest; all (d + 1, N)."""
    last = len(elevated) - 1
    base = np.round(elevated)
    rest = elevated - base
    rank = np.zeros_like(rest, dtype=np.int8)
    for i in range(last):
        for j in range(i + 1, last + 1):
            smaller = rest[i] < rest[j]
            rank[i] += smaller
            rank[j] += ~smaller
    # Rounded coordinates need not sum to 0: then those with the largest errors are rounded the other way.
    rank += base.sum(0).astype(np.int8)
    for out, step in ((rank < 0, 1), (rank > last, -1)):
        moved = out.astype(np.int8) * np.int8(step)
        rank += np.int8(last + 1) * moved
        base += moved
        rest -= moved
    return base, rest, rank


def _numbered(base: Floats, rank: NDArray[np.int8]) -> tuple[NDArray[np.int32], NDArray[np.int64], list[int]]:
    """The numbers 0..M-1 (N, d + 1) of each point's corners of remainder 0 to d; the corners' keys (M,),
    ascending; and the place values of the keys' d + 1 digits.

    A corner of remainder k has the coordinates k + (d + 1) * c. Its key has the digits k and all c but one.
    """
    least = base.min(1) - 2  # a corner may lie one below, and a neighbour of it another one
    spans = [int(span) for span in (base.max(1) - least + 2).tolist()]
    strides = list(accumulate(spans, int.__mul__, initial=1))
    last = len(spans)
    if strides[last] * (last + 1) >= 2**63:
        raise ValueError("the points are too many deviations apart; take a wider kernel")
    whole: type[np.signedinteger[Any]] = np.int32 if strides[last] < 2**31 else np.int64
    key = np.zeros(base.shape[1], whole)
    for digit, low, stride in zip(base, least, strides, strict=False):
        key += (digit - low).astype(whole) * whole(stride)
    corners = np.empty((base.shape[1], last + 1), np.int32)
    keys, size = [], 0
    for k in range(last + 1):
        found, which = _distinct(key)
        corners[:, k] = which + size
        keys.append(found.astype(np.int64) + k * strides[last])
        size += len(found)
        for place, stride in zip(rank, strides, strict=False):
            key -= (place == last - k).astype(whole) * whole(stride)
    return corners, np.concatenate(keys), strides


def _distinct(keys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The different ones of whole numbers (N,), ascending, and which of them each number is (N,)."""
    # Neighbouring pixels often have the same corner: only the first of each such run is sorted.
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    lengths, keys = np.diff(starts, append=len(keys)), keys[starts]
    if keys.dtype != np.int32:
        found, which = np.unique(keys, return_inverse=True)
        return found, np.repeat(which, lengths)
    # NumPy sorts much faster than it finds the order in which to sort, so that goes along in the low bits.
    pairs = keys.astype(np.int64)
    pairs <<= 32
    pairs |= np.arange(len(keys))
    pairs.sort()
    order = pairs & 0xFFFFFFFF
    pairs >>= 32
    first = np.concatenate([[0], np.flatnonzero(pairs[1:] != pairs[:-1]) + 1])
    which = np.empty(len(keys), np.int32)
    which[order] = np.repeat(np.arange(len(first), dtype=np.int32), np.diff(first, append=len(keys)))
    return pairs[first], np.repeat(which, lengths)


def _neighbours(keys: NDArray[np.int64], strides: list[int]) -> NDArray[np.int64]:
    """The corners before and after each one in each direction, (d + 1, 2, M + 1); M is any not in use."""
    *strides, remainder = strides
    # A step adds 1 to all coordinates and takes d + 1 off one of them; remainder d becomes 0 and carries.
    carries = keys >= len(strides) * remainder
    step = np.where(carries, sum(strides) - len(strides) * remainder, remainder)
    size = len(keys)
    neighbours = np.full((len(strides) + 1, 2, size + 1), size)
    for (before, after), stride in zip(neighbours, (0, *strides), strict=True):
        wanted = keys + (step - stride)
        place = np.searchsorted(keys, wanted)
        place[place == size] = 0
        own = np.flatnonzero(keys[place] == wanted)
        after[own] = place[own]
        before[place[own]] = own
    return neighbours

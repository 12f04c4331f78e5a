"""Dense CRF: moves the labelling's borders onto the photo's edges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from operator import iadd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.postprocess.gaussian import WIDEST, Gaussian
from deconvseg.postprocess.lattice import Floats, Lattice
from deconvseg.settings import CRFParameters

Kernel = Gaussian | Lattice

LEAST_PROBABILITY = 1e-5  # probabilities are raised to it, so that no label is out of the question anywhere
LEAST_SHARE = 0.05  # labels that the CRF could give this probability at no pixel may be left out
# Up to this sum of weights pixels may come to rest (STILL), above it labels may die out (GONE): under a
# strong pull a pixel can stand still for some iterations until a moving border turns it.
WEAK_PULL = 8.0
STILL = 3e-4  # a pixel whose probabilities all change by less in an iteration keeps them, if it is SURE
SURE = 0.6  # where no label has this probability, a change may be small and yet grow with every iteration
GONE = 1e-6  # labels whose probability is below this at all pixels after the first iteration get 0
_BLOCK = 65536  # numbers that fit into a core's cache together


def dense_crf(image: NDArray[np.uint8], probabilities: Floats, parameters: CRFParameters) -> Floats:
    """Refine class probabilities by the photo's colours: mean field.

    After Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials"
    (2011). Labels that no pixel could take are left out (`least_peak`), and what no longer changes is not
    worked on (STILL, GONE). Results have the same bits whatever the number of threads.

    The image is uint8 (H, W, 3) RGB. Probabilities, given and returned, are float32 (C, H, W), summing to 1
    over C; 0 for labels left out. They come back as they are if there is nothing to do.
    """
    classes, height, width = probabilities.shape
    one, kernels = np.ones((height * width, 1), np.float32), []
    for kernel, weight in _kernels(image, parameters):
        mass = kernel.gather(kernel.spread(one)) if parameters.normalise else one
        kernel.scale(np.sqrt(np.float32(weight) / mass))
        kernels.append(kernel)
    if parameters.iterations < 1 or not kernels:
        return probabilities
    pull = float(reduce(iadd, (kernel.gather(kernel.spread(one)) for kernel in kernels)).max())
    peaks = probabilities.reshape(classes, -1).max(1).clip(LEAST_PROBABILITY)
    possible = int((peaks >= least_peak(pull, classes)).sum())
    if possible < 2:
        return probabilities
    # Rows of 4, 8, ... numbers are filtered faster than those between, so further labels cost nothing.
    kept = np.sort(np.argsort(-peaks, kind="stable")[: 4 * math.ceil(possible / 4)])
    given = probabilities[kept].reshape(len(kept), -1).clip(LEAST_PROBABILITY, 1)
    refined = _refine(given, kernels, int(parameters.iterations), pull)
    result = np.zeros_like(probabilities)
    result[kept] = refined.reshape(-1, height, width)
    return result


def least_peak(pull: float, classes: int) -> float:
    """The probability that one of `classes` labels has to have at some pixel, lest it is left out.

    Mean field sets Q_i(l) = p_i(l) exp(m_i(l)) / Z_i, where p is what comes in, and m_i(l) >= 0 is a sum of
    Q_j(l) with weights of together at most T, `pull`. If p_i(l) < s exp(-T s) everywhere, then Q_i(l) < s
    everywhere and always: at the start, where Q = p, and after each iteration, because Q < s before it makes
    m_i(l) < T s, and Z_i >= 1. With s <= 1/C, no pixel takes l. Returned is s exp(-T s) where it is largest.
    """
    share = min(LEAST_SHARE, 1 / classes, 1 / pull)
    return share * math.exp(-pull * share)


def _kernels(image: NDArray[np.uint8], parameters: CRFParameters) -> Iterator[tuple[Kernel, float]]:
    """The pairwise terms of a weight above 0, not weighted yet."""
    height, width, channels = image.shape
    places, sigma = np.indices((height, width), np.float32).reshape(2, -1)[::-1], parameters.smooth_sigma
    if parameters.smooth_weight > 0:
        narrow = sigma <= WIDEST
        place = Gaussian(height, width, sigma) if narrow else Lattice(places / np.float32(sigma))
        yield place, parameters.smooth_weight
    if parameters.colour_weight > 0:
        features = np.empty((2 + channels, height * width), np.float32)
        features[:2] = places
        features[2:] = image.reshape(-1, channels).T
        sigmas = [parameters.colour_sigma_xy] * 2 + [parameters.colour_sigma_rgb] * channels
        features /= np.array(sigmas, np.float32)[:, None]
        yield Lattice(features), parameters.colour_weight


def _refine(given: Floats, kernels: list[Kernel], iterations: int, pull: float) -> Floats:
    """Refined probabilities (C, N) of those given, which are above 0."""
    # Rows are made contiguous wherever the array is turned: both halves of the work go along rows.
    scores, beliefs = np.log(given).T.copy(), (given / given.sum(0)).T.copy()
    if pull <= WEAK_PULL:
        return _mean_field(scores, beliefs, kernels, iterations, STILL).T
    first = _mean_field(scores, beliefs, kernels, 1, -math.inf).T.copy()
    alive = np.flatnonzero(first.max(1) >= GONE)
    scores, beliefs = np.log(given[alive]).T.copy(), first[alive].T.copy()
    refined = np.zeros_like(first)
    refined[alive] = _mean_field(scores, beliefs, kernels, iterations - 1, -math.inf).T
    return refined


def _mean_field(
    scores: Floats, beliefs: Floats, kernels: list[Kernel], iterations: int, still: float
) -> Floats:
    """Probabilities (N, C) after some iterations from `beliefs`, which are overwritten, by the logarithms
    `scores` of those given. A pixel that is SURE rests when its beliefs change by `still` at most."""
    refined, steps = np.empty_like(beliefs), beliefs
    where = moving = np.arange(len(scores))  # the pixels that are worked on: all of them
    totals: list[Any] = [None] * len(kernels)  # what all pixels have spread
    for _ in range(iterations):
        if len(moving) < 0.6 * len(where):  # else it is not worth the trouble
            refined[where] = beliefs
            where = where[moving]
            beliefs, scores, steps = (rows[moving] for rows in (beliefs, scores, steps))
            kernels = [kernel.part(moving) for kernel in kernels]
        if len(where) == 0:
            break
        totals = [kernel.spread(steps, total) for kernel, total in zip(kernels, totals, strict=True)]
        gathered = (kernel.gather(total) for kernel, total in zip(kernels, totals, strict=True))
        pulled = reduce(iadd, gathered)
        pulled += scores
        moving = np.flatnonzero(_update(beliefs, pulled, still))
        steps = pulled
    refined[where] = beliefs
    return refined


def _update(beliefs: Floats, scores: Floats, still: float) -> NDArray[np.bool_]:
    """Makes beliefs (N, C) the softmax of scores, and scores their change; tells which pixels move (N,)."""
    moves = np.zeros(len(scores), bool)
    size = _BLOCK // scores.shape[1]
    for start in range(0, len(scores), size):
        part = slice(start, start + size)
        # Reductions along short rows are slow, so the block is turned.
        old, new = beliefs[part].T.copy(), scores[part].T.copy()
        new -= new.max(0)
        np.exp(new, out=new)
        new /= new.sum(0)
        beliefs[part] = new.T
        unsure = new.max(0) < SURE
        new -= old
        scores[part] = new.T
        moves[part] = unsure | (np.abs(new, out=new).max(0) > still)
    return moves

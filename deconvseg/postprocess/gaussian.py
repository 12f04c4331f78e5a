"""Gaussian sums over all pixels of a photo by their places alone."""

from __future__ import annotations

import copy
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from deconvseg.postprocess.lattice import Floats

WIDEST = 3.0  # the time grows with the deviation; from here on a lattice is faster
_CHANNELS = 128  # as many as OpenCV 5 takes at once
_LANES = 16  # numbers that a processor adds at once


class Gaussian:
    """A Gaussian kernel between a photo's N pixels, exact to 4 deviations `sigma`, used as a `Lattice` is."""

    def __init__(self, height: int, width: int, sigma: float) -> None:
        radius = math.ceil(4 * sigma)
        self._taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
        self._height, self._width = height, width
        # Where rows end between, OpenCV rounds in another way, and labels that are as likely do not stay so.
        self._row = width + -width % _LANES
        self._points: NDArray[np.int64] | None = None  # in rows of that length; None is all
        self._factors = np.ones((height * width, 1), np.float32)

    def spread(self, values: Floats, total: Floats | None = None) -> Floats:
        """The first half of sums over all pixels: float32 (N, C) to (H, W or more, C), added to `total`."""
        values = values * self._factors
        if total is None:
            total = np.zeros((self._height, self._row, values.shape[1]), np.float32)
        if self._points is None:
            total[:, : self._width] += values.reshape(self._height, self._width, -1)
        else:
            total.reshape(-1, values.shape[1])[self._points] += values
        return total

    def gather(self, total: Floats) -> Floats:
        """The second half: float32 (H, W or more, C) to (N, C)."""
        blurred, channels = _blurred(total, self._taps), total.shape[2]
        if self._points is None:
            gathered = blurred[:, : self._width].reshape(-1, channels)
        else:
            gathered = blurred.reshape(-1, channels)[self._points]
        gathered *= self._factors
        return gathered

    def scale(self, factors: Floats) -> None:
        """Multiply the kernel between points i and j by factors[i] * factors[j], float32 (N, 1)."""
        self._factors = self._factors * factors

    def part(self, points: NDArray[np.int64]) -> Gaussian:
        """The same kernel with some of its points to spread from and to gather at: indices (P,)."""
        other = copy.copy(self)
        row, column = np.divmod(points, self._width)
        other._points = row * self._row + column if self._points is None else self._points[points]
        other._factors = self._factors[points]
        return other


def _blurred(image: Floats, taps: Floats) -> Floats:
    """Float32 (H, W, C), zero outside, summed with the same weights along both axes."""
    if image.shape[2] > _CHANNELS:
        parts = np.split(image, range(_CHANNELS, image.shape[2], _CHANNELS), 2)
        return np.concatenate([_blurred(np.ascontiguousarray(part), taps) for part in parts], 2)
    blurred: Floats = cv2.sepFilter2D(image, -1, taps, taps, borderType=cv2.BORDER_CONSTANT)
    return blurred.reshape(image.shape)  # OpenCV leaves a single channel out

"""Gaussian sums over all pixels by their places alone."""

from __future__ import annotations

import copy
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from deconvseg.postprocess.lattice import Floats


class Gaussian:
    """A Gaussian kernel between the H * W pixels of a photo, exact to 4 deviations, in the form of `Lattice`.

    Args:
        height: H, pixels.
        width: W, pixels.
        sigma: the deviation, pixels.
    """

    def __init__(self, height: int, width: int, sigma: float) -> None:
        radius = min(math.ceil(4 * sigma), max(height, width) - 1)
        self._taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
        self._size = height, width
        self._points: slice | NDArray[np.int64] = slice(None)
        self._factors = np.ones((height * width, 1), np.float32)

    def filter(self, values: Floats) -> Floats:
        """Sums over all pixels, weighted by the kernel: float32 (N, C) to (N, C)."""
        return self.gather(self.spread(values))

    def spread(self, values: Floats, total: Floats | None = None) -> Floats:
        """The first half of `filter`: float32 (N, C) to (H * W, C), added to `total`."""
        if total is None:
            total = np.zeros((math.prod(self._size), values.shape[1]), np.float32)
        total[self._points] += values * self._factors
        return total

    def gather(self, spread: Floats) -> Floats:
        """The second half of `filter`: float32 (H * W, C) to (N, C)."""
        image = spread.reshape(*self._size, -1)
        blurred = cv2.sepFilter2D(image, -1, self._taps, self._taps, borderType=cv2.BORDER_CONSTANT)
        gathered: Floats = blurred.reshape(spread.shape)[self._points]
        gathered *= self._factors
        return gathered

    def scale(self, factors: Floats) -> None:
        """Multiply the kernel between points i and j by factors[i] * factors[j], float32 (N, 1)."""
        self._factors = self._factors * factors

    def part(self, points: NDArray[np.int64]) -> Gaussian:
        """The same kernel with some of its points to spread from and to gather at: indices (P,)."""
        other = copy.copy(self)
        other._points = np.arange(math.prod(self._size))[self._points][points]
        other._factors = self._factors[points]
        return other

"""Permutohedral lattice: against a dictionary of corners, a brute-force Gaussian, and pydensecrf."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from deconvseg.postprocess.lattice import Lattice


def points(dimensions: int, count: int, side: float = 3.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((dimensions, count)) * side).astype(np.float32)


def numbers(count: int, columns: int = 2, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((count, columns)).astype(np.float32)


def by_dictionary(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The same in float64, point by point, corner by corner, with all d + 1 coordinates of each corner."""
    d = len(features)
    corners: dict[tuple[int, ...], float] = defaultdict(float)
    simplices = []
    for point, value in zip(features.T.astype(float), values, strict=True):
        position = np.zeros(d + 1)
        for i in range(d):
            length = point[i] * (d + 1) * np.sqrt(2 / 3 / ((i + 1) * (i + 2)))
            position[: i + 1] += length
            position[i + 1] -= (i + 1) * length
        # The d + 1 corners: coordinates are rounded up one after the other, and then made to sum to 0.
        floor = np.floor(position / (d + 1))
        rest = position / (d + 1) - floor
        order = np.argsort(-rest, kind="stable")
        falling = rest[order]
        raised, simplex = floor * (d + 1), []
        for up, weight in zip(order, [1 + falling[-1] - falling[0], *-np.diff(falling)], strict=True):
            corner = tuple(np.rint(raised - raised.sum() / (d + 1)).astype(int))
            simplex.append((corner, weight))
            corners[corner] += weight * value
            raised[up] += d + 1
        simplices.append(simplex)
    for direction in range(d + 1):
        blurred = {}
        for corner, value in corners.items():
            step = np.ones(d + 1, int)
            step[direction] -= d + 1
            beside = [corners.get(tuple(np.add(corner, sign * step)), 0.0) for sign in (1, -1)]
            blurred[corner] = value + sum(beside) / 2
        corners = defaultdict(float, blurred)
    gathered = [sum(weight * corners[corner] for corner, weight in simplex) for simplex in simplices]
    return np.array(gathered) / (1 + 2.0**-d)


@pytest.mark.parametrize(("dimensions", "count"), [(1, 7), (2, 40), (5, 1), (5, 40)])
def test_the_same_as_by_dictionary(dimensions: int, count: int) -> None:
    features, values = points(dimensions, count), numbers(count, 1)
    expected = by_dictionary(features, values[:, 0])
    np.testing.assert_allclose(Lattice(features).filter(values)[:, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("dimensions", [2, 5])
def test_far_from_the_origin_and_wide_apart(dimensions: int) -> None:
    """Keys of more than 32 bits, negative coordinates."""
    features = points(dimensions, 30, side=4000) - 2000
    features = np.concatenate([features, features + np.float32(0.25)], 1)
    values = numbers(60, 1)
    np.testing.assert_allclose(
        Lattice(features).filter(values)[:, 0], by_dictionary(features, values[:, 0]), rtol=5e-3
    )


@pytest.mark.parametrize(("dimensions", "side"), [(2, 4), (5, 2)])
def test_weighted_means_are_those_of_a_gaussian(dimensions: int, side: float) -> None:
    features = points(dimensions, 500, side)
    values = np.stack([numbers(500, 1)[:, 0], features[0] > side / 2], 1).astype(np.float32)
    kernel = np.exp(-((features[:, :, None] - features[:, None]) ** 2).sum(0) / 2)
    lattice, one = Lattice(features), np.ones((500, 1), np.float32)
    mass = lattice.filter(one)
    np.testing.assert_allclose(
        lattice.filter(values) / mass, kernel @ values / kernel.sum(1, keepdims=True), atol=0.08
    )
    assert 0.5 < (mass[:, 0] / kernel.sum(1)).min() < (mass[:, 0] / kernel.sum(1)).max() < 1.05


def test_parts_and_factors() -> None:
    features, values, factors = points(3, 50), numbers(50), numbers(50, 1, seed=2)
    indices = np.array([3, 4, 5, 17, 40])
    rest = np.delete(np.arange(50), indices)
    whole = Lattice(features)
    expected = factors * whole.filter(factors * values)
    whole.scale(factors)
    np.testing.assert_allclose(whole.filter(values), expected, rtol=1e-5)
    part, other = whole.part(indices), whole.part(rest)
    spread = part.spread(values[indices]) + other.spread(values[rest])
    np.testing.assert_allclose(part.gather(spread), expected[indices], rtol=1e-5)


def test_the_widest_photo_in_the_narrowest_kernel() -> None:
    """1,024 pixels and 256 colours in steps of 0.1, the least that a network's file may ask for."""
    corners = np.array(np.meshgrid(*[[0, 1]] * 5)).reshape(5, -1)
    features = (corners * np.array([1023, 1023, 255, 255, 255])[:, None] / 0.1).astype(np.float32)
    assert (Lattice(features).filter(np.ones((32, 1), np.float32)) > 0).all()
    with pytest.raises(ValueError, match="too many deviations apart"):
        Lattice(features * 100)

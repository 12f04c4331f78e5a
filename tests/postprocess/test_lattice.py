"""Permutohedral lattice: against a brute-force Gaussian; against pydensecrf as a part of the CRF."""

from __future__ import annotations

import numpy as np
import pytest

from deconvseg.postprocess.lattice import Lattice


def points(dimensions: int, count: int, side: float = 3.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((dimensions, count)) * side).astype(np.float32)


def numbers(count: int, columns: int = 2, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((count, columns)).astype(np.float32)


def test_what_is_far_away_changes_nothing() -> None:
    """The corners' keys have more than 32 bits then, where those of the points alone have fewer."""
    features, values = points(5, 30), numbers(30)
    near = Lattice(features).filter(values)
    for aside in (4000, -4000):
        both = Lattice(np.concatenate([features, features + np.float32(aside)], 1))
        np.testing.assert_allclose(both.filter(np.concatenate([values] * 2))[:30], near, rtol=1e-5)


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

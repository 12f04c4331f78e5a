"""Permutohedral lattice: against a brute-force Gaussian; against pydensecrf as a part of the CRF."""

from __future__ import annotations

import numpy as np
import pytest

from deconvseg.postprocess.lattice import Lattice


def points(dimensions: int, count: int, side: float) -> np.ndarray:
    return (np.random.default_rng(0).random((dimensions, count)) * side).astype(np.float32)


def test_what_is_far_away_changes_nothing() -> None:
    """The corners' keys have more than 32 bits then, where those of the points alone have fewer."""
    features, values = points(5, 30, 3), np.random.default_rng(1).random((30, 2), np.float32)
    near = Lattice(features).filter(values)
    for aside in (4000, -4000):
        both = Lattice(np.concatenate([features, features + np.float32(aside)], 1))
        np.testing.assert_allclose(both.filter(np.concatenate([values] * 2))[:30], near, rtol=1e-5)


@pytest.mark.parametrize(("dimensions", "side"), [(2, 4), (5, 2)])
def test_weighted_means_are_those_of_a_gaussian(dimensions: int, side: float) -> None:
    features = points(dimensions, 500, side)
    values = np.stack([np.random.default_rng(1).random(500), features[0] > side / 2], 1).astype(np.float32)
    kernel = np.exp(-((features[:, :, None] - features[:, None]) ** 2).sum(0) / 2)
    lattice, one = Lattice(features), np.ones((500, 1), np.float32)
    mass = lattice.filter(one)
    np.testing.assert_allclose(
        lattice.filter(values) / mass, kernel @ values / kernel.sum(1, keepdims=True), atol=0.08
    )
    assert 0.5 < (mass[:, 0] / kernel.sum(1)).min() < (mass[:, 0] / kernel.sum(1)).max() < 1.05


def test_the_widest_photo_in_the_narrowest_kernel() -> None:
    """1,024 pixels and 256 colours in steps of 0.1, the least that a network's file may ask for."""
    corners = np.array(np.meshgrid(*[[0, 1]] * 5)).reshape(5, -1)
    features = (corners * np.array([1023, 1023, 255, 255, 255])[:, None] / 0.1).astype(np.float32)
    assert (Lattice(features).filter(np.ones((32, 1), np.float32)) > 0).all()
    with pytest.raises(ValueError, match="too many deviations apart"):
        Lattice(features * 100)

"""The shipped forest, loaded once for the tests of this room, and a small one made by hand."""

from pathlib import Path

import numpy as np
import pytest

from deconvseg.proposals.edges import EdgeDetector
from deconvseg.proposals.forest_file import Forest

INNER, NODES = 7, 15


@pytest.fixture(scope="session")
def shipped_forest() -> Path:
    return Path(__file__).resolve().parents[2] / "weights" / "edges.yml.gz"


@pytest.fixture(scope="session")
def detector(shipped_forest: Path) -> EdgeDetector:
    return EdgeDetector(shipped_forest)


@pytest.fixture(scope="session")
def hand_made_forest() -> Forest:
    """Eight different full trees of depth 3 that use all kinds of features."""
    rng = np.random.default_rng(5)
    childs = np.zeros((8, NODES), np.int32)
    childs[:, :INNER] = 2 * np.arange(INNER) + 2
    feature_ids = np.zeros_like(childs)
    feature_ids[:, :INNER] = rng.integers(0, 7228, (8, INNER))
    thresholds = np.zeros((8, NODES), np.float32)
    single = feature_ids[:, :INNER] < 3328
    thresholds[:, :INNER] = np.where(single, rng.uniform(0, 0.6, (8, INNER)), rng.normal(0, 0.02, (8, INNER)))
    counts = np.zeros((8, NODES), np.int64)
    counts[:, INNER:] = rng.integers(1, 40, (8, NODES - INNER))
    leaves = [np.sort(rng.permutation(256)[:count]) for count in counts.reshape(-1)]
    boundaries = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return Forest(childs, feature_ids, thresholds, boundaries, np.concatenate(leaves).astype(np.int32), 4)

"""The shipped forest, loaded once for the tests of this room."""

from pathlib import Path

import pytest

from deconvseg.proposals.edges import EdgeDetector


@pytest.fixture(scope="session")
def shipped_forest() -> Path:
    return Path(__file__).resolve().parents[2] / "weights" / "edges.yml.gz"


@pytest.fixture(scope="session")
def detector(shipped_forest: Path) -> EdgeDetector:
    return EdgeDetector(shipped_forest)

"""Photos and segmenters that the tests of looking into them share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deconvseg.images.read import PhotoPixels
from deconvseg.segmenter import Segmenter

from ..conftest import blocks_photo


@pytest.fixture(scope="session")
def make_photo() -> Callable[[int, int], PhotoPixels]:
    """As `blocks_photo`, read."""
    return lambda height, width: PhotoPixels(blocks_photo(height, width), height, width)


@pytest.fixture(scope="session")
def exact(tiny_network: Path) -> Segmenter:
    """A segmenter whose network can be looked into."""
    return Segmenter(tiny_network, proposals=0, crf=False, precision="fp32", device="cpu")

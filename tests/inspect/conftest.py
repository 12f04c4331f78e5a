"""Photos and segmenters that the tests of looking into them share."""

from pathlib import Path

import pytest

from deconvseg.images.read import PhotoPixels
from deconvseg.segmenter import Segmenter

from ..conftest import blocks_photo


def make_photo(height: int, width: int) -> PhotoPixels:
    """As `blocks_photo`, read."""
    return PhotoPixels(blocks_photo(height, width), height, width)


@pytest.fixture(scope="session")
def exact(tiny_network: Path) -> Segmenter:
    """A segmenter whose network can be looked into."""
    return Segmenter(tiny_network, proposals=0, crf=False, precision="fp32", device="cpu")

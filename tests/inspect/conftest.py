"""Photos and segmenters that the tests of looking into them share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deconvseg.images.read import PhotoPixels
from deconvseg.segmenter import Segmenter


@pytest.fixture(scope="session")
def make_photo() -> Callable[[int, int], PhotoPixels]:
    """Smooth colours and bright blocks, of a height and width."""

    def make(height: int, width: int) -> PhotoPixels:
        rows, columns = np.mgrid[:height, :width]
        image = np.stack([rows * 255 / height, columns * 255 / width, np.full((height, width), 90)], 2)
        image[height // 4 : height // 2, width // 3 : width // 2] = 250
        image[height // 2 :, width * 3 // 4 :] = (10, 200, 30)
        return PhotoPixels(image.astype(np.uint8), height, width)

    return make


@pytest.fixture(scope="session")
def exact(tiny_network: Path) -> Segmenter:
    """A segmenter whose network can be looked into."""
    return Segmenter(tiny_network, proposals=0, crf=False, precision="fp32", device="cpu")

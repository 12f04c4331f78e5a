"""Photos that the tests of figures share."""

import numpy as np
import pytest

from deconvseg.images.read import PhotoPixels


@pytest.fixture(scope="session")
def photo() -> PhotoPixels:
    """Noise with a bright block, 90 x 140."""
    image = np.random.default_rng(0).integers(0, 120, (90, 140, 3), dtype=np.uint8)
    image[20:60, 40:80] = 250
    return PhotoPixels(image, 90, 140)

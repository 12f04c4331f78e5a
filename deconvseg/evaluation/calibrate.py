"""Measures how large the numbers in a network get on photos, for its arithmetic in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.images.read import read_image
from deconvseg.network.checkpoint import copy_network, load_network
from deconvseg.network.inputs import crops, normalise
from deconvseg.network.int8 import observe
from deconvseg.proposals.boxes import enlarged, shrink, squared
from deconvseg.segmenter import WORKING_SIDE


def calibrate(source: Path, photos: Sequence[str], target: Path) -> int:
    """Write a copy of a network's file that tells the ranges of what goes through its layers on these photos.

    A few dozen photos are enough; each is looked at as a whole, and its middle. Returns the number of layers
    that there are ranges of.
    """
    network, header = load_network(source)
    images = (_crops(read_image(photo), network.side) for photo in photos)
    ranges = observe(network, (normalise(two, header) for two in images))
    copy_network(source, target, {"ranges": ranges})
    return len(ranges)


def _crops(image: NDArray[np.uint8], side: int) -> Tensor:
    """Two crops of 0..255, float (2, 3, side, side): the square around a photo, and one half as long."""
    image = shrink(image, WORKING_SIDE)
    height, width = image.shape[:2]
    whole = squared(np.array([[0, 0, width, height]], np.float32))
    return crops(image, np.concatenate((whole, enlarged(whole, 0.5))), side)

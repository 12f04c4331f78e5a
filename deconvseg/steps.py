"""Former names of a photo's steps, for callers that have not moved to `Segmenter` yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deconvseg.images.read import PhotoPixels
from deconvseg.postprocess.crf import dense_crf
from deconvseg.proposals.boxes import Boxes, shrink
from deconvseg.regions import Clock, Prepared
from deconvseg.segmentation import Segmentation
from deconvseg.segmenter import WORKING_SIDE, Segmenter

__all__ = ["WORKING_SIDE", "After", "Before", "Clock", "Prepared", "shrink"]


class Before:
    """As `Segmenter.prepare`."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def __call__(self, image: NDArray[np.uint8], height: int, width: int) -> Prepared:
        """As `Segmenter.prepare`, without the photo's pixels."""
        prepared = self.segmenter.prepare(PhotoPixels(image, height, width))
        return replace(prepared, photo=replace(prepared.photo, image=prepared.image))

    def propose(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Regions."""
        return self.rank(image).xyxy

    def rank(self, image: NDArray[np.uint8]) -> Boxes:
        """Regions and scores."""
        return self.segmenter._regions(image)

    def edges(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Edge map."""
        return self.segmenter.edges(image)


class After:
    """As `Segmenter.finish`."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter, self.classes = segmenter, segmenter.classes
        self.crf = segmenter.crf_parameters if segmenter.crf else None

    def __call__(
        self, prepared: Prepared, fused: NDArray[np.float32], *, probabilities: bool = False
    ) -> Segmentation:
        """As `Segmenter.finish`."""
        return self.segmenter.finish(prepared, fused, keep_probabilities=probabilities)

    def sharpen(self, image: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """The CRF."""
        return dense_crf(image, probabilities, self.crf) if self.crf else probabilities

"""What happens to a photo before and after the network. No torch, so that processes that do it are small."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import InputError
from deconvseg.images.enlarge import enlarge
from deconvseg.images.palette import Palette
from deconvseg.postprocess.crf import CRFParameters, dense_crf
from deconvseg.proposals.boxes import WORKING_SIDE as EDGES_SIDE
from deconvseg.proposals.boxes import Boxes, propose, squared
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.segmentation import Segmentation
from deconvseg.settings import Settings

WORKING_SIDE = 1024
"""Photos with a longer side are shrunk to it for the work; the labels come back at the photo's size."""


@dataclass(frozen=True)
class Prepared:
    """A photo ready for the network.

    Attributes:
        image: uint8 (h, w, 3) RGB, upright, no side longer than WORKING_SIDE.
        boxes: float32 (N, 4), x0 y0 x1 y1 in pixels of `image`: regions to look at, best first.
        height, width: of the photo itself, in pixels.
        seconds: wall-clock seconds by step so far.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    height: int
    width: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Before:
    """The way of a photo to the network.

    Attributes:
        protocol: which regions are looked at.
        forest: the edge forest's file; None where no regions are proposed.
        whole: the one region is the photo itself, not the square around it.
    """

    protocol: Settings
    forest: Path | None
    whole: bool = False

    def load(self) -> None:
        """Read the forest now rather than at the first photo; errors as of `proposals.edges.EdgeDetector`."""
        if self.forest:
            _detector(self.forest)

    def __call__(self, image: NDArray[np.uint8], height: int, width: int) -> Prepared:
        """Shrink a photo and find its regions.

        Args:
            image: uint8 (H, W, 3) RGB; the photo, or the same reduced.
            height, width: of the photo.

        Raises:
            InputError: an array of another shape or type.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError(
                f"a photo must be a uint8 array (H, W, 3), not {image.dtype} {image.shape}; convert it to RGB"
            )
        clock = Clock()
        small = shrink(image, WORKING_SIDE)
        boxes = self.propose(small)
        clock.lap("proposals")
        return Prepared(small, boxes, height, width, clock.seconds)

    def propose(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Regions to look at: float32 (N, 4), x0 y0 x1 y1, the whole photo first, then best first."""
        return self.rank(image).xyxy

    def edges(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The edge map behind the proposals, as of `EdgeDetector.detect`, of the photo at most 640 long."""
        assert self.forest is not None, "without proposals there is no edge map"
        return _detector(self.forest).detect(shrink(image, EDGES_SIDE))

    def rank(self, image: NDArray[np.uint8]) -> Boxes:
        """`propose`'s regions with their scores; that of the whole photo is no less than any."""
        height, width = image.shape[:2]
        one = np.ones(1, np.float32)
        if self.whole:
            return Boxes(np.array([[0, 0, width, height]], np.float32), one)
        if self.forest is None:
            return Boxes(squared(np.array([[0, 0, width, height]], np.float32)), one)
        protocol = self.protocol
        return propose(
            image,
            _detector(self.forest),
            count=protocol.proposals,
            min_side=protocol.min_side,
            whole_photo=protocol.whole_photo,
            square=protocol.squared,
            measure_squares=protocol.measure_squares,
            same=protocol.same,
        )


@dataclass(frozen=True)
class After:
    """The way of a photo from the network to its Segmentation.

    Attributes:
        classes, palette: of the network.
        crf: parameters of the dense CRF, None to leave it out.
        only: classes to keep, None for all.
    """

    classes: tuple[str, ...]
    palette: Palette
    crf: CRFParameters | None
    only: Collection[str] | None = None

    def __call__(
        self, prepared: Prepared, fused: NDArray[np.float32], *, probabilities: bool = False
    ) -> Segmentation:
        """Sharpen the network's answer and bring it to the photo's size.

        Args:
            prepared: what went into the network.
            fused: float32 (C, h, w), class probabilities of `prepared.image`.
            probabilities: keep those of the photo.
        """
        clock = Clock(prepared.seconds)
        if self.crf:
            fused = self.sharpen(prepared.image, fused)
            clock.lap("crf")
        height, width = prepared.height, prepared.width
        labels, kept = enlarge(fused, height, width, probabilities)
        clock.lap("enlarge")
        small_height, small_width = prepared.image.shape[:2]
        result = Segmentation(
            labels=labels,
            classes=self.classes,
            palette=self.palette,
            probabilities=kept,
            boxes=prepared.boxes * np.array([width / small_width, height / small_height] * 2, np.float32),
            seconds=clock.seconds,
        )
        return result if self.only is None else result.only(self.only)

    def sharpen(self, image: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """The CRF alone, if there is one; arrays as in `postprocess.crf.dense_crf`."""
        return dense_crf(image, probabilities, self.crf) if self.crf else probabilities


@cache
def _detector(forest: Path) -> EdgeDetector:
    return EdgeDetector(forest)


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The photo with its longer side at most `side` pixels; smaller ones come back as they are."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[no-any-return]


class Clock:
    """Adds up wall-clock seconds by step, beside those `before`."""

    def __init__(self, before: dict[str, float] | None = None) -> None:
        self.seconds, self.last = dict(before or {}), time.perf_counter()

    def lap(self, step: str) -> None:
        """The time since the last lap went into `step`."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self.last
        self.last = now

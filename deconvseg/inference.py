"""Photos through the network: regions cut out, run in batches, put together again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.fcn8s import STRIDE, FCN8s
from deconvseg.network.fold import Precision
from deconvseg.postprocess.fusion import EnsembleRule, Fusion, FusionRule, ensemble
from deconvseg.steps import Prepared

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Inference:
    """Networks on their device, and how their answers are put together.

    Attributes:
        network: made ready by `network.fold.prepare`.
        header: of its file.
        partner, partner_header: the same for the FCN-8s of an ensemble, or None.
        fusion: how regions are put together.
        ensemble: how the partner joins in.
        device: where the networks are.
        precision: their arithmetic.
        batch_size: regions that go through the network together.
    """

    network: SegmentationNetwork
    header: NetworkHeader
    partner: SegmentationNetwork | None
    partner_header: NetworkHeader | None
    fusion: FusionRule
    ensemble: EnsembleRule
    device: torch.device
    precision: Precision
    batch_size: int

    @property
    def sees_whole_photo(self) -> bool:
        """Whether the network itself is an FCN-8s, which looks at no regions."""
        return isinstance(self.network, FCN8s)

    def fuse(
        self, photos: Iterable[Prepared], *, full_batches: bool = False
    ) -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        """Class probabilities of photos; regions of one photo and of the next share batches.

        Args:
            photos: taken as they are needed, some ahead of what is returned.
            full_batches: fill the last batch up, so that all are of one size. With the size of the batch a
                region's float32 scores differ in their last bits, but not with what else is in it: a photo's
                result then does not depend on the others.

        Yields:
            Each photo in order, its `seconds` completed, with its probabilities, float32 (C, h, w).
        """
        begun: deque[_Begun] = deque()

        def regions() -> Iterator[tuple[Tensor, Box]]:
            for photo in photos:
                boxes = _whole_pixels(photo.boxes)
                begun.append(_Begun(photo, deque(boxes), self.new_fusion(photo.image)))
                pixels = _on(self.device, photo.image)
                yield from ((pixels, box) for box in boxes)

        if self.sees_whole_photo:
            for photo in photos:
                yield self._finish(_Begun(photo, deque(), self.new_fusion(photo.image)))
            return
        for scores, seconds in self._run(regions(), full_batches):
            next(photo for photo in begun if photo.boxes).add(scores, seconds)
            while begun and not begun[0].boxes:
                yield self._finish(begun.popleft())
        while begun:  # photos without any region
            yield self._finish(begun.popleft())

    def score(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Iterator[tuple[Box, Tensor]]:
        """Run the network over regions of a photo, in batches.

        Yields:
            Each region in whole pixels with its raw scores (C, S, S), in the order of `boxes`; from FCN-8s,
            the whole photo with scores of its size.
        """
        if self.sees_whole_photo:
            height, width = image.shape[:2]
            yield (0, 0, width, height), _whole_scores(self.network, self.header, image, self.device)
            return
        pixels = _on(self.device, image)
        whole = _whole_pixels(boxes)
        for box, (scores, _) in zip(whole, self._run(((pixels, box) for box in whole), False), strict=True):
            yield box, scores

    def partner_scores(self, image: NDArray[np.uint8]) -> Tensor | None:
        """Raw scores (C, H, W) of the ensemble's FCN-8s on the whole photo; None without an ensemble."""
        if self.partner is None or self.partner_header is None:
            return None
        return _whole_scores(self.partner, self.partner_header, image, self.device)

    def combine(self, fusion: Fusion, partner: Tensor | None) -> Tensor:
        """Class probabilities (C, H, W) of all regions, and of FCN-8s if it joins in."""
        return fusion.probabilities() if partner is None else ensemble(fusion, partner, self.ensemble)

    def new_fusion(self, image: NDArray[np.uint8]) -> Fusion:
        """An empty accumulator of a photo's size, by the rule."""
        height, width = image.shape[:2]
        # FCN-8s's one region needs no floor of 0 under its scores.
        rule = "mean" if self.sees_whole_photo else self.fusion
        return Fusion(len(self.header.classes), height, width, rule, self.device)

    def _run(self, regions: Iterable[tuple[Tensor, Box]], full: bool) -> Iterator[tuple[Tensor, float]]:
        """Scores (C, S, S) of each region, and its share of the seconds that its batch took."""
        regions, size = iter(regions), self.batch_size
        while batch := list(islice(regions, size)):
            start = time.perf_counter()
            crops = torch.stack([_crop(pixels, box, self.network.side) for pixels, box in batch])
            if full:
                crops = functional.pad(crops, (0, 0, 0, 0, 0, 0, 0, size - len(batch)))
            scores = _raw_scores(self.network, self.header, crops)
            seconds = (time.perf_counter() - start) / len(batch)
            for one in scores[: len(batch)]:
                yield one, seconds

    def _finish(self, photo: _Begun) -> tuple[Prepared, NDArray[np.float32]]:
        start = time.perf_counter()
        if self.sees_whole_photo:
            for box, scores in self.score(photo.prepared.image, photo.prepared.boxes):
                photo.fusion.add(scores, box)
        fused = self.combine(photo.fusion, self.partner_scores(photo.prepared.image)).cpu().numpy()
        seconds = {"network": photo.seconds + time.perf_counter() - start}
        return replace(photo.prepared, seconds=photo.prepared.seconds | seconds), fused


@dataclass
class _Begun:
    """A photo in the network: the regions whose scores are not there yet, and those that are."""

    prepared: Prepared
    boxes: deque[Box]
    fusion: Fusion
    seconds: float = 0.0

    def add(self, scores: Tensor, seconds: float) -> None:
        start = time.perf_counter()
        self.fusion.add(scores, self.boxes.popleft())
        self.seconds += seconds + time.perf_counter() - start


def _whole_pixels(boxes: NDArray[np.float32]) -> list[Box]:
    """Boxes rounded to pixels, at least one pixel wide and high."""
    rounded = []
    for x0, y0, x1, y1 in boxes.tolist():
        left, top = round(x0), round(y0)
        rounded.append((left, top, max(round(x1), left + 1), max(round(y1), top + 1)))
    return rounded


def _on(device: torch.device, image: NDArray[np.uint8]) -> Tensor:
    """A photo as uint8 (3, H, W) on a device."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)


def _raw_scores(network: SegmentationNetwork, header: NetworkHeader, images: Tensor) -> Tensor:
    """Raw scores of images (B, 3, H, W) of 0..255."""
    mean = torch.tensor(header.mean, device=images.device).view(3, 1, 1)
    inputs = (images - mean) * header.scale
    dtype = next(network.parameters()).dtype
    with torch.inference_mode():
        scores: Tensor = network(inputs.to(dtype, memory_format=torch.channels_last))
    return scores


def _whole_scores(
    network: SegmentationNetwork, header: NetworkHeader, image: NDArray[np.uint8], device: torch.device
) -> Tensor:
    """Raw scores float32 (C, H, W) of a photo that goes through FCN-8s at the network's size.

    It gets a black frame of at least 16 pixels, up to whole cells: training showed black outside the photo.
    Where the network itself pads widely, it needs none.
    """
    height, width = image.shape[:2]
    scale = network.side / max(height, width)
    rows, columns = (max(round(height * scale), 1), max(round(width * scale), 1))
    photo = functional.interpolate(
        _on(device, image)[None].float(),
        (rows, columns),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    top, left = 0, 0
    if network.arguments["padding"] == 1:
        high, wide = -(rows + STRIDE) % STRIDE + STRIDE, -(columns + STRIDE) % STRIDE + STRIDE
        top, left = high // 2, wide // 2
        photo = functional.pad(photo, (left, wide - left, top, high - top))
    scores = _raw_scores(network, header, photo)[..., top : top + rows, left : left + columns].float()
    return functional.interpolate(scores, (height, width), mode="bilinear", align_corners=False)[0]


def _crop(photo: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """One region as float (3, size, size) of 0..255; what lies outside the photo is black."""
    x0, y0, x1, y1 = box
    _, height, width = photo.shape
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    region = torch.zeros(1, 3, y1 - y0, x1 - x0, device=photo.device)
    region[0, :, top - y0 : bottom - y0, left - x0 : right - x0] = photo[:, top:bottom, left:right]
    return functional.interpolate(region, (size, size), mode="bilinear", antialias=True, align_corners=False)[
        0
    ]

"""Photos through the network: regions cut out, run in batches, put together again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.machine import is_out_of_memory
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.fcn8s import STRIDE, FCN8s
from deconvseg.network.fold import Precision
from deconvseg.postprocess.fusion import EnsembleRule, Fusion, FusionRule, Rounds, ensemble
from deconvseg.steps import Prepared

Box = tuple[int, int, int, int]

FINISHED = 2
"""Most photos whose scores are kept while one before them is not finished: 132 MB each at 1024 x 768."""
SAMPLED = 4
"""Whether a photo is finished is decided on every fourth pixel of every fourth row: all of them would cost
as much time as two regions."""


@dataclass
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
        batch_size: regions that go through the network together; halved when they do not fit into memory.
        stop, round_size, share, mirrored: as in `Settings`.
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
    stop: float = 0.0
    round_size: int = 5
    share: float = 0.5
    mirrored: bool = False

    @property
    def sees_whole_photo(self) -> bool:
        """Whether the network itself is an FCN-8s, which looks at no regions."""
        return isinstance(self.network, FCN8s)

    def fuse(
        self, photos: Iterable[Prepared], *, full_batches: bool = False
    ) -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        """Class probabilities of photos; regions of one photo and of the next share batches.

        Where a photo's next regions wait for what its last ones show, regions of others go first.

        Args:
            photos: taken as they are needed, some ahead of what is returned.
            full_batches: fill the last batch up, so that all are of one size. With the size of the batch a
                region's scores can differ in their last bits, but not with what else is in it: a photo's
                result then does not depend on the others.

        Yields:
            Each photo in order, its `boxes` those looked at and its `seconds` completed, with its
            probabilities, float32 (C, h, w).
        """
        if self.sees_whole_photo:
            yield from map(self._label_whole, photos)
            return
        begun: deque[_Begun] = deque()
        supply = (self._begin(photo) for photo in photos)
        while True:
            batch = list(islice(_waiting(begun, supply), self.batch_size))
            if not (batch or begun):
                return
            if batch:
                self._run(batch, self.batch_size if full_batches else len(batch))
            while begun and begun[0].is_done:
                yield self._finish(begun.popleft())

    def score(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Iterator[tuple[Box, Tensor]]:
        """Run the network over all regions of a photo, in batches.

        Yields:
            Each region in whole pixels with its raw scores (C, S, S), in the order of `boxes`; from FCN-8s,
            the whole photo with scores of its size.
        """
        if self.sees_whole_photo:
            height, width = image.shape[:2]
            yield (0, 0, width, height), self._whole_scores(self.network, self.header, image)
            return
        regions = self._regions(image, boxes)
        for start in range(0, len(regions.boxes), self.batch_size):
            part = range(len(regions.boxes))[start : start + self.batch_size]
            found = self._scores([regions.inputs(index) for index in part], len(part))
            yield from zip((regions.boxes[index] for index in part), found, strict=True)

    def partner_scores(self, image: NDArray[np.uint8]) -> Tensor | None:
        """Raw scores (C, H, W) of the ensemble's FCN-8s on the whole photo; None without an ensemble."""
        if self.partner is None or self.partner_header is None:
            return None
        return self._whole_scores(self.partner, self.partner_header, image)

    def combine(self, fusion: Fusion, partner: Tensor | None) -> Tensor:
        """Class probabilities (C, H, W) of all regions, and of FCN-8s if it joins in."""
        if partner is None:
            return fusion.probabilities()
        return ensemble(fusion, partner, self.ensemble, self.share)

    def new_fusion(self, image: NDArray[np.uint8]) -> Fusion:
        """An empty accumulator of a photo's size, by the rule."""
        height, width = image.shape[:2]
        # FCN-8s's one region needs no floor of 0 under its scores.
        rule = "mean" if self.sees_whole_photo else self.fusion
        return Fusion(len(self.header.classes), height, width, rule, self.device)

    def _regions(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Crops:
        return Crops(self.network, on_device(self.device, image), boxes)

    def _scores(self, inputs: Sequence[Tensor], size: int) -> Tensor:
        """Scores (B, C, S, S) of the inputs of B regions, filled up to a batch of `size`.

        Raises:
            MemoryError: a single region does not fit into memory.
        """
        found: list[Tensor] = []
        while (done := sum(map(len, found))) < len(inputs):
            together = min(size, self.batch_size)
            try:
                found.append(self._forward(inputs[done : done + together], together))
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if together == 1:
                    raise MemoryError("the network has too little memory for a single region") from error
            # Out of the handler, as the error holds on to what the layers had computed.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.batch_size = (together + 1) // 2
        return torch.cat(found)

    def _forward(self, inputs: Sequence[Tensor], size: int) -> Tensor:
        batch = functional.pad(torch.stack(list(inputs)), (0, 0) * 3 + (0, size - len(inputs)))
        return scores(self.network, self.header, batch)[: len(inputs)]

    def _run(self, batch: Sequence[tuple[_Begun, int]], size: int) -> None:
        start = time.perf_counter()
        found = self._scores([photo.regions.inputs(index) for photo, index in batch], size)
        seconds = (time.perf_counter() - start) / len(batch)
        for (photo, _), one in zip(batch, found, strict=True):
            self._add(photo, one, seconds)

    def _begin(self, photo: Prepared) -> _Begun:
        start = time.perf_counter()
        regions, fusion = self._regions(photo.image, photo.boxes), self.new_fusion(photo.image)
        rounds = Rounds(self.stop, self.round_size)
        return _Begun(photo, regions, fusion, rounds, seconds=time.perf_counter() - start)

    def _add(self, photo: _Begun, found: Tensor, seconds: float) -> None:
        """Take in the scores of a photo's next region."""
        start = time.perf_counter()
        photo.fusion.add(found, photo.regions.boxes[photo.used])
        photo.used += 1
        if photo.used < len(photo.regions.boxes):
            photo.rounds.look(photo.used, lambda: self._sampled_labels(photo))
        photo.seconds += seconds + time.perf_counter() - start

    def _sampled_labels(self, photo: _Begun) -> Tensor:
        if self.partner and photo.partner is None:
            photo.partner = self.partner_scores(photo.prepared.image)
        partner = None if photo.partner is None else photo.partner[:, ::SAMPLED, ::SAMPLED]
        return self.combine(photo.fusion.thinned(SAMPLED), partner).argmax(0)

    def _finish(self, photo: _Begun) -> tuple[Prepared, NDArray[np.float32]]:
        start = time.perf_counter()
        partner = self.partner_scores(photo.prepared.image) if photo.partner is None else photo.partner
        fused = self.combine(photo.fusion, partner).cpu().numpy()
        seconds = {"network": photo.seconds + time.perf_counter() - start}
        boxes = photo.prepared.boxes[: photo.used]
        return replace(photo.prepared, boxes=boxes, seconds=photo.prepared.seconds | seconds), fused

    def _whole_scores(
        self, network: SegmentationNetwork, header: NetworkHeader, image: NDArray[np.uint8]
    ) -> Tensor:
        """Raw scores float32 (C, H, W) of a photo that goes through FCN-8s at the network's size.

        It gets a black frame of at least 16 pixels, up to whole cells: training showed black outside the
        photo. Where the network itself pads widely, it needs none.
        """
        height, width = image.shape[:2]
        scale = network.side / max(height, width)
        rows, columns = (max(round(height * scale), 1), max(round(width * scale), 1))
        photo = functional.interpolate(
            on_device(self.device, image)[None].float(),
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
        found = scores(network, header, photo).float()
        if self.mirrored:  # after the photo, not with it: that takes half the memory and no more time
            found = (found + scores(network, header, photo.flip(3)).float().flip(3)) / 2
        found = found[..., top : top + rows, left : left + columns]
        return functional.interpolate(found, (height, width), mode="bilinear", align_corners=False)[0]

    def _label_whole(self, photo: Prepared) -> tuple[Prepared, NDArray[np.float32]]:
        start = time.perf_counter()
        fusion = self.new_fusion(photo.image)
        for box, found in self.score(photo.image, photo.boxes):
            fusion.add(found, box)
        fused = fusion.probabilities().cpu().numpy()
        seconds = {"network": time.perf_counter() - start}
        return replace(photo, seconds=photo.seconds | seconds), fused


@dataclass
class _Begun:
    """A photo in the network: how many regions have gone into a batch, and how many scores are there."""

    prepared: Prepared
    regions: Crops
    fusion: Fusion
    rounds: Rounds
    partner: Tensor | None = None
    given: int = 0
    used: int = 0
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        return self.used == self.due

    @property
    def due(self) -> int:
        return self.rounds.due(self.used, len(self.regions.boxes))

    def take(self) -> Iterator[tuple[_Begun, int]]:
        """The regions that wait for no decision, each once."""
        while self.given < self.due:
            self.given += 1
            yield self, self.given - 1


def _waiting(begun: deque[_Begun], supply: Iterator[_Begun]) -> Iterator[tuple[_Begun, int]]:
    """Regions for the next batch: of the photos begun, then of others, which are begun as they are needed."""
    for photo in begun:
        yield from photo.take()
    while sum(photo.is_done for photo in begun) < FINISHED:
        following = next(supply, None)
        if following is None:
            return
        begun.append(following)
        yield from following.take()


class Crops:
    """Each region is cut out of the photo and goes through the whole network.

    Args:
        network: of square crops.
        photo: uint8 (3, H, W).
        boxes: float32 (N, 4).
    """

    def __init__(self, network: SegmentationNetwork, photo: Tensor, boxes: NDArray[np.float32]) -> None:
        self.boxes = _whole_pixels(boxes)
        self._photo, self._side = photo, network.side

    def inputs(self, index: int) -> Tensor:
        """The crop, float (3, S, S) of 0..255."""
        return crop(self._photo, self.boxes[index], self._side)


def scores(network: SegmentationNetwork, header: NetworkHeader, images: Tensor) -> Tensor:
    """Raw scores (B, C, H, W) of images (B, 3, H, W) of 0..255."""
    with torch.inference_mode():
        found: Tensor = network(normalised(network, header, images))
        return found


def normalised(network: SegmentationNetwork, header: NetworkHeader, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) of 0..255 as the network takes them."""
    mean = torch.tensor(header.mean, device=images.device).view(3, 1, 1)
    dtype = next(network.parameters()).dtype
    return ((images - mean) * header.scale).to(dtype, memory_format=torch.channels_last)


def on_device(device: torch.device, image: NDArray[np.uint8]) -> Tensor:
    """A photo as uint8 (3, H, W) on a device."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)


def crop(photo: Tensor, box: Box, side: int) -> Tensor:
    """One region as float (3, side, side) of 0..255; what lies outside the photo is black."""
    x0, y0, x1, y1 = box
    _, height, width = photo.shape
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    region = torch.zeros(1, 3, y1 - y0, x1 - x0, device=photo.device)
    region[0, :, top - y0 : bottom - y0, left - x0 : right - x0] = photo[:, top:bottom, left:right]
    return functional.interpolate(region, (side, side), mode="bilinear", antialias=True, align_corners=False)[
        0
    ]


def _whole_pixels(boxes: NDArray[np.float32]) -> list[Box]:
    """Boxes rounded to pixels, at least one pixel wide and high."""
    rounded = []
    for x0, y0, x1, y1 in boxes.tolist():
        left, top = round(x0), round(y0)
        rounded.append((left, top, max(round(x1), left + 1), max(round(y1), top + 1)))
    return rounded

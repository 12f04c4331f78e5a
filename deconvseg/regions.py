"""Photos through the network: regions cut out, run in batches that photos share, put together again."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.machine import is_out_of_memory
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.fcn8s import STRIDE, FCN8s
from deconvseg.postprocess.fusion import EarlyStop, Fusion, ensemble
from deconvseg.settings import EnsembleRule, Settings

Box = tuple[int, int, int, int]

FINISHED = 2
"""Most photos whose scores are kept while one before them is not finished: 132 MB each at 1024 x 768."""
SAMPLED = 4
"""Whether a photo is finished is decided on every fourth pixel of every fourth row: all of them would cost
as much time as two regions."""


_threads_used = _threads_lost = False


def use_threads() -> None:
    """To be called before torch or OpenCV start threads: in a fork of a process that has, they would hang.

    Raises:
        UsageError: this process is such a fork.
    """
    global _threads_used
    if _threads_lost:
        raise UsageError(
            "this process was forked from one that had segmented before, whose threads it lacks; "
            "start workers with multiprocessing.get_context('spawn'), or use threads"
        )
    _threads_used = True


def _after_fork() -> None:
    global _threads_lost
    _threads_lost = _threads_used


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


class Clock:
    """Adds up wall-clock seconds by step, beside those `before`."""

    def __init__(self, before: dict[str, float] | None = None) -> None:
        self.seconds, self.last = dict(before or {}), time.perf_counter()

    def lap(self, step: str) -> None:
        """The time since the last lap went into `step`."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self.last
        self.last = now


@dataclass(frozen=True)
class Prepared:
    """A photo ready for the network.

    Attributes:
        photo: as it was read; who keeps many may put `image` in place of its pixels.
        image: uint8 (h, w, 3) RGB, upright, no side longer than `segmenter.WORKING_SIDE`.
        boxes: float32 (N, 4), x0 y0 x1 y1 in pixels of `image`: regions to look at, best first.
        scores: float32 (N,), EdgeBoxes' score of each; that of the whole photo is no less than any.
        seconds: wall-clock seconds by step so far.
    """

    photo: PhotoPixels
    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Inference:
    """Networks on their device, and how their answers are put together.

    Attributes:
        network: made ready by `network.fold.prepare`.
        header: of its file.
        partner, partner_header: the same for the FCN-8s of an ensemble, or None.
        settings: how regions are put together, when a photo stops, how the partner joins in.
        device: where the networks are.
        precision: their arithmetic: `fp32`, `bf16` or `fp16`.
        batch_size: regions that go through the network together; halved when they do not fit into memory.
    """

    network: SegmentationNetwork
    header: NetworkHeader
    partner: SegmentationNetwork | None
    partner_header: NetworkHeader | None
    settings: Settings
    device: torch.device
    precision: str
    batch_size: int

    @property
    def sees_whole_photo(self) -> bool:
        """Whether the network itself is an FCN-8s, which looks at no regions."""
        return isinstance(self.network, FCN8s)

    def fuse(
        self, photos: Iterable[Prepared], *, full_batches: bool = False
    ) -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        """Class probabilities of photos; see `Segmenter.fuse`."""
        begun: deque[PartialResult] = deque()
        supply = (PartialResult(self, photo) for photo in photos)
        while True:
            # FCN-8s looks at one photo after the other: more would only take memory.
            most = 1 if self.sees_whole_photo else self.batch_size
            batch = list(islice(_submit(begun, supply), most))
            if not (batch or begun):
                return
            if batch and self.sees_whole_photo:
                for photo, _ in batch:
                    photo.add(self._whole_scores(self.network, self.header, photo.prepared.image))
            elif batch:
                self._run(batch, self.batch_size if full_batches else len(batch))
            while begun and begun[0].is_done:
                yield begun.popleft().finish()

    def step_by_step(self, prepared: Prepared) -> Iterator[PartialResult]:
        """A photo after no region, after the first, ...; see `Segmenter.step_by_step`."""
        photo = PartialResult(self, prepared)
        yield photo
        if self.sees_whole_photo:
            photo.add(self._whole_scores(self.network, self.header, prepared.image))
            yield photo
            return
        for start in range(0, len(photo.boxes), self.batch_size):
            crops = [photo.crop(i) for i in range(len(photo.boxes))[start : start + self.batch_size]]
            for scores in self._scores(crops, len(crops)):
                photo.add(scores)
                yield photo

    def partner_scores(self, image: NDArray[np.uint8]) -> Tensor | None:
        """Raw scores (C, H, W) of the ensemble's FCN-8s on the whole photo; None without an ensemble."""
        if self.partner is None or self.partner_header is None:
            return None
        return self._whole_scores(self.partner, self.partner_header, image)

    def _run(self, batch: Sequence[tuple[PartialResult, int]], size: int) -> None:
        start = time.perf_counter()
        found = self._scores([photo.crop(index) for photo, index in batch], size)
        seconds = (time.perf_counter() - start) / len(batch)
        for (photo, _), scores in zip(batch, found, strict=True):
            photo.seconds += seconds
            photo.add(scores)

    def _scores(self, crops: Sequence[Tensor], size: int) -> Tensor:
        """Scores (B, C, S, S) of B crops, which are filled up to a batch of `size`.

        Raises:
            MemoryError: a single region does not fit into memory.
        """
        found: list[Tensor] = []
        while (done := sum(map(len, found))) < len(crops):
            together = min(size, self.batch_size)
            part = crops[done : done + together]
            try:
                batch = functional.pad(torch.stack(list(part)), (0, 0) * 3 + (0, together - len(part)))
                found.append(run_network(self.network, self.header, batch)[: len(part)])
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
        found = run_network(network, header, photo).float()
        if self.settings.mirrored:  # after the photo, not with it: half the memory in the same time
            found = (found + run_network(network, header, photo.flip(3)).float().flip(3)) / 2
        found = found[..., top : top + rows, left : left + columns]
        return functional.interpolate(found, (height, width), mode="bilinear", align_corners=False)[0]


class PartialResult:
    """What the regions that are done so far say of a photo.

    Attributes:
        prepared: the photo.
        boxes: its regions in whole pixels, x0 y0 x1 y1, half-open; FCN-8s's one is the photo itself.
        submitted: regions that have gone into a batch.
        done: regions whose scores are in.
        seconds: that it took so far.
    """

    def __init__(self, inference: Inference, prepared: Prepared) -> None:
        start = time.perf_counter()
        self.prepared, self._inference = prepared, inference
        self.boxes = whole_pixels(prepared.boxes)
        self.submitted = self.done = 0
        self._pixels = on_device(inference.device, prepared.image)
        # FCN-8s's one region needs no floor of 0 under its scores.
        rule = "mean" if inference.sees_whole_photo else inference.settings.fusion
        height, width = prepared.image.shape[:2]
        self._fusion = Fusion(len(inference.header.classes), height, width, rule, inference.device)
        self._stop = EarlyStop(inference.settings.stop, inference.settings.round_size)
        self._partner: Tensor | None = None
        self.seconds = time.perf_counter() - start

    @property
    def is_done(self) -> bool:
        """Whether no further region is looked at."""
        return self.done == self.limit

    @property
    def limit(self) -> int:
        """How many regions may be submitted before more scores are in."""
        return self._stop.limit(self.done, len(self.boxes))

    def submit(self) -> Iterator[tuple[PartialResult, int]]:
        """The regions up to the limit, each once: this and the region's place in `boxes`."""
        while self.submitted < self.limit:
            self.submitted += 1
            yield self, self.submitted - 1

    def crop(self, index: int) -> Tensor:
        """A region as the network takes it: float (3, S, S) of 0..255."""
        return crop(self._pixels, self.boxes[index], self._inference.network.side)

    def add(self, scores: Tensor) -> None:
        """Take in the raw scores (C, S, S) of the next region."""
        start = time.perf_counter()
        self._fusion.add(scores, self.boxes[self.done])
        self.done += 1
        if self.done < len(self.boxes):
            self._stop.update(self.done, self._sampled_labels)
        self.seconds += time.perf_counter() - start

    def probabilities(self, rule: EnsembleRule | Literal["alone"] | None = None) -> NDArray[np.float32]:
        """Class probabilities so far, float32 (C, h, w) for `prepared.image`.

        Args:
            rule: how the ensemble's FCN-8s joins in, if there is one; `alone` leaves the regions out, and
                None takes that of the settings.
        """
        partner = self._partner_scores()
        if rule == "alone":
            found = self._fusion.probabilities() if partner is None else partner.softmax(0)
        else:
            found = self._combine(self._fusion, partner, rule)
        return found.cpu().numpy()

    def finish(self) -> tuple[Prepared, NDArray[np.float32]]:
        """The photo, its `boxes` those looked at and its `seconds` completed, and its probabilities."""
        start = time.perf_counter()
        found = self.probabilities()
        seconds = {"network": self.seconds + time.perf_counter() - start}
        boxes, scores = self.prepared.boxes[: self.done], self.prepared.scores[: self.done]
        seconds = self.prepared.seconds | seconds
        return replace(self.prepared, boxes=boxes, scores=scores, seconds=seconds), found

    def _sampled_labels(self) -> Tensor:
        partner = self._partner_scores()
        thinned = None if partner is None else partner[:, ::SAMPLED, ::SAMPLED]
        return self._combine(self._fusion.thinned(SAMPLED), thinned).argmax(0)

    def _partner_scores(self) -> Tensor | None:
        if self._partner is None:
            self._partner = self._inference.partner_scores(self.prepared.image)
        return self._partner

    def _combine(self, fusion: Fusion, partner: Tensor | None, rule: EnsembleRule | None = None) -> Tensor:
        settings = self._inference.settings
        if partner is None:
            return fusion.probabilities()
        return ensemble(fusion, partner, rule or settings.ensemble, settings.share)


def _submit(
    begun: deque[PartialResult], supply: Iterator[PartialResult]
) -> Iterator[tuple[PartialResult, int]]:
    """Regions for the next batch: of the photos begun, then of others, which are begun as they are needed."""
    for photo in begun:
        yield from photo.submit()
    while sum(photo.is_done for photo in begun) < FINISHED:
        following = next(supply, None)
        if following is None:
            return
        begun.append(following)
        yield from following.submit()


def run_network(network: SegmentationNetwork, header: NetworkHeader, images: Tensor) -> Tensor:
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
    size = (side, side)
    return functional.interpolate(region, size, mode="bilinear", antialias=True, align_corners=False)[0]


def whole_pixels(boxes: NDArray[np.float32]) -> list[Box]:
    """Boxes rounded to pixels, at least one pixel wide and high."""
    rounded = []
    for x0, y0, x1, y1 in boxes.tolist():
        left, top = round(x0), round(y0)
        rounded.append((left, top, max(round(x1), left + 1), max(round(y1), top + 1)))
    return rounded

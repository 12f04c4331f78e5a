"""Photos through the network: regions cut out, run in batches that photos share, put together again."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.errors import UsageError, is_out_of_memory
from deconvseg.images.read import PhotoPixels
from deconvseg.network.base import STRIDE, SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.fold import Precision
from deconvseg.network.inputs import crop, normalise, on_device, resized, whole_pixels
from deconvseg.postprocess.fusion import Fusion, ensemble, least_certain, log_prior, with_prior
from deconvseg.proposals.boxes import around_objects, distinct
from deconvseg.settings import EnsembleRule, Settings

FCN = tuple[SegmentationNetwork, NetworkHeader]  # that sees the whole photo

SAMPLED = 4  # objects that the FCN sees are found on every fourth pixel of every fourth row

# This process, and those it was forked from, if they have used threads of torch or OpenCV.
_users_of_threads: set[int] = set()


def use_threads() -> None:
    """To be called before torch or OpenCV start threads; UsageError where they would hang: in a fork."""
    _users_of_threads.add(os.getpid())
    if len(_users_of_threads) > 1:
        cure = "start workers with multiprocessing.get_context('spawn'), or use threads"
        raise UsageError(
            f"this process was forked from one that had segmented, and lacks its threads; {cure}"
        )


class Clock:
    """Adds up wall-clock seconds by step, to those `before`."""

    def __init__(self, before: dict[str, float] | None = None) -> None:
        self.seconds, self.last = dict(before or {}), time.perf_counter()

    def lap(self, step: str) -> None:
        """The time since the last lap went into `step`."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self.last
        self.last = now


@dataclass(frozen=True)
class Prepared:
    """A photo ready for the network; its boxes are the regions to choose from, best first."""

    photo: PhotoPixels  # as it was read; who keeps many may put `image` in place of its pixels
    image: NDArray[np.uint8]  # (h, w, 3) RGB, upright, no side longer than `segmenter.WORKING_SIDE`
    boxes: NDArray[np.float32]  # (N, 4), x0 y0 x1 y1 in pixels of `image`
    scores: NDArray[np.float32]  # (N,), EdgeBoxes'; NaN for regions around objects that the FCN sees
    seconds: dict[str, float]  # wall-clock time by step so far


Fused = tuple[Prepared, NDArray[np.float32]]  # with class probabilities, (C, h, w)


@dataclass
class Inference:
    """Networks on their device, as of `network.fold.prepare`, and how their answers are put together."""

    network: SegmentationNetwork
    header: NetworkHeader
    settings: Settings
    device: torch.device
    precision: Precision
    batch_size: int  # of regions; halved when they do not fit into memory
    partner: FCN | None = None  # of an ensemble or a prior

    @property
    def fcn(self) -> FCN | None:
        """What looks at the whole photo: the network itself, or the partner where the settings need it."""
        if self.network.sees_whole_photo:
            return self.network, self.header
        return self.partner if self.settings.ensemble != "off" or self.settings.prior else None

    @property
    def prior(self) -> float:
        """That of the settings; 0 where no FCN tells which classes a photo shows."""
        return self.settings.prior if self.fcn and self.fcn[0].tells_classes else 0.0

    def fuse(self, photos: Iterable[Prepared], *, full_batches: bool = False) -> Iterator[Fused]:
        """Class probabilities of photos; see `Segmenter.fuse`."""
        begun: deque[PartialResult] = deque()

        def regions() -> Iterator[Region]:
            for photo in photos:
                begun.append(PartialResult(self, photo))
                for index in range(len(begun[-1].boxes)):
                    yield begun[-1], index

        supply = regions()
        while True:
            # An FCN looks at one photo after the other: more would only take memory.
            most = 1 if self.network.sees_whole_photo else self.batch_size
            batch = list(islice(supply, most))
            if not (batch or begun):
                return
            start = time.perf_counter()
            found = self._scores(batch, self.batch_size if full_batches else len(batch))
            for (photo, _), scores in zip(batch, found, strict=True):
                photo.add(scores)
            seconds = (time.perf_counter() - start) / max(len(batch), 1)
            for photo, _ in batch:
                photo.seconds += seconds
            while begun and begun[0].done == len(begun[0].boxes):
                yield begun.popleft().finish()

    def step_by_step(self, prepared: Prepared) -> Iterator[PartialResult]:
        """A photo: the same object after no region, the first, ..., the last."""
        use_threads()
        photo, most = PartialResult(self, prepared), self.batch_size
        yield photo
        regions = [(photo, index) for index in range(len(photo.boxes))]
        for start in range(0, len(regions), most):
            batch = regions[start : start + most]
            for scores in self._scores(batch, len(batch)):
                photo.add(scores)
                yield photo

    def _scores(self, batch: Sequence[Region], size: int) -> list[Tensor]:
        """Raw scores (C, S, S) of regions, which are filled up to a batch of `size`; (C, H, W) of an FCN."""
        if self.network.sees_whole_photo:
            return [photo.whole[0] for photo, _ in batch if photo.whole]
        crops = [crop(photo.pixels, photo.boxes[index], self.network.side) for photo, index in batch]
        found: list[Tensor] = []
        while len(found) < len(crops):
            together = min(size, self.batch_size)
            part = crops[len(found) : len(found) + together]
            try:
                images = functional.pad(torch.stack(part), (0, 0) * 3 + (0, together - len(part)))
                with torch.inference_mode():
                    found += self.network(_input(self.network, self.header, images))[: len(part)]
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
        return found

    def whole_scores(self, fcn: FCN, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor | None]:
        """Raw scores float32 (C, H, W) of an FCN for a photo, at its size, and its `log_prior`, if any."""
        network, header = fcn
        height, width = image.shape[:2]
        scale = network.side / max(height, width)
        rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
        photo = resized(on_device(self.device, image)[None].float(), (rows, columns))
        top, left = 0, 0
        if network.arguments.get("padding") == 1:  # FCN-8s, whose training showed black outside the photo
            high, wide = (-side % STRIDE + STRIDE for side in (rows, columns))
            top, left = high // 2, wide // 2
            photo = functional.pad(photo, (left, wide - left, top, high - top))
        with torch.inference_mode():
            found, code = network.scores_and_code(_input(network, header, photo))
        found = found.float()[..., top : top + rows, left : left + columns]
        if (rows, columns) != (height, width):
            found = functional.interpolate(found, (height, width), mode="bilinear", align_corners=False)
        if self.prior:
            return found[0], log_prior(code[0], network.doubt, self.prior)
        return found[0], None


class PartialResult:
    """What the regions that are `done` so far say of a photo."""

    def __init__(self, inference: Inference, prepared: Prepared) -> None:
        start = time.perf_counter()
        self.prepared, self._inference, self._settings = prepared, inference, inference.settings
        self.done = 0
        self.pixels = on_device(inference.device, prepared.image)
        self._choose_regions()
        self.boxes = whole_pixels(self.prepared.boxes)
        self.seconds = time.perf_counter() - start

    def _choose_regions(self) -> None:
        """See `Settings.objects` and `Settings.candidates`."""
        settings, boxes, scores = self._settings, self.prepared.boxes, self.prepared.scores
        boxes, scores = boxes.copy(), scores.copy()
        first = int(settings.whole_photo)
        if self.whole and not self._inference.network.sees_whole_photo:
            some = slice(first, first + settings.candidates)
            ranked = least_certain(self.whole[0], whole_pixels(boxes[some]))
            boxes[some], scores[some] = boxes[some][ranked], scores[some][ranked]
            if settings.objects and settings.proposals:
                labels = self._alone(SAMPLED).argmax(0).to(torch.uint8).cpu().numpy()
                around = around_objects(labels, *self.prepared.image.shape[:2])
                found = np.concatenate((boxes[:first], around))
                found = found[distinct(found, len(found), settings.same)]
                boxes = np.concatenate((found, boxes[first:]))
                scores = np.insert(scores, [first] * (len(found) - first), np.float32(np.nan))
        most = max(first + settings.proposals, 1)
        self.prepared = replace(self.prepared, boxes=boxes[:most], scores=scores[:most])

    def add(self, scores: Tensor) -> None:
        """Take in the raw scores (C, S, S) of the next region."""
        if not self._inference.network.sees_whole_photo:
            self._fusion.add(scores, self.boxes[self.done])
        self.done += 1

    def probabilities(self, rule: EnsembleRule | Literal["alone"] | None = None) -> NDArray[np.float32]:
        """Class probabilities so far, float32 (C, h, w) for `prepared.image`; `rule` is how the ensemble's
        FCN joins in, if there is one: None takes that of the settings, `alone` leaves the regions out."""
        (whole, prior), settings = self.whole or (None, None), self._settings
        if whole is None:
            found = self._fusion.probabilities()
        elif rule == "alone" or self._inference.network.sees_whole_photo:
            found = self._alone()
        else:
            found = ensemble(self._fusion, whole, rule or settings.ensemble, settings.share)
            found = found if prior is None else with_prior(found, prior)
        return found.cpu().numpy()

    def finish(self) -> Fused:
        """See `Segmenter.fuse`."""
        start = time.perf_counter()
        found = self.probabilities()
        seconds = self.prepared.seconds | {"network": self.seconds + time.perf_counter() - start}
        return replace(self.prepared, seconds=seconds), found

    @cached_property
    def _fusion(self) -> Fusion:
        classes, (height, width) = len(self._inference.header.classes), self.prepared.image.shape[:2]
        return Fusion(classes, height, width, self._settings.fusion, self._inference.device)

    @cached_property
    def whole(self) -> tuple[Tensor, Tensor | None] | None:
        """What `whole_scores` gives for the photo, if there is an FCN."""
        fcn = self._inference.fcn
        return self._inference.whole_scores(fcn, self.prepared.image) if fcn else None

    def _alone(self, step: int = 1) -> Tensor:
        """The FCN's class probabilities of every `step`-th pixel of every `step`-th row."""
        assert self.whole
        scores, prior = self.whole[0][:, ::step, ::step], self.whole[1]
        return (scores if prior is None else scores + prior).softmax(0)


Region = tuple[PartialResult, int]  # a place in a photo's `boxes`


def _input(network: SegmentationNetwork, header: NetworkHeader, images: Tensor) -> Tensor:
    return normalise(images, header, next(network.parameters()).dtype)

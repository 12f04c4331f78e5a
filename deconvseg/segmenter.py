"""The way of one photo: proposals, crops, network, fusion, CRF, Segmentation."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import InputError, UsageError
from deconvseg.files import code_digest, digest
from deconvseg.images.enlarge import enlarge
from deconvseg.images.palette import Palette
from deconvseg.images.read import ImageLike, PhotoPixels, as_photo
from deconvseg.machine import cores
from deconvseg.network import fold
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, describe_network, load_network
from deconvseg.postprocess.crf import dense_crf
from deconvseg.proposals.boxes import WORKING_SIDE as EDGES_SIDE
from deconvseg.proposals.boxes import Boxes, propose, shrink, squared
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.regions import Clock, Fused, Inference, Prepared, use_threads
from deconvseg.segmentation import Segmentation, chosen, refuse_unknown
from deconvseg.settings import PRESETS, CRFParameters, EnsembleRule, FusionRule, refuse_below
from deconvseg.weights import find, forest_file, network_file

FCN = "fcn-lite"  # of ensembles of networks that have no partner of their own
WORKING_SIDE = 1024  # pixels; photos with a longer side are shrunk to it for the work

_loading = threading.Lock()


@cache
def _detector(path: Path, content: str) -> EdgeDetector:
    """The detector of a forest file whose digest is `content`."""
    return EdgeDetector(path)


class Segmenter:
    """Segments photos with one network and one set of options.

    Making one is cheap; files are read at the first use or by `load`. It can be pickled to other processes,
    and used by several threads at once.

    Args:
        weights: a network's name or file.
        forest: structured edge forest file; the shipped one when None.
        protocol: of `settings.PRESETS`, the settings that follow, where they are None. In `fast` the
            network's partner segments alone; a network without one sees the whole photo alone.
        proposals, min_side, fusion, prior, crf: as of `settings.Settings`.
        ensemble: as of `settings.Settings`; None uses a named network with its partner, and a file alone.
        fcn: the FCN or FCN-8s of the ensemble and its prior, by name or file; None is that partner, or the
            shipped one.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `auto`, `fp32`, `bf16`, `fp16` or `int8`.
        batch_size: crops that go through the network together, halved where they do not fit into memory;
            None chooses by device.
        threads: CPU threads; None leaves torch's choice, at most the cores that this process may use.
        only: names of the classes to keep, or one name: all other pixels become background; None keeps all.

    Attributes:
        weights: the network's name or file, as it was given.
        settings: all settings of the method.
        fcn: name or file of the FCN that joins in, if any.

    Raises UsageError for a value that is none of these, or two that exclude each other; names of networks,
    devices and classes are looked at by `load`.
    """

    def __init__(
        self,
        weights: str | Path = "default",
        *,
        forest: str | Path | None = None,
        protocol: str = "default",
        proposals: int | None = None,
        min_side: int | None = None,
        fusion: FusionRule | None = None,
        ensemble: EnsembleRule | None = None,
        fcn: str | Path | None = None,
        prior: float | None = None,
        crf: bool = True,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        if protocol not in PRESETS:
            raise UsageError(f"{protocol}: no such protocol; take one of {', '.join(PRESETS)}")
        options: dict[str, Any] = {"proposals": proposals, "min_side": min_side, "fusion": fusion}
        options |= {"ensemble": ensemble, "prior": prior}
        given = {name: value for name, value in options.items() if value is not None}
        settings = replace(PRESETS[protocol], **given, crf=crf)
        refuse_below(1, batch_size=batch_size, threads=threads)
        if fcn is not None and settings.ensemble == "off" and not settings.prior:
            raise UsageError(f"{fcn}: an FCN is for an ensemble or a prior; ask for one of them")
        self._needs_prior = bool(prior) or (fcn is not None and settings.ensemble == "off")
        entry = find(weights)
        partner = fcn or (entry.partner if entry else "")
        if not (partner or ensemble or protocol in ("paper", "released-code")):
            settings = replace(settings, ensemble="off")  # only what is known to belong together is paired
        if partner and protocol == "fast" and not proposals and settings.ensemble == "mean":
            weights, partner, settings = partner, "", replace(settings, ensemble="off")
        self.fcn: str | Path | None = None
        if settings.ensemble != "off" or prior:
            self.fcn = partner or FCN
        elif settings.prior:
            self.fcn = partner or None
        self.settings, self._fcn_is_given = settings, bool(fcn and self.fcn)
        self.weights, self._file, self._forest = str(weights), weights, forest
        self._device, self._precision = device, precision
        self._batch_size, self._threads = batch_size, threads
        self._only = None if only is None else chosen(only)
        self._inference: Inference | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name != "_forest_in_use"}
        return {**kept, "_inference": None}

    def segment(self, image: ImageLike | PhotoPixels, *, probabilities: bool = False) -> Segmentation:
        """Label every pixel of one photo.

        Args:
            image: a file's path or address (`https://`, `s3://`, ...); a `PIL.Image.Image`, turned upright by
                its EXIF orientation; a uint8 array (H, W, 3) RGB, (H, W, 4) RGBA, laid on white, or (H, W)
                grey; or what `images.read.read_photo` gives. Arrays are copied.
            probabilities: keep the class probabilities as well (C x H x W floats).

        Raises InputError for a file that cannot be read, or anything else that is no photo.
        """
        ((prepared, found),) = self.fuse([self.prepare(image)])
        return self.finish(prepared, found, keep_probabilities=probabilities)

    def prepare(self, image: ImageLike | PhotoPixels) -> Prepared:
        """The first step: read a photo, shrink it and find its regions; errors as of `segment` and `load`."""
        photo = image if isinstance(image, PhotoPixels) else as_photo(image)
        clock = Clock()
        use_threads()
        is_small = self.sees_whole_photo and self.settings.at_network_side
        small = shrink(photo.image, self._description[0].side if is_small else WORKING_SIDE)
        if self._proposes:
            settings = self.settings if self.fcn else replace(self.settings, candidates=0)
            boxes = propose(small, _detector(*self._forest_in_use), settings)
        else:
            whole = np.array([[0, 0, small.shape[1], small.shape[0]]], np.float32)
            boxes = Boxes(whole if self.sees_whole_photo else squared(whole), np.ones(1, np.float32))
        clock.lap("proposals")
        return Prepared(photo, small, boxes.xyxy, boxes.scores, clock.seconds)

    def fuse(self, photos: Iterable[Prepared], *, full_batches: bool = False) -> Iterator[Fused]:
        """The second step: the network. Regions of one photo and of the next share batches.

        Args:
            photos: taken as they are needed, some ahead of what is returned.
            full_batches: fill the last batch up. With the size of the batch a region's scores can differ in
                their last bits, with what else is in it they do not: no photo then depends on the others.

        Yields each photo in order, its `boxes` those looked at and its `seconds` completed, with its
        probabilities, float32 (C, h, w) for its `image`. Raises MemoryError if a region does not fit.
        """
        use_threads()
        return self.inference.fuse(photos, full_batches=full_batches)

    def finish(
        self, prepared: Prepared, probabilities: NDArray[np.float32], *, keep_probabilities: bool = False
    ) -> Segmentation:
        """The third step: sharpen what `fuse` gave back and bring it to the photo's size, without a network.

        Probabilities that are kept have the photo's size, too.
        """
        photo, clock = prepared.photo, Clock(prepared.seconds)
        if self.settings.crf:
            probabilities = dense_crf(prepared.image, probabilities, self.crf_parameters)
            clock.lap("crf")
        labels, kept = enlarge(probabilities, photo.height, photo.width, keep_probabilities)
        clock.lap("enlarge")
        height, width = prepared.image.shape[:2]
        result = Segmentation(
            labels=labels,
            classes=self.classes,
            palette=self.palette,
            probabilities=kept,
            boxes=prepared.boxes * np.array([photo.width / width, photo.height / height] * 2, np.float32),
            seconds=clock.seconds,
            pixels=photo.image,
            source=photo.source,
            notes=photo.notes,
        )
        return result if self._only is None else result.only(self._only)

    def segment_many(
        self, images: Iterable[ImageLike], *, probabilities: bool = False
    ) -> Iterator[Segmentation]:
        """Label photos, of any sizes, taken as they are needed; their regions share the network's batches.

        A photo's result does not depend on the others; scores differ from those of `segment` in last bits.
        Raises InputError for what is no photo, after the results of all before it, and for one photo alone.
        """
        is_one = isinstance(images, np.ndarray) and (images.ndim < 3 or images.shape[2] in (3, 4))
        if is_one or isinstance(images, str | PathLike | Image.Image):
            raise InputError("this is one photo, where several are asked for; give a list, or take segment")
        faults: list[InputError] = []

        def prepared_images() -> Iterator[Prepared]:
            try:
                yield from map(self.prepare, images)
            except InputError as error:
                faults.append(error)

        for prepared, found in self.fuse(prepared_images(), full_batches=True):
            yield self.finish(prepared, found, keep_probabilities=probabilities)
        for fault in faults:
            raise fault

    def edges(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The edge map behind the proposals, as of `EdgeDetector.detect`, of the photo at most 640 long."""
        return _detector(*self._forest_in_use).detect(shrink(image, EDGES_SIDE))

    def with_settings(self, **changes: Any) -> Segmenter:
        """A copy with some of the settings changed (names as in `Settings`) that shares what is loaded.

        UsageError for an ensemble where this one has no FCN.
        """
        other = copy.copy(self)
        other.settings = replace(self.settings, **changes)
        if other.settings.ensemble != "off" and self.fcn is None:
            raise UsageError("there is no FCN for an ensemble; make another Segmenter with one")
        if self._inference:
            other._inference = replace(self._inference, settings=other.settings)
        return other

    def load(self) -> None:
        """Read the network and the forest now rather than at the first photo.

        Raises WeightsError for a file that is missing or damaged, and UsageError for a device, precision or
        class that this machine or the network does not have, and an FCN that does not fit the network.
        """
        with ThreadPoolExecutor(1) as beside:  # OpenCV reads its file while torch makes networks ready
            forest = beside.submit(lambda: _detector(*self._forest_in_use)) if self._proposes else None
            _ = self.inference
        if forest:
            forest.result()

    def identity(self) -> dict[str, object]:
        """Everything that can change a result, fit for JSON: what is equal in it gives equal masks."""
        return {
            "device": self.inference.device.type,
            "weights": self._digests[0],
            "fcn": self._digests[1] if self.inference.partner and self.inference.fcn else None,
            "forest": self._forest_in_use[1] if self._proposes else None,
            **asdict(replace(self.settings, prior=self.inference.prior, crf_parameters=None)),
            "crf": asdict(self.crf_parameters) if self.settings.crf else None,
            "precision": self.inference.precision,
            "only": self._only,
            "code": code_digest(),
        }

    def settings_hash(self) -> str:
        """`identity` in 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def crf_parameters(self) -> CRFParameters:
        """Those of the settings, or of the network's file."""
        return self.settings.crf_parameters or CRFParameters.from_mapping(self.header.crf)

    @property
    def header(self) -> NetworkHeader:
        """What the network's file says of itself; read without its tensors, as `sees_whole_photo` is."""
        return self._description[1]

    @property
    def sees_whole_photo(self) -> bool:
        """Whether the network is an FCN or FCN-8s, which looks at no regions."""
        return self._description[0].sees_whole_photo

    @property
    def _proposes(self) -> bool:
        return bool(self.settings.proposals) and not self.sees_whole_photo

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the network, background first."""
        return self.header.classes

    @property
    def palette(self) -> Palette:
        """Colours of the classes."""
        return self.header.palette

    @property
    def inference(self) -> Inference:
        """The network, which is read at the first use; errors as of `load`."""
        with _loading:
            if self._inference is None:
                self._inference = self._load()
            return self._inference

    @cached_property
    def _description(self) -> tuple[SegmentationNetwork, NetworkHeader]:
        return describe_network(network_file(self._file))

    @cached_property
    def _forest_in_use(self) -> tuple[Path, str]:
        """The forest's file and its digest at the first use, should it be replaced later."""
        path = forest_file(self._forest)
        return path, digest(path)

    def _load(self) -> Inference:
        use_threads()
        # Left alone, torch and OpenCV would take all cores of the host, not of the container.
        torch.set_num_threads(self._threads or min(torch.get_num_threads(), cores()))
        cv2.setNumThreads(self._threads or min(cv2.getNumThreads(), cores()))
        if self.sees_whole_photo and (self._fcn_is_given or self.settings.ensemble != "off"):
            fault = f"is for an ensemble, and {self.weights} is an FCN itself"
            raise UsageError(f"{self.fcn}: {fault}; go without both")
        names = [self._file] if self.sees_whole_photo or not self.fcn else [self._file, self.fcn]
        files = [network_file(name) for name in names]
        networks = [load_network(file) for file in files]
        header = networks[0][1]
        if any(not other.sees_whole_photo or of.classes != header.classes for other, of in networks[1:]):
            raise UsageError(f"{self.fcn}: is no FCN with the network's classes; take another, or go without")
        refuse_unknown(self._only or (), header.classes)
        device = fold.pick_device(self._device)
        unknown = [str(name) for name, (_, of) in zip(names, networks, strict=True) if not of.ranges]
        precision = fold.pick_precision(self._precision, device, next(iter(unknown), None))
        # Of the networks in use, should their files be replaced later.
        self._digests = [digest(file) for file in files]
        ready = [(fold.prepare(network, device, precision, of.ranges), of) for network, of in networks]
        # Whatever memory is free: with the size of a batch, scores can differ in their last bits.
        size = self._batch_size or (64 if device.type == "cuda" else 16)
        inference = Inference(*ready[0], self.settings, device, precision, size, *ready[1:])
        if self._needs_prior and not inference.prior:
            fault = "no FCN that tells which classes a photo shows, as a prior needs it"
            raise UsageError(f"{self.fcn or self.weights}: {fault}; give one, or go without")
        return inference

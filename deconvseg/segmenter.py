"""The way of one photo: proposals, crops, network, fusion, CRF, Segmentation."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deconvseg.errors import InputError, UsageError
from deconvseg.files import digest
from deconvseg.identity import code_digest
from deconvseg.images.enlarge import enlarge
from deconvseg.images.palette import Palette
from deconvseg.images.read import ImageLike, PhotoPixels, as_photo, refuse_one
from deconvseg.loading import load_inference
from deconvseg.machine import cores
from deconvseg.network.checkpoint import NetworkHeader, describe_network
from deconvseg.network.fcn8s import FCN8s
from deconvseg.postprocess.crf import dense_crf
from deconvseg.proposals.boxes import WORKING_SIDE as EDGES_SIDE
from deconvseg.proposals.boxes import Boxes, propose, shrink, squared
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.regions import Clock, Inference, PartialResult, Prepared, use_threads
from deconvseg.segmentation import Segmentation, chosen, refuse_unknown
from deconvseg.settings import PRESETS, CRFParameters, EnsembleRule, FusionRule, refuse_below
from deconvseg.weights import forest_file, network_file, partner_of

FCN = "fcn8s-lite"
"""The FCN-8s of ensembles of networks that have no partner of their own."""
WORKING_SIDE = 1024
"""Photos with a longer side are shrunk to it for the work; the labels come back at the photo's size."""

_loading = threading.Lock()


@cache
def _detector(path: Path, content: str) -> EdgeDetector:
    """The detector of a forest file whose digest is `content`."""
    return EdgeDetector(path)


class Segmenter:
    """Segments photos with one network and one set of options.

    Making one is cheap; files are read at the first use or by `load`. It can be pickled to other processes,
    which read the network again, and used by several threads at once.

    Args:
        weights: a network's name or file.
        forest: structured edge forest file; the shipped one when None.
        protocol: `default`, `paper` or `released-code`: the settings that follow, where they are None.
        proposals: regions besides the whole photo; 0 looks at the whole photo alone.
        min_side: regions whose shorter side after enlarging is below this are not looked at; pixels of the
            photo shrunk to at most 640.
        stop: share of pixels (0..1): no more regions of a photo are looked at once a round of 5 has changed
            fewer labels than that, as they are before the CRF; 0 looks at all.
        fusion: `max` of the regions' scores (the paper), or `mean` of their probabilities by area.
        ensemble: `mean` of the probabilities with FCN-8s's (the paper), `product` of both networks' clipped
            scores (the released code), or `off`. If it is None, a network known by name is used with the
            partner that the registry names, and a file alone.
        fcn: the FCN-8s of the ensemble, by name or file; None is that partner, or the shipped one.
        crf: sharpen with the dense CRF.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        batch_size: crops that go through the network together; None chooses by device and free memory.
            Batches that do not fit are halved, whoever chose.
        threads: CPU threads; None leaves torch's choice, at most the cores that this process may use.
        only: names of the classes to keep, all other pixels become background; None keeps all. A string is
            one name.

    Attributes:
        weights: the network's name or file, as it was given.
        settings: all settings of the method.
        fcn: name or file of the FCN-8s, should there be an ensemble.
        notes: after `load`, what does not hold as one may think: an ensemble that could not be, say.

    Raises:
        UsageError: a value that is none of these, or two that exclude each other; names of networks, devices
            and classes are looked at by `load`.
    """

    def __init__(
        self,
        weights: str | Path = "default",
        *,
        forest: str | Path | None = None,
        protocol: str = "default",
        proposals: int | None = None,
        min_side: int | None = None,
        stop: float | None = None,
        fusion: FusionRule | None = None,
        ensemble: EnsembleRule | None = None,
        fcn: str | Path | None = None,
        crf: bool = True,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        if protocol not in PRESETS:
            raise UsageError(f"{protocol}: no such protocol; take one of {', '.join(PRESETS)}")
        options: dict[str, Any] = {
            "proposals": proposals,
            "min_side": min_side,
            "stop": stop,
            "fusion": fusion,
            "ensemble": ensemble,
        }
        given = {name: value for name, value in options.items() if value is not None}
        self.settings = replace(PRESETS[protocol], **given, crf=crf)
        refuse_below(1, batch_size=batch_size, threads=threads)
        if fcn is not None and self.settings.ensemble == "off":
            raise UsageError(f"{fcn}: an FCN-8s is for ensembles, and there is none; ask for mean or product")
        must_ensemble = fcn is not None or ensemble is not None
        # The default protocol pairs only networks that are known to belong together.
        fallback = FCN if must_ensemble or protocol != "default" else None
        self.weights, self._file, self._forest = str(weights), weights, forest
        self.fcn = fcn or partner_of(weights) or fallback
        self._for_regions = sorted(given.keys() - {"ensemble"})
        self._choices: dict[str, Any] = {"must_ensemble": must_ensemble, "device": device}
        self._choices |= {"precision": precision, "batch_size": batch_size}
        self._threads = threads
        self._only = None if only is None else chosen(only)
        self.notes: list[str] = []
        self._inference: Inference | None = None
        self._forest_in_use: tuple[Path, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_inference": None, "_forest_in_use": None}

    def segment(
        self,
        image: ImageLike,
        *,
        size: tuple[int, int] | None = None,
        probabilities: bool = False,
    ) -> Segmentation:
        """Label every pixel of one photo.

        Args:
            image: a file's path or address (`https://`, `s3://`, ...); a `PIL.Image.Image`, turned upright by
                its EXIF orientation; or a uint8 array (H, W, 3) RGB, (H, W, 4) RGBA, laid on white, or (H, W)
                grey. Arrays are copied.
            size: height and width of the result, if the array is a reduced photo (`images.read.read_photo`).
            probabilities: keep the class probabilities as well (C x H x W floats).

        Raises:
            InputError: a file that cannot be read, or anything else that is no photo.
        """
        ((prepared, found),) = self.fuse([self.prepare(image, size=size)])
        return self.finish(prepared, found, keep_probabilities=probabilities)

    def segment_many(
        self, images: Iterable[ImageLike], *, probabilities: bool = False
    ) -> Iterator[Segmentation]:
        """Label photos, of any sizes, one after the other; their regions share the network's batches.

        Photos are taken as they are needed, and memory does not grow with their number. A photo's result does
        not depend on the others; from that of `segment` scores differ in their last bits.

        Args:
            images, probabilities: as `segment` takes them.

        Yields:
            A result for each photo, in their order.

        Raises:
            InputError: a photo that is none, after the results of all before it; or one in place of several.
        """
        refuse_one(images)
        fault: InputError | None = None

        def prepared_images() -> Iterator[Prepared]:
            nonlocal fault
            for image in images:
                try:
                    yield self.prepare(image)
                except InputError as error:
                    fault = error
                    return

        for prepared, found in self.fuse(prepared_images(), full_batches=True):
            yield self.finish(prepared, found, keep_probabilities=probabilities)
        if fault:
            raise fault

    def prepare(self, image: ImageLike | PhotoPixels, *, size: tuple[int, int] | None = None) -> Prepared:
        """The first step: read a photo, shrink it and find its regions. It needs no network.

        Args:
            image, size: as of `segment`; or what `images.read.read_photo` gives.

        Raises:
            InputError: as of `segment`.
            WeightsError: the network's or forest's file is missing or damaged.
        """
        photo = image if isinstance(image, PhotoPixels) else as_photo(image, size)
        clock = Clock()
        use_threads()
        small = shrink(photo.image, WORKING_SIDE)
        boxes = self._regions(small)
        clock.lap("proposals")
        return Prepared(photo, small, boxes.xyxy, boxes.scores, clock.seconds)

    def fuse(
        self, photos: Iterable[Prepared], *, full_batches: bool = False
    ) -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        """The second step: the network. Regions of one photo and of the next share batches.

        Args:
            photos: taken as they are needed, some ahead of what is returned.
            full_batches: fill the last batch up, so that all are of one size. With the size of the batch a
                region's scores can differ in their last bits, but not with what else is in it: a photo's
                result then does not depend on the others.

        Yields:
            Each photo in order, its `boxes` those looked at and its `seconds` completed, with its
            probabilities, float32 (C, h, w) for its `image`.

        Raises:
            MemoryError: a region, or what a photo needs besides, does not fit into memory.
        """
        use_threads()
        return self.inference.fuse(photos, full_batches=full_batches)

    def finish(
        self,
        prepared: Prepared,
        probabilities: NDArray[np.float32],
        *,
        crf: bool | None = None,
        keep_probabilities: bool = False,
    ) -> Segmentation:
        """The third step: sharpen the network's answer and bring it to the photo's size, without a network.

        Args:
            prepared: what `fuse` gave back.
            probabilities: float32 (C, h, w), of its `image`.
            crf: sharpen with the dense CRF; None does what the settings say.
            keep_probabilities: keep them, at the photo's size.
        """
        clock = Clock(prepared.seconds)
        if self.settings.crf if crf is None else crf:
            probabilities = dense_crf(prepared.image, probabilities, self.crf_parameters)
            clock.lap("crf")
        photo = prepared.photo
        labels, kept = enlarge(probabilities, photo.height, photo.width, keep_probabilities)
        clock.lap("enlarge")
        height, width = prepared.image.shape[:2]
        scale = np.array([photo.width / width, photo.height / height] * 2, np.float32)
        result = Segmentation(
            labels=labels,
            classes=self.classes,
            palette=self.palette,
            probabilities=kept,
            boxes=prepared.boxes * scale,
            seconds=clock.seconds,
            pixels=photo.image,
            source=photo.source,
            notes=photo.notes,
        )
        return result if self._only is None else result.only(self._only)

    def step_by_step(self, prepared: Prepared) -> Iterator[PartialResult]:
        """The second step for those who look into what each region does, whatever `stop` is.

        Yields:
            The same object after none of the regions, after the first, and so on to the last.
        """
        use_threads()
        return self.inference.step_by_step(prepared)

    def edges(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The edge map behind the proposals, as of `EdgeDetector.detect`, of the photo at most 640 long."""
        return _detector(*self._forest_used()).detect(shrink(image, EDGES_SIDE))

    def with_settings(self, **changes: Any) -> Segmenter:
        """A copy with some of the settings changed (names as in `Settings`) that shares what is loaded."""
        other = copy.copy(self)
        other.settings = replace(self.settings, **changes)
        if self._inference:
            rule = other.settings.ensemble if self._inference.partner else "off"
            other._inference = replace(self._inference, settings=replace(other.settings, ensemble=rule))
        return other

    def load(self) -> None:
        """Read the network and the forest now rather than at the first photo.

        Raises:
            WeightsError: a file is missing or damaged.
            UsageError: a device or precision this machine does not have, or a class the network has not.
            MissingDependencyError: OpenCV without ximgproc.
        """
        if not self.inference.sees_whole_photo and self.settings.proposals:
            _detector(*self._forest_used())

    def identity(self) -> dict[str, object]:
        """Everything that can change a result, fit for JSON: what is equal in it gives equal masks."""
        proposes = self.settings.proposals and not self.sees_whole_photo
        settings = asdict(self.settings)
        del settings["crf_parameters"]
        return {
            "device": self.inference.device.type,
            **self._digests,
            "forest": self._forest_used()[1] if proposes else None,
            **settings,
            "ensemble": self.ensemble,
            "crf": asdict(self.crf_parameters) if self.settings.crf else None,
            "precision": self.precision,
            "only": self._only,
            "code": code_digest("deconvseg.segmenter"),
        }

    def settings_hash(self) -> str:
        """`identity` in 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def crf_parameters(self) -> CRFParameters:
        """Those of the settings, or of the network's file."""
        return self.settings.crf_parameters or CRFParameters.from_mapping(self.header.crf)

    @property
    def ensemble(self) -> EnsembleRule:
        """How FCN-8s joins in: `off` also where the network is an FCN-8s or has other classes."""
        return self.inference.settings.ensemble

    @property
    def header(self) -> NetworkHeader:
        """What the network's file says of itself; read without its tensors, as `sees_whole_photo` is."""
        return self._description[1]

    @property
    def sees_whole_photo(self) -> bool:
        """Whether the network is an FCN-8s, which looks at no regions."""
        return self._description[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the network, background first."""
        return self.header.classes

    @property
    def palette(self) -> Palette:
        """Colours of the classes."""
        return self.header.palette

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self.inference.device)

    @property
    def precision(self) -> str:
        """The network's arithmetic: `fp32`, `bf16` or `fp16`."""
        return self.inference.precision

    @property
    def inference(self) -> Inference:
        """The network, which is read at the first use; errors as of `load`."""
        with _loading:
            if self._inference is None:
                self._inference = self._load()
            return self._inference

    @cached_property
    def _description(self) -> tuple[bool, NetworkHeader]:
        network, header = describe_network(network_file(self._file))
        return isinstance(network, FCN8s), header

    def _regions(self, image: NDArray[np.uint8]) -> Boxes:
        """Regions of a photo with their scores, the whole photo first."""
        if self.settings.proposals and not self.sees_whole_photo:
            return propose(image, _detector(*self._forest_used()), self.settings)
        photo = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
        return Boxes(photo if self.sees_whole_photo else squared(photo), np.ones(1, np.float32))

    def _forest_used(self) -> tuple[Path, str]:
        """The forest's file and its digest at the first use, should it be replaced later."""
        if self._forest_in_use is None:
            path = forest_file(self._forest)
            self._forest_in_use = path, digest(path)
        return self._forest_in_use

    def _load(self) -> Inference:
        use_threads()
        # Left alone, torch and OpenCV would take all cores of the host, not of the container.
        torch.set_num_threads(self._threads or min(torch.get_num_threads(), cores()))
        cv2.setNumThreads(self._threads or min(cv2.getNumThreads(), cores()))
        inference, notes = load_inference(self._file, self.fcn, self.settings, **self._choices)
        # Of the networks in use, should their files be replaced later.
        files = {"weights": self._file, "fcn": self.fcn if inference.partner else None}
        self._digests = {key: digest(network_file(name)) if name else None for key, name in files.items()}
        refuse_unknown(self._only or (), inference.header.classes)
        if self.settings.crf:
            _ = self.crf_parameters  # a bad value is told now, not at the first photo
        if self.sees_whole_photo and self._for_regions:
            notes.append(
                f"{self.weights} is an FCN-8s, which sees the whole photo and no regions: "
                f"{', '.join(self._for_regions)} change nothing"
            )
        self.notes += [note for note in notes if note not in self.notes]
        return inference

"""The way of one photo: proposals, crops, network, fusion, CRF, Segmentation."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, replace
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import cv2
import torch

from deconvseg.errors import InputError, UsageError, WeightsError
from deconvseg.files import digest
from deconvseg.images.palette import Palette
from deconvseg.images.read import ImageLike, PhotoPixels, as_photo, refuse_one
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.fcn8s import FCN8s
from deconvseg.network.fold import pick_batch_size, pick_device, pick_precision, prepare
from deconvseg.postprocess.crf import CRFParameters
from deconvseg.postprocess.fusion import EnsembleRule, FusionRule
from deconvseg.regions import Inference
from deconvseg.segmentation import Segmentation, chosen, refuse_unknown
from deconvseg.settings import PRESETS
from deconvseg.steps import After, Before, Prepared
from deconvseg.weights import forest_file, is_missing, network_file, partner_of

FCN = "fcn8s-lite"
"""The FCN-8s of ensembles of networks that have no partner of their own."""


class Segmenter:
    """Segments photos with one network and one set of options.

    Making one is cheap; files are read at the first use or by `load`. It can be pickled to other processes.

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
        threads: CPU threads; None leaves torch's choice.
        only: names of the classes to keep, all other pixels become background; None keeps all. A string is
            one name.

    Attributes:
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
        self._weights, self._forest = weights, forest
        if protocol not in PRESETS:
            raise UsageError(f"{protocol}: no such protocol; take one of {', '.join(PRESETS)}")
        given: dict[str, Any] = {
            "proposals": proposals,
            "min_side": min_side,
            "stop": stop,
            "fusion": fusion,
            "ensemble": ensemble,
        }
        set_here = {key: value for key, value in given.items() if value is not None}
        self.protocol = replace(PRESETS[protocol], **set_here)
        for name, rules in (("fusion", FusionRule), ("ensemble", EnsembleRule)):
            _refuse_other(name, getattr(self.protocol, name), get_args(rules))
        _refuse_below(0, proposals=self.protocol.proposals, min_side=self.protocol.min_side)
        _refuse_below(1, batch_size=batch_size, threads=threads)
        if self.protocol.ensemble == "product" and self.protocol.fusion != "max":
            raise UsageError("the ensemble by product multiplies raw scores; it needs the fusion rule max")
        if not 0 <= self.protocol.stop <= 1:
            raise UsageError(f"stop {self.protocol.stop}: is a share of pixels; give 0 (look at all) to 1")
        if fcn is not None and self.protocol.ensemble == "off":
            raise UsageError(f"{fcn}: an FCN-8s is for ensembles, and there is none; ask for mean or product")
        self._must_ensemble = fcn is not None or ensemble is not None
        # The default protocol pairs only networks that are known to belong together.
        fallback = FCN if self._must_ensemble or protocol != "default" else None
        self.fcn = fcn or partner_of(weights) or fallback
        self._for_regions = sorted(set_here.keys() & {"proposals", "min_side", "stop", "fusion"})
        self._device, self._precision = device, precision
        self._batch_size, self._threads = batch_size, threads
        self._only = None if only is None else chosen(only)
        self.crf = crf
        self.notes: list[str] = []
        self._inference: Inference | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_inference": None}

    def load(self) -> None:
        """Read the network and the forest now rather than at the first photo.

        Raises:
            WeightsError: a file is missing or damaged.
            UsageError: a device or precision this machine does not have, or a class the network has not.
            MissingDependencyError: OpenCV without ximgproc.
        """
        self.before.load()

    def exhaustive(self, count: int) -> Segmenter:
        """A copy that looks at all of `count` regions and shares what is loaded."""
        other = copy.copy(self)
        other.protocol = replace(self.protocol, proposals=count, stop=0.0)
        other._inference = replace(self.inference, stop=0.0)
        return other

    @property
    def weights(self) -> str:
        """The network's name or file, as it was given."""
        return str(self._weights)

    @property
    def proposals(self) -> int:
        """Regions besides the whole photo."""
        return self.protocol.proposals

    @property
    def ensemble(self) -> EnsembleRule:
        """How FCN-8s joins in: `off` also where the network is an FCN-8s or has other classes."""
        return self.inference.ensemble

    @property
    def header(self) -> NetworkHeader:
        """What the network's file says of itself."""
        return self.inference.header

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the network, background first."""
        return self.inference.header.classes

    @property
    def palette(self) -> Palette:
        """Colours of the classes."""
        return self.inference.header.palette

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self.inference.device)

    @property
    def precision(self) -> str:
        """The network's arithmetic."""
        return self.inference.precision

    def settings(self) -> dict[str, object]:
        """Everything that can change a result, fit for JSON: equal settings give equal masks."""
        forest = self.before.forest
        return {
            "weights": digest(network_file(self._weights)),
            "fcn": digest(network_file(self.fcn)) if self.inference.partner and self.fcn else None,
            "forest": digest(forest) if forest else None,
            **asdict(self.protocol),
            "ensemble": self.ensemble,
            "crf": asdict(self._crf_parameters()) if self.crf else None,
            "precision": self.precision,
            "device": self.inference.device.type,
            "only": self._only,
        }

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
        (result,) = self._segmented([as_photo(image, size)], probabilities, full_batches=False)
        return result

    def segment_many(
        self, images: Iterable[ImageLike], *, probabilities: bool = False
    ) -> Iterator[Segmentation]:
        """Label photos, of any sizes, one after the other; their regions share the network's batches.

        Photos are taken as they are needed, and memory does not grow with their number. A photo's result does
        not depend on the others; from that of `segment` float32 scores differ in their last bits.

        Args:
            images: each as `segment` takes them.
            probabilities: as of `segment`.

        Yields:
            A result for each photo, in their order.

        Raises:
            InputError: a photo that is none, after the results of all those before it; or one photo in
                place of several.
        """
        refuse_one(images)
        fault: InputError | None = None

        def taken() -> Iterator[PhotoPixels]:
            nonlocal fault
            for image in images:
                try:
                    yield as_photo(image)
                except InputError as error:
                    fault = error
                    return

        yield from self._segmented(taken(), probabilities, full_batches=True)
        if fault:
            raise fault

    def _segmented(
        self, photos: Iterable[PhotoPixels], probabilities: bool, *, full_batches: bool
    ) -> Iterator[Segmentation]:
        before, after, inside = self.before, self.after, deque[PhotoPixels]()

        def prepared() -> Iterator[Prepared]:
            for photo in photos:
                inside.append(photo)
                yield before(photo.image, photo.height, photo.width)

        for ready, fused in self.inference.fuse(prepared(), full_batches=full_batches):
            photo = inside.popleft()
            found = after(ready, fused, probabilities=probabilities)
            yield replace(found, pixels=photo.image, source=photo.source, notes=photo.notes)

    @property
    def before(self) -> Before:
        """What a photo goes through before the network; it needs no network, and can be pickled."""
        forest = self.proposals and not self.inference.sees_whole_photo
        return Before(
            self.protocol, forest_file(self._forest) if forest else None, self.inference.sees_whole_photo
        )

    @property
    def inference(self) -> Inference:
        """The network, which is read at the first use; errors as of `load`."""
        if self._inference is None:
            self._inference = self._load()
        return self._inference

    @property
    def after(self) -> After:
        """What a photo goes through after the network; it needs no network, and can be pickled."""
        return After(self.classes, self.palette, self._crf_parameters() if self.crf else None, self._only)

    def _crf_parameters(self) -> CRFParameters:
        return self.protocol.crf or CRFParameters.from_mapping(self.header.crf)

    def _load(self) -> Inference:
        device = pick_device(self._device)
        precision = pick_precision(self._precision, device)
        if self._threads:
            torch.set_num_threads(self._threads)
            cv2.setNumThreads(self._threads)
        network, header = load_network(network_file(self._weights))
        if not header.statistics:
            raise WeightsError(
                f"{self._weights}: a network of a training stage, whose BatchNorm has no statistics yet; "
                f"train it further (deconvseg train --init {self._weights}) and segment with the result"
            )
        if isinstance(network, FCN8s) and self._for_regions:
            self._note(
                f"{self._weights} is an FCN-8s, which sees the whole photo and no regions: "
                f"{', '.join(self._for_regions)} change nothing"
            )
        refuse_unknown(self._only or (), header.classes)
        CRFParameters.from_mapping(header.crf)  # a bad value is told now, not at the first photo
        partner, partner_header = self._load_partner(network, header)
        network = prepare(network, device, precision)
        return Inference(
            network,
            header,
            partner and prepare(partner, device, precision),
            partner_header,
            self.protocol.fusion,
            self.protocol.ensemble if partner else "off",
            device,
            precision,
            self._batch_size or pick_batch_size(network, device),
            self.protocol.stop,
            self.protocol.round_size,
            self.protocol.share,
            self.protocol.mirrored,
        )

    def _load_partner(
        self, network: SegmentationNetwork, header: NetworkHeader
    ) -> tuple[SegmentationNetwork | None, NetworkHeader | None]:
        """The ensemble's FCN-8s; none if it is off, or not asked for and does not fit."""
        if self.protocol.ensemble == "off" or self.fcn is None:
            return None, None
        fault = None
        if isinstance(network, FCN8s):
            fault = f"{self._weights} is an FCN-8s itself"
        elif is_missing(self.fcn) and not self._must_ensemble:
            fault = f"{self.fcn} is not on this machine ('deconvseg weights pull {self.fcn}' tells more)"
        else:
            partner, partner_header = load_network(network_file(self.fcn))
            if not isinstance(partner, FCN8s):
                fault = f"{self.fcn} is no FCN-8s"
            elif partner_header.classes != header.classes:
                fault = f"{self.fcn} has other classes than {self._weights}"
        if fault is None:
            return partner, partner_header
        if self._must_ensemble:
            raise UsageError(f"no ensemble: {fault}; take another network, or the ensemble off")
        self._note(f"no ensemble: {fault}")
        return None, None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _refuse_other(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{value}: no such {name}; take one of {', '.join(known)}")


def _refuse_below(least: int, **numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, Integral) and value >= least):
            raise UsageError(f"{name} {value}: give a whole number, {least} or more")

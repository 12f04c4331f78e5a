"""The way of one photo: proposals, crops, network, fusion, CRF, Segmentation."""

from __future__ import annotations

import copy
import difflib
import hashlib
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.errors import InputError, UsageError, WeightsError
from deconvseg.images.enlarge import enlarge
from deconvseg.images.read import read_photo
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.device import pick_device
from deconvseg.network.fcn8s import FCN8s
from deconvseg.network.fold import Precision, pick_precision, prepare
from deconvseg.postprocess.crf import CRFParameters, crf_is_available, dense_crf
from deconvseg.postprocess.fusion import EnsembleRule, Fusion, FusionRule, ensemble
from deconvseg.proposals.boxes import propose
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.protocol import PROTOCOLS
from deconvseg.segmentation import Palette, Segmentation
from deconvseg.weights import forest_file, network_file

WORKING_SIDE = 1024
"""Photos with a longer side are shrunk to it for the work; the labels come back at the photo's size."""


@dataclass
class _Loaded:
    network: SegmentationNetwork
    header: NetworkHeader
    partner: SegmentationNetwork | None
    partner_header: NetworkHeader | None
    detector: EdgeDetector | None
    device: torch.device
    precision: Precision


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
        fusion: `max` of the regions' scores (the paper), or `mean` of their probabilities by area.
        ensemble: `mean` of the probabilities with FCN-8s's (the paper), `product` of both networks' clipped
            scores (the released code), or `off`.
        fcn: the FCN-8s of the ensemble, by name or file.
        crf: sharpen with the dense CRF, if it is installed.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        batch_size: crops that go through the network together; None chooses by device.
        threads: CPU threads; None leaves torch's choice.
        only: names of the classes to keep, all other pixels become background; None keeps all.
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
        fcn: str | Path = "fcn8s-lite",
        crf: bool = True,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        self._weights, self._forest = weights, forest
        if protocol not in PROTOCOLS:
            raise UsageError(f"{protocol}: no such protocol; take one of {', '.join(PROTOCOLS)}")
        given: dict[str, Any] = {
            "proposals": proposals,
            "min_side": min_side,
            "fusion": fusion,
            "ensemble": ensemble,
        }
        chosen = {key: value for key, value in given.items() if value is not None}
        self.protocol = replace(PROTOCOLS[protocol], **chosen)
        if self.protocol.ensemble == "product" and self.protocol.fusion != "max":
            raise UsageError("the ensemble by product multiplies raw scores; it needs the fusion rule max")
        self._must_ensemble, self._fcn = ensemble is not None, fcn
        self._device, self._precision = device, precision
        self._batch_size, self._threads = batch_size, threads
        self._only = None if only is None else sorted(set(only))
        self.crf = crf and crf_is_available()
        self.notes: list[str] = []
        if crf and not self.crf:
            self.notes.append(
                "the dense CRF is off: pydensecrf is missing (pip install pydensecrf2; Python up to 3.12)"
            )
        self._loaded: _Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def load(self) -> None:
        """Read the network and the forest now rather than at the first photo.

        Raises:
            WeightsError: a file is missing or damaged.
            UsageError: a device or precision this machine does not have, or a class the network has not.
            MissingDependencyError: OpenCV without ximgproc.
        """
        self._ready()

    def proposing(self, count: int) -> Segmenter:
        """A copy that looks at `count` regions besides the whole photo, and shares what is loaded."""
        other = copy.copy(self)  # __getstate__ leaves out what is loaded
        other.protocol = replace(self.protocol, proposals=count)
        if self._loaded and (self._loaded.detector or not count):
            other._loaded = self._loaded
        return other

    @property
    def proposals(self) -> int:
        """Regions besides the whole photo."""
        return self.protocol.proposals

    @property
    def ensemble(self) -> EnsembleRule:
        """How FCN-8s joins in: `off` also where the network is an FCN-8s or has other classes."""
        return self.protocol.ensemble if self._ready().partner else "off"

    @property
    def sees_whole_photo(self) -> bool:
        """Whether the network itself is an FCN-8s, which looks at no regions."""
        return isinstance(self._ready().network, FCN8s)

    @property
    def header(self) -> NetworkHeader:
        """What the network's file says of itself."""
        return self._ready().header

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the network, background first."""
        return self._ready().header.classes

    @property
    def palette(self) -> Palette:
        """Colours of the classes."""
        return self._ready().header.palette

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self._ready().device)

    @property
    def precision(self) -> str:
        """The network's arithmetic."""
        return self._ready().precision

    def settings(self) -> dict[str, object]:
        """Everything that can change a result, fit for JSON: equal settings give equal masks."""
        loaded = self._ready()
        return {
            "weights": _digest(network_file(self._weights)),
            "fcn": _digest(network_file(self._fcn)) if loaded.partner else None,
            "forest": _digest(forest_file(self._forest)) if loaded.detector else None,
            **asdict(self.protocol),
            "ensemble": self.ensemble,
            "crf": asdict(self._crf_parameters()) if self.crf else None,
            "precision": loaded.precision,
            "device": loaded.device.type,
            "only": self._only,
        }

    def segment(
        self,
        image: NDArray[np.uint8] | str | Path,
        *,
        size: tuple[int, int] | None = None,
        probabilities: bool = False,
    ) -> Segmentation:
        """Label every pixel of one photo.

        Args:
            image: uint8 (H, W, 3) RGB, or a file.
            size: height and width of the result, if the array is a reduced photo (`images.read.read_photo`).
            probabilities: keep the class probabilities as well (C x H x W floats).

        Raises:
            InputError: a file that cannot be read, or an array of another shape or type.
        """
        if isinstance(image, str | Path):
            photo = read_photo(image)
            image, size = photo.image, (photo.height, photo.width)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError(
                f"a photo must be a uint8 array (H, W, 3), not {image.dtype} {image.shape}; convert it to RGB"
            )
        loaded = self._ready()
        seconds: dict[str, float] = {}
        clock = _Clock(seconds)
        small = shrink(image, WORKING_SIDE)
        boxes = self.propose(small)
        clock.lap("proposals")
        fusion = self.new_fusion(small)
        for box, scores in self.score(small, boxes):
            fusion.add(scores, box)
        clock.lap("network")
        fused = self.combine(fusion, self.partner_scores(small)).cpu().numpy()
        clock.lap("ensemble")
        if self.crf:
            fused = self.sharpen(small, fused)
            clock.lap("crf")
        height, width = size or image.shape[:2]
        labels, kept = enlarge(fused, height, width, probabilities)
        clock.lap("enlarge")
        result = Segmentation(
            labels=labels,
            classes=loaded.header.classes,
            palette=loaded.header.palette,
            probabilities=kept,
            boxes=boxes * np.array([width / small.shape[1], height / small.shape[0]] * 2, np.float32),
            seconds=seconds,
        )
        return result if self._only is None else result.only(self._only)

    def propose(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Regions to look at: float32 (N, 4), x0 y0 x1 y1, the whole photo first, then best first."""
        loaded, protocol = self._ready(), self.protocol
        height, width = image.shape[:2]
        if isinstance(loaded.network, FCN8s):
            return np.array([[0, 0, width, height]], np.float32)
        if loaded.detector is None:
            half = max(height, width) / 2
            x, y = width / 2, height / 2
            return np.array([[x - half, y - half, x + half, y + half]], np.float32)
        return propose(
            image,
            loaded.detector,
            count=protocol.proposals,
            min_side=protocol.min_side,
            whole_photo=protocol.whole_photo,
            square=protocol.squared,
            same=protocol.same,
        ).xyxy

    def score(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32]
    ) -> Iterator[tuple[tuple[int, int, int, int], Tensor]]:
        """Run the network over regions of a photo, in batches.

        Yields:
            Each region in whole pixels with its raw scores (C, S, S), in the order of `boxes`; from FCN-8s,
            the whole photo with scores of its size.
        """
        loaded = self._ready()
        if isinstance(loaded.network, FCN8s):
            height, width = image.shape[:2]
            yield (0, 0, width, height), _whole_scores(loaded.network, loaded.header, image, loaded.device)
            return
        photo = _on(loaded.device, image)
        size = loaded.network.side
        whole = _whole_pixels(boxes)
        batch_size = self._batch_size or (64 if loaded.device.type == "cuda" else 16)
        for start in range(0, len(whole), batch_size):
            batch = whole[start : start + batch_size]
            crops = torch.stack([_crop(photo, box, size) for box in batch])
            yield from zip(batch, _run(loaded.network, loaded.header, crops), strict=True)

    def partner_scores(self, image: NDArray[np.uint8]) -> Tensor | None:
        """Raw scores (C, H, W) of the ensemble's FCN-8s on the whole photo; None without an ensemble."""
        loaded = self._ready()
        if loaded.partner is None or loaded.partner_header is None:
            return None
        return _whole_scores(loaded.partner, loaded.partner_header, image, loaded.device)

    def combine(self, fusion: Fusion, partner: Tensor | None) -> Tensor:
        """Class probabilities (C, H, W) of all regions, and of FCN-8s if it joins in."""
        return fusion.probabilities() if partner is None else ensemble(fusion, partner, self.ensemble)

    def new_fusion(self, image: NDArray[np.uint8]) -> Fusion:
        """An empty accumulator of a photo's size, by this segmenter's rule."""
        loaded = self._ready()
        height, width = image.shape[:2]
        # FCN-8s's one region needs no floor of 0 under its scores.
        rule = "mean" if isinstance(loaded.network, FCN8s) else self.protocol.fusion
        return Fusion(len(loaded.header.classes), height, width, rule, loaded.device)

    def sharpen(self, image: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dense CRF with the network's own parameters; arrays as in `postprocess.crf.dense_crf`."""
        return dense_crf(image, probabilities, self._crf_parameters())

    def _crf_parameters(self) -> CRFParameters:
        return self.protocol.crf or CRFParameters.from_mapping(self._ready().header.crf)

    def _ready(self) -> _Loaded:
        if self._loaded is None:
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
            _refuse_unknown(self._only or (), header.classes)
            is_whole = isinstance(network, FCN8s)
            detector = EdgeDetector(forest_file(self._forest)) if self.proposals and not is_whole else None
            CRFParameters.from_mapping(header.crf)  # a bad value is told now, not at the first photo
            partner, partner_header = self._load_partner(network, header)
            self._loaded = _Loaded(
                prepare(network, device, precision),
                header,
                partner and prepare(partner, device, precision),
                partner_header,
                detector,
                device,
                precision,
            )
        return self._loaded

    def _load_partner(
        self, network: SegmentationNetwork, header: NetworkHeader
    ) -> tuple[SegmentationNetwork | None, NetworkHeader | None]:
        """The ensemble's FCN-8s; none if it is off, or not asked for and does not fit."""
        if self.protocol.ensemble == "off":
            return None, None
        fault = None
        partner, partner_header = load_network(network_file(self._fcn))
        if isinstance(network, FCN8s):
            fault = f"{self._weights} is an FCN-8s itself"
        elif not isinstance(partner, FCN8s):
            fault = f"{self._fcn} is no FCN-8s"
        elif partner_header.classes != header.classes:
            fault = f"{self._fcn} has other classes than {self._weights}"
        if fault and self._must_ensemble:
            raise UsageError(f"no ensemble: {fault}; take another network, or the ensemble off")
        return (None, None) if fault else (partner, partner_header)


def _refuse_unknown(names: Collection[str], classes: tuple[str, ...]) -> None:
    for name in names:
        if name not in classes[1:]:
            near = difflib.get_close_matches(name.lower(), classes[1:], 1, cutoff=0.5)
            cure = f"did you mean {near[0]}?" if near else f"choose from {', '.join(classes[1:])}"
            raise UsageError(f"{name!r} is no class of this network; {cure}")


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The photo with its longer side at most `side` pixels; smaller ones come back as they are."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[no-any-return]


class _Clock:
    """Adds up wall-clock seconds by step."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step], self.last = now - self.last, now


def _whole_pixels(boxes: NDArray[np.float32]) -> list[tuple[int, int, int, int]]:
    """Boxes rounded to pixels, at least one pixel wide and high."""
    rounded = []
    for x0, y0, x1, y1 in boxes.tolist():
        left, top = round(x0), round(y0)
        rounded.append((left, top, max(round(x1), left + 1), max(round(y1), top + 1)))
    return rounded


def _on(device: torch.device, image: NDArray[np.uint8]) -> Tensor:
    """A photo as uint8 (3, H, W) on a device."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)


def _run(network: SegmentationNetwork, header: NetworkHeader, images: Tensor) -> Tensor:
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
    """Raw scores float32 (C, H, W) of a photo that goes through FCN-8s at the network's size."""
    height, width = image.shape[:2]
    scale = network.side / max(height, width)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    photo = functional.interpolate(
        _on(device, image)[None].float(), size, mode="bilinear", antialias=True, align_corners=False
    )
    scores = _run(network, header, photo).float()
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


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

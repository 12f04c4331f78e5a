"""The decoder at work on a region: one map of every layer, coarse first (paper, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.images.read import PhotoPixels
from deconvseg.inspection.region import Region, deconvnet_of, look_at
from deconvseg.network.trace import Trace, trace
from deconvseg.segmentation import Segmentation, refuse_unknown
from deconvseg.segmenter import Segmenter


@dataclass(frozen=True)
class Layer:
    """One map of a layer of the decoder.

    Attributes:
        name: `fc6_deconv`, `unpool5`, `deconv5_1`, ...
        map: float32 (h, w), after ReLU: 0 or more.
        channel: which of the layer's maps it is, from 0.
        channels: how many it has.
        active: share of this map's cells above 0.
        active_of_all: the same of all the layer's maps.
    """

    name: str
    map: NDArray[np.float32]
    channel: int
    channels: int
    active: float
    active_of_all: float

    @property
    def block(self) -> int | None:
        """5 to 1: the pooling of this number is undone, or has just been; None of fc6_deconv."""
        return None if self.name == "fc6_deconv" else int(self.name.partition("_")[0][-1])


@dataclass(frozen=True)
class Layers:
    """What the decoder makes of a region.

    Attributes:
        region: what went in.
        layers: in the order they are computed.
        asked: the class that the channels were chosen for, None if they are the most active ones.
        class_name: the class of `score`: the one asked for, else the largest object, else background.
        score: float32 (S, S), that class's raw scores.
        labelling: of the crop's pixels inside the photo, by this network alone, without CRF.
    """

    region: Region
    layers: tuple[Layer, ...]
    asked: str | None
    class_name: str
    score: NDArray[np.float32]
    labelling: Segmentation

    def numbers(self) -> dict[str, object]:
        """Everything but the maps themselves, fit for JSON."""
        return {
            "box": list(self.region.box),
            "class": self.asked,
            "layers": [
                {
                    "name": layer.name,
                    "size": list(layer.map.shape),
                    "channel": layer.channel,
                    "channels": layer.channels,
                    "max": float(layer.map.max()),
                    "mean": float(layer.map.mean()),
                    "active": layer.active,
                    "active_of_all": layer.active_of_all,
                }
                for layer in self.layers
            ],
            "score": {
                "class": self.class_name,
                "size": list(self.score.shape),
                "min": float(self.score.min()),
                "max": float(self.score.max()),
                "mean": float(self.score.mean()),
            },
            "classes": self.labelling.class_shares(),
        }


def inspect_layers(
    segmenter: Segmenter,
    photo: PhotoPixels,
    box: Sequence[float] | None = None,
    class_name: str | None = None,
) -> Layers:
    """One map of each layer of the decoder, for the whole photo or a box of it.

    Without a class it is the layer's most active map, that with the largest mean inside the photo. With a
    class it is the one that drives this class's score most. The score is S, the sum over all pixels inside
    the photo of the class's raw score times its probability (held constant): pixels count that are taken for
    the class. Then the map is the one whose values times the gradient of S by them add up to the most: to
    first order, what S would lose without it.

    Args:
        segmenter: with a DeconvNet, `precision="fp32"`.
        photo: from `images.read.read_photo`.
        box: x0 y0 x1 y1 in pixels of the photo, widened to a square; None is the whole photo.
        class_name: of the network's classes, not background.

    Raises:
        UsageError: no such class (the nearest is told), a box outside the photo, or a network that is no
            DeconvNet in float32.
    """
    classes = segmenter.classes
    refuse_unknown([] if class_name is None else [class_name], classes)
    region = look_at(segmenter, photo, box)
    found = trace(deconvnet_of(segmenter), region.inputs)
    label = None if class_name is None else classes.index(class_name)
    chosen = choose_channels(found, label, region)
    # Scores below 0 count as 0, as where regions are put together (`postprocess.fusion`).
    labels = found.scores.detach().clamp_min(0).argmax(0).to(torch.uint8).cpu().numpy()[region.inside]
    labelling = Segmentation(labels, classes, segmenter.palette)
    objects = (name for name in labelling.class_shares() if name != classes[0])
    shown = class_name or next(objects, classes[0])
    return Layers(
        region,
        tuple(_layer(name, maps[0].detach(), chosen[name]) for name, maps in found.decoded.items()),
        class_name,
        shown,
        found.scores[classes.index(shown)].detach().cpu().numpy(),
        labelling,
    )


def choose_channels(found: Trace, label: int | None, region: Region) -> dict[str, int]:
    """The channel to show of each of the decoder's layers, as `inspect_layers` describes.

    Args:
        found: from `network.trace`.
        label: of a class; None chooses the most active ones.
        region: what went in.
    """
    if label is None:
        return {name: int(means(maps[0], region).argmax()) for name, maps in found.decoded.items()}
    score, share = found.scores[label], found.scores.detach().softmax(0)[label]
    gradients = torch.autograd.grad((score * share)[region.inside].sum(), list(found.decoded.values()))
    drives = zip(found.decoded.items(), gradients, strict=True)
    return {name: int((maps * by)[0].sum((1, 2)).argmax()) for (name, maps), by in drives}


def means(maps: Tensor, region: Region) -> Tensor:
    """The mean of each map (C, h, h) inside the photo: (C)."""
    return maps[:, *region.cells(maps.shape[-1])].mean((1, 2))


def _layer(name: str, maps: Tensor, channel: int) -> Layer:
    one = maps[channel].float().cpu().numpy()
    return Layer(name, one, channel, len(maps), float((one > 0).mean()), float((maps > 0).float().mean()))

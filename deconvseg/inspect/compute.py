"""Looks into the way of one photo: the decoder's maps, the poolings' switches, what proposals do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.images.write import overlay
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.inputs import crop, normalise, on_device, whole_pixels
from deconvseg.postprocess.crf import dense_crf
from deconvseg.proposals.boxes import shrink, squared
from deconvseg.segmentation import Segmentation, refuse_unknown
from deconvseg.segmenter import WORKING_SIDE, Segmenter

Box = Sequence[float]
CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
STEPS = (1, 5, 10, 25, 50)  # numbers of proposals whose labelling is kept
CRF = "after the CRF"  # the name of the last labelling, if there is a CRF
_REACH = 2  # a box may be so many times as long as its photo: the zeros outside take memory
_ZOOMED = 4  # cells of 2 x 2 pixels on a side of the part of a map that is shown enlarged


@dataclass(frozen=True)
class Inspection:
    """What was found in a photo."""

    numbers: dict[str, Any]  # fit for JSON; docs/inspect.md lists them
    pictures: dict[str, NDArray[Any]]  # by name, as the function that found them says
    labellings: dict[str, Segmentation] = field(default_factory=dict)  # by name, of the picture of the photo


def inspect_layers(
    segmenter: Segmenter, photo: PhotoPixels, box: Box | None = None, class_name: str | None = None
) -> Inspection:
    """One map of each layer of the decoder, chosen as docs/inspect.md says; arguments are as of `trace`.

    Pictures are `input`, uint8 (S, S, 3); the map of each layer by its name, float32 (h, w), 0 or more;
    `score`, float32 (S, S), raw scores of the class, else of the largest object or background; and
    `painted`, the input with the `labelling` of its part inside the photo by this network alone, without CRF.
    """
    found, classes = trace(segmenter, photo, box, class_name), segmenter.classes
    # Scores below 0 count as 0, as where regions are put together (`postprocess.fusion`).
    inside = found.inside.cpu().numpy()
    part = np.ix_(inside.any(1), inside.any(0))
    labels = found.scores.clamp_min(0).argmax(0).to(torch.uint8).cpu().numpy()[part]
    labelling = Segmentation(labels, classes, segmenter.palette)
    shares = labelling.class_shares()
    shown = class_name or next((name for name in shares if name != classes[0]), classes[0])
    score = found.scores[classes.index(shown)].cpu().numpy()
    painted = found.crop.copy()
    painted[part] = np.asarray(overlay(labels, segmenter.palette, painted[part]))
    pictures = {"input": found.crop, "score": score, "painted": painted}
    layers = []
    for name, maps in found.decoded.items():
        channel = found.driving.get(name, int(found.means(maps).argmax()))
        pictures[name] = one = maps[channel].cpu().numpy()
        layer: dict[str, Any] = {"name": name, "size": list(one.shape), "channel": channel}
        layer |= {"channels": len(maps), "max": float(one.max()), "active": float((one > 0).mean())}
        layers.append(layer)
    about = {"class": shown, "size": list(score.shape), "max": float(score.max())}
    numbers = {**found.numbers, "layers": layers, "score": about, "classes": shares}
    return Inspection(numbers, pictures, {"labelling": labelling})


def inspect_switches(
    segmenter: Segmenter, photo: PhotoPixels, box: Box | None = None, class_name: str | None = None
) -> Inspection:
    """The poolings of the encoder and the unpoolings of the decoder; arguments are as of `trace`.

    The channel of a stage has the largest product of the means on both sides inside the photo or, with a
    class, the unpooled map that drives its score most. Without an unpooling it is the most active one.

    Pictures are `input`, uint8 (S, S, 3), and for each pooling, 1 (the finest) to 5, on its channel:
    `encoded1`, float32 (2h, 2w), the encoder's map before it; `pooled1`, float32 (h, w), after it;
    `corners1`, uint8 (h, w), which pixel of each 2 x 2 cell is the largest, the first of equal ones, an index
    into CORNERS; and, if an unpooling undoes it, `decoded1`, float32 (h, w), and `unpooled1`, float32
    (2h, 2w), the decoder's maps before and after that.
    """
    found = trace(segmenter, photo, box, class_name)
    pictures: dict[str, NDArray[Any]] = {"input": found.crop}
    stages = [_stage(found, number, pictures) for number in range(1, 6)]
    return Inspection({**found.numbers, "stages": stages}, pictures)


def _stage(found: Trace, number: int, pictures: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The numbers of a pooling; its pictures are added to `pictures`."""
    before, where = found.encoded[number - 1], found.switches[number - 1]
    pooled, back = functional.max_pool2d(before, 2), found.decoded.get(f"unpool{number}")
    corners = where // before.shape[-1] % 2 * 2 + where % 2
    maps, active = {"encoded": before, "pooled": pooled, "corners": corners.byte()}, found.means(pooled)
    if back is not None:
        maps |= {"unpooled": back, "decoded": functional.max_pool2d(back, 2)}
        active = active * found.means(back)
    channel = found.driving.get(f"unpool{number}", int(active.argmax()))
    own = {name: map_[channel].cpu().numpy() for name, map_ in maps.items()}
    pictures |= {f"{name}{number}": picture for name, picture in own.items()}
    inside = found.cells(len(own["pooled"]))
    filled = pooled[:, inside] > 0
    counts = np.bincount(corners[:, inside][filled].cpu().numpy(), minlength=len(CORNERS))
    shares = (counts / max(counts.sum(), 1)).tolist()
    # The window with the largest sum inside the photo, in pixels before pooling.
    busy = own["pooled"] * own.get("decoded", 1) * inside.cpu().numpy()
    side = min(_ZOOMED, len(busy))
    sums = sliding_window_view(busy, (side, side)).sum((2, 3))
    top, left = (2 * int(place) for place in np.unravel_index(sums.argmax(), sums.shape))
    return {
        "stage": number,
        "size": list(before.shape[1:]),
        "pooled_size": list(pooled.shape[1:]),
        "channel": channel,
        "corners": dict(zip(CORNERS, shares, strict=True)) if counts.any() else None,
        "empty": 1 - int(counts.sum()) / filled.numel(),
        "unpooled": back is not None,
        "window": [left, top, left + 2 * side, top + 2 * side],
    }


def inspect_proposals(segmenter: Segmenter, photo: PhotoPixels, count: int = max(STEPS)) -> Inspection:
    """Look at up to `count` proposals one after the other and keep the labellings on the way.

    Each labelling, by its step's name, is that of a `Segmenter` with so many proposals, without CRF but
    for the last, at the size the photo is worked on. Pictures are the `photo` at that size, uint8
    (h, w, 3), no side over 1024, and its `edges`, float32 (h', w'), 0 to about 1, no side over 640.

    The photo is from `images.read.read_photo`; a UsageError is raised for a network that sees no proposals.
    """
    if segmenter.sees_whole_photo:
        raise UsageError(f"{segmenter.weights}: is an FCN, which looks at no proposals; give a DeconvNet")
    segmenter = segmenter.with_settings(proposals=count)
    prepared = segmenter.prepare(photo)
    first = 0 if segmenter.settings.whole_photo else 1  # ranks count from here: the best proposal has rank 1
    labels, labellings, steps, changed = np.zeros(0, np.uint8), {}, [], []
    for rank, result in enumerate(segmenter.inference.step_by_step(prepared), first - 1):
        probabilities, prepared = result.probabilities(), result.prepared
        most = len(prepared.boxes) - 1 + first
        before, labels = labels, probabilities.argmax(0).astype(np.uint8)
        if result.done:
            changed.append(float((labels != before).mean()))
        if rank in STEPS or rank == most:
            name = f"{rank or 'no'} proposal{'s' * (rank != 1)}"
            labellings[name] = found = Segmentation(labels, segmenter.classes, segmenter.palette)
            steps.append({"proposals": rank, "classes": found.class_shares()})
    if segmenter.settings.crf:
        sharp = dense_crf(prepared.image, probabilities, segmenter.crf_parameters).argmax(0)
        labellings[CRF] = Segmentation(sharp.astype(np.uint8), segmenter.classes, segmenter.palette)
    height, width = prepared.image.shape[:2]
    scale = np.array([photo.width / width, photo.height / height] * 2, np.float32)
    rows = zip((prepared.boxes * scale).tolist(), prepared.scores.tolist(), changed, strict=True)
    numbers = {
        "width": photo.width,
        "height": photo.height,
        "proposals": most,
        "boxes": [
            {"rank": rank, "box": box, "score": score if rank and score == score else None, "changed": share}
            for rank, (box, score, share) in enumerate(rows, first)
        ],
        "steps": steps,
        "crf": {"classes": labellings[CRF].class_shares()} if CRF in labellings else None,
    }
    pictures: dict[str, Any] = {"photo": prepared.image, "edges": segmenter.edges(prepared.image)}
    return Inspection(numbers, pictures, labellings)


@dataclass(frozen=True)
class Trace:
    """A square of a photo and what a network makes of it."""

    numbers: dict[str, object]  # `width` and `height` of the photo, the `box` in its pixels, the `class`
    crop: NDArray[np.uint8]  # (S, S, 3), RGB; black outside the photo
    inside: Tensor  # bool (S, S), a rectangle: the pixels of the crop that show the photo
    encoded: list[Tensor]  # float32 (C, 2h, 2w), the encoder's maps before each of the five poolings
    switches: list[Tensor]  # int64 (C, h, w) of each pooling, as of `DeconvNet.encode`
    decoded: dict[str, Tensor]  # float32 (C, h, w), not negative: `fc6_deconv`, `unpool5`, `deconv5_1`, ...
    scores: Tensor  # float32 (classes, S, S), raw
    driving: dict[str, int]  # by name of `decoded` the channel that drives the class most; empty without one

    def cells(self, size: int) -> Tensor:
        """The cells of a map of `size` x `size` that show any of the photo, bool (size, size)."""
        return functional.adaptive_max_pool2d(self.inside[None].float(), size)[0] > 0

    def means(self, maps: Tensor) -> Tensor:
        """The mean of each of the maps (C, h, h) inside the photo: (C)."""
        return maps[:, self.cells(maps.shape[-1])].mean(1)


def trace(segmenter: Segmenter, photo: PhotoPixels, box: Box | None, class_name: str | None) -> Trace:
    """Cut a region out as `Segmenter` does, and follow it through the network.

    The segmenter has a DeconvNet in precision `fp32`, the photo is from `images.read.read_photo`. The box, x0
    y0 x1 y1 in pixels of the photo, is widened to a square around its centre; it may reach outside the photo.
    None is all of it. Raises a UsageError for anything else, as a class that is unknown or the background.
    """
    refuse_unknown([] if class_name is None else [class_name], segmenter.classes)
    network = segmenter.inference.network
    if not isinstance(network, DeconvNet):
        raise UsageError(f"{segmenter.weights}: is an FCN, which unpools nothing; give a DeconvNet")
    if (precision := segmenter.inference.precision) != "fp32":
        raise UsageError(f"precision {precision}: a network is looked into in fp32; ask for that")
    box = (0, 0, photo.width, photo.height) if box is None else box
    x0, y0, x1, y1 = box
    shows = max(x0, 0) < min(x1, photo.width) and max(y0, 0) < min(y1, photo.height)
    if not (shows and max(x1 - x0, y1 - y0) <= _REACH * max(photo.width, photo.height)):  # NaN is in no order
        text = ",".join(f"{number:g}" for number in box)
        size = f"{photo.width} x {photo.height} pixels, or is over {_REACH} times as long"
        raise UsageError(f"box {text}: shows nothing of the photo of {size}")
    image = shrink(photo.image, WORKING_SIDE)
    scale = np.array([image.shape[1] / photo.width, image.shape[0] / photo.height] * 2)
    (whole,) = whole_pixels(squared((np.array([box]) * scale).astype(np.float32)))
    device = segmenter.inference.device
    pixels = crop(on_device(device, image), whole, network.side)
    share = crop(on_device(device, np.ones_like(image)), whole, network.side)[0]
    inside = share > share.max() / 2  # of a photo thinner than a pixel of the crop no share is large
    maps, switches, scores = follow(network, normalise(pixels[None], segmenter.header))
    encoded = [maps.pop(f"pool{number}")[0] for number in range(1, 6)]
    driving = {}
    if class_name is not None:
        label = segmenter.classes.index(class_name)
        score = (scores[label] * scores.detach().softmax(0)[label])[inside].sum()
        drives = zip(maps.items(), torch.autograd.grad(score, list(maps.values())), strict=True)
        driving = {name: int((found * by)[0].sum((1, 2)).argmax()) for (name, found), by in drives}
    decoded = {name: found[0].detach() for name, found in maps.items()}
    place = (np.array(whole) / scale).tolist()
    numbers = {"width": photo.width, "height": photo.height, "box": place, "class": class_name}
    shown = pixels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Trace(numbers, shown, inside, encoded, switches, decoded, scores.detach(), driving)


def follow(network: DeconvNet, image: Tensor) -> tuple[dict[str, Tensor], list[Tensor], Tensor]:
    """The maps (1, C, h, w) by name, switches and scores of a crop; gradients are by the decoder's maps."""
    maps: dict[str, Tensor] = {}
    layers = {f"pool{number}": stage for number, stage in enumerate(network.encoder, 1)}
    layers["fc6_deconv"] = network.fc6_deconv
    with ExitStack() as hooks:
        for block, stage in zip(range(5, 0, -1), network.decoder, strict=False):
            keep = partial(lambda name, _, inputs: maps.update({name: inputs[0]}), f"unpool{block}")
            hooks.callback(stage.register_forward_pre_hook(keep).remove)
            layers |= stage.named_children()
        for name, layer in layers.items():
            keep = partial(lambda name, _, inputs, output: maps.update({name: output}), name)
            hooks.callback(layer.register_forward_hook(keep).remove)
        with torch.no_grad():
            code, switches = network.encode(image)
        with torch.enable_grad():
            scores = network.decode(code.detach().requires_grad_(), switches)
    return maps, [where[0] for where in switches], scores[0]

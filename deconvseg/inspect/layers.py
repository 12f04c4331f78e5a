"""The decoder at work on a region: one map of every layer, coarse first (paper, figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deconvseg.images.read import PhotoPixels
from deconvseg.images.write import overlay
from deconvseg.inspect import figure as drawing
from deconvseg.inspect.figure import HEAT, SIGNED, Inspection, own_style, printable, show
from deconvseg.inspect.trace import Box, trace
from deconvseg.segmentation import Segmentation
from deconvseg.segmenter import Segmenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def inspect_layers(
    segmenter: Segmenter, photo: PhotoPixels, box: Box | None = None, class_name: str | None = None
) -> Inspection:
    """One map of each layer of the decoder, for the whole photo or a box of it.

    Without a class it is the layer's most active map, that with the largest mean inside the photo. With a
    class it is the one that drives this class's score most. The score is S, the sum over all pixels inside
    the photo of the class's raw score times its probability (held constant): pixels count that are taken for
    the class. Then the map is the one whose values times the gradient of S by them add up to the most: to
    first order, what S would lose without it. Args and errors are those of `trace.trace`.

    Pictures are `input`, uint8 (S, S, 3); the map of each layer by its name, float32 (h, w), 0 or more;
    `score`, float32 (S, S), raw scores of the class, else of the largest object or background; and
    `painted`, the input with the `labelling` of its part inside the photo by this network alone, without CRF.
    """
    found, classes = trace(segmenter, photo, box, class_name), segmenter.classes
    # Scores below 0 count as 0, as where regions are put together (`postprocess.fusion`).
    labels = found.scores.clamp_min(0).argmax(0).to(torch.uint8).cpu().numpy()[found.inside]
    labelling = Segmentation(labels, classes, segmenter.palette)
    objects = (name for name in labelling.class_shares() if name != classes[0])
    shown = class_name or next(objects, classes[0])
    score = found.scores[classes.index(shown)].cpu().numpy()
    pictures: dict[str, Any] = {"input": found.crop}
    layers = []
    for name, maps in found.decoded.items():
        channel = found.driving.get(name, int(found.means(maps).argmax()))
        pictures[name] = one = maps[channel].cpu().numpy()
        place: dict[str, Any] = {"name": name, "size": list(one.shape), "channel": channel}
        place |= {"channels": len(maps), "max": float(one.max()), "mean": float(one.mean())}
        active = {"active": float((one > 0).mean()), "active_of_all": float((maps > 0).float().mean())}
        layers.append(place | active)
    painted = found.crop.copy()
    painted[found.inside] = overlay(labels, segmenter.palette, painted[found.inside])
    spread = {"min": float(score.min()), "max": float(score.max()), "mean": float(score.mean())}
    numbers = {
        **found.numbers,
        "layers": layers,
        "score": {"class": shown, "size": list(score.shape), **spread},
        "classes": labelling.class_shares(),
    }
    pictures |= {"score": score, "painted": painted}
    return Inspection(numbers, pictures, {"labelling": labelling})


@own_style()
def draw_layers(found: Inspection, title: str) -> Figure:
    """Draw a column for each block of the decoder, from the input on the left to the labelling."""
    numbers, columns = found.numbers, list[list[dict[str, Any]]]([[]])
    for layer in numbers["layers"]:
        if layer["name"].startswith("unpool"):
            columns.append([])
        columns[-1].append(layer)
    rows = max(2, *map(len, columns))
    pictures, labelling = found.pictures, found.labellings["labelling"]
    colours = drawing.class_colours([labelling])
    size = 1.9 * (len(columns) + 1), 2.4 * rows + 1.4 + 0.2 * (len(colours) // 6)
    figure, axes = drawing.panels(rows, len(columns) + 1, size, title)
    score = pictures["score"]
    side = f"{len(score)} x {len(score)}"
    show(axes[0, 0], pictures["input"], "input", side)
    for column, layers in enumerate(columns):
        for row, layer in enumerate(layers, start=column == 0):
            height, width = layer["size"]
            note = f"{width} x {height}, {layer['active']:.1%} active"
            note += f"\nchannel {layer['channel']}, max {layer['max']:.3g}"
            show(axes[row, column], pictures[layer["name"]], layer["name"].replace("fc6_", "fc6-"), note)
    most = max(float(np.abs(score).max()), 1e-6)
    note = f"{side}\n{score.min():.3g} to {score.max():.3g}"
    name = f"score of {numbers['score']['class'][:20]}"
    show(axes[0, -1], score, name, note, cmap=SIGNED, vmin=-most, vmax=most)
    show(axes[1, -1], pictures["painted"], "labelling", drawing.shares(labelling))
    asked = numbers["class"]
    which = f"the one that drives {printable(asked)} most" if asked else "the most active one"
    lines = f"One map of each layer, {which}, in the order of computing: down each column, then right.\n"
    lines += "unpool puts values back where pooling took its maxima; deconv fills the gaps."
    scales = {"0 to the map's maximum": HEAT, "score below 0 to above": SIGNED}
    drawing.key(figure, lines, {**scales, **colours}, columns=6)
    return figure

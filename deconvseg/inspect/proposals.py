"""How the proposals build up a photo's labelling (paper, figure 6)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.images.write import overlay
from deconvseg.inspect import figure as drawing
from deconvseg.inspect.figure import EDGES, HEAT, Inspection, own_style, show
from deconvseg.postprocess.crf import dense_crf
from deconvseg.segmentation import Segmentation
from deconvseg.segmenter import Segmenter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = (1, 5, 10, 25, 50)
"""Numbers of proposals whose labelling is kept."""
CRF = "after the CRF"
"""The name of the last labelling, if there is a CRF."""


def inspect_proposals(segmenter: Segmenter, photo: PhotoPixels, count: int = max(STEPS)) -> Inspection:
    """Look at up to `count` proposals one after the other and keep the labellings on the way.

    Each labelling is that of a `Segmenter` with so many proposals that stops at nothing (`stop=0`), without
    CRF, at the size the photo is worked on; an ensemble's FCN-8s has its part in each. They are kept by the
    names of the steps: after each number of proposals in STEPS below that of all there are, after those, and
    after the CRF if there is one. Pictures are the `photo` as it is worked on, uint8 (h, w, 3), no side over
    1024, and its `edges`, float32 (h', w'), 0 to about 1, no side over 640.

    Args:
        segmenter: with a DeconvNet; its own number of proposals and `stop` do not count.
        photo: from `images.read.read_photo`.
        count: most proposals.

    Raises:
        UsageError: a network that looks at no proposals.
    """
    if segmenter.sees_whole_photo:
        raise UsageError(f"{segmenter.weights}: is an FCN-8s, which looks at no proposals; give a DeconvNet")
    segmenter = segmenter.with_settings(proposals=count)
    prepared = segmenter.prepare(photo)
    first = 0 if segmenter.settings.whole_photo else 1  # ranks count from here: the best proposal has rank 1
    most = len(prepared.boxes) - 1 + first
    labels, found, changed = np.zeros(0, np.uint8), {}, []
    for partial in segmenter.step_by_step(prepared):
        probabilities = partial.probabilities()
        before, labels = labels, probabilities.argmax(0).astype(np.uint8)
        rank = partial.done - 1 + first
        if partial.done:
            changed.append(float((labels != before).mean()))
        if rank in STEPS or rank == most:
            found[rank] = Segmentation(labels, segmenter.classes, segmenter.palette)
    labellings = {_step_name(rank, most): labelling for rank, labelling in found.items()}
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
            {"rank": rank, "box": box, "score": score if rank else None, "changed": share}
            for rank, (box, score, share) in enumerate(rows, first)
        ],
        "steps": [{"proposals": rank, "classes": one.class_shares()} for rank, one in found.items()],
        "crf": {"classes": labellings[CRF].class_shares()} if CRF in labellings else None,
    }
    pictures: dict[str, Any] = {"photo": prepared.image, "edges": segmenter.edges(prepared.image)}
    return Inspection(numbers, pictures, labellings)


def _step_name(rank: int, most: int) -> str:
    if rank < 1:
        return "no proposals"
    every = "all " * (rank == most and rank not in STEPS)  # there were no more
    return f"{every}{rank} proposal{'s' * (rank > 1)}"


_AREA = 5.0
"""Square inches of a panel."""
_TAGS = ((0.0, 0), (1.0, 0), (0.0, 1), (1.0, 1), (0.5, 0))
"""Where in their boxes the ranks 1 to 5 stand, across and down: none over another if boxes share a corner."""
_SHORTEST = 480
"""Pixels. Smaller photos are enlarged to it, so that the outlines of objects stay thin."""


@own_style()
def draw_proposals(found: Inspection, title: str) -> Figure:
    """Draw the proposals' work: photo, edges, boxes by rank, and the labelling as it grows."""
    image, edges = found.pictures["photo"], found.pictures["edges"]
    height, width = image.shape[:2]
    shape = min(max(width / height, 0.25), 4.0)
    panel = max(math.sqrt(_AREA * shape), 2.1), math.sqrt(_AREA / shape) + 0.65  # captions need 2.1
    count = 3 + len(found.labellings)
    # The paper is about 3 : 2.
    columns = min(max(round(math.sqrt(1.5 * count * panel[1] / panel[0])), 1), count)
    rows = math.ceil(count / columns)
    colours = drawing.class_colours([*found.labellings.values()])
    paper = columns * (panel[0] + 0.2), rows * panel[1] + 1.3 + 0.16 * len(colours) // columns
    figure, axes = drawing.panels(rows, columns, paper, title)
    places = iter(axes.flat)
    show(next(places), image, "photo", f"{width} x {height} as it is worked on")
    show(next(places), edges, "edges", f"strength 0 to {edges.max():.2f}", cmap=EDGES)
    boxes = [box for box in found.numbers["boxes"] if box["rank"]]
    note = "none is long enough"
    if boxes:
        note = f"{len(boxes)}, squared; scores {boxes[0]['score']:.2g} to {boxes[-1]['score']:.2g}"
    # Grey and dim, so that coloured lines stand out.
    dim = (image.mean(2, keepdims=True) * 0.55 + 25).astype(np.uint8).repeat(3, 2)
    show(place := next(places), dim, "boxes", note)
    scale = np.array([width / found.numbers["width"], height / found.numbers["height"]] * 2)
    _draw_boxes(place, [(np.array(box["box"]) * scale).tolist() for box in boxes], panel[0])
    times, before = math.ceil(_SHORTEST / max(width, height)), None
    for name, labelling in found.labellings.items():
        note = drawing.shares(labelling)
        if before is not None:
            note += "; " if "\n" in note else "\n"
            note += f"{(labelling.labels != before.labels).mean():.1%} changed"
        labels, photo = (pixels.repeat(times, 0).repeat(times, 1) for pixels in (labelling.labels, image))
        show(next(places), overlay(labels, labelling.palette, photo), name, note)
        before = labelling
    ranks = {f"rank 1 to {len(boxes)}": f"{HEAT}_r"} if len(boxes) > 1 else {}
    text = "A labelling takes in the whole photo and so many proposals, best first, before the CRF."
    drawing.key(figure, text, {**ranks, **colours}, columns=max(2, 2 * columns))
    return figure


def _draw_boxes(axes: Axes, boxes: list[list[float]], inches: float) -> None:
    """The proposals, cut off at the photo's border, the best on top; the first few with their rank.

    `boxes` are in pixels of the image, which is so many `inches` wide.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    height, width = axes.images[0].get_size()
    point = width / (inches * 72)
    for rank, (x0, y0, x1, y1) in reversed([*enumerate(boxes, 1)]):
        # Cut lines lie a little inside, each box's a bit further, so that they are not all one.
        inset = point * (1 + 0.25 * rank)
        left, top = max(x0, inset) - 0.5, max(y0, inset) - 0.5
        wide, high = min(x1, width - inset) - 0.5 - left, min(y1, height - inset) - 0.5 - top
        colour = colormaps[HEAT](1 - (rank - 1) / max(len(boxes) - 1, 1))
        thick = 1.8 if rank <= len(_TAGS) else 0.7
        axes.add_patch(Rectangle((left, top), wide, high, fill=False, edgecolor=colour, linewidth=thick))
        if rank <= len(_TAGS):
            across, down = _TAGS[rank - 1]
            x, y = left + across * wide + (2 - 4 * across) * point, top + down * high + (2 - 4 * down) * point
            horizontal, vertical = ("left", "center", "right")[round(2 * across)], "bottom" if down else "top"
            tag: dict[str, Any] = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
            axes.text(x, y, str(rank), weight="bold", color="black", bbox=tag, ha=horizontal, va=vertical)

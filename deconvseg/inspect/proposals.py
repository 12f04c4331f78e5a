"""How the proposals build up a photo's labelling (paper, figure 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.images.write import overlay
from deconvseg.inspect.figure import (
    EDGES,
    HEAT,
    class_colours,
    key,
    own_style,
    panels,
    percent,
    shares,
    show,
)
from deconvseg.segmentation import Segmentation
from deconvseg.segmenter import Segmenter
from deconvseg.steps import WORKING_SIDE, shrink

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = (1, 5, 10, 25, 50)
"""Numbers of proposals whose labelling is kept."""


@dataclass(frozen=True)
class Proposals:
    """A photo's proposals and what they did.

    Attributes:
        image: uint8 (h, w, 3), RGB: the photo as it is worked on, no side over 1024 pixels.
        size: width and height of the photo, in pixels.
        edges: float32 (h', w'), 0 to about 1: edge strength, no side over 640 pixels.
        boxes: float32 (N, 4), x0 y0 x1 y1 in pixels of the photo, in the order they were looked at: the
            whole photo (a square around it), then the proposals, best first. May reach outside the photo.
        scores: float32 (N,), EdgeBoxes' score; that of the whole photo has no meaning.
        first: 0 if the first box is the whole photo, else 1: ranks count from here, so that the best
            proposal has rank 1.
        labellings: of `image`, before the CRF, by number of proposals: those of STEPS below that of all
            proposals there are, and that one.
        sharpened: the last one after the CRF; None if there is no CRF.
        numbers: everything but images, fit for JSON; docs/inspect.md lists it.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    edges: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    first: int
    labellings: dict[int, Segmentation]
    sharpened: Segmentation | None
    numbers: dict[str, Any]

    @property
    def count(self) -> int:
        """Proposals, the whole photo left out."""
        return len(self.boxes) - 1 + self.first


def inspect_proposals(segmenter: Segmenter, photo: PhotoPixels, count: int = max(STEPS)) -> Proposals:
    """Look at up to `count` proposals one after the other and keep the labellings on the way.

    Each labelling is that of a `Segmenter` with so many proposals that stops at nothing (`stop=0`), without
    CRF, at the size the photo is worked on; an ensemble's FCN-8s has its part in each.

    Args:
        segmenter: with a DeconvNet; its own number of proposals and `stop` do not count.
        photo: from `images.read.read_photo`.
        count: most proposals, 1 or more.

    Raises:
        UsageError: a network that looks at no proposals, or a count below 1.
    """
    if count < 1:
        raise UsageError(f"{count} proposals: there is nothing to look at; give 1 or more")
    segmenter = segmenter.exhaustive(count)
    inference, before, after = segmenter.inference, segmenter.before, segmenter.after
    if inference.sees_whole_photo:
        raise UsageError(f"{segmenter.weights}: is an FCN-8s, which looks at no proposals; give a DeconvNet")
    image = shrink(photo.image, WORKING_SIDE)
    ranked = before.rank(image)
    first = 0 if segmenter.protocol.whole_photo else 1
    partner = inference.partner_scores(image)
    fusion = inference.new_fusion(image)

    def labels_of(rows: slice, columns: slice) -> NDArray[np.uint8]:
        part = None if partner is None else partner[:, rows, columns]
        best = inference.combine(fusion.part(rows, columns), part).argmax(0)
        return best.to(torch.uint8).cpu().numpy()

    def labelling(labels: NDArray[np.uint8]) -> Segmentation:
        return Segmentation(labels.copy(), segmenter.classes, segmenter.palette)

    labels = labels_of(slice(None), slice(None))
    labellings, changed = {}, []
    for rank, (box, scores) in enumerate(inference.score(image, ranked.xyxy), first):
        fusion.add(scores, box)
        inside = slice(max(box[1], 0), max(box[3], 0)), slice(max(box[0], 0), max(box[2], 0))
        now = labels_of(*inside)  # no other pixel can change
        changed.append(float((now != labels[inside]).sum() / labels.size))
        labels[inside] = now
        if rank in STEPS:
            labellings[rank] = labelling(labels)
    labellings[len(ranked.xyxy) - 1 + first] = labelling(labels)
    fused = inference.combine(fusion, partner).cpu().numpy()
    sharpened = None
    if after.crf:
        sharpened = labelling(after.sharpen(image, fused).argmax(0).astype(np.uint8))
    boxes = ranked.xyxy * np.array(
        [photo.width / image.shape[1], photo.height / image.shape[0]] * 2, np.float32
    )
    rows = zip(boxes.tolist(), ranked.scores.tolist(), changed, strict=True)
    numbers = {
        "proposals": len(boxes) - 1 + first,
        "boxes": [
            {"rank": rank, "box": box, "score": score if rank else None, "changed": share}
            for rank, (box, score, share) in enumerate(rows, first)
        ],
        "steps": [{"proposals": n, "classes": one.class_shares()} for n, one in labellings.items()],
        "crf": sharpened and {"classes": sharpened.class_shares()},
    }
    size, edges = (photo.width, photo.height), before.edges(image)
    return Proposals(image, size, edges, boxes, ranked.scores, first, labellings, sharpened, numbers)


_AREA, _LONGEST = 5.0, 9.0
"""Square inches of a panel, and the longest side in inches."""
_TAGS = ((0.0, 0), (1.0, 0), (0.0, 1), (1.0, 1), (0.5, 0))
"""Where in their boxes the ranks 1 to 5 stand, across and down: none over another if boxes share a corner."""
_SHORTEST = 480
"""Pixels. Smaller photos are enlarged to it, so that the outlines of objects stay thin."""


@own_style()
def draw_proposals(found: Proposals, title: str) -> Figure:
    """Draw the proposals' work: photo, edges, boxes by rank, and the labelling as it grows."""
    height, width = found.image.shape[:2]
    named = {_step_name(number, found): labelling for number, labelling in found.labellings.items()}
    if found.sharpened is not None:
        named["after the CRF"] = found.sharpened
    count, shape = 3 + len(named), width / height
    size = math.sqrt(_AREA * shape), math.sqrt(_AREA / shape)
    shrunk = min(1.0, _LONGEST / max(size))
    panel = max(size[0] * shrunk, 1.6), max(size[1] * shrunk, 0.4)
    columns = min(max(round(math.sqrt(1.5 * count * (panel[1] + 0.5) / panel[0])), 1), count)
    rows = math.ceil(count / columns)
    colours = class_colours([*named.values()])
    paper = columns * (panel[0] + 0.2), rows * (panel[1] + 0.5) + 1.3 + 0.16 * len(colours) // columns
    figure, axes = panels(rows, columns, paper, title)
    places = iter(axes.flat)
    show(next(places), found.image, "photo", f"{width} x {height} as it is worked on")
    show(next(places), found.edges, "edges", f"strength 0 to {found.edges.max():.2f}", colours=EDGES)
    boxes = next(places)
    # Grey and dim, so that coloured lines stand out.
    show(boxes, (found.image.mean(2, keepdims=True) * 0.55 + 25).astype(np.uint8).repeat(3, 2), "boxes")
    boxes.set_xlabel(_boxes_note(found))
    _draw_boxes(boxes, found, width / (panel[0] * 72))
    before = None
    for name, labelling in named.items():
        note = shares(labelling)
        if before is not None:
            note += f"; {percent(float((labelling.labels != before.labels).mean()))} changed"
        show(next(places), _painted(labelling, found.image), name, note)
        before = labelling
    if shape < 1 / 18 or shape > 18:  # it is shown wider than it is, so that something is seen
        for one in axes.flat:
            one.set_aspect("auto")
    ranks = {f"rank 1 to {found.count}": f"{HEAT}_r"} if found.count > 1 else {}
    text = "A labelling takes in the whole photo and so many proposals, best first, before the CRF."
    key(figure, text, {**ranks, **colours}, columns=max(2, 2 * columns))
    return figure


def _step_name(number: int, found: Proposals) -> str:
    if number == 0:
        return "the whole photo alone" if found.first == 0 else "no proposals"
    every = "all " * (number == found.count and number not in STEPS)  # there were no more
    return f"{every}{number} proposal{'s' * (number > 1)}"


def _boxes_note(found: Proposals) -> str:
    if not found.count:
        return "none is long enough"
    scores = found.scores[1 - found.first :]
    return f"{found.count}, squared; scores {scores[0]:.2g} to {scores[-1]:.2g}"


def _painted(labelling: Segmentation, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    times = max(1, math.ceil(_SHORTEST / max(photo.shape[:2])))
    enlarged = photo.repeat(times, 0).repeat(times, 1)
    return overlay(labelling.labels.repeat(times, 0).repeat(times, 1), labelling.palette, enlarged)


def _draw_boxes(axes: Axes, found: Proposals, point: float) -> None:
    """The proposals, cut off at the photo's border, the best on top; the first few with their rank.

    `point` is a point's width in pixels of the image.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    height, width = found.image.shape[:2]
    start = 1 - found.first
    scale = np.array([width / found.size[0], height / found.size[1]] * 2)
    for rank in range(found.count, 0, -1):
        x0, y0, x1, y1 = (found.boxes[start + rank - 1] * scale).tolist()
        # Cut lines lie a little inside, each box's a bit further, so that they are not all one.
        inset = point * (1 + 0.25 * rank)
        x0, y0 = max(x0, inset) - 0.5, max(y0, inset) - 0.5
        x1, y1 = min(x1, width - inset) - 0.5, min(y1, height - inset) - 0.5
        colour = colormaps[HEAT](1 - (rank - 1) / max(found.count - 1, 1))
        thick = 1.8 if rank <= len(_TAGS) else 0.7
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=thick))
        if rank <= len(_TAGS):
            across, down = _TAGS[rank - 1]
            axes.text(
                x0 + across * (x1 - x0) + (1 - 2 * across) * 2 * point,
                y0 + down * (y1 - y0) + (1 - 2 * down) * 2 * point,
                str(rank),
                weight="bold",
                color="black",
                ha=("left", "center", "right")[round(2 * across)],
                va="bottom" if down else "top",
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2},
            )

"""Draws the work of the proposals: photo, edges, boxes by rank, and the labelling as it grows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.drawing.sheet import EDGES, GAP, HEAT, MARGIN, NAME, NOTE, TITLE, Sheet, in_own_style, step
from deconvseg.drawing.words import objects, percent, shares
from deconvseg.images.write import overlay
from deconvseg.inspection.proposals import STEPS, Proposals
from deconvseg.segmentation import Segmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AREA = 6.0
"""Square inches of a panel."""
_LONGEST, _THINNEST, _NARROWEST = 9.0, 0.5, 1.9
"""Inches: sides of a panel, and room for its caption."""
_CAPTION = step(NAME) + step(NOTE) + 0.2
_SHAPE = 1.5
"""Width to height that the figure comes as near to as it can."""
_TAGS = ((0.0, 0), (1.0, 0), (0.0, 1), (1.0, 1), (0.5, 0))
"""Where in their boxes the ranks 1 to 5 stand, across and down: none over another if boxes share a corner."""
_SHORTEST = 480
"""Pixels. Smaller photos are enlarged to it, so that the outlines of objects stay thin."""


@in_own_style
def draw_proposals(found: Proposals, title: str) -> Sheet:
    """Draw what `inspect_proposals` has found.

    Args:
        found: any photo's.
        title: above the figure.

    Returns:
        A sheet with a panel each for photo, edges, boxes, every labelling, and the CRF's if there is one.
    """
    height, width = found.image.shape[:2]
    panel = _panel_size(width / height)
    count = 3 + len(found.labellings) + (found.sharpened is not None)
    cell = max(panel[0], _NARROWEST) + GAP, panel[1] + _CAPTION
    columns = _best_columns(count, cell)
    head = MARGIN + 1.7 * step(TITLE)
    keys = head + math.ceil(count / columns) * cell[1]
    sheet = Sheet(2 * MARGIN + columns * cell[0] - GAP, keys + 40 * step(NOTE))
    inner = sheet.width - 2 * MARGIN
    sheet.words(title, MARGIN, MARGIN, size=TITLE, width=inner, bold=True)
    places = (
        (MARGIN + at % columns * cell[0], head + at // columns * cell[1], *panel) for at in range(count)
    )

    def show(pixels: NDArray[Any], name: str, note: str, colours: str = HEAT, aside: str = "") -> Axes:
        left, top, width, height = next(places)
        axes = sheet.picture(pixels, (left, top, width, height), colours=colours)
        room, below = cell[0] - GAP, top + height + 0.05
        named = sheet.words(name, left, below, size=NAME, width=room, bold=True) + 0.1
        sheet.words(aside, left + named, below + 0.01, width=room - named)
        sheet.words(note, left, below + step(NAME), width=room)
        return axes

    show(found.image, "photo", f"{width} x {height} as it is worked on")
    show(found.edges, "edges", f"strength 0 to {found.edges.max():.2f}", EDGES)
    _draw_boxes(sheet, show(_paler(found.image), "boxes", _boxes_note(found)), found)
    before = None
    named = {_step_name(number, found): labelling for number, labelling in found.labellings.items()}
    if found.sharpened is not None:
        named["after the CRF"] = found.sharpened
    for name, labelling in named.items():
        painted = _painted(labelling, found.image)
        show(painted, name, shares(labelling), aside=_change(labelling, before))
        before = labelling
    _draw_keys(sheet, found, keys)
    return sheet


def _panel_size(shape: float) -> tuple[float, float]:
    """Width and height in inches of a picture whose width is `shape` times its height.

    One over 18 times as long as wide is shown wider than it is, so that something is seen.
    """
    width, height = math.sqrt(_AREA * shape), math.sqrt(_AREA / shape)
    shrunk = min(1.0, _LONGEST / max(width, height))
    return max(width * shrunk, _THINNEST), max(height * shrunk, _THINNEST)


def _best_columns(count: int, cell: tuple[float, float]) -> int:
    def oddness(columns: int) -> float:
        rows = math.ceil(count / columns)
        return abs(math.log(columns * cell[0] / (rows * cell[1]) / _SHAPE)) + 0.1 * (columns * rows - count)

    return min(range(1, count + 1), key=oddness)


def _step_name(number: int, found: Proposals) -> str:
    if number == 0:
        return "the whole photo alone" if found.first == 0 else "no proposals"
    every = "all " * (number == found.count and number not in STEPS)  # there were no more
    return f"{every}{number} proposal{'s' * (number > 1)}"


def _change(labelling: Segmentation, before: Segmentation | None) -> str:
    if before is None:
        return ""
    return f"{percent(float((labelling.labels != before.labels).mean()))} changed"


def _boxes_note(found: Proposals) -> str:
    if not found.count:
        return "none is long enough"
    scores = found.scores[1 - found.first :]
    return f"{found.count}, squared; scores {scores[0]:.2g} to {scores[-1]:.2g}"


def _painted(labelling: Segmentation, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    times = max(1, math.ceil(_SHORTEST / max(photo.shape[:2])))
    enlarged = photo.repeat(times, 0).repeat(times, 1)
    return overlay(labelling.labels.repeat(times, 0).repeat(times, 1), labelling.palette, enlarged)


def _paler(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey and dim, so that coloured lines stand out."""
    grey = photo.mean(2, keepdims=True) * 0.55 + 25
    return np.repeat(grey, 3, 2).astype(np.uint8)


def _draw_boxes(sheet: Sheet, axes: Axes, found: Proposals) -> None:
    """The proposals, cut off at the photo's border, the best on top; the first few with their rank."""
    from matplotlib.patches import Rectangle

    height, width = found.image.shape[:2]
    inches = sheet.width * axes.get_position().width
    pixel = width / (inches * 72)  # of the image, a point
    start = 1 - found.first
    scale = np.array([width / found.width, height / found.height] * 2)
    for rank in range(found.count, 0, -1):
        x0, y0, x1, y1 = (found.boxes[start + rank - 1] * scale).tolist()
        # Cut lines lie a little inside, each box's a bit further, so that they are not all one.
        inset = pixel * (1 + 0.25 * rank)
        x0, y0 = max(x0, inset), max(y0, inset)
        x1, y1 = min(x1, width - inset), min(y1, height - inset)
        colour = sheet.colour(1 - (rank - 1) / max(found.count - 1, 1))
        thick = 1.8 if rank <= len(_TAGS) else 0.7
        axes.add_patch(
            Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=thick)
        )
        if rank <= len(_TAGS):
            across, down = _TAGS[rank - 1]
            axes.text(
                x0 + across * (x1 - x0) + (1 - 2 * across) * 2 * pixel - 0.5,
                y0 + down * (y1 - y0) + (1 - 2 * down) * 2 * pixel - 0.5,
                str(rank),
                size=NOTE,
                weight="bold",
                color="black",
                ha=("left", "center", "right")[round(2 * across)],
                va="bottom" if down else "top",
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2},
            )


def _draw_keys(sheet: Sheet, found: Proposals, top: float) -> None:
    width = sheet.width - 2 * MARGIN
    sheet.words(
        "A labelling takes in the whole photo and so many proposals, best first, before the CRF.",
        MARGIN,
        top,
        width=width,
    )
    top += 1.6 * step(NOTE)
    left = MARGIN
    if found.count > 1:
        left += sheet.scale(left, top, "rank 1", str(found.count), colours=f"{HEAT}_r") + 0.4
    labellings = [*found.labellings.values(), *filter(None, [found.sharpened])]
    sheet.legend(objects(labellings), left, top, sheet.width - MARGIN - left)

"""Draws poolings and the unpoolings that undo them: a row for each, the encoder left, the decoder right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deconvseg.drawing.sheet import GAP, MARGIN, MARK, NAME, NOTE, TITLE, Sheet, in_own_style, step
from deconvseg.drawing.words import percent
from deconvseg.inspection.switches import Stage, Switches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE, _LABEL = 1.75, 1.5
_BETWEEN = 0.5
"""Inches from the encoder's half to the decoder's."""
_ROW = _SIDE + 0.28
_HEADINGS = (
    ("encoder, downwards", ("before pooling", "enlarged, corners taken", "after pooling")),
    ("decoder, upwards", ("before unpooling", "enlarged, values put back", "after unpooling")),
)


@in_own_style
def draw_switches(found: Switches, title: str) -> Sheet:
    """Draw what `inspect_switches` has found.

    Args:
        found: any network's.
        title: above the figure.

    Returns:
        A sheet with the input, and a row of 6 panels for each pooling that is undone, of 3 for one that is
        not; small ones of the key come before the rows.
    """
    left = MARGIN + _LABEL
    right = left + 3 * (_SIDE + GAP) + _BETWEEN
    width = right + 3 * (_SIDE + GAP) - GAP + MARGIN
    top = MARGIN + 1.8 * step(TITLE)
    head = top + _LABEL - GAP + 0.25
    sheet = Sheet(width, head + len(found.stages) * _ROW)
    sheet.words(title, MARGIN, MARGIN, size=TITLE, width=width - 2 * MARGIN, bold=True)
    sheet.picture(found.region.crop, (MARGIN, top, _LABEL - GAP, _LABEL - GAP))
    _draw_keys(sheet, left, top)
    for start, (side, names) in zip((left, right), _HEADINGS, strict=True):
        sheet.words(side, start, head - 2.9 * step(NAME), size=NAME, bold=True)
        for place, name in enumerate(names):
            sheet.words(name, start + place * (_SIDE + GAP), head - 1.5 * step(NAME), size=NAME, width=_SIDE)
    for row, stage in enumerate(found.stages):
        top = head + row * _ROW
        _describe(sheet, stage, top)
        _draw_half(sheet, stage, (stage.encoded, stage.pooled), left, top)
        if stage.unpooled is None or stage.decoded is None:
            sheet.words("No unpooling undoes this pooling:", right, top + _SIDE / 2 - 0.15, size=NAME)
            sheet.words("the scores are enlarged instead.", right, top + _SIDE / 2 + 0.02, size=NAME)
        else:
            _draw_half(sheet, stage, (stage.decoded, stage.unpooled), right, top)
    return sheet


def _describe(sheet: Sheet, stage: Stage, top: float) -> None:
    large, small = len(stage.encoded), len(stage.pooled)
    taken = ["nothing above 0"]
    if stage.shares:
        a, b, c, d = (f"{100 * share:.0f} %" for share in stage.shares)
        taken = ["corners, all channels:", f"{a}   {b}", f"{c}   {d}"]
    way = f"{large} to {small}" + " and back" * (stage.unpooled is not None)
    notes = (way, f"channel {stage.channel}", "", *taken)
    sheet.words(f"pooling {stage.number}", MARGIN, top, size=NAME, bold=True)
    top += 1.5 * step(NAME)
    for note in (*notes, "", f"{percent(stage.empty)} of cells empty"):
        sheet.words(note, MARGIN, top, width=_LABEL - GAP)
        top += step(NOTE)


def _draw_half(
    sheet: Sheet, stage: Stage, maps: tuple[NDArray[np.float32], NDArray[np.float32]], left: float, top: float
) -> None:
    """The two maps, and between them the enlarged part of the larger one, which is framed in both."""
    x0, y0, x1, y1 = stage.window
    large, small = sorted(maps, key=len, reverse=True)
    cells = slice(y0 // 2, y1 // 2), slice(x0 // 2, x1 // 2)
    for place, pixels in enumerate((maps[0], large[y0:y1, x0:x1], maps[1])):
        at = left + place * (_SIDE + GAP), top, _SIDE, _SIDE
        axes = sheet.picture(pixels, at, limits=(float(pixels.min()), float(pixels.max())))
        if place == 1:
            _mark_corners(axes, stage.corners[cells], small[cells] > 0, stage.pooled[cells] == 0)
        else:
            factor = 1 if pixels is large else 2
            _frame(axes, [number // factor for number in stage.window])


def _frame(axes: Axes, window: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = window
    frame = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=MARK, linewidth=1.5)
    axes.add_patch(frame).set_clip_on(False)


def _mark_corners(
    axes: Axes, corners: NDArray[np.uint8], filled: NDArray[np.bool_], empty: NDArray[np.bool_]
) -> None:
    """Lines between the cells, and a frame around the corner that was taken in each cell that is filled.

    It is dotted where all of the cell was 0 in the encoder.
    """
    from matplotlib.patches import Rectangle

    rows, columns = corners.shape
    for edge in range(1, columns):
        axes.axvline(2 * edge - 0.5, color="white", linewidth=1.2)
    for edge in range(1, rows):
        axes.axhline(2 * edge - 0.5, color="white", linewidth=1.2)
    for (row, column), corner in np.ndenumerate(corners):
        if filled[row, column]:
            place = 2 * column + int(corner) % 2 - 0.36, 2 * row + int(corner) // 2 - 0.36
            style = ":" if empty[row, column] else "-"
            frame = Rectangle(place, 0.72, 0.72, fill=False, edgecolor=MARK, linewidth=1.8, linestyle=style)
            axes.add_patch(frame)


def _draw_keys(sheet: Sheet, left: float, top: float) -> None:
    for line in (
        "Pooling keeps the largest value of each 2 x 2 cell and remembers its corner: the switch.",
        "Unpooling puts the decoder's value back at that corner of the same channel, and 0 at the others.",
    ):
        sheet.words(line, left, top, width=sheet.width - MARGIN - left)
        top += step(NOTE)
    top += 0.6 * step(NOTE)
    side = NOTE / 72
    left += sheet.scale(left, top, "least", "largest value of the picture") + 0.4
    for style, meaning in (("-", "corner taken, or part enlarged"), (":", "cell of zeros: its first corner")):
        axes = sheet.picture(np.zeros((1, 1)), (left, top + 0.015, side, side))
        axes.spines[:].set(color=MARK, linewidth=1.8, linestyle=style)
        left += 1.6 * side
        left += sheet.words(meaning, left, top) + 0.4

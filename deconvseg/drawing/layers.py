"""Draws the decoder's maps: a column for each block, from the input on the left to the labelling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.drawing.sheet import GAP, HEAT, MARGIN, NAME, NOTE, TITLE, Sheet, in_own_style, step
from deconvseg.drawing.words import objects, percent, shares
from deconvseg.images.write import overlay
from deconvseg.inspection.layers import Layer, Layers

_SIDE = 1.9
_CAPTION = step(NAME) + step(NOTE) + 0.2
_SCORES = "coolwarm"


@dataclass(frozen=True)
class _Panel:
    """A picture, what it is, and a note on it."""

    pixels: NDArray[Any]
    name: str
    note: str
    colours: str = HEAT
    limits: tuple[float, float] | None = None


@in_own_style
def draw_layers(found: Layers, title: str) -> Sheet:
    """Draw what `inspect_layers` has found.

    Args:
        found: any network's.
        title: above the figure.

    Returns:
        A sheet with 3 panels more than there are layers: input, scores, labelling.
    """
    columns = _columns(found)
    rows = max(len(panels) for _, panels in columns)
    head = MARGIN + 1.7 * step(TITLE) + step(NAME)
    width = 2 * MARGIN + len(columns) * (_SIDE + GAP) - GAP
    keys = head + rows * (_SIDE + _CAPTION)
    sheet = Sheet(width, keys + 10 * step(NOTE))
    sheet.words(title, MARGIN, MARGIN, size=TITLE, width=width - 2 * MARGIN, bold=True)
    for place, (heading, panels) in enumerate(columns):
        left, top = MARGIN + place * (_SIDE + GAP), head
        sheet.words(heading, left, top - 1.4 * step(NAME), size=NAME, width=_SIDE)
        for panel in panels:
            sheet.picture(panel.pixels, (left, top, _SIDE, _SIDE), colours=panel.colours, limits=panel.limits)
            sheet.words(panel.name, left, top + _SIDE + 0.05, size=NAME, width=_SIDE, bold=True)
            sheet.words(panel.note, left, top + _SIDE + 0.05 + step(NAME), width=_SIDE)
            top += _SIDE + _CAPTION
    _draw_keys(sheet, found, keys)
    return sheet


def _columns(found: Layers) -> list[tuple[str, list[_Panel]]]:
    side = f"{len(found.region.crop)} x {len(found.region.crop)}"
    columns = [("input and code", [_Panel(found.region.crop, "input", side)])]
    block: int | None = None
    for layer in found.layers:
        if layer.block != block:
            block = layer.block
            columns.append((f"block {block}, {_size(layer)}", []))
        columns[-1][1].append(_layer_panel(layer, of_code=block is None))
    most = max(float(np.abs(found.score).max()), 1e-6)
    low, high = found.score.min(), found.score.max()
    columns.append(
        (
            f"result, {side}",
            [
                _Panel(
                    found.score,
                    f"score of {found.class_name}",
                    f"{low:.3g} to {high:.3g}",
                    _SCORES,
                    (-most, most),
                ),
                _Panel(
                    _painted(found),
                    "labelling",
                    shares(found.labelling),
                ),
            ],
        )
    )
    return columns


def _painted(found: Layers) -> NDArray[np.uint8]:
    painted, inside, labelling = found.region.crop.copy(), found.region.inside, found.labelling
    painted[inside] = overlay(labelling.labels, labelling.palette, painted[inside])
    return painted


def _layer_panel(layer: Layer, *, of_code: bool) -> _Panel:
    name = f"fc6-deconv, {_size(layer)}" if of_code else layer.name
    note = f"channel {layer.channel}, max {layer.map.max():.3g}, {percent(layer.active)} active"
    return _Panel(layer.map, name, note)


def _size(layer: Layer) -> str:
    return f"{layer.map.shape[1]} x {layer.map.shape[0]}"


def _draw_keys(sheet: Sheet, found: Layers, top: float) -> None:
    width = sheet.width - 2 * MARGIN
    which = "the most active one" if found.asked is None else f"the one that drives {found.asked} most"
    for line in (
        f"One map of each layer, {which}, in the order of computing: down each column, then right.",
        "unpool puts values back where pooling took its maxima; deconv fills the gaps.",
    ):
        sheet.words(line, MARGIN, top, width=width)
        top += step(NOTE)
    top += 0.6 * step(NOTE)
    left = MARGIN + sheet.scale(MARGIN, top, "0", "the map's maximum") + 0.4
    left += sheet.scale(left, top, "score below 0", "above", colours=_SCORES) + 0.4
    sheet.legend(objects([found.labelling]), left, top, sheet.width - MARGIN - left)

"""The report as one HTML page that asks nothing of the network: no script, pictures and styles inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from deconvseg import __version__
from deconvseg.evaluation.boundary import TOLERANCE
from deconvseg.evaluation.gallery import FALSE, MISSED, OTHER, gallery
from deconvseg.evaluation.metrics import share
from deconvseg.evaluation.objects import LARGE, MEDIUM
from deconvseg.evaluation.run import Evaluation

_LIGHT, _DARK = (247, 251, 255), (8, 48, 107)
"""Ends of the heat map's scale: lightness alone tells the values."""
_CONFUSIONS = 10


def render(evaluation: Evaluation, summary: dict[str, Any]) -> str:
    """The page.

    Args:
        evaluation: what was measured.
        summary: its figures, from `report.summarise`.

    Raises:
        InputError, DataError: a photo or prediction of the gallery cannot be read.
    """
    environment = Environment(
        loader=PackageLoader("deconvseg.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, hex=_hex)
    return environment.get_template("report.html.jinja").render(
        version=__version__,
        summary=summary,
        classes=evaluation.truth.classes,
        palette=evaluation.truth.palette,
        void_photos=sum(not photo.rows[evaluation.full.name].confusion.any() for photo in evaluation.photos),
        heat=heat_map(np.array(summary["confusion"])),
        confusions=worst_confusions(np.array(summary["confusion"]), evaluation.truth.classes),
        lines=proposal_lines(summary["rows"]),
        gallery=gallery(evaluation),
        mistakes={"missed": MISSED, "false": FALSE, "other": OTHER},
        limits={"tolerance": TOLERANCE, "medium": MEDIUM, "large": LARGE},
    )


def heat_map(confusion: NDArray[np.int64]) -> list[list[tuple[float, str, bool]]]:
    """Cells, rows of true classes: share of the true pixels, fill colour `#rrggbb`, whether that is dark.

    Rows of classes without a pixel are empty.
    """
    shares = share(confusion, confusion.sum(1, keepdims=True))
    return [[] if np.isnan(row).any() else [_cell(float(value)) for value in row] for row in shares]


def worst_confusions(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[tuple[str, str, float]]:
    """True class, class it was taken for, share of the true pixels: the largest shares first, at most 10."""
    shares = np.nan_to_num(share(confusion, confusion.sum(1, keepdims=True)))
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [(int(flat) // len(classes), int(flat) % len(classes)) for flat in order]
    return [(classes[i], classes[j], float(shares[i, j])) for i, j in pairs if shares[i, j] > 0]


def proposal_lines(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The chart of IoU against proposals, in shares of its area from the left and the top.

    Ensembles and early stops are no points of it.

    Returns:
        `ticks`: (x, number of proposals); `levels`: (y, IoU); `series`: (name, points), a point being
        (x, y, IoU). No series where there are fewer than two numbers of proposals.
    """
    rows = [row for row in rows if row["proposals"] is not None and row["ensemble"] == "off"]
    rows = [row for row in rows if not (row["stops"] or row["shared"])]
    counts = sorted({row["proposals"] for row in rows})
    if len(counts) < 2:
        return {"ticks": [], "levels": [], "series": []}
    values = [row["mean_iou"] for row in rows]
    low = np.floor(min(values) * 50) / 50
    high = max(np.ceil(max(values) * 50) / 50, low + 0.02)
    place = {count: i / (len(counts) - 1) for i, count in enumerate(counts)}
    series = []
    for crf, name in ((False, "without CRF"), (True, "with CRF")):
        points = [
            (place[row["proposals"]], (high - row["mean_iou"]) / (high - low), row["mean_iou"])
            for row in rows
            if row["crf"] is crf
        ]
        if points:
            series.append((name, points))
    levels = [(i / 4, float(high - i / 4 * (high - low))) for i in range(5)]
    return {"ticks": [(place[count], count) for count in counts], "levels": levels, "series": series}


def _cell(value: float) -> tuple[float, str, bool]:
    depth = value**0.5  # the root: a few per cent of confusion must be seen beside 90 on the diagonal
    colour = tuple(round(light + (dark - light) * depth) for light, dark in zip(_LIGHT, _DARK, strict=True))
    return value, _hex(colour), depth > 0.55


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"

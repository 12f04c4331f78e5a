"""The figures of an evaluation as one JSON object, and the files of a report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deconvseg.evaluation.ablation import Row
from deconvseg.evaluation.boundary import TOLERANCE
from deconvseg.evaluation.metrics import mean_iou_interval
from deconvseg.evaluation.page import render
from deconvseg.evaluation.run import Evaluation, Measured
from deconvseg.files import replacing
from deconvseg.images.palette import VOC_CLASSES

PUBLISHED = (
    ("DeconvNet", 0.696),
    ("DeconvNet + CRF", 0.705),
    ("EDeconvNet (ensemble with FCN-8s)", 0.717),
    ("EDeconvNet + CRF", 0.725),
)
"""Mean IoU in table 1 of Noh, Hong and Han (ICCV 2015)."""
PUBLISHED_ON = "PASCAL VOC 2012 test, 1,456 images, 50 proposals, network trained on VOC 2012 and SBD"


def summarise(evaluation: Evaluation, weights: str | None) -> dict[str, Any]:
    """All figures, fit for JSON: shares from 0 to 1, seconds, pixels.

    The keys are those of `Tally.figures` for the full setting, and: `images` (scored) of `split_images` in
    `split`, `mean_iou_interval` (95 %, by bootstrap over photos), `weights`, `settings`, `confusion` (pixels,
    true class by predicted class), `rows` (a list: the figures of every row), `published` and
    `published_on`, `seconds_per_image` and `seconds` by part of the work (means; None and empty for
    predictions made elsewhere). Nothing but the seconds differs between two runs at the same settings.

    Args:
        evaluation: what was measured.
        weights: the network's name or file; None for predictions made elsewhere.
    """
    classes = evaluation.truth.classes
    full = evaluation.total(evaluation.full)
    seconds = _mean_seconds(evaluation.photos)
    return {
        "split": evaluation.truth.split,
        "images": len(evaluation.photos),
        "split_images": evaluation.truth.photos,
        "weights": weights,
        "setting": evaluation.full.name,
        **full.figures(classes),
        "mean_iou_interval": _interval(evaluation, evaluation.full),
        "boundary_tolerance": TOLERANCE,
        "rows": [_figures(evaluation, row) for row in evaluation.rows],
        "published": [{"name": name, "mean_iou": value} for name, value in PUBLISHED]
        if classes == VOC_CLASSES
        else [],
        "published_on": PUBLISHED_ON,
        "settings": evaluation.settings,
        "confusion": full.confusion.tolist(),
        "seconds_per_image": sum(seconds.values()) if seconds else None,
        "seconds": seconds,
    }


def write_report(evaluation: Evaluation, summary: dict[str, Any], folder: Path) -> None:
    """Write `report.html`, `report.json`, `per_class.csv` and `per_image.csv`.

    Args:
        evaluation: what was measured.
        summary: what `summarise` made of it.
        folder: is made, if need be.

    Raises:
        OutputError: a file cannot be written.
        InputError, DataError: a photo or prediction of the gallery cannot be read any more.
    """
    files = {
        "report.json": json.dumps(summary, indent=2, allow_nan=False) + "\n",
        "per_class.csv": _csv(_per_class(evaluation, summary)),
        "per_image.csv": _csv(_per_image(evaluation)),
        "report.html": render(evaluation, summary),
    }
    for name, text in files.items():
        with replacing(folder / name) as stream:
            stream.write(text.encode())


def _figures(evaluation: Evaluation, row: Row) -> dict[str, Any]:
    figures = evaluation.total(row).figures(evaluation.truth.classes)
    kept = ("mean_iou", "voc_mean_iou", "pixel_accuracy", "mean_accuracy", "boundary_f")
    return {
        "name": row.name,
        **vars(row),
        **{name: figures[name] for name in kept},
        "mean_iou_interval": _interval(evaluation, row),
        "sizes": {size: values["mean_iou"] for size, values in figures["sizes"].items()},
    }


def _interval(evaluation: Evaluation, row: Row) -> tuple[float, float]:
    return mean_iou_interval(np.stack([photo.rows[row.name].confusion for photo in evaluation.photos]))


def _mean_seconds(photos: Sequence[Measured]) -> dict[str, float]:
    parts = {part: None for photo in photos for part in photo.seconds}
    return {part: float(np.mean([photo.seconds.get(part, 0.0) for photo in photos])) for part in parts}


def _per_class(evaluation: Evaluation, summary: dict[str, Any]) -> Iterable[Sequence[object]]:
    confusion, sizes = np.array(summary["confusion"]), summary["sizes"]
    pixels = ("pixels_true", "pixels_predicted", "pixels_right")
    yield "class", "iou", "boundary_f", *pixels, *(f"iou_{size}" for size in sizes)
    for i, name in enumerate(evaluation.truth.classes):
        figures = summary["per_class_iou"][name], summary["per_class_boundary_f"][name]
        by_size = (size["per_class_iou"][name] for size in sizes.values())
        yield name, *figures, confusion[i].sum(), confusion[:, i].sum(), confusion[i, i], *by_size


def _per_image(evaluation: Evaluation) -> Iterable[Sequence[object]]:
    kept = ("mean_iou", "pixel_accuracy", "boundary_f")
    yield "name", "width", "height", *kept, "pixels_counted", "seconds"
    for photo in evaluation.photos:
        tally = photo.rows[evaluation.full.name]
        counted = int(tally.confusion.sum())
        figures = tally.figures(evaluation.truth.classes) if counted else {}
        seconds = round(sum(photo.seconds.values()), 3) if photo.seconds else None
        yield photo.name, photo.width, photo.height, *map(figures.get, kept), counted, seconds


def _csv(rows: Iterable[Sequence[object]]) -> str:
    """Comma-separated, one line a row, empty where there is no value."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()

"""The figures of an evaluation as one JSON object, and the files of a report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deconvseg.evaluation.ablation import Row
from deconvseg.evaluation.boundary import TOLERANCE
from deconvseg.evaluation.metrics import mean_iou_interval
from deconvseg.evaluation.page import render
from deconvseg.evaluation.run import Evaluation
from deconvseg.files import replacing
from deconvseg.images.palette import VOC_CLASSES

PUBLISHED = {
    "DeconvNet": 0.696,
    "DeconvNet + CRF": 0.705,
    "EDeconvNet (ensemble with FCN-8s)": 0.717,
    "EDeconvNet + CRF": 0.725,
}
"""Mean IoU in table 1 of Noh, Hong and Han (ICCV 2015)."""
PUBLISHED_ON = "PASCAL VOC 2012 test, 1,456 images, 50 proposals, network trained on VOC 2012 and SBD"
IN_ROWS = ("mean_iou", "voc_mean_iou", "pixel_accuracy", "mean_accuracy", "boundary_f")


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
    truth, photos = evaluation.truth, evaluation.photos
    full = evaluation.total(evaluation.subject.full)
    setting = evaluation.subject.full.name
    rows = {row.name: _row(evaluation, row) for row in evaluation.subject.rows}
    published = PUBLISHED if truth.classes == VOC_CLASSES else {}
    parts = {part: None for photo in photos for part in photo.seconds}
    seconds = {part: float(np.mean([photo.seconds.get(part, 0.0) for photo in photos])) for part in parts}
    return {
        "split": truth.split,
        "images": len(photos),
        "split_images": truth.photos,
        "weights": weights,
        "setting": setting,
        **full.figures(truth.classes),
        "mean_iou_interval": rows[setting]["mean_iou_interval"],
        "boundary_tolerance": TOLERANCE,
        "rows": list(rows.values()),
        "published": [{"name": name, "mean_iou": value} for name, value in published.items()],
        "published_on": PUBLISHED_ON,
        "settings": evaluation.settings,
        "confusion": full.confusion.tolist(),
        "seconds_per_image": sum(seconds.values()) if seconds else None,
        "seconds": seconds,
    }


def write_report(evaluation: Evaluation, summary: dict[str, Any], folder: Path) -> None:
    """Write `report.json`, `per_class.csv`, `per_image.csv` and, last, `report.html` of an evaluation.

    Raises:
        OutputError: a file cannot be written.
        InputError, DataError: a photo or prediction of the gallery cannot be read, or fits no mask.
    """
    _write(folder / "report.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    _write(folder / "per_class.csv", _csv(_per_class(summary)))
    _write(folder / "per_image.csv", _csv(_per_image(evaluation)))
    _write(folder / "report.html", render(evaluation, summary))


def _write(path: Path, text: str) -> None:
    with replacing(path) as stream:
        stream.write(text.encode())


def _row(evaluation: Evaluation, row: Row) -> dict[str, Any]:
    figures = evaluation.total(row).figures(evaluation.truth.classes)
    confusions = np.stack([photo.rows[row.name].confusion for photo in evaluation.photos])
    return {
        "name": row.name,
        **vars(row),
        **{name: figures[name] for name in IN_ROWS},
        "mean_iou_interval": mean_iou_interval(confusions),
        "sizes": {size: values["mean_iou"] for size, values in figures["sizes"].items()},
    }


def _per_class(summary: Mapping[str, Any]) -> Iterable[dict[str, object]]:
    confusion = np.array(summary["confusion"])
    for label, (name, iou) in enumerate(summary["per_class_iou"].items()):
        yield {
            "class": name,
            "iou": iou,
            "boundary_f": summary["per_class_boundary_f"][name],
            "pixels_true": confusion[label].sum(),
            "pixels_predicted": confusion[:, label].sum(),
            "pixels_right": confusion[label, label],
            **{f"iou_{size}": values["per_class_iou"][name] for size, values in summary["sizes"].items()},
        }


def _per_image(evaluation: Evaluation) -> Iterable[dict[str, object]]:
    for photo in evaluation.photos:
        tally = photo.rows[evaluation.subject.full.name]
        counted = int(tally.confusion.sum())
        figures = tally.figures(evaluation.truth.classes) if counted else {}
        yield {
            **{key: getattr(photo, key) for key in ("name", "width", "height")},
            **{key: figures.get(key) for key in ("mean_iou", "pixel_accuracy", "boundary_f")},
            "pixels_counted": counted,
            "seconds": round(sum(photo.seconds.values()), 3) if photo.seconds else None,
        }


def _csv(rows: Iterable[dict[str, object]]) -> str:
    """Comma-separated: the keys, then one line a row, empty where there is no value."""
    first, *others = rows
    text = io.StringIO()
    writer = csv.DictWriter(text, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerows([first, *others])
    return text.getvalue()

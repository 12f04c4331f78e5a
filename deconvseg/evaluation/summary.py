"""The figures of an evaluation as one JSON object."""

from __future__ import annotations

from typing import Any

import numpy as np

from deconvseg.evaluation.ablation import Row
from deconvseg.evaluation.counts import TOLERANCE, confusion_of
from deconvseg.evaluation.metrics import figures, mean_iou_interval
from deconvseg.evaluation.run import Evaluation

IN_ROWS = ("mean_iou", "voc_mean_iou", "pixel_accuracy", "mean_accuracy", "boundary_f")


def summarise(evaluation: Evaluation, weights: str | None) -> dict[str, Any]:
    """All figures, fit for JSON: shares from 0 to 1, seconds, pixels.

    The keys are those of `metrics.figures` for the full setting, and: `images` (scored) of `split_images` in
    `split`, `mean_iou_interval` (95 %, by bootstrap over photos), `weights` (None for predictions made
    elsewhere), `settings`, `confusion` (pixels, true class by predicted class), `rows` (the figures of every
    row), `seconds_per_image` and `seconds` by part of the work (means; None and empty for predictions).
    Nothing but the seconds differs between two runs at the same settings.
    """
    truth, photos, full = evaluation.truth, evaluation.photos, evaluation.subject.full
    counts = evaluation.counts(full).sum(0)
    rows = {row.name: _figures_of(evaluation, row) for row in evaluation.subject.rows}
    parts = dict.fromkeys(part for photo in photos for part in photo.seconds)
    seconds = {part: float(np.mean([photo.seconds.get(part, 0.0) for photo in photos])) for part in parts}
    return {
        "split": truth.split,
        "images": len(photos),
        "split_images": truth.photos,
        "weights": weights,
        "setting": full.name,
        **figures(counts, truth.classes),
        "mean_iou_interval": rows[full.name]["mean_iou_interval"],
        "boundary_tolerance": TOLERANCE,
        "rows": list(rows.values()),
        "settings": evaluation.subject.settings,
        "confusion": confusion_of(counts, len(truth.classes)).tolist(),
        "seconds_per_image": sum(seconds.values()) if seconds else None,
        "seconds": seconds,
    }


def _figures_of(evaluation: Evaluation, row: Row) -> dict[str, Any]:
    counts, classes = evaluation.counts(row), evaluation.truth.classes
    found = figures(counts.sum(0), classes)
    return {
        "name": row.name,
        **vars(row),
        **{name: found[name] for name in IN_ROWS},
        "mean_iou_interval": mean_iou_interval(confusion_of(counts, len(classes))),
        "sizes": {size: values["mean_iou"] for size, values in found["sizes"].items()},
    }

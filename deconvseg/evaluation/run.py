"""Measures a network, or predictions made elsewhere, over a split: photos at their own size, summed up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deconvseg import machine
from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.masks import read_mask
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError, UsageError
from deconvseg.evaluation.ablation import Row, Subject
from deconvseg.evaluation.counts import TOLERANCE, confusion_of, count
from deconvseg.evaluation.metrics import figures, mean_iou_interval
from deconvseg.images.write import write_labels
from deconvseg.segmentation import Segmentation
from deconvseg.settings import refuse_below

PREDICTIONS = "predictions"  # folder, in the report's, of the full setting's labels
REPORT_FILES = ("report.html", "report.json", "per_image.csv")
_IN_ROWS = ("mean_iou", "voc_mean_iou", "pixel_accuracy", "mean_accuracy", "boundary_f")


@dataclass(frozen=True)
class Truth(DataSet):
    """The photos to score: `examples`."""

    split: str  # name of the list they come from
    photos: int  # how many it names

    def mask(self, example: Example) -> NDArray[np.uint8]:
        """The true mask, uint8 (H, W): class indices, 255 for void; DataError if it cannot be used."""
        return read_mask(example.mask, self.masks)


def open_truth(root: Path, split: str, limit: int | None = None) -> Truth:
    """A split, or an evenly spread, fixed sample of `limit` of its photos; DataError if files are missing."""
    refuse_below(1, limit=limit)
    data = open_dataset(root, split)
    photos = len(data)
    count = min(limit or photos, photos)
    examples = tuple(data.examples[i * photos // count] for i in range(count))
    if missing := [path for e in examples for path in (e.image, e.mask) if not path.is_file()]:
        raise DataError(
            f"{missing[0]}: named by split '{split}' but missing ({len(missing)} such files); "
            "put it there, or take its name out of the list"
        )
    return Truth(data.classes, data.palette, data.masks, examples, data.source, split, photos)


@dataclass(frozen=True)
class Measured:
    """What was counted of one photo."""

    name: str
    width: int
    height: int
    counts: dict[Row, NDArray[np.uint32]]  # what `counts.count` gives for each row
    seconds: dict[str, float]  # by part of the work, of the full setting


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    truth: Truth
    subject: Subject
    photos: tuple[Measured, ...]  # in the truth's order
    labels: Mapping[str, Path]  # of the full setting by the photo's name, if kept

    def counts(self, row: Row) -> NDArray[np.int64]:
        """What was counted for a row, int64 (N, C * (C + 13)), see `counts.count`."""
        return np.stack([photo.counts[row] for photo in self.photos], dtype=np.int64)


def evaluate(
    subject: Subject,
    truth: Truth,
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Label and count every photo, in whole numbers, which do not depend on `workers`.

    A `folder`, new or empty, gets the labels of a network in `predictions`; with `overwrite` it may hold
    other files, of which those of an earlier report are removed. `workers` are threads with a photo each.
    `progress` is called with the number of photos done. UsageError if the folder is not empty, or the labels
    would replace files of the data set.
    """
    targets = {}
    if folder:
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if there and not overwrite:
            raise UsageError(f"{folder}: is not empty; take another folder, or overwrite it")
        earlier = [folder / name for name in there.intersection(REPORT_FILES)]
        if not subject.predictions:
            targets = {e.name: folder / PREDICTIONS / f"{e.name}.png" for e in truth.examples}
            own = {path.resolve() for e in truth.examples for path in (e.mask, e.image)}
            if not own.isdisjoint(path.resolve() for path in targets.values()):
                raise UsageError(f"{folder / PREDICTIONS}: holds files of the data set; take another folder")
            if earlier:
                earlier += (folder / PREDICTIONS).rglob("*.png")
        for path in earlier:
            path.unlink()
    measured = []
    with workers_for(workers) as call_each:
        for photo in call_each(partial(_measure, subject, truth, targets), truth.examples):
            measured.append(photo)
            progress(len(measured))
    evaluation = Evaluation(truth, subject, tuple(measured), targets or subject.predictions)
    if not confusion_of(evaluation.counts(subject.full), len(truth.classes)).any():
        raise DataError(
            f"{truth.examples[0].mask}: it and all other masks of split '{truth.split}' are void alone; "
            "there is nothing to score"
        )
    return evaluation


def workers_for(workers: int) -> AbstractContextManager[machine.Map]:
    """A pool of threads that share torch's threads and the cores; one worker is the calling thread."""
    refuse_below(1, workers=workers)
    each = max(min(torch.get_num_threads(), machine.cores()) // workers, 1)
    return machine.pool(workers if workers > 1 else 0, torch_threads=each)


def _measure(subject: Subject, truth: Truth, targets: Mapping[str, Path], example: Example) -> Measured:
    """Label a photo and count, in whatever thread; `targets` are the files to write, if any."""
    mask = truth.mask(example)
    height, width = mask.shape
    counts, seconds = {}, {}
    for row, found, took in subject.label(example, mask):
        counts[row] = count(mask, found, len(truth.classes)).astype(np.uint32)
        if row == subject.full:
            seconds = took
            if targets:
                write_labels(Segmentation(found, truth.classes, truth.palette), targets[example.name])
    return Measured(example.name, width, height, counts, seconds)


def summarise(evaluation: Evaluation) -> dict[str, Any]:
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
        "weights": evaluation.subject.weights,
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
        **{name: found[name] for name in _IN_ROWS},
        "mean_iou_interval": mean_iou_interval(confusion_of(counts, len(classes))),
        "sizes": {size: values["mean_iou"] for size, values in found["sizes"].items()},
    }

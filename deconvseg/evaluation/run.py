"""Measures a network, or predictions made elsewhere, over a split: each photo at its own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.dataset import Example, refuse_other_size
from deconvseg.data.masks import VOID
from deconvseg.errors import DataError, UsageError
from deconvseg.evaluation.ablation import Step, Subject
from deconvseg.evaluation.journal import Journal, Measured
from deconvseg.evaluation.pool import pool
from deconvseg.evaluation.tally import Reference, Tally
from deconvseg.evaluation.truth import Truth
from deconvseg.images.read import has_size, read_image
from deconvseg.images.write import write_labels
from deconvseg.segmentation import Segmentation

PREDICTIONS = "predictions"
"""Folder, in the report's, of the full setting's labels."""
REPORT_FILES = ("report.html", "report.json", "per_class.csv", "per_image.csv")


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        truth: the photos and their classes.
        steps: the rows of the table.
        full: the step that the headline figures are of.
        settings: everything that can change a figure.
        photos: counts of each photo, in the truth's order.
        predictions: folder of the full setting's labels, `NAME.png`; None when they were not kept.
    """

    truth: Truth
    steps: tuple[Step, ...]
    full: Step
    settings: dict[str, Any]
    photos: tuple[Measured, ...]
    predictions: Path | None

    def total(self, step: Step) -> Tally:
        """The counts of a step, over all photos."""
        return sum((photo.rows[step.name] for photo in self.photos), Tally.empty(len(self.truth.classes)))


def evaluate(
    subject: Subject,
    truth: Truth,
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Label and count every photo.

    All counts are whole numbers, so the figures depend neither on `workers` nor on stops.

    Args:
        subject: what to measure.
        truth: what to measure it against.
        folder: keep the counts of each photo in `per_image.jsonl` there, and the labels of a network in
            `predictions`; the photos found in it, unchanged and measured at the same settings, are not done
            again.
        overwrite: begin anew, whatever is in the folder.
        workers: processes.
        progress: called with the photos done and their total, first with those that were done before.

    Raises:
        DataError: a mask or prediction cannot be used, or all pixels are void.
        InputError: a photo cannot be read.
        UsageError: the folder holds something else, or `workers` is not positive.
        OutputError: the folder cannot be written to.
    """
    subject.check(truth)
    settings = {**subject.settings(), **truth.settings()}
    keep = folder / PREDICTIONS if folder and subject.folder is None else None
    measure = _Measure(subject, truth, keep, shows_photos=folder is not None)
    if keep:
        _refuse_own_files(truth, keep)
    measured: dict[str, Measured] = {}
    journal = None
    if folder:
        journal = Journal(
            folder, settings, len(truth.classes), overwrite=overwrite, others=[*REPORT_FILES, PREDICTIONS]
        )
        measured = {e.name: journal.done[e.name] for e in truth.examples if measure.is_done(e, journal.done)}
    progress(len(measured), len(truth.examples))
    missing = [example for example in truth.examples if example.name not in measured]
    with pool(measure, workers) as run:
        for photo in run(missing):
            measured[photo.name] = photo
            if journal:
                journal.add(photo)
            progress(len(measured), len(truth.examples))
    evaluation = Evaluation(
        truth,
        subject.steps,
        subject.full,
        settings,
        tuple(measured[example.name] for example in truth.examples),
        subject.folder or keep,
    )
    if not evaluation.total(subject.full).confusion.any():
        raise DataError(
            f"{truth.examples[0].mask}: it and all other masks of split '{truth.split}' are void alone; "
            "there is nothing to score"
        )
    return evaluation


@dataclass(frozen=True)
class _Measure:
    """Labels one photo and counts, in whatever process."""

    subject: Subject
    truth: Truth
    keep: Path | None
    shows_photos: bool

    def __call__(self, example: Example) -> Measured:
        mask = self.truth.mask(example)
        if self.shows_photos:  # found now, a bad photo costs no finished figures
            refuse_other_size(example, read_image(example.image).shape[:2], mask.shape)
        stamp = self.stamp(example)
        reference = Reference(mask, len(self.truth.classes))
        rows: dict[str, Tally] = {}
        took: dict[str, float] = {}
        for step, labels, seconds in self.subject.label(self.truth, example):
            _check(labels, mask, self.subject.source(example), example.mask)
            rows[step.name] = reference.tally(labels)
            if step == self.subject.full:
                took = seconds
                self._write(example, labels)
        height, width = mask.shape
        return Measured(example.name, stamp, width, height, took, rows)

    def is_done(self, example: Example, done: dict[str, Measured]) -> bool:
        photo = done.get(example.name)
        if photo is None or photo.stamp != self.stamp(example):
            return False
        return not self.keep or has_size(self.keep / f"{example.name}.png", photo.width, photo.height)

    def stamp(self, example: Example) -> list[int]:
        """Size and time of change of the prediction's or photo's file and the mask's."""
        return [number for path in (self.subject.source(example), example.mask) for number in _state(path)]

    def _write(self, example: Example, labels: NDArray[np.uint8]) -> None:
        if self.keep:
            segmentation = Segmentation(labels, self.truth.classes, self.truth.palette)
            write_labels(segmentation, np.empty((0, 0, 3), np.uint8), self.keep / f"{example.name}.png")


def _refuse_own_files(truth: Truth, folder: Path) -> None:
    """Labels must not replace the masks or photos they are measured against."""
    own = {path.resolve() for example in truth.examples for path in (example.mask, example.image)}
    for example in truth.examples:
        if (folder / f"{example.name}.png").resolve() in own:
            raise UsageError(
                f"{folder / example.name}.png: is a file of the data set; give another --report DIR"
            )


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # whoever reads the file says what is wrong
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _check(labels: NDArray[np.uint8], mask: NDArray[np.uint8], source: Path, mask_file: Path) -> None:
    if labels.shape != mask.shape:
        raise DataError(
            f"{source}: is {labels.shape[1]}x{labels.shape[0]} pixels, its true mask {mask_file.name} "
            f"{mask.shape[1]}x{mask.shape[0]}; make them one size (labels are not resized to be scored)"
        )
    if nowhere := int(np.count_nonzero((labels == VOID) & (mask != VOID))):
        raise DataError(
            f"{source}: {nowhere} pixels that count are {VOID}, which is no class; "
            "a prediction names a class for every pixel"
        )

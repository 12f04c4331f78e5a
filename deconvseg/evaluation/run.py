"""Measures a network, or predictions made elsewhere, over a split: each photo at its own size."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deconvseg import machine
from deconvseg.data.dataset import DataSet, Example, refuse_other_size
from deconvseg.data.masks import VOID, read_mask
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError, OutputError, UsageError
from deconvseg.evaluation.ablation import Row, Subject
from deconvseg.evaluation.metrics import Reference, Tally
from deconvseg.files import read_json_lines, replacing
from deconvseg.identity import code_digest
from deconvseg.images.read import has_size, read_image
from deconvseg.images.write import write_labels
from deconvseg.segmentation import Segmentation

PREDICTIONS = "predictions"
"""Folder, in the report's, of the full setting's labels."""
JOURNAL = "per_image.jsonl"
"""File of the counts of each photo done, in the report's folder."""
REPORT_FILES = ("report.html", "report.json", "per_class.csv", "per_image.csv", PREDICTIONS)


@dataclass(frozen=True)
class Truth(DataSet):
    """The photos to score.

    Attributes:
        split: name of the list they come from.
        photos: how many the list names; `examples` are those scored.
    """

    split: str
    photos: int

    def mask(self, example: Example) -> NDArray[np.uint8]:
        """The true mask, uint8 (H, W): class indices, 255 for void; DataError if it cannot be used."""
        return read_mask(example.mask, self.masks)

    def settings(self) -> dict[str, Any]:
        """What decides the figures besides the labels, fit for JSON: the masks' meaning, and the counting."""
        masks = {
            "ids": sorted(map(list, self.masks.ids.items())),
            "colors": [[*color, label] for color, label in sorted(self.masks.colors.items())],
        }
        code = code_digest("deconvseg.evaluation.metrics")
        return {"split": self.split, "classes": list(self.classes), **masks, "counting": code}


def open_truth(root: Path, split: str, limit: int | None = None) -> Truth:
    """The truth of a split of a data set.

    Args:
        root: the data set's folder, of any layout that `open_dataset` knows.
        split: name of its list.
        limit: take an evenly spread, fixed sample of that many photos.

    Raises:
        DataError: the folder is no data set, or the split is missing, empty or names missing files.
        UsageError: `limit` is not positive.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a sample of {limit} photos: give a number of at least 1")
    data = open_dataset(root, split)
    photos = len(data)
    count = min(limit or photos, photos)
    examples = tuple(data.examples[i * photos // count] for i in range(count))
    missing = [path for e in examples for path in (e.image, e.mask) if not path.is_file()]
    if missing:
        raise DataError(
            f"{missing[0]}: named by split '{split}' but missing ({len(missing)} such files); "
            "put it there, or take its name out of the list"
        )
    return Truth(data.classes, data.palette, data.masks, examples, data.source, split, photos)


@dataclass(frozen=True)
class Measured:
    """What was counted of one photo.

    Attributes:
        name: of the photo.
        stamp: size and time of change of the files the counts come from.
        width, height: in pixels.
        seconds: by part of the work, of the full setting.
        rows: counts by the name of the row.
    """

    name: str
    stamp: list[int]
    width: int
    height: int
    seconds: dict[str, float]
    rows: dict[str, Tally]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        truth: the photos and their classes.
        rows: of the table.
        full: the row that the headline figures are of.
        settings: everything that can change a figure.
        photos: counts of each photo, in the truth's order.
        predictions: files of the full setting's labels by the name of the photo; empty if they were not kept.
    """

    truth: Truth
    rows: tuple[Row, ...]
    full: Row
    settings: dict[str, Any]
    photos: tuple[Measured, ...]
    predictions: dict[str, Path]

    def total(self, row: Row) -> Tally:
        """The counts of a row, over all photos."""
        return sum((photo.rows[row.name] for photo in self.photos), Tally.empty(len(self.truth.classes)))


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
        workers: photos at a time, in threads.
        progress: called with the photos done and their total, first with those that were done before.

    Raises:
        DataError: a mask or prediction cannot be used, or all pixels are void.
        InputError: a photo cannot be read.
        UsageError: the folder holds something else, or `workers` is not positive.
        OutputError: the folder cannot be written to.
    """
    settings = {**subject.settings, **truth.settings()}
    keep = folder / PREDICTIONS if folder and not subject.is_made else None
    measure = _Measure(subject, truth, keep, is_shown=folder is not None)
    measured: dict[str, Measured] = {}
    journal = None
    if folder:
        own = {path.resolve() for example in truth.examples for path in (example.mask, example.image)}
        if keep and any(measure.labels_file(example).resolve() in own for example in truth.examples):
            raise UsageError(f"{keep}: holds files of the data set; choose another folder")
        journal = _Journal(folder, settings, len(truth.classes), overwrite)
        measured = {e.name: journal.done[e.name] for e in truth.examples if measure.is_done(e, journal.done)}
    progress(len(measured), len(truth.examples))
    missing = [example for example in truth.examples if example.name not in measured]
    with workers_for(workers) as call_each:
        for photo in call_each(measure, missing):
            measured[photo.name] = photo
            if journal:
                journal.add(photo)
            progress(len(measured), len(truth.examples))
    photos = tuple(measured[example.name] for example in truth.examples)
    kept = {e.name: measure.labels_file(e) for e in truth.examples} if keep or subject.is_made else {}
    evaluation = Evaluation(truth, subject.rows, subject.full, settings, photos, kept)
    if not evaluation.total(subject.full).confusion.any():
        raise DataError(
            f"{truth.examples[0].mask}: it and all other masks of split '{truth.split}' are void alone; "
            "there is nothing to score"
        )
    return evaluation


def workers_for(workers: int) -> AbstractContextManager[machine.Map]:
    """A pool of threads that share torch's threads and the cores; one worker is the calling thread.

    Raises UsageError if `workers` is not positive.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers: give a number of at least 1")
    each = max(min(torch.get_num_threads(), machine.cores()) // workers, 1)
    return machine.pool(workers if workers > 1 else 0, torch_threads=each)


@dataclass(frozen=True)
class _Measure:
    """Labels one photo and counts, in whatever thread."""

    subject: Subject
    truth: Truth
    keep: Path | None
    is_shown: bool

    def __call__(self, example: Example) -> Measured:
        mask = self.truth.mask(example)
        if self.is_shown and self.subject.is_made:  # found now, a bad photo costs no finished figures
            refuse_other_size(example, read_image(example.image).shape[:2], mask.shape)
        stamp = self.stamp(example)
        reference = Reference(mask, len(self.truth.classes))
        rows: dict[str, Tally] = {}
        took: dict[str, float] = {}
        for row, labels, seconds in self.subject.label(example):
            self._check(example, labels, mask)
            rows[row.name] = reference.tally(labels)
            if row == self.subject.full:
                took = seconds
                if self.keep:
                    kept = Segmentation(labels, self.truth.classes, self.truth.palette)
                    write_labels(kept, self.labels_file(example))
        height, width = mask.shape
        return Measured(example.name, stamp, width, height, took, rows)

    def is_done(self, example: Example, done: Mapping[str, Measured]) -> bool:
        photo = done.get(example.name)
        if photo is None or photo.stamp != self.stamp(example):
            return False
        return not self.keep or has_size(self.labels_file(example), photo.width, photo.height)

    def labels_file(self, example: Example) -> Path:
        return self.keep / f"{example.name}.png" if self.keep else self.subject.source(example)

    def stamp(self, example: Example) -> list[int]:
        """Size and time of change of the prediction's or photo's file and the mask's."""
        states = [path.stat() for path in (self.subject.source(example), example.mask) if path.is_file()]
        return [number for state in states for number in (state.st_size, state.st_mtime_ns)]

    def _check(self, example: Example, labels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        if not self.subject.is_made:
            refuse_other_size(example, labels.shape, mask.shape)
            return
        source = self.subject.source(example)
        if labels.shape != mask.shape:
            raise DataError(
                f"{source}: is {labels.shape[1]}x{labels.shape[0]} pixels, its true mask {example.mask.name} "
                f"{mask.shape[1]}x{mask.shape[0]}; make them one size (labels are not resized to be scored)"
            )
        if nowhere := int(np.count_nonzero((labels == VOID) & (mask != VOID))):
            raise DataError(
                f"{source}: {nowhere} pixels that count are {VOID}, which is no class; "
                "a prediction names a class for every pixel"
            )


class _Journal:
    """What has been counted so far, in a file so that a stopped evaluation can go on.

    The settings are on the first line; then comes one line for each photo done, with a checksum. Results of
    other settings are never mixed in, and files that are no results are not replaced unless `overwrite`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], classes: int, overwrite: bool) -> None:
        self._path = folder / JOURNAL
        header = json.loads(json.dumps(settings))
        documents = [] if overwrite else self._read()
        others = [path for path in (folder / name for name in REPORT_FILES) if path.exists()]
        if len(documents) > 1 and documents[0] != header:
            raise UsageError(
                f"{folder}: holds the results of other settings, or of another version; choose another "
                "folder, or overwrite it"
            )
        if others and not documents and not overwrite:
            raise UsageError(
                f"{others[0]}: exists, and no {JOURNAL} says that it is a result; choose another folder, or "
                "overwrite it"
            )
        found = [_measured(document, classes) for document in documents[1:]]
        self.done = {photo.name: photo for photo in found if photo}
        if not self.done:
            for path in filter(Path.is_file, others):  # a report of what was measured before
                path.unlink()
        # Written anew: a line that a kill cut short must not run into the next one.
        with replacing(self._path) as stream:
            stream.write(f"{json.dumps(header)}\n".encode())
            stream.writelines(f"{_line(photo)}\n".encode() for photo in self.done.values())

    def add(self, photo: Measured) -> None:
        """Keep what was counted of one more photo; OutputError if the file cannot be written."""
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(_line(photo) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written ({error.strerror}); check its disk"
            ) from error

    def _read(self) -> list[dict[str, Any]]:
        try:
            return read_json_lines(self._path)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be read ({error}); choose another folder") from error


def _line(photo: Measured) -> str:
    document = {**vars(photo), "rows": {name: tally.to_json() for name, tally in photo.rows.items()}}
    return json.dumps({**document, "check": _checksum(document)})


def _measured(document: dict[str, Any], classes: int) -> Measured | None:
    """What `_line` wrote; None if it was damaged."""
    if document.pop("check", None) != _checksum(document):
        return None
    rows = {name: Tally.from_json(counts, classes) for name, counts in document["rows"].items()}
    return Measured(**{**document, "rows": rows})


def _checksum(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document).encode())

"""Measures a network, or predictions made elsewhere, over a split: each photo at its own size."""

from __future__ import annotations

import json
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
from deconvseg.data.dataset import DataSet, Example, refuse_other_size
from deconvseg.data.masks import VOID, read_mask
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError, OutputError, UsageError
from deconvseg.evaluation.ablation import Row, Subject
from deconvseg.evaluation.metrics import Tally
from deconvseg.files import read_json_lines, replacing
from deconvseg.identity import code_digest
from deconvseg.images.write import write_labels
from deconvseg.segmentation import Segmentation
from deconvseg.settings import refuse_below

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
        return {
            "split": self.split,
            "classes": list(self.classes),
            "ids": sorted(map(list, self.masks.ids.items())),
            "colors": [[*color, label] for color, label in sorted(self.masks.colors.items())],
            "counting": code_digest("deconvseg.evaluation.metrics"),
        }


def open_truth(root: Path, split: str, limit: int | None = None) -> Truth:
    """The truth of a split of a data set of any layout that `open_dataset` knows.

    Args:
        limit: take an evenly spread, fixed sample of that many photos.

    Raises:
        DataError: the folder is no data set, or the split is missing, empty or names missing files.
        UsageError: `limit` is not positive.
    """
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
    """What was counted of one photo.

    Attributes:
        stamp: size and time of change of the files the counts come from.
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
    """What was measured: counts of each photo in the truth's order.

    `predictions` are files of the full setting's labels by the photo's name; empty if they were not kept.
    """

    truth: Truth
    subject: Subject
    photos: tuple[Measured, ...]
    predictions: Mapping[str, Path]

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that can change a figure, fit for JSON."""
        return {**self.subject.settings, **self.truth.settings()}

    def total(self, row: Row) -> Tally:
        """The counts of a row, over all photos."""
        return Tally.total(photo.rows[row.name] for photo in self.photos)


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
    labels = subject.predictions
    if folder and not labels:
        labels = {example.name: folder / PREDICTIONS / f"{example.name}.png" for example in truth.examples}
        own = {path.resolve() for example in truth.examples for path in (example.mask, example.image)}
        if any(path.resolve() in own for path in labels.values()):
            raise UsageError(f"{folder / PREDICTIONS}: holds files of the data set; choose another folder")
    journal = folder and folder / JOURNAL
    before = _begin(journal, subject, truth, overwrite) if journal else {}
    measured = {}
    for example in truth.examples:
        photo = before.get(example.name)
        if photo and photo.stamp == _stamp(subject, example) and labels[example.name].is_file():
            measured[example.name] = photo
    progress(len(measured), len(truth.examples))
    missing = [example for example in truth.examples if example.name not in measured]
    with workers_for(workers) as call_each:
        for photo in call_each(partial(_measure, subject, truth, labels), missing):
            measured[photo.name] = photo
            if journal:
                _append(journal, photo)
            progress(len(measured), len(truth.examples))
    photos = tuple(measured[example.name] for example in truth.examples)
    evaluation = Evaluation(truth, subject, photos, labels)
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
    refuse_below(1, workers=workers)
    each = max(min(torch.get_num_threads(), machine.cores()) // workers, 1)
    return machine.pool(workers if workers > 1 else 0, torch_threads=each)


def _measure(subject: Subject, truth: Truth, labels: Mapping[str, Path], example: Example) -> Measured:
    """Label a photo and count, in whatever thread; `labels` are the files to write, if any."""
    stamp, mask = _stamp(subject, example), truth.mask(example)
    rows: dict[str, Tally] = {}
    took: dict[str, float] = {}
    for row, found, seconds in subject.label(example):
        _refuse_unfit(example, subject.predictions.get(example.name), found, mask)
        rows[row.name] = Tally.of(mask, found, len(truth.classes))
        if row == subject.full:
            took = seconds
            if labels and not subject.predictions:
                write_labels(Segmentation(found, truth.classes, truth.palette), labels[example.name])
    return Measured(example.name, stamp, mask.shape[1], mask.shape[0], took, rows)


def _stamp(subject: Subject, example: Example) -> list[int]:
    """Size and time of change of the files that counts depend on."""
    source = subject.predictions.get(example.name, example.image)
    states = [path.stat() for path in (source, example.mask) if path.is_file()]
    return [number for state in states for number in (state.st_size, state.st_mtime_ns)]


def _refuse_unfit(
    example: Example, source: Path | None, labels: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> None:
    """Raise DataError unless labels can be scored; `source` is the file of those made elsewhere."""
    if source is None:
        refuse_other_size(example, labels.shape, mask.shape)
    elif labels.shape != mask.shape:
        raise DataError(
            f"{source}: is {labels.shape[1]}x{labels.shape[0]} pixels, its true mask {example.mask.name} "
            f"{mask.shape[1]}x{mask.shape[0]}; make them one size"
        )
    elif nowhere := int(np.count_nonzero((labels == VOID) & (mask != VOID))):
        raise DataError(
            f"{source}: {nowhere} pixels that count are {VOID}; a prediction names a class for every pixel"
        )


def _begin(journal: Path, subject: Subject, truth: Truth, overwrite: bool) -> dict[str, Measured]:
    """What a stopped evaluation has counted, by the name of the photo.

    The journal has the settings on its first line, and then one for each photo done.
    """
    header = json.loads(json.dumps({**subject.settings, **truth.settings()}))
    documents = [] if overwrite else read_json_lines(journal)
    entries = documents[1:]
    others = [path for name in REPORT_FILES if (path := journal.parent / name).exists()]
    if (entries and documents[0] != header) or (others and not documents and not overwrite):
        raise UsageError(
            f"{journal.parent}: holds the results of other settings, of another version or of something "
            "else; choose another folder, or overwrite it"
        )
    if not entries:
        for path in filter(Path.is_file, others):  # a report of what was measured before
            path.unlink()
    # Written anew: a line that a kill cut short must not run into the next one.
    with replacing(journal) as stream:
        stream.writelines(f"{json.dumps(line)}\n".encode() for line in (header, *entries))
    for entry in entries:
        rows = entry["rows"].items()
        entry["rows"] = {name: Tally.from_json(counts, len(truth.classes)) for name, counts in rows}
    return {entry["name"]: Measured(**entry) for entry in entries}


def _append(journal: Path, photo: Measured) -> None:
    document = {**vars(photo), "rows": {name: tally.to_json() for name, tally in photo.rows.items()}}
    try:
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(document) + "\n")
    except OSError as error:
        raise OutputError(f"{journal}: cannot be written ({error.strerror}); check its disk") from error

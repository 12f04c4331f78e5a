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
from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.masks import read_mask
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError, OutputError, UsageError
from deconvseg.evaluation.ablation import Row, Subject
from deconvseg.evaluation.counts import confusion_of, count
from deconvseg.files import read_json_lines, replacing
from deconvseg.identity import code_digest
from deconvseg.images.write import write_labels
from deconvseg.segmentation import Segmentation
from deconvseg.settings import refuse_below

PREDICTIONS = "predictions"  # folder, in the report's, of the full setting's labels
JOURNAL = "per_image.jsonl"  # file of the counts of each photo done, in the report's folder
REPORT_FILES = ("report.html", "report.json", "per_class.csv", "per_image.csv", PREDICTIONS)


@dataclass(frozen=True)
class Truth(DataSet):
    """The photos to score: `examples`."""

    split: str  # name of the list they come from
    photos: int  # how many it names

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
            "counting": code_digest("evaluation"),
        }


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
    """What was counted of one photo, as a line of the journal has it."""

    name: str
    stamp: list[int]  # size and time of change of the files the counts come from
    width: int
    height: int
    seconds: dict[str, float]  # by part of the work, of the full setting
    rows: dict[str, list[list[int]]]  # by row, where what `counts.count` gives is not 0, and what it is there


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    truth: Truth
    subject: Subject
    settings: Mapping[str, Any]  # everything that can change a figure, fit for JSON
    photos: tuple[Measured, ...]  # in the truth's order
    predictions: Mapping[str, Path]  # labels of the full setting by the photo's name, if kept

    def counts(self, row: Row) -> NDArray[np.int64]:
        """What was counted for a row, int64 (N, C * (C + 13)), see `counts.count`."""
        classes = len(self.truth.classes)
        counts = np.zeros((len(self.photos), classes * (classes + 13)), np.int64)
        for line, photo in zip(counts, self.photos, strict=True):
            places, values = photo.rows[row.name]
            line[places] = values
        return counts


def evaluate(
    subject: Subject,
    truth: Truth,
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Label and count every photo: in whole numbers, which depend neither on `workers` nor on stops.

    A `folder` keeps the counts of each photo in `per_image.jsonl`, and the labels of a network in
    `predictions`; photos found in it, unchanged and of the same settings, are not done again, unless
    `overwrite` begins anew; UsageError if it holds something else. `workers` are threads with a photo each.
    `progress` is called with the photos done and their total, first with those that were done before.
    """
    labels, settings = subject.predictions, {**subject.settings, **truth.settings()}
    if folder and not labels:
        labels = {example.name: folder / PREDICTIONS / f"{example.name}.png" for example in truth.examples}
        own = {path.resolve() for example in truth.examples for path in (example.mask, example.image)}
        if not own.isdisjoint(path.resolve() for path in labels.values()):
            raise UsageError(f"{folder / PREDICTIONS}: holds files of the data set; choose another folder")
    journal = folder and folder / JOURNAL
    measured = _begin(journal, settings, overwrite) if journal else {}

    def is_done(example: Example) -> bool:
        photo = measured.get(example.name)
        return bool(photo and photo.stamp == _stamp(subject, example) and labels[example.name].is_file())

    missing = [example for example in truth.examples if not is_done(example)]
    total = len(truth.examples)
    progress(total - len(missing), total)
    with workers_for(workers) as call_each:
        call = partial(_measure, subject, truth, labels)
        for done, photo in enumerate(call_each(call, missing), total - len(missing) + 1):
            measured[photo.name] = photo
            if journal:
                _append(journal, photo)
            progress(done, total)
    photos = tuple(measured[example.name] for example in truth.examples)
    evaluation = Evaluation(truth, subject, settings, photos, labels)
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


def _measure(subject: Subject, truth: Truth, labels: Mapping[str, Path], example: Example) -> Measured:
    """Label a photo and count, in whatever thread; `labels` are the files to write, if any."""
    stamp, mask = _stamp(subject, example), truth.mask(example)
    height, width = mask.shape
    measured = Measured(example.name, stamp, width, height, {}, {})
    for row, found, seconds in subject.label(example, mask):
        counts = count(mask, found, len(truth.classes))
        places = np.flatnonzero(counts)
        measured.rows[row.name] = [places.tolist(), counts[places].tolist()]
        measured.seconds.update(seconds)
        if row == subject.full and labels and not subject.predictions:
            write_labels(Segmentation(found, truth.classes, truth.palette), labels[example.name])
    return measured


def _stamp(subject: Subject, example: Example) -> list[int]:
    """Size and time of change of the files that counts depend on."""
    source = subject.predictions.get(example.name, example.image)
    states = [path.stat() for path in (source, example.mask) if path.is_file()]
    return [number for state in states for number in (state.st_size, state.st_mtime_ns)]


def _begin(journal: Path, settings: Mapping[str, Any], overwrite: bool) -> dict[str, Measured]:
    """What a stopped evaluation has counted, by photo. The first line of its journal has the settings."""
    header = json.loads(json.dumps(settings))
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
    return {entry["name"]: Measured(**entry) for entry in entries}


def _append(journal: Path, photo: Measured) -> None:
    try:
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(vars(photo)) + "\n")
    except OSError as error:
        raise OutputError(f"{journal}: cannot be written ({error.strerror}); check its disk") from error

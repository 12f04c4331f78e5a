"""What a training run is made of, before anything is computed: stages, photos, classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from deconvseg.data.check import DataReport, check_dataset
from deconvseg.data.crops import Pair
from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.open import open_dataset
from deconvseg.data.voc import sbd_dataset
from deconvseg.errors import DataError, DeconvSegError, UsageError
from deconvseg.training.recipe import Recipe, read_recipes
from deconvseg.training.scores import SUFFIX, mask_from_scores


@dataclass(frozen=True)
class Sources:
    """Where the data comes from: folders of any layout that `open_dataset` knows."""

    root: Path
    sbd_root: Path | None = None  # SBD: all its photos but those of the validation split join in
    extra_roots: Sequence[Path] = ()  # more data sets of the same classes; their `train` splits join in
    split: str = "train"  # list of `root` to train on ...
    val_split: str = "val"  # ... and to validate on
    # Folders of soft labels, `NAME.scores.npz` for the photo NAME. One that lies in the folder of a data set
    # is for that data set, any other for all; a photo takes the first that has it. Photos with a score file
    # and no mask take their mask from it.
    scores: Sequence[Path] = ()


@dataclass(frozen=True)
class Photo:
    """A photo to learn from."""

    name: str  # of this photo alone
    dataset: DataSet
    example: Example
    scores: Path | None  # its score file, if any

    @property
    def masked_by(self) -> Path | None:
        """The score file that its mask is made from, if it has no mask of its own."""
        return self.scores if self.scores and not self.example.mask.is_file() else None

    def read(self) -> Pair:
        """The photo and its mask; DataError or InputError if one cannot be used."""
        if scores := self.masked_by:
            return mask_from_scores(self.example.image, scores, self.dataset.classes)
        return self.dataset.read(self.example)


@dataclass(frozen=True)
class Plan:
    """A run that could start."""

    stages: Mapping[str, Recipe]  # by name, in order; the name is empty if there is but one
    photos: Sequence[Photo]  # to learn from, data set by data set, all of the same classes
    validation: DataSet


def plan_training(
    sources: Sources, recipe: str | Path, overrides: Mapping[str, Any], stage: str | None = None
) -> Plan:
    """Read the recipe, as `read_recipes` does, and the lists of the data sets.

    Raises UsageError if recipe, stage or choice of data makes no sense, and DataError if a folder or list is
    not as it should be, the data sets differ in their classes, or a photo is there twice.
    """
    stages = read_recipes(recipe, overrides, stage)
    first, validation = (open_dataset(sources.root, name) for name in (sources.split, sources.val_split))
    datasets = [(sources.root, first)]
    if sources.sbd_root:
        held_out = {example.name for example in (*validation.examples, *first.examples)}
        for sbd in _sbd(sources.sbd_root):
            added = tuple(example for example in sbd.examples if example.name not in held_out)
            datasets.append((sources.sbd_root, replace(sbd, examples=added)))
            held_out |= {example.name for example in added}
    extra = len(datasets)
    datasets += [(more, open_dataset(more, "train")) for more in sources.extra_roots]
    plan = Plan(stages, _photos(datasets, extra, sources.scores), validation)
    _refuse_mixtures(plan, sources.split == sources.val_split)
    return plan


def _sbd(root: Path) -> list[DataSet]:
    """All of SBD: its usual list of everything outside VOC's val, or its own two splits."""
    for split in ("train_aug", "trainaug"):
        with suppress(DataError):
            return [sbd_dataset(root, split)]
    return [sbd_dataset(root, split) for split in ("train", "val")]


def _photos(datasets: Sequence[tuple[Path, DataSet]], extra: int, folders: Sequence[Path]) -> list[Photo]:
    """All photos; from the data set `extra` on, their names start with their folder's."""
    photos, roots = list[Photo](), {root.resolve() for root, _ in datasets}
    for k, (root, dataset) in enumerate(datasets):
        here = root.resolve()
        # Folders of scores whose nearest data set is this one, and those that lie in none.
        own = [f for f in folders if next((p for p in f.resolve().parents if p in roots), here) == here]
        for example in dataset.examples:
            files = (folder / f"{example.name}{SUFFIX}" for folder in own)
            scores = next((file for file in files if file.is_file()), None)
            name = f"{here.name}/{example.name}" if k >= extra else example.name
            photos.append(Photo(name, dataset, example, scores))
    used = {parent for photo in photos if photo.scores for parent in photo.scores.parents}
    for folder in folders:
        if folder not in used:
            raise UsageError(f"{folder}: holds no NAME{SUFFIX} of any photo to train on; check the path")
    return photos


def _refuse_mixtures(plan: Plan, may_share: bool) -> None:
    """Raise a DataError if data sets differ in their classes, or a photo is there twice."""
    for photo in plan.photos:
        if photo.dataset.classes != plan.validation.classes:
            raise DataError(
                f"{photo.dataset.source}: its classes are not those of {plan.validation.source}; data sets "
                "that are trained on together must have the same classes in the same order"
            )
    names = Counter(photo.name for photo in plan.photos)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(
            f"{twice[0]}: named twice by the lists to train on; take it out of one, or, if these are two "
            "photos, rename the folder of one data set"
        )
    files = Counter(photo.example.image.resolve() for photo in plan.photos)
    validated = Counter(example.image.resolve() for example in plan.validation.examples)
    for named, what in ((files, "train"), (validated, "validate")):
        if again := [path for path, count in named.items() if count > 1]:
            raise DataError(f"{again[0]}: named twice by the lists to {what} on; each photo may come once")
    shared = files.keys() & validated.keys()
    if shared and not may_share:
        raise DataError(
            f"{min(shared)}: both in the split to train on and in the one to validate on ({len(shared)} such "
            "photos); the figures would flatter. Take them out of one list"
        )


def check_plan(
    plan: Plan, *, workers: int = 1, progress: Callable[[], None] = lambda: None
) -> list[tuple[str, DataReport]]:
    """Read every photo and mask of a plan: reports with what each is about, training data first."""
    reports = []
    for _, group in groupby(plan.photos, key=lambda photo: photo.dataset.source):
        photos = list(group)
        dataset = photos[0].dataset
        masked = tuple(photo.example for photo in photos if not photo.masked_by)
        report = check_dataset(replace(dataset, examples=masked), workers=workers, progress=progress)
        faults = list(report.faults)
        for photo in [photo for photo in photos if photo.masked_by]:
            try:
                photo.read()
            except DeconvSegError as error:
                faults.append(str(error))
            progress()
        report = replace(report, examples=len(photos), faults=tuple(faults))
        reports.append((f"training: {dataset.source}", report))
    checked = check_dataset(plan.validation, workers=workers, progress=progress)
    return [*reports, (f"validation: {plan.validation.source}", checked)]

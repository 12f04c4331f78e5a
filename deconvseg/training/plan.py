"""What a training run is made of, before anything is computed: stages, photos, classes."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deconvseg.data.check import DataReport, Fault, check_dataset
from deconvseg.data.crops import Pair
from deconvseg.data.dataset import DataSet
from deconvseg.data.open import open_dataset
from deconvseg.data.voc import sbd_dataset, voc_dataset
from deconvseg.errors import DataError, DeconvSegError, UsageError
from deconvseg.training.recipe import Recipe, read_recipes
from deconvseg.training.scores import SUFFIX, mask_from_scores


@dataclass(frozen=True)
class Sources:
    """Where the data comes from; one of `voc_root` and `data` is given.

    Attributes:
        voc_root: folder of VOC's layout.
        data: folder with a `dataset.toml`, or any other layout that `open_dataset` knows.
        sbd_root: the Semantic Boundaries Dataset; all its photos but those of the validation split join in.
        extra_roots: more data sets of the same classes; their `train` splits join in.
        split, val_split: which lists of `voc_root` or `data` to train and to validate on.
        scores: folders of score files to learn from as soft labels, `NAME.scores.npz` for the photo NAME. One
            that lies beside the photos' folder of a data set is for that data set, any other for all; a photo
            takes the first that has it. Photos with neither mask nor score file are faults, those with a
            score file alone take their mask from it.
    """

    voc_root: Path | None = None
    data: Path | None = None
    sbd_root: Path | None = None
    extra_roots: Sequence[Path] = ()
    split: str = "train"
    val_split: str = "val"
    scores: Sequence[Path] = ()


@dataclass(frozen=True)
class Plan:
    """A run that could start.

    Attributes:
        stages: recipes by the name of their stage, in order; the name is empty if there is but one.
        training: the data sets to learn from by the name of their folder, all of the same classes.
        names: of all photos to learn from, in order, each once.
        scores: the score file of each of them, or None.
        validation: the data set to validate on.
    """

    stages: Mapping[str, Recipe]
    training: Mapping[str, DataSet]
    names: Sequence[str]
    scores: Sequence[Path | None]
    validation: DataSet

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, background first."""
        return self.validation.classes

    @property
    def photos(self) -> list[tuple[str, Path]]:
        """Name and file of every photo to learn from."""
        files = [example.image for dataset in self.training.values() for example in dataset.examples]
        return list(zip(self.names, files, strict=True))

    @property
    def needs_proposals(self) -> bool:
        """Whether a stage draws object proposals."""
        return any(recipe.proposal_share > 0 for recipe in self.stages.values())

    def readers(self) -> list[Callable[[], Pair]]:
        """For every photo to learn from, what reads it with its mask, or makes that from its score file."""
        scores = iter(self.scores)
        return [
            partial(mask_from_scores, example.image, file, self.classes)
            if (file := next(scores)) and not example.mask.is_file()
            else partial(dataset.read, example)
            for dataset in self.training.values()
            for example in dataset.examples
        ]

    def weights(self, recipe: Recipe) -> Tensor:
        """Weights of each photo's mask and soft labels, float32 (N, 2).

        Raises:
            UsageError: the recipe weighs a data set that is not there.
        """
        columns = []
        for key in ("mask_weight", "scores_weight"):
            weight = getattr(recipe, key)
            table = weight if isinstance(weight, Mapping) else dict.fromkeys(self.training, weight)
            unknown = [name for name in table if name not in self.training]
            if unknown:
                raise UsageError(
                    f"{key}: there is no data set '{unknown[0]}' to learn from; there is "
                    + ", ".join(self.training)
                )
            columns.append(
                [table.get(name, 1.0) for name, data in self.training.items() for _ in data.examples]
            )
        return torch.tensor(columns, dtype=torch.float32).T


def plan_training(
    sources: Sources, recipe: str | Path, overrides: Mapping[str, Any], stage: str | None = None
) -> Plan:
    """Read the recipe and the lists of the data sets.

    Args:
        sources: where the data comes from.
        recipe: a file, or the name of a shipped recipe.
        overrides: values that win over the recipe's; None entries are ignored.
        stage: `1`, `2` or `both` of a recipe with stages; None takes all it has.

    Raises:
        UsageError: recipe, stage or choice of data makes no sense.
        DataError: a folder or list is not as it should be, or the data sets differ in their classes.
    """
    stages = read_recipes(recipe_file(recipe), overrides, stage)
    training, validation = _open(sources)
    extra = list(training)[len(training) - len(sources.extra_roots) :]
    names = [
        f"{folder}/{example.name}" if folder in extra else example.name
        for folder, dataset in training.items()
        for example in dataset.examples
    ]
    plan = Plan(stages, training, names, _score_files(training, sources.scores), validation)
    _refuse_mixtures(plan, sources.split == sources.val_split)
    for stage_recipe in stages.values():
        plan.weights(stage_recipe)
    return plan


def _open(sources: Sources) -> tuple[dict[str, DataSet], DataSet]:
    """The data sets to learn from by name, and the one to validate on."""
    if (sources.voc_root is None) == (sources.data is None):
        raise UsageError("give one folder of data to train on, of VOC's layout or your own")
    root = sources.voc_root or sources.data
    assert root is not None
    open_ = open_dataset if sources.data else voc_dataset
    first, validation = open_(root, sources.split), open_(root, sources.val_split)
    training = {_name(root, {}): first}
    if sources.sbd_root is not None:
        held_out = {example.name for example in (*validation.examples, *first.examples)}
        for sbd in _sbd(sources.sbd_root):
            added = tuple(example for example in sbd.examples if example.name not in held_out)
            held_out |= {example.name for example in added}
            training[_name(sources.sbd_root, training)] = replace(sbd, examples=added)
    for extra in sources.extra_roots:
        training[_name(extra, training)] = open_dataset(extra, "train")
    return training, validation


def _name(root: Path, taken: Mapping[str, object]) -> str:
    """The name of a folder, with a number if there is one of that name already."""
    name, number = root.resolve().name, 2
    while name in taken:
        name, number = f"{root.resolve().name}-{number}", number + 1
    return name


def _sbd(root: Path) -> list[DataSet]:
    """All of SBD: its usual list of everything outside VOC's val, or its own two splits."""
    for split in ("train_aug", "trainaug"):
        with suppress(DataError):
            return [sbd_dataset(root, split)]
    return [sbd_dataset(root, split) for split in ("train", "val")]


def _score_files(training: Mapping[str, DataSet], folders: Sequence[Path]) -> list[Path | None]:
    """The score file of each photo; UsageError if a folder has none for any."""

    roots = {
        name: Path(os.path.commonpath([file.resolve() for file in (data.examples[0].image, data.source)]))
        for name, data in training.items()
        if data.examples
    }
    serves = {}
    for folder in folders:
        beside = {name for name, root in roots.items() if root == folder.resolve().parent}
        serves[folder] = beside or set(training)
    found = []
    for name, dataset in training.items():
        own = [folder for folder in folders if name in serves[folder]]
        for example in dataset.examples:
            files = (folder / f"{example.name}{SUFFIX}" for folder in own)
            found.append(next((file for file in files if file.is_file()), None))
    used = {file for file in found if file is not None}
    for folder in folders:
        if not any(folder in file.parents for file in used):
            raise UsageError(f"{folder}: holds no NAME{SUFFIX} of any photo to train on; check the path")
    return found


def _refuse_mixtures(plan: Plan, may_share: bool) -> None:
    """Raise a DataError if data sets differ in their classes, or a photo is there twice."""
    for dataset in plan.training.values():
        if dataset.classes != plan.classes:
            raise DataError(
                f"{dataset.source}: its classes are not those of {plan.validation.source}; data sets that "
                "are trained on together must have the same classes in the same order"
            )
    files = Counter(path.resolve() for _, path in plan.photos)
    twice = [path for path, count in files.items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]}: named twice by the lists to train on; each photo may come once")
    shared = files.keys() & {example.image.resolve() for example in plan.validation.examples}
    if shared and not may_share:
        raise DataError(
            f"{min(shared)}: both in the split to train on and in the one to validate on ({len(shared)} such "
            "photos); the figures would flatter. Take them out of one list"
        )


def check_plan(
    plan: Plan, *, workers: int = 1, progress: Callable[[], None] = lambda: None
) -> list[tuple[str, DataReport]]:
    """Read every photo and mask of a plan: reports with what each is about, training data first."""
    reports, scores = [], iter(plan.scores)
    for dataset in plan.training.values():
        files = {example: next(scores) for example in dataset.examples}
        unmasked = {e: file for e, file in files.items() if file is not None and not e.mask.is_file()}
        masked = replace(dataset, examples=tuple(e for e in dataset.examples if e not in unmasked))
        report = check_dataset(masked, workers=workers, progress=progress)
        faults = list(report.faults)
        for example, file in unmasked.items():
            try:
                mask_from_scores(example.image, file, plan.classes)
            except DeconvSegError as error:
                path, _, problem = str(error).partition(": ")
                faults.append(Fault(Path(path), problem))
            progress()
        report = replace(report, examples=len(dataset), faults=tuple(faults))
        reports.append((f"training: {dataset.source}", report))
    checked = check_dataset(plan.validation, workers=workers, progress=progress)
    return [*reports, (f"validation: {plan.validation.source}", checked)]


def digest(plan: Plan, reports: Sequence[tuple[str, DataReport]]) -> str:
    """One hash of all photos, masks, score files and classes of a run, and of what the masks' pixels mean."""
    meanings: list[Any] = [
        [list(dataset.classes), sorted(dataset.masks.ids.items()), sorted(dataset.masks.colors.items())]
        for dataset in (*plan.training.values(), plan.validation)
    ]
    contents = [report.digest for _, report in reports]
    scores = [(name, file.stat().st_size) for name, file in zip(plan.names, plan.scores, strict=True) if file]
    return hashlib.sha256(json.dumps([meanings, contents, scores]).encode()).hexdigest()


def recipe_file(recipe: str | Path) -> Path:
    """A recipe's file, given by path or by the name of a shipped one.

    Raises:
        UsageError: neither.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    package = Path(__file__).resolve().parent.parent
    folders = (package / "_recipes", package.parent / "recipes")
    for folder in folders:
        if (folder / f"{recipe}.toml").is_file():
            return folder / f"{recipe}.toml"
    names = sorted({file.stem for folder in folders for file in folder.glob("*.toml")})
    raise UsageError(f"{recipe}: neither a recipe file nor a shipped recipe's name ({', '.join(names)})")

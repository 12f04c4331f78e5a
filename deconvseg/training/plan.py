"""What a training run is made of, before anything is computed: stages, photos, classes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deconvseg.data.check import DataReport, check_dataset
from deconvseg.data.dataset import DataSet
from deconvseg.data.open import open_dataset
from deconvseg.data.voc import sbd_dataset, voc_dataset
from deconvseg.errors import DataError, UsageError
from deconvseg.training.recipe import Recipe, read_recipes


@dataclass(frozen=True)
class Sources:
    """Where the data comes from; one of `voc_root` and `data` is given.

    Attributes:
        voc_root: folder of VOC's layout.
        data: folder with a `dataset.toml`, or any other layout that `open_dataset` knows.
        sbd_root: the Semantic Boundaries Dataset; all its photos but those of the validation split join in.
        extra_roots: more data sets of the same classes; their `train` splits join in.
        split, val_split: which lists of `voc_root` or `data` to train and to validate on.
    """

    voc_root: Path | None = None
    data: Path | None = None
    sbd_root: Path | None = None
    extra_roots: Sequence[Path] = ()
    split: str = "train"
    val_split: str = "val"


@dataclass(frozen=True)
class Plan:
    """A run that could start.

    Attributes:
        stages: recipes by the name of their stage, in order; the name is empty if there is but one.
        training: the data sets to learn from, all of the same classes.
        names: of all photos to learn from, in order, each once.
        validation: the data set to validate on.
    """

    stages: Mapping[str, Recipe]
    training: Sequence[DataSet]
    names: Sequence[str]
    validation: DataSet

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, background first."""
        return self.validation.classes

    @property
    def photos(self) -> list[tuple[str, Path]]:
        """Name and file of every photo to learn from."""
        files = [example.image for dataset in self.training for example in dataset.examples]
        return list(zip(self.names, files, strict=True))

    @property
    def needs_proposals(self) -> bool:
        """Whether a stage draws object proposals."""
        return any(recipe.proposal_share > 0 for recipe in self.stages.values())


def plan_training(
    sources: Sources, recipe: str | Path, overrides: Mapping[str, Any], stage: str | None
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
    if (sources.voc_root is None) == (sources.data is None):
        raise UsageError("give the data to train on: either --voc-root DIR or --data DIR")
    if sources.data is not None:
        first = open_dataset(sources.data, sources.split)
        validation = open_dataset(sources.data, sources.val_split)
    else:
        assert sources.voc_root is not None
        first = voc_dataset(sources.voc_root, sources.split)
        validation = voc_dataset(sources.voc_root, sources.val_split)
    training, names = [first], [example.name for example in first.examples]
    if sources.sbd_root is not None:
        held_out = {example.name for example in validation.examples} | set(names)
        for sbd in _sbd(sources.sbd_root):
            added = tuple(example for example in sbd.examples if example.name not in held_out)
            held_out |= {example.name for example in added}
            training.append(replace(sbd, examples=added))
            names += [example.name for example in added]
    for root in sources.extra_roots:
        extra = open_dataset(root, "train")
        training.append(extra)
        names += [f"{_short(root, sources.extra_roots)}/{example.name}" for example in extra.examples]
    for dataset in training:
        if dataset.classes != validation.classes:
            raise DataError(
                f"{dataset.source}: its classes are not those of {validation.source}; data sets that are "
                "trained on together must have the same classes in the same order"
            )
    files = Counter(example.image.resolve() for dataset in training for example in dataset.examples)
    twice = [path for path, count in files.items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]}: named twice by the lists to train on; each photo may come once")
    shared = files.keys() & {example.image.resolve() for example in validation.examples}
    if shared and sources.split != sources.val_split:
        raise DataError(
            f"{min(shared)}: both in the split to train on and in the one to validate on ({len(shared)} such "
            "photos); the figures would flatter. Take them out of one list"
        )
    return Plan(stages, training, names, validation)


def _short(root: Path, roots: Sequence[Path]) -> str:
    """What tells a folder from others of the same name."""
    same = [other for other in roots if other.resolve().name == root.resolve().name]
    return root.resolve().name + (f"-{same.index(root) + 1}" if len(same) > 1 else "")


def _sbd(root: Path) -> list[DataSet]:
    """All of SBD: its usual list of everything outside VOC's val, or its own two splits."""
    for split in ("train_aug", "trainaug"):
        with suppress(DataError):
            return [sbd_dataset(root, split)]
    return [sbd_dataset(root, split) for split in ("train", "val")]


def check_plan(
    plan: Plan, *, workers: int = 1, progress: Callable[[], None] = lambda: None
) -> list[tuple[str, DataReport]]:
    """Read every photo and mask of a plan: reports with what each is about, training data first."""
    reports = [
        (f"training: {dataset.source}", check_dataset(dataset, workers=workers, progress=progress))
        for dataset in plan.training
    ]
    checked = check_dataset(plan.validation, workers=workers, progress=progress)
    return [*reports, (f"validation: {plan.validation.source}", checked)]


def digest(plan: Plan, reports: Sequence[tuple[str, DataReport]]) -> str:
    """One hash of all photos, masks and classes of a run, and of what the masks' pixels mean."""
    meanings = [
        [list(dataset.classes), sorted(dataset.masks.ids.items()), sorted(dataset.masks.colors.items())]
        for dataset in (*plan.training, plan.validation)
    ]
    contents = [report.digest for _, report in reports]
    return hashlib.sha256(json.dumps([meanings, contents]).encode()).hexdigest()


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

"""What a training run learns from and validates on, before any photo is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.open import open_dataset
from deconvseg.data.scores import SUFFIX
from deconvseg.errors import DataError, UsageError


@dataclass(frozen=True)
class TrainingData:
    """Data sets of the same classes."""

    datasets: Sequence[DataSet]  # to learn from; names of their photos differ over all of them
    validation: DataSet

    @property
    def examples(self) -> list[Example]:
        """The photos to learn from, data set by data set."""
        return [example for dataset in self.datasets for example in dataset.examples]


def open_training_data(
    root: Path,
    *,
    split: str = "train",
    val_split: str = "val",
    sbd_root: Path | None = None,
    extra_roots: Sequence[Path] = (),
    scores: Sequence[Path] = (),
) -> TrainingData:
    """Read the lists of the data sets, folders of any layout that `open_dataset` knows.

    Raises DataError if a folder or list is not as it should be, the data sets differ in their classes, or a
    photo is there twice, and UsageError for a folder of scores that has none.

    Args:
        root, split, val_split: data set, its list to train on and that to validate on.
        sbd_root: SBD: all its photos but those of the two lists join in.
        extra_roots: more data sets; their `train` splits join in, photos under names that start with the
            folder's.
        scores: folders of soft labels, `NAME.scores.npz` for the photo NAME. One that lies in the folder of a
            data set is for that data set, any other for all; a photo takes the first that has it. Photos with
            a score file and no mask take their mask from it.
    """
    first, validation = (open_dataset(root, name) for name in (split, val_split))
    opened = [(root, first, "")]
    if sbd_root:
        listed = {example.name for example in (*validation.examples, *first.examples)}
        for sbd in _sbd(sbd_root):
            added = tuple(example for example in sbd.examples if example.name not in listed)
            opened.append((sbd_root, replace(sbd, examples=added), ""))
        if not any(len(dataset) for _, dataset, _ in opened[1:]):
            raise UsageError(f"{sbd_root}: has no photo besides those of the two lists; check the path")
    opened += [(more, open_dataset(more, "train"), f"{more.resolve().name}/") for more in extra_roots]
    datasets, roots = list[DataSet](), {folder.resolve() for folder, _, _ in opened}
    for folder, dataset, prefix in opened:
        here = folder.resolve()
        # Folders of scores whose nearest data set is this one, and those that lie in none.
        own = [f for f in scores if next((p for p in f.resolve().parents if p in roots), here) == here]
        examples = tuple(_with_scores(example, own, prefix) for example in dataset.examples)
        datasets.append(replace(dataset, examples=examples))
    data = TrainingData(datasets, validation)
    used = {parent for example in data.examples if example.scores for parent in example.scores.parents}
    if unused := [folder for folder in scores if folder not in used]:
        raise UsageError(f"{unused[0]}: holds no NAME{SUFFIX} of any photo to train on; check the path")
    _refuse_mixtures(data, may_share=split == val_split)
    return data


def _sbd(root: Path) -> list[DataSet]:
    """All of SBD: its usual list of everything outside VOC's val, or its own two splits."""
    for split in ("train_aug", "trainaug"):
        with suppress(DataError):
            return [open_dataset(root, split)]
    return [open_dataset(root, split) for split in ("train", "val")]


def _with_scores(example: Example, folders: Sequence[Path], prefix: str) -> Example:
    """The example, its name with a prefix, and with the first score file that there is for it."""
    files = (folder / f"{example.name}{SUFFIX}" for folder in folders)
    scores = next((file for file in files if file.is_file()), None)
    mask = scores if scores and not example.mask.is_file() else example.mask
    return Example(prefix + example.name, example.image, mask, scores)


def _refuse_mixtures(data: TrainingData, *, may_share: bool) -> None:
    """Raise a DataError if data sets differ in their classes, or a photo is there twice."""
    for dataset in data.datasets:
        if dataset.classes != data.validation.classes:
            raise DataError(
                f"{dataset.source}: its classes are not those of {data.validation.source}; data sets "
                "that are trained on together must have the same classes in the same order"
            )
    names = Counter(example.name for example in data.examples)
    files = Counter(example.image.resolve() for example in data.examples)
    if twice := [str(one) for counts in (names, files) for one, count in counts.items() if count > 1]:
        raise DataError(
            f"{twice[0]}: named twice by the lists to train on; take it out of one, or, if these are two "
            "photos, rename the folder of one data set"
        )
    trained, validated = (
        {example.image.resolve() for example in some} for some in (data.examples, data.validation.examples)
    )
    if (shared := trained & validated) and not may_share:
        raise DataError(
            f"{min(shared)}: both in the split to train on and in the one to validate on ({len(shared)} such "
            "photos); the figures would flatter. Take them out of one list"
        )

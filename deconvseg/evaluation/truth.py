"""The truth to measure against: which photos of a split are scored, and their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.dataset import Example
from deconvseg.data.masks import MaskFormat, read_mask
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError, UsageError
from deconvseg.images.palette import Palette


@dataclass(frozen=True)
class Truth:
    """The photos to score and what their masks mean.

    Attributes:
        split: name of the list they come from.
        examples: the photos scored, in the list's order.
        photos: how many the list names.
        classes: names, background first.
        palette: colours of the classes.
        masks: what the pixels of true masks mean; predictions always hold class indices.
    """

    split: str
    examples: tuple[Example, ...]
    photos: int
    classes: tuple[str, ...]
    palette: Palette
    masks: MaskFormat

    def settings(self) -> dict[str, Any]:
        """What of the truth decides the figures, fit for JSON."""
        colors = [[*color, label] for color, label in sorted(self.masks.colors.items())]
        ids = [list(pair) for pair in sorted(self.masks.ids.items())]
        return {"split": self.split, "classes": list(self.classes), "ids": ids, "colors": colors}

    def mask(self, example: Example) -> NDArray[np.uint8]:
        """The true mask, uint8 (H, W): class indices, 255 for void; DataError if it cannot be used."""
        return read_mask(example.mask, self.masks)

    def prediction(self, path: Path) -> NDArray[np.uint8]:
        """A palette or grey PNG of class indices (and 255) as uint8 (H, W); DataError if it is not one."""
        return read_mask(path, MaskFormat.indexed(self.classes, self.palette))


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
        raise UsageError(f"--limit {limit}: give a number of at least 1")
    dataset = open_dataset(root, split)
    examples = tuple(spread(dataset.examples, limit))
    missing = [path for e in examples for path in (e.image, e.mask) if not path.is_file()]
    if missing:
        raise DataError(
            f"{missing[0]}: named by split '{split}' but missing ({len(missing)} such files); "
            "put it there, or take its name out of the list"
        )
    return Truth(split, examples, len(dataset), dataset.classes, dataset.palette, dataset.masks)


def check_classes(truth: Truth, classes: Sequence[str]) -> None:
    """Raise DataError unless a network's classes are those of the data set, in their order."""
    if tuple(classes) != truth.classes:
        raise DataError(
            f"the network knows {len(classes)} classes ({_start(classes)}), split '{truth.split}' has "
            f"{len(truth.classes)} ({_start(truth.classes)}); score it on a data set with its own classes"
        )


def spread(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    """At most `limit` of the photos, evenly spread over the list and always the same."""
    if limit is None or limit >= len(examples):
        return examples
    return [examples[i * len(examples) // limit] for i in range(limit)]


def _start(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + ", ..." * (len(classes) > 3)

"""Everything that is counted of a prediction: whole numbers, which add up the same in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.evaluation.boundary import Outlines, boundary_f
from deconvseg.evaluation.metrics import Scores, by_name, confusion_matrix, mean
from deconvseg.evaluation.objects import SIZES, Objects, size_iou


@dataclass(frozen=True)
class Tally:
    """Counts of one photo, or the sum of many.

    Attributes:
        confusion: int64 (C, C) pixels, true class by predicted class.
        outlines: int64 (C, 4), see `Outlines.count`.
        objects: int64 (3, C, 3), see `Objects.count`.
    """

    confusion: NDArray[np.int64]
    outlines: NDArray[np.int64]
    objects: NDArray[np.int64]

    @classmethod
    def empty(cls, classes: int) -> Tally:
        """Nothing counted."""
        shapes = ((classes, classes), (classes, 4), (len(SIZES), classes, 3))
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.confusion + other.confusion, self.outlines + other.outlines, self.objects + other.objects
        )

    def to_json(self) -> dict[str, list[list[int]]]:
        """What is not 0: for each array lists of its indices and the count."""
        return {
            name: [[*map(int, index), int(counts[tuple(index)])] for index in np.argwhere(counts)]
            for name, counts in (
                ("confusion", self.confusion),
                ("outlines", self.outlines),
                ("objects", self.objects),
            )
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Sequence[Sequence[int]]], classes: int) -> Tally:
        """Read what `to_json` made.

        Raises:
            KeyError, IndexError, TypeError, ValueError: it is something else.
        """
        tally = cls.empty(classes)
        for name, counts in (
            ("confusion", tally.confusion),
            ("outlines", tally.outlines),
            ("objects", tally.objects),
        ):
            for *index, count in document[name]:
                counts[tuple(index)] = count
        return tally

    def figures(self, classes: Sequence[str]) -> dict[str, Any]:
        """Every figure, fit for JSON, shares from 0 to 1: those of `Scores`, boundary F, and IoU by size.

        `boundary_f` is the mean over the classes of which truth or prediction has an outline (None if there
        is no outline at all); a size's `mean_iou` the mean over the classes with an object of that size.

        Raises:
            ValueError: no pixel was counted.
        """
        outlines = boundary_f(self.outlines)
        sizes = {
            size: {
                "mean_iou": mean(iou),
                "objects": int(counts[:, 0].sum()),
                "per_class_iou": by_name(classes, iou),
            }
            for size, iou, counts in zip(SIZES, size_iou(self.objects), self.objects, strict=True)
        }
        return {
            **asdict(Scores.of(self.confusion, classes)),
            "boundary_f": mean(outlines),
            "per_class_boundary_f": by_name(classes, outlines),
            "sizes": sizes,
        }


class Reference:
    """A true mask, made ready to count any number of predictions.

    Args:
        truth: uint8 (H, W), class indices and 255.
        classes: C.
    """

    def __init__(self, truth: NDArray[np.uint8], classes: int) -> None:
        self._truth, self._classes = truth, classes
        self._outlines, self._objects = Outlines(truth, classes), Objects(truth, classes)

    def tally(self, found: NDArray[np.uint8]) -> Tally:
        """Count a prediction, uint8 (H, W).

        Raises:
            ValueError: it has another size, or a counted pixel is no class.
        """
        return Tally(
            confusion_matrix(self._truth, found, self._classes),
            self._outlines.count(found),
            self._objects.count(found),
        )

"""Segmentation metrics from whole counts that are pooled over a set, as PASCAL VOC does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.masks import VOID
from deconvseg.evaluation.boundary import count_outlines
from deconvseg.evaluation.objects import SIZES, count_objects

RESAMPLES = 1000
"""Samples of photos that an interval is drawn from."""


def confusion_matrix(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixel counts (C, C): row = true class, column = predicted class; void (255) truth is dropped.

    Args:
        truth: uint8, class indices and 255.
        found: uint8 of the same shape, class indices; where the truth is void any value will do.
        classes: C.

    Raises:
        ValueError: the shapes differ, or a counted pixel of `found` is no class.
    """
    if truth.shape != found.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {found.shape}: they must have one size")
    valid = truth != VOID
    predicted = found[valid]
    if predicted.size and predicted.max() >= classes:
        raise ValueError(f"prediction holds {predicted.max()}; the classes are 0..{classes - 1}")
    pairs = truth[valid].astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """`part / whole`, float64, NaN where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def boundary_f(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns F (C,) of precision and recall, 0 to 1, from counts (C, 4) of outlines pooled over a set.

    0 where only one side has an outline, NaN for a class of which neither has any.
    """
    precision = np.nan_to_num(share(counts[:, 0], counts[:, 1]))
    recall = np.nan_to_num(share(counts[:, 2], counts[:, 3]))
    either = (counts[:, 1] > 0) | (counts[:, 3] > 0)
    return np.where(either, 2 * precision * recall / np.maximum(precision + recall, 1e-300), np.nan)


def mean_iou_interval(confusions: NDArray[np.int64]) -> tuple[float, float]:
    """The mean IoU's 95 % interval: where it would lie with other photos of the same kind (bootstrap).

    As many photos are drawn as there are, with replacement, a thousand times; the percentiles of the mean IoU
    of these samples (Efron's percentile method). The draws are the same in every call: rows of a table are
    drawn alike.

    Args:
        confusions: int64 (N, C, C), one matrix a photo, not all zero.

    Returns:
        Shares from 0 to 1, the lower one first.
    """
    count, classes, _ = confusions.shape
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    totals = (draws.astype(np.float64) @ confusions.reshape(count, -1)).reshape(-1, classes, classes)
    totals = totals[totals.any((1, 2))]  # a few photos may be void alone
    right = totals.diagonal(axis1=1, axis2=2)
    iou = share(right, totals.sum(1) + totals.sum(2) - right)
    low, high = np.quantile(np.nanmean(iou, 1), [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return float(low), float(high)


def scores(confusion: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Figures of one confusion matrix; shares from 0 to 1.

    Returns:
        `per_class_iou`: true positives over the union of truth and prediction; None for a class that occurs
        in neither. `mean_iou`: mean over the classes that occur in the union. `voc_mean_iou`: mean over all
        classes, one that occurs in neither counting 0, as the VOC 2012 development kit (`VOCevalseg.m`) has
        it; equals `mean_iou` on sets where every class occurs. `pixel_accuracy`: right pixels over counted
        pixels. `mean_accuracy`: mean over the classes in the truth of the share of their pixels found.
        `frequency_weighted_iou`: mean IoU, each class weighted by its share of the true pixels.

    Raises:
        ValueError: the matrix counts no pixel.
    """
    total = confusion.sum()
    if total == 0:
        raise ValueError("no pixel was counted: every one is void")
    right = np.diag(confusion)
    true, found = confusion.sum(1), confusion.sum(0)
    iou, recall = share(right, true + found - right), share(right, true)
    return {
        "per_class_iou": _by_name(classes, iou),
        "mean_iou": float(np.nanmean(iou)),
        "voc_mean_iou": float(np.nan_to_num(iou).mean()),
        "pixel_accuracy": float(right.sum() / total),
        "mean_accuracy": float(np.nanmean(recall)),
        "frequency_weighted_iou": float((np.nan_to_num(iou) * true).sum() / total),
    }


class Tally(NamedTuple):
    """Everything counted of one photo or of many: whole numbers, which add up alike in any order.

    Attributes:
        confusion: int64 (C, C) pixels, true class by predicted class.
        outlines: int64 (C, 4), see `count_outlines`.
        objects: int64 (3, C, 3), see `count_objects`.
    """

    confusion: NDArray[np.int64]
    outlines: NDArray[np.int64]
    objects: NDArray[np.int64]

    @classmethod
    def of(cls, truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> Tally:
        """Compare a prediction with the true mask, both uint8 (H, W); errors as of `confusion_matrix`."""
        return cls(
            *(part(truth, found, classes) for part in (confusion_matrix, count_outlines, count_objects))
        )

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """The sum of at least one."""
        return cls(*(np.sum(parts, axis=0) for parts in zip(*tallies, strict=True)))

    def to_json(self) -> list[list[list[int]]]:
        """What is not 0: for each array its flat indices and their counts."""
        return [[[int(i), int(part.flat[i])] for i in np.flatnonzero(part)] for part in self]

    @classmethod
    def from_json(cls, document: Iterable[Iterable[Sequence[int]]], classes: int) -> Tally:
        """Read what `to_json` made."""
        shapes = (classes, classes), (classes, 4), (len(SIZES), classes, 3)
        tally = cls(*(np.zeros(shape, np.int64) for shape in shapes))
        for part, entries in zip(tally, document, strict=True):
            for index, count in entries:
                part.flat[index] = count
        return tally

    def figures(self, classes: Sequence[str]) -> dict[str, Any]:
        """Every figure, fit for JSON, shares from 0 to 1: those of `scores`, boundary F, and IoU by size.

        `boundary_f` is the mean over the classes of which truth or prediction has an outline (None if there
        is no outline at all); a size's `mean_iou` the mean over the classes with an object of that size.

        Raises:
            ValueError: no pixel was counted.
        """
        outlines = boundary_f(self.outlines)
        sizes = {}
        for size, counts in zip(SIZES, self.objects, strict=True):
            iou, objects = share(counts[:, 1], counts[:, 2]), int(counts[:, 0].sum())
            per_class = _by_name(classes, iou)
            sizes[size] = {"mean_iou": _mean(iou), "objects": objects, "per_class_iou": per_class}
        return {
            **scores(self.confusion, classes),
            "boundary_f": _mean(outlines),
            "per_class_boundary_f": _by_name(classes, outlines),
            "sizes": sizes,
        }


def _by_name(classes: Sequence[str], values: NDArray[np.float64]) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else float(value) for name, value in zip(classes, values, strict=True)
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of what is not NaN, or None."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None

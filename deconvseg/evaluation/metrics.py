"""Segmentation metrics from one confusion matrix pooled over a whole set, as PASCAL VOC counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.masks import VOID


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


RESAMPLES = 1000


def mean_iou_interval(confusions: NDArray[np.int64], level: float = 0.95) -> tuple[float, float]:
    """The mean IoU's bootstrap interval over photos: where it would lie with other photos of the same kind.

    As many photos are drawn as there are, with replacement, a thousand times; the percentiles of the mean IoU
    of these samples (Efron's percentile method). The draws are the same in every call, so the rows of a table
    are drawn alike, and the difference of two rows is known far better than their intervals say.

    Args:
        confusions: int64 (N, C, C), one matrix a photo, not all zero.
        level: share of the samples within.

    Returns:
        Shares from 0 to 1, the lower one first.
    """
    count, classes, _ = confusions.shape
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    totals = (draws.astype(np.float64) @ confusions.reshape(count, -1)).reshape(-1, classes, classes)
    totals = totals[totals.any((1, 2))]  # a few photos may be void alone
    right = totals.diagonal(axis1=1, axis2=2)
    iou = share(right, totals.sum(1) + totals.sum(2) - right)
    low, high = np.quantile(np.nanmean(iou, 1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Scores:
    """Figures of one confusion matrix; shares from 0 to 1.

    Attributes:
        per_class_iou: true positives over the union of truth and prediction; None for a class that occurs in
            neither.
        mean_iou: mean over the classes that occur in the union.
        voc_mean_iou: mean over all classes, one that occurs in neither counting 0, as the VOC 2012
            development kit (`VOCevalseg.m`) has it. Equals `mean_iou` on sets where every class occurs.
        pixel_accuracy: right pixels over counted pixels.
        mean_accuracy: mean over the classes in the truth of the share of their pixels found.
        frequency_weighted_iou: mean IoU, each class weighted by its share of the true pixels.
    """

    per_class_iou: dict[str, float | None]
    mean_iou: float
    voc_mean_iou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float

    @classmethod
    def of(cls, confusion: NDArray[np.int64], classes: Sequence[str]) -> Scores:
        """Compute every figure.

        Raises:
            ValueError: the matrix counts no pixel.
        """
        total = confusion.sum()
        if total == 0:
            raise ValueError("no pixel was counted: every one is void")
        right = np.diag(confusion)
        true, found = confusion.sum(1), confusion.sum(0)
        iou, recall = share(right, true + found - right), share(right, true)
        return cls(
            per_class_iou=by_name(classes, iou),
            mean_iou=float(np.nanmean(iou)),
            voc_mean_iou=float(np.nan_to_num(iou).mean()),
            pixel_accuracy=float(right.sum() / total),
            mean_accuracy=float(np.nanmean(recall)),
            frequency_weighted_iou=float((np.nan_to_num(iou) * true).sum() / total),
        )


def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """`part / whole`, float64, NaN where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def by_name(classes: Sequence[str], values: NDArray[np.float64]) -> dict[str, float | None]:
    """Values (C,) under the class names; None where there is none (NaN)."""
    return {
        name: None if np.isnan(value) else float(value) for name, value in zip(classes, values, strict=True)
    }


def mean(values: NDArray[np.float64]) -> float | None:
    """Mean of what is not NaN, or None."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None

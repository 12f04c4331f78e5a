"""Figures of whole counts that are pooled over a set, as PASCAL VOC does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.evaluation.counts import SIZES, confusion_of

RESAMPLES = 1000
"""Samples of photos that an interval is drawn from."""


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

    Of confusions int64 (N, C, C), one matrix a photo and not all zero, as many are drawn as there are, with
    replacement, a thousand times. Returns the percentiles, 0 to 1, of the mean IoU of these samples (Efron's
    percentile method). The draws are the same in every call: rows of a table are drawn alike.
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
    """Figures of one confusion matrix that is not all zero; shares from 0 to 1.

    Returns:
        `per_class_iou`: true positives over the union of truth and prediction; None for a class that occurs
        in neither. `mean_iou`: mean over the classes that occur in the union. `voc_mean_iou`: mean over all
        classes, one that occurs in neither counting 0, as the VOC 2012 development kit (`VOCevalseg.m`) has
        it; equals `mean_iou` on sets where every class occurs. `pixel_accuracy`: right pixels over counted
        pixels. `mean_accuracy`: mean over the classes in the truth of the share of their pixels found.
        `frequency_weighted_iou`: mean IoU, each class weighted by its share of the true pixels.
    """
    total = confusion.sum()
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


def figures(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Every figure, fit for JSON, shares from 0 to 1: those of `scores`, boundary F, and IoU by size.

    `boundary_f` is the mean over the classes of which truth or prediction has an outline (None if there
    is no outline at all); a size's `mean_iou` the mean over the classes with an object of that size.

    The counts are the sum of what `count` gives, of one photo or of many, not all of them void alone.
    """
    number = len(classes)
    _, outlines, objects = np.split(counts, [number * number, number * (number + 4)])
    per_class = boundary_f(outlines.reshape(number, 4))
    sizes = {}
    for size, one in zip(SIZES, objects.reshape(len(SIZES), number, 3), strict=True):
        iou = share(one[:, 1], one[:, 2])
        by_name = _by_name(classes, iou)
        sizes[size] = {"mean_iou": _mean(iou), "objects": int(one[:, 0].sum()), "per_class_iou": by_name}
    return {
        **scores(confusion_of(counts, number), classes),
        "boundary_f": _mean(per_class),
        "per_class_boundary_f": _by_name(classes, per_class),
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

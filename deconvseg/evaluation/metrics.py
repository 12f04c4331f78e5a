"""Figures of whole counts that are pooled over a set, as PASCAL VOC does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.evaluation.counts import SIZES, confusion_of

RESAMPLES = 1000  # samples of photos that an interval is drawn from


def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """`part / whole`, float64, NaN where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def iou(confusions: NDArray[Any]) -> NDArray[np.float64]:
    """Right pixels over the union of truth and prediction (..., C) of confusion matrices (..., C, C)."""
    right = confusions.diagonal(axis1=-2, axis2=-1)
    return share(right, confusions.sum(-1) + confusions.sum(-2) - right)


def boundary_f(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F (C,) of precision and recall, 0 to 1, from outlines' counts (C, 4); NaN for a class without any."""
    precision = np.nan_to_num(share(counts[:, 0], counts[:, 1]))
    recall = np.nan_to_num(share(counts[:, 2], counts[:, 3]))
    either = (counts[:, 1] > 0) | (counts[:, 3] > 0)
    return np.where(either, 2 * precision * recall / np.maximum(precision + recall, 1e-300), np.nan)


def mean_iou_interval(confusions: NDArray[np.int64]) -> tuple[float, float]:
    """The mean IoU's 95 % interval, 0 to 1: where it would lie with other photos of the same kind.

    Efron's percentile method: of confusions int64 (N, C, C), one matrix a photo and not all zero, N are drawn
    with replacement, a thousand times. The draws are the same in every call: rows of a table are drawn alike.
    """
    count, classes, _ = confusions.shape
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    totals = (draws.astype(np.float64) @ confusions.reshape(count, -1)).reshape(-1, classes, classes)
    totals = totals[totals.any((1, 2))]  # a few photos may be void alone
    low, high = np.quantile(np.nanmean(iou(totals), 1), [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return float(low), float(high)


def figures(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Every figure of the sum of what `count` gives, of one photo or of many, not all of them void alone.

    Shares from 0 to 1, fit for JSON, None where there is nothing of a kind. `mean_iou` is the mean over the
    classes that occur in truth or prediction, `voc_mean_iou` over all, one that occurs in neither counting 0,
    as the VOC 2012 development kit (`VOCevalseg.m`) has it. `mean_accuracy` is the mean over the classes in
    the truth of the share of their pixels found; `frequency_weighted_iou` weighs each class by its share of
    the true pixels; `boundary_f` and the mean IoU of `sizes` are means over the classes that have any.
    """
    number = len(classes)
    confusion = confusion_of(counts, number)
    right, true, per_class = np.diag(confusion), confusion.sum(1), iou(confusion)
    _, outlines, objects = np.split(counts, [number * number, number * (number + 4)])
    boundaries = boundary_f(outlines.reshape(number, 4))
    sizes = {}
    for size, one in zip(SIZES, objects.reshape(len(SIZES), number, 3), strict=True):
        found = share(one[:, 1], one[:, 2])
        by_name = _by_name(classes, found)
        sizes[size] = {"mean_iou": _mean(found), "objects": int(one[:, 0].sum()), "per_class_iou": by_name}
    return {
        "per_class_iou": _by_name(classes, per_class),
        "mean_iou": float(np.nanmean(per_class)),
        "voc_mean_iou": float(np.nan_to_num(per_class).mean()),
        "pixel_accuracy": float(right.sum() / true.sum()),
        "mean_accuracy": float(np.nanmean(share(right, true))),
        "frequency_weighted_iou": float((np.nan_to_num(per_class) * true).sum() / true.sum()),
        "boundary_f": _mean(boundaries),
        "per_class_boundary_f": _by_name(classes, boundaries),
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

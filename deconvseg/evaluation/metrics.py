"""Segmentation metrics from one confusion matrix pooled over a whole set, as PASCAL VOC counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.masks import VOID


def confusion_matrix(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixel counts (C, C): row = true class, column = predicted class; void (255) truth is dropped.

    Args:
        truth: uint8, class indices and 255.
        found: uint8 of the same shape, class indices.
        classes: C.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != found.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {found.shape}: they must have one size")
    valid = truth != VOID
    pairs = truth[valid].astype(np.int64) * classes + found[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    """Figures of one confusion matrix; shares from 0 to 1, None for a class that occurs in neither map.

    Attributes:
        per_class_iou: true positives over the union of truth and prediction.
        mean_iou: mean over the classes that occur in the union.
        pixel_accuracy: right pixels over counted pixels.
        mean_accuracy: mean over the classes in the truth of the share of their pixels found.
    """

    per_class_iou: dict[str, float | None]
    mean_iou: float
    pixel_accuracy: float
    mean_accuracy: float

    @classmethod
    def of(cls, confusion: NDArray[np.int64], classes: Sequence[str]) -> Scores:
        """Compute every figure.

        Raises:
            ValueError: the matrix counts no pixel.
        """
        if confusion.sum() == 0:
            raise ValueError("no pixel was counted: every one is void")
        right = np.diag(confusion).astype(np.float64)
        true, found = confusion.sum(1), confusion.sum(0)
        union = true + found - np.diag(confusion)
        with np.errstate(invalid="ignore"):
            iou, recall = right / union, right / true
        return cls(
            per_class_iou={
                name: None if np.isnan(value) else float(value)
                for name, value in zip(classes, iou, strict=True)
            },
            mean_iou=float(np.nanmean(iou)),
            pixel_accuracy=float(right.sum() / confusion.sum()),
            mean_accuracy=float(np.nanmean(recall)),
        )

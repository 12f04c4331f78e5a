"""What is measured: a network at one or several settings, or a folder of finished predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.dataset import DataSet, Example, find_pictures, refuse_other_size
from deconvseg.data.masks import VOID, MaskFormat, read_mask
from deconvseg.errors import DataError
from deconvseg.images.read import as_photo
from deconvseg.regions import Clock
from deconvseg.segmenter import Segmenter
from deconvseg.settings import EnsembleRule

ABLATION = (0, 10, 50)
"""Proposals besides the whole photo that an ablation scores beside the segmenter's; ensembles: the last."""


@dataclass(frozen=True)
class Row:
    """One row of the table: a setting of the way from photo to labels."""

    proposals: int | None  # besides the whole photo; None for predictions made elsewhere and the FCN alone
    crf: bool = False
    ensemble: EnsembleRule | Literal["alone"] = "off"  # how the FCN joins in; `alone` leaves the regions out
    prior: bool = False  # an image-level prior weighs the classes

    @property
    def name(self) -> str:
        """As the table shows it."""
        parts = [f"{self.proposals} proposals" if self.proposals else "whole photo"]
        if self.proposals is None:
            parts = ["FCN" if self.ensemble == "alone" else "predictions"]
        if self.ensemble in ("mean", "product"):
            parts.append(f"FCN ({self.ensemble})")
        if self.prior:
            parts.append("prior")
        if self.crf:
            parts.append("CRF")
        return " + ".join(parts)


Labelling = tuple[Row, NDArray[np.uint8], dict[str, float]]
"""A row, its labels uint8 (H, W), and for the full setting the seconds it took by part of the work."""


@dataclass(frozen=True)
class Subject:
    """What `evaluate` measures."""

    rows: tuple[Row, ...]
    full: Row  # the one that the headline figures are of
    settings: Mapping[str, Any]  # everything that can change a label, fit for JSON
    # Labels a photo at every row, in any thread, given its true mask; DataError if the two do not fit.
    label: Callable[[Example, NDArray[np.uint8]], Iterator[Labelling]]
    weights: str | None = None  # name or file of the network; None for predictions made elsewhere
    predictions: Mapping[str, Path] = field(default_factory=dict)  # these, by the name of the photo


def network(segmenter: Segmenter, data: DataSet, *, ablate: bool = False) -> Subject:
    """A network with its proposals, fusion, ensemble and CRF; DataError if the data has other classes.

    With `ablate`, 0, 10 and 50 proposals are scored as well; if the segmenter has an ensemble, the FCN
    alone and both ensembles; all that without and, if the segmenter has one, with the CRF.
    """
    refuse_other_classes(data, segmenter.classes)
    full, ablated = _rows(segmenter)
    rows = sorted(
        {full} | (ablated if ablate else set()),
        key=lambda r: (r.proposals is None, r.proposals or 0, r.ensemble, r.crf),
    )

    def regions(row: Row) -> tuple[int, EnsembleRule]:
        """How many, and whether the FCN has a say in which; alike for rows that look at the same."""
        return (
            row.proposals or 0,
            segmenter.settings.ensemble if row.ensemble != "off" or row.prior else "off",
        )

    def label(example: Example, mask: NDArray[np.uint8]) -> Iterator[Labelling]:
        clock = Clock()
        photo = as_photo(example.image)
        clock.lap("read")
        refuse_other_size(example, (photo.height, photo.width), mask.shape)
        found = segmenter.segment(photo)
        yield full, found.labels, {**clock.seconds, **found.seconds}
        others = sorted((row for row in rows if row != full), key=regions)
        for (number, ensemble), alike in groupby(others, regions):
            prior = segmenter.inference.prior
            one = segmenter.with_settings(proposals=number, ensemble=ensemble, prior=prior)
            *_, result = one.inference.step_by_step(one.prepare(photo))
            for row in alike:
                probabilities = result.probabilities(row.ensemble)
                yield row, one.with_settings(crf=row.crf).finish(result.prepared, probabilities).labels, {}

    settings = {**segmenter.identity(), "steps": [row.name for row in rows]}
    return Subject(tuple(rows), full, settings, label, segmenter.weights)


def _rows(segmenter: Segmenter) -> tuple[Row, set[Row]]:
    """The row of the full setting, and those of an ablation."""
    chosen = segmenter.settings
    row = partial(Row, prior=bool(segmenter.inference.prior))
    count, sharpens = chosen.proposals, {False, chosen.crf}
    alone = {row(None, crf, "alone") for crf in sharpens}
    if segmenter.sees_whole_photo:
        return row(None, chosen.crf, "alone"), alone
    full = row(count, chosen.crf, chosen.ensemble)
    others = {row(number, crf) for number in (count, *ABLATION) for crf in sharpens}
    if chosen.ensemble == "off":
        return full, others
    # The product is one of raw scores, which only the fusion rule max keeps.
    rules: list[EnsembleRule] = ["mean", "product"] if chosen.fusion == "max" else ["mean"]
    numbers = count, ABLATION[-1]
    pairs = {row(number, crf, rule) for number in numbers for rule in rules for crf in sharpens}
    return full, others | alone | pairs


def finished(folder: Path, data: DataSet) -> Subject:
    """A folder of label PNGs, ours or another tool's; DataError if one is missing, and when one is unfit."""
    pictures = find_pictures(folder, ".png", suffixes=(".png",))
    predictions = {e.name: pictures.get(e.name, folder / f"{e.name}.png") for e in data.examples}
    if missing := [path for path in predictions.values() if not path.is_file()]:
        raise DataError(
            f"{missing[0]}: the prediction is missing ({len(missing)} of {len(data.examples)} are); "
            "every photo of the split needs one, named like the photo"
        )
    row, indexed = Row(None), MaskFormat.indexed(data.classes, data.palette)

    def label(example: Example, mask: NDArray[np.uint8]) -> Iterator[Labelling]:
        path = predictions[example.name]
        labels = read_mask(path, indexed)
        if labels.shape != mask.shape:
            (height, width), (rows, columns) = labels.shape, mask.shape
            truth = f"its true mask {example.mask.name} {columns}x{rows}"
            raise DataError(f"{path}: is {width}x{height} pixels, {truth}; make them one size")
        if nowhere := np.count_nonzero((labels == VOID) & (mask != VOID)):
            raise DataError(
                f"{path}: {nowhere} pixels that count are {VOID}; a prediction has a class for each"
            )
        yield row, labels, {}

    return Subject((row,), row, {"predictions": str(folder.resolve())}, label, predictions=predictions)


def refuse_other_classes(data: DataSet, classes: Sequence[str]) -> None:
    """Raise DataError unless a network's classes are those of the data set, in their order."""
    if tuple(classes) != data.classes:
        raise DataError(
            f"{data.source}: its {len(data.classes)} classes are not the {len(classes)} of the network; "
            "score a network on a data set with its own classes, in their order"
        )

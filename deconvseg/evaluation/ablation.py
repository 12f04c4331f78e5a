"""What is measured: a network at one or several settings, or a folder of finished predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.dataset import DataSet, Example, find_pictures
from deconvseg.data.masks import MaskFormat, read_mask
from deconvseg.errors import DataError
from deconvseg.images.read import PhotoPixels, as_photo
from deconvseg.regions import Clock
from deconvseg.segmenter import Segmenter
from deconvseg.settings import EnsembleRule

ABLATION = (0, 10, 25, 50, 100)
"""Numbers of proposals besides the whole photo that an ablation scores."""
SHARPENED = (0, 10, 50)
"""Those also scored with the CRF, which takes about as long as the network itself."""
PAIRED = 50
"""Proposals with which ensembles are scored, beside those of the segmenter: the paper's."""


@dataclass(frozen=True)
class Row:
    """One row of the table: a setting of the way from photo to labels.

    Attributes:
        proposals: regions besides the whole photo; None for predictions made elsewhere and FCN-8s alone.
        crf: whether the dense CRF follows.
        ensemble: how FCN-8s joins in; `alone` leaves the regions out.
        stops: photos stop early (`Settings.stop`): `proposals` are the most.
        prior: an image-level prior weighs the classes.
    """

    proposals: int | None
    crf: bool = False
    ensemble: EnsembleRule | Literal["alone"] = "off"
    stops: bool = False
    prior: bool = False

    @property
    def name(self) -> str:
        """As the table shows it."""
        if self.ensemble == "alone":
            regions = "FCN-8s"
        elif self.proposals is None:
            regions = "predictions"
        else:
            regions = f"{self.proposals} proposals" if self.proposals else "whole photo"
            regions = "up to " * self.stops + regions
        partner = "" if self.ensemble in ("off", "alone") else f" + FCN-8s ({self.ensemble})"
        return regions + partner + " + prior" * self.prior + " + CRF" * self.crf


Labelling = tuple[Row, NDArray[np.uint8], dict[str, float]]
"""A row, its labels uint8 (H, W), and for the full setting the seconds it took by part of the work."""


@dataclass(frozen=True)
class Subject:
    """What `evaluate` measures.

    Attributes:
        full: the one of the rows that the headline figures are of.
        settings: everything that can change a label, fit for JSON.
        label: labels one photo at every row; may be called from several threads.
        predictions: files of finished predictions by the name of the photo; empty for a network.
    """

    rows: tuple[Row, ...]
    full: Row
    settings: Mapping[str, Any]
    label: Callable[[Example], Iterator[Labelling]]
    predictions: Mapping[str, Path]


def network(segmenter: Segmenter, data: DataSet, *, ablate: bool = False) -> Subject:
    """A network with its proposals, fusion, ensemble and CRF.

    Args:
        segmenter: the full setting.
        data: what it will be measured on.
        ablate: score 0, 10, 25, 50 and 100 proposals as well, all of them looked at exactly, some also with
            the CRF (if the segmenter has one); and, if the segmenter has an ensemble, FCN-8s alone and both
            ensembles with the segmenter's number of proposals and with 50. For all these rows together each
            region goes through the network once.

    Raises:
        DataError: the network has other classes than the data set.
    """
    refuse_other_classes(data, segmenter.classes)
    chosen = segmenter.settings
    full = Row(chosen.proposals, chosen.crf, segmenter.ensemble, bool(chosen.stop and chosen.proposals))
    if segmenter.sees_whole_photo:
        full = Row(None, chosen.crf, "alone")
    others = _others(segmenter) - {full} if ablate else set()
    if segmenter.inference.settings.prior:
        full, others = replace(full, prior=True), {replace(row, prior=True) for row in others}
    rows = sorted(
        {full, *others}, key=lambda r: (r.proposals is None, r.proposals or 0, r.stops, r.ensemble, r.crf)
    )

    def label(example: Example) -> Iterator[Labelling]:
        clock = Clock()
        photo = as_photo(example.image)
        clock.lap("read")
        ((prepared, probabilities),) = segmenter.fuse([segmenter.prepare(photo)])
        found = segmenter.finish(prepared, probabilities)
        yield full, found.labels, {**clock.seconds, **found.seconds}
        if others:
            yield from _label_others(segmenter, others, photo)

    settings = {**segmenter.identity(), "steps": [row.name for row in rows]}
    return Subject(tuple(rows), full, settings, label, {})


def _others(segmenter: Segmenter) -> set[Row]:
    """The rows of an ablation."""
    count, sharpens = segmenter.settings.proposals, {False, segmenter.settings.crf}
    alone = {Row(None, crf, "alone") for crf in sharpens}
    if segmenter.sees_whole_photo:
        return alone
    rows = {Row(number) for number in (count, *ABLATION)}
    rows |= {Row(number, True) for number in SHARPENED if segmenter.settings.crf}
    if segmenter.ensemble == "off":
        return rows
    # The product is one of raw scores, which only the fusion rule max keeps.
    rules: list[EnsembleRule] = ["mean", "product"] if segmenter.settings.fusion == "max" else ["mean"]
    pairs = {Row(number, crf, rule) for number in (count, PAIRED) for rule in rules for crf in sharpens}
    return rows | alone | pairs


def _label_others(segmenter: Segmenter, others: set[Row], photo: PhotoPixels) -> Iterator[Labelling]:
    # Fewer regions are the first of more: what looks at the most can label them all.
    segmenter = segmenter.with_settings(proposals=max(row.proposals or 0 for row in others))
    prepared = segmenter.prepare(photo)
    most = len(prepared.boxes)
    first = int(segmenter.settings.whole_photo or not segmenter.settings.proposals)
    due: dict[int, list[Row]] = {}
    for row in sorted(others, key=lambda row: (row.ensemble, row.crf)):
        due.setdefault(most if row.proposals is None else min(row.proposals + first, most), []).append(row)
    for partial in segmenter.step_by_step(prepared):
        for (rule, crf), rows in groupby(due.get(partial.done, ()), lambda row: (row.ensemble, row.crf)):
            labels = segmenter.finish(prepared, partial.probabilities(rule), crf=crf).labels
            yield from ((row, labels, {}) for row in rows)


def finished(folder: Path, data: DataSet) -> Subject:
    """A folder of label PNGs, `NAME.png` for the photo NAME: ours or another tool's.

    Raises:
        DataError: there is no such folder, or a photo of the data set has no prediction in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of predictions; check the path")
    pictures = find_pictures(folder, ".png", suffixes=(".png",))
    predictions = {
        example.name: pictures.get(normalize("NFC", example.name), folder / f"{example.name}.png")
        for example in data.examples
    }
    if missing := [path for path in predictions.values() if not path.is_file()]:
        raise DataError(
            f"{missing[0]}: the prediction is missing ({len(missing)} of {len(data.examples)} are); "
            "every photo of the split needs one, named like the photo"
        )
    row = Row(None)

    def label(example: Example) -> Iterator[Labelling]:
        yield row, read_prediction(predictions[example.name], data), {}

    return Subject((row,), row, {"predictions": str(folder.resolve())}, label, predictions)


def read_prediction(path: Path, data: DataSet) -> NDArray[np.uint8]:
    """A palette or grey PNG of class indices (and 255) as uint8 (H, W); DataError if it is not one."""
    return read_mask(path, MaskFormat.indexed(data.classes, data.palette))


def refuse_other_classes(data: DataSet, classes: Sequence[str]) -> None:
    """Raise DataError unless a network's classes are those of the data set, in their order."""
    if tuple(classes) != data.classes:
        raise DataError(
            f"{data.source}: its {len(data.classes)} classes are not the {len(classes)} of the network; "
            "score a network on a data set with its own classes, in their order"
        )

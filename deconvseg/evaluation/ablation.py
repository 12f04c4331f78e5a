"""What is measured: a network at one or several settings, or a folder of finished predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.data.dataset import Example
from deconvseg.errors import DataError
from deconvseg.evaluation.truth import Truth, check_classes
from deconvseg.images.enlarge import enlarge
from deconvseg.images.read import read_image
from deconvseg.postprocess.fusion import EnsembleRule, Fusion, ensemble
from deconvseg.segmenter import Segmenter
from deconvseg.steps import WORKING_SIDE, Clock, shrink

ABLATION = (0, 10, 25, 50, 100)
"""Numbers of proposals besides the whole photo that an ablation scores."""
SHARPENED = (0, 10, 50)
"""Those also scored with the CRF, which takes about as long as the network itself."""
StepRule = EnsembleRule | Literal["alone"]
PAIRS: tuple[EnsembleRule, ...] = ("mean", "product")
"""Ensembles that an ablation scores."""
PAIRED = 50
"""Proposals with which it scores them, beside those of the segmenter: the paper's."""


@dataclass(frozen=True)
class Step:
    """One row of the table: a setting of the way from photo to labels.

    Attributes:
        proposals: regions besides the whole photo; None for predictions made elsewhere and FCN-8s alone.
        crf: whether the dense CRF follows.
        ensemble: how FCN-8s joins in; `alone` leaves the regions out.
        stops: photos stop early (`Settings.stop`): `proposals` are the most.
    """

    proposals: int | None
    crf: bool = False
    ensemble: StepRule = "off"
    stops: bool = False

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
        others = "" if self.ensemble in ("off", "alone") else f" + FCN-8s ({self.ensemble})"
        return regions + others + " + CRF" * self.crf


Labelling = tuple[Step, NDArray[np.uint8], dict[str, float]]
"""A step, its labels uint8 (H, W), and of the full setting the seconds it took by part of the work."""


class Subject(Protocol):
    """What `evaluate` measures. It can be pickled to other processes."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The settings scored."""
        ...

    @property
    def full(self) -> Step:
        """The one of them that the headline figures are of."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where the predictions lie as `NAME.png`, if they are made already."""
        ...

    def check(self, truth: Truth) -> None:
        """Raise DataError if this cannot be measured against the truth."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that can change a label, fit for JSON."""
        ...

    def source(self, example: Example) -> Path:
        """The file whose content the labels depend on."""
        ...

    def label(self, truth: Truth, example: Example) -> Iterator[Labelling]:
        """Label one photo at every step."""
        ...


class Network:
    """A network with its proposals, fusion, ensemble and CRF.

    Args:
        segmenter: the full setting.
        ablate: score 0, 10, 25, 50 and 100 proposals as well, all of them looked at exactly, some also with
            the CRF (if the segmenter has one); and, if the segmenter has an ensemble, FCN-8s alone and both
            ensembles with the segmenter's number of proposals and with 50. For all these steps together each
            region goes through the network once.
    """

    folder = None

    def __init__(self, segmenter: Segmenter, *, ablate: bool = False) -> None:
        self._segmenter = segmenter
        count, crf = segmenter.proposals, segmenter.crf
        if segmenter.inference.sees_whole_photo:
            self.full = Step(None, crf, "alone")
            others = {Step(None, False, "alone")}
        else:
            protocol = segmenter.protocol
            stops = bool(protocol.stop and count)
            self.full = Step(count, crf, segmenter.ensemble, stops)
            others = self._ablation(segmenter)
        self._others = others - {self.full} if ablate else set()
        self.steps = tuple(
            sorted(
                {self.full, *self._others},
                key=lambda s: (s.proposals is None, s.proposals or 0, s.stops, s.ensemble, s.crf),
            )
        )

    @staticmethod
    def _ablation(segmenter: Segmenter) -> set[Step]:
        count, sharpens = segmenter.proposals, {False, segmenter.crf}
        steps = {Step(count)} | {Step(count) for count in ABLATION}
        steps |= {Step(count, True) for count in SHARPENED if segmenter.crf}
        if segmenter.ensemble != "off":
            # The product is one of raw scores, which only the fusion rule max keeps.
            rules = PAIRS if segmenter.protocol.fusion == "max" else ("mean",)
            steps |= {Step(None, crf, "alone") for crf in sharpens}
            counts = (count, PAIRED)
            steps |= {Step(count, crf, rule) for count in counts for rule in rules for crf in sharpens}
        return steps

    def settings(self) -> dict[str, Any]:
        """Those of the segmenter, and the steps."""
        return {**self._segmenter.settings(), "steps": [step.name for step in self.steps]}

    def check(self, truth: Truth) -> None:
        """The network must have the data set's classes."""
        check_classes(truth, self._segmenter.classes)

    def source(self, example: Example) -> Path:
        """The photo."""
        return example.image

    def label(self, truth: Truth, example: Example) -> Iterator[Labelling]:
        """Segment one photo, then at the other steps, fewest proposals first.

        Raises:
            InputError: the photo cannot be read.
        """
        clock = Clock()
        image = read_image(example.image)
        clock.lap("read")
        found = self._segmenter.segment(image)
        yield self.full, found.labels, {**clock.seconds, **found.seconds}
        if self._others:
            yield from self._label_others(image)

    def _label_others(self, image: NDArray[np.uint8]) -> Iterator[Labelling]:
        # Fewer regions are the first of more: what looks at the most can label them all.
        segmenter = self._segmenter.exhaustive(max(step.proposals or 0 for step in self._others))
        small = shrink(image, WORKING_SIDE)
        boxes = segmenter.before.propose(small)
        fusion = segmenter.inference.new_fusion(small)
        partner = segmenter.inference.partner_scores(small)
        first = int(segmenter.protocol.whole_photo or not segmenter.proposals)
        stops: dict[int, list[Step]] = {}
        for step in self._others:
            used = len(boxes) if step.proposals is None else step.proposals + first
            stops.setdefault(min(used, len(boxes)), []).append(step)
        for steps_here in stops.values():
            steps_here.sort(key=lambda step: (step.ensemble, step.crf))
        scored = segmenter.inference.score(small, boxes)
        for used in range(len(boxes) + 1):
            if used:
                box, scores = next(scored)
                fusion.add(scores, box)
            alike = groupby(stops.get(used, ()), lambda step: (step.ensemble, step.crf))
            for (rule, crf), steps in alike:
                fused = _probabilities(rule, fusion, partner, segmenter.protocol.share).cpu().numpy()
                if crf:
                    fused = segmenter.after.sharpen(small, fused)
                labels, _ = enlarge(fused, image.shape[0], image.shape[1], keep=False)
                for step in steps:
                    yield step, labels, {}


def _probabilities(rule: StepRule, fusion: Fusion, partner: Tensor | None, share: float) -> Tensor:
    """Class probabilities (C, H, W) of all regions so far and FCN-8s."""
    if partner is None:
        return fusion.probabilities()
    return partner.softmax(0) if rule == "alone" else ensemble(fusion, partner, rule, share)


class Predictions:
    """A folder of label PNGs, `NAME.png` for the photo NAME: ours or another tool's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.full = Step(None)
        self.steps = (self.full,)

    def settings(self) -> dict[str, Any]:
        """The folder."""
        return {"predictions": str(self.folder.resolve())}

    def check(self, truth: Truth) -> None:
        """Every photo needs a prediction."""
        self.refuse_missing(truth.examples)

    def source(self, example: Example) -> Path:
        """The prediction."""
        return self.folder / f"{example.name}.png"

    def refuse_missing(self, examples: Sequence[Example]) -> None:
        """Raise DataError if a photo has no prediction."""
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: there is no such folder of predictions; check the path")
        missing = [path for path in map(self.source, examples) if not path.is_file()]
        if missing:
            raise DataError(
                f"{missing[0]}: the prediction is missing ({len(missing)} of {len(examples)} are); "
                "every photo of the split needs one, named like the photo"
            )

    def label(self, truth: Truth, example: Example) -> Iterator[Labelling]:
        """Read the prediction of one photo; DataError if it is no label PNG."""
        yield self.full, truth.prediction(self.source(example)), {}

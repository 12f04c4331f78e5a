"""What is measured: a network at one or several settings, or a folder of finished predictions."""

from __future__ import annotations

import time
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
from deconvseg.steps import WORKING_SIDE, shrink

ABLATION = (0, 10, 25, 50, 100)
"""Numbers of proposals besides the whole photo that an ablation scores."""
SHARPENED = (0, 10, 50)
"""Those also scored with the CRF, which takes about as long as the network itself."""
StepRule = EnsembleRule | Literal["alone"]
PAIRS: tuple[EnsembleRule, ...] = ("mean", "product")
"""Ensembles that an ablation scores."""


@dataclass(frozen=True)
class Step:
    """One row of the table: a setting of the way from photo to labels.

    Attributes:
        proposals: regions besides the whole photo; None for predictions made elsewhere and FCN-8s alone.
        crf: whether the dense CRF follows.
        ensemble: how FCN-8s joins in; `alone` leaves the regions out.
    """

    proposals: int | None
    crf: bool = False
    ensemble: StepRule = "off"

    @property
    def name(self) -> str:
        """As the table shows it."""
        if self.ensemble == "alone":
            regions = "FCN-8s"
        elif self.proposals is None:
            regions = "predictions"
        else:
            regions = f"{self.proposals} proposals" if self.proposals else "whole photo"
        others = "" if self.ensemble in ("off", "alone") else f" + FCN-8s ({self.ensemble})"
        return regions + others + " + CRF" * self.crf


Labelling = tuple[Step, NDArray[np.uint8], dict[str, float]]
"""A step, its labels uint8 (H, W), and the seconds it took by part of the work."""


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
        ablate: score 0, 10, 25, 50 and 100 proposals as well, some also with the CRF (if the segmenter has
            one), FCN-8s alone and both ensembles (if the segmenter has one). Each region goes through the
            network once, whatever the number of steps.
    """

    folder = None

    def __init__(self, segmenter: Segmenter, *, ablate: bool = False) -> None:
        self._segmenter = segmenter
        count, crf = segmenter.proposals, segmenter.crf
        if segmenter.inference.sees_whole_photo:
            self.full = Step(None, crf, "alone")
            steps = {self.full, Step(None, False, "alone")} if ablate else {self.full}
        else:
            self.full = Step(count, crf, segmenter.ensemble)
            steps = self._ablation(segmenter) | {self.full} if ablate else {self.full}
        self.steps = tuple(
            sorted(steps, key=lambda s: (s.proposals is None, s.proposals or 0, s.ensemble, s.crf))
        )
        # Fewer regions are the first of more: what scores the most can score them all.
        self._widest = segmenter.proposing(max(step.proposals or 0 for step in steps))

    @staticmethod
    def _ablation(segmenter: Segmenter) -> set[Step]:
        count, sharpens = segmenter.proposals, {False, segmenter.crf}
        steps = {Step(count)} | {Step(count) for count in ABLATION}
        steps |= {Step(count, True) for count in SHARPENED if segmenter.crf}
        if segmenter.ensemble != "off":
            # The product is one of raw scores, which only the fusion rule max keeps.
            rules = PAIRS if segmenter.protocol.fusion == "max" else ("mean",)
            steps |= {Step(None, crf, "alone") for crf in sharpens}
            steps |= {Step(count, crf, rule) for rule in rules for crf in sharpens}
        return steps

    def settings(self) -> dict[str, Any]:
        """Those of the segmenter, and the steps."""
        return {
            **self._widest.settings(),
            "proposals": self.full.proposals,
            "steps": [step.name for step in self.steps],
        }

    def check(self, truth: Truth) -> None:
        """The network must have the data set's classes."""
        check_classes(truth, self._widest.classes)

    def source(self, example: Example) -> Path:
        """The photo."""
        return example.image

    def label(self, truth: Truth, example: Example) -> Iterator[Labelling]:
        """Segment one photo, fewest proposals first.

        Raises:
            InputError: the photo cannot be read.
        """
        segmenter, clock = self._widest, _Clock()
        image = read_image(example.image)
        clock.lap("read")
        small = shrink(image, WORKING_SIDE)
        boxes = segmenter.before.propose(small)
        fusion = segmenter.inference.new_fusion(small)
        clock.lap("proposals")
        partner = segmenter.inference.partner_scores(small)
        clock.lap("FCN-8s")
        first = int(segmenter.protocol.whole_photo or not segmenter.proposals)
        stops: dict[int, list[Step]] = {}
        for step in self.steps:
            used = len(boxes) if step.proposals is None else step.proposals + first
            stops.setdefault(min(used, len(boxes)), []).append(step)
        for steps_here in stops.values():
            steps_here.sort(key=lambda step: (step.ensemble, step.crf))
        scored = segmenter.inference.score(small, boxes)
        for used in range(len(boxes) + 1):
            if used:
                box, scores = next(scored)
                clock.lap("network")
                fusion.add(scores, box)
                clock.lap("fusion")
            alike = groupby(stops.get(used, ()), lambda step: (step.ensemble, step.crf))
            for (rule, crf), steps in alike:
                fused = _probabilities(rule, fusion, partner).cpu().numpy()
                extra = {"ensemble": clock.split()}
                if crf:
                    fused = segmenter.after.sharpen(small, fused)
                    extra["crf"] = clock.split()
                labels, _ = enlarge(fused, image.shape[0], image.shape[1], keep=False)
                extra["enlarge"] = clock.split()
                for step in steps:
                    yield step, labels, {**clock.seconds, **extra}
                clock.split()  # what the caller did meanwhile is nobody's time


def _probabilities(rule: StepRule, fusion: Fusion, partner: Tensor | None) -> Tensor:
    """Class probabilities (C, H, W) of all regions so far and FCN-8s."""
    if partner is None:
        return fusion.probabilities()
    return partner.softmax(0) if rule == "alone" else ensemble(fusion, partner, rule)


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


class _Clock:
    """Adds up wall-clock seconds by part of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def split(self) -> float:
        """Seconds since the last reading."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed

    def lap(self, part: str) -> None:
        """The time since the last reading went into `part`."""
        self.seconds[part] = self.seconds.get(part, 0.0) + self.split()

"""A data set of shapes, and subjects that need no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deconvseg.data.dataset import Example
from deconvseg.data.masks import VOID
from deconvseg.evaluation.ablation import Labelling, Step
from deconvseg.evaluation.truth import Truth, open_truth


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory, make_shapes: Callable[..., Path]) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "voc", train=1, val=6)


@pytest.fixture
def truth(shapes: Path) -> Truth:
    return open_truth(shapes, "val")


STEPS = (Step(0), FULL := Step(50, True))


@dataclass
class Shifted:
    """Predicts the truth some pixels aside; writes a line into `labelled` for each photo."""

    aside: int
    labelled: Path
    full: Step = FULL
    steps: tuple[Step, ...] = STEPS
    folder: None = None

    def check(self, truth: Truth) -> None: ...

    def settings(self) -> dict[str, int]:
        return {"aside": self.aside}

    def source(self, example: Example) -> Path:
        return example.image

    def label(self, truth: Truth, example: Example) -> Iterator[Labelling]:
        with self.labelled.open("a") as file:
            file.write(f"{example.name}\n")
        mask = truth.mask(example)
        mask[mask == VOID] = 0
        yield Step(0), np.zeros_like(mask), {"network": 0.5}
        yield FULL, np.roll(mask, self.aside, axis=1), {"network": 1.0, "crf": 0.25}

    def count(self) -> int:
        return len(self.labelled.read_text().split()) if self.labelled.exists() else 0


@pytest.fixture
def subject(tmp_path: Path) -> Shifted:
    return Shifted(3, tmp_path / "labelled.txt")

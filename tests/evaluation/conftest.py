"""A data set of shapes, a subject that needs no network, and a report of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deconvseg.data.dataset import Example
from deconvseg.data.masks import VOID
from deconvseg.evaluation.ablation import Labelling, Row, Subject
from deconvseg.evaluation.report import write_report
from deconvseg.evaluation.run import Truth, evaluate, open_truth, summarise

from ..conftest import make_shapes

FULL = Row(50, True)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "voc", train=1, val=6)


@pytest.fixture(scope="session")
def truth(shapes: Path) -> Truth:
    return open_truth(shapes, "val")


def shifted(aside: int, labelled: list[str]) -> Subject:
    """Predicts the truth so many pixels aside; the photos it was asked for go into `labelled`."""

    def label(example: Example, mask: NDArray[np.uint8]) -> Iterator[Labelling]:
        labelled.append(example.name)
        yield FULL, np.roll(np.where(mask == VOID, 0, mask), aside, axis=1), {"network": 1.0, "crf": 0.25}
        yield Row(0), np.zeros_like(mask), {}

    return Subject((Row(0), FULL), FULL, {"aside": aside}, label, "<b>shifted</b>")


@pytest.fixture
def labelled() -> list[str]:
    return []


@pytest.fixture
def subject(labelled: list[str]) -> Subject:
    return shifted(3, labelled)


@pytest.fixture(scope="session")
def report(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    evaluation = evaluate(shifted(3, []), truth, folder=folder)
    write_report(evaluation, summarise(evaluation), folder)
    return folder

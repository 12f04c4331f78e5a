"""A whole evaluation: rows share their work but say what single runs say, whatever the number of workers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deconvseg.data.voc import voc_dataset
from deconvseg.errors import DataError, UsageError
from deconvseg.evaluation.metrics import Scores, confusion_matrix
from deconvseg.evaluation.run import evaluate
from deconvseg.segmenter import Segmenter


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_shapes: Callable[..., Path]) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "voc", train=1, val=6)


def test_scores_are_those_of_segmenting_each_photo(root: Path, tiny_network: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=3, min_side=10)
    report = evaluate(segmenter, root, "val")
    data = voc_dataset(root, "val")
    total = sum(
        confusion_matrix(data.read(example)[1], segmenter.segment(example.image).labels, 21)
        for example in data.examples
    )
    want = Scores.of(total, segmenter.classes)
    assert report["mean_iou"] == want.mean_iou
    np.testing.assert_equal(report["per_class_iou"], want.per_class_iou)
    assert report["images"] == 6


def test_ablation_rows_are_what_single_runs_give(root: Path, tiny_network: Path) -> None:
    full = Segmenter(tiny_network, proposals=12, min_side=10)
    report = evaluate(full, root, "val", ablate=True)
    rows = report["rows"]
    singles = [("whole photo", 0, False), ("10 proposals", 10, False), ("12 proposals", 12, False)]
    if full.crf:
        singles += [("whole photo + CRF", 0, True), ("12 proposals + CRF", 12, True)]
    assert rows.keys() == {name for name, _, _ in singles}
    assert report["mean_iou"] == list(rows.values())[-1] == rows[singles[-1][0]]
    for name, proposals, crf in singles:
        single = Segmenter(tiny_network, proposals=proposals, min_side=10, crf=crf)
        assert rows[name] == pytest.approx(evaluate(single, root, "val")["mean_iou"], abs=2e-3), name


def test_workers_and_limit(root: Path, tiny_network: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=2, min_side=10, crf=False)
    one = evaluate(segmenter, root, "val", limit=4)
    two = evaluate(segmenter, root, "val", limit=4, workers=2)
    for report in (one, two):
        report.pop("seconds_per_image")
    np.testing.assert_equal(one, two)
    assert one["images"] == 4
    with pytest.raises(UsageError, match="at least 1"):
        evaluate(segmenter, root, "val", limit=0)


def test_data_of_other_classes_is_refused(root: Path, tiny_network: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(
        f'images = "{root}/JPEGImages"\nmasks = "{root}/SegmentationClass"\n[splits]\nval = "rest"\n'
        '[[classes]]\nname = "ground"\n[[classes]]\nname = "disc"\n[[classes]]\nname = "square"\n'
    )
    segmenter = Segmenter(tiny_network, proposals=0, crf=False)
    with pytest.raises(DataError, match=r"its classes \(ground, disc, square\) are not the network's"):
        evaluate(segmenter, tmp_path, "val")

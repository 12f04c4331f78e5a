"""A whole evaluation: rows share their work but say what single runs say, and stops change nothing."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deconvseg.data.masks import MaskFormat
from deconvseg.errors import DataError, UsageError
from deconvseg.evaluation.ablation import Network, Predictions, Step
from deconvseg.evaluation.metrics import Scores, confusion_matrix
from deconvseg.evaluation.page import proposal_lines
from deconvseg.evaluation.report import summarise, write_report
from deconvseg.evaluation.run import PREDICTIONS, evaluate
from deconvseg.evaluation.truth import Truth, open_truth
from deconvseg.segmenter import Segmenter

from .conftest import FULL, Shifted


def timeless(summary: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in summary.items() if not key.startswith("seconds")}


def test_scores_are_those_of_segmenting_each_photo(truth: Truth, tiny_network: Path) -> None:
    segmenter = Segmenter(tiny_network, proposals=3, min_side=10)
    summary = summarise(evaluate(Network(segmenter), truth), "tiny")
    total = sum(
        confusion_matrix(truth.mask(e), segmenter.segment(e.image).labels, 21) for e in truth.examples
    )
    assert summary["confusion"] == np.asarray(total).tolist()
    want = Scores.of(np.asarray(total), segmenter.classes)
    assert summary["mean_iou"] == want.mean_iou
    assert summary["per_class_iou"] == want.per_class_iou
    assert (summary["images"], summary["split_images"]) == (6, 6)
    assert summary["seconds_per_image"] == pytest.approx(sum(summary["seconds"].values()))
    assert summary["seconds"].keys() >= {"read", "proposals", "network"}


def test_ablation_rows_are_what_single_runs_give(shapes: Path, tiny_network: Path) -> None:
    truth = open_truth(shapes, "val", 2)
    full = Segmenter(tiny_network, proposals=12, min_side=10, stop=0)
    subject = Network(full, ablate=True)
    summary = summarise(evaluate(subject, truth), "tiny")
    rows = {row["name"]: row for row in summary["rows"]}
    plain = ["whole photo", "10 proposals", "12 proposals", "25 proposals", "50 proposals", "100 proposals"]
    sharp = ["whole photo + CRF", "10 proposals + CRF", "12 proposals + CRF", "50 proposals + CRF"]
    assert set(rows) == {*plain, *(sharp if full.crf else [])}
    assert summary["setting"] == subject.full.name == "12 proposals" + " + CRF" * full.crf
    assert summary["mean_iou"] == rows[summary["setting"]]["mean_iou"]
    for step in (Step(0), Step(10), Step(0, full.crf), Step(12, full.crf)):
        single = Segmenter(tiny_network, proposals=step.proposals or 0, min_side=10, stop=0, crf=step.crf)
        want = summarise(evaluate(Network(single), truth), "tiny")["mean_iou"]
        # Crops in other batches may differ in the last bits.
        assert rows[step.name]["mean_iou"] == pytest.approx(want, abs=2e-3), step.name


def test_headline_figures_are_of_early_stops_the_other_rows_are_not(shapes: Path, tiny_network: Path) -> None:
    name = "up to 12 proposals"
    truth = open_truth(shapes, "val", 2)
    common: dict[str, Any] = {"proposals": 12, "min_side": 10, "stop": 0, "crf": False, "precision": "fp32"}
    segmenter = Segmenter(tiny_network, **{**common, "stop": 0.9})
    evaluation = evaluate(Network(segmenter, ablate=True), truth)
    summary = summarise(evaluation, "tiny")
    rows = {step.name: evaluation.total(step).confusion.tolist() for step in evaluation.steps}
    assert summary["setting"] == name
    total = sum(
        confusion_matrix(truth.mask(e), segmenter.segment(e.image).labels, 21) for e in truth.examples
    )
    assert rows[name] == summary["confusion"] == np.asarray(total).tolist()
    exact = Network(Segmenter(tiny_network, **common))
    assert rows["12 proposals"] == evaluate(exact, truth).total(exact.full).confusion.tolist()
    assert rows["12 proposals"] != rows[name]
    assert summary["settings"]["steps"] == list(rows)


def test_ensemble_rows_are_what_single_runs_give(
    shapes: Path, tiny_network: Path, tiny_fcn: Path, tmp_path: Path
) -> None:
    truth = open_truth(shapes, "val", 2)
    common = {"proposals": 3, "min_side": 10, "stop": 0, "crf": False, "precision": "fp32"}
    full = Segmenter(tiny_network, ensemble="mean", fcn=tiny_fcn, **common)  # type: ignore[arg-type]
    evaluation = evaluate(Network(full, ablate=True), truth)
    summary = summarise(evaluation, "tiny")
    rows = {row["name"]: row for row in summary["rows"]}
    assert summary["setting"] == "3 proposals + FCN-8s (mean)"
    assert {"FCN-8s", "3 proposals", "3 proposals + FCN-8s (product)", "100 proposals"} <= set(rows)
    product = Segmenter(tiny_network, ensemble="product", fcn=tiny_fcn, **common)  # type: ignore[arg-type]
    alone = Segmenter(tiny_fcn, **common)  # type: ignore[arg-type]
    for single, name in (
        (full, summary["setting"]),
        (product, "3 proposals + FCN-8s (product)"),
        (alone, "FCN-8s"),
    ):
        one = summarise(evaluate(Network(single), truth), "tiny")
        assert one["setting"] == name
        # Crops in other batches may differ in the last bits.
        assert rows[name]["mean_iou"] == pytest.approx(one["mean_iou"], abs=2e-3), name
    assert len({row["mean_iou"] for row in rows.values()}) > 3
    write_report(evaluation, summary, tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text()
    assert "3 proposals + FCN-8s (product)" in page
    chart = proposal_lines(summary["rows"])
    assert [count for _, count in chart["ticks"]] == [0, 3, 10, 25, 50, 100]
    assert [len(points) for _, points in chart["series"]] == [6]  # the ensembles are no points of the line


def test_an_ablation_of_mean_fusion_has_no_product(tiny_network: Path, tiny_fcn: Path) -> None:
    segmenter = Segmenter(tiny_network, fusion="mean", ensemble="mean", fcn=tiny_fcn)
    rules = {step.ensemble for step in Network(segmenter, ablate=True).steps}
    assert rules == {"off", "mean", "alone"}


@pytest.mark.parametrize("protocol", ["paper", "released-code"])
@pytest.mark.parametrize("proposals", [0, 4])
def test_protocols_are_scored_as_they_segment(
    truth: Truth, tiny_network: Path, protocol: str, proposals: int
) -> None:
    options = {"ensemble": "off", "min_side": 10, "crf": False, "precision": "fp32"}
    segmenter = Segmenter(tiny_network, protocol=protocol, proposals=proposals, **options)  # type: ignore[arg-type]
    summary = summarise(evaluate(Network(segmenter), truth), "tiny")
    total = sum(
        confusion_matrix(truth.mask(e), segmenter.segment(e.image).labels, 21) for e in truth.examples
    )
    assert summary["confusion"] == np.asarray(total).tolist()


def test_an_ablation_of_the_whole_photo_alone_still_proposes(tiny_network: Path) -> None:
    subject = Network(Segmenter(tiny_network, proposals=0, crf=False), ablate=True)
    assert [step.proposals for step in subject.steps] == [0, 10, 25, 50, 100]
    assert subject.full == Step(0)


def test_two_workers_count_the_same(truth: Truth, tiny_network: Path) -> None:
    subject = Network(Segmenter(tiny_network, proposals=2, min_side=10, crf=False))
    one, two = (summarise(evaluate(subject, truth, workers=workers), "tiny") for workers in (1, 2))
    assert timeless(one) == timeless(two)
    with pytest.raises(UsageError, match="at least 1"):
        evaluate(subject, truth, workers=0)


def test_a_stopped_run_goes_on_to_the_same_figures(truth: Truth, subject: Shifted, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(subject, truth, folder=tmp_path / "report", progress=stop)
    journal = tmp_path / "report" / "per_image.jsonl"
    with journal.open("a") as file:
        file.write('{"name": "shape004", "rows": {"cut sh')  # as a kill leaves it
    shown: list[tuple[int, int]] = []
    stopped = evaluate(
        subject, truth, folder=tmp_path / "report", progress=lambda *counts: shown.append(counts)
    )
    assert shown[0] == (3, 6)
    assert shown[-1] == (6, 6)
    assert subject.count() == 6
    whole = evaluate(subject, truth)
    assert summarise(stopped, "shifted") == summarise(whole, "shifted")
    assert len(journal.read_text().splitlines()) == 7


def test_a_changed_photo_or_lost_prediction_is_done_again(
    shapes: Path, subject: Shifted, tmp_path: Path
) -> None:
    shutil.copytree(shapes, tmp_path / "voc")
    truth = open_truth(tmp_path / "voc", "val")
    evaluate(subject, truth, folder=tmp_path / "report")
    first, second = truth.examples[:2]
    mask = np.array(Image.open(first.mask))
    Image.fromarray(np.where(mask == 0, 255, mask).astype(np.uint8)).save(first.mask)
    (tmp_path / "report" / PREDICTIONS / f"{second.name}.png").unlink()
    again = evaluate(subject, truth, folder=tmp_path / "report")
    assert subject.count() == 6 + 2
    assert summarise(again, "shifted") == summarise(evaluate(subject, truth), "shifted")


def test_a_larger_sample_reuses_a_smaller_one(shapes: Path, subject: Shifted, tmp_path: Path) -> None:
    evaluate(subject, open_truth(shapes, "val", 2), folder=tmp_path / "report")
    evaluation = evaluate(subject, open_truth(shapes, "val", 4), folder=tmp_path / "report")
    assert len(evaluation.photos) == 4
    assert subject.count() < 2 + 4


def test_results_of_other_settings_are_not_mixed_nor_lost(
    truth: Truth, subject: Shifted, tmp_path: Path
) -> None:
    evaluate(subject, truth, folder=tmp_path / "report")
    other = Shifted(4, subject.labelled)
    with pytest.raises(UsageError, match=r"results of other settings; give another --report DIR"):
        evaluate(other, truth, folder=tmp_path / "report")
    evaluate(other, truth, folder=tmp_path / "report", overwrite=True)
    assert subject.count() == 12
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("my own page")
    with pytest.raises(UsageError, match=r"report\.html: exists, and no per_image\.jsonl"):
        evaluate(subject, truth, folder=tmp_path / "mine")


def test_predictions_of_a_run_score_as_the_run(truth: Truth, subject: Shifted, tmp_path: Path) -> None:
    ran = summarise(evaluate(subject, truth, folder=tmp_path), "shifted")
    predictions = Predictions(tmp_path / PREDICTIONS)
    predictions.refuse_missing(truth.examples)
    read = summarise(evaluate(predictions, truth), None)
    for key in ("confusion", "mean_iou", "boundary_f", "per_class_iou", "sizes"):
        assert read[key] == ran[key]
    assert read["setting"] == "predictions"
    assert read["seconds_per_image"] is None


def test_the_truth_scores_one_against_itself_void_included(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "voc")
    truth = open_truth(tmp_path / "voc", "val")
    for example in truth.examples:
        mask = np.array(Image.open(example.mask))
        mask[30:33] = 255
        Image.fromarray(mask).save(example.mask)
    figures = summarise(evaluate(Predictions(truth.examples[0].mask.parent), truth), None)
    assert figures["mean_iou"] == figures["boundary_f"] == 1
    assert figures["voc_mean_iou"] == pytest.approx(3 / 21)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: image.resize((20, 20)), r"{name}: is 20x20 pixels, its true mask .* one size"),
        (lambda image: image.convert("RGB"), r"{name}: .*RGB"),
        (lambda image: image.point(lambda value: 21 if value else 0), r"{name}: .*21"),
        (lambda image: image.point(lambda value: 255), r"{name}: \d+ pixels that count are 255"),
    ],
    ids=["size", "rgb", "id", "void"],
)
def test_predictions_that_cannot_be_scored_name_the_file(
    truth: Truth, tmp_path: Path, spoil: Callable[[Image.Image], Image.Image], message: str
) -> None:
    for example in truth.examples:
        grey = Image.fromarray(np.array(Image.open(example.mask)))
        grey.save(tmp_path / f"{example.name}.png")
    bad = tmp_path / f"{truth.examples[2].name}.png"
    spoil(Image.open(bad)).save(bad)
    with pytest.raises(DataError, match=message.format(name=bad.name)) as error:
        evaluate(Predictions(tmp_path), truth)
    assert "\n" not in str(error.value)


def test_missing_predictions_are_told_before_anything_is_done(truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shape\d+\.png: the prediction is missing \(6 of 6 are\)"):
        Predictions(tmp_path).refuse_missing(truth.examples)
    with pytest.raises(DataError, match="no such folder"):
        Predictions(tmp_path / "none").refuse_missing(truth.examples)


def test_nothing_but_void_cannot_be_scored(shapes: Path, subject: Shifted, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "voc")
    truth = open_truth(tmp_path / "voc", "val", 1)
    mask = truth.examples[0].mask
    Image.fromarray(np.full_like(np.array(Image.open(mask)), 255)).save(mask)
    with pytest.raises(DataError, match="void alone; there is nothing to score"):
        evaluate(Predictions(mask.parent), truth)


def test_a_sample_is_evenly_spread_and_fixed(shapes: Path) -> None:
    names = [example.name for example in open_truth(shapes, "val").examples]
    sample = open_truth(shapes, "val", 3)
    assert [example.name for example in sample.examples] == names[::2]
    assert sample.photos == 6
    with pytest.raises(UsageError, match="at least 1"):
        open_truth(shapes, "val", 0)


def test_a_network_of_other_classes_is_refused(truth: Truth, tiny_network: Path) -> None:
    renamed = Truth(truth.split, truth.examples, 6, ("background", "crack"), truth.palette[:2], truth.masks)
    subject = Network(Segmenter(tiny_network, proposals=0, crf=False))
    with pytest.raises(DataError, match=r"knows 21 classes .* has 2 \(background, crack\)"):
        evaluate(subject, renamed)


def test_the_journal_is_readable(truth: Truth, subject: Shifted, tmp_path: Path) -> None:
    evaluate(subject, truth, folder=tmp_path)
    header, *photos = map(json.loads, (tmp_path / "per_image.jsonl").read_text().splitlines())
    assert header["aside"] == 3
    assert [photo["name"] for photo in photos] == [example.name for example in truth.examples]
    assert photos[0]["seconds"] == {"network": 1.0, "crf": 0.25}
    assert photos[0]["rows"].keys() == {"whole photo", "50 proposals + CRF"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"\[0,0,\d+\]", "[0,0,-9]"),
        (r"\[0,0,\d+\]", "[0,7]"),
        ('"rows":{', '"rows":{"x":{},'),
        ('"width":', '"w":'),
    ],
)
def test_a_damaged_line_is_measured_again(
    truth: Truth, subject: Shifted, tmp_path: Path, old: str, new: str
) -> None:
    whole = evaluate(subject, truth, folder=tmp_path / "r")
    journal = tmp_path / "r/per_image.jsonl"
    header, first, *others = journal.read_text().splitlines()
    damaged = re.sub(old, new, first, count=1)
    assert damaged != first
    journal.write_text("\n".join([header, damaged, *others]) + "\n")
    again = evaluate(subject, truth, folder=tmp_path / "r")
    assert subject.count() == len(truth.examples) + 1
    assert (again.total(FULL).confusion == whole.total(FULL).confusion).all()


def test_a_mask_that_means_something_else_is_another_setting(
    truth: Truth, subject: Shifted, tmp_path: Path
) -> None:
    evaluate(subject, truth, folder=tmp_path / "r")
    swapped = replace(truth, masks=MaskFormat({**truth.masks.ids, 1: 2, 2: 1}))
    with pytest.raises(UsageError, match="results of other settings"):
        evaluate(subject, swapped, folder=tmp_path / "r")


def test_labels_never_replace_the_masks_they_are_measured_against(
    truth: Truth, subject: Shifted, tmp_path: Path
) -> None:
    folder = tmp_path / "r"
    moved = [replace(e, mask=folder / "predictions" / e.mask.name) for e in truth.examples]
    (folder / "predictions").mkdir(parents=True)
    for before, after in zip(truth.examples, moved, strict=True):
        after.mask.write_bytes(before.mask.read_bytes())
    with pytest.raises(UsageError, match="is a file of the data set"):
        evaluate(subject, replace(truth, examples=tuple(moved)), folder=folder, overwrite=True)


def test_a_photo_of_another_size_is_found_before_the_report(
    truth: Truth, subject: Shifted, tmp_path: Path
) -> None:
    photo = tmp_path / "small.png"
    Image.new("RGB", (9, 9)).save(photo)
    one = replace(truth, examples=(replace(truth.examples[0], image=photo),))
    with pytest.raises(DataError, match="they must agree"):
        evaluate(subject, one, folder=tmp_path / "r")

"""A whole evaluation: rows share their work but say what single runs say; tuning."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deconvseg.errors import DataError, UsageError
from deconvseg.evaluation.ablation import Row, Subject, finished, network
from deconvseg.evaluation.counts import confusion_matrix, confusion_of
from deconvseg.evaluation.report import write_report
from deconvseg.evaluation.run import PREDICTIONS, Truth, evaluate, open_truth, summarise, workers_for
from deconvseg.evaluation.tune import search
from deconvseg.images.palette import palette_for
from deconvseg.segmenter import Segmenter
from deconvseg.settings import CRFParameters

EXACT: dict[str, Any] = {"min_side": 10, "crf": False, "precision": "fp32"}


def segmented(segmenter: Segmenter, truth: Truth) -> np.ndarray:
    """The confusion matrix of segmenting photo by photo."""
    found = (confusion_matrix(truth.mask(e), segmenter.segment(e.image).labels, 21) for e in truth.examples)
    return np.asarray(sum(found))


def test_ablation_rows_are_what_single_runs_give(shapes: Path, tiny_network: Path, tiny_fcn: Path) -> None:
    """Whole photo, fewer and more proposals, CRF, both ensembles and the FCN alone."""
    truth = open_truth(shapes, "val", 2)
    common = {**EXACT, "crf": True, "batch_size": 1}
    full = Segmenter(tiny_network, proposals=12, fcn=tiny_fcn, ensemble="mean", **common)
    subject = network(full, truth, ablate=True)
    evaluation = evaluate(subject, truth)
    assert evaluation.photos[0].seconds.keys() >= {"read", "proposals", "network", "crf"}
    rows = {row.name: confusion_of(evaluation.counts(row).sum(0), 21).tolist() for row in subject.rows}
    assert len(rows) == 18
    assert subject.full.name == "12 proposals + FCN (mean) + CRF"
    for name, options in {
        "whole photo": {"proposals": 0},
        "10 proposals + CRF": {"proposals": 10},
        "12 proposals + FCN (mean) + CRF": {"proposals": 12, "ensemble": "mean", "fcn": tiny_fcn},
        "50 proposals + FCN (product)": {"proposals": 50, "ensemble": "product", "fcn": tiny_fcn},
        "FCN + CRF": {"weights": tiny_fcn},
    }.items():
        crf = {"crf": name.endswith("CRF")}
        single = Segmenter(**{"weights": tiny_network, **common, **options, **crf})
        assert rows[name] == segmented(single, truth).tolist(), name


def test_ablation_of_a_protocol_without_the_whole_photo(truth: Truth, tiny_network: Path) -> None:
    truth = replace(truth, examples=truth.examples[:1])
    options = {"protocol": "paper", "ensemble": "off", **EXACT}
    subject = network(Segmenter(tiny_network, proposals=1, **options), truth, ablate=True)
    ten = evaluate(subject, truth).counts(Row(10)).sum(0)
    single = segmented(Segmenter(tiny_network, proposals=10, **options), truth)
    assert confusion_of(ten, 21).tolist() == single.tolist()


def test_which_rows_an_ablation_has(
    truth: Truth, tiny_network: Path, tiny_fcn: Path, tiny_prior: Path
) -> None:
    segmenter = Segmenter(tiny_network, fusion="mean", ensemble="mean", fcn=tiny_fcn)
    assert {row.ensemble for row in network(segmenter, truth, ablate=True).rows} == {"off", "mean", "alone"}
    subject = network(Segmenter(tiny_network, proposals=0, crf=False), truth, ablate=True)
    assert [row.proposals for row in subject.rows] == [0, 10, 50]
    assert subject.full == Row(0)
    weighed = network(Segmenter(tiny_network, proposals=0, fcn=tiny_prior), truth, ablate=True)
    assert weighed.full.name == "whole photo + FCN (mean) + prior + CRF"
    assert all("prior" in row.name for row in weighed.rows)


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a container with 2 cores on a host of many, on which torch has counted the host's."""
    monkeypatch.setattr("deconvseg.machine.cores", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    taken: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", taken.append)
    with workers_for(2):
        assert taken == [1]


def test_a_folder_that_is_not_empty_is_overwritten_if_asked_for_alone(
    truth: Truth, subject: Subject, labelled: list[str], tmp_path: Path
) -> None:
    page, other = tmp_path / "report.html", tmp_path / "mine.txt"
    page.write_text("of a run before")
    other.touch()
    with pytest.raises(UsageError, match="is not empty; take another folder, or overwrite it"):
        evaluate(subject, truth, folder=tmp_path)
    assert not labelled and page.exists()
    evaluate(subject, truth, folder=tmp_path, overwrite=True)
    assert len(labelled) == 6 and other.exists() and not page.exists()
    page.touch()
    evaluate(subject, replace(truth, examples=truth.examples[:2]), folder=tmp_path, overwrite=True)
    names = [f"{example.name}.png" for example in truth.examples[:2]]
    assert sorted(path.name for path in (tmp_path / PREDICTIONS).iterdir()) == names


def test_predictions_of_a_run_score_as_the_run(truth: Truth, report: Path) -> None:
    ran = json.loads((report / "report.json").read_text())
    read = summarise(evaluate(finished(report / PREDICTIONS, truth), truth))
    for key in ("confusion", "mean_iou", "boundary_f", "per_class_iou", "sizes"):
        assert read[key] == ran[key]
    assert read["setting"] == "predictions"
    assert read["seconds_per_image"] is None


def test_the_truth_scores_one_against_itself_and_void_nothing(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "voc")
    truth = open_truth(tmp_path / "voc", "val")
    for example in truth.examples:
        mask = np.array(Image.open(example.mask))
        mask[30:33] = 255
        Image.fromarray(mask).save(example.mask)
    subject = finished(truth.examples[0].mask.parent, truth)
    figures = summarise(evaluate(subject, truth))
    assert figures["mean_iou"] == figures["boundary_f"] == 1
    assert figures["voc_mean_iou"] == pytest.approx(3 / 21)
    Image.fromarray(np.full_like(mask, 255)).save(example.mask)
    with pytest.raises(DataError, match="void alone; there is nothing to score"):
        evaluate(subject, replace(truth, examples=(example,)))


SWAPPED = [channel for label in (0, 2, 1) for channel in palette_for(3)[label]]
"""A palette in which aeroplane and bicycle have each other's colours."""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: image.resize((20, 20)), r"{name}: is 20x20 pixels, its true mask .* one size"),
        (lambda image: image.point(lambda value: 255), r"{name}: \d+ pixels that count are 255"),
        (lambda image: image.putpalette(SWAPPED) or image, r"{name}: .*id 1 has the colour of .bicycle"),
    ],
    ids=["size", "void", "palette"],
)
def test_predictions_that_cannot_be_scored_name_the_file(
    truth: Truth, tmp_path: Path, spoil: Callable[[Image.Image], Image.Image], message: str
) -> None:
    for example in truth.examples:
        Image.fromarray(np.array(Image.open(example.mask))).save(tmp_path / f"{example.name}.png")
    bad = tmp_path / f"{truth.examples[2].name}.png"
    spoil(Image.open(bad)).save(bad)
    with pytest.raises(DataError, match=message.format(name=bad.name)) as error:
        evaluate(finished(tmp_path, truth), truth)
    assert "\n" not in str(error.value)


def test_a_sample_is_evenly_spread_and_fixed(shapes: Path) -> None:
    names = [example.name for example in open_truth(shapes, "val").examples]
    sample = open_truth(shapes, "val", 3)
    assert [example.name for example in sample.examples] == names[::2]
    assert sample.photos == 6


def test_a_network_of_other_classes_is_refused(truth: Truth, tiny_network: Path) -> None:
    renamed = replace(truth, classes=("background", "crack"), palette=truth.palette[:2])
    with pytest.raises(DataError, match="its 2 classes are not the 21"):
        network(Segmenter(tiny_network, proposals=0, crf=False), renamed)


def test_labels_never_replace_the_true_masks(truth: Truth, subject: Subject, tmp_path: Path) -> None:
    shutil.copytree(truth.examples[0].mask.parent, tmp_path / PREDICTIONS)
    moved = tuple(replace(e, mask=tmp_path / PREDICTIONS / e.mask.name) for e in truth.examples)
    with pytest.raises(UsageError, match="holds files of the data set"):
        evaluate(subject, replace(truth, examples=moved), folder=tmp_path, overwrite=True)


def test_a_photo_of_another_size_is_found(truth: Truth, tiny_network: Path, tmp_path: Path) -> None:
    photo = tmp_path / "small.png"
    Image.new("RGB", (9, 9)).save(photo)
    one = replace(truth, examples=(replace(truth.examples[0], image=photo),))
    with pytest.raises(DataError, match="they must agree"):
        evaluate(network(Segmenter(tiny_network, proposals=0, **EXACT), one), one)
    evaluation = evaluate(finished(truth.examples[0].mask.parent, one), one)
    with pytest.raises(DataError, match="they must agree"):
        write_report(evaluation, summarise(evaluation), tmp_path)
    assert (tmp_path / "per_image.csv").exists()


def test_the_search_climbs_to_a_peak() -> None:
    def score(parameters: CRFParameters) -> float:
        return -abs(parameters.colour_weight - 8) - abs(parameters.smooth_sigma - 1.5)

    best, tried = search(CRFParameters(colour_weight=2.0, smooth_sigma=3.0), score, 40)
    assert (best.colour_weight, best.smooth_sigma) == (8, 1.5)
    assert best == max(tried, key=lambda parameters: tried[parameters])


def test_the_search_ends_within_its_trials_and_what_a_network_file_may_hold() -> None:
    calls = []

    def rising(parameters: CRFParameters) -> float:
        calls.append(parameters)
        return len(calls)

    best, tried = search(CRFParameters(), rising, most=7)
    assert len(calls) == len(tried) == 7
    assert best == calls[-1]
    best, _ = search(CRFParameters(), lambda parameters: parameters.colour_weight, most=100)
    assert 500 < best.colour_weight <= 1000
    start = CRFParameters(colour_weight=0.0)  # no multiple of 0 is another
    best, tried = search(start, lambda parameters: 0, 40)
    assert best == start
    assert {parameters.colour_weight for parameters in tried} == {0}

"""The search of the CRF's parameters."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from deconvseg.errors import UsageError
from deconvseg.evaluation.run import Truth, open_truth
from deconvseg.evaluation.tune import search, tune_crf
from deconvseg.network.checkpoint import load_network
from deconvseg.segmenter import Segmenter
from deconvseg.settings import CRFParameters


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


def test_the_result_is_in_a_copy_of_the_network(
    truth: Truth, tiny_network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deconvseg.evaluation.tune.MOST_TRIALS", 3)
    segmenter = Segmenter(tiny_network, proposals=0)
    target = tmp_path / "tuned.safetensors"
    report = tune_crf(segmenter, tiny_network, truth, target)
    json.dumps(report, allow_nan=False)
    assert (report["images_searched"], report["images_held_out"]) == (3, 3)
    before, after = report["before"], report["after"]
    assert after["mean_iou_searched"] >= before["mean_iou_searched"]
    assert report["improved"] is (after["mean_iou_held_out"] > before["mean_iou_held_out"])
    old, _ = load_network(tiny_network)
    new, header = load_network(target)
    assert header.crf == (after if report["improved"] else before)["crf"]
    assert header.training["crf_search"]["trials"] == report["trials"]
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, new.state_dict()[name]), name
    with safe_open(tiny_network, "pt") as one, safe_open(target, "pt") as other:
        assert set(one.keys()) == set(other.keys())


def test_too_few_photos(shapes: Path, tiny_network: Path, tmp_path: Path) -> None:
    truth = open_truth(shapes, "val", 3)
    with pytest.raises(UsageError, match="3 photos are too few"):
        tune_crf(Segmenter(tiny_network, proposals=0), tiny_network, truth, tmp_path / "tuned.safetensors")

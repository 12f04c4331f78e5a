"""The labelling after N proposals is that of a Segmenter with N proposals."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.inspection.proposals import inspect_proposals
from deconvseg.segmenter import Segmenter

Make = Callable[[int, int], PhotoPixels]
OPTIONS = {"min_side": 20, "precision": "fp32", "device": "cpu", "batch_size": 1}


@pytest.mark.parametrize("both", [False, True], ids=["alone", "ensemble"])
def test_each_labelling_is_a_segmenters(
    tiny_network: Path, tiny_fcn: Path, make_photo: Make, both: bool
) -> None:
    options = OPTIONS | ({"ensemble": "mean", "fcn": tiny_fcn} if both else {})
    photo = make_photo(90, 140)
    found = inspect_proposals(Segmenter(tiny_network, **options), photo, 7)  # type: ignore[arg-type]
    assert list(found.labellings) == [1, 5, 7] and found.count == 7
    for count, labelling in found.labellings.items():
        segmenter = Segmenter(tiny_network, proposals=count, stop=0, crf=False, **options)  # type: ignore[arg-type]
        want = segmenter.segment(photo.image)
        assert np.array_equal(labelling.labels, want.labels)
        assert np.array_equal(found.boxes[: count + 1], want.boxes)
    assert found.sharpened is not None
    segmenter = Segmenter(tiny_network, proposals=7, stop=0, **options)  # type: ignore[arg-type]
    assert np.array_equal(found.sharpened.labels, segmenter.segment(photo.image).labels)


def test_what_each_box_changed(tiny_network: Path, make_photo: Make) -> None:
    photo = make_photo(90, 140)
    found = inspect_proposals(Segmenter(tiny_network, crf=False, **OPTIONS), photo, 3)  # type: ignore[arg-type]
    labels = [np.zeros((90, 140), np.uint8)]
    for count in range(4):
        segmenter = Segmenter(tiny_network, proposals=count, stop=0, crf=False, **OPTIONS)  # type: ignore[arg-type]
        labels.append(segmenter.segment(photo.image).labels)
    want = [(a != b).mean() for a, b in itertools.pairwise(labels)]
    assert found.changed == pytest.approx(want)
    assert found.sharpened is None
    assert list(found.scores[1:]) == sorted(found.scores[1:], reverse=True)


def test_fewer_proposals_than_asked_for(tiny_network: Path, make_photo: Make) -> None:
    tiny = inspect_proposals(Segmenter(tiny_network), make_photo(10, 20))
    assert tiny.count == 0 and list(tiny.labellings) == [0] and len(tiny.boxes) == 1
    assert tiny.edges.shape == (10, 20)
    numbers = tiny.numbers()
    assert numbers["proposals"] == 0
    flat = PhotoPixels(np.full((50, 60, 3), 77, np.uint8), 50, 60)
    assert inspect_proposals(Segmenter(tiny_network, **OPTIONS), flat).count == 0  # type: ignore[arg-type]


def test_boxes_count_in_pixels_of_the_whole_photo(tiny_network: Path, make_photo: Make) -> None:
    segmenter, photo = Segmenter(tiny_network, crf=False, **OPTIONS), make_photo(90, 140)  # type: ignore[arg-type]
    small = inspect_proposals(segmenter, photo, 2)
    large = inspect_proposals(segmenter, replace(photo, height=900, width=1400), 2)
    np.testing.assert_allclose(large.boxes, 10 * small.boxes, rtol=1e-5)


def test_without_the_whole_photo_ranks_begin_at_1(tiny_network: Path, make_photo: Make) -> None:
    segmenter = Segmenter(tiny_network, protocol="paper", ensemble="off", crf=False, **OPTIONS)  # type: ignore[arg-type]
    found = inspect_proposals(segmenter, make_photo(90, 140), 2)
    assert found.first == 1 and found.count == len(found.boxes) == 2
    numbers = json.loads(json.dumps(found.numbers()))
    assert [box["rank"] for box in numbers["boxes"]] == [1, 2]
    assert list(found.labellings) == [1, 2]


def test_numbers_are_json(tiny_network: Path, make_photo: Make) -> None:
    found = inspect_proposals(Segmenter(tiny_network, **OPTIONS), make_photo(90, 140), 6)  # type: ignore[arg-type]
    numbers = json.loads(json.dumps(found.numbers()))
    assert [box["rank"] for box in numbers["boxes"]] == list(range(7))
    assert numbers["boxes"][0]["score"] is None
    assert all(box["score"] > 0 for box in numbers["boxes"][1:])
    assert [step["proposals"] for step in numbers["steps"]] == [1, 5, 6]
    assert numbers["steps"][-1]["classes"] == found.labellings[6].class_shares()
    assert found.sharpened is not None
    assert numbers["crf"]["classes"] == found.sharpened.class_shares()


def test_networks_without_proposals_are_refused(tiny_network: Path, tiny_fcn: Path, make_photo: Make) -> None:
    with pytest.raises(UsageError, match=r"fcn\.safetensors: is an FCN-8s"):
        inspect_proposals(Segmenter(tiny_fcn), make_photo(30, 30))
    with pytest.raises(UsageError, match="give 1 or more"):
        inspect_proposals(Segmenter(tiny_network), make_photo(30, 30), 0)

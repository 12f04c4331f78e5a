"""Which part of a photo is looked into; what is found there is what the network and a Segmenter do."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.inspect.compute import CORNERS, inspect_layers, inspect_proposals, inspect_switches, trace
from deconvseg.segmenter import Segmenter

from .conftest import make_photo

OPTIONS: dict[str, Any] = {"min_side": 20, "precision": "fp32", "device": "cpu", "batch_size": 1}


def cells(large: np.ndarray) -> np.ndarray:
    """(..., 2h, 2w) as (..., h, w, 4), the pixels of a cell in the order of CORNERS."""
    rows, columns = large.shape[-2] // 2, large.shape[-1] // 2
    split = large.reshape(*large.shape[:-2], rows, 2, columns, 2)
    return np.moveaxis(split, -3, -2).reshape(*large.shape[:-2], rows, columns, 4)


def test_layers_are_the_most_active_maps_inside_the_photo(exact: Segmenter) -> None:
    found, traced = inspect_layers(exact, make_photo(30, 90)), trace(exact, make_photo(30, 90), None, None)
    layers = json.loads(json.dumps(found.numbers))["layers"]
    names = ["fc6_deconv"]
    for block, convs in ((5, 3), (4, 3), (3, 3), (2, 2), (1, 2)):
        names += [f"unpool{block}", *(f"deconv{block}_{i}" for i in range(1, convs + 1))]
    assert [layer["name"] for layer in layers] == names
    sides = [1] + [2] * 4 + [4] * 4 + [8] * 4 + [16] * 3 + [32] * 3
    assert [layer["size"] for layer in layers] == [[side] * 2 for side in sides]
    (told,) = (layer for layer in layers if layer["name"] == "deconv3_2")
    maps = traced.decoded["deconv3_2"].numpy()
    channel = maps[:, 2:6].mean((1, 2)).argmax()  # the photo's 30 rows of 90 are cells 2.67 to 5.33 of 8
    shown = maps[channel]
    np.testing.assert_array_equal(found.pictures["deconv3_2"], shown)
    want = {"channel": channel, "channels": 8, "max": shown.max()}
    want |= {"active": (shown > 0).mean()}
    left = [module for module in exact.inference.network.modules() if module._forward_hooks]
    assert not left  # of what listened to the layers
    assert told == {"name": "deconv3_2", "size": [8, 8]} | {k: pytest.approx(v) for k, v in want.items()}


def test_class_picks_the_channel_whose_loss_would_cost_it_most(exact: Segmenter) -> None:
    """Behind the last layer only a 1x1 convolution follows, so that a map's part in the score is exact."""
    photo, weights = make_photo(32, 32), exact.inference.network.seg_score.weight.detach()  # type: ignore[union-attr]
    picked = set()
    for label, name in enumerate(exact.classes[1:6], 1):
        found = inspect_layers(exact, photo, class_name=name)
        traced = trace(exact, photo, None, name)
        share = traced.scores.softmax(0)[label]
        parts = weights[label, :, 0, 0] * (traced.decoded["deconv1_2"] * share).sum((1, 2))
        assert found.numbers["layers"][-1]["channel"] == int(parts.argmax())
        assert found.numbers["score"]["class"] == found.numbers["class"] == name
        np.testing.assert_allclose(found.pictures["score"], traced.scores[label], atol=1e-6)
        channels = {layer["name"]: layer["channel"] for layer in found.numbers["layers"]}
        picked.add(tuple(channels.values()))
        for stage in inspect_switches(exact, photo, class_name=name).numbers["stages"]:
            assert stage["channel"] == channels[f"unpool{stage['stage']}"]
    assert len(picked) > 1


def test_labelling_is_the_segmenters(exact: Segmenter) -> None:
    photo = make_photo(32, 32)
    found = inspect_layers(exact, photo)
    want = exact.segment(photo.image)
    assert np.array_equal(found.labellings["labelling"].labels, want.labels)
    assert found.numbers["classes"] == want.class_shares()
    largest = next(name for name in want.class_shares() if name != "background")
    assert found.numbers["score"]["class"] == largest and found.numbers["class"] is None
    # what is not photo is left out
    assert inspect_layers(exact, make_photo(60, 90)).labellings["labelling"].labels.shape == (22, 32)


def test_values_go_back_where_maxima_were_taken(exact: Segmenter) -> None:
    found = inspect_switches(exact, make_photo(60, 90))
    assert [stage["size"] for stage in found.numbers["stages"]] == [[side] * 2 for side in (32, 16, 8, 4, 2)]
    for n in range(1, 6):
        names = "encoded", "pooled", "corners", "decoded", "unpooled"
        encoded, pooled, corners, decoded, unpooled = (found.pictures[f"{name}{n}"] for name in names)
        before, after, at = cells(encoded), cells(unpooled), corners[..., None].astype(int)
        assert np.array_equal(pooled, before.max(-1))
        assert np.array_equal(corners, before.argmax(-1))
        # not zero exactly where the switch points and there is something to put back
        assert np.array_equal(after != 0, (np.arange(4) == at) & (decoded[..., None] > 0))
        assert np.array_equal(np.take_along_axis(after, at, -1)[..., 0], decoded)


def test_corners_are_counted_over_all_channels_inside_the_photo(exact: Segmenter) -> None:
    found = inspect_switches(exact, make_photo(40, 80))
    encoded = trace(exact, make_photo(40, 80), None, None).encoded[1].numpy()
    inside = cells(encoded)[:, 2:6]  # half as high as wide: rows 2 to 6 of 8
    filled = inside.max(-1) > 0
    want = {name: (inside.argmax(-1)[filled] == n).mean() for n, name in enumerate(CORNERS)}
    told = json.loads(json.dumps(found.numbers))["stages"][1]
    assert told["corners"] == pytest.approx(want) and told["empty"] == pytest.approx(1 - filled.mean())


def test_window_is_where_most_happens(exact: Segmenter) -> None:
    found = inspect_switches(exact, make_photo(64, 64))
    for number, stage in enumerate(found.numbers["stages"], 1):
        x0, y0, x1, y1 = stage["window"]
        assert x1 - x0 == y1 - y0 == min(8, stage["size"][0]) and x0 % 2 == y0 % 2 == 0
        assert x0 >= 0 and y0 >= 0 and max(x1, y1) <= stage["size"][0]
        both, n = found.pictures[f"pooled{number}"] * found.pictures[f"decoded{number}"], (x1 - x0) // 2
        places = itertools.product(range(len(both) - n + 1), repeat=2)
        sums = {(2 * x, 2 * y): both[y : y + n, x : x + n].sum() for x, y in places}
        assert sums[x0, y0] == pytest.approx(max(sums.values()))


def test_each_labelling_is_a_segmenters(tiny_network: Path, tiny_fcn: Path) -> None:
    options = OPTIONS | {"ensemble": "mean", "fcn": tiny_fcn}
    photo = make_photo(90, 140)
    found = inspect_proposals(Segmenter(tiny_network, **options), photo, 7)
    numbers = json.loads(json.dumps(found.numbers, allow_nan=False))
    assert None in [box["score"] for box in numbers["boxes"][1:]]  # around an object that the FCN sees
    assert list(found.labellings) == ["1 proposal", "5 proposals", "7 proposals", "after the CRF"]
    assert [step["proposals"] for step in numbers["steps"]] == [1, 5, 7] and numbers["proposals"] == 7
    for count, labelling in zip((1, 5, 7, 7), found.labellings.values(), strict=True):
        crf = labelling is found.labellings["after the CRF"]
        want = Segmenter(tiny_network, proposals=count, crf=crf, **options).segment(photo.image)
        assert np.array_equal(labelling.labels, want.labels)
        np.testing.assert_allclose([box["box"] for box in numbers["boxes"][: count + 1]], want.boxes)
    assert numbers["steps"][-1]["classes"] == found.labellings["7 proposals"].class_shares()
    assert numbers["crf"]["classes"] == found.labellings["after the CRF"].class_shares()


def test_what_each_box_changed(tiny_network: Path) -> None:
    photo = make_photo(90, 140)
    found = inspect_proposals(Segmenter(tiny_network, crf=False, **OPTIONS), photo, 3)
    labels = [np.zeros((90, 140), np.uint8)]
    for count in range(4):
        segmenter = Segmenter(tiny_network, proposals=count, crf=False, **OPTIONS)
        labels.append(segmenter.segment(photo.image).labels)
    want = [(a != b).mean() for a, b in itertools.pairwise(labels)]
    boxes = found.numbers["boxes"]
    assert [box["changed"] for box in boxes] == pytest.approx(want) and found.numbers["crf"] is None
    scores = [box["score"] for box in boxes]
    assert scores[0] is None and scores[1:] == sorted(scores[1:], reverse=True)
    large = inspect_proposals(
        Segmenter(tiny_network, crf=False, **OPTIONS), replace(photo, height=900, width=1400), 3
    )
    for one, other in zip(boxes, large.numbers["boxes"], strict=True):  # in pixels of the whole photo
        np.testing.assert_allclose(other["box"], 10 * np.array(one["box"]), rtol=1e-5)


def test_no_proposals_and_networks_without(tiny_network: Path, tiny_fcn: Path) -> None:
    tiny = inspect_proposals(Segmenter(tiny_network, crf=False), make_photo(10, 20))
    assert tiny.numbers["proposals"] == 0 and list(tiny.labellings) == ["no proposals"]
    assert len(tiny.numbers["boxes"]) == 1 and tiny.pictures["edges"].shape == (10, 20)
    with pytest.raises(UsageError, match=r"fcn\.safetensors: is an FCN"):
        inspect_proposals(Segmenter(tiny_fcn), make_photo(30, 30))


def test_whole_photo_is_the_square_around_it(exact: Segmenter) -> None:
    found = trace(exact, make_photo(60, 90), None, None)
    assert found.numbers == {"width": 90, "height": 60, "box": [0, -15, 90, 75], "class": None}
    assert found.crop.shape == (32, 32, 3)
    # a row of the crop is 90 / 32 of the photo's, so the photo is rows 15 * 32 / 90 = 5.3 to 26.7
    for cells, first, last in ((found.inside, 5, 27), (found.cells(8), 1, 7)):
        assert cells[first:last].all() and not cells[:first].any() and not cells[last:].any()
    assert not found.crop[:4].any() and not found.crop[28:].any() and found.crop[6:26].any()


def test_box_is_squared_and_counts_in_pixels_of_the_whole_photo(exact: Segmenter) -> None:
    photo = make_photo(60, 90)
    pixel_by_pixel = trace(exact, photo, (10, 20, 42, 52), None)
    assert np.array_equal(pixel_by_pixel.crop, photo.image[20:52, 10:42])
    assert trace(exact, photo, (20, 30, 40, 40), None).numbers["box"] == [20, 25, 40, 45]
    reduced = trace(exact, PhotoPixels(photo.image, 600, 900), (200, 300, 400, 400), None)
    assert reduced.numbers["box"] == pytest.approx([200, 250, 400, 450])
    for size in ((1, 1), (2, 700), (700, 2)):  # there is always something inside
        found = trace(exact, make_photo(*size), None, None)
        assert all(found.cells(n).any() for n in (32, 16, 1))


def test_boxes_that_show_nothing_are_refused(exact: Segmenter) -> None:
    boxes = "0,0,nan,10 0,0,inf,10 10,0,10,10 0,20,10,10 90,0,100,10 -20,0,0,10 0,0,1e9,10"
    for box in boxes.split():
        with pytest.raises(UsageError, match="of 90 x 60 pixels, or is over 2 times as long"):
            trace(exact, make_photo(60, 90), [*map(float, box.split(","))], None)


def test_classes_networks_and_precisions_that_cannot_be_are_refused(
    exact: Segmenter, tiny_network: Path, tiny_fcn: Path
) -> None:
    for segmenter, name, words in (
        (exact, "persn", "did you mean person"),
        (exact, "background", "no class of this network"),
        (Segmenter(tiny_fcn, precision="fp32"), None, r"fcn\.safetensors: is an FCN"),
        (Segmenter(tiny_network, precision="bf16"), None, "in fp32"),
    ):
        with pytest.raises(UsageError, match=words):
            trace(segmenter, make_photo(30, 30), None, name)

"""The decoder's maps: sizes, channels, and the labelling a Segmenter gives."""

import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.inspection.layers import inspect_layers
from deconvseg.inspection.region import deconvnet_of, look_at
from deconvseg.network.trace import trace
from deconvseg.segmenter import Segmenter

Make = Callable[[int, int], PhotoPixels]


def test_one_map_of_each_layer(exact: Segmenter, make_photo: Make) -> None:
    found = inspect_layers(exact, make_photo(60, 90))
    assert [layer.name for layer in found.layers[:4]] == ["fc6_deconv", "unpool5", "deconv5_1", "deconv5_2"]
    assert [layer.block for layer in found.layers] == [None] + [5] * 4 + [4] * 4 + [3] * 4 + [2] * 3 + [1] * 3
    assert [len(layer.map) for layer in found.layers] == [1] + [2] * 4 + [4] * 4 + [8] * 4 + [16] * 3 + [
        32
    ] * 3
    assert all(layer.map.dtype == np.float32 and layer.map.min() >= 0 for layer in found.layers)
    for one, other in pairwise(found.layers):
        assert one.map.shape != other.map.shape or not np.array_equal(one.map, other.map)
    # an unpooling moves the values of the layer before it, and adds none
    pairs = [
        (before, after)
        for before, after in pairwise(found.layers)
        if after.name.startswith("unpool") and after.channel == before.channel
    ]
    assert len(pairs) >= 3
    for before, after in pairs:
        assert sorted(after.map[after.map > 0]) == sorted(before.map[before.map > 0])


def test_most_active_is_the_largest_mean_inside_the_photo(exact: Segmenter, make_photo: Make) -> None:
    photo = make_photo(30, 90)
    maps = trace(deconvnet_of(exact), look_at(exact, photo).inputs).decoded
    layer = next(one for one in inspect_layers(exact, photo).layers if one.name == "deconv3_2")
    # the photo's 30 rows of 90 are cells 2.67 to 5.33 of 8
    means = maps["deconv3_2"][0, :, 2:6].mean((1, 2)).detach().numpy()
    assert layer.channel == means.argmax()
    np.testing.assert_array_equal(layer.map, maps["deconv3_2"][0, layer.channel].detach())
    assert layer.active == (layer.map > 0).mean()
    assert layer.active_of_all == pytest.approx((maps["deconv3_2"] > 0).float().mean().item())


def test_class_picks_the_channel_whose_loss_would_cost_it_most(exact: Segmenter, make_photo: Make) -> None:
    """Behind the last layer only a 1x1 convolution follows, so that a map's part in the score is exact."""
    photo = make_photo(32, 32)
    network = deconvnet_of(exact)
    found = trace(network, look_at(exact, photo).inputs)
    last = found.decoded["deconv1_2"][0].detach()
    picked = set()
    for label, name in enumerate(exact.classes[1:6], 1):
        share = found.scores.detach().softmax(0)[label]
        parts = network.seg_score.weight.detach()[label, :, 0, 0] * (last * share).sum((1, 2))
        layers = inspect_layers(exact, photo, class_name=name)
        assert layers.layers[-1].channel == int(parts.argmax())
        assert layers.class_name == layers.asked == name
        np.testing.assert_allclose(layers.score, found.scores[label].detach(), atol=1e-6)
        picked.add(tuple(layer.channel for layer in layers.layers))
    assert len(picked) > 1


def test_labelling_is_the_segmenters(exact: Segmenter, make_photo: Make) -> None:
    photo = make_photo(32, 32)
    found = inspect_layers(exact, photo)
    want = exact.segment(photo.image)
    assert np.array_equal(found.labelling.labels, want.labels)
    assert found.labelling.class_shares() == want.class_shares()
    largest = [name for name in want.class_shares() if name != "background"]
    assert found.class_name == largest[0] and found.asked is None


def test_labelling_leaves_out_what_is_not_photo(exact: Segmenter, make_photo: Make) -> None:
    found = inspect_layers(exact, make_photo(60, 90))
    assert found.labelling.labels.shape == (22, 32)
    assert sum(found.labelling.class_shares().values()) == pytest.approx(1)


def test_numbers_are_json_and_those_of_the_maps(exact: Segmenter, make_photo: Make) -> None:
    found = inspect_layers(exact, make_photo(60, 90), (10, 10, 50, 40), "cat")
    numbers = json.loads(json.dumps(found.numbers()))
    assert numbers["box"] == [10, 5, 50, 45] and numbers["class"] == "cat"
    assert len(numbers["layers"]) == len(found.layers)
    for told, layer in zip(numbers["layers"], found.layers, strict=True):
        assert told["size"] == list(layer.map.shape)
        assert told["max"] == layer.map.max() and told["mean"] == pytest.approx(float(layer.map.mean()))
        assert 0 <= told["active"] <= 1 and 0 <= told["active_of_all"] <= 1
        assert 0 <= told["channel"] < told["channels"]
    assert numbers["score"]["class"] == "cat" and numbers["score"]["size"] == [32, 32]
    assert numbers["classes"] == found.labelling.class_shares()


def test_unknown_class_is_told_with_the_nearest(exact: Segmenter, make_photo: Make) -> None:
    with pytest.raises(UsageError, match="did you mean person"):
        inspect_layers(exact, make_photo(30, 30), class_name="persn")
    with pytest.raises(UsageError, match="no class of this network"):
        inspect_layers(exact, make_photo(30, 30), class_name="background")


def test_looking_changes_nothing(exact: Segmenter, make_photo: Make) -> None:
    photo = make_photo(40, 40)
    before = exact.segment(photo.image).labels
    first = inspect_layers(exact, photo, class_name="dog")
    again = inspect_layers(exact, photo, class_name="dog")
    for one, other in zip(first.layers, again.layers, strict=True):
        assert np.array_equal(one.map, other.map)
    assert np.array_equal(before, exact.segment(photo.image).labels)

"""Poolings and unpoolings take the same corners."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from deconvseg.images.read import PhotoPixels
from deconvseg.inspection.layers import inspect_layers
from deconvseg.inspection.region import deconvnet_of, look_at
from deconvseg.inspection.switches import CORNERS, inspect_switches
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.trace import trace
from deconvseg.segmenter import Segmenter

Make = Callable[[int, int], PhotoPixels]


def cells(large: np.ndarray) -> np.ndarray:
    """(..., 2h, 2w) as (..., h, w, 4), the pixels of a cell in the order of CORNERS."""
    rows, columns = large.shape[-2] // 2, large.shape[-1] // 2
    split = large.reshape(*large.shape[:-2], rows, 2, columns, 2)
    return np.moveaxis(split, -3, -2).reshape(*large.shape[:-2], rows, columns, 4)


@pytest.mark.parametrize("class_name", [None, "cat"])
def test_values_go_back_where_maxima_were_taken(
    exact: Segmenter, make_photo: Make, class_name: str | None
) -> None:
    found = inspect_switches(exact, make_photo(60, 90), class_name=class_name)
    assert [stage.number for stage in found.stages] == [1, 2, 3, 4, 5]
    assert [len(stage.encoded) for stage in found.stages] == [32, 16, 8, 4, 2]
    for stage in found.stages:
        before = cells(stage.encoded)
        assert np.array_equal(stage.pooled, before.max(-1))
        assert np.array_equal(stage.corners, before.argmax(-1))
        assert stage.unpooled is not None and stage.decoded is not None
        after = cells(stage.unpooled)
        at = stage.corners[..., None].astype(int)
        # not zero exactly where the switch points and there is something to put back
        assert np.array_equal(after != 0, (np.arange(4) == at) & (stage.decoded[..., None] > 0))
        assert np.array_equal(np.take_along_axis(after, at, -1)[..., 0], stage.decoded)


def test_shares_are_counted_over_all_channels_inside_the_photo(exact: Segmenter, make_photo: Make) -> None:
    photo = make_photo(40, 80)
    encoded = trace(deconvnet_of(exact), look_at(exact, photo).inputs).encoded
    stage = inspect_switches(exact, photo).stages[1]
    inside = cells(encoded[1].numpy())[:, 2:6]  # half as high as wide: rows 2 to 6 of 8
    filled = inside.max(-1) > 0
    want = [(inside.argmax(-1)[filled] == corner).mean() for corner in range(4)]
    assert stage.shares == pytest.approx(want)
    assert stage.empty == pytest.approx(1 - filled.mean())


def test_window_is_where_most_happens(exact: Segmenter, make_photo: Make) -> None:
    for stage in inspect_switches(exact, make_photo(64, 64)).stages:
        x0, y0, x1, y1 = stage.window
        side = min(8, len(stage.encoded))
        assert x1 - x0 == y1 - y0 == side and x0 % 2 == y0 % 2 == 0
        assert x0 >= 0 and y0 >= 0 and max(x1, y1) <= len(stage.encoded)
        assert stage.decoded is not None
        both, n = stage.pooled * stage.decoded, side // 2
        sums = {
            (2 * x, 2 * y): both[y : y + n, x : x + n].sum()
            for y in range(len(both) - n + 1)
            for x in range(len(both) - n + 1)
        }
        assert sums[x0, y0] == pytest.approx(max(sums.values()))


def test_a_decoder_that_ends_early_leaves_poolings_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, make_photo: Make
) -> None:
    network = DeconvNet(classes=2, crop_size=32, widths=(4,) * 5, decoder_convs=(1, 1), bottleneck=4)
    path = tmp_path_factory.mktemp("short") / "short.safetensors"
    save_network(path, network, NetworkHeader(("background", "thing"), ((0, 0, 0), (9, 9, 9))))
    found = inspect_switches(Segmenter(path, proposals=0, precision="fp32"), make_photo(32, 32))
    assert [stage.unpooled is not None for stage in found.stages] == [False, False, False, True, True]
    assert [stage.decoded is not None for stage in found.stages] == [False, False, False, True, True]
    assert all(np.array_equal(stage.pooled, cells(stage.encoded).max(-1)) for stage in found.stages)


def test_channels_of_a_class_are_those_of_the_layers(exact: Segmenter, make_photo: Make) -> None:
    photo = make_photo(50, 40)
    layers = {layer.name: layer for layer in inspect_layers(exact, photo, class_name="cow").layers}
    for stage in inspect_switches(exact, photo, class_name="cow").stages:
        layer = layers[f"unpool{stage.number}"]
        assert stage.channel == layer.channel
        assert stage.unpooled is not None and np.array_equal(stage.unpooled, layer.map)


def test_numbers_are_json(exact: Segmenter, make_photo: Make) -> None:
    numbers = json.loads(json.dumps(inspect_switches(exact, make_photo(60, 90)).numbers()))
    assert numbers["class"] is None and len(numbers["stages"]) == 5
    for stage in numbers["stages"]:
        assert [name.replace("_", " ") for name in stage["corners"]] == list(CORNERS)
        assert sum(stage["corners"].values()) == pytest.approx(1)
        assert stage["size"] == [2 * side for side in stage["pooled_size"]]

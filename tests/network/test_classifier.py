"""The image classifier: its scores and its map survive 8 bits, and features are pooled rightly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.checkpoint import NetworkHeader, load_network, save_network
from deconvseg.network.classifier import Classifier

from .networks import randomised


def tiny(map_width: int | None = None) -> Classifier:
    network = randomised(Classifier(21, side=64, widths=(8,) * 5, hidden=16, map_width=map_width))
    assert isinstance(network, Classifier)
    return network


@pytest.mark.parametrize("map_width", [None, 12])
def test_saved_in_8_bits_it_says_the_same(tmp_path: Path, map_width: int | None) -> None:
    network, images = tiny(map_width), torch.rand(3, 3, 64, 64)
    save_network(tmp_path / "c.safetensors", network, NetworkHeader(VOC_CLASSES, palette_for(21)), "int8")
    loaded, _ = load_network(tmp_path / "c.safetensors")
    assert isinstance(loaded, Classifier)
    with torch.no_grad():
        scores, places = network.scores_and_map(images)
        found, found_places = loaded.scores_and_map(images)
        torch.testing.assert_close(network(images), scores)
    assert scores.shape == (3, 21, 1, 1)
    torch.testing.assert_close(found, scores, atol=0.05 * float(scores.abs().max()), rtol=0)
    if places is None:
        assert found_places is None and not map_width
    else:
        assert places.shape == (3, 21, 4, 4)
        torch.testing.assert_close(found_places, places, atol=0.05 * float(places.abs().max()), rtol=0)


def test_what_is_pooled_are_means_maxima_and_the_best_quarter() -> None:
    cells = torch.tensor([[0.0, 4, 0, 0], [0, 0, 0, 0], [2, 2, 0, 0], [2, 2, 0, 0]])
    features = cells.repeat_interleave(2, 0).repeat_interleave(2, 1).expand(1, 3, 8, 8)
    assert tiny().pooled(features).flatten().tolist() == [0.75] * 3 + [4] * 3 + [2] * 3

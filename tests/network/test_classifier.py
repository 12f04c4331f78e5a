"""The image classifier: its scores survive 8 bits, and features are pooled rightly."""

from __future__ import annotations

from pathlib import Path

import torch

from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.checkpoint import NetworkHeader, load_network, save_network
from deconvseg.network.classifier import Classifier

from .networks import randomised


def test_saved_in_8_bits_it_scores_the_same(tmp_path: Path) -> None:
    network, images = (
        randomised(Classifier(21, side=64, widths=(8,) * 5, hidden=16)),
        torch.rand(3, 3, 64, 64),
    )
    save_network(tmp_path / "c.safetensors", network, NetworkHeader(VOC_CLASSES, palette_for(21)), "int8")
    loaded, _ = load_network(tmp_path / "c.safetensors")
    with torch.no_grad():
        before = network(images)
        assert before.shape == (3, 21, 1, 1)
        torch.testing.assert_close(loaded(images), before, atol=0.02 * float(before.abs().max()), rtol=0.02)


def test_features_are_means_maxima_and_the_best_quarter() -> None:
    network = Classifier(21, side=64, widths=(8,) * 5, hidden=16)
    network.encoder = torch.nn.ModuleList(torch.nn.Identity() for _ in range(5))
    cells = torch.tensor([[0.0, 4, 0, 0], [0, 0, 0, 0], [2, 2, 0, 0], [2, 2, 0, 0]])
    photo = cells.repeat_interleave(32, 0).repeat_interleave(32, 1).expand(1, 3, 128, 128)
    assert network.features(photo).flatten().tolist() == [0.75] * 3 + [4] * 3 + [2] * 3

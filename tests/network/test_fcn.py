"""The FCN with a prior: photos of any size, features pooled rightly, and 8 bits that say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.checkpoint import NetworkHeader, load_network, save_network
from deconvseg.network.fcn import FCN

from .networks import randomised


@pytest.fixture(scope="module")
def network() -> FCN:
    return randomised(FCN(21, side=64, widths=(8,) * 5, hidden=16, width=12, skip=4))


@torch.no_grad()
def test_saved_in_8_bits_it_says_the_same(network: FCN, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 40, 70)
    save_network(tmp_path / "c.safetensors", network, NetworkHeader(VOC_CLASSES, palette_for(21)), "int8")
    loaded, _ = load_network(tmp_path / "c.safetensors")
    assert isinstance(loaded, FCN)
    scores, presence = network.scores_and_presence(images)
    assert scores.shape == (3, 21, 40, 70) and presence.shape == (3, 21)
    for found, want in zip(loaded.scores_and_presence(images), (scores, presence), strict=True):
        torch.testing.assert_close(found, want, atol=0.05 * float(want.abs().max()), rtol=0)
    assert torch.equal(network(images), scores)


@torch.no_grad()
def test_what_is_no_whole_cell_is_padded_as_the_mean_colour(network: FCN) -> None:
    images = torch.rand(1, 3, 33, 64)
    padded = functional.pad(images, (0, 0, 0, 31))
    scores, presence = network.scores_and_presence(images)
    want, same = network.scores_and_presence(padded)
    assert torch.equal(scores, want[:, :, :33]) and torch.equal(presence, same)


@pytest.mark.parametrize("cells", [(4, 4), (3, 5), (1, 1)])
def test_what_is_pooled_are_means_maxima_and_the_best_quarter(network: FCN, cells: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pool5 = torch.rand(2, 8, *cells)
    features = pool5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    means, most, best = network.pooled(features).split(8, 1)
    halves = functional.adaptive_avg_pool2d(pool5, 2)
    torch.testing.assert_close(means, halves.mean((2, 3), keepdim=True))
    torch.testing.assert_close(best, halves.amax((2, 3), keepdim=True))
    torch.testing.assert_close(most, pool5.amax((2, 3), keepdim=True))

"""The FCN with a prior: photos of any size, features pooled rightly."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from deconvseg.network.fcn import FCN

from .networks import fcn, randomised


@pytest.fixture(scope="module")
def network() -> FCN:
    return randomised(fcn())


@torch.no_grad()
def test_what_is_no_whole_cell_is_padded_as_the_mean_colour(network: FCN) -> None:
    images = torch.rand(2, 3, 33, 64)
    padded = functional.pad(images, (0, 0, 0, 31))
    scores, presence = network.scores_and_presence(images)
    assert scores.shape == (2, 3, 33, 64) and presence.shape == (2, 3)
    assert torch.equal(network(images), scores)
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

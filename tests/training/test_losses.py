"""What crops cost."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from deconvseg.network.base import SegmentationNetwork
from deconvseg.training.losses import Losses, lovasz_softmax
from deconvseg.training.recipe import Recipe

from .conftest import RECIPE, small_network


def test_lovasz_softmax_of_certain_pixels_is_what_the_iou_lacks() -> None:
    labels, found = torch.tensor([0, 0, 0, 1, 1, 2, 255]), torch.tensor([0, 0, 1, 1, 2, 2, 3])
    certain = functional.one_hot(found, 4).T.float()
    ious = torch.tensor([2 / 3, 1 / 3, 1 / 2])
    assert lovasz_softmax(certain, labels).item() == pytest.approx(1 - ious.mean().item())
    right = functional.one_hot(labels.clamp_max(3), 4).T.float()
    assert lovasz_softmax(right, labels).item() == 0


def test_a_recipe_weighs_what_the_iou_of_each_crop_lacks() -> None:
    class Known(nn.Module):
        def scores_and_code(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images

    scores = torch.zeros(3, 2, 2, 2)
    scores[:, 1] = 50  # all is found to be the second class
    labels = torch.tensor([[[1, 1], [1, 1]], [[1, 1], [1, 0]], [[255, 255], [255, 255]]])
    own = torch.ones(3, 2, 2)
    network = cast(SegmentationNetwork, Known())
    plain, with_iou = (
        Losses(network, nn.Linear(1, 1), Recipe(presence_weight=0, lovasz_weight=weight))(
            scores, labels, own, None
        )
        for weight in (0.0, 3.0)
    )
    lacking = (1 + 1 / 4) / 2  # of the second crop: its first class is missed, its second too large
    assert (with_iou - plain).tolist() == pytest.approx([3 * lacking * 4, 0, 0])


def test_losses_by_hand() -> None:
    """Soft labels count only where the labels are the photo's own."""
    torch.manual_seed(0)
    recipe = replace(RECIPE, presence_weight=0.0)
    network = small_network(recipe).eval()
    losses = Losses(network, torch.nn.Linear(8, 2), recipe)
    inputs, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
    labels[:, :5] = 255
    own = labels != 255
    own[1, 20:] = False
    soft = torch.rand(2, 3, 32, 32).softmax(1)
    sums = losses(inputs, labels, own, soft)
    scores = network(inputs)
    hard = functional.cross_entropy(scores, labels, ignore_index=255, reduction="sum")
    each = functional.cross_entropy(scores, soft, reduction="none")
    torch.testing.assert_close(sums[0], hard)
    torch.testing.assert_close(sums[2], each[own].sum())
    assert sums[1] == 0

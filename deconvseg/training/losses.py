"""What crops cost: cross-entropy of masks and of soft labels, and the question which classes are there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.data.masks import VOID
from deconvseg.network.base import SegmentationNetwork
from deconvseg.training.recipe import Recipe

PRESENT_SHARE = 0.005
"""A class counts as present in a crop from this share of its pixels on."""


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's arithmetic."""
    dtype = torch.float16 if recipe.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=recipe.precision != "fp32")


class Losses(nn.Module):
    """A network with what its scores cost; one module, so that `DistributedDataParallel` can hold it.

    `presence` asks fc7's output which classes are in the crop, if the recipe weighs the answer.
    """

    def __init__(self, network: SegmentationNetwork, presence: nn.Linear, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.presence, self.recipe = network, presence, recipe
        presence.requires_grad_(recipe.presence_weight > 0)

    def forward(
        self, inputs: Tensor, labels: Tensor, own: Tensor, weights: Tensor, soft: Tensor | None
    ) -> Tensor:
        """Weighted sums over crops (3,): cross-entropy of labels, presence, cross-entropy of soft labels.

        Inputs are normalised crops, soft labels float32 (B, C, S, S), the rest is as in `sampler.Batch`.
        """
        scores, code = self.network.scores_and_code(inputs)
        scores = scores.float()
        hard = functional.cross_entropy(scores, labels, ignore_index=VOID, reduction="none")
        present = soft_sum = hard.new_zeros(len(labels))
        if self.recipe.presence_weight:
            flat = labels.flatten(1)
            share = torch.zeros(len(labels), 256, device=labels.device)
            share.scatter_add_(1, flat, torch.full(flat.shape, 1 / flat.shape[1], device=labels.device))
            target = (share[:, 1 : self.presence.out_features + 1] >= PRESENT_SHARE).float()
            with torch.autocast(inputs.device.type, enabled=False):
                guess = self.presence(code.float().mean((2, 3)))
                present = functional.binary_cross_entropy_with_logits(guess, target, reduction="none").sum(1)
        if soft is not None:
            temperature = self.recipe.temperature
            each = -(soft * (scores / temperature).log_softmax(1)).sum(1)
            soft_sum = temperature**2 * (each * own).sum((1, 2))
        of_masks, of_scores = weights.T
        sums = (hard.sum((1, 2)) * of_masks, present * of_masks, soft_sum * of_scores)
        return torch.stack([values.sum() for values in sums])

"""What crops cost: by their masks, by soft labels, and by which classes are there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.data.masks import VOID
from deconvseg.network.base import SegmentationNetwork
from deconvseg.training.recipe import Recipe

PRESENT_SHARE = 0.005  # of a crop's pixels, from which on a class counts as present


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's arithmetic."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


class Losses(nn.Module):
    """A network with what its scores cost; one module, so that `DistributedDataParallel` can hold it.

    `presence` asks fc7's output which classes are in the crop, if the recipe weighs the answer.
    """

    def __init__(self, network: SegmentationNetwork, presence: nn.Linear, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.presence, self.recipe = network, presence, recipe
        presence.requires_grad_(recipe.presence_weight > 0)

    def forward(self, inputs: Tensor, labels: Tensor, own: Tensor, soft: Tensor | None) -> Tensor:
        """Sums over crops (3,): the cost of labels, presence, cross-entropy of soft labels.

        Inputs are normalised crops, soft labels float32 (B, C, S, S), the rest is as in `sampler.Batch`.
        """
        scores, code = self.network.scores_and_code(inputs)
        scores = scores.float()
        hard = functional.cross_entropy(scores, labels, ignore_index=VOID, reduction="none").sum((1, 2))
        if self.recipe.lovasz_weight:
            each = zip(scores.softmax(1).flatten(2), labels.flatten(1), strict=True)
            overlap = torch.stack([lovasz_softmax(*crop) for crop in each])
            hard = hard + self.recipe.lovasz_weight * overlap * (labels != VOID).sum((1, 2))
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
            entropy = -(soft * scores.log_softmax(1)).sum(1)
            soft_sum = (entropy * own).sum((1, 2))
        return torch.stack([values.sum() for values in (hard, present, soft_sum)])


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """One minus the IoU as a function of probabilities (C, N) of N pixels, the mean over the classes of their
    labels, int64 (N,). Void ones do not count; 0 if all are.

    Where the probabilities are 0 and 1 it is exact, in between the Lovasz extension of it (Berman, Triki,
    Blaschko 2018, arXiv 1705.08790).
    """
    known = labels != VOID
    probabilities, labels = probabilities[:, known], labels[known]
    losses = [probabilities.new_zeros(())]
    classes = torch.unique(labels).tolist()
    for label in classes:
        own = (labels == label).float()
        errors, order = (own - probabilities[label]).abs().sort(descending=True)
        own = own[order]
        # One minus the IoU if the pixels up to this one, those with the largest errors, are wrong.
        lost = 1 - (own.sum() - own.cumsum(0)) / (own.sum() + (1 - own).cumsum(0))
        losses.append((errors * lost.diff(prepend=lost.new_zeros(1))).sum())
    return torch.stack(losses).sum() / max(len(classes), 1)

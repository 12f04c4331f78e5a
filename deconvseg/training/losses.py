"""What a batch of crops costs: the losses of a part of it, and the gradients of the whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.data.masks import VOID
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.training import distributed
from deconvseg.training.recipe import Recipe
from deconvseg.training.sampler import Batch
from deconvseg.training.scores import SoftLabels

PRESENT_SHARE = 0.005
"""A class counts as present in a crop from this share of its pixels on."""


def normalise(crops: Tensor, header: NetworkHeader) -> Tensor:
    """Crops (B, 3, S, S) of 0..255 RGB as the network expects them, channels last."""
    mean = torch.tensor(header.mean).view(1, 3, 1, 1).to(crops.device, non_blocking=True)
    return ((crops - mean) * header.scale).contiguous(memory_format=torch.channels_last)


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """The recipe's arithmetic."""
    if recipe.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if recipe.precision == "bf16" else torch.float16)


def backward(
    crop_losses: Callable[..., Tensor],
    network: SegmentationNetwork,
    presence: nn.Linear,
    batch: Batch,
    scores: SoftLabels | None,
    header: NetworkHeader,
    recipe: Recipe,
    scaler: torch.amp.GradScaler,
) -> Tensor:
    """Gradients of this process's crops, part by part; its share of the whole batch's loss.

    `crop_losses` is `sum_losses`, perhaps compiled; `scores` are soft labels to learn from besides.
    """
    # Means are over the whole batch, wherever its crops are computed; it may be void all over.
    counted = distributed.total((batch.labels != VOID).sum()).clamp_min(1)
    inputs = normalise(batch.crops, header)
    loss = torch.zeros((), device=inputs.device)
    size = len(inputs) // recipe.accumulate
    for start in range(0, len(inputs), size):
        part = slice(start, start + size)
        soft = None
        if scores is not None and recipe.label == "all":
            soft = scores.cut(batch.photo[part], batch.boxes[part], batch.mirror[part], recipe.crop_size)
        with autocast(recipe, inputs.device):
            sums = crop_losses(
                network, presence, inputs[part], batch.labels[part], soft, recipe.presence_weight
            )
        pixels, classes = counted.float(), recipe.batch_size * presence.out_features
        share = (sums[0] + recipe.scores_weight * sums[2]) / pixels
        share = share + recipe.presence_weight * sums[1] / classes
        scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        loss += share.detach()
    return loss


def sum_losses(
    network: SegmentationNetwork,
    presence: nn.Linear,
    inputs: Tensor,
    labels: Tensor,
    soft: Tensor | None,
    presence_weight: float,
) -> Tensor:
    """Sums over crops (3,): of the pixels' cross-entropy, of the presence loss, and against soft labels."""
    scores, code = network.scores_and_code(inputs)
    scores = scores.float()
    hard = functional.cross_entropy(scores, labels, ignore_index=VOID, reduction="sum")
    zero = hard.new_zeros(())
    present = zero
    if presence_weight:
        flat = labels.flatten(1)
        share = torch.zeros(len(labels), 256, device=labels.device)
        share.scatter_add_(1, flat, torch.full(flat.shape, 1 / flat.shape[1], device=labels.device))
        target = (share[:, 1 : presence.out_features + 1] >= PRESENT_SHARE).float()
        with torch.autocast(inputs.device.type, enabled=False):
            guess = presence(code.float().mean((2, 3)))
            present = functional.binary_cross_entropy_with_logits(guess, target, reduction="sum")
    softly = zero
    if soft is not None:
        softly = -(soft * scores.log_softmax(1)).sum(1)[labels != VOID].sum()
    return torch.stack([hard, present, softly])

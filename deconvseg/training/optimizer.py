"""The optimizer of a run, its learning rate at each step, and the moving average of the network."""

from __future__ import annotations

import math

import torch
from torch import nn

from deconvseg.network.base import SegmentationNetwork
from deconvseg.training.recipe import Recipe


def build_optimizer(
    network: SegmentationNetwork, presence: nn.Module, recipe: Recipe
) -> torch.optim.Optimizer:
    """The recipe's optimizer; each group's `pretrained` and `rate` set its learning rate."""
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for prefix, root in (("", network), ("presence.", presence)):
        for path, module in root.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                is_norm = isinstance(module, nn.BatchNorm2d)
                decays = parameter.ndim > 1 or (is_norm and recipe.decay_norms)
                key = ((prefix + path).startswith("encoder."), decays, name == "bias" and not is_norm)
                groups.setdefault(key, []).append(parameter)
    table = [
        {
            "params": parameters,
            "pretrained": pretrained,
            "rate": recipe.bias_rate if is_bias else 1.0,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (pretrained, decays, is_bias), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(table, lr=recipe.learning_rate, momentum=recipe.momentum)
    return torch.optim.AdamW(table, lr=recipe.learning_rate)


def schedule(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then the recipe's way down."""
    warmup = min(recipe.warmup_steps, recipe.steps // 4)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "step":
        return float(recipe.step_factor ** (step // recipe.step_size))
    progress = min((step - warmup) / max(recipe.steps - warmup, 1), 1.0)
    if recipe.schedule == "poly":
        return float((1 - progress) ** 0.9)
    return 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged network towards the trained one, BatchNorm statistics included."""
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)

"""The training loop: one step, one validation, and a run that can be stopped and taken up again."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.data.crops import ImageStore, cut_crops
from deconvseg.data.voc import VOID
from deconvseg.errors import DeconvSegError
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.training.recipe import Recipe
from deconvseg.training.stages import CropSampler

CHECKPOINT_SECONDS = 300
VALIDATE_EVERY = 250
PRESENT_SHARE = 0.005
"""A class counts as present in a crop from this share of its pixels on."""

Report = Callable[[dict[str, float]], None]


def train(
    network: DeconvNet,
    header: NetworkHeader,
    recipe: Recipe,
    store: ImageStore,
    validation: ImageStore,
    run: Path,
    *,
    device: torch.device,
    resume: bool = False,
    limit_steps: int | None = None,
    report: Report = lambda _: None,
) -> None:
    """Train a network and leave `last.safetensors`, `best.safetensors` and `metrics.jsonl` in the run folder.

    Args:
        network: start of the run, initialised.
        header: classes, palette and preprocessing, written into the files.
        recipe: all hyper-parameters.
        store, validation: photos and masks.
        run: folder, exists.
        device: where to train.
        resume: go on from the folder's `state.pt`.
        limit_steps: stop (with a checkpoint) after this many steps of this call.
        report: called with the figures of every tenth step and every validation.

    Raises:
        DeconvSegError: the loss is no longer a number; the last checkpoint is kept.
    """
    network.to(device)
    network.to(memory_format=torch.channels_last)
    for parameter in network.encoder[: recipe.frozen_blocks].parameters():
        parameter.requires_grad_(False)
    network.train()
    network.encoder[: recipe.frozen_blocks].eval()  # BatchNorm statistics are frozen as well
    presence = nn.Linear(network.arguments["bottleneck"], len(header.classes) - 1).to(device)
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimizer = _optimizer(network, presence, recipe)
    sampler = CropSampler(store, recipe, device)

    modules: dict[str, Any] = {
        "network": network,
        "presence": presence,
        "averaged": averaged,
        "optimizer": optimizer,
    }
    step, best = 0, -1.0
    if resume:
        state = torch.load(run / "state.pt", map_location=device, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        step, best = state["step"], state["best"]
    stop = min(recipe.steps, step + (limit_steps or recipe.steps))

    def checkpoint() -> None:
        state = {name: module.state_dict() for name, module in modules.items()} | {"step": step, "best": best}
        torch.save(state, run / "state.pt.tmp")
        (run / "state.pt.tmp").replace(run / "state.pt")

    started = saved = time.monotonic()
    losses: list[float] = []
    first = step
    while step < stop:
        for group in optimizer.param_groups:
            peak = recipe.encoder_learning_rate if group["pretrained"] else recipe.learning_rate
            group["lr"] = peak * schedule(step, recipe)
        crops, labels = sampler.batch(step)
        loss = _loss(network, presence, normalise(crops, header), labels, recipe)
        if not torch.isfinite(loss):
            raise DeconvSegError(
                f"{run}: the loss is not a number at step {step}; the last checkpoint is kept. "
                "Lower learning_rate or use --precision fp32"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        # Early on the average follows closely, so that it forgets the random start.
        update_average(averaged, network, min(recipe.ema, step / (step + 10)))
        losses.append(loss.item())

        if step % 10 == 0:
            rate = (step - first) * recipe.batch_size / (time.monotonic() - started)
            report({"step": step, "loss": sum(losses) / len(losses), "crops_per_second": round(rate, 2)})
            losses.clear()
        if step % VALIDATE_EVERY == 0 or step == stop:
            iou = whole_image_iou(averaged, header, validation, recipe)
            figures = {"step": step, "crops": step * recipe.batch_size, "val_whole_image_miou": round(iou, 4)}
            with (run / "metrics.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(figures | {"seconds": round(time.monotonic() - started)}) + "\n")
            report(figures)
            shipped = replace(header, training={**header.training, **figures, "recipe": asdict(recipe)})
            save_network(run / "last.safetensors", averaged, shipped)
            if iou > best:
                best = iou
                save_network(run / "best.safetensors", averaged, shipped)
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step == stop:
            checkpoint()
            saved = time.monotonic()


def normalise(crops: Tensor, header: NetworkHeader) -> Tensor:
    """Crops (B, 3, S, S) of 0..255 RGB as the network expects them, channels last."""
    mean = torch.tensor(header.mean, device=crops.device).view(1, 3, 1, 1)
    return ((crops - mean) * header.scale).contiguous(memory_format=torch.channels_last)


def schedule(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(recipe.steps - recipe.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged network towards the trained one, BatchNorm statistics included."""
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


@torch.no_grad()
def whole_image_iou(
    network: DeconvNet, header: NetworkHeader, store: ImageStore, recipe: Recipe, batch: int = 32
) -> float:
    """Mean IoU of the whole photo as a single crop, at the crop's resolution: a fast figure to steer by.

    It is neither at the photos' own size nor with proposals; `deconvseg eval` gives the figures that count.
    """
    network.eval()
    device = next(network.parameters()).device
    classes = len(header.classes)
    confusion = torch.zeros(classes * classes, dtype=torch.int64)
    for start in range(0, len(store), batch):
        index = torch.arange(start, min(start + batch, len(store)))
        extent = store.sizes[index].flip(1).float()
        half = extent.amax(1, keepdim=True) / 2
        boxes = torch.cat([extent / 2 - half, extent / 2 + half], 1)
        crops, truth = cut_crops(
            store, index, boxes, torch.zeros(len(index), dtype=torch.bool), network.crop_size
        )
        with autocast(recipe, device):
            scores = network(normalise(crops.to(device), header))
        found = scores.argmax(1).cpu()
        valid = truth != VOID
        confusion += torch.bincount(truth[valid] * classes + found[valid], minlength=classes * classes)
    network.train()
    matrix = confusion.reshape(classes, classes).double()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diag()
    return float((matrix.diag() / union)[union > 0].mean())


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """The recipe's arithmetic."""
    if recipe.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _loss(network: DeconvNet, presence: nn.Linear, crops: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    with autocast(recipe, crops.device):
        code, switches = network.encode(crops)
        scores = network.decode(code, switches)
    summed = functional.cross_entropy(scores.float(), labels, ignore_index=VOID, reduction="sum")
    per_pixel = summed / (labels != VOID).sum().clamp_min(1)  # a batch may be void all over
    if recipe.presence_weight == 0:
        return per_pixel
    flat = labels.flatten(1)
    share = torch.zeros(len(labels), 256, device=labels.device)
    share.scatter_add_(1, flat, torch.full(flat.shape, 1 / flat.shape[1], device=labels.device))
    target = (share[:, 1 : presence.out_features + 1] >= PRESENT_SHARE).float()
    guess = presence(code.flatten(1).float())
    return per_pixel + recipe.presence_weight * functional.binary_cross_entropy_with_logits(guess, target)


def _optimizer(network: DeconvNet, presence: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in [*network.named_parameters(), *presence.named_parameters()]:
        if parameter.requires_grad:
            groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "pretrained": pretrained,
                "weight_decay": recipe.weight_decay if kernel else 0.0,
            }
            for (pretrained, kernel), parameters in groups.items()
        ],
        lr=recipe.learning_rate,
    )

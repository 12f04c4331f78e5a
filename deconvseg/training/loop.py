"""The training loop: one step, one validation, and a run that can be stopped anywhere and taken up again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.data.crops import ImageStore, cut_crops
from deconvseg.data.masks import VOID
from deconvseg.data.proposals import ProposalFile
from deconvseg.errors import DeconvSegError
from deconvseg.memory import is_out_of_memory
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.training import distributed
from deconvseg.training.files import append_metrics, load_state, rewind_metrics, save_state
from deconvseg.training.recipe import Recipe
from deconvseg.training.run_folder import STATE
from deconvseg.training.scores import SoftLabels
from deconvseg.training.stages import Batch, CropSampler

REPORT_EVERY = 10
"""Steps between two lines of figures."""
PRESENT_SHARE = 0.005
"""A class counts as present in a crop from this share of its pixels on."""

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainingData:
    """What is trained and validated on, in memory.

    Attributes:
        store: photos and masks to learn from.
        names: the names of its photos.
        validation: photos and masks to validate on.
        proposals: boxes of the photos to learn from, for recipes that draw proposals.
        scores: soft labels of the photos to learn from.
    """

    store: ImageStore
    names: Sequence[str]
    validation: ImageStore
    proposals: ProposalFile | None = None
    scores: SoftLabels | None = None


def train(
    network: SegmentationNetwork,
    header: NetworkHeader,
    recipe: Recipe,
    data: TrainingData,
    run: Path,
    *,
    device: torch.device,
    resume: bool = False,
    limit_steps: int | None = None,
    report: Report = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Train a network and leave `last.safetensors`, `best.safetensors` and `metrics.jsonl` in the run folder.

    Every crop, and every random number in it, follows from the recipe's seed and the number of the step, so
    a run that was stopped or killed at any moment and taken up again ends with the same network; on a
    processor, with the same number of threads, bit by bit.

    Args:
        network: start of the run, initialised.
        header: classes, palette and preprocessing, written into the files.
        recipe: all hyper-parameters.
        data: photos and masks.
        run: folder, exists.
        device: where to train.
        resume: go on from the folder's `state.pt`, if there is one yet.
        limit_steps: stop (with a checkpoint) after this many steps of this call.
        report: called with the figures of every tenth step and every validation.
        interrupted: asked after every step; once it is true, a checkpoint is written and the run ends.

    Returns:
        Whether the run is through: all its steps are done, or its patience is at an end.

    Raises:
        KeyboardInterrupt: `interrupted` was true; the checkpoint is written.
        DeconvSegError: the loss is no longer a number, or memory is used up; the last checkpoint is kept.
        OutputError: a file cannot be written; the files before it are kept.
    """
    with _memory_errors(run):
        return _train(network, header, recipe, data, run, device, resume, limit_steps, report, interrupted)


def _train(
    network: SegmentationNetwork,
    header: NetworkHeader,
    recipe: Recipe,
    data: TrainingData,
    run: Path,
    device: torch.device,
    resume: bool,
    limit_steps: int | None,
    report: Report,
    interrupted: Callable[[], bool],
) -> bool:
    network.to(device)
    network.to(memory_format=torch.channels_last)
    for parameter in network.encoder[: recipe.frozen_blocks].parameters():
        parameter.requires_grad_(False)
    distributed.synchronise_norms(network)
    averaged = copy.deepcopy(network).requires_grad_(False) if recipe.ema else network
    presence = nn.Linear(network.arguments["bottleneck"], len(header.classes) - 1).to(device)
    optimizer = _optimizer(network, presence, recipe)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    sampler = CropSampler(data.store, recipe, device, data.names, data.proposals)
    validation = data.validation.to(device)
    crop_losses = torch.compile(_losses) if recipe.compile else _losses
    part = distributed.share(recipe.batch_size, recipe.accumulate)
    writes = distributed.rank() == 0

    modules: dict[str, Any] = {
        "network": network,
        "presence": presence,
        "averaged": averaged,
        "optimizer": optimizer,
        "scaler": scaler,
    }
    progress: dict[str, float] = {"step": 0, "best": -1.0, "best_step": 0, "seconds": 0.0}
    if resume and (run / STATE).is_file():
        progress = load_state(run / STATE, modules)
    if writes:
        rewind_metrics(run / "metrics.jsonl", int(progress["step"]))
    step = int(progress["step"])
    stop = min(recipe.steps, step + (limit_steps or recipe.steps))
    started = saved = lap = time.monotonic()
    seconds_before = progress["seconds"]
    losses: list[Tensor] = []
    _set_training(network, recipe)

    def tell(figures: dict[str, float]) -> None:
        if writes:
            append_metrics(run / "metrics.jsonl", figures)
            report(figures)

    while step < stop and not _out_of_patience(progress, recipe):
        for group in optimizer.param_groups:
            peak = recipe.encoder_learning_rate if group["pretrained"] else recipe.learning_rate
            group["lr"] = peak * group["rate"] * schedule(step, recipe)
        batch = sampler.batch(step, part)
        torch.manual_seed(recipe.seed * 1_000_003 + step + (distributed.rank() << 40))  # for dropout
        optimizer.zero_grad(set_to_none=True)
        losses.append(_backward(crop_losses, network, presence, batch, data, header, recipe, scaler))
        distributed.sum_gradients([*network.parameters(), *presence.parameters()])
        scaler.unscale_(optimizer)
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        step += 1
        if recipe.ema:
            # Early on the average follows closely, so that it forgets the random start.
            update_average(averaged, network, min(recipe.ema, step / (step + 10)))

        is_due = time.monotonic() - saved > 60 * recipe.checkpoint_minutes
        stops, is_due = _any(device, interrupted(), is_due)
        ends = stops or step == stop
        validates = step == recipe.steps or step % recipe.validate_every == 0
        saves = ends or validates or is_due
        if saves or step % REPORT_EVERY == 0:
            loss = _mean_loss(losses, step, sampler, run)
            now = time.monotonic()
            figures = {
                "step": step,
                "crops": step * recipe.batch_size,
                "loss": round(loss, 5),
                "learning_rate": recipe.learning_rate * schedule(step - 1, recipe),
                "images_per_second": round(len(losses) * recipe.batch_size / (now - lap), 2),
            }
            losses.clear()
            lap = now
            tell(figures)
        if saves:
            _refuse_broken(modules["network"], averaged, step, run)
        progress |= {"step": step, "seconds": seconds_before + time.monotonic() - started}
        if validates:
            iou = mean_iou(validate(averaged, header, validation, recipe))
            progress["seconds"] = seconds_before + time.monotonic() - started
            figures = {
                "step": step,
                "crops": step * recipe.batch_size,
                "val_whole_image_miou": round(iou, 4),
            }
            if iou > progress["best"]:
                progress |= {"best": iou, "best_step": step}
                if writes:
                    save_network(run / "best.safetensors", averaged, _described(header, recipe, figures))
            tell(figures | {"seconds": round(progress["seconds"], 1)})
        if saves:
            if writes:
                figures = {"step": step, "crops": step * recipe.batch_size}
                save_network(run / "last.safetensors", averaged, _described(header, recipe, figures))
                save_state(run / STATE, modules, progress)
            distributed.barrier()
            saved = lap = time.monotonic()
        if ends and step < stop:
            raise KeyboardInterrupt
    return step >= recipe.steps or _out_of_patience(progress, recipe)


def _described(header: NetworkHeader, recipe: Recipe, figures: dict[str, float]) -> NetworkHeader:
    """The header of a network's file, with how the network was trained so far."""
    return replace(header, training={**header.training, **figures, "recipe": asdict(recipe)})


def normalise(crops: Tensor, header: NetworkHeader) -> Tensor:
    """Crops (B, 3, S, S) of 0..255 RGB as the network expects them, channels last."""
    mean = torch.tensor(header.mean).view(1, 3, 1, 1).to(crops.device, non_blocking=True)
    return ((crops - mean) * header.scale).contiguous(memory_format=torch.channels_last)


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


@torch.no_grad()
def validate(
    network: SegmentationNetwork, header: NetworkHeader, store: ImageStore, recipe: Recipe, batch: int = 32
) -> Tensor:
    """Confusion matrix int64 (C, C), row = truth, of the whole photo as a single crop, at the crop's size.

    A fast figure to steer by: neither at the photos' own size nor with proposals; `deconvseg eval` gives the
    figures that count. Every process takes each K-th photo and the counts are summed. Batches are filled up
    to one size, so that a photo's scores do not depend on how many processes there are.
    """
    classes = len(header.classes)
    device = next(network.parameters()).device
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    mine = torch.arange(distributed.rank(), len(store), distributed.world_size())
    for index, found in whole_photos(network, header, store, recipe, mine, batch):
        boxes, mirror = _whole(store, index)
        _, truth = cut_crops(store, index, boxes, mirror, network.side)
        truth = truth.to(device)
        valid = truth != VOID
        confusion += torch.bincount(truth[valid] * classes + found[valid], minlength=classes * classes)
    return distributed.total(confusion).cpu().reshape(classes, classes)


@torch.no_grad()
def whole_photos(
    network: SegmentationNetwork,
    header: NetworkHeader,
    store: ImageStore,
    recipe: Recipe,
    photos: Tensor,
    batch: int = 32,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Photos of a store as one crop each, batch by batch: their indices (n,) and labels int64 (n, S, S)."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    batch = min(batch, max(1, batch * 256**2 // network.side**2))  # large photos need much memory
    for start in range(0, len(photos), batch):
        index = photos[start : start + batch]
        filled = torch.cat([index, index[-1:].expand(batch - len(index))])
        crops, _ = cut_crops(store, filled, *_whole(store, filled), network.side)
        with autocast(recipe, device):
            scores = network(normalise(crops.to(device), header))
        yield index, scores[: len(index)].argmax(1)
    if was_training:
        _set_training(network, recipe)


def _whole(store: ImageStore, index: Tensor) -> tuple[Tensor, Tensor]:
    """Squares around whole photos, not mirrored, on the store's device."""
    device = store.images.device
    extent = store.sizes[index].flip(1).float()
    half = extent.amax(1, keepdim=True) / 2
    boxes = torch.cat([extent / 2 - half, extent / 2 + half], 1).to(device)
    return boxes, torch.zeros(len(index), dtype=torch.bool, device=device)


def mean_iou(confusion: Tensor) -> float:
    """Mean IoU over the classes that occur in truth or prediction; 0 if no pixel was counted."""
    matrix = confusion.double()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diag()
    return float((matrix.diag() / union)[union > 0].mean()) if union.sum() > 0 else 0.0


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """The recipe's arithmetic."""
    if recipe.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if recipe.precision == "bf16" else torch.float16)


def _set_training(network: SegmentationNetwork, recipe: Recipe) -> None:
    network.train()
    network.encoder[: recipe.frozen_blocks].eval()  # BatchNorm statistics are frozen as well


def _backward(
    crop_losses: Callable[..., Tensor],
    network: SegmentationNetwork,
    presence: nn.Linear,
    batch: Batch,
    data: TrainingData,
    header: NetworkHeader,
    recipe: Recipe,
    scaler: torch.amp.GradScaler,
) -> Tensor:
    """Gradients of this process's crops, part by part; its share of the whole batch's loss."""
    # Means are over the whole batch, wherever its crops are computed; it may be void all over.
    counted = distributed.total((batch.labels != VOID).sum()).clamp_min(1)
    inputs = normalise(batch.crops, header)
    loss = torch.zeros((), device=inputs.device)
    size = len(inputs) // recipe.accumulate
    for start in range(0, len(inputs), size):
        part = slice(start, start + size)
        soft = None
        if data.scores is not None and recipe.label == "all":
            soft = data.scores.cut(batch.photo[part], batch.boxes[part], batch.mirror[part], recipe.crop_size)
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


def _losses(
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


def _optimizer(network: SegmentationNetwork, presence: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
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


def _any(device: torch.device, *values: bool) -> tuple[bool, ...]:
    """Which of them are true in any process, so that all processes do the same."""
    if distributed.world_size() == 1:
        return values
    summed = distributed.total(torch.tensor(values, dtype=torch.float32, device=device))
    return tuple(value > 0 for value in summed.tolist())


def _refuse_broken(network: nn.Module, averaged: nn.Module, step: int, run: Path) -> None:
    """The last update may have broken a network whose loss before it was a number."""
    for module in (network, averaged):
        if not all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values()):
            raise DeconvSegError(
                f"{run}: step {step} left weights that are not numbers; the last checkpoint is kept. Lower "
                "learning_rate or use --precision fp32, then --resume"
            )


def _out_of_patience(progress: dict[str, float], recipe: Recipe) -> bool:
    waited = progress["step"] - progress["best_step"]
    return recipe.patience > 0 and waited >= recipe.patience * recipe.validate_every


def _mean_loss(losses: Sequence[Tensor], step: int, sampler: CropSampler, run: Path) -> float:
    """Mean over the last steps and all processes."""
    values = distributed.total(torch.stack(list(losses)))
    wrong = torch.nonzero(~torch.isfinite(values))
    if len(wrong):
        at = step - len(losses) + int(wrong[0])
        names = ", ".join(sampler.photos(at)[:8])
        raise DeconvSegError(
            f"{run}: the loss is not a number at step {at} (photos: {names or 'unnamed'}); the last "
            "checkpoint is kept. Lower learning_rate or use --precision fp32, then --resume"
        )
    return float(values.mean())


@contextmanager
def _memory_errors(run: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise DeconvSegError(
                f"{run}: out of memory; the last checkpoint is kept. Raise --accumulate, then --resume; or "
                "start again with a smaller batch_size, crop_size or canvas"
            ) from error
        raise

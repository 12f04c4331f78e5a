"""The training loop: a run that can be stopped anywhere and taken up again."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deconvseg.data.crops import ImageStore
from deconvseg.errors import DeconvSegError
from deconvseg.machine import is_out_of_memory
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.proposals.cache import ProposalFile
from deconvseg.training import distributed
from deconvseg.training.files import append_metrics, load_state, rewind_metrics, save_state
from deconvseg.training.losses import backward, sum_losses
from deconvseg.training.optimizer import build_optimizer, schedule, update_average
from deconvseg.training.recipe import Recipe
from deconvseg.training.run_folder import STATE
from deconvseg.training.sampler import CropSampler
from deconvseg.training.scores import SoftLabels
from deconvseg.training.validation import mean_iou, validate

REPORT_EVERY = 10
"""Steps between two lines of figures."""

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
    optimizer = build_optimizer(network, presence, recipe)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    sampler = CropSampler(data.store, recipe, device, data.names, data.proposals)
    validation = data.validation.to(device)
    crop_losses = torch.compile(sum_losses) if recipe.compile else sum_losses
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
        losses.append(backward(crop_losses, network, presence, batch, data.scores, header, recipe, scaler))
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


def _set_training(network: SegmentationNetwork, recipe: Recipe) -> None:
    network.train()
    network.encoder[: recipe.frozen_blocks].eval()  # BatchNorm statistics are frozen as well


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

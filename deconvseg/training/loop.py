"""The training loop: a run that can be stopped anywhere and taken up again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deconvseg.data.crops import ImageStore
from deconvseg.errors import DeconvSegError
from deconvseg.machine import is_out_of_memory
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.training import distributed
from deconvseg.training.losses import Losses, backward
from deconvseg.training.recipe import Recipe
from deconvseg.training.run_folder import (
    METRICS,
    STATE,
    append_metrics,
    load_state,
    rewind_metrics,
    save_state,
)
from deconvseg.training.sampler import CropSampler, TrainingData
from deconvseg.training.validation import mean_iou, validate

REPORT_EVERY = 10
"""Steps between two lines of figures."""
CHECKPOINT_SECONDS = 300


class Reporter:
    """Hears of everything that happens in a run and does nothing; override what you want to show."""

    def note(self, line: str) -> None:
        """Something a person should know."""

    def figures(self, folder: Path, recipe: Recipe, figures: dict[str, float]) -> None:
        """A line of a run folder's `metrics.jsonl`: figures of some steps, or of a validation."""

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[], None]]:
        """A long preparation of `total` parts; what it yields is called once a part."""
        yield lambda: None


@dataclass(frozen=True)
class Options:
    """How a run is made; nothing here changes what comes out of it.

    Attributes:
        device: where to train.
        resume: go on from the run folder's checkpoint, if there is one yet.
        limit_steps: stop, with a checkpoint, after this many steps of this call, unless that ends the run.
        workers: threads that prepare the data, 1 or more.
        reporter: hears what happens.
        interrupted: asked after every step; once it is true, a checkpoint is written and the run ends.
    """

    device: torch.device
    resume: bool = False
    limit_steps: int | None = None
    workers: int = 1
    reporter: Reporter = field(default_factory=Reporter)
    interrupted: Callable[[], bool] = lambda: False


class Training:
    """Trains a network into a run folder: `last.safetensors`, `best.safetensors`, `metrics.jsonl`.

    Every crop, and every random number in it, follows from the recipe's seed and the number of the step, so
    a run that was stopped or killed at any moment and taken up again ends with the same network; on a
    processor, with the same number of threads, bit by bit.

    Args:
        network: start of the run, initialised.
        header: classes, palette and preprocessing, written into the files.
        recipe: all hyper-parameters.
        data: what to learn from.
        validation: photos and masks to validate on.
        folder: the run folder, exists.
        options: how to go about it.

    Raises:
        DeconvSegError: the folder's checkpoint cannot be resumed.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        header: NetworkHeader,
        recipe: Recipe,
        data: TrainingData,
        validation: ImageStore,
        folder: Path,
        options: Options,
    ) -> None:
        device = options.device
        self.network, self.header, self.recipe = network, header, recipe
        self.folder, self.options = folder, options
        network.to(device)
        network.to(memory_format=torch.channels_last)
        network.train()
        for block in network.encoder[: recipe.frozen_blocks]:
            block.requires_grad_(False).eval()  # BatchNorm statistics are frozen as well
        self.averaged = copy.deepcopy(network).requires_grad_(False) if recipe.ema else network
        presence = nn.Linear(network.arguments["bottleneck"], len(header.classes) - 1).to(device)
        self.losses = distributed.parallel(Losses(network, presence, recipe), device)
        self.optimizer = build_optimizer(network, presence, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.sampler = CropSampler(data, recipe, device)
        self.validation = validation.to(device)
        self.part = distributed.share(recipe.batch_size, recipe.accumulate)
        self.writes = distributed.rank() == 0
        self.modules: dict[str, Any] = {
            "network": network,
            "presence": presence,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }
        self.progress: dict[str, float] = {"step": 0, "best": -1.0, "best_step": 0, "seconds": 0.0}
        if options.resume and (folder / STATE).is_file():
            self.progress = load_state(folder / STATE, self.modules)
        self.step = int(self.progress["step"])
        if self.writes:
            rewind_metrics(folder / METRICS, self.step)
        self.started = time.monotonic() - self.progress["seconds"]
        self.saved = self.reported = time.monotonic()
        self.recent: list[Tensor] = []

    def run(self) -> bool:
        """Makes all steps, or as many as are wanted.

        Returns:
            Whether the run is through: all its steps are done, or its patience is at an end.

        Raises:
            KeyboardInterrupt: `options.interrupted` was true; the checkpoint is written.
            DeconvSegError: the loss is no longer a number, or memory is used up; the last checkpoint is kept.
            OutputError: a file cannot be written; the files before it are kept.
        """
        try:
            return self._run()
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise DeconvSegError(
                    f"{self.folder}: out of memory; the last checkpoint is kept. Raise accumulate, then "
                    "resume; or start again with a smaller batch_size, crop_size or canvas"
                ) from error
            raise

    def _run(self) -> bool:
        recipe = self.recipe
        stop = min(recipe.steps, self.step + (self.options.limit_steps or recipe.steps))
        while self.step < stop and not self._is_out_of_patience():
            self._train_step()
            interrupted, is_due = distributed.any_of(
                self.options.device,
                self.options.interrupted(),
                time.monotonic() - self.saved > CHECKPOINT_SECONDS,
            )
            validates = self.step == recipe.steps or self.step % recipe.validate_every == 0
            saves = validates or interrupted or is_due or self.step == stop
            if saves or self.step % REPORT_EVERY == 0:
                self._report()
            if saves:
                self._refuse_broken()
            self.progress |= {"step": self.step, "seconds": time.monotonic() - self.started}
            if validates:
                self._validate()
            if saves:
                self._save()
            if interrupted and self.step < stop:
                raise KeyboardInterrupt
        return self.step >= recipe.steps or self._is_out_of_patience()

    def _train_step(self) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            peak = recipe.encoder_learning_rate if group["pretrained"] else recipe.learning_rate
            group["lr"] = peak * group["rate"] * schedule(self.step, recipe)
        batch = self.sampler.batch(self.step, self.part)
        seed = recipe.seed * 1_000_003 + self.step + (distributed.rank() << 40)
        torch.manual_seed(seed)  # for dropout
        self.optimizer.zero_grad(set_to_none=True)
        loss = backward(self.losses, batch, self.sampler.soft, self.header, recipe, self.scaler)
        self.recent.append(loss)
        self.scaler.unscale_(self.optimizer)
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if recipe.ema:
            # Early on the average follows closely, so that it forgets the random start.
            update_average(self.averaged, self.network, min(recipe.ema, self.step / (self.step + 10)))

    def _report(self) -> None:
        recipe, now = self.recipe, time.monotonic()
        figures = {
            "loss": round(self._mean_loss(), 5),
            "learning_rate": recipe.learning_rate * schedule(self.step - 1, recipe),
            "images_per_second": round(len(self.recent) * recipe.batch_size / (now - self.reported), 2),
        }
        self.recent.clear()
        self.reported = now
        self._tell(figures)

    def _mean_loss(self) -> float:
        """Mean over the last steps and all processes."""
        values = distributed.total(torch.stack(self.recent))
        wrong = torch.nonzero(~torch.isfinite(values))
        if len(wrong):
            at = self.step - len(self.recent) + int(wrong[0])
            names = ", ".join(self.sampler.photos(at)[:8])
            raise DeconvSegError(
                f"{self.folder}: the loss is not a number at step {at} (photos: {names or 'unnamed'}); the "
                "last checkpoint is kept. Lower learning_rate or use precision fp32, then resume"
            )
        return float(values.mean())

    def _refuse_broken(self) -> None:
        """The last update may have broken a network whose loss before it was a number."""
        for module in (self.network, self.averaged):
            if not all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values()):
                raise DeconvSegError(
                    f"{self.folder}: step {self.step} left weights that are not numbers; the last checkpoint "
                    "is kept. Lower learning_rate or use precision fp32, then resume"
                )

    def _validate(self) -> None:
        distributed.share_buffers(self.averaged)
        iou = mean_iou(validate(self.averaged, self.header, self.validation, self.recipe))
        self.progress["seconds"] = time.monotonic() - self.started
        figures = {"val_whole_image_miou": round(iou, 4)}
        if iou > self.progress["best"]:
            self.progress |= {"best": iou, "best_step": self.step}
            self._save_network("best", figures)
        self._tell(figures | {"seconds": round(self.progress["seconds"], 1)})

    def _save(self) -> None:
        self._save_network("last", {})
        if self.writes:
            save_state(self.folder / STATE, self.modules, self.progress)
        distributed.barrier()
        self.saved = self.reported = time.monotonic()

    def _save_network(self, name: str, figures: dict[str, float]) -> None:
        """Writes the averaged network, with how it was trained so far in its header."""
        if not self.writes:
            return
        training = {**self.header.training, **self._counted(figures), "recipe": asdict(self.recipe)}
        save_network(
            self.folder / f"{name}.safetensors", self.averaged, replace(self.header, training=training)
        )

    def _tell(self, figures: dict[str, float]) -> None:
        if self.writes:
            append_metrics(self.folder / METRICS, self._counted(figures))
            self.options.reporter.figures(self.folder, self.recipe, self._counted(figures))

    def _counted(self, figures: dict[str, float]) -> dict[str, float]:
        return {"step": self.step, "crops": self.step * self.recipe.batch_size, **figures}

    def _is_out_of_patience(self) -> bool:
        waited = self.progress["step"] - self.progress["best_step"]
        return self.recipe.patience > 0 and waited >= self.recipe.patience * self.recipe.validate_every


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
                is_norm = isinstance(module, _BatchNorm)
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
    return 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged network towards the trained one, BatchNorm statistics included."""
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)

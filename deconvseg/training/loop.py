"""The training loop: a run that can be stopped anywhere and taken up again."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from deconvseg.data.crops import ImageStore, cut_crops
from deconvseg.data.masks import VOID
from deconvseg.errors import DeconvSegError, OutputError, is_out_of_memory, reason
from deconvseg.files import read_json_lines, replacing
from deconvseg.network.base import SegmentationNetwork, average
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.inputs import normalise
from deconvseg.training import distributed
from deconvseg.training.losses import Losses, autocast
from deconvseg.training.recipe import Recipe
from deconvseg.training.sampler import Batch, CropSampler

REPORT_EVERY = 10  # steps between two lines of figures
CHECKPOINT_SECONDS = 300
STATE, METRICS = "state.pt", "metrics.jsonl"
"""The checkpoint: a folder that has one holds a run; and a line of figures now and then."""
ANOTHER = "start again in another folder, from this run's last.safetensors to keep what was learned"

Progress: TypeAlias = Callable[[int, str], AbstractContextManager[Callable[[int, str], None]]]
"""Of a total and what is counted: a block, in which its function hears how many are done and a text."""


@dataclass(frozen=True)
class Options:
    """How a run is made; nothing here changes what comes out of it."""

    device: torch.device
    resume: bool = False  # go on from the run folder's checkpoint, if there is one yet
    limit_steps: int | None = None  # stop, with a checkpoint, after so many of this call
    workers: int = 1  # threads that prepare the data
    interrupted: Callable[[], bool] = lambda: False  # asked after every step; once true, the run ends
    note: Callable[[str], None] = lambda line: None  # hears what a person should know
    progress: Progress = lambda total, what: nullcontext(lambda done, text: None)  # shows what takes long


class Training:
    """Trains a network by the sampler's recipe into a folder that exists.

    Every crop, and every random number in it, follows from the recipe's seed and the number of the step, so
    a run that was stopped or killed at any moment and taken up again ends with the same network. Raises
    DeconvSegError if the folder's checkpoint cannot be resumed.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        header: NetworkHeader,
        sampler: CropSampler,
        validation: ImageStore,
        folder: Path,
        options: Options,
    ) -> None:
        device, recipe = options.device, sampler.recipe
        self.network, self.header, self.recipe, self.sampler = network, header, recipe, sampler
        self.validation, self.folder, self.options = validation.to(device), folder, options
        network.to(device)
        network.to(memory_format=torch.channels_last)
        network.encoder[: recipe.frozen_blocks].requires_grad_(False)
        self._set_training_mode()
        self.averaged = copy.deepcopy(network).requires_grad_(False) if recipe.ema else network
        presence = nn.Linear(network.arguments["bottleneck"], len(header.classes) - 1).to(device)
        self.losses = distributed.parallel(Losses(network, presence, recipe), device)
        self.optimizer = build_optimizer(network, presence, recipe)
        self.part = distributed.share(recipe.batch_size, recipe.accumulate)
        self.modules: dict[str, Any] = {"network": network, "presence": presence, "averaged": self.averaged}
        self.modules["optimizer"] = self.optimizer
        self.progress: dict[str, float] = {"step": 0, "best": -1.0, "best_step": 0, "seconds": 0.0}
        if options.resume and (folder / STATE).is_file():
            self.progress = load_state(folder / STATE, self.modules)
        self.step = int(self.progress["step"])
        if distributed.rank() == 0:
            # Steps after the checkpoint are made again.
            kept = [line for line in read_json_lines(folder / METRICS) if line["step"] <= self.step]
            with replacing(folder / METRICS) as stream:
                stream.writelines(json.dumps(line).encode() + b"\n" for line in kept)
        self.started = time.monotonic() - self.progress["seconds"]
        self.saved = self.reported = time.monotonic()
        self.recent: list[Tensor] = []

    def _set_training_mode(self) -> None:
        self.network.train()
        self.network.encoder[: self.recipe.frozen_blocks].eval()  # BatchNorm statistics are frozen as well

    def run(self) -> bool:
        """Makes all steps, or as many as are wanted; whether all are done or patience is at an end.

        Raises KeyboardInterrupt, after a checkpoint, if `options.interrupted` was true, and DeconvSegError if
        the loss is no number, memory is used up or a file cannot be written; the last checkpoint is kept.
        """
        recipe = self.recipe
        length = f"{recipe.steps} steps of {recipe.batch_size} crops of {recipe.crop_size} px"
        self.options.note(f"{self.folder}: {length}, {self.options.device}")
        stop = min(recipe.steps, self.step + (self.options.limit_steps or recipe.steps))
        try:
            with self.options.progress(recipe.steps, "step") as self.show:
                while self.step < stop and not self._is_out_of_patience():
                    self._train_step()
                    self._follow_up(stop)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeconvSegError(
                f"{self.folder}: out of memory; the last checkpoint is kept. Raise accumulate, then "
                "resume; or start again with a smaller batch_size, crop_size or canvas"
            ) from error
        return self.step >= recipe.steps or self._is_out_of_patience()

    def _train_step(self) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            peak = recipe.encoder_learning_rate if group["pretrained"] else recipe.learning_rate
            group["lr"] = peak * group["rate"] * schedule(self.step, recipe)
        batch = self.sampler.batch(self.step, self.part)
        torch.manual_seed(recipe.seed * 1_000_003 + self.step + (distributed.rank() << 40))  # for dropout
        self.optimizer.zero_grad()
        self.recent.append(self._backward(batch))
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        if recipe.ema:
            # Early on the average follows closely, so that it forgets the random start.
            average(self.averaged, self.network, 1 - min(recipe.ema, self.step / (self.step + 10)))

    def _backward(self, batch: Batch) -> Tensor:
        """Gradients of this process's crops, part by part; its share of the whole batch's loss."""
        recipe, losses = self.recipe, self.losses
        # Means are over the whole batch, wherever its crops are computed; it may be void all over.
        pixels = distributed.total((batch.labels != VOID).sum()).clamp_min(1).float()
        answers = recipe.batch_size * (len(self.header.classes) - 1)
        inputs = normalise(batch.crops, self.header)
        loss = torch.zeros((), device=inputs.device)
        size = len(inputs) // recipe.accumulate
        for start in range(0, len(inputs), size):
            part = slice(start, start + size)
            teaching = (batch.labels[part], batch.own[part])
            soft = self.sampler.soft_labels(batch, part)
            # The processes exchange gradients once a step, not once a part.
            waits = isinstance(losses, DistributedDataParallel) and start + size < len(inputs)
            with losses.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with autocast(recipe, inputs.device):
                    sums = losses(inputs[part], *teaching, soft)
                share = (sums[0] + recipe.scores_weight * sums[2]) / pixels
                share = share + recipe.presence_weight * sums[1] / answers
                # Processes take the mean of their gradients, and want the sum.
                (share * distributed.world_size()).backward()
            loss += share.detach()
        return loss

    def _follow_up(self, stop: int) -> None:
        """Reports, validates and saves if it is time to, or if the run ends at this step."""
        is_due = time.monotonic() - self.saved > CHECKPOINT_SECONDS
        # All processes do what one of them wants.
        wants = torch.tensor([self.options.interrupted(), is_due], dtype=torch.float32)
        if distributed.world_size() > 1:
            wants = distributed.total(wants.to(self.options.device))
        interrupted, is_due = (wants > 0).tolist()
        validates = self.step == self.recipe.steps or self.step % self.recipe.validate_every == 0
        saves = validates or interrupted or is_due or self.step == stop
        if saves or self.step % REPORT_EVERY == 0:
            self._report()
        if validates:
            self._validate()
        self.progress |= {"step": self.step, "seconds": time.monotonic() - self.started}
        if saves:
            self._save_network("last")
            if distributed.rank() == 0:
                save_state(self.folder / STATE, self.modules, self.progress)
            distributed.barrier()
            self.saved = self.reported = time.monotonic()
        if interrupted and self.step < stop:
            raise KeyboardInterrupt

    def _report(self) -> None:
        """The mean loss of the last steps and all processes."""
        losses, now = distributed.total(torch.stack(self.recent)), time.monotonic()
        # The last update may have broken a network whose loss before it was a number.
        if not all(values.isfinite().all() for values in (losses, *self.averaged.state_dict().values())):
            raise DeconvSegError(
                f"{self.folder}: by step {self.step} the loss or the weights are not numbers; the last "
                "checkpoint is kept. Lower learning_rate or use precision fp32, then resume"
            )
        speed = len(losses) * self.recipe.batch_size / (now - self.reported)
        self.recent.clear()
        self.reported = now
        rate = self.recipe.learning_rate * schedule(self.step - 1, self.recipe)
        loss = round(float(losses.mean()), 5)
        self._write(loss=loss, learning_rate=rate, images_per_second=round(speed, 2))
        self.show(self.step, f"loss {loss:.3f}, learning rate {rate:.1e}, {speed:.1f} images/s")

    def _validate(self) -> None:
        iou = mean_iou(validate(self.averaged, self.header, self.validation, self.recipe))
        self._set_training_mode()
        if iou > self.progress["best"]:
            self.progress |= {"best": iou, "best_step": self.step}
            self._save_network("best", val_whole_image_miou=round(iou, 4))
        self._write(val_whole_image_miou=round(iou, 4), seconds=round(time.monotonic() - self.started, 1))
        figures = f"mean IoU {iou:.4f} on whole validation photos (best {self.progress['best']:.4f})"
        self.options.note(f"step {self.step}: {figures}")

    def _save_network(self, name: str, **figures: float) -> None:
        """Writes the averaged network, with how it was trained so far in its header."""
        if distributed.rank() == 0:
            training = {**self.header.training, **self._counted(figures), "recipe": asdict(self.recipe)}
            header = replace(self.header, training=training)
            save_network(self.folder / f"{name}.safetensors", self.averaged, header)

    def _write(self, **figures: float) -> None:
        """Adds a line to `metrics.jsonl`."""
        if distributed.rank() == 0:
            with (self.folder / METRICS).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(self._counted(figures)) + "\n")

    def _counted(self, figures: dict[str, float]) -> dict[str, float]:
        return {"step": self.step, "crops": self.step * self.recipe.batch_size, **figures}

    def _is_out_of_patience(self) -> bool:
        waited = self.progress["step"] - self.progress["best_step"]
        return self.recipe.patience > 0 and waited >= self.recipe.patience * self.recipe.validate_every


def save_state(path: Path, modules: dict[str, Any], progress: dict[str, float]) -> None:
    """Write a checkpoint: the state of every module, and how far the run is; OutputError if it cannot be."""
    state = {name: module.state_dict() for name, module in modules.items()} | {"progress": progress}
    try:
        with replacing(path) as stream:
            torch.save(state, stream)
    except RuntimeError as error:  # how torch tells that its writer failed
        fault = "cannot be written (is the disk full?); the one before is kept. Free space, then resume"
        raise OutputError(f"{path}: {fault}") from error


def load_state(path: Path, modules: dict[str, Any]) -> dict[str, float]:
    """Bring modules to the state of a checkpoint; how far the run is. DeconvSegError if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        return dict(state["progress"])
    except Exception as error:  # a damaged file can fail in any way
        fault = f"this checkpoint cannot be read ({reason(error)[:200]})"
        raise DeconvSegError(f"{path}: {fault}; {ANOTHER}") from error


def build_optimizer(network: nn.Module, presence: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; each group's `pretrained` and `rate` set its learning rate."""
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for path, module in (*network.named_modules(), *presence.named_modules(prefix="presence")):
        is_norm = isinstance(module, _BatchNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                decays = parameter.ndim > 1 or (is_norm and recipe.decay_norms)
                rate = recipe.bias_rate if name == "bias" and not is_norm else 1.0
                key = path.startswith("encoder."), rate, recipe.weight_decay if decays else 0.0
                groups.setdefault(key, []).append(parameter)
    table = [
        {"params": parameters, "pretrained": pretrained, "rate": rate, "weight_decay": decay}
        for (pretrained, rate, decay), parameters in groups.items()
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
def validate(
    network: SegmentationNetwork, header: NetworkHeader, store: ImageStore, recipe: Recipe, batch: int = 32
) -> Tensor:
    """Confusion matrix int64 (C, C), row = truth, of whole photos as single crops, at the crop's size.

    Every process takes each K-th photo and the counts are summed. Batches are filled up to one size, so that
    a photo's scores do not depend on how many processes there are. The network, which is on the store's
    device, is in evaluation mode afterwards.
    """
    classes, device = len(header.classes), store.device
    batch = min(batch, max(1, batch * 256**2 // network.side**2))  # large photos need much memory
    extent = store.sizes.flip(1).float()
    half = extent.amax(1, keepdim=True) / 2
    squares = torch.cat([extent / 2 - half, extent / 2 + half], 1).to(device)
    plain = torch.zeros(batch, dtype=torch.bool, device=device)
    counts = torch.zeros(classes**2, dtype=torch.int64, device=device)
    mine = torch.arange(len(store))[distributed.rank() :: distributed.world_size()]
    network.eval()
    for start in range(0, len(mine), batch):
        index = mine[start : start + batch]
        filled = torch.cat([index, index[-1:].expand(batch - len(index))])
        crops, truth = cut_crops(store, filled, squares[filled.to(device)], plain, network.side)
        with autocast(recipe, device):
            found = network(normalise(crops, header)).argmax(1)
        truth, found = truth[: len(index)], found[: len(index)]
        valid = truth != VOID
        counts += torch.bincount(truth[valid] * classes + found[valid], minlength=classes**2)
    return distributed.total(counts).cpu().reshape(classes, classes)


def mean_iou(confusion: Tensor) -> float:
    """Mean IoU over the classes that occur in truth or prediction; 0 if no pixel was counted."""
    matrix = confusion.double()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diag()
    return float((matrix.diag() / union)[union > 0].mean()) if union.sum() > 0 else 0.0

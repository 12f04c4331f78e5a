"""What a person sees of a running training: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from deconvseg.cli import console
from deconvseg.errors import MissingDependencyError
from deconvseg.training.recipe import Recipe
from deconvseg.training.reporter import Reporter

SECONDS_BETWEEN_LINES = 20


class TrainingDisplay(Reporter):
    """Shows a run, from the start to the end of a `with` block."""

    def __init__(self, *, quiet: bool, tensorboard: bool) -> None:
        self._quiet, self._tensorboard = quiet, tensorboard
        self._bar: console.Progress | None = None
        self._writer: Any = None
        self._steps, self._best, self._last_line = 0, 0.0, float("-inf")

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def begin(self, folder: Path, recipe: Recipe, device: str) -> None:
        """Start the stage's bar and event file."""
        self._end()
        self._steps, self._best, self._last_line = recipe.steps, 0.0, float("-inf")
        self.note(
            f"{folder}: {recipe.steps} steps of {recipe.batch_size} crops of {recipe.crop_size} px, {device}"
        )
        if self._tensorboard:
            self._writer = _event_writer(folder)
        self._bar = console.Progress(recipe.steps, wanted=not self._quiet, what="step")
        self._bar.__enter__()

    def figures(self, figures: dict[str, float]) -> None:
        """Move the bar, or print a line if there is none and it is time for one."""
        step = int(figures["step"])
        for name, value in figures.items():
            if self._writer and name not in ("step", "crops"):
                self._writer.add_scalar(name, value, step)
        iou = figures.get("val_whole_image_miou")
        if iou is not None:
            self._best = max(self._best, iou)
            self.note(f"step {step}: mean IoU {iou:.4f} on whole validation photos (best {self._best:.4f})")
            return
        loss, rate, speed = (figures[key] for key in ("loss", "learning_rate", "images_per_second"))
        if self._bar:
            self._bar.move(step, f"loss {loss:.3f}  lr {rate:.1e}  {speed:.0f} images/s")
        if not sys.stderr.isatty() and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            figures_line = f"loss {loss:.3f}, learning rate {rate:.1e}, {speed:.1f} images/s"
            self.note(f"step {step} of {self._steps}: {figures_line}")

    def note(self, line: str) -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            console.say(line)

    def _end(self) -> None:
        if self._bar:
            self._bar.__exit__()
            self._bar = None
        if self._writer:
            self._writer.close()
            self._writer = None


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            f"--tensorboard: TensorBoard does not load ({error}); run: pip install tensorboard"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))

"""What a person sees of a training run: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deconvseg.cli import console
from deconvseg.errors import MissingDependencyError
from deconvseg.training.loop import Reporter
from deconvseg.training.recipe import Recipe

SECONDS_BETWEEN_LINES = 20


class TrainingDisplay(Reporter):
    """Shows a run, from the start to the end of a `with` block."""

    def __init__(self, *, quiet: bool, tensorboard: bool) -> None:
        self._quiet, self._tensorboard = quiet, tensorboard
        self._open = ExitStack()
        self._folder: Path | None = None
        self._bar: console.Progress | None = None
        self._writer: Any = None
        self._best, self._last_line = 0.0, float("-inf")

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def note(self, line: str) -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            console.say(line)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[], None]]:
        """A bar of its own."""
        with console.Progress(total, wanted=not self._quiet, what=what) as bar:
            yield bar.step

    def figures(self, folder: Path, recipe: Recipe, figures: dict[str, float]) -> None:
        """Move the stage's bar, or print a line if there is none and it is time for one."""
        if folder != self._folder:
            self._begin(folder, recipe)
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
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            figures_line = f"loss {loss:.3f}, learning rate {rate:.1e}, {speed:.1f} images/s"
            self.note(f"step {step} of {recipe.steps}: {figures_line}")

    def _begin(self, folder: Path, recipe: Recipe) -> None:
        self._open.close()
        self._folder, self._best, self._last_line = folder, 0.0, float("-inf")
        if self._tensorboard:
            self._writer = _event_writer(folder)
            self._open.callback(self._writer.close)
        bar = console.Progress(recipe.steps, wanted=not self._quiet, what="step")
        self._bar = self._open.enter_context(bar)


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            f"--tensorboard: TensorBoard does not load ({error}); run: pip install tensorboard"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))

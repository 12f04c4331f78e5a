"""What a person sees of a training run: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deconvseg.cli import console
from deconvseg.training.loop import Reporter
from deconvseg.training.recipe import Recipe

SECONDS_BETWEEN_LINES = 20


class TrainingDisplay(ExitStack, Reporter):
    """Shows a run, from the start to the end of a `with` block."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__()
        self._quiet = quiet
        self._folder: Path | None = None
        self._best, self._last_line = 0.0, float("-inf")
        self._bar = console.Progress(0, wanted=False)

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
            self.close()
            self._folder, self._best, self._last_line = folder, 0.0, float("-inf")
            bar = console.Progress(recipe.steps, wanted=not self._quiet, what="step")
            self._bar = self.enter_context(bar)
        step = int(figures["step"])
        if "loss" not in figures:
            iou = figures["val_whole_image_miou"]
            self._best = max(self._best, iou)
            self.note(f"step {step}: mean IoU {iou:.4f} on whole validation photos (best {self._best:.4f})")
            return
        text = "loss {loss:.3f}, learning rate {learning_rate:.1e}, {images_per_second:.1f} images/s"
        text = text.format(**figures)
        self._bar.move(step, text)
        if not sys.stderr.isatty() and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.note(f"step {step} of {recipe.steps}: {text}")

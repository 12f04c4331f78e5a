"""What a person sees of a training run: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deconvseg.cli import console
from deconvseg.training.loop import Reporter

SECONDS_BETWEEN_LINES = 20


class TrainingDisplay(Reporter):
    """Shows a run, unless `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._last_line = quiet, float("-inf")

    def note(self, line: str) -> None:
        """Print a line."""
        if not self._quiet:
            console.say(line)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[], None]]:
        """A bar."""
        with console.Progress(total, wanted=not self._quiet, what=what) as self._bar:
            yield self._bar.step

    def figures(self, figures: dict[str, float]) -> None:
        """Move the bar, or print a line if there is none and it is time for one."""
        text = "loss {loss:.3f}, learning rate {learning_rate:.1e}, {images_per_second:.1f} images/s"
        text, step = text.format(**figures), int(figures["step"])
        self._bar.move(step, text)
        if not sys.stderr.isatty() and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.note(f"step {step} of {self._bar.total}: {text}")

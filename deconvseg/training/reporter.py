"""What a training run tells while it goes on."""

from __future__ import annotations

from pathlib import Path

from deconvseg.training.recipe import Recipe


class Reporter:
    """Hears of everything that happens in a run and does nothing; override what you want to show."""

    def begin(self, folder: Path, recipe: Recipe, device: str) -> None:
        """A stage begins, or goes on, in its run folder."""

    def figures(self, figures: dict[str, float]) -> None:
        """A line of `metrics.jsonl`: figures of some steps, or of a validation."""

    def note(self, line: str) -> None:
        """Something a person should know."""

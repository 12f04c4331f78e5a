"""Where one file is written, and what may be in its place."""

from __future__ import annotations

from pathlib import Path

from deconvseg.errors import UsageError


def refuse_target(output: Path, *sources: Path, overwrite: bool, option: str = "-o") -> None:
    """Raise a UsageError unless `output` can be written: a file in a folder that exists, none of the
    `sources`, and not there yet or to be overwritten. The message names the `option` that gives it."""
    if output.is_dir() or not output.resolve().parent.is_dir():
        raise UsageError(f"{output}: is a folder, or in none that exists; give {option} another name")
    if output.exists() and any(source.exists() and output.samefile(source) for source in sources):
        raise UsageError(f"{output}: is one of the files to read; give {option} another name")
    if output.exists() and not overwrite:
        raise UsageError(f"{output}: exists; give {option} another name, or --overwrite")

"""What a run writes on its way: a line of figures now and then, and checkpoints, each whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from deconvseg.errors import DeconvSegError, OutputError
from deconvseg.files import replacing


def append_metrics(path: Path, figures: dict[str, float]) -> None:
    """Add a line to `metrics.jsonl`; OutputError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(figures) + "\n")
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); free some space, then --resume"
        ) from error


def rewind_metrics(path: Path, step: int) -> None:
    """Drop the lines of steps that will be made again, and a line that was cut short."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    with replacing(path) as stream:
        stream.write("".join(kept).encode())


def save_state(path: Path, modules: dict[str, Any], progress: dict[str, float]) -> None:
    """Write a checkpoint: the state of every module, and how far the run is; OutputError if it cannot be."""
    state = {name: module.state_dict() for name, module in modules.items()} | {"progress": progress}
    try:
        with replacing(path) as stream:
            torch.save(state, stream)
    except RuntimeError as error:  # how torch tells that its writer failed
        raise OutputError(
            f"{path}: the checkpoint cannot be written (is the disk full?); the one before is kept. Free "
            "some space, then --resume"
        ) from error


def load_state(path: Path, modules: dict[str, Any]) -> dict[str, float]:
    """Bring modules to the state of a checkpoint and say how far the run is.

    Raises:
        DeconvSegError: the file is damaged, or of another network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, module in modules.items():
            if name != "scaler" or state[name]:  # empty in a precision that needs no scaling
                module.load_state_dict(state[name])
        return dict(state["progress"])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeconvSegError(
            f"{path}: this checkpoint cannot be read ({reason}); start again in another --out, with --init "
            f"{path.parent / 'last.safetensors'} to keep what was learned"
        ) from error

"""The folder of a run: who may write there, what it holds, and what a run that is resumed must share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from deconvseg import files
from deconvseg.errors import DeconvSegError, OutputError, UsageError, is_out_of_memory, reason
from deconvseg.training import distributed
from deconvseg.training.recipe import FREE_ON_RESUME

STATE, METRICS = "state.pt", "metrics.jsonl"
"""The checkpoint: a folder that has one holds a run; and a line of figures now and then."""
_DESCRIPTION = "run.json"
_ANOTHER = "start again in another folder, from this run's last.safetensors to keep what was learned"


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it: they would overwrite each other's checkpoints.

    Raises OutputError if it cannot be made, or another process trains there.
    """
    with ExitStack() as held:
        try:
            if distributed.rank() == 0:
                out.mkdir(parents=True, exist_ok=True)
                held.enter_context(files.lock(out / ".lock"))
        except OSError as error:
            is_held = isinstance(error, TimeoutError)
            fault = "another process is training there" if is_held else f"cannot be made ({error.strerror})"
            raise OutputError(f"{out}: {fault}; use another folder") from error
        yield


def begin(folder: Path, description: dict[str, Any]) -> None:
    """Keep everything that decides what comes out of a run in its folder.

    If the folder holds a run, to be resumed, it must be the same one: UsageError if they differ in what
    cannot change on the way. Its `init` stays what it was.
    """
    path = folder / _DESCRIPTION
    description = json.loads(json.dumps(description))
    if (folder / STATE).is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        description["init"] = before["init"]
        had, has = _fixed(before), _fixed(description)
        # Keys that came since the run was begun, or went, are not compared.
        if changed := [key for key in has if had.get(key, has[key]) != has[key]]:
            raise UsageError(
                f"{path}: this run has other {', '.join(changed)}; resume with the same, or {_ANOTHER}"
            )
    with files.replacing(path) as stream:
        stream.write(json.dumps(description, indent=2).encode() + b"\n")


def _fixed(description: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run must share."""
    values = description["recipe"] | description["data"]
    free = FREE_ON_RESUME | {"sources", "photos_with_scores"}
    return {key: value for key, value in values.items() if key not in free}


def save_state(path: Path, modules: dict[str, Any], progress: dict[str, float]) -> None:
    """Write a checkpoint: the state of every module, and how far the run is; OutputError if it cannot be."""
    state = {name: module.state_dict() for name, module in modules.items()} | {"progress": progress}
    try:
        with files.replacing(path) as stream:
            torch.save(state, stream)
    except RuntimeError as error:  # how torch tells that its writer failed
        raise OutputError(
            f"{path}: the checkpoint cannot be written (is the disk full?); the one before is kept. Free "
            "some space, then resume"
        ) from error


def load_state(path: Path, modules: dict[str, Any]) -> dict[str, float]:
    """Bring modules to the state of a checkpoint; how far the run is. DeconvSegError if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        return dict(state["progress"])
    except Exception as error:  # a damaged file can fail in any way
        if is_out_of_memory(error):
            raise
        fault = f"this checkpoint cannot be read ({reason(error)[:200]})"
        raise DeconvSegError(f"{path}: {fault}; {_ANOTHER}") from error

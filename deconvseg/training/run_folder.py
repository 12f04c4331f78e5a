"""The folder of a run: who may write there, what it holds, and what a run that is resumed must share."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconvseg import __version__, files
from deconvseg.errors import DeconvSegError, OutputError, UsageError
from deconvseg.training import distributed
from deconvseg.training.plan import Plan
from deconvseg.training.recipe import FREE_ON_RESUME, Recipe

STATE, METRICS = "state.pt", "metrics.jsonl"
"""The checkpoint: a folder that has one holds a run; and a line of figures now and then."""
_DESCRIPTION = "run.json"
_ANOTHER = "start again in another folder, from this run's last.safetensors to keep what was learned"


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        init: a network file or the name of a shipped network; it decides all but crop size and classes.
        vgg16: local file of VGG-16's ImageNet convolutions; they are downloaded when there is none.
        proposals: file of `proposals.cache.cache_proposals`, for recipes that draw proposals; made if it is
            not there, as `proposals.npz` in the run folder if omitted.
    """

    init: str | Path | None = None
    vgg16: Path | None = None
    proposals: Path | None = None


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it: they would overwrite each other's checkpoints.

    Raises:
        OutputError: it cannot be made.
        UsageError: another process trains there.
    """
    if distributed.rank():
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: the run folder cannot be made ({error.strerror})") from error
    try:
        with files.lock(out / ".lock"):
            yield
    except TimeoutError as error:
        raise UsageError(
            f"{out}: another process is training there; wait for it or use another folder"
        ) from error


def refuse_begun(plan: Plan, out: Path) -> None:
    """Raise a UsageError if a stage's folder holds a run, which a new one would overwrite."""
    for folder in (out / name for name in plan.stages):
        if (folder / STATE).is_file():
            raise UsageError(f"{folder}: it holds a run already; resume it, or use another folder")


def describe(plan: Plan, recipe: Recipe, data_digest: str, init: Path | None, start: Start) -> dict[str, Any]:
    """Everything that decides what comes out of a run, fit for JSON."""
    uses_proposals = start.proposals is not None and recipe.proposal_share > 0
    description = {
        "recipe": asdict(recipe),
        "data": {
            "sha256": data_digest,
            "photos": len(plan.names),
            "validation_photos": len(plan.validation.examples),
            "classes": plan.classes,
            "sources": [str(dataset.source) for dataset in (*plan.training.values(), plan.validation)],
            "photos_with_scores": sum(file is not None for file in plan.scores),
        },
        "init": {"file": str(init), "sha256": files.digest(init)} if init else None,
        "proposals": files.digest(start.proposals) if start.proposals and uses_proposals else None,
        "processes": distributed.world_size(),
        "versions": {
            "deconvseg": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    same: dict[str, Any] = json.loads(json.dumps(description))
    return same


def same_run(folder: Path, description: dict[str, Any]) -> dict[str, Any]:
    """The description of a run that is resumed, after a look at whether the one in the folder is it.

    Raises:
        UsageError: the run that was begun there differs in what cannot change on the way.
    """
    path = folder / _DESCRIPTION
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        recipe, digest = dict(before["recipe"]), before["data"]["sha256"]
        init, proposals = before["init"], before["proposals"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read ({error!r}); start again in another folder") from error
    now = description["recipe"]
    changed = [key for key in now if key not in FREE_ON_RESUME and now[key] != recipe.get(key)]
    if changed:
        raise UsageError(
            f"{path}: this run has other {', '.join(changed)}; resume with the same or use another folder"
        )
    if digest != description["data"]["sha256"]:
        raise UsageError(
            f"{path}: the photos, masks, scores or classes have changed since this run began; {_ANOTHER}"
        )
    if proposals != description["proposals"]:
        raise UsageError(f"{path}: this run was begun with other proposals; give the same, or {_ANOTHER}")
    if description["init"] is None:
        return {**description, "init": init}
    if init is None or description["init"]["sha256"] != init["sha256"]:
        raise UsageError(
            f"{path}: this run started from another network than {description['init']['file']} is now; "
            f"{_ANOTHER}"
        )
    return description


def begin(folder: Path, description: dict[str, Any]) -> None:
    """Keep the description of a run in its folder, and sweep what a killed run left half written there."""
    files.sweep(folder)
    with files.replacing(folder / _DESCRIPTION) as stream:
        stream.write(json.dumps(description, indent=2).encode() + b"\n")


def append_metrics(path: Path, figures: dict[str, float]) -> None:
    """Add a line to `metrics.jsonl`; OutputError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(figures) + "\n")
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); free some space, then resume"
        ) from error


def rewind_metrics(path: Path, step: int) -> None:
    """Drop the lines of steps that will be made again, and a line that was cut short."""
    if not path.is_file():
        return
    kept = [line for line in files.read_json_lines(path) if line.get("step", step + 1) <= step]
    with files.replacing(path) as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in kept).encode())


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
        raise DeconvSegError(f"{path}: this checkpoint cannot be read ({reason}); {_ANOTHER}") from error

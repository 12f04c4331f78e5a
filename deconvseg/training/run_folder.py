"""The folder of a run: who may write there, what a run is, and what one that is taken up again must share."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from deconvseg import __version__
from deconvseg.errors import OutputError, UsageError
from deconvseg.files import replacing
from deconvseg.training import distributed
from deconvseg.training.plan import Plan
from deconvseg.training.recipe import FREE_ON_RESUME, Recipe

STATE = "state.pt"
"""The checkpoint: a folder that has one holds a run."""
_DESCRIPTION = "run.json"
_ANOTHER = "start again in another --out, with --init to keep what was learned"


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        init: a network file or the name of a shipped network; it decides all but crop size and classes.
        vgg16: local file of VGG-16's ImageNet convolutions; they are downloaded when there is none.
        proposals: file of `proposals.cache.cache_proposals`, for recipes that draw proposals.
        scores: folder of score files to learn from as soft labels.
    """

    init: str | Path | None = None
    vgg16: Path | None = None
    proposals: Path | None = None
    scores: Path | None = None


@contextmanager
def lock(out: Path) -> Iterator[None]:
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
    held = FileLock(out / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{out}: another process is training there; wait for it or use another --out"
        ) from error
    try:
        yield
    finally:
        held.release()


def refuse_begun(plan: Plan, out: Path) -> None:
    """Raise a UsageError if a stage's folder holds a run, which a new one would overwrite."""
    for folder in (out / name for name in plan.stages):
        if (folder / STATE).is_file():
            raise UsageError(f"{folder}: it holds a run already; add --resume, or use another --out")


def describe(plan: Plan, recipe: Recipe, data_digest: str, init: Path | None, start: Start) -> dict[str, Any]:
    """Everything that decides what comes out of a run, fit for JSON."""
    return {
        "recipe": asdict(recipe),
        "data": {
            "sha256": data_digest,
            "photos": len(plan.names),
            "validation_photos": len(plan.validation.examples),
            "classes": plan.classes,
            "sources": [str(dataset.source) for dataset in (*plan.training, plan.validation)],
        },
        "init": {"file": str(init), "sha256": _digest(init)} if init else None,
        "proposals": _digest(start.proposals) if start.proposals and recipe.proposal_share else None,
        "scores": str(start.scores) if start.scores else None,
        "processes": distributed.world_size(),
        "versions": {
            "deconvseg": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def same_run(folder: Path, description: dict[str, Any]) -> dict[str, Any]:
    """The description of a run to be taken up again, after a look at whether the one in the folder is it.

    Raises:
        UsageError: the run that was begun there differs in what cannot change on the way.
    """
    path = folder / _DESCRIPTION
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        recipe, digest = dict(before["recipe"]), before["data"]["sha256"]
        init, others = before["init"], {key: before[key] for key in ("proposals", "scores")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read ({error!r}); start again in another --out") from error
    now = json.loads(json.dumps(description["recipe"]))
    changed = [key for key in now if key not in FREE_ON_RESUME and now[key] != recipe.get(key)]
    if changed:
        raise UsageError(
            f"{path}: this run has other {', '.join(changed)}; resume with the same or use another --out"
        )
    if digest != description["data"]["sha256"]:
        raise UsageError(
            f"{path}: the photos, masks or classes have changed since this run began; {_ANOTHER}"
        )
    for key, value in others.items():
        if description[key] != value:
            raise UsageError(f"{path}: this run was begun with other --{key}; give the same, or {_ANOTHER}")
    if description["init"] is None:
        return {**description, "init": init}
    if init is None or description["init"]["sha256"] != init["sha256"]:
        raise UsageError(
            f"{path}: this run started from another network than {description['init']['file']} is now; "
            f"{_ANOTHER}"
        )
    return description


def begin(folder: Path, description: dict[str, Any]) -> None:
    """Keep the description of a run in its folder; OutputError if it cannot be written."""
    with replacing(folder / _DESCRIPTION) as stream:
        stream.write(json.dumps(description, indent=2).encode() + b"\n")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

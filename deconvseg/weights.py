"""From the name of a network or edge forest to its file: shipped, or put into the cache by hand."""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import platformdirs

from deconvseg.errors import WeightsError
from deconvseg.files import digest

REGISTRY = "registry.toml"
FOREST = "edges"


@dataclass(frozen=True)
class Entry:
    """What the registry says of one file; docs/weights.md explains all of it."""

    name: str
    kind: Literal["network", "forest"]
    file: str
    description: str
    licence: str
    licence_free: bool
    bytes: int | None = None
    sha256: str | None = None
    obtain: str = ""
    convert_from: str = ""
    terms: str = ""
    recipe: str = ""
    classes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    partner: str = ""
    figures: tuple[dict[str, Any], ...] = ()


def weights_folder() -> Path:
    """Where the shipped files are: `weights/` of a checkout, or its copy inside the installed package."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_shipped", package.parent / "weights"):
        if (folder / REGISTRY).is_file():
            return folder
    raise WeightsError(f"{package}: the shipped weights are missing; install deconvseg again")


def cache_folder() -> Path:
    """Where files got by hand go: `DECONVSEG_HOME`, or the platform's cache folder.

    Raises WeightsError for a user without a home directory.
    """
    try:
        home = os.environ.get("DECONVSEG_HOME")
        return Path(home or platformdirs.user_cache_path("deconvseg", appauthor=False)).absolute()
    except RuntimeError as error:
        fault = "there is no home directory for files got by hand"
        raise WeightsError(f"{fault}; let DECONVSEG_HOME name another folder") from error


def registry() -> dict[str, Entry]:
    """What is known by name, from `registry.toml` beside the shipped files."""
    return _registry(weights_folder() / REGISTRY)


@cache
def _registry(path: Path) -> dict[str, Entry]:
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["weights"]
    for table in tables.values():
        table |= {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    return {name: Entry(name=name, **table) for name, table in tables.items()}


def find(name: str | Path) -> Entry | None:
    """The registry's entry of a name or alias; a Path is never one."""
    return next((entry for entry in registry().values() if name in (entry.name, *entry.aliases)), None)


def lookup(name: str | Path, kind: str | None = None) -> Entry:
    """The registry's entry of a name or alias; WeightsError, with the nearest name, if there is none."""
    if entry := find(name):
        return entry
    entries = [entry for entry in registry().values() if kind in (None, entry.kind)]
    known = sorted(known for entry in entries for known in (entry.name, *entry.aliases))
    close = difflib.get_close_matches(str(name), known, n=1)
    cure = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
    is_none = f"no such {kind} file, nor a {kind}'s name" if kind else "no network or forest of this name"
    raise WeightsError(f"{name}: {is_none}; {cure}")


def located(entry: Entry) -> Path | None:
    """The file of an entry: shipped, or in the cache folder; None if it is in neither."""
    places = (folder() / entry.file for folder in (weights_folder, cache_folder))
    # pathlib raises if a folder may not be searched, like another user's home, or if a name is too long.
    return next((path for path in places if os.path.isfile(path)), None)  # noqa: PTH113


def fault(entry: Entry) -> str:
    """What is wrong with the file of an entry: it is not here, or its hash is; empty if all is well."""
    path = located(entry)
    if path is None:
        return "is not here" if entry.obtain else "was shipped and is missing"
    if entry.sha256 is not None and (found := digest(path)) != entry.sha256:
        return f"has sha256 {found}, should have {entry.sha256}"
    return ""


def cure(entry: Entry) -> str:
    """What to do about a file of this entry that is missing or wrong."""
    advice = f"'deconvseg weights pull {entry.name}' says how to get it"
    return advice if entry.obtain else "install deconvseg again"


def network_file(weights: str | Path) -> Path:
    """The file of a network, given by name or path; WeightsError if it is not here, or of the wrong size."""
    return _file(weights, "network")


def forest_file(forest: str | Path | None = None) -> Path:
    """The same for a structured edge forest; if omitted, the shipped one."""
    return _file(FOREST if forest is None else forest, "forest")


def _file(given: str | Path, kind: str) -> Path:
    if find(given) is None and os.path.isfile(given):  # noqa: PTH113
        return Path(given)
    entry = lookup(given, kind)
    if entry.kind != kind:
        raise WeightsError(f"{given}: is a {entry.kind}, where a {kind} is asked for")
    found = located(entry)
    if found is None:
        raise WeightsError(f"{given}: is not on this machine; {cure(entry)}")
    if entry.bytes not in (None, found.stat().st_size):
        raise WeightsError(f"{given}: {found} should have {entry.bytes} bytes; {cure(entry)}")
    return found

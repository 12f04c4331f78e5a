"""From the name of a network or edge forest to its file: shipped, in the cache, or fetched into it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from deconvseg.download import TIMEOUT, download, sha256_of
from deconvseg.errors import OutputError, UsageError, WeightsError
from deconvseg.registry import Entry, find, nearest, read_registries

REGISTRY = "registry.toml"
_FOREST = "edges"
_KINDS = {"network": ("a", "network"), "forest": ("an", "edge forest")}


def weights_folder() -> Path:
    """Where the shipped files are: `weights/` of a checkout, or its copy inside the installed package.

    Raises:
        WeightsError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_shipped", package.parent / "weights"):
        if (folder / REGISTRY).is_file():
            return folder
    raise WeightsError(f"{package}: the shipped weights are missing; install deconvseg again")


def cache_folder() -> Path:
    """Where fetched files go: `DECONVSEG_HOME`, or the platform's folder for caches. It may not exist yet."""
    home = os.environ.get("DECONVSEG_HOME")
    return Path(home).absolute() if home else platformdirs.user_cache_path("deconvseg", appauthor=False)


def registry() -> dict[str, Entry]:
    """What is known by name: the shipped registry's entries, over them those of `registry.toml` in the cache
    folder, over these those of the file that `DECONVSEG_REGISTRY` names.

    Raises:
        WeightsError: one of these files cannot be read or is broken.
    """
    paths = [weights_folder() / REGISTRY]
    if (cache_folder() / REGISTRY).is_file():
        paths.append(cache_folder() / REGISTRY)
    if own := os.environ.get("DECONVSEG_REGISTRY"):
        paths.append(Path(own).absolute())
    return read_registries(paths)


def lookup(name: str) -> Entry:
    """The registry's entry of a name or alias.

    Raises:
        WeightsError: there is none; the nearest name is told.
    """
    entries = registry()
    entry = find(entries, name)
    if entry is None:
        raise WeightsError(f"{name}: no network of this name; {nearest(entries, name)}")
    return entry


def located(entry: Entry) -> Path | None:
    """The file of an entry: beside its registry, or in the cache folder; None if it is in neither."""
    return next((path for path in (entry.folder / entry.file, cache_target(entry)) if path.is_file()), None)


def cache_target(entry: Entry) -> Path:
    """Where the file of an entry is put when it is fetched."""
    return cache_folder() / entry.file


def fault(entry: Entry, path: Path) -> str:
    """What is wrong with a file of this entry, like its hash; empty if they are right or unknown."""
    try:
        if wrong := _size_fault(entry, path):
            return wrong
        if entry.sha256 is not None and (found := sha256_of(path)) != entry.sha256:
            return f"has sha256 {found}, should have {entry.sha256}"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def is_shipped(entry: Entry) -> bool:
    """Whether the file of this entry came with the installation, and is not to be had otherwise."""
    return entry.folder == weights_folder() and entry.sha256 is not None and not entry.urls


def cure(entry: Entry, path: Path) -> str:
    """What to do about a file of this entry that is at `path` and wrong."""
    if is_shipped(entry):
        return "install deconvseg again" if path.parent == entry.folder else f"remove {path}"
    if entry.urls and path == cache_target(entry):
        return f"run 'deconvseg weights pull {entry.name}'"
    return "put the right file there, or remove it"


def _size_fault(entry: Entry, path: Path) -> str:
    found = path.stat().st_size
    if entry.bytes is None or found == entry.bytes:
        return ""
    return f"has {found} bytes, should have {entry.bytes}"


def network_file(weights: str | Path) -> Path:
    """The file of a network, given by name (like `default`) or as a path. Nothing is fetched.

    Raises:
        WeightsError: neither a known name nor an existing file; a known name whose file is not on this
            machine, or is of another size than it should be; the name of an edge forest; a broken registry.
    """
    return _file(weights, "network")


def partner_of(weights: str | Path) -> str | None:
    """The name of the FCN-8s that a named network goes with in ensembles; None for files, or without one."""
    entry = find(registry(), weights) if isinstance(weights, str) else None
    return (entry.partner or None) if entry else None


def is_missing(weights: str | Path) -> bool:
    """Whether this is a known name whose file is not on this machine."""
    entry = find(registry(), weights) if isinstance(weights, str) else None
    return entry is not None and located(entry) is None


def forest_file(forest: str | Path | None = None) -> Path:
    """The structured edge forest: the shipped one, one known by name, or a file of your own.

    Raises:
        WeightsError: as for `network_file`.
    """
    return _file(_FOREST if forest is None else forest, "forest")


def _file(given: str | Path, kind: str) -> Path:
    article, word = _KINDS[kind]
    entries = registry() if isinstance(given, str) else {}
    entry = find(entries, str(given))
    if entry is None:
        path = Path(given)
        if not path.is_file():
            hint = f"; {nearest(entries, str(given))}" if entries else ""
            raise WeightsError(f"{given}: no such {word} file, nor {article} {word}'s name{hint}")
        return path
    if entry.kind != kind:
        raise WeightsError(f"{given}: is {' '.join(_KINDS[entry.kind])}, where {article} {word} is asked for")
    found = located(entry)
    if found is None and is_shipped(entry):
        raise WeightsError(f"{given}: was shipped and is missing; install deconvseg again")
    if found is None:
        raise WeightsError(
            f"{given}: is not on this machine yet; 'deconvseg weights pull {entry.name}' gets it, or says how"
        )
    if wrong := _size_fault(entry, found):
        raise WeightsError(f"{given}: {found} {wrong}; {cure(entry, found)}")
    return found


def how_to_obtain(entry: Entry) -> list[str]:
    """How a person gets a file that is not fetched, and where it has to be put; one line each."""
    target = cache_target(entry)
    lines = [entry.obtain] if entry.obtain else []
    if entry.convert_from:
        return [
            *lines,
            f"deconvseg weights convert {shlex.quote(entry.convert_from)} -o {shlex.quote(str(target))}",
            f"puts it where '{entry.name}' is looked for.",
        ]
    return [*lines, f"Put it at {target}"]


def pull(
    entry: Entry,
    *,
    offline: bool = False,
    timeout: float = TIMEOUT,
    accept: Callable[[Entry], bool] = lambda entry: entry.licence_free,
    say: Callable[[str], None] = lambda message: None,
    progress: Callable[[int], None] = lambda done: None,
) -> Path:
    """The verified file of an entry, fetched into the cache folder if it is not on this machine.

    A file that is there is taken if its hash is right, wherever it came from. Two processes may do this at
    once: one fetches and the other waits. What an interrupted call has fetched is kept for the next one.

    Args:
        entry: from `lookup`.
        offline: do not touch the network.
        timeout: seconds to wait for a connection, and for each next byte.
        accept: asked before the first byte is fetched; whether the user accepts the entry's licence.
        say: told what one may want to know.
        progress: told how many bytes are there.

    Raises:
        WeightsError: the file is got by hand and is not here; it is damaged and not ours to replace; or no
            mirror has given it.
        UsageError: it would have to be fetched, and `offline` is set or the licence not accepted.
        OutputError: the cache folder cannot be written.
    """
    target, found = cache_target(entry), located(entry)
    if found:
        wrong = fault(entry, found)
        if not wrong:
            return found
        if found != target or not entry.urls:
            raise WeightsError(f"{found}: {wrong}; {cure(entry, found)}")
        say(f"{found}: {wrong}; it has to be fetched again")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)  # for those, too, who put the file there themselves
        _refuse(entry, offline, accept)
        with _locked(target, say):
            if not target.is_file() or fault(entry, target):  # else another process was faster
                _fetch(entry, target, timeout, progress)
    except OSError as error:
        raise OutputError(
            f"{target.parent}: cannot be used as folder for weights ({error}); set DECONVSEG_HOME to another"
        ) from error
    return target


def _refuse(entry: Entry, offline: bool, accept: Callable[[Entry], bool]) -> None:
    if not entry.urls:
        how = "convert it to" if entry.convert_from else "put it at"
        raise WeightsError(f"{entry.name}: this file is got by hand; {how} {cache_target(entry)}")
    if offline:
        raise UsageError(
            f"{entry.name}: is not here, and nothing is fetched offline; put it at {cache_target(entry)}"
        )
    if not accept(entry):
        raise UsageError(
            f"{entry.name}: not fetched, for its licence ({entry.licence}) was not accepted; read it with "
            f"'deconvseg weights info {entry.name}', then give --accept-licence"
        )


def _fetch(entry: Entry, target: Path, timeout: float, progress: Callable[[int], None]) -> None:
    assert entry.bytes is not None and entry.sha256 is not None  # checked when the registry was read
    download(entry.urls, target, size=entry.bytes, sha256=entry.sha256, timeout=timeout, progress=progress)


@contextmanager
def _locked(target: Path, say: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{target.name}: another process is fetching it; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

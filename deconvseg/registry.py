"""Registries: what is known of networks and edge forests by name, read from TOML and checked."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from deconvseg.errors import WeightsError

FORMAT = 1


@dataclass(frozen=True)
class Figure:
    """A measured number.

    Attributes:
        measure: what was measured, like `mean IoU`.
        value: the number, as a fraction.
        on: the data and the setting.
        how: the command that measures it, or who published it.
    """

    measure: str
    value: float
    on: str
    how: str


@dataclass(frozen=True)
class Entry:
    """What a registry says of one file.

    Attributes:
        name: by which commands and `Segmenter` find it.
        kind: network, or edge forest.
        file: its file name, without a folder.
        description: one line.
        licence: a few words; `licence_free` says whether anyone may use it for anything.
        folder: where the registry lies; the file may lie beside it.
        bytes, sha256: of the file; None, both, where they are not known.
        urls: http(s) mirrors, tried in order; empty for a file that users get by hand.
        obtain: how to get it by hand.
        convert_from: the name of the file got by hand, if it is another than `file` and has to be converted.
        terms: the licence in a sentence.
        recipe: how it was trained.
        classes: names, background first.
        aliases: other names.
        partner: name of the FCN-8s that a network is used in an ensemble with, if nothing else is asked for.
        figures: measured numbers, the most telling one first.
    """

    name: str
    kind: Literal["network", "forest"]
    file: str
    description: str
    licence: str
    licence_free: bool
    folder: Path
    bytes: int | None = None
    sha256: str | None = None
    urls: tuple[str, ...] = ()
    obtain: str = ""
    convert_from: str = ""
    terms: str = ""
    recipe: str = ""
    classes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    partner: str = ""
    figures: tuple[Figure, ...] = ()


_REQUIRED = {"kind": str, "file": str, "description": str, "licence": str, "licence_free": bool}
_OPTIONAL = {
    "bytes": int,
    "sha256": str,
    "urls": list,
    "obtain": str,
    "convert_from": str,
    "terms": str,
    "recipe": str,
    "classes": list,
    "aliases": list,
    "partner": str,
    "figures": list,
}
_FIGURE = {"measure": str, "value": float, "on": str, "how": str}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Of names and files: nothing that leads into another folder, hides a file or is an option."""


def read_registries(paths: Collection[Path]) -> dict[str, Entry]:
    """The entries of several registries by name; a later registry's entry or alias wins over an earlier's.

    Raises:
        WeightsError: a registry cannot be read, has an unknown or missing key or an unfit value, or two
            entries have the same file or alias.
    """
    merged: dict[str, Entry] = {}
    for path in paths:
        own = _read(path)
        taken = {alias for entry in own.values() for alias in entry.aliases} | own.keys()
        merged = {name: replace(e, aliases=_without(e.aliases, taken)) for name, e in merged.items()} | own
        _refuse_twice(path, merged)
    return merged


def find(entries: Mapping[str, Entry], name: str) -> Entry | None:
    """The entry of a name or an alias."""
    return entries.get(name) or next((entry for entry in entries.values() if name in entry.aliases), None)


def nearest(entries: Mapping[str, Entry], name: str) -> str:
    """What to add to an error about an unknown name: the name that was meant, or all there are."""
    known = sorted({*entries, *(alias for entry in entries.values() for alias in entry.aliases)})
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"


class _FaultError(Exception):
    """What is wrong, without the file's name."""


def _read(path: Path) -> dict[str, Entry]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(
            f"{path}: this registry of networks cannot be read ({error}); mend it, or take it away"
        ) from error
    try:
        if table.get("format") != FORMAT:
            raise _FaultError(f"format = {table.get('format')!r}; this version reads format = {FORMAT}")
        _check_types("", table, {"format": int}, {"weights": dict})
        entries = {name: _entry(name, given, path.parent) for name, given in table.get("weights", {}).items()}
        aliases = [alias for entry in entries.values() for alias in entry.aliases]
        for alias in aliases:
            if aliases.count(alias) > 1:
                raise _FaultError(f"alias '{alias}' is given twice; change one")
    except _FaultError as error:
        raise WeightsError(f"{path}: {error}") from error
    return entries


def _entry(name: str, given: Any, folder: Path) -> Entry:
    where = f"weights.{name}: "
    if not _NAME.fullmatch(name):
        raise _FaultError(
            f"{where}a name has letters, digits and . _ + - alone and starts with one of the first"
        )
    if not isinstance(given, dict):
        raise _FaultError(f"{where}should be a table, [weights.{name}]")
    _check_types(where, given, _REQUIRED, _OPTIONAL)
    for key in ("urls", "classes", "aliases"):
        if not all(isinstance(item, str) for item in given.get(key, ())):
            raise _FaultError(f"{where}{key} should be a list of strings")
    _check_values(where, given)
    figures = tuple(_figure(f"{where}figures: ", figure) for figure in given.get("figures", ()))
    lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    return Entry(name=name, folder=folder, **{**given, **lists, "figures": figures})


def _figure(where: str, given: Any) -> Figure:
    if not isinstance(given, dict):
        raise _FaultError(f"{where}each should be a table, [[weights.NAME.figures]]")
    _check_types(where, given, _FIGURE, {})
    return Figure(**given)


def _check_types(
    where: str, given: Mapping[str, Any], required: Mapping[str, type], optional: Mapping[str, type]
) -> None:
    for key in required:
        if key not in given:
            raise _FaultError(f"{where}{key} is missing")
    known = {**required, **optional}
    for key, value in given.items():
        if key not in known:
            meant = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise _FaultError(f"{where}unknown key '{key}'; did you mean '{meant}'?")
        if type(value) is not known[key]:
            raise _FaultError(f"{where}{key} = {value!r} should be of type {known[key].__name__}")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isprintable():
                raise _FaultError(f"{where}{key} should be one line, without control characters")


def _check_values(where: str, given: Mapping[str, Any]) -> None:
    if given["kind"] not in ("network", "forest"):
        raise _FaultError(f"{where}kind = {given['kind']!r} should be network or forest")
    if not _NAME.fullmatch(given["file"]) or given["file"].endswith(".part"):
        raise _FaultError(f"{where}file = {given['file']!r} should be a plain file name, without a folder")
    if ("bytes" in given) != ("sha256" in given):
        raise _FaultError(f"{where}bytes and sha256 belong together; give both or none")
    if given.get("bytes", 1) < 1:
        raise _FaultError(f"{where}bytes = {given['bytes']} should be at least 1")
    if not re.fullmatch(r"[0-9a-f]{64}", given.get("sha256", "0" * 64)):
        raise _FaultError(f"{where}sha256 should be 64 digits 0 to 9 and a to f")
    if given.get("urls") and "sha256" not in given:
        raise _FaultError(f"{where}urls need bytes and sha256: nothing is fetched that cannot be checked")
    for position, url in enumerate(given.get("urls", ())):
        if not _is_web_address(url):  # not shown: it may hold a password
            raise _FaultError(f"{where}urls[{position}] should be http:// or https://, without a password")


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and url.isascii()
        and url.isprintable()
        and " " not in url
    )


def _refuse_twice(path: Path, entries: Mapping[str, Entry]) -> None:
    files: dict[str, str] = {}
    for entry in entries.values():
        other = files.setdefault(entry.file.casefold(), entry.name)
        if other != entry.name:
            raise WeightsError(
                f"{path}: '{other}' and '{entry.name}' have the same file {entry.file}; rename one"
            )
        for alias in entry.aliases:
            if alias in entries:
                raise WeightsError(f"{path}: alias '{alias}' of '{entry.name}' is a name as well; change one")


def _without(aliases: Collection[str], taken: Collection[str]) -> tuple[str, ...]:
    return tuple(alias for alias in aliases if alias not in taken)

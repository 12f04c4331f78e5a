"""Knows again the code that made a result: a digest of the sources and constants that shape it."""

from __future__ import annotations

import hashlib
import importlib
import re
from functools import cache
from pathlib import Path

import deconvseg

_IMPORT = re.compile(r"^\s*from (deconvseg[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


@cache
def _sources(module: str) -> dict[str, bytes]:
    """The source of a module and of all modules of this package that it imports anywhere, by name."""
    root = Path(deconvseg.__file__).parent.parent
    found: dict[str, bytes] = {}
    names = [module]
    while names:
        name = names.pop()
        stem = root.joinpath(*name.split("."))
        path = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
        if name in found or not path.is_file():  # imported before, or a name inside a module
            continue
        found[name] = path.read_bytes()
        for source, members in _IMPORT.findall(found[name].decode()):
            names += [source, *(f"{source}.{member}" for member in re.findall(r"\w+", members))]
    return found


def code_digest(module: str) -> str:
    """16 hexadecimal digits of what a module computes: with equal ones the same input has the same result.

    They stand for the version, the source of the module and of all of this package that it imports, and the
    plain constants in them as they are now, should a program have set one to another value.
    """
    sources = _sources(module)
    digest = hashlib.sha256(deconvseg.__version__.encode())
    for name in sorted(sources):
        constants = sorted(vars(importlib.import_module(name)).items())
        plain = [
            (key, value) for key, value in constants if key.isupper() and isinstance(value, int | float | str)
        ]
        digest.update(sources[name] + repr(plain).encode())
    return digest.hexdigest()[:16]

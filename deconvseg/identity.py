"""Knows again the code that made a result: a digest of the sources and constants that shape it."""

from __future__ import annotations

import ast
import hashlib
import importlib
from functools import cache
from pathlib import Path

import deconvseg


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
        for node in ast.walk(ast.parse(found[name])):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("deconvseg."):
                names += [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
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

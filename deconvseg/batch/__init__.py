"""Folder runs: many photos from files to results, resumable, shared out to shards or a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deconvseg.batch.run import FolderRun, segment_folder
    from deconvseg.batch.work import Options

__all__ = ["FolderRun", "Options", "segment_folder"]


def __getattr__(name: str) -> object:
    # At first use: the command's help needs none of their libraries.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deconvseg.batch import run

    return getattr(run, name)

"""The COCO file of a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deconvseg.batch.manifest import Manifest
from deconvseg.batch.shard import lock_moment

COCO = "coco.json"
"""The file in a results folder that holds all of its photos' `coco` results."""


def write_run_coco(
    manifest: Manifest, target: Path, settings: str | None, options: Mapping[str, str]
) -> tuple[list[str], int]:
    """Put the `coco` results of all photos that are done with these settings into one file, in order of name.

    So it depends on what the manifest says is done alone: not on stops, on the order of finishing, or on how
    the photos were shared out. Shards do it one after the other: the last one sees what all have done.

    Returns:
        A line for each result that cannot be used, and how many were made with other settings (see Record).

    Raises:
        OutputError: the file cannot be written.
    """
    from deconvseg.images.coco import merge_coco

    for _ in range(2):  # stores have no locks: another shard may have ended meanwhile
        with lock_moment(manifest.folder.root, "coco"):
            parts, others = manifest.files_of("coco", settings, options)
            problems = merge_coco(parts, target)
            manifest.folder.send(target)
        if manifest.files_of("coco", settings, options)[0] == parts:
            break
    return [manifest.folder.shown(problem) for problem in problems], others

"""The COCO file of a whole run."""

from __future__ import annotations

from pathlib import Path

from deconvseg.cli.manifest import Manifest


def write_run_coco(manifest: Manifest, target: Path) -> list[str]:
    """Put the `coco` results of all photos that the manifest says are done into one file, in order of name.

    So it depends on what is done alone: not on stops, on the order of finishing, or on how the photos were
    shared out. If the manifest grows meanwhile, by another process, the file is made again: who ends
    last sees all.

    Returns:
        A line for each result that is left out, and why.

    Raises:
        OutputError: the file cannot be written.
    """
    from deconvseg.data.coco import merge_coco

    while True:
        parts = manifest.files_of("coco")
        problems = merge_coco(parts, target)
        if manifest.files_of("coco") == parts:
            manifest.publish(target)
            return [manifest.shown(problem) for problem in problems]

"""The kinds of result, and what their files are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of result: the word in its file names, and the suffixes they can have, the usual one first.

    The suffix of a kind that is a folder is empty.
    """

    word: str
    suffixes: tuple[str, ...]


KINDS = {
    "labels": Kind("mask", (".png",)),
    "color": Kind("color", (".png",)),
    "overlay": Kind("overlay", (".jpg", ".jpeg", ".png")),
    "cutout": Kind("cutout", (".png",)),
    "masks": Kind("masks", ("",)),
    "scores": Kind("scores", (".npz",)),
    "coco": Kind("coco", (".json",)),
}
COCO = "coco.json"
"""The file in a results folder that holds all of its photos' `coco` results."""

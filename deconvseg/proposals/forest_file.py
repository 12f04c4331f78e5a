"""Reads and checks a structured edge forest in the file format that OpenCV loads.

`cv2.ximgproc.createStructuredEdgeDetection` trusts its file: a child or a bin out of range makes it read
foreign memory. Only the subset of YAML is accepted that OpenCV and the MATLAB converter write.
Format: opencv_contrib, modules/ximgproc/src/structured_edge_detection.cpp (constructor).
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import WeightsError

PATCH_SIZE = 32  # side in pixels of the window a tree looks at
INNER_SIZE = 16  # side in pixels of the segmentation in a leaf, at the window's centre
SHRINK = 2  # side in pixels of a feature cell, and the step between windows
CHANNELS, CELLS, GRID = 13, PATCH_SIZE // SHRINK, 5
FEATURES = CELLS * CELLS * CHANNELS + CHANNELS * (GRID**2 * (GRID**2 - 1) // 2)
"""7,228: 16 x 16 x 13 cells and 300 differences of a 5 x 5 grid in each of 13 channels."""
GEOMETRY = {
    "stride": SHRINK,
    "shrinkNumber": SHRINK,
    "patchSize": PATCH_SIZE,
    "patchInnerSize": INNER_SIZE,
    "numberOfGradientOrientations": 4,
    "gradientSmoothingRadius": 0,
    "regFeatureSmoothingRadius": 2,
    "ssFeatureSmoothingRadius": 8,
    "gradientNormalizationRadius": 4,
    "selfsimilarityGridSize": GRID,
}
"""What every published forest has; OpenCV derives buffer sizes and feature indices from these unchecked."""
_FIELDS = ("options", "childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")
_MAX_TEXT = 256 << 20  # bytes; eight trees of a million patches each are about 40 MB of text


@dataclass(frozen=True)
class Forest:
    """A structured edge forest of T trees, each padded to N nodes.

    A child of 0 marks a leaf. Otherwise it is the index in the same tree of the right child; the left child
    (feature < threshold) is the node just before it. Node g = tree * N + node has the edge bins
    `bins[boundaries[g * levels] : boundaries[g * levels + 1]]`: edge pixels of a 16 x 16 patch, column-major
    (row = bin % 16). Forests trained here have one level.
    """

    childs: NDArray[np.int32]  # (T, N)
    feature_ids: NDArray[np.int32]  # (T, N), 0..7227
    thresholds: NDArray[np.float32]  # (T, N), finite
    boundaries: NDArray[np.int64]  # (T * N * levels + 1,), not decreasing
    bins: NDArray[np.int32]  # (B,), 0..255
    trees_evaluated: int  # trees that vote at each position, 1..T


def check_forest(forest: Forest) -> None:
    """Raise a ValueError unless OpenCV can walk the forest within its arrays, and comes to an end."""
    trees, nodes = forest.childs.shape
    if not 1 <= forest.trees_evaluated <= trees:
        raise ValueError(f"numberOfTreesToEvaluate is {forest.trees_evaluated}, but there are {trees} trees")
    slots = len(forest.boundaries) - 1
    if slots < trees * nodes or slots % (trees * nodes):
        raise ValueError(f"edgeBoundaries holds {slots + 1} numbers, where there are {trees * nodes} nodes")
    childs, ids, bins, bounds = forest.childs, forest.feature_ids, forest.bins, forest.boundaries
    for name, values, wrong in (
        # Children after their parent: no walk goes in circles.
        ("childs", childs, (childs != 0) & ((childs < np.arange(nodes) + 2) | (childs >= nodes))),
        ("featureIds", ids, (ids < 0) | (ids >= FEATURES)),
        ("thresholds", forest.thresholds, ~np.isfinite(forest.thresholds)),
        ("edgeBoundaries", bounds, (np.diff(bounds, prepend=0) < 0) | (bounds > len(bins))),
        ("edgeBins", bins, (bins < 0) | (bins >= INNER_SIZE**2)),
    ):
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(f"{name} holds {values.flat[at]} at position {at}, which is out of range")


def read_forest(path: Path) -> Forest:
    """Read and check a forest file, `.yml` or `.yml.gz`; WeightsError if OpenCV would not survive it."""
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_packed else path.open("rb") as stream:
            text: bytes = stream.read(_MAX_TEXT + 1)
        if len(text) > _MAX_TEXT:
            raise ValueError(f"it has more than {_MAX_TEXT >> 20} MB")
        forest = _parse(text)
        check_forest(forest)
        return forest
    except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        cure = "fetch it again or train one with tools/train_edges.py"
        raise WeightsError(f"{path}: no whole edge forest ({reason}); {cure}") from error


def _parse(text: bytes) -> Forest:
    head, *sections = re.split(rb"^(\w+):", text, flags=re.MULTILINE)
    fields = dict(zip(map(bytes.decode, sections[::2]), sections[1::2], strict=True))
    whole = len(sections) == 2 * len(_FIELDS) and fields.keys() == {*_FIELDS}
    if not whole or not re.fullmatch(rb"%YAML[: ]1\.\d\s+(?:---\s+)?", head):
        raise ValueError(f"it does not consist of %YAML:1.0 and the fields {', '.join(_FIELDS)}")
    options = _options(fields["options"])
    childs = _numbers(fields, "childs", np.int32).reshape(options["numberOfTrees"], -1)
    return Forest(
        childs=childs,
        feature_ids=_numbers(fields, "featureIds", np.int32).reshape(childs.shape),
        thresholds=_numbers(fields, "thresholds", np.float32).reshape(childs.shape),
        boundaries=_numbers(fields, "edgeBoundaries", np.int64),
        bins=_numbers(fields, "edgeBins", np.int32),
        trees_evaluated=options["numberOfTreesToEvaluate"],
    )


def _options(section: bytes) -> dict[str, int]:
    """`name: number` a line, or all in braces."""
    entries = re.sub(rb"^\s*\{(.*)\}\s*$", rb"\1", section, flags=re.DOTALL).strip()
    entry = rb"\s*(\w+)\s*:\s*(0|[1-9]\d{0,8})\s*"
    found = [re.fullmatch(entry, part) for part in re.split(rb"[,\n]", entries)]
    options = {match[1].decode(): int(match[2]) for match in found if match}
    wanted = {*GEOMETRY, "numberOfTrees", "numberOfTreesToEvaluate"}
    if len(options) != len(found) or not options.keys() >= wanted:
        raise ValueError(f"options do not hold one whole number for each of {', '.join(sorted(wanted))}")
    for name, value in GEOMETRY.items():
        if options[name] != value:
            raise ValueError(f"{name} is {options[name]}; only forests with {value} are supported")
    return options


def _numbers(fields: dict[str, bytes], name: str, dtype: Any) -> NDArray[Any]:
    """The numbers of all rows `- [1,2,...]` of a field."""
    kind, letters = (float, rb"\d\s,.eE+-") if dtype is np.float32 else (int, rb"\d\s,-")
    *parts, rest = fields[name].split(b"]")
    rows = [re.fullmatch(rb"\s*+-\s*+\[([" + letters + rb"]*+)", part) for part in parts]
    try:
        # 017 is octal to one parser and decimal to the other.
        if rest.strip() or None in rows or (kind is int and re.search(rb"(?<!\d)0\d", fields[name])):
            raise ValueError
        numbers = b",".join(row[1] for row in rows if row and row[1].strip()).split(b",")
        return np.fromiter(map(kind, numbers), dtype)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} is no list of `- [ ... ]` rows of {kind.__name__} numbers") from error

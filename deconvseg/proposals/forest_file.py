"""Reads and checks a structured edge forest in the file format that OpenCV loads.

`cv2.ximgproc.createStructuredEdgeDetection` trusts its file: a child or a bin out of range makes it read
foreign memory. So no file reaches it before `read_forest` has accepted every number in it. To make sure that
both parsers see the same numbers, only a narrow subset of YAML is accepted: the one that OpenCV and the
MATLAB converter write.
Format: opencv_contrib, modules/ximgproc/src/structured_edge_detection.cpp (constructor).
"""

from __future__ import annotations

import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import WeightsError

PATCH_SIZE = 32
"""Side in pixels of the window a tree looks at."""
INNER_SIZE = 16
"""Side in pixels of the segmentation in a leaf, at the window's centre."""
SHRINK = 2
"""Side in pixels of a feature cell, and the step between windows."""
CHANNELS = 13
CELLS = PATCH_SIZE // SHRINK
GRID = 5
FEATURES = CELLS * CELLS * CHANNELS + CHANNELS * (GRID**2 * (GRID**2 - 1) // 2)
"""7,228: 16 x 16 x 13 cells and 300 differences of a 5 x 5 grid in each of 13 channels."""

# The geometry the constants above describe. It is what every published forest has; OpenCV derives buffer
# sizes and feature indices from these numbers without checking them, so a file with others is refused.
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
_FIELDS = ("childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_WHOLE = b"0123456789 \r\n,-"
_NUMERIC = _WHOLE + b".eE+"
_MAX_DEPTH = 256
_MAX_TREES = 256
_MAX_PACKED = 64 << 20
_MAX_TEXT = 256 << 20
"""Bytes. Eight trees of a million patches each are about 40 MB of text; a small file that unpacks to
gigabytes is an attack or an accident."""


@dataclass(frozen=True)
class Forest:
    """A structured edge forest of T trees, each padded to N nodes.

    Attributes:
        childs: int32 (T, N). 0 marks a leaf. Otherwise the index in the same tree of the right child; the
            left child (feature < threshold) is the node just before it.
        feature_ids: int32 (T, N), 0..7227.
        thresholds: float32 (T, N), finite.
        boundaries: int64 (T * N * levels + 1,), not decreasing. Node g = tree * N + node has the edge bins
            `bins[boundaries[g * levels] : boundaries[g * levels + 1]]`. Forests trained here have one level.
        bins: int32 (B,), 0..255: edge pixels of a 16 x 16 patch, column-major (row = bin % 16).
        trees_evaluated: trees that vote at each position, 1..T.
    """

    childs: NDArray[np.int32]
    feature_ids: NDArray[np.int32]
    thresholds: NDArray[np.float32]
    boundaries: NDArray[np.int64]
    bins: NDArray[np.int32]
    trees_evaluated: int

    @property
    def trees(self) -> int:
        """Number of trees."""
        return int(self.childs.shape[0])

    @property
    def nodes(self) -> int:
        """Nodes of one tree, padding included."""
        return int(self.childs.shape[1])


def check_forest(forest: Forest) -> None:
    """Make sure that OpenCV can walk the forest without leaving its arrays.

    Raises:
        WeightsError: with the first fault found, in words that continue "FILE: ".
    """
    trees, nodes = forest.childs.shape
    if not 1 <= forest.trees_evaluated <= trees:
        raise WeightsError(
            f"numberOfTreesToEvaluate is {forest.trees_evaluated}, but there are {trees} trees"
        )
    if not np.isfinite(forest.thresholds).all():
        raise WeightsError("a threshold is not a finite number")
    _check_range("featureIds", forest.feature_ids, 0, FEATURES - 1)
    _check_range("edgeBins", forest.bins, 0, INNER_SIZE**2 - 1)
    for tree in range(trees):
        _check_tree(tree, forest.childs[tree])
    slots = len(forest.boundaries) - 1
    if slots < trees * nodes or slots % (trees * nodes):
        raise WeightsError(
            f"edgeBoundaries holds {slots + 1} numbers, no multiple of {trees} trees x {nodes} nodes plus one"
        )
    if forest.boundaries[0] < 0 or (np.diff(forest.boundaries) < 0).any():
        raise WeightsError("edgeBoundaries goes down somewhere: it must start at 0 or more and never fall")
    if forest.boundaries[-1] > len(forest.bins):
        raise WeightsError(
            f"edgeBoundaries ends at {forest.boundaries[-1]}, but edgeBins holds {len(forest.bins)} numbers"
        )


def _check_range(field: str, values: NDArray[np.int32], low: int, high: int) -> None:
    outside = np.flatnonzero((values < low) | (values > high))
    if outside.size:
        value = values.reshape(-1)[outside[0]]
        raise WeightsError(f"{field} holds {value} at position {outside[0]}; allowed are {low}..{high}")


def _check_tree(tree: int, childs: NDArray[np.int32]) -> None:
    nodes = len(childs)
    outside = np.flatnonzero((childs != 0) & ((childs < 1) | (childs >= nodes)))
    if outside.size:
        raise WeightsError(
            f"node {outside[0]} of tree {tree} has child {childs[outside[0]]}, but the tree has {nodes} nodes"
        )
    reached = np.zeros(nodes, bool)
    level = np.zeros(1, np.int64)
    depth = 0
    while level.size:
        if (depth := depth + 1) > _MAX_DEPTH:
            raise WeightsError(f"tree {tree} is over {_MAX_DEPTH} nodes deep, which no trained one is")
        if reached[level].any() or np.unique(level).size != level.size:
            raise WeightsError(f"tree {tree} is no tree: a node is reached twice (a loop or a shared branch)")
        reached[level] = True
        right = childs[level[childs[level] > 0]].astype(np.int64)
        level = np.concatenate((right - 1, right))


def read_forest(path: Path) -> Forest:
    """Read and check a forest file, `.yml` or `.yml.gz` (recognised by its content, not its name).

    Raises:
        WeightsError: if the file is missing, damaged, too large, or holds anything that OpenCV would not
            survive. The message is one line that starts with the file's path.
    """
    try:
        forest = _parse(_unpack(path))
        check_forest(forest)
    except WeightsError as error:
        cure = "fetch it again or train one with tools/train_edges.py"
        raise WeightsError(f"{path}: {error}; {cure}") from error.__cause__
    return forest


def _unpack(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            packed = file.read(_MAX_PACKED + 1)
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror or error})") from error
    if len(packed) > _MAX_PACKED:
        raise WeightsError(f"larger than {_MAX_PACKED >> 20} MB, which no edge forest is")
    if packed[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(packed, _MAX_TEXT + 1)
        except zlib.error as error:
            raise WeightsError(f"damaged gzip data ({error})") from error
        if len(data) <= _MAX_TEXT and not unpacker.eof:
            raise WeightsError("the gzip data ends too early: the file is cut off")
        if unpacker.unused_data:
            raise WeightsError("there is something behind the gzip data")
    else:
        data = packed
    if len(data) > _MAX_TEXT:
        raise WeightsError(f"unpacks to more than {_MAX_TEXT >> 20} MB, which no edge forest does")
    return data


def _parse(text: bytes) -> Forest:
    header = re.match(rb"%YAML[: ]1\.[0-9]\r?\n(?:---\r?\n)?", text)
    if header is None:
        raise WeightsError("not a forest file: it does not begin with %YAML:1.0")
    body = text[header.end() :]
    if body.translate(None, _LETTERS + _NUMERIC + b"_:[]{}"):
        raise WeightsError("holds characters that a forest file does not have (quotes, tabs, comments, tags)")
    sections: dict[str, bytes] = {}
    keys = list(re.finditer(rb"^([A-Za-z_]\w*):", body, re.MULTILINE))
    if not keys or body[: keys[0].start()].strip():
        raise WeightsError("not a forest file: no `options:` at the start of a line")
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        name = key[1].decode()
        if name in sections:
            raise WeightsError(f"the field `{name}` occurs twice")
        sections[name] = body[key.end() : following.start() if following else len(body)]
    expected = ("options", *_FIELDS)
    for name in expected:
        if name not in sections:
            raise WeightsError(f"the field `{name}` is missing")
    for name in sections:
        if name not in expected:
            raise WeightsError(f"there is a field `{name}`, which a forest file does not have")
    return _assemble(_options(sections["options"].decode()), {name: sections[name] for name in _FIELDS})


def _options(section: str) -> dict[str, int]:
    entry = r"\s*(\w+)\s*:\s*(-?(?:0|[1-9]\d{0,8}))\s*"
    flow = re.fullmatch(rf"\s*\{{({entry}(?:,{entry})*)\}}\s*", section)
    lines = flow[1].split(",") if flow else section.strip().splitlines()
    options: dict[str, int] = {}
    for line in lines:
        match = re.fullmatch(entry, line)
        if match is None or match[1] in options:
            raise WeightsError(f"`options` holds a line that is no `name: number`: {line.strip()[:40]!r}")
        options[match[1]] = int(match[2])
    for name in (*GEOMETRY, "numberOfTrees", "numberOfTreesToEvaluate"):
        if name not in options:
            raise WeightsError(f"`options` lacks `{name}`")
        if name in GEOMETRY and options[name] != GEOMETRY[name]:
            raise WeightsError(
                f"`{name}` is {options[name]}; only forests with {GEOMETRY[name]} are supported"
            )
    if not 1 <= options["numberOfTrees"] <= _MAX_TREES:
        raise WeightsError(f"numberOfTrees is {options['numberOfTrees']}; allowed are 1..{_MAX_TREES}")
    return options


def _assemble(options: dict[str, int], sections: dict[str, bytes]) -> Forest:
    trees = options["numberOfTrees"]
    numbers = {name: _numbers(name, sections[name]) for name in _FIELDS}
    count = len(numbers["childs"])
    if count == 0 or count % trees:
        raise WeightsError(f"`childs` holds {count} numbers, which {trees} trees cannot share evenly")
    for name in ("featureIds", "thresholds"):
        if len(numbers[name]) != count:
            raise WeightsError(f"`{name}` holds {len(numbers[name])} numbers, but `childs` {count}")
    if len(numbers["edgeBoundaries"]) < 2:
        raise WeightsError("`edgeBoundaries` is empty")
    shape = (trees, count // trees)
    return Forest(
        childs=numbers["childs"].astype(np.int32).reshape(shape),
        feature_ids=numbers["featureIds"].astype(np.int32).reshape(shape),
        thresholds=numbers["thresholds"].astype(np.float32).reshape(shape),
        boundaries=numbers["edgeBoundaries"].astype(np.int64),
        bins=numbers["edgeBins"].astype(np.int32),
        trees_evaluated=options["numberOfTreesToEvaluate"],
    )


_ROW = re.compile(rb"\s*+-\s*+\[([^\[\]]*+)\]")


def _numbers(name: str, section: bytes) -> NDArray[np.float64]:
    # float64 holds every whole number up to 2**53 exactly, so one type does for all fields.
    whole = name != "thresholds"
    wanted = "whole numbers" if whole else "numbers"
    fault = WeightsError(f"`{name}` is not a list of `- [ ... ]` rows of {wanted}")
    rows: list[NDArray[np.float64]] = []
    end = 0
    # Possessive and anchored: a search for the next row would take quadratic time over a run of spaces.
    while row := _ROW.match(section, end):
        end = row.end()
        content = row[1].strip()
        if content.translate(None, _WHOLE if whole else _NUMERIC) or (whole and _has_leading_zero(content)):
            raise fault
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            try:
                values = np.fromstring(content, np.float64, sep=",") if content else np.zeros(0)
            except (DeprecationWarning, ValueError) as error:
                raise fault from error
        if content and len(values) != content.count(b",") + 1:
            raise fault
        rows.append(values)
    if section[end:].strip():
        raise fault
    numbers = np.concatenate(rows) if rows else np.zeros(0)
    if whole and numbers.size and np.abs(numbers).max() >= 2**31:
        raise WeightsError(f"`{name}` holds a number beyond 32 bits")
    return numbers


def _has_leading_zero(content: bytes) -> bool:
    """Whether a whole number like 017 occurs, which is octal to one parser and decimal to another."""
    digits = np.frombuffer(b" " + content + b" ", np.uint8)
    digit = (digits >= ord("0")) & (digits <= ord("9"))
    return bool((~digit[:-2] & (digits[1:-1] == ord("0")) & digit[2:]).any())

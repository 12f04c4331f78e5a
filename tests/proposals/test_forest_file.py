"""Forest files: what is written is read back and loaded by OpenCV; whatever is damaged is refused in one
line."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from train_edges import write_forest

from deconvseg.errors import WeightsError
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.proposals.forest_file import Forest, read_forest

TREES, DEPTH = 8, 3
INNER, NODES = 2**DEPTH - 1, 2 ** (DEPTH + 1) - 1


def random_forest(seed: int = 0) -> Forest:
    """Eight full trees of depth 3 with random features, thresholds and leaves."""
    rng = np.random.default_rng(seed)
    childs = np.zeros((TREES, NODES), np.int32)
    childs[:, :INNER] = 2 * np.arange(INNER) + 2
    feature_ids = np.zeros_like(childs)
    feature_ids[:, :INNER] = rng.integers(0, 7228, (TREES, INNER))
    thresholds = np.zeros((TREES, NODES), np.float32)
    thresholds[:, :INNER] = np.where(
        feature_ids[:, :INNER] < 3328,
        rng.uniform(0, 0.6, (TREES, INNER)),
        rng.normal(0, 0.02, (TREES, INNER)),
    )
    counts = np.zeros((TREES, NODES), np.int64)
    counts[:, INNER:] = rng.integers(0, 40, (TREES, NODES - INNER))
    leaves = [np.sort(rng.permutation(256)[:count]) for count in counts.reshape(-1)]
    boundaries = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return Forest(childs, feature_ids, thresholds, boundaries, np.concatenate(leaves).astype(np.int32), 4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "forest.yml.gz"
    write_forest(random_forest(), path)
    return path


def text_of(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def refused(path: Path, *words: str) -> None:
    """The file is refused with one line that names it, says each of `words`, and tells what to do."""
    with pytest.raises(WeightsError) as caught:
        EdgeDetector(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert "train_edges" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["forest.yml.gz", "forest.yml"])
def test_a_written_forest_is_read_back_unchanged(tmp_path: Path, name: str) -> None:
    forest, path = random_forest(), tmp_path / name
    write_forest(forest, path)
    again = read_forest(path)
    for field in ("childs", "feature_ids", "thresholds", "boundaries", "bins"):
        np.testing.assert_array_equal(getattr(again, field), getattr(forest, field))
    assert again.trees_evaluated == forest.trees_evaluated


def test_the_same_forest_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.yml.gz", tmp_path / "b.yml.gz"]
    for path in paths:
        write_forest(random_forest(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_forest_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    forest = random_forest()
    forest.childs[2, 1] = NODES
    with pytest.raises(WeightsError, match="node 1 of tree 2"):
        write_forest(forest, tmp_path / "forest.yml")
    assert not list(tmp_path.iterdir())


def test_other_layouts_of_the_same_numbers_are_accepted(tmp_path: Path, file: Path) -> None:
    text = text_of(file).replace("---\n", "").replace("\n", "\r\n")
    head, options, rest = re.split(r"options:\r\n|(?=childs:)", text)
    flow = head + "options: { " + ", ".join(options.split("\r\n")[:-1]) + " }\r\n" + rest
    assert "options: {" in flow
    path = tmp_path / "other.yml"
    path.write_text(flow, newline="")
    np.testing.assert_array_equal(read_forest(path).bins, random_forest().bins)


def test_a_file_of_opencv_with_three_levels_of_leaves_is_accepted(tmp_path: Path) -> None:
    """Sharpened forests keep three sets of bins a node, of which OpenCV uses the first."""
    forest = random_forest()
    counts = np.zeros((TREES * NODES, 3), np.int64)
    counts[:, 0] = np.diff(forest.boundaries)
    path = tmp_path / "forest.yml"
    write_forest(replace(forest, boundaries=np.concatenate(([0], np.cumsum(counts)))), path)
    again = read_forest(path)
    np.testing.assert_array_equal(again.boundaries[::3], forest.boundaries)
    np.testing.assert_array_equal(again.bins, forest.bins)
    cv2.ximgproc.createStructuredEdgeDetection(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none.yml.gz", "No such file")


def test_a_cut_off_gzip_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])
    refused(file, "cut off")


def test_a_changed_byte_in_a_gzip_file_is_refused(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-6] ^= 0xFF
    file.write_bytes(data)
    refused(file, "damaged")


def test_something_behind_the_gzip_data_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")
    refused(file, "behind")


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_without_unpacking_it(file: Path) -> None:
    packer = zlib.compressobj(1, wbits=31)
    block = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    file.write_bytes(block + again * 300)
    refused(file, "256 MB")


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01\x02", b"<html>not found</html>", b"%YAML:1.0\n", b"\x89PNG\r\n"]
)
def test_another_kind_of_file_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    refused(file, "not a forest file")


@pytest.mark.parametrize(
    "field", ["childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins", "options"]
)
def test_a_missing_or_repeated_field_is_named(tmp_path: Path, file: Path, field: str) -> None:
    text, path = text_of(file), tmp_path / "bad.yml"
    section = re.search(rf"^{field}:.*?(?=^\w|\Z)", text, re.DOTALL | re.MULTILINE)
    assert section
    path.write_text(text.replace(section[0], ""))
    refused(path, f"`{field}` is missing")
    path.write_text(text + section[0])
    refused(path, f"`{field}` occurs twice")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"numberOfTrees: 8", "numberOfTrees: 7", "7 trees"),
        (r"numberOfTrees: 8", "numberOfTrees: 0", "numberOfTrees is 0"),
        (r"numberOfTrees: 8", "numberOfTrees: 999999999", "numberOfTrees is 999999999"),
        (r"numberOfTreesToEvaluate: 4", "numberOfTreesToEvaluate: 9", "numberOfTreesToEvaluate is 9"),
        (r"   stride: 2\n", "", "`stride`"),
        (r"stride: 2", "stride: 0", "`stride` is 0"),
        (r"patchSize: 32", "patchSize: 1024", "`patchSize` is 1024"),
        (r"stride: 2", "stride: two", "options"),
        (r"childs:\n   - \[2", "childs:\n   - [1, 2", "`childs` holds 121"),
        (r"childs:\n   - \[2", "childs:\n   - [2.5", "`childs`"),
        (r"childs:\n   - \[2", "childs:\n   - [02", "`childs`"),
        (r"childs:\n   - \[2", "childs:\n   - [2 2", "`childs`"),
        (r"childs:\n   - \[2", "childs:\n   - [99999999999", "32 bits"),
        (r"thresholds:\n   - \[", "thresholds:\n   - [1e999,", "`thresholds`"),
        (r"thresholds:\n   - \[[^,]*", "thresholds:\n   - [1e999", "finite"),
        (r"thresholds:\n   - \[[^,]*", "thresholds:\n   - [nan", "`thresholds`"),
        (r"edgeBins:\n", 'edgeBins: !!binary "', "characters"),
        (r"edgeBins:\n", "edgeBins: &anchor\n", "characters"),
        (r"edgeBins:\n", "extra: 1\nedgeBins:\n", "`extra`"),
        (r"edgeBins:\n", "edgeBins:\n   word\n", "`edgeBins`"),
    ],
)
def test_damaged_text_is_refused(tmp_path: Path, file: Path, old: str, new: str, words: str) -> None:
    text, count = re.subn(old, new, text_of(file), count=1)
    assert count == 1
    path = tmp_path / "bad.yml"
    path.write_text(text)
    refused(path, words)


@pytest.mark.parametrize(
    ("field", "index", "value", "words"),
    [
        ("childs", 3 * NODES, NODES, f"node 0 of tree 3 has child {NODES}"),
        ("childs", 3 * NODES + 1, -4, "node 1 of tree 3 has child -4"),
        ("childs", 2 * NODES + 5, 2, "tree 2 is no tree"),
        ("childs", 2 * NODES, 1, "tree 2 is no tree"),
        ("childs", 2 * NODES + 1, 6, "tree 2 is no tree"),
        ("featureIds", 7, 7228, "featureIds holds 7228"),
        ("featureIds", 7, -1, "featureIds holds -1"),
        ("edgeBins", 20, 256, "edgeBins holds 256"),
        ("edgeBins", 20, -1, "edgeBins holds -1"),
        ("edgeBoundaries", 0, -1, "edgeBoundaries"),
        ("edgeBoundaries", 9, 2_000_000_000, "edgeBoundaries"),
        ("edgeBoundaries", TREES * NODES, 2_000_000_000, "edgeBins holds"),
    ],
)
def test_a_number_out_of_range_is_refused(
    tmp_path: Path, file: Path, field: str, index: int, value: int, words: str
) -> None:
    """A loop, a shared branch, a child, feature, bin or range outside: what OpenCV would follow out of its
    memory."""
    text = text_of(file)
    section = re.search(rf"^{field}:(.*?)(?=^\w|\Z)", text, re.DOTALL | re.MULTILINE)
    assert section
    numbers = list(re.finditer(r"-?\d+", section[1]))
    start, end = (section.start(1) + edge for edge in numbers[index].span())
    path = tmp_path / "bad.yml"
    path.write_text(text[:start] + str(value) + text[end:])
    refused(path, words)


def test_too_few_boundaries_are_refused(tmp_path: Path) -> None:
    forest = random_forest()
    with pytest.raises(WeightsError, match="edgeBoundaries holds"):
        write_forest(replace(forest, boundaries=forest.boundaries[:-1]), tmp_path / "forest.yml")

"""Forest files: what is written is read back and loaded by OpenCV; what is damaged is refused in one line."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from train_edges import write_forest

from deconvseg.errors import WeightsError
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.proposals.forest_file import Forest, check_forest, read_forest

TREES, NODES = 8, 15


@pytest.fixture
def file(tmp_path: Path, hand_made_forest: Forest) -> Path:
    path = tmp_path / "forest.yml.gz"
    write_forest(hand_made_forest, path)
    return path


def text_of(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def refused(path: Path, *words: str) -> None:
    """The file is refused with one line that names it, says each of `words`, and tells what to do."""
    with pytest.raises(WeightsError) as caught:
        EdgeDetector(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path))
    assert all(word in message for word in ("train_edges", *words)), message


@pytest.mark.parametrize("name", ["forest.yml.gz", "forest.yml"])
def test_a_written_forest_is_read_back_unchanged(tmp_path: Path, hand_made_forest: Forest, name: str) -> None:
    paths = [tmp_path / "one" / name, tmp_path / "two" / name]
    for path in paths:
        write_forest(hand_made_forest, path)
    again = read_forest(paths[0])
    for field, value in vars(hand_made_forest).items():
        np.testing.assert_array_equal(getattr(again, field), value)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_forest_that_could_not_be_read_is_not_written(tmp_path: Path, hand_made_forest: Forest) -> None:
    childs = hand_made_forest.childs.copy()
    childs[2, 1] = NODES
    few = hand_made_forest.boundaries[:-1]
    for forest in (replace(hand_made_forest, childs=childs), replace(hand_made_forest, boundaries=few)):
        with pytest.raises(ValueError, match=r"childs holds 15 at position 31|edgeBoundaries holds"):
            write_forest(forest, tmp_path / "forest.yml")
    assert not list(tmp_path.iterdir())


def test_other_layouts_of_the_same_numbers_are_accepted(tmp_path: Path, file: Path) -> None:
    text = text_of(file).replace("---\n", "").replace("\n", "\r\n")
    head, options, rest = re.split(r"options:\r\n|(?=childs:)", text)
    flow = head + "options: { " + ", ".join(options.split("\r\n")[:-1]) + " }\r\n" + rest
    path = tmp_path / "other.yml"
    path.write_text(flow, newline="")
    np.testing.assert_array_equal(read_forest(path).bins, read_forest(file).bins)


def test_a_file_of_opencv_with_three_levels_of_leaves_is_accepted(
    tmp_path: Path, hand_made_forest: Forest
) -> None:
    """Sharpened forests keep three sets of bins a node, of which OpenCV uses the first."""
    counts = np.zeros((TREES * NODES, 3), np.int64)
    counts[:, 0] = np.diff(hand_made_forest.boundaries)
    path = tmp_path / "forest.yml"
    write_forest(replace(hand_made_forest, boundaries=np.concatenate(([0], np.cumsum(counts)))), path)
    assert EdgeDetector(path).detect(np.zeros((20, 20, 3), np.uint8)).shape == (20, 20)


def test_a_forest_cut_off_anywhere_is_refused(tmp_path: Path, file: Path) -> None:
    packed, text = file.read_bytes(), text_of(file)
    for path, content in ((tmp_path / "cut.yml.gz", packed), (tmp_path / "cut.yml", text.encode())):
        for part in (0, 10, len(content) // 3, len(content) // 2, len(content) - 9):
            path.write_bytes(content[:part])
            refused(path)
    for place in range(20, len(packed), len(packed) // 10):
        damaged = bytearray(packed)
        damaged[place] ^= 0x55
        file.write_bytes(damaged)
        refused(file)
    refused(tmp_path / "none.yml", "No such file")
    refused(tmp_path, "directory")


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(file: Path) -> None:
    packer = zlib.compressobj(1, wbits=31)
    block = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    file.write_bytes(block + again * 300)
    refused(file, "256 MB")


def test_another_kind_of_file_is_refused(file: Path) -> None:
    for content in (b"\x00\x01\x02", b"<html>not found</html>", b"%YAML:1.0\n"):
        file.write_bytes(content)
        refused(file, "does not consist of")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"numberOfTrees: 8", "numberOfTrees: 0", "reshape"),
        (r"numberOfTreesToEvaluate: 4", "numberOfTreesToEvaluate: 9", "numberOfTreesToEvaluate is 9"),
        (r"   stride: 2\n", "", "stride"),
        (r"stride: 2", "stride: 0", "stride is 0"),
        (r"stride: 2", "stride: two", "options"),
        (r"childs:\n   - \[2", "childs:\n   - [2.5", "childs"),
        (r"childs:\n   - \[2", "childs:\n   - [02", "childs"),
        (r"childs:\n   - \[2", "childs:\n   - [2 2", "childs"),
        (r"childs:\n   - \[2", "childs:\n   - [99999999999", "childs"),
        (r"thresholds:\n   - \[", "thresholds:\n   - [1e999,", "reshape"),
        (r"thresholds:\n   - \[[^,]*", "thresholds:\n   - [1e999", "thresholds holds inf"),
        (r"thresholds:\n   - \[[^,]*", "thresholds:\n   - [nan", "thresholds"),
        (r"edgeBins:\n", 'edgeBins: !!binary "', "edgeBins"),
        (r"edgeBins:\n", "edgeBins:\n# comment\n", "edgeBins"),
        (r"edgeBins:\n", "extra: 1\nedgeBins:\n", "consist"),
        (r"edgeBins:\n", "childs:\n   - [2]\nedgeBins:\n", "consist"),
        (r"options:", "other:", "consist"),
        (r"(?s)edgeBins:.*", "", "consist"),
    ],
)
def test_damaged_text_is_refused(tmp_path: Path, file: Path, old: str, new: str, words: str) -> None:
    text, count = re.subn(old, new, text_of(file), count=1)
    assert count == 1
    path = tmp_path / "bad.yml"
    path.write_text(text)
    refused(path, words)


@pytest.mark.parametrize(
    ("name", "field", "index", "value"),
    [
        ("childs", "childs", 3 * NODES, NODES),
        ("childs", "childs", 3 * NODES + 1, -4),
        ("childs", "childs", 2 * NODES + 5, 2),
        ("childs", "childs", 2 * NODES, 1),
        ("featureIds", "feature_ids", 7, 7228),
        ("featureIds", "feature_ids", 7, -1),
        ("edgeBins", "bins", 20, 256),
        ("edgeBins", "bins", 20, -1),
        ("edgeBoundaries", "boundaries", 0, -1),
        ("edgeBoundaries", "boundaries", 9, 2_000_000_000),
        ("edgeBoundaries", "boundaries", TREES * NODES, 2_000_000_000),
    ],
)
def test_a_number_out_of_range_is_refused(
    hand_made_forest: Forest, name: str, field: str, index: int, value: int
) -> None:
    """A loop, a child, feature, bin or range outside: what OpenCV would follow out of its memory."""
    values = getattr(hand_made_forest, field).copy()
    values.flat[index] = value
    with pytest.raises(ValueError, match=rf"{name} holds {value} at position {index}, which is out of range"):
        check_forest(replace(hand_made_forest, **{field: values}))

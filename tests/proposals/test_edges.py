"""Edge detection: OpenCV's answer is our own NumPy evaluation of the forest, on photos of every size."""

from __future__ import annotations

import gzip
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deconvseg.errors import MissingDependencyError, WeightsError
from deconvseg.proposals import edges as opencv_module
from deconvseg.proposals.edges import EdgeDetector

from ..forests import Forest, window_features, write_forest


def evaluate(forest: Forest, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The forest's edge map of an image: trees walked one window at a time, from 16 pixels outside on."""
    height, width = image.shape[:2]
    votes = np.zeros((height + 64, width + 64), np.float32)
    for row, column in np.ndindex(round(height / 2) + 8, round(width / 2) + 8):
        features = window_features(image, 2 * np.array([[row, column]]) - 16)[0]
        for turn in range(4):
            tree = forest[((row + column) % 8 + turn) % 8]
            node = tree[0]
            while node.child:
                node = tree[node.child - int(features[node.feature] < node.threshold)]
            for edge in node.edges:
                votes[2 * row + edge % 16, 2 * column + edge // 16] += 2 * 4 / 256 / 4
    triangle = np.array([0.25, 0.5, 0.25], np.float32)
    return cv2.sepFilter2D(votes, -1, triangle, triangle)[16 : 16 + height, 16 : 16 + width]


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth coloured noise with a brighter rectangle in it."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.uniform(0, 255, (height, width, 3)), (0, 0), 3) * 2 - 128
    noise[height // 3 :, width // 4 : width // 2] += 60
    return np.clip(noise, 0, 255).astype(np.uint8)


def test_opencv_walks_a_hand_made_forest_as_numpy_does(tmp_path: Path, hand_made_forest: Forest) -> None:
    """So features, their order, the trees' schedule, the leaves and our own border are all as described."""
    image = photo(21, 32)
    write_forest(hand_made_forest, tmp_path / "forest.yml.gz")
    expected = evaluate(hand_made_forest, image)
    edges = EdgeDetector(tmp_path / "forest.yml.gz").detect(image)
    assert expected.std() > 0.01
    np.testing.assert_allclose(edges, expected, atol=1e-6)


def test_a_file_that_is_no_whole_forest_is_refused(tmp_path: Path, hand_made_forest: Forest) -> None:
    """Cut off, damaged, of another kind, a folder or not there: one line that names it and the cure."""
    write_forest(hand_made_forest, tmp_path / "forest.yml.gz")
    packed = (tmp_path / "forest.yml.gz").read_bytes()
    text = gzip.decompress(packed)
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0x55
    for content in (b"", packed[:10], packed[: len(packed) // 2], packed[:-9], bytes(damaged), text):
        (tmp_path / "bad.yml.gz").write_bytes(content)
        refused(tmp_path / "bad.yml.gz")
    lacking, cut = text.replace(b"\nthresholds:", b"\nother:"), text[: len(text) * 9 // 10]
    for content in (b"", b"\x00\x01", b"<html>not found</html>", b"%YAML:1.0\n", packed, lacking, cut):
        (tmp_path / "bad.yml").write_bytes(content)
        refused(tmp_path / "bad.yml")
    refused(tmp_path / "none.yml", "No such file")
    refused(tmp_path, "directory")


def refused(path: Path, words: str = "no whole edge forest") -> None:
    with pytest.raises(WeightsError, match=rf"{words}.*leave --forest out") as caught:
        EdgeDetector(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


def test_the_shipped_forest_finds_the_outline_of_a_thing_and_not_its_texture(detector: EdgeDetector) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(90, 12, (160, 200, 3))
    disc = np.hypot(*np.meshgrid(np.arange(200) - 100, np.arange(160) - 80))
    image[disc < 50] += (70, 30, -20)
    edges = detector.detect(np.clip(image, 0, 255).astype(np.uint8))
    outline, elsewhere = edges[np.abs(disc - 50) < 1.5], edges[np.abs(disc - 50) > 8]
    assert (outline > 5 * elsewhere.mean()).mean() > 0.95
    assert outline.mean() > 10 * elsewhere.mean()
    thin, _ = detector.thin(edges)
    assert 0 < (thin > 0).sum() < (edges > 0).sum() / 2


def test_a_clash_of_two_opencv_wheels_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, shipped_forest: Path
) -> None:
    names = ["opencv-python", "opencv-contrib-python-headless", "numpy"]
    wheels = [SimpleNamespace(metadata={"Name": name}) for name in names]
    monkeypatch.setattr(opencv_module.importlib, "import_module", lambda name: SimpleNamespace())
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: wheels)
    with pytest.raises(MissingDependencyError) as caught:
        EdgeDetector(shipped_forest)
    assert str(caught.value) == (
        "OpenCV has no structured edges (cv2.ximgproc); installed: opencv-contrib-python-headless, "
        "opencv-python; run: pip uninstall -y opencv-contrib-python-headless opencv-python && "
        "pip install opencv-contrib-python-headless"
    )


def test_a_missing_opencv_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, shipped_forest: Path
) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(opencv_module.importlib, "import_module", absent)
    monkeypatch.setattr(importlib.metadata, "distributions", list)
    with pytest.raises(MissingDependencyError, match="no OpenCV wheel; run: pip install opencv-contrib"):
        EdgeDetector(shipped_forest)

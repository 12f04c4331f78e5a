"""Boxes: hand-computed squares, ranking, dropping, and EdgeBoxes' traps."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deconvseg.proposals import boxes as boxes_module
from deconvseg.proposals.boxes import around_objects, distinct, edge_boxes, find_boxes, propose, squared
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.settings import PRESETS, Settings


def scene(height: int, width: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A textured photo with one bright ellipse, and the ellipse's tight box."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.uniform(40, 120, (height, width, 3)), (0, 0), 1.5)
    centre, axes = (width * 55 // 100, height // 2), (width // 5, height * 3 // 10)
    cv2.ellipse(image, centre, axes, 0, 0, 360, (200, 150, 90), -1)
    image += rng.normal(0, 6, image.shape)
    low, high = np.subtract(centre, axes), np.add(centre, axes) + 1
    return np.clip(image, 0, 255).astype(np.uint8), np.concatenate((low, high)).astype(np.float32)


def fake_search(
    monkeypatch: pytest.MonkeyPatch, *xywh: tuple[int, int, int, int], columns: tuple[int, ...] = (1,)
) -> NDArray[np.float32]:
    """OpenCV's EdgeBoxes answers with given boxes, and with falling scores, which are returned."""
    scores = np.linspace(0.5, 0.1, len(xywh), dtype=np.float32)
    answer = np.array(xywh, np.int32), scores.reshape(-1, *columns)
    search = SimpleNamespace(getBoundingBoxes=lambda edges, orientation: answer)
    fake = SimpleNamespace(ximgproc=SimpleNamespace(createEdgeBoxes=lambda **settings: search))
    monkeypatch.setattr(boxes_module, "opencv", lambda: fake)
    return scores


class BlindDetector:
    """Sees nothing; remembers the size it was shown."""

    def detect(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.shape = image.shape[:2]
        return np.zeros(self.shape, np.float32)

    def thin(self, edges: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return edges, edges


def test_squares_around_objects_by_hand() -> None:
    """The largest first; what touches and is of another class is an object of its own, a speck is none."""
    labels = np.zeros((50, 80), np.uint8)
    labels[10:20, 30:50], labels[20:25, 30:50], labels[0:30, 0:10], labels[49, 79:] = 3, 5, 3, 7
    squares = [[-13, -3, 23, 33], [28, 3, 52, 27], [28, 10.5, 52, 34.5]]
    assert around_objects(labels, 50, 80).tolist() == squares
    assert around_objects(labels[::2, ::2], 50, 80).tolist()[0] == squares[0]
    assert around_objects(0 * labels, 50, 80).shape == (0, 4)


def test_near_copies_are_dropped_and_order_is_kept() -> None:
    boxes = np.array([[0, 0, 100, 100], [1, 0, 101, 100], [50, 0, 150, 100], [0, 0, 100, 100]], np.float32)
    assert distinct(boxes, 9, overlap=0.9).tolist() == [0, 2]
    assert distinct(boxes, 9, overlap=0.99).tolist() == [0, 1, 2]
    assert distinct(boxes, 1, 0.7).tolist() == [0]


def test_both_shapes_of_scores_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV 4 returns (N, 1), OpenCV 5 (N,); both count from 1 and include the last pixel."""
    for columns in ((1,), ()):
        scores = fake_search(monkeypatch, (11, 21, 50, 40), (1, 1, 199, 99), columns=columns)
        found = edge_boxes(np.zeros((100, 200), np.float32), np.zeros((100, 200), np.float32))
        np.testing.assert_array_equal(found.xyxy, [[10, 20, 61, 61], [0, 0, 200, 100]])
        np.testing.assert_array_equal(found.scores, scores)
        assert found.xyxy.dtype == found.scores.dtype == np.float32


def test_a_frame_of_edges_is_found_to_the_pixel() -> None:
    edges, orientation = np.zeros((2, 200, 260), np.float32)
    edges[50:151, [60, 180]] = 1
    edges[[50, 150], 60:181] = 1
    orientation[[50, 150], 62:179] = np.pi / 2
    best = edge_boxes(edges, orientation).xyxy[0]
    assert np.abs(best - [60, 50, 181, 151]).max() <= 3


def test_a_photo_gets_the_same_boxes_alone_and_third_in_a_run(detector: EdgeDetector) -> None:
    """OpenCV's EdgeBoxes object is wrong from its second image on, so each photo must get its own."""
    images = [scene(150, 200, seed)[0] for seed in range(3)]
    alone = find_boxes(images[2], detector)
    for image in images[:2]:
        find_boxes(image, detector)
    third = find_boxes(images[2], detector)
    np.testing.assert_array_equal(third.xyxy, alone.xyxy)
    np.testing.assert_array_equal(third.scores, alone.scores)


def test_boxes_lie_in_the_image_best_first(detector: EdgeDetector) -> None:
    image, target = scene(240, 320)
    boxes = find_boxes(image, detector, count=200)
    low, high = boxes.xyxy[:, :2], boxes.xyxy[:, 2:]
    assert 10 < len(boxes.xyxy) <= 200 and (np.diff(boxes.scores) <= 0).all()
    assert ((low >= 0) & (low < high) & (high <= (320, 240))).all()
    assert np.abs(boxes.xyxy[:10] - target).max(1).min() < 12  # the thing itself has one of the best boxes


def test_proposals_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enlarged by 1.2, the shorter side compared with min_side, squared by the longer; the order stays."""
    kept, narrow, copy, second = (101, 101, 99, 79), (301, 1, 30, 300), (101, 101, 99, 79), (301, 201, 99, 99)
    fake_search(monkeypatch, narrow, kept, copy, second)
    image = np.zeros((400, 600, 3), np.uint8)
    found = propose(image, BlindDetector(), Settings(min_side=96))
    np.testing.assert_allclose(
        found.xyxy, [[0, -100, 600, 500], [90, 80, 210, 200], [290, 190, 410, 310]], atol=1e-4
    )
    assert found.scores[0] == 1 and (np.diff(found.scores) < 0).all()
    assert found.xyxy.dtype == found.scores.dtype == np.float32
    # Neither the whole image nor dropped boxes count.
    some = [propose(image, BlindDetector(), Settings(proposals=n, min_side=96)) for n in (1, 2, 50)]
    assert [len(found.xyxy) for found in some] == [2, 3, 3]


def test_protocols_select_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's boxes keep their shape, copies included; the released code measures the squares. Where no
    box is large enough, the photo itself is looked at."""
    kept, narrow, copy, small = (101, 101, 99, 79), (301, 1, 30, 300), (101, 101, 99, 79), (301, 201, 59, 59)
    fake_search(monkeypatch, narrow, kept, copy, small)
    presets = PRESETS["paper"], *(replace(PRESETS["released-code"], min_side=side) for side in (96, 999))
    found = [propose(np.zeros((400, 600, 3), np.uint8), BlindDetector(), preset).xyxy for preset in presets]
    paper, code, whole = (boxes[:, 2:] - boxes[:, :2] for boxes in found)
    np.testing.assert_allclose(paper, 1.2 * np.array([[30, 300], [100, 80], [100, 80], [60, 60]]), rtol=0.05)
    np.testing.assert_allclose(code, 1.2 * np.array([[300, 300], [100, 100], [100, 100]]), rtol=0.05)
    assert whole.tolist() == [[600, 600]]


def test_boxes_of_a_photo_shrunk_are_scaled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """min_side is in pixels of the working image: a photo at four times the size gives the same crops."""
    fake_search(monkeypatch, (101, 101, 99, 79), (301, 1, 99, 19))
    blind = BlindDetector()
    found = propose(np.zeros((1600, 2560, 3), np.uint8), blind, Settings(min_side=96))
    assert blind.shape == (400, 640)
    np.testing.assert_allclose(found.xyxy, [[0, -480, 2560, 2080], [360, 320, 840, 800]], atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (17, 40)])
def test_photos_too_small_for_any_box_give_the_whole_image(
    detector: EdgeDetector, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    found = propose(image, detector, Settings())
    np.testing.assert_allclose(found.xyxy, squared(np.array([[0, 0, size[1], size[0]]], np.float32)))

"""Training: a small forest learns drawn outlines, a seed is repeatable, labels are read rightly."""

from __future__ import annotations

import gzip
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import train_edges as tool
from edge_forest import Forest, Photo, check_forest, train_forest
from train_edges import objects_of_mask, write_forest

from deconvseg.errors import DataError, DeconvSegError
from deconvseg.proposals.edges import EdgeDetector

from ..conftest import make_shapes


def shapes(seed: int) -> Photo:
    """Discs and boxes of random colours on noise, and which pixel belongs to which (1..4)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((96, 128), np.int32)
    for label in range(1, 5):
        centre = [int(rng.integers(0, side)) for side in (128, 96)]
        if label % 2:
            cv2.circle(labels, centre, int(rng.integers(10, 25)), label, -1)
        else:
            cv2.rectangle(labels, centre, [c + int(rng.integers(15, 40)) for c in centre], label, -1)
    colours = rng.uniform(30, 225, (5, 3))
    image = colours[labels] + rng.normal(0, 10, (96, 128, 3))
    return np.clip(image, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def small_forest() -> Forest:
    return train_forest([partial(shapes, seed) for seed in range(12)], trees=2, windows=1600)


def test_a_small_forest_finds_the_outlines_of_shapes_it_never_saw(
    small_forest: Forest, tmp_path: Path
) -> None:
    write_forest(small_forest, tmp_path / "small.yml.gz")
    detector = EdgeDetector(tmp_path / "small.yml.gz")
    on, off = [], []
    for seed in range(100, 106):
        image, labels = shapes(seed)
        edges = detector.detect(image)
        outlines = cv2.morphologyEx(labels.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
        distance = cv2.distanceTransform((outlines == 0) * np.uint8(1), cv2.DIST_L2, 5)
        on.append(edges[distance == 0])
        off.append(edges[distance > 8])
    strong, weak = np.concatenate(on), np.concatenate(off)
    # The chance that an edge pixel is stronger than one far from any edge.
    assert np.mean(np.random.default_rng(0).choice(weak, strong.size) < strong) > 0.9


def test_the_seed_decides_the_forest() -> None:
    photos = [partial(shapes, seed) for seed in range(4)]
    one, same, other = (train_forest(photos, trees=1, windows=400, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.feature_ids, same.feature_ids)
    np.testing.assert_array_equal(one.bins, same.bins)
    assert other.feature_ids.shape != one.feature_ids.shape or (other.feature_ids != one.feature_ids).any()


def test_a_forest_that_could_not_be_read_is_not_written(tmp_path: Path, hand_made_forest: Forest) -> None:
    childs = hand_made_forest.childs.copy()
    childs[2, 1] = len(childs[2])
    few = hand_made_forest.boundaries[:-1]
    for forest in (replace(hand_made_forest, childs=childs), replace(hand_made_forest, boundaries=few)):
        with pytest.raises(ValueError, match=r"childs holds 15 at position 31|edgeBoundaries holds"):
            write_forest(forest, tmp_path / "forest.yml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "field", "index", "value"),
    [
        ("childs", "childs", 3 * 15, 15),
        ("childs", "childs", 3 * 15 + 1, -4),
        ("childs", "childs", 2 * 15 + 5, 2),
        ("childs", "childs", 2 * 15, 1),
        ("featureIds", "feature_ids", 7, 7228),
        ("featureIds", "feature_ids", 7, -1),
        ("edgeBins", "bins", 20, 256),
        ("edgeBins", "bins", 20, -1),
        ("edgeBoundaries", "boundaries", 0, -1),
        ("edgeBoundaries", "boundaries", 9, 2_000_000_000),
        ("edgeBoundaries", "boundaries", 8 * 15, 2_000_000_000),
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


def test_photos_without_outlines_in_known_regions_are_refused() -> None:
    """No outline at all; all there is to learn in the unknown part; smaller than a window."""
    image, labels = shapes(0)
    unknown = np.where(labels > 0, -1, 0).astype(np.int32)
    for photo in ((image, 0 * labels), (image, unknown), (image[:9, :99], labels[:9, :99])):
        with pytest.raises(DataError, match="with an edge"):
            train_forest([lambda photo=photo: photo])


def test_objects_of_a_mask_by_hand() -> None:
    mask = np.zeros((12, 40), np.uint8)
    mask[2:10, 2:8] = 5
    mask[2:10, 12:18] = 5
    mask[4:8, 18:22] = 9
    mask[2:10, 8] = 255
    mask[:, 24:] = 255
    segments = objects_of_mask(mask)
    # background; two things of one class; another class that touches; void nearest to background
    assert len({*segments[5, [0, 4, 14, 20]]}) == 4 and segments[0, 0] == segments[5, 26] == 0
    assert segments[5, 8] in (segments[5, 4], 0)  # the void border has the label of a neighbour
    assert (segments[:, 34:] == -1).all()  # far inside void nobody can tell
    assert (objects_of_mask(np.full((5, 5), 255, np.uint8)) == -1).all()


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    voc, out = make_shapes(tmp_path / "voc", train=1, val=0), tmp_path / "forest.yml.gz"
    monkeypatch.setattr(tool, "train_forest", partial(train_forest, trees=2, windows=200))
    tool.train_edges(voc_root=voc, out=out)
    said = capsys.readouterr()
    assert said.out == "" and "1 photos" in said.err and "tree 2 of 2" in said.err
    assert b"numberOfTreesToEvaluate: 1\n" in gzip.decompress(out.read_bytes())
    assert EdgeDetector(out).detect(shapes(9)[0]).max() > 0


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("forest.bin", r"must end in \.yml\.gz or \.yml"),
        ("none/forest.yml.gz", "give --out another name"),
        ("forest.yml.gz", "not a VOC folder"),
    ],
)
def test_the_command_says_at_once_what_cannot_work(tmp_path: Path, out: str, message: str) -> None:
    with pytest.raises(DeconvSegError, match=message):
        tool.train_edges(voc_root=tmp_path, out=tmp_path / out)
    assert not any(tmp_path.iterdir())

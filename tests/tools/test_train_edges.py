"""Training: a small forest learns drawn outlines, the same photos give the same, masks are read rightly."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import train_edges as tool
from train_edges import best_split, segments_of_mask, train_forest, write_forest

from deconvseg.data.dataset import DataSet
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError, DeconvSegError
from deconvseg.proposals.edges import EdgeDetector

from ..conftest import make_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "voc", train=12, val=6)


def read(root: Path, split: str, count: int) -> DataSet:
    found = open_dataset(root, split)
    return replace(found, examples=found.examples[:count])


def test_a_small_forest_finds_the_outlines_of_shapes_it_never_saw(shapes: Path, tmp_path: Path) -> None:
    forest = train_forest(read(shapes, "train", 12), trees=2, windows=1600)
    write_forest(forest, tmp_path / "small.yml.gz", votes=1)
    detector = EdgeDetector(tmp_path / "small.yml.gz")
    on, off = [], []
    unseen = read(shapes, "val", 6)
    for image, mask in map(unseen.read, unseen.examples):
        edges = detector.detect(image)
        outlines = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3)))
        distance = cv2.distanceTransform((outlines == 0) * np.uint8(1), cv2.DIST_L2, 5)
        on.append(edges[distance == 0])
        off.append(edges[distance > 8])
    strong, weak = np.concatenate(on), np.concatenate(off)
    # The chance that an edge pixel is stronger than one far from any edge.
    assert np.mean(np.random.default_rng(0).choice(weak, strong.size) < strong) > 0.9


def test_the_same_photos_give_the_same_forest(shapes: Path) -> None:
    one, same, other = (train_forest(read(shapes, "train", n), trees=1, windows=400) for n in (4, 4, 5))
    assert one == same != other


def test_photos_without_outlines_are_refused(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "voc", train=1, val=0)
    mask = root / "SegmentationClass" / "shape000.png"
    cv2.imwrite(str(mask), 0 * cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE))
    with pytest.raises(DataError, match=r"train\.txt: the photos have no outlines"):
        train_forest(read(root, "train", 1), trees=1)


def test_the_best_split_by_hand() -> None:
    """Of two features the second parts the classes but for one window; a side has 8 of them or more."""
    classes = np.arange(20) >= 10
    values = np.stack([np.arange(20) % 2, np.arange(20)]).astype(np.float32)
    values[1, 0] = 30
    assert best_split(values, classes) == (1, 9.5)
    assert best_split(values[:, 3:17], classes[3:17]) is None  # too few for two sides
    assert best_split(values, classes | True) is None


def test_segments_of_a_mask_by_hand() -> None:
    mask = np.zeros((12, 40), np.uint8)
    mask[2:10, 2:8] = 5
    mask[2:10, 12:18] = 5
    mask[4:8, 18:22] = 9
    mask[2:10, 8] = 255
    mask[:, 24:] = 255
    segments = segments_of_mask(mask)
    # background; two things of one class; another class that touches; void nearest to background
    assert len({*segments[5, [0, 4, 14, 20]]}) == 4 and segments[0, 0] == segments[5, 26] == 0
    assert segments[5, 8] in (segments[5, 4], 0)  # the void border has the label of a neighbour
    assert (segments[:, 34:] == -1).all()  # far inside void nobody can tell


def test_the_command(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "forest.yml.gz"
    monkeypatch.setattr(tool, "train_forest", partial(train_forest, windows=200))
    tool.train_edges(voc_root=shapes, out=out)
    said = capsys.readouterr()
    assert said.out == "" and "12 photos" in said.err and "tree 8 of 8" in said.err
    assert EdgeDetector(out).detect(np.eye(60, 80)[..., None].repeat(3, 2).astype(np.uint8) * 255).max() > 0


@pytest.mark.parametrize(
    ("out", "message"),
    [("none/forest.yml.gz", "give --out another name"), ("forest.yml.gz", "not a VOC folder")],
)
def test_the_command_says_at_once_what_cannot_work(tmp_path: Path, out: str, message: str) -> None:
    with pytest.raises(DeconvSegError, match=message):
        tool.train_edges(voc_root=tmp_path, out=tmp_path / out)
    assert not any(tmp_path.iterdir())

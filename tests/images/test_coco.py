"""COCO files: pycocotools reads them back to the very labels, and merging does not depend on any order."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from deconvseg.images.coco import merge_coco, write_coco
from deconvseg.images.palette import palette_for
from deconvseg.segmentation import Segmentation

from ..conftest import coco_labels

small_labels = arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 0, 1, 2])
)
# By hand: a ring, a pixel at its corner, another class inside, one at the edges of the photo.
LABELS = np.array(
    [
        [1, 1, 1, 0, 2],
        [1, 2, 1, 0, 2],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
    ],
    np.uint8,
)


def segmentation(
    labels: NDArray[np.uint8], classes: tuple[str, ...] = ("background", "a", "b")
) -> Segmentation:
    return Segmentation(labels, classes, palette_for(len(classes)))


def test_by_hand(tmp_path: Path) -> None:
    write_coco(segmentation(LABELS), tmp_path / "a.json", file_name="x/y.jpg")
    document = json.loads((tmp_path / "a.json").read_bytes())
    assert document["images"] == [{"id": 1, "file_name": "x/y.jpg", "width": 5, "height": 4}]
    assert [(c["id"], c["name"]) for c in document["categories"]] == [(1, "a"), (2, "b")]
    found = [(a["category_id"], a["area"], a["bbox"], a["iscrowd"]) for a in document["annotations"]]
    assert found == [(1, 9, [0, 0, 4, 4], 0), (2, 2, [4, 0, 1, 2], 0), (2, 1, [1, 1, 1, 1], 0)]
    assert [a["id"] for a in document["annotations"]] == [1, 2, 3]


@settings(max_examples=50)
@given(small_labels, st.booleans())
def test_masks_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, labels: NDArray[np.uint8], polygons: bool
) -> None:
    path = tmp_path_factory.mktemp("coco") / "a.json"
    write_coco(segmentation(labels), path, file_name="a", polygons=polygons)
    np.testing.assert_array_equal(coco_labels(path)["a"], labels)


def test_merged_but_for_damaged_parts_and_other_classes(tmp_path: Path) -> None:
    whole = {"a": LABELS, "c": np.zeros((2, 3), np.uint8), "e": LABELS.T.copy()}
    for name, labels in whole.items():
        write_coco(segmentation(labels), tmp_path / f"{name}.json", file_name=name)
    (tmp_path / "b.json").write_bytes((tmp_path / "a.json").read_bytes()[:200])
    write_coco(segmentation(LABELS, ("background", "x", "y")), tmp_path / "d.json", file_name="d")
    names = ("a", "b", "c", "d", "e", "none")
    problems = merge_coco([tmp_path / f"{name}.json" for name in names], tmp_path / "all.json")
    assert [line.partition(": ")[0] for line in problems] == [
        str(tmp_path / f"{name}.json") for name in ("b", "d", "none")
    ]
    assert "other classes" in problems[1]
    merged, drawn = json.loads((tmp_path / "all.json").read_bytes()), coco_labels(tmp_path / "all.json")
    assert [image["id"] for image in merged["images"]] == [1, 2, 3]
    assert [annotation["id"] for annotation in merged["annotations"]] == list(range(1, 7))
    for (name, found), labels in zip(drawn.items(), whole.values(), strict=True):
        np.testing.assert_array_equal(found, labels, name)
    assert list(drawn) == list(whole)


def test_nothing_to_merge_is_an_empty_data_set(tmp_path: Path) -> None:
    merge_coco([], tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text())["annotations"] == []

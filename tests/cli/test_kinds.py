"""Masks, cut-outs, COCO files and chosen classes of whole runs, against the labels of the same run."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deconvseg.images.palette import VOC_CLASSES

from ..conftest import coco_labels
from .conftest import EXAMPLES, Refused, Run, files, lines


def labels_of(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def saving(*kinds: str) -> list[str]:
    return [word for kind in kinds for word in ("--save", kind)]


def test_chosen_classes_in_every_kind(inside: Run, fast: list[str], tmp_path: Path) -> None:
    photo = tmp_path / "cat.png"
    Image.open(EXAMPLES / "cat.jpg").resize((120, 80)).save(photo)
    inside("segment", "cat.png", "-o", "whole/", "--save", "labels", *fast)
    labels = labels_of(tmp_path / "whole" / "cat.png")
    found = [VOC_CLASSES[i] for i in np.unique(labels) if i]
    assert len(found) > 2
    first, second = found[:2]

    kinds = saving("labels", "cutout", "masks", "coco", "scores", "color", "overlay")
    chosen = inside(
        *("segment", "cat.png", "-o", "some/", "--json", "--legend", *kinds),
        *("--classes", f"{first}, {second}", *fast),
    )
    (record,) = json.loads(chosen.stdout)["images"]
    assert lines(chosen)[0].startswith("deconvseg ") and (record["width"], record["height"]) == (120, 80)
    kept = labels * np.isin(labels, [VOC_CLASSES.index(first), VOC_CLASSES.index(second)])
    some = tmp_path / "some"
    np.testing.assert_array_equal(labels_of(some / "cat.png"), kept)
    assert record["classes"].keys() == {"background", first, second}
    counts = np.unique(kept, return_counts=True)[1]
    assert sorted(record["classes"].values()) == pytest.approx(sorted(counts / kept.size), abs=1e-6)
    np.testing.assert_array_equal(labels_of(some / "cat.cutout.png")[:, :, 3] > 0, kept > 0)
    assert files(some / "cat.masks") == {f"{name}.png" for name in record["classes"]}
    assert list(coco_labels(some / "coco.json")) == ["cat.png"]
    np.testing.assert_array_equal(coco_labels(some / "coco.json")["cat.png"], kept)
    with np.load(some / "cat.scores.npz") as file:
        scores = file["probabilities"].astype(np.float32)
    np.testing.assert_allclose(scores.sum(0), 1, atol=0.01)
    assert {VOC_CLASSES[i] for i in np.flatnonzero(scores.any((1, 2)))} <= {"background", first, second}
    for name, mode in (("overlay.jpg", "RGB"), ("color.png", "RGB"), ("cutout.png", "RGBA"), ("png", "P")):
        picture = Image.open(some / f"cat.{name}")
        assert (picture.mode, picture.size) == (mode, (120, 80))

    # Other classes are other settings.
    again = inside(
        "segment", "cat.png", "-o", "some/", "--json", "--legend", *kinds, "--classes", first, *fast
    )
    assert json.loads(again.stdout)["images"][0]["status"] == "done"
    assert files(some / "cat.masks") == {"background.png", f"{first}.png"}


def test_unknown_class(refused: Refused, fast: list[str], photos: Path, tmp_path: Path) -> None:
    for name, cure in (("Dgo", "did you mean dog?"), ("background", "choose from aeroplane, bicycle, ")):
        told = refused("segment", "photos", "-o", "out", "--classes", f"cat,{name}", *fast)
        assert told.startswith(f"'{name}' is no class of this network; {cure}")
    assert not (tmp_path / "out").exists()


def test_coco_of_a_run_in_parts_is_that_of_one_run(
    inside: Run, fast: list[str], photos: Path, tmp_path: Path
) -> None:
    Image.open(EXAMPLES / "person.jpg").resize((70, 80)).save(photos / os.fsdecode(b"\xff.webp"))
    command = ("segment", "photos", *saving("coco", "labels"), "--coco-polygons", *fast)
    inside(*command, "-o", "one")
    whole = (tmp_path / "one" / "coco.json").read_bytes()
    drawn = coco_labels(tmp_path / "one" / "coco.json")
    assert set(drawn) == {"cat.jpg", "day one/фото [1].PNG", "\udcff.webp"}
    for name, labels in drawn.items():
        np.testing.assert_array_equal(labels, labels_of(tmp_path / "one" / Path(name).with_suffix(".png")))

    last = photos / "cat.jpg"  # the first photo comes last
    shutil.move(last, tmp_path / "aside.jpg")
    inside(*command, "-o", "two")
    assert (tmp_path / "two" / "coco.json").read_bytes() != whole
    shutil.move(tmp_path / "aside.jpg", last)
    part = tmp_path / "two" / "day one" / "фото [1].coco.json"
    part.write_bytes(part.read_bytes()[:-9])  # damaged meanwhile
    again = inside(*command, "-o", "two")
    assert lines(again)[-1].startswith("3 photos: 2 done, 1 skipped, 0 failed")
    assert (tmp_path / "two" / "coco.json").read_bytes() == whole


def test_kinds_one_after_the_other(inside: Run, fast: list[str], tmp_path: Path) -> None:
    """What an earlier run has made of the same photos counts; --legend for overlays alone."""
    Image.new("RGB", (30, 40), "teal").save(tmp_path / "a.png")

    def segment(*options: str) -> tuple[str, set[str]]:
        done = inside("segment", "a.png", "-o", "out/", "--json", *options, *fast)
        (record,) = json.loads(done.stdout)["images"]
        return record["status"], set(record["outputs"])

    assert segment() == ("done", {"labels"})
    assert segment("--legend") == ("skipped", {"labels"})
    assert segment("--save", "overlay", "--legend") == ("done", {"labels", "overlay"})
    assert segment(*saving("labels", "overlay"), "--legend") == ("skipped", {"labels", "overlay"})
    assert segment("--save", "overlay") == ("done", {"labels", "overlay"})  # without the legend
    assert segment("--save", "overlay", "--classes", "cat") == ("done", {"overlay"})
    assert files(tmp_path / "out") == {"a.overlay.jpg", "segment.jsonl"}


def test_large_photo_from_a_pipe(inside: Run, fast: list[str], tmp_path: Path) -> None:
    """Labels of a reduced photo, and a cut-out of the whole one."""
    photo = io.BytesIO()
    Image.open(EXAMPLES / "cat.jpg").resize((3200, 1000)).save(photo, "JPEG")
    inside(
        *("segment", "-", "-o", "out.png", "--save", "cutout", "--save", "labels", *fast),
        stdin=photo.getvalue(),
    )
    cutout, labels = labels_of(tmp_path / "out.png"), labels_of(tmp_path / "out.mask.png")
    np.testing.assert_array_equal(cutout[:, :, 3] > 0, labels > 0)
    whole = np.asarray(Image.open(photo))
    np.testing.assert_array_equal(cutout[labels > 0, :3], whole[labels > 0])


def test_limit_of_size(inside: Run, fast: list[str], tmp_path: Path) -> None:
    Image.new("1", (1200, 1000)).save(tmp_path / "a.png")
    refused = inside("segment", "a.png", "--max-megapixels", "1", *fast, code=1)
    assert lines(refused)[-1] == (
        "error: a.png: has 1.2 megapixels, and 1 are the limit; make it smaller, or raise the limit"
    )


def test_other_kinds_than_pictures_to_standard_output(inside: Run, fast: list[str], photos: Path) -> None:
    command = ("segment", "photos/cat.jpg", "-o", "-", *fast, "--save")
    coco, scores = (inside(*command, kind) for kind in ("coco", "scores"))
    assert json.loads(coco.stdout)["images"][0]["file_name"] == "cat.jpg"
    with np.load(io.BytesIO(scores.stdout)) as file:
        assert file["probabilities"].shape[1:] == (60, 90)

"""A Segmentation: what it says of itself, saving it, and showing it in a notebook."""

import io
import json
import re
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deconvseg.cli.segment import segment
from deconvseg.errors import InputError, OutputError, UsageError
from deconvseg.images.kinds import KINDS
from deconvseg.images.palette import palette_for
from deconvseg.images.write import overlay
from deconvseg.segmentation import SHOWN_SIDE, Segmentation

CLASSES = ("background", "cat", "dog", "car")
LABELS = np.array([[0, 1, 1], [2, 3, 1]], np.uint8)


def test_shares() -> None:
    result = Segmentation(LABELS, CLASSES, palette_for(4))
    assert result.class_shares() == {"cat": 3 / 6, "background": 1 / 6, "dog": 1 / 6, "car": 1 / 6}
    assert repr(result) == "Segmentation(3 x 2 pixels: cat 50.0%, background 16.7%, dog 16.7%, car 16.7%)"


def test_only() -> None:
    probabilities = np.array([[0.1, 0.2], [0.5, 0.2], [0.3, 0.5], [0.1, 0.1]], np.float32)[:, None]
    result = Segmentation(np.array([[1, 2]], np.uint8), CLASSES, palette_for(4), probabilities)
    cats = result.only(["cat"])
    assert cats.labels.tolist() == [[1, 0]]
    assert cats.labels.dtype == np.uint8
    assert (cats.classes, cats.palette) == (result.classes, result.palette)
    assert cats.probabilities is not None
    np.testing.assert_allclose(cats.probabilities[:, 0], [[0.5, 0.8], [0.5, 0.2], [0, 0], [0, 0]], atol=1e-6)
    assert result.labels.tolist() == [[1, 2]]
    assert Segmentation(LABELS, CLASSES, palette_for(4)).only("car").labels.tolist() == [[0, 0, 0], [0, 3, 0]]
    with pytest.raises(UsageError, match="'Cat' is no class of this network; did you mean cat"):
        result.only(["dog", "Cat"])


ODD_CLASSES = ("background", "cat", "<b>dog</b>", "car")
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
MASK = np.zeros((40, 60), np.uint8)
MASK[10:30, 20:40] = 1
MASK[30:, :5] = 2


def result(**changes: Any) -> Segmentation:
    return Segmentation(
        **{"labels": MASK, "classes": ODD_CLASSES, "palette": palette_for(4), "pixels": PHOTO, **changes}
    )


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"scores", "masks"}))
def test_streams_get_what_files_do(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / f"a{KINDS[kind].suffixes[0]}"
    stream = io.BytesIO()
    result().save(path, kind, file_name="a")
    result().save(stream, kind, file_name="a")
    assert stream.getvalue() == path.read_bytes()


def test_coco_files_call_the_photo_by_its_name(tmp_path: Path) -> None:
    for source, name in ((None, "b"), (Path("in/photo.jpg"), "photo.jpg")):
        result(source=source).save(tmp_path / "b.json", "coco")
        assert json.loads((tmp_path / "b.json").read_text())["images"][0]["file_name"] == name


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ("a.jpg", "labels", r"a\.jpg: labels files end in \.png; rename the output"),
        ("a", "overlay", r"a: overlay files end in \.jpg or \.jpeg or \.png"),
        ("memory://bucket/a.png", "labels", "memory://bucket/a.png: is no file; give an open stream"),
        ("a.png", "overlays", "'overlays' is no kind of result; did you mean 'overlay'"),
        ("a.npz", "scores", r"no probabilities to save; ask for segment\(\.\.\., probabilities=True\)"),
        ("mask.png", "masks", r"mask\.png: masks are several files, and need a folder"),
        (io.BytesIO(), "masks", "masks are several files, and need a folder"),
        (f"{__file__}/mask.png", "labels", "is not a folder"),
    ],
)
def test_what_cannot_be_saved(
    target: Any, kind: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, OutputError), match=words):
        result().save(target, kind)
    assert not list(tmp_path.iterdir())


def test_a_large_photo_is_read_again_to_be_painted_on(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(PHOTO).save(path)
    made = result(pixels=PHOTO[::2, ::2], source=path)
    np.testing.assert_array_equal(made.photo, PHOTO)
    assert made._repr_jpeg_() is not None
    Image.fromarray(PHOTO[:, :9]).save(path)
    with pytest.raises(InputError, match=r"large\.png: has changed"):
        made.save(tmp_path / "a.jpg", "overlay")
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        made.save(tmp_path / "a.png", "cutout")
    made.save(tmp_path / "a.png")  # which needs no photo
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}


def test_a_reduced_array_has_no_photo_to_paint_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reduced"):
        result(pixels=PHOTO[::2, ::2]).save(tmp_path / "a.jpg", "overlay")


def test_every_kind_is_told_and_documented() -> None:
    """A kind is one entry in KINDS; docs/results.md and the README are written by hand."""
    help_ = signature(segment).parameters["save"].default.help
    for name, kind in KINDS.items():
        assert f"{name}: {kind.help}." in help_
        for page in ("docs/results.md", "README.md"):
            assert f"`{name}`" in (Path(__file__).parents[1] / page).read_text()


@pytest.mark.parametrize("size", [(40, 60), (600, 450)], ids=str)
def test_shown_in_a_notebook(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    _, columns = np.mgrid[: size[0], : size[1]]
    labels = ((columns * 2 > size[1]) * 2).astype(np.uint8)
    pixels = np.full((*size, 3), 120, np.uint8)
    shown = result(labels=labels, pixels=pixels)
    jpeg = shown._repr_jpeg_()
    assert jpeg is not None and len(jpeg) < 100_000  # a notebook keeps it
    picture = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    assert max(picture.shape) == min(max(size), SHOWN_SIDE)
    tinted = np.asarray(overlay(labels, palette_for(4), pixels))[0, -1]
    assert np.abs(picture[:, -1] - tinted).max() < 12  # the legend lies on the background
    named: list[str] = []
    monkeypatch.setattr(
        "deconvseg.images.write.draw_legend",
        lambda image, entries, busy: named.extend(name for name, _ in entries),
    )
    shown._repr_jpeg_()
    assert re.fullmatch(r"<b>dog</b> (4\d\.\d%|50\.0%)", named[0]) and len(named) == 1
    assert result(pixels=None)._repr_jpeg_() is None

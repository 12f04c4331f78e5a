"""Saving a result from a program, and showing it in a notebook."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from deconvseg.cli.segment import Save, segment
from deconvseg.errors import InputError, OutputError, UsageError
from deconvseg.images.kinds import KINDS
from deconvseg.images.palette import palette_for
from deconvseg.images.write import PAINTED, WRITERS, overlay
from deconvseg.segmentation import SHOWN_SIDE, Kind, Segmentation
from deconvseg.segmenter import Segmenter

CLASSES = ("background", "cat", "<b>dog</b>", "car")
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
LABELS = np.zeros((40, 60), np.uint8)
LABELS[10:30, 20:40] = 1
LABELS[30:, :5] = 2


def result(**changes: Any) -> Segmentation:
    return Segmentation(
        **{"labels": LABELS, "classes": CLASSES, "palette": palette_for(4), "pixels": PHOTO, **changes}
    )


def test_labels_are_the_default(tmp_path: Path) -> None:
    result().save(tmp_path / "below" / "mask.png")
    with Image.open(tmp_path / "below" / "mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), LABELS)


def test_every_kind(tmp_path: Path) -> None:
    scores = np.eye(4, dtype=np.float32)[LABELS].transpose(2, 0, 1)
    made = result(probabilities=scores)
    made.save(str(tmp_path / "a.color.png"), "color")
    made.save(tmp_path / "a.overlay.png", "overlay")
    made.save(tmp_path / "a.cutout.png", "cutout")
    made.save(tmp_path / "a.masks", "masks")
    made.save(tmp_path / "a.npz", "scores")
    made.save(tmp_path / "a.json", "coco", file_name="a.jpg")
    colors = np.array(palette_for(4), np.uint8)[LABELS]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.color.png")), colors)
    painted = np.asarray(Image.open(tmp_path / "a.overlay.png"))
    np.testing.assert_array_equal(painted, overlay(LABELS, palette_for(4), PHOTO))
    cut = np.asarray(Image.open(tmp_path / "a.cutout.png"))
    np.testing.assert_array_equal(cut[LABELS > 0, :3], PHOTO[LABELS > 0])
    np.testing.assert_array_equal(cut[:, :, 3] == 255, LABELS > 0)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "a.masks" / "cat.png")) == 255, LABELS == 1
    )
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["probabilities"], scores)
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["images"][0]["file_name"] == "a.jpg"
    assert [part["area"] for part in document["annotations"]] == [400, 50]


@pytest.mark.parametrize("kind", ["labels", "color", "overlay", "cutout", "coco"])
def test_streams_get_what_files_do(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / {"overlay": "a.jpg", "coco": "a.json"}.get(kind, "a.png")
    stream = io.BytesIO()
    result().save(path, kind, file_name="a")
    result().save(stream, kind, file_name="a")
    assert stream.getvalue() == path.read_bytes()


def test_coco_files_call_the_photo_by_its_name(tmp_path: Path) -> None:
    def called(made: Segmentation) -> str:
        made.save(tmp_path / "b.json", "coco")
        name: str = json.loads((tmp_path / "b.json").read_text())["images"][0]["file_name"]
        return name

    assert called(result()) == "b"
    assert called(result(source=Path("in/photo.jpg"))) == "photo.jpg"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("a.jpg", "labels", r"a\.jpg: labels files end in \.png; rename the output"),
        ("a", "overlay", r"a: overlay files end in \.jpg or \.jpeg or \.png"),
        ("memory://bucket/a.png", "labels", "memory://bucket/a.png: is no file; give an open stream"),
        ("a.png", "overlays", "'overlays' is no kind of result; did you mean 'overlay'"),
        ("a.npz", "scores", r"no probabilities to save; ask for segment\(\.\.\., probabilities=True\)"),
    ],
)
def test_what_cannot_be_saved(
    name: str, kind: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        result().save(name, kind)
    assert not list(tmp_path.iterdir())


def test_masks_need_a_folder_and_files_a_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="need a folder"):
        result().save(io.BytesIO(), "masks")
    with pytest.raises(UsageError, match=r"mask\.png: masks are several files"):
        result().save(tmp_path / "mask.png", "masks")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        result().save(tmp_path / "file" / "mask.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_large_photo_is_read_again_to_be_painted_on(tiny_network: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    ramp = np.tile(np.arange(100, 255, dtype=np.uint8), (30, 24))  # 30 x 3720
    Image.fromarray(ramp).save(path)
    made = Segmenter(tiny_network, proposals=0, crf=False).segment(path)
    assert made.pixels is not None and made.pixels.shape != made.photo.shape
    np.testing.assert_array_equal(made.photo[:, :, 0], ramp)
    assert made._repr_jpeg_() is not None
    Image.fromarray(ramp[:, :99]).save(path)
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


def test_every_kind_is_known_everywhere() -> None:
    assert get_args(Kind) == tuple(KINDS) == tuple(Save)
    assert {*WRITERS, "coco"} == {*KINDS} and {*PAINTED} <= {*WRITERS}
    (help_,) = (option.help for option in get_args(get_type_hints(segment, include_extras=True)["save"])[1:])
    assert [kind for kind in KINDS if f"{kind}: " not in help_] == []


def test_chosen_classes_can_be_saved(tmp_path: Path) -> None:
    result().only(["cat"]).save(tmp_path / "a.png", "cutout")
    alpha = np.asarray(Image.open(tmp_path / "a.png"))[:, :, 3]
    np.testing.assert_array_equal(alpha == 255, LABELS == 1)


def test_repr_is_short() -> None:
    text = repr(result())
    assert text == "Segmentation(60 x 40 pixels: background 81.2%, cat 16.7%, <b>dog</b> 2.1%)"


@pytest.mark.parametrize("size", [(40, 60), (1200, 900), (2, 3000)], ids=str)
def test_shown_in_a_notebook(size: tuple[int, int]) -> None:
    _, columns = np.mgrid[: size[0], : size[1]]
    labels = ((columns * 2 > size[1]) * 2).astype(np.uint8)
    pixels = np.full((*size, 3), 120, np.uint8)
    shown = result(labels=labels, pixels=pixels)
    jpeg = shown._repr_jpeg_()
    assert jpeg is not None and len(jpeg) < 100_000  # a notebook keeps it, and again in the HTML
    picture = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    height, width = picture.shape[:2]
    assert max(height, width) == min(max(size), SHOWN_SIDE)
    tinted = overlay(labels, palette_for(4), pixels)[0, -1]
    assert np.abs(picture[:, -1] - tinted).max() < 8  # the legend lies on the background
    html = shown._repr_html_()
    assert html is not None and len(html) < 200_000
    assert "&lt;b&gt;dog&lt;/b&gt; " in html and "<b>" not in html
    assert re.search(r"background 5\d\.\d%|background 66\.7%", html)
    encoded = re.search(r"data:image/jpeg;base64,([^\"]+)", html)
    assert encoded
    assert Image.open(io.BytesIO(base64.b64decode(encoded[1]))).size == (width, height)


def test_without_a_photo_there_is_only_text() -> None:
    assert result(pixels=None)._repr_jpeg_() is None
    assert result(pixels=None)._repr_html_() is None

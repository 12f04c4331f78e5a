"""Results as files: exact where programs read them, whole or not there at all."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import OutputError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.images.write import (
    Entry,
    draw_legend,
    mask_names,
    overlay,
    write_labels,
    write_masks,
    write_overlay,
    write_scores,
)
from deconvseg.segmentation import Segmentation


def segmentation(
    labels: NDArray[np.uint8], classes: int = 21, photo: NDArray[np.uint8] | None = None
) -> Segmentation:
    names = tuple(f"class {i}" for i in range(classes))
    return Segmentation(labels, names, palette_for(classes), pixels=photo)


def written(kind: str, labels: NDArray[np.uint8], photo: NDArray[np.uint8]) -> Image.Image:
    stream = io.BytesIO()
    segmentation(labels, photo=photo).save(stream, kind)
    return Image.open(stream)


LABELS = np.zeros((60, 80), np.uint8)
LABELS[10:40, 20:50] = 8
LABELS[30:50, 40:70] = 15
PHOTO = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)


@settings(max_examples=15)
@given(
    st.sampled_from([1, 2, 16, 17, 256]),
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 255)),
)
def test_labels_come_back_exactly(classes: int, drawn: NDArray[np.uint8]) -> None:
    labels = (drawn.astype(int) % classes).astype(np.uint8)
    stream = io.BytesIO()
    write_labels(segmentation(labels, classes), stream)
    assert stream.getvalue()[24:26] == b"\x08\x03"  # 8 bits a pixel, with a palette
    image = Image.open(stream)
    np.testing.assert_array_equal(np.asarray(image), labels)
    colours = np.array(palette_for(classes), np.uint8)[labels]
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours)


def test_color_and_cutout() -> None:
    image = written("color", LABELS, PHOTO)
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), np.array(palette_for(21), np.uint8)[LABELS])
    cut = np.asarray(written("cutout", LABELS, PHOTO))
    np.testing.assert_array_equal(cut[:, :, 3], np.where(LABELS > 0, 255, 0))
    np.testing.assert_array_equal(cut[LABELS > 0, :3], PHOTO[LABELS > 0])
    assert not cut[LABELS == 0].any()


def test_colours_published_with_voc() -> None:
    palette = palette_for(256)
    assert palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    colours = dict(zip(VOC_CLASSES, palette, strict=False))
    assert (colours["cat"], colours["motorbike"]) == ((64, 0, 0), (64, 128, 128))
    assert (colours["person"], colours["tvmonitor"]) == ((192, 128, 128), (0, 64, 128))
    assert len(set(palette)) == 256 and len(VOC_CLASSES) == 21
    assert palette[255] == (224, 224, 192)  # the border that VOC leaves unlabelled


def test_scores_come_back(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).exponential(size=(3, 5, 7)).astype(np.float32)
    probabilities, classes = raw / raw.sum(0), ("background", "été", "b")
    labels = probabilities.argmax(0).astype(np.uint8)
    write_scores(Segmentation(labels, classes, palette_for(3), probabilities), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["probabilities"].dtype == np.float16
        np.testing.assert_allclose(file["probabilities"], probabilities, atol=5e-4)
        assert tuple(file["classes"].tolist()) == classes


def test_overlay_tints_in_proportion() -> None:
    """By hand: 6 parts of photo and 4 of the tint; background is half way to its grey, at three quarters."""
    photo = np.full((9, 9, 3), (100, 60, 20), np.uint8)
    labels = np.zeros((9, 9), np.uint8)
    labels[2:8, 2:8] = 1
    shown = np.asarray(overlay(labels, ((0, 0, 0), (100, 0, 50)), photo))
    # The brightest channel of (100, 0, 50) scaled to 255 is (255, 0, 127.5): 0.4 and 0.6 of both.
    assert shown[5, 5].tolist() == [(600 + 193 * 4) // 10, 36, (120 + 96 * 4) // 10]
    assert shown[0, 0].tolist() == [160 * 3 // 8, 120 * 3 // 8, 80 * 3 // 8]
    assert shown[2, 2].tolist() == [(193 + 510) // 3, 170, (96 + 510) // 3]  # its outline


@pytest.mark.parametrize("kind", ["color", "overlay", "cutout"])
def test_strips_do_not_show(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large photos are painted some rows at a time; an outline goes on from one strip to the next."""
    rng = np.random.default_rng(2)
    labels = np.kron(rng.integers(0, 3, (9, 5)), np.ones((20, 30), int)).astype(np.uint8)
    photo = rng.integers(0, 256, (*labels.shape, 3), np.uint8)
    pictures = []
    for pixels in (1 << 20, 300):
        monkeypatch.setattr("deconvseg.images.write._STRIP_PIXELS", pixels)
        segmentation(labels, photo=photo).save(tmp_path / "a.png", kind)
        pictures.append(np.asarray(Image.open(tmp_path / "a.png")))
    np.testing.assert_array_equal(*pictures)


def test_overlay_with_a_legend_names_objects_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[list[str]] = []
    monkeypatch.setattr(
        "deconvseg.images.write.draw_legend",
        lambda image, entries, busy: named.append([name for name, _ in entries]),
    )
    write_overlay(segmentation(LABELS, photo=PHOTO), tmp_path / "a.jpg", legend=True)
    write_overlay(segmentation(LABELS, photo=PHOTO), tmp_path / "a.jpg")
    assert named == [["class 8", "class 15"]]


def test_overlay_longer_than_a_jpeg_can_be(tmp_path: Path) -> None:
    long = segmentation(np.zeros((1, 65_501), np.uint8), photo=np.zeros((1, 65_501, 3), np.uint8))
    with pytest.raises(OutputError, match=r"a\.jpg: a JPEG has at most 65500 pixels a side; name it \.png"):
        write_overlay(long, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match=r"^standard output: a JPEG has"):
        write_overlay(long, io.BytesIO())
    write_overlay(long, tmp_path / "a.PNG")
    assert Image.open(tmp_path / "a.PNG").size == (65_501, 1)


def test_masks(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "a.masks"
    write_masks(segmentation(LABELS), folder)
    assert {path.name for path in folder.iterdir()} == {"class 0.png", "class 8.png", "class 15.png"}
    for label in (0, 8, 15):
        mask = Image.open(folder / f"class {label}.png")
        assert mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask), np.where(label == LABELS, 255, 0))
    # Masks of an earlier run go, other files stay.
    (folder / "class 8 copy.png").touch()
    write_masks(segmentation(LABELS // 8 * 8), folder)
    assert {path.name for path in folder.iterdir()} == {"class 0.png", "class 8.png", "class 8 copy.png"}


@settings(max_examples=15)
@given(st.lists(st.text(max_size=250), max_size=4))
def test_every_class_has_a_file_name_of_its_own(classes: list[str]) -> None:
    names = mask_names(classes)
    assert len({name.casefold() for name in names}) == len(classes)
    for name in names:
        assert len(f"{name}.png".encode()) <= 255
        assert not {*name} & {*'/\\:*?"<>|\0\n'}
        assert name == name.strip()
        assert name.partition(".")[0].casefold() != ""


def test_names_of_masks() -> None:
    classes = ["background", "traffic light", "été", "a/b", "A/B", "St. Bernard", "猫", "", "Com1"]
    assert mask_names(classes) == [
        *("background", "traffic light", "été", "a_b", "4.A_B", "St_ Bernard", "猫", "7.", "8.Com1"),
    ]


# The legend names colours, hides as little as it can, and never breaks a photo.

RED, GREEN = (230, 20, 30), (10, 200, 40)


def drawn(size: tuple[int, int], entries: list[Entry], busy: np.ndarray) -> np.ndarray:
    image = Image.new("RGB", size, (120, 120, 120))
    draw_legend(image, entries, busy)
    return np.asarray(image).astype(int)


def has(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image - colour).max(axis=2) == 0).any())


@pytest.mark.parametrize("half", [np.s_[:50, :75], np.s_[:50, 75:], np.s_[50:, 75:]], ids=str)
def test_goes_to_the_corner_without_objects(half: tuple[slice, slice]) -> None:
    busy = np.ones((100, 150), bool)
    busy[half] = False
    image = drawn((150, 100), [("cat", RED), ("dog", GREEN)], busy)
    changed = (image != 120).any(axis=2)
    assert changed[half].any() and not (changed & busy).any()
    assert has(image, RED) and has(image, GREEN)


def test_a_panel_too_large_for_the_image_is_made_smaller() -> None:
    entries = [("cat", RED)] + [(f"class {i}", (1, 2, 3)) for i in range(12)] + [("dog", GREEN)]
    assert has(drawn((500, 500), entries, np.zeros((500, 500), bool)), GREEN)
    for width, height in ((90, 60), (400, 5), (1, 1)):
        changed = (drawn((width, height), entries, np.zeros((height, width), bool)) != 120).any(axis=2)
        assert changed.any(0).sum() <= max(0.9 * width, 1) and changed.any(1).sum() <= max(0.9 * height, 1)
    assert (drawn((90, 60), [], np.zeros((60, 90), bool)) == 120).all()

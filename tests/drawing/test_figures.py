"""The three figures: how many pictures, in which order, and none over another or off the paper."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.drawing.layers import draw_layers
from deconvseg.drawing.proposals import draw_proposals
from deconvseg.drawing.sheet import Sheet
from deconvseg.drawing.switches import draw_switches
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.images.read import PhotoPixels
from deconvseg.inspection.layers import inspect_layers
from deconvseg.inspection.proposals import inspect_proposals
from deconvseg.inspection.switches import inspect_switches
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.segmentation import Segmentation
from deconvseg.segmenter import Segmenter

LEAST = 0.3
"""Inches: pictures are larger, those of the keys smaller."""


def places(sheet: Sheet) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom in inches of the pictures, without those of the keys."""
    boxes = []
    for axes in sheet.figure.axes:
        box = axes.get_position()
        if box.width * sheet.width > LEAST and box.height * sheet.height > LEAST:
            left, right = box.x0 * sheet.width, box.x1 * sheet.width
            boxes.append((left, (1 - box.y1) * sheet.height, right, (1 - box.y0) * sheet.height))
    return boxes


def check(sheet: Sheet) -> Image.Image:
    """The figure as PNG; all is on the paper, and no picture over another."""
    pictures = places(sheet)
    for at, (left, top, right, bottom) in enumerate(pictures):
        assert left >= 0.2 and top >= 0.2 and right <= sheet.width - 0.2 and bottom <= sheet.height
        for other in pictures[at + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    stream = io.BytesIO()
    sheet.save(stream, "png")
    image = Image.open(stream)
    assert image.mode == "RGBA"
    assert image.width == pytest.approx(150 * sheet.width, abs=1)
    alpha = np.asarray(image)[..., 3]
    assert not alpha[:, -15:].any(), "something runs off the paper"
    return image


def texts(sheet: Sheet) -> list[str]:
    return [line.get_text() for line in sheet.figure.texts]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose decoder ends after two blocks, with a class whose name is hostile."""
    network = DeconvNet(classes=3, crop_size=32, widths=(4,) * 5, decoder_convs=(1, 2), bottleneck=4)
    path = tmp_path_factory.mktemp("short") / "short.safetensors"
    names = ("background", "$\\frac{\n\udc80".encode("utf-8", "replace").decode(), "x" * 300)
    save_network(path, network, NetworkHeader(names, ((0, 0, 0), (9, 9, 9), (200, 0, 0))))
    return path


def test_layers_of_the_papers_layout(tiny_network: Path, photo: PhotoPixels) -> None:
    segmenter = Segmenter(tiny_network, proposals=0, precision="fp32")
    found = inspect_layers(segmenter, photo, class_name="cat")
    sheet = draw_layers(found, "Title")
    check(sheet)
    # input, fc6-deconv, 5 unpoolings and 13 deconvolutions, scores, labelling
    assert len(places(sheet)) == len(found.layers) + 3 == 22
    columns = Counter(round(left, 3) for left, *_ in places(sheet))
    assert list(columns.values()) == [2, 4, 4, 4, 3, 3, 2]
    words = texts(sheet)
    assert not any(text.endswith("...") for text in words)
    for text in ("Title", "input", "fc6-deconv, 1 x 1", "unpool5", "deconv1_2", "score of cat", "labelling"):
        assert text in words
    assert "block 5, 2 x 2" in words and "block 1, 32 x 32" in words
    assert any("drives cat most" in text for text in words)


def test_layers_of_a_short_decoder_and_hostile_names(short: Path, photo: PhotoPixels) -> None:
    segmenter = Segmenter(short, proposals=0, precision="fp32")
    for name in segmenter.classes[1:]:
        found = inspect_layers(segmenter, photo, (0, 0, 30, 20), name)
        sheet = draw_layers(found, name * 5)
        check(sheet)
        assert len(places(sheet)) == 1 + 2 + 3 + 3
        assert "unpool puts values back where pooling took its maxima; deconv fills the gaps." in texts(sheet)


def test_switches(tiny_network: Path, short: Path, photo: PhotoPixels) -> None:
    whole = inspect_switches(Segmenter(tiny_network, proposals=0, precision="fp32"), photo)
    sheet = draw_switches(whole, "Title")
    check(sheet)
    assert len(places(sheet)) == 1 + 5 * 6
    early = draw_switches(inspect_switches(Segmenter(short, proposals=0, precision="fp32"), photo), "Title")
    check(early)
    assert len(places(early)) == 1 + 5 * 3 + 2 * 3
    assert texts(early).count("No unpooling undoes this pooling:") == 3


def test_corners_are_marked_where_they_were_taken(tiny_network: Path, photo: PhotoPixels) -> None:
    found = inspect_switches(Segmenter(tiny_network, proposals=0, precision="fp32"), photo)
    stage = found.stages[1]
    sheet = draw_switches(found, "Title")
    # the key's three pictures and the input come first, then a row of six for each pooling
    enlarged = sheet.figure.axes[4 + 6 + 1]
    x0, y0, x1, y1 = stage.window
    want = set()
    for row in range(y0 // 2, y1 // 2):
        for column in range(x0 // 2, x1 // 2):
            if stage.pooled[row, column] > 0:
                corner = int(stage.corners[row, column])
                want.add((2 * column - x0 + corner % 2, 2 * row - y0 + corner // 2))
    middles = {(round(p.get_x() + 0.36), round(p.get_y() + 0.36)) for p in enlarged.patches}  # type: ignore[attr-defined]
    assert middles == want and want


@pytest.mark.parametrize(
    "size",
    [(1, 1), (10, 20), (90, 140), (200, 60), (12, 900), (900, 12)],
    ids=lambda size: f"{size[1]}x{size[0]}",
)
def test_proposals_of_photos_of_any_shape(tiny_network: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    segmenter = Segmenter(tiny_network, min_side=20)
    found = inspect_proposals(segmenter, PhotoPixels(image, *size), 6)
    sheet = draw_proposals(found, "Title")
    drawn = check(sheet)
    assert len(places(sheet)) == 3 + len(found.labellings) + 1
    assert max(drawn.size) < 3000


def test_proposals_in_order_with_their_boxes(tiny_network: Path, photo: PhotoPixels) -> None:
    found = inspect_proposals(Segmenter(tiny_network, min_side=20, crf=False), photo, 6)
    assert found.count == 6
    sheet = draw_proposals(found, "Title")
    check(sheet)
    words = texts(sheet)
    names = ["photo", "edges", "boxes", "1 proposal", "5 proposals", "all 6 proposals"]
    assert [text for text in words if text in names] == names
    assert len(places(sheet)) == 6
    boxes = sheet.figure.axes[2]
    frames = [patch for patch in boxes.patches if not patch.get_fill()]
    assert len(frames) == 6
    assert sorted(text.get_text() for text in boxes.texts) == ["1", "2", "3", "4", "5"]
    for frame in frames:  # cut off at the photo's border
        x0, y0, x1, y1 = frame.get_extents().transformed(boxes.transData.inverted()).extents
        assert x0 >= -0.5 and x1 <= 139.5 and min(y0, y1) >= -0.5 and max(y0, y1) <= 89.5


def test_captions_of_crowded_photos_fit(tiny_network: Path) -> None:
    """A portrait with many classes, in the narrowest panels: nothing is cut."""
    image = np.random.default_rng(1).integers(0, 255, (200, 60, 3), dtype=np.uint8)
    found = inspect_proposals(Segmenter(tiny_network, min_side=20), PhotoPixels(image, 200, 60), 6)
    labels = (np.arange(12000) % 8).astype(np.uint8).reshape(200, 60)
    labels[:100, :50] = 9
    crowded = Segmentation(labels, VOC_CLASSES, palette_for(21))
    sheet = draw_proposals(
        replace(found, labellings=dict.fromkeys((1, 5, 10), crowded), sharpened=crowded), "Title"
    )
    words = texts(sheet)
    notes = [text for text in words if text.startswith("chair 42 %, ")]
    assert len(notes) == 4 and all(note.endswith(" %, 6 more") for note in notes)
    assert words.count("0 % changed") == 3 and not any(text.endswith("...") for text in words)

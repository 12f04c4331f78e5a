"""The three figures: which panels, whatever the photo and the names; and how they are written."""

import tempfile
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from deconvseg.errors import OutputError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.inspect.compute import inspect_layers, inspect_proposals, inspect_switches
from deconvseg.inspect.draw import (
    draw_layers,
    draw_proposals,
    draw_switches,
    own_style,
    panels,
    printable,
    save,
    show,
)
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.segmentation import Segmentation
from deconvseg.segmenter import Segmenter

from .conftest import make_photo

HOSTILE = "$\\frac{\n\u202e\x1b[0m 猫 %s"


def shown(figure: Any) -> list[Any]:
    """The axes with a picture; once the figure is written, none is over another or off the paper."""
    with tempfile.TemporaryDirectory() as folder:
        save(figure, Path(folder) / "a.png")
        image = Image.open(Path(folder) / "a.png")
        image.load()
    assert image.mode == "RGBA" and max(image.size) < 3200
    alpha = np.asarray(image)[..., 3]
    assert not alpha[:8].any() and not alpha[:, :8].any() and not alpha[:, -8:].any()
    axes = [one for one in figure.axes if one.images]
    with own_style():
        boxes = [one.get_tightbbox() for one in axes]
    for at, box in enumerate(boxes):
        for other in boxes[at + 1 :]:
            apart = box.x1 <= other.x0 + 2 or other.x1 <= box.x0 + 2 or box.y1 <= other.y0 + 2
            assert apart or other.y1 <= box.y0 + 2
    return axes


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """A network whose decoder ends after two blocks, with classes whose names are hostile."""
    network = DeconvNet(classes=3, crop_size=32, widths=(4,) * 5, decoder_convs=(1, 2), bottleneck=4)
    path = tmp_path_factory.mktemp("short") / "short.safetensors"
    names = ("background", HOSTILE, "x" * 300)
    save_network(path, network, NetworkHeader(names, ((0, 0, 0), (9, 9, 9), (200, 0, 0))))
    return Segmenter(path, proposals=0, precision="fp32")


def test_layers(exact: Segmenter, short: Segmenter) -> None:
    found = inspect_layers(exact, make_photo(90, 140), class_name="cat")
    names = [one.get_title(loc="left") for one in shown(draw_layers(found, "Title"))]
    maps = {layer["name"].replace("fc6_", "fc6-") for layer in found.numbers["layers"]}
    assert set(names) == {*maps, "input", "score of cat", "labelling"} and len(names) == 22
    figure = draw_layers(inspect_layers(short, make_photo(90, 140), (0, 0, 30, 20), HOSTILE), HOSTILE)
    assert len(shown(figure)) == 6 + 3


def test_switches_and_the_corners_that_were_taken(exact: Segmenter, short: Segmenter) -> None:
    found = inspect_switches(exact, make_photo(90, 140))
    figure = draw_switches(found, "Title")
    assert len(shown(figure)) == 5 * 7
    pooled, corners = found.pictures["pooled2"], found.pictures["corners2"]
    enlarged = figure.axes[1 * 7 + 2]
    x0, y0, x1, y1 = found.numbers["stages"][1]["window"]
    part = np.s_[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2]
    rows, columns = pooled[part].nonzero()
    corner = corners[part][rows, columns]
    want = {*zip(2 * columns + corner % 2, 2 * rows + corner // 2, strict=True)}
    assert {(round(p.get_x() + 0.36), round(p.get_y() + 0.36)) for p in enlarged.patches} == want and want

    early = draw_switches(inspect_switches(short, make_photo(90, 140)), HOSTILE)
    told = [text.get_text() for one in early.axes for text in one.texts]
    assert sum(text.startswith("No unpooling undoes this pooling") for text in told) == 3


@pytest.mark.parametrize("size", [(1, 1), (900, 12), (12, 900)], ids=str)
def test_proposals_of_photos_of_any_shape(tiny_network: Path, size: tuple[int, int]) -> None:
    found = inspect_proposals(Segmenter(tiny_network, min_side=20), make_photo(*size), 6)
    assert len(shown(draw_proposals(found, "Title"))) == 3 + len(found.labellings)


def test_proposals_in_order_with_their_boxes_and_many_classes(tiny_network: Path) -> None:
    found = inspect_proposals(Segmenter(tiny_network, min_side=20, crf=False), make_photo(200, 60), 6)
    labels = (np.arange(12000) % 8).astype(np.uint8).reshape(200, 60)
    labels[:100, :50] = 9
    crowded = Segmentation(labels, VOC_CLASSES, palette_for(21))
    found = replace(found, labellings=dict.fromkeys(found.labellings, crowded))
    axes = shown(draw_proposals(found, "Title"))
    titles = [one.get_title(loc="left") for one in axes]
    assert titles == ["photo", "edges", "boxes", "1 proposal", "5 proposals", "6 proposals"]
    notes = [one.get_xlabel() for one in axes[3:]]
    assert notes[0].startswith("chair 41.7%, ") and notes[0].count("%") == 2
    assert notes[1] == notes[0] + "\n0.0% changed"
    assert sorted(text.get_text() for text in axes[2].texts) == ["1", "2", "3", "4", "5"]
    frames = np.array([(*patch.xy, *patch.get_corners()[2]) for patch in axes[2].patches])
    assert len(frames) == 6 and (frames[:, :2] >= -0.5).all()  # cut off at the photo's border
    assert (frames[:, 2:] <= (59.5, 199.5)).all()


@own_style()
def sample(text: str) -> Any:
    figure, axes = panels(1, 1, (2, 2), text)
    show(axes[0, 0], np.ones((2, 2)), text, text)
    return figure


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("PDF", b"%PDF"), ("svg", b"<?xml")])
def test_the_same_figure_gives_the_same_bytes_whatever_the_users_style(
    kind: str, start: bytes, tmp_path: Path
) -> None:
    path, again = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    save(sample(HOSTILE), path)
    with matplotlib.rc_context({"font.size": 40, "text.color": "red", "savefig.dpi": 20}):
        save(sample(HOSTILE), again)
    assert path.read_bytes().startswith(start) and path.read_bytes() == again.read_bytes()
    if kind == "svg":
        xml.etree.ElementTree.parse(path)


def test_formats_names_and_places() -> None:
    with pytest.raises(ValueError, match=r"is not supported .*pdf, "):
        save(sample(""), Path("a.exe"))
    assert printable("Käse $5, 猫\x1b\udc80") == "Käse $5, 猫??"
    with pytest.raises(OutputError, match="is not a folder"):
        save(sample(""), Path(__file__) / "a.png")

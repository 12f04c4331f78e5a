"""`deconvseg inspect` from end to end, with a tiny network."""

import json
from pathlib import Path

import pytest
from PIL import Image

from .conftest import EXAMPLES, Refused, Run, files, lines

CAT = EXAMPLES / "cat.jpg"
COMMANDS = ("layers", "proposals", "switches")


@pytest.fixture
def tiny(tiny_network: Path) -> list[str]:
    """Options for results in no time."""
    return ["--weights", str(tiny_network), "--device", "cpu"]


@pytest.mark.parametrize("what", COMMANDS)
def test_figure_and_numbers(
    inside: Run, refused: Refused, tiny: list[str], tmp_path: Path, what: str
) -> None:
    few = ["--proposals", "2"] if what == "proposals" else []
    done = inside("inspect", what, CAT, "-o", "figure.png", "--json", *few, *tiny)
    assert files(tmp_path) == {"figure.png"}
    assert Image.open(tmp_path / "figure.png").mode == "RGBA"
    told = json.loads(done.stdout)
    want = {"input": str(CAT), "output": "figure.png", "weights": tiny[1], "width": 451, "height": 300}
    assert want.items() <= told.items()
    assert lines(done)[-1] == f"{CAT} -> figure.png"
    key, count = {"layers": ("layers", 19), "switches": ("stages", 5), "proposals": ("boxes", 3)}[what]
    assert len(told[key]) == count

    again = refused("inspect", what, CAT, "-o", "figure.png", *few, *tiny)
    assert again == "figure.png: exists; give -o another name, or --overwrite"


def test_the_options_of_a_segmenter(inside: Run, tiny: list[str], tiny_fcn: Path) -> None:
    few = ["--proposals", "1", "--no-crf", "--json", "-q", *tiny]
    for options, fcn, regions in (
        (["--fcn", tiny_fcn], str(tiny_fcn), 2),
        (["--ensemble", "off"], None, 2),
        (["--protocol", "paper", "--ensemble", "off"], None, 1),  # which leaves the whole photo out
    ):
        done = inside("inspect", "proposals", CAT, *options, *few)
        told = json.loads(done.stdout)
        assert told["fcn"] == fcn and told["crf"] is None and len(told["boxes"]) == regions


def test_box_and_class(inside: Run, tiny: list[str]) -> None:
    options = ["--box", "-20,30.5,150,180", "--class", "cat", *tiny]
    told = json.loads(inside("inspect", "layers", CAT, "--json", "-q", *options).stdout)
    x0, y0, x1, y1 = told["box"]
    assert x1 - x0 == y1 - y0 == 170 and abs(y0 + y1 - 210.5) <= 2 and x0 == -20
    assert told["class"] == told["score"]["class"] == "cat"


def test_a_photo_by_its_address(inside: Run, refused: Refused, tiny: list[str], tmp_path: Path) -> None:
    address = f"local://{CAT}"
    done = inside("inspect", "switches", address, "--json", "-q", *tiny)
    told = json.loads(done.stdout)
    assert told["input"] == address and (told["width"], told["height"]) == (451, 300)
    missing = refused("inspect", "layers", f"local://{tmp_path}/none.jpg", "--json", *tiny)
    assert missing.startswith(f"local://{tmp_path}/none.jpg: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layers", CAT], "say with -o where the figure goes"),
        (["layers", "none.jpg", "-o", "a.exe"], "a.exe: figures are written as "),
        (["layers", CAT, "-o", "b/a.png"], "in none that exists"),
        (["layers", CAT, "-o", "a.png", "--box", "1,2,3"], "not four numbers"),
        (["switches", CAT, "-o", "a.png", "--box", "1,2,3,nan"], "shows nothing of the photo of 451 x 300"),
        (["layers", CAT, "-o", "a.png", "--class", "dgo"], "did you mean dog?"),
        (["layers", CAT, "-o", "a.png", "--min-side", "9"], "--min-side changes nothing for layers"),
        (["layers", CAT, "--json", "--prior", "1"], "--prior changes nothing for layers"),
        (["proposals", CAT, "-o", "a.png", "--class", "cat"], "--class changes nothing for proposals"),
        (["proposals", CAT, "-o", "a.png", "--proposals", "0"], "--proposals"),
        (["sketch", CAT], "sketch"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_line_and_2(
    refused: Refused, tiny: list[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    assert words in refused("inspect", *arguments, *(["-q"] if arguments[0] in COMMANDS else []), *tiny)
    assert not files(tmp_path)


def test_photos_that_cannot_be_read_or_replaced(refused: Refused, tiny: list[str], tmp_path: Path) -> None:
    Image.new("1", (1001, 1000)).save(tmp_path / "large.png")
    before = (tmp_path / "large.png").read_bytes()
    for name, words in {
        "none.jpg": "no such file",
        ".": "is a folder",
        "a\nb": "a\\nb: no such file",
        "large.png": "has 1 megapixels, and 1 are the limit",
    }.items():
        limited = ("-o", "a.png", "--max-megapixels", "1", *tiny)
        assert words in refused("inspect", "proposals", name, *limited)
    told = refused("inspect", "layers", "large.png", "-o", "./large.png", "--overwrite", *tiny)
    assert "one of the files to read" in told
    assert files(tmp_path) == {"large.png"} and (tmp_path / "large.png").read_bytes() == before

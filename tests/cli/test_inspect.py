"""`deconvseg inspect` from end to end, with a tiny network."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from .conftest import EXAMPLES, Run, files, lines

CAT = EXAMPLES / "cat.jpg"
COMMANDS = ("layers", "proposals", "switches")


@pytest.fixture
def tiny(tiny_network: Path) -> list[str]:
    """Options for results in no time."""
    return ["--weights", str(tiny_network), "--device", "cpu"]


@pytest.mark.parametrize("what", COMMANDS)
def test_figure_and_numbers(inside: Run, tiny: list[str], tmp_path: Path, what: str) -> None:
    few = ["--proposals", "2"] if what == "proposals" else []
    done = inside("inspect", what, CAT, "-o", "figure.png", "--json", *few, *tiny)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == {"figure.png"}
    figure = Image.open(tmp_path / "figure.png")
    assert figure.mode == "RGBA" and min(figure.size) > 500
    told = json.loads(done.stdout)
    assert told["input"] == str(CAT) and told["output"] == "figure.png" and told["weights"] == tiny[1]
    assert (told["width"], told["height"]) == (451, 300)
    assert lines(done)[-1] == f"{CAT} -> figure.png"
    counts = {"layers": 19, "stages": 5, "boxes": 3}
    (key,) = counts.keys() & told.keys()
    assert len(told[key]) == counts[key]

    again = inside("inspect", what, CAT, "-o", "figure.png", *few, *tiny)
    assert again.returncode == 2
    assert lines(again) == ["error: figure.png: exists; give -o another name, or --overwrite"]


def test_the_partner_is_told(inside: Run, tiny: list[str], tiny_fcn: Path) -> None:
    few = ["--proposals", "1", "--no-crf", "--json", "-q", *tiny]
    for options, told in (["--fcn", tiny_fcn], str(tiny_fcn)), (["--ensemble", "off"], None):
        done = inside("inspect", "proposals", CAT, *options, *few)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["fcn"] == told


def test_box_and_class(inside: Run, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "cat.pdf").write_text("an older one")
    options = ["--box", "-20,30.5,150,180", "--class", "cat", "-o", "cat.pdf", "--overwrite", "-q"]
    done = inside("inspect", "layers", CAT, "--json", *options, *tiny)
    assert done.returncode == 0 and not done.stderr
    assert (tmp_path / "cat.pdf").read_bytes().startswith(b"%PDF")
    told = json.loads(done.stdout)
    x0, y0, x1, y1 = told["box"]
    assert x1 - x0 == y1 - y0 == 170 and abs(y0 + y1 - 210.5) <= 2 and x0 == -20
    assert told["class"] == told["score"]["class"] == "cat"


def test_a_folder_that_is_not_there(inside: Run, tiny: list[str], tmp_path: Path) -> None:
    done = inside("inspect", "switches", CAT, "-o", "b/new.png", *tiny)
    assert done.returncode == 2
    assert "in none that exists" in lines(done)[0] and not files(tmp_path)


def test_from_stdin_to_stdout(run: Run, tiny: list[str], tmp_path: Path) -> None:
    done = run("inspect", "layers", "-", "-o", "-", *tiny, stdin=CAT.read_bytes())
    assert done.returncode == 0, done.stderr
    assert Image.open(io.BytesIO(done.stdout)).format == "PNG"
    assert lines(done)[-1] == "- -> -" and not files(tmp_path)


def test_a_photo_by_its_address(inside: Run, tiny: list[str], tmp_path: Path) -> None:
    address = f"local://{CAT}"
    done = inside("inspect", "layers", address, "--json", "-q", *tiny)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["input"] == address and (told["width"], told["height"]) == (451, 300)
    missing = inside("inspect", "layers", f"local://{tmp_path}/none.jpg", "--json", *tiny)
    assert missing.returncode == 1
    (line,) = lines(missing)
    assert line.startswith(f"error: local://{tmp_path}/none.jpg: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layers", CAT], "say with -o where the figure goes"),
        (["layers", CAT, "-o", "a.gif"], "figures are written as .png, .pdf, .svg"),
        (["layers", CAT, "-o", "-", "--json"], "standard output"),
        (["layers", CAT, "-o", "a.png", "--box", "1,2,3"], "not four numbers"),
        (["layers", CAT, "-o", "a.png", "--box", "a,b,c,d"], "not four numbers"),
        (["switches", CAT, "-o", "a.png", "--box", "1,2,3,nan"], "not four finite numbers"),
        (["switches", CAT, "-o", "a.png", "--box", "9,9,3,30"], "empty or reversed"),
        (["layers", CAT, "-o", "a.png", "--box", "460,0,500,9"], "outside the photo, which has 451 x 300"),
        (["layers", CAT, "-o", "a.png", "--class", "dgo"], "did you mean dog?"),
        (["layers", CAT, "-o", "a.png", "--min-side", "9"], "--min-side changes nothing for layers"),
        (["proposals", CAT, "-o", "a.png", "--box", "1,2,3,4"], "--box changes nothing for proposals"),
        (["proposals", CAT, "-o", "a.png", "--proposals", "0"], "--proposals"),
        (["sketch", CAT], "sketch"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_line_and_2(
    inside: Run, tiny: list[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    refused = inside("inspect", *arguments, *(["-q"] if arguments[0] in COMMANDS else []), *tiny)
    assert refused.returncode == 2
    assert refused.stdout == b"" and not files(tmp_path)
    (line,) = lines(refused)
    assert line.startswith("error: ") and words in line


def test_photos_that_cannot_be_read(inside: Run, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(CAT.read_bytes()[:3000])
    (tmp_path / "empty.jpg").touch()
    for name, words in {
        "none.jpg": "no such file",
        "broken.jpg": "damaged or cut short",
        "empty.jpg": "is empty",
        ".": "is a folder",
        "a\nb": "a\\nb: no such file",
    }.items():
        failed = inside("inspect", "proposals", name, "-o", "a.png", *tiny)
        assert failed.returncode == 1
        (line,) = lines(failed)
        assert line.startswith("error: ") and words in line
    Image.new("1", (1001, 1000)).save(tmp_path / "large.png")
    large = inside("inspect", "layers", "large.png", "--json", "--max-megapixels", "1", *tiny)
    assert large.returncode == 1 and "has 1 megapixels, and 1 are the limit" in lines(large)[0]
    assert files(tmp_path) == {"broken.jpg", "empty.jpg", "large.png"}


def test_the_photo_itself_is_not_replaced(inside: Run, tiny: list[str], tmp_path: Path) -> None:
    Image.open(CAT).save(tmp_path / "cat.png")
    before = (tmp_path / "cat.png").read_bytes()
    refused = inside("inspect", "layers", "cat.png", "-o", "./cat.png", "--overwrite", *tiny)
    assert refused.returncode == 2 and "one of the files to read" in lines(refused)[0]
    assert (tmp_path / "cat.png").read_bytes() == before


@pytest.mark.parametrize("what", COMMANDS)
def test_a_small_photo(inside: Run, tiny: list[str], tmp_path: Path, what: str) -> None:
    Image.open(CAT).resize((20, 10)).save(tmp_path / "photo.png")
    done = inside("inspect", what, "photo.png", "-o", "figure.svg", *tiny)
    assert done.returncode == 0, done.stderr
    assert len(lines(done)) == 2
    assert (tmp_path / "figure.svg").read_bytes().startswith(b"<?xml")


def test_shipped_network(inside: Run, tmp_path: Path) -> None:
    done = inside("inspect", "layers", CAT, "-o", "cat.png", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [layer["size"][0] for layer in told["layers"]] == [4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64]
    assert told["score"]["class"] == "cat"
    assert told["classes"]["cat"] > 0.5

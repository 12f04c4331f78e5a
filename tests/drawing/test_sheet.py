"""Sheets: formats, paper, text that fits, and what hostile text does to them."""

import io
import warnings
import xml.etree.ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from deconvseg.drawing.sheet import INK, MARGIN, NOTE, Sheet, format_of, in_own_style, printable
from deconvseg.errors import OutputError, UsageError


@in_own_style
def sample(text: str = "a caption") -> Sheet:
    sheet = Sheet(4, 9)
    sheet.picture(np.eye(3), (1, 1, 2, 2))
    sheet.words(text, 1, 3.1, width=2)
    return sheet


def saved(sheet: Sheet, kind: str) -> bytes:
    stream = io.BytesIO()
    sheet.save(stream, kind)
    return stream.getvalue()


def test_formats_by_name() -> None:
    assert [format_of(Path(name)) for name in ("a.png", "b.PDF", "c.x.svg")] == ["png", "pdf", "svg"]
    for name in ("a.gif", "a", "png", "a.png.exe"):
        with pytest.raises(UsageError, match=r"\.png, \.pdf, \.svg"):
            format_of(Path(name))


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_same_figure_gives_the_same_bytes(kind: str, start: bytes) -> None:
    first = saved(sample(), kind)
    assert first.startswith(start) and first == saved(sample(), kind)


def test_paper_is_transparent_and_cut_off_below_the_last_line() -> None:
    image = Image.open(io.BytesIO(saved(sample(), "png")))
    bottom = 3.1 + NOTE * 1.45 / 72 + MARGIN
    assert image.size == (600, pytest.approx(150 * bottom, abs=1))
    alpha = np.asarray(image)[..., 3]
    assert not alpha[0].any() and not alpha[-1].any() and not alpha[:, 0].any()
    assert alpha[200, 300] == 255


def test_ink_is_told_from_white_and_from_black() -> None:
    """Contrast as in WCAG 2; 4.5 is asked for of small text."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(INK)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) > 4.5
    assert (luminance + 0.05) / 0.05 > 4.5


def test_text_that_is_too_long_is_made_to_fit() -> None:
    @in_own_style
    def widths(text: str) -> tuple[float, str, float]:
        sheet = Sheet(4, 4)
        width = sheet.words(text, 1, 1, width=2)
        (line,) = sheet.figure.texts
        return width, line.get_text(), float(line.get_fontsize())

    assert widths("short")[1:] == ("short", NOTE)
    width, text, size = widths("a line that is a little wider than all of that")
    assert width <= 2 and text.endswith("all of that") and size < NOTE
    width, text, size = widths("w" * 3000)
    assert 1.8 < width <= 2 and text.endswith("w...")
    assert widths("猫" * 40)[0] <= 2


@pytest.mark.parametrize(
    "text",
    ["$\\frac{", "$x$", "a\nb\x1b[0m", "\udc80\udcff", "猫 кот قط", "%s {0} \\textbf", "", "\u202e\u0000"],
)
@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_no_text_breaks_a_figure(text: str, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = saved(sample(text), kind)
    if kind == "svg":
        xml.etree.ElementTree.fromstring(content)


def test_printable_text_stays_and_the_rest_is_marked() -> None:
    assert printable("Käse $5, 猫") == "Käse $5, 猫"
    assert printable("a\nb\udc80") == "a?b?"


def test_the_users_style_has_no_say() -> None:
    plain = saved(sample(), "png")
    with matplotlib.rc_context(
        {
            "font.size": 40,
            "text.color": "red",
            "image.cmap": "gray",
            "image.origin": "lower",
            "savefig.dpi": 20,
        }
    ):
        assert saved(sample(), "png") == plain
        assert matplotlib.rcParams["font.size"] == 40


def test_pictures_of_one_value_are_shown() -> None:
    @in_own_style
    def shade(value: float, **options: object) -> tuple[int, ...]:
        sheet = Sheet(2, 2)
        sheet.picture(np.full((2, 2), value), (0.5, 0.5, 1, 1), **options)  # type: ignore[arg-type]
        return Image.open(io.BytesIO(saved(sheet, "png"))).getpixel((150, 150))  # type: ignore[return-value]

    dark, bright = shade(0), shade(3)
    assert sum(dark[:3]) < sum(bright[:3])
    assert shade(3, limits=(3.0, 3.0)) == bright and shade(0, limits=(0.0, 0.0)) == dark


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        sample().save(tmp_path / "file" / "a.png", "png")
    sample().save(tmp_path / "a.png", "png")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "a.png"}

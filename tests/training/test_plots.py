"""Pictures of a run: the curves follow the figures, the sheet shows every panel and the right score."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import DataError, MissingDependencyError
from deconvseg.images.palette import VOC_CLASSES, palette_for, tints
from deconvseg.images.write import overlay
from deconvseg.training import plots
from deconvseg.training.plots import Row, draw_curves, draw_sheet

PALETTE = palette_for(21)
BLUE, ORANGE, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)


def step(number: int, loss: float = 1.0, rate: float = 1e-3) -> dict[str, float]:
    return {
        "step": number,
        "crops": 64 * number,
        "loss": loss,
        "learning_rate": rate,
        "images_per_second": 9.5,
    }


def validation(number: int, miou: float) -> dict[str, float]:
    return {"step": number, "crops": 64 * number, "val_whole_image_miou": miou, "seconds": 3}


def drawn(folder: Path, *lines: dict[str, Any] | str) -> NDArray[np.uint8]:
    """The picture of a metrics file with these lines, as RGB."""
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    with Image.open(folder / "curves.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def rows_of(picture: NDArray[np.uint8], color: tuple[int, int, int]) -> NDArray[np.int64]:
    """Rows, top first, in which a colour occurs."""
    return np.flatnonzero((picture == color).all(2).any(1))


RUN = [step(n, 3 / n, 1e-3 / n) for n in range(1, 40)] + [validation(n, n / 100) for n in (10, 20, 30)]


def test_curves_are_one_above_the_other(tmp_path: Path) -> None:
    picture = drawn(tmp_path, *RUN)
    loss, miou, rate = (rows_of(picture, color) for color in (BLUE, ORANGE, GREEN))
    assert loss.max() < miou.min() < miou.max() < rate.min()
    assert np.ptp(rate) < np.ptp(loss)
    assert (picture[0] == 255).all()
    assert drawn(tmp_path, *RUN).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    "other",
    [
        [step(39, 3.0)],
        [validation(30, 0.1)],
        [validation(39, 0.5)],
        [step(39, 3 / 39, 2e-3)],
    ],
)
def test_every_figure_shows(tmp_path: Path, other: list[dict[str, float]]) -> None:
    assert (drawn(tmp_path, *RUN) != drawn(tmp_path, *RUN, *other)).any()


def test_what_is_no_figure_is_left_out(tmp_path: Path) -> None:
    clean = drawn(tmp_path, *RUN)
    cut = '{"step": 999, "crops": 63936, "lo'
    odd = ["", "[1, 2]", "null", '{"crops": "many", "loss": 2}', '{"crops": 900, "loss": NaN}']
    np.testing.assert_array_equal(drawn(tmp_path, *odd, *RUN, cut), clean)


def test_figures_after_resuming_replace_those_before(tmp_path: Path) -> None:
    before = [step(n, 9.0) for n in range(20, 40)]
    np.testing.assert_array_equal(drawn(tmp_path, *before, *RUN), drawn(tmp_path, *RUN))


def test_one_point(tmp_path: Path) -> None:
    picture = drawn(tmp_path, step(1))
    assert len(rows_of(picture, BLUE)) > 3
    assert not len(rows_of(picture, ORANGE))
    picture = drawn(tmp_path, validation(1, 0.3))
    assert len(rows_of(picture, ORANGE)) > 3
    assert not len(rows_of(picture, BLUE))
    assert drawn(tmp_path, step(1, 0.0, 0.0)).shape == picture.shape


def test_running_mean_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_SMOOTHED_OVER", 0.5)  # of four values: one on each side
    np.testing.assert_allclose(plots._smooth(np.array([1.0, 4, 7, 1])), [2.5, 4, 4, 4])


def test_no_figures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl: has neither"):
        drawn(tmp_path, "{")
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        draw_curves(tmp_path / "none.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        drawn(tmp_path, *RUN)
    draw_sheet([row()], VOC_CLASSES, PALETTE, tmp_path / "sheet.png")


# ---- the sheet


def row(name: str = "a", width: int = 160, height: int = 120) -> Row:
    """A grey photo; a cat of which the right half is void, and a found cat that is twice as tall."""
    photo = np.full((height, width, 3), 120, np.uint8)
    truth = np.zeros((height, width), np.uint8)
    truth[20:40, 20:60] = 8
    truth[20:40, 60:100] = 255
    found = np.zeros((height, width), np.uint8)
    found[20:60, 20:60] = 8
    return name, photo, truth, found


def sheet(folder: Path, *rows: Row) -> NDArray[np.uint8]:
    draw_sheet(rows, VOC_CLASSES, PALETTE, folder / "sheet.png")
    with Image.open(folder / "sheet.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def places(picture: NDArray[np.uint8], panel: NDArray[np.uint8]) -> int:
    """How often a panel occurs in a picture, pixel by pixel."""
    height, width = panel.shape[:2]
    corners = np.argwhere((picture[: 1 - height or None, : 1 - width or None] == panel[0, 0]).all(2))
    return sum(
        bool((picture[y : y + height : 7, x : x + width : 7] == panel[::7, ::7]).all()) for y, x in corners
    )


def test_every_photo_has_its_three_panels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number, (width, height) in enumerate([(128, 90), (60, 130), (100, 40), (150, 50), (70, 45)]):
        name, _, truth, found = row(f"photo {number}", width, height)
        rows.append((name, rng.integers(0, 256, (height, width, 3), np.uint8), truth, found))
    for count in (1, 2, 5):
        picture = sheet(tmp_path, *rows[:count])
        for _, photo, truth, found in rows[:count]:
            true_panel = overlay(np.where(truth == 255, 0, truth).astype(np.uint8), PALETTE, photo)
            true_panel[truth == 255] = 255
            for panel in (photo, true_panel, overlay(found, PALETTE, photo)):
                assert places(picture, panel) == 1


def test_sheet_grows_with_the_photos(tmp_path: Path) -> None:
    one, three, four = (sheet(tmp_path, *[row()] * count).shape for count in (1, 3, 4))
    assert three[1] == one[1] >= 3 * 160
    assert three[0] >= one[0] + 2 * 120
    assert four[1] == 2 * one[1]
    assert four[0] < three[0]


def test_score_of_a_photo() -> None:
    _, _, truth, found = row()
    cat, background = 800 / 1600, (160 * 120 - 800 - 1600) / (160 * 120 - 800 - 800)
    assert plots._mean_iou(truth, found) == pytest.approx((cat + background) / 2)
    assert plots._mean_iou(np.full_like(truth, 255), found) is None
    assert plots._mean_iou(np.zeros_like(truth), np.full_like(truth, 3)) == 0


def test_legend_names_what_occurs(tmp_path: Path) -> None:
    """By its swatches: the colours of cat and void, and of no other class."""

    def swatches(picture: NDArray[np.uint8]) -> set[int]:
        colors = {i: tints(PALETTE)[i] for i in range(1, 21)}
        return {i for i, color in colors.items() if (picture[-30:] == color).all(2).sum() > 100}

    name, photo, truth, found = row()
    assert swatches(sheet(tmp_path, (name, photo, truth, found))) == {8}
    found[:10, :10] = 15
    assert swatches(sheet(tmp_path, (name, photo, truth, found))) == {8, 15}


def test_many_classes_wrap_in_the_legend(tmp_path: Path) -> None:
    name, photo, truth, found = row()
    few = sheet(tmp_path, (name, photo, truth, found))
    found[0, :21] = range(21)
    many = sheet(tmp_path, (name, photo, truth, found))
    assert many.shape[0] > few.shape[0]
    assert many.shape[1] == few.shape[1]


def test_odd_rows(tmp_path: Path) -> None:
    dot = np.zeros((1, 1), np.uint8)
    void = np.full((1, 1), 255, np.uint8)
    pixel = np.zeros((1, 1, 3), np.uint8)
    assert sheet(tmp_path, ("имя " * 60, pixel, void, dot), ("", pixel, dot, dot)).shape[1] < 500
    with pytest.raises(DataError, match="no photos"):
        sheet(tmp_path)
    with pytest.raises(DataError, match="b: photo"):
        sheet(tmp_path, ("b", pixel, np.zeros((1, 2), np.uint8), dot))

"""Pictures of a run: the curves follow the figures, the sheet shows every photo with the right score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deconvseg.errors import DataError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.training.plots import Row, draw_curves, draw_sheet


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_curves_follow_the_figures(tmp_path: Path, drawn: list[Figure]) -> None:
    lines: list[dict[str, float] | str] = [
        {"crops": 320 * n, "loss": 3 / n, "learning_rate": 1e-3} for n in range(1, 5)
    ]
    lines += [{"crops": 1280, "val_whole_image_miou": 0.3}, {"crops": 640, "val_whole_image_miou": 0.4}]
    lines += [{"crops": 640, "loss": 2.5}, '{"crops": 1600, "lo']  # made again after a kill; cut short
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    loss, iou, rate = drawn[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[320, 3], [640, 2.5], [960, 1], [1280, 0.75]]
    assert iou.lines[0].get_xydata().tolist() == [[640, 40], [1280, 30]]
    assert iou.get_title("right") == "best 40.0 at 640 crops, now 30.0"
    assert rate.lines[0].get_xydata()[:, 1].tolist() == [1e-3] * 4
    assert Image.open(tmp_path / "curves.png").size == (1080, 900)


def test_curves_of_little_and_of_nothing(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"crops": 64, "val_whole_image_miou": 0.0}\n')
    draw_curves(metrics, tmp_path / "curves.png")
    metrics.write_text('{"crops": 64, "loss": 0.0, "learning_rate": 0.0}\n')
    draw_curves(metrics, tmp_path / "curves.png")
    metrics.write_text("{")
    with pytest.raises(DataError, match=r"metrics\.jsonl: has neither"):
        draw_curves(metrics, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def row(name: str) -> Row:
    """A grey photo; a cat of which the right half is void, and a found cat that is twice as tall."""
    truth, found = np.zeros((2, 120, 160), np.uint8)
    truth[20:40, 20:60] = 8
    truth[20:40, 60:100] = 255
    found[20:60, 20:60] = 8
    return Row(name, np.full((120, 160, 3), 120, np.uint8), truth, found)


@pytest.mark.parametrize("count", [1, 5])
def test_every_photo_has_its_panels_its_score_and_a_legend(
    tmp_path: Path, drawn: list[Figure], count: int
) -> None:
    draw_sheet([row(f"photo_{i}^$") for i in range(count)], VOC_CLASSES, palette_for(21), tmp_path / "s.png")
    titles = [axes.get_title() for axes in drawn[0].axes if axes.images]
    score = (800 / 1600 + (160 * 120 - 800 - 1600) / (160 * 120 - 800 - 800)) / 2
    wanted = [[f"photo_{i}^$", "truth", f"prediction, mean IoU {score:.2f}"] for i in range(count)]
    assert titles == [title for line in wanted for title in line]
    truth = drawn[0].axes[1].images[0].get_array()
    assert (truth[30, 80] == 255).all() and not (truth[30, 40] == truth[100, 100]).all()
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["cat", "void"]

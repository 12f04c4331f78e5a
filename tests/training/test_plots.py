"""The curves of a run follow its figures."""

import json
from pathlib import Path
from unittest.mock import patch

from matplotlib.figure import Figure
from PIL import Image

from deconvseg.training.plots import draw_curves


def test_curves_follow_the_figures(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = [{"crops": 320 * n, "loss": 3 / n} for n in range(1, 5)]
    lines += [{"crops": 640, "val_whole_image_miou": 0.4}, {"crops": 1280, "val_whole_image_miou": 0.3}]
    text = "".join(f"{json.dumps(line)}\n" for line in lines) + '{"crops": 1600, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    with patch.object(Figure, "savefig", autospec=True, side_effect=Figure.savefig) as save:
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    loss, iou = save.call_args.args[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[320, 3], [640, 1.5], [960, 1], [1280, 0.75]]
    assert iou.lines[0].get_xydata().tolist() == [[640, 40], [1280, 30]]
    assert iou.get_title("right") == "best 40.0 at 640 crops, now 30.0"
    assert Image.open(tmp_path / "curves.png").size == (1080, 900)

    # Of little, and of nothing.
    for text in ('{"crops": 64, "val_whole_image_miou": 0.0}\n', "{"):
        (tmp_path / "metrics.jsonl").write_text(text)
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")

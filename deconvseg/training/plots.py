"""The picture of a training run: its curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deconvseg.files import read_json_lines, replacing

# Okabe and Ito's colours, which people with any kind of colour blindness tell apart.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


def draw_curves(metrics: Path, target: Path) -> None:
    """Draw loss, validation mean IoU and learning rate of a `metrics.jsonl` over the crops seen, as PNG.

    Raises OutputError if the PNG cannot be written.
    """
    lines = read_json_lines(metrics)
    (crops, loss), (at, iou), rate = (
        np.array([(line["crops"], line[key]) for line in lines if key in line], float).reshape(-1, 2).T
        for key in ("loss", "val_whole_image_miou", "learning_rate")
    )
    figure = Figure(figsize=(9, 7.5), dpi=120, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (5, 5, 2)})
    panels[0].plot(crops, loss, color=_BLUE, alpha=0.25, linewidth=0.8)
    panels[0].set_ylabel("training loss (nats)")
    if len(loss):
        reach = len(loss) // 100  # a running mean over a fiftieth of the run
        smooth = [loss[max(i - reach, 0) : i + reach + 1].mean() for i in range(len(loss))]
        panels[0].plot(crops, smooth, color=_BLUE)
        panels[0].set_title(f"now {smooth[-1]:.3f}", loc="right", fontsize=10, color=_BLUE)
        # The first steps of a fresh network are far above the rest and would flatten it.
        panels[0].set_ylim(0, float(np.quantile(loss, 0.99)) * 1.05 or 1)
    panels[1].plot(at, 100 * iou, color=_ORANGE, marker="o", markersize=4)
    panels[1].set_ylabel("validation mean IoU (%)\nwhole photo, one crop")
    if len(iou):
        best = f"best {100 * iou.max():.1f} at {at[iou.argmax()]:,.0f} crops, now {100 * iou[-1]:.1f}"
        panels[1].set_title(best, loc="right", fontsize=10, color=_ORANGE)
        panels[1].set_ylim(0, None)
    panels[2].plot(*rate, color=_GREEN)
    panels[2].set(ylabel="learning rate", xlabel="crops seen", ylim=(0, None))
    figure.suptitle(metrics.absolute().parent.name)
    for panel in panels:
        panel.grid(color="0.9")
    with replacing(target) as stream:
        figure.savefig(stream, format="png")

"""The picture of a training run: its curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deconvseg.files import read_json_lines, replacing

# Two of Okabe and Ito's colours, which people with any kind of colour blindness tell apart.
_BLUE, _ORANGE = "#0072B2", "#D55E00"


def draw_curves(metrics: Path, target: Path) -> None:
    """Draw loss and validation mean IoU of a `metrics.jsonl` over the crops seen, as PNG.

    Raises OutputError if the PNG cannot be written.
    """
    lines = read_json_lines(metrics)
    (crops, loss), (at, iou) = (
        np.array([(line["crops"], line[key]) for line in lines if key in line], float).reshape(-1, 2).T
        for key in ("loss", "val_whole_image_miou")
    )
    figure = Figure(figsize=(9, 7.5), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(crops, loss, color=_BLUE, linewidth=0.8)
    above.set_ylabel("training loss (nats)")
    if len(loss):
        # The first steps of a fresh network are far above the rest and would flatten it.
        above.set_ylim(0, float(np.quantile(loss, 0.99)) * 1.05 or 1)
    below.plot(at, 100 * iou, color=_ORANGE, marker="o", markersize=4)
    below.set(xlabel="crops seen", ylabel="validation mean IoU (%)\nwhole photo, one crop")
    if len(iou):
        best = f"best {100 * iou.max():.1f} at {at[iou.argmax()]:,.0f} crops, now {100 * iou[-1]:.1f}"
        below.set_title(best, loc="right", fontsize=10, color=_ORANGE)
        below.set_ylim(0, None)
    figure.suptitle(metrics.absolute().parent.name)
    with replacing(target) as stream:
        figure.savefig(stream, format="png")

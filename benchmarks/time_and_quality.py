"""What a photo's time buys: seconds against mean IoU of the protocols and of what lies between, as a figure.

    python benchmarks/time_and_quality.py --voc-root VOC2012 --split val --limit 221 --out figure.webp

Each photo goes through all settings in turn, so that they are timed alike; networks are loaded before. The
figures stand on standard output, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from deconvseg.evaluation.counts import confusion_of, count
from deconvseg.evaluation.metrics import figures, mean_iou_interval
from deconvseg.evaluation.run import open_truth
from deconvseg.files import replacing
from deconvseg.images.read import as_photo
from deconvseg.machine import reuse_freed_memory
from deconvseg.segmenter import Segmenter

SETTINGS: dict[str, dict[str, Any]] = {
    "fast": {"protocol": "fast"},
    "0": {"proposals": 0},
    "default": {},
    "10": {"proposals": 10},
    "20": {"proposals": 20},
    "best": {"protocol": "best"},
}
"""Protocols, and numbers of proposals between them."""
PROTOCOLS = ("fast", "default", "best")


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voc-root", type=Path, required=True, help="data set, as of deconvseg eval")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="only so many photos, evenly spread over the split")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, help="the figure, of a kind that matplotlib writes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reuse_freed_memory()  # as the command does
    truth = open_truth(options.voc_root, options.split, options.limit)
    segmenters = {
        name: Segmenter(threads=1, precision=options.precision, **settings)
        for name, settings in SETTINGS.items()
    }
    for segmenter in segmenters.values():
        segmenter.load()
        segmenter.segment(truth.examples[0].image)
    classes = len(truth.classes)
    counts: dict[str, list[Any]] = {name: [] for name in SETTINGS}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for example in truth.examples:
        mask, photo = truth.mask(example), as_photo(example.image)
        for name, segmenter in segmenters.items():
            start = time.perf_counter()
            labels = segmenter.segment(photo).labels
            seconds[name].append(time.perf_counter() - start)
            counts[name].append(count(mask, labels, classes))
    rows = []
    for name in SETTINGS:
        found = figures(np.sum(counts[name], 0), truth.classes)
        matrices = np.array([confusion_of(one, classes) for one in counts[name]])
        sizes = [found["sizes"][size]["mean_iou"] or 0.0 for size in ("small", "medium", "large")]
        rows.append((name, float(np.mean(seconds[name])), found["mean_iou"], *sizes))
        low, high = mean_iou_interval(matrices)
        print(
            f"{name:12} {rows[-1][1]:.3f} s  mean IoU {rows[-1][2]:.4f} ({low:.3f}-{high:.3f})",
            f" boundary F {found['boundary_f']:.3f}  small {sizes[0]:.3f}  medium {sizes[1]:.3f}",
            f" large {sizes[2]:.3f}",
            flush=True,
        )
    if options.out:
        draw(rows, len(truth.examples), options.out)


def draw(rows: list[tuple[Any, ...]], photos: int, target: Path) -> None:
    """Mean IoU, and that of small objects below it, over the seconds of one photo."""
    figure = Figure(figsize=(7, 5.5), dpi=120, layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for panel, column, what in ((panels[0], 2, "mean IoU (%)"), (panels[1], 3, "small objects (%)")):
        points = np.array([(row[1], 100 * row[column]) for row in rows])
        panel.plot(*points.T, color="0.7", zorder=1)
        for (name, *_), (x, y) in zip(rows, points, strict=True):
            fill, weight, up = ("#0072B2", "bold", 7) if name in PROTOCOLS else ("white", "normal", -15)
            panel.plot(x, y, "o", color=fill, markeredgecolor="#0072B2")
            offset = {"xytext": (0, up), "textcoords": "offset points", "ha": "center"}
            panel.annotate(name, (x, y), weight=weight, **offset)
        panel.set_ylabel(what)
        panel.margins(0.08, 0.3)
        panel.grid(color="0.9")
    panels[1].set_xscale("log")
    ticks = [0.2, 0.5, 1, 2]
    panels[1].set_xticks(ticks, [str(tick) for tick in ticks])
    panels[1].minorticks_off()
    panels[1].set_xlabel(f"seconds a photo, one core; {photos} photos; numbers: proposals")
    with replacing(target) as stream:
        figure.savefig(stream, format=target.suffix[1:])


if __name__ == "__main__":
    main()

"""Pictures of a training run: its curves, and a contact sheet of what the network sees by now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deconvseg.data.crops import ImageStore
from deconvseg.data.masks import VOID
from deconvseg.errors import DataError
from deconvseg.files import read_json_lines, replacing
from deconvseg.images.palette import Palette, tints
from deconvseg.images.write import overlay
from deconvseg.network.checkpoint import load_network
from deconvseg.training.recipe import Recipe
from deconvseg.training.validation import mean_iou, whole_photos

SHEET_PHOTOS = 12
_SMOOTHED_OVER = 0.02
"""Share of the run whose mean is a point of the smooth loss curve."""
# Okabe and Ito's colours, which people with any kind of colour blindness tell apart.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


def draw_curves(metrics: Path, target: Path) -> None:
    """Draw loss, validation mean IoU and learning rate over the crops seen, as PNG.

    Args:
        metrics: the run's `metrics.jsonl`. Lines hold `crops` and `loss`, `learning_rate` or
            `val_whole_image_miou`; of two with the same `crops` the later counts, as after a resumed run.
        target: the PNG.

    Raises:
        DataError: there are no figures yet.
        OutputError: the PNG cannot be written.
    """
    lines = read_json_lines(metrics)
    loss, iou, rate = (_curve(lines, key) for key in ("loss", "val_whole_image_miou", "learning_rate"))
    if not len(loss[0]) and not len(iou[0]):
        raise DataError(f"{metrics}: has neither a loss nor a validation yet; draw it later in the run")
    figure = Figure(figsize=(9, 7.5), dpi=120, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (5, 5, 2)})
    panels[0].set_ylabel("training loss (nats)")
    panels[0].plot(*loss, color=_BLUE, alpha=0.25, linewidth=0.8)
    if len(loss[0]):
        smooth = _smooth(loss[1])
        panels[0].plot(loss[0], smooth, color=_BLUE, marker="o", markevery=[-1])
        panels[0].set_title(f"now {smooth[-1]:.3f}", loc="right", fontsize=10, color=_BLUE)
        # The first steps of a fresh network are far above the rest and would flatten it.
        top = max(float(np.quantile(loss[1], 0.99)), float(smooth[len(smooth) // 20 :].max())) * 1.05
        panels[0].set_ylim(0, top or 1)
    panels[1].set_ylabel("validation mean IoU (%)\nwhole photo, one crop")
    panels[1].plot(iou[0], 100 * iou[1], color=_ORANGE, marker="o", markersize=4)
    if len(iou[0]):
        best = int(iou[1].argmax())
        title = f"best {100 * iou[1][best]:.1f} at {iou[0][best]:,.0f} crops, now {100 * iou[1][-1]:.1f}"
        panels[1].set_title(title, loc="right", fontsize=10, color=_ORANGE)
        panels[1].set_ylim(0, None)
    panels[2].plot(*rate, color=_GREEN)
    panels[2].set(ylabel="learning rate", xlabel="crops seen", ylim=(0, None))
    panels[2].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    figure.suptitle(metrics.absolute().parent.name)
    figure.align_ylabels(panels)
    for panel in panels:
        panel.grid(color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    with replacing(target) as stream:
        figure.savefig(stream, format="png")


def _curve(lines: Sequence[dict[str, float]], key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Crops seen and the figure of this name, in order of crops; lines without it do not count."""
    points = dict(sorted((line["crops"], line[key]) for line in lines if key in line and "crops" in line))
    return np.array(list(points), np.float64), np.array(list(points.values()), np.float64)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred running mean; near the ends over what there is."""
    reach = min(round(_SMOOTHED_OVER * len(values) / 2), len(values) // 2)
    window = np.ones(2 * reach + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


class Row(NamedTuple):
    """A photo uint8 (h, w, 3) of a contact sheet with its true and found labels, uint8 (h, w)."""

    name: str
    photo: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    found: NDArray[np.uint8]


def draw_validation(
    folder: Path, recipe: Recipe, store: ImageStore, names: Sequence[str], device: torch.device
) -> None:
    """Draw photos of the validation split as the run's best network sees them, into `validation.png`.

    Args:
        folder: the run folder, with `best.safetensors`.
        recipe: the run's.
        store: the validation photos, in main memory.
        names: their names.
        device: where the network runs.
    """
    network, header = load_network(folder / "best.safetensors")
    count = min(SHEET_PHOTOS, len(store))
    chosen = torch.tensor([i * len(store) // count for i in range(count)])
    rows = []
    for index, found in whole_photos(network.to(device), header, store, recipe, chosen):
        for i, labels in zip(index.tolist(), found.cpu(), strict=True):
            truth = store.labels[i].numpy()
            photo = store.images[i].permute(1, 2, 0).numpy()
            rows.append(Row(names[i], photo, truth, _unsquare(labels, *truth.shape)))
    draw_sheet(rows, header.classes, header.palette, folder / "validation.png")


def draw_sheet(rows: Sequence[Row], classes: Sequence[str], palette: Palette, target: Path) -> None:
    """Draw photos of a data set with their true and their found labels side by side, as PNG.

    Above what was found stands the photo's mean IoU over the classes that occur. Void is white.

    Args:
        rows: at least one; labels are indices into `classes`, truth also 255 for void.
        classes: names, background first.
        palette: a colour a class.
        target: the PNG.

    Raises:
        OutputError: the PNG cannot be written.
    """
    columns = 1 if len(rows) < 4 else 2
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(6.6 * columns, 1.8 * lines + 0.9), dpi=120, layout="constrained")
    panels = figure.subplots(lines, 3 * columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for i, row in enumerate(rows):
        line = panels[i // columns, i % columns * 3 :][:3]
        texts = (row.name[-28:], "truth", f"prediction, mean IoU {_iou(row, len(classes)):.2f}")
        pictures = (row.photo, *(_shown(labels, palette, row.photo) for labels in (row.truth, row.found)))
        for panel, text, picture in zip(line, texts, pictures, strict=True):
            panel.imshow(picture)
            panel.set_title(text, fontsize=8, parse_math=False)
    seen = np.unique(np.concatenate([labels.ravel() for row in rows for labels in (row.truth, row.found)]))
    colors = np.array(tints(palette)) / 255
    patches = [Patch(color=colors[i], label=classes[i]) for i in seen if 0 < i < len(classes)]
    patches += [Patch(facecolor="white", edgecolor="0.6", label="void")] if seen[-1] == VOID else []
    figure.legend(handles=patches, loc="outside lower center", ncols=4 * columns, fontsize=8, frameon=False)
    with replacing(target) as stream:
        figure.savefig(stream, format="png")


def _shown(labels: NDArray[np.uint8], palette: Palette, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    void = labels == VOID
    shown = overlay(np.where(void, 0, labels).astype(np.uint8), palette, photo)
    shown[void] = 255
    return shown


def _iou(row: Row, classes: int) -> float:
    counted = row.truth != VOID
    pairs = row.truth[counted].astype(np.int64) * classes + row.found[counted]
    return mean_iou(torch.bincount(torch.from_numpy(pairs), minlength=classes**2).reshape(classes, classes))


def _unsquare(labels: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Labels (S, S) of a photo's square as the photo's own (height, width)."""
    side = max(height, width)
    left, top = (side - width) / 2, (side - height) / 2
    scale = len(labels) / side
    box = (left * scale, top * scale, (left + width) * scale, (top + height) * scale)
    square = Image.fromarray(labels.numpy().astype(np.uint8))
    return np.asarray(square.resize((width, height), Image.Resampling.NEAREST, box))

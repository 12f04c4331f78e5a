"""Pictures of a training run: its curves, and a contact sheet of what the network sees by now."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deconvseg.data.masks import VOID
from deconvseg.errors import DataError, MissingDependencyError
from deconvseg.files import replacing
from deconvseg.images.palette import Palette, tints
from deconvseg.images.write import overlay

Row: TypeAlias = tuple[str, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Name, photo uint8 (h, w, 3), true labels and found labels, both uint8 (h, w)."""
Curve: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]

# Okabe and Ito's colours, which people with any kind of colour blindness tell apart.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_SMOOTHED_OVER = 0.02
"""Share of the run whose mean is a point of the smooth loss curve."""
_GAP, _TEXT, _INK, _PAPER = 10, 15, (40, 40, 40), (255, 255, 255)
_HEADINGS = ("photo", "truth", "prediction")


def draw_curves(metrics: Path, target: Path) -> None:
    """Draw loss, validation mIoU and learning rate over the crops seen, as PNG.

    Args:
        metrics: the run's `metrics.jsonl`. Lines hold `crops` and `loss`, `learning_rate` or
            `val_whole_image_miou`; of two with the same `crops` the later counts, as after a resumed run. A
            line that is no JSON, cut short by a kill, is skipped.
        target: the PNG.

    Raises:
        DataError: the file cannot be read or has no figures.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the PNG cannot be written.
    """
    lines = _read_lines(metrics)
    loss, miou, rate = (_curve(lines, key) for key in ("loss", "val_whole_image_miou", "learning_rate"))
    if not len(loss[0]) and not len(miou[0]):
        raise DataError(f"{metrics}: has neither a loss nor a validation yet; draw it later in the run")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter
    except ImportError as error:
        raise MissingDependencyError(
            f"matplotlib does not load ({error}); run: pip install matplotlib"
        ) from error

    figure = Figure(figsize=(9, 7.5), dpi=120, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (5, 5, 2)})
    _draw_loss(panels[0], loss)
    _draw_miou(panels[1], miou)
    panels[2].plot(*rate, color=_GREEN, linewidth=1.5, marker=_marker(rate))
    panels[2].set(ylabel="learning rate", xlabel="crops seen", ylim=(0, None))
    for panel, curve in zip(panels, (loss, miou, rate), strict=True):
        if not len(curve[0]):
            panel.text(0.5, 0.5, "none yet", transform=panel.transAxes, ha="center", color="0.5")
            panel.set_yticks([])
    panels[2].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    panels[2].xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.suptitle(metrics.absolute().parent.name, fontsize=12)
    figure.align_ylabels(panels)
    for panel in panels:
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    with replacing(target) as stream:
        figure.savefig(stream, format="png")


def _read_lines(metrics: Path) -> list[dict[str, Any]]:
    try:
        text = metrics.read_text("utf-8", errors="replace")
    except OSError as error:
        raise DataError(
            f"{metrics}: cannot be read ({error.strerror}); give a run's metrics.jsonl"
        ) from error
    lines = []
    for line in text.splitlines():
        try:
            figures = json.loads(line)
        except ValueError:
            continue
        if isinstance(figures, dict):
            lines.append(figures)
    return lines


def _curve(lines: Sequence[dict[str, Any]], key: str) -> Curve:
    """Crops seen and the figure of this name, in order of crops; lines without it do not count."""
    points = {line["crops"]: line[key] for line in lines if _is_number(line.get("crops"), line.get(key))}
    crops = sorted(points)
    return np.array(crops, np.float64), np.array([points[at] for at in crops], np.float64)


def _is_number(*values: object) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred running mean; near the ends over what there is."""
    reach = min(round(_SMOOTHED_OVER * len(values) / 2), len(values) // 2)
    window = np.ones(2 * reach + 1)
    share = np.convolve(np.ones(len(values)), window, "same") if len(values) else values
    return np.convolve(values, window, "same") / share if len(values) else values


def _marker(curve: Curve) -> str:
    """A line of one point is invisible without it."""
    return "o" if len(curve[0]) == 1 else ""


def _draw_loss(panel: Any, curve: Curve) -> None:
    crops, loss = curve
    smooth = _smooth(loss)
    panel.plot(crops, loss, color=_BLUE, alpha=0.25, linewidth=0.8)
    panel.plot(crops, smooth, color=_BLUE, linewidth=1.8, marker=_marker(curve))
    panel.set(ylabel="training loss (nats)")
    if len(loss):
        # The first steps of a fresh network are far above the rest and would flatten it.
        top = max(float(np.quantile(loss, 0.99)), float(smooth[len(smooth) // 20 :].max())) * 1.05
        panel.set_ylim(0, top or 1)
        panel.set_title(f"now {smooth[-1]:.3f}", loc="right", fontsize=10, color=_BLUE)


def _draw_miou(panel: Any, curve: Curve) -> None:
    crops, miou = curve
    panel.plot(crops, 100 * miou, color=_ORANGE, linewidth=1.8, marker="o", markersize=4)
    panel.set(ylabel="validation mIoU (%)\nwhole photo, one crop")
    if len(miou):
        best = int(miou.argmax())
        panel.axhline(100 * miou[best], color=_ORANGE, linewidth=0.8, linestyle=":")
        panel.set_ylim(0, None)
        title = f"best {100 * miou[best]:.1f} at {crops[best]:,.0f} crops, now {100 * miou[-1]:.1f}"
        panel.set_title(title, loc="right", fontsize=10, color=_ORANGE)


def draw_sheet(rows: Sequence[Row], classes: Sequence[str], palette: Palette, target: Path) -> None:
    """Draw photos of a data set with their true and their found labels side by side, as PNG.

    Under each stand the objects' classes, largest first, and the photo's mean IoU: over the classes,
    background included, that occur in its truth or in what was found, where the truth is not void. Void is
    white. Photos are shown pixel by pixel: make them 128 to
    384 px first.

    Args:
        rows: see `Row`; labels are indices into `classes`, truth also 255 for void.
        classes: names, background first.
        palette: a colour a class.
        target: the PNG.

    Raises:
        DataError: labels and photo differ in size, or there are no photos.
        OutputError: the PNG cannot be written.
    """
    if not rows:
        raise DataError(f"{target}: there are no photos to draw; give at least one")
    for name, photo, truth, found in rows:
        if not photo.shape[:2] == truth.shape == found.shape:
            raise DataError(
                f"{name}: photo {photo.shape[:2]}, truth {truth.shape} and prediction {found.shape} differ; "
                "bring them to one size"
            )
    columns = 1 if len(rows) < 4 else 2
    width = max(128, max(photo.shape[1] for _, photo, _, _ in rows))
    stride = 3 * (width + _GAP) + 2 * _GAP
    lines = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    heights = [max(photo.shape[0] for _, photo, _, _ in line) + 2 * _GAP + _TEXT for line in lines]
    legend = _legend(rows, classes, palette, columns * stride)
    top = _TEXT + 2 * _GAP
    sheet = Image.new("RGB", (columns * stride, top + sum(heights) + legend.height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place in range(3 * columns):
        at = place // 3 * stride + _GAP + place % 3 * (width + _GAP)
        draw.text((at, _GAP), _HEADINGS[place % 3], _INK, _font())
    for line, height in zip(lines, heights, strict=True):
        for column, (name, photo, truth, found) in enumerate(line):
            left = column * stride + _GAP
            panels = (photo, _shown(truth, palette, photo), _shown(found, palette, photo))
            score = _iou_text(truth, found)
            captions = (name, _named(truth, classes), f"{score}  {_named(found, classes)}")
            for place, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
                at = left + place * (width + _GAP)
                sheet.paste(Image.fromarray(panel), (at, top))
                draw.text((at, top + photo.shape[0] + 3), _shortened(caption, width), _INK, _font())
        top += height
    sheet.paste(legend, (0, top))
    with replacing(target) as stream:
        sheet.save(stream, "PNG")


def _shown(labels: NDArray[np.uint8], palette: Palette, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    void = labels == VOID
    shown = overlay(np.where(void, 0, labels).astype(np.uint8), palette, photo)
    shown[void] = 255
    return shown


def _named(labels: NDArray[np.uint8], classes: Sequence[str]) -> str:
    """The object classes that occur, largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(classes))[1 : len(classes)]
    order = [1 + i for i in np.argsort(-counts, kind="stable") if counts[i]]
    return ", ".join(classes[i] for i in order)


def _iou_text(truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> str:
    iou = _mean_iou(truth, found)
    return "all void" if iou is None else f"IoU {iou:.2f}"


def _mean_iou(truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> float | None:
    """Mean over the classes that occur; None if all is void."""
    counted = truth != VOID
    truth, found = truth[counted], found[counted]
    present = np.union1d(truth, found)
    if not len(present):
        return None
    shares = [((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in present]
    return float(np.mean(shares))


def _legend(rows: Sequence[Row], classes: Sequence[str], palette: Palette, width: int) -> Image.Image:
    """Swatches of the object classes that occur, and of void if it does, as many lines as they need."""
    maps = [labels for _, _, truth, found in rows for labels in (truth, found)]
    ids = sorted({int(label) for labels in maps for label in np.unique(labels)})
    colors = tints(palette)
    entries = [(classes[i], colors[i]) for i in ids if 0 < i < len(classes)]
    if VOID in ids and len(classes) <= VOID:
        entries.append(("void", _PAPER))
    font, step = _font(), _TEXT + _GAP
    places, x, y = [], _GAP, _GAP
    for name, _ in entries:
        length = round(font.getlength(name)) + _TEXT + 3 * _GAP
        if x > _GAP and x + length > width:
            x, y = _GAP, y + step
        places.append((x, y))
        x += length
    legend = Image.new("RGB", (width, y + step), _PAPER)
    draw = ImageDraw.Draw(legend)
    for (name, color), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + _TEXT, y + _TEXT), color, outline=(150, 150, 150))
        draw.text((x + _TEXT + 5, y), name, _INK, font)
    return legend


def _font() -> Any:
    return ImageFont.load_default(size=_TEXT)


def _shortened(name: str, width: int) -> str:
    """The name's start, as much as fits into so many pixels."""
    if _font().getlength(name) <= width:
        return name
    while name and _font().getlength(f"{name}...") > width:
        name = name[:-1]
    return f"{name}..."

"""A report of an evaluation: a page that asks nothing of the network, and its figures as JSON and a table."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg import __version__
from deconvseg.data.dataset import Example
from deconvseg.data.masks import VOID, MaskFormat, read_mask
from deconvseg.evaluation.counts import LARGE, MEDIUM, TOLERANCE, confusion_of
from deconvseg.evaluation.metrics import figures, share
from deconvseg.evaluation.run import Evaluation
from deconvseg.files import replacing
from deconvseg.images.write import overlay

SIDE = 320  # pixels of a picture's longer side: four side by side, and 12 photos weigh about 1.5 MB
EACH = 6  # photos of the best and of the worst ones
ORANGE, BLUE, PURPLE = (230, 159, 0), (0, 114, 178), (204, 121, 167)
"""Told apart by the colour-blind, too. In pictures: objects missed, falsely found, and of another class."""
STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 20%, Canvas);
  --faint: color-mix(in srgb, CanvasText 70%, Canvas); }
* { box-sizing: border-box; print-color-adjust: exact; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h4 { margin: 1.5rem 0 .25rem; } pre { white-space: pre-wrap; } h4, code, pre { overflow-wrap: anywhere; }
small, caption, footer { font-weight: normal; color: var(--faint); font-size: .9rem; }
img { display: block; max-width: 100%; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
caption { text-align: left; padding: .3rem 0; white-space: normal; }
th, td { padding: .15rem .6rem; text-align: right; font-weight: normal; }
.bars th:first-child { text-align: left; padding-left: 0; } .full th, .full td { font-weight: 600; }
.bar { width: min(24rem, 30vw); }
.bar i { display: block; height: .9rem; border: 1px solid var(--faint); }
.matrix thead span { writing-mode: vertical-rl; transform: rotate(180deg); }
.matrix td { padding: 0; min-width: 1.85rem; height: 1.75rem; text-align: center; font-size: .75rem;
  background: color-mix(in srgb, #0072b2 var(--depth), Canvas); }
"""
ROWS = f"""Per cent, pooled over the same photos, pixels of void left out. Mean IoU is over the classes that
occur; with other photos of their kind, 95 % of mean IoUs would lie in
the interval (bootstrap). Boundary F: outlines that agree within {TOLERANCE:.2%} of the diagonal. Small to
large: objects under {MEDIUM:.0%} of the photo's area, up to {LARGE:.0%}, and beyond. Orange: with the CRF."""
GALLERY = f"""<p>Photo, truth (white is void), prediction and difference, by mean IoU over the classes in a
photo. In the difference, objects that are right are bright, mistakes in colour: <b
style="color:rgb{ORANGE}">■</b>&nbsp;missed, <b style="color:rgb{BLUE}">■</b>&nbsp;falsely found, <b
style="color:rgb{PURPLE}">■</b>&nbsp;other class.</p>"""


def write_report(evaluation: Evaluation, summary: dict[str, Any], folder: Path) -> None:
    """Write `report.json`, `per_image.csv` and, last, `report.html` with its photos."""
    photos = list(_per_image(evaluation))
    _write(folder / "report.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    table = io.StringIO()
    writer = csv.DictWriter(table, list(photos[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(photos)
    _write(folder / "per_image.csv", table.getvalue())
    ious = {photo["name"]: photo["mean_iou"] for photo in photos if photo["mean_iou"] is not None}
    _write(folder / "report.html", _page(evaluation, summary, ious))


def _write(path: Path, text: str) -> None:
    with replacing(path) as stream:
        stream.write(text.encode())


def _per_image(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    classes = evaluation.truth.classes
    for photo, counts in zip(evaluation.photos, evaluation.counts(evaluation.subject.full), strict=True):
        counted = int(confusion_of(counts, len(classes)).sum())
        found = figures(counts, classes) if counted else {}
        yield {
            **{key: getattr(photo, key) for key in ("name", "width", "height")},
            **{key: found.get(key) for key in ("mean_iou", "pixel_accuracy", "boundary_f")},
            "pixels_counted": counted,
            "seconds": round(sum(photo.seconds.values()), 3) if photo.seconds else None,
        }


def _page(evaluation: Evaluation, summary: dict[str, Any], ious: Mapping[str, float]) -> str:
    """The page of what was measured, its figures, and the mean IoU of each photo that has one."""
    setting, images, of = summary["setting"], summary["images"], summary["split_images"]
    split, source = summary["split"], summary["weights"] or summary["settings"]["predictions"]
    took = f" in {summary['seconds_per_image']:.2f} s a photo" if summary["seconds"] else ""
    parts, rows = {}, ""
    for row in summary["rows"]:
        interval = "–".join(map(_percent, row["mean_iou_interval"]))
        others = map(_percent, (row["pixel_accuracy"], row["boundary_f"], *row["sizes"].values()))
        colour, full = ORANGE if row["crf"] else BLUE, row["name"] == setting
        rows += _row(row["name"], row["mean_iou"], interval, *others, colour=colour, full=full)
    head = "Setting", "", "mean IoU", "interval", "pixels", "boundary F", *summary["sizes"]
    parts["What each step brings"] = _table(ROWS, head, rows)
    caption, rows = "Per cent. A dash: the class occurs neither in truth nor in prediction.", ""
    for (name, iou), colour in zip(summary["per_class_iou"].items(), evaluation.truth.palette, strict=True):
        rows += _row(name, iou, _percent(summary["per_class_boundary_f"][name]), colour=colour)
    parts["Classes"] = _table(caption, ("Class", "", "IoU", "boundary F"), rows)
    parts["Confusion"] = _matrix(np.array(summary["confusion"]), evaluation.truth.classes)
    if evaluation.labels:
        parts["Photos"] = GALLERY + "".join(_pictures(evaluation, ious))
    parts["Settings"] = f"<pre>{escape(json.dumps(summary['settings'], indent=2))}</pre>"
    content = "".join(
        f'<section id="{title.split()[-1].lower()}"><h2>{title}</h2>{text}</section>\n'
        for title, text in parts.items()
    )
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>deconvseg: {escape(setting)} on {escape(split)}</title><style>{STYLE}</style></head><body>
<h1>Mean IoU {_percent(summary["mean_iou"])} % <small>{escape(setting)}</small></h1>
<p>{images} of the {of} photos of {escape(split)}{", a sample evenly spread" if images < of else ""}, labelled
by <code>{escape(source)}</code>{took}</p>
{content}
<footer>deconvseg {__version__}</footer></body></html>
"""


def _table(caption: str, head: Sequence[str], rows: str, kind: str = "bars") -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"""<div class="wide" tabindex="0"><table class="{kind}"><caption>{escape(caption)}</caption>
<thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>"""


def _row(name: str, value: float | None, *cells: str, colour: Sequence[int], full: bool = False) -> str:
    """A row of a table with a share, 0 to 1, as a bar and in per cent."""
    bar = f'<i style="width:{100 * (value or 0):.1f}%;background:rgb{tuple(colour)}"></i>'
    texts = "".join(f"<td>{text}</td>" for text in (_percent(value, 2), *cells))
    return f'<tr{" class=full" * full}><th>{escape(name)}</th><td class="bar">{bar}</td>{texts}</tr>\n'


def _matrix(confusion: NDArray[np.int64], names: Sequence[str]) -> str:
    rows = ""
    for name, shares in zip(names, share(confusion, confusion.sum(1, keepdims=True)), strict=True):
        rows += f"<tr><th>{escape(name)}</th>"
        for part in np.nan_to_num(shares).tolist():
            depth = 3 + 67 * part**0.5  # the root: a few per cent must be seen beside 90 on the diagonal
            rows += f'<td style="--depth:{depth:.0f}%">{f"{100 * part:.0f}" if part >= 0.001 else ""}</td>'
        rows += "</tr>\n"
    caption = "Rows: true class. Columns: predicted class. Per cent of the row's pixels."
    return _table(caption, ["", *(f"<span>{escape(name)}</span>" for name in names)], rows, "matrix")


def _pictures(evaluation: Evaluation, ious: Mapping[str, float]) -> Iterator[str]:
    """The best and the worst photos, and where they are wrong."""
    truth, indexed = evaluation.truth, MaskFormat.indexed(evaluation.truth.classes, evaluation.truth.palette)
    ranking = sorted((e for e in truth.examples if e.name in ious), key=lambda e: (-ious[e.name], e.name))
    palette = (*truth.palette, *((255, 255, 255),) * (256 - len(truth.palette)))  # void is shown in white
    for title, examples in choose(ranking).items():
        yield f"<h3>{title}</h3>"
        for example in examples:
            photo, mask = map(_small, truth.read(example))
            found = _small(read_mask(evaluation.labels[example.name], indexed))
            views = (np.asarray(overlay(labels, palette, photo)) for labels in (mask, found))
            picture = np.concatenate([photo, *views, difference(photo, mask, found)], axis=1)
            encoded = io.BytesIO()
            Image.fromarray(picture).save(encoded, "JPEG", quality=85)
            url = f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
            name, score = escape(example.name), f"<small>mean IoU {_percent(ious[example.name])} %</small>"
            yield f'<h4>{name} {score}</h4><img src="{url}" alt="{name} and its labels">\n'


def choose(ranking: Sequence[Example]) -> dict[str, Sequence[Example]]:
    """The first photos of a ranking, and the last of the others."""
    return {"Best": ranking[:EACH], "Worst": ranking[EACH:][-EACH:]}


def difference(
    photo: NDArray[np.uint8], truth: NDArray[np.uint8], found: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The photo (H, W, 3) in dark grey, mistakes in colour, objects that are right bright."""
    shown = np.repeat(photo.mean(2, keepdims=True) * 0.4, 3, axis=2)
    shown[(truth == found) & (truth > 0) & (truth != VOID)] += 130
    wrong = (truth != found) & (truth != VOID)
    for mistakes, colour in ((wrong, PURPLE), (wrong & (found == 0), ORANGE), (wrong & (truth == 0), BLUE)):
        shown[mistakes] = colour
    return np.asarray(np.clip(shown, 0, 255), dtype=np.uint8)


def _small(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(array)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX if array.ndim == 3 else Image.Resampling.NEAREST)
    return np.array(image)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"

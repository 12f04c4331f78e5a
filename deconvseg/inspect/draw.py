"""Draws what was found: panels with captions and a key on transparent paper, for white and for dark pages."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from deconvseg.files import replacing
from deconvseg.images.palette import tints
from deconvseg.images.write import overlay
from deconvseg.inspect.compute import Inspection
from deconvseg.segmentation import Segmentation

# Dates are left out of files: the same figure always gives the same bytes.
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
INK = "#767676"  # equally far from white and black: a contrast of 4.5 to both, enough for small text
MARK = "#FF8C1A"
HEAT, EDGES, SIGNED = "viridis", "magma", "coolwarm"  # of activities, of edges and of scores
_STYLE: dict[str, Any] = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "text.color"), INK),
    **dict.fromkeys(("axes.titlelocation", "xaxis.labellocation"), "left"),
    **dict.fromkeys(("axes.titleweight", "figure.titleweight"), "bold"),
    **dict.fromkeys(("axes.labelsize", "font.size", "legend.fontsize", "legend.title_fontsize"), 7.5),
    "axes.titlesize": 8.5,
    "figure.titlesize": 12,
    "legend.frameon": False,
    "legend.borderaxespad": 2.0,
    "text.parse_math": False,
    "svg.hashsalt": "deconvseg",
}
_KEY = """Pooling keeps the largest value of each 2 x 2 cell and remembers its corner: the switch.
Unpooling puts the decoder's value back at that corner of the same channel, and 0 at the others."""
_MEANINGS: dict[str, Any] = {
    "least to largest value of the picture": HEAT,
    "corner taken, or part enlarged": {},
    "cell of zeros: its first corner": {"linestyle": ":"},
}
_TITLES = {
    "encoded": ("encoder before pooling", "enlarged: corners taken", "after pooling"),
    "decoded": ("decoder before unpooling", "enlarged: values put back", "after unpooling"),
}
"""By the map that a half of a row of switches begins with."""
_NUMBERED = 5  # boxes, the best ones


@contextmanager
def own_style() -> Iterator[None]:
    """Draws as meant, also as a decorator: no matplotlibrc or style of the user's has a say."""
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


@own_style()
def draw_layers(found: Inspection, title: str) -> Figure:
    """Draw a column for each block of the decoder, from the input on the left to the labelling."""
    numbers, pictures, labelling = found.numbers, found.pictures, found.labellings["labelling"]
    columns: list[list[dict[str, Any]]] = [[]]
    for layer in numbers["layers"]:
        if layer["name"].startswith("unpool"):
            columns.append([])
        columns[-1].append(layer)
    rows, colours = max(2, *map(len, columns)), class_colours([labelling])
    size = 1.9 * (len(columns) + 1), 2.4 * rows + 1.4 + 0.2 * (len(colours) // 6)
    figure, axes = panels(rows, len(columns) + 1, size, title)
    score = pictures["score"]
    side = f"{len(score)} x {len(score)}"
    show(axes[0, 0], pictures["input"], "input", side)
    for column, layers in enumerate(columns):
        for row, layer in enumerate(layers, start=column == 0):
            height, width = layer["size"]
            note = f"{width} x {height}, {layer['active']:.1%} active\nchannel {layer['channel']}"
            show(axes[row, column], pictures[layer["name"]], layer["name"].replace("fc6_", "fc6-"), note)
    most = max(float(np.abs(score).max()), 1e-6)
    note = f"{side}\n{score.min():.3g} to {score.max():.3g}"
    name = f"score of {numbers['score']['class'][:20]}"
    show(axes[0, -1], score, name, note, cmap=SIGNED, vmin=-most, vmax=most)
    show(axes[1, -1], pictures["painted"], "labelling", shares(labelling))
    which = f"drives {printable(numbers['class'])} most" if numbers["class"] else "is the most active"
    lines = f"Of each layer the map that {which}, in the order of computing: down each column, then right.\n"
    lines += "unpool puts values back where pooling took its maxima; deconv fills the gaps."
    scales = {"0 to the map's maximum": HEAT, "score below 0 to above": SIGNED}
    key(figure, lines, scales | colours, columns=6)
    return figure


@own_style()
def draw_switches(found: Inspection, title: str) -> Figure:
    """Draw a row for each pooling: the input, the encoder, and the decoder that undoes it."""
    figure, axes = panels(5, 7, (13.5, 14), title)
    for row, numbers in enumerate(found.numbers["stages"]):
        show(axes[row, 0], found.pictures["input"], f"pooling {row + 1}", _described(numbers))
        _frame_part(axes[row, 0], numbers)
        _draw_half(axes[row, 1:4], found, numbers, "encoded", "pooled")
        if numbers["unpooled"]:
            _draw_half(axes[row, 4:], found, numbers, "decoded", "unpooled")
        else:
            axes[row, 4].text(0, 0.5, "No unpooling undoes this pooling:\nthe scores are enlarged instead.")
    key(figure, _KEY, _MEANINGS, columns=3)
    return figure


def _described(numbers: dict[str, Any]) -> str:
    taken = "nothing above 0"
    if numbers["corners"]:
        taken = "corners: " + ", ".join(f"{100 * share:.0f}" for share in numbers["corners"].values()) + " %"
    way = f"{numbers['size'][0]} to {numbers['pooled_size'][0]}" + " and back" * numbers["unpooled"]
    return f"{way}, channel {numbers['channel']}\n{taken}\n{numbers['empty']:.1%} of cells empty"


def _draw_half(axes: Any, found: Inspection, numbers: dict[str, Any], *names: str) -> None:
    """The two maps, and between them the enlarged part of the larger one, which is framed in both."""
    x0, y0, x1, y1 = numbers["window"]
    wanted = (*names, "corners", "pooled")
    first, last, corners, pooled = (found.pictures[f"{name}{numbers['stage']}"] for name in wanted)
    large, small = sorted((first, last), key=len, reverse=True)
    pictures = first, large[y0:y1, x0:x1], last
    for one, pixels, title in zip(axes, pictures, _TITLES[names[0]], strict=True):
        show(one, pixels, title, vmin=float(pixels.min()))
    _frame_part(axes[0], numbers)
    _frame_part(axes[2], numbers)
    for edge in range(2, y1 - y0, 2):
        axes[1].axvline(edge - 0.5, color="white", linewidth=1.2)
        axes[1].axhline(edge - 0.5, color="white", linewidth=1.2)
    cells = slice(y0 // 2, y1 // 2), slice(x0 // 2, x1 // 2)
    for (row, column), corner in np.ndenumerate(corners[cells]):
        if small[cells][row, column] > 0:  # dotted where all of the cell was 0 in the encoder
            line = ":" if pooled[cells][row, column] == 0 else "-"
            x, y = 2 * column + corner % 2 + 0.14, 2 * row + corner // 2 + 0.14
            frame(axes[1], x, y, 0.72, 0.72, linewidth=1.8, linestyle=line)


def _frame_part(axes: Axes, numbers: dict[str, Any]) -> None:
    """Frame the part that is enlarged in a picture of the whole, of any size."""
    scale = axes.images[0].get_size()[0] / numbers["size"][0]
    x0, y0, x1, y1 = (place * scale for place in numbers["window"])
    frame(axes, x0, y0, x1 - x0, y1 - y0, linewidth=1.5)


@own_style()
def draw_proposals(found: Inspection, title: str) -> Figure:
    """Draw the proposals' work: photo, edges, boxes by rank, and the labelling as it grows."""
    image, edges = found.pictures["photo"], found.pictures["edges"]
    height, width = image.shape[:2]
    columns = 3 if width > height else 4
    rows = math.ceil((3 + len(found.labellings)) / columns)
    tall = (8.8 / columns - 0.2) / min(max(width / height, 0.5), 4.0) + 0.65  # with its captions
    colours = class_colours([*found.labellings.values()])
    paper = 8.8, rows * tall + 1.3 + 0.16 * len(colours) // columns
    figure, axes = panels(rows, columns, paper, title)
    places = iter(axes.flat)
    show(next(places), image, "photo", f"{width} x {height} as it is worked on")
    show(next(places), edges, "edges", f"strength 0 to {edges.max():.2f}", cmap=EDGES)
    boxes = [box for box in found.numbers["boxes"] if box["rank"]]
    note = f"{len(boxes)}, squared" if boxes else "none is long enough"
    # Grey and dim, so that coloured lines stand out.
    show(place := next(places), image.mean(2), "boxes", note, cmap="gray", vmin=-45, vmax=420)
    scale = np.array([width / found.numbers["width"], height / found.numbers["height"]] * 2)
    _draw_boxes(place, [(np.array(box["box"]) * scale).tolist() for box in boxes])
    before = None
    for name, labelling in found.labellings.items():
        note = shares(labelling)
        if before is not None:
            note += f"\n{(labelling.labels != before.labels).mean():.1%} changed"
        tinted = np.asarray(overlay(labelling.labels, labelling.palette, image))
        show(next(places), tinted, name, note)
        before = labelling
    ranks = {f"rank 1 to {len(boxes)}": f"{HEAT}_r"} if len(boxes) > 1 else {}
    text = "A labelling takes in the whole photo and so many proposals, in order, before the CRF."
    key(figure, text, ranks | colours, columns=2 * columns)
    return figure


def _draw_boxes(axes: Axes, boxes: list[list[float]]) -> None:
    """The proposals, cut off at the photo's border, the best on top; the first few with their rank."""
    height, width = axes.images[0].get_size()
    for rank, (x0, y0, x1, y1) in reversed([*enumerate(boxes, 1)]):
        # Cut lines lie a little inside, each box's a bit further, so that they are not all one.
        inset = max(width, height) * (0.005 + 0.00125 * rank)
        left, top = max(x0, inset), max(y0, inset)
        wide, high = min(x1, width - inset) - left, min(y1, height - inset) - top
        colour = colormaps[HEAT](1 - (rank - 1) / max(len(boxes) - 1, 1))
        frame(axes, left, top, wide, high, colour, linewidth=1.8 if rank <= _NUMBERED else 0.7)
        if rank <= _NUMBERED:  # not at one place of the upper line, should boxes share it
            place = left + wide * (rank - 0.5) / _NUMBERED
            tag = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
            axes.text(place, top, str(rank), ha="center", va="top", weight="bold", color="black", bbox=tag)


def panels(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple[Figure, Any]:
    """A figure of `size` inches with a title, and its axes (rows, columns), all of them still off."""
    figure = Figure(size, layout="constrained")
    figure.suptitle(printable(title, 100), x=0.04 / size[0], horizontalalignment="left")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.set_axis_off()
    return figure, axes


def show(axes: Axes, pixels: NDArray[Any], name: str, note: str = "", **colours: Any) -> None:
    """Show an image in a thin frame: RGB, or numbers in `colours` of `imshow`, in HEAT from 0 if omitted."""
    if pixels.ndim == 2:
        colours = {"cmap": HEAT, "vmin": 0.0, "vmax": float(pixels.max()), **colours}
    axes.set_axis_on()
    axes.imshow(pixels, **colours)
    axes.set(xticks=[], yticks=[], title=printable(name), xlabel=printable(note))


def frame(axes: Axes, x: float, y: float, wide: float, high: float, color: Any = MARK, **line: Any) -> None:
    """Draw a rectangle around pixels from `x`, `y` on, counted from the image's corner."""
    patch = Rectangle((x - 0.5, y - 0.5), wide, high, fill=False, edgecolor=color, **line)
    axes.add_patch(patch).set_clip_on(False)


def key(figure: Figure, lines: str, colours: dict[str, Any], columns: int) -> None:
    """Write lines of text, and below what colours, names of colour maps or options of a frame mean."""

    def handle(what: Any) -> Any:
        if isinstance(what, dict):
            return Patch(facecolor="none", edgecolor=MARK, linewidth=1.8, **what)
        if what in colormaps:
            return tuple(Patch(color=colour) for colour in colormaps[what](np.linspace(0, 1, 24)))
        return Patch(color=what)

    legend = figure.legend(
        [handle(what) for what in colours.values()],
        [printable(meaning) for meaning in colours],
        title="\n" + lines,  # a line of space to the captions
        ncols=columns,
        handler_map={tuple: HandlerTuple(None, pad=0)},
        loc="outside lower left",
        alignment="left",
    )
    legend.get_title().set_multialignment("left")


def save(figure: Figure, target: Path) -> None:
    """Write the figure in the format of its name.

    Raises ValueError if matplotlib does not write this format, an OutputError if it cannot be written.
    """
    kind = target.suffix[1:].lower()
    tight: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.25, "transparent": True}
    with own_style(), replacing(target) as stream:
        figure.savefig(stream, format=kind, dpi=150, metadata=_METADATA.get(kind), **tight)


def printable(text: str, most: int = 48) -> str:
    """Lines as fonts can show them: what is no character becomes a question mark, and long ones are cut."""
    lines = (line if len(line) <= most else f"{line[: most - 3]}..." for line in text.split("\n"))
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def shares(labelling: Segmentation) -> str:
    """The classes of the two largest objects and their shares of pixels."""
    found = {name: share for name, share in labelling.class_shares().items() if share >= 0.005}
    found.pop(labelling.classes[0], None)
    return ", ".join(f"{name[:20]} {share:.1%}" for name, share in [*found.items()][:2]) or "background alone"


def class_colours(labellings: Sequence[Segmentation]) -> dict[str, Any]:
    """Classes that occur, without background, with their colours on overlays; the last's largest first."""
    last = labellings[-1]
    colours = dict(zip(last.classes, tints(last.palette), strict=True))
    found = dict.fromkeys(name for one in reversed(labellings) for name in one.class_shares())
    return {name: tuple(c / 255 for c in colours[name]) for name in found if name != last.classes[0]}

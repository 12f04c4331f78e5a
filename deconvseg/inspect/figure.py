"""How the figures look: panels with captions and a key on transparent paper, for white and for dark pages."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import UsageError
from deconvseg.files import replacing
from deconvseg.images.palette import tints
from deconvseg.segmentation import Segmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Dates are left out of files: the same figure always gives the same bytes.
_METADATA = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
INK = "#767676"
"""The grey that is equally far from white and black: a contrast of 4.5 to both, enough for small text."""
MARK = "#FF8C1A"
HEAT, EDGES, SIGNED = "viridis", "magma", "coolwarm"
"""matplotlib's colours of activities, of edges and of scores."""
_STYLE: dict[str, Any] = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "text.color"), INK),
    **dict.fromkeys(("axes.titlelocation", "xaxis.labellocation"), "left"),
    **dict.fromkeys(("axes.titleweight", "figure.titleweight"), "bold"),
    **dict.fromkeys(("axes.labelsize", "font.size", "legend.fontsize", "legend.title_fontsize"), 7.5),
    "axes.titlesize": 8.5,
    "figure.titlesize": 12,
    "axes.linewidth": 0.6,
    "axes.titlepad": 4,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 2.0,
    "legend.handlelength": 3.5,
    "figure.constrained_layout.hspace": 0.05,
    "figure.constrained_layout.wspace": 0.03,
    "text.parse_math": False,
    "svg.hashsalt": "deconvseg",
}


@dataclass(frozen=True)
class Inspection:
    """What was found in a photo.

    Attributes:
        numbers: fit for JSON; docs/inspect.md lists them.
        pictures: arrays by name, as the function that found them says.
        labellings: by name, of the picture of the photo.
    """

    numbers: dict[str, Any]
    pictures: dict[str, NDArray[Any]]
    labellings: dict[str, Segmentation] = field(default_factory=dict)


@contextmanager
def own_style() -> Iterator[None]:
    """Draws as meant, also as a decorator: no matplotlibrc or style of the user's has a say."""
    from matplotlib import style

    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def panels(rows: int, columns: int, size: tuple[float, float], title: str, **grid: Any) -> tuple[Figure, Any]:
    """A figure of `size` inches with a title, and its axes (rows, columns), all of them still off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(printable(title, 100), x=0.04 / size[0], horizontalalignment="left")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for one in axes.flat:
        one.set_axis_off()
    return figure, axes


def show(axes: Axes, pixels: NDArray[Any], name: str, note: str = "", **colours: Any) -> None:
    """Show an image in a thin frame, with its name above and a note of one or two lines below.

    `pixels` are uint8 (h, w, 3), or (h, w) of any numbers, in `colours` as matplotlib's `imshow` takes them
    and, where those are omitted, in HEAT from 0 to the largest there is.
    """
    if pixels.ndim == 2:
        colours = {"cmap": HEAT, "vmin": 0.0, "vmax": float(pixels.max()), **colours}
    axes.set_axis_on()
    axes.imshow(pixels, **colours)
    axes.set(xticks=[], yticks=[], title=printable(name), xlabel=printable(note))


def key(
    owner: Any, lines: str, colours: dict[str, Any], columns: int, loc: str = "outside lower left"
) -> None:
    """Write lines of text and below them, in columns, what colours mean: in a figure, or on axes.

    `colours` has by meaning a colour, the name of a colour map, or the options of a frame.
    """
    from matplotlib import colormaps
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    def handle(what: Any) -> Any:
        if isinstance(what, dict):
            return Patch(facecolor="none", edgecolor=MARK, linewidth=1.8, **what)
        if what in colormaps:
            return tuple(Patch(color=colour) for colour in colormaps[what](np.linspace(0, 1, 24)))
        return Patch(color=what)

    outside = loc.startswith("outside")
    legend = owner.legend(
        [handle(what) for what in colours.values()],
        [printable(meaning) for meaning in colours],
        title="\n" * outside + lines,  # a line of space to the captions
        ncols=columns,
        handler_map={tuple: HandlerTuple(None, pad=0)},
        loc=loc,
        alignment="left",
    )
    legend.get_title().set_multialignment("left")
    legend.set_in_layout(outside)


def save(figure: Figure, target: Path | BinaryIO) -> None:
    """Write the figure: to a path in the format of its name, to a stream as PNG.

    Raises:
        UsageError: a name of another format.
        OutputError: it cannot be written; then nothing is left behind.
    """
    kind = checked_format(target) if isinstance(target, Path) else ".png"
    tight: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.25, "transparent": True}
    encoded = io.BytesIO()
    with own_style():
        figure.savefig(encoded, format=kind[1:], dpi=150, metadata=_METADATA[kind], **tight)
    if isinstance(target, Path):
        with replacing(target) as stream:
            stream.write(encoded.getbuffer())
    else:
        target.write(encoded.getbuffer())
        target.flush()


def checked_format(path: Path) -> str:
    """The name's end, `.png`, `.pdf` or `.svg`; a UsageError if it is another."""
    if path.suffix.lower() not in _METADATA:
        raise UsageError(f"{path}: figures are written as {', '.join(_METADATA)}; rename the output")
    return path.suffix.lower()


def printable(text: str, most: int = 48) -> str:
    """Lines as fonts can show them: what is no character becomes a question mark, and long ones are cut."""
    lines = (line if len(line) <= most else f"{line[: most - 3]}..." for line in text.split("\n"))
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def shares(labelling: Segmentation) -> str:
    """The two largest objects' classes and shares of pixels; below, how many more have half a percent."""
    found = {name: share for name, share in labelling.class_shares().items() if share >= 0.005}
    found.pop(labelling.classes[0], None)
    told = [f"{name[:20]} {share:.1%}" for name, share in found.items()]
    return ", ".join(told[:2]) + f"\n{len(told) - 2} more" * (len(told) > 2) or "background alone"


def class_colours(labellings: Sequence[Segmentation]) -> dict[str, Any]:
    """Classes that occur, without background, with their colours on overlays; the last's largest first."""
    last = labellings[-1]
    colours = dict(zip(last.classes, tints(last.palette), strict=True))
    found = dict.fromkeys(name for one in reversed(labellings) for name in one.class_shares())
    return {name: tuple(c / 255 for c in colours[name]) for name in found if name != last.classes[0]}

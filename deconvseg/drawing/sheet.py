"""A figure on which pictures, captions and keys are put by inches, fit for white and for dark pages."""

from __future__ import annotations

import io
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import MissingDependencyError, UsageError
from deconvseg.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

P = ParamSpec("P")
R = TypeVar("R")
FORMATS = (".png", ".pdf", ".svg")
INK = "#767676"
"""The grey that is equally far from white and black: a contrast of 4.5 to both, enough for small text. The
paper is transparent."""
MARK = "#FF8C1A"
HEAT, EDGES = "viridis", "magma"
TITLE, NAME, NOTE = 12.0, 8.5, 7.5
"""Sizes of text in points."""
MARGIN, GAP = 0.25, 0.2
"""Inches around everything, and between two pictures."""
_DPI = 150
_SMALLEST = 0.75
"""Text that is too long is made smaller down to this, then cut."""


def format_of(path: Path) -> str:
    """`png`, `pdf` or `svg`, by the name's end.

    Raises:
        UsageError: it has another one.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{path}: figures are written as {', '.join(FORMATS)}; rename the output")
    return suffix[1:]


class Sheet:
    """A figure with transparent paper. Places are in inches from the top left.

    Args:
        width: in inches.
        height: at least what is needed; the paper is cut off below the last thing on it.

    It is made and drawn on in functions that are `in_own_style`.
    """

    def __init__(self, width: float, height: float) -> None:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height, self._used = width, height, 0.0
        self.figure = Figure(figsize=(width, height), dpi=_DPI)
        self.figure.patch.set_alpha(0)
        self._renderer: Any = FigureCanvasAgg(self.figure).get_renderer()  # type: ignore[no-untyped-call]
        self._maps = matplotlib.colormaps

    def picture(
        self,
        pixels: NDArray[Any],
        place: tuple[float, float, float, float],
        *,
        colours: str = HEAT,
        limits: tuple[float, float] | None = None,
    ) -> Axes:
        """Show an image with a thin frame.

        Args:
            pixels: uint8 (h, w, 3), or (h, w) of any numbers, shown in colours.
            place: left, top, width and height.
            colours: of numbers, a colour map of matplotlib.
            limits: the numbers at the ends of the colours; None takes 0 and the largest there is.

        Returns:
            Axes in pixels of the image.
        """
        left, top, width, height = place
        self._used = max(self._used, top + height)
        axes = self.figure.add_axes(
            (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        )
        low, high = limits or (0.0, float(np.max(pixels)) if pixels.ndim == 2 else 255.0)
        if low == high:  # all is the same: bright, but dark if it is 0
            low, high = (low - 1, low) if low > 0 else (low, low + 1)
        axes.imshow(pixels, cmap=colours, vmin=low, vmax=high, aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=INK, linewidth=0.6)
        return axes

    def words(
        self,
        text: str,
        left: float,
        top: float,
        *,
        size: float = NOTE,
        width: float | None = None,
        bold: bool = False,
        align: str = "left",
    ) -> float:
        """Write one line, made smaller and in the end cut where it would be wider than `width`.

        Returns:
            Its width in inches.
        """
        self._used = max(self._used, top + step(size))
        line = self.figure.text(
            left / self.width,
            1 - top / self.height,
            printable(text),
            size=size,
            color=INK,
            weight="bold" if bold else "normal",
            ha=align,
            va="top",
            parse_math=False,
        )
        if width is not None:
            self._fit(line, size, width)
        return self._width(line)

    def _fit(self, line: Text, size: float, width: float) -> None:
        text, smallest = line.get_text(), size * _SMALLEST
        while self._width(line) > width and size > smallest:
            size = max(size * 0.97, smallest)
            line.set_fontsize(size)
        if self._width(line) <= width:
            return

        def is_too_wide(length: int) -> bool:
            line.set_text(f"{text[:length].rstrip()}...")
            return self._width(line) > width

        kept = bisect_left(range(1, len(text)), True, key=is_too_wide)
        line.set_text(f"{text[:kept].rstrip()}...")

    def _width(self, line: Text) -> float:
        return float(line.get_window_extent(self._renderer).width) / _DPI

    def scale(self, left: float, top: float, low: str, high: str, *, colours: str = HEAT) -> float:
        """A key: a strip of colours between two words; returns its width."""
        at = left + self.words(low, left, top) + 0.06
        strip = np.linspace(0, 1, 256)[None]
        self.picture(strip, (at, top + 0.015, 1.2, NOTE / 72), colours=colours)
        return at + 1.26 + self.words(high, at + 1.26, top) - left

    def legend(
        self, entries: Sequence[tuple[str, tuple[int, int, int]]], left: float, top: float, width: float
    ) -> float:
        """A key: names with their colours, in as many lines as they need; returns where the next begins."""
        at, side = left, NOTE / 72
        for name, colour in entries:
            room = self._room(name) + 3 * side
            if at > left and at + room > left + width:
                at, top = left, top + step(NOTE)
            self.picture(np.array([[colour]], np.uint8), (at, top + 0.015, side, side))
            self.words(name, at + 1.4 * side, top, width=left + width - at - 1.4 * side)
            at += room
        return top + step(NOTE)

    def _room(self, name: str) -> float:
        probe = self.figure.text(0, 0, printable(name), size=NOTE, parse_math=False)
        width = self._width(probe)
        probe.remove()
        return width

    def colour(self, share: float, colours: str = HEAT) -> tuple[float, float, float, float]:
        """The colour at `share` (0..1) of a colour map."""
        r, g, b, a = self._maps[colours](share)
        return r, g, b, a

    def save(self, target: Path | BinaryIO, kind: str) -> None:
        """Write the figure as `png`, `pdf` or `svg`; the same figure always gives the same bytes.

        Raises:
            OutputError: it cannot be written; then nothing is left behind.
        """
        # Dates, and numbers made at random, are left out.
        metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
        encoded = io.BytesIO()
        with _own_style():
            from matplotlib.transforms import Bbox

            kept = Bbox.from_extents(0, self.height - self._used - MARGIN, self.width, self.height)
            self.figure.savefig(encoded, format=kind, dpi=_DPI, metadata=metadata, bbox_inches=kept)
        with replacing(target) if isinstance(target, Path) else nullcontext(target) as stream:
            stream.write(encoded.getbuffer())
            stream.flush()


def in_own_style(draw: Callable[P, R]) -> Callable[P, R]:
    """A function that draws as we mean it: no matplotlibrc or style of the user's has a say.

    It raises a MissingDependencyError if matplotlib is not installed.
    """

    @wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> R:
        with _own_style():
            return draw(*args, **options)

    return drawn


@contextmanager
def _own_style() -> Iterator[None]:
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingDependencyError(
            f"matplotlib does not load ({error}); run: pip install matplotlib"
        ) from error
    with style.context(["default", {"svg.hashsalt": "deconvseg"}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def step(size: float) -> float:
    """Inches from one line of text to the next."""
    return size * 1.45 / 72


def printable(text: str) -> str:
    """Text as fonts can show it: what is no character becomes a question mark."""
    return "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in text)

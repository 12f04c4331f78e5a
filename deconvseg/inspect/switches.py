"""Pooling and unpooling on a region: where maxima were taken, and where values were put back (figure 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from deconvseg.images.read import PhotoPixels
from deconvseg.inspect.figure import HEAT, MARK, Inspection, key, own_style, panels, show
from deconvseg.inspect.trace import Box, Trace, trace
from deconvseg.segmenter import Segmenter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
ZOOMED = 4
"""Cells of 2 x 2 pixels on a side of the part that is shown enlarged."""


def inspect_switches(
    segmenter: Segmenter, photo: PhotoPixels, box: Box | None = None, class_name: str | None = None
) -> Inspection:
    """The poolings of the encoder and the unpoolings of the decoder, for the whole photo or a box of it.

    The channel of a stage is one that is active on both sides, with the largest product of the means inside
    the photo; with a class, the one whose unpooled map drives that class's score most, as in
    `inspect_layers`. Where no unpooling undoes the pooling, it is the most active one.

    Args and errors are those of `trace.trace`.

    Pictures are `input`, uint8 (S, S, 3), and for each pooling, 1 (the finest) to 5, on its channel:
    `encoded1`, float32 (2h, 2w), the encoder's map before it; `pooled1`, float32 (h, w), after it;
    `corners1`, uint8 (h, w), which pixel of each 2 x 2 cell is the largest, the first of equal ones, an index
    into CORNERS; and, if an unpooling undoes it, `decoded1`, float32 (h, w), and `unpooled1`, float32
    (2h, 2w), the decoder's maps before and after that.
    """
    found = trace(segmenter, photo, box, class_name)
    pictures: dict[str, NDArray[Any]] = {"input": found.crop}
    stages = [_stage(found, number, pictures) for number in range(1, 6)]
    return Inspection({**found.numbers, "stages": stages}, pictures)


def _stage(found: Trace, number: int, pictures: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The numbers of a pooling; its pictures are added to `pictures`."""
    before, where = found.encoded[number - 1], found.switches[number - 1]
    kinds = where // before.shape[-1] % 2 * 2 + where % 2
    after = before.flatten(1).gather(1, where.flatten(1)).view_as(where)
    active, back = found.means(after), found.decoded.get(f"unpool{number}")
    if back is not None:
        active = active * found.means(back)
    channel = found.driving.get(f"unpool{number}", int(active.argmax()))
    busy = pooled = after[channel].cpu().numpy()
    maps = {"encoded": before[channel].cpu().numpy(), "pooled": pooled}
    maps["corners"] = kinds[channel].cpu().numpy().astype(np.uint8)
    if back is not None:
        maps["unpooled"] = back[channel].cpu().numpy()
        maps["decoded"] = maps["unpooled"].ravel()[where[channel].cpu().numpy()]
        busy = pooled * maps["decoded"]
    pictures |= {f"{name}{number}": map_ for name, map_ in maps.items()}
    inside = found.cells(len(pooled))
    filled = after[:, *inside] > 0
    counts = np.bincount(kinds[:, *inside][filled].cpu().numpy(), minlength=len(CORNERS))
    shares = (counts / max(counts.sum(), 1)).tolist()
    # The window with the largest sum inside the photo, in pixels before pooling.
    counted, side = np.zeros_like(pooled), min(ZOOMED, len(pooled))
    counted[*inside] = busy[*inside]
    sums = sliding_window_view(counted, (side, side)).sum((2, 3))
    top, left = (2 * int(place) for place in np.unravel_index(sums.argmax(), sums.shape))
    return {
        "stage": number,
        "size": list(before.shape[1:]),
        "pooled_size": list(pooled.shape),
        "channel": channel,
        "corners": dict(zip(CORNERS, shares, strict=True)) if counts.any() else None,
        "empty": 1 - int(counts.sum()) / filled.numel(),
        "unpooled": back is not None,
        "window": [left, top, left + 2 * side, top + 2 * side],
    }


_KEY = """Pooling keeps the largest value of each 2 x 2 cell and remembers its corner: the switch.
Unpooling puts the decoder's value back at that corner of the same channel, and 0 at the others."""
_MEANINGS: dict[str, Any] = {
    "least to largest value of the picture": HEAT,
    "corner taken, or part enlarged": {},
    "cell of zeros: its first corner": {"linestyle": ":"},
}
_HEADINGS = (
    "encoder, downwards:\nbefore pooling",
    "enlarged, corners taken",
    "after pooling",
    "",
    "decoder, upwards:\nbefore unpooling",
    "enlarged, values put back",
    "after unpooling",
)


@own_style()
def draw_switches(found: Inspection, title: str) -> Figure:
    """Draw a row for each pooling: the encoder left, the decoder that undoes it right."""
    grid = {"width_ratios": [0.8, 1, 1, 1, 0.3, 1, 1, 1], "height_ratios": [0.65, 1, 1, 1, 1, 1]}
    figure, axes = panels(6, 8, (13.5, 12.5), title, **grid)
    show(axes[0, 0], found.pictures["input"], "input")
    key(axes[0, 1], _KEY, _MEANINGS, columns=3, loc="upper left")
    for row, numbers in enumerate(found.numbers["stages"], 1):
        axes[row, 0].set_title(f"pooling {row}")
        axes[row, 0].text(0, 0.97, _described(numbers), va="top", linespacing=1.5)
        _draw_half(axes[row, 1:4], found, numbers, "encoded", "pooled")
        if numbers["unpooled"]:
            _draw_half(axes[row, 5:], found, numbers, "decoded", "unpooled")
        else:
            axes[row, 5].text(0, 0.5, "No unpooling undoes this pooling:\nthe scores are enlarged instead.")
    for one, heading in zip(axes[1, 1:], _HEADINGS, strict=True):
        one.set_title(heading)
        one.set_box_aspect(1)
    return figure


def _described(numbers: dict[str, Any]) -> str:
    taken = "nothing above 0"
    if numbers["corners"]:
        a, b, c, d = (f"{100 * share:.0f} %" for share in numbers["corners"].values())
        taken = f"corners, all channels:\n{a}   {b}\n{c}   {d}"
    way = f"{numbers['size'][0]} to {numbers['pooled_size'][0]}" + " and back" * numbers["unpooled"]
    return f"{way}\nchannel {numbers['channel']}\n\n{taken}\n\n{numbers['empty']:.1%} of cells empty"


def _draw_half(axes: Any, found: Inspection, numbers: dict[str, Any], *names: str) -> None:
    """The two maps, and between them the enlarged part of the larger one, which is framed in both."""
    x0, y0, x1, y1 = numbers["window"]
    first, last, corners, pooled = (
        found.pictures[f"{name}{numbers['stage']}"] for name in (*names, "corners", "pooled")
    )
    large, small = sorted((first, last), key=len, reverse=True)
    for one, pixels in zip(axes, (first, large[y0:y1, x0:x1], last), strict=True):
        show(one, pixels, "", vmin=float(pixels.min()))
    for edge in range(2, y1 - y0, 2):
        axes[1].axvline(edge - 0.5, color="white", linewidth=1.2)
        axes[1].axhline(edge - 0.5, color="white", linewidth=1.2)
    cells = slice(y0 // 2, y1 // 2), slice(x0 // 2, x1 // 2)
    for (row, column), corner in np.ndenumerate(corners[cells]):
        if small[cells][row, column] > 0:  # dotted where all of the cell was 0 in the encoder
            line = ":" if pooled[cells][row, column] == 0 else "-"
            x, y = 2 * column + corner % 2, 2 * row + corner // 2
            _frame(axes[1], x + 0.14, y + 0.14, 0.72, linewidth=1.8, linestyle=line)
    for one, pixels in ((axes[0], first), (axes[2], last)):
        factor = len(pixels) / len(large)
        _frame(one, x0 * factor, y0 * factor, (x1 - x0) * factor, linewidth=1.5)


def _frame(axes: Axes, x: float, y: float, side: float, **line: Any) -> None:
    from matplotlib.patches import Rectangle

    frame = Rectangle((x - 0.5, y - 0.5), side, side, fill=False, edgecolor=MARK, **line)
    axes.add_patch(frame).set_clip_on(False)

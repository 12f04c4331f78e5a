"""Which colour is which class: a small panel in a corner of an overlay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Entry = tuple[str, tuple[int, int, int]]

_SMALLEST, _LARGEST = 7, 400
_PAPER, _INK = (0, 0, 0, 160), (255, 255, 255, 255)


def draw_legend(image: Image.Image, entries: Sequence[Entry], busy: NDArray[np.bool_]) -> None:
    """Draw the panel onto an RGB image, in the corner where it covers the fewest `busy` pixels, bool (H, W).

    `entries` are names with their colours, the most important first; on an image too small for all of them at
    a size that can be read, the last are left out.
    """
    text, panel = min(max(min(image.size) // 22, 11), _LARGEST), None
    while entries:
        panel = _panel(entries, text)
        if panel.width <= image.width * 0.9 and panel.height <= image.height * 0.9:
            break
        if text == _SMALLEST:
            entries = entries[:-1]
        text = max(text * 7 // 8, _SMALLEST)
    if panel is None or not entries:
        return
    margin = max(min(image.size) // 60, 1)
    right, bottom = image.width - panel.width - margin, image.height - panel.height - margin
    corners = [(x, y) for y in (margin, bottom) for x in (margin, right)]
    x, y = min(corners, key=lambda it: busy[it[1] :, it[0] :][: panel.height, : panel.width].sum())
    box = (x, y, x + panel.width, y + panel.height)
    image.paste(Image.alpha_composite(image.crop(box).convert("RGBA"), panel).convert("RGB"), box)


def _panel(entries: Sequence[Entry], text: int) -> Image.Image:
    import matplotlib  # which brings a font along that knows more letters than Pillow's own

    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", text)
    line, space = round(text * 1.45), round(text * 0.6)
    width = max(round(font.getlength(name)) for name, _ in entries) + text + 3 * space
    panel = Image.new("RGBA", (width, line * len(entries) + space), (0, 0, 0, 0))
    draw = ImageDraw.Draw(panel)
    draw.rounded_rectangle((0, 0, panel.width - 1, panel.height - 1), space, fill=_PAPER)
    for place, (name, colour) in enumerate(entries):
        middle = space // 2 + place * line + line // 2
        draw.rectangle((space, middle - text // 2, space + text, middle + text // 2), (*colour, 255), _INK)
        draw.text((space * 2 + text, middle), name, _INK, font, anchor="lm")
    return panel

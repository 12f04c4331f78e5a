"""Writes a Segmentation to a file: one function a format, each file whole or not at all."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deconvseg.errors import OutputError, UsageError
from deconvseg.files import replacing
from deconvseg.images.components import outline
from deconvseg.images.palette import Palette, palette_for, tints

if TYPE_CHECKING:
    from deconvseg.segmentation import Segmentation

Photo: TypeAlias = NDArray[np.uint8]
Target: TypeAlias = Path | BinaryIO
Entry: TypeAlias = tuple[str, tuple[int, int, int]]  # of a legend: a name and its colour

_STRIP_PIXELS = 1 << 20
_LONGEST_JPEG = 65_500
_LARGEST_TEXT = 400  # pixels
_PAPER, _INK = (0, 0, 0, 160), (255, 255, 255, 255)


def write_labels(segmentation: Segmentation, target: Target) -> None:
    """Write the labels as an 8-bit palette PNG: pixel values are class ids, shown in the class colours."""
    _save(_in_colors(segmentation), target)


def write_color(segmentation: Segmentation, target: Target) -> None:
    """Write the labels as plain RGB in the class colours (PNG)."""
    _save(_in_colors(segmentation).convert("RGB"), target)


def _in_colors(segmentation: Segmentation) -> Image.Image:
    image = Image.fromarray(segmentation.labels)
    # All 256 colours, as in VOC's own files: with 16 or fewer Pillow would pack two pixels into a byte.
    palette = (*segmentation.palette, *palette_for(256)[len(segmentation.palette) :])
    image.putpalette([channel for color in palette for channel in color])
    return image


def write_overlay(segmentation: Segmentation, target: Target, *, legend: bool = False) -> None:
    """Write the photo tinted as by `overlay`, JPEG, or PNG by name; `legend` names the objects' colours."""
    _save(overlay_image(segmentation, legend="{name}" if legend else ""), target, format_="JPEG")


def overlay_image(segmentation: Segmentation, *, legend: str = "") -> Image.Image:
    """What `write_overlay` writes, as an RGB image; `legend` has the `{name}` and `{share}` of an object."""
    image = overlay(segmentation.labels, segmentation.palette, segmentation.photo)
    if legend:
        colors = dict(zip(segmentation.classes[1:], tints(segmentation.palette)[1:], strict=True))
        shares = {name: share for name, share in segmentation.class_shares().items() if name in colors}
        entries = [(legend.format(name=name, share=share), colors[name]) for name, share in shares.items()]
        draw_legend(image, entries, segmentation.labels > 0)
    return image


def draw_legend(image: Image.Image, entries: Sequence[Entry], busy: NDArray[np.bool_]) -> None:
    """Draw a panel of colours and names onto an RGB image, where it covers the fewest `busy` pixels, (H, W).

    One that is too large for the image is made smaller.
    """
    if not entries:
        return
    panel = _panel(entries, min(max(min(image.size) // 22, 11), _LARGEST_TEXT))
    panel.thumbnail((max(image.width * 0.9, 1), max(image.height * 0.9, 1)))
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


def write_cutout(segmentation: Segmentation, target: Target) -> None:
    """Write the objects alone as RGBA PNG: background pixels are transparent, and black beneath."""
    photo = segmentation.photo

    def cut(rows: slice) -> NDArray[np.uint8]:
        opaque = (segmentation.labels[rows] > 0)[:, :, None]
        return np.concatenate([photo[rows] * opaque, opaque * np.uint8(255)], axis=2)

    _save(_in_strips("RGBA", segmentation.labels.shape, cut), target)


def write_masks(segmentation: Segmentation, target: Path) -> None:
    """Write a folder with a PNG for each class that occurs, background too: 255 where it is, 0 elsewhere."""
    present = [segmentation.classes.index(name) for name in segmentation.class_shares()]
    names = mask_names(segmentation.classes)
    for label in present:
        _save(Image.fromarray((segmentation.labels == label) * np.uint8(255)), target / f"{names[label]}.png")
    for label in set(range(len(names))).difference(present):  # of an earlier run; other files stay
        (target / f"{names[label]}.png").unlink(missing_ok=True)


def mask_names(classes: Sequence[str]) -> list[str]:
    """A file name without suffix for each class, no two alike: its own, `_` for what files cannot be named.

    One that is empty, a device of Windows, or another but for capitals, comes after the class id and a `.`.
    """
    names: list[str] = []
    for label, class_ in enumerate(classes):
        name = re.sub(r"[^\w '(),;=+@!#&-]", "_", class_)[:60].strip()
        taken = name.casefold() in map(str.casefold, names)
        taken |= bool(re.fullmatch(r"|con|aux|nul|prn|(com|lpt)[1-9]", name, re.IGNORECASE))
        names.append(f"{label}.{name}" if taken else name)
    return names


def write_scores(segmentation: Segmentation, target: Target) -> None:
    """Write an `.npz` of `probabilities` float16 (C, H, W) and `classes` unicode (C,), background first."""
    if segmentation.probabilities is None:
        raise UsageError("there are no probabilities to save; ask for segment(..., probabilities=True)")
    with opened(target) as stream:
        # Not compressed: deflate takes longer than the network on the whole photo, and saves a quarter.
        scores = segmentation.probabilities.astype(np.float16)
        np.savez(stream, probabilities=scores, classes=np.array(segmentation.classes, np.str_))


def overlay(labels: NDArray[np.uint8], palette: Palette, photo: Photo) -> Image.Image:
    """The photo, uint8 (H, W, 3), as an RGB image: objects tinted and outlined by labels (H, W), the rest
    dimmed and paler."""
    colors = np.array(tints(palette), np.uint16).reshape(-1, 3)
    width = max(1, round(min(labels.shape) / 250))

    def paint(rows: slice) -> Photo:
        part = labels[rows]
        bright = photo[rows].astype(np.uint16)
        grey = bright.sum(axis=2, keepdims=True, dtype=np.uint16) // 3
        dimmed = (bright + grey) * 3 // 8
        shown = np.where(part[:, :, None] > 0, (bright * 6 + colors[part] * 4) // 10, dimmed)
        above = min(rows.start, width)
        edge = outline(labels[rows.start - above : rows.stop + width], width)[above:][: len(part)]
        edge &= part > 0
        shown[edge] = (colors[part[edge]] + 2 * 255) // 3
        return shown.astype(np.uint8)

    return _in_strips("RGB", labels.shape, paint)


def _in_strips(mode: str, shape: tuple[int, ...], paint: Callable[[slice], Photo]) -> Image.Image:
    """An image made a strip of rows at a time, so that a large one takes little more memory than itself."""
    height, width = shape
    image = Image.new(mode, (width, height))
    rows = max(_STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        image.paste(Image.fromarray(paint(slice(top, min(top + rows, height)))), (0, top))
    return image


def _save(image: Image.Image, target: Target, format_: str = "PNG") -> None:
    if isinstance(target, Path) and target.suffix.lower() == ".png":
        format_ = "PNG"
    if format_ == "JPEG" and max(image.size) > _LONGEST_JPEG:
        where = target if isinstance(target, Path) else "standard output"
        cure = "name it .png, one photo a run"
        raise OutputError(f"{where}: a JPEG has at most {_LONGEST_JPEG} pixels a side; {cure}")
    encoded = io.BytesIO()  # image formats seek, and streams may not
    image.save(encoded, format_, **({"quality": 92, "subsampling": 0} if format_ == "JPEG" else {}))
    with opened(target) as stream:
        stream.write(encoded.getbuffer())


@contextmanager
def opened(target: Target) -> Iterator[BinaryIO]:
    """A stream into a file, which is whole or not there, or the stream that is given."""
    with replacing(target) if isinstance(target, Path) else nullcontext(target) as stream:
        yield stream
        stream.flush()

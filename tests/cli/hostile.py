"""A folder of files that are called photos and can be none: one each for the ways in which that happens."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin


def encoded(format_: str, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """A photo of noise, as its file's content."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, format_, **options)
    return stream.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that claims a size, whatever its data hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def text_bomb() -> bytes:
    """A PNG with 80 MB of text, squeezed."""
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "a" * 80_000_000, zip=True)
    return encoded("PNG", pnginfo=info)


def patched(content: bytes, at: int, new: bytes) -> bytes:
    """The content with some bytes replaced."""
    return content[:at] + new + content[at + len(new) :]


def make(folder: Path) -> dict[str, str]:
    """Write them all; returns file name -> a pattern of the line it must get."""
    # Which of the two it is, for some files depends on the version of Pillow.
    no_image = damaged = r"(is not an image of a known kind|is damaged or cut short \(.+\)); .+"
    large = r"has [0-9,]+ megapixels, and 500 are the limit; .+"
    empty = r"is empty \(0 bytes\); .+"
    rng = np.random.default_rng(1)
    found = {
        b"empty.jpg": (empty, b""),
        b"random.jpg": (no_image, rng.bytes(10_000)),
        b"page.jpg": (no_image, b"<!DOCTYPE html><html><title>404 Not Found</title></html>"),
        b"film.jpg": (no_image, b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + bytes(200)),
        b"start.jpg": (no_image, b"\xff\xd8\xff\xd9"),
        b"crc.png": (no_image, patched(encoded("PNG"), 29, b"\0\0\0\0")),
        b"no size.png": (no_image, png(0, 0)),
        b"no data.png": (damaged, png(64, 48)),
        b"wrong data.png": (damaged, patched(encoded("PNG"), 60, rng.bytes(400))),
        b"text bomb.png": (damaged, text_bomb()),
        b"png bomb.png": (large, png(100_000, 100_000, bytes(100_000))),
        b"no directory.tif": (no_image, b"II*\0\xff\xff\xff\x7f"),
        b"no pixels.ppm": (damaged, b"P6\n64 48\n255\n"),
        b"new\nline.jpg": (no_image, b"in the name"),
        b"quote\"s'`$(id).jpg": (no_image, b"in the name"),
        b" \xf0\x9f\x90\x88 .png": (no_image, b"a cat in the name"),
        b"latin-\xe9.jpg": (no_image, b"no UTF-8 in the name"),
        b"-o.jpg": (no_image, b"an option in the name"),
        b"tab\t\x1b[31m.jpg": (no_image, b"control characters in the name"),
    }
    for format_, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")):
        whole = encoded(format_)
        found[f"half of a {suffix}.{suffix}".encode()] = (damaged, whole[: len(whole) // 2])
    whole = encoded("WEBP")
    found[b"half of a webp.webp"] = (no_image, whole[: len(whole) // 2])
    for format_, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("JPEG2000", "jp2")):
        found[f"head of a {suffix}.{suffix}".encode()] = (no_image, encoded(format_)[:20])
    for name, (_, content) in found.items():
        (folder / os.fsdecode(name)).write_bytes(content)
    return {os.fsdecode(name): pattern for name, (pattern, _) in found.items()}

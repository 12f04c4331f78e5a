"""Files that are no photos, and a disk that is full, cost themselves and nothing else."""

import io
import json
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from deconvseg.cli import console

from .conftest import EXAMPLES, Run, files, lines


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


def make_bad(folder: Path) -> dict[str, str]:
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


def make_good(folder: Path) -> dict[str, tuple[int, int]]:
    """Photos of many kinds; returns name -> width and height as displayed."""
    cat, turned = Image.open(EXAMPLES / "cat.jpg").resize((90, 60)), Image.Exif()
    turned[0x0112] = 6
    for name in ("a.jpg", "b.webp", "c.gif", "d.tif", os.fsdecode(b"bmp \xff\xfe.bmp")):
        cat.save(folder / name)
    sizes = {path.name: (90, 60) for path in folder.iterdir()}
    cat.save(folder / "turned.jpg", exif=turned)
    Image.new("RGB", (1, 4000), "olive").save(folder / 'thin "\n\U0001f408.png')
    return sizes | {"turned.jpg": (60, 90), 'thin "\n\U0001f408.png': (1, 4000)}


def test_hostile_files_beside_good_photos(run: Run, fast: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = make_good(folder)
    bad = make_bad(folder)
    if os.geteuid():  # root may read everything
        (folder / "secret.jpg").touch(0o000)
        bad["secret.jpg"] = r"cannot be read \(.+\); .+"
    (folder / "album.jpg").mkdir()
    (folder / "around.jpg").symlink_to(".", target_is_directory=True)
    (folder / "nowhere.jpg").symlink_to("nothing")
    bad["nowhere.jpg"] = "no such file; check the path"
    (folder / "itself.jpg").symlink_to("itself.jpg")
    bad["itself.jpg"] = r"cannot be read \(.+\); check the path and its permissions"
    os.mkfifo(folder / "pipe.jpg")

    done = run("segment", "in", "-o", "out", "--json", *fast, code=1)
    told = lines(done)
    assert told[-1].startswith(f"{len(good) + len(bad)} photos: 7 done, 0 skipped, {len(bad)} failed")
    assert len([line for line in told if line.startswith("error: in/")]) == len(bad)
    # Nothing but our own lines, from no library either.
    assert len(told) == 1 + len(good) + len(bad) + 1

    records = [json.loads(line) for line in (tmp_path / "out" / "segment.jsonl").open()]
    assert sorted(record["input"] for record in records) == sorted(f"in/{name}" for name in (*good, *bad))
    told_of = {record["input"]: record for record in json.loads(done.stdout)["images"]}
    for record in records:
        outputs = {kind: f"out/{path}" for kind, path in record["outputs"].items()}
        assert told_of[record["input"]] == {**record, "outputs": outputs}
    for record in records:
        name = record["input"].removeprefix("in/")
        if name in bad:
            assert record["status"] == "failed"
            shown = re.escape(console.one_line(f"in/{name}"))
            assert re.fullmatch(f"{shown}: {bad[name]}", record["error"]), record["error"]
            assert record["outputs"] == {}
        else:
            assert record["status"] == "done"
            mask = Image.open(tmp_path / "out" / record["outputs"]["labels"])
            assert (mask.mode, mask.size) == ("P", good[name])
    results = {record["outputs"]["labels"] for record in records if record["status"] == "done"}
    assert files(tmp_path / "out") == {*results, "segment.jsonl"}


def test_name_too_long_for_its_results(inside: Run, fast: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / f"{'n' * 251}.jpg")
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "short.jpg")
    done = inside("segment", "in", "-o", "out", "--save", "overlay", *fast, code=1)
    assert any("nnn.overlay.jpg: cannot be written (File name too long)" in line for line in lines(done))
    assert files(tmp_path / "out") == {"short.overlay.jpg", "segment.jsonl"}

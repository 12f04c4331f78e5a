"""Files that are no photos, and a disk that is full, cost themselves and nothing else."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.cli import console

from . import hostile
from .conftest import EXAMPLES, Run, files, lines


def make_good(folder: Path) -> dict[str, tuple[int, int]]:
    """Ten photos of all kinds; returns name -> width and height as displayed."""
    cat = Image.open(EXAMPLES / "cat.jpg").resize((90, 60))
    turned = Image.Exif()
    turned[0x0112] = 6
    cat.save(folder / "rgb.jpg")
    cat.save(folder / "turned.jpg", exif=turned)
    cat.convert("CMYK").save(folder / "cmyk.jpeg")
    cat.convert("L").save(folder / "grey.PNG", "PNG")
    Image.fromarray(np.asarray(cat.convert("L")).astype(np.uint16) * 257).save(folder / "16 bit.png")
    cat.convert("P").save(folder / "palette.gif", save_all=True, append_images=[Image.new("P", cat.size)])
    cat.convert("RGBA").save(folder / "alpha.webp")
    cat.save(folder / "tiff.tif", compression="tiff_lzw")
    cat.save(folder / os.fsdecode(b"bmp \xff\xfe.bmp"))
    Image.new("RGB", (1, 4000), "olive").save(folder / 'thin "\n\U0001f408.png')
    sizes = {path.name: (90, 60) for path in folder.iterdir()}
    return sizes | {"turned.jpg": (60, 90), 'thin "\n\U0001f408.png': (1, 4000)}


def test_hostile_files_beside_good_photos(run: Run, fast: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = make_good(folder)
    bad = hostile.make(folder)
    if os.geteuid():  # root may read everything
        (folder / "secret.jpg").touch(0o000)
        bad["secret.jpg"] = r"cannot be read \(.+\); .+"
    assert len(good) == 10 and len(bad) >= 30
    (folder / "album.jpg").mkdir()
    (folder / "around.jpg").symlink_to(".", target_is_directory=True)
    (folder / "nowhere.jpg").symlink_to("nothing")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(folder / "pipe.jpg")

    done = run("segment", "in", "-o", "out", "--json", *fast, code=1)
    told = lines(done)
    assert told[-1].startswith(f"{len(good) + len(bad)} photos: 10 done, 0 skipped, {len(bad)} failed")
    links = [line for line in told if line.endswith("the link leads nowhere; mend it or remove it")]
    assert {line.split(":")[1] for line in links} == {" in/itself.jpg", " in/nowhere.jpg"}
    assert len([line for line in told if line.startswith("error: in/")]) == len(bad) + len(links)
    assert (
        len(told) == 1 + len(good) + len(bad) + len(links) + 1
    )  # nothing but our own lines, from no library either

    records = [json.loads(line) for line in (tmp_path / "out" / "segment.jsonl").read_text().splitlines()]
    assert {record["input"] for record in records} == {f"in/{name}" for name in (*good, *bad)}
    assert len(records) == len(good) + len(bad)
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


@pytest.mark.skipif(not os.geteuid(), reason="root may write everywhere")
def test_output_that_may_not_be_written(inside: Run, fast: list[str], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    refused = inside("segment", "photos", "-o", "out", *fast, code=2)
    assert "cannot be written (Permission denied)" in lines(refused)[-1]

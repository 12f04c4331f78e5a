"""Files that are no photos, and a disk that is full, cost themselves and nothing else."""

import json
import os
import re
from pathlib import Path

from PIL import Image

from deconvseg.cli import console

from . import hostile
from .conftest import EXAMPLES, Run, files, lines


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
    bad = hostile.make(folder)
    if os.geteuid():  # root may read everything
        (folder / "secret.jpg").touch(0o000)
        bad["secret.jpg"] = r"cannot be read \(.+\); .+"
    (folder / "album.jpg").mkdir()
    (folder / "around.jpg").symlink_to(".", target_is_directory=True)
    (folder / "nowhere.jpg").symlink_to("nothing")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(folder / "pipe.jpg")

    done = run("segment", "in", "-o", "out", "--json", *fast, code=1)
    told = lines(done)
    assert told[-1].startswith(f"{len(good) + len(bad)} photos: 7 done, 0 skipped, {len(bad)} failed")
    links = [line for line in told if line.endswith("the link leads nowhere; mend it or remove it")]
    assert {line.split(":")[1] for line in links} == {" in/itself.jpg", " in/nowhere.jpg"}
    assert len([line for line in told if line.startswith("error: in/")]) == len(bad) + len(links)
    # Nothing but our own lines, from no library either.
    assert len(told) == 1 + len(good) + len(bad) + len(links) + 1

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

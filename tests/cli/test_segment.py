"""`deconvseg segment` from end to end, with a tiny network."""

import io
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deconvseg.images.read import PhotoPixels, read_photo

from .conftest import EXAMPLES, Refused, Run, files, lines, save_blocks


def manifest(folder: Path) -> dict[str, dict[str, object]]:
    """The manifest's records by input; each photo must have exactly one line."""
    records = [json.loads(line) for line in (folder / "segment.jsonl").read_text().splitlines()]
    by_input = {record["input"]: record for record in records}
    assert len(by_input) == len(records)
    return by_input


def test_an_ensemble_and_a_prior(
    inside: Run, refused: Refused, fast: list[str], tiny_fcn: Path, tiny_prior: Path, tmp_path: Path
) -> None:
    common = ["segment", EXAMPLES / "cat.jpg", "--overwrite", "-o"]
    plain = inside(*common, "plain.png", *fast)
    prior = inside(*common, "prior.png", "--prior", "8", "--ensemble", "off", "--fcn", tiny_prior, *fast)
    off = inside(*common, "off.png", "--prior", "0", *fast)
    mean = inside(*common, "mean.png", "--fcn", tiny_fcn, *fast)
    assert f"mean with {tiny_fcn}" in lines(mean)[0]
    assert "as a prior needs it" in refused(*common, "no.png", "--fcn", tiny_fcn, "--ensemble", "off", *fast)
    greeting = f"{fast[1]}, prior of {tiny_prior} on cpu, fp32"
    assert lines(prior)[0].endswith(greeting) and "prior" not in lines(plain)[0] + lines(off)[0]
    masks = [(tmp_path / f"{name}.png").read_bytes() for name in ("plain", "off", "prior", "mean")]
    assert masks[0] == masks[1] and masks[0] != masks[3]
    found = set(np.unique(np.asarray(Image.open(tmp_path / "prior.png"))))
    assert found <= {0, 8} and masks[2] != masks[0]


def test_regions_looked_at_are_told(inside: Run, fast: list[str]) -> None:
    few = ["--proposals", "12", "--min-side", "40", "--json"]
    done = inside("segment", EXAMPLES / "cat.jpg", "-o", "cat.png", *fast, *few)
    (record,) = json.loads(done.stdout)["images"]
    assert record["regions"] == 13


def test_example_photos_with_the_shipped_network(inside: Run, tmp_path: Path) -> None:
    """Each is named after what it shows; ten regions in place of fifty keep the test short."""
    done = inside("segment", EXAMPLES, "-o", "out", "--proposals", "10", "--json")
    records = json.loads(done.stdout)["images"]
    assert [record["name"] for record in records] == ["cat", "motorbike", "person"]
    for record in records:
        objects = {name: share for name, share in record["classes"].items() if name != "background"}
        assert max(objects, key=objects.__getitem__) == record["name"]


def test_folder_run_resume_and_redo(inside: Run, fast: list[str], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    second = "photos/day one/фото [1].PNG"

    done = inside("segment", "photos", "-o", "out", *fast)
    assert done.stdout == b""
    assert lines(done)[-1].startswith("2 photos: 2 done")
    assert files(out) == {"cat.png", "day one/фото [1].png", "segment.jsonl"}
    first = manifest(out)
    assert list(first) == ["photos/cat.jpg", second]
    assert {record["status"] for record in first.values()} == {"done"}
    assert first[second]["outputs"] == {"labels": "day one/фото [1].png"}
    assert (first[second]["width"], first[second]["height"]) == (30, 40)
    assert Image.open(out / "cat.png").size == (90, 60)
    cat_written = (out / "cat.png").stat().st_mtime_ns

    # One photo's result is damaged, another photo is new, and one is no photo; the rest is left alone.
    (out / "day one/фото [1].png").write_bytes(b"\x89PNG")
    Image.new("L", (5, 5)).save(photos / "new.png")
    (photos / "bad.jpg").write_text("no photo")
    again = inside("segment", "photos", "-o", "out", "--json", *fast, code=1)
    told = {record["input"]: record for record in json.loads(again.stdout)["images"]}
    statuses = {"photos/bad.jpg": "failed", "photos/cat.jpg": "skipped", "photos/new.png": "done"}
    statuses[second] = "done"
    for records in (told, manifest(out)):
        assert {path: record["status"] for path, record in records.items()} == statuses
    assert told["photos/cat.jpg"]["outputs"] == {"labels": "out/cat.png"}
    assert told["photos/cat.jpg"]["classes"] == first["photos/cat.jpg"]["classes"]
    assert "not an image" in told["photos/bad.jpg"]["error"]
    assert (out / "cat.png").stat().st_mtime_ns == cat_written
    assert Image.open(out / "day one/фото [1].png").size == (30, 40)

    # All of it again, and nothing said; the line of the photo that is gone by now stays.
    (photos / "bad.jpg").unlink()
    redone = inside("segment", "photos", "-o", "out", "--overwrite", "--quiet", *fast)
    assert (redone.stdout, redone.stderr) == (b"", b"")
    statuses["photos/cat.jpg"] = "done"
    assert {path: record["status"] for path, record in manifest(out).items()} == statuses
    assert (out / "cat.png").stat().st_mtime_ns > cat_written


@pytest.mark.parametrize(("kind", "name"), [("labels", "cat.png"), ("coco", "coco.json")])
def test_folder_with_other_files_is_not_touched(
    inside: Run, fast: list[str], photos: Path, tmp_path: Path, kind: str, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")
    (tmp_path / "out" / "segment.jsonl").touch()  # does not make it ours
    refused = inside("segment", "photos", "-o", "out", "--save", kind, *fast, code=2)
    assert f"out/{name}: exists" in lines(refused)[-1]
    assert (tmp_path / "out" / name).read_text() == "precious"
    assert files(tmp_path / "out") == {name, "segment.jsonl"}


def test_pipe(run: Run, fast: list[str]) -> None:
    photo = (EXAMPLES / "cat.jpg").read_bytes()
    piped = run("segment", "-", *fast, stdin=photo)
    mask = Image.open(io.BytesIO(piped.stdout))
    assert (mask.format, mask.mode, mask.size) == ("PNG", "P", (451, 300))


@pytest.mark.parametrize("option", ["--weights", "--forest"])
def test_bad_network_or_forest_file(
    refused: Refused, photos: Path, tmp_path: Path, tiny_network: Path, option: str
) -> None:
    (tmp_path / "bad.file").write_bytes(b"PK\x03\x04 nonsense")
    told = refused("segment", "photos", "-o", "out", "--weights", tiny_network, option, "bad.file")
    assert told.startswith("bad.file: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "options", "cure"),
    [
        (signal.SIGTERM, ["--workers", "0"], "run the same again"),
        (signal.SIGINT, ["--workers", "2", "--overwrite"], "run it again without --overwrite"),
    ],
)
def test_interrupt_keeps_what_is_done(
    inside: Run,
    fast: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    options: list[str],
    cure: str,
) -> None:
    def read(source: str, **more: Any) -> PhotoPixels:
        if source == "in/40.png":
            signal.raise_signal(number)
        return read_photo(source, **more)

    monkeypatch.setattr("deconvseg.batch.work.read_photo", read)
    save_blocks(tmp_path / "in" / f"{place}.png" for place in range(10, 70))
    told = lines(inside("segment", "in", "-o", "out", *options, *fast, code=128 + number))
    assert told[-2].startswith("60 photos: ")
    assert told[-1] == f"error: interrupted; finished photos are kept, {cure} to go on"
    kept = manifest(tmp_path / "out")
    assert 0 < len(kept) < 60
    left = files(tmp_path / "out")
    assert left >= {f"{record['name']}.png" for record in kept.values()}
    assert not [name for name in left if name.endswith((".tmp", ".lock"))]

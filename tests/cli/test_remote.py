"""Folder runs from and to remote stores: `local://` goes the way of them all, to a folder on this disk."""

import json
from pathlib import Path

import pytest

from .conftest import Run, files, lines, results_of


def contents(out: Path) -> dict[str, object]:
    """What does not depend on where the photos are."""
    return results_of(out, "input", "error", "modified")


def test_a_run_from_and_to_a_store(
    run: Run, inside: Run, photos: Path, fast: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (photos / "bad.jpg").write_text("no photo")
    kinds = ("--save", "labels", "--save", "overlay", "--save", "masks", "--save", "coco")
    inside("segment", "photos", "-o", "plain", *kinds, *fast, code=1)
    here, there = f"local://{tmp_path}/photos", f"local://{tmp_path}/photos/out"

    done = run("segment", here, "-o", there, *kinds, *fast, "--json", code=1)
    assert f"error: file://{photos}/bad.jpg: is not an image" in done.stderr.decode()
    assert lines(done)[-1].endswith(f"see file://{photos}/out/segment.jsonl")
    assert contents(photos / "out") == contents(tmp_path / "plain")
    records = {record["name"]: record for record in json.loads(done.stdout)["images"]}
    assert records["cat"]["outputs"]["labels"] == f"file://{photos}/out/cat.png"
    assert not list((tmp_path / "temporary").glob("deconvseg-*"))

    (photos / "bad.jpg").unlink()
    (photos / "out" / "day one" / "фото [1].png").unlink()
    again = inside("segment", here, "-o", there, *kinds, *fast)
    assert "2 photos: 1 done, 1 skipped, 0 failed" in lines(again)[-1]
    got, want = contents(photos / "out"), contents(tmp_path / "plain")
    assert got.pop("line of bad") == want.pop("line of bad")
    assert got == want


def test_strangers_and_shards(inside: Run, photos: Path, fast: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat.png").write_text("not ours")
    to = ("-o", f"local://{tmp_path}/out", *fast)
    refused = inside("segment", "photos", *to, code=2)
    assert lines(refused)[-1].startswith(f"error: file://{tmp_path}/out/cat.png: exists, and is no result")
    (tmp_path / "out" / "cat.png").unlink()
    for index in range(2):
        inside("segment", "photos", *to, "--shard", f"{index}/2")
    assert files(tmp_path / "out") >= {"segment.0-of-2.jsonl", "segment.1-of-2.jsonl", "cat.png"}
    whole = inside("segment", "photos", *to)
    assert "2 photos: 0 done, 2 skipped" in lines(whole)[-1]
    assert files(tmp_path / "out") == {"cat.png", "day one/фото [1].png", "segment.jsonl"}


def test_remote_photos_to_this_machine(inside: Run, photos: Path, fast: list[str], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"local://{photos}/cat.jpg\nphotos/cat.jpg\n")
    inside("segment", "@list.txt", "-o", "out", *fast)
    one, other = (tmp_path / "out" / name for name in files(tmp_path / "out") if name.endswith("cat.png"))
    assert one.read_bytes() == other.read_bytes()
    inside("segment", f"local://{photos}/cat.jpg", "-o", "cat.png", *fast)
    assert (tmp_path / "cat.png").exists()

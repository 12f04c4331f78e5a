"""Lines of manifests that are whole, cut, damaged or old."""

import json
import os
from pathlib import Path

import pytest

from deconvseg.batch.inputs import Photo
from deconvseg.batch.records import full_path, is_of_another, line_of, new_record, read_records


def test_what_is_written_is_read(tmp_path: Path) -> None:
    photo = tmp_path / os.fsdecode(b"\xff.jpg")
    photo.write_text("four")
    record = new_record(Photo(str(photo), "a"), "s1")
    assert (record["bytes"], record["modified"]) == (4, photo.stat().st_mtime)
    record["outputs"] = {"labels": "a.png"}
    record["notes"] = ["its colour profile is broken"]
    other = new_record(Photo("gone.jpg", "b"), None)
    assert (other["bytes"], other["modified"]) == (None, None)
    manifest = tmp_path / "segment.jsonl"
    assert read_records(manifest) == {}
    manifest.write_bytes(line_of(other) + line_of(record) + line_of({**record, "name": "b"}))
    assert read_records(manifest) == {"a": record, "b": {**record, "name": "b"}}


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff",
        b"\0" * 9,
        b"[" * 100_000,
        b'{"input": "cut',
        b"[1]",
        b"null",
        *(
            json.dumps({"input": "a.jpg", "name": "a", "outputs": {}, **wrong}).encode()
            for wrong in (
                {"input": 5},
                {"name": [1]},
                {"name": None},
                {"name": "\ud800"},
                {"outputs": None},
                {"outputs": {"labels": 5}},
                {"outputs": {"labels": "../a.png"}},
                {"outputs": {"labels": "/a.png"}},
                {"outputs": {"labels": "\0"}},
            )
        ),
    ],
)
def test_a_damaged_line_costs_no_other(tmp_path: Path, damage: bytes) -> None:
    record = new_record(Photo("b.jpg", "b"), "s1")
    (tmp_path / "segment.jsonl").write_bytes(damage + b"\n" + line_of(record) + damage)
    assert read_records(tmp_path / "segment.jsonl") == {"b": record}


def test_what_an_old_line_lacks_is_unknown(tmp_path: Path) -> None:
    old = {"input": "in/a.jpg", "name": "a", "outputs": {"labels": "a.png"}, "digests": None, "more": 1}
    (tmp_path / "segment.jsonl").write_text(json.dumps(old))
    (record,) = read_records(tmp_path / "segment.jsonl").values()
    blank = new_record(Photo("in/a.jpg", "a"), None)
    assert record == {**blank, "path": "in/a.jpg", "outputs": {"labels": "a.png"}}


def test_photos_by_relative_paths_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    photo = Photo("1.jpg", "1")
    monkeypatch.chdir(tmp_path / "A")
    record = new_record(photo, "s1")
    assert not is_of_another(record, full_path(Photo("../A/1.jpg", "1")))
    monkeypatch.chdir(tmp_path / "B")
    assert is_of_another(record, full_path(photo))
    (tmp_path / "A" / "1.jpg").unlink()
    assert not is_of_another(record, full_path(photo))

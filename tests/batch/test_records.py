"""Lines of manifests that are whole, cut, damaged or old."""

import json
import os
from pathlib import Path

import pytest

from deconvseg.batch.inputs import Photo
from deconvseg.batch.records import line_of, new_record, read_records


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
    "wrong",
    [
        {"input": 5},
        {"name": [1]},
        {"name": None},
        {"name": "\ud800"},
        {"outputs": None},
        {"outputs": {"labels": 5}},
        {"outputs": {"labels": "../a.png"}},
        {"outputs": {"labels": "/a.png"}},
        {"outputs": {"labels": "\0"}},
    ],
)
def test_a_damaged_line_costs_no_other(tmp_path: Path, wrong: dict[str, object]) -> None:
    damage = json.dumps({"input": "a.jpg", "name": "a", "outputs": {}, **wrong}).encode()
    record = new_record(Photo("b.jpg", "b"), "s1")
    (tmp_path / "segment.jsonl").write_bytes(damage + b"\n" + line_of(record) + damage[:20])
    assert read_records(tmp_path / "segment.jsonl") == {"b": record}

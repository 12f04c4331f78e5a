"""Files are whole or not there, what killed processes leave is removed, and a change is noticed."""

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from deconvseg.files import digest, lock, read_json_lines, replacing, walk


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_durable_file_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[int, int] = {}

    def note(handle: int) -> None:
        status = os.fstat(handle)
        synced[status.st_ino] = status.st_size

    monkeypatch.setattr(os, "fsync", note)
    with replacing(tmp_path / "plain") as stream:
        stream.write(b"four")
    assert not synced
    with replacing(tmp_path / "file", durable=True) as stream:
        stream.write(b"four")
    assert synced[(tmp_path / "file").stat().st_ino] == 4


def test_what_killed_processes_leave_is_removed_after_a_day(tmp_path: Path) -> None:
    new, old = (tmp_path / f".deconvseg-{name}-ab12.tmp" for name in ("new", "old"))
    theirs = tmp_path / "notes.tmp"
    for path in (new, old, theirs):
        path.touch()
    yesterday = time.time() - 90_000
    for path in (old, theirs):
        os.utime(path, (yesterday, yesterday))
    with replacing(tmp_path / "a.png"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([new, tmp_path / "a.png", theirs])


def test_digest_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    file, folder = tmp_path / "a", tmp_path / "masks"
    file.write_text("abc")
    # the example of FIPS 180-2
    assert digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    folder.mkdir()
    (folder / "cat.png").write_text("1")
    (folder / "dog.png").write_text("2")
    seen = {digest(folder)}
    (folder / ".DS_Store").touch()
    assert digest(folder) in seen
    (folder / "dog.png").rename(folder / "cow.png")
    seen.add(digest(folder))
    (folder / "cow.png").write_text("3")
    seen.add(digest(folder))
    (folder / "cow.png").unlink()
    seen.add(digest(folder))
    assert len(seen) == 4
    with pytest.raises(FileNotFoundError):
        digest(tmp_path / "none")


def test_a_lock_is_held_once_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with lock(path), pytest.raises(TimeoutError), lock(path):
        pass
    with lock(path):
        pass
    assert not path.exists()


def test_who_comes_as_another_leaves_holds_no_lock_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who leaves takes the lock's file away, and a third makes it anew, after the second has opened it."""
    fcntl = pytest.importorskip("fcntl")
    flock, path, third = fcntl.flock, tmp_path / "lock", ExitStack()
    path.touch()

    def meanwhile(number: int, operation: int) -> None:
        if path.exists():  # filelock tries whether the file system has locks, on a file without a name, too
            monkeypatch.setattr(fcntl, "flock", flock)
            path.unlink()
            third.enter_context(lock(path))
        return flock(number, operation)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with third:
        with pytest.raises(TimeoutError), lock(path):
            pass
        assert path.exists()
    assert not path.exists()


def test_json_lines_are_read_with_mistrust(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(b'{"a": 1}\n[1]\nnull\n\xff\n\0\n' + b"[" * 100_000 + b'\n{"b": 2}\n{"c": "cut')
    assert read_json_lines(path) == [{"a": 1}, {"b": 2}]


def test_a_walk_leaves_out_what_is_hidden_and_enters_each_real_folder_once(tmp_path: Path) -> None:
    for name in ("in/b/1.jpg", "in/2.jpg", "in/.hidden/3.jpg", "in/.4.jpg", "else/deep/5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "a").symlink_to("b")  # b by its own name goes first
    (tmp_path / "in" / "b" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "else")
    (tmp_path / "in" / "same").symlink_to(tmp_path / "else")
    (tmp_path / "in" / "6.jpg").symlink_to(tmp_path / "in" / "2.jpg")
    (tmp_path / "in" / "gone.jpg").symlink_to("nothing")  # who reads it tells

    found = sorted(os.path.relpath(path, tmp_path / "in") for path in walk(str(tmp_path / "in")))
    assert found == ["2.jpg", "6.jpg", "b/1.jpg", "gone.jpg", "more/deep/5.jpg"]
    with pytest.raises(FileNotFoundError):
        list(walk(str(tmp_path / "none")))

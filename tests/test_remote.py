"""Remote stores: what an address stands for, and results that are there whole or not at all."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from deconvseg.errors import InputError, MissingDependencyError, OutputError, UsageError
from deconvseg.remote import Mirror, find, is_remote, normal, read, status


@pytest.fixture
def store() -> Iterator[Any]:
    """A store of this process, `memory://`, with a few files."""
    store = fsspec.filesystem("memory")
    photos = {"/photos/a.jpg": b"a", "/photos/below/b.jpg": b"bb", "/photos/below/c.txt": b""}
    store.pipe({**photos, "/other": b""})
    yield store
    store.rm("/", recursive=True)


@pytest.fixture
def mirror(store: Any) -> Mirror:
    return Mirror.of("memory://out/")


def make(mirror: Mirror, name: str, content: bytes) -> Path:
    path = mirror.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_what_is_remote() -> None:
    assert all(map(is_remote, ("s3://bucket/a.jpg", "memory://a", "gs://b", "abfss://c@d/e")))
    assert not any(map(is_remote, ("a.jpg", "/a//b", "c:/a", "C://a", "s3:/a", "a b://c", "", "-", "@a")))


def test_find(store: Any) -> None:
    a, b, c = "memory:///photos/a.jpg", "memory:///photos/below/b.jpg", "memory:///photos/below/c.txt"
    assert find("memory://photos/") == [(a, "a.jpg"), (b, "below/b.jpg"), (c, "below/c.txt")]
    assert find("memory://photos/**/*.jpg") == [(a, "a.jpg"), (b, "below/b.jpg")]
    assert find("memory://photos/below/?.jpg") == [(b, "b.jpg")]
    assert find("memory://nothing") == []
    assert normal("memory://photos/") == normal("memory:///photos") == "memory:///photos"


def test_read_and_status(store: Any) -> None:
    assert read("memory://photos/below/b.jpg") == b"bb"
    size, modified = status("memory://photos/below/b.jpg")
    assert size == 2
    assert modified == store.modified("/photos/below/b.jpg").timestamp()
    assert status("memory://photos/none.jpg") == (None, None)
    with pytest.raises(InputError, match=r"^memory://none: cannot be read \(there is no such file\); check"):
        read("memory://none")


def test_stores_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nosuch://a: is no address that fsspec knows"):
        read("nosuch://a")
    assert status("nosuch://a") == (None, None)

    def missing(address: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(MissingDependencyError, match=r"^s3://a: .*Install s3fs to access S3"):
        find("s3://a")


def test_a_mirror_sends_and_fetches(store: Any, mirror: Mirror) -> None:
    mirror.send(make(mirror, "below/a.png", b"one"))
    kept = make(mirror, "segment.jsonl", b"lines")
    mirror.send(kept, keep=True)
    assert store.cat_file("/out/below/a.png") == b"one"
    assert mirror.names() == {".", "below", "below/a.png", "segment.jsonl"}
    assert [path for path in mirror.root.rglob("*") if path.is_file()] == [kept]
    mirror.fetch(["below/a.png"])
    fetched = mirror.root / "below" / "a.png"
    assert fetched.read_bytes() == b"one"
    assert fetched.stat().st_mtime == pytest.approx(store.modified("/out/below/a.png").timestamp(), abs=1e-3)
    mirror.remove("segment.jsonl")
    assert mirror.names() == {".", "below", "below/a.png"}
    assert mirror.shown(f"{fetched}: is damaged") == "memory:///out/below/a.png: is damaged"


def test_stale_files_of_a_folder_go_and_others_stay(store: Any, mirror: Mirror) -> None:
    others = {"/out/a.masks/mine.png": b"other", "/out/a.masksx": b"other"}
    store.pipe({"/out/a.masks/cat.png": b"old", "/out/a.masks/dog.png": b"old", **others})
    make(mirror, "a.masks/cat.png", b"new")
    mirror.send(mirror.root / "a.masks", stale=["cat.png", "dog.png", "emu.png"])
    contents = {name: store.cat_file(name) for name in store.find("/out")}
    assert contents == {"/out/a.masks/cat.png": b"new", **others}
    assert not (mirror.root / "a.masks").exists()
    store.pipe("/out/a.masks/notes.txt", b"not ours")
    mirror.remove("a.masks")
    assert store.find("/out") == ["/out/a.masks/notes.txt", "/out/a.masksx"]


def test_what_breaks_off_is_not_there(store: Any, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe("/out/a.png", b"old")

    def break_off(source: Any, target: Any) -> None:
        target.write(b"ne")
        raise ConnectionError("cut\noff")

    monkeypatch.setattr(shutil, "copyfileobj", break_off)
    with pytest.raises(OutputError, match=r"^memory:///out/a.png: cannot be written \(cut\); check"):
        mirror.send(make(mirror, "a.png", b"new"))
    assert store.cat_file("/out/a.png") == b"old"

"""Remote stores: what an address stands for, and results that are there whole or not at all."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import pytest

from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.errors import InputError, MissingDependencyError, OutputError, UsageError
from deconvseg.remote import find, is_remote, normal, opened, status, without_query


@pytest.fixture
def store() -> Iterator[Any]:
    """A store of this process, `memory://`, with a few files."""
    store = fsspec.filesystem("memory")
    photos = {"/photos/a.jpg": b"a", "/photos/below/b.jpg": b"bb", "/photos/below/c.txt": b""}
    store.pipe({**photos, "/other": b""})
    yield store
    store.rm("/", recursive=True)


@pytest.fixture
def folder(store: Any) -> ResultsFolder:
    return ResultsFolder("memory://out/")


def make(folder: ResultsFolder, name: str, content: bytes) -> Path:
    path = folder.root / name
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
    assert opened("memory://photos/below/b.jpg").read() == b"bb"
    size, modified = status("memory://photos/below/b.jpg")
    assert size == 2
    assert modified == store.modified("/photos/below/b.jpg").timestamp()
    assert status("memory://photos/none.jpg") == (None, None)
    with pytest.raises(InputError, match=r"^memory://none: cannot be read \(there is no such file\); check"):
        opened("memory://none")


def test_stores_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nosuch://a: is no address that fsspec knows"):
        opened("nosuch://a")
    assert status("nosuch://a") == (None, None)
    monkeypatch.setattr(fsspec, "url_to_fs", Mock(side_effect=ImportError("Install s3fs to access S3")))
    with pytest.raises(MissingDependencyError, match=r"^s3://a: .*Install s3fs to access S3"):
        find("s3://a")


def test_a_folder_sends_and_fetches(store: Any, folder: ResultsFolder) -> None:
    sent = make(folder, "below/a.png", b"one")
    assert folder.name_of(sent) == "below/a.png"
    folder.send(sent)
    kept = make(folder, "segment.jsonl", b"lines")
    folder.send(kept, keep=True)
    assert store.cat_file("/out/below/a.png") == b"one"
    assert [path for path in folder.root.rglob("*") if path.is_file()] == [kept]
    folder.fetch(["below/a.png"])
    assert sent.read_bytes() == b"one"
    assert sent.stat().st_mtime == pytest.approx(store.modified("/out/below/a.png").timestamp(), abs=1e-3)
    folder.remove("segment.jsonl")
    assert not store.exists("/out/segment.jsonl") and not kept.exists()
    assert folder.shown(f"{sent}: is damaged") == "memory:///out/below/a.png: is damaged"


def test_a_folder_knows_what_is_there(store: Any, folder: ResultsFolder) -> None:
    store.pipe({"/out/segment.jsonl": b"lines", "/out/a.png": b"", "/out/below/segment.jsonl": b"theirs"})
    folder.refresh(["segment*.jsonl"])
    assert (folder.root / "segment.jsonl").read_bytes() == b"lines"
    assert not (folder.root / "below").exists()
    assert folder.exists("a.png") and folder.exists("below") and not folder.exists("b.png")
    assert folder.is_as_written("a.png", "a digest") and not folder.is_as_written("a.png", None)


def test_the_masks_of_a_folder_are_replaced_and_others_stay(store: Any, folder: ResultsFolder) -> None:
    others = {"/out/a.masks/notes.txt": b"not ours", "/out/a.masksx": b"other"}
    store.pipe({"/out/a.masks/cat.png": b"old", "/out/a.masks/dog.png": b"old", **others})
    make(folder, "a.masks/cat.png", b"new")
    folder.send(folder.root / "a.masks")
    contents = {name: store.cat_file(name) for name in store.find("/out")}
    assert contents == {"/out/a.masks/cat.png": b"new", **others}
    assert not (folder.root / "a.masks").exists()
    folder.refresh([])
    folder.remove("a.masks")
    assert store.find("/out") == ["/out/a.masks/notes.txt", "/out/a.masksx"]


def test_what_breaks_off_is_not_there(
    store: Any, folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe("/out/a.png", b"old")

    def break_off(source: Any, target: Any) -> None:
        target.write(b"ne")
        raise ConnectionError("cut\noff")

    monkeypatch.setattr(shutil, "copyfileobj", break_off)
    with pytest.raises(OutputError, match=r"^memory:///out/a.png: cannot be written \(cut\); check"):
        folder.send(make(folder, "a.png", b"new"))
    assert store.cat_file("/out/a.png") == b"old"


def test_signatures_of_addresses_are_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = "https://h/a.jpg?sig=abc"
    assert without_query(signed + "#part") == "https://h/a.jpg"
    assert without_query("in/a?b#c.jpg") == "in/a?b#c.jpg"
    assert without_query("s3://bucket/a#b.jpg") == "s3://bucket/a#b.jpg"
    store = Mock(cat_file=Mock(side_effect=OSError(f"403, url={signed}")))
    monkeypatch.setattr(fsspec, "url_to_fs", lambda address: (store, address))
    with pytest.raises(InputError) as refused:
        opened(signed)
    assert "abc" not in str(refused.value) and "https://h/a.jpg" in str(refused.value)

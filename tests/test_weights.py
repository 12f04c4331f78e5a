"""From names to files: shipped, in the cache, fetched, got by hand."""

from __future__ import annotations

import hashlib
import json
import pwd
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from deconvseg import weights
from deconvseg.errors import OutputError, WeightsError
from deconvseg.files import digest
from deconvseg.weights import (
    cache_folder,
    cache_target,
    fault,
    fetch,
    forest_file,
    located,
    lookup,
    network_file,
    registry,
    weights_folder,
)

CONTENT = b"no real network, but a file" * 1000
SHIPPED = weights_folder()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet."""
    monkeypatch.setenv("DECONVSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def roads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The registry also knows `roads`, which a web server has; gives the file there."""
    served, shipped = tmp_path / "served", tmp_path / "shipped"
    served.mkdir()
    (served / "roads.safetensors").write_bytes(CONTENT)
    shutil.copytree(SHIPPED, shipped, copy_function=lambda source, target: Path(target).symlink_to(source))
    text = (SHIPPED / "registry.toml").read_text()
    monkeypatch.setattr(weights, "weights_folder", lambda: shipped)
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    (shipped / "registry.toml").unlink()
    (shipped / "registry.toml").write_text(
        text
        + f"""
[weights.roads]
kind = "network"
file = "roads.safetensors"
description = "Roads"
licence = "in-house"
licence_free = true
url = "http://127.0.0.1:{server.server_port}/roads.safetensors"
bytes = {len(CONTENT)}
sha256 = "{hashlib.sha256(CONTENT).hexdigest()}"
"""
    )
    yield served / "roads.safetensors"
    server.shutdown()
    server.server_close()


def test_the_registry_agrees_with_the_shipped_files() -> None:
    shipped = {path.name for path in SHIPPED.iterdir() if path.name.endswith((".safetensors", ".gz"))}
    here = {entry.file: entry for entry in registry().values() if located(entry)}
    assert here.keys() == shipped
    for entry in here.values():
        path = SHIPPED / entry.file
        assert (path.stat().st_size, digest(path)) == (entry.bytes, entry.sha256)
        assert entry.figures[0].keys() == {"measure", "value", "on", "how"}
        if entry.kind == "network":
            with safe_open(path, framework="np") as file:
                header = json.loads(file.metadata()["deconvseg"])
            assert tuple(header["classes"]) == entry.classes


def test_nothing_is_claimed_of_files_that_nobody_here_has_seen_and_urls_are_checked() -> None:
    for entry in registry().values():
        if not located(entry) and not entry.url:
            assert entry.bytes is entry.sha256 is None
            assert entry.obtain
        assert bool(entry.url) <= bool(entry.sha256 and entry.bytes)


@pytest.mark.parametrize("ask", [network_file, forest_file])
def test_own_files(tmp_path: Path, ask: Any) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert ask(file) == ask(str(file)) == file
    with pytest.raises(WeightsError, match="none"):
        ask(tmp_path / "none")
    assert network_file("default") == network_file("deconvnet-lite")
    assert forest_file("edges") == forest_file()


@pytest.mark.parametrize(
    ("ask", "name", "words"),
    [
        (network_file, "defualt", "did you mean 'default'?"),
        (network_file, "xyz", "known are classifier-lite"),
        (network_file, "x" * 5000, "no such network file, nor a network's name"),
        (network_file, "edges", "is an edge forest, where a network is asked for"),
        (forest_file, "default", "is a network, where an edge forest is asked for"),
        (network_file, "deconvnet-voc", "'deconvseg weights pull deconvnet-voc'"),
        (lookup, "deconvnet-lit", "did you mean 'deconvnet-lite'?"),
    ],
)
def test_names_that_lead_to_no_file(ask: Any, name: str, words: str) -> None:
    with pytest.raises(WeightsError) as refused:
        ask(name)
    assert str(refused.value).startswith(f"{name}: ")
    assert words in str(refused.value)


def test_a_network_got_by_hand_is_found_in_the_cache(home: Path) -> None:
    place = cache_target(lookup("deconvnet-voc"))
    assert place == home / "deconvnet-voc.safetensors"
    place.write_bytes(b"converted")
    assert network_file("deconvnet-voc") == place
    assert fault(lookup("deconvnet-voc"), place) == ""


def test_a_damaged_registry_is_one_line(roads: Path) -> None:
    path = weights.weights_folder() / "registry.toml"
    for text in ("[weights.a", "", "[weights.a]\nsize = 3\n", "weights = 3"):
        path.write_text(text)
        with pytest.raises(WeightsError, match=r"registry\.toml: this registry is damaged .*; install"):
            registry()


def test_without_a_home_directory_shipped_files_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in ("HOME", "XDG_CACHE_HOME", "DECONVSEG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() is None
    assert network_file("default").parent == forest_file().parent == SHIPPED
    with pytest.raises(WeightsError, match="is not on this machine"):
        network_file("deconvnet-voc")
    with pytest.raises(OutputError, match=r"no home directory.*; let DECONVSEG_HOME name another"):
        cache_target(lookup("deconvnet-voc"))


def test_fault(roads: Path, home: Path) -> None:
    entry, file = lookup("roads"), home / "roads.safetensors"
    assert "cannot be read" in fault(entry, file)
    home.mkdir()
    file.write_bytes(CONTENT)
    assert fault(entry, file) == ""
    assert network_file("roads") == file
    file.write_bytes(CONTENT[:-1] + b"!")
    assert f"should have {entry.sha256}" in fault(entry, file)
    file.write_bytes(b"")
    with pytest.raises(
        WeightsError, match=f"should have {len(CONTENT)} bytes; 'deconvseg weights pull roads'"
    ):
        network_file("roads")


def test_fetching(roads: Path, home: Path) -> None:
    home.mkdir()
    (home / "roads.safetensors").write_bytes(CONTENT[:-1] + b"!")  # damaged: replaced
    assert fetch(lookup("roads")) == network_file("roads") == home / "roads.safetensors"
    assert (home / "roads.safetensors").read_bytes() == CONTENT
    assert [path.name for path in home.iterdir()] == ["roads.safetensors"]


def test_what_is_not_the_file_is_not_kept(roads: Path, home: Path) -> None:
    roads.write_bytes(CONTENT + b"!")
    with pytest.raises(WeightsError, match=r"cannot be fetched \(.*hash.*put the file at") as refused:
        fetch(lookup("roads"))
    assert "\n" not in str(refused.value)
    roads.unlink()
    with pytest.raises(WeightsError, match=r"roads: cannot be fetched \(404"):
        fetch(lookup("roads"))
    assert not list(home.iterdir())

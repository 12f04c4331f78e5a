"""From names to files: shipped, cached, fetched, by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from deconvseg.download import sha256_of
from deconvseg.errors import OutputError, UsageError, WeightsError
from deconvseg.weights import (
    REGISTRY,
    cache_folder,
    fault,
    forest_file,
    how_to_obtain,
    located,
    lookup,
    network_file,
    pull,
    registry,
    weights_folder,
)

CONTENT = b"no real network, but a file" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet."""
    monkeypatch.setenv("DECONVSEG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DECONVSEG_REGISTRY", raising=False)
    return tmp_path / "home"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an own registry."""
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("DECONVSEG_REGISTRY", str(tmp_path / "own" / "nets.toml"))
    return tmp_path / "own"


def add(own: Path, *urls: str, free: bool = True, known: bool = True, more: str = "") -> None:
    """An own registry with the entry `roads`."""
    hashes = f"bytes = {len(CONTENT)}\nsha256 = '{SHA256}'" if known else ""
    (own / "nets.toml").write_text(
        f"""
format = 1
[weights.roads]
kind = "network"
file = "roads.safetensors"
description = "Roads"
licence = "ours"
licence_free = {str(free).lower()}
urls = {list(urls)}
{hashes}
{more}
"""
    )


def test_the_registry_agrees_with_the_shipped_files() -> None:
    shipped = {
        path.name for path in weights_folder().iterdir() if path.name.endswith((".safetensors", ".gz"))
    }
    here = {entry.file: entry for entry in registry().values() if located(entry)}
    assert here.keys() == shipped
    for entry in here.values():
        path = weights_folder() / entry.file
        assert (path.stat().st_size, sha256_of(path)) == (entry.bytes, entry.sha256)


def test_the_registry_agrees_with_what_the_shipped_networks_say() -> None:
    networks = [entry for entry in registry().values() if entry.kind == "network" and located(entry)]
    assert networks
    for entry in networks:
        with safe_open(weights_folder() / entry.file, framework="np") as file:
            header = json.loads(file.metadata()["deconvseg"])
        assert tuple(header["classes"]) == entry.classes


def test_nothing_is_known_of_files_that_nobody_here_has_seen() -> None:
    for entry in registry().values():
        if not located(entry) and not entry.urls:
            assert entry.bytes is entry.sha256 is None
            assert entry.obtain


def test_default_names() -> None:
    assert network_file("default") == network_file("deconvnet-lite")
    assert network_file("default").parent == forest_file().parent == weights_folder()
    assert forest_file("edges") == forest_file()


@pytest.mark.parametrize("ask", [network_file, forest_file])
def test_own_files(tmp_path: Path, ask: Any) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert ask(file) == ask(str(file)) == file
    with pytest.raises(WeightsError, match="none"):
        ask(tmp_path / "none")


@pytest.mark.parametrize(
    ("ask", "name", "words"),
    [
        (network_file, "defualt", "did you mean 'default'?"),
        (network_file, "xyz", "known are deconvnet-lite"),
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


def test_where_an_own_network_is_looked_for(own: Path, home: Path) -> None:
    add(own)
    with pytest.raises(WeightsError, match="weights pull roads"):
        network_file("roads")
    home.mkdir()
    (home / "roads.safetensors").write_bytes(CONTENT)
    assert network_file("roads") == home / "roads.safetensors"
    (own / "roads.safetensors").write_bytes(CONTENT)
    assert network_file("roads") == own / "roads.safetensors"


def test_a_registry_in_the_home_folder(own: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(own, more='aliases = ["default"]')
    monkeypatch.delenv("DECONVSEG_REGISTRY")
    home.mkdir()
    (own / "nets.toml").rename(home / REGISTRY)
    (home / "roads.safetensors").write_bytes(CONTENT)
    assert network_file("default") == home / "roads.safetensors"
    assert network_file("deconvnet-lite").parent == weights_folder()


def test_a_file_of_another_size_is_not_used(own: Path) -> None:
    add(own)
    (own / "roads.safetensors").write_bytes(CONTENT + b"!")
    with pytest.raises(WeightsError, match=f"has {len(CONTENT) + 1} bytes, should have {len(CONTENT)}"):
        network_file("roads")


def test_a_missing_own_registry(own: Path) -> None:
    with pytest.raises(WeightsError, match=r"nets\.toml: this registry"):
        network_file("default")


def test_cache_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == home
    monkeypatch.setenv("DECONVSEG_HOME", "nets")
    assert cache_folder() == Path.cwd() / "nets"
    monkeypatch.delenv("DECONVSEG_HOME")
    assert cache_folder().name == "deconvseg"


def test_fault(own: Path, tmp_path: Path) -> None:
    add(own)
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    assert fault(lookup("roads"), file) == ""
    file.write_bytes(CONTENT[:-1] + b"!")
    assert f"should have {SHA256}" in fault(lookup("roads"), file)
    file.write_bytes(b"")
    assert "has 0 bytes" in fault(lookup("roads"), file)
    file.unlink()
    assert "cannot be read" in fault(lookup("roads"), file)
    file.write_bytes(b"anything")
    add(own, known=False)
    assert fault(lookup("roads"), file) == ""


def test_pull_fetches_once(own: Path, home: Path, mirror: Any) -> None:
    add(own, mirror.send("/roads", CONTENT))
    seen: list[int] = []
    assert pull(lookup("roads"), progress=seen.append) == home / "roads.safetensors"
    assert network_file("roads").read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)
    assert pull(lookup("roads"), offline=True) == home / "roads.safetensors"
    assert len(mirror.requests) == 1


def test_pull_takes_what_was_put_there_by_hand_if_it_is_right(own: Path, home: Path, mirror: Any) -> None:
    add(own, mirror.send("/roads", CONTENT), free=False)
    home.mkdir()
    (home / "roads.safetensors").write_bytes(CONTENT)
    assert pull(lookup("roads")) == home / "roads.safetensors"
    assert mirror.requests == []


def test_pull_replaces_a_wrong_file_in_the_cache(own: Path, home: Path, mirror: Any) -> None:
    add(own, mirror.send("/roads", CONTENT))
    home.mkdir()
    (home / "roads.safetensors").write_bytes(CONTENT[:-1] + b"!")
    said: list[str] = []
    with pytest.raises(UsageError):
        pull(lookup("roads"), offline=True)
    assert pull(lookup("roads"), say=said.append).read_bytes() == CONTENT
    assert "has to be fetched again" in said[0]


def test_pull_leaves_a_wrong_file_elsewhere_alone(own: Path, mirror: Any) -> None:
    add(own, mirror.send("/roads", CONTENT))
    (own / "roads.safetensors").write_bytes(b"mine")
    with pytest.raises(WeightsError, match="put the right file there"):
        pull(lookup("roads"))
    assert (own / "roads.safetensors").read_bytes() == b"mine"
    assert mirror.requests == []


def test_pull_offline_never_touches_the_network(own: Path, home: Path, mirror: Any) -> None:
    add(own, mirror.send("/roads", CONTENT))
    with pytest.raises(UsageError, match="nothing is fetched offline") as refused:
        pull(lookup("roads"), offline=True)
    assert str(home / "roads.safetensors") in str(refused.value)
    assert mirror.requests == []


def test_pull_needs_the_licence_accepted(own: Path, mirror: Any) -> None:
    add(own, mirror.send("/roads", CONTENT), free=False)
    with pytest.raises(UsageError, match=r"licence \(ours\) was not accepted"):
        pull(lookup("roads"))
    assert mirror.requests == []
    asked: list[str] = []
    pull(lookup("roads"), accept=lambda entry: not asked.append(entry.name))
    assert asked == ["roads"]
    assert len(mirror.requests) == 1


def test_pull_of_a_file_got_by_hand(own: Path, home: Path) -> None:
    add(own, known=False, more="obtain = 'Ask Anna.'\nconvert_from = 'their roads.caffemodel'")
    with pytest.raises(WeightsError, match="got by hand"):
        pull(lookup("roads"))
    told = how_to_obtain(lookup("roads"))
    assert told[:2] == [
        "Ask Anna.",
        f"deconvseg weights convert 'their roads.caffemodel' -o {home / 'roads.safetensors'}",
    ]
    (home / "roads.safetensors").write_bytes(b"converted")  # the folder is there
    assert pull(lookup("roads")) == network_file("roads") == home / "roads.safetensors"


def test_pull_when_the_mirrors_fail(own: Path, home: Path, mirror: Any) -> None:
    add(own, mirror.address + "/gone")
    with pytest.raises(WeightsError) as refused:
        pull(lookup("roads"))
    assert "HTTP 404" in str(refused.value)
    assert str(home / "roads.safetensors") in str(refused.value)


def test_pull_into_a_folder_that_cannot_be(own: Path, home: Path, mirror: Any) -> None:
    add(own, mirror.send("/roads", CONTENT))
    home.write_bytes(b"a file")
    with pytest.raises(OutputError, match="DECONVSEG_HOME"):
        pull(lookup("roads"))

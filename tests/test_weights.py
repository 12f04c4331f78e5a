"""From names to files: shipped, or got by hand and in the cache."""

from __future__ import annotations

import json
import pwd
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from safetensors import safe_open

from deconvseg import weights
from deconvseg.errors import WeightsError
from deconvseg.files import digest

SHIPPED = weights.weights_folder()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet."""
    monkeypatch.setenv("DECONVSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_registry_agrees_with_the_shipped_files() -> None:
    shipped = {path.name for path in SHIPPED.iterdir() if path.name.endswith((".safetensors", ".gz"))}
    here = {entry.file: entry for entry in weights.registry().values() if weights.located(entry)}
    assert here.keys() == shipped
    for entry in here.values():
        path = SHIPPED / entry.file
        assert (path.stat().st_size, digest(path)) == (entry.bytes, entry.sha256)
        assert entry.figures[0].keys() == {"measure", "value", "on", "how"}
        if entry.kind == "network":
            with safe_open(path, framework="np") as file:
                header = json.loads(file.metadata()["deconvseg"])
            assert tuple(header["classes"]) == entry.classes
    for entry in weights.registry().values():
        if entry.file not in shipped:  # nobody here has seen it, so nothing is claimed of it
            assert entry.bytes is entry.sha256 is None
            assert entry.obtain and entry.convert_from


@pytest.mark.parametrize("ask", [weights.network_file, weights.forest_file])
def test_own_files(tmp_path: Path, ask: Any) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert ask(file) == ask(str(file)) == file
    with pytest.raises(WeightsError, match="none"):
        ask(tmp_path / "none")
    assert weights.network_file("default") == weights.network_file("deconvnet-lite")
    assert weights.forest_file("edges") == weights.forest_file()


@pytest.mark.parametrize(
    ("ask", "name", "words"),
    [
        (weights.network_file, "defualt", "did you mean 'default'?"),
        (weights.network_file, "xyz", "known are deconvnet-lite"),
        (weights.network_file, "x" * 5000, "no such network file, nor a network's name"),
        (weights.network_file, "edges", "is a forest, where a network is asked for"),
        (weights.forest_file, "default", "is a network, where a forest is asked for"),
        (weights.network_file, "deconvnet-voc", "'deconvseg weights pull deconvnet-voc'"),
        (weights.lookup, "deconvnet-lit", "did you mean 'deconvnet-lite'?"),
    ],
)
def test_names_that_lead_to_no_file(ask: Any, name: str, words: str) -> None:
    with pytest.raises(WeightsError) as refused:
        ask(name)
    assert str(refused.value).startswith(f"{name}: ")
    assert words in str(refused.value)


def test_a_network_got_by_hand_is_found_in_the_cache(home: Path) -> None:
    home.mkdir()
    place = home / "deconvnet-voc.safetensors"
    place.write_bytes(b"converted")
    assert weights.network_file("deconvnet-voc") == place
    assert weights.fault(weights.lookup("deconvnet-voc")) == ""


def test_without_a_home_directory_shipped_files_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", Mock(side_effect=KeyError("getpwuid(): uid not found: 7")))
    for name in ("HOME", "XDG_CACHE_HOME", "DECONVSEG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert weights.network_file("default").parent == weights.forest_file().parent == SHIPPED
    with pytest.raises(WeightsError, match=r"no home directory .*; let DECONVSEG_HOME name another"):
        weights.network_file("deconvnet-voc")


def test_a_file_that_is_gone_or_cut(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roads = weights.Entry("roads", "network", "r.st", "Roads", "own", True, 27_000, "0" * 64, obtain="ask us")
    monkeypatch.setattr(weights, "registry", lambda: {"roads": roads})
    file = home / "r.st"
    assert weights.fault(roads) == "is not here"
    home.mkdir()
    file.write_bytes(bytes(9))
    assert f"should have {'0' * 64}" in weights.fault(roads)
    with pytest.raises(WeightsError, match="should have 27000 bytes; 'deconvseg weights pull roads'"):
        weights.network_file("roads")

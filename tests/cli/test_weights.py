"""`deconvseg weights list | info | verify | pull`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from deconvseg import weights

from .conftest import EXAMPLES, Refused, Run, lines

SHIPPED = weights.weights_folder()
CONTENT = b"no real network, but a file"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet."""
    monkeypatch.setenv("DECONVSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def roads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry also knows `roads`."""
    known, sha256 = weights.registry(), hashlib.sha256(CONTENT).hexdigest()
    entry = weights.Entry("roads", "network", "roads.st", "Roads", "in-house", False, len(CONTENT), sha256)
    monkeypatch.setattr(weights, "registry", lambda: {**known, "roads": entry})


def test_list(inside: Run, home: Path) -> None:
    home.mkdir()
    (home / "roads.st").write_bytes(CONTENT)
    listed = inside("weights", "list")
    rows = {row.split()[0]: row for row in listed.stdout.decode().splitlines()}
    shipped = ["deconvnet-lite", "fcn-lite", "edges"]
    known = [*shipped, "deconvnet-voc", "fcn8s-voc", "roads"]
    assert list(rows) == ["name", *known]
    assert "32.7  shipped" in rows["deconvnet-lite"]
    assert "not here  research only" in rows["deconvnet-voc"]
    assert "cached    in-house" in rows["roads"]
    assert "\x1b" not in listed.stdout.decode()
    assert max(map(len, rows.values())) <= 80
    assert "default is deconvnet-lite" in lines(listed)

    document = json.loads(inside("weights", "list", "--json").stdout)
    assert document["cache"] == str(home)
    entries = {entry["name"]: entry for entry in document["weights"]}
    assert entries["deconvnet-lite"]["where"] == "shipped"
    assert entries["deconvnet-lite"]["aliases"] == ["default"]
    assert entries["deconvnet-voc"] | {"where": "not here", "path": None} == entries["deconvnet-voc"]
    assert entries["roads"]["path"] == str(home / "roads.st")


def test_info(inside: Run, tiny_network: Path) -> None:
    document = json.loads(inside("weights", "info").stdout)
    assert document["file"] == str(SHIPPED / "deconvnet-lite.safetensors")
    for key in ("sha256", "bytes", "classes"):
        assert document[key] == document["registry"][key]
    assert document["parameters"] > 30e6

    document = json.loads(inside("weights", "info", tiny_network).stdout)
    content = tiny_network.read_bytes()
    assert (document["bytes"], document["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert document["registry"] is None
    assert len(document["classes"]) == 21

    known = json.loads(inside("weights", "info", SHIPPED / "edges.yml.gz").stdout)
    assert known["registry"]["name"] == "edges"
    unseen = json.loads(inside("weights", "info", "deconvnet-voc").stdout)
    assert unseen["file"] is None
    assert unseen["registry"]["licence_free"] is False


def test_verify(inside: Run, home: Path) -> None:
    right = [
        f"deconvnet-lite: {SHIPPED / 'deconvnet-lite.safetensors'} ok",
        f"fcn-lite: {SHIPPED / 'fcn-lite.safetensors'} ok",
        f"edges: {SHIPPED / 'edges.yml.gz'} ok",
    ]
    checked = inside("weights", "verify")
    assert checked.stdout.decode().splitlines() == right
    home.mkdir()
    (home / "deconvnet-voc.safetensors").write_bytes(b"by hand")
    assert b"not checked: its hash is not known" in inside("weights", "verify", "deconvnet-voc").stdout

    (home / "deconvnet-voc.safetensors").unlink()
    (home / "roads.st").write_bytes(CONTENT[:-1] + b"!")
    checked = inside("weights", "verify", code=1)
    assert checked.stdout.decode().splitlines() == right
    (line,) = lines(checked)
    assert line.startswith(f"error: roads: {home / 'roads.st'} has sha256 ")
    document = json.loads(inside("weights", "verify", "--json", "roads", "fcn8s-voc", code=1).stdout)
    assert [entry["name"] for entry in document["weights"]] == ["roads", "fcn8s-voc"]
    assert document["weights"][1]["status"] == "is not here"


def test_pull_of_what_is_here_checks_it_and_goes_on_after_a_fault(
    inside: Run, refused: Refused, home: Path
) -> None:
    home.mkdir()
    for content, code in ((CONTENT, 0), (CONTENT[:-1] + b"!", 1)):
        (home / "roads.st").write_bytes(content)
        pulled = inside("weights", "pull", "roads", "default", code=code)
        assert pulled.stdout.decode().splitlines()[-1] == str(SHIPPED / "deconvnet-lite.safetensors")
    (line,) = lines(pulled)
    assert line.startswith(f"error: {home / 'roads.st'}: has sha256 ") and "install deconvseg again" in line
    (home / "roads.st").unlink()
    assert refused("weights", "pull", "roads", code=1).startswith("roads: was shipped and is missing")
    told = refused("weights", "pull", "roads", "defualt")
    assert told == "defualt: no network or forest of this name; did you mean 'default'?"


def test_pull_says_how_to_get_the_authors_network(inside: Run, home: Path) -> None:
    explained = inside("weights", "pull", "deconvnet-voc", code=1)
    assert explained.stdout == b""
    said = "\n".join(lines(explained))
    place = home / "deconvnet-voc.safetensors"
    assert "research only" in said
    assert f"deconvseg weights convert DeconvNet_trainval_inference.caffemodel -o {place}" in said
    assert home.is_dir()
    refused = inside("segment", EXAMPLES / "cat.jpg", "-o", "mask.png", "--weights", "deconvnet-voc", code=2)
    assert "'deconvseg weights pull deconvnet-voc'" in lines(refused)[-1]

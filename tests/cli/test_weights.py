"""`deconvseg weights list | info | verify | pull` as installed."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMMAND, EXAMPLES, Run, lines

SHIPPED = EXAMPLES.parent / "weights"
CONTENT = b"no real network, but a file" * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet, and an own registry."""
    monkeypatch.setenv("DECONVSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DECONVSEG_REGISTRY", str(tmp_path / "nets.toml"))
    monkeypatch.delenv("DECONVSEG_OFFLINE", raising=False)
    (tmp_path / "nets.toml").write_text("format = 1\n")
    return tmp_path / "home"


def add(home: Path, name: str, *urls: str, free: bool = True) -> None:
    """Add an entry to the own registry."""
    with (home.parent / "nets.toml").open("a") as file:
        file.write(
            f"""
[weights.{name}]
kind = "network"
file = "{name}.safetensors"
description = "Roads"
licence = "in-house"
terms = "Stays in the house."
licence_free = {str(free).lower()}
urls = {list(urls)}
bytes = {len(CONTENT)}
sha256 = "{SHA256}"
"""
        )


def test_list(run: Run, home: Path) -> None:
    add(home, "roads")
    home.mkdir()
    (home / "roads.safetensors").write_bytes(CONTENT)
    listed = run("weights", "list")
    assert listed.returncode == 0
    rows = {row.split()[0]: row for row in listed.stdout.decode().splitlines()}
    assert list(rows) == ["name", "deconvnet-lite", "edges", "deconvnet-voc", "fcn8s-voc", "roads"]
    assert "32.7  shipped" in rows["deconvnet-lite"]
    assert "not here  research only" in rows["deconvnet-voc"]
    assert "2.7  cached    in-house" in rows["roads"]
    assert "\x1b" not in listed.stdout.decode()
    assert max(map(len, rows.values())) <= 80
    assert "default is deconvnet-lite" in lines(listed)


def test_list_in_a_pipe_breaks_no_line(run: Run, home: Path) -> None:
    add(home, "roads-" + "x" * 100)
    assert len(run("weights", "list").stdout.splitlines()) == 6


def test_list_json(run: Run, home: Path, tmp_path: Path) -> None:
    add(home, "roads")
    (tmp_path / "roads.safetensors").write_bytes(CONTENT)
    document = json.loads(run("weights", "list", "--json").stdout)
    assert document["cache"] == str(home)
    entries = {entry["name"]: entry for entry in document["weights"]}
    assert entries["deconvnet-lite"]["where"] == "shipped"
    assert entries["deconvnet-lite"]["aliases"] == ["default"]
    assert entries["deconvnet-voc"] | {"where": "not here", "path": None} == entries["deconvnet-voc"]
    assert entries["roads"]["where"] == "own folder"
    assert entries["roads"]["path"] == str(tmp_path / "roads.safetensors")


def test_info_of_a_name(run: Run) -> None:
    document = json.loads(run("weights", "info").stdout)
    assert document["file"] == str(SHIPPED / "deconvnet-lite.safetensors")
    assert document["sha256"] == document["registry"]["sha256"]
    assert document["bytes"] == document["registry"]["bytes"]
    assert document["classes"] == document["registry"]["classes"]
    assert document["parameters"] > 30e6


def test_info_of_files(run: Run, tiny_network: Path) -> None:
    document = json.loads(run("weights", "info", tiny_network).stdout)
    content = tiny_network.read_bytes()
    assert (document["bytes"], document["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert document["registry"] is None
    assert len(document["classes"]) == 21
    known = json.loads(run("weights", "info", SHIPPED / "edges.yml.gz").stdout)
    assert known["registry"]["name"] == "edges"


def test_info_of_what_is_not_here(run: Run) -> None:
    document = json.loads(run("weights", "info", "deconvnet-voc").stdout)
    assert document["file"] is None
    assert document["registry"]["licence_free"] is False


def test_verify(run: Run, home: Path) -> None:
    checked = run("weights", "verify")
    assert checked.returncode == 0
    assert checked.stdout.decode().splitlines() == [
        f"deconvnet-lite: {SHIPPED / 'deconvnet-lite.safetensors'} ok",
        f"edges: {SHIPPED / 'edges.yml.gz'} ok",
    ]
    home.mkdir()
    (home / "deconvnet-voc.safetensors").write_bytes(b"by hand")
    assert b"not checked: its hash is not known" in run("weights", "verify", "deconvnet-voc").stdout


def test_verify_finds_the_wrong_one(run: Run, home: Path) -> None:
    add(home, "roads")
    home.mkdir()
    (home / "roads.safetensors").write_bytes(CONTENT[:-1] + b"!")
    checked = run("weights", "verify")
    assert checked.returncode == 1
    (line,) = lines(checked)
    assert line.startswith(f"error: roads: {home / 'roads.safetensors'} has sha256 ")
    assert len(checked.stdout.splitlines()) == 2
    document = json.loads(run("weights", "verify", "--json", "roads", "edges").stdout)
    roads, edges = document["weights"]
    assert (roads["name"], edges["status"]) == ("roads", "ok")
    assert roads["status"].startswith("has sha256 ")


def test_verify_of_what_is_not_here(run: Run) -> None:
    checked = run("weights", "verify", "fcn8s-voc")
    assert checked.returncode == 1
    assert "is not here" in lines(checked)[0]


def test_pull(run: Run, home: Path, mirror: Any) -> None:
    add(home, "roads", mirror.address + "/gone", mirror.send("/roads", CONTENT, cuts=[500_000]))
    pulled = run("weights", "pull", "roads", "edges")
    assert pulled.returncode == 0
    assert lines(pulled) == []
    assert pulled.stdout.decode().splitlines() == [
        str(home / "roads.safetensors"),
        str(SHIPPED / "edges.yml.gz"),
    ]
    assert (home / "roads.safetensors").read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == [None, None, "bytes=500000-"]


def test_pull_goes_on_with_the_next_after_a_failure(run: Run, home: Path, mirror: Any) -> None:
    add(home, "roads", mirror.send("/bad", b"x" * len(CONTENT)))
    add(home, "rivers", mirror.send("/rivers", CONTENT))
    pulled = run("weights", "pull", "roads", "rivers")
    assert pulled.returncode == 1
    (line,) = lines(pulled)
    assert line.startswith("error: roads.safetensors could not be fetched (")
    assert "gave another file" in line
    assert pulled.stdout.decode().splitlines() == [str(home / "rivers.safetensors")]


def test_pull_tells_a_mistyped_name_before_it_fetches(run: Run, home: Path, mirror: Any) -> None:
    add(home, "roads", mirror.send("/roads", CONTENT))
    refused = run("weights", "pull", "roads", "rods")
    assert refused.returncode == 2
    assert lines(refused) == ["error: rods: no network of this name; did you mean 'roads'?"]
    assert mirror.requests == []


@pytest.mark.parametrize(("option", "variable"), [(["--offline"], ""), ([], "1")])
def test_pull_offline(
    run: Run, home: Path, mirror: Any, monkeypatch: pytest.MonkeyPatch, option: list[str], variable: str
) -> None:
    monkeypatch.setenv("DECONVSEG_OFFLINE", variable)
    add(home, "roads", mirror.send("/roads", CONTENT))
    refused = run("weights", "pull", "roads", "deconvnet-lite", *option)
    assert refused.returncode == 1
    (line,) = lines(refused)
    assert line == (
        f"error: roads: is not here, and nothing is fetched offline; put it at {home / 'roads.safetensors'}"
    )
    assert mirror.requests == []


def test_pull_gives_up_on_a_silent_mirror(run: Run, home: Path, mirror: Any) -> None:
    add(home, "roads", mirror.hang("/roads"))
    refused = run("weights", "pull", "roads", "--timeout", "0.3")
    assert refused.returncode == 1
    assert "nothing for 0.3 seconds" in lines(refused)[0]


def test_pull_says_how_to_get_the_authors_network(run: Run, home: Path) -> None:
    explained = run("weights", "pull", "deconvnet-voc")
    assert explained.returncode == 1
    assert explained.stdout == b""
    said = "\n".join(lines(explained))
    place = home / "deconvnet-voc.safetensors"
    assert "research only" in said
    assert f"deconvseg weights convert DeconvNet_trainval_inference.caffemodel -o {place}" in said
    assert home.is_dir()


def test_pull_without_a_terminal_needs_the_licence_accepted(run: Run, home: Path, mirror: Any) -> None:
    add(home, "roads", mirror.send("/roads", CONTENT), free=False)
    refused = run("weights", "pull", "roads")
    assert refused.returncode == 1
    shown, error = lines(refused)
    assert shown == "roads: licence: in-house. Stays in the house."
    assert "--accept-licence" in error
    assert mirror.requests == []
    accepted = run("weights", "pull", "roads", "--accept-licence")
    assert accepted.returncode == 0
    assert lines(accepted) == [shown]


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("\x04", 130)])
def test_pull_asks_on_a_terminal(tmp_path: Path, home: Path, mirror: Any, answer: str, code: int) -> None:
    add(home, "roads", mirror.send("/roads", CONTENT), free=False)
    ours, theirs = pty.openpty()
    command = [COMMAND, "weights", "pull", "roads"]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    shown = b""
    while b"accept this licence?" not in shown:
        shown += os.read(ours, 4096)
    assert b"Stays in the house." in shown
    assert mirror.requests == []
    os.write(ours, f"{answer}\n".encode() if answer.isprintable() else answer.encode())
    reader = threading.Thread(target=_drain, args=(ours,))
    reader.start()
    assert process.wait(60) == code
    reader.join(10)
    assert (home / "roads.safetensors").exists() == (code == 0)
    assert len(mirror.requests) == (code == 0)


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass  # Linux' way to say that the other side has left
    os.close(terminal)


def test_an_interrupted_pull_goes_on(run: Run, tmp_path: Path, home: Path, mirror: Any) -> None:
    add(home, "roads", mirror.hang("/roads", CONTENT[:600_000], len(CONTENT)))
    process = subprocess.Popen([COMMAND, "weights", "pull", "roads"], cwd=tmp_path, stderr=subprocess.PIPE)
    part = home / "roads.safetensors.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (
        130,
        b"error: interrupted; what has come is kept, run the same again to go on\n",
    )
    kept = part.stat().st_size
    mirror.send("/roads", CONTENT)
    assert run("weights", "pull", "roads").returncode == 0
    assert (home / "roads.safetensors").read_bytes() == CONTENT
    assert mirror.requests[-1] == ("/roads", f"bytes={kept}-")


def test_two_pulls_at_once(tmp_path: Path, home: Path, mirror: Any) -> None:
    add(home, "roads", mirror.send("/roads", CONTENT))
    whole = mirror.pages["/roads"]
    asked, go_on = threading.Event(), threading.Event()

    def slow(handler: Any) -> None:
        asked.set()
        go_on.wait(60)
        whole(handler)

    mirror.pages["/roads"] = slow
    command, pipes = [COMMAND, "weights", "pull", "roads"], {"stdout": -1, "stderr": -1, "text": True}
    first = subprocess.Popen(command, cwd=tmp_path, **pipes)  # type: ignore[call-overload]
    assert asked.wait(60)
    second = subprocess.Popen(command, cwd=tmp_path, **pipes)  # type: ignore[call-overload]
    assert second.stderr.readline().startswith("roads.safetensors: another process is fetching it")
    go_on.set()
    for process in (first, second):
        stdout, _ = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (0, f"{home / 'roads.safetensors'}\n")
    assert (home / "roads.safetensors").read_bytes() == CONTENT
    assert len(mirror.requests) == 1


def test_a_known_network_that_is_not_here_says_how_to_get_it(run: Run) -> None:
    refused = run("segment", EXAMPLES / "cat.jpg", "-o", "mask.png", "--weights", "deconvnet-voc")
    assert refused.returncode == 2
    assert "'deconvseg weights pull deconvnet-voc'" in lines(refused)[-1]


def test_a_broken_own_registry_is_one_line(run: Run, home: Path) -> None:
    (home.parent / "nets.toml").write_text("format = 1\n[weights.a]\nkind = 'network'\n")
    refused = run("weights", "list")
    assert refused.returncode == 2
    assert lines(refused) == [f"error: {home.parent / 'nets.toml'}: weights.a: file is missing"]

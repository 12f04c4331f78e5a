"""The installed command in a subprocess, or its app in this process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.cli import app, console

COMMAND = Path(sys.executable).with_name("deconvseg")
EXAMPLES = Path(__file__).parents[2] / "examples"

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Refused = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `deconvseg ARGUMENTS...` in `tmp_path`, as a user with pipes for stdin, stdout and stderr would.

    It has to exit with this code.
    """

    def run(*arguments: str | Path, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        command = [COMMAND, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, input=stdin, capture_output=True, timeout=300)
        assert done.returncode == code, done.stderr.decode()
        return done

    return run


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """As `run`, but within this process: for tests to which a process of its own does not matter."""

    def run(*arguments: str | Path, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["deconvseg", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        found = console.run(app)
        sys.stdout.flush()
        done = subprocess.CompletedProcess(sys.argv, found, *capfdbinary.readouterr())
        assert found == code, done.stderr.decode()
        return done

    return run


@pytest.fixture
def refused(inside: Run) -> Refused:
    """As `inside`, for a command that does nothing but say in one line what is wrong: that line."""

    def refused(*arguments: str | Path, code: int = 2) -> str:
        done = inside(*arguments, code=code)
        assert done.stdout == b""
        (line,) = lines(done)
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return refused


@pytest.fixture
def fast(tiny_network: Path) -> list[str]:
    """Options for results in no time."""
    plain = "--proposals 0 --no-crf --device cpu --precision fp32"
    return ["--weights", str(tiny_network), *plain.split()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder `photos` with a photo, another one below, and things that are none."""
    below = tmp_path / "photos" / "day one"
    below.mkdir(parents=True)
    Image.open(EXAMPLES / "cat.jpg").resize((90, 60)).save(tmp_path / "photos" / "cat.jpg")
    Image.new("RGB", (30, 40), "teal").save(below / "фото [1].PNG", "PNG")
    (below / "notes.txt").write_text("no photo")
    (below / "._hidden.jpg").write_text("no photo")
    Image.new("P", (30, 40)).save(below / "фото [1].mask.png")
    return tmp_path / "photos"


def lines(run: subprocess.CompletedProcess[bytes]) -> list[str]:
    """What the run printed on standard error; never a traceback."""
    text = run.stderr.decode()
    assert "Traceback" not in text
    return text.splitlines()


def files(folder: Path) -> set[str]:
    """All files below a folder, as paths from it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def save_blocks(paths: Iterable[Path]) -> None:
    """Photos of 300 x 200 pixels, each its own."""
    rng = np.random.default_rng(0)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = Image.fromarray(rng.integers(0, 255, (4, 6, 3), np.uint8))
        blocks.resize((300, 200), Image.Resampling.NEAREST).save(path)


def manifest_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def results_of(out: Path, *without: str) -> dict[str, object]:
    """All files but manifests and what is half written; and of their lines what does not depend on stops."""
    kept = {name for name in files(out) if not name.endswith((".jsonl", ".tmp"))}
    contents: dict[str, object] = {name: (out / name).read_bytes() for name in kept}
    records = [json.loads(line) for path in out.glob("segment*.jsonl") for line in path.open("rb")]
    for record in records:
        name = f"line of {record['name']}"
        assert name not in contents
        record["status"] = record["status"].replace("skipped", "done")
        changing = {"seconds", "path", *without}
        contents[name] = {key: record[key] for key in record.keys() - changing}
    return contents

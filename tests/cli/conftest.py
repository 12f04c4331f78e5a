"""The installed command in a subprocess, or its app in this process."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from deconvseg.cli import app, console

COMMAND = Path(sys.executable).with_name("deconvseg")
EXAMPLES = Path(__file__).parents[2] / "examples"

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `deconvseg ARGUMENTS...` in `tmp_path`, as a user with pipes for stdin, stdout and stderr would."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [COMMAND, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, input=stdin, capture_output=True, timeout=300)

    return run


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """As `run`, but within this process: for tests to which a process of its own does not matter."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["deconvseg", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        code = console.run(app)
        sys.stdout.flush()
        return subprocess.CompletedProcess(sys.argv, code, *capfdbinary.readouterr())

    return run


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

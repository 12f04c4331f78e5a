"""Standard streams that are closed or full, for every command."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from .conftest import EXAMPLES

pytestmark = pytest.mark.slow
Shell = Callable[[str], subprocess.CompletedProcess[bytes]]


@pytest.fixture
def shell(tmp_path: Path, fast: list[str]) -> Shell:
    """Runs a line of a shell in a folder with `cat.png`; DS is the command, FAST the options for speed."""
    Image.open(EXAMPLES / "cat.jpg").resize((60, 40)).save(tmp_path / "cat.png")

    def shell(line: str) -> subprocess.CompletedProcess[bytes]:
        line = line.replace("DS", f"{sys.executable} -m deconvseg").replace("FAST", " ".join(fast))
        return subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=300)

    return shell


def test_a_closed_log_puts_nothing_into_the_data(shell: Shell, tmp_path: Path) -> None:
    done = shell("DS segment cat.png -o - FAST 2>&- 0<&- > x.png; echo $?")
    assert done.stdout == b"0\n"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert Image.open(tmp_path / "x.png").size == (60, 40)


@pytest.mark.parametrize("command", ["segment --help", "weights list"])
def test_commands_with_all_streams_closed(shell: Shell, command: str) -> None:
    done = shell(f"DS {command} <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_folder_run_with_all_streams_closed(shell: Shell, tmp_path: Path) -> None:
    done = shell("mkdir in; cp cat.png in; DS segment in -o out FAST <&- >&- 2>&-")
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"cat.png", "segment.jsonl"}
    Image.open(tmp_path / "out/cat.png").load()  # no message in it


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("DS segment cat.png -o - FAST >&-", "standard output is closed"),
        ("DS weights list --json >&-", "standard output is closed"),
        ("DS segment @- -o out FAST <&-", "standard input is closed"),
    ],
)
def test_a_closed_stream_that_is_asked_for_is_one_line(shell: Shell, line: str, words: str) -> None:
    done = shell(line)
    assert done.returncode == 2 and done.stdout == b""
    (error,) = done.stderr.decode().splitlines()
    assert error.startswith("error: ") and words in error


def test_a_full_log_loses_messages_alone(shell: Shell, tmp_path: Path) -> None:
    done = shell("DS segment none.jpg -o out/ --json 2>/dev/full")
    assert done.returncode == 1
    assert json.loads(done.stdout)["images"][0]["status"] == "failed"
    assert (tmp_path / "out/segment.jsonl").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("command", ["weights list", "segment cat.png -o - FAST", "segment --help"])
def test_a_full_output_is_one_line(shell: Shell, command: str) -> None:
    done = shell(f"DS {command} >/dev/full")
    assert done.returncode in (1, 2)
    text = done.stderr.decode()
    (error,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert "No space left on device" in error
    assert "Traceback" not in text and "Exception" not in text


def test_a_reader_that_leaves_is_no_error(shell: Shell) -> None:
    done = shell("DS weights info 2>err | true; cat err")
    assert b"error" not in done.stdout and b"Broken" not in done.stdout

"""What a terminal sees and a pipe does not."""

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from .conftest import COMMAND

COLOUR = re.compile(rb"\x1b\[[0-9;]*[34][0-9][0-9;]*m|\x1b\[9[0-9]m")
# Nothing of it is there, so that no network need be read; one name is no UTF-8, one would be an emoji.
MISSING = [b"none.jpg", b"latin-\xe9.jpg", b":cat:.jpg"]


def on_terminal(folder: Path, *arguments: str | bytes, **variables: str) -> tuple[int, bytes]:
    """Exit code and output of the command on a terminal of its own."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **variables}
    for name in ({"NO_COLOR", "FORCE_COLOR"} & environment.keys()) - variables.keys():
        del environment[name]
    process = subprocess.Popen(
        [COMMAND, *arguments], cwd=folder, stdin=its, stdout=its, stderr=its, env=environment
    )
    os.close(its)
    output = b""
    try:
        while part := os.read(ours, 4096):
            output += part
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(ours)
    return process.wait(), output


@pytest.mark.parametrize("no_color", [False, True])
def test_bar_and_errors(tmp_path: Path, no_color: bool) -> None:
    variables = {"NO_COLOR": "1"} if no_color else {}
    code, output = on_terminal(tmp_path, "segment", *MISSING, "-o", "out", **variables)
    assert code == 1
    assert b"3/3" in output
    assert bool(COLOUR.search(output)) is not no_color
    for name in ("none.jpg", "latin-\\udce9.jpg", ":cat:.jpg"):
        assert f"error: {name}: no such file; check the path\r\n".encode() in output


def test_quiet_and_dumb_terminals_get_no_bar(tmp_path: Path) -> None:
    for arguments, variables in ((["--quiet"], {}), ([], {"TERM": "dumb"})):
        code, output = on_terminal(tmp_path, "segment", *MISSING, "-o", "out", *arguments, **variables)
        assert code == 1
        assert b"\x1b" not in output


def test_result_does_not_go_to_a_terminal(tmp_path: Path) -> None:
    code, output = on_terminal(tmp_path, "segment", "none.jpg", "-o", "-")
    assert code == 2
    assert output.startswith(b"error: this result is not for a terminal")


def test_help_fits_80_columns(tmp_path: Path) -> None:
    code, output = on_terminal(tmp_path, "segment", "--help", NO_COLOR="1")
    text = re.sub(rb"\x1b\[[0-9;]*m", b"", output).decode()
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert not COLOUR.search(output)

"""Completion scripts, asked as the shells ask them."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Run, lines

ASKED = {
    "se": {"segment"},
    "segment --sa": {"--save"},
    "segment a.jpg --save c": {"color", "cutout", "coco"},
    "segment --classes per": {"person"},
    "segment --device c": {"cpu", "cuda"},
    "segment --max-megapixels ": set(),
    "segment --crf --no": {"--no-crf"},
    "--debug segment --js": {"--json"},
    "weights in": {"info"},
    "weights convert --storage int": {"int8"},
    "completion ": {"bash", "zsh", "fish"},
    "segment phot": {"photo1.jpg"},
}


@pytest.fixture
def script(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> Path:
    shell = request.param
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    printed = run("completion", shell)
    assert printed.returncode == 0, printed.stderr
    path = tmp_path / f"script.{shell}"
    path.write_bytes(printed.stdout)
    (tmp_path / "photo1.jpg").touch()
    return path


def answer(*command: str | Path, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash(script: Path, tmp_path: Path) -> None:
    words = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))'
    ask = f'source "$0"; {words}; _deconvseg; echo "${{COMPREPLY[@]}}"'
    for typed, expected in ASKED.items():
        found = answer("bash", "-c", ask, script, "deconvseg", *typed.split(" "), cwd=tmp_path)
        # bash itself completes files where there is no other reply.
        assert {*found.split()} == expected - {"photo1.jpg"}, typed


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish(script: Path, tmp_path: Path) -> None:
    ask = 'source $argv[1]; complete -C "deconvseg $argv[2]"'
    for typed, expected in ASKED.items():
        told = answer("fish", "--no-config", "-c", ask, script, typed, cwd=tmp_path).splitlines()
        found = {line.partition("\t")[0] for line in told}
        # It offers files where it is not known what the value can be.
        assert found == (expected or {"photo1.jpg", script.name}), typed


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_reads_it(script: Path, tmp_path: Path) -> None:
    ask = "autoload -U compinit; compinit -u -D; source $1; print $_comps[deconvseg]"
    assert answer("zsh", "-f", "-c", ask, "-", script, cwd=tmp_path) == "_deconvseg\n"


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_is_fast_and_starts_no_program(script: Path, tmp_path: Path) -> None:
    words = "COMP_WORDS=(deconvseg segment --); COMP_CWORD=2"
    ask = f'PATH=; source "$0"; {words}; for i in {{1..20}}; do _deconvseg; done; echo "${{#COMPREPLY[@]}}"'
    start = time.perf_counter()
    assert int(answer("bash", "-c", ask, script, cwd=tmp_path)) > 10
    assert time.perf_counter() - start < 2


def test_unknown_shell(run: Run) -> None:
    refused = run("completion", "csh")
    assert refused.returncode == 2
    assert "csh" in lines(refused)[-1]

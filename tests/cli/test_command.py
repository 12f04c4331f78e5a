"""The command as such: its speed, its help, its errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import deconvseg

from .conftest import COMMAND, Refused, Run


def test_importing_the_command_line_imports_nothing_slow() -> None:
    slow = {"torch", "torchvision", "cv2", "numpy", "PIL", "scipy", "rich"}
    code = f"import sys, deconvseg.cli; print(*{slow!r} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_the_module_is_the_command() -> None:
    for command in ([sys.executable, "-m", "deconvseg"], [COMMAND]):
        shown = subprocess.check_output([*command, "--version"], text=True)
        assert shown == f"deconvseg {deconvseg.__version__}\n"


def test_help_names_every_option_in_its_group(inside: Run) -> None:
    page = inside("segment", "--help").stdout.decode()
    groups = ["Input and output", "Network", "Proposals and postprocessing", "Run", "Examples", "Exit codes"]
    places = [page.index(group) for group in groups]
    assert places == sorted(places)
    for option in ("--output", "--save", "--weights", "--proposals", "--no-crf", "--json", "--debug"):
        assert option in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segment"], "INPUT"),
        (["segment", "a.jpg", "--sav", "labels"], "--save"),
        (["segment", "a.jpg", "--save", "sketch"], "sketch"),
        (["segment", "a.jpg", "--proposals", "-1"], "--proposals"),
        (["segment", "."], "say where its results go"),
        (["segment", "-", "--json"], "standard output"),
        (
            ["segment", "a.jpg", "--ray-address", "auto"],
            "--ray-address is for --engine ray; give both, or none",
        ),
        (["segment", "a.jpg", "-o", "-", "--engine", "ray"], "Ray writes to files alone"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_2(refused: Refused, arguments: list[str], words: str) -> None:
    assert words in refused(*arguments)


def test_a_missing_photo_is_told_before_anything_slow_is_loaded(refused: Refused, tmp_path: Path) -> None:
    missing = refused("segment", "a\nb\x1b]0;c.jpg", "--weights", "none.safetensors", code=1)
    # Control characters of its name do not reach the terminal.
    assert missing == "a\\nb\\x1b]0;c.jpg: no such file; check the path"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("segment --sav", "--save"),
        ("segment --precision b", "bf16"),
    ],
)
def test_shells_complete_options_and_choices(typed: str, word: str) -> None:
    words = f"deconvseg {typed}"
    completion = {"_DECONVSEG_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment = {**os.environ, **completion, "COMP_CWORD": str(words.count(" "))}
    assert subprocess.check_output([COMMAND], env=environment, text=True).splitlines() == [word]


def test_training_is_imported_without_opencvs_contrib_modules() -> None:
    code = "import cv2; del cv2.ximgproc; import deconvseg.training.run, deconvseg.cli.train"
    subprocess.run([sys.executable, "-c", code], check=True)

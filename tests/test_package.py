"""The package as a program sees it: cheap to import, typed, its names where they are said to be."""

import subprocess
import sys
from pathlib import Path

import pytest

import deconvseg

USER = """
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg import DeconvSegError, Segmentation, Segmenter

segmenter = Segmenter("default", proposals=0, only=["cat"])
result: Segmentation = segmenter.segment("photo.jpg", probabilities=True)
labels: NDArray[np.uint8] = result.labels
results: list[Segmentation] = list(segmenter.segment_many([Path("a.jpg"), Image.new("RGB", (4, 4)), labels]))
cats: Segmentation = result.only(["cat"])
shares: dict[str, float] = result.class_shares()
result.save("mask.png")
result.save("overlay.jpg", "overlay", legend=True)
try:
    segmenter.load()
except DeconvSegError as error:
    text: str = str(error)
"""
CONFIG = """
[mypy]
strict = true
[mypy-torch.*,torchvision.*,cv2.*,scipy.*,safetensors.*]
follow_imports = skip
"""


def test_import_loads_nothing_slow() -> None:
    code = "import sys, deconvseg; print(*{'torch', 'numpy', 'cv2', 'PIL'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_every_public_name_is_there_and_no_other() -> None:
    for name in deconvseg.__all__:
        assert getattr(deconvseg, name) is not None
        assert name in dir(deconvseg)
    from deconvseg.segmenter import Segmenter

    assert deconvseg.Segmenter is Segmenter
    assert dir(deconvseg) == sorted(deconvseg.__all__)
    with pytest.raises(AttributeError, match="Segmentor"):
        deconvseg.Segmentor  # type: ignore[attr-defined]  # noqa: B018


def checked(script: Path, *lines: str) -> list[str]:
    """What mypy says of the user's script with more lines, the summary left out."""
    pytest.importorskip("mypy")
    script.write_text(USER + "\n".join(lines) + "\n")
    script.with_name("mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-error-summary", script.name]
    found = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=300)
    assert not found.stderr
    return found.stdout.splitlines()


def test_a_users_script_is_checked_by_its_types(tmp_path: Path) -> None:
    assert checked(tmp_path / "user.py") == []
    wrong = [
        'result.save("x.jpg", legend=[])',
        "segmenter.segment(3)",
        'Segmenter(proposal="many")',
        "from deconvseg import Segmentor",
    ]
    said = checked(tmp_path / "user.py", *wrong)
    first = USER.count("\n") + 1
    assert {int(line.split(":")[1]) for line in said if ": error:" in line} == {*range(first, first + 4)}

"""The commands of the README and of docs/, run as they stand in a folder that has what they name."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHELL = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*.md")]


def blocks(document: str) -> list[str]:
    """The shell blocks of a document that call deconvseg, without those that make an environment."""
    text = (ROOT / document).read_text()
    return [block for _, block in SHELL.findall(text) if "deconvseg" in block and "-m venv" not in block]


def here(block: str) -> str:
    """The block for a machine without a GPU and for a test's patience."""
    block = re.sub(r"cuda:\d", "cpu", block)
    return re.sub(
        r"^(deconvseg train (?!.*--check)[^#\n]*)", r"\1 --limit-steps 2 ", block, flags=re.MULTILINE
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_shapes: Callable[..., Path]) -> Path:
    """`cat.jpg`, `photo.jpg`, `photos/`, `more.txt`, `VOC2012/` and a data set `mine/`, all small."""
    folder = tmp_path_factory.mktemp("reader")
    for source, target in (("cat", "cat.jpg"), ("person", "photo.jpg"), ("motorbike", "photos/a/bike.jpg")):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(ROOT / f"examples/{source}.jpg") as image:
            image.thumbnail((200, 200))
            image.save(folder / target)
    (folder / "more.txt").write_text("cat.jpg\n")
    shapes = make_shapes(folder / "VOC2012", train=12, val=2)
    mine = folder / "mine"
    mine.mkdir()
    (mine / "images").symlink_to(shapes / "JPEGImages")
    (mine / "masks").symlink_to(shapes / "SegmentationClass")
    (mine / "dataset.toml").write_text(
        'images = "images"\nmasks = "masks"\n[splits]\nval = 0.4\ntrain = "rest"\n'
        + "".join(
            f'[[classes]]\nname = "{name}"\ncolor = "{colour}"\n'
            for name, colour in (("background", "#000000"), ("disc", "#ff0000"), ("square", "#0000ff"))
        )
    )
    return folder


@pytest.mark.parametrize("block", blocks("README.md"))
def test_commands_of_the_readme(block: str, folder: Path) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    script = "set -eo pipefail\n" + here(block)
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def test_there_are_commands_to_run() -> None:
    assert len(blocks("README.md")) >= 12
    assert "--limit-steps 2" in here("deconvseg train --data mine/ --out run  # comment\n")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not broken

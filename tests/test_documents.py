"""What the documents show: commands and examples, run as they stand, and links."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import deconvseg.weights
from deconvseg.cli import app, console
from deconvseg.data.folder import folder_dataset
from deconvseg.data.masks import read_mask

from .conftest import make_shapes

ROOT = Path(__file__).resolve().parent.parent
SHELL = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*.md")]


def run_examples(document: Path, folder: Path) -> dict[str, Any]:
    """Run the ```python blocks of a document as one program in `folder`; returns its variables."""
    text, variables = document.read_text(), dict[str, Any](__name__="__main__")
    with contextlib.chdir(folder):
        for example in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            before = text.count("\n", 0, example.start(1))  # so that a traceback has the document's lines
            exec(compile("\n" * before + example[1], document, "exec"), variables)
    return variables


def blocks(document: str) -> list[str]:
    """The shell blocks of a document that call deconvseg, without those that make an environment."""
    text = (ROOT / document).read_text()
    found = [block for _, block in SHELL.findall(text) if "deconvseg" in block and "-m venv" not in block]
    assert found
    return found


def here(block: str) -> str:
    """The block for a machine without a GPU and for a test's patience."""
    block = re.sub(r"cuda:\d", "cpu", block)
    block = re.sub(r" &$", "", block, flags=re.MULTILINE)  # `wait` would not tell that it failed
    return re.sub(
        r"^(deconvseg train (?!.*--check)[^#\n]*)", r"\1 --steps 2 --batch-size 4 ", block, flags=re.MULTILINE
    )


def anchors(document: Path) -> set[str]:
    """Of its headings, as they are on GitHub."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory, tiny_network: Path, tiny_prior: Path) -> Path:
    """The folder of the shipped files, the networks small and quick."""
    folder = tmp_path_factory.mktemp("weights")
    shutil.copy(ROOT / "weights/edges.yml.gz", folder)
    for name, network in (("deconvnet", tiny_network), ("fcn", tiny_prior)):
        shutil.copy(network, folder / f"{name}-lite.safetensors")
    registry = (ROOT / "weights/registry.toml").read_text()
    (folder / "registry.toml").write_text(re.sub(r"^(bytes|sha256) = .*\n", "", registry, flags=re.MULTILINE))
    return folder


@pytest.mark.parametrize("block", blocks("README.md"))
def test_commands_of_the_readme(
    block: str, folder: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain commands run in this process and with small networks, but for those that look at the shipped."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.chdir(folder)
    if not {"doctor", "weights"} & {*block.split()}:
        monkeypatch.setattr(deconvseg.weights, "weights_folder", lambda: small_weights)
    for line in here(block).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["deconvseg"] and not {"<", ">", "|"} & {*words}:
            monkeypatch.setattr(sys, "argv", [os.path.expandvars(word) for word in words])
            assert console.run(app) == 0, line
        else:
            subprocess.run(["bash", "-o", "pipefail", "-c", line], check=True)


def test_page_of_own_classes(tmp_path: Path) -> None:
    assert blocks("docs/training.md")[0] in blocks("README.md")
    (description,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs/training.md").read_text(), re.M | re.S)
    (tmp_path / "dataset.toml").write_text(description)
    road = Image.new("RGB", (4, 3), "#804080")
    road.putpixel((0, 0), (255, 255, 255))
    (tmp_path / "masks/a").mkdir(parents=True)
    road.save(tmp_path / "masks/a/1.png")
    (tmp_path / "images/a").mkdir(parents=True)
    road.save(tmp_path / "images/a/1.jpg")
    data = folder_dataset(tmp_path, "train")
    assert data.classes == ("background", "road")
    assert data.examples[0].mask == tmp_path / "masks/a/1.png"
    assert read_mask(data.examples[0].mask, data.masks).tolist() == [[255, 1, 1, 1], [1] * 4, [1] * 4]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link, anchor in LINK.findall(document.read_text()):
        target = document.parent / link if link else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def test_python_in_the_readme(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/cat.jpg", tmp_path)
    result = run_examples(ROOT / "README.md", tmp_path)["result"]
    with Image.open(tmp_path / "mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), result.labels)


def test_python_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(ROOT / "examples" / "cat.jpg") as photo:
        photo.reduce(2).save(tmp_path / "photo.jpg")
        size = photo.reduce(2).size
    found = run_examples(ROOT / "docs" / "python.md", tmp_path)

    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    files = {"mask.png", "masks/photo.png"}
    files |= {f"out/photo.{suffix}" for suffix in ("png", "jpg", "cutout.png", "json")}
    assert files | {"out/photo.masks/cat.png", "out/photo.masks/background.png"} <= made
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == size
    assert found["is_cat"].mean() > 0.2
    assert set(found["cats"].class_shares()) == {"background", "cat"}
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/photo.masks/cat.png")) == 255, found["is_cat"]
    )
    assert capsys.readouterr().out == "holiday.jpg: no such file; check the path\n"


def test_python_of_the_inspect_page(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/cat.jpg", tmp_path)
    found = run_examples(ROOT / "docs/inspect.md", tmp_path)["found"]
    assert found.numbers["class"] == "cat" and found.pictures["deconv2_1"].shape == (64, 64)
    with Image.open(tmp_path / "cat.png") as figure:
        assert figure.mode == "RGBA"

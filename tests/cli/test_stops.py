"""Folder runs that are killed, share their work, meet, or run out of disk, with a tiny network."""

import contextlib
import json
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deconvseg import Segmenter
from deconvseg.batch import Options, segment_folder

from .conftest import COMMAND, Run, files, lines, manifest_lines, results_of, save_blocks

pytestmark = pytest.mark.slow
COUNT = 24


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_network: Path) -> Iterator[Path]:
    """A folder with `in`, COUNT photos in two folders, and `out`, what one run without a stop gives."""
    folder, threads = tmp_path_factory.mktemp("plain"), torch.get_num_threads()
    save_blocks(folder / "in" / f"{number % 2}" / f"{number}.png" for number in range(COUNT))
    segmenter = Segmenter(tiny_network, proposals=0, crf=False, device="cpu", precision="fp32", threads=1)
    with contextlib.chdir(folder):
        segment_folder("in", "out", segmenter, Options(save=("labels", "coco"), workers=0))
    last = COUNT - 1
    made = {"0/0.png", "0/0.coco.json", f"1/{last}.png", "coco.json", f"line of 1/{last}"}
    assert made < results_of(folder / "out").keys()
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def command(plain: Path, tmp_path: Path, tiny_network: Path) -> list[str]:
    """The same run, by `deconvseg`, in a folder with the same photos."""
    shutil.copytree(plain / "in", tmp_path / "in")
    options = "--save labels --save coco --proposals 0 --no-crf --device cpu --precision fp32 --threads 1"
    return ["segment", "in", "-o", "out", "--weights", str(tiny_network), *options.split()]


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([COMMAND, *arguments], cwd=folder, stderr=subprocess.PIPE)


def test_killed_and_finished(command: list[str], inside: Run, plain: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "out" / "segment.jsonl"
    process = start(tmp_path, *command, "--workers", "2")
    while process.poll() is None and manifest_lines(log) < 3:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    *whole, _ = log.read_bytes().split(b"\n")
    for record in map(json.loads, whole):
        for path in record["outputs"].values():
            assert (out / path).read_bytes() == (plain / "out" / path).read_bytes()
    assert 0 < manifest_lines(log) < COUNT
    finished = inside(*command, "--workers", "2")
    assert f"{COUNT} photos: " in lines(finished)[-1]
    assert results_of(out) == results_of(plain / "out")
    names = [json.loads(line)["name"] for line in log.open()]
    assert names == sorted(names, key=lambda name: f"in/{name}.png")  # the order of the plan
    assert f"0 done, {COUNT} skipped, 0 failed; see" in lines(inside(*command))[-1]


def test_shards_at_once_are_one_run(command: list[str], plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    processes = [start(tmp_path, *command, "--workers", "0", "--shard", f"{index}/2") for index in range(2)]
    told = [process.communicate(timeout=240)[1].decode().splitlines()[-1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert all(line.endswith(f"see out/segment.{index}-of-2.jsonl") for index, line in enumerate(told))
    counts = [manifest_lines(out / f"segment.{index}-of-2.jsonl") for index in range(2)]
    assert sum(counts) == COUNT and min(counts) > 0
    assert not (out / "segment.jsonl").exists()
    shards, want = (
        {name: content for name, content in results_of(folder).items() if not name.startswith(".segment")}
        for folder in (out, plain / "out")
    )
    assert shards == want


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Limit the size of files that this process and those it starts can write: as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def plain_photos(tmp_path: Path) -> Path:
    """A folder `in` with 12 photos whose results are small."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        Image.new("RGB", (30, 40), "teal").save(tmp_path / "in" / f"{number:02}.png")
    return tmp_path


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_result_too_large_for_the_disk(
    inside: Run, fast: list[str], plain_photos: Path, limit_files: Callable[[int], None], workers: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(plain_photos / "in" / "noise.png")
    limit_files(60_000)
    done = inside("segment", "in", "-o", "out", "--save", "overlay", "--workers", workers, *fast, code=1)
    cause = "cannot be written (File too large); check the folder and its space"
    errors = [line for line in lines(done) if line.startswith("error: ")]
    assert errors == [f"error: out/noise.overlay.jpg: {cause}"]
    results = {f"{number:02}.overlay.jpg" for number in range(12)}
    assert files(plain_photos / "out") == results | {"segment.jsonl"}


def test_a_disk_too_full_for_the_manifest(
    inside: Run, fast: list[str], plain_photos: Path, limit_files: Callable[[int], None]
) -> None:
    command = ("segment", "in", "-o", "out", "--workers", "2", *fast)
    limit_files(4000)
    stopped = inside(*command, code=1)
    limit_files(resource.RLIM_INFINITY)
    errors = [line for line in lines(stopped) if line.startswith("error: ")]
    assert errors == ["error: out/segment.jsonl: cannot be written (File too large); check the disk"]
    assert "12 photos: " in lines(stopped)[-2]
    again = inside(*command)
    done, skipped = re.search(r"12 photos: (\d+) done, (\d+) skipped", lines(again)[-1]).groups()
    assert int(done) + int(skipped) == 12
    assert int(skipped) > 1
    assert files(plain_photos / "out") == {*(f"{number:02}.png" for number in range(12)), "segment.jsonl"}

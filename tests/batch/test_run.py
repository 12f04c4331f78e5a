"""Folder runs from Python: the same results with any number of workers, faults cost one photo, resumable."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

import deconvseg.batch.run
from deconvseg.batch import FolderRun, Options, segment_folder
from deconvseg.batch.inputs import Photo
from deconvseg.batch.manifest import Record
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.batch.run import default_workers
from deconvseg.batch.work import Done
from deconvseg.errors import InputError, OutputError, UsageError
from deconvseg.images import coco
from deconvseg.segmenter import Segmenter

from .conftest import Faulty, changed, contents, run_locally, to


def test_results_are_the_same_with_any_number_of_workers(segmenter: Segmenter, photos: None) -> None:
    alone = run_locally(segmenter, to("out"))
    assert sorted(alone) == list("01234567")
    several = run_locally(segmenter, to("several"), workers=3)
    backwards = to("backwards")[::-1]
    rest = run_locally(segmenter, backwards[:3]) | run_locally(segmenter, backwards[3:])
    want = contents("out")
    assert len(want) > 8 * 4
    assert contents("several") == contents("backwards") == want
    for number, done in alone.items():
        assert isinstance(done, dict) and done["seconds"] > 0
        for other in (several[number], rest[number]):
            assert isinstance(other, dict)
            assert {**other, "outputs": {}, "seconds": 0} == {**done, "outputs": {}, "seconds": 0}
    labels = np.asarray(Image.open("out/3.png"))
    assert (segmenter.segment("in/3.png").labels == labels).mean() > 0.999


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_photos_fail_alone(segmenter: Segmenter, photos: None, workers: int) -> None:
    """In reading, in the network and in writing; what shares a batch with one is as ever."""
    run_locally(segmenter, to("plain"))
    Path("in/0.png").write_text("no photo")
    Path("in/5.png").unlink()
    Path("out/7.jpg").mkdir(parents=True)
    outcomes = run_locally(segmenter, to("out"), workers, changed(segmenter.inference, Faulty))
    failed = {number: result for number, result in outcomes.items() if isinstance(result, Exception)}
    assert len(outcomes) == 8
    assert failed.keys() == set("0357")
    assert isinstance(failed["0"], InputError) and isinstance(failed["5"], InputError)
    assert str(failed["3"]) == "out of luck"
    assert isinstance(failed["7"], OutputError)
    plain = {name: content for name, content in contents("plain").items() if name[0] in "1246"}
    assert {name: content for name, content in contents("out").items() if name[0] != "7"} == plain


@pytest.mark.parametrize("name", ["2", "6"])
def test_what_the_report_raises_ends_the_run(segmenter: Segmenter, photos: None, name: str) -> None:
    """Whether it is told of a photo that cannot be read or of one that is done."""
    Path("in/6.png").unlink()
    told = []

    def report(photo: Photo, result: Done | Exception) -> None:
        told.append(photo.name)
        if photo.name == name:
            raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="the disk is full"):
        run_locally(segmenter, to("out"), report=report)
    assert told[-1] == name


@pytest.mark.parametrize(
    ("workers", "good", "limit"),
    [(0, True, 2 + 9), (2, True, 10 + 9), (2, False, 10)],  # 8 regions in a batch, and none of bad photos
)
def test_photos_are_taken_as_they_are_needed(
    segmenter: Segmenter, photos: None, workers: int, good: bool, limit: int
) -> None:
    """The most that are under way at once; memory follows from it."""
    if not good:
        for path in Path("in").iterdir():
            path.write_text("no photo")
    taken, ended, most = 0, [], 0

    def supply() -> Iterator[Photo]:
        nonlocal taken, most
        for photo in to("out", 24):
            taken += 1
            most = max(most, taken - len(ended))
            yield replace(photo, outputs={"labels": photo.outputs["labels"]})

    run_locally(
        segmenter, supply(), workers, report=lambda photo, result: ended.append(isinstance(result, dict))
    )
    assert ended == [good] * taken == [good] * 24
    assert most <= limit


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_of_the_supply_is_raised_behind_the_photos_before(
    segmenter: Segmenter, photos: None, workers: int
) -> None:
    def supply() -> Iterator[Photo]:
        yield from to("out", 5)
        raise FileNotFoundError("the folder is gone")

    told = []
    with pytest.raises(FileNotFoundError):
        run_locally(segmenter, supply(), workers, report=lambda photo, result: told.append(photo.name))
    assert {name.partition(".")[0] for name in contents("out")} == set(told)


def test_an_interrupt_keeps_what_is_being_written(segmenter: Segmenter, photos: None) -> None:
    def supply() -> Iterator[Photo]:
        yield from to("out", 5)
        raise KeyboardInterrupt

    told = []
    with pytest.raises(KeyboardInterrupt):
        run_locally(segmenter, supply(), 2, report=lambda photo, result: told.append(photo.name))
    assert {name.partition(".")[0] for name in contents("out")} == set(told)


@pytest.mark.parametrize(
    ("gigabytes", "cores", "workers"), [(64, 9, 9), (1.2, 9, 2), (0.1, 9, 1), (None, 9, 9), (64, 100, 16)]
)
def test_workers_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float | None, cores: int, workers: int
) -> None:
    free = None if gigabytes is None else int(gigabytes * 2**30)
    monkeypatch.setattr(deconvseg.batch.run, "available_memory", lambda: free)
    monkeypatch.setattr(deconvseg.batch.run, "cores", lambda: cores)
    assert default_workers() == workers


def test_python_users_get_the_commands_run(segmenter: Segmenter, photos: None) -> None:
    """Resumable, with other kinds added, bad photos told, and other runs kept out meanwhile."""
    Path("in/0.png").write_text("no photo")
    heard: list[tuple[str, Exception | None]] = []

    def listen(record: Record, error: Exception | None) -> None:
        with pytest.raises(UsageError, match="another run is at work"), ResultsFolder("out").locked(None):
            pass
        heard.append((record["input"], error))

    first = segment_folder("in", "out", segmenter, listener=listen)
    statuses = {record["input"]: record["status"] for record in first.records}
    assert statuses == {f"in/{number}.png": "done" if number else "failed" for number in range(8)}
    assert sorted(name for name, _ in heard) == sorted(statuses)
    assert [name for name, error in heard if isinstance(error, InputError)] == ["in/0.png"]
    assert first.rate and not first.problems

    options = Options(save=("labels", "coco"))
    again = segment_folder(["in/1.png", "in/2.png"], Path("out"), segmenter, options)
    assert [record["status"] for record in again.records] == ["done", "done"]
    assert segment_folder(["in/1.png"], "out", segmenter, options).records[0]["status"] == "skipped"
    lines = [json.loads(line) for line in Path("out/segment.jsonl").read_text().splitlines()]
    assert {line["name"]: sorted(line["outputs"]) for line in lines if line["name"] in "12"} == {
        name: ["coco", "labels"] for name in "12"
    }
    assert len(json.loads(Path("out/coco.json").read_text())["images"]) == 2

    with pytest.raises(InputError, match=r"nothing.*no photos there"):
        segment_folder("nothing/*.jpg", "out", segmenter)


def test_shards(segmenter: Segmenter, photos: None) -> None:
    empty = [segment_folder("in/1.png", "one", segmenter, Options(shard=f"{index}/2")) for index in range(2)]
    assert sorted(share.total for share in empty) == [0, 1]
    with pytest.raises(UsageError, match="give I/N"):
        segment_folder("in", "out", segmenter, Options(shard="2/2"))
    with pytest.raises(UsageError, match="shards are for photos whose results go to one folder"):
        FolderRun(["in/1.png"], None, Options(shard="0/2"))


def test_shards_that_end_together_miss_nothing_in_their_coco_file(
    segmenter: Segmenter, photos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one ends while the first merges; a photo of other settings is left out."""

    def work(index: int) -> list[str]:
        return segment_folder("in/[0-6].png", "out", segmenter, Options(("coco",), shard=f"{index}/2")).notes

    def merge(parts: list[Path], target: Path) -> list[str]:
        if not other.ident:
            other.start()
            other.join(2)  # it gets through to its end now, or waits
        return merge_coco(parts, target)

    segment_folder("in/7.png", "out", segmenter.with_settings(crf=False), Options(("coco",)))
    other, merge_coco = threading.Thread(target=work, args=(1,)), coco.merge_coco
    monkeypatch.setattr(coco, "merge_coco", merge)
    notes = work(0)
    other.join()
    assert notes == ["out/coco.json: without 1 photos that were done with other settings"]
    images = json.loads(Path("out/coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [f"{number}.png" for number in range(7)]


def test_results_of_other_options_settings_or_hands_are_made_again(
    segmenter: Segmenter, photos: None
) -> None:
    both, once = Options(("labels", "coco"), polygons=True), Options(("labels", "coco"))
    segment_folder(["in/1.png", "in/2.png"], "out", segmenter, both)
    for status in ("done", "skipped"):  # without polygons the files are others, and the manifest says so
        run = segment_folder(["in/1.png", "in/2.png"], "out", segmenter, once)
        assert [record["status"] for record in run.records] == [status] * 2
        assert len(json.loads(Path("out/coco.json").read_text())["images"]) == 2
        assert not run.notes
    Path("out/1.png").write_bytes(Path("out/2.png").read_bytes())
    run = segment_folder(["in/1.png", "in/2.png"], "out", segmenter, once)
    assert [record["status"] for record in run.records] == ["done", "skipped"]
    other = segmenter.with_settings(crf=not segmenter.settings.crf)
    run = segment_folder(["in/1.png", "in/2.png"], "out", other, Options(shard="0/1"))
    assert run.notes[0].startswith("photos done again: 2,")
    assert not Path("out/1.coco.json").exists() and not Path("out/coco.json").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"save": "labels"}, {"save": ("mask",)}, {"save": ()}, {"engine": "spark"}, {"workers": -1}],
    ids=str,
)
def test_options_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Options(**wrong)


def test_other_settings_are_done_again(
    segmenter: Segmenter, photos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever `Segmenter.identity` says, a newer version of the code too."""
    segment_folder("in/1.png", "out", segmenter)
    settings = segmenter.identity()
    monkeypatch.setattr(Segmenter, "identity", lambda self: {**settings, "code": "newer"})
    done = segment_folder("in/1.png", "out", segmenter, Options(shard="0/1"))
    assert done.records[0]["status"] == "done"
    # Though the manifest of the whole said that it was done with the settings of before.
    assert segment_folder("in/1.png", "out", segmenter).records[0]["status"] == "skipped"


def test_a_run_needs_no_processes_and_no_shared_memory(
    segmenter: Segmenter, photos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /dev/shm is missing or read-only, no semaphore can be made, and so no pool of processes."""
    refused = Mock(side_effect=OSError(30, "Read-only file system"))
    monkeypatch.setattr("_multiprocessing.SemLock", refused)
    done = segment_folder("in", "out", segmenter, Options(workers=2))
    assert [record["status"] for record in done.records] == ["done"] * 8


def test_nothing_is_imported_from_the_current_folder(
    tiny_network: Path, photos: None, tmp_path: Path
) -> None:
    for name in ("types.py", "signal.py", "queue.py", "cv2.py"):
        Path(name).write_text("open('ran', 'w')\nraise SystemExit('not ours')\n")
    command = [Path(sys.executable).with_name("deconvseg"), "segment", "in", "-o", "out"]
    options = ["--weights", tiny_network, "--proposals", "0", "--workers", "2", "--device", "cpu"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not Path("ran").exists()


def test_signed_addresses_of_the_web(
    segmenter: Segmenter, photos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos by any name; the signature is told to the server alone."""
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("no_proxy", "*")
    Path("in/6.png").rename("in/12345")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            asked.append(self.path)

    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="in")) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        inputs = [
            f"{address}/1.png?sig=secret",
            f"{address}/12345?sig=secret",
            f"{address}/gone.png?sig=secret",
        ]
        run = segment_folder(inputs, "out", segmenter)
        server.shutdown()
    assert [record["status"] for record in run.records] == ["done", "done", "failed"]
    assert contents("out").keys() == {"1.png", "12345.png", "segment.jsonl"}
    assert b"secret" not in contents("out")["segment.jsonl"] and "/1.png?sig=secret" in asked

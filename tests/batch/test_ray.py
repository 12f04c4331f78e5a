"""Runs on Ray: the same files as without it, faults cost one photo, killed workers nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deconvseg.batch import Options
from deconvseg.batch import ray as engine
from deconvseg.batch.inputs import Photo
from deconvseg.batch.ray import joined
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.batch.run import Report
from deconvseg.batch.work import Done, Work
from deconvseg.errors import InputError, OutputError, UsageError, WorkerError
from deconvseg.regions import Inference, Prepared
from deconvseg.segmenter import Segmenter

from . import conftest
from .conftest import ODD_HEIGHT, Faulty, Outcomes, changed, contents, run_locally, to

pytestmark = pytest.mark.slow
pytest.importorskip("ray")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for all tests of the module; it runs in another folder than they, as on another machine."""
    here = Path.cwd()
    os.chdir("/")
    try:
        with joined(None, 4) as module:
            os.chdir(here)
            for tests in (sys.modules[__name__], conftest):
                module.cloudpickle.register_pickle_by_value(tests)
            yield module
    finally:
        os.chdir(here)


def run_on_ray(
    segmenter: Segmenter,
    photos: Sequence[Photo],
    work: Work | None = None,
    inference: Inference | None = None,
    workers: int = 2,
    report: Report | None = None,
) -> Outcomes:
    outcomes, network = Outcomes(), inference or segmenter.inference
    work = replace(work or Work(segmenter), options=Options(engine="ray", workers=workers))
    engine.run_on_ray(network, work, photos, len(photos), report or outcomes.report)
    return outcomes


@dataclass(frozen=True)
class _Deadly(Work):
    """Kills the worker that reads photo 1, always, and the first that writes photo 6."""

    once: Path = Path()

    def prepare(self, photo: Photo) -> Prepared:
        if photo.name == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(photo)

    def finish(self, photo: Photo, prepared: Prepared, probabilities: NDArray[np.float32]) -> Done:
        if photo.name == "6" and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().finish(photo, prepared, probabilities)


@dataclass
class _DeadlyNetwork(Inference):
    """Kills the first worker that has photo 3 in the network."""

    once: Path = Path()

    def fuse(
        self, photos: Iterable[Prepared], *, full_batches: bool = False
    ) -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        photos = list(photos)
        if any(photo.photo.height == ODD_HEIGHT for photo in photos) and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fuse(photos, full_batches=full_batches)


def test_the_same_files_as_without(ray: Any, photos: None, segmenter: Segmenter) -> None:
    """From and to addresses; the other tests have paths."""
    want = run_locally(segmenter, to("plain"))
    folder = ResultsFolder(f"local://{Path.cwd()}/out")
    remote = [replace(photo, path=f"local://{Path.cwd()}/{photo.path}") for photo in to(str(folder.root))]
    got = run_on_ray(segmenter, remote, Work(segmenter, folder=folder))
    assert len(contents("plain")) > 8 * 4
    assert contents("out") == contents("plain")
    assert contents(str(folder.root)) == {}
    assert got.keys() == want.keys()
    for number, done in want.items():
        other = got[number]
        assert isinstance(done, dict) and isinstance(other, dict)
        assert {**other, "outputs": {}, "seconds": 0} == {**done, "outputs": {}, "seconds": 0}


def test_bad_photos_fail_alone(ray: Any, photos: None, segmenter: Segmenter) -> None:
    Path("in/0.png").write_text("no photo")
    Path("in/5.png").unlink()
    Path("out/7.png").mkdir(parents=True)
    outcomes = run_on_ray(segmenter, to("out"), inference=changed(segmenter.inference, Faulty), workers=1)
    failed = {number: result for number, result in outcomes.items() if isinstance(result, Exception)}
    assert len(outcomes) == 8
    assert failed.keys() == set("0357")
    assert isinstance(failed["0"], InputError) and isinstance(failed["7"], OutputError)
    assert str(failed["5"]) == "in/5.png: no such file; check the path"
    assert str(failed["3"]) == "out of luck"


def test_killed_workers(
    ray: Any, photos: None, segmenter: Segmenter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    want = run_locally(segmenter, to("plain"))
    work = _Deadly(segmenter, once=tmp_path / "once")
    network = changed(segmenter.inference, _DeadlyNetwork, once=tmp_path / "network once")
    outcomes = run_on_ray(segmenter, to("out"), work, network, workers=1)  # two photos at a time
    assert Path("once").exists() and Path("network once").exists()
    error = outcomes.pop("1")
    assert isinstance(error, WorkerError)
    assert str(error).startswith("in/1.png: its worker process was killed")
    assert outcomes.keys() == want.keys() - {"1"}
    assert all(isinstance(result, dict) for result in outcomes.values())
    plain = {name: content for name, content in contents("plain").items() if name[0] != "1"}
    assert contents("out") == plain
    assert "".join(capfd.readouterr()) == ""  # Ray says nothing of them


def test_what_the_report_raises_ends_the_run(ray: Any, photos: None, segmenter: Segmenter) -> None:
    def report(photo: Photo, result: Done | Exception) -> None:
        raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="the disk is full"):
        run_on_ray(segmenter, to("out"), workers=1, report=report)


def test_too_many_networks_are_refused(ray: Any, segmenter: Segmenter) -> None:
    with pytest.raises(UsageError, match=r"Ray has \d+ cores .* too few for 5000 times a network"):
        run_on_ray(segmenter, [], workers=5000)


def test_workers_do_not_import_from_the_current_folder(ray: Any, photos: None) -> None:
    """Nor from where Ray was started."""
    path = ray.get(ray.remote(lambda: list(sys.path)).remote())
    assert str(Path.cwd()) not in path and "" not in path and "/" not in path

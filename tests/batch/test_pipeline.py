"""Runs of many photos: the same results in any number of processes, faults cost one photo, memory is flat."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import deconvseg.batch.pipeline
from deconvseg.batch.jobs import Done, Job, Workshop
from deconvseg.batch.pipeline import default_workers, run
from deconvseg.errors import InputError, OutputError, WorkerError
from deconvseg.segmenter import Segmenter
from deconvseg.steps import Prepared

Outcomes = dict[int, Done | Exception]


@pytest.fixture
def segmenter(tiny_network: Path) -> Segmenter:
    return Segmenter(tiny_network, proposals=4, min_side=10, precision="fp32", batch_size=8, device="cpu")


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Ten photos; overlays of the large ones need the photo again."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    made = []
    for number in range(10):
        height, width = rng.integers(3, 9, 2)
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        size = (1100, 20) if number == 4 else (int(width) * 8, int(height) * 8)
        path = tmp_path / "in" / f"{number}.png"
        image.resize(size, Image.Resampling.NEAREST).save(path)
        made.append(job(number, path, tmp_path / "out"))
    return made


def job(number: int, photo: Path, out: Path) -> Job:
    outputs = {"labels": out / f"{number}.png", "overlay": out / f"{number}.jpg"}
    return Job(number, str(photo), photo.name, {**outputs, "coco": out / f"{number}.json"})


def run_all(
    segmenter: Segmenter, jobs: Sequence[Job], workers: int, workshop: Workshop | None = None
) -> Outcomes:
    """What became of each job; none is reported twice."""
    outcomes: Outcomes = {}

    def report(job: Job, result: Done | Exception) -> None:
        assert job.number not in outcomes
        outcomes[job.number] = result

    workshop = workshop or Workshop(segmenter.before, segmenter.after)
    run(segmenter.inference, workshop, jobs, report, workers=workers)
    return outcomes


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def to(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    return [job(one.number, Path(str(one.source)), folder) for one in jobs]


def test_results_are_the_same_in_any_number_of_processes(
    segmenter: Segmenter, jobs: list[Job], tmp_path: Path
) -> None:
    alone = run_all(segmenter, jobs, workers=0)
    assert sorted(alone) == list(range(10))
    several = run_all(segmenter, to(tmp_path / "several", jobs), workers=2)
    backwards = to(tmp_path / "backwards", jobs[::-1])
    rest = run_all(segmenter, backwards[:3], workers=0) | run_all(segmenter, backwards[3:], workers=0)
    want = contents(tmp_path / "out")
    assert len(want) == 30
    assert contents(tmp_path / "several") == contents(tmp_path / "backwards") == want
    for number, done in alone.items():
        assert isinstance(done, Done)
        for other in (several[number], rest[number]):
            assert isinstance(other, Done)
            assert (other.classes, other.digests) == (done.classes, done.digests)
        steps = {"read", "proposals", "network", "enlarge", "write"}
        assert steps <= done.seconds.keys()
        assert min(done.seconds.values()) >= 0
    single = Segmenter(
        segmenter._weights, proposals=4, min_side=10, precision="fp32", batch_size=8, device="cpu"
    )
    labels = np.asarray(Image.open(tmp_path / "out" / "3.png"))
    assert (single.segment(tmp_path / "in" / "3.png").labels == labels).mean() > 0.999


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_photos_fail_alone(segmenter: Segmenter, jobs: list[Job], tmp_path: Path, workers: int) -> None:
    (tmp_path / "in" / "0.png").write_text("no photo")
    (tmp_path / "in" / "5.png").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "7.jpg").mkdir()
    outcomes = run_all(segmenter, jobs, workers)
    assert len(outcomes) == 10
    failed = {number: result for number, result in outcomes.items() if isinstance(result, Exception)}
    assert failed.keys() == {0, 5, 7}
    assert isinstance(failed[0], InputError) and isinstance(failed[5], InputError)
    assert isinstance(failed[7], OutputError)


@dataclass(frozen=True)
class _Deadly(Workshop):
    """A photo's worker is killed: always, or until there is a file that says it was."""

    number: int = 0
    once: Path | None = None

    def prepare(self, job: Job) -> Prepared:
        if job.number == self.number and not self.once:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(job)

    def finish(self, job: Job, prepared: Prepared, fused: NDArray[np.float32]) -> Done:
        if job.number == self.number and self.once and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().finish(job, prepared, fused)


def test_killed_workers(
    segmenter: Segmenter, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # the processes import this file by name
    run_all(segmenter, jobs, workers=0)
    once = _Deadly(segmenter.before, segmenter.after, number=6, once=tmp_path / "once")
    outcomes = run_all(segmenter, to(tmp_path / "once out", jobs), 2, once)
    assert (tmp_path / "once").exists()
    assert all(isinstance(outcomes[number], Done) for number in range(10))
    assert contents(tmp_path / "once out") == contents(tmp_path / "out")

    always = _Deadly(segmenter.before, segmenter.after, number=6)
    outcomes = run_all(segmenter, to(tmp_path / "always out", jobs), 2, always)
    error = outcomes.pop(6)
    assert isinstance(error, WorkerError)
    assert str(error).startswith(str(tmp_path / "in" / "6.png") + ": ")
    assert "\n" not in str(error)
    assert len(outcomes) == 9
    assert all(isinstance(result, Done) for result in outcomes.values())


def test_a_fault_of_the_network_costs_the_photos_in_it(
    segmenter: Segmenter, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, calls = segmenter.inference.network, []

    def fail(module: object, inputs: object) -> None:
        calls.append(inputs)
        if len(calls) == 3:
            raise RuntimeError("out of luck")

    network.register_forward_pre_hook(fail)
    outcomes = run_all(segmenter, jobs, workers=0)
    assert len(outcomes) == 10
    failed = [number for number, result in outcomes.items() if isinstance(result, Exception)]
    assert 0 < len(failed) <= 4
    assert failed == list(range(failed[0], failed[-1] + 1))
    assert str(outcomes[failed[0]]) == "out of luck"


def test_what_the_report_raises_ends_the_run(segmenter: Segmenter, jobs: list[Job]) -> None:
    told = []

    def report(job: Job, result: Done | Exception) -> None:
        told.append(job.number)
        if len(told) == 3:
            raise OutputError("the disk is full")

    workshop = Workshop(segmenter.before, segmenter.after)
    with pytest.raises(OutputError, match="the disk is full"):
        run(segmenter.inference, workshop, jobs, report, workers=0)
    assert len(told) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_jobs_are_taken_as_they_are_needed(
    segmenter: Segmenter, jobs: list[Job], tmp_path: Path, workers: int
) -> None:
    """The most that are under way at once; memory follows from it."""
    taken, ended, most = 0, 0, 0

    def supply() -> Iterator[Job]:
        nonlocal taken, most
        for number in range(60):
            taken += 1
            most = max(most, taken - ended)
            yield job(number, tmp_path / "in" / f"{number % 4}.png", tmp_path / "out")

    def report(job: Job, result: Done | Exception) -> None:
        nonlocal ended
        assert isinstance(result, Done)
        ended += 1

    run(
        segmenter.inference,
        Workshop(segmenter.before, segmenter.after),
        supply(),
        report,
        workers=workers,
    )
    assert taken == ended == 60
    in_network = 9  # 8 regions in a batch
    assert most <= 2 * (2 * workers + 1) + in_network


def test_workers_do_not_load_torch() -> None:
    code = "import sys, deconvseg.batch.jobs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_default_workers_leave_a_core_to_the_network() -> None:
    assert 0 <= default_workers() < max(os.cpu_count() or 1, 2)


@pytest.mark.parametrize(
    ("gigabytes", "cores", "workers"),
    [(64, 9, 8), (2, 9, 2), (0.1, 9, 1), (0.1, 1, 0), (None, 9, 8), (64, 100, 32)],
)
def test_default_workers_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float | None, cores: int, workers: int
) -> None:
    free = None if gigabytes is None else int(gigabytes * 2**30)
    monkeypatch.setattr(deconvseg.batch.pipeline, "available_memory", lambda: free)
    monkeypatch.setattr(deconvseg.batch.pipeline, "cores", lambda: cores)
    assert default_workers() == workers


MEMORY = """
import multiprocessing, resource, sys
from pathlib import Path
from deconvseg.batch.jobs import Done, Job, Workshop
from deconvseg.batch.pipeline import run
from deconvseg.segmenter import Segmenter

def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()

def report(job, result):
    assert isinstance(result, Done), result
    done.append(job.number)
    if len(done) in (20, 200):
        print(*[resident(pid) for pid in ["self", *(p.pid for p in multiprocessing.active_children())]])

if __name__ == "__main__":
    network, photos, out, workers = sys.argv[1:]
    done = []
    segmenter = Segmenter(network, proposals=0, crf=False, device="cpu", threads=1)
    paths = sorted(Path(photos).iterdir())
    jobs = (
        Job(n, str(paths[n % len(paths)]), "", {"labels": Path(out, f"{n % 10}.png")}) for n in range(200)
    )
    workshop = Workshop(segmenter.before, segmenter.after)
    run(segmenter.inference, workshop, jobs, report, workers=int(workers))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_is_flat(tiny_network: Path, jobs: list[Job], tmp_path: Path, workers: int) -> None:
    (tmp_path / "in" / "4.png").unlink()  # a large one, whose time would come late
    script = tmp_path / "memory.py"
    script.write_text(MEMORY)
    arguments = [tiny_network, tmp_path / "in", tmp_path / "out", str(workers)]
    output = subprocess.check_output([sys.executable, script, *arguments], text=True)
    early, late = ([int(word) for word in line.split()] for line in output.splitlines())
    assert len(early) == len(late) >= 1 + workers
    for before, after in zip(early, late, strict=True):
        assert after < 1.1 * before

"""Runs on Ray: the same files as without it, faults cost one photo, killed workers nothing."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deconvseg.batch import pipeline
from deconvseg.batch import ray as engine_ray
from deconvseg.batch.jobs import Done, Job, Workshop
from deconvseg.batch.ray_cluster import joined
from deconvseg.errors import InputError, OutputError, UsageError, WorkerError
from deconvseg.images.read import read_image
from deconvseg.regions import Inference
from deconvseg.remote import Mirror
from deconvseg.segmenter import Segmenter
from deconvseg.steps import Prepared

pytest.importorskip("ray")

Outcomes = dict[int, Done | Exception]
DEADLY_HEIGHT = 72


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for all tests of the module; it runs in another folder than they, as on another machine."""
    here = Path.cwd()
    os.chdir("/")
    try:
        with joined(None, cores=4) as module:
            os.chdir(here)
            module.cloudpickle.register_pickle_by_value(sys.modules[__name__])
            yield module
    finally:
        os.chdir(here)


@pytest.fixture
def segmenter(tiny_network: Path) -> Segmenter:
    return Segmenter(tiny_network, proposals=4, min_side=10, precision="fp32", batch_size=4, device="cpu")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `in` with eight photos in the working folder; the one called 3 is DEADLY_HEIGHT high."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        height, width = 5 + number % 3, rng.integers(3, 9)
        blocks = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        size = (int(width) * 8, DEADLY_HEIGHT if number == 3 else height * 8)
        blocks.resize(size, Image.Resampling.NEAREST).save(f"in/{number}.png")


def to(out: str) -> list[Job]:
    """Jobs with paths from the working folder."""
    kinds = {"labels": ".png", "coco": ".json", "masks": ".masks"}
    return [
        Job(
            number,
            f"in/{number}.png",
            f"{number}.png",
            {kind: Path(out, f"{number}{end}") for kind, end in kinds.items()},
        )
        for number in range(8)
    ]


def run_on_ray(
    segmenter: Segmenter,
    jobs: Iterable[Job],
    workshop: Workshop | None = None,
    inference: Inference | None = None,
    workers: int = 2,
) -> Outcomes:
    """What became of each job; none is reported twice."""
    outcomes: Outcomes = {}

    def report(job: Job, result: Done | Exception) -> None:
        assert job.number not in outcomes
        outcomes[job.number] = result

    workshop = workshop or Workshop(segmenter.before, segmenter.after)
    engine_ray.run(inference or segmenter.inference, workshop, jobs, report, workers=workers)
    return outcomes


def run_locally(segmenter: Segmenter, jobs: Sequence[Job]) -> Outcomes:
    outcomes: Outcomes = {}
    workshop = Workshop(segmenter.before, segmenter.after)
    pipeline.run(
        segmenter.inference, workshop, jobs, lambda job, end: outcomes.update({job.number: end}), workers=0
    )
    return outcomes


def contents(folder: str) -> dict[str, bytes]:
    """By place below it, each file's content."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@dataclass(frozen=True)
class _Deadly(Workshop):
    """Kills the worker that reads photo 1, always, and the first that writes photo 6."""

    once: Path = Path()

    def prepare(self, job: Job) -> Prepared:
        if job.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(job)

    def finish(self, job: Job, prepared: Prepared, fused: NDArray[np.float32]) -> Done:
        if job.number == 6 and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().finish(job, prepared, fused)


@dataclass
class _DeadlyNetwork(Inference):
    """Kills the first worker that has photo 3 in the network."""

    once: Path = Path()

    def fuse(
        self, photos: Iterable[Prepared], *, full_batches: bool = False
    ) -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        photos = list(photos)
        if any(photo.height == DEADLY_HEIGHT for photo in photos) and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fuse(photos, full_batches=full_batches)


@dataclass
class _Faulty(Inference):
    """Fails with photo 3 in it."""

    def fuse(
        self, photos: Iterable[Prepared], *, full_batches: bool = False
    ) -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        for photo in photos:
            if photo.height == DEADLY_HEIGHT:
                raise RuntimeError("out of luck")
            yield from super().fuse([photo], full_batches=full_batches)


def changed(inference: Inference, kind: type[Inference], **more: Any) -> Inference:
    return kind(**{field.name: getattr(inference, field.name) for field in fields(Inference)}, **more)


def test_the_same_files_as_without(ray: Any, photos: None, segmenter: Segmenter) -> None:
    """From and to addresses; the other tests have paths."""
    want = run_locally(segmenter, to("plain"))
    mirror = Mirror.of(f"local://{Path.cwd()}/out")
    jobs = [replace(job, source=f"local://{Path.cwd()}/{job.source}") for job in to(str(mirror.root))]
    got = run_on_ray(segmenter, jobs, Workshop(segmenter.before, segmenter.after, mirror=mirror))
    assert len(contents("plain")) > 8 * 3
    assert contents("out") == contents("plain")
    assert contents(str(mirror.root)) == {}
    assert got.keys() == want.keys()
    for number, done in want.items():
        other = got[number]
        assert isinstance(done, Done) and isinstance(other, Done)
        assert (other.classes, other.digests) == (done.classes, done.digests)
        assert other.seconds.keys() == done.seconds.keys()


def test_bad_photos_fail_alone(ray: Any, photos: None, segmenter: Segmenter) -> None:
    Path("in/0.png").write_text("no photo")
    Path("in/5.png").unlink()
    Path("out/7.png").mkdir(parents=True)
    outcomes = run_on_ray(segmenter, to("out"), inference=changed(segmenter.inference, _Faulty), workers=1)
    failed = {number: result for number, result in outcomes.items() if isinstance(result, Exception)}
    assert len(outcomes) == 8
    assert failed.keys() == {0, 3, 5, 7}
    assert isinstance(failed[0], InputError) and isinstance(failed[7], OutputError)
    assert str(failed[5]) == "in/5.png: no such file; check the path"
    assert str(failed[3]) == "out of luck"
    assert "in fuse" in failed[3].__notes__[0]


def test_killed_workers(ray: Any, photos: None, segmenter: Segmenter, tmp_path: Path) -> None:
    want = run_locally(segmenter, to("plain"))
    workshop = _Deadly(segmenter.before, segmenter.after, once=tmp_path / "once")
    network = changed(segmenter.inference, _DeadlyNetwork, once=tmp_path / "network once")
    outcomes = run_on_ray(segmenter, to("out"), workshop, network)
    assert Path("once").exists() and Path("network once").exists()
    error = outcomes.pop(1)
    assert isinstance(error, WorkerError)
    assert str(error).startswith("in/1.png: its worker process was killed")
    assert outcomes.keys() == want.keys() - {1}
    assert all(isinstance(result, Done) for result in outcomes.values())
    plain = {name: content for name, content in contents("plain").items() if name[0] != "1"}
    assert contents("out") == plain


def test_a_photo_that_always_kills_its_network(ray: Any, photos: None, segmenter: Segmenter) -> None:
    """What the network's third successor does, with what the three before have left behind."""
    watch = ray.remote(num_cpus=0)(engine_ray._Watch).remote()
    for work in ("network [0, 1, 3]", "network [3]", "network [3]"):
        ray.get(watch.begin.remote(work))
    network = engine_ray._Network(watch, ray.put(segmenter.inference), 1, True)
    jobs = [to("out")[number] for number in (0, 1, 3)]
    rows = [engine_ray._row(job, segmenter.before(read_image(str(job.source)), 72, 64)) for job in jobs]
    for _ in range(4):  # and what is tried to its end, as when a machine leaves, is not held against it
        batches = network({"photo": [row["photo"] for row in rows]})
        ends = [engine_ray._content({"photo": batch["photo"][0]}) for batch in batches]
        assert [job.number for job, _ in ends] == [0, 1, 3]
        assert [isinstance(end, WorkerError) for _, end in ends] == [False, False, True]


def test_what_the_report_raises_ends_the_run(ray: Any, photos: None, segmenter: Segmenter) -> None:
    def report(job: Job, result: Done | Exception) -> None:
        raise OutputError("the disk is full")

    workshop = Workshop(segmenter.before, segmenter.after)
    with pytest.raises(OutputError, match="the disk is full"):
        engine_ray.run(segmenter.inference, workshop, to("out"), report, workers=1)


def test_too_many_networks_are_refused(ray: Any, segmenter: Segmenter) -> None:
    with pytest.raises(UsageError, match=r"Ray has \d+ cores .* too few for 5000 times a network"):
        run_on_ray(segmenter, [], workers=5000)

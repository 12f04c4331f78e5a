"""A tiny Segmenter, photos in a folder, and a network that fails on one of them."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deconvseg.batch.inputs import Photo
from deconvseg.batch.run import Report, run_here
from deconvseg.batch.work import Done, Work
from deconvseg.regions import Inference, Prepared
from deconvseg.segmenter import Segmenter


class Outcomes(dict[str, Done | Exception]):
    """What became of each photo, by name; none is reported twice."""

    def report(self, photo: Photo, result: Done | Exception) -> None:
        assert photo.name not in self
        self[photo.name] = result


ODD_HEIGHT = 72
"""Of the photo called 3, and of no other."""


@pytest.fixture
def segmenter(tiny_network: Path) -> Segmenter:
    return Segmenter(tiny_network, proposals=4, min_side=10, precision="fp32", batch_size=8, device="cpu")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `in` with eight photos in the working folder; overlays of the long one need it again."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        height, width = 5 + number % 3, int(rng.integers(3, 9))
        blocks = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        size = (width * 8, ODD_HEIGHT if number == 3 else height * 8)
        size = (1100, 20) if number == 4 else size
        blocks.resize(size, Image.Resampling.NEAREST).save(f"in/{number}.png")


def to(out: str, count: int = 8) -> list[Photo]:
    """Photos with paths from the working folder."""
    kinds = {"labels": ".png", "overlay": ".jpg", "coco": ".json", "masks": ".masks"}
    return [
        Photo(
            f"in/{number % 8}.png",
            f"{number}",
            {kind: Path(out, f"{number}{end}") for kind, end in kinds.items()},
        )
        for number in range(count)
    ]


def run_locally(
    segmenter: Segmenter,
    photos: Iterable[Photo],
    workers: int = 0,
    inference: Inference | None = None,
    report: Report | None = None,
) -> Outcomes:
    outcomes, network = Outcomes(), inference or segmenter.inference
    told = report or outcomes.report
    run_here(network, Work(segmenter), photos, told, workers=workers)
    return outcomes


def contents(folder: str) -> dict[str, bytes]:
    """By place below it, each file's content."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def changed(inference: Inference, kind: type[Inference], **more: Any) -> Inference:
    return kind(**{field.name: getattr(inference, field.name) for field in fields(Inference)}, **more)


class Faulty(Inference):
    """Fails with the photo called 3 in it, while those before are in it as well."""

    def fuse(
        self, photos: Iterable[Prepared], *, full_batches: bool = False
    ) -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        def entering() -> Iterator[Prepared]:
            for photo in photos:
                if photo.photo.height == ODD_HEIGHT:
                    raise RuntimeError("out of luck")
                yield photo

        return super().fuse(entering(), full_batches=full_batches)

"""The check of a data set: every fault is found and named, and what is there is counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.data.check import check_dataset
from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.masks import MaskFormat
from deconvseg.data.voc import voc_dataset
from deconvseg.images.palette import palette_for

from ..conftest import make_shapes


def add(folder: Path, name: str, mask: list[list[int]], suffix: str = "jpg", exif: int = 1) -> Example:
    """Writes a photo and a mask."""
    example = Example(name, folder / f"{name}.{suffix}", folder / f"{name}.mask.png")
    values = np.array(mask, np.uint8)
    tags = Image.Exif()
    tags[0x0112] = exif
    Image.new("RGB", values.shape[::-1]).save(example.image, exif=tags)
    Image.fromarray(values).save(example.mask)
    return example


def dataset(*examples: Example) -> DataSet:
    classes, palette = ("background", "cat", "dog"), palette_for(3)
    return DataSet(classes, palette, MaskFormat.indexed(classes, palette), examples, Path("list.txt"))


def test_counts(tmp_path: Path) -> None:
    report = check_dataset(dataset(add(tmp_path, "a", [[0, 1, 255]]), add(tmp_path, "b", [[1, 1], [0, 0]])))
    assert (report.faults, report.examples) == ((), 2)
    assert report.pixels == {"background": 3, "cat": 3, "dog": 0}
    assert report.photos == {"background": 2, "cat": 2, "dog": 0}
    assert report.void_share == pytest.approx(1 / 7)


def test_every_fault_is_found_and_named_by_its_file(tmp_path: Path) -> None:
    gone, cut, unmasked = (add(tmp_path, name, [[0, 1]]) for name in ("gone", "cut", "unmasked"))
    for path in (gone.image, gone.mask, unmasked.mask):  # of a pair the first fault is named
        path.unlink()
    cut.image.write_bytes(cut.image.read_bytes()[:-40])
    turned, unknown = add(tmp_path, "turned", [[0, 1]], exif=8), add(tmp_path, "unknown", [[0, 5]], "png")
    void = add(tmp_path, "void", [[255, 255]])
    report = check_dataset(dataset(gone, cut, unmasked, turned, unknown, void))
    want = [
        (gone.image, "no such file"),
        (cut.image, "is damaged or cut short"),
        (unmasked.mask, "no such mask"),
        (turned.mask, "mask is 2x1, its photo turned.jpg 1x2; they must agree (photos are turned"),
        (unknown.mask, "mask holds ids that are no class: 5 (1 pixels); mend"),
        (void.mask, "is void all over"),
    ]
    for fault, (file, problem) in zip(report.faults, want, strict=True):
        assert fault.startswith(f"{file}: {problem}")


def test_the_report_is_lines(tmp_path: Path) -> None:
    gone = replace(add(tmp_path, "a", [[0, 1]]), image=Path("gone.jpg"))
    report = check_dataset(dataset(gone, add(tmp_path, "b", [[0, 1]])))
    lines = list(report.lines())
    assert lines[0].startswith("2 photos, 1 faults, 0.0% of pixels void")
    assert lines[1].startswith("fault: gone.jpg: no such file")
    assert lines[3].split() == ["cat", "in", "1", "photos", "50.00%", "of", "pixels"]


def test_threads_and_progress_change_nothing(tmp_path: Path) -> None:
    data = voc_dataset(make_shapes(tmp_path / "voc", train=4, val=1), "train")
    data.examples[2].mask.unlink()
    calls: list[None] = []
    report = check_dataset(data, workers=2, progress=lambda: calls.append(None))
    assert report == check_dataset(data)
    assert (len(calls), len(report.faults)) == (4, 1)

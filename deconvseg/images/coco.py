"""Segmentations in COCO's format: an annotation for each connected region of a class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import OutputError
from deconvseg.files import replacing
from deconvseg.images.components import Runs, regions
from deconvseg.images.outline import outline

if TYPE_CHECKING:
    from deconvseg.segmentation import Segmentation

Document = dict[str, Any]


def write_coco(
    segmentation: Segmentation,
    photo: NDArray[np.uint8],
    target: Path | BinaryIO,
    *,
    file_name: str,
    polygons: bool = False,
) -> None:
    """Write one photo's COCO file (see `coco_document`); args as of all writers, `photo` is not looked at.

    Raises:
        OutputError: the file cannot be written.
    """
    content = json.dumps(coco_document(segmentation, file_name, polygons=polygons)).encode()
    with replacing(target) if isinstance(target, Path) else nullcontext(target) as stream:
        stream.write(content + b"\n")
        stream.flush()


def coco_document(segmentation: Segmentation, file_name: str, *, polygons: bool = False) -> Document:
    """A COCO data set of one photo, fit for JSON, that `pycocotools.coco.COCO` reads.

    The pixels of a class that touch at a side or a corner are one annotation: the class is known here, not
    which of two touching objects a pixel is of. `category_id` is the label, background has none, `iscrowd` is
    0. `segmentation` is compressed RLE or, on request, a polygon along the pixels' sides, its holes joined to
    it by a line there and back; both give back the labels exactly.
    """
    labels = segmentation.labels
    height, width = labels.shape
    runs = Runs.of(labels.T)  # COCO goes down the columns
    runs = Runs(*(values[runs.label > 0] for values in runs))
    region, found = regions(runs)
    by_region = np.argsort(region, kind="stable")
    runs = Runs(*(values[by_region] for values in runs))
    ends = np.cumsum(np.bincount(region, minlength=len(found.labels))).tolist()
    annotations = []
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        own = Runs(*(values[start:end] for values in runs))
        top, left, bottom, right = found.boxes[index].tolist()  # found in the transposed labels
        shape: object = {"size": [height, width], "counts": _compressed(_counts(own, height, width))}
        if polygons:
            shape = [outline(own.row, own.start, own.stop)]
        annotations.append(
            {
                "id": index + 1,
                "image_id": 1,
                "category_id": int(found.labels[index]),
                "segmentation": shape,
                "area": int(found.areas[index]),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
            }
        )
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(segmentation.classes)]
    return {
        "info": {"description": "made by deconvseg segment"},
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": categories[1:],
    }


def merge_coco(parts: Sequence[Path], target: Path) -> list[str]:
    """Write the files of single photos as one; ids count from 1 in the order of `parts`.

    One photo at a time is in memory.

    Returns:
        A line for each file that is left out: it is damaged, or its categories are not those of the first.

    Raises:
        OutputError: the file cannot be written.
    """
    merger = _Merger(target)
    with replacing(target) as stream:
        stream.write(b'{"info": {"description": "made by deconvseg segment"},\n"images": [')
        _write_list(stream, merger.images(parts))
        stream.write(b'],\n"annotations": [')
        _write_list(stream, merger.annotations())
        stream.write(b'],\n"categories": ' + json.dumps(merger.categories).encode() + b"}\n")
    return merger.problems


class _Merger:
    """Goes through the parts twice, as images come before annotations, and keeps none of them."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.problems: list[str] = []
        self.categories: list[Document] = []
        self._taken: list[Path] = []

    def images(self, parts: Sequence[Path]) -> Iterator[Document]:
        for part in parts:
            try:
                document = json.loads(part.read_bytes())
                image, categories = document["images"][0], document["categories"]
            except (OSError, ValueError, LookupError, TypeError):
                self._leave_out(part, "cannot be read", "make it again (--overwrite)")
                continue
            if self._taken and categories != self.categories:
                self._leave_out(part, "is of other classes", "use another -o DIR")
                continue
            self.categories = categories
            self._taken.append(part)
            yield {**image, "id": len(self._taken)}

    def annotations(self) -> Iterator[Document]:
        count = 0
        for image, part in enumerate(self._taken, 1):
            try:
                annotations = json.loads(part.read_bytes())["annotations"]
            except (OSError, ValueError, LookupError) as error:
                raise OutputError(f"{part}: was changed while it was read; run the same again") from error
            for annotation in annotations:
                count += 1
                yield {**annotation, "id": count, "image_id": image}

    def _leave_out(self, part: Path, fault: str, cure: str) -> None:
        self.problems.append(f"{part}: {fault}, and is left out of {self.target}; {cure}")


def _write_list(stream: BinaryIO, items: Iterator[Document]) -> None:
    between = b"\n"
    for item in items:
        stream.write(between + json.dumps(item).encode())
        between = b",\n"


def _counts(runs: Runs, height: int, width: int) -> list[int]:
    """Lengths of the stretches outside and inside, in turn, of the image read column after column."""
    start, stop = runs.row * height + runs.start, runs.row * height + runs.stop
    parted = start[1:] != stop[:-1]  # false where a run goes on at the top of the next column
    start, stop = start[np.append(True, parted)], stop[np.append(parted, True)]
    edges = np.stack([start, stop], 1).ravel()
    counts = np.diff(edges, prepend=0).tolist()
    rest = height * width - int(stop[-1])
    return [*counts, rest] if rest else counts


def _compressed(counts: Sequence[int]) -> str:
    """COCO's text for run lengths: from the third on differences to the last but one, 5 bits a letter.

    Format: `rleToString` of the COCO API's maskApi.c.
    """
    letters = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            letters.append(48 + bits + 32 * more)
            if not more:
                break
    return letters.decode("ascii")

"""Segmentations in COCO's format: an annotation for each connected region of a class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
import pycocotools.mask as mask_api
from numpy.typing import NDArray

from deconvseg.errors import OutputError
from deconvseg.files import replacing
from deconvseg.images.components import connected
from deconvseg.images.write import opened

if TYPE_CHECKING:
    from deconvseg.segmentation import Segmentation

Document = dict[str, Any]


def write_coco(
    segmentation: Segmentation, target: Path | BinaryIO, *, file_name: str, polygons: bool = False
) -> None:
    """Write one photo's COCO file (see `coco_document`) to a path or an open binary stream.

    Raises:
        OutputError: the file cannot be written.
    """
    content = json.dumps(coco_document(segmentation, file_name, polygons=polygons)).encode()
    with opened(target) as stream:
        stream.write(content + b"\n")


def coco_document(segmentation: Segmentation, file_name: str, *, polygons: bool = False) -> Document:
    """A COCO data set of one photo, fit for JSON, that `pycocotools.coco.COCO` reads.

    The pixels of a class that touch at a side or a corner are one annotation: the class is known here, not
    which of two touching objects a pixel is of. `category_id` is the label, background has none, `iscrowd` is
    0. `segmentation` is compressed RLE or, on request, a polygon along the pixels' sides, its holes joined to
    it by a line there and back; both give back the labels exactly.
    """
    columns = np.ascontiguousarray(segmentation.labels.T)  # COCO goes down the columns
    annotations: list[Document] = []
    for label in range(1, len(segmentation.classes)):
        of_class = columns == label
        # Its bounding box alone is looked at: on large photos that is most of the time and memory.
        y, x, height, width = cv2.boundingRect(of_class.view(np.uint8))
        if not width:
            continue
        numbers, found = connected(of_class[x : x + width, y : y + height])
        for number, y0, x0, y1, x1, area in found:
            inside, left, top = numbers[x0:x1, y0:y1] == number, x + x0, y + y0
            shape = _polygons(inside, left, top) if polygons else _rle(inside, left, top, columns.shape)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1,
                    "category_id": label,
                    "segmentation": shape,
                    "area": area,
                    "bbox": [left, top, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                }
            )
    width, height = columns.shape
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(segmentation.classes)]
    return {
        "info": {"description": "made by deconvseg segment"},
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": categories[1:],
    }


def _rle(inside: NDArray[np.bool_], left: int, top: int, shape: tuple[int, ...]) -> Document:
    """Compressed RLE of an object `inside` a window (w, h) of an image of this shape (W, H)."""
    column, row = np.nonzero(np.diff(inside.view(np.int8), prepend=0, append=0))
    edges = (column + left) * shape[1] + row + top
    goes_on = edges[1:] == edges[:-1]  # at the top of the next column
    edges = edges[~(np.append(goes_on, False) | np.append(False, goes_on))]
    counts = np.diff(edges, prepend=0, append=shape[0] * shape[1]).tolist()
    size = [shape[1], shape[0]]
    counts = counts if counts[-1] else counts[:-1]
    encoded = mask_api.frPyObjects({"size": size, "counts": counts}, *size)
    return {"size": size, "counts": encoded["counts"].decode("ascii")}


def _polygons(inside: NDArray[np.bool_], left: int, top: int) -> list[list[int]]:
    """The one outline x0, y0, x1, y1, ... of an object `inside` a window (w, h), in pixel corners.

    What does not hang together, a hole above all, is joined to the first point by a line there and back:
    filled by the even-odd rule, as COCO's programs do, the polygon gives the object's very pixels.
    """
    # OpenCV's contours go through the middles of pixels: those of the four quarters of each lie beside its
    # corners, and round to them.
    quarters = np.pad(inside.T, 1).repeat(2, 0).repeat(2, 1).view(np.uint8)
    contours, _ = cv2.findContours(quarters, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    loops = sorted(
        (_corners((contour[::-1, 0] + 1) // 2) for contour in contours), key=lambda loop: loop[0][::-1]
    )
    first = loops[0][0]
    points = [*loops[0], *(point for loop in loops[1:] for point in (first, *loop, loop[0]))]
    return [[value for x, y in points for value in (x + left - 1, y + top - 1)]]


def _corners(loop: NDArray[np.int32]) -> list[list[int]]:
    """The points where a closed way turns, from the leftmost of the topmost on."""
    loop = loop[(loop != np.roll(loop, 1, 0)).any(1)]
    come, go = loop - np.roll(loop, 1, 0), np.roll(loop, -1, 0) - loop
    loop = loop[come[:, 0] * go[:, 1] != come[:, 1] * go[:, 0]]
    corners: list[list[int]] = np.roll(loop, -np.lexsort(loop.T)[0], 0).tolist()
    return corners


def merge_coco(parts: Sequence[Path], target: Path) -> list[str]:
    """Write the files of single photos as one; ids count from 1 in the order of `parts`.

    One photo at a time is in memory.

    Returns:
        A line for each file that is left out: it is damaged, or its categories are not those of the first.

    Raises:
        OutputError: the file cannot be written.
    """
    problems: list[str] = []
    categories: list[Document] = []
    taken: list[Path] = []

    def images() -> Iterator[Document]:
        for part in parts:
            try:
                document = json.loads(part.read_bytes())
                image, own = document["images"][0], document["categories"]
            except (OSError, ValueError, LookupError, TypeError):
                problems.append(f"{part}: cannot be read, and is left out of {target}; make it again")
                continue
            if taken and own != categories:
                problems.append(
                    f"{part}: is of other classes, and is left out of {target}; use another folder"
                )
                continue
            categories[:] = own
            taken.append(part)
            yield {**image, "id": len(taken)}

    def annotations() -> Iterator[Document]:
        count = 0
        for image, part in enumerate(taken, 1):
            try:
                found = json.loads(part.read_bytes())["annotations"]
            except (OSError, ValueError, LookupError) as error:
                raise OutputError(f"{part}: was changed while it was read; run the same again") from error
            for count, annotation in enumerate(found, count + 1):  # noqa: B020 (goes on counting)
                yield {**annotation, "id": count, "image_id": image}

    with replacing(target) as stream:
        stream.write(b'{"info": {"description": "made by deconvseg segment"},\n"images": [')
        _write_list(stream, images())
        stream.write(b'],\n"annotations": [')
        _write_list(stream, annotations())  # the parts a second time: images come first, and none is kept
        stream.write(b'],\n"categories": ' + json.dumps(categories).encode() + b"}\n")
    return problems


def _write_list(stream: BinaryIO, items: Iterator[Document]) -> None:
    between = b"\n"
    for item in items:
        stream.write(between + json.dumps(item).encode())
        between = b",\n"

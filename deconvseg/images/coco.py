"""Segmentations in COCO's format: an annotation for each connected region of a class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
import pycocotools.mask as mask_api
from numpy.typing import NDArray

from deconvseg.files import replacing
from deconvseg.images.components import connected
from deconvseg.images.write import opened

if TYPE_CHECKING:
    from deconvseg.segmentation import Segmentation

Document = dict[str, Any]

_INFO = {"description": "made by deconvseg segment"}


def write_coco(
    segmentation: Segmentation, target: Path | BinaryIO, *, file_name: str, polygons: bool = False
) -> None:
    """Write a COCO data set of one photo as docs/results.md says; OutputError if it cannot be written."""
    labels = segmentation.labels
    annotations: list[Document] = []
    for label in range(1, len(segmentation.classes)):
        of_class = labels == label
        # Its bounding box alone is looked at: on large photos that is most of the time and memory.
        x, y, width, height = cv2.boundingRect(of_class.view(np.uint8))
        if not width:
            continue
        numbers, found = connected(of_class[y : y + height, x : x + width])
        for number, (x0, y0, x1, y1, area) in enumerate(found.tolist(), 1):
            inside, box = numbers[y0:y1, x0:x1] == number, [x + x0, y + y0, x1 - x0, y1 - y0]
            shape = _polygons(inside, box) if polygons else _rle(inside, box, labels.shape)
            annotation = {"id": len(annotations) + 1, "image_id": 1, "category_id": label, "bbox": box}
            annotations.append({**annotation, "segmentation": shape, "area": area, "iscrowd": 0})
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(segmentation.classes)]
    height, width = labels.shape
    document = {
        "info": _INFO,
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": categories[1:],
    }
    with opened(target) as stream:
        stream.write(json.dumps(document).encode() + b"\n")


def _rle(inside: NDArray[np.bool_], box: list[int], shape: tuple[int, ...]) -> Document:
    """Compressed RLE of an object `inside` its box (x, y, w, h) of an image of this shape (H, W)."""
    x, y, width, height = box
    whole = np.zeros(shape, np.uint8, order="F")
    whole[y : y + height, x : x + width] = inside
    found = mask_api.encode(whole)
    return {"size": list(shape), "counts": found["counts"].decode("ascii")}


def _polygons(inside: NDArray[np.bool_], box: list[int]) -> list[list[int]]:
    """The one outline x0, y0, x1, y1, ... of an object `inside` its box (x, y, w, h), in pixel corners."""
    # OpenCV's contours go through the middles of pixels: those of the four quarters of each lie beside its
    # corners, and round to them. Other loops, holes above all, are joined to the first point by a line there
    # and back: filled by the even-odd rule, as COCO's programs do, that gives the object's very pixels.
    quarters = np.pad(inside, 1).repeat(2, 0).repeat(2, 1).view(np.uint8)
    contours, _ = cv2.findContours(quarters, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    corners = [(contour[:, 0] + 1) // 2 - 1 + box[:2] for contour in contours]
    loops = [loop[(loop != np.roll(loop, 1, 0)).any(1)] for loop in corners]
    loops.sort(key=lambda loop: loop[0, ::-1].tolist())
    first = loops[0][:1]
    points = np.concatenate([loops[0], *(part for loop in loops[1:] for part in (first, loop, loop[:1]))])
    return [points.ravel().tolist()]


def merge_coco(parts: Sequence[Path], target: Path) -> list[str]:
    """Write photos' files as one; returns a line for each left out: damaged, or of other categories."""
    problems: list[str] = []
    images: list[Document] = []
    categories: list[Document] = []
    count = 0
    with replacing(target) as stream:  # photo by photo, as all together may not fit into memory
        stream.write(f'{{"info": {json.dumps(_INFO)},\n"annotations": ['.encode())
        for part in parts:
            try:
                document = json.loads(part.read_bytes())
                image, own, found = document["images"][0], document["categories"], document["annotations"]
                if images and own != categories:
                    problems.append(f"{part}: is of other classes, and is left out; use another folder")
                    continue
            except (OSError, ValueError, LookupError, TypeError):
                problems.append(f"{part}: cannot be read, and is left out of {target}; make it again")
                continue
            categories = own
            images.append({**image, "id": len(images) + 1})
            for annotation in found:
                line = json.dumps({**annotation, "id": count + 1, "image_id": len(images)})
                stream.write((b",\n" if count else b"\n") + line.encode())
                count += 1
        stream.write(b'],\n"images": ' + json.dumps(images).encode())
        stream.write(b',\n"categories": ' + json.dumps(categories).encode() + b"}\n")
    return problems

"""Object proposals of a whole data set, made once and kept in one file for training.

The file is a `.npz` without pickle, read with numpy alone, so a machine that trains needs none of OpenCV's
contrib modules. Its arrays, for N photos with M boxes in all:

    names     unicode (N,)
    sizes     int32 (N, 2), height and width of the photo as read
    offsets   int64 (N + 1,), photo i has the boxes offsets[i] to offsets[i + 1]
    boxes     float32 (M, 4), x0 y0 x1 y1 in pixels, half-open, inside the photo, best first within it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import DataError, reason
from deconvseg.files import replacing
from deconvseg.images.read import read_image
from deconvseg.machine import pool
from deconvseg.proposals.boxes import find_boxes
from deconvseg.proposals.edges import EdgeDetector
from deconvseg.weights import forest_file

COUNT = 500
"""Boxes a photo. Measured on 199 photos of VOC 2012 train (every fifth; 353 objects of at least 1 % of the
photo): an object has a box of IoU 0.5 or more among the best 50, 100, 200, 300, 500, 1,000 in 79, 86, 90, 95,
98 and 99.7 % of the cases, and 3.8, 5.0, 6.3, 7.1, 7.8 and 8.7 of them on average. The time is the same for
any, about 0.17 s of CPU a photo; the file takes 2.9, 4.7 and 9.5 KB a photo at 300, 500 and 1,000."""


class PhotoBoxes(NamedTuple):
    """The proposals of a photo."""

    boxes: NDArray[np.float32]  # (n, 4), best first, n may be 0
    size: tuple[int, int]  # height and width of the photo as it was read


def read_proposals(path: Path, names: Sequence[str]) -> list[PhotoBoxes]:
    """The proposals of the photos of these names, in their order.

    Raises DataError if the file is missing, damaged or holds none of a photo.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            boxes, offsets = file["boxes"].astype(np.float32).reshape(-1, 4), file["offsets"]
            sizes = file["sizes"].reshape(-1, 2).tolist()
            rows = zip(file["names"].tolist(), np.split(boxes, offsets[1:-1]), sizes, strict=True)
            found = {name: PhotoBoxes(part, (height, width)) for name, part, (height, width) in rows}
    except Exception as error:  # numpy raises whatever the damage happens to cause
        fault = f"is no whole proposal file ({reason(error)})"
        raise DataError(f"{path}: {fault}; name another file, or remove it") from error
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"{path}: holds no proposals of {missing[0]}; remove the file, and it is made from these photos "
            "where OpenCV's contrib modules are installed"
        )
    return [found[name] for name in names]


def cache_proposals(
    photos: Sequence[tuple[str, Path]],
    target: Path,
    *,
    workers: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Make plain EdgeBoxes (see `find_boxes`) of every photo, COUNT at most, and write them into one file.

    Args:
        photos: (name, file) of each; InputError if one cannot be read.
        target: the `.npz`; OutputError if it cannot be written.
        workers: threads; 0 works in the calling one.
        progress: called once a photo.
    """
    found: list[PhotoBoxes] = []
    with pool(workers) as call_each:
        for result in call_each(partial(_find, EdgeDetector(forest_file())), [path for _, path in photos]):
            found.append(result)
            progress()
    with replacing(target) as stream:
        np.savez_compressed(
            stream,
            names=np.array([name for name, _ in photos]),
            sizes=np.array([photo.size for photo in found], np.int32),
            offsets=np.cumsum([0, *(len(photo.boxes) for photo in found)], dtype=np.int64),
            boxes=np.concatenate([photo.boxes for photo in found]),
        )


def _find(detector: EdgeDetector, photo: Path) -> PhotoBoxes:
    image = read_image(photo)
    height, width = image.shape[:2]
    return PhotoBoxes(find_boxes(image, detector, count=COUNT).xyxy, (height, width))

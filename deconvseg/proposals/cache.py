"""Object proposals of a whole data set, made once and kept in one file for training.

The file is a `.npz` without pickle, read with numpy alone, so a machine that trains needs none of OpenCV's
contrib modules. Its arrays, for N photos with M boxes in all:

    names     unicode (N,)
    sizes     int32 (N, 2), height and width of the photo as read
    digests   unicode (N,), SHA-256 of the photo's file, by which a changed photo is noticed
    offsets   int64 (N + 1,), photo i has the boxes offsets[i] to offsets[i + 1]
    boxes     float32 (M, 4), x0 y0 x1 y1 in pixels, half-open, inside the photo, best first within it
    settings  JSON: digests of the code and the forest that made them
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import DataError, reason
from deconvseg.files import digest, replacing
from deconvseg.identity import code_digest
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
_SAVED_EVERY = 200  # photos: 34 s of CPU to lose; saving takes up to 5 s at 4,600 photos


class PhotoBoxes(NamedTuple):
    """What the file says of one photo."""

    size: tuple[int, int]  # height and width as it was read
    digest: str  # SHA-256 of its file
    boxes: NDArray[np.float32]  # (n, 4), best first, n may be 0


@dataclass(frozen=True)
class ProposalFile:
    """The proposals of many photos, by name, and how they were made (JSON)."""

    path: Path
    photos: Mapping[str, PhotoBoxes]
    settings: str = ""

    def of(self, name: str) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Boxes of one photo, and the (height, width) they refer to; DataError if it is not in the file."""
        if name not in self.photos:
            raise DataError(
                f"{self.path}: holds no proposals of {name}; "
                "make the file again from these photos, with OpenCV's contrib modules installed"
            )
        photo = self.photos[name]
        return photo.boxes, photo.size


def read_proposals(path: Path) -> ProposalFile:
    """Read and check a proposal file; DataError if it is missing, damaged or contradicts itself."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return ProposalFile(path, _photos(file), str(file["settings"]))
    except Exception as error:  # numpy raises whatever the damage happens to cause
        fault = f"is no whole proposal file ({reason(error)})"
        raise DataError(f"{path}: {fault}; name another file, or remove it") from error


def _photos(file: Mapping[str, NDArray[np.generic]]) -> dict[str, PhotoBoxes]:
    boxes, offsets = file["boxes"].astype(np.float32).reshape(-1, 4), file["offsets"].astype(np.int64)
    digests = file["digests"].astype(np.str_).tolist()
    names, sizes = file["names"].astype(np.str_).tolist(), file["sizes"].astype(np.int32).reshape(-1, 2)
    if offsets[0] != 0 or offsets[-1] != len(boxes) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("offsets do not divide the boxes")
    limits = np.repeat(sizes[:, ::-1], np.diff(offsets), axis=0)
    low, high = boxes[:, :2], boxes[:, 2:]
    # Written so that a NaN fails; half a pixel covers the rounding of photos that were shrunk for the search.
    if not ((low > -0.5) & (low < high) & (high < limits + 0.5)).all():
        raise ValueError("boxes are empty or outside their photo")
    parts = [boxes[start:end] for start, end in pairwise(offsets)]
    rows = zip(names, sizes.tolist(), digests, parts, strict=True)
    return {name: PhotoBoxes((height, width), content, part) for name, (height, width), content, part in rows}


def cache_proposals(
    photos: Sequence[tuple[str, Path]],
    target: Path,
    *,
    workers: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Make plain EdgeBoxes (see `find_boxes`) of every photo, COUNT at most, and keep them in one file.

    What the file holds already of photos of this name and content, and of others, is kept, unless other code
    or another forest made it. After an error or an interrupt, the same call goes on from there.

    Args:
        photos: (name, file) of each; DataError if a name occurs twice, InputError if a photo cannot be read.
        target: the `.npz`; OutputError if it cannot be written, DataError if it is a file of another kind.
        workers: threads; 0 works in the calling one.
        progress: called once a photo, those done before included.
    """
    for name, times in Counter(name for name, _ in photos).items():
        if times > 1:
            raise DataError(f"{name}: there are {times} photos of this name; rename all but one")
    forest = forest_file(None)
    settings = json.dumps({"code": code_digest("proposals"), "forest": digest(forest)})
    found: dict[str, PhotoBoxes] = {}
    if target.exists() and (before := read_proposals(target)).settings == settings:
        found.update(before.photos)

    def is_known(name: str, photo: Path) -> bool:  # that a photo is missing is told as it is read
        return name in found and photo.is_file() and found[name].digest == digest(photo)

    todo = [photo for photo in photos if not is_known(*photo)]
    for _ in range(len(photos) - len(todo)):
        progress()
    if not todo:
        return
    find = partial(_find, EdgeDetector(forest))
    with pool(min(workers, len(todo))) as call_each:
        try:
            results = call_each(find, [path for _, path in todo])
            for done, ((name, _), result) in enumerate(zip(todo, results, strict=True), 1):
                found[name] = result
                progress()
                if done % _SAVED_EVERY == 0:
                    _write(target, settings, found)
        finally:
            _write(target, settings, found)


def _find(detector: EdgeDetector, photo: Path) -> PhotoBoxes:
    image = read_image(photo)
    height, width = image.shape[:2]
    return PhotoBoxes((height, width), digest(photo), find_boxes(image, detector, count=COUNT).xyxy)


def _write(path: Path, settings: str, found: Mapping[str, PhotoBoxes]) -> None:
    boxes = [np.zeros((0, 4), np.float32), *(photo.boxes for photo in found.values())]
    with replacing(path) as stream:
        np.savez_compressed(
            stream,
            names=np.array(list(found), np.str_),
            sizes=np.array([photo.size for photo in found.values()], np.int32).reshape(-1, 2),
            digests=np.array([photo.digest for photo in found.values()], np.str_),
            offsets=np.cumsum([len(part) for part in boxes], dtype=np.int64),
            boxes=np.concatenate(boxes),
            settings=np.array(settings),
        )

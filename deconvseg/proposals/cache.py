"""Object proposals of a whole data set, made once and kept in one file for training.

The file is a `.npz` without pickle, read with numpy alone, so a machine that trains needs none of OpenCV's
contrib modules. Its arrays, for N photos with M boxes in all:

    names     unicode (N,)
    sizes     int32 (N, 2), height and width of the photo as read
    lengths   int64 (N,), bytes of the photo's file, by which a changed photo is noticed
    offsets   int64 (N + 1,), photo i has the boxes offsets[i] to offsets[i + 1]
    boxes     float32 (M, 4), x0 y0 x1 y1 in pixels, half-open, inside the photo, best first within it
    scores    float32 (M,)
    settings  JSON: format, forest (sha256), count
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import DataError, OutputError
from deconvseg.files import replacing
from deconvseg.images.read import read_image
from deconvseg.machine import worker_processes
from deconvseg.proposals.boxes import Boxes, find_boxes
from deconvseg.proposals.edges import EdgeDetector, opencv
from deconvseg.weights import forest_file

_FORMAT = 1
"""Raised whenever the same photo and forest would give other boxes."""
COUNT = 500
"""Boxes a photo. Measured on 199 photos of VOC 2012 train (every fifth; 353 objects of at least 1 % of the
photo): an object has a box of IoU 0.5 or more among the best 50, 100, 200, 300, 500, 1,000 in 79, 86, 90, 95,
98 and 99.7 % of the cases, and 3.8, 5.0, 6.3, 7.1, 7.8 and 8.7 of them on average. The time is the same for
any, about 0.17 s of CPU a photo; the file takes 2.9, 4.7 and 9.5 KB a photo at 300, 500 and 1,000."""
_SAVED_EVERY = 200
"""Photos. A stop by force costs at most so many (34 s of CPU); saving takes up to 5 s at 4,600 photos."""
_AGAIN = "make the file again from these photos, with OpenCV's contrib modules installed"


@dataclass(frozen=True)
class ProposalFile:
    """The proposals of many photos, in memory.

    Attributes:
        path: the file.
        rows: name -> index of the photo.
        sizes: int32 (N, 2), height and width of each photo as it was read.
        offsets: int64 (N + 1,), where each photo's boxes begin and end.
        boxes: float32 (M, 4), x0 y0 x1 y1 in pixels, half-open, inside the photo, best first.
    """

    path: Path
    rows: Mapping[str, int]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]

    def of(self, name: str) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Boxes of one photo, float32 (n, 4), best first, n may be 0; and the (height, width) they refer to.

        Raises:
            DataError: the file does not know the photo.
        """
        row = self.rows.get(name)
        if row is None:
            raise DataError(f"{self.path}: holds no proposals of {name}; {_AGAIN}")
        height, width = self.sizes[row].tolist()
        return self.boxes[self.offsets[row] : self.offsets[row + 1]], (height, width)


def read_proposals(path: Path) -> ProposalFile:
    """Read and check a proposal file; no pickle is ever loaded.

    Raises:
        DataError: missing, damaged, or arrays that do not belong together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, sizes, offsets, boxes = (
                np.asarray(file[key]) for key in ("names", "sizes", "offsets", "boxes")
            )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such proposal file; check the path") from error
    except Exception as error:  # numpy raises whatever the damage happens to cause
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: is no whole proposal file ({reason}); copy or make it again") from error
    fault = _fault(names, sizes, offsets, boxes)
    if fault:
        raise DataError(f"{path}: is damaged ({fault}); copy or make it again")
    rows = {name: row for row, name in enumerate(names.tolist())}
    return ProposalFile(path, rows, sizes, offsets, boxes)


def _fault(
    names: NDArray[np.str_], sizes: NDArray[np.int32], offsets: NDArray[np.int64], boxes: NDArray[np.float32]
) -> str | None:
    """What is wrong with the arrays, in a few words."""
    count = len(names) if np.ndim(names) == 1 else -1
    if count < 0 or names.dtype.kind != "U" or len(set(names.tolist())) != count:
        return "names are not one text a photo, each once"
    if sizes.dtype != np.int32 or sizes.shape != (count, 2) or (sizes <= 0).any():
        return "sizes are not a height and a width a photo"
    if boxes.dtype != np.float32 or boxes.ndim != 2 or boxes.shape[1] != 4:
        return "boxes are not float32 (M, 4)"
    if offsets.dtype != np.int64 or offsets.shape != (count + 1,):
        return "offsets are not int64 (N + 1,)"
    if offsets[0] != 0 or offsets[-1] != len(boxes) or (offsets[1:] < offsets[:-1]).any():
        return "offsets do not divide the boxes"
    limits = np.repeat(sizes[:, ::-1], offsets[1:] - offsets[:-1], axis=0)
    low, high = boxes[:, :2], boxes[:, 2:]
    # Written so that a NaN fails; half a pixel covers the rounding of photos that were shrunk for the search.
    if not ((low > -0.5) & (low < high) & (high < limits + 0.5)).all():
        return "boxes are empty or outside their photo"
    return None


class _Found(NamedTuple):
    """What the file says of one photo."""

    size: tuple[int, int]
    length: int
    boxes: Boxes


def cache_proposals(
    photos: Sequence[tuple[str, Path]],
    target: Path,
    *,
    forest: str | Path | None = None,
    count: int = COUNT,
    workers: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Make plain EdgeBoxes (see `find_boxes`) of every photo and keep them in one file.

    What the file holds already, made by the same forest and `count` of photos of the same name and length, is
    kept, and so are photos it holds besides; made by others, it is replaced. After a stop, by an error or an
    interrupt, what was done lies in `<target>.part`, and the same call goes on from there.

    Args:
        photos: (name, file) of each, every name once.
        target: the `.npz`.
        forest: structured edge forest file; the shipped one when None.
        count: most boxes a photo.
        workers: processes, 1 or more, each with one thread. They are spawned: a script that calls this guards
            its own start with `if __name__ == "__main__"`.
        progress: called once a photo, those done before included.

    Raises:
        DataError: a name occurs twice.
        InputError: a photo cannot be read; it is named.
        WeightsError: the forest is missing or damaged.
        OutputError: the file cannot be written, or `target` is a file of another kind.
    """
    names = {name for name, _ in photos}
    if len(names) < len(photos):
        twice = next(name for name in names if [n for n, _ in photos].count(name) > 1)
        raise DataError(f"{twice}: there are two photos of this name; rename one")
    forest = forest_file(forest)
    settings = json.dumps({"format": _FORMAT, "forest": _digest(forest), "count": count})
    unfinished = target.with_name(f"{target.name}.part")
    finished = _read(target, settings)
    found = finished | _read(unfinished, settings)
    todo = [photo for photo in photos if not _is_known(found, *photo)]
    for _ in range(len(photos) - len(todo)):
        progress()
    if todo:
        EdgeDetector(forest)  # a damaged forest is told here, in one line, not by every worker
        with worker_processes(min(workers, len(todo)), _use_one_thread) as pool:
            try:
                results = pool.map(partial(_find, forest, count), [path for _, path in todo])
                for done, ((name, _), result) in enumerate(zip(todo, results, strict=True), 1):
                    found[name] = result
                    progress()
                    if done % _SAVED_EVERY == 0:
                        _write(unfinished, settings, found)
            except BaseException:
                _write(unfinished, settings, found)
                raise
    if todo or found.keys() != finished.keys():
        _write(target, settings, found)
    unfinished.unlink(missing_ok=True)


def _use_one_thread() -> None:
    opencv().setNumThreads(1)


_detector = cache(EdgeDetector)  # one a process


def _find(forest: Path, count: int, photo: Path) -> _Found:
    image = read_image(photo)
    height, width = image.shape[:2]
    return _Found((height, width), _length(photo), find_boxes(image, _detector(forest), count=count))


def _is_known(found: Mapping[str, _Found], name: str, photo: Path) -> bool:
    return name in found and found[name].length == _length(photo)


def _length(photo: Path) -> int:
    """Bytes of a file; -1 if there is none, which no photo has."""
    try:
        return photo.stat().st_size
    except OSError:
        return -1


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, settings: str, found: Mapping[str, _Found]) -> None:
    counts = [len(photo.boxes.scores) for photo in found.values()]
    none = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    boxes = [none, *(photo.boxes for photo in found.values())]
    with replacing(path) as stream:
        np.savez_compressed(
            stream,
            names=np.array(list(found), np.str_),
            sizes=np.array([photo.size for photo in found.values()], np.int32).reshape(-1, 2),
            lengths=np.array([photo.length for photo in found.values()], np.int64),
            offsets=np.cumsum([0, *counts], dtype=np.int64),
            boxes=np.concatenate([part.xyxy for part in boxes]),
            scores=np.concatenate([part.scores for part in boxes]),
            settings=np.array(settings),
        )


def _read(path: Path, settings: str) -> dict[str, _Found]:
    """What a file of ours holds; nothing if there is none or it was made with other settings."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        if str(arrays["settings"]) != settings:
            return {}
        cuts = arrays["offsets"][1:-1]
        parts = zip(
            arrays["names"].tolist(),
            arrays["sizes"].tolist(),
            arrays["lengths"].tolist(),
            np.split(arrays["boxes"], cuts),
            np.split(arrays["scores"], cuts),
            strict=True,
        )
        return {
            name: _Found((height, width), length, Boxes(boxes, scores))
            for name, (height, width), length, boxes, scores in parts
        }
    except Exception as error:  # numpy raises whatever the damage happens to cause
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OutputError(
            f"{path}: exists and is no whole proposal file ({reason}); remove it or choose another name"
        ) from error

"""Reads a file of object proposals (made by `deconvseg.proposals.cache`) with numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import DataError

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

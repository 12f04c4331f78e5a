"""Photos with outlines drawn by people, from BSDS500 or from a data set with class masks, read when asked
for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.errors import DataError

_VOID = 255
_VOID_REACH = 6
"""Pixels. VOC's void border is about 5 wide: the edge is somewhere within. Void farther from every label than
this is a region nobody labelled."""


class LabelledPhoto(NamedTuple):
    """A photo and what people outlined in it.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        segmentations: one or more int32 (H, W), each a person's labelling: neighbours with different labels
            have an edge between them. Negative: nobody can tell; no window that touches such a pixel is used.
    """

    image: NDArray[np.uint8]
    segmentations: Sequence[NDArray[np.int32]]


class LabelledPhotos(Sequence[LabelledPhoto]):
    """Photos that are read from disk each time they are asked for, so that thousands need no memory."""

    def __init__(self, readers: Sequence[Callable[[], LabelledPhoto]]) -> None:
        self._readers = list(readers)

    def __len__(self) -> int:
        return len(self._readers)

    @overload
    def __getitem__(self, index: int) -> LabelledPhoto: ...
    @overload
    def __getitem__(self, index: slice) -> LabelledPhotos: ...
    def __getitem__(self, index: int | slice) -> LabelledPhoto | LabelledPhotos:
        if isinstance(index, slice):
            return LabelledPhotos(self._readers[index])
        return self._readers[index]()

    def __add__(self, other: LabelledPhotos) -> LabelledPhotos:
        return LabelledPhotos([*self._readers, *other._readers])


def bsds_photos(root: Path, split: str = "train") -> LabelledPhotos:
    """Photos of BSDS500 (Arbelaez et al., PAMI 2011), each with the segmentations of several people.

    Args:
        root: the folder with `images/` and `groundTruth/`, or one of those above it in the published archive.
        split: `train`, `val` or `test`.

    Raises:
        DataError: if the layout is another one, or a photo has no ground truth; later, if a file is damaged.
    """
    for folder in (root, root / "data", root / "BSDS500" / "data", root / "BSR" / "BSDS500" / "data"):
        images = sorted((folder / "images" / split).glob("*.jpg"))
        if images:
            break
    else:
        raise DataError(
            f"{root}: not a BSDS500 folder; it must hold images/{split}/*.jpg and groundTruth/{split}/*.mat"
        )
    pairs = [(image, folder / "groundTruth" / split / f"{image.stem}.mat") for image in images]
    for _, truth in pairs:
        if not truth.is_file():
            raise DataError(f"{truth}: this photo's ground truth is missing")
    return LabelledPhotos([lambda pair=pair: _read_bsds(*pair) for pair in pairs])  # type: ignore[misc]


def mask_photos(pairs: Sequence[tuple[Path, Path]]) -> LabelledPhotos:
    """Photos with a class mask each: (photo, PNG with 0 background, 1.. classes, 255 void), as in PASCAL VOC.

    Every connected object of a class is a segment of its own; all background is one.

    Raises:
        DataError: later, when a pair is read that is missing, damaged or of two sizes.
    """
    return LabelledPhotos([lambda pair=pair: _read_masked(*pair) for pair in pairs])  # type: ignore[misc]


def _read_bsds(image: Path, truth: Path) -> LabelledPhoto:
    from scipy.io import loadmat

    photo = np.array(_open(image).convert("RGB"))
    try:
        cells = loadmat(truth)["groundTruth"].reshape(-1)
        segmentations = [np.asarray(cell["Segmentation"][0, 0], np.int32) for cell in cells]
    except Exception as error:  # scipy raises whatever the damage happens to cause
        raise DataError(
            f"{truth}: no readable BSDS500 ground truth ({type(error).__name__}: {error})"
        ) from error
    if not segmentations or any(s.shape != photo.shape[:2] for s in segmentations):
        raise DataError(f"{truth}: the segmentations do not have the size of {image.name}")
    return LabelledPhoto(photo, segmentations)


def _read_masked(image: Path, mask: Path) -> LabelledPhoto:
    photo, labels = np.array(_open(image).convert("RGB")), np.array(_open(mask))
    if labels.shape != photo.shape[:2] or labels.dtype != np.uint8:
        raise DataError(f"{mask}: not an 8-bit mask of one channel with the size of {image.name}")
    return LabelledPhoto(photo, [objects_of_mask(labels)])


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error
    return image


def objects_of_mask(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Segments of a class mask: 0 background, 1.. one for every connected object (8 neighbours) of a class.

    Void takes the label of the nearest pixel that has one, so that the edge runs in the middle of the void
    border; void farther than 6 pixels from any becomes -1, unknown.
    """
    segments = np.zeros(mask.shape, np.int32)
    count = 0
    for label in np.setdiff1d(np.unique(mask), (0, _VOID)):
        found, parts = cv2.connectedComponents((mask == label).astype(np.uint8), connectivity=8)
        segments[parts > 0] = parts[parts > 0] + count
        count += found - 1
    void = mask == _VOID
    if void.all():
        return np.full(mask.shape, -1, np.int32)
    if void.any():
        segments, distance = fill_from_nearest(segments, void)
        segments[distance > _VOID_REACH] = -1
    return segments


def fill_from_nearest(
    labels: NDArray[np.int32], hole: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """`labels` (H, W) with each pixel of `hole` replaced by the nearest outside it, and the distance to
    that."""
    distance, nearest = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    value = np.zeros(int(nearest.max()) + 1, np.int32)
    value[nearest[~hole]] = labels[~hole]
    return value[nearest], distance

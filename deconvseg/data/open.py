"""Opens a data set of whichever layout its folder has."""

from __future__ import annotations

from pathlib import Path

from deconvseg.data.dataset import DataSet
from deconvseg.data.folder import DESCRIPTION, folder_dataset
from deconvseg.data.voc import find_sbd, find_voc, sbd_dataset, voc_dataset
from deconvseg.errors import DataError


def open_dataset(root: Path, split: str) -> DataSet:
    """A split of own data with a `dataset.toml`, or of VOC's or SBD's layout; DataError if there is none."""
    if (root / DESCRIPTION).is_file():
        return folder_dataset(root, split)
    if folder := find_voc(root):
        return voc_dataset(folder, split)
    if folder := find_sbd(root):
        return sbd_dataset(folder, split)
    raise DataError(
        f"{root}: not a VOC folder (JPEGImages, SegmentationClass, ImageSets), nor SBD's (img, cls; or "
        f"JPEGImages, SegmentationClassAug), nor own data with a {DESCRIPTION}; check the path"
    )

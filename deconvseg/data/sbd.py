"""The Semantic Boundaries Dataset (Hariharan et al., ICCV 2011): VOC's classes on some 11,000 photos."""

from __future__ import annotations

from pathlib import Path

from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.voc import AUGMENTED, read_list, voc_classes
from deconvseg.errors import DataError


def sbd_dataset(root: Path, split: str | None = None) -> DataSet:
    """A split of SBD, in its authors' form or in the usual form as PNG.

    Args:
        root: the folder with `img/*.jpg`, `cls/*.mat` and lists (`train.txt`, `val.txt`), or one of those
            above it in the published archive (`benchmark_RELEASE/dataset`); or a folder with `JPEGImages` and
            `SegmentationClassAug/*.png`, and lists in `ImageSets/Segmentation` or in the folder itself.
        split: name of a list, like `train`, `train_noval` or `train_aug`; None takes every photo that has a
            mask, by name. Beware that SBD's photos and those of VOC's `val` overlap.

    Raises:
        DataError: another layout, the list is missing or empty, or there is no mask at all.
    """
    folder = find_sbd(root)
    if folder is None:
        raise DataError(f"{root}: not an SBD folder; it must hold img and cls, or JPEGImages and {AUGMENTED}")
    images, masks, suffix = folder / "img", folder / "cls", "mat"
    lists = [folder]
    if not masks.is_dir():
        images, masks, suffix = folder / "JPEGImages", folder / AUGMENTED, "png"
        lists.insert(0, folder / "ImageSets" / "Segmentation")
    if split is None:
        source, names = masks, sorted(path.stem for path in masks.glob(f"*.{suffix}"))
        if not names:
            raise DataError(f"{masks}: holds no .{suffix} masks; unpack them into it")
    else:
        source, names = read_list(split, lists)
    examples = (Example(name, images / f"{name}.jpg", masks / f"{name}.{suffix}") for name in names)
    return voc_classes(examples, source)


def find_sbd(root: Path) -> Path | None:
    """The folder that holds SBD's photos and masks: `root` or one below it in the archive; None if none."""
    for candidate in (root, root / "dataset", root / "benchmark_RELEASE" / "dataset"):
        for parts in (("img", "cls"), ("JPEGImages", AUGMENTED)):
            if all((candidate / part).is_dir() for part in parts):
                return candidate
    return None

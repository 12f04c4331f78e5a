"""PASCAL VOC's folder layout: which photos a split names, and their masks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.masks import MaskFormat
from deconvseg.errors import DataError
from deconvseg.images.palette import VOC_CLASSES, palette_for

AUGMENTED = "SegmentationClassAug"
"""Where SBD's masks, turned into PNG, are usually laid over a VOC folder."""


def voc_dataset(root: Path, split: str) -> DataSet:
    """A split of VOC's segmentation set: 20 classes and background.

    A name without a mask in `SegmentationClass` takes the one in `SegmentationClassAug`, if it is there.

    Args:
        root: `VOCdevkit`, `VOCdevkit/VOC2012`, or any folder of that layout.
        split: name of a list in `ImageSets/Segmentation`, like `train` or `val`.

    Raises:
        DataError: another layout, or the list is missing or empty.
    """
    folder = voc_dir(root)
    source, names = read_list(split, [_lists(folder)])
    own, laid_over = folder / "SegmentationClass", folder / AUGMENTED
    augmented = laid_over.is_dir()
    return voc_classes(
        (
            Example(
                name,
                folder / "JPEGImages" / f"{name}.jpg",
                (laid_over if augmented and not (own / f"{name}.png").is_file() else own) / f"{name}.png",
            )
            for name in names
        ),
        source,
    )


def voc_classes(examples: Iterable[Example], source: Path) -> DataSet:
    """Examples with VOC's classes, colours and mask values."""
    count = len(VOC_CLASSES)
    return DataSet(VOC_CLASSES, palette_for(count), MaskFormat.indexed(count), tuple(examples), source)


def find_voc(root: Path) -> Path | None:
    """The folder of VOC's layout that `voc_dir` would return, or None."""
    for candidate in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if all((candidate / part).is_dir() for part in ("JPEGImages", "SegmentationClass", "ImageSets")):
            return candidate
    return None


def voc_dir(root: Path) -> Path:
    """The folder with `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation`.

    Args:
        root: `VOCdevkit`, `VOCdevkit/VOC2012`, or any folder of that layout.

    Raises:
        DataError: neither `root` nor `root/VOC2012` is one.
    """
    folder = find_voc(root)
    if folder is None:
        raise DataError(
            f"{root}: not a VOC folder; it, or VOC2012 in it, must hold "
            "JPEGImages, SegmentationClass, ImageSets"
        )
    return folder


def read_split(root: Path, split: str) -> list[str]:
    """Image names of a split, in the file's order.

    Raises:
        DataError: the list is missing or empty; the message names the lists that are there.
    """
    return read_list(split, [_lists(voc_dir(root))])[1]


def read_list(split: str, folders: Iterable[Path]) -> tuple[Path, list[str]]:
    """The first `<split>.txt` of the folders, and the image names in it, in its order.

    A line is a name; of lines with more, as some published lists have (the paths of photo and mask, a flag),
    the first word is taken, without folder and `.jpg`.

    Raises:
        DataError: the list is missing, unreadable or empty; the message names the lists that are there.
    """
    folders = list(folders)
    path = next((path for f in folders if (path := f / f"{split}.txt").is_file()), None)
    if path is None:
        known = ", ".join(sorted({p.stem for f in folders for p in f.glob("*.txt")})) or "none"
        raise DataError(f"{folders[0]}: there is no split named '{split}'; splits here: {known}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: list cannot be read ({error}); it must be plain text (UTF-8)") from error
    names = [PurePosixPath(words[0]).name.removesuffix(".jpg") for line in lines if (words := line.split())]
    if not names:
        raise DataError(f"{path}: the split is empty; put one image name a line in it")
    return path, names


def _lists(folder: Path) -> Path:
    return folder / "ImageSets" / "Segmentation"

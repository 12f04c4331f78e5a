"""The folder layouts of PASCAL VOC and of the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deconvseg.data.dataset import DataSet, Example, find_pictures, photo_name, read_lines
from deconvseg.data.masks import MaskFormat
from deconvseg.errors import DataError
from deconvseg.images import PHOTO_SUFFIXES
from deconvseg.images.palette import VOC_CLASSES, palette_for

AUGMENTED = "SegmentationClassAug"  # where SBD's masks, turned into PNG, are usually laid over a VOC folder
_LISTS = "ImageSets/Segmentation"


def find_voc(root: Path) -> Path | None:
    """The folder of VOC's layout: `root`, or one below it in the published archive; None if none."""
    folders = (root, root / "VOC2012", root / "VOCdevkit/VOC2012")
    return _first(folders, ("JPEGImages", "SegmentationClass", "ImageSets"))


def find_sbd(root: Path) -> Path | None:
    """The folder of SBD's layout, its authors' or with PNGs: `root`, or one below it in the archive."""
    folders = (root, root / "dataset", root / "benchmark_RELEASE/dataset")
    return _first(folders, ("img", "cls")) or _first(folders, ("JPEGImages", AUGMENTED))


def _first(folders: Sequence[Path], parts: Sequence[str]) -> Path | None:
    return next((folder for folder in folders if all((folder / part).is_dir() for part in parts)), None)


def voc_dataset(folder: Path, split: str) -> DataSet:
    """A split of VOC in a folder of `find_voc`, SBD's masks for those missing; DataError without a list."""
    masks = [folder / "SegmentationClass", folder / AUGMENTED]
    return _listed(split, [folder / _LISTS], folder / "JPEGImages", masks, ".png")


def sbd_dataset(folder: Path, split: str) -> DataSet:
    """A split of SBD in a folder of `find_sbd`, some of it in VOC's `val`; DataError without a list."""
    if (folder / "cls").is_dir():
        return _listed(split, [folder], folder / "img", [folder / "cls"], ".mat")
    return _listed(split, [folder / _LISTS, folder], folder / "JPEGImages", [folder / AUGMENTED], ".png")


def _listed(split: str, lists: Sequence[Path], images: Path, masks: Sequence[Path], suffix: str) -> DataSet:
    """The photos that the first `<split>.txt` of the folders names, with VOC's classes."""
    path = next((path for folder in lists if (path := folder / f"{split}.txt").is_file()), None)
    if path is None:
        known = ", ".join(sorted({p.stem for folder in lists for p in folder.glob("[!.]*.txt")})) or "none"
        raise DataError(f"{lists[0]}: there is no split named '{split}'; splits here: {known}")
    photos = find_pictures(images, ".jpg")
    labels: dict[str, Path] = {}
    for folder in reversed(masks):
        labels |= find_pictures(folder, suffix, suffixes=(*PHOTO_SUFFIXES, ".mat"))
    examples = []
    for line in read_lines(path):
        name = photo_name(line, photos)
        if name not in photos:  # some published lists have the paths of photo and mask, or a flag
            name = photo_name(line.split()[0].replace("\\", "/").rpartition("/")[2], photos)
        image, mask = images / f"{name}.jpg", masks[0] / f"{name}{suffix}"
        examples.append(Example(name, photos.get(name, image), labels.get(name, mask)))
    if not examples:
        raise DataError(f"{path}: the split is empty; put one image name a line in it")
    palette = palette_for(len(VOC_CLASSES))
    form = MaskFormat.indexed(VOC_CLASSES, palette)
    return DataSet(VOC_CLASSES, palette, form, tuple(examples), path)

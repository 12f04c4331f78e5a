"""Data sets: recognised by what their folder holds, read photo by photo, upright and of one size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.masks import MaskFormat
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError, InputError
from deconvseg.images.palette import VOC_CLASSES, palette_for


@pytest.fixture
def pair(tmp_path: Path) -> Example:
    Image.new("RGB", (6, 4), (9, 8, 7)).save(tmp_path / "a.png")
    Image.new("L", (6, 4), 1).save(tmp_path / "mask.png")
    return Example("a", tmp_path / "a.png", tmp_path / "mask.png")


def dataset(*examples: Example) -> DataSet:
    return DataSet(("background", "thing"), palette_for(2), MaskFormat.indexed(2), examples, Path("list.txt"))


def test_a_photo_comes_with_its_mask(pair: Example) -> None:
    image, mask = dataset(pair).read(pair)
    assert (image == [9, 8, 7]).all() and image.shape == (4, 6, 3)
    assert (mask == 1).all() and mask.shape == (4, 6)
    assert len(dataset(pair, pair)) == 2


def test_missing_files_are_named_when_they_are_read(pair: Example) -> None:
    pair.mask.unlink()
    with pytest.raises(DataError, match=r"mask\.png: no such mask"):
        dataset(pair).read(pair)
    pair.image.unlink()
    with pytest.raises(InputError, match=r"a\.png: no such file"):
        dataset(pair).read(pair)


def test_other_sizes_are_named(pair: Example) -> None:
    Image.new("L", (6, 5)).save(pair.mask)
    with pytest.raises(DataError, match=r"mask\.png: mask is 6x5, its photo a\.png 6x4; they must agree"):
        dataset(pair).read(pair)


def test_a_mask_of_the_unturned_photo_is_recognised(pair: Example) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    Image.new("RGB", (6, 4)).save(pair.image, exif=exif)
    with pytest.raises(DataError, match=r"mask is 6x4, its photo a\.png 4x6; it fits when turned .* EXIF"):
        dataset(pair).read(pair)
    Image.new("L", (4, 6)).save(pair.mask)
    assert dataset(pair).read(pair)[0].shape == (6, 4, 3)


def test_the_layout_is_recognised(tmp_path: Path, make_shapes: Callable[..., Path]) -> None:
    root = make_shapes(tmp_path / "devkit" / "VOC2012", train=2, val=1).parent
    voc = open_dataset(root, "train")
    assert (voc.classes, len(voc)) == (VOC_CLASSES, 2)
    assert voc.source == root / "VOC2012/ImageSets/Segmentation/train.txt"

    sbd = tmp_path / "benchmark_RELEASE" / "dataset"
    for part in ("img", "cls"):
        (sbd / part).mkdir(parents=True)
    (sbd / "val.txt").write_text("x\n")
    assert open_dataset(tmp_path, "val").examples[0].mask == sbd / "cls" / "x.mat"

    # A description goes first: it can give a VOC folder classes of its own.
    (root / "VOC2012/dataset.toml").write_text(
        'images = "JPEGImages"\nmasks = "SegmentationClass"\n[splits]\nfew = ["shape001"]\n'
        '[[classes]]\nname = "ground"\n[[classes]]\nname = "disc"\n[[classes]]\nname = "square"\n'
    )
    own = open_dataset(root / "VOC2012", "few")
    assert own.classes == ("ground", "disc", "square")
    for mine, theirs in zip(own.read(own.examples[0]), voc.read(voc.examples[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_other_folders_are_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            DataError, match=r"not a VOC folder \(JPEG.*SBD.*img, cls.*dataset\.toml"
        ) as caught:
            open_dataset(root, "train")
        assert str(caught.value).startswith(f"{root}: ")

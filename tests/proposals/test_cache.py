"""The proposal file: what it holds, and what is said of one that cannot be used."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deconvseg.errors import DataError, InputError
from deconvseg.images.read import read_image
from deconvseg.proposals import cache as cache_module
from deconvseg.proposals.boxes import find_boxes
from deconvseg.proposals.cache import cache_proposals, read_proposals
from deconvseg.proposals.edges import EdgeDetector

Photos = list[tuple[str, Path]]
SIZES = [(90, 60), (50, 70), (64, 64), (80, 50)]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Four small photos, each with a bright rectangle."""
    found = []
    for number, (width, height) in enumerate(SIZES):
        image = np.full((height, width, 3), 60, np.uint8)
        image[10 : height - 12, 8 + number : width - 15] = (220, 180, 40 + number)
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        found.append((f"photo {number}", path))
    return found


def test_file_holds_the_plain_boxes_of_every_photo(
    photos: Photos, tmp_path: Path, detector: EdgeDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(cache_module, "COUNT", 7)
    cache_proposals(photos, tmp_path / "p.npz", workers=2, progress=lambda: steps.append(1))
    found = read_proposals(tmp_path / "p.npz", [name for name, _ in reversed(photos)])
    for (_, path), (boxes, size), (width, height) in zip(photos, reversed(found), SIZES, strict=True):
        expected = find_boxes(read_image(path), detector, count=7)
        assert size == (height, width) and 0 < len(boxes) <= 7
        np.testing.assert_array_equal(boxes, expected.xyxy)
    assert len(steps) == len(photos)


def test_photo_that_cannot_be_read_is_named_and_nothing_is_kept(photos: Photos, tmp_path: Path) -> None:
    photos[2][1].write_text("no photo")
    with pytest.raises(InputError, match=r"2\.png: is not an image"):
        cache_proposals(photos, tmp_path / "p.npz")
    assert not (tmp_path / "p.npz").exists()


def arrays() -> dict[str, Any]:
    """Two photos of 40 x 60 and 30 x 20 (height x width) with two boxes and one, and one without any."""
    return {
        "names": np.array(["a", "день", "c"]),
        "sizes": np.array([[40, 60], [30, 20], [8, 8]], np.int32),
        "offsets": np.array([0, 2, 3, 3], np.int64),
        "boxes": np.array([[0, 0, 60, 40], [5, 6, 7.5, 8], [0, 10, 20, 30]], np.float32),
    }


def write(path: Path, **changed: Any) -> Path:
    np.savez_compressed(path, **{k: v for k, v in (arrays() | changed).items() if v is not None})
    return path


def test_boxes_and_size_of_each_photo(tmp_path: Path) -> None:
    path = write(tmp_path / "p.npz", digests=np.array(["1", "2", "3"]))  # as files had them before
    (boxes, size), (none, _), (more, other) = read_proposals(path, ["день", "c", "a"])
    np.testing.assert_array_equal(boxes, [[0, 10, 20, 30]])
    assert (size, none.shape) == ((30, 20), (0, 4))
    assert (more.dtype, other) == (np.float32, (40, 60))
    np.testing.assert_array_equal(more, [[0, 0, 60, 40], [5, 6, 7.5, 8]])
    with pytest.raises(DataError, match=r"p\.npz: holds no proposals of 2007_000001; remove the file"):
        read_proposals(path, ["a", "2007_000001"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"boxes": None}, "boxes"),
        ({"names": np.array(["a", "b"])}, "longer"),
        ({"sizes": np.array([[40, 60], [30, 20]], np.int32)}, "shorter"),
        ({"boxes": np.array([{}, {}, {}], object)}, "Object arrays"),
    ],
)
def test_hostile_arrays(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_proposals(write(tmp_path / "p.npz", **changed), ["a"])
    assert str(caught.value).startswith(f"{tmp_path / 'p.npz'}: ")
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    path = write(tmp_path / "p.npz")
    for content in (path.read_bytes()[:-40], stream.getvalue(), pickle.dumps([]), b"PK", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"p\.npz: is no whole proposal file"):
            read_proposals(path, ["a"])
    path.unlink()
    with pytest.raises(DataError, match=r"p\.npz: .*No such file"):
        read_proposals(path, ["a"])


def test_needs_no_contrib_modules_of_opencv() -> None:
    code = "import cv2; del cv2.ximgproc; import deconvseg.proposals.cache"
    subprocess.run([sys.executable, "-c", code], check=True)

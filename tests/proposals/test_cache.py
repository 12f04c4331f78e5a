"""The proposal file: what it holds, and how little is done twice."""

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
from deconvseg.proposals.cache import PhotoBoxes, cache_proposals, read_proposals
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


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, detector: EdgeDetector) -> list[str]:
    """Stems of the photos whose boxes were computed, in order."""
    stems: list[str] = []
    find = cache_module._find

    def noted(detector: EdgeDetector, photo: Path) -> PhotoBoxes:
        result = find(detector, photo)
        stems.append(photo.stem)
        return result

    monkeypatch.setattr(cache_module, "_find", noted)
    monkeypatch.setattr(cache_module, "EdgeDetector", lambda forest: detector)  # which takes a second to load
    return stems


def test_file_holds_the_plain_boxes_of_every_photo(
    photos: Photos, tmp_path: Path, detector: EdgeDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(cache_module, "COUNT", 7)
    cache_proposals(photos, tmp_path / "p.npz", workers=2, progress=lambda: steps.append(1))
    file = read_proposals(tmp_path / "p.npz")
    for (name, path), (width, height) in zip(photos, SIZES, strict=True):
        boxes, size = file.of(name)
        expected = find_boxes(read_image(path), detector, count=7)
        assert size == (height, width) and 0 < len(boxes) <= 7
        np.testing.assert_array_equal(boxes, expected.xyxy)
    assert len(steps) == len(photos)


def test_new_and_changed_photos_alone_are_done(photos: Photos, tmp_path: Path, done: list[str]) -> None:
    target = tmp_path / "p.npz"
    Image.new("RGB", (40, 20)).save(photos[1][1], "BMP")
    cache_proposals(photos[:2], target)
    before, kept = target.stat().st_mtime_ns, read_proposals(target).of("photo 0")[0]
    cache_proposals(photos[:1], target, progress=lambda: done.append("again"))
    assert done == ["0", "1", "again"] and target.stat().st_mtime_ns == before
    length = photos[1][1].stat().st_size
    Image.new("RGB", (20, 40)).save(photos[1][1], "BMP")
    assert photos[1][1].stat().st_size == length
    done.clear()
    cache_proposals(photos[1:], target)
    assert done == ["1", "2", "3"]
    file = read_proposals(target)
    assert file.of("photo 1")[0].shape == (0, 4)  # nothing is an edge in a black photo
    assert file.of("photo 1")[1] == (40, 20)
    np.testing.assert_array_equal(file.of("photo 0")[0], kept)


def test_other_code_and_another_forest_do_all_again(
    photos: Photos, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, forest = tmp_path / "p.npz", tmp_path / "other.yml.gz"
    forest.touch()
    cache_proposals(photos, target)
    monkeypatch.setattr(cache_module, "COUNT", 3)
    cache_proposals(photos, target)
    assert done == ["0", "1", "2", "3"] * 2
    assert max(len(read_proposals(target).of(name)[0]) for name, _ in photos) == 3
    monkeypatch.setattr(cache_module, "forest_file", lambda _: forest)
    cache_proposals(photos, target)
    assert len(done) == 12


def test_interrupted_run_goes_on(photos: Photos, tmp_path: Path, done: list[str]) -> None:
    target = tmp_path / "p.npz"

    def stop() -> None:
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_proposals(photos, target, progress=stop)
    done.clear()
    cache_proposals(photos, target)
    assert done == ["3"]
    assert set(read_proposals(target).photos) == {name for name, _ in photos}


def test_killed_run_has_saved_on_the_way(
    photos: Photos, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SAVED_EVERY", 2)
    seen: list[list[str]] = []

    def look() -> None:
        file = tmp_path / "p.npz"
        seen.append(list(read_proposals(file).photos) if file.exists() else [])

    cache_proposals(photos, tmp_path / "p.npz", progress=look)
    assert seen == [[], [], ["photo 0", "photo 1"], ["photo 0", "photo 1"]]


def test_photo_that_cannot_be_read_is_named(photos: Photos, tmp_path: Path, done: list[str]) -> None:
    photos[2][1].write_text("no photo")
    with pytest.raises(InputError, match=r"2\.png: is not an image"):
        cache_proposals(photos, tmp_path / "p.npz")
    assert list(read_proposals(tmp_path / "p.npz").photos) == ["photo 0", "photo 1"]
    photos[2][1].unlink()
    with pytest.raises(InputError, match=r"2\.png: no such file"):
        cache_proposals(photos, tmp_path / "p.npz")
    with pytest.raises(DataError, match="photo 0: there are 2 photos"):
        cache_proposals([*photos, ("photo 0", photos[1][1])], tmp_path / "p.npz")


def test_file_of_another_kind_is_not_replaced(photos: Photos, tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"p\.npz: is no whole proposal file .* remove it"):
        cache_proposals(photos, tmp_path / "p.npz")
    assert (tmp_path / "p.npz").read_bytes() == b"precious"


def arrays() -> dict[str, Any]:
    """Two photos of 40 x 60 and 30 x 20 (height x width) with two boxes and one, and one without any."""
    return {
        "names": np.array(["a", "день", "c"]),
        "sizes": np.array([[40, 60], [30, 20], [8, 8]], np.int32),
        "offsets": np.array([0, 2, 3, 3], np.int64),
        "boxes": np.array([[0, 0, 60, 40], [5, 6, 7.5, 8], [0, 10, 20, 30]], np.float32),
        "digests": np.array(["1", "2", "3"]),
        "settings": np.array("{}"),
    }


def write(path: Path, **changed: Any) -> Path:
    np.savez_compressed(path, **{k: v for k, v in (arrays() | changed).items() if v is not None})
    return path


def test_boxes_and_size_of_each_photo(tmp_path: Path) -> None:
    file = read_proposals(write(tmp_path / "p.npz", scores=np.zeros(3)))  # as files had them before
    boxes, size = file.of("a")
    assert (boxes.dtype, size) == (np.float32, (40, 60))
    np.testing.assert_array_equal(boxes, [[0, 0, 60, 40], [5, 6, 7.5, 8]])
    boxes, size = file.of("день")
    np.testing.assert_array_equal(boxes, [[0, 10, 20, 30]])
    assert size == (30, 20)
    assert file.of("c")[0].shape == (0, 4)
    with pytest.raises(DataError, match=r"p\.npz: holds no proposals of 2007_000001; make the file again"):
        file.of("2007_000001")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"boxes": None}, "boxes"),
        ({"names": np.array(["a", "b"])}, "longer"),
        ({"sizes": np.array([[40, 60], [30, 0], [8, 8]], np.int32)}, "outside"),
        ({"offsets": np.array([0, 2, 1, 3], np.int64)}, "offsets"),
        ({"offsets": np.array([0, 2, 3, 9], np.int64)}, "offsets"),
        ({"boxes": np.array([[0, 0, 60, 40], [5, np.nan, 7, 8], [0, 10, 20, 30]], np.float32)}, "outside"),
        ({"boxes": np.array([[0, 0, 60, 40], [5, 6, 5, 8], [0, 10, 20, 30]], np.float32)}, "empty"),
        ({"boxes": np.array([[0, 0, 60, 40], [5, 6, 7, 8], [0, 10, 21, 30]], np.float32)}, "outside"),
        ({"boxes": np.array([{}, {}, {}], object)}, "Object arrays"),
    ],
)
def test_hostile_arrays(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_proposals(write(tmp_path / "p.npz", **changed))
    assert str(caught.value).startswith(f"{tmp_path / 'p.npz'}: ")
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    path = write(tmp_path / "p.npz")
    for content in (path.read_bytes()[:-40], stream.getvalue(), pickle.dumps([]), b"PK", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"p\.npz: is no whole proposal file"):
            read_proposals(path)
    path.unlink()
    with pytest.raises(DataError, match=r"p\.npz: .*No such file"):
        read_proposals(path)


def test_needs_no_contrib_modules_of_opencv() -> None:
    code = "import cv2; del cv2.ximgproc; import deconvseg.proposals.cache"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Proposal files: what is read is what was written, and nothing damaged gets through."""

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvseg.errors import DataError
from deconvseg.proposals.cache import read_proposals


def arrays() -> dict[str, Any]:
    """Two photos of 40 x 60 and 30 x 20 (height x width) with two boxes and one, and one without any."""
    return {
        "names": np.array(["a", "день", "c"]),
        "sizes": np.array([[40, 60], [30, 20], [8, 8]], np.int32),
        "offsets": np.array([0, 2, 3, 3], np.int64),
        "boxes": np.array([[0, 0, 60, 40], [5, 6, 7.5, 8], [0, 10, 20, 30]], np.float32),
        "digests": np.array(["1", "2", "3"]),
        "scores": np.array([0.5, 0.25, 0.75], np.float32),
        "settings": np.array("{}"),
    }


def write(path: Path, **changed: Any) -> Path:
    np.savez_compressed(path, **{k: v for k, v in (arrays() | changed).items() if v is not None})
    return path


def test_boxes_and_size_of_each_photo(tmp_path: Path) -> None:
    of_before = {"digests": None, "lengths": np.array([1, 2, 3])}
    file = read_proposals(write(tmp_path / "p.npz", **of_before))
    assert file.photos.keys() == read_proposals(write(tmp_path / "p.npz")).photos.keys()
    boxes, size = file.of("a")
    assert (boxes.dtype, size) == (np.float32, (40, 60))
    np.testing.assert_array_equal(boxes, [[0, 0, 60, 40], [5, 6, 7.5, 8]])
    boxes, size = file.of("день")
    np.testing.assert_array_equal(boxes, [[0, 10, 20, 30]])
    assert size == (30, 20)
    assert file.of("c")[0].shape == (0, 4)


def test_unknown_photo(tmp_path: Path) -> None:
    file = read_proposals(write(tmp_path / "p.npz"))
    with pytest.raises(DataError, match=r"p\.npz: holds no proposals of 2007_000001; make the file again"):
        file.of("2007_000001")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"boxes": None}, "boxes"),
        ({"names": np.array([1, 2, 3])}, "names"),
        ({"names": np.array(["a", "a", "c"])}, "names"),
        ({"names": np.array(["a", "b"])}, "sizes"),
        ({"digests": np.array(["1", "2"])}, "digests"),
        ({"scores": None}, "scores"),
        ({"sizes": np.array([[40, 60], [30, 0], [8, 8]], np.int32)}, "sizes"),
        ({"offsets": np.array([0, 2, 1, 3], np.int64)}, "offsets"),
        ({"offsets": np.array([-1, 2, 3, 3], np.int64)}, "offsets"),
        ({"offsets": np.array([0, 2, 3, 9], np.int64)}, "offsets"),
        ({"boxes": np.zeros((3, 5), np.float32)}, "boxes"),
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


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("content", ["npy", "pickle", "text", "nothing"])
def test_other_files(tmp_path: Path, content: str) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    trap = tmp_path / "trap"
    contents = {
        "npy": stream.getvalue(),
        "pickle": pickle.dumps(Bomb(str(trap))),
        "text": b"PK",
        "nothing": b"",
    }
    (tmp_path / "p.npz").write_bytes(contents[content])
    with pytest.raises(DataError, match=r"p\.npz: is no whole proposal file"):
        read_proposals(tmp_path / "p.npz")
    assert not trap.exists()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.npz: no such proposal file"):
        read_proposals(tmp_path / "p.npz")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damage_is_told_or_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    whole = write(path).read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(DataError):
            read_proposals(path)
        return
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    try:
        file = read_proposals(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:  # the byte was one that nothing depends on, or a letter of a name in the archive's directory
        boxes = np.concatenate([photo.boxes.xyxy for photo in file.photos.values()])
        np.testing.assert_array_equal(boxes, arrays()["boxes"])


def test_needs_no_contrib_modules_of_opencv() -> None:
    code = "import cv2; del cv2.ximgproc; import deconvseg.proposals.cache"
    subprocess.run([sys.executable, "-c", code], check=True)

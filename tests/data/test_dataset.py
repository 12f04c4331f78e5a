"""Data sets: recognised by what their folder holds; their pictures and lists are found and read."""

from pathlib import Path

import numpy as np
import pytest

from deconvseg.data.dataset import find_pictures, photo_name, read_lines
from deconvseg.data.open import open_dataset
from deconvseg.errors import DataError

from ..conftest import OWN_CLASSES, describe, make_shapes


@pytest.mark.parametrize("name", ["gone.jpg", "folder"])
def test_links_that_lead_nowhere_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(the link leads nowhere\)"):
        find_pictures(tmp_path)


def test_of_pictures_of_one_name_the_preferred_one_is_taken(tmp_path: Path) -> None:
    for name in ("a.PNG", "a.bmp", "a.jpg", "b.png", "c.bmp", "notes.txt", "._a.png"):
        (tmp_path / name).touch()
    found = find_pictures(tmp_path, ".png")
    assert found == {"a": tmp_path / "a.PNG", "b": tmp_path / "b.png", "c": tmp_path / "c.bmp"}
    with pytest.raises(DataError, match=r"a\.bmp: a\.PNG has the same name"):
        find_pictures(tmp_path)


def test_entries_of_lists() -> None:
    photos = {"a", "sub/b", "v1.2", "a\\b", "scan.jpg"}
    entries = ["a.JPG", "./sub/b.png", "sub\\b.png", "v1.2", "v1.2.jpg", "a\\b", "scan.jpg", "gone.jpg"]
    want = ["a", "sub/b", "sub/b", "v1.2", "v1.2", "a\\b", "scan.jpg", "gone"]
    assert [photo_name(entry, photos) for entry in entries] == want


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_are_read_as_any_editor_saves_them(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "l.txt").write_bytes("sub\\ä b\r\n\r\n  c \rd".encode(encoding))
    assert read_lines(tmp_path / "l.txt") == ["sub\\ä b", "c", "d"]
    (tmp_path / "l.txt").write_bytes(b"\xff\xfa")
    for name, reason in (("l.txt", "'utf-8' codec"), ("none.txt", "No such file or directory")):
        with pytest.raises(DataError, match=rf"{name}: list cannot be read \({reason}"):
            read_lines(tmp_path / name)


def test_a_description_goes_first_and_folders_of_no_layout_are_refused(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "devkit" / "VOC2012", train=2, val=1).parent
    voc = open_dataset(root, "train")
    # A description goes first: it can give a VOC folder classes of its own.
    own = open_dataset(describe(root / "VOC2012", few=["shape001"]), "few")
    assert own.classes == tuple(OWN_CLASSES)
    for mine, theirs in zip(own.read(own.examples[0]), voc.read(voc.examples[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for other in (root / "VOC2012/JPEGImages", tmp_path / "nowhere"):
        words = rf"^{other}: not a VOC folder \(JPEG.*SBD.*img, cls.*dataset\.toml"
        with pytest.raises(DataError, match=words):
            open_dataset(other, "train")

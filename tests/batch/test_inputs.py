"""What INPUT... stands for where folders, links, names and lists are odd."""

import os
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from deconvseg.batch.inputs import find_photos


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jpg", "in/sub/a.jpg", "in/sub/b.PNG", "in/x.txt", "in/.hidden/c.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*inputs: str) -> list[str]:
    photos, problems, notes = find_photos(inputs, "out")
    assert not problems and not notes
    return [photo.path for photo in photos]


def test_circles_of_links_below_a_double_star() -> None:
    """Python's own glob would go 2 ** 40 ways here."""
    for name in ("up", "round"):
        Path("in/sub", name).symlink_to("..", target_is_directory=True)
    assert found("in/**/*.jpg") == found("in/*.jpg", "in/sub/*.jpg") == ["in/a.jpg", "in/sub/a.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/a.jpg", {"in/a.jpg", "in/sub/a.jpg"}),
        ("i*/**/[ab].*", {"in/a.jpg", "in/sub/a.jpg", "in/sub/b.PNG"}),
        ("in/**/sub/*", {"in/sub/a.jpg", "in/sub/b.PNG"}),
        ("in/**", {"in/a.jpg", "in/sub/a.jpg", "in/sub/b.PNG", "in/x.txt"}),
        ("./in/**/x.txt", {"in/x.txt"}),
    ],
)
def test_double_star(pattern: str, expected: set[str]) -> None:
    assert set(found(pattern)) == expected


def test_folder_that_cannot_be_listed_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    line = "in/sub: cannot be listed (Permission denied); check its permissions"
    photos, problems, _ = find_photos(["in"], "out")
    assert [photo.path for photo in photos] == ["in/a.jpg"]
    assert problems == [line]
    assert find_photos(["in/sub"], "out") == ([], [line], [])


def test_list_of_names_of_any_bytes() -> None:
    names = [b"in/new\nline.jpg", b" in/spaces .jpg ", b"# no comment.jpg", b"in/\xf0\x9f\x90\x88.jpg"]
    names.append(b"in/\xff.jpg")
    Path("list").write_bytes(b"\0".join([*names, b""]))
    assert found("@list") == [os.fsdecode(name) for name in names]
    Path("list").write_bytes(b"\n".join([b"# a comment", b"", *names[3:]]))
    assert found("@list") == [os.fsdecode(name) for name in names[3:]]


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "tiff", "webp"])
def test_a_photo_by_whatever_name_is_no_list(kind: str) -> None:
    Image.linear_gradient("L").resize((1, 1)).save("cat", kind)
    (line,) = find_photos(["@cat"], "out")[1]
    assert line == "@cat: is a photo or another file that is no text in UTF-8; leave out the @"


def test_control_characters_in_a_list() -> None:
    """File names can have them; what is no file's name and has them is no list."""
    Path("in/\x01.jpg").touch()
    Path("list").write_bytes(b"in/\x01.jpg\0in/\t.jpg\0in/\n.jpg\0")
    assert found("@list") == ["in/\x01.jpg", "in/\t.jpg", "in/\n.jpg"]
    Path("in/\x01.jpg").unlink()
    assert find_photos(["@list"], "out")[0] == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_encodings_of_a_list(encoding: str) -> None:
    Path("list.txt").write_text("in/é.jpg\r\nin/ü.jpg\r\n", encoding, newline="")
    assert found("@list.txt") == ["in/é.jpg", "in/ü.jpg"]
    Path("list.txt").write_text("in/é.jpg\n", "utf-16-le")
    Path("list.txt").write_bytes(b"\xff\xfe" + Path("list.txt").read_bytes())
    assert "is no text in UTF-8" in find_photos(["@list.txt"], "out")[1][0]


def test_masks_of_an_earlier_run_are_no_photos() -> None:
    Path("in/a.masks").mkdir()
    Path("in/a.masks/cat.png").touch()
    assert found("in") == found("in/**/*.[jpPJ]*") == ["in/a.jpg", "in/sub/a.jpg", "in/sub/b.PNG"]
    assert found("in/a.masks") == ["in/a.masks/cat.png"]


@pytest.mark.parametrize("manifest", ["segment.jsonl", "segment.0-of-2.jsonl"])
def test_results_of_another_run_are_no_photos(manifest: str) -> None:
    for name in ("in/m1/a.png", "in/m1/below/a.png", f"in/m1/{manifest}", "in/m2/a.png", f"in/m2/{manifest}"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    photos, problems, notes = find_photos(["in", "in"], "in/m2")
    assert [photo.path for photo in photos] == ["in/a.jpg", "in/sub/a.jpg", "in/sub/b.PNG"]
    assert not problems
    assert notes == [
        "in/m1: holds results of another run, and is left out; name it among the inputs to take it"
    ]
    assert found("in/m1") == ["in/m1/a.png", "in/m1/below/a.png"]


def test_photos_whose_links_lead_nowhere_are_missing() -> None:
    for name in ("in/lost.jpg", "in/more"):
        Path(name).symlink_to("nothing")
    assert found("in") == ["in/a.jpg", "in/lost.jpg", "in/sub/a.jpg", "in/sub/b.PNG"]


def test_results_in_the_store_that_photos_are_in() -> None:
    store = fsspec.filesystem("memory")
    for name in ("a.jpg", "a.mask.png", "m/a.png", ".h/a.png"):
        store.pipe(f"/inputs/{name}", b"")
    photos, problems, _ = find_photos(["memory://inputs"], "memory://inputs/m/")
    store.rm("/inputs", recursive=True)
    assert ([photo.name for photo in photos], problems) == (["a"], [])


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://h/photos/cat.jpg?sig=abc&x=%2Fd.png", "cat"),
        ("https://h/photos/cat.jpg#part", "cat"),
        ("https://h/photos/12345", "12345"),
        ("http://h/get?id=5", "get"),
        ("https://h/photos/cat.JPEG", "cat"),
    ],
)
def test_addresses_of_the_web_are_photos_by_whatever_name(address: str, name: str) -> None:
    (photo,) = find_photos([address], "out")[0]
    assert (photo.path, photo.name) == (address, name)
    assert "?" not in photo.shown and "abc" not in photo.shown
    Path("list.txt").write_text(address)
    (listed,) = find_photos(["@list.txt"], "out")[0]
    assert listed.path == address and listed.name.endswith(name)

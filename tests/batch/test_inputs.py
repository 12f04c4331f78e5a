"""What INPUT... stands for where folders, links, names and lists are odd."""

import os
import unicodedata
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
    listdir = os.listdir

    def refuse(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    line = "in/sub: cannot be listed (Permission denied); check its permissions"
    for argument in ("in", "in/**/*.jpg"):
        photos, problems, _ = find_photos([argument], "out")
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


def test_a_file_named_like_a_comment() -> None:
    Path("#1.jpg").touch()
    Path("list").write_text("#1.jpg \n#2.jpg\n # 3.jpg\nin/a.jpg\n")
    assert found("@list") == ["#1.jpg", "# 3.jpg", "in/a.jpg"]


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "tiff", "webp"])
def test_a_photo_by_whatever_name_is_no_list(kind: str) -> None:
    Image.linear_gradient("L").resize((1, 1)).save("cat", kind)
    (line,) = find_photos(["@cat"], "out").problems
    assert line == "@cat: is a photo or another binary file, not a list; leave out the @"


def test_control_characters_in_a_list() -> None:
    """File names can have them; what is no file's name and has them is no list."""
    Path("in/\x01.jpg").touch()
    Path("list").write_bytes(b"in/\x01.jpg\0in/\t.jpg\0in/\n.jpg\0")
    assert found("@list") == ["in/\x01.jpg", "in/\t.jpg", "in/\n.jpg"]
    Path("in/\x01.jpg").unlink()
    assert find_photos(["@list"], "out").photos == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_a_list(encoding: str) -> None:
    Path("list.txt").write_text("in/é.jpg\r\nin/ü.jpg\r\n", encoding, newline="")
    assert found("@list.txt") == ["in/é.jpg", "in/ü.jpg"]


def test_masks_of_an_earlier_run_are_no_photos() -> None:
    for name in ("in/a.masks/cat.png", "in/other.masks/cat.png"):
        Path(name).parent.mkdir()
        Path(name).touch()
    for argument in ("in", "in/**/*.png"):
        assert {path for path in found(argument) if "masks" in path} == {"in/other.masks/cat.png"}
    assert found("in/a.masks") == ["in/a.masks/cat.png"]


@pytest.mark.parametrize("manifest", ["segment.jsonl", "segment.0-of-2.jsonl"])
def test_results_of_another_run_are_no_photos(manifest: str) -> None:
    for name in ("in/m1/a.png", "in/m1/below/a.png", f"in/m1/{manifest}", "in/m2/a.png", f"in/m2/{manifest}"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for argument in ("in", "in/**/*.jpg"):
        photos, problems, notes = find_photos([argument, argument], "in/m2")
        assert {photo.path for photo in photos} - {"in/sub/b.PNG"} == {"in/a.jpg", "in/sub/a.jpg"}
        assert not problems
        assert notes == [
            "in/m1: holds results of another run, and is left out; name it among the inputs to take it"
        ]
    assert found("in/m1") == ["in/m1/a.png", "in/m1/below/a.png"]


def test_results_of_another_run_in_a_store() -> None:
    store = fsspec.filesystem("memory")
    for name in ("a.jpg", "m1/a.png", "m1/segment.jsonl", "m2/segment.jsonl", "m11/a.png"):
        store.pipe(f"/inputs/{name}", b"")
    store.pipe("/inputs/m2/a.png", b"")
    photos, problems, notes = find_photos(["memory://inputs"], "memory://inputs/m2/")
    store.rm("/inputs", recursive=True)
    assert [photo.name for photo in photos] == ["a", "m11/a"]
    assert not problems
    (note,) = notes
    assert note.startswith("memory:///inputs/m1/: holds results of another run")


def test_links_that_lead_nowhere_are_told() -> None:
    for name in ("in/lost.jpg", "in/more", "in/notes.txt"):
        Path(name).symlink_to("nothing")
    photos, problems, _ = find_photos(["in"], "out")
    assert len(photos) == 3
    assert problems == [
        f"in/{name}: the link leads nowhere; mend it or remove it" for name in ("lost.jpg", "more")
    ]


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
    (photo,) = find_photos([address], "out").photos
    assert (photo.path, photo.name) == (address, name)
    assert "?" not in photo.shown and "abc" not in photo.shown
    Path("list.txt").write_text(address)
    (listed,) = find_photos(["@list.txt"], "out").photos
    assert listed.path == address and listed.name.endswith(name)


def test_brackets_of_a_name_are_explained() -> None:
    Path("trip [2024]").mkdir()
    Path("trip [2024]/a.jpg").touch()
    (problem,) = find_photos(["trip [2024]/*.jpg"], "out").problems
    assert "write 'trip [[]2024]/*.jpg' if the name has brackets" in problem
    assert found("trip [[]2024]/*.jpg") == ["trip [2024]/a.jpg"]


@pytest.mark.parametrize(("disk", "given"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_may_be_composed_otherwise_than_on_the_disk(disk: str, given: str) -> None:
    on_disk, as_given = (unicodedata.normalize(form, "in/müller.jpg") for form in (disk, given))
    Path(on_disk).touch()
    Path("list.txt").write_text(as_given)
    assert found("@list.txt") == found(as_given) == [on_disk]

"""Registries: what is read, what is refused, which of several wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from deconvseg.errors import WeightsError
from deconvseg.registry import Figure, find, nearest, read_registries

HASH = "0123456789abcdef" * 4


def write(path: Path, *entries: str, head: str = "format = 1\n") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + "\n".join(entries), encoding="utf-8")
    return path


def entry(name: str, more: str = "", file: str = "") -> str:
    return f"""
[weights.{name}]
kind = "network"
file = "{file or name + ".safetensors"}"
description = "A network"
licence = "MIT"
licence_free = true
{more}
"""


def test_everything_is_read(tmp_path: Path) -> None:
    more = f"""
bytes = 10
sha256 = "{HASH}"
urls = ["https://a.example/x", "http://b.example:8080/x"]
aliases = ["road"]
classes = ["background", "Straße"]
figures = [{{ measure = "mean IoU", value = 0.5, on = "val", how = "measured" }}]
"""
    path = write(tmp_path / "registry.toml", entry("roads", more))
    (read,) = read_registries([path]).values()
    assert (read.name, read.kind, read.file, read.folder) == (
        "roads",
        "network",
        "roads.safetensors",
        tmp_path,
    )
    assert (read.bytes, read.sha256, read.licence_free) == (10, HASH, True)
    assert read.urls == ("https://a.example/x", "http://b.example:8080/x")
    assert read.classes == ("background", "Straße")
    assert read.figures == (Figure("mean IoU", 0.5, "val", "measured"),)
    assert read.obtain == ""


def test_find_and_nearest(tmp_path: Path) -> None:
    entries = read_registries([write(tmp_path / "r.toml", entry("roads", 'aliases = ["default"]'))])
    assert find(entries, "roads") is find(entries, "default") is entries["roads"]
    assert find(entries, "raods") is None
    assert nearest(entries, "raods") == "did you mean 'roads'?"
    assert nearest(entries, "defualt") == "did you mean 'default'?"
    assert nearest(entries, "xyz") == "known are default, roads"


def test_the_later_registry_wins(tmp_path: Path) -> None:
    ours = write(tmp_path / "ours.toml", entry("a", 'aliases = ["default", "c"]'), entry("b"))
    own = write(tmp_path / "own" / "own.toml", entry("b", 'aliases = ["default"]'), entry("c"))
    entries = read_registries([ours, own])
    assert list(entries) == ["a", "b", "c"]
    assert entries["b"].folder == tmp_path / "own"
    assert find(entries, "default") is entries["b"]
    assert find(entries, "c") is entries["c"]
    assert entries["a"].aliases == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format = 2", "format = 2; this version reads format = 1"),
        ("", "format = None"),
        ("format = 1\n[weights", "cannot be read"),
        ("format = 1\nweights = 3", "weights = 3 should be of type dict"),
        ("format = 1\nweight = {}", "unknown key 'weight'; did you mean 'weights'?"),
        ("format = 1\nweights = {a = 3}", "should be a table, [weights.a]"),
    ],
)
def test_broken_registries(tmp_path: Path, text: str, words: str) -> None:
    check(write(tmp_path / "r.toml", head=text), words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("license = 'x'", "weights.a: unknown key 'license'; did you mean 'licence'?"),
        ("bytes = '10'", "bytes = '10' should be of type int"),
        ("bytes = true", "bytes = True should be of type int"),
        ("bytes = 10", "bytes and sha256 belong together"),
        (f"bytes = 0\nsha256 = '{HASH}'", "bytes = 0"),
        (f"bytes = 1\nsha256 = '{HASH[1:]}'", "64 digits"),
        (f"bytes = 1\nsha256 = '{HASH.upper()}'", "64 digits"),
        ("urls = ['https://a.example/x']", "nothing is fetched that cannot be checked"),
        ("classes = ['a', 3]", "classes should be a list of strings"),
        ('terms = "a\\u001b[2Jb"', "terms should be one line"),
        ('classes = ["a\\nb"]', "classes should be one line"),
        ("figures = [3]", "[[weights.NAME.figures]]"),
        ("figures = [{measure = 'x', value = 0.5, on = 'y'}]", "figures: how is missing"),
        (
            "figures = [{measure = 'x', value = '1', on = 'y', how = 'z'}]",
            "value = '1' should be of type float",
        ),
        ("aliases = ['a']", "alias 'a'"),
        ("aliases = ['b', 'b']", "alias 'b' is given twice"),
    ],
)
def test_broken_entries(tmp_path: Path, more: str, words: str) -> None:
    check(write(tmp_path / "r.toml", entry("a", more)), words)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a/x",
        "//a/x",
        "https:///x",
        "https://u:secret@a/x",
        "http://[",
        "https://a/x y",
    ],
)
def test_only_web_addresses(tmp_path: Path, url: str) -> None:
    more = f"bytes = 1\nsha256 = '{HASH}'\nurls = ['https://a.example/x', '{url}']"
    fault = check(write(tmp_path / "r.toml", entry("a", more)), "urls[1] should be http")
    assert "secret" not in fault


@pytest.mark.parametrize("file", ["../x", "a/b", "/etc/x", ".hidden", "a\\\\b", "-x", "x.part", "C:x"])
def test_files_stay_in_their_folder(tmp_path: Path, file: str) -> None:
    check(write(tmp_path / "r.toml", entry("a", file=file)), "should be a plain file name")


def test_names_are_no_paths(tmp_path: Path) -> None:
    check(write(tmp_path / "r.toml", entry('"../a"', file="a")), "weights.../a: a name has")


def test_a_missing_key(tmp_path: Path) -> None:
    text = entry("a").replace('licence = "MIT"\n', "")
    check(write(tmp_path / "r.toml", text), "weights.a: licence is missing")


def test_another_kind(tmp_path: Path) -> None:
    check(write(tmp_path / "r.toml", entry("a").replace('"network"', '"tree"')), "network or forest")


def test_one_file_for_two_entries(tmp_path: Path) -> None:
    ours = write(tmp_path / "a.toml", entry("a", file="net.safetensors"))
    own = write(tmp_path / "b.toml", entry("b", file="Net.safetensors"))
    with pytest.raises(WeightsError, match=r"b\.toml: 'a' and 'b' have the same file"):
        read_registries([ours, own])


def test_an_alias_that_is_a_name(tmp_path: Path) -> None:
    ours = write(tmp_path / "a.toml", entry("a"))
    own = write(tmp_path / "b.toml", entry("b", "aliases = ['a']"))
    with pytest.raises(WeightsError, match="alias 'a' of 'b' is a name as well"):
        read_registries([ours, own])


def test_a_registry_that_is_not_there(tmp_path: Path) -> None:
    check(tmp_path / "none.toml", "; mend it, or take it away")


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    check(tmp_path / "r.toml", "cannot be read")


def check(path: Path, words: str) -> str:
    """A registry is refused in one line that names it and says this."""
    with pytest.raises(WeightsError) as refused:
        read_registries([path])
    line = str(refused.value)
    assert line.startswith(f"{path}: ")
    assert words in line
    assert "\n" not in line
    return line

"""Downloads against a server that cuts, lies, hangs and redirects."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deconvseg.download import download, sha256_of
from deconvseg.errors import OutputError, WeightsError

CONTENT = np.random.default_rng(0).bytes(300_000)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fetch(target: Path, *urls: str, **changes: Any) -> None:
    download(urls, target, **{"size": SIZE, "sha256": SHA256, "timeout": 5.0, **changes})


def refusal(target: Path, *urls: str, **changes: Any) -> str:
    """The error of a download that fails and leaves nothing under the file's name."""
    with pytest.raises(WeightsError) as refused:
        fetch(target, *urls, **changes)
    assert not target.exists()
    assert str(target) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors.part"


def test_download(mirror: Any, target: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    fetch(target, mirror.send("/net", CONTENT), progress=seen.append)
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]
    assert (seen[0], seen[-1]) == (0, SIZE)
    assert seen == sorted(seen)
    assert mirror.requests == [("/net", None)]


def test_a_length_need_not_be_announced(mirror: Any, target: Path) -> None:
    fetch(target, mirror.send("/net", CONTENT, announced=False))
    assert target.read_bytes() == CONTENT


def test_a_cut_connection_is_resumed(mirror: Any, target: Path) -> None:
    seen: list[int] = []
    fetch(target, mirror.send("/net", CONTENT, cuts=[1000, 50_000]), progress=seen.append)
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == [None, "bytes=1000-", "bytes=51000-"]
    assert seen == sorted(seen)


def test_a_later_call_goes_on_with_what_came(mirror: Any, target: Path, part: Path) -> None:
    reason = refusal(target, mirror.send("/net", CONTENT, cuts=[70_000, 0]))
    assert f"ended after 70000 of {SIZE} bytes" in reason
    assert part.read_bytes() == CONTENT[:70_000]
    mirror.requests.clear()
    fetch(target, mirror.send("/net", CONTENT))
    assert target.read_bytes() == CONTENT
    assert not part.exists()
    assert mirror.requests == [("/net", "bytes=70000-")]


def test_another_mirror_goes_on_with_what_came(mirror: Any, target: Path) -> None:
    fetch(target, mirror.send("/a", CONTENT, cuts=[70_000, 0]), mirror.send("/b", CONTENT))
    assert target.read_bytes() == CONTENT
    assert mirror.requests[-1] == ("/b", "bytes=70000-")


def test_a_whole_part_needs_no_connection(mirror: Any, target: Path, part: Path) -> None:
    part.write_bytes(CONTENT)
    fetch(target, mirror.address + "/none")
    assert target.read_bytes() == CONTENT
    assert mirror.requests == []


@pytest.mark.parametrize(
    "wrong", [b"of another file", b"x" * SIZE, b"longer" + CONTENT], ids=["shorter", "as long", "longer"]
)
def test_a_part_of_another_file_is_fetched_again(mirror: Any, target: Path, part: Path, wrong: bytes) -> None:
    part.write_bytes(wrong)
    fetch(target, mirror.send("/net", CONTENT))
    assert target.read_bytes() == CONTENT
    assert mirror.requests[-1] == ("/net", None)


@pytest.mark.parametrize("cuts", [[], [1000, 250_000]], ids=["at once", "after cuts"])
def test_a_server_that_ignores_range_starts_again(
    mirror: Any, target: Path, part: Path, cuts: list[int]
) -> None:
    part.write_bytes(CONTENT[:500])
    fetch(target, mirror.send("/net", CONTENT, ranges=False, cuts=cuts))
    assert target.read_bytes() == CONTENT
    assert mirror.requests[0] == ("/net", "bytes=500-")


def test_a_server_that_refuses_range_is_asked_for_all(mirror: Any, target: Path, part: Path) -> None:
    part.write_bytes(CONTENT[:500])
    url = mirror.send("/net", CONTENT)
    whole = mirror.pages["/net"]
    mirror.pages["/net"] = lambda handler: (
        handler.send_error(416) if "Range" in handler.headers else whole(handler)
    )
    fetch(target, url)
    assert target.read_bytes() == CONTENT


def test_a_part_that_starts_elsewhere_is_not_taken(mirror: Any, target: Path, part: Path) -> None:
    part.write_bytes(CONTENT[:500])
    assert "from byte 500" in refusal(target, mirror.send("/net", CONTENT, shift=3))
    assert part.read_bytes() == CONTENT[:500]


def test_wrong_hash(mirror: Any, target: Path, part: Path) -> None:
    wrong = CONTENT[:-1] + b"!"
    reason = refusal(target, mirror.send("/net", wrong))
    assert SHA256 in reason
    assert hashlib.sha256(wrong).hexdigest() in reason
    assert not part.exists()
    assert len(mirror.requests) == 1


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!"], ids=["too short", "too long"])
def test_an_announced_wrong_size_is_refused_before_it_is_fetched(
    mirror: Any, target: Path, part: Path, content: bytes
) -> None:
    assert f"has a file of {len(content)} bytes, should be {SIZE}" in refusal(
        target, mirror.send("/net", content)
    )
    assert not part.exists()


def test_too_long_without_a_word_is_cut_off(mirror: Any, target: Path, part: Path) -> None:
    sent = 0

    def endless(handler: Any) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        try:
            while sent < 100 * SIZE:
                sent += handler.wfile.write(CONTENT)
        except OSError:
            pass

    mirror.pages["/net"] = endless
    assert f"more than the {SIZE} bytes" in refusal(target, mirror.address + "/net")
    assert part.stat().st_size == 0
    assert sent < 100 * SIZE


def test_too_short_without_a_word(mirror: Any, target: Path) -> None:
    reason = refusal(target, mirror.send("/net", CONTENT[:-1], announced=False))
    assert f"ended after {SIZE - 1} of {SIZE} bytes" in reason
    assert len(mirror.requests) == 3  # and once more for the byte that lacks, and without Range


def test_a_mirrors_false_beginning_does_not_spoil_the_next(mirror: Any, target: Path) -> None:
    false = mirror.send("/false", b"x" * SIZE, cuts=[70_000, 0])
    fetch(target, false, mirror.send("/net", CONTENT))
    assert target.read_bytes() == CONTENT
    assert mirror.requests[-2:] == [("/net", "bytes=70000-"), ("/net", None)]


def test_mirrors_in_order(mirror: Any, target: Path) -> None:
    fetch(target, mirror.address + "/gone", mirror.send("/net", CONTENT), mirror.send("/never", CONTENT))
    assert target.read_bytes() == CONTENT
    assert [path for path, _ in mirror.requests] == ["/gone", "/net"]


def test_each_mirrors_fault_is_told(mirror: Any, target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # never listens: connections are refused
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/net"
        gone, hanging = mirror.address + "/gone", mirror.hang("/hang")
        reason = refusal(target, gone, closed, hanging, "http://[", timeout=0.2)
    assert f"{gone}: HTTP 404 Not Found" in reason
    assert f"{closed}: [Errno" in reason
    assert f"{hanging}: nothing for 0.2 seconds" in reason
    assert "http://[: " in reason


def test_a_server_that_stops_midway(mirror: Any, target: Path, part: Path) -> None:
    url = mirror.hang("/net", CONTENT[:9000], SIZE)
    assert "nothing for 0.2 seconds" in refusal(target, url, timeout=0.2)
    assert part.read_bytes() == CONTENT[:9000]


def test_redirects(mirror: Any, target: Path, part: Path) -> None:
    part.write_bytes(CONTENT[:500])
    mirror.send("/net", CONTENT)
    fetch(target, mirror.redirect("/moved", mirror.address + "/net"))
    assert target.read_bytes() == CONTENT
    assert mirror.requests == [("/moved", "bytes=500-"), ("/net", "bytes=500-")]


def test_redirects_are_bounded(mirror: Any, target: Path) -> None:
    circle = mirror.redirect("/circle", mirror.address + "/circle")
    for i in range(30):
        mirror.redirect(f"/{i}", f"{mirror.address}/{i + 1}")
    reason = refusal(target, circle, mirror.address + "/0")
    assert reason.count("HTTP 302") == 2
    assert len(mirror.requests) < 30


@pytest.mark.parametrize(
    ("scheme", "words"),
    [("file", "is not allowed"), ("data", "is not allowed"), ("ftp", "unknown url type: ftp")],
)
def test_redirects_stay_on_the_web(
    mirror: Any, target: Path, tmp_path: Path, scheme: str, words: str
) -> None:
    here = tmp_path / "here"
    here.write_bytes(CONTENT)
    assert words in refusal(target, mirror.redirect("/net", f"{scheme}://{here}"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_a_full_disk_is_no_fault_of_the_mirror(mirror: Any, target: Path, part: Path) -> None:
    part.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        fetch(target, mirror.send("/net", CONTENT))


def test_an_old_file_is_replaced_only_by_the_right_one(mirror: Any, target: Path) -> None:
    target.write_bytes(b"old")
    with pytest.raises(WeightsError):
        fetch(target, mirror.send("/bad", b"x" * SIZE))
    assert target.read_bytes() == b"old"
    fetch(target, mirror.send("/net", CONTENT))
    assert target.read_bytes() == CONTENT


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 4000), max_size=6), ranges=st.booleans(), start=st.integers(0, 3000))
def test_whatever_is_cut_the_file_is_right_or_absent(
    tmp_path_factory: pytest.TempPathFactory, mirror: Any, cuts: list[int], ranges: bool, start: int
) -> None:
    folder = tmp_path_factory.mktemp("cuts")
    content = CONTENT[:3000]
    (folder / "net.part").write_bytes(content[:start])
    url = mirror.send("/net", content, cuts=cuts, ranges=ranges)
    try:
        fetch(folder / "net", url, size=3000, sha256=hashlib.sha256(content).hexdigest())
    except WeightsError:
        assert not (folder / "net").exists()
        assert content.startswith((folder / "net.part").read_bytes())
    else:
        assert (folder / "net").read_bytes() == content


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert sha256_of(tmp_path / "abc") == expected

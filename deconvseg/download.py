"""Fetching one file of known size and hash from its mirrors: resumed, checked, then renamed into place."""

from __future__ import annotations

import hashlib
import re
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError

from deconvseg import __version__
from deconvseg.errors import OutputError, WeightsError

TIMEOUT = 30.0
"""Seconds without a byte after which a mirror is given up."""
_BLOCK = 2**18
_ATTEMPTS = 10
"""Connections to one mirror; each after the first must bring something."""


def download(
    urls: Sequence[str],
    target: Path,
    *,
    size: int,
    sha256: str,
    timeout: float = TIMEOUT,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fetch a file. Until its size and hash are right, what has come lies in `<target>.part`.

    The mirrors are tried in order, and each goes on where the one before it, or an earlier call, stopped. A
    beginning that turns out to be of another file is fetched again.

    Args:
        urls: mirrors, http or https.
        target: in an existing folder; replaced if it exists.
        size: bytes; no more are taken.
        sha256: hexadecimal, lower case.
        timeout: seconds to wait for a connection, and for each next byte.
        progress: told how many bytes are there.

    Raises:
        WeightsError: no mirror has given the file; what is wrong with each is told.
        OutputError: the file cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    faults = []
    try:
        for url in urls:
            try:
                _fetch(url, part, size, sha256, timeout, progress)
                part.replace(target)
                return
            except _MirrorError as fault:
                faults.append(f"{url}: {fault}")
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); free the disk or its folder") from error
    raise WeightsError(
        f"{target.name} could not be fetched ({'; '.join(faults)}); "
        f"try again later, or get it in another way and put it at {target}"
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _MirrorError(Exception):
    """Why a mirror is of no use."""


class _CutError(_MirrorError):
    """The connection ended early; another may go on."""


def _fetch(
    url: str, part: Path, size: int, sha256: str, timeout: float, progress: Callable[[int], None]
) -> None:
    """Make `part` whole from one mirror."""
    inherited = _length(part) > 0
    cut = _CutError("ends again and again")
    for _ in range(_ATTEMPTS):
        before = _length(part)
        if before < size:
            try:
                _receive(url, part, size, timeout, progress)
            except _CutError as error:
                if _length(part) <= before:
                    raise
                cut = error
                continue
        found = sha256_of(part)
        if found == sha256:
            return
        part.unlink()
        if not inherited:
            raise _MirrorError(f"gave another file (sha256 {found}, should be {sha256})")
        inherited = False
    raise cut


def _receive(url: str, part: Path, size: int, timeout: float, progress: Callable[[int], None]) -> None:
    """Add to `part` what it lacks, or write it anew if the mirror cannot start in the middle."""
    with _open(url, _length(part), timeout) as answer:
        received = _first_byte(answer, _length(part))
        if answer.length is not None and received + answer.length != size:
            raise _MirrorError(f"has a file of {received + answer.length} bytes, should be {size}")
        with part.open("ab" if received else "wb") as file:
            progress(received)
            for block in _blocks(answer, timeout):
                received += len(block)
                if received > size:
                    file.truncate(0)
                    raise _MirrorError(f"sends more than the {size} bytes there should be")
                file.write(block)
                progress(received)
    if received < size:
        raise _CutError(f"ended after {received} of {size} bytes")


def _open(url: str, start: int, timeout: float) -> HTTPResponse:
    headers = {"User-Agent": f"deconvseg/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        answer: HTTPResponse = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if (
            error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start
        ):  # no server that is asked for the whole file says this
            return _open(url, 0, timeout)
        raise _MirrorError(_reason(error, timeout)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _MirrorError(_reason(error, timeout)) from error
    return answer


def _opener() -> urllib.request.OpenerDirector:
    """As `build_opener` makes it, without file:, ftp: and data:, to which a mirror could redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,  # at most 10, and none more than 4 times
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _first_byte(answer: HTTPResponse, asked: int) -> int:
    """Where the answer starts: where it was asked to, or at the start of the file."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    given = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if not given or int(given[1]) != asked:
        raise _MirrorError(f"gave another part of the file than from byte {asked}")
    return asked


def _blocks(answer: HTTPResponse, timeout: float) -> Iterator[bytes]:
    try:
        while block := answer.read1(_BLOCK):
            yield block
    except (OSError, HTTPException, ValueError) as error:
        raise _CutError(_reason(error, timeout)) from error


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {str(error.reason).partition(chr(10))[0]}"
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"nothing for {timeout:g} seconds"
    return str(error) or type(error).__name__


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

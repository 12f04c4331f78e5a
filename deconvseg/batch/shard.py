"""A run's share of the photos, and its lock on the results folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deconvseg.errors import OutputError, UsageError
from deconvseg.files import lock

_PATIENCE = 5.0


@dataclass(frozen=True)
class Shard:
    """The photos of shard `index` of 0 to `count` - 1.

    Which one a photo is in follows from its name alone: it stays the same when photos come and go, and when
    machines that list the folder at different times do not see the same ones.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `I/N`; UsageError if it is no such thing."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match and int(match[1]) < int(match[2]):
            return cls(int(match[1]), int(match[2]))
        raise UsageError(f"shard {text}: give I/N, where I is a number from 0 to N - 1: 0/3, 1/3 and 2/3")

    def holds(self, name: str) -> bool:
        """Whether the photo with this name is in the shard."""
        digest = hashlib.sha256(_in_bytes(name)).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


@contextmanager
def lock_run(folder: Path, shard: Shard | None) -> Iterator[None]:
    """Hold a results folder, made if need be, for a whole run or for one shard; a killed run lets go of it.

    Raises:
        UsageError: another run holds it. Shards of the same number do not mind each other.
        OutputError: the folder cannot be written.
    """
    with ExitStack() as held:
        _hold(held, folder, shard)
        if shard:
            # Other shards that look at this moment hold it just as briefly; a run holds it for long.
            with ExitStack() as moment:
                _hold(moment, folder, None, _PATIENCE)
        for path in folder.glob(_name("*-of-*")):
            other = path.name.split(".")[2]
            if not shard or not other.endswith(f"-of-{shard.count}"):
                with ExitStack() as moment:
                    _hold(moment, folder, other, _PATIENCE if shard else 0)
        yield


@contextmanager
def lock_moment(folder: Path, what: str) -> Iterator[None]:
    """Have `what` of a results folder alone, for a moment; a shard that comes meanwhile waits.

    Raises OutputError if the folder cannot be written.
    """
    with ExitStack() as held:
        _hold(held, folder, what, -1)
        yield


def _hold(held: ExitStack, folder: Path, shard: Shard | str | None, patience: float = 0) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(lock(folder / _name(shard), patience=patience))
    except TimeoutError as error:
        whose = f"shard {shard}" if shard else "another run"
        raise UsageError(f"{folder}: {whose} is at work here; wait for its end, or stop it") from error
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{folder}: cannot be written ({reason}); choose another folder") from error


def _in_bytes(name: str) -> bytes:
    """The name as the disk has it, so the same whatever the machine's encoding of file names is."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # of a remote store
        return name.encode("utf-8", "surrogatepass")


def _name(shard: Shard | str | None) -> str:
    return f".segment.{shard}.lock" if shard else ".segment.lock"

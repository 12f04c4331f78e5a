"""A run's share of the photos, and its lock on the results folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deconvseg.errors import OutputError, UsageError
from deconvseg.files import lock


@dataclass(frozen=True)
class Shard:
    """The photos of shard `index` of 0 to `count` - 1; a photo's name alone tells which it is in."""

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
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


@contextmanager
def lock_run(folder: Path, shard: Shard | None) -> Iterator[None]:
    """Hold a results folder, made if need be, for a whole run or for one shard; a killed run lets go of it.

    Raises UsageError if another run holds it; shards of the same number do not mind each other.
    """
    with ExitStack() as held:
        with lock_moment(folder, "start"):  # one after the other looks who is at work
            for path in folder.glob(".segment.*.lock"):
                if not shard or not path.name.endswith(f"-of-{shard.count}.lock"):
                    with _locked(path):
                        pass
            held.enter_context(_locked(folder / f".segment.{shard or 'whole'}.lock"))
        yield


def lock_moment(folder: Path, what: str) -> AbstractContextManager[None]:
    """Have `what` of a results folder alone, for a moment; a shard that comes meanwhile waits."""
    return _locked(folder / f".segment-{what}.lock", patience=-1)


@contextmanager
def _locked(path: Path, patience: float = 0) -> Iterator[None]:
    folder = path.parent
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(lock(path, patience=patience))
        except TimeoutError as error:
            at_work = path.name.split(".")[2]
            whose = "another run" if at_work == "whole" else f"shard {at_work}"
            raise UsageError(f"{folder}: {whose} is at work here; wait for its end, or stop it") from error
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"{folder}: cannot be written ({reason}); choose another folder") from error
        yield

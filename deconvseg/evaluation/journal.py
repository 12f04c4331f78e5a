"""What an evaluation has counted so far, kept in a file so that a stopped one can go on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconvseg.errors import OutputError, UsageError
from deconvseg.evaluation.tally import Tally
from deconvseg.files import replacing

JOURNAL = "per_image.jsonl"
FORMAT = 2
"""Raised whenever figures are counted in another way, so that no two ways are mixed."""


@dataclass(frozen=True)
class Measured:
    """What was counted of one photo.

    Attributes:
        name: of the photo.
        stamp: size and time of change of the files the counts come from.
        width, height: in pixels.
        seconds: by part of the work, of the full setting.
        rows: counts by the name of the step.
    """

    name: str
    stamp: list[int]
    width: int
    height: int
    seconds: dict[str, float]
    rows: dict[str, Tally]

    def to_json(self) -> str:
        """One line, with a checksum."""
        rows = {name: tally.to_json() for name, tally in self.rows.items()}
        document = {**vars(self), "rows": rows}
        return _compact({**document, "check": _checksum(document)})

    @classmethod
    def from_json(cls, line: str, classes: int) -> Measured:
        """Read what `to_json` made; KeyError, IndexError, TypeError or ValueError if it is something else."""
        document = json.loads(line)
        if document.pop("check") != _checksum(document):
            raise ValueError("the line is not what was written")
        rows = {name: Tally.from_json(counts, classes) for name, counts in document["rows"].items()}
        return cls(**{**document, "rows": rows})


class Journal:
    """A file with the settings on the first line and then one line for each photo done.

    Args:
        folder: where `per_image.jsonl` is or will be.
        settings: everything that changes a count; results of others are never mixed in.
        classes: C.
        overwrite: begin anew, whatever is there.
        others: files in the folder that may only be replaced if the journal is there, too.

    Raises:
        UsageError: the folder holds the results of other settings, or files that are no results.
        OutputError: the file cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        classes: int,
        *,
        overwrite: bool,
        others: Sequence[str] = (),
    ) -> None:
        self.path = folder / JOURNAL
        self._classes = classes
        header = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
        lines = [] if overwrite else self._read()
        if len(lines) > 1 and lines[0] != header:
            raise UsageError(
                f"{folder}: holds the results of other settings; give another --report DIR, or --overwrite"
            )
        strange = [] if lines or overwrite else [folder / name for name in others if (folder / name).exists()]
        if strange:
            raise UsageError(
                f"{strange[0]}: exists, and no {JOURNAL} says that it is a result; "
                "give another --report DIR, or --overwrite"
            )
        self.done = self._parse(lines[1:]) if lines and lines[0] == header else {}
        if not self.done:
            for name in others:  # a report of what was measured before
                path = folder / name
                if path.is_file():
                    path.unlink()
        # Written anew: a line that a kill cut short must not run into the next one.
        with replacing(self.path) as stream:
            stream.write(f"{header}\n".encode())
            stream.writelines(f"{measured.to_json()}\n".encode() for measured in self.done.values())

    def add(self, measured: Measured) -> None:
        """Keep what was counted of one more photo.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(measured.to_json() + "\n")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); check its disk") from error

    def _read(self) -> list[str]:
        try:
            return self.path.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be read ({error}); give another --report DIR") from error

    def _parse(self, lines: Sequence[str]) -> dict[str, Measured]:
        done = {}
        for line in lines:
            try:
                measured = Measured.from_json(line, self._classes)
            except (
                KeyError,
                IndexError,
                TypeError,
                ValueError,
                AttributeError,
                RecursionError,
            ):  # cut short or damaged: not done
                continue
            done[measured.name] = measured
        return done


def _checksum(document: Mapping[str, Any]) -> int:
    return zlib.crc32(_compact(document).encode())


def _compact(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))

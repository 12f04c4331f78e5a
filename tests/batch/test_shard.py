"""Shares of a plan, and locks on a results folder."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconvseg.batch.inputs import Shard
from deconvseg.batch.results_folder import ResultsFolder
from deconvseg.errors import OutputError, UsageError


@given(st.text(st.characters(), max_size=20), st.integers(1, 50))
def test_every_name_is_in_one_shard(name: str, count: int) -> None:
    assert sum(Shard(index, count).holds(name) for index in range(count)) == 1


def test_shares_are_about_equal() -> None:
    shards = [Shard(index, 4) for index in range(4)]
    counts = Counter(str(shard) for number in range(4000) for shard in shards if shard.holds(f"a/{number}"))
    assert counts.keys() == {"0-of-4", "1-of-4", "2-of-4", "3-of-4"}
    assert all(900 < count < 1100 for count in counts.values())


def test_parse() -> None:
    assert Shard.parse("0/3") == Shard(0, 3)
    for wrong in ("3/3", "1", "-1/3", "1/0", "a/b", "1/3/5", ""):
        with pytest.raises(UsageError, match=rf"shard {wrong}: give I/N"):
            Shard.parse(wrong)


def test_locks(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    locked = ResultsFolder(out).locked
    first, second = Shard(0, 2), Shard(1, 2)
    with locked(None):
        for other in (None, first):
            with pytest.raises(UsageError, match="another run is at work here"), locked(other):
                pass
    with locked(first), locked(second):
        for other, whose in ((None, "shard [01]-of-2"), (first, "shard 0-of-2")):
            with pytest.raises(UsageError, match=f"{whose} is at work here"), locked(other):
                pass
    for at_work, other in ((Shard(0, 3), first), (first, Shard(0, 1))):
        refused = pytest.raises(UsageError, match=f"shard {at_work} is at work here")
        with locked(at_work), refused, locked(other):
            pass
    (out / ".segment.0-of-3.lock").touch()  # of a run that was killed
    with locked(first), locked(second):
        pass
    with locked(None):
        pass
    assert not list(out.iterdir())


def test_what_the_run_raises_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), ResultsFolder(tmp_path).locked(None):
        raise PermissionError
    (tmp_path / "file").touch()
    locked = ResultsFolder(tmp_path / "file").locked
    with pytest.raises(OutputError, match="file: cannot be written"), locked(None):
        pass

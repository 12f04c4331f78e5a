"""Several processes: each has its part of every batch (what they do together: `cli/test_train.py`)."""

import pytest

from deconvseg.errors import UsageError
from deconvseg.training import distributed


def test_every_part_of_a_batch_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.share(6, 2).tolist() == [0, 1, 2, 3, 4, 5]
    shares = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(8, 2).tolist())
    assert shares == [[0, 1, 4, 5], [2, 3, 6, 7]]
    with pytest.raises(UsageError, match="multiple of 6"):
        distributed.share(8, 3)

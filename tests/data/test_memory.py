"""The figure that decides whether a data set is held in memory."""

import os
from pathlib import Path

import pytest

from deconvseg.data import memory


def test_linux_tells_what_can_be_used_without_swapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(
        "MemTotal:  9 kB\nMemFree:   1 kB\nMemAvailable:    2048 kB\nCached: 5 kB\n"
    )
    assert memory.available_memory() == 2048 * 1024
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\n")
    assert memory.available_memory() is None


def test_elsewhere_free_pages_are_counted_if_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    figures = {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", figures.__getitem__, raising=False)
    assert memory.available_memory() == 7 * 4096

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory.available_memory() is None

"""What is said on standard error, and when."""

import pytest

from deconvseg.cli import console


def test_lines_of_progress_where_there_is_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wait in (0, 99):
        monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", wait)
        for options in ({"wanted": True}, {"wanted": False}, {"wanted": True, "lines": False}):
            with console.Progress(3, what="checking", **options) as bar:
                bar.step()
                bar.move(3, "good")
    assert capsys.readouterr().err == "checking [1/3]\nchecking [3/3] good\n"

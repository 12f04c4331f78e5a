"""What is said on standard error, and when."""

import time

import pytest

from deconvseg.cli import console


@pytest.mark.parametrize(("patience", "wanted"), [(0.01, True), (0.01, False), (10, True)])
def test_slow_steps_are_told(
    patience: float, wanted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "PATIENCE", patience)
    with console.slow("looking for photos", wanted=wanted):
        time.sleep(0.3)
    assert capsys.readouterr().err == "looking for photos\n" * (wanted and patience < 1)

"""What is said on standard error, and when."""

import pytest

from deconvseg.cli import console


def test_a_library_that_does_not_load_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.failure(ImportError("cannot import name 'Tensor'\nfrom torch", name="torch"))
    (line,) = capsys.readouterr().err.splitlines()
    reason = "cannot import name 'Tensor' from torch"
    assert line == f"error: torch does not load ({reason}); see what 'deconvseg doctor' says"

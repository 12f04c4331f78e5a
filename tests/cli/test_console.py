"""What is said on standard error, and when."""

import time

import pytest

from deconvseg.cli import console


@pytest.mark.parametrize("wanted", [True, False])
def test_slow_steps_are_told(
    wanted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.slow("this is soon done", wanted=wanted):
        pass
    monkeypatch.setattr(console, "PATIENCE", 0.01)
    with console.slow("looking for photos", wanted=wanted):
        time.sleep(0.2)
    assert capsys.readouterr().err == "looking for photos\n" * wanted


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (
            ImportError("/x/lib/libtorch_cpu.so: failed to map segment from shared object"),
            "libtorch_cpu.so does not fit into the memory that this process may use; allow it 6 GB or more",
        ),
        (
            ImportError("cannot import name 'Tensor'\nfrom torch", name="torch"),
            "torch does not load (cannot import name 'Tensor' from torch); see what 'deconvseg doctor' says",
        ),
    ],
)
def test_a_library_that_does_not_load_is_one_clear_line(
    problem: ImportError, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.failure(problem)
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and "ImportError" not in line

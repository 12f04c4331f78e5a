"""`deconvseg doctor` as a user runs it."""

import json
from pathlib import Path

import pytest

from .conftest import Run, lines


def test_a_sound_installation(run: Run) -> None:
    done = run("doctor", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["state"] != "fault") == (0, True), report
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert findings["photo"]["found"].startswith("451 x 300 in ")
    assert "network" in findings["photo"]["found"] and "cat " in findings["photo"]["found"]
    assert lines(done) == []


def test_a_fault_is_shown_with_its_cure_and_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECONVSEG_HOME", str(tmp_path))
    (tmp_path / "registry.toml").write_text(
        'format = 1\n[weights.mine]\nkind = "network"\nfile = "mine.safetensors"\ndescription = "d"\n'
        f'licence = "l"\nlicence_free = true\nbytes = 3\nsha256 = "{"0" * 64}"\n'
    )
    (tmp_path / "mine.safetensors").write_bytes(b"abc")
    done = run("doctor", "--no-self-test")
    assert done.returncode == 1
    shown = done.stdout.decode().splitlines()
    (place,) = [i for i, line in enumerate(shown) if line.startswith("fault")]
    assert "mine.safetensors has sha256 " in shown[place]
    assert shown[place + 1].strip() == "-> put the right file there, or remove it"
    assert all(line.startswith(("ok", "warning", "fault", "   ")) for line in shown)

"""`deconvseg doctor` as a user runs it."""

import json

import pytest

from .conftest import Run


def test_a_sound_installation(inside: Run) -> None:
    done = inside("doctor", "--json")
    report = json.loads(done.stdout)
    assert report["state"] != "fault", report
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert findings["photo"]["found"].startswith("451 x 300, ")
    assert "network" in findings["photo"]["found"] and "cat " in findings["photo"]["found"]
    assert not done.stderr.strip()


def test_a_fault_is_shown_with_its_cure_and_1(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deconvseg.weights.fault", lambda entry: "has sha256 0")
    done = inside("doctor", code=1)
    shown = done.stdout.decode().splitlines()
    places = [i for i, line in enumerate(shown) if line.startswith("fault")]
    assert places and all("has sha256 0" in shown[i] for i in places)
    assert all(shown[i + 1].strip() == "-> install deconvseg again" for i in places)
    assert all(line.startswith(("ok", "warning", "fault", "   ")) for line in shown)

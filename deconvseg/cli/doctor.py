"""`deconvseg doctor`: is everything here as it should be?"""

from __future__ import annotations

import json
from typing import get_args

import typer

from deconvseg.cli import console
from deconvseg.cli.options import DEBUG, JSON
from deconvseg.errors import one_line

_COLORS = {"ok": "green", "warning": "yellow", "fault": "red"}


def doctor(
    as_json: bool = JSON,
    debug: bool = DEBUG,
) -> int:
    """Look at libraries, device, networks and one photo, and say what to do about faults.

    Exit code 0: all well, or warnings alone; 1: something is broken.
    """
    from deconvseg.doctor import State, examine

    findings = []
    for finding in examine():
        findings.append(finding._asdict())
        if not as_json:
            sign = typer.style(f"{finding.state:8}", fg=_COLORS[finding.state], bold=finding.state != "ok")
            typer.echo(f"{sign} {finding.name:15} {one_line(finding.found)}")
            if finding.advice:
                typer.echo(f"{'':8} {'':15} -> {one_line(finding.advice)}")
    state = max((finding["state"] for finding in findings), key=get_args(State).index)
    if as_json:
        print(json.dumps({"state": state, "findings": findings}, indent=2))
    return console.SOME_FAILED if state == "fault" else console.DONE

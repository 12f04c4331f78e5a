"""The command line: one Typer app, its commands in the modules beside this one."""

from __future__ import annotations

import sys

import typer

from deconvseg import __version__
from deconvseg.cli import console, doctor, export, inspect, segment, streams, train, weights
from deconvseg.cli import eval as evaluation
from deconvseg.cli.options import DEBUG, switch

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command(epilog=segment.EPILOG)(segment.segment)
app.command(epilog=train.EPILOG)(train.train)
app.command("eval", epilog=evaluation.EPILOG)(evaluation.evaluate)
app.command(epilog=inspect.EPILOG)(inspect.inspect)
app.command(epilog=export.EPILOG)(export.export)
app.add_typer(weights.app, name="weights")
app.command()(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"deconvseg {__version__}")
        raise typer.Exit


@app.callback()
def _deconvseg(
    version: bool = switch(None, "Show the version.", "--version", callback=_version, is_eager=True),
    debug: bool = DEBUG,
) -> None:
    """Semantic segmentation with a learned deconvolution network (DeconvNet) over object proposals."""


def main() -> None:
    """Run the command line and exit with the code of `console`'s table."""
    streams.secure_streams()
    sys.exit(console.run(app))

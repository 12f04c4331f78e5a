"""The command line: one Typer app, its commands in the modules beside this one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from deconvseg import __version__
from deconvseg.cli import console, streams
from deconvseg.cli.doctor import doctor
from deconvseg.cli.eval import EXAMPLES as EVAL_EXAMPLES
from deconvseg.cli.eval import evaluate
from deconvseg.cli.export import EXAMPLES as EXPORT_EXAMPLES
from deconvseg.cli.export import export
from deconvseg.cli.inspect import EXAMPLES as INSPECT_EXAMPLES
from deconvseg.cli.inspect import inspect
from deconvseg.cli.options import DebugOption
from deconvseg.cli.segment import EXAMPLES, segment
from deconvseg.cli.train import EXAMPLES as TRAIN_EXAMPLES
from deconvseg.cli.train import train
from deconvseg.cli.weights import app as weights

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command(epilog=EXAMPLES)(segment)
app.command(epilog=TRAIN_EXAMPLES)(train)
app.command("eval", epilog=EVAL_EXAMPLES)(evaluate)
app.command(epilog=INSPECT_EXAMPLES)(inspect)
app.command(epilog=EXPORT_EXAMPLES)(export)
app.add_typer(weights, name="weights")
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"deconvseg {__version__}")
        raise typer.Exit


@app.callback()
def _deconvseg(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Semantic segmentation with a learned deconvolution network (DeconvNet) over object proposals."""


def main() -> None:
    """Run the command line and exit with the code of `console`'s table."""
    streams.secure_streams()
    sys.exit(console.run(app))

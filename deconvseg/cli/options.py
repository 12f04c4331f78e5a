"""The options that several commands take, each with its one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deconvseg.cli import console
from deconvseg.errors import UsageError
from deconvseg.settings import EnsembleRule, FusionRule, Precision, Preset

NETWORK, STEPS, RUN = "Network", "Proposals and postprocessing", "Run"
"""Panels of the help pages."""


def complete_network(incomplete: str) -> list[str]:
    """The names of networks that a shell may complete."""
    from deconvseg.weights import registry

    names = [name for name, entry in registry().items() if entry.kind == "network"]
    return [name for name in names if name.startswith(incomplete)]


def complete_class(incomplete: str) -> list[str]:
    """VOC's class names, the last of a list with commas being typed."""
    from deconvseg.images.palette import VOC_CLASSES

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in VOC_CLASSES[1:] if name.startswith(last)]


def _json(value: bool) -> bool:
    if value:
        console.needs_stdout()
    return value


WeightsOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        help="Network, by name or as a .safetensors.",
        rich_help_panel=NETWORK,
        autocompletion=complete_network,
    ),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.", rich_help_panel=NETWORK)
]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Number format to compute in.", rich_help_panel=NETWORK)
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Regions that go through the network together. If omitted, what suits device and memory.",
        rich_help_panel=NETWORK,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="CPU threads. If omitted, all cores.", rich_help_panel=NETWORK),
]
ProtocolOption = Annotated[
    Preset,
    typer.Option(
        help="Values of this panel's options that are not given, and of boxes and CRF: ours, the paper's, or "
        "those of the authors' code.",
        rich_help_panel=STEPS,
    ),
]
ProposalsOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Regions to look at besides the whole photo; 0 is the fastest.",
        show_default="10",
        rich_help_panel=STEPS,
    ),
]
MinSideOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="PX",
        help="Leave out regions with a shorter side below this, on the photo shrunk to at most 640 px.",
        show_default="112",
        rich_help_panel=STEPS,
    ),
]
StopOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="SHARE",
        help="Look at no more regions of a photo once a round of 5 changed fewer than this share of pixels; "
        "0 looks at all.",
        show_default="0.01",
        rich_help_panel=STEPS,
    ),
]
FusionOption = Annotated[
    FusionRule | None,
    typer.Option(
        help="How regions are put together: max of scores, as in the paper, or mean of probabilities.",
        show_default="max",
        rich_help_panel=STEPS,
    ),
]
EnsembleOption = Annotated[
    EnsembleRule | None,
    typer.Option(
        help="Let an FCN-8s on the whole photo join in: mean of probabilities, or product of scores.",
        show_default="mean for named networks that have one, off for files",
        rich_help_panel=STEPS,
    ),
]
FcnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="That FCN-8s.",
        show_default="the network's partner",
        rich_help_panel=STEPS,
        autocompletion=complete_network,
    ),
]
CrfOption = Annotated[
    bool,
    typer.Option(
        "--crf/--no-crf", help="Draw the mask to the photo's edges with the dense CRF.", rich_help_panel=STEPS
    ),
]
ForestOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Edge forest for the proposals, instead of the shipped one.",
        rich_help_panel=STEPS,
    ),
]
MaxMegapixelsOption = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Fail larger photos unread. One takes up to 5 bytes of memory a pixel, 9 for overlay and "
        "cutout.",
        rich_help_panel=RUN,
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Do again what is done, and replace files in the way.",
        rich_help_panel=RUN,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", callback=_json, help="Print one JSON object.", rich_help_panel=RUN)
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=RUN)
]
DebugOption = Annotated[
    bool,
    typer.Option(
        "--debug", callback=console.set_debug, help="Show the traceback of an error.", rich_help_panel=RUN
    ),
]


def refuse_target(output: Path, *sources: Path, overwrite: bool, option: str = "-o") -> None:
    """Raise a UsageError unless `output` can be written: a file in a folder that exists, none of the
    `sources`, and not there yet or to be overwritten. The message names the `option` that gives it."""
    if output.is_dir() or not output.resolve().parent.is_dir():
        raise UsageError(f"{output}: is a folder, or in none that exists; give {option} another name")
    if output.exists() and any(source.exists() and output.samefile(source) for source in sources):
        raise UsageError(f"{output}: is one of the files to read; give {option} another name")
    if output.exists() and not overwrite:
        raise UsageError(f"{output}: exists; give {option} another name, or --overwrite")

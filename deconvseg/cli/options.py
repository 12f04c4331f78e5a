"""What the commands that run networks share."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from deconvseg import __version__
from deconvseg.cli import console

if TYPE_CHECKING:
    from deconvseg.segmenter import Segmenter


class Fusion(StrEnum):
    """Ways to put the regions' scores together."""

    max = "max"
    mean = "mean"


class Ensemble(StrEnum):
    """Ways to let FCN-8s join in."""

    off = "off"
    mean = "mean"
    product = "product"


class Encoder(StrEnum):
    """Ways to run the encoder over the regions."""

    exact = "exact"
    shared = "shared"


class ProtocolName(StrEnum):
    """Sets of settings."""

    default = "default"
    paper = "paper"
    released_code = "released-code"


class Precision(StrEnum):
    """Number formats of the network."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Engine(StrEnum):
    """Who does a run's photos."""

    local = "local"
    ray = "ray"


RUN = "Run"
EngineOption = Annotated[
    Engine,
    typer.Option(
        metavar="local|ray",
        help="local: processes of this machine. ray: Ray Data, here or on a cluster, with the same results.",
        rich_help_panel=RUN,
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto",
        help="With --engine ray: the cluster to join; auto: the one this machine is in. Left out: Ray is "
        "started here for this run.",
        rich_help_panel=RUN,
    ),
]
STEPS = "Proposals and postprocessing"
ProtocolOption = Annotated[
    ProtocolName,
    typer.Option(
        metavar="default|paper|released-code",
        help="What this panel's options are if they are not given, and boxes and CRF: ours, the paper's, "
        "or those of the authors' code.",
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
EncoderOption = Annotated[
    Encoder | None,
    typer.Option(
        metavar="exact|shared",
        help="Run the encoder on each region, or once on a pyramid of the photo; regions then move a bit.",
        show_default="exact",
        rich_help_panel=STEPS,
    ),
]
EnsembleOption = Annotated[
    Ensemble | None,
    typer.Option(
        metavar="mean|product|off",
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
    ),
]


def introduce(segmenter: Segmenter, weights: str) -> None:
    """Say which networks run where, and what there is to know about it."""
    ensemble = f", {segmenter.ensemble} with {segmenter.fcn}," if segmenter.ensemble != "off" else ""
    console.say(f"deconvseg {__version__}: {weights}{ensemble} on {segmenter.device}, {segmenter.precision}")
    for note in segmenter.notes:
        console.say(f"note: {note}")

"""The options that several commands take, each with its one help text."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from deconvseg import __version__
from deconvseg.cli import console
from deconvseg.errors import UsageError
from deconvseg.settings import EnsembleRule, FusionRule, Precision, Preset

if TYPE_CHECKING:
    from deconvseg.segmenter import Segmenter

NETWORK, STEPS, RUN = "Network", "Proposals and postprocessing", "Run"
"""Panels of the help pages."""


def option(
    panel: str | None, metavar: str | None, text: str, *names: str, default: Any = None, **more: Any
) -> Any:
    """An option of a help page's panel; `names`, if not the parameter's, and `more` as of `typer.Option`."""
    return typer.Option(default, *names, metavar=metavar, help=text, rich_help_panel=panel, **more)


def switch(panel: str | None, text: str, *names: str, default: bool = False, **more: Any) -> Any:
    """An option without a value, by its names such as `--quiet`."""
    return option(panel, "", text, *names, default=default, **more)


def epilog(*examples: str, exit_codes: str = "") -> str:
    """The end of a help page: command lines to copy, and what the exit codes mean."""
    codes = ["[bold]Exit codes[/bold]", exit_codes] if exit_codes else []
    return "\n\n".join(["[bold]Examples[/bold]", *examples, *codes])


_network = partial(option, NETWORK)
_step = partial(option, STEPS)

WEIGHTS = _network("NAME|FILE", "Network to use.", default="default")
DEVICE = _network("auto|cpu|cuda|mps", "Where to compute.", default="auto")
MAX_MEGAPIXELS = option(
    RUN, "N", "Fail larger photos unread. A pixel takes up to 9 bytes of memory.", default=500, min=1
)
OVERWRITE = switch(RUN, "Do again what is done, and replace files in the way.", "--overwrite")
JSON = switch(RUN, "Print one JSON object.", "--json", callback=console.needs_stdout)
QUIET = switch(RUN, "Say nothing but errors.", "--quiet", "-q")
DEBUG = switch(RUN, "Show the traceback of an error.", "--debug")


def _segmenter_options(
    weights: str = WEIGHTS,
    device: str = DEVICE,
    precision: Precision = _network(None, "Number format to compute in.", default="auto"),
    batch_size: int | None = _network("N", "Regions at a time. If omitted, what suits the device.", min=1),
    threads: int | None = _network("N", "CPU threads. If omitted, all cores.", min=1),
    protocol: Preset = _step(
        None,
        "Values of what is not given: ours, ours for speed, for the best masks, the paper's, its code's.",
        default="default",
    ),
    proposals: int | None = _step("N", "Regions besides the whole photo.", min=0, show_default="5"),
    min_side: int | None = _step(
        "PX", "Shortest side of EdgeBoxes' regions, on a photo of at most 640 px.", min=0, show_default="112"
    ),
    fusion: FusionRule | None = _step(
        None, "Put regions together by max of scores or mean of probabilities.", show_default="max"
    ),
    ensemble: EnsembleRule | None = _step(
        None,
        "Let an FCN on the whole photo join in: mean of probabilities, or product of scores.",
        show_default="mean for named networks that have one, off for files",
    ),
    fcn: str | None = _step("NAME|FILE", "That FCN.", show_default="the network's partner"),
    prior: float | None = _step(
        "EXPONENT",
        "Doubt classes that the FCN does not see in the photo as a whole, up to 10; 0 is off.",
        min=0,
        max=10,
        show_default="0.3 where the FCN tells that",
    ),
    crf: bool = switch(
        STEPS, "Draw the mask to the photo's edges with the dense CRF.", "--crf/--no-crf", default=True
    ),
    forest: Path | None = _step("FILE", "Edge forest for the proposals, instead of the shipped one."),
) -> None:
    """The options that are arguments of a `Segmenter`, by the same names."""


def segmenter_options(*without: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options of a Segmenter, but those named, for its parameter `segmenter_arguments`."""
    shared = dict(signature(_segmenter_options, eval_str=True).parameters)
    for name in without:
        del shared[name]

    def with_options(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def wrapped(**given: Any) -> int:
            arguments = {name: given.pop(name) for name in shared}
            return command(segmenter_arguments=arguments, **given)

        parameters: list[Parameter] = []
        for name, parameter in signature(command, eval_str=True).parameters.items():
            parameters += shared.values() if name == "segmenter_arguments" else [parameter]
        wrapped.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return wrapped

    return with_options


def load_segmenter(arguments: dict[str, Any], *, quiet: bool) -> Segmenter:
    """Make a Segmenter, read its networks and, unless `quiet`, say which run where."""
    from deconvseg.machine import reuse_freed_memory

    gc.disable()  # else it looks through torch's many objects again and again: a fifth of the start
    from deconvseg.segmenter import Segmenter

    gc.enable()
    gc.freeze()  # nor when the command ends
    reuse_freed_memory()
    segmenter = Segmenter(**arguments)
    segmenter.load()
    if not quiet:
        networks, inference, rule = segmenter.weights, segmenter.inference, segmenter.settings.ensemble
        if rule != "off":
            networks += f", {rule} with {segmenter.fcn}"
        if inference.prior:
            networks += f", prior of {segmenter.fcn if inference.partner else segmenter.weights}"
        console.say(f"deconvseg {__version__}: {networks} on {inference.device}, {inference.precision}")
    return segmenter


def refuse_target(output: Path, *sources: Path, overwrite: bool, option: str = "-o") -> None:
    """Raise a UsageError unless `output` can be written: a file in a folder that exists, none of the
    `sources`, and not there yet or to be overwritten. The message names the `option` that gives it."""
    if output.is_dir() or not output.resolve().parent.is_dir():
        raise UsageError(f"{output}: is a folder, or in none that exists; give {option} another name")
    if output.exists() and any(source.exists() and output.samefile(source) for source in sources):
        raise UsageError(f"{output}: is one of the files to read; give {option} another name")
    if output.exists() and not overwrite:
        raise UsageError(f"{output}: exists; give {option} another name, or --overwrite")

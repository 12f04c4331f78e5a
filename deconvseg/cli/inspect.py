"""`deconvseg inspect`: figures of what happens to a photo on its way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deconvseg.batch.inputs import STDIN
from deconvseg.batch.plan import STDOUT
from deconvseg.cli import console
from deconvseg.cli.options import (
    STEPS,
    DebugOption,
    JsonOption,
    MaxMegapixelsOption,
    OverwriteOption,
    QuietOption,
    complete_class,
    load_segmenter,
    refuse_target,
    segmenter_options,
)
from deconvseg.errors import InputError, UsageError

if TYPE_CHECKING:
    from deconvseg.images.read import PhotoPixels

EXAMPLES = """[bold]Examples[/bold]

deconvseg inspect layers cat.jpg -o layers.png

deconvseg inspect switches street.jpg -o bus.pdf --box 120,40,380,300 --class bus

deconvseg inspect proposals cat.jpg -o proposals.svg --proposals 10 --ensemble off

deconvseg inspect layers cat.jpg --json    [dim]numbers alone[/dim]

[bold]Exit codes[/bold]

0 done; 1 the photo cannot be read; 2 usage; 130 interrupted"""
CROPS = "Layers and switches"
_CROPS: dict[str, Any] = {"proposals": 0, "ensemble": "off", "precision": "fp32"}
"""Arguments of a Segmenter whose network can be looked into."""
_ANY = ("weights", "device", "threads")
"""Arguments of a Segmenter that layers and switches take; the others are of the way of a photo."""


@segmenter_options("proposals", "stop")
def inspect(
    context: typer.Context,
    what: Annotated[
        Literal["layers", "switches", "proposals"],
        typer.Argument(
            metavar="WHAT",
            help="layers: a map after each unpooling and deconvolution of the decoder, coarse first. "
            "switches: where each pooling took its maxima, and where unpooling put values back. proposals: "
            "edges, boxes by rank, and the labelling after 1, 5, 10, 25 and 50 proposals.",
        ),
    ],
    photo: Annotated[
        str,
        typer.Argument(
            metavar="PHOTO", help="Photo, by path or address (https://, s3://); - for one from stdin."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FIGURE",
            help="The figure: .png, .pdf or .svg, with transparent paper. - is stdout (PNG). With --json it "
            "can be left out.",
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            help="Part of the photo, in pixels from its top left; it is widened to a square.",
            show_default="the whole photo",
            rich_help_panel=CROPS,
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Show the channels that drive this class's score.",
            show_default="the most active ones",
            rich_help_panel=CROPS,
            autocompletion=complete_class,
        ),
    ] = None,
    proposals: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most proposals to look at.", rich_help_panel=STEPS)
    ] = 50,
    *,
    segmenter_arguments: dict[str, Any],
    max_megapixels: MaxMegapixelsOption = 500,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Draw what happens to a photo on its way: in the decoder, in the poolings, with each proposal.

    layers and switches look at one crop in 32 bits, and take no options of proposals and postprocessing.
    """
    method = ["proposals", *(name for name in segmenter_arguments if name not in _ANY)]
    _refuse_given(context, what, ("box", "class_name") if what == "proposals" else method)
    part = _box(box)
    kind = _check_output(output, photo, as_json=as_json, overwrite=overwrite)

    try:
        pixels = _read(photo, max_megapixels)
    except InputError as error:
        console.failure(error)
        return console.SOME_FAILED
    arguments: dict[str, Any] = {**segmenter_arguments, "proposals": proposals}
    if what != "proposals":
        arguments = {name: arguments[name] for name in _ANY} | _CROPS
    segmenter = load_segmenter(arguments, quiet=quiet)
    weights = segmenter.weights
    fcn = str(segmenter.fcn) if segmenter.ensemble != "off" else None
    look, draw, heading = _figure(what)
    found = look(segmenter, pixels, *((proposals,) if what == "proposals" else (part, class_name)))
    if output is not None:
        from deconvseg.inspect.figure import save

        target = sys.stdout.buffer if output == STDOUT else Path(output)
        save(draw(found, f"{heading} {_subject(photo, weights, fcn)}"), target, kind)
        if not quiet:
            console.say(f"{photo} -> {output}")
    if as_json:
        about = {"input": photo, "output": output, "weights": weights, "fcn": fcn}
        print(json.dumps({**about, **found.numbers}, indent=2))
    return console.DONE


def _figure(what: str) -> tuple[Callable[..., Any], Callable[..., Any], str]:
    """What looks into a photo, what draws that, and how the title begins."""
    if what == "layers":
        from deconvseg.inspect.layers import draw_layers, inspect_layers

        return inspect_layers, draw_layers, "The decoder of"
    if what == "switches":
        from deconvseg.inspect.switches import draw_switches, inspect_switches

        return inspect_switches, draw_switches, "Pooling and unpooling in"
    from deconvseg.inspect.proposals import draw_proposals, inspect_proposals

    return inspect_proposals, draw_proposals, "Proposals labelled by"


def _refuse_given(context: typer.Context, what: str, names: Sequence[str]) -> None:
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source and source.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} changes nothing for {what}; leave it out")


def _subject(photo: str, weights: str, fcn: str | None) -> str:
    from deconvseg.weights import network_file

    networks = " and ".join(network_file(name).stem for name in (weights, fcn) if name)
    return f"{networks} on {'standard input' if photo == STDIN else Path(photo).name}"


def _check_output(output: str | None, photo: str, *, as_json: bool, overwrite: bool) -> str:
    """The format of the figure; a UsageError if it could not be written, or if nothing is asked for."""
    if output is None and not as_json:
        raise UsageError("nothing to do: say with -o where the figure goes, or ask for --json")
    if output == STDOUT:
        console.needs_stdout()
        if as_json:
            raise UsageError("--json and the figure both go to standard output; name its file with -o")
        if sys.stdout.isatty():
            raise UsageError("a figure is not for a terminal; name its file with -o, or send it on with >")
    if output is None or output == STDOUT:
        return "png"
    from deconvseg.inspect.figure import format_of

    kind = format_of(Path(output))
    refuse_target(Path(output), Path(photo), overwrite=overwrite)
    return kind


def _read(photo: str, max_megapixels: int) -> PhotoPixels:
    from deconvseg.images.read import STREAM, read_photo
    from deconvseg.remote import opened

    if photo == STDIN:
        console.needs_stdin()
    source = opened(sys.stdin.buffer.read() if photo == STDIN else photo)
    return read_photo(source, max_pixels=max_megapixels * 1_000_000, name=STREAM if photo == STDIN else photo)


def _box(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise UsageError(f"--box {text}: is not four numbers; give x0,y0,x1,y1 in pixels")
    return numbers

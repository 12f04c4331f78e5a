"""`deconvseg inspect`: figures of what happens to a photo on its way."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import typer

from deconvseg.cli import console
from deconvseg.cli import options as shared
from deconvseg.cli.options import option
from deconvseg.errors import UsageError

EPILOG = shared.epilog(
    "deconvseg inspect layers cat.jpg -o layers.png",
    "deconvseg inspect switches street.jpg -o bus.pdf --box 120,40,380,300 --class bus",
    "deconvseg inspect proposals cat.jpg -o proposals.svg --proposals 10 --ensemble off",
    "deconvseg inspect layers cat.jpg --json    [dim]numbers alone[/dim]",
    exit_codes="0 done; 1 an unforeseen error; 2 usage, or a photo that cannot be read; 130 interrupted",
)
_crop = partial(option, "Layers and switches")


@shared.segmenter_options("proposals")
def inspect(
    context: typer.Context,
    what: Literal["layers", "switches", "proposals"] = typer.Argument(
        metavar="WHAT",
        help="layers: a map after each unpooling and deconvolution of the decoder, coarse first. "
        "switches: where each pooling took its maxima, and where unpooling put values back. proposals: "
        "edges, boxes by rank, and the labelling after 1, 5, 10, 25 and 50 proposals.",
    ),
    photo: str = typer.Argument(metavar="PHOTO", help="Path or address (s3://...)."),
    output: Path | None = option(None, "FIGURE", "A .png, .pdf, .svg. --json needs none.", "--output", "-o"),
    box: str | None = _crop(
        "X0,Y0,X1,Y1", "Part of the photo in pixels, widened to a square.", show_default="the whole photo"
    ),
    class_name: str | None = _crop(
        "NAME",
        "Show the channels that drive this class's score.",
        "--class",
        show_default="the most active ones",
    ),
    proposals: int = option(shared.STEPS, "N", "Most proposals to look at.", default=50, min=1),
    *,
    segmenter_arguments: dict[str, Any],
    max_megapixels: int = shared.MAX_MEGAPIXELS,
    overwrite: bool = shared.OVERWRITE,
    as_json: bool = shared.JSON,
    quiet: bool = shared.QUIET,
    debug: bool = shared.DEBUG,
) -> int:
    """Draw what happens to a photo on its way: in the decoder, in the poolings, with each proposal.

    layers and switches look at one crop in 32 bits, and take no options of proposals and postprocessing.
    """
    crops = what != "proposals"
    useless = {"box", "class_name"}
    if crops:  # their other arguments are of the way of a photo
        useless = {"proposals", *segmenter_arguments} - {"weights", "device", "threads"}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in useless and source and source.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} changes nothing for {what}; leave it out")
    try:
        corners = None if box is None else tuple(map(float, box.split(",")))
    except ValueError:
        corners = ()
    if corners is not None and len(corners) != 4:
        raise UsageError(f"--box {box}: is not four numbers; give x0,y0,x1,y1 in pixels")
    if output:
        shared.refuse_target(output, Path(photo), overwrite=overwrite)
        from matplotlib.backend_bases import FigureCanvasBase

        formats = FigureCanvasBase.get_supported_filetypes()
        if output.suffix[1:].lower() not in formats:
            raise UsageError(f"{output}: figures are written as {', '.join(formats)}; give it another name")
    elif not as_json:
        raise UsageError("nothing to do: say with -o where the figure goes, or ask for --json")
    from deconvseg.images.read import read_photo
    from deconvseg.remote import opened

    pixels = read_photo(opened(photo), max_pixels=max_megapixels * 1_000_000, name=photo)
    from deconvseg.inspect import compute, draw
    from deconvseg.weights import network_file

    figures: dict[str, tuple[Any, Any, str]] = {
        "layers": (compute.inspect_layers, draw.draw_layers, "The decoder of"),
        "switches": (compute.inspect_switches, draw.draw_switches, "Pooling and unpooling in"),
        "proposals": (compute.inspect_proposals, draw.draw_proposals, "Proposals labelled by"),
    }
    look, drawn, subject = figures[what]
    if crops:
        segmenter_arguments |= {"proposals": 0, "ensemble": "off", "prior": 0.0, "precision": "fp32"}
    segmenter = shared.load_segmenter(segmenter_arguments, quiet=quiet)
    found = look(segmenter, pixels, *((corners, class_name) if crops else (proposals,)))
    weights, fcn = segmenter.weights, str(segmenter.fcn) if segmenter.inference.partner else None
    if output:
        networks = " and ".join(network_file(name).stem for name in (weights, fcn) if name)
        draw.save(drawn(found, f"{subject} {networks} on {Path(photo).name}"), output)
        if not quiet:
            console.say(f"{photo} -> {output}")
    if as_json:
        about = {"input": photo, "output": output and str(output), "weights": weights, "fcn": fcn}
        print(json.dumps(about | found.numbers, indent=2, allow_nan=False))
    return console.DONE

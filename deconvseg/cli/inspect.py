"""`deconvseg inspect`: figures of what happens to a photo on its way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from deconvseg.batch.inputs import STDIN
from deconvseg.batch.plan import STDOUT
from deconvseg.cli import console
from deconvseg.cli.options import (
    CrfOption,
    DebugOption,
    DeviceOption,
    EnsembleOption,
    FcnOption,
    ForestOption,
    JsonOption,
    MaxMegapixelsOption,
    MinSideOption,
    OverwriteOption,
    PrecisionOption,
    QuietOption,
    ThreadsOption,
    WeightsOption,
    refuse_target,
)
from deconvseg.errors import InputError, UsageError

if TYPE_CHECKING:
    from deconvseg.drawing.sheet import Sheet
    from deconvseg.images.read import PhotoPixels
    from deconvseg.segmenter import Segmenter

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Draw what happens to a photo on its way: in the decoder, in the poolings, with each proposal.",
)

_CODES = """[bold]Exit codes[/bold]

0 done; 1 the photo cannot be read; 2 usage; 130 interrupted"""
LAYERS = f"""[bold]Examples[/bold]

deconvseg inspect layers cat.jpg -o layers.png

deconvseg inspect layers street.jpg -o bus.pdf --box 120,40,380,300 --class bus

deconvseg inspect layers cat.jpg --json    [dim]numbers alone[/dim]

{_CODES}"""
PROPOSALS = f"""[bold]Examples[/bold]

deconvseg inspect proposals cat.jpg -o proposals.png

deconvseg inspect proposals cat.jpg -o proposals.svg --proposals 10 --ensemble off

{_CODES}"""
SWITCHES = f"""[bold]Examples[/bold]

deconvseg inspect switches cat.jpg -o switches.png

deconvseg inspect switches cat.jpg --class cat -o - > switches.png

{_CODES}"""

PhotoArgument = Annotated[
    str,
    typer.Argument(
        metavar="PHOTO", help="Photo, by path or address (https://, s3://); - for one from stdin."
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FIGURE",
        help="The figure: .png, .pdf or .svg, with transparent paper. - is stdout (PNG). With --json it can "
        "be left out.",
    ),
]
BoxOption = Annotated[
    str | None,
    typer.Option(
        metavar="X0,Y0,X1,Y1",
        help="Part of the photo, in pixels from its top left; it is widened to a square.",
        show_default="the whole photo",
    ),
]
ClassOption = Annotated[
    str | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="Show the channels that drive this class's score.",
        show_default="the most active ones",
    ),
]
_CROPS: dict[str, Any] = {"proposals": 0, "ensemble": "off", "precision": "fp32"}
"""Settings of a Segmenter whose network can be looked into."""


class _Found(NamedTuple):
    """What is told of a photo as JSON, what draws it under a title, and how the title begins."""

    numbers: dict[str, object]
    draw: Callable[[str], Sheet]
    heading: str


@app.command(epilog=LAYERS)
def layers(
    photo: PhotoArgument,
    output: OutputOption = None,
    box: BoxOption = None,
    class_name: ClassOption = None,
    weights: WeightsOption = "default",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_megapixels: MaxMegapixelsOption = 500,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """One map after each unpooling and deconvolution of the decoder, coarse first.

    Then the scores of a class, and the labelling of this network alone.
    """
    part = _box(box)

    def look(segmenter: Segmenter, pixels: PhotoPixels) -> _Found:
        from deconvseg.drawing.layers import draw_layers
        from deconvseg.inspection.layers import inspect_layers

        found = inspect_layers(segmenter, pixels, part, class_name)
        return _Found(found.numbers(), partial(draw_layers, found), "The decoder of")

    order = _Order(photo, output, weights, max_megapixels, overwrite, as_json, quiet)
    return order.do(look, **_CROPS, device=device, threads=threads)


@app.command(epilog=SWITCHES)
def switches(
    photo: PhotoArgument,
    output: OutputOption = None,
    box: BoxOption = None,
    class_name: ClassOption = None,
    weights: WeightsOption = "default",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_megapixels: MaxMegapixelsOption = 500,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Where each pooling took its maxima, and where unpooling put values back."""
    part = _box(box)

    def look(segmenter: Segmenter, pixels: PhotoPixels) -> _Found:
        from deconvseg.drawing.switches import draw_switches
        from deconvseg.inspection.switches import inspect_switches

        found = inspect_switches(segmenter, pixels, part, class_name)
        return _Found(found.numbers(), partial(draw_switches, found), "Pooling and unpooling in")

    order = _Order(photo, output, weights, max_megapixels, overwrite, as_json, quiet)
    return order.do(look, **_CROPS, device=device, threads=threads)


@app.command(epilog=PROPOSALS)
def proposals(
    photo: PhotoArgument,
    output: OutputOption = None,
    count: Annotated[int, typer.Option("--proposals", min=1, metavar="N", help="Most proposals.")] = 50,
    min_side: MinSideOption = None,
    crf: CrfOption = True,
    ensemble: EnsembleOption = None,
    fcn: FcnOption = None,
    forest: ForestOption = None,
    weights: WeightsOption = "default",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    max_megapixels: MaxMegapixelsOption = 500,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Edges, boxes by rank, and the labelling after 1, 5, 10, 25 and 50 proposals."""

    def look(segmenter: Segmenter, pixels: PhotoPixels) -> _Found:
        from deconvseg.drawing.proposals import draw_proposals
        from deconvseg.inspection.proposals import inspect_proposals

        found = inspect_proposals(segmenter, pixels, count)
        return _Found(found.numbers(), partial(draw_proposals, found), "Proposals labelled by")

    return _Order(photo, output, weights, max_megapixels, overwrite, as_json, quiet).do(
        look,
        forest=forest,
        proposals=count,
        min_side=min_side,
        ensemble=ensemble,
        fcn=fcn,
        crf=crf,
        device=device,
        precision=precision,
        threads=threads,
    )


@dataclass(frozen=True)
class _Order:
    """What all three commands are asked for."""

    photo: str
    output: str | None
    weights: str
    max_megapixels: int
    overwrite: bool
    as_json: bool
    quiet: bool

    def do(self, look: Callable[[Segmenter, PhotoPixels], _Found], **settings: Any) -> int:
        """Read the photo, look into it with a Segmenter of these settings, write figure and numbers."""
        from deconvseg.segmenter import Segmenter

        kind = self._check_output()
        try:
            pixels = self._read()
        except InputError as error:
            console.failure(error)
            return console.SOME_FAILED
        segmenter = Segmenter(self.weights, **settings)
        segmenter.load()
        if not self.quiet:
            console.introduce(segmenter, self.weights)
        fcn = str(segmenter.fcn) if segmenter.ensemble != "off" else None
        found = look(segmenter, pixels)
        if self.output is not None:
            target = sys.stdout.buffer if self.output == STDOUT else Path(self.output)
            found.draw(f"{found.heading} {self._subject(fcn)}").save(target, kind)
        if self.as_json:
            print(json.dumps(self._document(fcn, pixels, found.numbers), indent=2))
        if self.output is not None and not self.quiet:
            console.say(f"{self.photo} -> {self.output}")
        return console.DONE

    def _check_output(self) -> str:
        """The format of the figure; a UsageError if it could not be written, or if nothing is asked for."""
        if self.output is None:
            if not self.as_json:
                raise UsageError("nothing to do: say with -o where the figure goes, or ask for --json")
            return "png"
        if self.output == STDOUT:
            if self.as_json:
                raise UsageError("--json and the figure both go to standard output; name its file with -o")
            if sys.stdout.isatty():
                raise UsageError(
                    "a figure is not for a terminal; name its file with -o, or send it on with >"
                )
            return "png"
        from deconvseg.drawing.sheet import format_of

        kind = format_of(Path(self.output))
        refuse_target(Path(self.output), Path(self.photo), overwrite=self.overwrite)
        return kind

    def _read(self) -> PhotoPixels:
        from deconvseg.images.read import STREAM, read_photo
        from deconvseg.remote import opened

        from_stdin = self.photo == STDIN
        source = opened(sys.stdin.buffer.read() if from_stdin else self.photo)
        name = STREAM if from_stdin else self.photo
        return read_photo(source, max_pixels=self.max_megapixels * 1_000_000, name=name)

    def _subject(self, fcn: str | None) -> str:
        """What a figure calls the networks and the photo: the names of their files."""
        from deconvseg.weights import network_file

        networks = " and ".join(network_file(weights).stem for weights in (self.weights, fcn) if weights)
        photo = "standard input" if self.photo == STDIN else Path(self.photo).name
        return f"{networks} on {photo}"

    def _document(self, fcn: str | None, pixels: PhotoPixels, numbers: dict[str, object]) -> dict[str, Any]:
        return {
            "input": self.photo,
            "output": self.output,
            "weights": self.weights,
            "fcn": fcn,
            "width": pixels.width,
            "height": pixels.height,
            **numbers,
        }


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

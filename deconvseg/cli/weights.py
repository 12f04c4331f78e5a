"""`deconvseg weights`: list, check, fetch, describe, convert and average network files."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deconvseg.cli import console
from deconvseg.cli.registry import describe, list_weights, pull, verify
from deconvseg.cli.targets import refuse_target
from deconvseg.errors import UsageError

if TYPE_CHECKING:
    from deconvseg.network.base import SegmentationNetwork

app = typer.Typer(
    no_args_is_help=True,
    help="List, check and fetch networks, look into them, average them and store them smaller.",
)
app.command("list")(list_weights)
app.command()(verify)
app.command()(pull)


class Storage(StrEnum):
    """Number formats of stored kernels."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class Norms(StrEnum):
    """What BatchNorm in a DeconvNet from Caffe is."""

    auto = "auto"
    folded = "folded"
    raw = "raw"


@app.command()
def info(
    weights: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Network or edge forest.")] = "default",
    debug: console.DebugOption = False,
) -> int:
    """Print what the registry and a network file itself say, as JSON."""
    from deconvseg.download import sha256_of
    from deconvseg.registry import find
    from deconvseg.weights import located, network_file, registry

    entries = registry()
    entry = find(entries, weights)
    path = located(entry) if entry else network_file(weights)
    document: dict[str, Any] = {"file": path and str(path)}
    if path:
        document |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        entry = entry or next((e for e in entries.values() if e.sha256 == document["sha256"]), None)
        if not path.name.endswith((".yml", ".yml.gz")):
            document |= _contents(path)
    print(json.dumps({**document, "registry": entry and describe(entry)}, indent=2))
    return console.DONE


def _contents(path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from deconvseg.network.checkpoint import describe_network

    network, header = describe_network(path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": parameters, "arguments": network.arguments, **asdict(header)}


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Network file (.safetensors), or DeconvNet, FCN-8s or VGG-16 from Caffe (.caffemodel).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    storage: Annotated[
        Storage, typer.Option(help="int8: one byte a weight and one scale an output channel.")
    ] = Storage.float16,
    norms: Annotated[
        Norms,
        typer.Option(
            "--batch-norm",
            help="What BatchNorm in a DeconvNet from Caffe is: folded (fit to segment with), or raw (of a "
            "training stage); auto goes by the file.",
        ),
    ] = Norms.auto,
    side: Annotated[
        int | None,
        typer.Option(
            min=32,
            metavar="PX",
            help="Of an FCN-8s: scale the longer side of photos to this from now on; nothing is retrained.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file to write.")] = False,
    debug: console.DebugOption = False,
) -> int:
    """Convert networks from Caffe, or store a network's weights in another number format.

    They are expanded again when the file is loaded.
    """
    refuse_target(output, source, overwrite=overwrite)
    if source.suffix.lower() == ".caffemodel":
        from deconvseg.network.caffe_networks import convert_caffemodel

        found = convert_caffemodel(source, output, storage.value, norms.value)
        console.say(f"{source}: {found.summary}")
        if found.ignored:
            console.say(f"{source}: layers not needed: {found.ignored}")
    else:
        from deconvseg.network.checkpoint import load_network, save_network

        network, header = load_network(source)
        if side is not None:
            network = _with_side(source, network, side)
        save_network(output, network, header, storage.value)
    console.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return console.DONE


@app.command("average")
def average_networks(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Network file; gives classes and the rest.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Network trained from the same weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Of SECOND.")] = 0.5,
    encoder_only: Annotated[
        bool,
        typer.Option("--encoder-only", help="Average the encoders; the rest is FIRST's. For unlike kinds."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file to write.")] = False,
    debug: console.DebugOption = False,
) -> int:
    """Average the weights of two networks that come of one training.

    A later state with an earlier one, or with one trained on for something else: measure it, it is often
    better than both.
    """
    from dataclasses import replace

    from deconvseg.network.average import average
    from deconvseg.network.checkpoint import load_network, save_network

    refuse_target(output, first, second, overwrite=overwrite)
    network, header = load_network(first)
    other, _ = load_network(second)
    average(network, other, share, encoder_only=encoder_only)
    averaged = {"averaged_with": second.name, "share": share, "encoder_only": encoder_only}
    save_network(output, network, replace(header, training={**header.training, **averaged}))
    console.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return console.DONE


def _with_side(source: Path, network: SegmentationNetwork, side: int) -> SegmentationNetwork:
    from deconvseg.network.fcn8s import FCN8s, resize_side

    if not isinstance(network, FCN8s):
        raise UsageError(f"{source}: --side is for an FCN-8s, and this is none")
    return resize_side(network, side)

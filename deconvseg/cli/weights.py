"""`deconvseg weights`: look into network files and store them smaller."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deconvseg.cli import console

app = typer.Typer(no_args_is_help=True, help="Look into network files and store them smaller.")


class Storage(StrEnum):
    """Number formats of stored kernels."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


@app.command()
def info(
    weights: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Network.")] = "default",
    debug: console.DebugOption = False,
) -> int:
    """Print what a network file says about itself, as JSON."""
    from dataclasses import asdict

    from deconvseg.network.checkpoint import load_network
    from deconvseg.weights import network_file

    path = network_file(weights)
    network, header = load_network(path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    document = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "parameters": parameters,
        "arguments": network.arguments,
        **asdict(header),
    }
    print(json.dumps(document, indent=2))
    return console.DONE


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Network file (.safetensors).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    storage: Annotated[
        Storage, typer.Option(help="int8: one byte a weight and one scale an output channel.")
    ] = Storage.int8,
    debug: console.DebugOption = False,
) -> int:
    """Store a network's weights in another number format; they are expanded again when it is loaded."""
    from deconvseg.network.checkpoint import load_network, save_network

    network, header = load_network(source)
    save_network(output, network, header, storage.value)
    console.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return console.DONE

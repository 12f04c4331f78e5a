"""`deconvseg weights`: list, check and fetch network files, look into them and store them smaller."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deconvseg.cli import console
from deconvseg.cli.registry import describe, list_weights, pull, verify

app = typer.Typer(
    no_args_is_help=True, help="List, check and fetch networks, look into them and store them smaller."
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

    from deconvseg.network.checkpoint import load_network

    network, header = load_network(path)
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
    debug: console.DebugOption = False,
) -> int:
    """Convert networks from Caffe, or store a network's weights in another number format.

    They are expanded again when the file is loaded.
    """
    if source.suffix.lower() == ".caffemodel":
        from deconvseg.network.caffe_networks import convert_caffemodel

        found = convert_caffemodel(source, output, storage.value, norms.value)
        console.say(f"{source}: {found.summary}")
        if found.ignored:
            console.say(f"{source}: layers not needed: {found.ignored}")
    else:
        from deconvseg.network.checkpoint import load_network, save_network

        network, header = load_network(source)
        save_network(output, network, header, storage.value)
    console.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return console.DONE

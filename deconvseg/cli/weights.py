"""`deconvseg weights`: list, check, fetch, describe, convert and average network files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deconvseg.cli import console
from deconvseg.cli.options import DebugOption, JsonOption, OverwriteOption, refuse_target
from deconvseg.errors import DeconvSegError, UsageError, WeightsError

if TYPE_CHECKING:
    from deconvseg.network.base import SegmentationNetwork
    from deconvseg.weights import Entry

app = typer.Typer(
    no_args_is_help=True,
    help="List, check and fetch networks, look into them, average them and store them smaller.",
)
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")]
_RIGHT, _NOT_CHECKED = "ok", "not checked: its hash is not known"


@app.command("list")
def list_weights(json_: JsonOption = False, debug: DebugOption = False) -> int:
    """List all networks and edge forests that are known by name."""
    from deconvseg.weights import cache_folder, registry

    entries, cache = registry().values(), cache_folder()
    if json_:
        document = {"cache": cache and str(cache), "weights": [_described(entry) for entry in entries]}
        print(json.dumps(document, indent=2))
        return console.DONE
    _print_table([_row(_described(entry)) for entry in entries])
    for entry in entries:
        for alias in entry.aliases:
            console.say(f"{alias} is {entry.name}")
    console.say("figures are of different data; 'deconvseg weights info NAME' says which")
    console.say(f"fetched files go to {cache or 'the folder that DECONVSEG_HOME names'}")
    return console.DONE


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="If omitted, all that are here.")
    ] = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Check size and hash of the files that are here; exit code 1 if one is wrong."""
    from deconvseg.weights import located, lookup, registry

    entries = [lookup(name) for name in names] if names else [e for e in registry().values() if located(e)]
    results = [_verified(entry) for entry in entries]
    if json_:
        print(json.dumps({"weights": results}, indent=2))
    wrong = [result for result in results if result["status"] not in (_RIGHT, _NOT_CHECKED)]
    for result in results if not json_ else ():
        line = f"{result['name']}: {result['path'] or ''} {result['status']}"
        console.error(line) if result in wrong else print(line)
    return console.SOME_FAILED if wrong else console.DONE


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As in `deconvseg weights list`.")],
    offline: Annotated[
        bool, typer.Option("--offline", envvar="DECONVSEG_OFFLINE", help="Do not touch the network.")
    ] = False,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept licences that do not allow every use.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            envvar="DECONVSEG_TIMEOUT",
            min=0.01,
            max=86400,
            metavar="SECONDS",
            help="Longest wait for a connection, and for each next byte.",
        ),
    ] = 30.0,
    debug: DebugOption = False,
) -> int:
    """Fetch files into the cache, check them, and print their paths; what is here is only checked.

    A file that is not fetched by deconvseg is explained.
    """
    from deconvseg.weights import lookup

    entries = [lookup(name) for name in names]  # a mistyped name is told before anything is fetched
    code = console.DONE
    for entry in entries:
        try:
            print(_pulled(entry, offline, accept_licence, timeout), flush=True)
        except DeconvSegError as problem:
            console.failure(problem)
            code = console.SOME_FAILED
    return code


@app.command()
def info(
    weights: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Network or edge forest.")] = "default",
    debug: DebugOption = False,
) -> int:
    """Print what the registry and a network file itself say, as JSON."""
    from deconvseg.files import digest
    from deconvseg.weights import find, located, network_file, registry

    entry = find(weights)
    path = located(entry) if entry else network_file(weights)
    document: dict[str, Any] = {"file": path and str(path)}
    if path:
        document |= {"bytes": path.stat().st_size, "sha256": digest(path)}
        entry = entry or next((e for e in registry().values() if e.sha256 == document["sha256"]), None)
        if not path.name.endswith((".yml", ".yml.gz")):
            document |= _contents(path)
    print(json.dumps({**document, "registry": entry and _described(entry)}, indent=2))
    return console.DONE


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Network file (.safetensors), or DeconvNet, FCN-8s or VGG-16 from Caffe (.caffemodel).",
        ),
    ],
    output: OutputOption,
    storage: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="int8: one byte a weight and one scale an output channel."),
    ] = "float16",
    norms: Annotated[
        Literal["auto", "folded", "raw"],
        typer.Option(
            "--batch-norm",
            help="What BatchNorm in a DeconvNet from Caffe is: folded (fit to segment with), or raw (of a "
            "training stage); auto goes by the file.",
        ),
    ] = "auto",
    side: Annotated[
        int | None,
        typer.Option(
            min=32,
            metavar="PX",
            help="Of an FCN-8s: scale the longer side of photos to this from now on; nothing is retrained.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> int:
    """Convert networks from Caffe, or store a network's weights in another number format.

    They are expanded again when the file is loaded.
    """
    refuse_target(output, source, overwrite=overwrite)
    if source.suffix.lower() == ".caffemodel":
        from deconvseg.network.caffe_networks import convert_caffemodel

        found = convert_caffemodel(source, output, storage, norms)
        console.say(f"{source}: {found.summary}")
        if found.ignored:
            console.say(f"{source}: layers not needed: {found.ignored}")
    else:
        from deconvseg.network.checkpoint import load_network, save_network

        network, header = load_network(source)
        if side is not None:
            network = _with_side(source, network, side)
        save_network(output, network, header, storage)
    console.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return console.DONE


@app.command("average")
def average_networks(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Network file; gives classes and the rest.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Network trained from the same weights.")],
    output: OutputOption,
    share: Annotated[float, typer.Option(min=0, max=1, help="Weight of SECOND in the average.")] = 0.5,
    encoder_only: Annotated[
        bool,
        typer.Option("--encoder-only", help="Average the encoders; the rest is FIRST's. For unlike kinds."),
    ] = False,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
) -> int:
    """Average the weights of two networks that come of one training.

    A later state with an earlier one, or with one trained on for something else: measure it, it is often
    better than both.
    """
    from dataclasses import replace

    from deconvseg.network.base import average
    from deconvseg.network.checkpoint import load_network, save_network

    refuse_target(output, first, second, overwrite=overwrite)
    network, header = load_network(first)
    other, _ = load_network(second)
    average(network, other, share, encoder_only=encoder_only)
    averaged = {"averaged_with": second.name, "share": share, "encoder_only": encoder_only}
    save_network(output, network, replace(header, training={**header.training, **averaged}))
    console.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return console.DONE


def _described(entry: Entry) -> dict[str, Any]:
    """An entry of the registry, and where its file is, fit for JSON."""
    from dataclasses import asdict

    from deconvseg.weights import located, weights_folder

    path = located(entry)
    where = "not here" if path is None else "shipped" if path.parent == weights_folder() else "cached"
    return {**asdict(entry), "where": where, "path": path and str(path)}


def _row(document: dict[str, Any]) -> list[str]:
    size = document["bytes"]
    if size is None and document["path"]:
        size = Path(document["path"]).stat().st_size
    figure = next(iter(document["figures"]), None)
    return [
        document["name"],
        document["kind"],
        "-" if size is None else f"{size / 1e6:.1f}",
        document["where"],
        document["licence"],
        f"{figure['measure']} {figure['value']:.3f}" if figure else "-",
    ]


def _print_table(rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("name", "kind", "MB", "where", "licence", "figure"):
        table.add_column(name, justify="right" if name == "MB" else "left")
    for row in rows:
        table.add_row(*row)
    # In a pipe a line is never broken: the next program wants one an entry.
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def _verified(entry: Entry) -> dict[str, Any]:
    from deconvseg.weights import fault, located

    path = located(entry)
    status = fault(entry, path) if path else "is not here"
    if not status:
        status = _RIGHT if entry.sha256 else _NOT_CHECKED
    return {"name": entry.name, "path": path and str(path), "status": status}


def _pulled(entry: Entry, offline: bool, accept_licence: bool, timeout: float) -> Path:
    """The verified file of an entry, fetched if it is not here and may be."""
    from deconvseg.weights import cache_target, cure, fault, fetch, how_to_obtain, located

    path = located(entry)
    if path and not (wrong := fault(entry, path)):
        return path
    licence = f"licence: {entry.licence}. {entry.terms}".rstrip()
    if not entry.url:
        if path:
            raise WeightsError(f"{path}: {wrong}; {cure(entry, path)}")
        target = cache_target(entry)
        console.say(f"{entry.name}: {entry.description}")
        for line in (licence, *how_to_obtain(entry)):
            console.say(f"  {line}")
        how = "convert it to" if entry.convert_from else "put it at"
        raise WeightsError(f"{entry.name}: this file is got by hand; {how} {target}")
    if offline:
        raise UsageError(f"{entry.name}: has to be fetched, and nothing is fetched with --offline")
    if not entry.licence_free:
        console.say(f"{entry.name}: {licence}")
        if not accept_licence:
            raise UsageError(
                f"{entry.name}: not fetched, as its licence was not accepted; give --accept-licence"
            )
    return fetch(entry, timeout)


def _contents(path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from deconvseg.network.checkpoint import describe_network

    network, header = describe_network(path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": parameters, "arguments": network.arguments, **asdict(header)}


def _with_side(source: Path, network: SegmentationNetwork, side: int) -> SegmentationNetwork:
    from deconvseg.network.fcn8s import FCN8s, resize_side

    if not isinstance(network, FCN8s):
        raise UsageError(f"{source}: --side is for an FCN-8s, and this is none")
    return resize_side(network, side)

"""`deconvseg weights`: list, check, fetch, describe, convert and average network files."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deconvseg.cli import console, signals
from deconvseg.cli.options import DebugOption, JsonOption, refuse_target
from deconvseg.errors import UsageError

if TYPE_CHECKING:
    from deconvseg.network.base import SegmentationNetwork
    from deconvseg.registry import Entry

app = typer.Typer(
    no_args_is_help=True,
    help="List, check and fetch networks, look into them, average them and store them smaller.",
)


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


@app.command("list")
def list_weights(json_: JsonOption = False, debug: DebugOption = False) -> int:
    """List all networks and edge forests that are known by name."""
    from deconvseg.weights import cache_folder, registry

    entries = registry().values()
    if json_:
        document = {"cache": str(cache_folder()), "weights": [describe(entry) for entry in entries]}
        print(json.dumps(document, indent=2))
        return console.DONE
    _print_table([_row(describe(entry)) for entry in entries])
    for entry in entries:
        for alias in entry.aliases:
            console.say(f"{alias} is {entry.name}")
    console.say("figures are of different data; 'deconvseg weights info NAME' says which")
    console.say(f"fetched files go to {cache_folder()}")
    return console.DONE


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Left out: all that are here.")
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
    else:
        for result in results:
            line = f"{result['name']}: {result['path'] or ''} {result['status']}"
            if result["status"] in (_RIGHT, _NOT_CHECKED):
                print(line)
            else:
                console.error(line)
    wrong = any(result["status"] not in (_RIGHT, _NOT_CHECKED) for result in results)
    return console.SOME_FAILED if wrong else console.DONE


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As in `deconvseg weights list`.")],
    offline: Annotated[
        bool, typer.Option("--offline", envvar="DECONVSEG_OFFLINE", help="Do not touch the network.")
    ] = False,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept licences that are shown, without being asked.")
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

    After a stop the same command goes on. A file that is not fetched by deconvseg is explained.
    """
    from deconvseg.errors import DeconvSegError
    from deconvseg.weights import lookup

    entries = [lookup(name) for name in names]  # a mistyped name is told before anything is fetched
    code = console.DONE
    for entry in entries:
        try:
            print(_pull(entry, offline, accept_licence, timeout), flush=True)
        except DeconvSegError as problem:
            console.failure(problem)
            code = console.SOME_FAILED
        except KeyboardInterrupt:
            console.error("interrupted; what has come is kept, run the same again to go on")
            return signals.exit_code()
    return code


@app.command()
def info(
    weights: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Network or edge forest.")] = "default",
    debug: DebugOption = False,
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
    debug: DebugOption = False,
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


def _with_side(source: Path, network: SegmentationNetwork, side: int) -> SegmentationNetwork:
    from deconvseg.network.fcn8s import FCN8s, resize_side

    if not isinstance(network, FCN8s):
        raise UsageError(f"{source}: --side is for an FCN-8s, and this is none")
    return resize_side(network, side)


def describe(entry: Entry) -> dict[str, Any]:
    """An entry of the registry, and where its file is, fit for JSON."""
    from dataclasses import asdict

    from deconvseg.weights import cache_folder, located, weights_folder

    document = asdict(entry)
    del document["folder"]
    path = located(entry)
    places = {None: "not here", weights_folder(): "shipped", cache_folder(): "cached"}
    document["where"] = places.get(path and path.parent, "own folder")
    document["path"] = path and str(path)
    return document


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


_RIGHT, _NOT_CHECKED = "ok", "not checked: its hash is not known"


def _verified(entry: Entry) -> dict[str, Any]:
    from deconvseg.weights import fault, located

    path = located(entry)
    status = fault(entry, path) if path else "is not here"
    if not status:
        status = _RIGHT if entry.sha256 else _NOT_CHECKED
    return {"name": entry.name, "path": path and str(path), "status": status}


def _pull(entry: Entry, offline: bool, accept_licence: bool, timeout: float) -> Path:
    from deconvseg.weights import how_to_obtain, located
    from deconvseg.weights import pull as pull_weights

    if not entry.urls and not located(entry):
        console.say(f"{entry.name}: {entry.description}")
        for line in (_licence(entry), *how_to_obtain(entry)):
            console.say(f"  {line}")
    with ExitStack() as stack:
        bar: console.Progress | None = None

        def show(done: int) -> None:
            nonlocal bar
            if bar is None:  # not before the licence is accepted
                total = -(-(entry.bytes or 0) // 10**6)
                bar = stack.enter_context(console.Progress(total, wanted=True, what=f"{entry.name}, MB"))
            bar.move(done // 10**6, "")

        return pull_weights(
            entry,
            offline=offline,
            timeout=timeout,
            accept=lambda entry: _accepts(entry, accept_licence),
            say=console.say,
            progress=show,
        )


def _accepts(entry: Entry, accepted: bool) -> bool:
    if entry.licence_free:
        return True
    console.say(f"{entry.name}: {_licence(entry)}")
    if accepted or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return accepted
    return typer.confirm("Do you accept this licence?", err=True)


def _licence(entry: Entry) -> str:
    return f"licence: {entry.licence}. {entry.terms}".rstrip()

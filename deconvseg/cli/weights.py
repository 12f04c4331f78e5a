"""`deconvseg weights`: list, check, describe, convert and average network files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from deconvseg.cli import console
from deconvseg.cli.options import DEBUG, JSON, OVERWRITE, option, refuse_target
from deconvseg.errors import InputError

if TYPE_CHECKING:
    from deconvseg.weights import Entry

app = typer.Typer(
    no_args_is_help=True,
    help="List, find and check networks, look into them, average them and store them smaller.",
)
OUTPUT = option(None, "FILE", "File to write.", "--output", "-o", default=...)


@app.command("list")
def list_weights(json_: bool = JSON, debug: bool = DEBUG) -> int:
    """List all networks and edge forests that are known by name."""
    from deconvseg.weights import cache_folder, registry

    entries, cache = registry().values(), cache_folder()
    if json_:
        document = {"cache": str(cache), "weights": [_described(entry) for entry in entries]}
        print(json.dumps(document, indent=2))
        return console.DONE
    row = "{:16}{:9}{:>5}  {:10}{:15}{}".format
    print(row("name", "kind", "MB", "where", "licence", "figure"))
    for entry in entries:
        size = f"{entry.bytes / 1e6:.1f}" if entry.bytes else "-"
        figure = next((f"{one['measure']} {one['value']:.3f}" for one in entry.figures), "-")
        print(row(entry.name, entry.kind, size, _described(entry)["where"], entry.licence, figure))
        for alias in entry.aliases:
            console.say(f"{alias} is {entry.name}")
    console.say("figures are of different data; 'deconvseg weights info NAME' says which")
    console.say(f"files got by hand go to {cache}")
    return console.DONE


@app.command()
def verify(
    names: list[str] | None = typer.Argument(None, metavar="[NAME]...", help="If omitted, all here."),
    json_: bool = JSON,
    debug: bool = DEBUG,
) -> int:
    """Check size and hash of the files that are here; exit code 1 if one is wrong."""
    results, code = [], console.DONE
    for entry, path, wrong in _checked(names):
        status = wrong or ("ok" if entry.sha256 else "not checked: its hash is not known")
        results.append({"name": entry.name, "path": path and str(path), "status": status})
        code = console.SOME_FAILED if wrong else code
        if not json_:
            (console.error if wrong else print)(f"{entry.name}: {path or ''} {status}")
    if json_:
        print(json.dumps({"weights": results}, indent=2))
    return code


@app.command()
def pull(
    names: list[str] = typer.Argument(metavar="NAME...", help="As in `deconvseg weights list`."),
    debug: bool = DEBUG,
) -> int:
    """Check files and print their paths; explain how to get those that cannot be shipped."""
    from deconvseg.weights import cache_folder, cure

    code = console.DONE
    for entry, path, wrong in _checked(names):
        if path and not wrong:
            print(path, flush=True)
            continue
        code = console.SOME_FAILED
        if path or not entry.obtain:
            console.error(f"{path or entry.name}: {wrong}; {cure(entry)}")
            continue
        for line in (entry.description, f"licence: {entry.licence}. {entry.terms}", entry.obtain):
            console.say(f"{entry.name}: {line}")
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        convert = shlex.join(["convert", entry.convert_from, "-o", str(folder / entry.file)])
        console.error(f"{entry.name}: this file is got by hand; then run: deconvseg weights {convert}")
    return code


def _checked(names: list[str] | None) -> Iterator[tuple[Entry, Path | None, str]]:
    """The entries of these names, or of all files that are here; their files, and what is wrong with them."""
    from deconvseg.weights import fault, located, lookup, registry

    for entry in [lookup(name) for name in names] if names else filter(located, registry().values()):
        yield entry, located(entry), fault(entry)


@app.command()
def info(
    weights: str = typer.Argument("default", metavar="NAME|FILE", help="Network or edge forest."),
    debug: bool = DEBUG,
) -> int:
    """Print what the registry and a network file itself say, as JSON."""
    from deconvseg.files import digest
    from deconvseg.network.checkpoint import describe_network
    from deconvseg.weights import find, located, network_file, registry

    entry = find(weights)
    path = located(entry) if entry else network_file(weights)
    document: dict[str, Any] = {"file": path and str(path)}
    if path:
        document |= {"bytes": path.stat().st_size, "sha256": digest(path)}
        entry = entry or next((e for e in registry().values() if e.sha256 == document["sha256"]), None)
        if not path.name.endswith((".yml", ".yml.gz")):
            network, header = describe_network(path)
            document["parameters"] = sum(parameter.numel() for parameter in network.parameters())
            document |= {"arguments": network.arguments, **asdict(header)}
    print(json.dumps({**document, "registry": entry and _described(entry)}, indent=2))
    return console.DONE


@app.command()
def convert(
    source: Path = typer.Argument(
        metavar="FILE", help="A .safetensors, or a .caffemodel of DeconvNet, FCN-8s or VGG-16."
    ),
    output: Path = OUTPUT,
    storage: Literal["float32", "float16", "int8"] = option(
        None, None, "int8: one byte a weight and one scale an output channel.", default="float16"
    ),
    overwrite: bool = OVERWRITE,
    debug: bool = DEBUG,
) -> int:
    """Convert networks from Caffe, or store a network's weights in another number format."""
    refuse_target(output, source, overwrite=overwrite)
    if source.suffix.lower() == ".caffemodel":
        from deconvseg.network.caffe import convert_caffemodel

        console.say(f"{source}: {convert_caffemodel(source, output, storage)}")
    else:
        from deconvseg.network.checkpoint import load_network, save_network

        save_network(output, *load_network(source), storage)
    console.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return console.DONE


@app.command()
def calibrate(
    source: Path = typer.Argument(metavar="FILE", help="Network file."),
    photos: list[str] = typer.Argument(metavar="PHOTO...", help="Some dozens; folders, globs, @lists."),
    output: Path = OUTPUT,
    overwrite: bool = OVERWRITE,
    debug: bool = DEBUG,
) -> int:
    """Measure on photos how large the numbers in a network get, and keep that in its file for int8."""
    from deconvseg.batch.inputs import find_photos
    from deconvseg.evaluation.calibrate import calibrate

    refuse_target(output, source, overwrite=overwrite)
    found, problems, _ = find_photos(photos, None)
    if problems:
        raise InputError(problems[0])
    layers = calibrate(source, [photo.path for photo in found], output)
    console.say(f"{output}: ranges of {layers} layers on {len(found)} photos")
    return console.DONE


@app.command("average")
def average_networks(
    first: Path = typer.Argument(metavar="FIRST", help="Network file; gives classes and the rest."),
    second: Path = typer.Argument(metavar="SECOND", help="Network trained from the same weights."),
    output: Path = OUTPUT,
    share: float = option(None, None, "Weight of SECOND in the average.", default=0.5, min=0, max=1),
    overwrite: bool = OVERWRITE,
    debug: bool = DEBUG,
) -> int:
    """Average the weights of two networks that come of one training: often better than both."""
    from deconvseg.network.base import average
    from deconvseg.network.checkpoint import load_network, save_network

    refuse_target(output, first, second, overwrite=overwrite)
    network, header = load_network(first)
    other, _ = load_network(second)
    average(network, other, share)
    training = {**header.training, "averaged_with": second.name, "share": share}
    save_network(output, network, replace(header, training=training, ranges={}))
    console.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return console.DONE


def _described(entry: Entry) -> dict[str, Any]:
    """An entry of the registry, and where its file is, fit for JSON."""
    from deconvseg.weights import located, weights_folder

    path = located(entry)
    where = "not here" if path is None else "shipped" if path.parent == weights_folder() else "cached"
    return {**asdict(entry), "where": where, "path": path and str(path)}

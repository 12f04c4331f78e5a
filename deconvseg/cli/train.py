"""`deconvseg train`: train a network on VOC, SBD or your own classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from deconvseg.cli import console, signals
from deconvseg.cli.options import DEBUG, DEVICE, JSON, QUIET, RUN, epilog, option, switch
from deconvseg.errors import UsageError

if TYPE_CHECKING:
    from deconvseg.training.data import TrainingData

EPILOG = epilog(
    "deconvseg train --data mine/ --check    [dim]are my photos and masks sound?[/dim]",
    "deconvseg train --data mine/ --recipe own --init default --out run    "
    "[dim]teach the network my classes[/dim]",
    "deconvseg train --voc-root VOC2012 --out run    [dim]both stages, from VGG-16[/dim]",
    "deconvseg train --voc-root VOC2012 --out run --resume    [dim]after any stop[/dim]",
    "torchrun --nproc-per-node 4 -m deconvseg train ...    [dim]on four devices[/dim]",
    exit_codes="0 done; 1 --check found faults; 2 usage, or data or weights that cannot be used; "
    "130 stopped, state kept",
)
DATA = "Data"
_data, _training, _run = partial(option, DATA), partial(option, "Training"), partial(option, RUN)


def train(
    context: typer.Context,
    data: Path | None = _data("DIR", "Your own photos and masks, and a dataset.toml that says what is what."),
    voc_root: Path | None = _data("DIR", "Folder with JPEGImages, SegmentationClass, ImageSets."),
    sbd_root: Path | None = _data("DIR", "Semantic Boundaries Dataset: joins in, but what is validated on."),
    extra_root: list[Path] | None = _data("DIR", "Data set of the same classes; its train split joins in."),
    split: str = _data("NAME", "Split to train on.", default="train"),
    val_split: str = _data("NAME", "Split to validate on.", default="val"),
    check: bool = switch(DATA, "Look at all photos and masks, report, and stop.", "--check"),
    proposals: Path | None = _data("FILE.npz", "For stage 2; made if need be. Left out: OUT/proposals.npz."),
    scores: list[Path] | None = _data(
        "DIR", "Learn from another network's NAME.scores.npz (segment --save scores) as well."
    ),
    network: Literal["deconvnet", "fcn8s"] | None = _training(
        "deconvnet|fcn8s", "For regions, or for whole photos. Left out: the recipe's."
    ),
    recipe: str | None = _training("NAME|FILE", "Shipped recipe, or .toml. Left out: lite, or fcn8s-lite."),
    stage: Literal["1", "2", "both"] | None = _training(None, "Of a recipe with two. Left out: both."),
    init: str | None = _training(
        "NAME|FILE", "Network to start from; it decides all but crop size and classes."
    ),
    vgg16: Path | None = _training("FILE.safetensors", "ImageNet VGG-16. Left out: downloaded."),
    crop_size: int | None = _training("N", "Side of a crop in pixels; like the next, overrides the recipe."),
    steps: int | None = _training("N", "Length of each stage."),
    batch_size: int | None = _training("N", "Crops a step."),
    accumulate: int | None = _training("N", "Parts a batch is computed in: more need less memory."),
    learning_rate: float | None = _training("N", "Peak for new layers."),
    precision: str | None = _training("fp32|bf16", "Arithmetic; fp32 for cards without bf16."),
    patience: int | None = _training("N", "Stop after so many validations without a better one."),
    seed: int | None = _training("N", "Decides weights and crops."),
    out: Path | None = _run("DIR", "Run folder: networks, checkpoint, metrics.jsonl, curves."),
    resume: bool = switch(RUN, "Go on with the run in --out.", "--resume"),
    limit_steps: int | None = _run("N", "Stop, with a checkpoint, after so many.", min=1),
    device: str = DEVICE,
    workers: int | None = _run("N", "Workers that prepare the data. Left out: one a core.", min=1),
    as_json: bool = JSON,
    quiet: bool = QUIET,
    debug: bool = DEBUG,
) -> int:
    """Train a DeconvNet on VOC, SBD or photos of your own.

    Its best.safetensors goes straight into `deconvseg segment --weights` and `eval --weights`.
    A recipe of two stages leaves one in OUT/stage1 and one in OUT/stage2.
    """
    from deconvseg.machine import cores, reuse_freed_memory
    from deconvseg.network.fold import pick_device
    from deconvseg.training.data import open_training_data
    from deconvseg.training.distributed import process_group, rank
    from deconvseg.training.loop import Options
    from deconvseg.training.recipe import Recipe, read_recipes
    from deconvseg.training.run import run_training

    if out is None and not check:
        raise UsageError("say where the run goes with --out DIR, or only look at the data with --check")
    root = voc_root or data
    if root is None or (voc_root and data):
        raise UsageError("give the data to train on: either --voc-root DIR or --data DIR")
    overrides = {key: value for key, value in context.params.items() if key in Recipe.__dataclass_fields__}
    stages = read_recipes(recipe or ("fcn8s-lite" if network == "fcn8s" else "lite"), overrides, stage)
    found = open_training_data(
        root,
        split=split,
        val_split=val_split,
        sbd_root=sbd_root,
        extra_roots=extra_root or (),
        scores=scores or (),
    )
    reuse_freed_memory()
    workers = workers or cores()
    with process_group(device) as own:
        first = rank() == 0
        if check or out is None:
            return _check(found, workers, as_json=as_json, quiet=quiet) if first else console.DONE
        options = Options(pick_device(own), resume, limit_steps, workers, signals.asked_to_stop)
        if first and not quiet:
            options = replace(options, note=console.say, progress=_progress)
        folders = run_training(stages, found, out, options, init=init, vgg16=vgg16, proposals=proposals)
        if first:
            _tell_end(folders, as_json=as_json, quiet=quiet)
    return console.DONE


@contextmanager
def _progress(total: int, what: str) -> Iterator[Callable[[int, str], None]]:
    with console.Progress(total, wanted=True, what=what) as bar:
        yield bar.move


def _check(data: TrainingData, workers: int, *, as_json: bool, quiet: bool) -> int:
    """Print what is found in the data; 1 if it cannot be trained on."""
    from deconvseg.data.check import check_dataset

    datasets = [("training", dataset) for dataset in data.datasets] + [("validation", data.validation)]
    total = sum(len(dataset) for _, dataset in datasets)
    with console.Progress(total, wanted=not quiet, what="checking") as bar:
        reports = {
            f"{use}: {dataset.source}": check_dataset(dataset, workers=workers, progress=bar.step)
            for use, dataset in datasets
        }
    if as_json:
        print(json.dumps({about: asdict(report) for about, report in reports.items()}, indent=2, default=str))
    else:
        for about, report in reports.items():
            print("\n  ".join([about, *report.lines()]))
    return console.SOME_FAILED if any(report.faults for report in reports.values()) else console.DONE


def _tell_end(folders: list[Path], *, as_json: bool, quiet: bool) -> None:
    from deconvseg.files import read_json_lines

    results = []
    for folder in folders:
        scored = [line for line in read_json_lines(folder / "metrics.jsonl") if "seconds" in line]
        best = max(scored, key=lambda line: line["val_whole_image_miou"], default={})
        network = folder / ("best.safetensors" if best else "last.safetensors")
        results.append({"network": str(network), **best})
        if best and not (quiet or as_json):
            figures = f"mean IoU {best['val_whole_image_miou']:.4f} on whole validation photos"
            console.say(f"{network}: {figures}, step {best['step']}")
    if as_json:
        print(json.dumps({"stages": results}, indent=2))

"""`deconvseg train`: train a network on VOC, SBD or your own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deconvseg.cli import console, signals
from deconvseg.cli.options import RUN, DebugOption, DeviceOption, JsonOption, QuietOption, option, switch
from deconvseg.errors import UsageError

if TYPE_CHECKING:
    from deconvseg.training.loop import Reporter
    from deconvseg.training.plan import Plan

EXAMPLES = """[bold]Examples[/bold]

deconvseg train --data mine/ --check    [dim]are my photos and masks sound?[/dim]

deconvseg train --data mine/ --recipe own --init default --out run    [dim]teach the network my classes[/dim]

deconvseg train --voc-root VOC2012 --out run    [dim]both stages, from VGG-16[/dim]

deconvseg train --voc-root VOC2012 --out run --resume    [dim]after any stop[/dim]

torchrun --nproc-per-node 4 -m deconvseg train ...    [dim]on four devices[/dim]

[bold]Exit codes[/bold]

0 done; 1 --check found faults; 2 usage, or data or weights that cannot be used; 130 stopped, state kept"""

DATA, TRAINING = "Data", "Training"


def train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        option(DATA, "DIR", "Your own photos and masks, and a dataset.toml that says what is what."),
    ] = None,
    voc_root: Annotated[
        Path | None, option(DATA, "DIR", "Folder with JPEGImages, SegmentationClass, ImageSets.")
    ] = None,
    sbd_root: Annotated[
        Path | None, option(DATA, "DIR", "Semantic Boundaries Dataset: joins in, but what is validated on.")
    ] = None,
    extra_root: Annotated[
        list[Path] | None,
        option(DATA, "DIR", "Data set of the same classes; its [b]train[/b] split joins in."),
    ] = None,
    split: Annotated[str, option(DATA, "NAME", "Split to train on.")] = "train",
    val_split: Annotated[str, option(DATA, "NAME", "Split to validate on.")] = "val",
    check: Annotated[
        bool, switch("--check", DATA, "Look at all photos and masks, report, and stop.")
    ] = False,
    proposals: Annotated[
        Path | None,
        option(DATA, "FILE.npz", "For stage 2; made if not there. Left out: OUT/proposals.npz."),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        option(DATA, "DIR", "Learn from another network's NAME.scores.npz (segment --save scores) as well."),
    ] = None,
    network: Annotated[
        Literal["deconvnet", "fcn8s"] | None,
        option(TRAINING, "deconvnet|fcn8s", "For regions, or for whole photos. Left out: the recipe's."),
    ] = None,
    recipe: Annotated[
        str | None,
        option(TRAINING, "NAME|FILE", "Shipped recipe or .toml file. Left out: lite, or fcn8s-lite."),
    ] = None,
    stage: Annotated[
        Literal["1", "2", "both"] | None, option(TRAINING, None, "Of a recipe with two. Left out: both.")
    ] = None,
    init: Annotated[
        str | None,
        option(TRAINING, "NAME|FILE", "Network to start from; it decides all but crop size and classes."),
    ] = None,
    vgg16: Annotated[
        Path | None,
        option(TRAINING, "FILE", "ImageNet VGG-16 convolutions (.safetensors); downloaded when not given."),
    ] = None,
    crop_size: Annotated[
        int | None,
        option(TRAINING, "N", "Side of a crop in pixels; like the next ones, overrides the recipe."),
    ] = None,
    steps: Annotated[int | None, option(TRAINING, "N", "Length of each stage.")] = None,
    batch_size: Annotated[int | None, option(TRAINING, "N", "Crops a step.")] = None,
    accumulate: Annotated[
        int | None, option(TRAINING, "N", "Parts a batch is computed in: more need less memory.")
    ] = None,
    learning_rate: Annotated[float | None, option(TRAINING, "N", "Peak for new layers.")] = None,
    precision: Annotated[str | None, option(TRAINING, "fp32|bf16|fp16", "Arithmetic.")] = None,
    patience: Annotated[
        int | None, option(TRAINING, "N", "Stop after so many validations without a better one.")
    ] = None,
    seed: Annotated[int | None, option(TRAINING, "N", "Decides weights and crops.")] = None,
    out: Annotated[
        Path | None, option(RUN, "DIR", "Run folder: networks, checkpoint, metrics.jsonl, curves.")
    ] = None,
    resume: Annotated[bool, switch("--resume", RUN, "Go on with the run in --out.")] = False,
    limit_steps: Annotated[
        int | None, option(RUN, "N", "Stop, with a checkpoint, after so many.", min=1)
    ] = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int | None, option(RUN, "N", "Workers that prepare the data. Left out: one a core.", min=1)
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Train a DeconvNet on VOC, SBD or photos of your own.

    Its best.safetensors goes straight into `deconvseg segment --weights` and `eval --weights`.
    A recipe of two stages leaves one in OUT/stage1 and one in OUT/stage2.
    """
    from deconvseg.cli.train_display import TrainingDisplay
    from deconvseg.machine import cores, reuse_freed_memory
    from deconvseg.network.fold import pick_device
    from deconvseg.training.distributed import process_group, rank
    from deconvseg.training.loop import Options
    from deconvseg.training.plan import Sources, plan_training
    from deconvseg.training.recipe import Recipe
    from deconvseg.training.run import run_training

    if out is None and not check:
        raise UsageError("say where the run goes with --out DIR, or only look at the data with --check")
    root = voc_root or data
    if root is None or (voc_root and data):
        raise UsageError("give the data to train on: either --voc-root DIR or --data DIR")
    overrides = {key: value for key, value in context.params.items() if key in Recipe.__dataclass_fields__}
    sources = Sources(root, sbd_root, extra_root or (), split, val_split, scores or ())
    recipe = recipe or ("fcn8s-lite" if network == "fcn8s" else "lite")
    plan = plan_training(sources, recipe, overrides, stage)
    reuse_freed_memory()
    workers = workers or cores()
    with process_group(device) as own:
        first = rank() == 0
        with TrainingDisplay(quiet=quiet or not first) as display:
            if check or out is None:
                return _check(plan, workers, display, as_json=as_json) if first else console.DONE
            options = Options(pick_device(own), resume, limit_steps, workers, display, signals.asked_to_stop)
            folders = run_training(plan, out, options, init=init, vgg16=vgg16, proposals=proposals)
        if first:
            _tell_end(folders, as_json=as_json, quiet=quiet)
    return console.DONE


def _check(plan: Plan, workers: int, display: Reporter, *, as_json: bool) -> int:
    """Print what is found in the data; 1 if it cannot be trained on."""
    from deconvseg.training.plan import check_plan

    with display.progress(len(plan.photos) + len(plan.validation), "checking") as step:
        reports = check_plan(plan, workers=workers, progress=step)
    if as_json:
        print(json.dumps({about: report.as_dict() for about, report in reports}, indent=2))
    else:
        for about, report in reports:
            print("\n  ".join([about, *report.lines()]))
    return console.SOME_FAILED if any(report.faults for _, report in reports) else console.DONE


def _tell_end(folders: list[Path], *, as_json: bool, quiet: bool) -> None:
    from deconvseg.files import read_json_lines

    results = []
    for folder in folders:
        scored = [line for line in read_json_lines(folder / "metrics.jsonl") if "seconds" in line]
        best = max(scored, key=lambda line: line["val_whole_image_miou"], default={})
        network = folder / ("best.safetensors" if best else "last.safetensors")
        results.append({"network": str(network), **best})
        if best and not (quiet or as_json):
            iou, step = best["val_whole_image_miou"], best["step"]
            console.say(f"{network}: mean IoU {iou:.4f} on whole validation photos, step {step}")
    if as_json:
        print(json.dumps({"stages": results}, indent=2))

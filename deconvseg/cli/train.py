"""`deconvseg train`: train a network on VOC, SBD or your own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deconvseg.cli import console, signals
from deconvseg.cli.options import RUN, DebugOption, DeviceOption, JsonOption, QuietOption
from deconvseg.errors import UsageError

if TYPE_CHECKING:
    from deconvseg.cli.train_display import TrainingDisplay
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


def _option(panel: str, metavar: str | None, text: str, **more: Any) -> Any:
    return typer.Option(metavar=metavar, help=text, rich_help_panel=panel, **more)


def _switch(name: str, panel: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel)


def train(
    data: Annotated[
        Path | None,
        _option(DATA, "DIR", "Your own data: photos, masks and a dataset.toml that says what is what."),
    ] = None,
    voc_root: Annotated[
        Path | None, _option(DATA, "DIR", "Folder with JPEGImages, SegmentationClass, ImageSets.")
    ] = None,
    sbd_root: Annotated[
        Path | None,
        _option(
            DATA, "DIR", "Semantic Boundaries Dataset: its photos join in, but those of the validation split."
        ),
    ] = None,
    extra_root: Annotated[
        list[Path] | None,
        _option(DATA, "DIR", "Another data set of the same classes; its [b]train[/b] split joins in."),
    ] = None,
    split: Annotated[str, _option(DATA, "NAME", "Split to train on.")] = "train",
    val_split: Annotated[str, _option(DATA, "NAME", "Split to validate on.")] = "val",
    check: Annotated[
        bool, _switch("--check", DATA, "Look at all photos and masks, report, and stop.")
    ] = False,
    proposals: Annotated[
        Path | None,
        _option(
            DATA,
            "FILE.npz",
            "Object proposals for stage 2; made if the file is not there. Left out: OUT/proposals.npz.",
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        _option(
            DATA,
            "DIR",
            "Learn from another network's scores too: NAME.scores.npz of photos (segment --save scores). "
            "Give it again for more folders.",
        ),
    ] = None,
    network: Annotated[
        Literal["deconvnet", "fcn8s"] | None,
        _option(
            TRAINING,
            "deconvnet|fcn8s",
            "What to train: a DeconvNet for regions, or an FCN-8s for whole photos (for ensembles). "
            "Left out: as the recipe says.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        _option(
            TRAINING, "NAME|FILE", "Name of a shipped recipe, or a .toml file. Left out: lite, or fcn8s-lite."
        ),
    ] = None,
    stage: Annotated[
        Literal["1", "2", "both"] | None,
        _option(TRAINING, None, "Of a recipe with two stages. Left out: both."),
    ] = None,
    init: Annotated[
        str | None,
        _option(TRAINING, "NAME|FILE", "Network to start from; it decides all but crop size and classes."),
    ] = None,
    vgg16: Annotated[
        Path | None,
        _option(TRAINING, "FILE", "ImageNet VGG-16 convolutions (.safetensors); downloaded when not given."),
    ] = None,
    crop_size: Annotated[
        int | None,
        _option(TRAINING, "N", "Side of a crop in pixels; like the next ones, overrides the recipe."),
    ] = None,
    steps: Annotated[int | None, _option(TRAINING, "N", "Length of each stage.")] = None,
    batch_size: Annotated[int | None, _option(TRAINING, "N", "Crops a step.")] = None,
    accumulate: Annotated[
        int | None, _option(TRAINING, "N", "Parts a batch is computed in: more need less memory.")
    ] = None,
    learning_rate: Annotated[float | None, _option(TRAINING, "N", "Peak for new layers.")] = None,
    precision: Annotated[str | None, _option(TRAINING, "fp32|bf16|fp16", "Arithmetic.")] = None,
    patience: Annotated[
        int | None, _option(TRAINING, "N", "Stop after so many validations without a better one.")
    ] = None,
    seed: Annotated[int | None, _option(TRAINING, "N", "Decides weights and crops.")] = None,
    out: Annotated[
        Path | None, _option(RUN, "DIR", "Run folder: networks, checkpoint, metrics.jsonl, curves.")
    ] = None,
    resume: Annotated[bool, _switch("--resume", RUN, "Go on with the run in --out.")] = False,
    limit_steps: Annotated[
        int | None, _option(RUN, "N", "Stop, with a checkpoint, after so many.", min=1)
    ] = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int | None,
        _option(RUN, "N", "Workers that check data and make proposals. Left out: one a core.", min=1),
    ] = None,
    tensorboard: Annotated[
        bool, _switch("--tensorboard", RUN, "Write event files too (pip install tensorboard).")
    ] = False,
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
    from deconvseg.training.run import run_training
    from deconvseg.training.run_folder import Start

    if out is None and not check:
        raise UsageError("say where the run goes with --out DIR, or only look at the data with --check")
    if (voc_root is None) == (data is None):
        raise UsageError("give the data to train on: either --voc-root DIR or --data DIR")
    overrides = {
        "network": network,
        "crop_size": crop_size,
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "precision": precision,
        "patience": patience,
        "seed": seed,
    }
    sources = Sources(voc_root, data, sbd_root, extra_root or (), split, val_split, scores or ())
    recipe = recipe or ("fcn8s-lite" if network == "fcn8s" else "lite")
    plan = plan_training(sources, recipe, overrides, stage)
    reuse_freed_memory()
    workers = workers or cores()
    with process_group(device) as own:
        first = rank() == 0
        with TrainingDisplay(quiet=quiet or not first, tensorboard=tensorboard and first) as display:
            if check or out is None:
                return _check(plan, workers, display, as_json=as_json) if first else console.DONE
            options = Options(pick_device(own), resume, limit_steps, workers, display, signals.asked_to_stop)
            folders = run_training(plan, Start(init, vgg16, proposals), out, options)
        if first:
            _tell_end(folders, as_json=as_json, quiet=quiet)
    return console.DONE


def _check(plan: Plan, workers: int, display: TrainingDisplay, *, as_json: bool) -> int:
    """Print what is found in the data; 1 if it cannot be trained on."""
    from deconvseg.training.plan import check_plan

    with display.progress(len(plan.names) + len(plan.validation), "checking") as step:
        reports = check_plan(plan, workers=workers, progress=step)
    if as_json:
        print(json.dumps({about: report.as_dict() for about, report in reports}, indent=2))
    else:
        for about, report in reports:
            print(about)
            for line in report.lines():
                print(f"  {line}")
    return console.SOME_FAILED if any(report.faults for _, report in reports) else console.DONE


def _tell_end(folders: list[Path], *, as_json: bool, quiet: bool) -> None:
    from deconvseg.files import read_json_lines

    results = []
    for folder in folders:
        scored = [line for line in read_json_lines(folder / "metrics.jsonl") if "seconds" in line]
        best = max(scored, key=lambda line: line["val_whole_image_miou"], default=None)
        name = "best" if best else "last"
        results.append({"network": str(folder / f"{name}.safetensors"), **(best or {})})
        if best and not (quiet or as_json):
            iou, step = best["val_whole_image_miou"], best["step"]
            console.say(
                f"{folder / 'best.safetensors'}: mean IoU {iou:.4f} on whole validation photos, step {step}"
            )
    if as_json:
        print(json.dumps({"stages": results}, indent=2))

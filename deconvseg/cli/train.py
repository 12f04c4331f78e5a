"""`deconvseg train`: train a network on VOC, SBD or your own classes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deconvseg.cli import console, signals
from deconvseg.cli.options import RUN, DebugOption, DeviceOption, JsonOption, QuietOption

if TYPE_CHECKING:
    from deconvseg.data.check import DataReport
    from deconvseg.training.plan import Plan

EXAMPLES = """[bold]Examples[/bold]

deconvseg train --data mine/ --check    [dim]are my photos and masks sound?[/dim]

deconvseg train --data mine/ --recipe own --init default --out run    [dim]teach the network my classes[/dim]

deconvseg train --voc-root VOC2012 --out run    [dim]both stages, from VGG-16[/dim]

deconvseg train --voc-root VOC2012 --out run --resume    [dim]after any stop[/dim]

torchrun --nproc-per-node 4 -m deconvseg train ...    [dim]on four devices[/dim]

[bold]Exit codes[/bold]

0 done; 1 --check found faults; 2 usage, or data or weights that cannot be used; 130 stopped, state kept"""


class NetworkKind(StrEnum):
    """What can be trained."""

    deconvnet = "deconvnet"
    fcn8s = "fcn8s"


class Stage(StrEnum):
    """Which of a recipe's stages to run."""

    one = "1"
    two = "2"
    both = "both"


MOST_FAULTS = 50
DATA, TRAINING = "Data", "Training"


def train(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Your own data: photos, masks and a dataset.toml that says what is what.",
            rich_help_panel=DATA,
        ),
    ] = None,
    voc_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with JPEGImages, SegmentationClass, ImageSets.",
            rich_help_panel=DATA,
        ),
    ] = None,
    sbd_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Semantic Boundaries Dataset: its photos join in, but those of the validation split.",
            rich_help_panel=DATA,
        ),
    ] = None,
    extra_root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Another data set of the same classes; its [b]train[/b] split joins in.",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="Split to train on.", rich_help_panel=DATA)
    ] = "train",
    val_split: Annotated[
        str, typer.Option(metavar="NAME", help="Split to validate on.", rich_help_panel=DATA)
    ] = "val",
    check: Annotated[
        bool,
        typer.Option("--check", help="Look at all photos and masks, report, and stop.", rich_help_panel=DATA),
    ] = False,
    proposals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Object proposals for stage 2; made if the file is not there. Left out: OUT/proposals.npz.",
            rich_help_panel=DATA,
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Learn from another network's scores too (segment --save scores).",
            rich_help_panel=DATA,
        ),
    ] = None,
    network: Annotated[
        NetworkKind | None,
        typer.Option(
            metavar="deconvnet|fcn8s",
            help="What to train: a DeconvNet for regions, or an FCN-8s for whole photos (for ensembles). "
            "Left out: as the recipe says.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Name of a shipped recipe, or a .toml file. Left out: lite, or fcn8s-lite.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    stage: Annotated[
        Stage | None,
        typer.Option(help="Of a recipe with two stages. Left out: both.", rich_help_panel=TRAINING),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Network to start from; it decides all but crop size and classes.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    vgg16: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="ImageNet VGG-16 convolutions (.safetensors); downloaded when not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    crop_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Side of a crop in pixels; like the next ones, overrides the recipe.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Length of each stage.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Crops a step.", rich_help_panel=TRAINING)
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Parts a batch is computed in: more need less memory.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="N", help="Peak for new layers.", rich_help_panel=TRAINING)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="fp32|bf16|fp16", help="Arithmetic.", rich_help_panel=TRAINING),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Stop after so many validations without a better one.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Decides weights and crops.", rich_help_panel=TRAINING),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Run folder: networks, checkpoint, metrics.jsonl, curves.",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=RUN)
    ] = False,
    limit_steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop, with a checkpoint, after so many.", rich_help_panel=RUN),
    ] = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Processes that check data and make proposals. Left out: all cores.",
            rich_help_panel=RUN,
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Write event files too (pip install tensorboard).", rich_help_panel=RUN
        ),
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
    from deconvseg.errors import UsageError
    from deconvseg.training.distributed import barrier, process_group, rank
    from deconvseg.training.plan import Sources, digest, plan_training
    from deconvseg.training.run import check_start, run_training
    from deconvseg.training.run_folder import Start

    if out is None and not check:
        raise UsageError("say where the run goes with --out DIR, or only look at the data with --check")
    overrides = {
        "network": network.value if network else None,
        "crop_size": crop_size,
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "precision": precision,
        "patience": patience,
        "seed": seed,
    }
    sources = Sources(voc_root, data, sbd_root, extra_root or (), split, val_split)
    recipe = recipe or ("fcn8s-lite" if network is NetworkKind.fcn8s else "lite")
    plan = plan_training(sources, recipe, overrides, stage.value if stage else None)
    start = Start(init, vgg16, proposals, scores)
    with process_group(device) as device:
        if out is not None and not check:
            check_start(plan, start, out, resume=resume, device=device)
        barrier()  # the first process must not begin a run before the others have looked
        first = rank() == 0
        quiet = quiet or not first
        reports = _check(plan, workers or os.cpu_count() or 1, quiet) if first else []
        if check:
            return _show_check(reports, as_json=as_json) if first else console.DONE
        _refuse_faults(reports, quiet)
        assert out is not None
        if plan.needs_proposals:
            cached = proposals or out / "proposals.npz"
            start = replace(start, proposals=cached)
            if first and not (proposals and proposals.is_file()):
                _make_proposals(plan, cached, workers or os.cpu_count() or 1, quiet)
            barrier()
        with TrainingDisplay(quiet=quiet, tensorboard=tensorboard and first) as display:
            folders = run_training(
                plan,
                digest(plan, reports),
                start,
                out,
                resume=resume,
                limit_steps=limit_steps,
                device=device,
                reporter=display,
                interrupted=signals.asked_to_stop,
            )
    if first:
        _tell_end(folders, as_json=as_json, quiet=quiet)
    return console.DONE


def _check(plan: Plan, workers: int, quiet: bool) -> list[tuple[str, DataReport]]:
    from deconvseg.training.plan import check_plan

    files = len(plan.names) + len(plan.validation.examples)
    with console.Progress(files, wanted=not quiet, what="checking") as bar:
        return check_plan(plan, workers=workers, progress=bar.step)


def _refuse_faults(reports: list[tuple[str, DataReport]], quiet: bool) -> None:
    from deconvseg.errors import DataError

    faults = [fault for _, report in reports for fault in report.faults]
    for fault in faults[:MOST_FAULTS] if len(faults) > 1 else ():
        console.say(str(fault))
    if len(faults) > 1:
        raise DataError(
            f"{len(faults)} faults in photos and masks, see above; --check --json lists all of them"
        )
    for about, report in reports:
        report.raise_if_unusable()
        for warning in report.warnings:
            if not quiet:
                console.say(f"note: {about}: {warning}")


def _show_check(reports: list[tuple[str, DataReport]], *, as_json: bool) -> int:
    """Print what was found; 1 if it cannot be trained on."""
    if as_json:
        print(json.dumps({about: report.as_dict() for about, report in reports}, indent=2))
    else:
        for about, report in reports:
            print(about)
            for line in report.lines():
                print(f"  {line}")
    return console.SOME_FAILED if any(report.faults for _, report in reports) else console.DONE


def _make_proposals(plan: Plan, target: Path, workers: int, quiet: bool) -> None:
    from deconvseg.proposals.cache import cache_proposals

    if not quiet:
        console.say(f"{target}: object proposals of {len(plan.names)} photos")
    with console.Progress(len(plan.names), wanted=not quiet, what="proposals") as bar:
        cache_proposals(plan.photos, target, workers=workers, progress=bar.step)


def _tell_end(folders: list[Path], *, as_json: bool, quiet: bool) -> None:
    results = []
    for folder in folders:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        scored: list[dict[str, float]] = [line for line in map(json.loads, lines) if "seconds" in line]
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

"""`deconvseg eval`: measure a network on a data set's split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deconvseg.cli import console


def evaluate(
    voc_root: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with JPEGImages, SegmentationClass, ImageSets.")
    ],
    split: Annotated[
        str, typer.Option(metavar="NAME", help="List in ImageSets/Segmentation to score.")
    ] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Score an evenly spread, fixed sample of N photos.")
    ] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Score fewer proposals and no CRF as well.")
    ] = False,
    weights: Annotated[str, typer.Option(metavar="NAME|FILE", help="Network.")] = "default",
    proposals: Annotated[int, typer.Option(min=0, metavar="N", help="Regions besides the photo.")] = 50,
    min_side: Annotated[int, typer.Option(min=1, metavar="PX", help="Shortest side of a region.")] = 112,
    fusion: Annotated[str, typer.Option(metavar="max|mean", help="How regions are put together.")] = "max",
    crf: Annotated[bool, typer.Option("--crf/--no-crf", help="Sharpen with the dense CRF.")] = True,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|bf16|fp16", help="Number format to compute in.")
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Regions at a time. Left out: what suits the device."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads. Left out: all cores.")
    ] = None,
    forest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Edge forest, instead of the shipped one.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    debug: console.DebugOption = False,
) -> int:
    """Score a network on a split: each photo at its own size, pixels pooled over the set, void left out.

    Mean IoU is the mean over the classes that occur in truth or prediction.
    """
    from deconvseg.errors import UsageError
    from deconvseg.evaluation.run import evaluate as run
    from deconvseg.network.memory import reuse_freed_memory
    from deconvseg.segmenter import Segmenter

    if fusion not in ("max", "mean"):
        raise UsageError(f"--fusion {fusion}: unknown rule; use max or mean")
    segmenter = Segmenter(
        weights,
        proposals=proposals,
        min_side=min_side,
        fusion=fusion,  # type: ignore[arg-type]
        crf=crf,
        device=device,
        precision=precision,
        batch_size=batch_size,
        threads=threads,
        forest=forest,
    )
    reuse_freed_memory()
    segmenter.load()
    for note in segmenter.notes:
        console.say(f"note: {note}")
    bar = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = console.Progress(total, wanted=not quiet).__enter__()
        bar.step()

    try:
        report = run(
            segmenter,
            voc_root,
            split,
            limit=limit,
            ablate=ablate,
            workers=workers,
            progress=progress,
        )
    finally:
        if bar is not None:
            bar.__exit__()
    report = {"weights": weights, **report}
    if as_json:
        print(json.dumps(report, indent=2, allow_nan=False))
        return console.DONE
    for name, value in report["rows"].items():
        print(f"{value:.4f}  mean IoU, {name}")
    print(f"{report['pixel_accuracy']:.4f}  pixel accuracy")
    print(f"{report['mean_accuracy']:.4f}  mean accuracy")
    print(f"{report['images']} photos of {split}, {report['seconds_per_image']:.2f} s each")
    for name, value in report["per_class_iou"].items():
        print(f"{'-     ' if value is None else format(value, '.4f')}  {name}")
    return console.DONE

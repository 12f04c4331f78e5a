"""`deconvseg eval`: measure a network, or predictions made elsewhere, on a data set's split."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from deconvseg.cli import console
from deconvseg.cli.options import (
    RUN,
    DebugOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    load_segmenter,
    refuse_target,
    segmenter_options,
)
from deconvseg.errors import UsageError

TUNING_SAMPLE = 60
"""Photos that --tune-crf takes if --limit does not say."""
FIGURES = (
    "mean_iou",
    "voc_mean_iou",
    "pixel_accuracy",
    "mean_accuracy",
    "frequency_weighted_iou",
    "boundary_f",
)

EXAMPLES = """[bold]Examples[/bold]

deconvseg eval --voc-root VOC2012

deconvseg eval --voc-root VOC2012 --ablate --report report/    [dim]again after a stop: goes on[/dim]

deconvseg eval --data mine/ --weights run/best.safetensors

deconvseg eval --voc-root VOC2012 --predictions masks/ --json

deconvseg eval --voc-root VOC2012 --tune-crf -o tuned.safetensors

[bold]Exit codes[/bold]

0 all done; 1 an unforeseen error; 2 usage, or data that cannot be scored; 130 interrupted"""


@segmenter_options()
def evaluate(
    voc_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with JPEGImages, SegmentationClass, ImageSets.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Your own data: photos, masks and a dataset.toml that says what is what."
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Which of its lists to score.")] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Take an evenly spread, fixed sample of N photos.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Score the label PNGs NAME.png there (class numbers, palette or grey) and run nothing.",
        ),
    ] = None,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate",
            help="Score the whole photo alone, 10, 25, 50 and 100 proposals, without and with CRF, as well; "
            "where there is an ensemble, FCN-8s alone and both rules too.",
        ),
    ] = False,
    tune_crf: Annotated[
        bool,
        typer.Option(
            "--tune-crf",
            help=f"Search the CRF's parameters on {TUNING_SAMPLE} photos (or --limit), write them with -o.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write report.html, report.json, per_class.csv, per_image.csv and the labels there. A "
            "stopped run goes on from it; without it nothing is kept.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Copy of the network, tuned.")
    ] = None,
    *,
    segmenter_arguments: dict[str, Any],
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Photos at a time.", rich_help_panel=RUN)
    ] = 1,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Score a network on a split: each photo at its own size, pixels pooled over the set, void left out.

    Mean IoU is the mean over the classes that occur in truth or prediction.
    """
    root = voc_root or data
    if root is None or (voc_root and data):
        raise UsageError("name the data set: --voc-root DIR for VOC's layout, or --data DIR for your own")
    if predictions and (ablate or tune_crf):
        raise UsageError("--predictions runs no network; leave out --ablate and --tune-crf")
    if tune_crf and (ablate or report):
        raise UsageError("--tune-crf writes a network and no report; leave out --ablate and --report")
    if tune_crf and not output:
        raise UsageError("--tune-crf: name the tuned copy of the network with -o FILE")
    if output and not tune_crf:
        raise UsageError("-o is for --tune-crf; results go to standard output or --report DIR")
    if (ablate or tune_crf) and segmenter_arguments["protocol"] != "default":
        raise UsageError("--ablate and --tune-crf vary the default protocol; leave --protocol out")
    from deconvseg.evaluation import tune
    from deconvseg.evaluation.ablation import finished, network
    from deconvseg.evaluation.report import summarise, write_report
    from deconvseg.evaluation.run import evaluate as run
    from deconvseg.evaluation.run import open_truth
    from deconvseg.weights import network_file

    say: Callable[[str], None] = (lambda text: None) if quiet else console.say
    truth = open_truth(root, split, limit or (TUNING_SAMPLE if tune_crf else None))
    if len(truth.examples) < truth.photos:
        say(f"a sample: {len(truth.examples)} of the {truth.photos} photos of {split}, evenly spread")
    if predictions:
        subject = finished(predictions, truth)
        if any(truth.masks.ids.get(i) != i for i in range(len(truth.classes))):
            say("note: predictions hold class numbers, 0 and up in the order of dataset.toml, not its ids")
    else:
        segmenter = load_segmenter(segmenter_arguments, quiet=quiet)
        if output:
            source = network_file(segmenter.weights)
            refuse_target(output, source, overwrite=overwrite)
            tuned = tune.tune_crf(segmenter, source, truth, output, workers=workers, progress=say)
            _print(tuned, as_json, _print_tuned)
            return console.DONE
        subject = network(segmenter, truth, ablate=ablate)
    try:
        with _progress(say) as progress:
            evaluation = run(
                subject, truth, folder=report, overwrite=overwrite, workers=workers, progress=progress
            )
    except KeyboardInterrupt:
        kept = "finished photos are kept, run the same again to go on" if report else "nothing is kept"
        return console.interrupted(kept)
    summary = summarise(evaluation, None if predictions else segmenter_arguments["weights"])
    if report:
        write_report(evaluation, summary, report)
        say(f"report: {report / 'report.html'}")
    _print(summary, as_json, _print_scores)
    return console.DONE


@contextmanager
def _progress(say: Callable[[str], None]) -> Iterator[Callable[[int, int], None]]:
    """Yields what shows a bar with the time left, or without a terminal a line each tenth of the way."""
    bar: console.Progress | None = None
    started, before = time.monotonic(), 0

    def show(done: int, total: int) -> None:
        nonlocal bar, started, before
        if bar is None:  # the first call says how many were done before
            started, before = time.monotonic(), done
            if done:
                say(f"going on: {done} of {total} photos are done")
            bar = console.Progress(total - done, wanted=say is console.say).__enter__()
            return
        bar.step()
        if not bar.visible and total >= 10 and done * 10 // total > (done - 1) * 10 // total:
            left = (time.monotonic() - started) / (done - before) * (total - done)
            say(f"[{done}/{total}] {int(left // 60)}:{int(left % 60):02} left")

    try:
        yield show
    finally:
        if bar:
            bar.__exit__()


def _print(result: dict[str, Any], as_json: bool, as_text: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        as_text(result)


def _print_tuned(result: dict[str, Any]) -> None:
    from deconvseg.evaluation.tune import in_words

    for key in ("before", "after"):
        side = result[key]
        print(
            f"{key:7}{side['mean_iou_searched']:.4f} searched  {side['mean_iou_held_out']:.4f} held out  "
            + in_words(side["crf"])
        )
    kept = "the new parameters" if result["improved"] else "the old parameters: the new ones are not better"
    print(f"{result['output']}: holds {kept} on the photos held out")


def _print_scores(summary: dict[str, Any]) -> None:
    """The rows, the published ones, and every figure of the full setting."""
    print("mean IoU  95 % interval  boundary F  small  medium  large  setting")
    for row in summary["rows"]:
        sizes = "  ".join(_number(value, 3).rjust(5) for value in row["sizes"].values())
        mark = " *" * (row["name"] == summary["setting"] and len(summary["rows"]) > 1)
        figures = f"{row['mean_iou']:.4f}    {_interval(row):13}  {_number(row['boundary_f'], 4):10}  {sizes}"
        print(f"{figures}   {row['name']}{mark}")
    if summary["published"]:
        print(f"\nThe paper's rows, on other images ({summary['published_on']}):")
    for row in summary["published"]:
        print(f"{row['mean_iou']:.3f}   {row['name']}")
    print(f"\n{summary['setting']}, {summary['images']} of the {summary['split_images']} photos of", end=" ")
    print(summary["split"])
    outlines = f"boundary F, tolerance {summary['boundary_tolerance']:.2%} of the diagonal"
    names = {"voc_mean_iou": "mean IoU over all classes, absent ones 0, as VOC", "boundary_f": outlines}
    for key in FIGURES:
        name = names.get(key, key.replace("_", " ").replace("iou", "IoU"))
        print(f"{_number(summary[key], 4)}  {name}")
    if summary["seconds_per_image"] is not None:
        print(f"{summary['seconds_per_image']:.2f}    seconds a photo")
    print()
    for name, value in summary["per_class_iou"].items():
        print(f"{_number(value, 4):6}  {name}")


def _interval(row: dict[str, Any]) -> str:
    low, high = row["mean_iou_interval"]
    return f"{low:.3f}-{high:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

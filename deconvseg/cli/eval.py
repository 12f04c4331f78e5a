"""`deconvseg eval`: measure a network, or predictions made elsewhere, on a data set's split."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from deconvseg.cli import console
from deconvseg.cli import options as shared
from deconvseg.cli.options import option, switch
from deconvseg.errors import UsageError

TUNING_SAMPLE = 60
"""Photos that --tune-crf takes if --limit does not say."""
EPILOG = shared.epilog(
    "deconvseg eval --voc-root VOC2012",
    "deconvseg eval --voc-root VOC2012 --ablate --report report/",
    "deconvseg eval --data mine/ --weights run/best.safetensors",
    "deconvseg eval --voc-root VOC2012 --predictions masks/ --json",
    "deconvseg eval --voc-root VOC2012 --tune-crf -o tuned.safetensors",
    exit_codes="0 all done; 1 an unforeseen error; 2 usage, or data that cannot be scored; 130 interrupted",
)
IO = "Input and output"
_io = partial(option, IO)


@shared.segmenter_options()
def evaluate(
    voc_root: Path | None = _io("DIR", "Folder with JPEGImages, SegmentationClass, ImageSets."),
    data: Path | None = _io("DIR", "Your own data: photos, masks, and a dataset.toml about them."),
    split: str = _io("NAME", "Which of its lists to score.", default="val"),
    limit: int | None = _io("N", "Take an evenly spread, fixed sample.", min=1),
    predictions: Path | None = _io("DIR", "Run nothing: score label PNGs (NAME.png, class numbers)."),
    ablate: bool = switch(IO, "Score 0 to 50 proposals, with and without CRF and FCN, as well.", "--ablate"),
    tune_crf: bool = switch(
        IO, f"Search the CRF's parameters on {TUNING_SAMPLE} photos (or --limit).", "--tune-crf"
    ),
    report: Path | None = _io("DIR", "Write a page, figures and labels to this folder, new or empty."),
    output: Path | None = _io("FILE", "Copy of the network, tuned.", "--output", "-o"),
    *,
    segmenter_arguments: dict[str, Any],
    workers: int = option(shared.RUN, "N", "Photos at a time.", default=1, min=1),
    overwrite: bool = shared.OVERWRITE,
    as_json: bool = shared.JSON,
    quiet: bool = shared.QUIET,
    debug: bool = shared.DEBUG,
) -> int:
    """Score a network on a split: each photo at its own size, pixels pooled over the set, void left out.

    Mean IoU is the mean over the classes that occur in truth or prediction.
    """
    root = voc_root or data
    if root is None or (voc_root and data):
        raise UsageError("name the data set: --voc-root DIR for VOC's layout, or --data DIR for your own")
    if sum(map(bool, (predictions, ablate, tune_crf))) > 1 or (tune_crf and report):
        raise UsageError("--predictions, --ablate and --tune-crf exclude each other, --tune-crf --report too")
    if tune_crf != bool(output):
        raise UsageError("--tune-crf needs -o FILE, the tuned copy of the network, and nothing else takes -o")
    from deconvseg.evaluation import ablation, run, tune
    from deconvseg.evaluation.report import write_report
    from deconvseg.weights import network_file

    say: Callable[[str], None] = (lambda text: None) if quiet else console.say
    truth = run.open_truth(root, split, limit or (TUNING_SAMPLE if tune_crf else None))
    if len(truth.examples) < truth.photos:
        say(f"a sample: {len(truth.examples)} of the {truth.photos} photos of {split}, evenly spread")
    if predictions:
        subject = ablation.finished(predictions, truth)
        if any(truth.masks.ids.get(i) != i for i in range(len(truth.classes))):
            say("note: predictions hold class numbers, 0 and up in the order of dataset.toml, not its ids")
    else:
        segmenter = shared.load_segmenter(segmenter_arguments, quiet=quiet)
        if output:
            source = network_file(segmenter.weights)
            shared.refuse_target(output, source, overwrite=overwrite)
            tuned = tune.tune_crf(segmenter, source, truth, output, workers=workers, progress=say)
            print(json.dumps(tuned, indent=2))
            return console.DONE
        subject = ablation.network(segmenter, truth, ablate=ablate)
    with console.Progress(len(truth.examples), wanted=not quiet) as bar:
        evaluation = run.evaluate(
            subject, truth, folder=report, overwrite=overwrite, workers=workers, progress=bar.move
        )
    summary = run.summarise(evaluation)
    if report:
        write_report(evaluation, summary, report)
        say(f"report: {report / 'report.html'}")
    if as_json:
        print(json.dumps(summary, indent=2, allow_nan=False))
    else:
        _print_scores(summary)
    return console.DONE


def _print_scores(summary: dict[str, Any]) -> None:
    """The rows, and every figure of the full setting by its name in the JSON."""
    print("mean IoU  95 % interval  boundary F  small   medium  large   setting")
    for row in summary["rows"]:
        low, high = row["mean_iou_interval"]
        sizes = "  ".join(map(_number, row["sizes"].values()))
        figures = f"{row['mean_iou']:.4f}    {low:.3f}-{high:.3f}    {_number(row['boundary_f'])}"
        print(f"{figures}      {sizes}  {row['name']}")
    of = f"{summary['images']} of the {summary['split_images']} photos of {summary['split']}"
    print(f"\n{summary['setting']}, {of}")
    values = {name: value for name, value in summary.items() if isinstance(value, float)}
    for name, value in (values | summary["per_class_iou"]).items():
        print(f"{_number(value)}  {name}")


def _number(value: float | None) -> str:
    return "-     " if value is None else f"{value:.4f}"

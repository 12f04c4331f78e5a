"""`deconvseg eval`: measure a network, or predictions made elsewhere, on a data set's split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deconvseg.cli import console, signals
from deconvseg.cli.options import (
    RUN,
    BatchSizeOption,
    CrfOption,
    DebugOption,
    DeviceOption,
    EnsembleOption,
    FcnOption,
    ForestOption,
    FusionOption,
    JsonOption,
    MinSideOption,
    OverwriteOption,
    PrecisionOption,
    ProposalsOption,
    ProtocolOption,
    QuietOption,
    StopOption,
    ThreadsOption,
    WeightsOption,
    refuse_target,
)
from deconvseg.cli.scores import EvalProgress, print_scores, print_tuned
from deconvseg.errors import UsageError

if TYPE_CHECKING:
    from deconvseg.evaluation.truth import Truth
    from deconvseg.segmenter import Segmenter

TUNING_SAMPLE = 60
"""Photos that --tune-crf takes if --limit does not say."""
WHAT, RESULT = "What is measured", "Results"

EXAMPLES = """[bold]Examples[/bold]

deconvseg eval --voc-root VOC2012

deconvseg eval --voc-root VOC2012 --ablate --report report/    [dim]again after a stop: goes on[/dim]

deconvseg eval --data mine/ --weights run/best.safetensors

deconvseg eval --voc-root VOC2012 --predictions masks/ --json

deconvseg eval --voc-root VOC2012 --tune-crf -o tuned.safetensors

[bold]Exit codes[/bold]

0 all done; 1 an unforeseen error; 2 usage, or data that cannot be scored; 130 interrupted"""


def evaluate(
    voc_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with JPEGImages, SegmentationClass, ImageSets.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Your own data: photos, masks and a dataset.toml that says what is what.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(metavar="NAME", help="Which of its lists to score.", rich_help_panel=WHAT),
    ] = "val",
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Take an evenly spread, fixed sample of N photos.", rich_help_panel=WHAT
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Score the label PNGs NAME.png there (class numbers, palette or grey) and run nothing.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate",
            help="Score the whole photo alone, 10, 25, 50 and 100 proposals, without and with CRF, as well; "
            "where there is an ensemble, FCN-8s alone and both rules too.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    tune_crf: Annotated[
        bool,
        typer.Option(
            "--tune-crf",
            help=f"Search the CRF's parameters on {TUNING_SAMPLE} photos (or --limit), write them with -o.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write report.html, report.json, per_class.csv, per_image.csv and the labels there. A "
            "stopped run goes on from it; without it nothing is kept.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Copy of the network, tuned.", rich_help_panel=RESULT
        ),
    ] = None,
    weights: WeightsOption = "default",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    threads: ThreadsOption = None,
    protocol: ProtocolOption = "default",
    proposals: ProposalsOption = None,
    min_side: MinSideOption = None,
    stop: StopOption = None,
    fusion: FusionOption = None,
    ensemble: EnsembleOption = None,
    fcn: FcnOption = None,
    crf: CrfOption = True,
    forest: ForestOption = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.", rich_help_panel=RUN)] = 1,
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
    _refuse_contradictions(
        predictions=predictions, ablate=ablate, tune_crf=tune_crf, report=report, output=output
    )
    from deconvseg.evaluation.truth import open_truth

    if (ablate or tune_crf) and protocol != "default":
        raise UsageError("--ablate and --tune-crf vary the default protocol; leave --protocol out")
    truth = open_truth(root, split, limit or (TUNING_SAMPLE if tune_crf else None))
    if len(truth.examples) < truth.photos and not quiet:
        console.say(f"a sample: {len(truth.examples)} of the {truth.photos} photos of {split}, evenly spread")

    from deconvseg.evaluation.ablation import Network, Predictions, Subject
    from deconvseg.evaluation.run import evaluate as run
    from deconvseg.segmenter import Segmenter

    subject: Subject
    if predictions:
        subject = Predictions(predictions)
        if not quiet and any(truth.masks.ids.get(i) != i for i in range(len(truth.classes))):
            console.say(
                "note: predictions hold class numbers, 0 and up in the order of dataset.toml, not its ids"
            )
    else:
        segmenter = Segmenter(
            weights,
            protocol=protocol,
            proposals=proposals,
            min_side=min_side,
            stop=stop,
            fusion=fusion,
            ensemble=ensemble,
            fcn=fcn,
            crf=crf,
            device=device,
            precision=precision,
            batch_size=batch_size,
            threads=threads,
            forest=forest,
        )
        _load(segmenter, weights, quiet=quiet)
        if tune_crf:
            assert output is not None
            return _tune(segmenter, weights, truth, output, overwrite, workers, as_json, quiet)
        subject = Network(segmenter, ablate=ablate)
    try:
        with EvalProgress(wanted=not quiet) as progress:
            evaluation = run(
                subject, truth, folder=report, overwrite=overwrite, workers=workers, progress=progress.show
            )
    except KeyboardInterrupt:
        kept = "finished photos are kept, run the same again to go on" if report else "nothing is kept"
        console.error(f"interrupted; {kept}")
        return signals.exit_code()
    from deconvseg.evaluation.report import summarise, write_report

    summary = summarise(evaluation, None if predictions else weights)
    if report:
        write_report(evaluation, summary, report)
        if not quiet:
            console.say(f"report: {report / 'report.html'}")
    if as_json:
        print(json.dumps(summary, indent=2, allow_nan=False))
    else:
        print_scores(summary)
    return console.DONE


def _refuse_contradictions(
    *, predictions: Path | None, ablate: bool, tune_crf: bool, report: Path | None, output: Path | None
) -> None:
    if predictions and (ablate or tune_crf):
        raise UsageError("--predictions runs no network; leave out --ablate and --tune-crf")
    if tune_crf and (ablate or report):
        raise UsageError("--tune-crf writes a network and no report; leave out --ablate and --report")
    if tune_crf and not output:
        raise UsageError("--tune-crf: name the tuned copy of the network with -o FILE")
    if output and not tune_crf:
        raise UsageError("-o is for --tune-crf; results go to standard output or --report DIR")


def _load(segmenter: Segmenter, weights: str, *, quiet: bool) -> None:
    from deconvseg.machine import reuse_freed_memory

    reuse_freed_memory()
    segmenter.load()
    if not quiet:
        console.introduce(segmenter, weights)


def _tune(
    segmenter: Segmenter,
    weights: str,
    truth: Truth,
    output: Path,
    overwrite: bool,
    workers: int,
    as_json: bool,
    quiet: bool,
) -> int:
    from deconvseg.evaluation.tune import tune_crf
    from deconvseg.weights import network_file

    source = network_file(weights)
    refuse_target(output, source, overwrite=overwrite)
    result = tune_crf(
        segmenter,
        source,
        truth,
        output,
        workers=workers,
        progress=(lambda text: None) if quiet else console.say,
    )
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return console.DONE
    print_tuned(result)
    return console.DONE

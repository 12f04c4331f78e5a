"""`deconvseg segment`: photos in, masks out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from deconvseg.batch.coco import COCO, write_run_coco
from deconvseg.batch.manifest import Manifest
from deconvseg.batch.plan import Plan, make_plan
from deconvseg.batch.remote_manifest import RemoteManifest
from deconvseg.batch.shard import Shard
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
    MaxMegapixelsOption,
    MinSideOption,
    OverwriteOption,
    PrecisionOption,
    ProposalsOption,
    ProtocolOption,
    QuietOption,
    StopOption,
    ThreadsOption,
    WeightsOption,
    complete_class,
)
from deconvseg.cli.runs import Cluster, Run
from deconvseg.errors import DeconvSegError, OutputError, UsageError, WorkerError
from deconvseg.images.kinds import KINDS

Save = StrEnum("Save", [(kind, kind) for kind in KINDS])  # type: ignore[misc]  # Typer has no list of Literals
Engine = Literal["local", "ray"]
IO = "Input and output"

EXAMPLES = """[bold]Examples[/bold]

deconvseg segment cat.jpg

deconvseg segment cat.jpg -o cut.png --save cutout --classes cat,dog

deconvseg segment cat.jpg -o cat/ --save overlay --legend --save masks

deconvseg segment photos/ -o masks/    [dim]again after a stop: does the rest[/dim]

deconvseg segment photos/ -o out/ --save coco    [dim]all in out/coco.json[/dim]

deconvseg segment 'photos/**/*.jpg' @more.txt -o masks/ --json > done.json

find . -name '*.jpg' -print0 | deconvseg segment @- -o masks/

deconvseg segment photos/ -o masks/ --engine ray --ray-address auto    [dim]on a cluster[/dim]

deconvseg segment - < cat.jpg > mask.png

[bold]Exit codes[/bold]

0 all done; 1 some photos failed, the others are done; 2 usage, or nothing to do; 130 interrupted \
(143 by SIGTERM, 129 by SIGHUP)"""


def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Photo; folder, with all below it; quoted glob; @list.txt, a path a line or NUL after each, "
            "@- from stdin; or - for a photo from stdin. Remote ones too (s3://...).",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A file for one photo. A folder for several: it gets the same tree of results, and "
            "segment.jsonl with a line a photo; it can be remote (s3://...). - is stdout. Without it: "
            "NAME.mask.png beside each photo.",
            rich_help_panel=IO,
        ),
    ] = None,
    save: Annotated[
        list[Save],
        typer.Option(
            metavar="KIND",
            help=" ".join(f"{name}: {kind.help}." for name, kind in KINDS.items()) + " Give it again for "
            "more; the first is OUT, the others NAME.KIND.png (.jpg, .npz, .json) beside it.",
            rich_help_panel=IO,
        ),
    ] = [Save.labels],  # type: ignore[attr-defined]  # noqa: B006 (Typer needs a list, and nothing changes it)
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Keep these classes alone; in all results the others are background.",
            autocompletion=complete_class,
            rich_help_panel=IO,
        ),
    ] = None,
    legend: Annotated[
        bool,
        typer.Option("--legend", help="Name the colours on overlays.", rich_help_panel=IO),
    ] = False,
    coco_polygons: Annotated[
        bool,
        typer.Option(
            "--coco-polygons", help="Outlines as polygons in COCO files, not as RLE.", rich_help_panel=IO
        ),
    ] = False,
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
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Processes that read and write photos beside the network; 0: none. Left out: by cores and "
            "memory. With --engine ray: networks. Left out: one a GPU or, without any, a machine.",
            rich_help_panel=RUN,
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            help="local: processes of this machine. ray: Ray Data, here or on a cluster, with the same "
            "results.",
            rich_help_panel=RUN,
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            help="With --engine ray: the cluster to join; auto: the one this machine is in. If omitted, Ray "
            "is started here for this run.",
            rich_help_panel=RUN,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do one of N shares of the photos, I from 0 to N - 1. Several processes or machines can do "
            "theirs at once into one folder OUT; each writes segment.I-of-N.jsonl.",
            rich_help_panel=RUN,
        ),
    ] = None,
    max_megapixels: MaxMegapixelsOption = 500,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Segment photos: say for every pixel which class it belongs to."""
    if any(text in ("-", "@-") for text in inputs):
        console.needs_stdin()
    cluster = Cluster.of(engine, ray_address, workers, threads)
    with console.slow("looking for photos", wanted=not quiet):
        plan = make_plan(inputs, output, [kind.value for kind in save])
    if any(None in task.outputs.values() for task in plan.tasks):
        console.needs_stdout()
        if as_json:
            raise UsageError(
                "--json and the result both go to standard output; name the result's file with -o"
            )
        if cluster:
            raise UsageError("--engine ray writes to files alone; name the result's file with -o")
        if sys.stdout.isatty():
            raise UsageError("this result is not for a terminal; name its file with -o, or send it on with >")
    for problem in plan.problems:
        console.error(problem)
    for note in () if quiet else plan.notes:
        console.say(f"note: {note}")
    if not plan.tasks:
        return console.NOTHING_DONE
    share = Shard.parse(shard) if shard else None
    if share:
        plan = _only(share, plan)
    coco = plan.folder / COCO if plan.folder and "coco" in save else None
    manifest = _manifest(plan, [coco] if coco else [], share)
    if manifest and not overwrite:
        manifest.refuse_strangers(plan.tasks)

    segmenter = workshop = None
    if not all(task.photo.missing for task in plan.tasks):  # a mistyped name is told at once
        from deconvseg.batch.jobs import Workshop
        from deconvseg.machine import reuse_freed_memory
        from deconvseg.segmenter import Segmenter

        reuse_freed_memory()
        segmenter = Segmenter(
            weights,
            forest=forest,
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
            only=None if classes is None else [name.strip() for name in classes.split(",")],
        )
        segmenter.load()
        workshop = Workshop(
            segmenter.before,
            segmenter.after,
            legend=legend,
            polygons=coco_polygons,
            max_pixels=max_megapixels * 1_000_000,
            mirror=plan.mirror,
        )
        if not quiet:
            console.introduce(segmenter, weights)
    run = Run(plan.tasks, manifest, overwrite=overwrite, quiet=quiet)
    fault: BaseException | None = None
    left_out: list[str] = []
    with manifest.claimed() if manifest else nullcontext():
        try:
            run.work(segmenter, workshop, workers, cluster)
            if manifest and coco and run.settings:
                left_out = _write_coco(manifest, coco, run, quiet=quiet)
        except (KeyboardInterrupt, OutputError, WorkerError) as error:
            fault = error
    records = [run.records[place] for place in sorted(run.records)]
    if as_json:
        speed = {"photos_per_second": run.rate, "network_busy": run.network_busy}
        print(json.dumps({"images": records, **speed}, indent=2))
    counts = Counter(record["status"] for record in records)
    if not quiet and (manifest or len(plan.tasks) > 1):
        _say_end(run, counts, len(plan.tasks), manifest)
    if isinstance(fault, DeconvSegError):
        console.failure(fault)
        return console.SOME_FAILED if records else console.NOTHING_DONE
    if fault:
        again = "run it again without --overwrite" if overwrite else "run the same again"
        console.error("interrupted; finished photos are kept" + f", {again} to go on" * bool(plan.folder))
        return signals.exit_code()
    return console.SOME_FAILED if counts["failed"] or plan.problems or left_out else console.DONE


def _only(share: Shard, plan: Plan) -> Plan:
    """The plan of one shard."""
    if not plan.folder:
        raise UsageError("--shard is for photos whose results go to one folder; name it with -o DIR")
    tasks = [task for task in plan.tasks if share.holds(task.photo.name)]
    return replace(plan, tasks=tasks)


def _manifest(plan: Plan, run_files: list[Path], shard: Shard | None) -> Manifest | None:
    if plan.mirror:
        return RemoteManifest(plan.mirror, run_files, shard)
    return Manifest(plan.folder, run_files, shard) if plan.folder else None


def _say_end(run: Run, counts: Counter[str], total: int, manifest: Manifest | None) -> None:
    told = ", ".join(f"{counts[status]} {status}" for status in ("done", "skipped", "failed"))
    speed = ""
    if run.rate is not None:
        speed = f"; {run.rate:.2f} photos/s"
    if run.network_busy is not None:
        speed += f", network busy {run.network_busy:.0%} of the time"
    where = f"; see {manifest.shown(manifest.path)}" if manifest else ""
    console.say(f"{total} photo{'s' * (total != 1)}: {told}{speed}{where}")


def _write_coco(manifest: Manifest, target: Path, run: Run, *, quiet: bool) -> list[str]:
    """Write the run's COCO file; returns, and prints, a line for each result that is lacking."""
    try:
        problems, others = write_run_coco(manifest, target, run.settings, run.options)
    except DeconvSegError as error:
        return [console.failure(error)]
    for problem in problems:
        console.error(problem)
    if others and not quiet:
        photos = "1 photo that was" if others == 1 else f"{others} photos that were"
        console.say(f"{manifest.shown(target)}: without {photos} done with other settings")
    return problems

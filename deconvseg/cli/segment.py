"""`deconvseg segment`: photos in, masks out."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import typer

from deconvseg.cli import console
from deconvseg.cli import options as shared
from deconvseg.cli.options import option, switch
from deconvseg.errors import DeconvSegError, OutputError, UsageError, WorkerError
from deconvseg.images.kinds import KINDS

if TYPE_CHECKING:
    from deconvseg.batch import FolderRun
    from deconvseg.batch.manifest import Record

Save = StrEnum("Save", [(kind, kind) for kind in KINDS])  # type: ignore[misc]  # Typer has no list of Literals
EPILOG = shared.epilog(
    "deconvseg segment cat.jpg",
    "deconvseg segment cat.jpg -o cut.png --save cutout --classes cat,dog",
    "deconvseg segment cat.jpg -o cat/ --save overlay --legend --save masks",
    "deconvseg segment photos/ -o masks/    [dim]again after a stop: does the rest[/dim]",
    "deconvseg segment photos/ -o out/ --save coco    [dim]all in out/coco.json[/dim]",
    "deconvseg segment 'photos/**/*.jpg' @more.txt -o masks/ --json > done.json",
    "find . -name '*.jpg' -print0 | deconvseg segment @- -o masks/",
    "deconvseg segment photos/ -o masks/ --engine ray --ray-address auto    [dim]on a cluster[/dim]",
    "deconvseg segment - < cat.jpg > mask.png",
    exit_codes="0 all done; 1 some photos failed, the others are done; 2 usage, or nothing to do; "
    "130 interrupted (143 by SIGTERM, 129 by SIGHUP)",
)
IO = "Input and output"
_io, _run = partial(option, IO), partial(option, shared.RUN)


@shared.segmenter_options()
def segment(
    inputs: list[str] = typer.Argument(
        metavar="INPUT",
        help="Photo; folder, with all below it; quoted glob; @list.txt, a path a line or NUL after each, "
        "@- from stdin; or - for a photo from stdin. Remote ones too (s3://...).",
    ),
    output: str | None = _io(
        "OUT",
        "A file for one photo, replaced if it exists. A folder for several: it gets the same tree of "
        "results, and segment.jsonl with a line a photo; it can be remote (s3://...). - is "
        "stdout. Without it: NAME.mask.png beside each photo.",
        "--output",
        "-o",
    ),
    save: list[Save] = _io(
        "KIND",
        " ".join(f"{name}: {kind.help}." for name, kind in KINDS.items()) + " Give it again for more; the "
        "first is OUT, the others NAME.KIND.png (.jpg, .npz, .json) beside it.",
        default=["labels"],
    ),
    classes: str | None = _io("NAME,...", "Keep these alone; the others become background."),
    legend: bool = switch(IO, "Name the colours on overlays.", "--legend"),
    coco_polygons: bool = switch(IO, "Outlines as polygons in COCO files, not as RLE.", "--coco-polygons"),
    *,
    segmenter_arguments: dict[str, Any],
    workers: int | None = _run(
        "N",
        "Threads that read and write photos beside the network; 0: none. If omitted, one a core. "
        "With --engine ray: networks; if omitted, one a GPU or, without any, a machine.",
        min=0,
    ),
    engine: Literal["local", "ray"] = _run(
        None, "local: threads. ray: on a Ray cluster, with the same results.", default="local"
    ),
    ray_address: str | None = _run(
        "HOST:PORT|auto", "Ray cluster; auto: this machine's. If omitted, Ray is started here."
    ),
    shard: str | None = _run(
        "I/N",
        "Do one of N shares of the photos, I from 0 to N - 1. Several processes or machines can do "
        "theirs at once into one folder OUT; each writes segment.I-of-N.jsonl.",
    ),
    max_megapixels: int = shared.MAX_MEGAPIXELS,
    overwrite: bool = shared.OVERWRITE,
    as_json: bool = shared.JSON,
    quiet: bool = shared.QUIET,
    debug: bool = shared.DEBUG,
) -> int:
    """Segment photos: say for every pixel which class it belongs to."""
    if any(text in ("-", "@-") for text in inputs):
        console.needs_stdin()
    if ray_address is not None and engine != "ray":
        raise UsageError("--ray-address is for --engine ray; give both, or none")
    only = None if classes is None else [name.strip() for name in classes.split(",")]
    load = partial(shared.load_segmenter, {**segmenter_arguments, "only": only}, quiet=quiet)
    from deconvseg.batch import FolderRun, Options

    options = Options(
        save=[kind.value for kind in save],
        legend=legend,
        polygons=coco_polygons,
        max_pixels=max_megapixels * 1_000_000,
        overwrite=overwrite,
        workers=workers,
        shard=shard,
        engine=engine,
        ray_address=ray_address,
        ray_threads=segmenter_arguments["threads"],
    )

    def listener(record: Record, error: Exception | None) -> None:
        _show(run, bar, record, error, quiet)

    run = FolderRun(inputs, output, options, listener)
    if run.plan.to_stdout:
        console.needs_stdout_alone(as_json=as_json)
    for problem in run.problems:
        console.error(problem)
    _tell(run.notes, quiet)
    if not run.plan.photos:
        return console.NOTHING_DONE
    told = len(run.problems)
    fault: BaseException | None = None
    with console.Progress(run.total, wanted=not quiet, lines=False) as bar:
        try:
            run.work(load)
        except (KeyboardInterrupt, OutputError, WorkerError) as error:
            if not run.ended:
                raise
            fault = error
    for problem in run.problems[told:]:
        console.error(problem)
    _tell(run.notes, quiet)
    if as_json:
        print(json.dumps({"images": run.records, "photos_per_second": run.rate}, indent=2))
    counts = Counter(record["status"] for record in run.records)
    if not quiet and (run.plan.folder or run.total > 1):
        _say_end(run, counts)
    if isinstance(fault, DeconvSegError):
        console.failure(fault)
        return console.SOME_FAILED
    if fault:
        kept = "finished photos are kept"
        if run.plan.folder:
            kept += f", run {'it again without --overwrite' if overwrite else 'the same again'} to go on"
        return console.interrupted(kept)
    return console.SOME_FAILED if counts["failed"] or run.problems else console.DONE


def _tell(notes: list[str], quiet: bool) -> None:
    """Say the notes, and take them off the list."""
    while notes:
        note = notes.pop(0)
        if not quiet:
            console.say(f"note: {note}")


def _show(
    run: FolderRun, bar: console.Progress, record: Record, error: Exception | None, quiet: bool
) -> None:
    """Say what became of a photo: on a terminal by a bar, else by a line; errors always."""
    _tell(run.notes, quiet)
    bar.move(run.ended, f"{run.rate:.2f} photos/s" if run.rate else "")
    if error:
        console.failure(error, record["error"])
        return
    _tell([f"{record['input']}: {note}" for note in record["notes"]], quiet)
    if not (quiet or bar.visible):
        place = f"[{bar.done}/{bar.total}] " * (bar.total > 1)
        console.say(place + _sentence(record))


def _sentence(record: Record) -> str:
    objects = [f"{name} {share:.1%}" for name, share in record["classes"].items() if name != "background"]
    found = ", ".join(objects[:4]) or "background alone"
    return (
        f"{record['input']} -> {', '.join(record['outputs'].values())}: {found} ({record['seconds']:.1f} s)"
    )


def _say_end(run: FolderRun, counts: Counter[str]) -> None:
    told = ", ".join(f"{counts[status]} {status}" for status in ("done", "skipped", "failed"))
    speed = "" if run.rate is None else f"; {run.rate:.2f} photos/s"
    where = f"; see {run.manifest.folder.shown(run.manifest.path)}" if run.manifest else ""
    console.say(f"{run.total} photo{'s' * (run.total != 1)}: {told}{speed}{where}")

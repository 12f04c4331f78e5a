"""Scores a segmenter over a split of a data set, each photo at its own size."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deconvseg.data.dataset import DataSet, Example, open_dataset
from deconvseg.errors import DataError, UsageError
from deconvseg.evaluation.metrics import Scores, confusion_matrix
from deconvseg.network.memory import reuse_freed_memory
from deconvseg.segmenter import WORKING_SIDE, Segmenter, enlarge, shrink

ABLATION = (0, 10, 25, 50)
"""Numbers of proposals besides the whole photo that `--ablate` scores, below the full number."""

Row = dict[str, NDArray[np.int64]]
"""A confusion matrix by the name of a setting."""

Evaluate = Callable[[Segmenter, DataSet, Example], Row]


def evaluate(
    segmenter: Segmenter,
    root: Path,
    split: str,
    *,
    limit: int | None = None,
    ablate: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Run and score a split.

    Args:
        segmenter: the setting to score; with `ablate` it proposes, and every row shares its work.
        root: folder of any layout that `open_dataset` knows.
        split: list of photos.
        limit: score an evenly spread, fixed sample of that many photos.
        ablate: score fewer proposals and no CRF as well, in one pass.
        workers: processes; the figures do not depend on it.
        progress: called with the photos done and their total.

    Returns:
        A JSON-able report; `mean_iou` and its neighbours are those of the full setting, the last of `rows`.

    Raises:
        DataError: the data set is broken or of other classes than the network, or a mask does not fit its
            photo.
        InputError: a photo cannot be read.
        UsageError: `limit` or `workers` is not positive.
    """
    if workers < 1 or (limit is not None and limit < 1):
        raise UsageError("--workers and --limit take a number of at least 1")
    dataset = open_dataset(root, split)
    classes = segmenter.classes
    if dataset.classes != classes:
        raise DataError(
            f"{dataset.source}: its classes ({', '.join(dataset.classes)}) are not the network's "
            f"({', '.join(classes)}); score a network that was trained for them"
        )
    examples = dataset.examples
    if limit is not None and limit < len(examples):
        examples = tuple(examples[i * len(examples) // limit] for i in range(limit))
        dataset = replace(dataset, examples=examples)
    started = time.perf_counter()
    totals: Row = {}
    for done, row in enumerate(_rows(segmenter, dataset, _ablate if ablate else _full, workers), start=1):
        for name, confusion in row.items():
            totals[name] = totals[name] + confusion if name in totals else confusion
        progress(done, len(examples))
    seconds = time.perf_counter() - started
    rows = {name: asdict(Scores.of(confusion, classes)) for name, confusion in totals.items()}
    return {
        **list(rows.values())[-1],
        "images": len(examples),
        "split": split,
        "settings": segmenter.settings(),
        "seconds_per_image": seconds / len(examples),
        "rows": {name: scores["mean_iou"] for name, scores in rows.items()},
    }


def _rows(segmenter: Segmenter, dataset: DataSet, step: Evaluate, workers: int) -> Iterator[Row]:
    if workers == 1:
        yield from (step(segmenter, dataset, example) for example in dataset.examples)
        return
    threads = max((os.cpu_count() or 1) // workers, 1)
    # Spawned, not forked: a fork of a process whose thread pools run can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (segmenter, dataset, step, threads)) as pool:
        yield from pool.map(_work, dataset.examples)


_worker: tuple[Segmenter, DataSet, Evaluate] | None = None


def _start_worker(segmenter: Segmenter, dataset: DataSet, step: Evaluate, threads: int) -> None:
    global _worker
    reuse_freed_memory()
    torch.set_num_threads(threads)
    _worker = segmenter, dataset, step


def _work(example: Example) -> Row:
    assert _worker is not None
    segmenter, dataset, step = _worker
    return step(segmenter, dataset, example)


def _full(segmenter: Segmenter, dataset: DataSet, example: Example) -> Row:
    image, truth = dataset.read(example)
    labels = segmenter.segment(image).labels
    return {"full": confusion_matrix(truth, labels, len(segmenter.classes))}


def _ablate(segmenter: Segmenter, dataset: DataSet, example: Example) -> Row:
    image, truth = dataset.read(example)
    small = shrink(image, WORKING_SIDE)
    boxes = segmenter.propose(small)
    fusion = segmenter.new_fusion(small)
    row: Row = {}

    def score(name: str, probabilities: NDArray[np.float32]) -> None:
        labels, _ = enlarge(probabilities, truth.shape[0], truth.shape[1], keep=False)
        row[name] = confusion_matrix(truth, labels, len(segmenter.classes))

    most = segmenter.proposals
    stops: dict[int, list[int]] = {}
    for count in [*(fewer for fewer in ABLATION if fewer < most), most]:
        stops.setdefault(min(count + 1, len(boxes)), []).append(count)
    for used, (box, scores) in enumerate(segmenter.score(small, boxes), start=1):
        fusion.add(scores, box)
        if used not in stops:
            continue
        probabilities = fusion.probabilities().cpu().numpy()
        for count in stops[used]:
            score(_name(count), probabilities)
        if segmenter.crf and not {0, most}.isdisjoint(stops[used]):
            sharp = segmenter.sharpen(small, probabilities)
            for count in {0, most}.intersection(stops[used]):
                score(f"{_name(count)} + CRF", sharp)
    last = f"{_name(most)} + CRF" if segmenter.crf else _name(most)
    row[last] = row.pop(last)  # the full setting comes last
    return row


def _name(proposals: int) -> str:
    return f"{proposals} proposals" if proposals else "whole photo"

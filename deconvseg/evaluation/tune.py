"""Searches the dense CRF's parameters for a network, on photos it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.data.dataset import Example, refuse_other_size
from deconvseg.errors import UsageError, WeightsError
from deconvseg.evaluation.ablation import refuse_other_classes
from deconvseg.evaluation.counts import confusion_matrix
from deconvseg.evaluation.metrics import iou
from deconvseg.evaluation.run import Truth, workers_for
from deconvseg.network.checkpoint import copy_network
from deconvseg.regions import Prepared
from deconvseg.segmenter import Segmenter
from deconvseg.settings import CRFParameters

SEARCHED = ("colour_weight", "colour_sigma_rgb", "colour_sigma_xy", "smooth_weight", "smooth_sigma")
"""The parameters, in the order in which they are tried: what matters most comes first."""
FACTORS = (2.0, 2**0.5)  # a parameter goes up and down by the first as long as it helps, later by the second
LEAST_GAIN = 5e-4  # mean IoU by which a step must help: smaller gains are chance and lead to extremes
MOST_TRIALS = 40

Progress = Callable[[str], None]  # told in words how far it is


def tune_crf(
    segmenter: Segmenter, network: Path, truth: Truth, target: Path, workers: int, progress: Progress
) -> dict[str, Any]:
    """Search the CRF's parameters and write them into a copy of the network's file.

    The network runs once over the photos; its probabilities are kept in memory (some megabytes a photo).
    Every second photo is used to search, and the others decide: unless the new parameters are better on them
    as well, the copy keeps the old ones. `workers` are photos at a time, in threads. Returns both, with their
    mean IoU, fit for JSON. UsageError if there are fewer than 4 photos.
    """
    if len(truth.examples) < 4:
        raise UsageError(f"{len(truth.examples)} photos are too few to tune on; take at least 4, better 60")
    refuse_other_classes(truth, segmenter.classes)
    old = CRFParameters.from_mapping(segmenter.header.crf)
    numbers = range(len(truth.examples))
    searched, held_out = numbers[::2], numbers[1::2]

    def count(tuned: Segmenter, number: int) -> NDArray[np.int64]:
        prepared, probabilities = fused[number]
        labels = tuned.finish(prepared, probabilities.astype(np.float32)).labels
        return confusion_matrix(truth.mask(truth.examples[number]), labels, len(truth.classes))

    def score(numbers: Iterable[int], parameters: CRFParameters) -> float:
        tuned = segmenter.with_settings(crf=True, crf_parameters=parameters)
        counts = sum(call_each(partial(count, tuned), numbers), np.zeros((), np.int64))
        value = float(np.nanmean(iou(counts)))
        progress(f"mean IoU {value:.4f}: {parameters}")
        return value

    fused: list[tuple[Prepared, NDArray[np.float16]]] = []
    with workers_for(workers) as call_each:
        for one in call_each(partial(_fuse, segmenter, truth), truth.examples):
            fused.append(one)
            progress(f"score maps: {len(fused)} of {len(numbers)} photos")
        new, trials = search(old, partial(score, searched), MOST_TRIALS)
        held = {parameters: score(held_out, parameters) for parameters in {old, new}}
    before, after = (
        {"crf": asdict(one), "mean_iou_searched": trials[one], "mean_iou_held_out": held[one]}
        for one in (old, new)
    )
    report = {
        "before": before,
        "after": after,
        "improved": held[new] > held[old],
        "trials": len(trials),
        "images_searched": len(searched),
        "images_held_out": len(held_out),
        "split": truth.split,
        "settings": {key: value for key, value in segmenter.identity().items() if key != "crf"},
    }
    crf = (after if report["improved"] else before)["crf"]
    training = {**segmenter.header.training, "crf_search": report}
    copy_network(network, target, {"crf": crf, "training": training})
    return {**report, "output": str(target)}


def _fuse(segmenter: Segmenter, truth: Truth, example: Example) -> tuple[Prepared, NDArray[np.float16]]:
    ((prepared, probabilities),) = segmenter.fuse([segmenter.prepare(example.image)])
    photo = prepared.photo
    refuse_other_size(example, (photo.height, photo.width), truth.mask(example).shape)
    # What is left takes no more memory than the shrunk photo.
    prepared = replace(prepared, photo=replace(photo, image=prepared.image))
    return prepared, probabilities.astype(np.float16)


def search(
    start: CRFParameters, score: Callable[[CRFParameters], float], most: int
) -> tuple[CRFParameters, dict[CRFParameters, float]]:
    """Coordinate search with at most so many scores: parameters no worse than the start, and all scores."""
    best, tried = start, {start: score(start)}
    for factor, name in product(FACTORS, SEARCHED):
        for step in (factor, 1 / factor):
            while candidate := _scaled(best, name, step):
                if candidate not in tried:
                    if len(tried) >= most:
                        return best, tried
                    tried[candidate] = score(candidate)
                if tried[candidate] < tried[best] + LEAST_GAIN:
                    break
                best = candidate
    return best, tried


def _scaled(parameters: CRFParameters, name: str, factor: float) -> CRFParameters | None:
    """The parameters with one of them multiplied, as far as it is allowed."""
    value = round(getattr(parameters, name) * factor, 4)
    try:
        return CRFParameters.from_mapping({**asdict(parameters), name: value})
    except WeightsError:
        return None

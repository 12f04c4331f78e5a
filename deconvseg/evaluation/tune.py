"""Searches the dense CRF's parameters for a network, on photos it was not trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg import machine
from deconvseg.data.dataset import Example, refuse_other_size
from deconvseg.errors import DataError, UsageError, WeightsError
from deconvseg.evaluation.ablation import check_classes
from deconvseg.evaluation.metrics import confusion_matrix, scores
from deconvseg.evaluation.run import Truth, workers_for
from deconvseg.images.read import as_photo
from deconvseg.network.checkpoint import copy_network
from deconvseg.regions import Prepared
from deconvseg.segmenter import Segmenter
from deconvseg.settings import CRFParameters

SEARCHED = ("colour_weight", "colour_sigma_rgb", "colour_sigma_xy", "smooth_weight", "smooth_sigma")
"""The parameters, in the order in which they are tried: what matters most comes first."""
FACTORS = (2.0, 2**0.5)
"""A parameter is multiplied and divided by the first factor as long as it helps, later by the second."""
LEAST_GAIN = 5e-4
"""Mean IoU by which a step must help: smaller gains are chance and lead to extremes."""
MOST_TRIALS = 40


def tune_crf(
    segmenter: Segmenter,
    network: Path,
    truth: Truth,
    target: Path,
    *,
    workers: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Search the CRF's parameters and write them into a copy of the network's file.

    The network runs once over the photos. Its probabilities are kept in a temporary folder (some megabytes a
    photo), and every second photo is used to search: each parameter in turn is made larger or smaller as long
    as the pooled mean IoU rises by at least `LEAST_GAIN`. The other photos decide: unless the new parameters
    are better on them as well, the copy keeps the old ones.

    Args:
        segmenter: network, proposals and fusion; its CRF is not used.
        network: its file.
        truth: photos and masks, best of a split that was not trained on.
        target: the copy to write.
        workers: photos at a time, in threads.
        progress: told in words how far it is.

    Returns:
        Fit for JSON: `before` and `after`, each with `crf` (the parameters), `mean_iou_searched` and
        `mean_iou_held_out`; `improved`, whether the copy has those of `after`; `trials`; `images_searched`,
        `images_held_out`, `split`; `settings` of the segmenter; `output`.

    Raises:
        UsageError: fewer than 4 photos.
        DataError, InputError: a photo or mask cannot be used.
        OutputError: the copy cannot be written.
    """
    if len(truth.examples) < 4:
        raise UsageError(f"{len(truth.examples)} photos are too few to tune on; take at least 4, better 60")
    check_classes(truth, segmenter.classes)
    old = CRFParameters.from_mapping(segmenter.header.crf)
    new, trials, held = _searched(segmenter, truth, old, workers, progress)
    before, after = (
        {"crf": asdict(one), "mean_iou_searched": trials[one], "mean_iou_held_out": held[one]}
        for one in (old, new)
    )
    report = {
        "before": before,
        "after": after,
        "improved": held[new] > held[old],
        "trials": len(trials),
        "images_searched": len(truth.examples[::2]),
        "images_held_out": len(truth.examples[1::2]),
        "split": truth.split,
        "settings": {key: value for key, value in segmenter.identity().items() if key != "crf"},
    }
    training = {**segmenter.header.training, "crf_search": report}
    crf = asdict(new if report["improved"] else old)
    copy_network(network, target, {"crf": crf, "training": training})
    return {**report, "output": str(target)}


def _searched(
    segmenter: Segmenter, truth: Truth, old: CRFParameters, workers: int, progress: Callable[[str], None]
) -> tuple[CRFParameters, dict[CRFParameters, float], dict[CRFParameters, float]]:
    """Better parameters, the score of all that were tried, and that of old and new on the photos held out."""
    searched, held_out = truth.examples[::2], truth.examples[1::2]
    with tempfile.TemporaryDirectory(prefix="deconvseg-") as folder, workers_for(workers) as call_each:
        photos = _Photos(segmenter, truth, Path(folder), call_each)
        for done, _ in enumerate(call_each(photos.fuse, truth.examples), start=1):
            progress(f"score maps: {done} of {len(truth.examples)} photos")

        def trial(parameters: CRFParameters) -> float:
            value = photos.score(parameters, searched)
            progress(f"mean IoU {value:.4f}: {in_words(asdict(parameters))}")
            return value

        new, trials = search(old, trial, MOST_TRIALS)
        return new, trials, {parameters: photos.score(parameters, held_out) for parameters in {old, new}}


def search(
    start: CRFParameters, score: Callable[[CRFParameters], float], most: int
) -> tuple[CRFParameters, dict[CRFParameters, float]]:
    """Coordinate search: better parameters, and the score of everything tried.

    Args:
        start: where to begin; the result is never worse.
        score: the higher, the better.
        most: calls of `score`.
    """
    tried = {start: score(start)}
    best = start
    for factor in FACTORS:
        for name in SEARCHED:
            for candidates in (_along(best, name, factor), _along(best, name, 1 / factor)):
                began = best
                for candidate in candidates:
                    if candidate not in tried:
                        if len(tried) >= most:
                            return best, tried
                        tried[candidate] = score(candidate)
                    if tried[candidate] < tried[best] + LEAST_GAIN:
                        break
                    best = candidate
                if best != began:  # larger helped: smaller will not
                    break
    return best, tried


def in_words(parameters: Mapping[str, float]) -> str:
    """Names and values on one line."""
    return ", ".join(f"{name} {value:g}" for name, value in parameters.items())


def _along(parameters: CRFParameters, name: str, factor: float) -> Iterator[CRFParameters]:
    """The parameters with one of them multiplied again and again, as far as it is allowed."""
    while getattr(parameters, name) > 0:
        parameters = replace(parameters, **{name: round(getattr(parameters, name) * factor, 4)})
        try:
            CRFParameters.from_mapping(asdict(parameters))
        except WeightsError:
            return
        yield parameters


@dataclass(frozen=True)
class _Photos:
    """The network's answers to the photos, kept in a folder, and what the CRF makes of them."""

    segmenter: Segmenter
    truth: Truth
    folder: Path
    call_each: machine.Map
    prepared: dict[str, Prepared] = field(default_factory=dict)

    def fuse(self, example: Example) -> None:
        """Run the network over a photo and keep the probabilities at the size they are made at."""
        photo = as_photo(example.image)
        refuse_other_size(example, (photo.height, photo.width), self.truth.mask(example).shape)
        ((prepared, probabilities),) = self.segmenter.fuse([self.segmenter.prepare(photo)])
        path = self.folder / f"{example.name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, probabilities.astype(np.float16))
        # What is left takes no more memory than the shrunk photo.
        self.prepared[example.name] = replace(prepared, photo=replace(photo, image=prepared.image))

    def score(self, parameters: CRFParameters, examples: Sequence[Example]) -> float:
        """Mean IoU with these parameters, pooled over the photos."""
        counts = sum(self.call_each(partial(self._count, parameters), examples), np.zeros((), np.int64))
        if not counts.any():
            raise DataError(
                f"split '{self.truth.split}': half of the sample is void alone; take a larger one"
            )
        return float(scores(counts, self.truth.classes)["mean_iou"])

    def _count(self, parameters: CRFParameters, example: Example) -> NDArray[np.int64]:
        probabilities = np.load(self.folder / f"{example.name}.npy").astype(np.float32)
        segmenter = self.segmenter.with_settings(crf=True, crf_parameters=parameters)
        labels = segmenter.finish(self.prepared[example.name], probabilities).labels
        return confusion_matrix(self.truth.mask(example), labels, len(self.truth.classes))

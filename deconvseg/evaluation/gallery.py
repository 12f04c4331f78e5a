"""The report's pictures: the best, the median and the worst photos, and where they are wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.data.dataset import Example
from deconvseg.data.masks import VOID
from deconvseg.evaluation.journal import Measured
from deconvseg.evaluation.metrics import Scores
from deconvseg.evaluation.run import Evaluation
from deconvseg.images.read import read_image
from deconvseg.images.write import write_overlay
from deconvseg.segmentation import Segmentation

SIDE = 320
"""Longer side of a picture in pixels: four a photo, and 18 photos weigh about 2 MB."""
EACH = 6
"""Photos of each kind."""
MISSED, FALSE, OTHER = (230, 159, 0), (0, 114, 178), (204, 121, 167)
"""Colours of the three kinds of mistake: orange, blue and purple, told apart by the colour-blind too."""


@dataclass(frozen=True)
class Picture:
    """One picture of the gallery.

    Attributes:
        caption: what it is.
        alternative: what is to be seen, in words.
        url: the picture itself, as a data URL.
        width, height: in pixels.
    """

    caption: str
    alternative: str
    url: str
    width: int
    height: int


@dataclass(frozen=True)
class Entry:
    """One photo of the gallery, with its mean IoU over the classes it shows or that were found in it."""

    name: str
    mean_iou: float
    pictures: tuple[Picture, ...]


def gallery(evaluation: Evaluation) -> dict[str, list[Entry]]:
    """Photos under `best`, `median` and `worst`, at most 6 of each, no photo twice.

    Empty if the predictions were not kept.

    Raises:
        InputError, DataError: a photo or prediction cannot be read.
    """
    if evaluation.predictions is None:
        return {}
    classes = evaluation.truth.classes
    scored = [
        (Scores.of(photo.rows[evaluation.full.name].confusion, classes).mean_iou, photo)
        for photo in evaluation.photos
        if photo.rows[evaluation.full.name].confusion.any()
    ]
    ranking = sorted(scored, key=lambda entry: (-entry[0], entry[1].name))
    examples = {example.name: example for example in evaluation.truth.examples}
    return {
        kind: [_entry(evaluation, examples[photo.name], photo, score) for score, photo in entries]
        for kind, entries in choose(ranking).items()
    }


def choose(
    ranking: Sequence[tuple[float, Measured]], each: int = EACH
) -> dict[str, Sequence[tuple[float, Measured]]]:
    """The first, the middle and the last `each` of a ranking, each of a short one once."""
    each = min(each, max(len(ranking) // 3, 1))
    best = ranking[:each]
    worst = ranking[max(len(ranking) - each, each) :]
    between = ranking[each : len(ranking) - len(worst)]
    start = max(len(between) - each, 0) // 2
    return {"best": best, "median": between[start : start + each], "worst": worst}


def difference(
    photo: NDArray[np.uint8], truth: NDArray[np.uint8], found: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The photo in dark grey, mistakes in colour, objects that are right bright.

    Args:
        photo: uint8 (H, W, 3) RGB.
        truth, found: uint8 (H, W), class indices, 255 for void: no mistake there.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    shown = np.repeat(photo.mean(2, keepdims=True) * 0.4, 3, axis=2)
    right = (truth == found) & (truth > 0) & (truth != VOID)
    shown[right] = shown[right] + 130
    for mistakes, colour in zip(_mistakes(truth, found), (MISSED, FALSE, OTHER), strict=True):
        shown[mistakes] = colour
    return np.asarray(np.clip(shown, 0, 255), dtype=np.uint8)


def _mistakes(truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], ...]:
    """Objects taken for background, background taken for objects, and objects of another class."""
    wrong = (truth != VOID) & (truth != found)
    missed, false = wrong & (found == 0), wrong & (truth == 0)
    return missed, false, wrong & ~missed & ~false


def _entry(evaluation: Evaluation, example: Example, photo: Measured, score: float) -> Entry:
    assert evaluation.predictions is not None
    image, truth = read_image(example.image), evaluation.truth.mask(example)
    found = evaluation.truth.prediction(evaluation.predictions / f"{example.name}.png")
    counted = max(int(np.count_nonzero(truth != VOID)), 1)
    shares = [np.count_nonzero(mistakes) / counted for mistakes in _mistakes(truth, found)]
    image, truth, found = (_small(array) for array in (image, truth, found))
    classes = evaluation.truth.classes
    pictures = (
        _picture("photo", f"The photo {photo.name}", image),
        _overlay(evaluation, "truth", f"Truth: {_contents(truth, classes)}", image, truth),
        _overlay(evaluation, "prediction", f"Prediction: {_contents(found, classes)}", image, found),
        _picture(
            "difference",
            "Of the pixels that count {:.1%} are missed, {:.1%} falsely taken for objects and {:.1%} given "
            "to another object's class".format(*shares),
            difference(image, truth, found),
        ),
    )
    return Entry(photo.name, score, pictures)


def _small(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photo or a mask at most `SIDE` long."""
    height, width = array.shape[:2]
    scale = min(SIDE / max(height, width), 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    method = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(array, size, interpolation=method), dtype=np.uint8)


def _contents(labels: NDArray[np.uint8], classes: Sequence[str]) -> str:
    counts = np.bincount(labels[labels != VOID], minlength=len(classes))
    shares = sorted(((count / labels.size, name) for count, name in zip(counts, classes, strict=True)))
    return ", ".join(f"{name} {share:.0%}" for share, name in reversed(shares) if share >= 0.005)


def _overlay(
    evaluation: Evaluation,
    caption: str,
    alternative: str,
    photo: NDArray[np.uint8],
    labels: NDArray[np.uint8],
) -> Picture:
    palette = evaluation.truth.palette
    void = ((255, 255, 255),) * (256 - len(palette))  # void is shown in white
    encoded = io.BytesIO()
    write_overlay(Segmentation(labels, evaluation.truth.classes, (*palette, *void)), photo, encoded)
    return Picture(caption, alternative, _url(encoded.getvalue()), labels.shape[1], labels.shape[0])


def _picture(caption: str, alternative: str, image: NDArray[np.uint8]) -> Picture:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=80)
    return Picture(caption, alternative, _url(encoded.getvalue()), image.shape[1], image.shape[0])


def _url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()

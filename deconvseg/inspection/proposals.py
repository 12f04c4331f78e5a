"""How the proposals build up a photo's labelling (paper, figure 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import UsageError
from deconvseg.images.read import PhotoPixels
from deconvseg.postprocess.crf import dense_crf
from deconvseg.segmentation import Segmentation
from deconvseg.segmenter import Segmenter

STEPS = (1, 5, 10, 25, 50)
"""Numbers of proposals whose labelling is kept."""


@dataclass(frozen=True)
class Proposals:
    """A photo's proposals and what they did.

    Attributes:
        image: uint8 (h, w, 3), RGB: the photo as it is worked on, no side over 1024 pixels.
        width, height: of the photo, in pixels.
        edges: float32 (h', w'), 0 to about 1: edge strength, no side over 640 pixels.
        boxes: float32 (N, 4), x0 y0 x1 y1 in pixels of the photo, in the order they were looked at: the
            whole photo (a square around it), then the proposals, best first. May reach outside the photo.
        scores: float32 (N,), EdgeBoxes' score; that of the whole photo has no meaning.
        first: 0 if the first box is the whole photo, else 1: ranks count from here, so that the best
            proposal has rank 1.
        changed: float64 (N,), share of `image`'s pixels (0..1) whose label changed with this box; before the
            first, all is background, or what the ensemble's FCN-8s says.
        labellings: of `image`, before the CRF, by number of proposals: those of STEPS below that of all
            proposals there are, and that one.
        sharpened: the last one after the CRF; None if there is no CRF.
    """

    image: NDArray[np.uint8]
    width: int
    height: int
    edges: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    first: int
    changed: NDArray[np.float64]
    labellings: dict[int, Segmentation]
    sharpened: Segmentation | None

    @property
    def count(self) -> int:
        """Proposals, the whole photo left out."""
        return len(self.boxes) - 1 + self.first

    def numbers(self) -> dict[str, object]:
        """Everything but the images themselves, fit for JSON."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.changed.tolist(), strict=True)
        return {
            "proposals": self.count,
            "boxes": [
                {"rank": rank, "box": box, "score": score if rank else None, "changed": changed}
                for rank, (box, score, changed) in enumerate(rows, self.first)
            ],
            "steps": [
                {"proposals": count, "classes": labelling.class_shares()}
                for count, labelling in self.labellings.items()
            ],
            "crf": self.sharpened and {"classes": self.sharpened.class_shares()},
        }


def inspect_proposals(segmenter: Segmenter, photo: PhotoPixels, count: int = max(STEPS)) -> Proposals:
    """Look at up to `count` proposals one after the other and keep the labellings on the way.

    Each labelling is that of a `Segmenter` with so many proposals that stops at nothing (`stop=0`), without
    CRF, at the size the photo is worked on; an ensemble's FCN-8s has its part in each.

    Args:
        segmenter: with a DeconvNet; its own number of proposals and `stop` do not count.
        photo: from `images.read.read_photo`.
        count: most proposals, 1 or more.

    Raises:
        UsageError: a network that looks at no proposals, or a count below 1.
    """
    if count < 1:
        raise UsageError(f"{count} proposals: there is nothing to look at; give 1 or more")
    if segmenter.sees_whole_photo:
        raise UsageError(f"{segmenter.weights}: is an FCN-8s, which looks at no proposals; give a DeconvNet")
    segmenter = segmenter.with_settings(proposals=count)
    prepared = segmenter.prepare(photo)
    first = 0 if segmenter.settings.whole_photo else 1
    labels, labellings, changed = np.zeros(0, np.uint8), {}, []
    for partial in segmenter.step_by_step(prepared):
        fused = partial.probabilities()
        now = fused.argmax(0).astype(np.uint8)
        rank = partial.done - 1 + first
        if partial.done:
            changed.append(float((now != labels).mean()))
        labels = now
        if partial.done and (rank in STEPS or partial.done == len(prepared.boxes)):
            labellings[rank] = Segmentation(labels, segmenter.classes, segmenter.palette)
    sharpened = None
    if segmenter.crf:
        labels = dense_crf(prepared.image, fused, segmenter.crf_parameters).argmax(0).astype(np.uint8)
        sharpened = Segmentation(labels, segmenter.classes, segmenter.palette)
    image = prepared.image
    scale = np.array([photo.width / image.shape[1], photo.height / image.shape[0]] * 2, np.float32)
    return Proposals(
        image,
        photo.width,
        photo.height,
        segmenter.edges(image),
        prepared.boxes * scale,
        prepared.scores,
        first,
        np.array(changed),
        labellings,
        sharpened,
    )

"""Object proposals by EdgeBoxes, and the squares around them that the network looks at."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deconvseg.images.components import components
from deconvseg.proposals.edges import EdgeDetector, opencv
from deconvseg.settings import Settings

ENLARGE = 1.2  # DeconvNet gives the network some surroundings of each box (paper, section 4.1)
WORKING_SIDE = 640  # pixels; twice the side costs four times the time and finds the same things
OBJECT_SHARE = 0.001  # of a photo's pixels, 14 x 14 at 500 x 375: what is smaller gets no square
_SEARCH = {  # settings of EdgeBoxes' search, by OpenCV's names, where they are not OpenCV's
    "beta": 0.65,  # IoU above which the lower of two boxes is dropped
    "edgeMinMag": 0.07,  # edges below this are ignored
    "clusterMinMag": 0.25,  # groups with less edge mass are given to their neighbours
    "maxAspectRatio": 4.5,
    "kappa": 1.4,  # exponent of a box's half perimeter in its score's divisor; lower favours larger boxes
}


class Boxes(NamedTuple):
    """Boxes in an image, best first."""

    xyxy: NDArray[np.float32]  # (N, 4), x0 y0 x1 y1 in pixels, half-open; may reach outside the image
    scores: NDArray[np.float32]  # (N,), not rising


def edge_boxes(
    edges: NDArray[np.float32], orientation: NDArray[np.float32], count: int = 1000, min_area: float = 400.0
) -> Boxes:
    """Up to `count` EdgeBoxes (Zitnick and Dollar, ECCV 2014) of at least `min_area` square pixels, of edges
    and their orientation as of `EdgeDetector.thin`."""
    # A new object for every image: OpenCV's keeps the edge groups of its last image and scores with them.
    search = opencv().ximgproc.createEdgeBoxes(**_SEARCH, maxBoxes=count, minBoxArea=min_area)
    found, scores = search.getBoundingBoxes(edges, orientation)
    if scores is None or not len(found):  # OpenCV's answer to no edges is ((), None)
        return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    # x, y and the last pixel inside, x + w and y + h, count from 1: the latter are half-open ends from 0.
    x, y, w, h = np.asarray(found, np.float32).reshape(-1, 4).T
    height, width = edges.shape
    xyxy = np.stack((x - 1, y - 1, np.minimum(x + w, width), np.minimum(y + h, height)), 1)
    # OpenCV 4 returns scores (N, 1), OpenCV 5 (N,).
    return Boxes(np.maximum(xyxy, 0).astype(np.float32), np.asarray(scores, np.float32).reshape(-1))


def find_boxes(
    image: NDArray[np.uint8], detector: EdgeDetector, *, count: int = 1000, min_area: float = 400.0
) -> Boxes:
    """Plain EdgeBoxes of a photo, uint8 (H, W, 3) RGB, in its pixels, neither enlarged nor squared;
    `min_area` counts in pixels of the photo shrunk to WORKING_SIDE."""
    small = shrink(image, WORKING_SIDE)
    boxes = edge_boxes(*detector.thin(detector.detect(small)), count, min_area)
    scale = np.array((image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]) * 2, np.float32)
    return Boxes(boxes.xyxy * scale, boxes.scores)


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The photo, uint8 (H, W, 3), with its longer side at most `side` pixels; a smaller one as it is."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[no-any-return]


def propose(image: NDArray[np.uint8], detector: EdgeDetector, settings: Settings) -> Boxes:
    """The squares the network looks at: the whole image, then the best boxes, enlarged and squared.

    As in DeconvNet's released inference code: a box is enlarged around its centre, dropped (and not counted)
    if its shorter side is then under `min_side`, and made a square with its longer side around the same
    centre. A square that nearly equals one before it is dropped as well.

    Returns up to `proposals`, or `candidates` if these are more, squares in pixels of `image` besides the
    whole image, whose score is 1, or the best box's if higher; it stands in for boxes where there are none.
    """
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / WORKING_SIDE)
    # No box with a smaller area can have a shorter side that is long enough.
    least = 400.0 if settings.measure_squares else max(400.0, (settings.min_side / ENLARGE) ** 2)
    boxes = find_boxes(image, detector, min_area=least)
    larger = enlarged(boxes.xyxy, ENLARGE)
    regions = squared(larger) if settings.squared else larger
    measured = regions if settings.measure_squares else larger
    long_enough = (measured[:, 2:] - measured[:, :2]).min(1) >= settings.min_side * scale
    regions, scores = regions[long_enough], boxes.scores[long_enough]
    if settings.whole_photo or len(regions) == 0:
        whole = squared(np.array([[0, 0, width, height]], np.float32))
        regions = np.concatenate((whole, regions))
        scores = np.concatenate(([scores.max(initial=1)], scores)).astype(np.float32)
    most = max(settings.proposals, settings.candidates)
    kept = distinct(regions, most + settings.whole_photo, settings.same)
    return Boxes(regions[kept], scores[kept])


def around_objects(labels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Squares (N, 4) around the connected objects of labels, uint8 (h, w), the largest first, in pixels of
    the photo that the labels are of, be it thinned out."""
    _, objects = components(labels)
    areas = objects[:, 5]
    order = np.argsort(-areas, kind="stable")[: np.count_nonzero(areas >= OBJECT_SHARE * labels.size)]
    scale = np.array([width / labels.shape[1], height / labels.shape[0]] * 2, np.float32)
    return squared(enlarged(objects[order, 1:5] * scale, ENLARGE))


def enlarged(xyxy: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Boxes (N, 4) with both sides `factor` times as long around the same centres."""
    centre, half = (xyxy[:, :2] + xyxy[:, 2:]) / 2, (xyxy[:, 2:] - xyxy[:, :2]) / 2 * factor
    return np.concatenate((centre - half, centre + half), 1).astype(np.float32)


def squared(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squares (N, 4) with the longer side of each box around its centre."""
    centre, half = (xyxy[:, :2] + xyxy[:, 2:]) / 2, (xyxy[:, 2:] - xyxy[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate((centre - half, centre + half), 1).astype(np.float32)


def distinct(xyxy: NDArray[np.float32], count: int, overlap: float) -> NDArray[np.int64]:
    """Indices of the first `count` boxes (N, 4) whose IoU with each one kept before is at most `overlap`."""
    areas = (xyxy[:, 2:] - xyxy[:, :2]).prod(1)
    kept: list[int] = []
    for index, box in enumerate(xyxy):
        if len(kept) == count:
            break
        low, high = np.maximum(xyxy[kept, :2], box[:2]), np.minimum(xyxy[kept, 2:], box[2:])
        shared = np.clip(high - low, 0, None).prod(1)
        if not (shared > overlap * (areas[kept] + areas[index] - shared)).any():
            kept.append(index)
    return np.array(kept, np.int64)

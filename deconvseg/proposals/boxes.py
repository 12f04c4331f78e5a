"""Object proposals by EdgeBoxes, and the squares around them that the network looks at."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deconvseg.proposals.edges import opencv

ENLARGE = 1.2
"""DeconvNet gives the network some surroundings of each box (paper, section 4.1)."""
WORKING_SIDE = 640
"""Pixels. VOC's photos are 500 long; twice the side costs four times the time and finds the same things."""
SAME = 0.7
"""IoU of squares above which the later one is dropped. Measured on 99 photos of VOC 2012 train (every tenth;
169 objects of at least 1 % of the image, 50 squares): a square that holds an object and is at most 1.25 times
as long as it, enlarged, exists for 74 % of them at 0.9, 75 % at 0.8 and 78 % at 0.7."""
_SEARCHED = 1000


class Boxes(NamedTuple):
    """Boxes in an image, best first.

    Attributes:
        xyxy: float32 (N, 4), x0 y0 x1 y1 in pixels, half-open; may reach outside the image.
        scores: float32 (N,), not rising.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]


class Detector(Protocol):
    """What `propose` needs of an edge detector; `EdgeDetector` is one."""

    def detect(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Edge strength, float32 (H, W)."""
        ...

    def orientation(self, edges: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Direction across the edge, radians, float32 (H, W)."""
        ...

    def thin(self, edges: NDArray[np.float32], orientation: NDArray[np.float32], /) -> NDArray[np.float32]:
        """The edges' ridges, float32 (H, W)."""
        ...


def edge_boxes(
    edges: NDArray[np.float32],
    orientation: NDArray[np.float32],
    *,
    count: int = 1000,
    min_area: float = 400.0,
    alpha: float = 0.65,
    beta: float = 0.65,
    eta: float = 1.0,
    min_score: float = 0.01,
    edge_min_mag: float = 0.07,
    edge_merge_thr: float = 0.5,
    cluster_min_mag: float = 0.25,
    max_aspect_ratio: float = 4.5,
    gamma: float = 2.0,
    kappa: float = 1.4,
) -> Boxes:
    """EdgeBoxes of an edge map (Zitnick and Dollar, ECCV 2014), as OpenCV computes them.

    Args:
        edges: float32 (H, W), thinned.
        orientation: float32 (H, W), radians, 0 to pi.
        count: most boxes to return.
        min_area: of a box, in square pixels.
        alpha: IoU of neighbouring windows in the search grid, 0..1.
        beta: IoU above which the lower of two boxes is dropped, 0..1.
        eta: factor that lowers `beta` after each box, so that later boxes are more diverse; 1 does not.
        min_score: of a box.
        edge_min_mag: edges below this are ignored.
        edge_merge_thr: sum of turns (in units of pi) up to which edge pixels form one group.
        cluster_min_mag: groups with less edge mass are given to their neighbours.
        max_aspect_ratio: of a box.
        gamma: how fast the affinity of two groups falls with the angle between them.
        kappa: exponent of a box's half perimeter in the divisor of its score; lower favours larger boxes.

    Returns:
        At most `count` boxes inside the image; none if nothing is an edge.

    Raises:
        MissingDependencyError: if OpenCV has no `ximgproc`.
    """
    # A new object for every image: OpenCV's keeps the edge groups of its last image and scores with them.
    search = opencv().ximgproc.createEdgeBoxes(
        alpha,
        beta,
        eta,
        min_score,
        count,
        edge_min_mag,
        edge_merge_thr,
        cluster_min_mag,
        max_aspect_ratio,
        min_area,
        gamma,
        kappa,
    )
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
    image: NDArray[np.uint8],
    detector: Detector,
    *,
    count: int = 1000,
    min_area: float = 400.0,
    working_side: int = WORKING_SIDE,
) -> Boxes:
    """Plain EdgeBoxes of a photo: neither enlarged nor squared.

    Args:
        image: uint8 (H, W, 3), RGB, of any size.
        detector: makes the edge map.
        count: most boxes to return.
        min_area: smallest box, in square pixels of the working image.
        working_side: a photo with a longer side is shrunk to it first (by area averaging), which bounds the
            time.

    Returns:
        Boxes inside the image, in its own pixels.
    """
    small, scale = _shrink(image, working_side)
    edges = detector.detect(small)
    orientation = detector.orientation(edges)
    boxes = edge_boxes(detector.thin(edges, orientation), orientation, count=count, min_area=min_area)
    return Boxes(boxes.xyxy * scale, boxes.scores)


def _shrink(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The image at most `side` long, and the factors (x, y, x, y) from its pixels back to the photo's."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = image if factor == 1 else opencv().resize(image, size, interpolation=opencv().INTER_AREA)
    return small, np.array((width / size[0], height / size[1]) * 2, np.float32)


def propose(
    image: NDArray[np.uint8],
    detector: Detector,
    *,
    count: int = 50,
    min_side: float = 112.0,
    enlarge: float = ENLARGE,
    whole_photo: bool = True,
    square: bool = True,
    measure_squares: bool = False,
    same: float = SAME,
    working_side: int = WORKING_SIDE,
) -> Boxes:
    """The squares the network looks at: the whole image, then the best boxes, enlarged and squared.

    As in DeconvNet's released inference code: a box is enlarged around its centre, dropped (and not counted)
    if its shorter side is then under `min_side`, and made a square with its longer side around the same
    centre. A square that another one before it nearly equals is dropped as well: the network would see the
    same crop twice.

    Args:
        image: uint8 (H, W, 3), RGB, of any size.
        detector: makes the edge map.
        count: most boxes besides the whole image; 0 needs no edge map.
        min_side: in pixels of the working image, whose longer side is at most `working_side`: a 4,000 pixel
            photo is treated like the same photo at 640.
        enlarge: factor on both sides, 1 or more.
        whole_photo: put the whole image first. If `count` is 0 it is looked at in any case.
        square: widen boxes to squares. The whole image becomes one in any case.
        measure_squares: hold `min_side` against the squares, not against the boxes they are made of.
        same: largest IoU with a better square; 1 keeps them all.
        working_side: see `find_boxes`.

    Returns:
        1 to `count` + 1 squares in pixels of `image` (without the whole image, 0 to `count`); all may reach
        outside it. The whole image is not enlarged and has score 1, or the best box's if that is higher.
    """
    height, width = image.shape[:2]
    whole = squared(np.array([[0, 0, width, height]], np.float32))
    if count <= 0:
        return Boxes(whole, np.ones(1, np.float32))
    scale = max(1.0, max(height, width) / working_side)
    # No box with a smaller area can have a shorter side that is long enough.
    least = 400.0 if measure_squares else max(400.0, (min_side / enlarge) ** 2)
    boxes = find_boxes(image, detector, count=_SEARCHED, min_area=least, working_side=working_side)
    larger = enlarged(boxes.xyxy, enlarge)
    regions = squared(larger) if square else larger
    measured = regions if measure_squares else larger
    long_enough = (measured[:, 2:] - measured[:, :2]).min(1) >= min_side * scale
    regions = regions[long_enough]
    scores = boxes.scores[long_enough]
    if whole_photo:
        top = np.array([max(1.0, float(scores.max(initial=0.0)))], np.float32)
        regions, scores = np.concatenate((whole, regions)), np.concatenate((top, scores))
    kept = distinct(regions, count + whole_photo, same)
    return Boxes(regions[kept], scores[kept])


def enlarged(xyxy: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Boxes (N, 4) with both sides `factor` times as long around the same centres."""
    centre, half = (xyxy[:, :2] + xyxy[:, 2:]) / 2, (xyxy[:, 2:] - xyxy[:, :2]) / 2 * factor
    return np.concatenate((centre - half, centre + half), 1).astype(np.float32)


def squared(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squares (N, 4) with the longer side of each box around its centre."""
    centre, half = (xyxy[:, :2] + xyxy[:, 2:]) / 2, (xyxy[:, 2:] - xyxy[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate((centre - half, centre + half), 1).astype(np.float32)


def distinct(xyxy: NDArray[np.float32], count: int, overlap: float = SAME) -> NDArray[np.int64]:
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

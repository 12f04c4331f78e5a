"""Recall of object proposals on a VOC split: the structured forest against a plain gradient edge map.

    python benchmarks/proposal_recall.py --voc-root VOC2012 --split val [--json recall.json]

An object is a connected component (8 neighbours) of one class in the segmentation mask. It is found if any
of the N best boxes has at least the given IoU with its tight box. Both edge maps go through the same
orientation, thinning and EdgeBoxes; nothing is enlarged, squared or filtered by size here.

More than half of all components in these masks are specks of under 5 pixels that the void border or an
occluder cut off, and no box finds those. So four sets are reported: all components; those of at least 0.1 %,
0.5 % and 1 % of the image's pixels. And all of it twice: with void separating components, and with void
joining the pieces of a class that touch it (a speck then belongs to the object whose border it lies on; the
box is still that of class pixels alone).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvseg.proposals.boxes import find_boxes
from deconvseg.proposals.edges import EdgeDetector

VOID = 255
SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "edges.yml.gz"
COUNTS = (50, 200, 1000)
IOUS = (0.5, 0.7)
SETS = {"all": 0.0, "at least 0.1 % of the image": 0.001, "at least 0.5 %": 0.005, "at least 1 %": 0.01}
VOIDS = {"void separates": False, "void joins": True}
SIZES = {"< 0.1 %": (0, 0.001), "0.1-1 %": (0.001, 0.01), "1-10 %": (0.01, 0.1), "> 10 %": (0.1, 2)}


class GradientDetector(EdgeDetector):
    """The plain baseline: length of the colour gradient of the slightly smoothed photo."""

    GAIN = 1.0
    """Of 1, 2, 4 and 8 the best at 1,000 boxes: recall 0.857, 0.857, 0.850, 0.797 at IoU 0.5 for 133 objects
    of at least 0.1 % in 60 photos of VOC 2012 train. A higher one is much slower (more edges)."""

    def detect(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Largest Sobel magnitude of the three colours, scaled for EdgeBoxes' thresholds."""
        smooth = cv2.GaussianBlur(image.astype(np.float32) / 255, (0, 0), 1.0)
        across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3, scale=0.25)
        down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3, scale=0.25)
        return np.minimum(np.hypot(across, down).max(2) * self.GAIN, 1)


DETECTORS: dict[str, type[EdgeDetector]] = {"forest": EdgeDetector, "gradient": GradientDetector}


def objects(mask: NDArray[np.uint8], joined: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tight boxes (N, 4) x0 y0 x1 y1, half-open, and areas (N,) as shares of the image, of every component.

    With `joined`, pieces of a class that touch the same piece of void are one component.
    """
    boxes, areas = [np.zeros((0, 4))], [np.zeros(0)]
    for label in np.setdiff1d(np.unique(mask), (0, VOID)):
        member = mask == label
        whole = member | (mask == VOID) if joined else member
        _, parts = cv2.connectedComponents(whole.astype(np.uint8), connectivity=8)
        parts[~member] = 0
        for part in np.setdiff1d(np.unique(parts), 0):
            rows, columns = np.nonzero(parts == part)
            boxes.append(
                np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float64)
            )
            areas.append(np.array([len(rows) / mask.size]))
    return np.concatenate(boxes), np.concatenate(areas)


def best_overlaps(targets: NDArray[np.float64], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, len(COUNTS)): the best IoU of each target with the first so many boxes."""
    if not len(boxes):
        return np.zeros((len(targets), len(COUNTS)))
    low = np.maximum(targets[:, None, :2], boxes[None, :, :2])
    high = np.minimum(targets[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    sizes = [(b[:, 2:] - b[:, :2]).prod(1) for b in (targets, boxes)]
    overlaps = shared / (sizes[0][:, None] + sizes[1][None] - shared)
    return np.stack([overlaps[:, :count].max(1) for count in COUNTS], 1)


Measured = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def measure(
    root: Path, names: list[str], detector: EdgeDetector, tell: Callable[[str], None]
) -> tuple[Measured, dict[str, float]]:
    """Best overlaps (N, len(COUNTS)) and area shares (N,) by how void is taken, and median seconds a photo.

    Processor seconds are given too: unlike those of the clock they hardly change on a busy machine.
    """
    found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {kind: [] for kind in VOIDS}
    clock, processor = [], []
    for number, name in enumerate(names, start=1):
        image = np.array(Image.open(root / "JPEGImages" / f"{name}.jpg").convert("RGB"))
        mask = np.array(Image.open(root / "SegmentationClass" / f"{name}.png"))
        start = time.perf_counter(), time.process_time()
        boxes = find_boxes(image, detector, count=max(COUNTS))
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
        for kind, joined in VOIDS.items():
            targets, shares = objects(mask, joined)
            found[kind].append((best_overlaps(targets, boxes.xyxy), shares))
        if number % 100 == 0:
            tell(f"{number} of {len(names)} photos")
    seconds = {"clock": round(float(np.median(clock)), 4), "processor": round(float(np.median(processor)), 4)}
    pooled = {
        kind: (np.concatenate([o for o, _ in parts]), np.concatenate([a for _, a in parts]))
        for kind, parts in found.items()
    }
    return pooled, seconds


def recall(overlaps: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """{IoU: {count: share of objects found}}."""
    return {
        f"{iou}": {
            str(count): round(float((overlaps[:, k] >= iou).mean()), 4) if len(overlaps) else 0.0
            for k, count in enumerate(COUNTS)
        }
        for iou in IOUS
    }


def main() -> None:
    """Measure and print a table to stdout; the same numbers as JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voc-root", type=Path, required=True, help="folder with JPEGImages and masks")
    parser.add_argument("--split", default="val")
    parser.add_argument("--forest", type=Path, default=SHIPPED)
    parser.add_argument("--limit", type=int, help="only so many photos, evenly spread over the split")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--edges", nargs="+", choices=list(DETECTORS), default=list(DETECTORS))
    options = parser.parse_args()

    cv2.setNumThreads(options.threads)
    root: Path = options.voc_root
    names = (root / "ImageSets" / "Segmentation" / f"{options.split}.txt").read_text().split()
    if options.limit and options.limit < len(names):
        names = [names[i] for i in np.linspace(0, len(names) - 1, options.limit).astype(int)]
    result: dict[str, object] = {"split": options.split, "photos": len(names), "threads": options.threads}
    print(f"{len(names)} photos of {options.split}; {options.threads} threads")
    for title in options.edges:
        detector = DETECTORS[title](options.forest)
        pooled, seconds = measure(
            root, names, detector, lambda message, title=title: print(f"{title}: {message}", file=sys.stderr)
        )
        numbers: dict[str, object] = {"seconds_per_photo": seconds}
        print(
            f"\n{title}: {seconds['clock']:.3f} s a photo, {seconds['processor']:.3f} of processor (medians)"
        )
        for kind, (overlaps, areas) in pooled.items():
            groups = {name: areas >= least for name, least in SETS.items()}
            groups |= {f"size {name}": (areas >= low) & (areas < high) for name, (low, high) in SIZES.items()}
            numbers[kind] = {n: {"objects": int(g.sum()), **recall(overlaps[g])} for n, g in groups.items()}
            columns = [f"{count}@{iou}" for iou in IOUS for count in COUNTS]
            print(f"{kind:32}{'objects':>8}" + "".join(f"{c:>10}" for c in columns))
            for name, group in groups.items():
                share = recall(overlaps[group])
                row = "".join(f"{share[str(iou)][str(count)]:10.3f}" for iou in IOUS for count in COUNTS)
                print(f"  {name:30}{int(group.sum()):8}{row}")
        result[title] = numbers
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

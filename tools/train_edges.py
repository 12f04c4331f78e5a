"""Trains the structured edge forest behind the object proposals, on BSDS500 or the outlines of VOC's objects.

    python tools/train_edges.py --voc-root VOC2012 --out edges.yml.gz

The result goes straight into `deconvseg segment --forest`, or into OpenCV's createStructuredEdgeDetection.
"""

from __future__ import annotations

import gzip
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from edge_forest import ForestRecipe, LabelledPhoto, fill_from_nearest, train_forest
from numpy.typing import NDArray
from scipy.io import loadmat

from deconvseg.cli import console
from deconvseg.cli.options import DebugOption
from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.voc import voc_dataset
from deconvseg.errors import DataError, OutputError, UsageError
from deconvseg.files import replacing
from deconvseg.images.components import VOID, components
from deconvseg.images.read import read_image
from deconvseg.proposals.forest_file import GEOMETRY, Forest, check_forest

VOID_REACH = 6
"""Pixels. VOC's void border is about 5 wide: the edge is somewhere within. Void farther from every label than
this is a region nobody labelled."""


def train_edges(
    out: Annotated[Path, typer.Option(help="Forest file to write: .yml.gz or .yml.")],
    bsds_root: Annotated[
        Path | None, typer.Option(help="BSDS500: folder with images/train and groundTruth/train.")
    ] = None,
    voc_root: Annotated[
        Path | None, typer.Option(help="Folder with JPEGImages, SegmentationClass, ImageSets.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --voc-root.")] = "train",
    trees: Annotated[int, typer.Option(min=1, max=256, help="Trees; half of them vote at each pixel.")] = 8,
    patches: Annotated[
        int, typer.Option(min=2, help="Windows a tree learns from, half of them with an edge.")
    ] = 200_000,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="The same seed and photos give the same forest.")
    ] = 0,
    debug: DebugOption = False,
) -> None:
    """Train a structured edge forest on BSDS500, on the outlines of VOC objects, or on both."""
    if bsds_root is None and voc_root is None:
        raise UsageError("nothing to train on: give --bsds-root, --voc-root or both")
    if not out.name.endswith((".yml", ".yml.gz")):
        raise UsageError(f"{out}: OpenCV knows a forest by its name: it must end in .yml.gz or .yml")
    if not out.resolve().parent.is_dir():
        raise OutputError(f"{out.resolve().parent}: there is no such folder; make it first")
    photos = []
    if bsds_root:
        photos += [partial(read_bsds, *pair) for pair in bsds_pairs(bsds_root)]
    if voc_root:
        dataset = voc_dataset(voc_root, split)
        photos += [partial(read_masked, dataset, example) for example in dataset.examples]
    recipe = ForestRecipe(
        trees=trees,
        trees_evaluated=-(-trees // 2),
        positives=patches - patches // 2,
        negatives=patches // 2,
        seed=seed,
    )
    typer.echo(f"training on {len(photos)} photos", err=True)
    forest = train_forest(photos, recipe, progress=lambda message: typer.echo(message, err=True))
    write_forest(forest, out)
    typer.echo(f"{out}: {forest.trees} trees, {out.stat().st_size / 1e6:.1f} MB", err=True)


def bsds_pairs(root: Path) -> list[tuple[Path, Path]]:
    """Photos of BSDS500's training split (Arbelaez et al., PAMI 2011) and their ground truth.

    Args:
        root: the folder with `images/` and `groundTruth/`, or one of those above it in the published archive.

    Raises:
        DataError: the layout is another one, or a photo has no ground truth.
    """
    for folder in (root, root / "data", root / "BSDS500" / "data", root / "BSR" / "BSDS500" / "data"):
        if images := sorted((folder / "images" / "train").glob("*.jpg")):
            break
    else:
        raise DataError(
            f"{root}: not a BSDS500 folder; it must hold images/train/*.jpg and groundTruth/train/*.mat"
        )
    pairs = [(image, folder / "groundTruth" / "train" / f"{image.stem}.mat") for image in images]
    for _, truth in pairs:
        if not truth.is_file():
            raise DataError(f"{truth}: this photo's ground truth is missing")
    return pairs


def read_bsds(image: Path, truth: Path) -> LabelledPhoto:
    """A photo of BSDS500 with the segmentations of several people; DataError if a file is damaged."""
    photo = read_image(image)
    try:
        cells = loadmat(truth)["groundTruth"].reshape(-1)
        segmentations = [np.asarray(cell["Segmentation"][0, 0], np.int32) for cell in cells]
    except Exception as error:  # scipy raises whatever the damage happens to cause
        raise DataError(
            f"{truth}: no readable BSDS500 ground truth ({type(error).__name__}: {error})"
        ) from error
    if not segmentations or any(s.shape != photo.shape[:2] for s in segmentations):
        raise DataError(f"{truth}: the segmentations do not have the size of {image.name}")
    return LabelledPhoto(photo, segmentations)


def read_masked(dataset: DataSet, example: Example) -> LabelledPhoto:
    """A photo with its class mask; errors as of `DataSet.read`."""
    image, mask = dataset.read(example)
    return LabelledPhoto(image, [objects_of_mask(mask)])


def objects_of_mask(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Segments of a class mask: 0 background, 1.. one for every connected object of a class.

    Void takes the label of the nearest pixel that has one, so that the edge runs in the middle of the void
    border; void farther than 6 pixels from any becomes -1, unknown.
    """
    void = mask == VOID
    if void.all():
        return np.full(mask.shape, -1, np.int32)
    segments, _ = components(mask)
    if void.any():
        segments, distance = fill_from_nearest(segments, void)
        segments[distance > VOID_REACH] = -1
    return segments


def write_forest(forest: Forest, path: Path) -> None:
    """Write a forest as `.yml`, or gzip-packed if the name ends in `.gz`; the same forest gives the same
    bytes.

    Raises:
        WeightsError: if the forest is not one that `read_forest` would accept.
        OutputError: if the file cannot be written. The file appears whole or not at all.
    """
    check_forest(forest)
    options = {**GEOMETRY, "numberOfTrees": forest.trees, "numberOfTreesToEvaluate": forest.trees_evaluated}
    lines = ["%YAML:1.0", "---", "options:"]
    lines += [f"   {name}: {value}" for name, value in options.items()]
    for name, rows in (
        ("childs", [[str(v) for v in row.tolist()] for row in forest.childs]),
        ("featureIds", [[str(v) for v in row.tolist()] for row in forest.feature_ids]),
        ("thresholds", [[_decimal(v) for v in row] for row in forest.thresholds]),
        ("edgeBoundaries", [[str(v) for v in forest.boundaries.tolist()]]),
        ("edgeBins", [[str(v) for v in forest.bins.tolist()]]),
    ):
        lines.append(f"{name}:")
        for row in rows:
            wrapped = [",".join(row[start : start + 100]) for start in range(0, len(row), 100)]
            lines.append("   - [" + ",\n     ".join(wrapped) + "]")
    data = ("\n".join(lines) + "\n").encode("ascii")
    if path.suffix == ".gz":
        data = gzip.compress(data, 9, mtime=0)
    with replacing(path) as stream:
        stream.write(data)


def _decimal(value: np.float32) -> str:
    # The shortest decimal that reads back as the same float32, always with a point.
    text = np.format_float_positional(value, trim="-")
    return text if "." in text else f"{text}."


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(train_edges)
    sys.exit(console.run(app))

"""Trains the structured edge forest behind the object proposals, on the outlines of VOC's objects.

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
from edge_forest import GEOMETRY, Forest, Photo, check_forest, fill_from_nearest, train_forest
from numpy.typing import NDArray

from deconvseg.cli import console
from deconvseg.cli.options import DEBUG, refuse_target
from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.open import open_dataset
from deconvseg.errors import UsageError
from deconvseg.files import replacing
from deconvseg.images.components import VOID, components

VOID_REACH = 6  # pixels: VOC's void border is about 5 wide, with the edge somewhere within


def train_edges(
    out: Annotated[Path, typer.Option(help="Forest file to write: .yml.gz or .yml.")],
    voc_root: Annotated[Path, typer.Option(help="Data set in any layout that training reads.")],
    split: Annotated[str, typer.Option(help="Split of --voc-root.")] = "train",
    debug: bool = DEBUG,
) -> None:
    """Train a structured edge forest on the outlines of VOC objects."""
    if not out.name.endswith((".yml", ".yml.gz")):
        raise UsageError(f"{out}: OpenCV knows a forest by its name: it must end in .yml.gz or .yml")
    refuse_target(out, overwrite=True, option="--out")
    dataset = open_dataset(voc_root, split)
    photos = [partial(_read, dataset, example) for example in dataset.examples]
    console.say(f"training on {len(photos)} photos")
    forest = train_forest(photos, progress=console.say)
    write_forest(forest, out)
    console.say(f"{out}: {len(forest.childs)} trees, {out.stat().st_size / 1e6:.1f} MB")


def _read(dataset: DataSet, example: Example) -> Photo:
    image, mask = dataset.read(example)
    return image, objects_of_mask(mask)


def objects_of_mask(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Segments of a class mask: 0 background, 1.. one for every connected object of a class.

    Void takes the label of the nearest pixel that has one, so that the edge runs in the middle of the void
    border; void farther than 6 pixels from any becomes -1, unknown.
    """
    void = mask == VOID
    if void.all():
        return np.full(mask.shape, -1, np.int32)
    segments, distance = fill_from_nearest(components(mask)[0], void)
    segments[distance > VOID_REACH] = -1
    return segments


def write_forest(forest: Forest, path: Path) -> None:
    """Write a forest as `.yml`, or gzip-packed if the name ends in `.gz`: the same one gives the same bytes.

    Raises ValueError if OpenCV would read foreign memory.
    """
    check_forest(forest)
    counts = {"numberOfTrees": len(forest.childs), "numberOfTreesToEvaluate": forest.trees_evaluated}
    lines = ["%YAML:1.0", "---", "options:"]
    lines += [f"   {name}: {value}" for name, value in (GEOMETRY | counts).items()]
    for name, rows in (
        ("childs", forest.childs),
        ("featureIds", forest.feature_ids),
        ("thresholds", forest.thresholds),
        ("edgeBoundaries", forest.boundaries[None]),
        ("edgeBins", forest.bins[None]),
    ):
        lines.append(f"{name}:")
        for row in rows:
            # The shortest decimal that reads back as the same float32, always with a point.
            texts = [np.format_float_positional(v, trim=".") if name == "thresholds" else str(v) for v in row]
            wrapped = [",".join(texts[start : start + 100]) for start in range(0, len(texts), 100)]
            lines.append("   - [" + ",\n     ".join(wrapped) + "]")
    data = ("\n".join(lines) + "\n").encode("ascii")
    if path.suffix == ".gz":
        data = gzip.compress(data, 9, mtime=0)
    with replacing(path) as stream:
        stream.write(data)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(train_edges)
    sys.exit(console.run(app))

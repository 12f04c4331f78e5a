"""Trains the edge forest behind the object proposals.

python tools/train_edges.py --voc-root VOC2012 --out edges.yml.gz
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deconvseg.cli import console
from deconvseg.cli.options import DebugOption


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
    """Train a structured edge forest on BSDS500, on the outlines of VOC objects, or on both.

    The result goes straight into `deconvseg segment --forest`, or into OpenCV's
    createStructuredEdgeDetection.
    """
    from edge_forest import ForestRecipe, train_forest
    from outlined_photos import LabelledPhotos, bsds_photos, mask_photos

    from deconvseg.data.voc import voc_dataset
    from deconvseg.errors import OutputError, UsageError
    from deconvseg.proposals.forest_file import write_forest

    if bsds_root is None and voc_root is None:
        raise UsageError("nothing to train on: give --bsds-root, --voc-root or both")
    if not out.name.endswith((".yml", ".yml.gz")):
        raise UsageError(f"{out}: OpenCV knows a forest by its name: it must end in .yml.gz or .yml")
    if not out.resolve().parent.is_dir():
        raise OutputError(f"{out.resolve().parent}: there is no such folder; make it first")
    photos = LabelledPhotos([])
    if bsds_root is not None:
        photos += bsds_photos(bsds_root)
    if voc_root is not None:
        examples = voc_dataset(voc_root, split).examples
        photos += mask_photos([(example.image, example.mask) for example in examples])

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


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(train_edges)
    sys.exit(console.run(app))

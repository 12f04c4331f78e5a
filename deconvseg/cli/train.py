"""`deconvseg train`: train a network on a VOC-style data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deconvseg.cli import console


def train(
    voc_root: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with JPEGImages, SegmentationClass, ImageSets.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Run folder: networks, checkpoint, metrics.jsonl.")
    ],
    split: Annotated[str, typer.Option(metavar="NAME", help="Split to train on.")] = "train",
    extra_root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Another folder of the same layout; its `train` split joins in."),
    ] = None,
    val_split: Annotated[
        str, typer.Option(metavar="NAME", help="Split of --voc-root to validate on.")
    ] = "val",
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Name of a shipped recipe, or a .toml file.")
    ] = "lite",
    init: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Network to start from; it decides all but the crop size."),
    ] = None,
    vgg16: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="ImageNet VGG-16 convolutions (.safetensors); downloaded when not given."
        ),
    ] = None,
    crop_size: Annotated[
        int | None, typer.Option(metavar="N", help="Side of a crop in pixels; overrides the recipe's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Length of the run; overrides the recipe's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Crops a step; overrides the recipe's.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="N", help="Peak for new layers; overrides the recipe's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Decides weights and crops; overrides the recipe's.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="fp32|bf16", help="fp32 or bf16; overrides the recipe's.")
    ] = None,
    limit_steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop, with a checkpoint, after so many.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    debug: console.DebugOption = False,
) -> None:
    """Train a DeconvNet on a data set in PASCAL VOC's layout.

    The result, `OUT/best.safetensors`, goes straight into `deconvseg segment --weights`.
    """
    from deconvseg.training.run import run_training

    def report(figures: dict[str, float]) -> None:
        typer.echo("  ".join(f"{name} {value:g}" for name, value in figures.items()), err=True)

    overrides = {
        "crop_size": crop_size,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "precision": precision,
    }
    run_training(
        voc_root=voc_root,
        split=split,
        val_split=val_split,
        extra_roots=extra_root or [],
        recipe=recipe,
        overrides=overrides,
        init=init,
        vgg16=vgg16,
        out=out,
        resume=resume,
        limit_steps=limit_steps,
        device=device,
        report=report,
    )

"""Trains the image classifier behind the prior: VGG-16's convolutions as they are, and two layers on top.

    python tools/train_classifier.py --voc-root VOC2012 --split train_aug --out classifier.safetensors

The result goes straight into `deconvseg segment --classifier`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional

from deconvseg.cli import console
from deconvseg.cli.options import DebugOption, refuse_target
from deconvseg.data.dataset import DataSet
from deconvseg.data.open import open_dataset
from deconvseg.errors import UsageError
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.classifier import Classifier
from deconvseg.network.vgg16 import download_vgg16, initialise_encoder, read_vgg16
from deconvseg.regions import normalised, resized

PRESENT_SHARE = 0.003
"""A class is present from this share of a photo's pixels on; a smaller one is neither present nor absent."""
BATCH = 64
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05
RARE = 20
"""Photos with rare classes are drawn more often, as if every class had at least this many photos."""


DOUBT_OF_IOU = 0.9
"""Exponent: the doubt of a class from its IoU. To have the best IoU, a class that is found to IoU v should
take pixels from a probability of v / (1 + v) on, not from half; all of that would be an exponent of 1.25."""


def train_classifier(
    voc_root: Annotated[Path, typer.Option(help="Data set in any layout that training reads.")],
    out: Annotated[Path, typer.Option(help="Network file to write, .safetensors.")],
    split: Annotated[str, typer.Option(help="Split of --voc-root.")] = "train",
    extra_root: Annotated[
        list[Path] | None,
        typer.Option(help="More data sets of the same classes; their train splits join in."),
    ] = None,
    val_split: Annotated[
        str | None, typer.Option(help="Split of --voc-root on which to measure the mean average precision.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="What `deconvseg eval --json` printed: classes of a low IoU get less doubt."),
    ] = None,
    vgg16: Annotated[
        Path | None, typer.Option(help="VGG-16's convolutions, .safetensors; else they are downloaded.")
    ] = None,
    side: Annotated[
        int, typer.Option(min=64, help="Pixels of the square that photos are stretched to.")
    ] = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the photos' features.")] = 10,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Decides initial weights and order.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Train an image classifier on photos with masks: which classes a photo shows."""
    refuse_target(out, overwrite=True, option="--out")
    sets = [open_dataset(voc_root, split), *(open_dataset(root, "train") for root in extra_root or ())]
    if any(data.classes != sets[0].classes for data in sets):
        raise UsageError("the data sets have different classes; give sets of the same ones")
    found = json.loads(report.read_bytes())["per_class_iou"] if report else {}
    if report and set(found) != set(sets[0].classes):
        raise UsageError(f"{report}: is of other classes than the data sets; give one of the same")
    torch.manual_seed(seed)
    network = Classifier(len(sets[0].classes), side)
    initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
    header = NetworkHeader(sets[0].classes, sets[0].palette)
    features, shares = measure(network, header, sets)
    loss = train_head(network, features, shares, epochs, seed)
    summary = {"photos": len(features), "epochs": epochs, "seed": seed, "loss": round(loss, 4)}
    if val_split:
        features, shares = measure(network, header, [open_dataset(voc_root, val_split)])
        with torch.no_grad():
            scores = network.head(features)[0][:, 1:, 0, 0]
        precisions = [
            average_precision(*column) for column in zip(scores.T, shares.T > PRESENT_SHARE, strict=True)
        ]
        summary["mean_average_precision"] = round(torch.stack(precisions).nanmean().item(), 4)
    for place, name in enumerate(header.classes if report else ()):
        network.doubt[place] = max(found[name] or 0, 0.05) ** DOUBT_OF_IOU
    save_network(out, network, NetworkHeader(header.classes, header.palette, training=summary), "int8")
    console.say(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.items()))


@torch.no_grad()
def measure(network: Classifier, header: NetworkHeader, sets: Sequence[DataSet]) -> tuple[Tensor, Tensor]:
    """Features (N, F, 1, 1) of all photos, and each object class's share (N, C - 1) of their pixels."""
    network.eval().to(memory_format=torch.channels_last)
    examples = [(data, example) for data in sets for example in data.examples]
    features, shares = [], np.zeros((len(examples), len(header.classes) - 1), np.float32)
    for row, (data, example) in enumerate(examples):
        photo, mask = data.read(example)
        shares[row] = np.bincount(mask.ravel(), minlength=256)[1 : len(header.classes)] / mask.size
        image = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
        with torch.autocast("cpu", torch.bfloat16):
            image = resized(image, (network.side, network.side))
            features.append(network.features(normalised(network, header, image)))
        if row % 500 == 499:
            console.say(f"{row + 1} of {len(examples)} photos")
    return torch.cat(features).float(), torch.from_numpy(shares)


def train_head(network: Classifier, features: Tensor, shares: Tensor, epochs: int, seed: int) -> float:
    """Train all but the encoder with AdamW on binary cross-entropy; returns the last batch's loss."""
    present = shares > PRESENT_SHARE
    certain = present | (shares == 0)
    rarity = present.sum(0).clamp_min(RARE).rsqrt()
    chance = (present * rarity).sum(1) + rarity.min()
    layers = [*network.pool_norm.parameters(), *network.fc6.parameters(), *network.score.parameters()]
    optimizer = torch.optim.AdamW(layers, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    size = min(BATCH, len(features))
    steps = epochs * (len(features) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = torch.Generator().manual_seed(seed)
    network.train()
    loss = torch.zeros(())
    for _ in range(steps):
        batch = torch.multinomial(chance, size, generator=random)
        scores = network.head(features[batch])[0][:, 1:, 0, 0]
        each = functional.binary_cross_entropy_with_logits(scores, present[batch].float(), reduction="none")
        loss = (each * certain[batch]).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    return loss.item()


def average_precision(scores: Tensor, present: Tensor) -> Tensor:
    """Mean of the precision at each photo that shows a class, the surest first; NaN if there is none."""
    ranked = present[scores.argsort(descending=True)].float()
    return (ranked * ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)).sum() / ranked.sum()


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train_classifier)
    sys.exit(console.run(app))

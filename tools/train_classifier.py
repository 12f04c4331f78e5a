"""Trains the image classifier behind the prior: VGG-16's convolutions as they are, and small layers on top.

    python tools/train_classifier.py --voc-root VOC2012 --split train_aug --out classifier.safetensors

The result goes straight into `deconvseg segment --classifier`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.cli import console
from deconvseg.cli.options import DebugOption, refuse_target
from deconvseg.data.dataset import DataSet
from deconvseg.data.masks import VOID
from deconvseg.data.open import open_dataset
from deconvseg.errors import UsageError
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.classifier import Classifier
from deconvseg.network.vgg16 import download_vgg16, initialise_encoder, read_vgg16
from deconvseg.regions import normalised, resized

PRESENT_SHARE = 0.003
"""A class is present from this share of a photo's pixels on; a smaller one is neither present nor absent."""
BATCH, MAP_WIDTH = 64, 256
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
    ] = 384,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the photos' features.")] = 10,
    map_epochs: Annotated[
        int,
        typer.Option(min=0, help="Passes of the layers that tell where each class is; 0 leaves them out."),
    ] = 5,
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
    network = Classifier(len(sets[0].classes), side, map_width=MAP_WIDTH if map_epochs else None)
    initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
    header = NetworkHeader(sets[0].classes, sets[0].palette)
    with TemporaryDirectory(prefix="deconvseg-") as folder:
        photos = measure(network, header, sets, Path(folder, "features"))
        loss = train_head(network, photos, epochs, seed)
        summary = {"photos": len(photos.shares), "epochs": epochs, "seed": seed, "loss": round(loss, 4)}
        if map_epochs:
            loss = train_map(network, photos, map_epochs, seed)
            summary |= {"map_epochs": map_epochs, "map_loss": round(loss, 4)}
        if val_split:
            photos = measure(network, header, [open_dataset(voc_root, val_split)], Path(folder, "val"))
            with torch.no_grad():
                scores = network.head(photos.pooled)[0][:, 1:, 0, 0]
            precisions = [
                average_precision(*column)
                for column in zip(scores.T, photos.shares.T > PRESENT_SHARE, strict=True)
            ]
            summary["mean_average_precision"] = round(torch.stack(precisions).nanmean().item(), 4)
    for place, name in enumerate(header.classes if report else ()):
        network.doubt[place] = max(found[name] or 0, 0.05) ** DOUBT_OF_IOU
    save_network(out, network, NetworkHeader(header.classes, header.palette, training=summary), "int8")
    console.say(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.items()))


class Photos(NamedTuple):
    """What the layers learn from.

    Attributes:
        features: float16 (N, s, s, W), conv5_3's of each photo, in a file.
        pooled: float32 (N, 3W, 1, 1).
        masks: uint8 (N, 2s, 2s), every pixel the one in the middle of what it stands for.
        shares: float32 (N, C - 1), of each object class in the photo's pixels.
        chances: (N,), of being drawn: more for photos with rare classes.
    """

    features: NDArray[np.float16]
    pooled: Tensor
    masks: Tensor
    shares: Tensor
    chances: Tensor

    def draw(self, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
        """Numbers of the photos of each batch."""
        random = torch.Generator().manual_seed(seed)
        for _ in range(epochs * (len(self.shares) // size)):
            yield torch.multinomial(self.chances, size, generator=random)


@torch.no_grad()
def measure(network: Classifier, header: NetworkHeader, sets: Sequence[DataSet], file: Path) -> Photos:
    """Features of all photos, which go into a new file, and what their masks say."""
    network.eval().to(memory_format=torch.channels_last)
    examples = [(data, example) for data in sets for example in data.examples]
    cells = network.side // 16
    shape = (len(examples), cells, cells, network.arguments["widths"][4])
    features = np.memmap(file, np.float16, "w+", shape=shape)
    shares, pooled, masks = np.zeros((len(examples), len(header.classes) - 1), np.float32), [], []
    for row, (data, example) in enumerate(examples):
        photo, mask = data.read(example)
        shares[row] = np.bincount(mask.ravel(), minlength=256)[1 : len(header.classes)] / mask.size
        size = (2 * cells, 2 * cells)
        masks.append(
            functional.interpolate(torch.from_numpy(mask)[None, None], size, mode="nearest-exact")[0, 0]
        )
        image = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
        with torch.autocast("cpu", torch.bfloat16):
            image = resized(image, (network.side, network.side))
            found = network.features(normalised(network, header, image)).float()
        pooled.append(network.pooled(found))
        features[row] = found[0].permute(1, 2, 0).numpy()
        if row % 500 == 499:
            console.say(f"{row + 1} of {len(examples)} photos")
    present = torch.from_numpy(shares) > PRESENT_SHARE
    rarity = present.sum(0).clamp_min(RARE).rsqrt()
    chances = (present * rarity).sum(1) + rarity.min()
    return Photos(features, torch.cat(pooled), torch.stack(masks), torch.from_numpy(shares), chances)


def train_head(network: Classifier, photos: Photos, epochs: int, seed: int) -> float:
    """Train what says which classes a photo shows, on binary cross-entropy; returns the last batch's loss."""
    present = photos.shares > PRESENT_SHARE
    certain = present | (photos.shares == 0)

    def loss_of(batch: Tensor) -> Tensor:
        scores = network.head(photos.pooled[batch])[0][:, 1:, 0, 0]
        each = functional.binary_cross_entropy_with_logits(scores, present[batch].float(), reduction="none")
        return (each * certain[batch]).sum(1).mean()

    size = min(BATCH, len(present))
    layers = (network.pool_norm, network.fc6, network.score)
    return descend(network, layers, loss_of, list(photos.draw(size, epochs, seed)))


def train_map(network: Classifier, photos: Photos, epochs: int, seed: int) -> float:
    """Train what says where they are, on the cross-entropy of pixels; returns the last batch's loss."""
    network.eval()
    with torch.no_grad():
        hidden = network.head(photos.pooled)[1]
    random = torch.Generator().manual_seed(seed)

    def loss_of(batch: Tensor) -> Tensor:
        features = torch.from_numpy(photos.features[batch.numpy()]).permute(0, 3, 1, 2).float()
        masks = photos.masks[batch].long()
        if torch.rand((), generator=random) < 0.5:
            features, masks = features.flip(3), masks.flip(2)
        with torch.autocast("cpu", torch.bfloat16):
            scores = network.map_scores(features, hidden[batch]).float()
        finer = functional.interpolate(scores, masks.shape[1:], mode="bilinear")
        return functional.cross_entropy(finer, masks, ignore_index=VOID)

    size = min(BATCH // 2, len(hidden))
    layers = (network.map_norm, network.map1, network.context, network.map2, network.score_map)
    return descend(network, layers, loss_of, list(photos.draw(size, epochs, seed)))


def descend(
    network: Classifier,
    layers: Sequence[nn.Module],
    loss_of: Callable[[Tensor], Tensor],
    batches: Sequence[Tensor],
) -> float:
    """AdamW on these layers, its rate falling as a cosine; returns the last batch's loss."""
    weights = [weight for layer in layers for weight in layer.parameters()]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    network.train()
    loss = torch.zeros(())
    for batch in batches:
        loss = loss_of(batch)
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

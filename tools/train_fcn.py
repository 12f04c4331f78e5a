"""Trains the FCN that joins the regions: VGG-16's first ten convolutions as they are, the rest on top.

    python tools/train_fcn.py --voc-root VOC2012 --split train_aug --out fcn.safetensors

The result goes straight into `deconvseg segment --fcn`; `deconvseg eval --weights` measures it. Features of
the convolutions that stay are computed once: at 512 pixels a core then learns from some 4 photos a second in
bf16, and a photo or view takes 2.1 MB in the folder for temporary files.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.cli import console
from deconvseg.cli.options import DEBUG, refuse_target
from deconvseg.data.masks import VOID
from deconvseg.errors import UsageError
from deconvseg.network import fold, int8
from deconvseg.network.base import STRIDE, average
from deconvseg.network.checkpoint import NetworkHeader, load_network, save_network
from deconvseg.network.fcn import FCN
from deconvseg.network.inputs import normalise, resized
from deconvseg.network.vgg16 import download_vgg16, initialise_encoder, read_vgg16
from deconvseg.training.losses import lovasz_softmax
from deconvseg.training.plan import Photo, Sources, plan_training
from deconvseg.training.scores import read_scores

PRESENT_SHARE = 0.003
"""A class is present from this share of a photo's pixels on; a smaller one is neither present nor absent."""
LEARNING_RATES, FURTHER_RATES = (4e-4, 3e-5), (2e-4, 4e-5)
"""Of new layers and of conv5, from VGG-16 and from an FCN; the average with that is better than both."""
WEIGHT_DECAY, WARM_UP, AVERAGED = 0.05, 60, 0.997
PRESENCE_WEIGHT, LOVASZ_WEIGHT = 0.1, 0.5
"""Of the loss of the classes that there are, and of Lovasz-softmax, besides the cross-entropy of pixels."""
SOFT_SHARE = 0.3  # of the soft labels in the loss of a photo that has them
RARE = 20  # photos with rare classes are drawn more often, as if every class had at least this many
SCALES = 0.6, 1.5  # of the views after the first, which are mirrored and cropped to its area
CALIBRATED = 24  # photos that tell how large features get, which are stored in 8 bits
DOUBT_OF_IOU = 2.7
"""Exponent: the doubt of a class from its IoU. To have the best IoU, a class that is found to IoU v should
take pixels from a probability of v / (1 + v) on, not from half; with a prior of 0.2 this is half of that."""


def train_fcn(
    voc_root: Annotated[Path, typer.Option(help="Data set in any layout that training reads.")],
    out: Annotated[Path, typer.Option(help="Network file to write, .safetensors.")],
    split: Annotated[str, typer.Option(help="Split of --voc-root.")] = "train",
    extra_root: Annotated[
        list[Path] | None,
        typer.Option(help="More data sets of the same classes; their train splits join in."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Folder of NAME.scores.npz: another network's labels, beside or instead of masks."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="What `deconvseg eval --json` printed: classes of a low IoU get less doubt."),
    ] = None,
    vgg16: Annotated[
        Path | None, typer.Option(help="VGG-16's convolutions, .safetensors; else they are downloaded.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="FCN of the same classes to go on from, instead of VGG-16.")
    ] = None,
    side: Annotated[
        int | None, typer.Option(min=64, help="Pixels of a photo's longer side. [default: --start's, or 512]")
    ] = None,
    views: Annotated[
        int, typer.Option(min=1, help="Of each photo: itself, then mirrored ones of another scale.")
    ] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over all views.")] = 4,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Decides initial weights and order.")] = 0,
    debug: bool = DEBUG,
) -> None:
    """Train an FCN on photos with masks."""
    refuse_target(out, overwrite=True, option="--out")
    folders = () if scores is None else (scores,)
    sources = Sources(voc_root, None, extra_root or (), split, split, folders)
    plan = plan_training(sources, "own", {})  # of the recipe nothing is used
    header = NetworkHeader(plan.validation.classes, plan.validation.palette)
    ious = json.loads(report.read_bytes())["per_class_iou"] if report else {}
    if report and set(ious) != set(header.classes):
        raise UsageError(f"{report}: is of other classes than the data sets; give one of the same")
    torch.manual_seed(seed)
    if start:
        network, header = load_network(start)
        if not isinstance(network, FCN) or header.classes != plan.validation.classes:
            raise UsageError(f"{start}: is no FCN of the data sets' classes; give --start one")
        network.side = network.arguments["side"] = side or network.side
    else:
        network = FCN(len(header.classes), side or 512)
        initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
    photos = measure(network, header, plan.photos, views)
    loss = round(train(network, photos, epochs, seed, goes_on=bool(start)), 4)
    summary: dict[str, float] = {"photos": len(photos.shares) // views, "views": views, "seed": seed}
    summary |= {"views with soft labels": len(photos.soft), "epochs": epochs, "loss": loss}
    for place, name in enumerate(header.classes if report else ()):
        network.doubt[place] = max(ious[name] or 0, 0.05) ** DOUBT_OF_IOU
    save_network(out, network, replace(header, training=summary, ranges={}), "int8")
    console.say(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.items()))


class Photos(NamedTuple):
    """What the layers learn from: N photos, or views of them."""

    cells: NDArray[np.int64]  # (N, 2), height and width in cells of 8 pixels, h and w
    features: NDArray[np.uint8]  # (N, M, W) in a file, conv4_3's of the h * w cells of each photo
    step: float  # what a step of those stands for
    masks: NDArray[np.uint8]  # (N, 4M), of its 2h * 2w places
    soft: dict[int, Tensor]  # by number of a photo, class probabilities of its cells, uint8 (C, h, w)
    shares: Tensor  # float32 (N, C - 1), of each object class in the photo's pixels
    chances: NDArray[np.float64]  # (N,), of being drawn: more for photos with rare classes

    def draw(self, size: int, epochs: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """Numbers of the photos of each batch, which are of one shape."""
        random = np.random.default_rng(seed)
        shapes = [np.flatnonzero((self.cells == shape).all(1)) for shape in np.unique(self.cells, axis=0)]
        shapes = [photos for photos in shapes if len(photos) >= size]
        if not shapes:
            raise UsageError(f"no {size} photos have one shape; give more photos")
        weights = np.array([self.chances[photos].sum() for photos in shapes])
        for _ in range(epochs * sum(map(len, shapes)) // size):
            photos = shapes[random.choice(len(shapes), p=weights / weights.sum())]
            chances = self.chances[photos]
            yield random.choice(photos, size, p=chances / chances.sum())

    def load(self, batch: Sequence[int] | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Features (B, W, h, w) and masks int64 (B, 2h, 2w) of photos of one shape."""
        high, wide = self.cells[batch[0]]
        features = self.features[batch, : high * wide].reshape(len(batch), high, wide, -1)
        masks = self.masks[batch, : 4 * high * wide].reshape(len(batch), 2 * high, 2 * wide)
        found = torch.from_numpy(features).permute(0, 3, 1, 2).float() * self.step
        return found, torch.from_numpy(masks).long()


@torch.no_grad()
def measure(network: FCN, header: NetworkHeader, photos: Sequence[Photo], views: int) -> Photos:
    """Features of all photos, which go into a temporary file, and what their masks say."""
    rows = [(view, photo) for view in range(views) for photo in photos]
    network.eval()
    calibrated = [
        normalise(_view(network.side, *rows[row], seed=row)[0], header)
        for row in range(0, len(photos), max(len(photos) // CALIBRATED, 1))
    ]
    ranges = int8.observe(network, calibrated)
    precision: fold.Precision = "int8" if int8.works() else "fp32"
    ready = fold.prepare(copy.deepcopy(network), torch.device("cpu"), precision, ranges)
    most, width = (-(-network.side // STRIDE) * STRIDE // 8) ** 2, network.arguments["widths"][3]
    with TemporaryFile() as file:  # it stays as long as it is mapped
        features = np.memmap(file, np.uint8, "w+", shape=(len(rows), most, width))
    step = ranges["skip"][1] / 127
    masks = np.full((len(rows), 4 * most), VOID, np.uint8)
    shares, cells = np.zeros((len(rows), len(header.classes) - 1), np.float32), []
    soft: dict[int, Tensor] = {}
    for row, (view, photo) in enumerate(rows):
        image, mask, labels = _view(network.side, view, photo, seed=row)
        high, wide = (now - before for now, before in zip(mask.shape[2:], image.shape[2:], strict=True))
        found = ready.fine_features(functional.pad(normalise(image, header), (0, wide, 0, high)))
        if found.is_floating_point():
            found = (found / step).round_().clamp_(0, 255)
        high, wide = found.shape[2:]
        cells.append((high, wide))
        if labels is not None:
            labels = functional.interpolate(labels, (high, wide), mode="area")[0]
            soft[row] = (labels.clamp(0, 1) * 255).round_().byte()
        features[row, : high * wide] = found[0].permute(1, 2, 0).flatten(0, 1).numpy()
        places = functional.interpolate(mask, (2 * high, 2 * wide), mode="nearest-exact").flatten()
        masks[row, : len(places)] = places.numpy()
        shares[row] = np.bincount(mask.flatten(), minlength=256)[1 : len(header.classes)] / mask.numel()
        if row % 500 == 499:
            console.say(f"{row + 1} of {len(rows)} views of photos")
    present = shares > PRESENT_SHARE
    rarity = present.sum(0).clip(RARE) ** -0.5
    chances = (present * rarity).sum(1) + rarity.min()
    return Photos(np.array(cells), features, step, masks, soft, torch.from_numpy(shares), chances)


def _view(side: int, view: int, photo: Photo, *, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """A photo at the network's size, float (1, 3, H, W) of 0..255; its mask in whole cells, (1, 1, H, W); and
    its soft labels there, float (1, C, H, W), 0 beyond the photo, or None."""
    pixels, labels = photo.read()
    soft = read_scores(photo.scores, labels.shape, photo.dataset.classes)[None] if photo.scores else None
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    mask = torch.from_numpy(labels)[None, None]
    random = np.random.default_rng(seed)
    height, width = labels.shape
    scale = side / max(height, width) * (np.exp(random.uniform(*np.log(SCALES))) if view else 1)
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    image, mask = resized(image, size), functional.interpolate(mask, size, mode="nearest-exact")
    parts = [image, mask] if soft is None else [image, mask, resized(soft, size)]
    if view:
        parts = [part.flip(3) for part in parts]
    longest = [side, side * 3 // 4] if size[0] > size[1] else [side * 3 // 4, side]
    kept = [min(now, most if view else side) for now, most in zip(size, longest, strict=True)]
    top, left = (int(random.integers(now - most + 1)) for now, most in zip(size, kept, strict=True))
    image, mask, *rest = (part[..., top : top + kept[0], left : left + kept[1]] for part in parts)
    border = 0, -kept[1] % STRIDE, 0, -kept[0] % STRIDE
    mask = functional.pad(mask, border, value=VOID)
    return image, mask, functional.pad(rest[0], border) if rest else None


def train(network: FCN, photos: Photos, epochs: int, seed: int, *, goes_on: bool) -> float:
    """Train all but VGG-16's first ten convolutions; returns the mean of the last tenth of losses.

    The network becomes an average of its weights on the way. One that goes on keeps BatchNorm's statistics
    and learns without dropout.
    """
    present = photos.shares > PRESENT_SHARE
    certain = present | (photos.shares == 0)
    halved = fold.pick_precision("auto", torch.device("cpu")) == "bf16"

    def loss_of(batch: NDArray[np.int64]) -> Tensor:
        features, masks = photos.load(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            cells, scores = network.cells_and_presence(features)
        of_places = [
            place_loss(scores_of_one, mask, photos.soft.get(number))
            for scores_of_one, mask, number in zip(cells.float(), masks, batch.tolist(), strict=True)
        ]
        shown, sure = present[batch].float(), certain[batch]
        each = functional.binary_cross_entropy_with_logits(scores[:, 1:].float(), shown, reduction="none")
        return torch.stack(of_places).mean() + PRESENCE_WEIGHT * (each * sure).sum(1).mean()

    network.encoder[:4].requires_grad_(False)
    trained = nn.ModuleDict(dict(network.named_children()) | {"encoder": network.encoder[4]})
    encoder = list(network.encoder[4].parameters())
    others = [layer for name, layer in trained.named_parameters() if not name.startswith("encoder")]
    rates = FURTHER_RATES if goes_on else LEARNING_RATES
    groups = [{"params": some, "peak": rate} for some, rate in zip((others, encoder), rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    averaged, losses = copy.deepcopy(trained), []
    batches = list(photos.draw(12, epochs, seed))
    network.train(not goes_on)
    for step, batch in enumerate(batches):
        fall = 0.5 * (1 + np.cos(np.pi * step / len(batches))) * min(1, step / WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * fall
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        average(averaged, trained, 1 - min(AVERAGED, (1 + step) / (10 + step)))
    trained.load_state_dict(averaged.state_dict())
    network.eval()
    return float(np.mean(losses[-len(losses) // 10 :]))


def place_loss(cells: Tensor, mask: Tensor, soft: Tensor | None) -> Tensor:
    """What the raw scores (C, h, w) of a photo's cells cost.

    That is their cross-entropy with the mask, int64 (2h, 2w), and Lovasz-softmax; beside it, where there are
    soft labels, of 0..255 (C, h, w), the cross-entropy with these.
    """
    scores = functional.interpolate(cells[None], mask.shape, mode="bilinear")[0].flatten(1)
    labels = mask.flatten()
    known = (labels != VOID).sum().clamp_min(1)
    hard = functional.cross_entropy(scores.T, labels, ignore_index=VOID, reduction="sum") / known
    hard = hard + LOVASZ_WEIGHT * lovasz_softmax(scores.softmax(0), labels)
    if soft is None:
        return hard
    shares = soft.float() / soft.float().sum().clamp_min(1)
    return torch.lerp(hard, -(shares * cells.log_softmax(0)).sum(), SOFT_SHARE)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train_fcn)
    sys.exit(console.run(app))

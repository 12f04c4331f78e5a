"""Trains the FCN that joins the regions: the shipped one further, or for classes of your own.

    python tools/train_fcn.py --voc-root VOC2012 --split train_aug --out fcn.safetensors

It goes on from an FCN; where the data has other classes, the layers of scores begin anew. The first three
blocks of convolutions and BatchNorm's statistics stay as they are. A core of AMD Zen 4 learns from 2 views of
384 pixels a second in bf16; the shipped FCN's last trainings were of some 1,300 steps. The average with what
it started from, `deconvseg weights average`, is better than both. The result goes straight into `deconvseg
segment --fcn`; `deconvseg eval --weights` measures it.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.cli import console
from deconvseg.cli.options import DEBUG, refuse_target
from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.masks import VOID
from deconvseg.data.scores import read_scores
from deconvseg.errors import UsageError
from deconvseg.network.base import average, replace_classes
from deconvseg.network.checkpoint import NetworkHeader, load_network, save_network
from deconvseg.network.fcn import CELL, FCN
from deconvseg.network.fold import pick_device, pick_precision
from deconvseg.network.inputs import normalise, resized
from deconvseg.training.data import open_training_data
from deconvseg.training.losses import lovasz_softmax
from deconvseg.weights import network_file

Photo = tuple[DataSet, Example]

PRESENT_SHARE = 0.003
"""A class is present from this share of a photo's pixels on; a smaller one is neither present nor absent."""
BATCH, WARM_UP, AVERAGED, WEIGHT_DECAY, CLIP_NORM = 12, 60, 0.995, 0.05, 5.0
CONV4_RATE, CONV5_RATE, HEAD_RATE = 3e-5, 4e-5, 2e-4
PRESENCE_WEIGHT, LOVASZ_WEIGHT = 0.1, 0.5
"""Of the loss of the classes that there are, and of Lovasz-softmax, besides the cross-entropy of pixels."""
SOFT_SHARE = 0.3  # of the soft labels in the loss of a photo that has them
RARE = 20  # photos with rare classes are drawn more often, as if every class had at least this many
WHOLE_SHARE, SCALES = 0.5, (0.75, 1.6)
"""Views of whole photos; the others are at one of these scales, cropped to a photo's usual size."""
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
    start: Annotated[str, typer.Option(help="FCN to go on from, by name or file.")] = "fcn-lite",
    side: Annotated[
        int | None, typer.Option(min=64, help="Pixels of a photo's longer side. [default: --start's]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help=f"Each of {BATCH} views of photos.")] = 1300,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Decides new layers and views.")] = 0,
    debug: bool = DEBUG,
) -> None:
    """Train an FCN on photos with masks."""
    refuse_target(out, overwrite=True, option="--out")
    folders = () if scores is None else (scores,)
    data = open_training_data(
        voc_root, split=split, val_split=split, extra_roots=extra_root or (), scores=folders
    )
    photos = [(dataset, example) for dataset in data.datasets for example in dataset.examples]
    classes, palette = data.validation.classes, data.validation.palette
    ious = json.loads(report.read_bytes())["per_class_iou"] if report else {}
    if report and set(ious) != set(classes):
        raise UsageError(f"{report}: is of other classes than the data sets; give one of the same")
    network, header = load_network(network_file(start))
    if not isinstance(network, FCN):
        raise UsageError(f"{start}: is no FCN; give --start one")
    torch.manual_seed(seed)
    if header.classes != classes:
        network = replace_classes(network, len(classes))
        header = replace(header, classes=classes, palette=palette)
    network.side = network.arguments["side"] = side or network.side
    loss = round(train(network, header, photos, steps, seed), 4)
    summary: dict[str, float] = {"photos": len(photos), "steps": steps, "seed": seed, "loss": loss}
    summary["photos with soft labels"] = sum(photo.scores is not None for _, photo in photos)
    for place, name in enumerate(classes if report else ()):
        network.doubt[place] = max(ious[name] or 0, 0.05) ** DOUBT_OF_IOU
    save_network(out, network, replace(header, training=summary, ranges={}))
    console.say(", ".join(f"{name} {value}" for name, value in summary.items()))


def train(network: FCN, header: NetworkHeader, photos: Sequence[Photo], steps: int, seed: int) -> float:
    """Train all but the first three blocks; returns the mean of the last tenth of losses.

    The network becomes an average of its weights on the way.
    """
    device = pick_device("auto")
    halved = pick_precision("auto", device) == "bf16"
    network.to(device).to(memory_format=torch.channels_last)
    network.eval()  # no dropout, BatchNorm as it is
    network.encoder[:3].requires_grad_(False)
    conv4, conv5 = (list(network.encoder[block].parameters()) for block in (3, 4))
    head = [layer for name, layer in network.named_parameters() if not name.startswith("encoder")]
    peaks = (conv4, CONV4_RATE), (conv5, CONV5_RATE), (head, HEAD_RATE)
    groups = [{"params": some, "peak": rate} for some, rate in peaks]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    averaged, losses, random = copy.deepcopy(network), [], np.random.default_rng(seed)
    chances = rarity(photos, len(header.classes))
    for step in range(steps):
        fall = 0.5 * (1 + np.cos(np.pi * step / steps)) * min(1, (step + 1) / WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * fall
        optimizer.zero_grad()
        for number in random.choice(len(photos), BATCH, p=chances):
            view = make_view(photos[number], network.side, random)
            with torch.autocast(device.type, torch.bfloat16, enabled=halved):
                image = normalise(view.image.to(device), header).contiguous(memory_format=torch.channels_last)
                cells, presence = network.cells_and_presence(network.fine_features(image))
            loss = view_loss(cells[0].float(), presence[0].float(), view) / BATCH
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item() * BATCH)
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
        average(averaged, network, 1 - min(AVERAGED, (1 + step) / (10 + step)))
        if step % 25 == 24:
            console.say(f"step {step + 1} of {steps}: loss {np.mean(losses[-25 * BATCH :]):.3f}")
    network.load_state_dict(averaged.state_dict())
    network.cpu()
    return float(np.mean(losses[-len(losses) // 10 :]))


def rarity(photos: Sequence[Photo], classes: int) -> np.ndarray:
    """The chance of each photo to be drawn, float64 (N,): more for photos with rare classes."""
    counts = np.array(
        [np.bincount(data.read(photo)[1].ravel(), minlength=256)[1:classes] for data, photo in photos]
    )
    present = counts > PRESENT_SHARE * counts.sum(1, keepdims=True)
    rare = present.sum(0).clip(RARE) ** -0.5
    chances = (present * rare).sum(1) + rare.min()
    return np.asarray(chances / chances.sum())


class View(NamedTuple):
    """A photo, or a part of it, as the network learns from it, of H x W pixels in h x w cells of 8."""

    image: Tensor  # float32 (1, 3, H, W), 0..255
    mask: Tensor  # int64 (2h, 2w), void beyond the image
    soft: Tensor | None  # class probabilities, float32 (C, h, w), 0 beyond the image


def make_view(photo: Photo, side: int, random: np.random.Generator) -> View:
    """The whole photo at the network's size, or at another scale and cropped; mirrored half of the times."""
    data, example = photo
    pixels, labels = data.read(example)
    height, width = labels.shape
    whole = random.random() < WHOLE_SHARE
    scale = side / max(height, width) * (1 if whole else np.exp(random.uniform(*np.log(SCALES))))
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    parts = [resized(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), size)]
    parts.append(functional.interpolate(torch.from_numpy(labels)[None, None], size, mode="nearest-exact"))
    if example.scores:
        parts.append(resized(read_scores(example.scores, labels.shape, data.classes)[None], size))
    if random.random() < 0.5:
        parts = [part.flip(3) for part in parts]
    if not whole:
        most = (side, side * 3 // 4) if size[0] > size[1] else (side * 3 // 4, side)
        kept = [min(now, limit) for now, limit in zip(size, most, strict=True)]
        top, left = (int(random.integers(now - some + 1)) for now, some in zip(size, kept, strict=True))
        parts = [part[..., top : top + kept[0], left : left + kept[1]] for part in parts]
    image, mask, *soft = parts
    border = 0, -image.shape[3] % CELL, 0, -image.shape[2] % CELL
    mask = functional.pad(mask, border, value=VOID)
    cells = [length // 8 for length in mask.shape[2:]]
    mask = functional.interpolate(mask, [2 * length for length in cells], mode="nearest-exact")[0, 0].long()
    shares = [functional.interpolate(functional.pad(part, border), cells, mode="area")[0] for part in soft]
    return View(image, mask, shares[0].clamp_(0, 1) if shares else None)


def view_loss(cells: Tensor, presence: Tensor, view: View) -> Tensor:
    """What raw scores (C, h, w) of a view's cells and (C,) of its classes cost.

    That is their cross-entropy with the mask, and Lovasz-softmax; beside it, where there are soft labels, the
    cross-entropy with these; and the binary one of the classes that there are.
    """
    mask = view.mask.to(cells.device)
    scores = functional.interpolate(cells[None], mask.shape, mode="bilinear")[0].flatten(1)
    labels, classes = mask.flatten(), len(cells)
    known = (labels != VOID).sum().clamp_min(1)
    loss = functional.cross_entropy(scores.T, labels, ignore_index=VOID, reduction="sum") / known
    loss = loss + LOVASZ_WEIGHT * lovasz_softmax(scores.softmax(0), labels)
    if view.soft is not None:
        soft = view.soft.to(cells.device) / view.soft.sum().clamp_min(1)
        loss = torch.lerp(loss, -(soft * cells.log_softmax(0)).sum(), SOFT_SHARE)
    shares = labels.bincount(minlength=256)[1:classes] / len(labels)
    shown = (shares > PRESENT_SHARE).float()
    each = functional.binary_cross_entropy_with_logits(presence[1:], shown, reduction="none")
    return loss + PRESENCE_WEIGHT * (each * ((shown > 0) | (shares == 0))).sum()


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train_fcn)
    sys.exit(console.run(app))

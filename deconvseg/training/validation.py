"""A fast figure to steer a run by: whole photos as one crop each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deconvseg.data.crops import ImageStore, cut_crops
from deconvseg.data.masks import VOID
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.training import distributed
from deconvseg.training.losses import autocast, normalise
from deconvseg.training.recipe import Recipe


@torch.no_grad()
def validate(
    network: SegmentationNetwork, header: NetworkHeader, store: ImageStore, recipe: Recipe, batch: int = 32
) -> Tensor:
    """Confusion matrix int64 (C, C), row = truth, of the whole photo as a single crop, at the crop's size.

    A fast figure to steer by: neither at the photos' own size nor with proposals; `deconvseg eval` gives the
    figures that count. Every process takes each K-th photo and the counts are summed. Batches are filled up
    to one size, so that a photo's scores do not depend on how many processes there are.
    """
    classes = len(header.classes)
    device = next(network.parameters()).device
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    mine = torch.arange(distributed.rank(), len(store), distributed.world_size())
    for index, found in whole_photos(network, header, store, recipe, mine, batch):
        boxes, mirror = _whole(store, index)
        _, truth = cut_crops(store, index, boxes, mirror, network.side)
        truth = truth.to(device)
        valid = truth != VOID
        confusion += torch.bincount(truth[valid] * classes + found[valid], minlength=classes * classes)
    return distributed.total(confusion).cpu().reshape(classes, classes)


@torch.no_grad()
def whole_photos(
    network: SegmentationNetwork,
    header: NetworkHeader,
    store: ImageStore,
    recipe: Recipe,
    photos: Tensor,
    batch: int = 32,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Photos of a store as one crop each, batch by batch: their indices (n,) and labels int64 (n, S, S)."""
    device = next(network.parameters()).device
    batch = min(batch, max(1, batch * 256**2 // network.side**2))  # large photos need much memory
    with _evaluating(network):
        for start in range(0, len(photos), batch):
            index = photos[start : start + batch]
            filled = torch.cat([index, index[-1:].expand(batch - len(index))])
            crops, _ = cut_crops(store, filled, *_whole(store, filled), network.side)
            with autocast(recipe, device):
                scores = network(normalise(crops.to(device), header))
            yield index, scores[: len(index)].argmax(1)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Dropout and BatchNorm as in use; every module's mode comes back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _whole(store: ImageStore, index: Tensor) -> tuple[Tensor, Tensor]:
    """Squares around whole photos, not mirrored, on the store's device."""
    device = store.labels[0].device
    extent = store.sizes[index].flip(1).float()
    half = extent.amax(1, keepdim=True) / 2
    boxes = torch.cat([extent / 2 - half, extent / 2 + half], 1).to(device)
    return boxes, torch.zeros(len(index), dtype=torch.bool, device=device)


def mean_iou(confusion: Tensor) -> float:
    """Mean IoU over the classes that occur in truth or prediction; 0 if no pixel was counted."""
    matrix = confusion.double()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diag()
    return float((matrix.diag() / union)[union > 0].mean()) if union.sum() > 0 else 0.0

"""A fast figure to steer a run by: whole photos as one crop each."""

from __future__ import annotations

import torch
from torch import Tensor

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
    """Confusion matrix int64 (C, C), row = truth, of whole photos as single crops, at the crop's size.

    Neither at the photos' own size nor with proposals: `deconvseg eval` gives the figures that count. Every
    process takes each K-th photo and the counts are summed. Batches are filled up to one size, so that a
    photo's scores do not depend on how many processes there are. The network and the store are on one device;
    the network is in evaluation mode afterwards.
    """
    classes, device = len(header.classes), store.device
    batch = min(batch, max(1, batch * 256**2 // network.side**2))  # large photos need much memory
    extent = store.sizes.flip(1).float()
    half = extent.amax(1, keepdim=True) / 2
    squares = torch.cat([extent / 2 - half, extent / 2 + half], 1).to(device)
    plain = torch.zeros(batch, dtype=torch.bool, device=device)
    counts = torch.zeros(classes**2, dtype=torch.int64, device=device)
    mine = torch.arange(len(store))[distributed.rank() :: distributed.world_size()]
    network.eval()
    for start in range(0, len(mine), batch):
        index = mine[start : start + batch]
        filled = torch.cat([index, index[-1:].expand(batch - len(index))])
        crops, truth = cut_crops(store, filled, squares[filled.to(device)], plain, network.side)
        with autocast(recipe, device):
            found = network(normalise(crops, header)).argmax(1)
        truth, found = truth[: len(index)], found[: len(index)]
        valid = truth != VOID
        counts += torch.bincount(truth[valid] * classes + found[valid], minlength=classes**2)
    return distributed.total(counts).cpu().reshape(classes, classes)


def mean_iou(confusion: Tensor) -> float:
    """Mean IoU over the classes that occur in truth or prediction; 0 if no pixel was counted."""
    matrix = confusion.double()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diag()
    return float((matrix.diag() / union)[union > 0].mean()) if union.sum() > 0 else 0.0

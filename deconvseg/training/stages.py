"""Which crops a step trains on: objects of every class equally often, whole photos, and anything else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconvseg.data.crops import ImageStore, cut_crops, objects, square_boxes
from deconvseg.errors import DataError
from deconvseg.training.recipe import Recipe

RANDOM_SIDE = (0.35, 1.0)
"""Sides of random squares as shares of the photo's longer side."""


@dataclass(frozen=True)
class ObjectIndex:
    """Every object of a data set: photo (K,), class (K,) and squared, enlarged box (K, 4)."""

    photo: Tensor
    label: Tensor
    boxes: Tensor

    @classmethod
    def build(cls, store: ImageStore) -> ObjectIndex:
        """Find the objects in a store's masks."""
        rows = [(i, label, *box) for i in range(len(store)) for label, box in objects(store.mask(i))]
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        return cls(table[:, 0].long(), table[:, 1].long(), square_boxes(table[:, 2:]))


class CropSampler:
    """Draws the batch of any step; the same step always gives the same batch, so a run can be resumed."""

    def __init__(self, store: ImageStore, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.objects = ObjectIndex.build(store)
        if not len(self.objects.label):
            raise DataError("the masks hold no object of any class: there is nothing to learn")
        self.store = ImageStore(store.images.to(device), store.labels.to(device), store.sizes)
        self.members = [
            members
            for label in torch.unique(self.objects.label).tolist()
            if len(members := torch.nonzero(self.objects.label == label)[:, 0])
        ]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Crops float32 (B, 3, S, S) of 0..255 and labels int64 (B, S, S) on the store's device."""
        recipe, size = self.recipe, self.recipe.batch_size
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        kind = torch.rand(size, generator=generator)
        photo = torch.randint(len(self.store), (size,), generator=generator)
        uniform = torch.rand(size, 6, generator=generator)

        extent = self.store.sizes[photo].flip(1).float()  # width, height
        long_side = extent.amax(1)
        is_whole = kind >= 1 - recipe.whole_share
        side = RANDOM_SIDE[0] + (RANDOM_SIDE[1] - RANDOM_SIDE[0]) * uniform[:, 0]
        side = torch.where(is_whole, 1.0, side) * long_side
        centre = torch.where(is_whole[:, None], 0.5, uniform[:, 1:3]) * extent

        for i in torch.nonzero(kind < recipe.object_share)[:, 0].tolist():
            members = self.members[int(uniform[i, 3] * len(self.members))]
            chosen = members[int(uniform[i, 4] * len(members))]
            box = self.objects.boxes[chosen]
            photo[i], side[i], centre[i] = (
                self.objects.photo[chosen],
                box[2] - box[0],
                (box[:2] + box[2:]) / 2,
            )

        jitter = torch.rand(size, 3, generator=generator) * 2 - 1
        jitter[is_whole] = 0
        side = side * recipe.scale_jitter ** jitter[:, 0]
        centre = centre + recipe.shift_jitter * side[:, None] * jitter[:, 1:]
        boxes = torch.cat([centre - side[:, None] / 2, centre + side[:, None] / 2], 1)

        device = self.store.images.device
        photo, boxes, mirror = (t.to(device) for t in (photo, boxes, uniform[:, 5] < 0.5))
        crops, labels = cut_crops(self.store, photo, boxes, mirror, recipe.crop_size)
        factors = 1 + recipe.colour_jitter * (torch.rand(3, size, 1, 1, 1, generator=generator) * 2 - 1)
        return jitter_colours(crops, *factors.to(device)), labels


def jitter_colours(crops: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Vary crops (B, 3, S, S) of 0..255 by factors (B, 1, 1, 1); 0..255 again, and black stays black."""
    black = (crops == 0).all(1, keepdim=True)  # what lies outside a photo is black, here as in inference
    crops = crops * brightness
    mean = crops.mean((1, 2, 3), keepdim=True)
    crops = mean + contrast * (crops - mean)
    grey = crops.mean(1, keepdim=True)
    return (grey + saturation * (crops - grey)).clamp_(0, 255).masked_fill_(black, 0)

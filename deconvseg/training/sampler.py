"""Which crops a step trains on: objects and proposals, every class equally often; whole photos; anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.data.crops import ImageStore, cut_crops, cut_parts, objects
from deconvseg.data.masks import VOID
from deconvseg.errors import DataError
from deconvseg.proposals.cache import ProposalFile
from deconvseg.training.recipe import Recipe

PASTED_SIZE = (0.3, 0.9)
"""Longer sides of pasted objects as shares of the crop's side."""
RANDOM_SIDE = (0.35, 1.0)
"""Sides of random squares as shares of the photo's longer side."""


@dataclass(frozen=True)
class Regions:
    """Boxes to learn from, sorted by class so that every class can be drawn equally often.

    Attributes:
        photo: int64 (K,), which photo of the store.
        number: int64 (K,), which object of that photo (1-based, as in `ImageStore.parts`).
        boxes: float32 (K, 4), tight, in pixels of the store.
        starts, counts: int64 (classes that occur,), where a class begins and how many regions it has.
    """

    photo: Tensor
    number: Tensor
    boxes: Tensor
    starts: Tensor
    counts: Tensor

    @classmethod
    def build(cls, rows: Sequence[tuple[float, ...]]) -> Regions:
        """From rows of photo, class, number, x0, y0, x1, y1."""
        table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)
        table = table[table[:, 1].argsort(stable=True)]
        _, counts = torch.unique(table[:, 1], return_counts=True)
        return cls(
            table[:, 0].long(), table[:, 2].long(), table[:, 3:].float(), counts.cumsum(0) - counts, counts
        )

    def __len__(self) -> int:
        return len(self.photo)

    def pick(self, uniform: Tensor) -> Tensor:
        """Indices (B,) of regions for random numbers (B, 2) in 0..1: a class, then one of its regions."""
        kind = (uniform[:, 0] * len(self.counts)).long()
        return self.starts[kind] + (uniform[:, 1] * self.counts[kind]).long()


Objects = Sequence[Sequence[tuple[int, tuple[int, int, int, int]]]]
"""Of every photo of a store, the class and tight box of its objects."""


def object_regions(found: Objects) -> Regions:
    """Every object (paper, section 4.1, stage 1)."""
    return Regions.build(
        [
            (photo, label, number, *box)
            for photo, objects_of_photo in enumerate(found)
            for number, (label, box) in enumerate(objects_of_photo, start=1)
        ]
    )


def proposal_regions(
    all_objects: Objects, sizes: Tensor, names: Sequence[str], proposals: ProposalFile, overlap: float
) -> Regions:
    """Every proposal that overlaps an object well enough, with the object it overlaps most (stage 2).

    Args:
        all_objects: objects of every photo.
        sizes: int64 (N, 2), height and width of the photos that the objects' boxes are in.
        names: the photos' names in the proposal file.
        proposals: boxes by name, in pixels of the photo at its own size.
        overlap: least IoU of the proposal with the object's tight box.
    """
    rows: list[tuple[float, ...]] = []
    for i, (name, found) in enumerate(zip(names, all_objects, strict=True)):
        boxes, (height, width) = proposals.of(name)
        if not found or not len(boxes):
            continue
        stored_height, stored_width = sizes[i].tolist()
        boxes = boxes * np.array([stored_width / width, stored_height / height] * 2, np.float32)
        iou = _overlaps(boxes, np.array([box for _, box in found], np.float32))
        best = iou.argmax(1)
        for k in np.flatnonzero(iou[np.arange(len(boxes)), best] >= overlap):
            rows.append((i, found[best[k]][0], int(best[k]) + 1, *boxes[k].tolist()))
    return Regions.build(rows)


def _overlaps(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of boxes (N, 4) with boxes (M, 4): (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (first, second)]
    overlaps: NDArray[np.float32] = shared / (areas[0][:, None] + areas[1][None] - shared)
    return overlaps


class Batch(NamedTuple):
    """Crops float32 (B, 3, S, S) of 0..255 and labels int64 (B, S, S), and where they were cut."""

    crops: Tensor
    labels: Tensor
    photo: Tensor
    boxes: Tensor
    mirror: Tensor


class _Draw(NamedTuple):
    photo: Tensor
    number: Tensor
    boxes: Tensor
    mirror: Tensor
    factors: Tensor


_PASTE_SEED = 1 << 41


class CropSampler:
    """Draws the batch of any step. Everything random comes from the seed and the step alone: a run that is
    taken up again, or shared out over more processes, sees the same crops."""

    def __init__(
        self,
        store: ImageStore,
        recipe: Recipe,
        device: torch.device,
        names: Sequence[str] = (),
        proposals: ProposalFile | None = None,
    ) -> None:
        self.recipe = recipe
        self.names = names
        found = [list(objects(store.mask(i))) for i in range(len(store))]
        self.objects = object_regions(found)
        if not len(self.objects):
            raise DataError(
                f"the masks of the {len(store)} photos to train on hold no object of any class: there is "
                "nothing to learn; look at them with --check"
            )
        self.proposals = Regions.build([])
        if recipe.proposal_share > 0:
            if proposals is None:
                raise DataError("the recipe asks for proposals (proposal_share) and there are none")
            self.proposals = proposal_regions(found, store.sizes, names, proposals, recipe.overlap)
            if not len(self.proposals):
                raise DataError(
                    f"no proposal overlaps an object by {recipe.overlap}; lower the recipe's overlap"
                )
        self.store = (store.with_parts() if recipe.label == "object" else store).to(device)

    def batch(self, step: int, part: slice | Tensor = slice(None)) -> Batch:
        """The crops of a step, or those of them at some indices, on the store's device."""
        draw = _Draw(*(values[part] for values in self._draw(step)))
        device = self.store.images.device
        # Not waiting for the copies keeps the device's queue of work full.
        draw = _Draw(*(values.to(device, non_blocking=True) for values in draw))
        photo, boxes, mirror = draw.photo, draw.boxes, draw.mirror
        crops, labels = cut_crops(self.store, photo, boxes, mirror, self.recipe.crop_size)
        if self.recipe.label == "object":
            number = draw.number[:, None, None]
            parts = cut_parts(self.store, photo, boxes, mirror, self.recipe.crop_size)
            labels = torch.where((parts != number) & (labels != VOID) & (number > 0), 0, labels)
        if self.recipe.copy_paste:
            self._paste(step, part, crops, labels)
        crops = jitter_colours(crops, *draw.factors.T[:, :, None, None, None])
        return Batch(crops, labels, photo, boxes, mirror)

    def _paste(self, step: int, part: slice | Tensor, crops: Tensor, labels: Tensor) -> None:
        """Put objects of other photos in front of what some crops show (Ghiasi et al., arXiv 2012.07177)."""
        size, device = self.recipe.batch_size, crops.device
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step + _PASTE_SEED)
        uniform = torch.rand(size, 7, generator=generator)
        chosen = self.objects.pick(uniform[:, :2])
        tight = self.objects.boxes[chosen]
        extent = tight[:, 2:] - tight[:, :2]
        low, high = PASTED_SIZE
        sides = extent.amax(1, keepdim=True) / (low + (high - low) * uniform[:, 2:3])
        corner = tight[:, :2] - (sides - extent) * uniform[:, 3:5]
        boxes = torch.cat([corner, corner + sides], 1)
        mirrored = (uniform[:, 6] < 0.5) & torch.tensor(self.recipe.mirror)
        rows = torch.nonzero(uniform[part, 5] < self.recipe.copy_paste)[:, 0]
        photo, boxes, mirror = (
            values[part][rows].to(device) for values in (self.objects.photo[chosen], boxes, mirrored)
        )
        fronts, masks = cut_crops(self.store, photo, boxes, mirror, self.recipe.crop_size)
        is_object = (masks != 0) & (masks != VOID)
        rows = rows.to(device)
        crops[rows] = torch.where(is_object[:, None], fronts, crops[rows])
        labels[rows] = torch.where(is_object, masks, labels[rows])

    def photos(self, step: int) -> list[str]:
        """Names of the photos in a step's batch."""
        return [self.names[i] for i in sorted(set(self._draw(step).photo.tolist()))] if self.names else []

    def _draw(self, step: int) -> _Draw:
        recipe, size = self.recipe, self.recipe.batch_size
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        kind = torch.rand(size, generator=generator)
        photo = torch.randint(len(self.store), (size,), generator=generator)
        uniform = torch.rand(size, 8, generator=generator)
        jitter = torch.rand(size, 3, generator=generator) * 2 - 1
        factors = 1 + recipe.colour_jitter * (torch.rand(size, 3, generator=generator) * 2 - 1)

        # Random squares, whole photos ...
        extent = self.store.sizes[photo].flip(1).float()  # width, height
        long_side = extent.amax(1, keepdim=True)
        is_whole = kind >= 1 - recipe.whole_share
        side = RANDOM_SIDE[0] + (RANDOM_SIDE[1] - RANDOM_SIDE[0]) * uniform[:, :1]
        sides = (torch.where(is_whole[:, None], 1.0, side) * long_side).expand(-1, 2).clone()
        centre = torch.where(is_whole[:, None], 0.5, uniform[:, 1:3]) * extent
        number = torch.zeros(size, dtype=torch.long)
        # ... and regions around objects and proposals.
        shares = (0.0, recipe.object_share, recipe.object_share + recipe.proposal_share)
        for regions, low, high in zip((self.objects, self.proposals), shares, shares[1:], strict=False):
            drawn = torch.nonzero((kind >= low) & (kind < high))[:, 0]
            if not len(drawn):
                continue
            chosen = regions.pick(uniform[drawn, 3:5])
            photo[drawn], number[drawn] = regions.photo[chosen], regions.number[chosen]
            boxes = regions.boxes[chosen]
            tight = boxes[:, 2:] - boxes[:, :2]
            if recipe.square:
                tight = tight.amax(1, keepdim=True).expand(-1, 2)
            within = uniform[drawn, 5:7] - 0.5
            sides[drawn] = recipe.enlarge * recipe.window * tight
            centre[drawn] = (boxes[:, :2] + boxes[:, 2:]) / 2
            # A window of the photo shows any part of the object, a crop nearly all of it.
            free = 1.0 if recipe.photo_side else recipe.enlarge * (1 - recipe.window)
            centre[drawn] += free * tight * within

        if recipe.photo_side:
            extent = self.store.sizes[photo].amax(1, keepdim=True).float()
            window = (recipe.crop_size / recipe.photo_side * extent).expand(-1, 2)
            sides = torch.where(is_whole[:, None], sides, window)

        jitter[is_whole] = 0
        sides = sides * recipe.scale_jitter ** jitter[:, :1]
        centre = centre + recipe.shift_jitter * sides * jitter[:, 1:]
        boxes = torch.cat([centre - sides / 2, centre + sides / 2], 1)
        mirror = (uniform[:, 7] < 0.5) & torch.tensor(recipe.mirror)
        return _Draw(photo, number, boxes, mirror, factors)


def jitter_colours(crops: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Vary crops (B, 3, S, S) of 0..255 by factors (B, 1, 1, 1); 0..255 again, and black stays black."""
    black = (crops == 0).all(1, keepdim=True)  # what lies outside a photo is black, here as in inference
    crops = crops * brightness
    mean = crops.mean((1, 2, 3), keepdim=True)
    crops = mean + contrast * (crops - mean)
    grey = crops.mean(1, keepdim=True)
    return (grey + saturation * (crops - grey)).clamp_(0, 255).masked_fill_(black, 0)

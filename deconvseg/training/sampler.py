"""Which crops a step trains on: objects and proposals, every class equally often; whole photos; anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deconvseg.data.crops import ImageStore, cut_crops, cut_labels, find_objects
from deconvseg.data.masks import VOID
from deconvseg.data.scores import cut_scores
from deconvseg.errors import DataError
from deconvseg.proposals.cache import PhotoBoxes
from deconvseg.training.recipe import Recipe

PASTED_SIZE = (0.3, 0.9)  # longer sides of pasted objects as shares of the crop's side
RANDOM_SIDE = (0.35, 1.0)  # sides of random squares as shares of the photo's longer side
_PASTE_SEED = 1 << 41


class Regions:
    """Boxes to learn from, sorted by class so that every class can be drawn equally often.

    A row of a box: which photo of the store; class; which object of that photo, from 1, as `find_objects`
    numbers them; x0 y0 x1 y1 in pixels of the store.
    """

    def __init__(self, rows: Sequence[tuple[float, ...]]) -> None:
        table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)
        table = table[table[:, 1].argsort(stable=True)]
        self.photo, self.number, self.boxes = table[:, 0].long(), table[:, 2].long(), table[:, 3:].float()
        self.counts: Tensor = torch.unique(table[:, 1], return_counts=True)[1]  # regions of each class ...
        self.starts: Tensor = self.counts.cumsum(0) - self.counts  # ... and where they begin

    def pick(self, uniform: Tensor) -> Tensor:
        """Indices (B,) of regions for random numbers (B, 2) in 0..1: a class, then one of its regions."""
        kind = (uniform[:, 0] * len(self.counts)).long()
        return self.starts[kind] + (uniform[:, 1] * self.counts[kind]).long()


def proposal_regions(
    store: ImageStore, names: Sequence[str], proposals: Sequence[PhotoBoxes], overlap: float
) -> Regions:
    """Each photo's proposals whose IoU with an object's tight box is at least `overlap`, with the object that
    they overlap most (stage 2). DataError if there are none, or they are of photos of other shapes."""
    from torchvision.ops import box_iou  # takes a second to import

    rows: list[tuple[float, ...]] = []
    for i, ((boxes, (height, width)), found) in enumerate(zip(proposals, store.objects, strict=True)):
        stored_height, stored_width = store.labels[i].shape
        if abs(stored_width * height - stored_height * width) > width + height:  # sides are rounded
            fault = f"its proposals are of a photo of {width}x{height} pixels, which has another shape"
            raise DataError(f"{names[i]}: {fault}; remove the proposal file, and it is made anew")
        if not found or not len(boxes):
            continue
        boxes = boxes * np.array([stored_width / width, stored_height / height] * 2, np.float32)
        tight = torch.tensor([box for _, box in found], dtype=torch.float32)
        iou, best = box_iou(torch.from_numpy(boxes), tight).max(1)
        for k in torch.nonzero(iou >= overlap)[:, 0].tolist():
            number = int(best[k])
            rows.append((i, found[number].label, number + 1, *boxes[k].tolist()))
    if not rows:
        raise DataError(f"no proposal overlaps an object by {overlap}; lower the recipe's overlap")
    return Regions(rows)


class Batch(NamedTuple):
    """Crops of a step and what they teach."""

    crops: Tensor  # float32 (B, 3, S, S) of 0..255
    labels: Tensor  # int64 (B, S, S), 255 for void
    own: Tensor  # bool (B, S, S), where labels are the photo's own: neither void nor of a pasted object
    photo: Tensor  # with boxes and mirror, where the crops were cut, as `cut_crops` takes it
    boxes: Tensor
    mirror: Tensor


class CropSampler:
    """Draws the batch of any step. Everything random comes from the seed and the step alone: a run that is
    taken up again, or shared out over more processes, sees the same crops.

    Args:
        store: photos and masks, in main memory; crops are cut on the `device`.
        recipe: decides what is drawn.
        soft, proposals: the photos' soft labels, and regions for recipes that draw proposals.
    """

    def __init__(
        self,
        store: ImageStore,
        recipe: Recipe,
        device: torch.device,
        soft: Sequence[Tensor | None] = (),
        proposals: Regions | None = None,
    ) -> None:
        self.recipe, self.sizes, self.store = recipe, store.sizes, store.to(device)
        # Stage 1 draws every object of every photo (paper, section 4.1).
        objects = [(i, k, found) for i, some in enumerate(store.objects) for k, found in enumerate(some, 1)]
        self.objects = Regions([(photo, label, number, *box) for photo, number, (label, box) in objects])
        if not len(self.objects.photo):
            raise DataError(
                f"the masks of the {len(store)} photos to train on hold no object of any class: there is "
                "nothing to learn; check the data"
            )
        self.proposals = proposals or Regions([])
        self.parts: list[Tensor] | None = None
        if recipe.label == "object":
            self.parts = [torch.from_numpy(find_objects(mask.numpy())[0]).to(device) for mask in store.labels]
        # Crops of one object alone call the others background, which soft labels know nothing of.
        kept = soft if recipe.label == "all" else ()
        self.soft = [values if values is None else values.to(device) for values in kept]

    def batch(self, step: int, part: slice | Tensor = slice(None)) -> Batch:
        """The crops of a step, or those of them at some indices, on the store's device."""
        photo, *others = (values[part] for values in self._draw(step))
        # Not waiting for the copies keeps the device's queue of work full.
        number, boxes, mirror, factors = (
            values.to(self.store.device, non_blocking=True) for values in others
        )
        where = photo, boxes, mirror, self.recipe.crop_size
        crops, labels = cut_crops(self.store, *where)
        if self.parts is not None:
            number = number[:, None, None]
            parts = cut_labels(self.store, *where, self.parts)
            labels = torch.where((parts != number) & (labels != VOID) & (number > 0), 0, labels)
        own = labels != VOID
        if self.recipe.copy_paste:
            self._paste(step, part, crops, labels, own)
        crops = jitter_colours(crops, *factors.T[:, :, None, None, None])
        return Batch(crops, labels, own, photo, boxes, mirror)

    def soft_labels(self, batch: Batch, part: slice) -> Tensor | None:
        """Those of a part of a batch, if there are any: float32 (b, C, S, S)."""
        if not self.soft:
            return None
        where = batch.photo[part], batch.boxes[part], batch.mirror[part]
        return cut_scores(self.soft, self.sizes, *where, self.recipe.crop_size)

    def _paste(self, step: int, part: slice | Tensor, crops: Tensor, labels: Tensor, own: Tensor) -> None:
        """Put objects of other photos in front of what some crops show (Ghiasi et al., arXiv 2012.07177)."""
        device, generator = crops.device, self._generator(step + _PASTE_SEED)
        uniform = torch.rand(self.recipe.batch_size, 7, generator=generator)
        chosen = self.objects.pick(uniform[:, :2])
        tight = self.objects.boxes[chosen]
        extent = tight[:, 2:] - tight[:, :2]
        low, high = PASTED_SIZE
        sides = extent.amax(1, keepdim=True) / (low + (high - low) * uniform[:, 2:3])
        corner = tight[:, :2] - (sides - extent) * uniform[:, 3:5]
        boxes = torch.cat([corner, corner + sides], 1)
        rows = torch.nonzero(uniform[part, 5] < self.recipe.copy_paste)[:, 0]
        if not len(rows):
            return
        photo = self.objects.photo[chosen][part][rows]
        boxes, mirror = (values[part][rows].to(device) for values in (boxes, uniform[:, 6] < 0.5))
        fronts, masks = cut_crops(self.store, photo, boxes, mirror, self.recipe.crop_size)
        is_object = (masks != 0) & (masks != VOID)
        rows = rows.to(device)
        crops[rows] = torch.where(is_object[:, None], fronts, crops[rows])
        labels[rows] = torch.where(is_object, masks, labels[rows])
        own[rows] &= ~is_object

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)

    def _draw(self, step: int) -> tuple[Tensor, ...]:
        """Photo, object's number, box, mirror and colour factors (B, 3) of each crop."""
        recipe, size, generator = self.recipe, self.recipe.batch_size, self._generator(step)
        kind = torch.rand(size, generator=generator)
        photo = torch.randint(len(self.sizes), (size,), generator=generator)
        uniform = torch.rand(size, 8, generator=generator)
        jitter = torch.rand(size, 3, generator=generator) * 2 - 1
        factors = 1 + recipe.colour_jitter * (torch.rand(size, 3, generator=generator) * 2 - 1)

        # Random squares, whole photos ...
        extent = self.sizes[photo].flip(1).float()  # width, height
        is_whole = (kind >= 1 - recipe.whole_share)[:, None]
        side = RANDOM_SIDE[0] + (RANDOM_SIDE[1] - RANDOM_SIDE[0]) * uniform[:, :1]
        sides = (torch.where(is_whole, 1.0, side) * extent.amax(1, keepdim=True)).repeat(1, 2)
        centre = torch.where(is_whole, 0.5, uniform[:, 1:3]) * extent
        number = torch.zeros(size, dtype=torch.long)
        # ... and regions around objects and proposals.
        shares = (0.0, recipe.object_share, recipe.object_share + recipe.proposal_share)
        for regions, low, high in zip((self.objects, self.proposals), shares, shares[1:], strict=False):
            drawn = torch.nonzero((kind >= low) & (kind < high))[:, 0]
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
            long_side = self.sizes[photo].amax(1, keepdim=True).float()
            sides = torch.where(is_whole, sides, recipe.crop_size / recipe.photo_side * long_side)

        jitter.masked_fill_(is_whole, 0)
        sides = sides * recipe.scale_jitter ** jitter[:, :1]
        centre = centre + recipe.shift_jitter * sides * jitter[:, 1:]
        boxes = torch.cat([centre - sides / 2, centre + sides / 2], 1)
        return photo, number, boxes, uniform[:, 7] < 0.5, factors


def jitter_colours(crops: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Vary crops (B, 3, S, S) of 0..255 by factors (B, 1, 1, 1); 0..255 again, and black stays black."""
    black = (crops == 0).all(1, keepdim=True)  # what lies outside a photo is black, here as in inference
    crops = crops * brightness
    mean = crops.mean((1, 2, 3), keepdim=True)
    crops = mean + contrast * (crops - mean)
    grey = crops.mean(1, keepdim=True)
    return (grey + saturation * (crops - grey)).clamp_(0, 255).masked_fill_(black, 0)

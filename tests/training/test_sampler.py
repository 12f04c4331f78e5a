"""Crops of a step: always the same, classes equally often, labelled as each stage wants it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from deconvseg.data.crops import ImageStore
from deconvseg.errors import DataError
from deconvseg.proposals.cache import PhotoBoxes
from deconvseg.training.recipe import Recipe
from deconvseg.training.sampler import CropSampler, Regions, jitter_colours, proposal_regions

from .conftest import CPU, RECIPE, Shapes

EXACT = replace(
    RECIPE,
    batch_size=16,
    object_share=1.0,
    whole_share=0.0,
    scale_jitter=1.0,
    shift_jitter=0.0,
    colour_jitter=0.0,
)


def store_of(*pairs: tuple[np.ndarray, np.ndarray]) -> ImageStore:
    return ImageStore.load([lambda pair=pair: pair for pair in pairs], 64)


def sampler_of(store: ImageStore, recipe: Recipe, proposals: Regions | None = None) -> CropSampler:
    return CropSampler(store, recipe, CPU, proposals=proposals)


def proposals(boxes: list[list[float]], side: int) -> list[PhotoBoxes]:
    """Of one photo of this height and width."""
    return [PhotoBoxes(np.array(boxes, np.float32), (side, side))]


@pytest.fixture
def two_dogs() -> ImageStore:
    """One photo, 64x64, red; class 1 at the left and at the right, class 2 between them, a void line."""
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 2:18] = 1
    mask[10:30, 44:60] = 1
    mask[12:28, 20:40] = 2
    mask[31] = 255
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 200
    return store_of((image, mask))


@pytest.mark.parametrize("changes", [{"label": "object"}, {"copy_paste": 0.7}], ids=str)
def test_a_steps_batch_is_the_same_in_parts(shapes: Shapes, changes: dict[str, object]) -> None:
    sampler, again = (sampler_of(shapes.training, replace(RECIPE, **changes)) for _ in range(2))
    whole, parts = sampler.batch(3), [again.batch(3, slice(k, k + 4)) for k in (0, 4)]
    assert not torch.equal(whole.crops, sampler.batch(4).crops)
    for field, together in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(field, torch.cat(together))


def test_classes_are_drawn_equally_often(two_dogs: ImageStore) -> None:
    sampler = sampler_of(two_dogs, EXACT)
    # The middle of an object-centred crop is the object.
    middle = torch.cat([sampler.batch(step).labels[:, 16, 16] for step in range(40)])
    assert middle.unique().tolist() == [1, 2]
    assert abs((middle == 2).float().mean() - 0.5) < 0.08


def test_stage_1_labels_the_object_alone(two_dogs: ImageStore) -> None:
    everything = sampler_of(two_dogs, replace(EXACT, enlarge=5.0)).batch(0)
    alone = sampler_of(two_dogs, replace(EXACT, enlarge=5.0, label="object")).batch(0)
    assert torch.equal(everything.crops, alone.crops)
    assert torch.equal(everything.labels == 255, alone.labels == 255)
    for labels, boxes in zip(alone.labels, alone.boxes, strict=True):
        kept = labels[(labels > 0) & (labels < 255)]
        centre = float((boxes[0] + boxes[2]) / 2)
        assert kept.unique().tolist() == [1 if centre in (10, 52) else 2]
        columns = torch.nonzero(((labels > 0) & (labels < 255)).any(0))[:, 0]
        x = boxes[0] + (columns + 0.5) / 32 * (boxes[2] - boxes[0])
        assert float(x.max() - x.min()) < 21  # one of the two dogs, not both
    assert any(set(labels.unique().tolist()) >= {0, 1, 2} for labels in everything.labels)


def test_boxes_are_enlarged_and_squared_or_stretched(two_dogs: ImageStore) -> None:
    sides = {}
    for square in (True, False):
        boxes = sampler_of(two_dogs, replace(EXACT, square=square)).batch(0).boxes
        sides[square] = {tuple(pair) for pair in (boxes[:, 2:] - boxes[:, :2]).round(decimals=1).tolist()}
    assert sides[True] == {(24.0, 24.0)}  # 1.2 x the longer side, 20 for both kinds
    assert {tuple(round(side, 1) for side in pair) for pair in sides[False]} == {(19.2, 24.0), (24.0, 19.2)}


def test_a_window_lies_anywhere_inside_the_box(two_dogs: ImageStore) -> None:
    recipe = replace(EXACT, window=0.5)
    boxes = torch.cat([sampler_of(two_dogs, recipe).batch(step).boxes for step in range(30)])
    assert torch.allclose(boxes[:, 2:] - boxes[:, :2], torch.tensor(12.0))
    offset = (boxes[:, 0] - (10 - 12)).abs().amin(), (boxes[:, 1] - (20 - 12)).abs().amin()
    assert max(offset) < 1  # the left dog's box begins at -2, 8, and some windows with it
    assert boxes[:, 1].min() >= 8 - 1e-3
    assert boxes[:, 3].max() <= 32 + 1e-3


def test_proposals_are_those_that_overlap_an_object(two_dogs: ImageStore) -> None:
    # In pixels of the photo at twice the size it is stored at.
    boxes = [[0, 0, 128, 128], [4, 20, 36, 60], [4, 20, 36, 100], [88, 20, 120, 58], [40, 24, 80, 50]]
    boxes = proposals(boxes, 128)
    regions = proposal_regions(two_dogs, ["a"], boxes, 0.5)
    assert regions.boxes.tolist() == [[2, 10, 18, 30], [2, 10, 18, 50], [44, 10, 60, 29], [20, 12, 40, 25]]
    assert regions.number.tolist() == [1, 1, 2, 3]  # objects come by class: dog, dog, cat
    assert regions.counts.tolist() == [3, 1]
    assert len(proposal_regions(two_dogs, ["a"], boxes, 0.6).photo) == 3
    with pytest.raises(DataError, match=r"no proposal overlaps an object by 0\.9"):
        proposal_regions(two_dogs, ["a"], proposals([[0, 0, 64, 64]], 64), 0.9)
    other = [PhotoBoxes(boxes[0].boxes, (128, 96))]
    with pytest.raises(DataError, match=r"^a: its proposals are of a photo of 96x128 .* remove the proposal"):
        proposal_regions(two_dogs, ["a"], other, 0.5)
    proposal_regions(two_dogs, ["a"], [PhotoBoxes(boxes[0].boxes, (128, 127))], 0.5)  # as rounding has it


def test_stage_2_draws_them_with_all_labels(two_dogs: ImageStore) -> None:
    boxes = proposals([[2, 10, 18, 30], [20, 12, 40, 28]], 64)
    recipe = replace(EXACT, object_share=0.0, proposal_share=1.0)
    batch = sampler_of(two_dogs, recipe, proposal_regions(two_dogs, ["a"], boxes, 0.5)).batch(0)
    centres = ((batch.boxes[:, 0] + batch.boxes[:, 2]) / 2).tolist()
    assert set(centres) == {10.0, 30.0}
    assert 5 <= centres.count(10.0) <= 11  # two classes, equally often in 16
    assert batch.labels.unique().tolist() == [0, 1, 2, 255]


def test_pasted_objects_lie_in_front_and_bring_their_labels(two_dogs: ImageStore) -> None:
    green = np.zeros((64, 64, 3), np.uint8)
    green[..., 1] = 200
    red = two_dogs.images[0].permute(1, 2, 0).numpy()
    both = store_of((red, two_dogs.labels[0].numpy()), (green, np.zeros((64, 64), np.uint8)))
    recipe = replace(EXACT, object_share=0.0, whole_share=1.0, crop_size=64)
    plain = sampler_of(both, recipe).batch(0)
    pasted = sampler_of(both, replace(recipe, copy_paste=0.5)).batch(0)
    assert torch.equal(plain.photo, pasted.photo) and torch.equal(plain.boxes, pasted.boxes)
    changed = (plain.crops != pasted.crops).flatten(1).any(1)
    assert 2 <= int(changed[plain.photo == 1].sum()) < int((plain.photo == 1).sum())  # about half
    for crop, labels in zip(pasted.crops[plain.photo == 1], pasted.labels[plain.photo == 1], strict=True):
        assert set(labels.unique().tolist()) <= {0, 1, 2}  # the void line of the donor stays behind
        inside = functional.max_pool2d((labels == 0).float()[None], 3, 1, 1)[0] == 0
        assert torch.allclose(crop[0][inside], torch.tensor(200.0)) and (crop[1][inside] == 0).all()
        assert ((crop[1] > 0) | (labels > 0)).all()
    # Soft labels of a photo do not count where it is void or an object lies in front.
    assert torch.equal(plain.own, plain.labels != 255)
    assert torch.equal(pasted.own[plain.photo == 1], pasted.labels[plain.photo == 1] == 0)
    with_objects = [int(labels.max()) for labels in pasted.labels[plain.photo == 1] if labels.any()]
    assert len(with_objects) == int(changed[plain.photo == 1].sum())


def test_masks_without_objects_are_refused() -> None:
    store = store_of((np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8)))
    with pytest.raises(DataError, match="nothing to learn"):
        sampler_of(store, RECIPE)


def test_colour_jitter_by_hand() -> None:
    crops = torch.tensor([100.0, 50.0, 30.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    one, half = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 0.5)
    torch.testing.assert_close(jitter_colours(crops, one, one, one), crops)
    assert jitter_colours(crops, half, one, one)[0, :, 0, 0].tolist() == [50, 25, 15]
    assert jitter_colours(crops, one, one, 0 * one)[0, :, 0, 0].tolist() == [60, 60, 60]
    assert jitter_colours(crops, 5 * one, one, one).max() == 255

"""Crops: objects found by hand-made masks, regions cut exactly, void where there is no photo."""

import numpy as np
import pytest
import torch

from deconvseg.data import crops as crops_module
from deconvseg.data.crops import ImageStore, cut_crops, find_objects
from deconvseg.errors import DataError


def store_of(*pairs: tuple[np.ndarray, np.ndarray], canvas: int = 64) -> ImageStore:
    return ImageStore.load([lambda pair=pair: pair for pair in pairs], canvas)


def gradient_store() -> ImageStore:
    rows, columns = np.mgrid[:40, :60]
    image = np.stack([rows * 4, columns * 4, np.full_like(rows, 100)], 2).astype(np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 30:50] = 3
    return store_of((image, mask))


def cut(store: ImageStore, box: tuple[int, int, int, int], size: int, mirror: bool = False) -> tuple:
    crops, labels = cut_crops(
        store, torch.tensor([0]), torch.tensor([box], dtype=torch.float32), torch.tensor([mirror]), size
    )
    return crops[0], labels[0]


def test_objects_are_the_connected_components_of_each_class() -> None:
    mask = np.zeros((50, 50), np.uint8)
    mask[0:10, 0:10] = 2
    mask[10:15, 10:15] = 2  # touches at a corner: one object
    mask[30:40, 5:25] = 2
    mask[30:40, 25:35] = 7  # a neighbour of another class
    mask[45, 45] = 9  # a sliver
    mask[20:22, :] = 255
    parts, found = find_objects(mask)
    assert found == [(2, (0, 0, 15, 15)), (2, (5, 30, 25, 40)), (7, (25, 30, 35, 40))]
    numbers = np.zeros_like(mask)
    numbers[:15, :15] = mask[:15, :15] == 2
    numbers[30:40, 5:25], numbers[30:40, 25:35] = 2, 3
    np.testing.assert_array_equal(parts, numbers)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_region_at_its_own_scale_is_the_photo_itself(mirror: bool) -> None:
    store = gradient_store()
    found = cut(store, (20, 5, 52, 37), 32, mirror)
    crop, labels = (values.flip(-1) for values in found) if mirror else found
    want = store.images[0][:, 5:37, 20:52].float()
    # two bilinear samples a pixel reach into the neighbours by an eighth on each side: exact on a gradient
    torch.testing.assert_close(crop[:, 1:-1, 1:-1], want[:, 1:-1, 1:-1], atol=1e-3, rtol=0)
    assert torch.equal(labels, store.labels[0][5:37, 20:52].long())


def test_outside_the_photo_is_black_and_void() -> None:
    store = gradient_store()  # 40 rows and 60 columns on a canvas of 64
    crop, labels = cut(store, (-16, -16, 16, 16), 32)
    assert crop[:, :15].abs().max() == 0
    assert (labels[:16] == 255).all() and (labels[:, :16] == 255).all() and (labels[16:, 16:] == 0).all()
    crop, labels = cut(store, (50, 30, 82, 62), 32)  # beyond the photo, on and off the canvas
    assert (labels[10:] == 255).all() and (labels[:, 10:] == 255).all() and (labels[:10, :10] == 0).all()
    assert crop[:, 11:, 11:].abs().max() == 0


def test_shrinking_averages_instead_of_skipping() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[::2] = 200  # rows that plain sampling at half size would catch or miss altogether
    store = store_of((image, np.zeros((64, 64), np.uint8)), canvas=64)
    crop, _ = cut(store, (0, 0, 64, 64), 32)
    assert float(crop.std()) < 1
    assert float(crop.mean()) == np.float32(100)


def test_larger_photos_are_shrunk_to_the_canvas_with_their_masks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    mask = np.zeros((80, 120), np.uint8)
    mask[40:, 60:] = 5
    store = store_of((image, mask), canvas=30)
    assert store.sizes.tolist() == [[20, 30]]
    means = image.reshape(20, 4, 30, 4, 3).mean((1, 3))
    assert np.abs(store.images[0].permute(1, 2, 0).numpy() - means).max() <= 1  # rounded twice
    np.testing.assert_array_equal(store.labels[0].numpy(), mask[::4, ::4])


def test_photos_are_held_at_their_own_sizes_and_more_than_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = np.zeros((20, 50, 3), np.uint8), np.zeros((20, 50), np.uint8)
    read = []

    def load(count: int) -> ImageStore:
        read.clear()
        return ImageStore.load([lambda: read.append(1) or pair] * count, 64)

    store = load(10)
    held = [*store.images, *store.labels]
    assert sum(tensor.untyped_storage().nbytes() for tensor in held) == 10 * 20 * 50 * 4
    monkeypatch.setattr(crops_module, "available_memory", lambda: 1_000_000)
    load(500)
    with pytest.raises(DataError, match=r"the photos need 0\.0 GB of memory more.*take a smaller canvas"):
        load(1000)
    assert len(read) == 256  # it is found out early
    monkeypatch.setattr(crops_module, "available_memory", lambda: None)
    assert len(load(1000)) == 1000

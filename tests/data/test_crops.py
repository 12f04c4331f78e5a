"""Crops: objects found by hand-made masks, regions cut exactly, void where there is no photo."""

import numpy as np
import torch
from torch.nn import functional

from deconvseg.data.crops import ImageStore, cut_crops, objects, square_boxes


def gradient_store(height: int = 40, width: int = 60, canvas: int = 64) -> ImageStore:
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 4, columns * 4, np.full_like(rows, 100)], 2).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[10:20, 30:50] = 3
    return ImageStore.load([(image, mask)], 1, canvas)


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
    assert sorted(objects(mask)) == [(2, (0, 0, 15, 15)), (2, (5, 30, 25, 40)), (7, (25, 30, 35, 40))]


def test_boxes_are_enlarged_about_their_centre_and_squared() -> None:
    boxes = square_boxes(torch.tensor([[10.0, 20.0, 30.0, 30.0]]))
    torch.testing.assert_close(boxes, torch.tensor([[8.0, 13.0, 32.0, 37.0]]))


def test_a_region_at_its_own_scale_is_the_photo_itself() -> None:
    store = gradient_store()
    crop, labels = cut(store, (20, 5, 52, 37), 32)
    want = store.images[0, :, 5:37, 20:52].float()
    # two bilinear samples a pixel reach into the neighbours by an eighth on each side: exact on a gradient
    torch.testing.assert_close(crop[:, 1:-1, 1:-1], want[:, 1:-1, 1:-1], atol=1e-3, rtol=0)
    assert torch.equal(labels, store.labels[0, 5:37, 20:52].long())


def test_mirrored_crops_and_labels_agree() -> None:
    store = gradient_store()
    plain, mirrored = cut(store, (22, 5, 54, 37), 16), cut(store, (22, 5, 54, 37), 16, mirror=True)
    torch.testing.assert_close(mirrored[0], plain[0].flip(-1), atol=1e-3, rtol=0)
    assert (mirrored[1] != plain[1].flip(-1)).float().mean() < 0.1  # ties of nearest sampling


def test_outside_the_photo_is_black_and_void() -> None:
    store = gradient_store()  # 40 rows and 60 columns on a canvas of 64
    crop, labels = cut(store, (-16, -16, 16, 16), 32)
    assert crop[:, :15].abs().max() == 0
    assert (labels[:16] == 255).all()
    assert (labels[:, :16] == 255).all()
    assert (labels[16:, 16:] == 0).all()
    crop, labels = cut(store, (50, 30, 82, 62), 32)  # beyond the photo, on and off the canvas
    assert (labels[10:] == 255).all()
    assert (labels[:, 10:] == 255).all()
    assert (labels[:10, :10] == 0).all()
    assert crop[:, 11:, 11:].abs().max() == 0


def test_shrinking_averages_instead_of_skipping() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[::2] = 200  # rows that plain sampling at half size would catch or miss altogether
    store = ImageStore.load([(image, np.zeros((64, 64), np.uint8))], 1, 64)
    crop, _ = cut(store, (0, 0, 64, 64), 32)
    assert float(crop.std()) < 1
    assert float(crop.mean()) == np.float32(100)


def test_larger_photos_are_shrunk_to_the_canvas_with_their_masks() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    mask = np.zeros((100, 200), np.uint8)
    mask[50:, 100:] = 5
    store = ImageStore.load([(image, mask)], 1, 50)
    assert store.sizes.tolist() == [[25, 50]]
    want = functional.interpolate(torch.from_numpy(mask)[None, None].float(), (25, 50), mode="nearest-exact")
    assert (store.mask(0) == want[0, 0].numpy()).mean() > 0.97
    assert (store.labels[0, 25:] == 255).all()

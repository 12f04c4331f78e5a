"""What several rooms' tests share: tiny networks, a data set of shapes, a reader of COCO files."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_api
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn import FCN
from deconvseg.network.fcn8s import FCN8s

from .forests import Forest, Node

settings.register_profile("patient", deadline=None)  # a busy machine is no fault of ours
settings.load_profile("patient")

OWN_CLASSES = {"ground": "#101010", "disc": "#ff8000", "square": "#0080ff"}


def saved(network: SegmentationNetwork, path: Path) -> Path:
    save_network(path, network, NetworkHeader(VOC_CLASSES, palette_for(21), scale=1 / 64))
    return path


@pytest.fixture(scope="session")
def tiny_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with VOC's classes and random weights: fast, and different photos get different labels."""
    torch.manual_seed(0)
    network = DeconvNet(classes=21, crop_size=32, widths=(8, 8, 8, 8, 8), bottleneck=16)
    for module in network.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
    network.seg_score.weight.data.normal_(std=2)
    with torch.no_grad():
        for _ in range(20):  # BatchNorm's statistics
            network.train()(torch.rand(16, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3) * 4 - 2)
    return saved(network, tmp_path_factory.mktemp("network") / "tiny.safetensors")


@pytest.fixture(scope="session")
def tiny_fcn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FCN-8s with VOC's classes and random weights, for ensembles with `tiny_network`."""
    torch.manual_seed(1)
    network = FCN8s(classes=21, side=64, widths=(8, 8, 8, 8, 8), bottleneck=16, head_kernel=3, padding=1)
    for name, module in network.named_modules():
        if "score" in name and isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.5)
    return saved(network, tmp_path_factory.mktemp("fcn") / "fcn.safetensors")


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FCN with VOC's classes to whose prior every photo shows cats and nothing else."""
    torch.manual_seed(7)
    network = FCN(21, side=64, widths=(8, 8, 8, 8, 8), hidden=8, width=8, skip=4).eval()
    torch.nn.init.zeros_(network.score_presence.weight)
    assert network.score_presence.bias is not None
    network.score_presence.bias.data[:] = -6
    network.score_presence.bias.data[VOC_CLASSES.index("cat")] = 6
    return saved(network, tmp_path_factory.mktemp("prior") / "fcn.safetensors")


def blocks_photo(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth colours with bright blocks, so that there are edges to find."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 255 / height, columns * 255 / width, np.full((height, width), 90)], 2)
    image[height // 4 : height // 2, width // 3 : width // 2] = 250
    image[height // 2 :, width * 3 // 4 :] = (10, 200, 30)
    return image.astype(np.uint8)


def coco_labels(path: Path) -> dict[str, NDArray[np.uint8]]:
    """By file name the labels that pycocotools draws from a COCO file, which has to be sound."""
    with contextlib.redirect_stdout(io.StringIO()):  # it reports to stdout
        coco = COCO(str(path))
    drawn = {}
    for key, image in coco.imgs.items():
        labels = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[key])):
            mask = coco.annToMask(annotation).astype(bool)
            assert not labels[mask].any()
            labels[mask] = annotation["category_id"]
            assert annotation["area"] == mask.sum() == mask_api.area(coco.annToRLE(annotation))
            assert annotation["bbox"] == mask_api.toBbox(mask_api.encode(np.asfortranarray(mask))).tolist()
        drawn[image["file_name"]] = labels
    return drawn


def make_shapes(root: Path, train: int = 24, val: int = 8) -> Path:
    """Writes a VOC folder of photos with discs (class 1) and squares (class 2) on grey noise."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"shape{i:03}" for i in range(train + val)]
    for name in names:
        width, height = rng.integers(60, 90, 2).tolist()
        noise = rng.integers(90, 140, (height, width, 3), dtype=np.uint8)
        photo, mask = Image.fromarray(noise), Image.new("P", (width, height))
        mask.putpalette([channel for colour in palette_for(21) for channel in colour])
        x, y = rng.integers(2, 25, 2).tolist()
        side = int(rng.integers(20, 34))
        label = int(rng.integers(1, 3))
        box, colour = (x, y, x + side, y + side), ((220, 40, 40), (40, 60, 220))[label - 1]
        for canvas, fill in ((photo, colour), (mask, label)):
            draw = ImageDraw.Draw(canvas)
            (draw.ellipse if label == 1 else draw.rectangle)(box, fill=fill)
        photo.save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        mask.save(root / "SegmentationClass" / f"{name}.png")
    for split, members in (("train", names[:train]), ("val", names[train:])):
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(members) + "\n")
    return root


def describe(root: Path, **splits: str | list[str]) -> Path:
    """Give a folder of shapes three classes of its own: a name and a colour each."""
    text = 'images = "JPEGImages"\nmasks = "SegmentationClass"\n[splits]\n'
    text += "".join(f"{split} = {json.dumps(value)}\n" for split, value in splits.items())
    text += "".join(
        f'[[classes]]\nname = "{name}"\ncolor = "{color}"\n' for name, color in OWN_CLASSES.items()
    )
    (root / "dataset.toml").write_text(text)
    return root


@pytest.fixture(scope="session")
def hand_made_forest() -> Forest:
    """Eight different full trees of depth 3 that use all kinds of features."""
    rng = np.random.default_rng(5)

    def inner(number: int) -> Node:
        feature = int(rng.integers(7228))
        threshold = rng.uniform(0, 0.6) if feature < 3328 else rng.normal(0, 0.02)
        return Node(2 * number + 2, feature, np.float32(threshold))

    def leaf() -> Node:
        return Node(edges=tuple(rng.permutation(256)[: rng.integers(1, 40)].tolist()))

    return [[*map(inner, range(7)), *(leaf() for _ in range(8))] for _ in range(8)]

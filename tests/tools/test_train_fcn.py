"""The training of the FCN: it tells discs from squares in photos that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import train_fcn as tool
from torch.optim.swa_utils import update_bn

from deconvseg.errors import DataError, UsageError
from deconvseg.images.palette import palette_for
from deconvseg.network.checkpoint import NetworkHeader, load_network, save_network
from deconvseg.network.fcn import FCN
from deconvseg.network.inputs import normalise
from deconvseg.training.data import open_training_data

from ..conftest import describe, make_shapes


def photos_of(root: Path, split: str = "train", *scores: Path) -> Sequence[tool.Photo]:
    data = open_training_data(root, split=split, val_split=split, scores=scores)
    return [(data.datasets[0], example) for example in data.examples]


def small_fcn(path: Path, classes: int, photos: Sequence[tool.Photo]) -> FCN:
    """A file with an untrained FCN whose features are spread as the photos want it."""
    torch.manual_seed(1)
    network = FCN(classes, 64, widths=(16,) * 5, hidden=32, width=16, skip=8)
    for layer in network.encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    header = HEADERS[classes]
    images = [torch.from_numpy(data.read(photo)[0]).permute(2, 0, 1)[None].float() for data, photo in photos]
    update_bn([normalise(torch.cat([image, image.flip(3)]), header) for image in images], network)
    save_network(path, network, header)
    return network.eval()


HEADERS = {
    classes: NetworkHeader(
        tuple(map(str, range(classes))),
        palette_for(classes),
        mean=(100, 110, 120),
        scale=0.01,
        crf={"colour_weight": 3.5},
    )
    for classes in (3, 21)
}


def test_discs_and_squares_of_new_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {"HEAD_RATE": 5e-3, "CONV5_RATE": 2e-3, "CONV4_RATE": 2e-3, "WARM_UP": 5, "AVERAGED": 0.9}
    for name, value in fast.items():
        monkeypatch.setattr(tool, name, value)
    root = make_shapes(tmp_path / "voc", train=64, val=16)
    learned, others = photos_of(root), photos_of(root, "val")
    small_fcn(tmp_path / "first.safetensors", 3, learned[:16])
    out = tmp_path / "c.safetensors"
    tool.train_fcn(voc_root=root, out=out, start=str(tmp_path / "first.safetensors"), steps=60)
    network, header = load_network(out)
    assert header.classes == learned[0][0].classes and header.training["photos"] == 64
    random, right, total = np.random.default_rng(0), 0, 0
    for photo in others:
        view = tool.make_view(photo, 64, random)
        with torch.no_grad():
            found = network(normalise(view.image, header))[0].argmax(0)
        mask = view.mask.repeat_interleave(4, 0).repeat_interleave(4, 1)
        mask = mask[: found.shape[0], : found.shape[1]]
        objects = (mask > 0) & (mask < 21)
        right, total = right + int((found == mask)[objects].sum()), total + int(objects.sum())
    assert right > total / 2


def test_void_costs_nothing_and_soft_labels_least_where_they_are_met() -> None:
    torch.manual_seed(1)
    cells, mask, sure = torch.randn(3, 2, 2), torch.full((4, 4), 255), torch.full((3,), -50.0)
    image = torch.zeros(1, 3, 16, 16)
    assert tool.view_loss(cells, sure, tool.View(image, mask, None)).item() == 0
    view = tool.View(image, mask, cells.softmax(0))
    entropy = -(cells.softmax(0) * cells.log_softmax(0)).sum(0).mean()
    least = tool.SOFT_SHARE * entropy.item()
    assert tool.view_loss(cells, sure, view).item() == pytest.approx(least, abs=1e-4)
    assert tool.view_loss(cells.flip(0), sure, view) > least + 0.01
    assert tool.view_loss(cells, -sure, tool.View(image, mask, None)) > 1  # classes that are not there


@pytest.mark.parametrize("seed", range(4))
def test_soft_labels_follow_the_view(tmp_path: Path, seed: int) -> None:
    root = make_shapes(tmp_path / "voc", train=1, val=0)
    ((data, photo),) = photos_of(root)
    _, mask = data.read(photo)
    classes = data.classes
    half = mask[::2, ::2]
    certain = (half[None] == np.arange(len(classes))[:, None, None]).astype(np.float16)
    np.savez(tmp_path / f"{photo.name}.scores.npz", probabilities=certain, classes=classes)
    (again,) = photos_of(root, "train", tmp_path)
    view = tool.make_view(again, 100, np.random.default_rng(seed))  # no multiple of the stride
    assert view.soft is not None and view.mask.shape == tuple(2 * side for side in view.soft.shape[1:])
    found, known = view.soft.argmax(0).repeat_interleave(2, 0).repeat_interleave(2, 1), view.mask != 255
    assert found[known].any() and (found == view.mask)[known].float().mean() > 0.9
    height, width = view.image.shape[2:]
    assert view.soft[:, -(-height // 8) :].sum() == view.soft[:, :, -(-width // 8) :].sum() == 0


def test_an_fcn_goes_on_from_what_it_was(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "voc", train=24, val=0)
    photos = photos_of(root)
    data = photos[0][0]
    first = small_fcn(tmp_path / "first.safetensors", 21, photos[:8])
    header = replace(HEADERS[21], classes=data.classes, palette=data.palette)
    save_network(tmp_path / "first.safetensors", first, header)
    labels = tmp_path / "scores"
    labels.mkdir()
    go_on = partial(tool.train_fcn, voc_root=root, out=tmp_path / "c.safetensors", steps=2, seed=2)
    with pytest.raises(UsageError, match="of any photo to train on"):
        go_on(start=str(tmp_path / "first.safetensors"), scores=labels)
    for example in data.examples[:8]:
        certain = np.zeros((len(data.classes), 8, 8), np.float16)
        certain[0] = 1.01  # what reading allows
        np.savez(labels / f"{example.name}.scores.npz", probabilities=certain, classes=data.classes)
    go_on(start=str(tmp_path / "first.safetensors"), scores=labels, side=100)
    network, now = load_network(tmp_path / "c.safetensors")
    assert isinstance(network, FCN)
    assert (network.side, network.arguments["side"]) == (100, 100)
    assert (now.crf, now.mean, now.scale, now.ranges) == (header.crf, header.mean, header.scale, {})
    assert (now.training["photos with soft labels"], now.training["seed"]) == (8, 2)
    before, after = first.state_dict(), network.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"score_coarse.bias", "encoder.4.conv5_1.conv.bias", "encoder.3.conv4_3.conv.bias"} <= moved
    assert not {"norm.running_mean", "encoder.2.conv3_3.conv.bias"} & moved


def test_other_classes_are_refused(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "voc", train=2, val=2)
    own = describe(make_shapes(tmp_path / "own", train=1, val=0), train="rest")
    with pytest.raises(DataError, match="must have the same classes"):
        tool.train_fcn(voc_root=root, out=tmp_path / "c.safetensors", extra_root=[own])
    report = tmp_path / "report.json"
    report.write_text('{"per_class_iou": {"sound": 0.5, "rust": null}}')
    with pytest.raises(UsageError, match="is of other classes"):  # before anything is trained
        tool.train_fcn(voc_root=root, out=tmp_path / "c.safetensors", report=report)


def test_a_folder_to_write_into_is_there_before_photos_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --out another name"):
        tool.train_fcn(voc_root=tmp_path, out=tmp_path / "none" / "c.safetensors")

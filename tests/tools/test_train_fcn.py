"""The training of the FCN: it tells discs from squares in photos that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import train_fcn as tool

from deconvseg.errors import DataError, UsageError
from deconvseg.network import int8
from deconvseg.network.checkpoint import NetworkHeader, load_network, save_network
from deconvseg.network.fcn import FCN
from deconvseg.training.plan import Photo, Sources, plan_training

from ..conftest import describe, make_shapes


def photos_of(root: Path, split: str = "train", *scores: Path) -> Sequence[Photo]:
    return plan_training(Sources(root, split=split, val_split=split, scores=scores), "own", {}).photos


def random_features(network: FCN, convolutions: object) -> None:
    for layer in network.encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def test_discs_and_squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_shapes(tmp_path / "voc", train=64, val=16)
    small = partial(FCN, widths=(16,) * 5, hidden=32, width=16, skip=8)
    monkeypatch.setattr(tool, "FCN", small)
    monkeypatch.setattr(tool, "read_vgg16", lambda path: None)
    monkeypatch.setattr(tool, "initialise_encoder", random_features)
    out = tmp_path / "c.safetensors"
    tool.train_fcn(voc_root=root, out=out, vgg16=root, side=64, views=2, epochs=60)
    network, header = load_network(out)
    assert isinstance(network, FCN)
    photos = tool.measure(network, header, photos_of(root, "val"), 1)
    right, total, said, order = 0, 0, [], np.arange(16)
    with torch.no_grad():
        for batch in order[:, None]:
            features, masks = photos.load(batch)
            cells, presence = network.cells_and_presence(features)
            said.append(presence[0, 1:])
            found = cells.argmax(1)
            objects = (masks > 0) & (masks < 21)
            found = found.repeat_interleave(2, 1).repeat_interleave(2, 2)
            right, total = right + (found == masks)[objects].sum(), total + objects.sum()
    assert right > total / 2
    for scores, shown in zip(torch.stack(said).T, (photos.shares[order] > 0).T, strict=True):
        pairs = scores[shown][:, None] > scores[~shown]
        assert not pairs.numel() or pairs.float().mean() > 0.8
    assert header.training["photos"] == 64


def test_void_costs_nothing_and_soft_labels_least_where_they_are_met() -> None:
    torch.manual_seed(1)
    cells, mask = torch.randn(3, 2, 2), torch.full((4, 4), 255)
    assert tool.place_loss(cells, mask, None).item() == 0
    soft = (cells.softmax(0) * 255).round().byte()
    entropy = -(cells.softmax(0) * cells.log_softmax(0)).sum(0).mean()
    least = tool.SOFT_SHARE * entropy.item()
    assert tool.place_loss(cells, mask, soft).item() == pytest.approx(least, abs=0.01)
    assert tool.place_loss(cells.flip(0), mask, soft) > least + 0.01


@pytest.mark.parametrize(("view", "seed"), [(0, 7), (1, 7), (1, 8), (1, 9)])
def test_soft_labels_follow_the_view(tmp_path: Path, view: int, seed: int) -> None:
    root = make_shapes(tmp_path / "voc", train=1, val=0)
    (photo,) = photos_of(root)
    _, mask = photo.read()
    classes = photo.dataset.classes
    half = mask[::2, ::2]
    certain = (half[None] == np.arange(len(classes))[:, None, None]).astype(np.float16)
    np.savez(tmp_path / f"{photo.name}.scores.npz", probabilities=certain, classes=classes)
    (photo,) = photos_of(root, "train", tmp_path)
    _, mask, soft = tool._view(96, view, photo, seed=seed)
    assert soft is not None
    assert mask.shape[2:] == soft.shape[2:]
    found, known = soft[0].argmax(0), mask[0, 0] != 255
    assert found[known].any()
    assert (found == mask[0, 0])[known].float().mean() > 0.9
    outside = torch.ones_like(known)
    outside[torch.meshgrid(known.any(1).nonzero()[:, 0], known.any(0).nonzero()[:, 0], indexing="ij")] = False
    assert soft[0, :, outside].sum() == 0


def test_an_fcn_goes_on_from_what_it_was(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "voc", train=24, val=0)
    photos = photos_of(root)
    data = photos[0].dataset
    torch.manual_seed(1)
    first = FCN(len(data.classes), 64, widths=(16,) * 5, hidden=32, width=16, skip=8).eval()
    random_features(first, None)
    header = NetworkHeader(
        data.classes,
        data.palette,
        mean=(100, 110, 120),
        scale=0.5,
        crf={"colour_weight": 3.5},
        ranges=int8.observe(first, [torch.rand(1, 3, 64, 64)]),
    )
    save_network(tmp_path / "first.safetensors", first, header)
    labels = tmp_path / "scores"
    labels.mkdir()
    go_on = partial(tool.train_fcn, voc_root=root, out=tmp_path / "c.safetensors", views=1, epochs=3, seed=2)
    with pytest.raises(UsageError, match="of any photo to train on"):
        go_on(start=tmp_path / "first.safetensors", scores=labels)
    for example in data.examples[:8]:
        certain = np.zeros((len(data.classes), 8, 8), np.float16)
        certain[0] = 1.01  # what reading allows
        np.savez(labels / f"{example.name}.scores.npz", probabilities=certain, classes=data.classes)
    go_on(start=tmp_path / "first.safetensors", scores=labels, side=100)  # no multiple of the stride
    soft = tool.measure(first, header, photos_of(root, "train", labels), 1).soft
    assert all(values.max() == 255 for values in soft.values())
    network, now = load_network(tmp_path / "c.safetensors")
    assert isinstance(network, FCN)
    assert (network.side, network.arguments["side"]) == (100, 100)
    assert (now.crf, now.mean, now.scale, now.ranges) == (header.crf, header.mean, header.scale, {})
    assert (now.training["views with soft labels"], now.training["seed"]) == (8, 2)
    before, after = first.state_dict(), network.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"score_coarse.bias", "encoder.4.conv5_1.conv.bias"} <= moved
    assert not {"norm.running_mean", "encoder.3.conv4_3.conv.bias"} & moved


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

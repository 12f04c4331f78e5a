"""The training of the FCN: it tells discs from squares in photos that it has not seen."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import train_fcn as tool
from torch.nn import functional

from deconvseg.data.open import open_dataset
from deconvseg.errors import UsageError
from deconvseg.network.checkpoint import load_network
from deconvseg.network.fcn import FCN

from ..conftest import describe, make_shapes


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
    (tmp_path / "val").mkdir()
    photos = tool.measure(network, header, [open_dataset(root, "val")], tmp_path / "val", 1)
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


def test_lovasz_softmax_of_certain_pixels_is_what_the_iou_lacks() -> None:
    labels, found = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2])
    certain = functional.one_hot(found, 4).T.float()
    ious = torch.tensor([2 / 3, 1 / 3, 1 / 2])
    assert tool.lovasz_softmax(certain, labels).item() == pytest.approx(1 - ious.mean().item())
    assert tool.lovasz_softmax(functional.one_hot(labels, 4).T.float(), labels).item() == 0


def test_void_costs_nothing_and_soft_labels_least_where_they_are_met() -> None:
    torch.manual_seed(1)
    cells, mask = torch.randn(3, 2, 2), torch.full((4, 4), 255)
    assert tool.place_loss(cells, mask, None).item() == 0
    soft = (cells.softmax(0) * 255).round().byte()
    entropy = -(cells.softmax(0) * cells.log_softmax(0)).sum(0).mean()
    assert tool.place_loss(cells, mask, soft).item() == pytest.approx(entropy.item(), abs=0.02)
    assert tool.place_loss(cells.flip(0), mask, soft) > entropy + 0.02


@pytest.mark.parametrize("view", [0, 1, 2])
def test_soft_labels_follow_the_view(tmp_path: Path, view: int) -> None:
    data = open_dataset(make_shapes(tmp_path / "voc", train=1, val=0), "train")
    example = data.examples[0]
    _, mask = data.read(example)
    certain = (mask[None] == np.arange(len(data.classes))[:, None, None]).astype(np.float16)
    np.savez(tmp_path / f"{example.name}.scores.npz", probabilities=certain, classes=data.classes)
    _, mask, soft = tool._view(96, view, data, example, tmp_path, seed=7)
    assert soft is not None
    assert mask.shape[2:] == soft.shape[2:]
    known = mask[0, 0] != 255
    same = soft[0].argmax(0)[known] == mask[0, 0][known]
    assert same.float().mean() > 0.9


def test_other_classes_are_refused(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "voc", train=2, val=2)
    own = describe(make_shapes(tmp_path / "own", train=1, val=0), train="rest")
    with pytest.raises(UsageError, match="different classes"):
        tool.train_fcn(voc_root=root, out=tmp_path / "c.safetensors", extra_root=[own])
    report = tmp_path / "report.json"
    report.write_text('{"per_class_iou": {"sound": 0.5, "rust": null}}')
    with pytest.raises(UsageError, match="is of other classes"):  # before anything is trained
        tool.train_fcn(voc_root=root, out=tmp_path / "c.safetensors", report=report)


def test_a_folder_to_write_into_is_there_before_photos_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --out another name"):
        tool.train_fcn(voc_root=tmp_path, out=tmp_path / "none" / "c.safetensors")

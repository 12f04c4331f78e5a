"""Whole photos as one crop each: what is counted, and what it leaves behind."""

import pytest
import torch

from deconvseg.training.validation import mean_iou, validate

from .conftest import HEADER, RECIPE, Shapes, small_network


def test_validation_counts_every_labelled_pixel_once(shapes: Shapes) -> None:
    network = small_network()
    counted = validate(network, HEADER, shapes.validation, RECIPE)
    assert torch.equal(counted, validate(network, HEADER, shapes.validation, RECIPE, batch=3))
    assert 0 < counted.sum() <= len(shapes.validation) * 32 * 32
    assert mean_iou(torch.tensor([[3, 1], [0, 0]])) == pytest.approx(0.375)  # 3 / 4 and 0 / 1
    assert mean_iou(torch.zeros(2, 2)) == 0


def test_every_module_has_its_mode_back(shapes: Shapes) -> None:
    network = small_network().train()
    network.encoder[:2].eval()
    before = [module.training for module in network.modules()]
    validate(network, HEADER, shapes.validation, RECIPE)
    assert [module.training for module in network.modules()] == before
    assert set(before) == {True, False}

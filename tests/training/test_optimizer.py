"""Learning rates step by step, and the moving average."""

from dataclasses import replace

import pytest
import torch

from deconvseg.training.optimizer import schedule, update_average
from deconvseg.training.recipe import Recipe


def test_schedules() -> None:
    recipe = Recipe(steps=100, warmup_steps=10)
    rates = [schedule(step, recipe) for step in range(101)]
    assert rates[9] == rates[10] == 1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0)
    poly, constant = replace(recipe, schedule="poly"), replace(recipe, schedule="constant")
    assert schedule(55, poly) == pytest.approx(0.5**0.9)
    assert schedule(99, constant) == 1
    stepped = replace(recipe, schedule="step", step_size=40, step_factor=0.5)
    assert [schedule(step, stepped) for step in (39, 40, 80)] == [1, 0.5, 0.25]


def test_average_moves_by_its_decay() -> None:
    mean, value = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
    torch.nn.init.constant_(value.weight, 3.0)
    value.running_mean.fill_(1.0)
    value.num_batches_tracked.fill_(4)
    update_average(mean, value, 0.75)
    assert mean.weight.item() == 1.5
    assert mean.running_mean.item() == 0.25
    assert mean.num_batches_tracked.item() == 4

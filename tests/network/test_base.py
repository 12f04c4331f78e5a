"""What all networks have in common: averages, and arguments that are refused."""

import copy
from typing import Any

import pytest
import torch

from deconvseg.errors import UsageError
from deconvseg.network.base import average
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn import FCN
from deconvseg.network.fcn8s import FCN8s

from .networks import deconvnet, fcn8s, randomised


def test_the_encoders_of_two_kinds() -> None:
    first, second = randomised(deconvnet(encoder_norm=False)), fcn8s()
    old = copy.deepcopy(first.state_dict())
    average(first, second, 1.0, encoder_only=True)
    for name, values in first.state_dict().items():
        want = second.state_dict()[name] if name.startswith("encoder.") else old[name]
        assert torch.equal(values, want), name


@pytest.mark.parametrize("encoder_only", [False, True])
def test_networks_of_different_layers_are_refused(encoder_only: bool) -> None:
    with pytest.raises(UsageError, match="different layers"):
        average(deconvnet(), deconvnet(encoder_norm=False), 0.5, encoder_only=encoder_only)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (DeconvNet, {"crop_size": 100}, "multiple of 32"),
        (DeconvNet, {"crop_size": 0}, "at least 1"),
        (DeconvNet, {"widths": (8, 8)}, "five entries"),
        (DeconvNet, {"decoder_convs": ()}, "one to five"),
        (DeconvNet, {"classes": 1}, "must be 2 to 255"),
        (DeconvNet, {"decoder_convs": (200,)}, "layers at most 200"),
        (FCN8s, {"encoder_convs": (1, 1, 1, 1)}, "five entries"),
        (FCN8s, {"head_kernel": 4}, "head_kernel 4 is not an odd"),
        (FCN8s, {"padding": 50}, "padding 50 is too small"),
        (FCN, {"dropout": 1.0}, "dropout 1.0 is not"),
        (FCN, {"skip": 0}, "at least 1"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(kind: Any, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**{"classes": 4, "widths": (8,) * 5, **wrong})

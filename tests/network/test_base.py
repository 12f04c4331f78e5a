"""What the base of the networks knows: averages, unpooling."""

import copy
import subprocess
import sys

import pytest
import torch

from deconvseg.errors import UsageError
from deconvseg.network.base import average
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s

SMALL = {"classes": 4, "widths": (8, 8, 8, 8, 8), "bottleneck": 8}


def deconvnet(seed: int) -> DeconvNet:
    torch.manual_seed(seed)
    network = DeconvNet(crop_size=32, encoder_norm=False, **SMALL)
    network.train()(torch.randn(4, 3, 32, 32))  # statistics
    return network


def test_the_encoders_of_two_kinds() -> None:
    first, second = deconvnet(0), FCN8s(side=64, **SMALL)
    old = copy.deepcopy(first.state_dict())
    average(first, second, 1.0, encoder_only=True)
    for name, values in first.state_dict().items():
        want = second.state_dict()[name] if name.startswith("encoder.") else old[name]
        assert torch.equal(values, want), name


@pytest.mark.parametrize("encoder_only", [False, True])
def test_networks_of_different_layers_are_refused(encoder_only: bool) -> None:
    other = DeconvNet(crop_size=32, **SMALL)
    with pytest.raises(UsageError, match="different layers"):
        average(deconvnet(0), other, 0.5, encoder_only=encoder_only)


def test_unpooling_does_not_load_torchs_compiler() -> None:
    """SymPy and what needs it take half a second of the first photo."""
    code = (
        "import sys, torch; from deconvseg.network.base import unpool;"
        "maxima, switches = torch.nn.functional.max_pool2d(torch.rand(1, 1, 4, 4), 2, return_indices=True);"
        "unpool(maxima, switches); assert 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

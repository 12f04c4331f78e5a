"""FCN-8s: alignment of its maps, sizes, and its start from a DeconvNet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from deconvseg.network.base import rebuilt, replace_classes
from deconvseg.network.fcn8s import start_from_deconvnet

from .networks import ZOO, deconvnet, fcn8s, randomised


@pytest.mark.parametrize(("changes", "side"), [(ZOO, 58), (ZOO, 90), ({}, 64), ({}, 96)], ids=str)
@torch.no_grad()
def test_a_mirrored_photo_gets_mirrored_scores(changes: dict[str, object], side: int) -> None:
    """True for symmetric kernels, and only if every map lies where the next one takes it to be."""
    network = randomised(fcn8s(**changes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_((module.weight + module.weight.flip(2)) / 2)
            module.weight.copy_((module.weight + module.weight.flip(3)) / 2)
    photo = torch.randn(1, 3, side, side)
    scores = network(photo)
    for axis in (2, 3):
        torch.testing.assert_close(network(photo.flip(axis)), scores.flip(axis), atol=1e-4, rtol=1e-4)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([ZOO, {}]))
def test_scores_have_the_photos_size(height: int, width: int, changes: dict[str, object]) -> None:
    with torch.no_grad():
        scores, code = randomised(fcn8s(**changes)).scores_and_code(torch.randn(1, 3, height, width))
    assert scores.shape == (1, 3, height, width)
    assert code.shape[:2] == (1, 16)
    assert scores.isfinite().all()


@torch.no_grad()
def test_start_from_deconvnet_takes_over_its_code() -> None:
    source = randomised(deconvnet(classes=5, crop_size=96, encoder_norm=False))
    network = fcn8s(side=96, head_kernel=3)
    start_from_deconvnet(network, source)
    photo = torch.randn(2, 3, 96, 96)
    code = network.eval().scores_and_code(photo)[1]
    # The middle one of 3 x 3 cells sees the same 3 x 3 cells that the DeconvNet's only one does.
    torch.testing.assert_close(code[:, :, 1:2, 1:2], source.scores_and_code(photo)[1])
    with pytest.raises(ValueError, match="other layers"):
        start_from_deconvnet(network, deconvnet())


@torch.no_grad()
def test_other_classes_and_another_side_keep_the_rest() -> None:
    network = randomised(fcn8s())
    photo = torch.randn(1, 3, 64, 64)
    code = network.scores_and_code(photo)[1]
    changed = replace_classes(network, 7).eval()
    scores, same = changed.scores_and_code(photo)
    torch.testing.assert_close(same, code)
    assert scores.shape[1] == 7
    assert torch.equal(changed.score_pool3.norm.running_var, network.score_pool3.norm.running_var)
    resized = rebuilt(network, side=128).eval()
    assert resized.side == resized.arguments["side"] == 128
    torch.testing.assert_close(resized(photo), network(photo))


def test_enlarging_is_bilinear_and_stays_so() -> None:
    network = fcn8s(classes=2)
    small = torch.rand(1, 2, 6, 7)
    large = network.upscore8(small)[:, :, 4:-4, 4:-4]
    want = functional.interpolate(small, scale_factor=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(large[:, :, 4:-4, 4:-4], want[:, :, 4:-4, 4:-4])
    assert not any(p.requires_grad for name, p in network.named_parameters() if "upscore" in name)

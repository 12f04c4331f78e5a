"""FCN-8s: alignment of its maps, sizes, and its start from a DeconvNet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from deconvseg.network.base import rebuilt, replace_classes
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s, start_from_deconvnet

from .networks import randomised

ZOO = {"padding": 100, "head_kernel": 7, "norm": False}
LITE = {"padding": 1, "head_kernel": 5, "norm": True}


def random_network(**changes: object) -> FCN8s:
    return randomised(FCN8s(**{"classes": 3, "side": 64, "widths": (6,) * 5, "bottleneck": 8, **changes}))


@pytest.mark.parametrize(("changes", "side"), [(ZOO, 58), (ZOO, 90), (LITE, 64), (LITE, 96)], ids=str)
@torch.no_grad()
def test_a_mirrored_photo_gets_mirrored_scores(changes: dict[str, object], side: int) -> None:
    """True for symmetric kernels, and only if every map lies where the next one takes it to be."""
    network = random_network(**changes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_((module.weight + module.weight.flip(2)) / 2)
            module.weight.copy_((module.weight + module.weight.flip(3)) / 2)
    photo = torch.randn(1, 3, side, side)
    scores = network(photo)
    for axis in (2, 3):
        torch.testing.assert_close(network(photo.flip(axis)), scores.flip(axis), atol=1e-4, rtol=1e-4)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([ZOO, LITE]))
def test_scores_have_the_photos_size(height: int, width: int, changes: dict[str, object]) -> None:
    with torch.no_grad():
        scores, code = random_network(**changes).scores_and_code(torch.randn(1, 3, height, width))
    assert scores.shape == (1, 3, height, width)
    assert code.shape[:2] == (1, 8)
    assert scores.isfinite().all()


@torch.no_grad()
def test_start_from_deconvnet_takes_over_its_code() -> None:
    torch.manual_seed(1)
    source = DeconvNet(classes=5, crop_size=96, widths=(6,) * 5, bottleneck=8, encoder_norm=False)
    for _ in range(5):
        source.train()(torch.randn(8, 3, 96, 96))
    source.eval()
    network = FCN8s(classes=3, side=96, widths=(6,) * 5, bottleneck=8, head_kernel=3, padding=1, norm=True)
    start_from_deconvnet(network, source)
    photo = torch.randn(2, 3, 96, 96)
    code = network.eval().scores_and_code(photo)[1]
    # The middle one of 3 x 3 cells sees the same 3 x 3 cells that the DeconvNet's only one does.
    torch.testing.assert_close(code[:, :, 1:2, 1:2], source.scores_and_code(photo)[1])

    with_norm = DeconvNet(classes=5, crop_size=96, widths=(6,) * 5, bottleneck=8, encoder_norm=True)
    with pytest.raises(ValueError, match="other layers"):
        start_from_deconvnet(network, with_norm)


@torch.no_grad()
def test_other_classes_and_another_side_keep_the_rest() -> None:
    network = random_network(**LITE)
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
    network = FCN8s(classes=2, widths=(4,) * 5, bottleneck=4, padding=1)
    small = torch.rand(1, 2, 6, 7)
    large = network.upscore8(small)[:, :, 4:-4, 4:-4]
    want = functional.interpolate(small, scale_factor=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(large[:, :, 4:-4, 4:-4], want[:, :, 4:-4, 4:-4])
    assert not any(p.requires_grad for name, p in network.named_parameters() if "upscore" in name)

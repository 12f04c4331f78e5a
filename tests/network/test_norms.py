"""Statistics for BatchNorms that have none."""

import torch

from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fold import gather_statistics


def test_statistics_are_averages_over_the_batches() -> None:
    torch.manual_seed(0)
    network = DeconvNet(classes=3, crop_size=32, widths=(4, 5, 6, 7, 8), bottleneck=9).eval()
    weights = {name: p.clone() for name, p in network.named_parameters()}
    batches = [torch.randn(4, 3, 32, 32) * scale for scale in (1, 2, 4)]
    with torch.no_grad():
        maps = [network.encoder[0].conv1_1.conv(batch) for batch in batches]
    gather_statistics(network, iter(batches))
    norm = network.encoder[0].conv1_1.norm
    want = [torch.stack([values.mean((0, 2, 3)) for values in maps]).mean(0)]
    want.append(torch.stack([values.var((0, 2, 3)) for values in maps]).mean(0))
    torch.testing.assert_close(norm.running_mean, want[0])
    torch.testing.assert_close(norm.running_var, want[1])
    assert norm.momentum == 0.1
    assert not network.training
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())
    # With statistics of these very crops, the deepest layer sees inputs of usual size in evaluation as well.
    inputs: list[torch.Tensor] = []
    network.decoder[4].deconv1_2.relu.register_forward_pre_hook(lambda _, x: inputs.append(x[0].clone()))
    with torch.no_grad():
        network(batches[1])
    assert 0.1 < float(inputs[0].std()) < 10

"""DeconvNet: the VGG-16 convolution network and its mirror image, a learned deconvolution network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from deconvseg.network.base import (
    STRIDE,
    Chain,
    SegmentationNetwork,
    fold_into_next,
    pool_with_switches,
    rebuilt,
    unit,
    unpool,
    vgg_encoder,
)


class DeconvNet(SegmentationNetwork):
    """The network of Noh, Hong, Han 2015 (arXiv 1505.04366, section 3; `DeconvNet_inference_deploy`).

    The defaults are the paper's network: 251,805,653 learnable parameters, 32.75 GMAC a crop. Layers carry
    the names of the released network (`conv1_1`, `fc6`, `deconv5_1`, ...), underscores for dashes. Fewer than
    five `decoder_convs` end the decoder early; its scores are then enlarged bilinearly to the crop. Without
    `encoder_norm` pretrained features stay as they are, and one BatchNorm evens out their scale before fc6.
    """

    architecture = "deconvnet"

    def __init__(
        self,
        classes: int = 21,
        crop_size: int = 224,  # side of the square input in pixels, a multiple of 32
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        encoder_convs: tuple[int, ...] = (2, 2, 3, 3, 3),
        decoder_convs: tuple[int, ...] = (3, 3, 3, 2, 2),  # 3x3 deconvolutions of a block, the deepest first
        bottleneck: int = 4096,  # channels of fc6 and fc7
        encoder_norm: bool = True,  # BatchNorm after each encoder convolution
    ) -> None:
        super().__init__(locals())
        if crop_size < STRIDE or crop_size % STRIDE:
            raise ValueError(f"crop_size {crop_size} is not a multiple of {STRIDE}")
        self.crop_size = self.side = crop_size
        self.encoder = vgg_encoder(widths, encoder_convs, norm=encoder_norm)
        channels, cells = widths[4], crop_size // STRIDE
        self.bottleneck_norm = None if encoder_norm else nn.BatchNorm2d(channels)
        self.fc6 = unit(nn.Conv2d(channels, bottleneck, cells), norm=True)
        self.fc7 = unit(nn.Conv2d(bottleneck, bottleneck, 1), norm=True)
        self.fc6_deconv = unit(nn.ConvTranspose2d(bottleneck, channels, cells), norm=True)

        self.decoder = nn.ModuleList()
        for block, convs in zip(range(5, 0, -1), decoder_convs, strict=False):
            stage = nn.Sequential()
            for i in range(1, convs + 1):
                # The last layer of a block narrows to the next block's width; block 1 has no next one.
                width = widths[max(block - 2, 0)] if i == convs else widths[block - 1]
                deconv = nn.ConvTranspose2d(channels, width, 3, padding=1)
                stage.add_module(f"deconv{block}_{i}", unit(deconv, norm=True))
                channels = width
            self.decoder.append(stage)
        self.seg_score = nn.Conv2d(channels, classes, 1)
        # Zero-mean Gaussians of deviation 0.01, zero biases (released prototxt); encoders by He's rule.
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                if name.startswith("encoder."):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                else:
                    nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def encode(self, crops: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Crops (B, 3, S, S) to the code (B, bottleneck, 1, 1) and the switches of the five poolings."""
        features, switches = crops, []
        for stage in self.encoder:
            features, where = pool_with_switches(stage(features))
            switches.append(where)
        if self.bottleneck_norm is not None:
            features = self.bottleneck_norm(features)
        return self.drop(self.fc7(self.drop(self.fc6(features)))), switches

    def decode(self, code: Tensor, switches: list[Tensor]) -> Tensor:
        """The code and the encoder's switches to scores (B, classes, S, S)."""
        features = self.fc6_deconv(code)
        for stage, where in zip(self.decoder, reversed(switches), strict=False):
            features = stage(unpool(features, where))
        scores: Tensor = self.seg_score(features)
        if scores.shape[-1] != self.crop_size:
            scores = functional.interpolate(scores, self.crop_size, mode="bilinear", align_corners=False)
        return scores

    def scores_and_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the base; images are (B, 3, crop_size, crop_size), the code (B, bottleneck, 1, 1)."""
        code, switches = self.encode(images)
        return self.decode(code, switches), code

    def fold(self) -> None:
        """See the base; fc6, fc7 and fc6-deconv become matrix products."""
        if self.bottleneck_norm is not None:
            fold_into_next(self.bottleneck_norm, self.fc6.conv)
            self.bottleneck_norm = None
        super().fold()
        layers: tuple[Any, ...] = self.fc6, self.fc7, self.fc6_deconv
        for layer, form in zip(layers, (_ToOneCell, _ToOneCell, _FromOneCell), strict=True):
            layer.conv = form(layer.conv)

    def chains(self) -> list[Chain]:
        """See the base."""
        decoder = [(stage, name) for stage in self.decoder for name, _ in stage.named_children()]
        return [*super().chains(), decoder]


def resize_bottleneck(network: DeconvNet, crop_size: int) -> DeconvNet:
    """The same network for another crop size, a multiple of 32: fc6's and fc6-deconv's kernels resized."""
    state, cells = network.state_dict(), crop_size // STRIDE
    # fc6 sums over its kernel, and the sum is to keep its magnitude; fc6-deconv paints one value a cell.
    for layer, gain in (("fc6", (network.crop_size / crop_size) ** 2), ("fc6_deconv", 1.0)):
        name = f"{layer}.conv.weight"
        kernel = functional.interpolate(state[name], cells, mode="bilinear", align_corners=True)
        state[name] = gain * kernel
    return rebuilt(network, state, crop_size=crop_size)


class _ToOneCell(nn.Module):
    """A convolution whose kernel is as large as its input, as a matrix product."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.weight = _constant(conv.weight.permute(0, 2, 3, 1).flatten(1))
        self.bias = conv.bias

    def forward(self, features: Tensor) -> Tensor:
        flat = features.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(flat, self.weight, self.bias)[..., None, None]


class _FromOneCell(nn.Module):
    """A deconvolution of a single cell, as a matrix product: torch's own takes ten times as long."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.shape = (-1, *conv.kernel_size, conv.out_channels)
        self.weight = _constant(conv.weight.permute(2, 3, 1, 0).flatten(0, 2))
        self.bias = _constant(conv.bias.repeat(len(self.weight) // len(conv.bias)))

    def forward(self, code: Tensor) -> Tensor:
        cells = functional.linear(code.flatten(1), self.weight, self.bias)
        return cells.reshape(self.shape).permute(0, 3, 1, 2)


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=False)

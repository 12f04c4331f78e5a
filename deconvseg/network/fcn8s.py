"""FCN-8s: the fully convolutional network on the whole photo that DeconvNet is ensembled with."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.network.base import (
    STRIDE,
    SegmentationNetwork,
    fold_into_next,
    pool,
    unit,
    vgg_encoder,
)
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck


class FCN8s(SegmentationNetwork):
    """The network of Long, Shelhamer, Darrell 2015 (arXiv 1411.4038), as `fcn-8s-pascal` of Caffe's zoo.

    The enlarging kernels are bilinear and not learned. The defaults are the zoo's network: the first
    convolution pads by 100 pixels so that fc6 needs no padding, and each map is cropped to what it has in
    common with the next. If it pads by 1, fc6 pads itself, and photos are padded to whole cells of 32 pixels.
    """

    architecture = "fcn8s"
    sees_whole_photo = True
    heads = "fc6", "score_pool4", "score_pool3"

    def __init__(
        self,
        classes: int = 21,
        side: int = 500,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        encoder_convs: tuple[int, ...] = (2, 2, 3, 3, 3),
        bottleneck: int = 4096,  # channels of fc6 and fc7
        head_kernel: int = 7,  # side of fc6's kernel; odd
        padding: int = 100,  # of the first convolution
        norm: bool = False,  # BatchNorm before fc6 and the scores of pool3 and pool4, and after fc6 and fc7
        dropout: float = 0.5,
    ) -> None:
        super().__init__(locals())
        if head_kernel % 2 == 0:
            raise ValueError(f"head_kernel {head_kernel} is not an odd number")
        if padding > 1 and padding < STRIDE * (head_kernel - 1) // 2:
            raise ValueError(f"padding {padding} is too small for head_kernel {head_kernel}; take 1")
        self.side, self.padding = side, padding
        head_padding = (head_kernel - 1) // 2 if padding == 1 else 0
        # Where the middle of fc6's first cell lies, in pixels of the photo.
        self.head_origin = 15.5 - (padding - 1) + STRIDE * ((head_kernel - 1) / 2 - head_padding)

        self.encoder = vgg_encoder(widths, encoder_convs, norm=False, padding=padding)
        self.pool5_norm = nn.BatchNorm2d(widths[4]) if norm else nn.Identity()
        self.fc6 = unit(nn.Conv2d(widths[4], bottleneck, head_kernel, padding=head_padding), norm=norm)
        self.fc7 = unit(nn.Conv2d(bottleneck, bottleneck, 1), norm=norm)
        self.score_fr = nn.Conv2d(bottleneck, classes, 1)
        self.score_pool4 = _score(widths[3], classes, norm)
        self.score_pool3 = _score(widths[2], classes, norm)
        self.upscore2 = _enlarger(classes, 4, 2)
        self.upscore_pool4 = _enlarger(classes, 4, 2)
        self.upscore8 = _enlarger(classes, 16, 8)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if "score" in name:
                    nn.init.zeros_(module.weight)  # as in the zoo: learning starts from equal scores
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def scores_and_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the base; photos may have any size."""
        height, width = images.shape[-2:]
        features = images
        if self.padding == 1:
            features = functional.pad(images, (0, -width % STRIDE, 0, -height % STRIDE))
        pools = []
        for stage in self.encoder:
            features = pool(stage(features), ceil_mode=self.padding > 1)
            pools.append(features)
        code = self.drop(self.fc7(self.drop(self.fc6(self.pool5_norm(pools[4])))))

        scores, origin, border = self.score_fr(code), self.head_origin, self.padding - 1
        # Enlarging and cropping move the middle of the map's first cell.
        skips = (
            (self.upscore2, self.score_pool4(pools[3]), 16, 7.5 - border),
            (self.upscore_pool4, self.score_pool3(pools[2]), 8, 3.5 - border),
        )
        for enlarge, skip, stride, skip_origin in skips:
            scores, origin = enlarge(scores), origin - 1.5 * stride
            offset = round((origin - skip_origin) / stride)
            if offset < 0:
                scores, origin = scores[..., -offset:, -offset:], skip_origin
            else:
                skip = skip[..., offset:, offset:]
            rows, columns = (min(scores.shape[i], skip.shape[i]) for i in (2, 3))
            scores = scores[..., :rows, :columns] + skip[..., :rows, :columns]
        scores, first = self.upscore8(scores), round(7.5 - origin)
        return scores[..., first : first + height, first : first + width], code

    def fold(self) -> None:
        """See the base; the one before fc6, which pads its input, stays."""
        for score in (self.score_pool4, self.score_pool3):
            if hasattr(score, "norm"):
                fold_into_next(score.norm, score.conv)
                del score.norm
        super().fold()


def start_from_deconvnet(network: FCN8s, source: DeconvNet) -> None:
    """Copy a trained DeconvNet's encoder, which must be alike, and fc6 and fc7, if they are alike."""
    same = ("widths", "encoder_convs")
    if source.arguments["encoder_norm"] or any(source.arguments[k] != network.arguments[k] for k in same):
        raise ValueError("the encoder of the DeconvNet has other layers")
    network.encoder.load_state_dict(source.encoder.state_dict())
    if network.arguments["norm"] and source.arguments["bottleneck"] == network.arguments["bottleneck"]:
        source = resize_bottleneck(source, STRIDE * network.arguments["head_kernel"])
        assert source.bottleneck_norm is not None
        network.pool5_norm.load_state_dict(source.bottleneck_norm.state_dict())
        network.fc6.load_state_dict(source.fc6.state_dict())
        network.fc7.load_state_dict(source.fc7.state_dict())


def _score(channels: int, classes: int, norm: bool) -> nn.Sequential:
    norms = {"norm": nn.BatchNorm2d(channels)} if norm else {}
    return nn.Sequential(OrderedDict(**norms, conv=nn.Conv2d(channels, classes, 1)))


def _enlarger(classes: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """Bilinear enlarging as a transposed convolution, so that learned kernels fit in as well; not trained."""
    layer = nn.ConvTranspose2d(classes, classes, kernel, stride, bias=False)
    # In NumPy: arithmetic on tensors of device `meta` would load torch's compiler.
    ramp = 1 - np.abs(np.arange(kernel) - (kernel - 1) / 2) / stride
    weight = np.eye(classes)[:, :, None, None] * np.outer(ramp, ramp)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    return layer.requires_grad_(False)

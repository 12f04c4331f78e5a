"""A fully convolutional network that also tells which classes the photo shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.network.base import SegmentationNetwork, pool, unit, vgg_encoder

CELL = 16  # pixels a cell of conv5_3; photos get a border of the mean colour up to whole cells


class FCN(SegmentationNetwork):
    """Small layers on VGG-16's convolutions.

    Features of conv5_3, pooled over the photo, tell which classes it shows: an image-level prior (Pinheiro
    and Collobert 2015, "From image-level to pixel-level labeling"). With the hidden units behind that as
    context, dilated convolutions (Yu and Koltun 2016, arXiv 1511.07122) make scores of cells of 16 pixels,
    and features of conv4_3 those of cells of 8 pixels: FCN-8s's stride with one skip.
    """

    architecture = "fcn"
    sees_whole_photo = True
    tells_classes = True
    heads = "conv6", "conv7", "conv8", "skip", "join"

    def __init__(
        self,
        classes: int = 21,
        side: int = 512,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        encoder_convs: tuple[int, ...] = (2, 2, 3, 3, 3),
        hidden: int = 512,  # units between pooled features and presence
        width: int = 256,  # channels of the layers at stride 16
        skip: int = 64,  # channels made of conv4_3's; the layers at stride 8 have twice as many
        dropout: float = 0.5,  # of the inputs of both layers behind the pooled features
    ) -> None:
        super().__init__(locals())
        self.side = side
        self.encoder = vgg_encoder(widths, encoder_convs, norm=False)
        self.pool_norm = nn.BatchNorm2d(3 * widths[4])
        self.fc6 = unit(nn.Conv2d(3 * widths[4], hidden, 1), norm=True)
        self.score_presence = nn.Conv2d(hidden, classes, 1)
        self.norm = nn.BatchNorm2d(widths[4])
        self.conv6 = unit(nn.Conv2d(widths[4], width, 3, padding=1), norm=True)
        self.context = nn.Conv2d(hidden, width, 1)
        self.conv7 = unit(nn.Conv2d(width, width, 3, padding=2, dilation=2), norm=True)
        self.conv8 = unit(nn.Conv2d(width, width, 3, padding=4, dilation=4), norm=True)
        self.score_coarse = nn.Conv2d(width, classes, 1)
        self.skip = unit(nn.Conv2d(widths[3], skip, 1), norm=True)
        self.reduce = nn.Conv2d(width, 2 * skip, 1)
        self.join = unit(nn.Conv2d(3 * skip, 2 * skip, 3, padding=1), norm=True)
        self.score_fine = nn.Conv2d(2 * skip, classes, 1)
        nn.init.zeros_(self.score_fine.weight)
        self.register_buffer("doubt", torch.full((classes,), 0.5))  # less for hard classes

    def fine_features(self, images: Tensor) -> Tensor:
        """conv4_3's (B, W, 2h, 2w) of images (B, 3, H, W) in h x w cells."""
        height, width = images.shape[-2:]
        features = functional.pad(images, (0, -width % CELL, 0, -height % CELL))
        for stage in self.encoder[:3]:
            features = pool(stage(features))
        found: Tensor = self.encoder[3](features)
        return found

    def pooled(self, features: Tensor) -> Tensor:
        """Means, maxima and quarters' largest means of pool5, (B, 3W, 1, 1), of conv5_3's features."""
        pool5 = functional.max_pool2d(features, 2, ceil_mode=True)
        height, width = pool5.shape[2:]
        # As in `adaptive_avg_pool2d`, whose export to ONNX fails where sizes are open.
        halves = pool5[:, :, : (height + 1) // 2], pool5[:, :, height // 2 :]
        parts = [part for half in halves for part in (half[..., : (width + 1) // 2], half[..., width // 2 :])]
        quarters = torch.stack([part.mean((2, 3), keepdim=True) for part in parts])
        return torch.cat([quarters.mean(0), pool5.amax((2, 3), True), quarters.amax(0)], 1)

    def cells_and_presence(self, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B, classes, 2h, 2w), and of each class but background to be there, (B, classes), both
        of `fine_features`."""
        coarse = self.encoder[4](pool(fine))
        hidden = self.fc6(self.drop(self.pool_norm(self.pooled(coarse))))
        presence = self.score_presence(self.drop(hidden))[:, :, 0, 0]
        places = self.conv6(functional.dropout2d(self.norm(coarse), 0.1, self.training))
        places = self.conv7(places + self.context(self.drop(hidden)))
        places = places + self.conv8(functional.dropout2d(places, 0.1, self.training))
        places = functional.dropout2d(places, 0.2, self.training)
        scores, places = (
            functional.interpolate(small, scale_factor=2.0, mode="bilinear")
            for small in (self.score_coarse(places), self.reduce(places))
        )
        joined = self.join(torch.cat([places, self.skip(fine)], 1))
        return scores + self.score_fine(functional.dropout2d(joined, 0.1, self.training)), presence

    def scores_and_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the base; images may have any size, and the code is the scores of presence, (B, classes)."""
        height, width = images.shape[-2:]
        cells, presence = self.cells_and_presence(self.fine_features(images))
        scores = functional.interpolate(cells, scale_factor=8.0, mode="bilinear")
        return scores[..., :height, :width], presence

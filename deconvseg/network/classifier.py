"""An image classifier: which classes a photo shows, from VGG-16's features pooled over the whole of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.network.base import SegmentationNetwork, unit, vgg_encoder


class Classifier(SegmentationNetwork):
    """Scores of one cell for the whole photo: the sigmoid of each is the chance that its class is there.

    Its answers serve as an image-level prior of what other networks see (Pinheiro and Collobert 2015, "From
    image-level to pixel-level labeling"). The score of background, the first, means nothing.

    Attributes:
        doubt: (classes,), the chance of each class at which the prior leaves its pixels as they are: half at
            first, less for classes that segmentation finds too little of.

    Args:
        classes: labels, background first.
        side: photos enter stretched to a square of this many pixels.
        widths, encoder_convs: as of `DeconvNet`.
        hidden: units between pooled features and scores.
        dropout: share of the inputs of both layers that is dropped in training.
    """

    architecture = "classifier"

    def __init__(
        self,
        classes: int,
        side: int = 256,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        encoder_convs: tuple[int, ...] = (2, 2, 3, 3, 3),
        hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(locals())
        if side < 64:
            raise ValueError(f"side {side} is below 64")
        self.side, self.dropout = side, dropout
        self.encoder = vgg_encoder(widths, encoder_convs, norm=False)
        self.pool_norm = nn.BatchNorm2d(3 * widths[4])
        self.fc6 = unit(nn.Conv2d(3 * widths[4], hidden, 1), hidden, norm=True)
        self.score = nn.Conv2d(hidden, classes, 1)
        self.doubt: Tensor
        self.register_buffer("doubt", torch.full((classes,), 0.5))

    def features(self, images: Tensor) -> Tensor:
        """Means, maxima and quarters' largest means of pool5 (B, 3W, 1, 1) of images (B, 3, S, S)."""
        features = images
        for stage in self.encoder:
            features = functional.max_pool2d(stage(features), 2)
        quarters = functional.adaptive_avg_pool2d(features, 2)
        means = quarters.mean((2, 3), keepdim=True)
        return torch.cat([means, features.amax((2, 3), True), quarters.amax((2, 3), True)], 1)

    def head(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, classes, 1, 1) of `features`, and the hidden units (B, hidden, 1, 1)."""
        hidden = self.fc6(self.drop(self.pool_norm(features)))
        return self.score(self.drop(hidden)), hidden

    def scores_and_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, classes, 1, 1) of images (B, 3, S, S), and the hidden units (B, hidden, 1, 1)."""
        return self.head(self.features(images))

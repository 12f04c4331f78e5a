"""An image classifier: which classes a photo shows, and in which part of it, from VGG-16's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvseg.network.base import SegmentationNetwork, pool, unit, vgg_encoder


class Classifier(SegmentationNetwork):
    """Tells from the photo as a whole which classes it shows, and with a map, where.

    Its scores are of one cell for the whole photo: the sigmoid of each is the chance that the class is there.
    They serve as an image-level prior of what other networks see (Pinheiro and Collobert 2015, "From
    image-level to pixel-level labeling"). The score of background, the first, means nothing. The map has
    scores of cells of 16 pixels, each of which sees the whole photo.

    Attributes:
        doubt: (classes,), the chance of each class at which the prior leaves its pixels as they are: half at
            first, less for classes that segmentation finds too little of.

    Args:
        classes: labels, background first.
        side: photos enter stretched to a square of this many pixels.
        widths, encoder_convs: as of `DeconvNet`.
        hidden: units between pooled features and scores.
        dropout: share of the inputs of both layers that is dropped in training.
        map_width: channels of the layers behind the map; None is no map.
        map_share: the map's share in the mean with the probabilities of other networks, 0 to 1.
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
        map_width: int | None = None,
        map_share: float = 0.2,
    ) -> None:
        super().__init__(locals())
        if side < 64:
            raise ValueError(f"side {side} is below 64")
        self.side, self.dropout, self.map_width, self.map_share = side, dropout, map_width, map_share
        self.encoder = vgg_encoder(widths, encoder_convs, norm=False)
        self.pool_norm = nn.BatchNorm2d(3 * widths[4])
        self.fc6 = unit(nn.Conv2d(3 * widths[4], hidden, 1), hidden, norm=True)
        self.score = nn.Conv2d(hidden, classes, 1)
        if map_width:
            self.map_norm = nn.BatchNorm2d(widths[4])
            self.map1 = unit(nn.Conv2d(widths[4], map_width, 3, padding=1), map_width, norm=True)
            self.context = nn.Conv2d(hidden, map_width, 1)
            self.map2 = unit(nn.Conv2d(map_width, map_width, 3, padding=2, dilation=2), map_width, norm=True)
            self.score_map = nn.Conv2d(map_width, classes, 1)
        self.doubt: Tensor
        self.register_buffer("doubt", torch.full((classes,), 0.5))

    def features(self, images: Tensor) -> Tensor:
        """conv5_3's features (B, W, S / 16, S / 16) of images (B, 3, S, S)."""
        features = images
        for stage in self.encoder[:-1]:
            features = pool(stage(features))
        found: Tensor = self.encoder[-1](features)
        return found

    def pooled(self, features: Tensor) -> Tensor:
        """Means, maxima and quarters' largest means of pool5, (B, 3W, 1, 1), of `features`."""
        pool5 = functional.max_pool2d(features, 2)
        quarters = functional.adaptive_avg_pool2d(pool5, 2)
        means = quarters.mean((2, 3), keepdim=True)
        return torch.cat([means, pool5.amax((2, 3), True), quarters.amax((2, 3), True)], 1)

    def head(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, classes, 1, 1) of what is `pooled`, and the hidden units (B, hidden, 1, 1)."""
        hidden = self.fc6(self.drop(self.pool_norm(pooled)))
        return self.score(self.drop(hidden)), hidden

    def map_scores(self, features: Tensor, hidden: Tensor) -> Tensor:
        """Raw scores (B, classes, S / 16, S / 16) of each cell of `features`."""
        places = self.map1(functional.dropout2d(self.map_norm(features), 0.1, self.training))
        places = self.map2(places + self.context(self.drop(hidden)))
        found: Tensor = self.score_map(functional.dropout2d(places, 0.2, self.training))
        return found

    def scores_and_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, classes, 1, 1) of images (B, 3, S, S), and the hidden units (B, hidden, 1, 1)."""
        return self.head(self.pooled(self.features(images)))

    def scores_and_map(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (B, classes, 1, 1) of images (B, 3, S, S), and the map's (B, classes, S / 16, S / 16)."""
        features = self.features(images)
        scores, hidden = self.head(self.pooled(features))
        return scores, self.map_scores(features, hidden) if self.map_width else None

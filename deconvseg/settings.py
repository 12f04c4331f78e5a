"""The steps around the network and their settings: ours, the paper's, and those of the authors' code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deconvseg.postprocess.crf import CRFParameters

if TYPE_CHECKING:  # it imports torch, which the steps around the network do without
    from deconvseg.postprocess.fusion import EnsembleRule, FusionRule


@dataclass(frozen=True)
class Settings:
    """How a photo is segmented, apart from the networks.

    Attributes:
        proposals: regions besides the whole photo; 0 looks at the whole photo alone.
        whole_photo: the whole photo is a region as well.
        min_side: regions whose shorter side after enlarging is below this are not looked at; pixels of the
            photo shrunk to at most 640.
        measure_squares: `min_side` is that of the squares, not of the enlarged boxes they are made of.
        squared: regions are widened to squares, else stretched to the network's square input.
        same: a region with a larger IoU than this with a better one is not looked at; 1 drops none.
        stop: share of pixels (0..1); no more regions of a photo are looked at once a round of them has
            changed fewer labels than that. 0 looks at all.
        round_size: regions a round, after the first, which is one of its own.
        fusion: how the regions are put together.
        ensemble: how FCN-8s joins in, if there is one.
        share: the regions' in the ensemble's mean, 0 to 1.
        mirrored: FCN-8s sees the photo and its mirror image, and the mean of both scores counts.
        crf: parameters of the dense CRF; None takes those of the network's file.
    """

    proposals: int = 50
    whole_photo: bool = True
    min_side: int = 112
    measure_squares: bool = False
    squared: bool = True
    same: float = 0.7
    stop: float = 0.0
    round_size: int = 5
    fusion: FusionRule = "max"
    ensemble: EnsembleRule = "mean"
    share: float = 0.5
    mirrored: bool = False
    crf: CRFParameters | None = None


AUTHORS_CRF = CRFParameters(
    iterations=10,
    smooth_sigma=3,
    smooth_weight=3,
    colour_sigma_xy=20,
    colour_sigma_rgb=3,
    colour_weight=5,
    normalise=False,
)
"""As the released code sets them (generate_EDeconvNet_CRF_results.m), made for its networks' scores."""

PRESETS = {
    "default": Settings(proposals=10, stop=0.01, share=0.6, mirrored=True),
    "paper": Settings(whole_photo=False, min_side=0, squared=False, same=1.0, crf=AUTHORS_CRF),
    "released-code": Settings(
        whole_photo=False, measure_squares=True, same=1.0, ensemble="product", crf=AUTHORS_CRF
    ),
}

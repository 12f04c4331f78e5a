"""Settings of the method: ours, the paper's, and those of the authors' code. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

from deconvseg.errors import UsageError, WeightsError

FusionRule = Literal["max", "mean"]
EnsembleRule = Literal["mean", "product", "off"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Preset = Literal["default", "fast", "best", "paper", "released-code"]

_CRF_RANGES = {"iterations": (0, 100), "sigma": (0.1, 10_000), "weight": (0, 1000)}


@dataclass(frozen=True)
class CRFParameters:
    """Kernels of Kraehenbuehl and Koltun's fully connected CRF (2011), mean-field inference, Potts penalty.

    Attributes:
        iterations: mean-field steps.
        smooth_sigma: deviation of the position kernel, pixels.
        smooth_weight: its penalty.
        colour_sigma_xy: deviation of the position part of the colour kernel, pixels.
        colour_sigma_rgb: deviation of its colour part, in steps of 0..255.
        colour_weight: its penalty.
        normalise: divide both kernels by their mass at each pixel, symmetrically. Without, as in the authors'
            code, the same weights smooth far more: at 3 pixels of deviation about fifty times.
    """

    iterations: float = 10
    smooth_sigma: float = 3.0
    smooth_weight: float = 2.0
    colour_sigma_xy: float = 50.0
    colour_sigma_rgb: float = 8.0
    colour_weight: float = 2.0
    normalise: bool = True

    @classmethod
    def from_mapping(cls, values: Mapping[str, float]) -> CRFParameters:
        """The parameters a network file carries, over the defaults; other keys are ignored.

        Raises:
            WeightsError: a value that the filter would not survive.
        """
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {name: value for name, value in values.items() if name in known}
        normalise = bool(given.pop("normalise", True))
        for name, value in given.items():
            low, high = _CRF_RANGES["sigma" if "sigma" in name else name.rpartition("_")[2]]
            if not low <= value <= high:  # NaN is in no range
                raise WeightsError(
                    f"the network's CRF parameter {name} is {value}; allowed are {low} to {high}"
                )
        return cls(**given, normalise=normalise)


@dataclass(frozen=True)
class Settings:
    """How a photo is segmented, apart from the networks.

    Attributes:
        proposals: regions besides the whole photo; 0 looks at the whole photo alone.
        objects: the regions looked at first are those around the objects that the FCN of the ensemble sees.
        candidates: so many of the best other regions are put in another order, those first in which that FCN
            is least certain; 0 leaves the order as it is.
        whole_photo: the whole photo is a region as well.
        min_side: regions whose shorter side after enlarging is below this are not looked at; pixels of the
            photo shrunk to at most 640.
        measure_squares: `min_side` is that of the squares, not of the enlarged boxes they are made of.
        squared: regions are widened to squares, else stretched to the network's square input.
        same: a region with a larger IoU than this with a better one is not looked at, those around objects
            and the others each among themselves; 1 drops none.
        fusion: `max` of the regions' scores (the paper), or `mean` of their probabilities by area.
        ensemble: `mean` of the probabilities with an FCN's (the paper), `product` of both networks' clipped
            scores (the released code), or `off`.
        share: the regions' in the ensemble's mean, 0 to 1.
        prior: exponent of the image-level prior, from the FCN if it tells which classes a photo shows.
        at_network_side: an FCN alone works on the photo as it sees it, shrunk to its side; all else on up to
            1,024 pixels.
        crf: sharpen with the dense CRF.
        crf_parameters: of that; None takes those of the network's file.

    Raises:
        UsageError: a value out of its range, or two that exclude each other.
    """

    proposals: int = 50
    objects: bool = False
    candidates: int = 0
    whole_photo: bool = True
    min_side: int = 112
    measure_squares: bool = False
    squared: bool = True
    same: float = 0.65
    fusion: FusionRule = "max"
    ensemble: EnsembleRule = "mean"
    share: float = 0.5
    prior: float = 0.0
    at_network_side: bool = False
    crf: bool = True
    crf_parameters: CRFParameters | None = None

    def __post_init__(self) -> None:
        for name, rules in (("fusion", get_args(FusionRule)), ("ensemble", get_args(EnsembleRule))):
            if (value := getattr(self, name)) not in rules:
                raise UsageError(f"{value}: no such {name}; take one of {', '.join(rules)}")
        refuse_below(0, proposals=self.proposals, candidates=self.candidates, min_side=self.min_side)
        if not isinstance(self.prior, Real) or not 0 <= self.prior <= 10:
            raise UsageError(f"prior {self.prior}: is an exponent; give 0 (none) to 10")
        if self.ensemble == "product" and self.fusion != "max":
            raise UsageError("the ensemble by product multiplies raw scores; it needs the fusion rule max")


def refuse_below(least: int, **values: object) -> None:
    """Raise a UsageError unless each value is None or a whole number of at least `least`."""
    for name, value in values.items():
        if value is not None and (not isinstance(value, Integral) or int(value) < least):
            raise UsageError(f"{name} {value}: give a whole number, {least} or more")


AUTHORS_CRF = CRFParameters(
    10, 3, 3, colour_sigma_xy=20, colour_sigma_rgb=3, colour_weight=5, normalise=False
)
"""As the released code sets them (generate_EDeconvNet_CRF_results.m), made for its networks' scores."""

_OURS = Settings(proposals=5, objects=True, candidates=20, share=0.6, prior=0.3)
PRESETS: dict[str, Settings] = {
    "default": _OURS,
    "fast": replace(_OURS, proposals=0, at_network_side=True),
    "best": replace(_OURS, proposals=50),
    "paper": Settings(whole_photo=False, min_side=0, squared=False, same=1.0, crf_parameters=AUTHORS_CRF),
    "released-code": Settings(
        whole_photo=False, measure_squares=True, same=1.0, ensemble="product", crf_parameters=AUTHORS_CRF
    ),
}

"""Dense CRF: moves the labelling's borders onto the photo's edges."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import MissingDependencyError, WeightsError

MIN_PEAK = 0.02
"""Classes whose probability stays below this everywhere are left out, to save time."""
_RANGES = {"iterations": (0, 100), "sigma": (0.1, 10_000), "weight": (0, 1000)}


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
            low, high = _RANGES["sigma" if "sigma" in name else name.rpartition("_")[2]]
            if not low <= value <= high:  # NaN is in no range
                raise WeightsError(
                    f"the network's CRF parameter {name} is {value}; allowed are {low} to {high}"
                )
        return cls(**given, normalise=normalise)


def crf_is_available() -> bool:
    """Whether a backend is installed."""
    return importlib.util.find_spec("pydensecrf") is not None


def dense_crf(
    image: NDArray[np.uint8], probabilities: NDArray[np.float32], parameters: CRFParameters
) -> NDArray[np.float32]:
    """Refine class probabilities by the photo's colours.

    Args:
        image: uint8 (H, W, 3) RGB.
        probabilities: float32 (C, H, W), summing to 1 over C.
        parameters: kernels and iterations.

    Returns:
        float32 (C, H, W), summing to 1 over C.

    Raises:
        MissingDependencyError: pydensecrf is not installed.
    """
    try:
        from pydensecrf.densecrf import NO_NORMALIZATION, NORMALIZE_SYMMETRIC, DenseCRF2D
    except ImportError as error:
        raise MissingDependencyError(
            "the dense CRF needs pydensecrf (pip install pydensecrf2; Python up to 3.12), or use --no-crf"
        ) from error
    classes, height, width = probabilities.shape
    peaks = probabilities.reshape(classes, -1).max(1)
    kept = np.flatnonzero(peaks >= MIN_PEAK)
    if len(kept) < 2:
        return probabilities
    energy = -np.log(np.clip(probabilities[kept], 1e-5, 1.0)).reshape(len(kept), -1)
    crf = DenseCRF2D(width, height, len(kept))
    normalisation = NORMALIZE_SYMMETRIC if parameters.normalise else NO_NORMALIZATION
    crf.setUnaryEnergy(np.ascontiguousarray(energy, dtype=np.float32))
    crf.addPairwiseGaussian(
        sxy=parameters.smooth_sigma, compat=parameters.smooth_weight, normalization=normalisation
    )
    crf.addPairwiseBilateral(
        sxy=parameters.colour_sigma_xy,
        srgb=parameters.colour_sigma_rgb,
        rgbim=np.ascontiguousarray(image),
        compat=parameters.colour_weight,
        normalization=normalisation,
    )
    refined = np.asarray(crf.inference(int(parameters.iterations)), dtype=np.float32)
    result = np.zeros_like(probabilities)
    result[kept] = refined.reshape(len(kept), height, width)
    return result

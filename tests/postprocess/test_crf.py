"""Dense CRF: borders move to the photo's edges, noise goes, and certain answers stay."""

from dataclasses import replace

import numpy as np
import pytest

from deconvseg.errors import MissingDependencyError
from deconvseg.postprocess.crf import CRFParameters, crf_is_available, dense_crf

needs_crf = pytest.mark.skipif(not crf_is_available(), reason="pydensecrf is not installed on this Python")


def two_tone(width: int = 60, height: int = 40, edge: int = 30) -> np.ndarray:
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, edge:] = 210
    return image


@needs_crf
def test_border_moves_to_the_edge_and_noise_goes() -> None:
    image = two_tone()
    truth = image[:, :, 0] > 128
    probabilities = np.full((3, 40, 60), 0.05, np.float32)
    guess = np.roll(truth, 4, axis=1)  # four pixels off the edge
    guess[:, :4] = False
    rng = np.random.default_rng(0)
    guess ^= rng.random(guess.shape) < 0.1
    probabilities[1] = np.where(guess, 0.65, 0.3)
    probabilities[0] = 1 - probabilities[1:].sum(0)
    refined = dense_crf(image, probabilities, CRFParameters())
    assert refined.shape == probabilities.shape
    assert refined.dtype == np.float32
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-4)
    assert (guess != truth).mean() > 0.1
    assert ((refined.argmax(0) == 1) != truth).mean() < 0.01


@needs_crf
def test_parameters_matter() -> None:
    image = two_tone()
    rng = np.random.default_rng(1)
    first = rng.random((40, 60)).astype(np.float32)
    probabilities = np.stack([first, 1 - first])
    gentle = dense_crf(image, probabilities, CRFParameters(smooth_weight=0, colour_weight=0))
    np.testing.assert_allclose(gentle, probabilities, atol=1e-3)
    strong = dense_crf(image, probabilities, CRFParameters())
    assert (strong.argmax(0) != probabilities.argmax(0)).mean() > 0.2


@needs_crf
def test_classes_that_are_nowhere_likely_stay_at_zero() -> None:
    image = two_tone()
    probabilities = np.full((5, 40, 60), 0.001, np.float32)
    probabilities[3] = 0.6
    probabilities[0] = 1 - probabilities[1:].sum(0)
    refined = dense_crf(image, probabilities, CRFParameters())
    assert refined[[1, 2, 4]].max() == 0
    only = np.zeros((2, 40, 60), np.float32)
    only[0] = 1
    assert np.array_equal(dense_crf(image, only, CRFParameters()), only)


def test_parameters_from_a_network_file_override_the_defaults() -> None:
    parameters = CRFParameters.from_mapping({"colour_weight": 9.0, "of_the_future": 1.0})
    assert parameters == CRFParameters(colour_weight=9.0)


@needs_crf
def test_kernels_that_are_not_normalised_smooth_far_more() -> None:
    """As in the released code: the same weights are some fifty times stronger."""
    image = np.full((40, 40, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    first = (rng.random((40, 40)) * 0.5 + 0.3).astype(np.float32)
    noisy = np.stack([first, 1 - first])
    weak = CRFParameters(smooth_weight=0.05, colour_weight=0)
    strong = replace(weak, normalise=False)
    spread = [dense_crf(image, noisy, parameters)[0].std() for parameters in (weak, strong)]
    labels = dense_crf(image, noisy, strong).argmax(0)
    assert spread[1] < spread[0] / 2
    assert len(np.unique(labels)) == 1


def test_missing_backend_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydensecrf.densecrf", None)
    with pytest.raises(MissingDependencyError, match=r"pip install pydensecrf2.*--no-crf"):
        dense_crf(two_tone(), np.full((2, 40, 60), 0.5, np.float32), CRFParameters())

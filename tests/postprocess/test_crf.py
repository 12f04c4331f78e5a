"""Dense CRF and its kernels, against brute force and pydensecrf."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from deconvseg.postprocess import crf
from deconvseg.postprocess.crf import dense_crf
from deconvseg.postprocess.lattice import Lattice
from deconvseg.settings import AUTHORS_CRF, CRFParameters

KERNELS = {
    "default": CRFParameters(),
    "weak": CRFParameters(smooth_weight=0.5, colour_weight=1.0),
    "strong": CRFParameters(colour_weight=16.0),
    "unnormalised": CRFParameters(smooth_weight=0.05, colour_weight=0.02, normalise=False),
    "authors": AUTHORS_CRF,
    "place alone": CRFParameters(colour_weight=0),
    "colour alone": CRFParameters(smooth_weight=0),
    "once": CRFParameters(iterations=1),
    "wide": CRFParameters(smooth_sigma=5),
}


def scene(height: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blobs of colours with noise, and probabilities that follow them roughly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centres = rng.random((classes, 2)) * (height, width)
    truth = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(2)
    colours = rng.integers(30, 220, (classes, 3))
    image = (colours[truth] + rng.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)
    scores = rng.normal(0, 1, (classes, height, width)) + 1.5 * (np.arange(classes)[:, None, None] == truth)
    shares = np.exp(scores)
    return image, (shares / shares.sum(0)).astype(np.float32)


def by_brute_force(image: np.ndarray, probabilities: np.ndarray, parameters: CRFParameters) -> np.ndarray:
    """Mean field with all pairs of pixels, in float64."""
    classes, height, width = probabilities.shape
    place = np.stack(np.mgrid[:height, :width], 2).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3) / parameters.colour_sigma_rgb
    kernel = 0.0
    for weight, features in (
        (parameters.smooth_weight, place / parameters.smooth_sigma),
        (parameters.colour_weight, np.hstack([place / parameters.colour_sigma_xy, colour])),
    ):
        term = np.exp(-((features[:, None] - features) ** 2).sum(2) / 2)
        mass = term.sum(1) if parameters.normalise else np.ones(len(term))
        kernel = kernel + weight * term / np.sqrt(np.outer(mass, mass))
    unary = np.log(probabilities.reshape(classes, -1).clip(1e-5))
    beliefs = np.exp(unary) / np.exp(unary).sum(0)
    for _ in range(int(parameters.iterations)):
        scores = unary + beliefs @ kernel
        beliefs = np.exp(scores - scores.max(0))
        beliefs /= beliefs.sum(0)
    return beliefs.reshape(classes, height, width)


def by_pydensecrf(image: np.ndarray, probabilities: np.ndarray, parameters: CRFParameters) -> np.ndarray:
    """The same kernels and all labels; height * width must be a multiple of 4, else it adds pixels."""
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    classes, height, width = probabilities.shape
    kind = densecrf.NORMALIZE_SYMMETRIC if parameters.normalise else densecrf.NO_NORMALIZATION
    model = densecrf.DenseCRF2D(width, height, classes)
    model.setUnaryEnergy(-np.log(probabilities.reshape(classes, -1).clip(1e-5, 1)))
    if weight := parameters.smooth_weight:
        model.addPairwiseGaussian(sxy=parameters.smooth_sigma, compat=weight, normalization=kind)
    if weight := parameters.colour_weight:
        sigmas = {"sxy": parameters.colour_sigma_xy, "srgb": parameters.colour_sigma_rgb}
        model.addPairwiseBilateral(**sigmas, rgbim=image, compat=weight, normalization=kind)
    return np.array(model.inference(int(parameters.iterations))).reshape(probabilities.shape)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No label is left out, and nothing rests."""
    monkeypatch.setattr(crf, "LEAST_SHARE", 0.0)
    monkeypatch.setattr(crf, "STILL", -1.0)
    monkeypatch.setattr(crf, "GONE", 0.0)


def test_border_moves_to_the_edge_and_noise_goes() -> None:
    image = np.full((40, 60, 3), 40, np.uint8)
    image[:, 30:] = 210
    truth = image[:, :, 0] > 128
    probabilities = np.full((3, 40, 60), 0.05, np.float32)
    guess = np.roll(truth, 4, axis=1)  # four pixels off the edge
    guess[:, :4] = False
    guess ^= np.random.default_rng(0).random(guess.shape) < 0.1
    probabilities[1] = np.where(guess, 0.65, 0.3)
    probabilities[0] = 1 - probabilities[1:].sum(0)
    refined = dense_crf(image, probabilities, CRFParameters())
    assert refined.shape == probabilities.shape and refined.dtype == np.float32
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-4)
    assert (guess != truth).mean() > 0.1
    assert ((refined.argmax(0) == 1) != truth).mean() < 0.01


def test_parameters_from_a_network_file_override_the_defaults() -> None:
    parameters = CRFParameters.from_mapping({"colour_weight": 9.0, "of_the_future": 1.0})
    assert parameters == CRFParameters(colour_weight=9.0)


@pytest.mark.parametrize(
    ("name", "error"), [("default", 0.01), ("weak", 0.01), ("place alone", 1e-4), ("unnormalised", 0.04)]
)
def test_close_to_mean_field_by_brute_force(name: str, error: float) -> None:
    """Unnormalised less so, because the lattice's sums are smaller than a Gaussian's."""
    image, probabilities = scene(24, 30, 3)
    refined = dense_crf(image, probabilities, KERNELS[name])
    expected = by_brute_force(image, probabilities, KERNELS[name])
    assert np.abs(refined - expected).mean() < error
    assert (refined.argmax(0) == expected.argmax(0)).mean() > 1 - error
    assert (refined.argmax(0) != probabilities.argmax(0)).mean() > 0.05


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", KERNELS)
def test_no_further_from_brute_force_than_pydensecrf(name: str) -> None:
    """The lattice gives what its lattice gives; it has one for places, too."""
    image, probabilities = scene(20, 32, 6)
    refiners = dense_crf, by_pydensecrf, by_brute_force
    ours, theirs, expected = (refine(image, probabilities, KERNELS[name]) for refine in refiners)
    assert np.abs(ours - expected).mean() < np.abs(theirs - expected).mean() + 1e-5
    if KERNELS[name].smooth_weight == 0:
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("name", ["default", "strong", "authors"])
def test_shortcuts_change_no_label(name: str, request: pytest.FixtureRequest) -> None:
    image, probabilities = scene(40, 50, 6)
    probabilities[2:] *= 0.05
    probabilities /= probabilities.sum(0)
    short = dense_crf(image, probabilities, KERNELS[name]).argmax(0)
    request.getfixturevalue("exact")
    assert (short == dense_crf(image, probabilities, KERNELS[name]).argmax(0)).mean() >= 0.999


@pytest.mark.parametrize(("difference", "rare"), [(1e-4, 0), (1e-2, 4)])
def test_nearly_even_labels_are_decided_in_the_end(difference: float, rare: int) -> None:
    """Differences double with each iteration: at first hardly anything changes."""
    image, _ = scene(40, 60, 6)
    probabilities = np.full((2 + rare, 40, 60), 1e-3, np.float32)
    probabilities[0] = 0.5 - 5e-4 * rare + difference * np.random.default_rng(0).standard_normal((40, 60))
    probabilities[1] = 1 - probabilities[0] - 1e-3 * rare
    refined = dense_crf(image, probabilities, CRFParameters())
    expected = by_pydensecrf(image, probabilities, CRFParameters())
    assert (expected.argmax(0) != probabilities.argmax(0)).mean() > 0.3
    assert (refined.argmax(0) == expected.argmax(0)).mean() > 0.99


def test_nothing_to_do() -> None:
    image, probabilities = scene(9, 7, 4)
    one_possible = np.full((5, 9, 7), 0.001, np.float32)
    one_possible[3] = 0.996
    assert np.array_equal(dense_crf(image, one_possible, CRFParameters()), one_possible)
    for parameters in (CRFParameters(iterations=0), CRFParameters(smooth_weight=0, colour_weight=0)):
        assert np.array_equal(dense_crf(image, probabilities, parameters), probabilities)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3)])
@pytest.mark.parametrize(("sigma", "normalise"), [(0.1, True), (10_000, True), (5, False)])
def test_odd_sizes_and_deviations(size: tuple[int, int], normalise: bool, sigma: float) -> None:
    image, probabilities = scene(*size, 3)
    parameters = CRFParameters(10, sigma, 2, sigma, sigma, 2, normalise)
    refined = dense_crf(image, probabilities, parameters)
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)
    assert refined.min() >= 0


@pytest.mark.parametrize("classes", [3, 140])
def test_labels_that_are_as_likely_stay_so(classes: int) -> None:
    image, probabilities = scene(21, 37, classes)
    probabilities[1:] = probabilities[1]
    refined = dense_crf(image, probabilities / probabilities.sum(0), CRFParameters())
    assert (refined[1:] == refined[1]).all() and (refined[0] != probabilities[0]).any()


def test_memory() -> None:
    image, probabilities = scene(150, 200, 8)
    tracemalloc.start()
    dense_crf(image, probabilities, CRFParameters(iterations=3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400 * 150 * 200  # bytes a pixel, for 8 labels


def points(count: int, side: float) -> np.ndarray:
    return (np.random.default_rng(0).random((5, count)) * side).astype(np.float32)


def filtered(lattice: Lattice, values: np.ndarray) -> np.ndarray:
    return lattice.gather(lattice.spread(values))


def test_what_is_far_away_changes_nothing() -> None:
    """The corners' keys have more than 32 bits then, where those of the points alone have fewer."""
    features, values = points(30, 3), np.random.default_rng(1).random((30, 2), np.float32)
    near = filtered(Lattice(features), values)
    for aside in (4000, -4000):
        both = Lattice(np.concatenate([features, features + np.float32(aside)], 1))
        np.testing.assert_allclose(filtered(both, np.concatenate([values] * 2))[:30], near, rtol=1e-5)


def test_weighted_means_are_those_of_a_gaussian() -> None:
    features = points(500, 2)
    values = np.stack([np.random.default_rng(1).random(500), features[0] > 1], 1).astype(np.float32)
    kernel = np.exp(-((features[:, :, None] - features[:, None]) ** 2).sum(0) / 2)
    lattice, one = Lattice(features), np.ones((500, 1), np.float32)
    mass = filtered(lattice, one)
    means = kernel @ values / kernel.sum(1, keepdims=True)
    np.testing.assert_allclose(filtered(lattice, values) / mass, means, atol=0.08)
    assert 0.5 < (mass[:, 0] / kernel.sum(1)).min() < (mass[:, 0] / kernel.sum(1)).max() < 1.05


def test_the_widest_photo_in_the_narrowest_kernel() -> None:
    """1,024 pixels and 256 colours in steps of 0.1, the least that a network's file may ask for."""
    corners = np.array(np.meshgrid(*[[0, 1]] * 5)).reshape(5, -1)
    features = (corners * np.array([1023, 1023, 255, 255, 255])[:, None] / 0.1).astype(np.float32)
    assert (filtered(Lattice(features), np.ones((32, 1), np.float32)) > 0).all()
    with pytest.raises(ValueError, match="too many deviations apart"):
        Lattice(features * 100)

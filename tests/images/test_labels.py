"""Labels: connected objects against SciPy's, where they meet, and those of large photos against torch's."""

from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from deconvseg.images.components import components, outline
from deconvseg.images.enlarge import enlarge

small_masks = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([0, 1, 2, 255]),
)


@settings(max_examples=50)
@given(small_masks)
def test_as_scipy_finds(mask: NDArray[np.uint8]) -> None:
    numbers, found = components(mask)
    assert numbers.shape == mask.shape and numbers.dtype == np.int32
    number = 0
    for label in np.setdiff1d(mask, (0, 255)):
        theirs, _ = ndimage.label(mask == label, np.ones((3, 3)))  # by their first pixel, as ours
        for k, (rows, columns) in enumerate(ndimage.find_objects(theirs), 1):
            assert np.array_equal(numbers == number + 1, theirs == k)
            box, area = [columns.start, rows.start, columns.stop, rows.stop], (theirs == k).sum()
            assert found[number].tolist() == [label, *box, area]
            number += 1
    assert len(found) == number == numbers.max(initial=0)


@settings(max_examples=40)
@given(small_masks, st.integers(1, 4))
def test_outline_by_its_definition(mask: NDArray[np.uint8], width: int) -> None:
    wanted = np.zeros(mask.shape, bool)
    for (y, x), label in np.ndenumerate(mask):
        column, row = mask[max(y - width, 0) : y + width + 1, x], mask[y, max(x - width, 0) : x + width + 1]
        wanted[y, x] = (column != label).any() or (row != label).any()
    np.testing.assert_array_equal(outline(mask, width), wanted)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(2, 5), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 50, 1 << 17]),
)
def test_labels_are_those_of_interpolated_probabilities(
    seed: int, small: tuple[int, int, int], size: tuple[int, int], strip: int
) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(small[0]), small[1:])
    probabilities = probabilities.transpose(2, 0, 1).astype(np.float32).copy()
    exact = torch.from_numpy(probabilities)[None].double()
    expected = torch.nn.functional.interpolate(exact, size, mode="bilinear", align_corners=False)[0].numpy()
    with mock.patch("deconvseg.images.enlarge._STRIP_PIXELS", strip):
        labels, kept = enlarge(probabilities, *size, True)
        alone, none = enlarge(probabilities, *size, False)
    assert none is None
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(alone, labels)
    assert kept is not None
    np.testing.assert_allclose(kept, expected, atol=1e-5)
    chosen = np.take_along_axis(expected, labels[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen, expected.max(0), atol=1e-6)  # the best class, or as good as it

"""Labels of large photos, against torch's own interpolation."""

from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconvseg.images.enlarge import enlarge


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

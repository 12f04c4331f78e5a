"""Connected objects, against SciPy's and by hand; where labels meet."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from deconvseg.images.components import components, outline

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

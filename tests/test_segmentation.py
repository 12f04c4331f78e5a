"""What a Segmentation says of itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconvseg.errors import UsageError
from deconvseg.images.palette import palette_for
from deconvseg.segmentation import Segmentation

CLASSES = ("background", "cat", "dog", "car")
LABELS = np.array([[0, 1, 1], [2, 3, 1]], np.uint8)


def test_shares() -> None:
    result = Segmentation(LABELS, CLASSES, palette_for(4))
    assert result.class_shares() == {"cat": 3 / 6, "background": 1 / 6, "dog": 1 / 6, "car": 1 / 6}
    assert next(iter(result.class_shares())) == "cat"


def test_shares_of_a_large_photo() -> None:
    labels = np.zeros((3000, 3000), np.uint8)
    labels[:, :750] = 3
    assert Segmentation(labels, CLASSES, palette_for(4)).class_shares() == {"background": 0.75, "car": 0.25}


def test_only() -> None:
    probabilities = np.array([[0.1, 0.2], [0.5, 0.2], [0.3, 0.5], [0.1, 0.1]], np.float32)[:, None]
    result = Segmentation(np.array([[1, 2]], np.uint8), CLASSES, palette_for(4), probabilities)
    cats = result.only(["cat"])
    assert cats.labels.tolist() == [[1, 0]]
    assert cats.labels.dtype == np.uint8
    assert (cats.classes, cats.palette) == (result.classes, result.palette)
    assert cats.probabilities is not None
    np.testing.assert_allclose(cats.probabilities[:, 0], [[0.5, 0.8], [0.5, 0.2], [0, 0], [0, 0]], atol=1e-6)
    assert result.labels.tolist() == [[1, 2]]


def test_only_one_name_and_names_that_are_none() -> None:
    result = Segmentation(LABELS, ("background", "cat", "dog", "car"), palette_for(4))
    assert result.only("car").labels.tolist() == [[0, 0, 0], [0, 3, 0]]
    with pytest.raises(UsageError, match="'Cat' is no class of this network; did you mean cat"):
        result.only(["dog", "Cat"])


def test_results_can_be_compared_and_kept_in_sets() -> None:
    one, other = (Segmentation(LABELS, CLASSES, palette_for(4)) for _ in range(2))
    assert one == one and one != other
    assert len({one, other}) == 2


@given(st.sets(st.sampled_from(CLASSES)))
def test_only_keeps_what_is_chosen_and_nothing_else(names: set[str]) -> None:
    result = Segmentation(LABELS, CLASSES, palette_for(4))
    chosen = result.only(names)
    assert chosen.probabilities is None
    expected = [[CLASSES[i] if CLASSES[i] in names else "background" for i in row] for row in LABELS]
    assert [[CLASSES[i] for i in row] for row in chosen.labels] == expected
    assert sum(chosen.class_shares().values()) == pytest.approx(1)

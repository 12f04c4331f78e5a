"""The legend: it names colours, hides as little as it can, and never breaks a photo."""

import numpy as np
import pytest
from PIL import Image

from deconvseg.images.write import Entry, draw_legend

RED, GREEN = (230, 20, 30), (10, 200, 40)


def drawn(size: tuple[int, int], entries: list[Entry], busy: np.ndarray) -> np.ndarray:
    image = Image.new("RGB", size, (120, 120, 120))
    draw_legend(image, entries, busy)
    return np.asarray(image).astype(int)


def has(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image - colour).max(axis=2) == 0).any())


@pytest.mark.parametrize("half", [np.s_[:50, :75], np.s_[:50, 75:], np.s_[50:, 75:]], ids=str)
def test_goes_to_the_corner_without_objects(half: tuple[slice, slice]) -> None:
    busy = np.ones((100, 150), bool)
    busy[half] = False
    image = drawn((150, 100), [("cat", RED), ("dog", GREEN)], busy)
    changed = (image != 120).any(axis=2)
    assert changed[half].any() and not (changed & busy).any()
    assert has(image, RED) and has(image, GREEN)


def test_last_entries_are_left_out_where_there_is_no_room() -> None:
    entries = [("cat", RED)] + [(f"class {i}", (1, 2, 3)) for i in range(12)] + [("dog", GREEN)]
    image = drawn((90, 60), entries, np.zeros((60, 90), bool))
    assert has(image, RED)
    assert not has(image, GREEN)
    assert has(drawn((500, 500), entries, np.zeros((500, 500), bool)), GREEN)


@pytest.mark.parametrize(("size", "names"), [((1, 1), ["cat"]), ((400, 5), ["cat"]), ((90, 60), [])])
def test_no_room_or_nothing_to_name(size: tuple[int, int], names: list[str]) -> None:
    entries = [(name, RED) for name in names]
    assert (drawn(size, entries, np.zeros(size[::-1], bool)) == 120).all()

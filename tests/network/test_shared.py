"""The shared encoder: windows of its maps, and which windows and which parts of a pyramid are taken."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fold import prepare
from deconvseg.network.shared import (
    LEVELS,
    Rectangle,
    Window,
    cover,
    cut,
    decode,
    encode,
    level_side,
    nearest_window,
    photo_box,
)

TINY: dict[str, Any] = {"classes": 3, "crop_size": 64, "widths": (4, 5, 6, 7, 8), "bottleneck": 9}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"encoder_norm": False},
    {"decoder_convs": (2, 2, 2, 1)},
    {"decoder_convs": (1,)},
]


def network(**changes: Any) -> DeconvNet:
    torch.manual_seed(0)
    made = DeconvNet(**{**TINY, **changes})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.inference_mode()
def test_a_window_that_is_all_of_the_image_has_the_crops_scores(
    changes: dict[str, Any], precision: Any
) -> None:
    ready = prepare(network(**changes), torch.device("cpu"), precision)
    assert isinstance(ready, DeconvNet)
    image = torch.randn(1, 3, 64, 64).to(next(ready.parameters()).dtype)
    maps = cut(encode(ready, image), 0, 0, 2)
    want = ready(image)
    assert want.float().std() > 0
    assert torch.equal(decode(ready, [part[None] for part in maps]), want)


@torch.inference_mode()
def test_away_from_its_border_a_window_is_the_crop() -> None:
    """One convolution a block reaches 31 pixels: the inner 2 x 2 of 4 x 4 cells see no border."""
    wide = network(crop_size=128, encoder_convs=(1, 1, 1, 1, 1)).double()
    image = torch.randn(1, 3, 224, 256, dtype=torch.float64)
    crop = image[..., 64:192, 96:224]
    window = cut(encode(wide, image), 2, 3, 4)
    alone = cut(encode(wide, crop), 0, 0, 4)
    torch.testing.assert_close(window[0][:, 1:3, 1:3], alone[0][:, 1:3, 1:3])
    assert not torch.allclose(window[0], alone[0])  # at the border it sees more than the crop
    for part, other in zip(window[1:], alone[1:], strict=True):
        quarter = part.shape[-1] // 4
        inner = slice(quarter, 3 * quarter)
        assert torch.equal(part[:, inner, inner], other[:, inner, inner])


@torch.inference_mode()
def test_unpooling_a_window_puts_its_maxima_where_they_were() -> None:
    """An oracle without any index: the window's non-zero values are those of the whole map's unpooling."""
    one = network(crop_size=32, decoder_convs=(1,))
    image = torch.randn(1, 3, 96, 128)
    maps = encode(one, image)
    features, switches = one.pool(image)
    whole = functional.max_unpool2d(features, switches[-1], [2, 2])
    seen: list[torch.Tensor] = []
    one.compress = lambda pooled: pooled  # type: ignore[method-assign]
    one.decode = lambda code, where: functional.max_unpool2d(code, where[-1], [2, 2])  # type: ignore[method-assign]
    for top, left in ((0, 0), (1, 2), (2, 3)):
        seen.append(decode(one, [part[None] for part in cut(maps, top, left, 1)]))
        assert torch.equal(seen[-1], whole[..., 2 * top : 2 * top + 2, 2 * left : 2 * left + 2])
    assert (torch.cat(seen) != 0).any()


FRAME = (-10, 0, 118, 128)


def test_nearest_windows_by_hand() -> None:
    """A frame of 128 pixels and windows of 32: its side is 32, 45, 64, 91, 128, 181 pixels on the levels."""
    assert [level_side(level, 32) for level in range(LEVELS)] == [32, 45, 64, 91, 128, 181]
    assert nearest_window(FRAME, FRAME, 32) == Window(0, 0, 0)
    assert photo_box(Window(0, 0, 0).rectangle(32), FRAME, 32) == FRAME
    half = (-10 + 64, 0, 118, 64)
    assert nearest_window(half, FRAME, 32) == Window(2, 0, 1)
    assert photo_box(Window(2, 0, 1).rectangle(32), FRAME, 32) == half
    moved = [value + 25 for value in half]  # 12.5 pixels on its level: not yet the next cell
    assert nearest_window(moved, FRAME, 32) == Window(2, 0, 1)
    assert nearest_window([value - 40 for value in half], FRAME, 32) == Window(2, -1, 0)
    assert nearest_window((-90, -80, 198, 208), FRAME, 32) == Window(0, 0, 0)  # larger than the frame
    assert nearest_window((50, 60, 54, 64), FRAME, 32).level == LEVELS - 1


@given(st.integers(25, 120), st.floats(-20, 100), st.floats(-20, 100), st.sampled_from([32, 64, 224]))
def test_windows_are_near_their_boxes(side: int, x: float, y: float, crop_size: int) -> None:
    box = (x, y, x + side, y + side)
    window = nearest_window(box, FRAME, crop_size)
    found = photo_box(window.rectangle(crop_size), FRAME, crop_size)
    half_cell = 16 * 128 / level_side(window.level, crop_size)
    for axis in (0, 1):
        assert side / 2**0.25 - 2 <= found[axis + 2] - found[axis] <= side * 2**0.25 + 2
        centre, wanted = (found[axis] + found[axis + 2]) / 2, (box[axis] + box[axis + 2]) / 2
        assert abs(centre - wanted) <= half_cell + 1


def test_cover_by_hand() -> None:
    beside = [Window(1, 0, 0), Window(1, 0, 1), Window(1, 0, 2)]
    assert cover(beside, 64) == [Rectangle(1, 0, 0, 2, 4)]
    apart = [Window(1, 0, 0), Window(1, 6, 6), Window(2, 0, 0)]
    assert set(cover(apart, 64)) == {
        Rectangle(1, 0, 0, 2, 2), Rectangle(1, 6, 6, 8, 8), Rectangle(2, 0, 0, 2, 2)
    }  # fmt: skip
    assert cover([], 64) == []


windows = st.builds(Window, st.integers(0, 2), st.integers(-2, 8), st.integers(-2, 8))


@given(st.lists(windows, max_size=12, unique=True), st.sampled_from([32, 64, 128]))
def test_a_cover_holds_all_windows_and_is_never_larger_than_they(found: list[Window], crop_size: int) -> None:
    cells = crop_size // 32
    rectangles = cover(found, crop_size)
    assert sum(rectangle.area for rectangle in rectangles) <= len(found) * cells**2
    for level, top, left in found:
        assert any(
            r.level == level and r.top <= top and r.left <= left
            and top + cells <= r.bottom and left + cells <= r.right
            for r in rectangles
        )  # fmt: skip

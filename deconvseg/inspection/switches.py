"""Pooling and unpooling on a region: where maxima were taken, and where values were put back (figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.images.read import PhotoPixels
from deconvseg.inspection.layers import choose_channels, means
from deconvseg.inspection.region import Region, follow
from deconvseg.network.trace import Trace
from deconvseg.segmenter import Segmenter

CORNERS = ("top left", "top right", "bottom left", "bottom right")
ZOOMED = 4
"""Cells of 2 x 2 pixels on a side of the part that is shown enlarged."""


@dataclass(frozen=True)
class Stage:
    """One pooling and the unpooling that undoes it, on one channel; both take the same corners.

    Attributes:
        number: of the pooling, 1 to 5.
        channel: which map, from 0.
        encoded: float32 (2h, 2w), the encoder's map before the pooling.
        pooled: float32 (h, w), after it.
        corners: uint8 (h, w): which pixel of each 2 x 2 cell is the largest, an index into CORNERS. Of equal
            ones the first counts, so a cell of zeros is `top left`.
        decoded: float32 (h, w), the decoder's map before the unpooling; None if nothing undoes the pooling.
        unpooled: float32 (2h, 2w), after it, 0 at all but one pixel of each cell; None likewise.
        shares: how often each of CORNERS was taken (0..1, sum 1) in all channels, inside the photo; cells
            without anything above 0 are left out. None if there are no others.
        empty: share of such cells.
        window: x0 y0 x1 y1 in pixels of `encoded`: up to ZOOMED cells each way, where most happens.
    """

    number: int
    channel: int
    encoded: NDArray[np.float32]
    pooled: NDArray[np.float32]
    corners: NDArray[np.uint8]
    decoded: NDArray[np.float32] | None
    unpooled: NDArray[np.float32] | None
    shares: tuple[float, ...] | None
    empty: float
    window: tuple[int, int, int, int]


@dataclass(frozen=True)
class Switches:
    """The poolings of a region, the first (finest) first.

    Attributes:
        region: what went in.
        stages: the five poolings.
        asked: the class that the channels were chosen for, None if they are the most active ones.
    """

    region: Region
    stages: tuple[Stage, ...]
    asked: str | None

    def numbers(self) -> dict[str, object]:
        """Everything but the maps themselves, fit for JSON."""
        return {
            "box": list(self.region.box),
            "class": self.asked,
            "stages": [
                {
                    "stage": stage.number,
                    "size": list(stage.encoded.shape),
                    "pooled_size": list(stage.pooled.shape),
                    "channel": stage.channel,
                    "corners": stage.shares
                    and dict(zip((name.replace(" ", "_") for name in CORNERS), stage.shares, strict=True)),
                    "empty": stage.empty,
                    "unpooled": stage.unpooled is not None,
                    "window": list(stage.window),
                }
                for stage in self.stages
            ],
        }


def inspect_switches(
    segmenter: Segmenter,
    photo: PhotoPixels,
    box: Sequence[float] | None = None,
    class_name: str | None = None,
) -> Switches:
    """The poolings of the encoder and the unpoolings of the decoder, for the whole photo or a box of it.

    The channel of a stage is one that is active on both sides, with the largest product of the means inside
    the photo; with a class, the one whose unpooled map drives that class's score most, as in
    `inspect_layers`. Where no unpooling undoes the pooling, it is the most active one.

    Args and errors as of `inspect_layers`.
    """
    region, found, label = follow(segmenter, photo, box, class_name)
    driving = {} if label is None else choose_channels(found, label, region)
    stages = (_stage(found, number, driving, region) for number in range(1, 6))
    return Switches(region, tuple(stages), class_name)


def corners_of(switches: Tensor) -> Tensor:
    """Switches (C, h, w), flat indices into the (2h, 2w) map, as the number 0..3 of the corner: uint8."""
    width = 2 * switches.shape[-1]
    return (switches // width % 2 * 2 + switches % 2).to(torch.uint8)


def _stage(found: Trace, number: int, driving: dict[str, int], region: Region) -> Stage:
    encoded, where = found.encoded[number - 1], found.switches[number - 1]
    corners = corners_of(where)
    pooled = encoded.flatten(1).gather(1, where.flatten(1)).view_as(where)
    active, back = means(pooled, region), found.decoded.get(f"unpool{number}")
    unpooled = None if back is None else back[0].detach()
    if unpooled is not None:
        active = active * means(unpooled, region)
    channel = driving.get(f"unpool{number}", int(active.argmax()))
    decoded = None if unpooled is None else unpooled[channel].flatten()[where[channel]]
    inside = region.cells(pooled.shape[-1])
    filled = pooled[:, *inside] > 0
    taken = corners[:, *inside][filled].cpu().numpy()
    counts = np.bincount(taken, minlength=len(CORNERS))
    return Stage(
        number,
        channel,
        _array(encoded[channel]),
        _array(pooled[channel]),
        corners[channel].cpu().numpy(),
        None if decoded is None else _array(decoded),
        None if unpooled is None else _array(unpooled[channel]),
        tuple((counts / len(taken)).tolist()) if len(taken) else None,
        1 - len(taken) / filled.numel(),
        _busiest(_array(pooled[channel] if decoded is None else pooled[channel] * decoded), inside),
    )


def _busiest(map_: NDArray[np.float32], inside: tuple[slice, slice]) -> tuple[int, int, int, int]:
    """The window with the largest sum inside the photo, in pixels before pooling; of equal ones the first."""
    counted = np.zeros_like(map_)
    counted[inside] = map_[inside]
    side = min(ZOOMED, len(map_))
    sums = sliding_window_view(counted, (side, side)).sum((2, 3))
    top, left = (2 * int(place) for place in np.unravel_index(sums.argmax(), sums.shape))
    return left, top, left + 2 * side, top + 2 * side


def _array(map_: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = map_.float().cpu().numpy()
    return found

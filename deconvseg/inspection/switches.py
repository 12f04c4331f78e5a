"""Pooling and unpooling on a region: where maxima were taken, and where values were put back (figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from deconvseg.images.read import PhotoPixels
from deconvseg.inspection.layers import choose_channels
from deconvseg.inspection.region import Region, deconvnet_of, look_at
from deconvseg.network.shared import corners_of
from deconvseg.network.trace import Trace, trace
from deconvseg.segmenter import Segmenter, refuse_unknown

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
        shares: how often each of CORNERS was taken (0..1, sum 1) in all channels, cells without anything
            above 0 left out; None if there are no others.
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

    The channel of a stage is one that is active on both sides, with the largest product of the means before
    and after; with a class, the one whose unpooled map drives that class's score most, as in
    `inspect_layers`. Where no unpooling undoes the pooling, it is the most active one.

    Args and errors as of `inspect_layers`.
    """
    classes = segmenter.classes
    refuse_unknown([] if class_name is None else [class_name], classes)
    region = look_at(segmenter, photo, box)
    found = trace(deconvnet_of(segmenter), region.inputs)
    driving = {}
    if class_name is not None:
        driving = choose_channels(found, classes.index(class_name), region.inside)
    return Switches(region, tuple(_stage(found, number, driving) for number in range(1, 6)), class_name)


def _stage(found: Trace, number: int, driving: dict[str, int]) -> Stage:
    encoded, where = found.encoded[number - 1], found.switches[number - 1]
    corners = corners_of(where)
    pooled = encoded.flatten(1).gather(1, where.flatten(1)).view_as(where)
    active, back = pooled.mean((1, 2)), found.decoded.get(f"unpool{number}")
    unpooled = None if back is None else back[0].detach()
    if unpooled is not None:
        active = active * unpooled.mean((1, 2))
    channel = driving.get(f"unpool{number}", int(active.argmax()))
    decoded = None if unpooled is None else unpooled[channel].flatten()[where[channel]]
    taken = corners[pooled > 0].flatten()
    counts = np.bincount(taken.cpu().numpy(), minlength=len(CORNERS))
    return Stage(
        number,
        channel,
        _array(encoded[channel]),
        _array(pooled[channel]),
        corners[channel].cpu().numpy(),
        None if decoded is None else _array(decoded),
        None if unpooled is None else _array(unpooled[channel]),
        tuple((counts / len(taken)).tolist()) if len(taken) else None,
        1 - len(taken) / pooled.numel(),
        _busiest(_array(pooled[channel]), None if decoded is None else _array(decoded)),
    )


def _busiest(pooled: NDArray[np.float32], decoded: NDArray[np.float32] | None) -> tuple[int, int, int, int]:
    """The window with the most active cells, by both maps; among equal ones the first."""
    both = pooled if decoded is None else pooled * decoded
    height, width = min(ZOOMED, both.shape[0]), min(ZOOMED, both.shape[1])
    sums = sliding_window_view(both, (height, width)).sum((2, 3))
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return 2 * int(left), 2 * int(top), 2 * (int(left) + width), 2 * (int(top) + height)


def _array(map_: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = map_.float().cpu().numpy()
    return found

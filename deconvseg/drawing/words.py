"""What is said of labellings below their pictures."""

from __future__ import annotations

from collections.abc import Sequence

from deconvseg.images.palette import tints
from deconvseg.segmentation import Segmentation

_LEAST = 0.005
"""Classes with less of the pixels are not told."""
_TOLD = 2
"""Of more classes, only how many there are: all would not fit below a picture."""


def percent(share: float) -> str:
    """A share (0..1) in few letters."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def shares(labelling: Segmentation) -> str:
    """The two largest objects' classes and their shares of pixels, and how many more are not tiny."""
    found = {name: share for name, share in labelling.class_shares().items() if share >= _LEAST}
    found.pop(labelling.classes[0], None)
    told = [f"{name} {percent(share)}" for name, share in found.items()]
    more = [f"{len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return ", ".join(told[:_TOLD] + more) or "background alone"


def objects(labellings: Sequence[Segmentation]) -> list[tuple[str, tuple[int, int, int]]]:
    """The classes but background that occur in labellings by one network, as overlays show them.

    In the order of the last labelling, largest first, then those of the others.
    """
    last = labellings[-1]
    colours = dict(zip(last.classes, tints(last.palette), strict=True))
    found = dict.fromkeys(name for one in reversed(labellings) for name in one.class_shares())
    return [(name, colours[name]) for name in found if name != last.classes[0]]

"""The result of segmenting one photo: the only object that crosses from computing to writing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deconvseg.errors import UsageError

Palette: TypeAlias = tuple[tuple[int, int, int], ...]
_COUNTED = 1 << 22


@dataclass(frozen=True, repr=False, eq=False)
class Segmentation:
    """One photo's labelling. Every array has the size of the photo as a person sees it (EXIF applied).

    Attributes:
        labels: uint8 (H, W), indices into `classes`; 0 is background.
        classes: class names, background first.
        palette: one (R, G, B) of 0..255 a class, same length as `classes`.
        probabilities: float32 (C, H, W) summing to 1 over C, or None when they were not asked for.
        boxes: float32 (N, 4), x0 y0 x1 y1 in pixels, half-open: the regions that went through the network,
            the whole image first; they may reach outside the photo.
        seconds: wall-clock seconds by step (`proposals`, `network`, `crf`, ...).
    """

    labels: NDArray[np.uint8]
    classes: tuple[str, ...]
    palette: Palette
    probabilities: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.class_shares().items())
        return f"{type(self).__name__}({self.width} x {self.height} pixels: {shares})"

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.labels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.labels.shape[1])

    def class_shares(self) -> dict[str, float]:
        """Share of pixels (0..1) of every class that occurs, largest first."""
        counts = np.zeros(len(self.classes), np.int64)
        flat = self.labels.ravel()
        for start in range(0, flat.size, _COUNTED):  # bincount makes 8 bytes of a label
            counts += np.bincount(flat[start : start + _COUNTED], minlength=len(self.classes))
        order = sorted(np.flatnonzero(counts), key=lambda i: -int(counts[i]))
        return {self.classes[i]: float(counts[i] / self.labels.size) for i in order}

    def only(self, names: Collection[str]) -> Self:
        """The same with all other classes made background; ids, `classes` and `palette` stay as they are.

        A pixel is of a class here if it was of this class before: choosing does not move any border. Of the
        probabilities, background becomes that of everything not chosen, which where several classes are in
        question can exceed the label's own.

        Args:
            names: of classes; a string is one name.

        Raises:
            UsageError: a name that is no class.
        """
        names = chosen(names)
        refuse_unknown([name for name in names if name != self.classes[0]], self.classes)
        kept = np.array([name in names for name in self.classes])
        kept[0] = True
        labels = np.where(kept, np.arange(len(kept)), 0).astype(np.uint8)[self.labels]
        probabilities = None
        if self.probabilities is not None:
            probabilities = self.probabilities * kept[:, None, None].astype(np.float32)
            probabilities[0] += self.probabilities[~kept].sum(0)
        return replace(self, labels=labels, probabilities=probabilities)


def chosen(names: Collection[str]) -> list[str]:
    """Names of classes, each once, in order; a string is one name, not its letters."""
    return [names] if isinstance(names, str) else sorted(set(names), key=str)


def refuse_unknown(names: Collection[str], classes: tuple[str, ...]) -> None:
    """Raise a UsageError that tells the nearest name unless all are `classes`, and none the background."""
    for name in names:
        if name not in classes[1:]:
            near = difflib.get_close_matches(str(name).lower(), classes[1:], 1, cutoff=0.5)
            cure = f"did you mean {near[0]}?" if near else f"choose from {', '.join(classes[1:])}"
            raise UsageError(f"{name!r} is no class of this network; {cure}")

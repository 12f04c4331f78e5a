"""Soft labels: the class probabilities another network gave to the training photos (distillation)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvseg.data.crops import ImageStore, sampling_grid
from deconvseg.errors import DataError

SHRINK = 4
"""Soft labels are held at a quarter of the photos' resolution: they are smooth, and many maps a photo."""


class SoftLabels:
    """Probabilities of every photo of a store: float16 (N, C, S / 4, S / 4), zero outside the photo."""

    def __init__(self, maps: Tensor, canvas: int) -> None:
        self.maps, self.canvas = maps, canvas

    @classmethod
    def load(
        cls,
        folder: Path,
        names: Sequence[str],
        store: ImageStore,
        classes: Sequence[str],
        device: torch.device,
    ) -> SoftLabels:
        """Read `NAME.scores.npz`, as `deconvseg segment --save scores` writes them, for every photo.

        Raises:
            DataError: a file is missing, unreadable, or of other classes.
        """
        canvas = store.images.shape[-1]
        side = canvas // SHRINK
        maps = torch.zeros(len(names), len(classes), side, side, dtype=torch.float16)
        for i, name in enumerate(names):
            values = torch.from_numpy(_read(folder / f"{name}.scores.npz", classes)).float()
            height, width = (max(round(int(s) / SHRINK), 1) for s in store.sizes[i])
            small = functional.interpolate(values[None], (height, width), mode="area")[0]
            maps[i, :, :height, :width] = small.half()
        return cls(maps.to(device), canvas)

    def cut(self, photo: Tensor, boxes: Tensor, mirror: Tensor, size: int) -> Tensor:
        """Probabilities of crops, float32 (B, C, size, size); arguments as in `data.crops.cut_crops`.

        They sum to 1 inside the photos and fade to 0 at their borders.
        """
        grid = sampling_grid(boxes, mirror, size, self.canvas)
        return functional.grid_sample(self.maps[photo].float(), grid, mode="bilinear", align_corners=False)


def _read(path: Path, classes: Sequence[str]) -> NDArray[np.floating]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found, names = np.asarray(file["probabilities"]), [str(name) for name in file["classes"]]
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there is no such score file; make them with deconvseg segment --save scores"
        ) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: scores cannot be read ({error}); make them again") from error
    if names != list(classes):
        raise DataError(f"{path}: scores of other classes ({', '.join(names[:5])}, ...)")
    if found.ndim != 3 or len(found) != len(names) or not np.isfinite(found).all():
        raise DataError(f"{path}: scores must be finite numbers (C, H, W); make them again")
    return found

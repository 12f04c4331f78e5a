"""The layers of a caffemodel, taken over one by one into the tensors of a network of our own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor

from deconvseg.errors import WeightsError
from deconvseg.network.caffe import Array, CaffeLayer, CaffeModel
from deconvseg.network.tensor_file import Values

_LISTED = 6


class CaffeLayers:
    """Looks layers up by name, takes their arrays, and tells at the end what was wrong or left over.

    Args:
        model: the file.

    Attributes:
        values: tensors taken so far by our names, arrays that are views of the file wherever possible.

    Raises:
        WeightsError: two layers have one name.
    """

    def __init__(self, model: CaffeModel) -> None:
        self._path = model.path
        self._layers: dict[str, CaffeLayer] = {}
        for layer in model.layers:
            if layer.name in self._layers:
                raise WeightsError(f"{model.path}: two layers with weights are named {layer.name!r}")
            self._layers[layer.name] = layer
        self._empty = len(model.others)
        self._left = dict.fromkeys(self._layers)
        self._wrong: list[str] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.values: dict[str, Values] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def first_of(self, names: Sequence[str]) -> str:
        """The first of these names that the file has, or just the first."""
        return next((name for name in names if name in self._layers), names[0])

    def starting(self, start: str) -> str:
        """The file's first name that starts so, or `start` itself."""
        return next((name for name in self._layers if name.startswith(start)), start)

    def counts(self, prefix: str) -> tuple[int, ...]:
        """How many layers `{prefix}{block}_{i}` blocks 1 to 5 have, going by the highest `i` (up to 99)."""
        counts = [0] * 5
        for name in self._layers:
            if found := re.fullmatch(rf"{prefix}([1-5])_([1-9][0-9]?)", name):
                block, i = map(int, found.groups())
                counts[block - 1] = max(counts[block - 1], i)
        return tuple(counts)

    def kernel(self, name: str) -> tuple[int, ...]:
        """Shape (4 axes) of a layer's kernel, which tells the network's sizes; WeightsError without one."""
        layer = self._layers.get(name)
        if layer is None:
            raise WeightsError(f"{self._path}: it lacks layer {name}; fetch it again")
        if layer.blobs[0].ndim != 4:
            raise WeightsError(
                f"{self._path}: layer {name} has the shape {layer.blobs[0].shape}, which is no convolution's"
            )
        return layer.blobs[0].shape

    def matrix(self, name: str) -> tuple[int, int]:
        """Outputs of a layer, and the inputs that each of them sums up."""
        shape = self._layers[name].blobs[0].shape
        if shape[:2] == (1, 1):  # how old files wrote a matrix
            shape = shape[2:]
        return (shape[0], math.prod(shape[1:])) if shape else (1, 1)

    def expect(self, shapes: Mapping[str, Tensor]) -> None:
        """Set what is to be filled: our tensors' names, and tensors that have the right shape."""
        self._shapes = {name: tuple(tensor.shape) for name, tensor in shapes.items()}

    def take(self, name: str, *targets: str) -> None:
        """Take the arrays of a layer as the tensors of these names, one for one."""
        blobs = self.arrays(name, len(targets))
        for blob, target in zip(blobs, targets, strict=False):
            shape = self._shapes[target]
            if _fits(blob.shape, shape):
                self.values[target] = blob.reshape(shape)
            else:
                self._wrong.append(f"{name} has the shape {blob.shape}, not {shape}")

    def take_norm(self, name: str, target: str, variance: float) -> None:
        """Take scale and shift of a BN layer, with a mean of 0 and this variance."""
        self.take(name, f"{target}.weight", f"{target}.bias")
        shape = self._shapes[f"{target}.weight"]
        self.values[f"{target}.running_mean"] = np.zeros(shape, np.float32)
        self.values[f"{target}.running_var"] = np.full(shape, variance, np.float32)

    def take_enlarger(self, name: str, target: str, bias: str | None) -> None:
        """Take a transposed convolution that has no bias here, and one kernel for each pair of labels.

        Args:
            name: layer of the file, with or without a bias; a kernel a label (`group`) is spread out.
            target: our layer.
            bias: our tensor, taken already, that a bias is added to; None if it has to be 0.
        """
        blobs = self.arrays(name, 1, 2)
        if not blobs:
            return
        kernel, rest = blobs[0], blobs[1:]
        shape = self._shapes[f"{target}.weight"]
        if kernel.shape == (shape[0], 1, *shape[2:]) and shape[0] > 1:
            spread = np.zeros(shape, np.float32)
            spread[range(shape[0]), range(shape[0])] = kernel[:, 0]
            kernel = spread
        if kernel.shape != shape or (rest and not _fits(rest[0].shape, shape[:1])):
            self._wrong.append(f"{name} has the shape {kernel.shape}, not {shape}")
            return
        self.values[f"{target}.weight"] = kernel
        if rest and rest[0].any():
            if bias is None:
                self._wrong.append(f"{name} has a bias")
            elif bias in self.values:
                self.values[bias] = np.asarray(self.values[bias]) + rest[0].reshape(-1)

    def arrays(self, name: str, *counts: int) -> Sequence[Array]:
        """A layer's arrays, which are as many as one of `counts`; if they are not, none."""
        self._left.pop(name, None)
        layer = self._layers.get(name)
        if layer is None:
            self._wrong.append(f"{name} is missing")
        elif len(layer.blobs) not in counts:
            self._wrong.append(f"{name} holds {len(layer.blobs)} arrays, not {' or '.join(map(str, counts))}")
        else:
            return layer.blobs
        return ()

    def only_scale(self, names: Iterable[str]) -> bool:
        """Whether one of these BN layers says that it only scales and shifts, or gives out its statistics."""
        found = [self._layers[name] for name in names if name in self._layers]
        return any(layer.norm_inference or layer.tops == 3 for layer in found)

    def finish(self, kind: str, ignorable: str | None = None) -> str:
        """What was ignored: layers whose name starts with `ignorable`, and those without weights.

        Raises:
            WeightsError: a layer was missing or of another shape, or another one is left over.
        """
        ignored = [name for name in self._left if ignorable and name.startswith(ignorable)]
        wrong = self._wrong + [f"{name} is left over" for name in self._left if name not in ignored]
        if wrong:
            more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
            raise WeightsError(
                f"{self._path}: {kind} by the names of its layers, but {', '.join(wrong[:_LISTED])}{more}; "
                "only the published networks, or the same with other sizes, can be converted"
            )
        if self._empty:
            ignored.append(f"{self._empty} without weights")
        return ", ".join(ignored)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether an array holds what the tensor is to hold.

    Caffe writes vectors with axes of 1 around them, and the kernels of an InnerProduct as a matrix.
    """
    if len(wanted) == 1:
        return math.prod(found) == wanted[0] and all(size in (1, wanted[0]) for size in found)
    matrix = (wanted[0], math.prod(wanted[1:]))
    return found in (wanted, matrix, (1, 1, *matrix))

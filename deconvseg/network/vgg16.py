"""Pretrained VGG-16 convolutions for the encoder."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from deconvseg.errors import WeightsError
from deconvseg.network.base import SegmentationNetwork


def read_vgg16(path: Path) -> dict[str, Tensor]:
    """The 13 convolutions from a local safetensors file, for RGB input, and fc6 and fc7 if it has them.

    Its keys are `conv{block}_{i}.weight` (out, in, 3, 3) and `.bias`, perhaps `fc6` and `fc7` likewise. The
    metadata may tell the `order` that conv1_1 expects, `RGB` or `BGR`; else a name with `bgr` in it does.
    Raises WeightsError if it is unreadable, or has not these 13 layers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            order = (file.metadata() or {}).get("order", "BGR" if "bgr" in path.stem else "RGB")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: VGG-16 convolutions cannot be read ({error})") from error
    if "conv1_1.weight" not in tensors or "conv5_3.bias" not in tensors:
        raise WeightsError(f"{path}: does not hold VGG-16's convolutions conv1_1 to conv5_3")
    if order == "BGR":
        tensors["conv1_1.weight"] = tensors["conv1_1.weight"].flip(1)
    return tensors


def download_vgg16() -> dict[str, Tensor]:
    """The same convolutions from torchvision (the original Caffe weights); WeightsError if that fails."""
    from torchvision.models import VGG16_Weights  # torchvision takes a second to import

    try:
        state = VGG16_Weights.IMAGENET1K_FEATURES.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"VGG-16 cannot be downloaded ({error}); give a local file of it") from error
    names = [f"conv{b}_{i}" for b, convs in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, convs + 1)]
    ours = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    theirs = [tensor for name, tensor in state.items() if name.startswith("features.")]
    return dict(zip(ours, theirs, strict=True))


def initialise_encoder(network: SegmentationNetwork, convolutions: dict[str, Tensor]) -> None:
    """Copy `read_vgg16`'s convolutions into the encoder, and into fc6 and fc7 if they fit; WeightsError if
    VGG-16 lacks a layer of the encoder, or has it in another shape."""
    state = network.state_dict()
    stages = enumerate(network.encoder)
    names = [f"encoder.{i}.{name}" for i, stage in stages for name, _ in stage.named_children()]
    for ours in (*names, "fc6", "fc7"):
        theirs = ours.rpartition(".")[2]
        layer = {f"{ours}.conv.{kind}": convolutions.get(f"{theirs}.{kind}") for kind in ("weight", "bias")}
        if all(tensor is not None and tensor.shape == state[name].shape for name, tensor in layer.items()):
            state |= layer
        elif ours == theirs:
            break  # fc7 makes sense after fc6 alone
        else:
            fault = "VGG-16 lacks this layer of the network, or has it in another shape"
            raise WeightsError(f"{theirs}: {fault}; start without pretrained weights")
    network.load_state_dict(state)

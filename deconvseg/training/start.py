"""The network that a stage of a run starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from deconvseg.errors import UsageError
from deconvseg.network.base import SegmentationNetwork, replace_classes
from deconvseg.network.checkpoint import NetworkHeader, describe_network, load_network
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck
from deconvseg.network.fcn8s import FCN8s, resize_side, start_from_deconvnet
from deconvseg.network.vgg16 import download_vgg16, initialise_encoder, read_vgg16
from deconvseg.training.plan import Plan
from deconvseg.training.recipe import Recipe
from deconvseg.training.run_folder import Start
from deconvseg.weights import network_file


def origin(start: Start, out: Path, stage: str, going_on: bool) -> Path | None:
    """The network file that the first stage of a call starts from, if any.

    Raises:
        UsageError: stage 2 has no stage 1 to start from.
    """
    if start.init is not None:
        return network_file(start.init)
    if stage != "stage2" or going_on:
        return None
    network = out / "stage1" / "last.safetensors"
    if not network.is_file():
        raise UsageError(
            f"{network}: stage 2 starts from stage 1's network, and there is none; run stage 1 first, or "
            "give a network to start from"
        )
    return network


def first_network(
    plan: Plan, recipe: Recipe, init: Path | None, vgg16: Path | None, note: Callable[[str], None]
) -> tuple[SegmentationNetwork, NetworkHeader]:
    """The network that a stage starts from, in training mode, and its header.

    Args:
        plan: has the classes.
        recipe: decides size and form.
        init: a network file; its layers are kept as far as they fit.
        vgg16: file of VGG-16's convolutions; downloaded if omitted.
        note: told what of `init` is not kept.

    Raises:
        UsageError: the recipe describes no network, or none that can start from `init`.
        WeightsError: a file cannot be read, or VGG-16 not be downloaded.
    """
    classes, palette = plan.classes, plan.validation.palette
    if init is None:
        network = _described_network(recipe, len(classes))
        network.dropout = recipe.dropout
        if recipe.pretrained == "none":
            return network, NetworkHeader(classes, palette, scale=1 / 64)  # inputs of about unit size
        initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
        return network, NetworkHeader(classes, palette)
    refuse_other_kind(init, recipe)
    network, header = load_network(init)
    crf = header.crf
    if recipe.network == "fcn8s" and isinstance(network, DeconvNet):
        source, network, crf = network, _described_network(recipe, len(header.classes)), {}
        assert isinstance(network, FCN8s)
        start_from_deconvnet(network, source)
        note(f"{init}: a DeconvNet; FCN-8s starts from its encoder, fc6 and fc7")
    elif isinstance(network, DeconvNet) and network.crop_size != recipe.crop_size:
        network = resize_bottleneck(network, recipe.crop_size)
    elif isinstance(network, FCN8s) and network.side != recipe.photo_side:
        network = resize_side(network, recipe.photo_side)
    if header.classes != classes:
        network, crf = replace_classes(network, len(classes)), {}
        note(f"{init}: made for other classes; all of it is kept but the last layer, which starts anew")
    network.dropout = recipe.dropout
    return network.train(), replace(header, classes=classes, palette=palette, crf=crf, training={})


def refuse_other_kind(init: Path, recipe: Recipe) -> None:
    """Raise UsageError if training by the recipe cannot start from this network."""
    network, _ = describe_network(init)
    if network.architecture == recipe.network:
        return
    if recipe.network != DeconvNet.architecture and isinstance(network, DeconvNet):
        arguments = network.arguments
        same = (arguments["widths"], arguments["encoder_convs"]) == (recipe.widths, recipe.encoder_convs)
        if same and not arguments["encoder_norm"]:
            return
        raise UsageError(
            f"{init}: FCN-8s cannot start from this network: the encoder of the DeconvNet has other layers "
            "than the recipe's, or BatchNorm; take another network"
        )
    raise UsageError(
        f"{init}: a network of the kind {network.architecture}, the recipe is for {recipe.network}; take "
        "another recipe or another network"
    )


def _described_network(recipe: Recipe, classes: int) -> SegmentationNetwork:
    shared: dict[str, Any] = {
        "classes": classes,
        "widths": recipe.widths,
        "encoder_convs": recipe.encoder_convs,
        "bottleneck": recipe.bottleneck,
    }
    try:
        if recipe.network == "fcn8s":
            return FCN8s(
                **shared,
                side=recipe.photo_side,
                head_kernel=recipe.head_kernel,
                padding=recipe.padding,
                norm=recipe.head_norm,
                dropout=recipe.dropout,
            )
        return DeconvNet(
            **shared,
            crop_size=recipe.crop_size,
            decoder_convs=recipe.decoder_convs,
            encoder_norm=recipe.encoder_norm,
        )
    except ValueError as error:
        raise UsageError(f"the recipe describes no network: {error}") from error

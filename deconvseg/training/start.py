"""The network that a stage of a run starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deconvseg.errors import UsageError
from deconvseg.network.base import SegmentationNetwork, replace_classes, resize_side
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck
from deconvseg.network.fcn8s import FCN8s, start_from_deconvnet
from deconvseg.network.vgg16 import download_vgg16, initialise_encoder, read_vgg16
from deconvseg.training.plan import Plan
from deconvseg.training.recipe import Recipe

_SHARED = ("widths", "encoder_convs", "bottleneck")
_OF_DECONVNET = (*_SHARED, "crop_size", "decoder_convs", "encoder_norm")
_OF_FCN8S = (*_SHARED, "head_kernel", "padding", "dropout")


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
        UsageError: the recipe describes no network, or none that can start from `init`, or insists on one.
        WeightsError: a file cannot be read, or VGG-16 not be downloaded.
    """
    classes, palette = plan.classes, plan.validation.palette
    if init is None:
        if recipe.pretrained == "init":
            raise UsageError(
                "this recipe starts from a trained network; name one, like the shipped 'default'"
            )
        network = _new_network(recipe, len(classes))
        network.dropout = recipe.dropout
        if recipe.pretrained == "none":
            return network, NetworkHeader(classes, palette, scale=1 / 64)  # inputs of about unit size
        initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
        return network, NetworkHeader(classes, palette)
    network, header = load_network(init)
    crf = header.crf
    if network.architecture != recipe.network:
        network, crf = _fcn8s_from(network, init, recipe), {}
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


def _fcn8s_from(source: SegmentationNetwork, init: Path, recipe: Recipe) -> SegmentationNetwork:
    """The recipe's network, with what it can take over from one of another kind."""
    network = _new_network(recipe, source.arguments["classes"])
    if not isinstance(network, FCN8s) or not isinstance(source, DeconvNet):
        raise UsageError(
            f"{init}: a network of the kind {source.architecture}, the recipe is for {recipe.network}; take "
            "another recipe or another network"
        )
    try:
        start_from_deconvnet(network, source)
    except ValueError as error:
        raise UsageError(f"{init}: FCN-8s cannot start from this network: {error}; take another") from error
    return network


def _new_network(recipe: Recipe, classes: int) -> SegmentationNetwork:
    is_fcn = recipe.network == "fcn8s"
    arguments = {name: getattr(recipe, name) for name in (_OF_FCN8S if is_fcn else _OF_DECONVNET)}
    try:
        if is_fcn:
            return FCN8s(classes, side=recipe.photo_side, norm=recipe.head_norm, **arguments)
        return DeconvNet(classes, **arguments)
    except ValueError as error:
        raise UsageError(f"the recipe describes no network: {error}") from error

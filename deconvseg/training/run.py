"""One training run from a plan to a run folder: what `deconvseg train` calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deconvseg import __version__
from deconvseg.data.crops import ImageStore
from deconvseg.errors import UsageError
from deconvseg.network.base import SegmentationNetwork, rebuilt, replace_classes
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck
from deconvseg.network.fcn8s import FCN8s, start_from_deconvnet
from deconvseg.network.vgg16 import download_vgg16, initialise_encoder, read_vgg16
from deconvseg.proposals.cache import cache_proposals, read_proposals
from deconvseg.training import distributed
from deconvseg.training.loop import Options, Training
from deconvseg.training.plan import Plan
from deconvseg.training.plots import draw_curves
from deconvseg.training.recipe import Recipe
from deconvseg.training.run_folder import METRICS, STATE, begin, hold
from deconvseg.training.sampler import CropSampler, proposal_regions
from deconvseg.training.scores import load_scores
from deconvseg.weights import network_file


def run_training(
    plan: Plan,
    out: Path,
    options: Options,
    *,
    init: str | Path | None = None,
    vgg16: Path | None = None,
    proposals: Path | None = None,
) -> list[Path]:
    """Read the data, make proposals if need be, and train every stage, each from the one before.

    Returns the folders of the stages that were run. Raises DeconvSegError if data, recipe, weights or run
    folder are not right, and KeyboardInterrupt, after a checkpoint, if `options.interrupted` was true.

    Args:
        plan, options: what to train, and how.
        out: folder of the run; stages with names get folders of these names in it.
        init: network file or name that the first stage starts from; it decides all but crop size and classes.
        vgg16: file of VGG-16's ImageNet convolutions; downloaded if omitted.
        proposals: file of `proposals.cache`, made if it is not there; `out`/proposals.npz if omitted.
    """
    note, done, canvas = options.note, list[Path](), 0
    target = proposals or out / "proposals.npz"
    with hold(out):
        for name, recipe in plan.stages.items():
            distributed.share(recipe.batch_size, recipe.accumulate)
            if not options.resume and (out / name / STATE).is_file():
                raise UsageError(f"{out / name}: it holds a run already; resume it, or use another folder")
        for name, recipe in plan.stages.items():
            folder = out / name
            is_resumed = options.resume and (folder / STATE).is_file()
            if options.resume and not is_resumed:
                note(f"{folder}: no checkpoint yet, training starts from the beginning")
            if is_resumed or done:
                source: Path | None = (folder if is_resumed else done[-1]) / "last.safetensors"
            else:
                source = _origin(init, out, name)
            # The network comes before the data, of which proposals may take hours.
            network, header = first_network(plan, recipe, source, vgg16, note)
            if distributed.rank() == 0:
                begin(folder, _describe(plan, recipe, source), resume=is_resumed)
            if recipe.canvas != canvas:
                canvas = recipe.canvas
                photos, validation, soft = _load(plan, canvas, options)
            if not done and distributed.rank() == 0:
                _make_proposals(plan, target, options)
            distributed.barrier()
            regions = None
            if recipe.proposal_share:
                names = [photo.name for photo in plan.photos]
                regions = proposal_regions(photos, names, read_proposals(target, names), recipe.overlap)
            sampler = CropSampler(photos, recipe, options.device, soft, regions)
            is_through = Training(network, header, sampler, validation, folder, options).run()
            if distributed.rank() == 0:
                draw_curves(folder / METRICS, folder / "curves.png")
            done.append(folder)
            if not is_through:
                break
    return done


def _origin(init: str | Path | None, out: Path, stage: str) -> Path | None:
    if init is not None:
        return network_file(init)
    if stage != "stage2":
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

    Of the network file `init` all layers are kept that fit, and `note` is told what is not. Raises UsageError
    if the recipe describes no network, or none that can start so, and WeightsError for files.
    """
    torch.manual_seed(recipe.seed)
    classes, palette = plan.validation.classes, plan.validation.palette
    if init is None:
        if recipe.pretrained == "init":
            raise UsageError(
                "this recipe starts from a trained network; name one, like the shipped 'default'"
            )
        network, header = _new_network(recipe, len(classes)), NetworkHeader(classes, palette)
        if recipe.pretrained == "none":
            header = replace(header, scale=1 / 64)  # inputs of about unit size
        else:
            initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
    else:
        network, header = load_network(init)
        crf = header.crf
        if network.architecture != recipe.network:
            network, crf = _fcn8s_from(network, init, recipe), {}
            note(f"{init}: a DeconvNet; FCN-8s starts from its encoder, fc6 and fc7")
        elif isinstance(network, DeconvNet) and network.crop_size != recipe.crop_size:
            network = resize_bottleneck(network, recipe.crop_size)
        elif isinstance(network, FCN8s) and network.side != recipe.photo_side:
            network = rebuilt(network, side=recipe.photo_side)
        if header.classes != classes:
            network, crf = replace_classes(network, len(classes)), {}
            note(f"{init}: made for other classes; all of it is kept but the last layer, which starts anew")
        header = replace(header, classes=classes, palette=palette, crf=crf, training={}, ranges={})
    network.dropout = recipe.dropout
    return network.train(), header


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
    is_fcn, shared = recipe.network == "fcn8s", ("widths", "encoder_convs", "bottleneck")
    own = ("head_kernel", "padding", "dropout") if is_fcn else ("crop_size", "decoder_convs", "encoder_norm")
    arguments = {name: getattr(recipe, name) for name in (*shared, *own)}
    try:
        if is_fcn:
            return FCN8s(classes, side=recipe.photo_side, norm=recipe.head_norm, **arguments)
        return DeconvNet(classes, **arguments)
    except ValueError as error:
        raise UsageError(f"the recipe describes no network: {error}") from error


def _make_proposals(plan: Plan, proposals: Path, options: Options) -> None:
    """Make the file of proposals, if any stage draws some and it is not there."""
    draws = any(recipe.proposal_share for recipe in plan.stages.values())
    if draws and not proposals.is_file():
        photos = [(photo.name, photo.example.image) for photo in plan.photos]
        options.note(f"{proposals}: object proposals of {len(photos)} photos")
        numbers = count(1)
        with options.progress(len(photos), "proposals") as show:
            cache_proposals(
                photos, proposals, workers=options.workers, progress=lambda: show(next(numbers), "")
            )


def _describe(plan: Plan, recipe: Recipe, init: Path | None) -> dict[str, Any]:
    """What decides what comes out of a run, for people and for a run that is resumed."""
    sources = dict.fromkeys(photo.dataset.source for photo in plan.photos)
    return {
        "recipe": asdict(recipe),
        "data": {
            "photos": len(plan.photos),
            "validation_photos": len(plan.validation),
            "classes": plan.validation.classes,
            "sources": [str(source) for source in (*sources, plan.validation.source)],
            "photos_with_scores": sum(photo.scores is not None for photo in plan.photos),
        },
        "init": init and str(init),
        "processes": distributed.world_size(),
        "versions": {"deconvseg": __version__, "torch": torch.__version__},
    }


def _load(plan: Plan, canvas: int, options: Options) -> tuple[ImageStore, ImageStore, list[Tensor | None]]:
    """The photos to learn from, those to validate on, and the soft labels of the first, in memory."""
    options.note(f"reading {len(plan.photos) + len(plan.validation)} photos and masks")
    readers = [partial(plan.validation.read, example) for example in plan.validation.examples]
    validation = ImageStore.load(readers, canvas, workers=options.workers)
    training = ImageStore.load([photo.read for photo in plan.photos], canvas, workers=options.workers)
    scores, classes = [photo.scores for photo in plan.photos], plan.validation.classes
    soft = load_scores(scores, training.sizes, classes, workers=options.workers)
    return training, validation, soft if any(scores) else []

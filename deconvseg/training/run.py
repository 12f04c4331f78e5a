"""One training run from a plan to a run folder: what `deconvseg train` calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deconvseg.data.crops import ImageStore
from deconvseg.data.dataset import DataSet
from deconvseg.errors import MissingDependencyError, UsageError
from deconvseg.machine import reuse_freed_memory
from deconvseg.network.base import SegmentationNetwork, replace_classes
from deconvseg.network.checkpoint import NetworkHeader, describe_network, load_network
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck
from deconvseg.network.fcn8s import FCN8s, resize_side, start_from_deconvnet
from deconvseg.network.fold import gather_statistics, pick_device
from deconvseg.network.vgg16 import (
    calibrate_encoder_norm,
    download_vgg16,
    initialise_encoder,
    read_vgg16,
)
from deconvseg.proposals.cache import read_proposals
from deconvseg.training import distributed
from deconvseg.training.loop import TrainingData, train
from deconvseg.training.losses import normalise
from deconvseg.training.plan import Plan
from deconvseg.training.plots import draw_curves, draw_sheet
from deconvseg.training.recipe import Recipe
from deconvseg.training.reporter import Reporter
from deconvseg.training.run_folder import STATE, Start, begin, describe, lock, refuse_begun, same_run
from deconvseg.training.sampler import CropSampler
from deconvseg.training.scores import SoftLabels
from deconvseg.training.validation import whole_photos
from deconvseg.weights import network_file

SHEET_PHOTOS = 12
STATISTICS_BATCHES = 10
_READ_AHEAD = 64


def run_training(
    plan: Plan,
    data_digest: str,
    start: Start,
    out: Path,
    *,
    resume: bool = False,
    limit_steps: int | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Train every stage of a plan, each from the network of the one before.

    Args:
        plan: stages and data.
        data_digest: hash of the data, kept with the run: a resumed run must have the same.
        start: what the first stage starts from.
        out: folder of the run; stages with names get folders of these names in it.
        resume: go on where the run in `out` stopped.
        limit_steps: stop, with a checkpoint, after this many steps of a stage, unless that ends it.
        device: `auto`, `cpu`, `cuda` or `mps`.
        reporter: hears what happens.
        interrupted: once true, the run writes a checkpoint and ends with KeyboardInterrupt.

    Returns:
        The run folders of the stages that were run, with `best.safetensors`, `last.safetensors`,
        `metrics.jsonl`, `run.json`, `curves.png` and `validation.png`.

    Raises:
        DeconvSegError: anything about data, recipe, weights or run folder is wrong.
    """
    reuse_freed_memory()
    reporter = reporter or Reporter()
    target = pick_device(device)
    stores: dict[int, tuple[ImageStore, ImageStore]] = {}
    done: list[Path] = []
    with lock(out):
        if not resume and distributed.rank() == 0:
            refuse_begun(plan, out)
        for name, recipe in plan.stages.items():
            folder = out / name
            going_on = resume and (folder / STATE).is_file()
            if resume and not going_on:
                reporter.note(f"{folder}: no checkpoint yet, training starts from the beginning")
            init = done[-1] / "last.safetensors" if done else _origin(start, out, name, going_on)
            description = describe(plan, recipe, data_digest, init, start)
            if going_on and distributed.rank() == 0:
                description = same_run(folder, description)
            torch.manual_seed(recipe.seed)
            source = folder / "last.safetensors" if going_on else init
            network, header = _network(plan, recipe, source, start.vgg16, reporter)
            if recipe.canvas not in stores:
                stores.clear()
                reporter.note(f"reading {len(plan.names) + len(plan.validation.examples)} photos and masks")
                stores[recipe.canvas] = (_load(plan.training, recipe), _load([plan.validation], recipe))
            data = _data(plan, recipe, start, *stores[recipe.canvas], target)
            if recipe.encoder_norm and source is None and recipe.pretrained == "vgg16":
                sampler = CropSampler(data.store, recipe, torch.device("cpu"), data.names, data.proposals)
                calibrate_encoder_norm(network, normalise(sampler.batch(0).crops, header))
            if not header.statistics:
                header = _with_statistics(network.to(target), header, data, recipe)
            if distributed.rank() == 0:
                begin(folder, description)
            distributed.barrier()
            reporter.begin(folder, recipe, str(target))
            through = train(
                network,
                header,
                recipe,
                data,
                folder,
                device=target,
                resume=resume,
                limit_steps=limit_steps,
                report=reporter.figures,
                interrupted=interrupted,
            )
            if distributed.rank() == 0:
                _draw(folder, recipe, data.validation, plan.validation, target, reporter)
            distributed.barrier()
            done.append(folder)
            if not through:
                break
    return done


def check_start(plan: Plan, start: Start, out: Path, *, resume: bool, device: str) -> None:
    """Find what is wrong with a run before hours go into the data and the proposals.

    Raises:
        UsageError: the folder holds a run and `resume` is false, a file of `start` is missing, a network to
            start from is needed, the device is not there, or a batch cannot be shared out.
    """
    pick_device(device)
    if not resume:
        refuse_begun(plan, out)
    first, recipe = next(iter(plan.stages.items()))
    for recipe in plan.stages.values():
        distributed.share(recipe.batch_size, recipe.accumulate)
    for path in (start.vgg16, start.scores):
        if path is not None and not path.exists():
            raise UsageError(f"{path}: does not exist; check the path")
    going_on = resume and (out / first / STATE).is_file()
    init = _origin(start, out, first, going_on)
    if plan.stages[first].pretrained == "init" and init is None and not going_on:
        raise UsageError(
            "this recipe starts from a trained network; name it with --init FILE (--init default is the "
            "shipped one)"
        )
    if init is not None and not going_on:
        _refuse_other_kind(init, plan.stages[first])


def _origin(start: Start, out: Path, stage: str, going_on: bool) -> Path | None:
    """The network that the first stage of a call starts from, if any."""
    if start.init is not None:
        return network_file(start.init)
    if stage != "stage2" or going_on:
        return None
    network = out / "stage1" / "last.safetensors"
    if not network.is_file():
        raise UsageError(
            f"{network}: stage 2 starts from stage 1's network, and there is none; run --stage 1 first, or "
            "give a network with --init FILE"
        )
    return network


def _with_statistics(
    network: SegmentationNetwork, header: NetworkHeader, data: TrainingData, recipe: Recipe
) -> NetworkHeader:
    """Give a network BatchNorm statistics before training: blocks that are frozen get no others."""
    sampler = CropSampler(data.store, recipe, torch.device("cpu"), data.names, data.proposals)
    device = next(network.parameters()).device
    crops = (sampler.batch(step).crops.to(device) for step in range(STATISTICS_BATCHES))
    gather_statistics(network, (normalise(batch, header) for batch in crops))
    return replace(header, statistics=True)


def _data(
    plan: Plan, recipe: Recipe, start: Start, store: ImageStore, validation: ImageStore, device: torch.device
) -> TrainingData:
    proposals = scores = None
    if recipe.proposal_share > 0:
        if start.proposals is None:
            raise UsageError("this recipe draws object proposals; give their file with --proposals FILE")
        proposals = read_proposals(start.proposals)
    if start.scores is not None:
        if recipe.copy_paste:
            raise UsageError(
                "score files know nothing of pasted objects; take a recipe without copy_paste, or no --scores"
            )
        scores = SoftLabels.load(start.scores, plan.names, store, plan.classes, device)
    return TrainingData(store, plan.names, validation, proposals, scores)


def _network(
    plan: Plan,
    recipe: Recipe,
    init: Path | None,
    vgg16: Path | None,
    reporter: Reporter,
) -> tuple[SegmentationNetwork, NetworkHeader]:
    """The network that a stage starts from, in training mode, and its header."""
    classes, palette = plan.classes, plan.validation.palette
    if init is None:
        network = _described_network(recipe, len(classes))
        network.dropout = recipe.dropout
        if recipe.pretrained == "none":
            return network, NetworkHeader(classes, palette, scale=1 / 64)  # inputs of about unit size
        initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
        return network, NetworkHeader(classes, palette)
    _refuse_other_kind(init, recipe)
    network, header = load_network(init)
    crf = header.crf
    if recipe.network == "fcn8s" and isinstance(network, DeconvNet):
        source, network, crf = network, _described_network(recipe, len(header.classes)), {}
        assert isinstance(network, FCN8s)
        start_from_deconvnet(network, source)
        reporter.note(f"{init}: a DeconvNet; FCN-8s starts from its encoder, fc6 and fc7")
    elif isinstance(network, DeconvNet) and network.crop_size != recipe.crop_size:
        network = resize_bottleneck(network, recipe.crop_size)
    elif isinstance(network, FCN8s) and network.side != recipe.photo_side:
        network = resize_side(network, recipe.photo_side)
    if header.classes != classes:
        network, crf = replace_classes(network, len(classes)), {}
        reporter.note(
            f"{init}: made for other classes; all of it is kept but the last layer, which starts anew"
        )
    network.dropout = recipe.dropout
    return network.train(), replace(header, classes=classes, palette=palette, crf=crf, training={})


def _refuse_other_kind(init: Path, recipe: Recipe) -> None:
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
    try:
        if recipe.network == "fcn8s":
            return FCN8s(
                classes=classes,
                side=recipe.photo_side,
                widths=recipe.widths,
                encoder_convs=recipe.encoder_convs,
                bottleneck=recipe.bottleneck,
                head_kernel=recipe.head_kernel,
                padding=recipe.padding,
                norm=recipe.head_norm,
                dropout=recipe.dropout,
            )
        return DeconvNet(
            classes=classes,
            crop_size=recipe.crop_size,
            widths=recipe.widths,
            encoder_convs=recipe.encoder_convs,
            decoder_convs=recipe.decoder_convs,
            bottleneck=recipe.bottleneck,
            encoder_norm=recipe.encoder_norm,
        )
    except ValueError as error:
        raise UsageError(f"the recipe describes no network: {error}") from error


def _load(datasets: Sequence[DataSet], recipe: Recipe) -> ImageStore:
    return ImageStore.load(_pairs(datasets), sum(len(d.examples) for d in datasets), recipe.canvas)


def _pairs(datasets: Sequence[DataSet]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter
        for dataset in datasets:
            for start in range(0, len(dataset.examples), _READ_AHEAD):
                yield from pool.map(dataset.read, dataset.examples[start : start + _READ_AHEAD])


def _draw(
    folder: Path,
    recipe: Recipe,
    store: ImageStore,
    dataset: DataSet,
    device: torch.device,
    reporter: Reporter,
) -> None:
    """Curves and validation photos of a finished run."""
    best = folder / "best.safetensors"
    if not best.is_file():
        return
    try:
        draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    except MissingDependencyError as error:
        reporter.note(f"{folder}: no curves.png: {error}")
    network, header = load_network(best)
    count = min(SHEET_PHOTOS, len(store))
    chosen = torch.tensor([i * len(store) // count for i in range(count)])
    rows = []
    for index, found in whole_photos(network.to(device), header, store, recipe, chosen):
        for i, labels in zip(index.tolist(), found.cpu(), strict=False):
            truth = store.mask(i)
            photo = store.images[i, :, : truth.shape[0], : truth.shape[1]].permute(1, 2, 0).numpy()
            rows.append((dataset.examples[i].name, photo, truth, _unsquare(labels, *truth.shape)))
    draw_sheet(rows, header.classes, header.palette, folder / "validation.png")


def _unsquare(labels: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Labels (S, S) of a photo's square as the photo's own (height, width)."""
    side = max(height, width)
    left, top = (side - width) / 2, (side - height) / 2
    scale = len(labels) / side
    box = (left * scale, top * scale, (left + width) * scale, (top + height) * scale)
    square = Image.fromarray(labels.numpy().astype(np.uint8))
    return np.asarray(square.resize((width, height), Image.Resampling.NEAREST, box))

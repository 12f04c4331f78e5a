"""One training run from a plan to a run folder: what `deconvseg train` calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from deconvseg import __version__
from deconvseg.data.crops import ImageStore
from deconvseg.data.dataset import DataSet, Example
from deconvseg.data.scores import load_scores
from deconvseg.errors import OutputError, UsageError, reason
from deconvseg.files import lock, replacing
from deconvseg.network.base import SegmentationNetwork, rebuilt, replace_classes
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck
from deconvseg.network.fcn8s import FCN8s, start_from_deconvnet
from deconvseg.network.vgg16 import download_vgg16, initialise_encoder, read_vgg16
from deconvseg.proposals.cache import cache_proposals, read_proposals
from deconvseg.proposals.edges import opencv
from deconvseg.training import distributed
from deconvseg.training.data import TrainingData
from deconvseg.training.loop import ANOTHER, METRICS, STATE, Options, Training
from deconvseg.training.plots import draw_curves
from deconvseg.training.recipe import FREE_ON_RESUME, Recipe
from deconvseg.training.sampler import CropSampler, proposal_regions
from deconvseg.weights import network_file


def run_training(
    stages: Mapping[str, Recipe],
    data: TrainingData,
    out: Path,
    options: Options,
    *,
    init: str | Path | None = None,
    vgg16: Path | None = None,
    proposals: Path | None = None,
) -> list[Path]:
    """Train every stage, each from the one before.

    Returns the folders of the stages that were run. Raises DeconvSegError if data, recipe, weights or run
    folder are not right, and KeyboardInterrupt, after a checkpoint, if `options.interrupted` was true.

    Args:
        stages: recipes by name, as of `read_recipes`; stages with names get folders of these names in `out`.
        data, options: what to train on, and how.
        out: folder of the run.
        init: network file or name that the first stage starts from; it decides all but crop size and classes.
        vgg16: file of VGG-16's ImageNet convolutions; downloaded if omitted.
        proposals: file of `proposals.cache`, made if it is not there; `out`/proposals.npz if omitted.
    """
    proposals = proposals or out / "proposals.npz"
    done = list[Path]()
    with _hold(out):
        for name, recipe in stages.items():
            distributed.share(recipe.batch_size, recipe.accumulate)
            if recipe.proposal_share and not proposals.is_file():
                opencv()  # one without contrib is told now, not when the stage begins
            is_begun = (out / name / STATE).is_file()
            if is_begun and not options.resume:
                raise UsageError(f"{out / name}: it holds a run already; resume it, or use another folder")
            if options.resume and not is_begun:
                options.note(f"{out / name}: no checkpoint yet, training starts from the beginning")
        for name, recipe in stages.items():
            folder = out / name
            if (folder / STATE).is_file():
                source: Path | None = folder / "last.safetensors"
            elif name == "stage2" and (done or not init):
                source = out / "stage1/last.safetensors"
                if not source.is_file():
                    raise UsageError(f"{source}: stage 2 starts from it; run stage 1 first or name another")
            else:
                source = network_file(init) if init else None
            # The network comes before the data, of which proposals may take hours.
            start = first_network(data.validation, recipe, source, vgg16, options.note)
            if distributed.rank() == 0:
                _describe(folder, recipe, data, source)
            done.append(folder)
            if not _train_stage(start, recipe, data, proposals, folder, options):
                break
    return done


def _train_stage(
    start: tuple[SegmentationNetwork, NetworkHeader],
    recipe: Recipe,
    data: TrainingData,
    proposals: Path,
    folder: Path,
    options: Options,
) -> bool:
    """Train a network in a folder; whether the stage is through."""
    options.note(f"reading {len(data.examples) + len(data.validation)} photos and masks")
    validation, photos = (
        ImageStore.load(
            [partial(dataset.read, example) for dataset in datasets for example in dataset.examples],
            recipe.canvas,
            workers=options.workers,
        )
        for datasets in ([data.validation], data.datasets)
    )
    scores, soft, regions = [example.scores for example in data.examples], list[Tensor | None](), None
    if any(scores):
        soft = load_scores(scores, photos.sizes, data.validation.classes, workers=options.workers)
    if recipe.proposal_share:
        if distributed.rank() == 0 and not proposals.is_file():
            _make_proposals(data.examples, proposals, options)
        distributed.barrier()
        names = [example.name for example in data.examples]
        regions = proposal_regions(photos, names, read_proposals(proposals, names), recipe.overlap)
    sampler = CropSampler(photos, recipe, options.device, soft, regions)
    is_through = Training(*start, sampler, validation, folder, options).run()
    if distributed.rank() == 0:
        draw_curves(folder / METRICS, folder / "curves.png")
    return is_through


def first_network(
    data: DataSet, recipe: Recipe, init: Path | None, vgg16: Path | None, note: Callable[[str], None]
) -> tuple[SegmentationNetwork, NetworkHeader]:
    """The network for a data set's classes that a stage starts from, in training mode, and its header.

    Of the network file `init` all layers are kept that fit, and `note` is told what is not. Raises UsageError
    if the recipe describes no network, or none that can start so, and WeightsError for files.
    """
    torch.manual_seed(recipe.seed)
    try:
        if init:
            network, header = _continued(init, data, recipe, note)
        else:
            network, header = _untrained(data, recipe, vgg16)
    except ValueError as error:
        raise UsageError(f"{init or 'the recipe'}: {error}") from error
    network.dropout = recipe.dropout
    return network.train(), header


def _untrained(
    data: DataSet, recipe: Recipe, vgg16: Path | None
) -> tuple[SegmentationNetwork, NetworkHeader]:
    """The recipe's network, its encoder from VGG-16 if the recipe says so; ValueError if there is none."""
    if recipe.pretrained == "init":
        raise ValueError("it starts from a trained network; name one, like the shipped 'default'")
    network, header = _new_network(recipe, len(data.classes)), NetworkHeader(data.classes, data.palette)
    if recipe.pretrained == "none":
        return network, replace(header, scale=1 / 64)  # inputs of about unit size
    initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
    return network, header


def _continued(
    init: Path, data: DataSet, recipe: Recipe, note: Callable[[str], None]
) -> tuple[SegmentationNetwork, NetworkHeader]:
    """The recipe's network with what it can take over from a file; ValueError if that is nothing."""
    network, header = load_network(init)
    crf = header.crf
    if network.architecture != recipe.network:
        fresh = _new_network(recipe, network.arguments["classes"])
        if not isinstance(fresh, FCN8s) or not isinstance(network, DeconvNet):
            kinds = f"{network.architecture}, the recipe is for {recipe.network}"
            raise ValueError(f"a network of the kind {kinds}; take another recipe or another network")
        start_from_deconvnet(fresh, network)
        network, crf = fresh, {}
        note(f"{init}: a DeconvNet; FCN-8s starts from its encoder, fc6 and fc7")
    elif isinstance(network, DeconvNet) and network.crop_size != recipe.crop_size:
        network = resize_bottleneck(network, recipe.crop_size)
    elif isinstance(network, FCN8s) and network.side != recipe.photo_side:
        network = rebuilt(network, side=recipe.photo_side)
    if header.classes != data.classes:
        network, crf = replace_classes(network, len(data.classes)), {}
        note(f"{init}: made for other classes; all of it is kept but the last layer, which starts anew")
    header = replace(header, classes=data.classes, palette=data.palette, crf=crf, training={}, ranges={})
    return network, header


def _new_network(recipe: Recipe, classes: int) -> SegmentationNetwork:
    is_fcn, shared = recipe.network == "fcn8s", ("widths", "encoder_convs", "bottleneck")
    own = ("head_kernel", "padding", "dropout") if is_fcn else ("crop_size", "decoder_convs", "encoder_norm")
    arguments = {name: getattr(recipe, name) for name in (*shared, *own)}
    if is_fcn:
        return FCN8s(classes, side=recipe.photo_side, norm=recipe.head_norm, **arguments)
    return DeconvNet(classes, **arguments)


def _make_proposals(examples: Sequence[Example], target: Path, options: Options) -> None:
    options.note(f"{target}: object proposals of {len(examples)} photos")
    photos, numbers = [(example.name, example.image) for example in examples], count(1)
    with options.progress(len(photos), "proposals") as show:
        cache_proposals(photos, target, workers=options.workers, progress=lambda: show(next(numbers), ""))


@contextmanager
def _hold(out: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it: they would overwrite each other's checkpoints."""
    with ExitStack() as held:
        try:
            if distributed.rank() == 0:
                out.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock(out / ".lock"))
        except OSError as error:
            is_held = isinstance(error, TimeoutError)
            fault = "another process is training there" if is_held else f"cannot be made ({error.strerror})"
            raise OutputError(f"{out}: {fault}; use another folder") from error
        yield


def _describe(folder: Path, recipe: Recipe, data: TrainingData, init: Path | None) -> None:
    """Write into a run's folder what decides what comes out of it, for people and for a run that is resumed.

    If the folder holds a run, it must be the same one: UsageError if they differ in what cannot change on the
    way. Its `init` stays what it was.
    """
    path = folder / "run.json"
    text = {
        "recipe": asdict(recipe),
        "data": {
            "photos": len(data.examples),
            "validation_photos": len(data.validation),
            "classes": data.validation.classes,
            "sources": [str(dataset.source) for dataset in (*data.datasets, data.validation)],
            "photos_with_scores": sum(example.scores is not None for example in data.examples),
        },
        "init": init and str(init),
        "processes": distributed.world_size(),
        "versions": {"deconvseg": __version__, "torch": torch.__version__},
    }
    document = json.loads(json.dumps(text))  # lists for tuples, as in the file
    if (folder / STATE).is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            document["init"] = before["init"]
            had, has = (one["recipe"] | one["data"] for one in (before, document))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UsageError(f"{path}: cannot be read ({reason(error)}); {ANOTHER}") from error
        free = FREE_ON_RESUME | {"sources", "photos_with_scores"}
        # Keys that came or went since the run was begun are not compared.
        if changed := [key for key in has.keys() - free if had.get(key, has[key]) != has[key]]:
            names = ", ".join(sorted(changed))
            raise UsageError(f"{path}: this run has other {names}; resume with the same, or {ANOTHER}")
    with replacing(path) as stream:
        stream.write(json.dumps(document, indent=2).encode() + b"\n")

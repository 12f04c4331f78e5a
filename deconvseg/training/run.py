"""One training run from a plan to a run folder: what `deconvseg train` calls."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import update_bn

from deconvseg import __version__, files
from deconvseg.data.crops import ImageStore
from deconvseg.errors import DataError, UsageError
from deconvseg.network.base import SegmentationNetwork
from deconvseg.network.checkpoint import NetworkHeader
from deconvseg.network.vgg16 import calibrate_encoder_norm
from deconvseg.proposals.cache import cache_proposals, read_proposals
from deconvseg.training import distributed
from deconvseg.training.loop import Options, Training
from deconvseg.training.losses import normalise
from deconvseg.training.plan import Plan, check_plan, digest
from deconvseg.training.plots import draw_curves
from deconvseg.training.recipe import Recipe
from deconvseg.training.run_folder import METRICS, STATE, begin, hold
from deconvseg.training.sampler import CropSampler
from deconvseg.training.scores import SoftLabels
from deconvseg.training.start import first_network
from deconvseg.weights import network_file

MOST_FAULTS = 50
"""Faults of the data that are listed before training is refused."""
STATISTICS_BATCHES = 10


@dataclass(frozen=True)
class Start:
    """What a run starts from."""

    init: str | Path | None = None  # network file or name; it decides all but crop size and classes
    vgg16: Path | None = None  # file of VGG-16's ImageNet convolutions; downloaded if omitted
    # File of `proposals.cache`, made if it is not there; `proposals.npz` in the run folder if omitted.
    proposals: Path | None = None


def run_training(plan: Plan, start: Start, out: Path, options: Options) -> list[Path]:
    """Check the data, make proposals if need be, and train every stage, each from the one before.

    Args:
        plan: stages and data.
        start: what the first stage starts from.
        out: folder of the run; stages with names get folders of these names in it.
        options: how to go about it.

    Returns:
        The folders of the stages that were run.

    Raises:
        KeyboardInterrupt: `options.interrupted` was true; the checkpoint is written.
        DeconvSegError: anything about data, recipe, weights or run folder is wrong.
    """
    for recipe in plan.stages.values():
        distributed.share(recipe.batch_size, recipe.accumulate)
    done: list[Path] = []
    canvas, data_digest, proposals = 0, "", start.proposals or out / "proposals.npz"
    with hold(out):
        for folder in (out / name for name in plan.stages):
            if not options.resume and (folder / STATE).is_file():
                raise UsageError(f"{folder}: it holds a run already; resume it, or use another folder")
        for name, recipe in plan.stages.items():
            folder = out / name
            is_resumed = options.resume and (folder / STATE).is_file()
            if options.resume and not is_resumed:
                options.reporter.note(f"{folder}: no checkpoint yet, training starts from the beginning")
            init = done[-1] / "last.safetensors" if done else _origin(start, out, name, is_resumed)
            source = folder / "last.safetensors" if is_resumed else init
            torch.manual_seed(recipe.seed)
            # The network comes before the data: check and proposals may take hours.
            network, header = first_network(plan, recipe, source, start.vgg16, options.reporter.note)
            distributed.barrier()  # the first process must not begin a run before the others have looked
            if distributed.rank() == 0:
                if not done:
                    data_digest = _sound_data(plan, options)
                    if not (start.proposals and proposals.is_file()):
                        _make_proposals(plan, proposals, options)
                description = _describe(plan, recipe, data_digest, init, proposals)
                begin(folder, description, resume=is_resumed)
            distributed.barrier()
            if recipe.canvas != canvas:
                canvas = recipe.canvas
                photos, validation, soft = _load(plan, canvas, options)
            boxes = read_proposals(proposals) if recipe.proposal_share else None
            names, weights = [photo.name for photo in plan.photos], plan.weights(recipe)
            sampler = CropSampler(photos, names, recipe, options.device, boxes, soft, weights)
            header = _with_statistics(network, header, sampler, is_new=source is None)
            length = f"{recipe.steps} steps of {recipe.batch_size} crops of {recipe.crop_size} px"
            options.reporter.note(f"{folder}: {length}, {options.device}")
            is_through = Training(network, header, sampler, validation, folder, options).run()
            if distributed.rank() == 0:
                draw_curves(folder / METRICS, folder / "curves.png")
            done.append(folder)
            if not is_through:
                break
    return done


def _origin(start: Start, out: Path, stage: str, is_resumed: bool) -> Path | None:
    """The network file that the first stage of a call starts from, if any."""
    if start.init is not None:
        return network_file(start.init)
    if stage != "stage2" or is_resumed:
        return None
    network = out / "stage1" / "last.safetensors"
    if not network.is_file():
        raise UsageError(
            f"{network}: stage 2 starts from stage 1's network, and there is none; run stage 1 first, or "
            "give a network to start from"
        )
    return network


def _sound_data(plan: Plan, options: Options) -> str:
    """The hash of the data; DataError if it has faults."""
    with options.reporter.progress(len(plan.photos) + len(plan.validation), "checking") as step:
        reports = check_plan(plan, workers=options.workers, progress=step)
    faults = [fault for _, report in reports for fault in report.faults]
    if faults:
        for fault in faults[:MOST_FAULTS] if len(faults) > 1 else ():
            options.reporter.note(str(fault))
        count = f" ({len(faults)} faults in photos and masks)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{count}")
    for about, warning in [(about, warning) for about, report in reports for warning in report.warnings]:
        options.reporter.note(f"note: {about}: {warning}")
    return digest(plan, reports)


def _describe(
    plan: Plan, recipe: Recipe, data_digest: str, init: Path | None, proposals: Path
) -> dict[str, Any]:
    """Everything that decides what comes out of a run."""
    sources = dict.fromkeys(photo.dataset.source for photo in plan.photos)
    return {
        "recipe": asdict(recipe),
        "data": {
            "sha256": data_digest,
            "photos": len(plan.photos),
            "validation_photos": len(plan.validation),
            "classes": plan.classes,
            "sources": [str(source) for source in (*sources, plan.validation.source)],
            "photos_with_scores": sum(photo.scores is not None for photo in plan.photos),
        },
        "init": {"file": str(init), "sha256": files.digest(init)} if init else None,
        "proposals": files.digest(proposals) if recipe.proposal_share else None,
        "processes": distributed.world_size(),
        "versions": {
            "deconvseg": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _make_proposals(plan: Plan, target: Path, options: Options) -> None:
    """Makes the file of proposals, or what it lacks, if a stage draws any."""
    if not any(recipe.proposal_share for recipe in plan.stages.values()):
        return
    photos = [(photo.name, photo.example.image) for photo in plan.photos]
    options.reporter.note(f"{target}: object proposals of {len(photos)} photos")
    with options.reporter.progress(len(photos), "proposals") as step:
        cache_proposals(photos, target, workers=options.workers, progress=step)


def _load(plan: Plan, canvas: int, options: Options) -> tuple[ImageStore, ImageStore, SoftLabels | None]:
    """The photos to learn from, those to validate on, and the soft labels of the first, in memory."""
    options.reporter.note(f"reading {len(plan.photos) + len(plan.validation)} photos and masks")
    readers = [partial(plan.validation.read, example) for example in plan.validation.examples]
    validation = ImageStore.load(readers, canvas, workers=options.workers)
    training = ImageStore.load([photo.read for photo in plan.photos], canvas, workers=options.workers)
    scores = [photo.scores for photo in plan.photos]
    soft = SoftLabels.load(scores, training.sizes, plan.classes, workers=options.workers)
    return training, validation, soft if any(scores) else None


def _with_statistics(
    network: SegmentationNetwork, header: NetworkHeader, sampler: CropSampler, *, is_new: bool
) -> NetworkHeader:
    """Give a network BatchNorm statistics before training: blocks that are frozen get no others."""
    network.to(sampler.store.device)
    if is_new and sampler.recipe.encoder_norm and sampler.recipe.pretrained == "vgg16":
        calibrate_encoder_norm(network, normalise(sampler.batch(0).crops, header))
    if not header.statistics:
        crops = (sampler.batch(step).crops for step in range(STATISTICS_BATCHES))
        update_bn((normalise(batch, header) for batch in crops), network)
    return replace(header, statistics=True)

"""One training run from a plan to a run folder: what `deconvseg train` calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.optim.swa_utils import update_bn

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
from deconvseg.training.plots import draw_curves, draw_validation
from deconvseg.training.recipe import Recipe
from deconvseg.training.run_folder import METRICS, STATE, Start, begin, describe, hold, refuse_begun, same_run
from deconvseg.training.sampler import CropSampler, TrainingData
from deconvseg.training.scores import SoftLabels
from deconvseg.training.start import first_network, origin, refuse_other_kind

MOST_FAULTS = 50
"""Faults of the data that are listed before training is refused."""
STATISTICS_BATCHES = 10


def run_training(plan: Plan, start: Start, out: Path, options: Options) -> list[Path]:
    """Check the data, make proposals if need be, and train every stage, each from the one before.

    Args:
        plan: stages and data.
        start: what the first stage starts from.
        out: folder of the run; stages with names get folders of these names in it.
        options: how to go about it.

    Returns:
        The run folders of the stages that were run, with `best.safetensors`, `last.safetensors`,
        `metrics.jsonl`, `run.json`, `curves.png` and `validation.png`.

    Raises:
        KeyboardInterrupt: `options.interrupted` was true; the checkpoint is written.
        DeconvSegError: anything about data, recipe, weights or run folder is wrong.
    """
    check_start(plan, start, out, options)
    distributed.barrier()  # the first process must not begin a run before the others have looked
    data_digest = ""
    if distributed.rank() == 0:
        data_digest = _sound_data(plan, options)
    if plan.needs_proposals:
        given = start.proposals
        start = replace(start, proposals=given or out / "proposals.npz")
        if distributed.rank() == 0 and not (given and given.is_file()):
            _make_proposals(plan, start, options)
    distributed.barrier()
    loaded: dict[int, _Loaded] = {}
    done: list[Path] = []
    with hold(out):
        if not options.resume and distributed.rank() == 0:
            refuse_begun(plan, out)
        for name, recipe in plan.stages.items():
            going_on = options.resume and (out / name / STATE).is_file()
            if options.resume and not going_on:
                options.reporter.note(f"{out / name}: no checkpoint yet, training starts from the beginning")
            init = done[-1] / "last.safetensors" if done else origin(start, out, name, going_on)
            description = describe(plan, recipe, data_digest, init, start)
            if going_on and distributed.rank() == 0:
                description = same_run(out / name, description)
            if recipe.canvas not in loaded:
                loaded.clear()
                loaded[recipe.canvas] = _load(plan, recipe.canvas, options)
            source = out / name / "last.safetensors" if going_on else init
            stage = _Stage(plan, recipe, out / name, source, loaded[recipe.canvas])
            through = stage.train(start, description, options)
            done.append(out / name)
            if not through:
                break
    return done


def check_start(plan: Plan, start: Start, out: Path, options: Options) -> None:
    """Find what is wrong with a run before hours go into the data and the proposals.

    Raises:
        UsageError: the folder holds a run that is not to be resumed, a file of `start` is missing, a network
            to start from is needed, or a batch cannot be shared out.
    """
    if not options.resume:
        refuse_begun(plan, out)
    for recipe in plan.stages.values():
        distributed.share(recipe.batch_size, recipe.accumulate)
    if start.vgg16 is not None and not start.vgg16.exists():
        raise UsageError(f"{start.vgg16}: does not exist; check the path")
    name, first = next(iter(plan.stages.items()))
    if options.resume and (out / name / STATE).is_file():
        return
    init = origin(start, out, name, going_on=False)
    if init is not None:
        refuse_other_kind(init, first)
    elif first.pretrained == "init":
        raise UsageError("this recipe starts from a trained network; name one, like the shipped 'default'")


def _sound_data(plan: Plan, options: Options) -> str:
    """The hash of the data; DataError if it has faults."""
    with options.reporter.progress(len(plan.names) + len(plan.validation), "checking") as step:
        reports = check_plan(plan, workers=options.workers, progress=step)
    faults = [fault for _, report in reports for fault in report.faults]
    if faults:
        for fault in faults[:MOST_FAULTS] if len(faults) > 1 else ():
            options.reporter.note(str(fault))
        count = f" ({len(faults)} faults in photos and masks)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{count}")
    for about, report in reports:
        for warning in report.warnings:
            options.reporter.note(f"note: {about}: {warning}")
    return digest(plan, reports)


def _make_proposals(plan: Plan, start: Start, options: Options) -> None:
    """Makes the file of proposals, or what it lacks."""
    assert start.proposals is not None
    options.reporter.note(f"{start.proposals}: object proposals of {len(plan.names)} photos")
    with options.reporter.progress(len(plan.names), "proposals") as step:
        cache_proposals(plan.photos, start.proposals, workers=options.workers, progress=step)


@dataclass(frozen=True)
class _Loaded:
    """The photos of a plan in memory."""

    training: ImageStore
    validation: ImageStore
    soft: SoftLabels | None


def _load(plan: Plan, canvas: int, options: Options) -> _Loaded:
    options.reporter.note(f"reading {len(plan.names) + len(plan.validation)} photos and masks")
    readers = [partial(plan.validation.read, example) for example in plan.validation.examples]
    validation = ImageStore.load(readers, canvas, workers=options.workers)
    training = ImageStore.load(plan.readers(), canvas, workers=options.workers)
    soft = None
    if any(plan.scores):
        soft = SoftLabels.load(plan.scores, training.sizes, plan.classes, workers=options.workers)
    return _Loaded(training, validation, soft)


@dataclass(frozen=True)
class _Stage:
    """One stage of a run, and the network file that it starts or goes on from."""

    plan: Plan
    recipe: Recipe
    folder: Path
    source: Path | None
    loaded: _Loaded

    def train(self, start: Start, description: dict[str, object], options: Options) -> bool:
        """Whether the stage is through."""
        plan, recipe, reporter = self.plan, self.recipe, options.reporter
        torch.manual_seed(recipe.seed)
        network, header = first_network(plan, recipe, self.source, start.vgg16, reporter.note)
        proposals = read_proposals(start.proposals) if recipe.proposal_share and start.proposals else None
        data = TrainingData(
            self.loaded.training, plan.names, proposals, self.loaded.soft, plan.weights(recipe)
        )
        header = self._with_statistics(network, header, data, options.device)
        if distributed.rank() == 0:
            begin(self.folder, description)
        distributed.barrier()
        reporter.note(
            f"{self.folder}: {recipe.steps} steps of {recipe.batch_size} crops of {recipe.crop_size} px, "
            f"{options.device}"
        )
        validation = self.loaded.validation
        through = Training(network, header, recipe, data, validation, self.folder, options).run()
        if distributed.rank() == 0 and (self.folder / "best.safetensors").is_file():
            names = [example.name for example in plan.validation.examples]
            draw_curves(self.folder / METRICS, self.folder / "curves.png")
            draw_validation(self.folder, recipe, validation, names, options.device)
        distributed.barrier()
        return through

    def _with_statistics(
        self, network: SegmentationNetwork, header: NetworkHeader, data: TrainingData, device: torch.device
    ) -> NetworkHeader:
        """Give a network BatchNorm statistics before training: blocks that are frozen get no others."""
        recipe = self.recipe
        is_new = recipe.encoder_norm and self.source is None and recipe.pretrained == "vgg16"
        if not is_new and header.statistics:
            return header
        sampler = CropSampler(data, recipe, torch.device("cpu"))
        if is_new:
            calibrate_encoder_norm(network, normalise(sampler.batch(0).crops, header))
        if not header.statistics:
            network.to(device)
            crops = (sampler.batch(step).crops.to(device) for step in range(STATISTICS_BATCHES))
            update_bn((normalise(batch, header) for batch in crops), network)
        return replace(header, statistics=True)

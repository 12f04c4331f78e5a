"""One training run from a plan to a run folder: what `deconvseg train` calls."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deconvseg import __version__
from deconvseg.data.crops import ImageStore
from deconvseg.data.dataset import DataSet
from deconvseg.data.proposals import read_proposals
from deconvseg.errors import MissingDependencyError, OutputError, UsageError
from deconvseg.images.write import replacing
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.deconvnet import DeconvNet, replace_classes, resize_bottleneck
from deconvseg.network.device import pick_device
from deconvseg.network.memory import reuse_freed_memory
from deconvseg.network.vgg16 import (
    calibrate_encoder_norm,
    download_vgg16,
    initialise_encoder,
    read_vgg16,
)
from deconvseg.training import distributed
from deconvseg.training.figures import draw_curves, draw_sheet
from deconvseg.training.loop import TrainingData, normalise, train, whole_photos
from deconvseg.training.plan import Plan
from deconvseg.training.recipe import FREE_ON_RESUME, Recipe
from deconvseg.training.reporter import Reporter
from deconvseg.training.scores import SoftLabels
from deconvseg.training.stages import CropSampler
from deconvseg.weights import network_file

SHEET_PHOTOS = 12
_READ_AHEAD = 64


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        init: a network file or the name of a shipped network; it decides all but crop size and classes.
        vgg16: local file of VGG-16's ImageNet convolutions; they are downloaded when there is none.
        proposals: file of `proposals.cache.cache_proposals`, for recipes that draw proposals.
        scores: folder of score files to learn from as soft labels.
    """

    init: str | Path | None = None
    vgg16: Path | None = None
    proposals: Path | None = None
    scores: Path | None = None


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
    folders = [out / name for name in plan.stages]
    stores: dict[int, tuple[ImageStore, ImageStore]] = {}
    done: list[Path] = []
    if distributed.rank() == 0:
        refuse_start(plan, out, resume)
    for folder, (name, recipe) in zip(folders, plan.stages.items(), strict=True):
        init = done[-1] / "best.safetensors" if done else start.init
        if init is None and name == "stage2":
            init = _first_stage(out)
        document = _document(plan, recipe, data_digest, init, start)
        torch.manual_seed(recipe.seed)
        network, header = _network(plan, recipe, init, start.vgg16, reporter)
        if distributed.rank() == 0:
            _begin(folder, document)
        with _lock(folder):
            if recipe.canvas not in stores:
                stores.clear()
                reporter.note(f"reading {len(plan.names) + len(plan.validation.examples)} photos and masks")
                stores[recipe.canvas] = (_load(plan.training, recipe), _load([plan.validation], recipe))
            store, validation = stores[recipe.canvas]
            proposals = None
            if recipe.proposal_share > 0:
                if start.proposals is None:
                    raise UsageError(
                        "this recipe draws object proposals; give their file with --proposals FILE"
                    )
                proposals = read_proposals(start.proposals)
            scores = None
            if start.scores is not None:
                scores = SoftLabels.load(start.scores, plan.names, store, plan.classes, target)
            data = TrainingData(store, plan.names, validation, proposals, scores)
            if recipe.encoder_norm and init is None and recipe.pretrained == "vgg16":
                sampler = CropSampler(store, recipe, torch.device("cpu"), plan.names, proposals)
                calibrate_encoder_norm(network, normalise(sampler.batch(0).crops, header))
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
                _draw(folder, recipe, validation, plan.validation, target, reporter)
        distributed.barrier()
        done.append(folder)
        if not through:
            break
    return done


def refuse_start(plan: Plan, out: Path, resume: bool) -> None:
    """Raise a UsageError unless the run folder is fit for a new run, or for one that is taken up again."""
    folders = [out / name for name in plan.stages]
    begun = [folder for folder in folders if (folder / "run.json").is_file()]
    if begun and not resume:
        raise UsageError(f"{begun[0]}: it holds a run already; add --resume, or use another --out")
    if resume and folders[0] not in begun:
        raise UsageError(f"{folders[0]}: there is no run to resume; leave --resume out")


def _first_stage(out: Path) -> Path:
    network = out / "stage1" / "best.safetensors"
    if not network.is_file():
        raise UsageError(
            f"{network}: stage 2 starts from stage 1's network, and there is none; run --stage 1 first, or "
            "give a network with --init FILE"
        )
    return network


def _document(
    plan: Plan, recipe: Recipe, data_digest: str, init: str | Path | None, start: Start
) -> dict[str, Any]:
    return {
        "recipe": asdict(recipe),
        "data": {
            "sha256": data_digest,
            "photos": len(plan.names),
            "validation_photos": len(plan.validation.examples),
            "classes": plan.classes,
            "sources": [str(dataset.source) for dataset in (*plan.training, plan.validation)],
        },
        "init": None if init is None else str(init),
        "scores": None if start.scores is None else str(start.scores),
        "processes": distributed.world_size(),
        "versions": {
            "deconvseg": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _begin(folder: Path, document: dict[str, Any]) -> None:
    """Make the run folder, or see that a run begun there is this one."""
    path = folder / "run.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            old, old_digest = dict(before["recipe"]), before["data"]["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: cannot be read ({error}); start again in another --out") from error
        now = json.loads(json.dumps(document["recipe"]))
        changed = [key for key in now if key not in FREE_ON_RESUME and now[key] != old.get(key)]
        if changed:
            raise UsageError(
                f"{path}: this run has other {', '.join(changed)}; resume with the same or use another --out"
            )
        if old_digest != document["data"]["sha256"]:
            raise UsageError(
                f"{path}: the photos or masks have changed since this run began; start again in another "
                "--out, with --init to keep what was learned"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the run folder cannot be made ({error.strerror})") from error
    with replacing(path) as stream:
        stream.write(json.dumps(document, indent=2).encode() + b"\n")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Two runs in one folder would overwrite each other's checkpoints."""
    if distributed.rank():
        yield
        return
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise UsageError(
            f"{folder}: another process is training there; wait for it or use another --out"
        ) from error


def _network(
    plan: Plan,
    recipe: Recipe,
    init: str | Path | None,
    vgg16: Path | None,
    reporter: Reporter,
) -> tuple[DeconvNet, NetworkHeader]:
    classes, palette = plan.classes, plan.validation.palette
    if init is not None:
        network, header = load_network(network_file(init))
        if network.crop_size != recipe.crop_size:
            network = resize_bottleneck(network, recipe.crop_size)
        crf = header.crf
        if header.classes != classes:
            network, crf = replace_classes(network, len(classes)), {}
            reporter.note(
                f"{init}: made for other classes; all of it is kept but the last layer, which starts anew"
            )
        return network.train(), NetworkHeader(classes, palette, header.mean, header.scale, crf)
    header = NetworkHeader(classes, palette)
    try:
        network = DeconvNet(
            classes=len(classes),
            crop_size=recipe.crop_size,
            widths=recipe.widths,
            encoder_convs=recipe.encoder_convs,
            decoder_convs=recipe.decoder_convs,
            bottleneck=recipe.bottleneck,
            encoder_norm=recipe.encoder_norm,
        )
    except ValueError as error:
        raise UsageError(f"the recipe describes no network: {error}") from error
    if recipe.pretrained == "none":
        return network, NetworkHeader(classes, palette, scale=1 / 64)  # inputs of about unit size
    initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
    return network, header


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

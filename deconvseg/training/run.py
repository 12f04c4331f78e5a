"""One training run from data folders to a run folder: what `deconvseg train` calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deconvseg.data.crops import ImageStore
from deconvseg.data.voc import Example, read_examples, read_mask
from deconvseg.errors import DataError, OutputError, UsageError
from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.images.read import read_image
from deconvseg.network.checkpoint import NetworkHeader, load_network
from deconvseg.network.deconvnet import DeconvNet, resize_bottleneck
from deconvseg.network.device import pick_device
from deconvseg.network.memory import reuse_freed_memory
from deconvseg.network.vgg16 import (
    calibrate_encoder_norm,
    download_vgg16,
    initialise_encoder,
    read_vgg16,
)
from deconvseg.training.loop import Report, normalise, train
from deconvseg.training.recipe import Recipe, read_recipe
from deconvseg.training.stages import CropSampler


def run_training(
    *,
    voc_root: Path,
    split: str,
    val_split: str,
    extra_roots: Sequence[Path],
    recipe: str | Path,
    overrides: Mapping[str, Any],
    init: Path | None,
    vgg16: Path | None,
    out: Path,
    resume: bool,
    limit_steps: int | None,
    device: str,
    report: Report,
) -> None:
    """Read the data, make or load the network, train it into `out`.

    Raises:
        DeconvSegError: anything about the data, the recipe, the weights or the run folder is wrong.
    """
    reuse_freed_memory()
    settings = read_recipe(recipe_file(recipe), overrides)
    if resume != (out / "state.pt").is_file():
        cure = "there is no checkpoint to resume" if resume else "it holds a run already; add --resume"
        raise UsageError(f"{out}: {cure}")
    target = pick_device(device)
    torch.manual_seed(settings.seed)

    examples = [*read_examples(voc_root, split)]
    for root in extra_roots:
        examples += read_examples(root, "train")
    classes = len(VOC_CLASSES)
    store = _load(examples, classes)
    validation = _load(read_examples(voc_root, val_split), classes)

    network, header = _start(settings, init, vgg16, store)
    document: dict[str, Any] = {
        "recipe": asdict(settings),
        "network": network.arguments,
        "photos": len(store),
        "torch": torch.__version__,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        if resume:
            _refuse_other_recipe(out / "run.json", document["recipe"])
        (out / "run.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: the run folder cannot be written ({error})") from error
    train(
        network,
        header,
        settings,
        store,
        validation,
        out,
        device=target,
        resume=resume,
        limit_steps=limit_steps,
        report=report,
    )


def recipe_file(recipe: str | Path) -> Path:
    """A recipe's file, given by path or by the name of a shipped one.

    Raises:
        UsageError: neither.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    package = Path(__file__).resolve().parent.parent
    folders = (package / "_recipes", package.parent / "recipes")
    for folder in folders:
        if (folder / f"{recipe}.toml").is_file():
            return folder / f"{recipe}.toml"
    names = sorted(file.stem for folder in folders for file in folder.glob("*.toml"))
    raise UsageError(f"{recipe}: neither a recipe file nor a shipped recipe's name ({', '.join(names)})")


def _refuse_other_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """A resumed run keeps its recipe; only its length may change."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); start again in another --out") from error
    now = json.loads(json.dumps(recipe))
    changed = [key for key in now if key != "steps" and now[key] != before.get(key)]
    if changed:
        raise UsageError(
            f"{path}: this run has other {', '.join(changed)}; resume with the same or use another --out"
        )


def _start(
    settings: Recipe, init: Path | None, vgg16: Path | None, store: ImageStore
) -> tuple[DeconvNet, NetworkHeader]:
    if init is not None:
        network, header = load_network(init)
        if network.crop_size != settings.crop_size:
            network = resize_bottleneck(network, settings.crop_size)
        return network.train(), header
    header = NetworkHeader(VOC_CLASSES, palette_for(len(VOC_CLASSES)))
    network = DeconvNet(
        classes=len(VOC_CLASSES),
        crop_size=settings.crop_size,
        decoder_convs=settings.decoder_convs,
        bottleneck=settings.bottleneck,
        encoder_norm=settings.encoder_norm,
    )
    initialise_encoder(network, read_vgg16(vgg16) if vgg16 else download_vgg16())
    if settings.encoder_norm:
        crops, _ = CropSampler(store, settings, torch.device("cpu")).batch(0)
        calibrate_encoder_norm(network, normalise(crops, header))
    return network, header


def _load(examples: Sequence[Example], classes: int) -> ImageStore:
    return ImageStore.load(_pairs(examples, classes), len(examples))


def _pairs(
    examples: Sequence[Example], classes: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    for example in examples:
        image, mask = read_image(example.image), read_mask(example.mask, classes)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{example.mask}: mask is {mask.shape[1]}x{mask.shape[0]}, "
                f"its photo {image.shape[1]}x{image.shape[0]}; they must agree"
            )
        yield image, mask

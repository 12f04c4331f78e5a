"""A training recipe: every number that decides what comes out, read from TOML and checked."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from deconvseg.errors import UsageError

Weight: TypeAlias = float | Mapping[str, float]
"""A number, or numbers by the name of a data set's folder: 1 for the data sets that are not in it."""


@dataclass(frozen=True)
class Recipe:
    """One training stage. Sizes are in pixels, rates per step, shares from 0 to 1.

    Attributes:
        network: `deconvnet`, or `fcn8s`, which sees the whole photo.
        crop_size, widths, encoder_convs, decoder_convs, bottleneck, encoder_norm: arguments of `DeconvNet`.
        photo_side: crops are windows of a photo whose longer side is scaled to this many pixels; 0 scales
            crops to the objects instead. For `fcn8s`, whose `side` it is.
        head_kernel, padding, head_norm: arguments of `FCN8s`, besides widths and bottleneck.
        dropout: share of fc6's and fc7's outputs that is dropped.
        pretrained: what training starts from if no network is given: VGG-16's encoder or nothing; `init`
            insists on a network.
        frozen_blocks: encoder blocks, from the first, that keep the weights they start with.
        object_share, proposal_share, whole_share: shares of crops around an object, around a proposal that
            overlaps one (in both, classes come equally often) and of whole photos; the rest are squares from
            anywhere.
        label: in crops around an object, `object` keeps the label of that object alone and makes everything
            else background (the paper's stage 1); `all` keeps all labels.
        overlap: least IoU of a proposal with an object's box (stage 2).
        square: boxes are widened to squares, as in the released lists; else they are stretched to the crop.
        enlarge: context around a box, a factor on both sides.
        window: share of a box's sides that a crop covers, anywhere inside it: 0.896 is 224 pixels out of 250.
        scale_jitter: boxes and random squares are scaled by a factor between 1/x and x.
        shift_jitter: and moved by up to this share of their side.
        copy_paste: share of crops that objects from another photo are pasted onto, every class equally often.
        colour_jitter: brightness, contrast and saturation vary by up to this share.
        canvas: photos are held in memory with a longer side of at most this.
        steps, batch_size: length and width of the run; a batch is shared out over all processes.
        accumulate: parts a batch is computed in, one after the other; BatchNorm sees one part at a time.
        optimizer: `adamw`, or `sgd` with `momentum`.
        learning_rate, encoder_learning_rate: peaks for new and for pretrained layers.
        bias_rate: factor on the learning rate of biases (Caffe's habit is 2).
        weight_decay, decay_norms: on kernels, and on BatchNorm's scale and shift as well.
        clip_norm: largest norm of the gradient; 0 does not clip.
        schedule: `cosine` to zero, `step` (times `step_factor` every `step_size` steps) or `constant`.
        warmup_steps: linear rise to the peak, at most a quarter of the run.
        ema: decay of the averaged network that is validated and kept; 0 switches it off.
        presence_weight: weight of an auxiliary loss on fc7 that asks which classes the crop holds.
        mask_weight, scores_weight: weights of the masks and of the soft labels of score files (distillation):
            see `Weight`.
        temperature: of the soft labels and of what they are compared with (Hinton et al., arXiv 1503.02531).
        precision: arithmetic of the forward pass.
        validate_every: steps between validations.
        patience: stop after so many validations in a row without a better one; 0 never does.
        seed: decides initial weights and every crop.
    """

    network: Literal["deconvnet", "fcn8s"] = "deconvnet"
    crop_size: int = 96
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    encoder_convs: tuple[int, ...] = (2, 2, 3, 3, 3)
    decoder_convs: tuple[int, ...] = (2, 2, 2, 1)
    bottleneck: int = 512
    encoder_norm: bool = False
    photo_side: int = 0
    head_kernel: int = 7
    padding: int = 100
    head_norm: bool = False
    dropout: float = 0.0
    pretrained: Literal["vgg16", "init", "none"] = "vgg16"
    frozen_blocks: int = 2
    object_share: float = 0.7
    proposal_share: float = 0.0
    whole_share: float = 0.1
    label: Literal["all", "object"] = "all"
    overlap: float = 0.5
    square: bool = True
    enlarge: float = 1.2
    window: float = 1.0
    scale_jitter: float = 1.4
    shift_jitter: float = 0.1
    copy_paste: float = 0.0
    colour_jitter: float = 0.2
    canvas: int = 384
    steps: int = 2000
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1e-4
    bias_rate: float = 1.0
    weight_decay: float = 0.01
    decay_norms: bool = False
    clip_norm: float = 5.0
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_size: int = 10_000
    step_factor: float = 0.1
    warmup_steps: int = 100
    ema: float = 0.998
    presence_weight: float = 1.0
    mask_weight: Weight = 1.0
    scores_weight: Weight = 1.0
    temperature: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    validate_every: int = 250
    patience: int = 0
    seed: int = 1


FREE_ON_RESUME = frozenset(
    {"steps", "patience", "validate_every"}
    | {"learning_rate", "encoder_learning_rate", "clip_norm", "precision", "accumulate"}
)
"""What a resumed run may change: its length, and what helps when memory is used up or the loss explodes."""

_RANGES: Mapping[tuple[float, float], str] = {
    (0, 1): "object_share proposal_share whole_share overlap shift_jitter copy_paste colour_jitter momentum "
    "step_factor ema",
    (0, 0.99): "dropout",
    (0, 5): "frozen_blocks",
    (0, 100): "learning_rate encoder_learning_rate bias_rate",
    (0, 1e40): "weight_decay clip_norm presence_weight",
    (0, 10**9): "warmup_steps patience",
    (0, 2048): "photo_side",
    (0, 2**40): "seed",
    (0.1, 1): "window",
    (0.1, 10): "enlarge",
    (0.1, 100): "temperature",
    (1, 10): "scale_jitter",
    (1, 31): "head_kernel",
    (1, 500): "padding",
    (1, 2**16): "bottleneck batch_size accumulate",
    (1, 10**9): "steps step_size validate_every",
    (32, 2048): "crop_size",
    (32, 8192): "canvas",
}
_STAGES = ("stage1", "stage2")


def read_recipes(
    path: Path, overrides: Mapping[str, Any] | None = None, stage: str | None = None
) -> dict[str, Recipe]:
    """The stages of a recipe file over the defaults, and overrides over the file.

    Args:
        path: TOML. Keys at the top are `Recipe`'s; tables `[stage1]` and `[stage2]` make it a recipe of two
            stages, each of them over the top; a table `[about]` is for people and is not read.
        overrides: values that win over the file's, in every stage; None entries are ignored.
        stage: `1`, `2` or `both`, of a recipe that has stages; None takes all it has.

    Returns:
        Recipes by name, in order: `{"stage1": ..., "stage2": ...}`, one of these, or `{"": ...}` for a recipe
        without stages.

    Raises:
        UsageError: unreadable file, unknown key (the nearest known one is named), value of another type or
            out of range, or a stage that the recipe does not have.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: recipe cannot be read ({error})") from error
    table.pop("about", None)
    stages = {name: table.pop(name) for name in _STAGES if name in table}
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    for name, own in stages.items():
        if not isinstance(own, dict):
            raise UsageError(f"{path}: {name} must be a table, [{name}]")
    wanted = list(_STAGES) if stage == "both" else [f"stage{stage}"] if stage else list(stages) or [""]
    missing = [name for name in wanted if name and name not in stages]
    if missing:
        has = f"it has {', '.join(stages)}" if stages else "it is one run without stages"
        raise UsageError(f"{path}: the recipe has no [{missing[0]}]; {has}")
    try:
        return {name: _recipe(table | stages.get(name, {}) | given) for name in wanted}
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def _recipe(table: Mapping[str, Any]) -> Recipe:
    """A recipe from its table; ValueError says what is wrong with it."""
    known, types = {field.name for field in fields(Recipe)}, get_type_hints(Recipe)
    values = {}
    for key, value in table.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known | set(_STAGES), n=1, cutoff=0)[0]
            raise ValueError(f"unknown key '{key}'; did you mean '{nearest}'?")
        values[key] = _checked(key, value, types[key])
    recipe = Recipe(**values)
    for (low, high), keys in _RANGES.items():
        for key in keys.split():
            if not low <= getattr(recipe, key) <= high:
                raise ValueError(
                    f"{key} = {getattr(recipe, key)!r} is out of range; allowed are {low} to {high}"
                )
    _check_together(recipe)
    return recipe


def _check_together(recipe: Recipe) -> None:
    """Raise ValueError if values exclude each other."""
    if recipe.crop_size % 32:
        raise ValueError(f"crop_size = {recipe.crop_size} is no multiple of 32")
    if (recipe.network == "fcn8s") != (recipe.photo_side > 0):
        raise ValueError(
            f"is no recipe for {recipe.network}: photo_side = {recipe.photo_side}, and fcn8s sees photos "
            "scaled to photo_side pixels, deconvnet sees regions (photo_side = 0)"
        )
    if recipe.batch_size % recipe.accumulate or recipe.batch_size // recipe.accumulate < 2:
        raise ValueError(
            f"batch_size = {recipe.batch_size} cannot be shared out over accumulate = {recipe.accumulate}; "
            "each part needs the same number of crops, at least 2 (BatchNorm)"
        )
    shares = ("object_share", "proposal_share", "whole_share")
    if sum(getattr(recipe, key) for key in shares) > 1 + 1e-9:
        listed = ", ".join(f"{key} = {getattr(recipe, key)}" for key in shares)
        raise ValueError(f"{listed} are over 1 together; lower one")
    if recipe.copy_paste and recipe.label == "object":
        raise ValueError('copy_paste needs label = "all": crops of one object alone hold no others')


def _checked(key: str, value: Any, expected: Any) -> Any:
    """A value of the type that a field has, from TOML's; ValueError if it is of another."""
    if expected == Weight:
        numbers = value.values() if isinstance(value, dict) else [value]
        if all(type(number) in (int, float) and 0 <= number <= 1e9 for number in numbers):
            return value
        raise ValueError(f"{key} = {value!r} should be a number from 0 on, or a table of such by data set")
    if get_origin(expected) is tuple and isinstance(value, list | tuple):
        return tuple(_checked(key, item, get_args(expected)[0]) for item in value)
    if get_origin(expected) is Literal:
        if value in get_args(expected):
            return value
        raise ValueError(f"{key} = {value!r} is not one of {', '.join(get_args(expected))}")
    if expected is float and type(value) is int:
        return float(value)
    if get_origin(expected) is None and type(value) is expected:
        return value
    name = "a list of integers" if get_origin(expected) is tuple else expected.__name__
    raise ValueError(f"{key} = {value!r} should be {name}")

"""A training recipe: every number that decides what comes out, read from TOML and checked."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from deconvseg.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """One training stage. Sizes are in pixels, rates per step, shares from 0 to 1.

    Attributes:
        crop_size, bottleneck, decoder_convs, encoder_norm: arguments of `DeconvNet`.
        frozen_blocks: encoder blocks, from the first, that keep their pretrained weights.
        steps, batch_size: length and width of the run.
        learning_rate, encoder_learning_rate: peaks of the cosine for new and for pretrained layers.
        weight_decay: AdamW's, on kernels only.
        warmup_steps: linear rise to the peak.
        ema: decay of the averaged network that is validated and shipped; 0 switches it off.
        presence_weight: weight of an auxiliary loss on fc7 that asks which classes the crop holds.
        object_share, whole_share: shares of crops centred on an object (classes equally often) and of whole
            photos; the rest are random squares.
        scale_jitter: object and random boxes are scaled by a factor between 1/x and x.
        shift_jitter: and moved by up to this share of their side.
        colour_jitter: brightness, contrast and saturation vary by up to this share.
        precision: autocast dtype.
        seed: decides initial weights and every crop.
    """

    crop_size: int = 96
    bottleneck: int = 512
    decoder_convs: tuple[int, ...] = (2, 2, 2, 1)
    encoder_norm: bool = False
    frozen_blocks: int = 2
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: int = 100
    ema: float = 0.998
    presence_weight: float = 1.0
    object_share: float = 0.7
    whole_share: float = 0.1
    scale_jitter: float = 1.4
    shift_jitter: float = 0.1
    colour_jitter: float = 0.2
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 1


_RANGES = (
    ("crop_size", 32, 2048),
    ("steps", 1, 10**9),
    ("batch_size", 2, 2**16),
    ("frozen_blocks", 0, 5),
    ("warmup_steps", 0, 10**9),
    ("ema", 0, 1),
    ("object_share", 0, 1),
    ("whole_share", 0, 1),
    ("scale_jitter", 1, 10),
    ("shift_jitter", 0, 1),
    ("colour_jitter", 0, 1),
)


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe file over the defaults, and flags over the file.

    Args:
        path: TOML whose top-level keys are `Recipe`'s; a `[about]` table is for people and is not read.
        overrides: values that win over the file's; None entries are ignored.

    Raises:
        UsageError: unreadable file, unknown key (the nearest known one is named) or value of another type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: recipe cannot be read ({error})") from error
    table.pop("about", None)
    table |= {key: value for key, value in (overrides or {}).items() if value is not None}
    known = {field.name for field in fields(Recipe)}
    types = get_type_hints(Recipe)
    values = {}
    for key, value in table.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise UsageError(f"{path}: unknown key '{key}'; did you mean '{nearest}'?")
        values[key] = _checked(path, key, value, types[key])
    recipe = Recipe(**values)
    for key, low, high in _RANGES:
        if not low <= getattr(recipe, key) <= high:
            raise UsageError(
                f"{path}: {key} = {getattr(recipe, key)!r} is out of range; allowed are {low} to {high}"
            )
    if recipe.crop_size % 32:
        raise UsageError(f"{path}: crop_size = {recipe.crop_size} is no multiple of 32")
    if recipe.object_share + recipe.whole_share > 1:
        raise UsageError(f"{path}: object_share and whole_share are over 1 together; lower one")
    return recipe


def _checked(path: Path, key: str, value: Any, expected: Any) -> Any:
    if get_origin(expected) is tuple and isinstance(value, list | tuple):
        return tuple(_checked(path, key, item, get_args(expected)[0]) for item in value)
    if get_origin(expected) is Literal:
        if value in get_args(expected):
            return value
        raise UsageError(f"{path}: {key} = {value!r} is not one of {', '.join(get_args(expected))}")
    if expected is float and type(value) is int:
        return float(value)
    if get_origin(expected) is None and type(value) is expected:
        return value
    name = "a list of integers" if get_origin(expected) is tuple else expected.__name__
    raise UsageError(f"{path}: {key} = {value!r} should be {name}")

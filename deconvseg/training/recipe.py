"""A training recipe: every number that decides what comes out, read from TOML and checked."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from deconvseg.errors import UsageError

# Numbers with the least and the largest that is allowed.
Share: TypeAlias = Annotated[float, 0, 1]
Rate: TypeAlias = Annotated[float, 0, 100]
Amount: TypeAlias = Annotated[float, 0, 1e40]
Count: TypeAlias = Annotated[int, 0, 10**9]
Positive: TypeAlias = Annotated[int, 1, 10**9]


@dataclass(frozen=True)
class Recipe:
    """One training stage. Sizes are in pixels, rates per step."""

    network: Literal["deconvnet", "fcn8s"] = "deconvnet"  # fcn8s sees the whole photo
    # Arguments of DeconvNet; FCN8s has widths, encoder_convs and bottleneck as well.
    crop_size: Annotated[int, 32, 2048] = 96
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    encoder_convs: tuple[int, ...] = (2, 2, 3, 3, 3)
    decoder_convs: tuple[int, ...] = (2, 2, 2, 1)
    bottleneck: Annotated[int, 1, 2**16] = 512
    encoder_norm: bool = False
    # Crops are windows of a photo whose longer side is scaled to photo_side, FCN8s's `side`; if 0, crops are
    # scaled to the objects instead.
    photo_side: Annotated[int, 0, 2048] = 0
    # Further arguments of FCN8s.
    head_kernel: Annotated[int, 1, 31] = 7
    padding: Annotated[int, 1, 500] = 100
    head_norm: bool = False
    dropout: Annotated[float, 0, 0.99] = 0.0  # share of fc6's and fc7's outputs that is dropped
    # What training starts from if no network is given: VGG-16's encoder or nothing; `init` insists on one.
    pretrained: Literal["vgg16", "init", "none"] = "vgg16"
    frozen_blocks: Annotated[int, 0, 5] = 2  # encoder blocks, from the first, that keep their weights

    # Shares of crops around an object, around a proposal that overlaps one (in both, classes come equally
    # often) and of whole photos; the rest are squares from anywhere.
    object_share: Share = 0.7
    proposal_share: Share = 0.0
    whole_share: Share = 0.1
    # In crops around an object, `object` keeps the label of that object alone and makes everything else
    # background (the paper's stage 1).
    label: Literal["all", "object"] = "all"
    overlap: Share = 0.5  # least IoU of a proposal with an object's box (stage 2)
    enlarge: Annotated[float, 0.1, 10] = 1.2  # context around a box, a factor on both sides
    square: bool = True  # boxes are widened to squares, as in the released lists; else stretched to the crop
    window: Annotated[float, 0.1, 1] = 1.0  # share of a box's sides that a crop covers, anywhere inside it
    scale_jitter: Annotated[float, 1, 10] = 1.4  # boxes and squares are scaled by a factor of 1/x to x ...
    shift_jitter: Share = 0.1  # ... and moved by up to this share of their side
    copy_paste: Share = 0.0  # share of crops with pasted objects of other photos, classes equally often
    colour_jitter: Share = 0.2  # brightness, contrast and saturation vary by up to this share
    canvas: Annotated[int, 32, 8192] = 384  # photos are held in memory with a longer side of at most this

    steps: Positive = 2000
    batch_size: Annotated[int, 1, 2**16] = 32  # shared out over all processes
    # Parts a batch is computed in, one after the other; BatchNorm sees one part at a time.
    accumulate: Annotated[int, 1, 2**16] = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Share = 0.9  # of sgd
    learning_rate: Rate = 1e-3  # peak for new layers ...
    encoder_learning_rate: Rate = 1e-4  # ... and for pretrained ones
    bias_rate: Rate = 1.0  # factor on the learning rate of biases (Caffe's habit is 2)
    weight_decay: Amount = 0.01
    decay_norms: bool = False  # decay BatchNorm's scale and shift as well as kernels
    clip_norm: Amount = 5.0  # largest norm of the gradient; 0 does not clip
    # To zero, or times `step_factor` every `step_size` steps, or none.
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_size: Positive = 10_000
    step_factor: Share = 0.1
    warmup_steps: Count = 100  # linear rise to the peak, at most a quarter of the run
    ema: Share = 0.998  # decay of the averaged network that is validated and kept; 0 switches it off
    presence_weight: Amount = 1.0  # of a loss on fc7 that asks which classes the crop holds
    # Of Lovasz-softmax, one minus a crop's IoU, beside the cross-entropy of its mask.
    lovasz_weight: Amount = 0.0
    # Of the soft labels of score files, beside the masks (distillation, Hinton et al., arXiv 1503.02531).
    scores_weight: Amount = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"  # of the forward pass
    validate_every: Positive = 250
    patience: Count = 0  # stop after so many validations in a row without a better one; 0 never does
    seed: Annotated[int, 0, 2**40] = 1  # decides initial weights and every crop


FREE_ON_RESUME = frozenset(
    {"steps", "patience", "validate_every"}
    | {"learning_rate", "encoder_learning_rate", "clip_norm", "precision", "accumulate"}
)
"""What a resumed run may change: its length, and what helps when memory is used up or the loss explodes."""
_STAGES = ("stage1", "stage2")


def read_recipes(
    recipe: str | Path, overrides: Mapping[str, Any] | None = None, stage: str | None = None
) -> dict[str, Recipe]:
    """The stages of a TOML file, or of a shipped recipe by its name: by name, in order.

    Keys at the top are `Recipe`'s. Tables `[stage1]` and `[stage2]` make it a recipe of two stages, each of
    them over the top; else the only stage has the name "". A table `[about]` is for people and is not read.

    Args:
        recipe: that file or name.
        overrides: values that win over the file's, in every stage; None entries are ignored.
        stage: `1`, `2` or `both`, of a recipe that has stages; None takes all it has.

    Raises:
        UsageError: the file cannot be read, or has a key or value that makes no sense, or not this stage.
    """
    path = _file(recipe)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: recipe cannot be read ({error})") from error
    table.pop("about", None)
    stages = {name: table.pop(name) for name in _STAGES if name in table}
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    wanted = list(_STAGES) if stage == "both" else [f"stage{stage}"] if stage else list(stages) or [""]
    has = [name for name, own in stages.items() if isinstance(own, dict)] or [""]
    if missing := [name for name in wanted if name not in has]:
        raise UsageError(f"{path}: the recipe has no [{missing[0]}]; it has {', '.join(has) or 'no stages'}")
    try:
        return {name: _recipe(table | stages.get(name, {}) | given) for name in wanted}
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def _file(recipe: str | Path) -> Path:
    package = Path(__file__).resolve().parent.parent
    folders = (package.parent / "recipes", package / "_recipes")
    shipped = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    path = Path(recipe) if Path(recipe).is_file() else shipped.get(str(recipe))
    if path is None:
        names = ", ".join(sorted(shipped))
        raise UsageError(f"{recipe}: neither a recipe file nor a shipped recipe's name ({names})")
    return path


def _recipe(table: Mapping[str, Any]) -> Recipe:
    types = get_type_hints(Recipe, include_extras=True)
    if unknown := [key for key in table if key not in types]:
        nearest = difflib.get_close_matches(unknown[0], [*types, *_STAGES], n=1, cutoff=0)[0]
        raise ValueError(f"unknown key '{unknown[0]}'; did you mean '{nearest}'?")
    recipe = Recipe(**{key: _checked(key, value, types[key]) for key, value in table.items()})
    if (recipe.network == "fcn8s") != (recipe.photo_side > 0):
        raise ValueError(
            f"is no recipe for {recipe.network}: photo_side = {recipe.photo_side}, and fcn8s sees photos "
            "scaled to photo_side pixels, deconvnet sees regions (photo_side = 0)"
        )
    if recipe.object_share + recipe.proposal_share + recipe.whole_share > 1 + 1e-9:
        raise ValueError("object_share, proposal_share and whole_share are over 1 together; lower one")
    if recipe.copy_paste and recipe.label == "object":
        raise ValueError('copy_paste needs label = "all": crops of one object alone hold no others')
    return recipe


def _checked(key: str, value: Any, expected: Any) -> Any:
    """TOML's value as the type that a field has; ValueError if it is of another, or out of its range."""
    kind, arguments = get_origin(expected), get_args(expected)
    if kind is Annotated:
        number, low, high = _checked(key, value, arguments[0]), *arguments[1:]
        if low <= number <= high:
            return number
        raise ValueError(f"{key} = {value!r} is out of range; allowed are {low} to {high}")
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_checked(key, item, arguments[0]) for item in value)
    if (kind is Literal and value in arguments) or type(value) is expected:
        return value
    if expected is float and type(value) is int:
        return float(value)
    wanted = {tuple: "a list of integers", Literal: f"one of {', '.join(map(str, arguments))}"}
    raise ValueError(f"{key} = {value!r} should be {wanted.get(kind) or expected.__name__}")

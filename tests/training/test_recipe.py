"""Recipes: files over defaults, flags over files, mistakes named."""

from pathlib import Path

import pytest

from deconvseg.errors import UsageError
from deconvseg.training.loop import schedule
from deconvseg.training.recipe import Recipe, read_recipes


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("\ufeffsteps = 7\nlearning_rate = 1\ndecoder_convs = [1, 2]\n[about]\nany = 'goes'\n")
    recipe = read_recipes(path, {"steps": 9, "seed": None})[""]
    assert recipe == Recipe(steps=9, learning_rate=1.0, decoder_convs=(1, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "unknown key 'stepz'; did you mean 'steps'"),
        ("steps = true", "steps = True should be int"),
        ("decoder_convs = 3", "should be a list of integers"),
        ("decoder_convs = ['a']", "decoder_convs = 'a' should be int"),
        ("precision = 'fp8'", "should be one of fp32, bf16"),
        ("steps = ", "cannot be read"),
        ("steps = 0", "steps = 0 is out of range"),
        ("whole_share = 0.9", "over 1 together"),
        ("learning_rate = nan", "out of range"),
        ("scores_weight = -1", "scores_weight = -1 is out of range"),
        ("copy_paste = 0.5\nlabel = 'object'", "copy_paste needs label"),
        ("stage1 = 3", r"has no \[stage1\]"),
        ("[stage1]\nstep = 3", "unknown key 'step'; did you mean 'steps'"),
        ("[stage_1]\nsteps = 3", "unknown key 'stage_1'; did you mean 'stage1'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_recipes(path)


def test_stages_are_laid_over_the_top_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("steps = 7\nseed = 4\n[stage1]\nsteps = 1\n[stage2]\ncrop_size = 128\n")
    both = read_recipes(path, {"batch_size": 6})
    one, two = Recipe(steps=1, seed=4, batch_size=6), Recipe(steps=7, seed=4, batch_size=6, crop_size=128)
    assert list(both.items()) == [("stage1", one), ("stage2", two)]
    assert read_recipes(path, stage="both") == read_recipes(path)
    assert list(read_recipes(path, stage="2")) == ["stage2"]

    path.write_text("[stage1]\nsteps = 3")
    with pytest.raises(UsageError, match=r"the recipe has no \[stage2\]; it has stage1"):
        read_recipes(path, stage="2")


def test_shipped_recipes_are_found_by_name_and_are_sound() -> None:
    names = {path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.toml")}
    assert {"lite", "own", "paper-stage1", "paper-stage2"} <= names
    for name in names:
        assert read_recipes(name)
    with pytest.raises(UsageError, match="neither a recipe file nor"):
        read_recipes("no-such-recipe")


def test_the_papers_recipes_are_the_papers() -> None:
    one, two = (read_recipes(f"paper-stage{stage}")[""] for stage in (1, 2))
    for recipe in (one, two):
        assert (recipe.crop_size, recipe.bottleneck, recipe.decoder_convs) == (224, 4096, (3, 3, 3, 2, 2))
        assert (recipe.batch_size, recipe.accumulate, recipe.optimizer) == (64, 8, "sgd")
        assert round(recipe.crop_size / recipe.window) == 250
    rates = [one.learning_rate * schedule(step, one) for step in (0, 8999, 9000, 18000)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.0001])
    assert two.learning_rate * schedule(39999, two) == pytest.approx(1e-5)
    assert (one.label, one.object_share, two.label, two.proposal_share) == ("object", 1, "all", 1)

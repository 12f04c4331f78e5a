"""Recipes: files over defaults, flags over files, mistakes named."""

from pathlib import Path

import pytest

from deconvseg.errors import UsageError
from deconvseg.training.recipe import Recipe, read_recipe
from deconvseg.training.run import recipe_file


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("steps = 7\nlearning_rate = 1\ndecoder_convs = [1, 2]\n[about]\nanything = 'goes'\n")
    recipe = read_recipe(path, {"steps": 9, "seed": None})
    assert (recipe.steps, recipe.learning_rate, recipe.decoder_convs) == (9, 1.0, (1, 2))
    assert recipe.seed == Recipe().seed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "unknown key 'stepz'; did you mean 'steps'"),
        ("steps = 'many'", "steps = 'many' should be int"),
        ("steps = true", "should be int"),
        ("steps = 1.5", "should be int"),
        ("decoder_convs = 3", "should be a list of integers"),
        ("decoder_convs = ['a']", "decoder_convs = 'a' should be int"),
        ("precision = 'fp8'", "not one of fp32, bf16"),
        ("steps = ", "cannot be read"),
        ("steps = 0", "steps = 0 is out of range"),
        ("crop_size = 100", "no multiple of 32"),
        ("whole_share = 0.9", "over 1 together"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_recipe(path)


def test_shipped_recipes_are_found_by_name() -> None:
    assert read_recipe(recipe_file("lite")).bottleneck == 512
    with pytest.raises(UsageError, match="neither a recipe file nor"):
        recipe_file("no-such-recipe")

"""The models that the course ships: how each was trained, its weights, and who judges them."""

from minidiff.zoo.bounds import BOUNDS
from minidiff.zoo.checkpoints import (
    WEIGHTS,
    Pretrained,
    load,
    note_quality,
    recipe_hash,
    save_weights,
    train_recipe,
)
from minidiff.zoo.judges import Judge, frechet_distance, judge_images, nearest_distances
from minidiff.zoo.recipes import RECIPES, DiffusionRecipe, JudgeRecipe, Recipe
from minidiff.zoo.sampling import sample

__all__ = [
    "BOUNDS",
    "RECIPES",
    "WEIGHTS",
    "DiffusionRecipe",
    "Judge",
    "JudgeRecipe",
    "Pretrained",
    "Recipe",
    "frechet_distance",
    "judge_images",
    "load",
    "nearest_distances",
    "note_quality",
    "recipe_hash",
    "sample",
    "save_weights",
    "train_recipe",
]

"""The models that the course ships: how each was trained, its weights, and who judges them."""

from minidiff.evaluation import nearest_distances  # for lessons that come before chapter 05
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
from minidiff.zoo.judges import Judge, judge_images
from minidiff.zoo.recipes import (
    RECIPES,
    DiffusionRecipe,
    HybridRecipe,
    JudgeRecipe,
    Recipe,
    SuperResolutionRecipe,
)
from minidiff.zoo.sampling import sample

__all__ = [
    "BOUNDS",
    "RECIPES",
    "WEIGHTS",
    "DiffusionRecipe",
    "HybridRecipe",
    "Judge",
    "JudgeRecipe",
    "Pretrained",
    "Recipe",
    "SuperResolutionRecipe",
    "judge_images",
    "load",
    "nearest_distances",
    "note_quality",
    "recipe_hash",
    "sample",
    "save_weights",
    "train_recipe",
]

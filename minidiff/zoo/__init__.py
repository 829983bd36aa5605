"""The models that the course ships: how each was trained, its weights, and who judges them."""

from minidiff.evaluation import nearest_distances  # for lessons that come before chapter 05
from minidiff.zoo.bounds import BOUNDS
from minidiff.zoo.checkpoints import (
    WEIGHTS,
    Pretrained,
    load,
    note_quality,
    save_weights,
    train_recipe,
)
from minidiff.zoo.judges import Judge, judge_clips, judge_images, judge_pictures
from minidiff.zoo.recipes import (
    RECIPES,
    AutoencoderRecipe,
    CaptionRecipe,
    ClipRecipe,
    DiffusionRecipe,
    HybridRecipe,
    JudgeRecipe,
    LatentRecipe,
    Recipe,
    SuperResolutionRecipe,
    recipe_hash,
)
from minidiff.zoo.sampling import sample, sample_captions

__all__ = [
    "BOUNDS",
    "RECIPES",
    "WEIGHTS",
    "AutoencoderRecipe",
    "CaptionRecipe",
    "ClipRecipe",
    "DiffusionRecipe",
    "HybridRecipe",
    "Judge",
    "JudgeRecipe",
    "LatentRecipe",
    "Pretrained",
    "Recipe",
    "SuperResolutionRecipe",
    "judge_clips",
    "judge_images",
    "judge_pictures",
    "load",
    "nearest_distances",
    "note_quality",
    "recipe_hash",
    "sample",
    "sample_captions",
    "save_weights",
    "train_recipe",
]

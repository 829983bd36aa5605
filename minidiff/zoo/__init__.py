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
from minidiff.zoo.judges import (
    Judge,
    Listener,
    judge_images,
    judge_pictures,
    listen,
    transcribe,
)
from minidiff.zoo.recipes import (
    RECIPES,
    AutoencoderRecipe,
    CaptionRecipe,
    ChoraleRecipe,
    DiffusionRecipe,
    HybridRecipe,
    JudgeRecipe,
    LatentRecipe,
    ListenerRecipe,
    Recipe,
    SpeechRecipe,
    SuperResolutionRecipe,
    recipe_hash,
)
from minidiff.zoo.sampling import sample, sample_captions, sample_speech

__all__ = [
    "BOUNDS",
    "RECIPES",
    "WEIGHTS",
    "AutoencoderRecipe",
    "CaptionRecipe",
    "ChoraleRecipe",
    "DiffusionRecipe",
    "HybridRecipe",
    "Judge",
    "JudgeRecipe",
    "LatentRecipe",
    "Listener",
    "ListenerRecipe",
    "Pretrained",
    "Recipe",
    "SpeechRecipe",
    "SuperResolutionRecipe",
    "judge_images",
    "judge_pictures",
    "listen",
    "load",
    "nearest_distances",
    "note_quality",
    "recipe_hash",
    "sample",
    "sample_captions",
    "sample_speech",
    "save_weights",
    "train_recipe",
    "transcribe",
]

"""The judge, and what real images score with it: the control of every other topic."""

from __future__ import annotations

from typing import Any

import torch

from minidiff import nearest_distances
from minidiff.zoo import WEIGHTS, load, note_quality, recipe_hash
from topics.common import N_SAMPLES, Bounded, mean, real, share


def measure(device: torch.device) -> dict[str, Any]:
    """The judge's accuracy, and the floor of both distances.

    The floor of the Frechet distance is the mean over all disjoint sets of N test images, each
    against the same 60,000 training images as the samples.
    """
    seen = real(device)
    accuracy = share(seen.test_classes == seen.test_labels)
    note_quality(WEIGHTS / "judge.safetensors", {"accuracy": accuracy["value"]})
    return {
        "recipe_hash": recipe_hash(load("judge").recipe),
        "accuracy": accuracy,
        f"frechet_floor_{N_SAMPLES}": mean(seen.floors(N_SAMPLES)),
        "nearest_training_image": mean(nearest_distances(seen.x_test[:N_SAMPLES], seen.x_train)),
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    return [Bounded("judge_accuracy", result["accuracy"]["value"], ">=", "test set")]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    accuracy = result["accuracy"]
    return (
        f"The judge classifies {100 * accuracy['value']:.2f} % of {accuracy['n']:,} test images "
        "correctly.\n"
    )

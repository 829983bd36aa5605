"""The shipped generator without guidance: does it draw what is asked for, how well, and its own?"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from minidiff import frechet_distance, nearest_distances
from minidiff.zoo import BOUNDS, WEIGHTS, judge_images, load, note_quality, recipe_hash, sample
from topics.common import N_SAMPLES, SEEDS, Bounded, mean, real, share, stored, table

N_CALLS = 50


def measure(device: torch.device) -> dict[str, Any]:
    """Draw N samples a seed, as many of each class, and judge them."""
    fashion, judge, seen = load("fashion", device), load("judge", device).model, real(device)
    control = stored("judge")
    floor = control[f"frechet_floor_{N_SAMPLES}"]["value"]
    labels = torch.arange(N_SAMPLES) % 10
    runs = []
    for seed in SEEDS:
        begin = time.perf_counter()
        x = sample(fashion, labels, N_CALLS, torch.Generator().manual_seed(seed))
        seconds = time.perf_counter() - begin
        classes, features = judge_images(judge, x)
        agreement = share(classes == labels)
        nearest = mean(nearest_distances(x, seen.x_train))
        frechet = frechet_distance(features, seen.train)
        runs.append(
            {
                "seed": seed,
                "agreement": agreement,
                "agreement_ratio": agreement["value"] / control["accuracy"]["value"],
                "frechet": frechet,
                "frechet_ratio": frechet / floor,
                "nearest_training_image": nearest,
                "nearest_ratio": nearest["value"] / control["nearest_training_image"]["value"],
                "seconds": round(seconds, 1),
            }
        )
    worst = {
        "agreement_ratio": min(run["agreement_ratio"] for run in runs),
        "frechet_ratio": max(run["frechet_ratio"] for run in runs),
        "nearest_ratio": min(run["nearest_ratio"] for run in runs),
    }
    note_quality(WEIGHTS / "fashion.safetensors", worst)
    pooled = sum(run["agreement"]["value"] for run in runs) / len(runs)
    n_all = N_SAMPLES * len(runs)
    error = math.sqrt(pooled * (1 - pooled) / n_all)
    return {
        "recipe_hash": recipe_hash(fashion.recipe),
        "agreement": {"value": pooled, "standard_error": error, "n": n_all},
        "n_calls": N_CALLS,
        "sampler": "ddpm, beta_tilde, trailing",
        "guidance_scale": 1.0,
        "runs": runs,
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    rows = []
    for run in result["runs"]:
        who = f"seed {run['seed']}"
        rows.append(Bounded("fashion_agreement", run["agreement_ratio"], ">=", who))
        rows.append(Bounded("fashion_frechet_ratio", run["frechet_ratio"], "<=", who))
        rows.append(Bounded("fashion_nearest_ratio", run["nearest_ratio"], ">=", who))
    return rows


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md; README.md and the model's card show the same table."""
    runs, control = result["runs"], stored("judge")
    floor = control[f"frechet_floor_{N_SAMPLES}"]["value"]
    rows = [
        (
            "the judge sees the class asked for",
            *(f"{run['agreement']['value']:.3f}" for run in runs),
            "",
            f"{control['accuracy']['value']:.4f}",
        ),
        (
            "... relative to real images",
            *(f"{run['agreement_ratio']:.3f}" for run in runs),
            f"at least {BOUNDS['fashion_agreement']}",
            "1",
        ),
        (
            "Frechet distance to the training set",
            *(f"{run['frechet']:.3f}" for run in runs),
            "",
            f"{floor:.4f}",
        ),
        (
            "... relative to real images",
            *(f"{run['frechet_ratio']:.2f}" for run in runs),
            f"at most {BOUNDS['fashion_frechet_ratio']}",
            "1",
        ),
        (
            "distance to the nearest training image",
            *(f"{run['nearest_training_image']['value']:.2f}" for run in runs),
            "",
            f"{control['nearest_training_image']['value']:.2f}",
        ),
        (
            "... relative to real images",
            *(f"{run['nearest_ratio']:.3f}" for run in runs),
            f"at least {BOUNDS['fashion_nearest_ratio']}",
            "1",
        ),
    ]
    head = ("seed", *(str(run["seed"]) for run in runs), "bound", "real test images")
    return (
        f"## fashion, without guidance\n\n{table(head, rows)}\n\n"
        "The floor of the Frechet distance is its mean over disjoint sets of as many real test\n"
        "images as there are samples; device, versions, calls of the model and standard errors\n"
        "stand in `results/`.\n"
    )

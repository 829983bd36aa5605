"""What guidance gives and what it costs: agreement with the class asked for, and diversity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import (
    Denoiser,
    frechet_distance,
    guided,
    precision_recall,
    sample_dpm_solver,
)
from minidiff.zoo import BOUNDS, judge_images, load, recipe_hash
from topics.common import N_SAMPLES, SEEDS, Bounded, draw, real, share, table

N_CALLS = 20
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
SCALE = 2.0  # held to the bounds
INTERVAL, INTERVAL_SCALE = (200, 800), 3.0


def measure(device: torch.device) -> dict[str, Any]:
    """One seed for the curve, three for the bounds, and an interval beside."""
    fashion, judge, seen = load("fashion", device), load("judge", device).model, real(device)
    labels = torch.arange(N_SAMPLES) % 10
    none = {"labels": torch.tensor(10)}

    def sample(
        part: Tensor,
        generator: torch.Generator,
        scale: float,
        interval: tuple[float, float] | None = None,
    ) -> Tensor:
        model, context = fashion.model, {"labels": part}
        if scale != 1.0:
            model, context = guided(model, context, none, scale, interval), None
        denoise = Denoiser(model, fashion.schedule, fashion.recipe.prediction_type, context)
        shape = (len(part), 1, 28, 28)
        return sample_dpm_solver(denoise, shape, N_CALLS, generator=generator, device=device)

    def quality(
        scale: float, seed: int, interval: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        x = draw(labels, lambda part, g: sample(part, g, scale, interval), seed, device)
        classes, features = judge_images(judge, x)
        precision, recall = precision_recall(seen.test[:N_SAMPLES], features)
        result = {
            "guidance_scale": scale,
            "agreement": share(classes == labels),
            "frechet": frechet_distance(features, seen.train),
            "precision": precision,
            "recall": recall,
        }
        print(seed, interval, result, flush=True)
        return result

    curve = [quality(scale, 0) for scale in SCALES]
    runs = []
    for seed in SEEDS:
        strong, plain = (
            next((p for p in curve if seed == 0 and p["guidance_scale"] == scale), None)
            or quality(scale, seed)
            for scale in (SCALE, 1.0)
        )
        runs.append(
            {
                "seed": seed,
                "agreement": strong["agreement"],
                "recall": strong["recall"],
                "recall_at_1": plain["recall"],
                "recall_ratio": strong["recall"] / plain["recall"],
            }
        )
    first, last = INTERVAL
    interval = {"first": first, "last": last, **quality(INTERVAL_SCALE, 0, INTERVAL)}

    return {
        "recipe_hash": recipe_hash(fashion.recipe),
        "n": N_SAMPLES,
        "n_calls": N_CALLS,
        "sampler": "dpm_solver",
        "guidance_scale": SCALE,
        "curve": curve,
        "runs": runs,
        "interval": interval,
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    rows = []
    for run in result["runs"]:
        who = f"seed {run['seed']}"
        rows.append(Bounded("guided_agreement", run["agreement"]["value"], ">=", who))
        rows.append(Bounded("guided_recall_ratio", run["recall_ratio"], ">=", who))
    return rows


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    head = ("guidance scale", "judge agrees", "precision", "recall", "Frechet distance")
    rows = [
        (
            f"{point['guidance_scale']:g}",
            f"{point['agreement']['value']:.3f}",
            f"{point['precision']:.3f}",
            f"{point['recall']:.3f}",
            f"{point['frechet']:.3f}",
        )
        for point in result["curve"]
    ]
    runs = "; ".join(
        f"{run['agreement']['value']:.4f} and {run['recall_ratio']:.2f}" for run in result["runs"]
    )
    return (
        f"## fashion, guided\n\n{result['n']:,} samples, {result['n_calls']} calls of "
        f"DPM-Solver++, one seed:\n\n{table(head, rows)}\n\n"
        f"At scale {result['guidance_scale']:g}, three seeds, the judge's agreement and recall "
        f"relative to that at scale 1:\n{runs} (bounds: at least {BOUNDS['guided_agreement']} and "
        f"{BOUNDS['guided_recall_ratio']}).\n"
    )

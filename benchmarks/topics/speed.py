"""Seconds that sampling takes; measure them while the machine does nothing else.

What a GPU takes is kept beside what the processor takes.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch

from minidiff import Denoiser, autocast, guided, sample_dpm_solver
from minidiff.zoo import BOUNDS, load, recipe_hash
from topics.common import Bounded, stored

N_IMAGES, N_CALLS, N_RUNS = 64, 20, 5


def measure(device: torch.device) -> dict[str, Any]:
    """The median of several runs, with and without guidance."""
    fashion = load("fashion", device)
    context = {"labels": torch.arange(N_IMAGES, device=device) % 10}
    strong = guided(fashion.model, context, {"labels": torch.tensor(10)})
    prediction_type = fashion.recipe.prediction_type
    denoisers = {
        "plain": fashion.denoiser(context),
        "guided": Denoiser(strong, fashion.schedule, prediction_type),
    }

    def seconds(denoise: Denoiser) -> float:
        took = []
        for seed in range(N_RUNS):
            generator, begin = torch.Generator().manual_seed(seed), time.perf_counter()
            with autocast(device):
                shape = (N_IMAGES, 1, 28, 28)
                sample_dpm_solver(denoise, shape, N_CALLS, generator=generator, device=device).cpu()
            took.append(time.perf_counter() - begin)
        return round(median(took), 2)

    took = {name: seconds(denoise) for name, denoise in denoisers.items()}
    before = stored("speed")
    if device.type == "cuda":
        gpu = {"seconds": took, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
        return before | {"gpu": gpu}
    return {
        "recipe_hash": recipe_hash(fashion.recipe),
        "n_images": N_IMAGES,
        "n_calls": N_CALLS,
        "seconds": took,
        "gpu": before["gpu"],
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    return [
        Bounded("sampling_seconds", took, "<=", name) for name, took in result["seconds"].items()
    ]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    plain, strong = result["seconds"]["plain"], result["seconds"]["guided"]
    faster = ""
    if gpu := result["gpu"]:
        took = gpu["seconds"]
        faster = f"On one {gpu['device']}: {took['plain']} s, guided {took['guided']} s.\n"
    return (
        f"## fashion, seconds\n\n{result['n_images']} images with {result['n_calls']} calls take "
        f"{plain} s, guided {strong} s\n(bound: {BOUNDS['sampling_seconds']:g} s; "
        f"{result['device']}).\n{faster}"
    )

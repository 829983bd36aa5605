"""Diffusion in the latent space, beside diffusion in pixels: what it gives and what it costs."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
from torch import Tensor

from minidiff import (
    Denoiser,
    autocast,
    frechet_distance,
    guided,
    multiply_adds,
    precision_recall,
    sample_dpm_solver,
)
from minidiff.zoo import BOUNDS, WEIGHTS, Pretrained, judge_images, load, note_quality, recipe_hash
from topics.common import N_SAMPLES, SEEDS, Bounded, draw, real, share, stored, table

CALLS = (5, 10, 25, 50)  # those at which the pixel model was measured
N_CALLS, SCALE = 20, 2.0  # held to the bounds
SCALES = (1.0, 1.5, 2.0, 3.0)  # of those at which the pixel model was measured
N_IMAGES, N_RUNS = 64, 5


def measure(device: torch.device) -> dict[str, Any]:
    """One seed for the curves, three with guidance for the bounds, and what both models cost."""
    latent, pixel = load("fashion-latent", device), load("fashion", device)
    judge, seen = load("judge", device).model, real(device)
    labels = torch.arange(N_SAMPLES) % 10

    def quality(n_calls: int, seed: int, scale: float = 1.0) -> dict[str, Any]:
        def sampler(part: Tensor, generator: torch.Generator) -> Tensor:
            return sample(latent, part, n_calls, generator, scale)

        classes, features = judge_images(judge, draw(labels, sampler, seed, device))
        precision, recall = precision_recall(seen.test[:N_SAMPLES], features)
        result = {
            "n_calls": n_calls,
            "guidance_scale": scale,
            "agreement": share(classes == labels),
            "frechet": frechet_distance(features, seen.train),
            "precision": precision,
            "recall": recall,
        }
        print(seed, scale, result, flush=True)
        return result

    curve = {str(n): quality(n, 0) for n in CALLS}
    scales = [quality(N_CALLS, 0, scale) for scale in SCALES]
    first = next(point for point in scales if point["guidance_scale"] == SCALE)
    runs = [
        {"seed": seed, **(first if seed == 0 else quality(N_CALLS, seed, SCALE))} for seed in SEEDS
    ]
    in_pixels = stored("guidance")
    assert (in_pixels["n_calls"], in_pixels["sampler"]) == (N_CALLS, "dpm_solver")
    cost = {
        name: {
            "seconds": seconds(pretrained),
            "peak_mib": peak_mib(pretrained.recipe.name),
        }
        for name, pretrained in (("latent", latent), ("pixel", pixel))
    }
    worst = {
        "guided_agreement": min(run["agreement"]["value"] for run in runs),
        "guided_frechet": max(run["frechet"] for run in runs),
    }
    note_quality(WEIGHTS / "fashion-latent.safetensors", worst)
    return {
        "recipe_hash": recipe_hash(latent.recipe),
        "n": N_SAMPLES,
        "n_calls": N_CALLS,
        "sampler": "dpm_solver",
        "guidance_scale": SCALE,
        "curve": curve,
        "pixel_curve": stored("few-steps")["curve"]["dpm_solver"],
        "scales": scales,
        "pixel_scales": [p for p in in_pixels["curve"] if p["guidance_scale"] in SCALES],
        "runs": runs,
        "operations": operations(latent, pixel),
        "cost": cost | {"n_images": N_IMAGES, "n_calls": N_CALLS, "guidance_scale": SCALE},
    }


def sample(
    pretrained: Pretrained,
    labels: Tensor,
    n_calls: int,
    generator: torch.Generator,
    scale: float = 1.0,
) -> Tensor:
    """Draw an image for each label; decode it if it is a latent."""
    context, shape = {"labels": labels}, (len(labels), *pretrained.shape)
    denoise = pretrained.denoiser(context)
    if scale != 1.0:
        strong = guided(pretrained.model, context, {"labels": torch.tensor(10)}, scale)
        denoise = Denoiser(strong, denoise.schedule, denoise.prediction_type, None, denoise.clip)
    x = sample_dpm_solver(denoise, shape, n_calls, generator=generator, device=labels.device)
    return pretrained.to_images(x)


def operations(latent: Pretrained, pixel: Pretrained) -> dict[str, float]:
    """Multiply-adds of one model call for one image, and of what is decoded at the end."""
    counts = {}
    for name, pretrained in (("latent", latent), ("pixel", pixel)):
        device = next(pretrained.model.parameters()).device
        x_t, t = torch.zeros(1, *pretrained.shape, device=device), torch.zeros(1, device=device)
        counts[name] = multiply_adds(pretrained.model, x_t, t.long())
    assert latent.autoencoder is not None
    z = torch.zeros(1, *latent.shape, device=device)
    counts["decoder"] = multiply_adds(latent.autoencoder.decoder, z)
    return counts | {"ratio": counts["pixel"] / counts["latent"]}


def seconds(pretrained: Pretrained) -> float:
    """Median time for 64 guided images; on a processor, that of all its cores together."""
    device = next(pretrained.model.parameters()).device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    labels, took = torch.arange(N_IMAGES, device=device) % 10, []
    for seed in range(N_RUNS):
        generator, begin = torch.Generator().manual_seed(seed), clock()
        with autocast(device):
            sample(pretrained, labels, N_CALLS, generator, SCALE).cpu()
        took.append(clock() - begin)
    return round(median(took), 3)


def peak_mib(name: str) -> int:
    """Resident memory that drawing the same adds at its peak, on a CPU, in a process of its own.

    Linux alone tells (VmHWM; the peak of getrusage may be that of the process that started it).
    """
    code = f"""if True:
        import re, torch
        from pathlib import Path
        from minidiff import autocast
        from minidiff.zoo import load
        from topics.fashion_latent import N_CALLS, N_IMAGES, SCALE, sample

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

        model, labels, before = load({name!r}), torch.arange(N_IMAGES) % 10, peak()
        with autocast(torch.device("cpu")):
            sample(model, labels, N_CALLS, torch.Generator(), SCALE)
        print((peak() - before) // 1024)"""
    root = WEIGHTS.parent.parent.parent
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root / "benchmarks",
    )
    return int(ran.stdout)


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    rows = [
        Bounded("latent_agreement", run["agreement"]["value"], ">=", f"seed {run['seed']}")
        for run in result["runs"]
    ]
    ratio = result["operations"]["ratio"]
    return [*rows, Bounded("latent_operations_ratio", ratio, ">=", "one call, one image")]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    count, cost = result["operations"], result["cost"]
    rows, guided_rows, costs = [], [], []
    for name, curve, scales, once in (
        ("latents", "curve", "scales", count["decoder"]),
        ("pixels", "pixel_curve", "pixel_scales", 0),
    ):
        rows.append((name, *(f"{result[curve][str(n)]['frechet']:.3f}" for n in CALLS)))
        guided_rows.append((name, *(f"{point['frechet']:.3f}" for point in result[scales])))
        work = (2 * result["n_calls"] * count[name[:-1]] + once) / 1e6  # both halves of a batch
        spent = cost[name[:-1]]
        costs.append((name, f"{work:,.0f}", f"{spent['seconds']:.2f}", f"{spent['peak_mib']}"))
    head = ("drawn in", "million multiply-adds an image", "processor seconds", "peak MiB")
    runs = ", ".join(f"{run['agreement']['value']:.4f}" for run in result["runs"])
    return (
        f"## fashion-latent\n\nFrechet distance of {result['n']:,} samples to the training set, "
        f"DPM-Solver++, no guidance:\n\n{table(('calls of the model', *map(str, CALLS)), rows)}\n\n"
        f"With guidance and {result['n_calls']} calls:\n\n"
        f"{table(('guidance scale', *(f'{scale:g}' for scale in SCALES)), guided_rows)}\n\n"
        f"One call takes {count['latent'] / 1e6:.1f} million multiply-adds an image, in pixels "
        f"{count['pixel'] / 1e6:.1f} million: {count['ratio']:.1f} times\nas many (bound: at least "
        f"{BOUNDS['latent_operations_ratio']:g}). {cost['n_images']} images with "
        f"{cost['n_calls']} calls at scale {cost['guidance_scale']:g}, decoded:\n\n"
        f"{table(head, costs)}\n\n"
        f"At that scale, three seeds, the judge agrees with {runs}\n"
        f"(bound: at least {BOUNDS['latent_agreement']}).\n"
    )

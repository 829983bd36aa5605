"""Super-resolution from 7x7 to 28x28: trained, by projection, bicubic, and by copying."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff import autocast, downsample, psnr, sample_dpm_solver, super_resolve
from minidiff.zoo import BOUNDS, WEIGHTS, judge_images, load, note_quality, recipe_hash
from topics.common import BATCH, N_SAMPLES, SEEDS, Bounded, mean, real, share, table

N_CALLS = 20  # of the trained model, by DPM-Solver++
N_PROJECTED, N_STEPS = 200, 50  # super-resolution without training, one seed
N_AVERAGED = 8  # samples of one image whose mean is taken


def bicubic(low: Tensor) -> Tensor:
    """Enlarge four times by bicubic interpolation, kept within the range of pixels."""
    return F.interpolate(low, scale_factor=4, mode="bicubic").clamp(-1, 1)


def nearest(low: Tensor, train: Tensor, n: int = 1) -> Tensor:
    """Copy the training image that is nearest at 7x7, or the mean of the n nearest."""
    known = downsample(train).flatten(1)  # (M, 49)
    distances = known.square().sum(1) - 2 * low.flatten(1) @ known.T  # (N, M), less a constant
    return train[distances.topk(n, largest=False).indices].mean(1)


def measure(device: torch.device) -> dict[str, Any]:
    """Three seeds, each on other test images; the projection and an average on a few."""
    trained, fashion = load("super-resolution", device), load("fashion", device)
    judge, seen = load("judge", device).model, real(device)

    def enlarged(low: Tensor, seed: int) -> Tensor:
        generator, parts = torch.Generator().manual_seed(seed), []
        for part in low.split(BATCH):
            denoise = trained.denoiser({"image": part.to(device)})
            with autocast(device):
                shape = (len(part), 1, 28, 28)
                x = sample_dpm_solver(denoise, shape, N_CALLS, generator=generator, device=device)
            parts.append(x.cpu())
        return torch.cat(parts)

    def projected(low: Tensor, seed: int) -> Tensor:
        generator, parts = torch.Generator().manual_seed(seed), []
        for part in low.split(BATCH):
            with autocast(device):
                x = super_resolve(fashion.denoiser(), part.to(device), 4, N_STEPS, generator)
            parts.append(x.cpu())
        return torch.cat(parts)

    def quality(x: Tensor, x_0: Tensor, labels: Tensor) -> dict[str, Any]:
        off = downsample(x) - downsample(x_0)
        return {
            "accuracy": share(judge_images(judge, x)[0] == labels),
            "psnr": mean(psnr(x, x_0)),
            "inconsistency": off.square().mean().sqrt().item(),
        }

    runs = []
    for seed in SEEDS:
        part = slice(seed * N_SAMPLES, (seed + 1) * N_SAMPLES)
        x_0, labels = seen.x_test[part], seen.test_labels[part]
        low = downsample(x_0)
        run: dict[str, Any] = {
            "seed": seed,
            "real": share(seen.test_classes[part] == labels),
            "bicubic": quality(bicubic(low), x_0, labels),
            "nearest": quality(nearest(low, seen.x_train), x_0, labels),
            "trained": quality(enlarged(low, seed), x_0, labels),
        }
        run["gain"] = run["trained"]["accuracy"]["value"] - run["bicubic"]["accuracy"]["value"]
        runs.append(run)
        print(run, flush=True)

    x_0, labels = seen.x_test[-N_PROJECTED:], seen.test_labels[-N_PROJECTED:]
    low = downsample(x_0)
    average = torch.stack([enlarged(low, seed) for seed in range(N_AVERAGED)]).mean(0)
    few = {
        "bicubic": quality(bicubic(low), x_0, labels),
        "nearest": quality(nearest(low, seen.x_train), x_0, labels),
        f"mean of {N_AVERAGED} nearest": quality(
            nearest(low, seen.x_train, N_AVERAGED), x_0, labels
        ),
        "trained": quality(enlarged(low, 0), x_0, labels),
        f"mean of {N_AVERAGED} trained": quality(average, x_0, labels),
        "projected": quality(projected(low, 0), x_0, labels),
    }
    print(few, flush=True)
    note_quality(
        WEIGHTS / "super-resolution.safetensors",
        {
            "judge_accuracy": min(run["trained"]["accuracy"]["value"] for run in runs),
            "gain_over_bicubic": min(run["gain"] for run in runs),
            "psnr": min(run["trained"]["psnr"]["value"] for run in runs),
        },
    )
    return {
        "recipe_hash": recipe_hash(trained.recipe),
        "n": N_SAMPLES,
        "n_calls": N_CALLS,
        "sampler": "dpm_solver",
        "n_few": N_PROJECTED,
        "n_steps_projected": N_STEPS,
        "runs": runs,
        "few": few,
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    return [
        Bounded("super_resolution_gain", run["gain"], ">=", f"seed {run['seed']}")
        for run in result["runs"]
    ]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""

    def cells(name: str, quality: dict[str, Any]) -> tuple[str, ...]:
        accuracy, decibels = quality["accuracy"], quality["psnr"]
        return (
            name,
            f"{accuracy['value']:.3f} ± {accuracy['standard_error']:.3f}",
            f"{decibels['value']:.2f} ± {decibels['standard_error']:.2f}",
            f"{quality['inconsistency']:.4f}",
        )

    head = ("", "judge is right", "PSNR, dB", "off at 7x7")
    rows = [
        cells(f"{way}, seed {run['seed']}", run[way])
        for run in result["runs"]
        for way in ("bicubic", "nearest", "trained")
    ]
    few = [cells(name, quality) for name, quality in result["few"].items()]
    originals = ", ".join(f"{run['real']['value']:.3f}" for run in result["runs"])
    return (
        f"## super-resolution\n\nFrom 7x7 to 28x28, {result['n']:,} test images a seed, each seed "
        f"others; {result['n_calls']} calls of DPM-Solver++. The judge is to be right on at least "
        f"{BOUNDS['super_resolution_gain']} more than on bicubic interpolation; on the originals "
        f"it is in {originals}. No bound is held against `nearest`, the training image that "
        f"is nearest at 7x7, copied: the judge hardly tells it from what is drawn, and PSNR does. "
        f"The last column is the root mean square by which the result, averaged down again, "
        f"differs from what was given:\n\n{table(head, rows)}\n\n"
        f"The same on {result['n_few']} others, one seed, with the `fashion` model, never trained "
        f"for it, by projection in {result['n_steps_projected']} steps, and a mean of several "
        f"samples:\n\n{table(head, few)}\n"
    )

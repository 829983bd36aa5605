"""The learned variance: bits per dimension of real images, and samples in fifty calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import autocast, bits_per_dimension, frechet_distance, learned_variance, sample_ddpm
from minidiff.data import load_fashion
from minidiff.zoo import BOUNDS, WEIGHTS, judge_images, load, note_quality, recipe_hash
from topics.common import BATCH, N_SAMPLES, SEEDS, Bounded, draw, mean, real, stored, table

N_CALLS = 50
N_IMAGES = 200
VARIANCES = ("learned", "beta_tilde", "beta")


def measure(device: torch.device) -> dict[str, Any]:
    """Bits of test images, as many of each class as there are, and Frechet distances of samples."""
    bits, frechet = measure_bits(device), measure_frechet(device)
    worst = {
        "bits_per_dimension": bits["learned"]["value"],
        "smallest_z": min(gain["z"] for gain in bits["gain"].values()),
        "frechet_ratio": max(run["ratio"] for run in frechet["runs"]),
    }
    note_quality(WEIGHTS / "fashion-improved.safetensors", worst)
    improved = load("fashion-improved")
    return {"recipe_hash": recipe_hash(improved.recipe), "bits": bits, "frechet": frechet}


def measure_bits(device: torch.device) -> dict[str, Any]:
    """All terms of the bound; the variances share predictions and noise, so compare in pairs."""
    improved, generator = load("fashion-improved", device), torch.Generator().manual_seed(0)
    x_0, labels = (values[:N_IMAGES] for values in load_fashion("test"))
    parts = []
    for clean, label in zip(torch.split(x_0, BATCH), torch.split(labels, BATCH), strict=True):
        denoise = improved.denoiser({"labels": label.to(device)})
        with autocast(device):
            parts.append(bits_per_dimension(denoise, clean.to(device), generator, VARIANCES))
        print({name: float(bound.total.mean()) for name, bound in parts[-1].items()}, flush=True)
    total = {name: torch.cat([part[name].total for part in parts]).cpu() for name in VARIANCES}
    terms = {name: torch.cat([part[name].terms for part in parts]).cpu() for name in VARIANCES}
    prior = torch.cat([part["learned"].prior for part in parts]).cpu()
    gain = {name: mean(total[name] - total["learned"]) for name in VARIANCES[1:]}
    return {
        "n": N_IMAGES,
        **{name: mean(values) for name, values in total.items()},
        "prior": mean(prior),
        "gain": {name: g | {"z": g["value"] / g["standard_error"]} for name, g in gain.items()},
        "terms": {
            name: [float(f"{value:.5g}") for value in values.mean(0)]
            for name, values in terms.items()
        },
    }


def measure_frechet(device: torch.device) -> dict[str, Any]:
    """Samples of the same weights with each variance, three seeds."""
    improved, judge = load("fashion-improved", device), load("judge", device).model
    labels = torch.arange(N_SAMPLES) % 10

    def distance(name: str, seed: int) -> float:
        variance: Any = learned_variance if name == "learned" else name

        def sampler(part: Tensor, generator: torch.Generator) -> Tensor:
            denoise, shape = improved.denoiser({"labels": part}), (len(part), 1, 28, 28)
            return sample_ddpm(denoise, shape, N_CALLS, None, generator, device, variance)

        _, features = judge_images(judge, draw(labels, sampler, seed, device))
        return frechet_distance(features, real(device).train)

    runs = []
    for seed in SEEDS:
        run = {name: distance(name, seed) for name in VARIANCES}
        runs.append({"seed": seed, **run, "ratio": run["learned"] / run["beta"]})
        print(runs[-1], flush=True)
    floor = stored("judge")[f"frechet_floor_{N_SAMPLES}"]
    return {"n": N_SAMPLES, "n_calls": N_CALLS, "floor": floor, "runs": runs}


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    rows = [
        Bounded("improved_bits_z", gain["z"], ">=", f"against {name}")
        for name, gain in result["bits"]["gain"].items()
    ]
    return rows + [
        Bounded("improved_frechet_ratio", run["ratio"], "<=", f"seed {run['seed']}")
        for run in result["frechet"]["runs"]
    ]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md; the model's card shows the same tables."""
    bits, frechet = result["bits"], result["frechet"]
    rows = []
    for name in VARIANCES:
        gain = bits["gain"].get(name)
        rows.append(
            (
                name,
                f"{bits[name]['value']:.4f} ± {bits[name]['standard_error']:.4f}",
                f"{gain['value']:.4f} ± {gain['standard_error']:.4f}" if gain else "",
                *(f"{run[name]:.3f}" for run in frechet["runs"]),
            )
        )
    head = (
        "variance",
        "bits per dimension",
        "more than learned",
        *(f"Frechet, seed {run['seed']}" for run in frechet["runs"]),
    )
    return (
        f"## fashion-improved\n\nThe same weights with three variances: bits per dimension of "
        f"{bits['n']} test images with\ntheir standard errors (the difference is taken image by "
        f"image; bound: at least {BOUNDS['improved_bits_z']:g}\nstandard errors), and Frechet "
        f"distance of {frechet['n']:,} samples in {frechet['n_calls']} calls, where as many real "
        f"test\nimages have {frechet['floor']['value']:.4f} (bound: learned at most "
        f"{BOUNDS['improved_frechet_ratio']:g} times beta):\n\n{table(head, rows)}\n"
    )

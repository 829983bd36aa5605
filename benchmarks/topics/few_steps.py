"""Quality against the number of model calls, for three samplers and one set of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import frechet_distance, sample_ddim, sample_ddpm, sample_dpm_solver
from minidiff.zoo import BOUNDS, judge_images, load, recipe_hash
from topics.common import N_SAMPLES, SEEDS, Bounded, draw, real, share, stored, table

SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim, "dpm_solver": sample_dpm_solver}
CALLS = (5, 10, 25, 50)
BEST, N_CALLS = "dpm_solver", 25  # held to the bound


def measure(device: torch.device) -> dict[str, Any]:
    """One seed for the curve, three for the bound."""
    fashion, judge, seen = load("fashion", device), load("judge", device).model, real(device)
    floor = stored("judge")[f"frechet_floor_{N_SAMPLES}"]
    labels = torch.arange(N_SAMPLES) % 10

    def quality(name: str, n_calls: int, seed: int) -> dict[str, Any]:
        def sampler(part: Tensor, generator: torch.Generator) -> Tensor:
            denoise, shape = fashion.denoiser({"labels": part}), (len(part), 1, 28, 28)
            return SAMPLERS[name](denoise, shape, n_calls, generator=generator, device=device)

        classes, features = judge_images(judge, draw(labels, sampler, seed, device))
        frechet = frechet_distance(features, seen.train)
        print(f"{name} {n_calls} calls, seed {seed}: {frechet:.4f}", flush=True)
        return {"frechet": frechet, "agreement": share(classes == labels)}

    known = stored("fashion")  # with its sampler and number of calls
    first = {key: known["runs"][0][key] for key in ("frechet", "agreement")}
    curve = {
        name: {
            str(n): first if (name, n) == ("ddpm", known["n_calls"]) else quality(name, n, 0)
            for n in CALLS
        }
        for name in SAMPLERS
    }
    at = {0: curve[BEST][str(N_CALLS)]} | {s: quality(BEST, N_CALLS, s) for s in SEEDS[1:]}
    runs = [
        {
            "seed": seed,
            "n_calls": N_CALLS,
            "sampler": BEST,
            "frechet": run["frechet"],
            "frechet_ratio": run["frechet"] / floor["value"],
        }
        for seed, run in at.items()
    ]
    return {
        "recipe_hash": recipe_hash(fashion.recipe),
        "n": N_SAMPLES,
        "floor": floor,
        "curve": curve,
        "runs": runs,
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    return [
        Bounded("few_steps_frechet_ratio", run["frechet_ratio"], "<=", f"seed {run['seed']}")
        for run in result["runs"]
    ]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    rows = [
        (name, *(f"{points[str(n)]['frechet']:.3f}" for n in CALLS))
        for name, points in result["curve"].items()
    ]
    head = ("calls of the model", *map(str, CALLS))
    ratios = ", ".join(f"{run['frechet_ratio']:.2f}" for run in result["runs"])
    return (
        f"## fashion, few calls\n\nFrechet distance of {result['n']:,} samples to the training "
        f"set, where as many real test\nimages have {result['floor']['value']:.4f}:\n\n"
        f"{table(head, rows)}\n\n{BEST} with {N_CALLS} calls, three seeds, relative to the floor: "
        f"{ratios}\n(bound: at most {BOUNDS['few_steps_frechet_ratio']}).\n"
    )

"""Measure what the shipped models are worth and compare it with the bounds: `make measure`.

What takes longer than a notebook may is computed here and written to benchmarks/results/*.json;
the notebooks show those figures, recompute a part of them and assert that both agree. Nothing is
selected: three fixed seeds, and each must meet each bound. The exit code is 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.data import load_fashion
from minidiff.lab.machine import best_device
from minidiff.zoo import (
    BOUNDS,
    WEIGHTS,
    Pretrained,
    frechet_distance,
    judge_images,
    load,
    nearest_distances,
    note_quality,
    recipe_hash,
    sample,
)
from minidiff.zoo.judges import Judge

RESULTS = Path(__file__).parent / "results"
PAGE = """# What was measured

`make measure` writes this page and the files in `results/`. Nothing is selected: each seed must
meet each bound of `minidiff/zoo/bounds.py`, and the bounds stood before the results.

## fashion, without guidance

{table}

The floor of the Frechet distance is its mean over disjoint sets of as many real test images as
there are samples; device, versions, calls of the model and standard errors stand in `results/`.
"""
SEEDS = (0, 1, 2)
N_SAMPLES = 2_000
N_CALLS = 50


def main() -> int:
    """Measure the judge and the diffusion model; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--n", type=int, default=N_SAMPLES, help="samples a seed")
    parser.add_argument("--calls", type=int, default=N_CALLS, help="model calls a sample")
    parser.add_argument("--weights", type=Path, help="measure this file; write no results")
    options = parser.parse_args()
    device = best_device()
    judge = load("judge", device)
    real = measure_real(judge, options.n)
    fashion = load("fashion", device, options.weights)
    result = measure_fashion(fashion, judge, real, options.seeds, options.n, options.calls, device)
    missed = compare(real, result)
    if options.weights is None:
        write("judge", {"recipe_hash": recipe_hash(judge.recipe), **real["report"]}, device)
        write("fashion", {"recipe_hash": recipe_hash(fashion.recipe), **result}, device)
        (RESULTS.parent / "RESULTS.md").write_text(PAGE.format(table=table(real, result)))
        accuracy = {"accuracy": real["report"]["accuracy"]["value"]}
        note_quality(WEIGHTS / "judge.safetensors", accuracy)
        worst = {
            "agreement_ratio": min(run["agreement_ratio"] for run in result["runs"]),
            "frechet_ratio": max(run["frechet_ratio"] for run in result["runs"]),
            "nearest_ratio": min(run["nearest_ratio"] for run in result["runs"]),
        }
        note_quality(WEIGHTS / "fashion.safetensors", worst)
    return 1 if missed else 0


def measure_real(judge: Pretrained, n: int) -> dict[str, Any]:
    """What real images score: the judge's accuracy, and the floor of both distances.

    The floor of the Frechet distance is the mean over all disjoint sets of n test images, each
    against the same 60,000 training images as the samples.
    """
    assert isinstance(judge.model, Judge)
    x_train, _ = load_fashion("train")
    x_test, labels = load_fashion("test")
    classes, test = judge_images(judge.model, x_test)
    _, train = judge_images(judge.model, x_train)
    accuracy = share(classes == labels)
    floors = torch.tensor([frechet_distance(part, train) for part in torch.split(test, n)])
    nearest = mean(nearest_distances(x_test[:n], x_train))
    report = {
        "accuracy": accuracy,
        f"frechet_floor_{n}": mean(floors),
        "nearest_training_image": nearest,
    }
    return {"train": train, "x_train": x_train, "report": report}


def measure_fashion(
    fashion: Pretrained,
    judge: Pretrained,
    real: dict[str, Any],
    seeds: list[int],
    n: int,
    n_calls: int,
    device: torch.device,
) -> dict[str, Any]:
    """Draw n samples a seed, as many of each class, and judge them."""
    assert isinstance(judge.model, Judge)
    labels = torch.arange(n) % 10
    accuracy = real["report"]["accuracy"]["value"]
    floor = real["report"][f"frechet_floor_{n}"]["value"]
    runs = []
    for seed in seeds:
        begin = time.perf_counter()
        x = sample(fashion, labels, n_calls, torch.Generator().manual_seed(seed))
        seconds = time.perf_counter() - begin
        classes, features = judge_images(judge.model, x)
        agreement = share(classes == labels)
        nearest = mean(nearest_distances(x, real["x_train"]))
        frechet = frechet_distance(features, real["train"])
        runs.append(
            {
                "seed": seed,
                "agreement": agreement,
                "agreement_ratio": agreement["value"] / accuracy,
                "frechet": frechet,
                "frechet_ratio": frechet / floor,
                "nearest_training_image": nearest,
                "nearest_ratio": nearest["value"]
                / real["report"]["nearest_training_image"]["value"],
                "seconds": round(seconds, 1),
            }
        )
        print(json.dumps(runs[-1]), flush=True)
    every = torch.tensor([run["agreement"]["value"] for run in runs])
    pooled = every.mean().item()
    n_all = n * len(runs)
    return {
        "agreement": {
            "value": pooled,
            "standard_error": math.sqrt(pooled * (1 - pooled) / n_all),
            "n": n_all,
        },
        "n_calls": n_calls,
        "sampler": "ddpm, beta_tilde, trailing",
        "guidance_scale": 1.0,
        "runs": runs,
    }


def compare(real: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Print every figure beside its bound and return the names of those missed."""
    rows = [("judge_accuracy", real["report"]["accuracy"]["value"], ">=", "test set")]
    for run in result["runs"]:
        who = f"seed {run['seed']}"
        rows.append(("fashion_agreement", run["agreement_ratio"], ">=", who))
        rows.append(("fashion_frechet_ratio", run["frechet_ratio"], "<=", who))
        rows.append(("fashion_nearest_ratio", run["nearest_ratio"], ">=", who))
    missed = []
    for name, value, sign, who in rows:
        met = value >= BOUNDS[name] if sign == ">=" else value <= BOUNDS[name]
        missed += [] if met else [name]
        print(
            f"{'ok    ' if met else 'MISSED'} {name:24s} {value:8.4f} {sign} {BOUNDS[name]} ({who})"
        )
    return missed


def table(real: dict[str, Any], result: dict[str, Any]) -> str:
    """Make the table that RESULTS.md, README.md and the model card show."""
    runs, report = result["runs"], real["report"]
    floor = next(value for name, value in report.items() if name.startswith("frechet_floor"))
    rows = [
        ("seed", [str(run["seed"]) for run in runs], "", "real test images"),
        ("---", ["---"] * len(runs), "---", "---"),
        (
            "the judge sees the class asked for",
            [f"{run['agreement']['value']:.3f}" for run in runs],
            "",
            f"{report['accuracy']['value']:.4f}",
        ),
        (
            "... relative to real images",
            [f"{run['agreement_ratio']:.3f}" for run in runs],
            f"at least {BOUNDS['fashion_agreement']}",
            "1",
        ),
        (
            "Frechet distance to the training set",
            [f"{run['frechet']:.3f}" for run in runs],
            "",
            f"{floor['value']:.4f}",
        ),
        (
            "... relative to real images",
            [f"{run['frechet_ratio']:.2f}" for run in runs],
            f"at most {BOUNDS['fashion_frechet_ratio']}",
            "1",
        ),
        (
            "distance to the nearest training image",
            [f"{run['nearest_training_image']['value']:.2f}" for run in runs],
            "",
            f"{report['nearest_training_image']['value']:.2f}",
        ),
        (
            "... relative to real images",
            [f"{run['nearest_ratio']:.3f}" for run in runs],
            f"at least {BOUNDS['fashion_nearest_ratio']}",
            "1",
        ),
    ]
    lines = []
    for name, values, bound, control in rows:
        cells = [name, *values, bound, control]
        lines.append("| " + " | ".join(cells) + " |")
    lines[0] = lines[0].replace("|  |", "| bound |")
    return "\n".join(lines)


def share(hits: Tensor) -> dict[str, float]:
    """Return the share of hits with its binomial standard error."""
    value = hits.double().mean().item()
    error = math.sqrt(value * (1 - value) / len(hits))
    return {"value": value, "standard_error": error, "n": len(hits)}


def mean(values: Tensor) -> dict[str, float]:
    """Return the mean with its standard error."""
    error = values.double().std() / math.sqrt(len(values))
    return {
        "value": values.double().mean().item(),
        "standard_error": error.item(),
        "n": len(values),
    }


def write(name: str, result: dict[str, Any], device: torch.device) -> None:
    """Write one result with where and when it was measured."""
    is_cuda = device.type == "cuda"
    about = {
        "device": torch.cuda.get_device_name()
        if is_cuda
        else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result | about, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

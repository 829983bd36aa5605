"""Compare minidiff with its peers, side by side in one run: speed, memory, quality.

    python benchmarks/peers.py speed     # about a quarter of an hour on two idle cores
    python benchmarks/peers.py quality   # then: each trains as many images as in --minutes

Needs the extra `bench`. Every training and every sampling runs in a process of its own, so that
its memory is its own. What was measured goes to results/peers.json and RESULTS.md.
Quality is measured after as many images as the median speed gives in the same minutes, so another
process that disturbs the training costs nobody anything.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from statistics import median
from textwrap import fill
from typing import Any

import torch

import measure
from contenders import CONTENDERS, N_CALLS, SETTINGS, Contender
from minidiff import autocast, frechet_distance, kernel_distance
from minidiff.data import load_fashion
from minidiff.lab.machine import best_device
from minidiff.zoo import judge_images, load
from topics.common import N_SAMPLES, RESULTS, real, table

N_WINDOWS, SECONDS = 5, 3.0  # a window of training lasts at least so long
N_IMAGES, N_RUNS = 64, 3  # drawn at a time, and how often


def main() -> int:
    """Run one part, or as a process of its own one measurement of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("speed", "quality", "train", "sample", "learn"))
    parser.add_argument("--only", choices=CONTENDERS, help="one contender")
    parser.add_argument("--setting", choices=SETTINGS, help="one setting")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for quality")
    parser.add_argument("--images", type=int, help="to train on (learn)")
    options = parser.parse_args()
    device = best_device()
    if options.part == "speed":
        speed(device)
    elif options.part == "quality":
        quality(options.minutes, options.setting or "own", device)
    else:
        torch.manual_seed(0)
        part = {"train": time_training, "sample": time_sampling}.get(options.part)
        if part is not None:
            contender = CONTENDERS[options.only](options.setting, 100_000, device)
            result = part(contender, device)
        else:
            result = learn(options.only, options.setting, options.images, device)
        print(json.dumps(result))
    return 0


def speed(device: torch.device) -> None:
    """Measure images a second and memory of each contender at each setting."""
    rows = known("speed")
    for setting in SETTINGS:
        for name in CONTENDERS:
            if (name, setting) not in rows:
                trained, sampled = (alone(part, name, setting) for part in ("train", "sample"))
                row = {"name": name, "setting": setting, **trained, **sampled}
                rows[name, setting] = row
                print(json.dumps(row), flush=True)
                write({"speed": list(rows.values())}, device)


def quality(minutes: float, setting: str, device: torch.device) -> None:
    """Let each train as many images as it does in some minutes, and judge what it then draws."""
    rows = known("quality")
    for at, row in known("speed").items():
        if at[1] == setting and at not in rows:
            n_images = round(row["training_images_per_second"] * minutes * 60)
            rows[at] = alone("learn", *at, "--images", str(n_images))
            print(json.dumps(rows[at]), flush=True)
            write({"minutes": minutes, "quality": list(rows.values())}, device)


def known(part: str) -> dict[tuple[str, str], Any]:
    """Return the rows of an interrupted run; delete results/peers.json to measure afresh."""
    path = RESULTS / "peers.json"
    rows = json.loads(path.read_text()).get(part, []) if path.exists() else []
    return {(row["name"], row["setting"]): row for row in rows}


def alone(part: str, name: str, setting: str, *more: str) -> dict[str, Any]:
    """Run one measurement in a process of its own and return what it prints last."""
    command = [sys.executable, __file__, part, "--only", name, "--setting", setting, *more]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def time_training(contender: Contender, device: torch.device) -> dict[str, Any]:
    """Return the median rate of several windows of training, and the memory it takes."""
    x_0, _ = load_fashion("train")
    steps = contender.steps(x_0)
    before = memory(device)
    next(steps)  # allocates
    rates = []
    for _ in range(N_WINDOWS):
        begin, n_images = time.perf_counter(), 0
        while time.perf_counter() - begin < SECONDS:
            next(steps)
            n_images += contender.batch_size
        rates.append(n_images / (time.perf_counter() - begin))
    return {
        "parameters": sum(p.numel() for p in contender.model.parameters()),
        "batch_size": contender.batch_size,
        "training_images_per_second": median(rates),
        "training_mib": memory(device) - before,
    }


def time_sampling(contender: Contender, device: torch.device) -> dict[str, Any]:
    """Return the median rate of drawing images several times, and the memory it takes."""
    before, took = memory(device), []
    for _ in range(N_RUNS + 1):
        begin = time.perf_counter()
        contender.sample(N_IMAGES).cpu()
        took.append(time.perf_counter() - begin)
    return {
        "sampled_images_per_second": N_IMAGES / median(took[1:]),  # the first one warms up
        "sampling_mib": memory(device) - before,
    }


def learn(name: str, setting: Any, n_images: int, device: torch.device) -> dict[str, Any]:
    """Train on so many images and judge 2,000 that are drawn then."""
    x_0, _ = load_fashion("train")
    batch_size = CONTENDERS[name](setting, 1, device).batch_size
    n_steps = max(1, n_images // batch_size)
    torch.manual_seed(0)
    contender = CONTENDERS[name](setting, n_steps, device)
    for _, _loss in zip(range(n_steps), contender.steps(x_0), strict=False):
        pass
    with autocast(device):  # in bfloat16 for everybody, whatever they were trained in
        drawn = [contender.sample(100).cpu() for _ in range(N_SAMPLES // 100)]
    _, features = judge_images(load("judge", device).model, torch.cat(drawn))
    training = real(device).train
    kernel = kernel_distance(features, training)
    return {
        "name": name,
        "setting": setting,
        "n_images": n_steps * batch_size,
        "n_steps": n_steps,
        "frechet": frechet_distance(features, training),
        "kernel": {"value": kernel.value, "standard_error": kernel.standard_error},
    }


def memory(device: torch.device) -> float:
    """Return the most memory that this process ever held, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


def write(part: dict[str, Any], device: torch.device) -> None:
    """Add one part to what is known, with the versions, and write the page again."""
    path = RESULTS / "peers.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    versions = {name: version(name) for name in CONTENDERS if name != "minidiff"}
    where = measure.about(device) if "speed" in part else {}  # quality does not depend on it
    result = stored | part | {"n_calls": N_CALLS, "versions": versions} | where
    path.write_text(json.dumps(result, indent=1) + "\n")
    measure.write_page()


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    head = (
        *("setting", "library", "parameters", "batch", "images/s trained", "MiB"),
        *("images/s drawn", "MiB"),
    )
    speeds = [
        (
            SETTINGS[row["setting"]],
            row["name"],
            f"{row['parameters'] / 1e6:.1f} M",
            str(row["batch_size"]),
            f"{row['training_images_per_second']:.1f}",
            f"{row['training_mib']:,.0f}",
            f"{row['sampled_images_per_second']:.2f}",
            f"{row['sampling_mib']:,.0f}",
        )
        for row in result["speed"]
    ]
    qualities = [
        (
            SETTINGS[row["setting"]],
            row["name"],
            f"{row['n_images']:,}",
            f"{row['frechet']:.2f}",
            f"{row['kernel']['value']:.3f} ± {row['kernel']['standard_error']:.3f}",
        )
        for row in result["quality"]
    ]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    head_line = (
        f"Side by side, a process each ({result['device']}, torch {result['torch']}, {versions}, "
        f"{result['date']}): medians of {N_WINDOWS} windows of training and of {N_RUNS} or more "
        f"times {N_IMAGES} images drawn with {result['n_calls']} calls. MiB is what a process "
        "needs beyond its libraries and data."
    )
    quality_line = (
        f"Quality after as many images as the median speed gives in {result['minutes']:g} minutes: "
        f"{N_SAMPLES:,} images drawn in bfloat16, compared with the training set by the judge's "
        "features. The peers' recipes are made for hours on a GPU: the minutes are "
        + ", ".join(f"{r['n_steps']:,} steps of {r['name']}" for r in result["quality"])
        + "."
    )
    return "\n\n".join(
        (
            "## minidiff and its peers",
            fill(head_line, 98, break_on_hyphens=False),
            table(head, speeds),
            fill(compared(result), 98, break_on_hyphens=False),
            fill(quality_line, 98, break_on_hyphens=False),
            table(("setting", "library", "images trained", "Frechet", "kernel"), qualities) + "\n",
        )
    )


def compared(result: dict[str, Any]) -> str:
    """Say how minidiff stands to the best peer in each respect, at everybody's own defaults."""
    own = {row["name"]: row for row in result["speed"] if row["setting"] == "own"}
    ours = own.pop("minidiff")
    sentences = []
    for key, better, what in (
        ("training_images_per_second", max, "trained images a second"),
        ("training_mib", min, "memory in training"),
        ("sampled_images_per_second", max, "drawn images a second"),
        ("sampling_mib", min, "memory in sampling"),
    ):
        best = better(own.values(), key=lambda row: row[key])
        sentences.append(f"{what} {ours[key] / best[key]:.2f} times that of {best['name']}")
    qualities = {row["name"]: row for row in result["quality"] if row["setting"] == "own"}
    ours = qualities.pop("minidiff")
    best = min(qualities.values(), key=lambda row: row["frechet"])
    ratio = ours["frechet"] / best["frechet"]
    sentences.append(f"Frechet distance {ratio:.2f} times that of {best['name']}")
    return (
        "minidiff, beside the best peer in each respect, each at its own defaults: "
        + "; ".join(sentences)
        + "."
    )


if __name__ == "__main__":
    sys.exit(main())

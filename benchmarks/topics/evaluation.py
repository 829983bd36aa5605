"""How the measures themselves behave: with the number of images, on copies, on real images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import (
    copying_z,
    frechet_distance,
    kernel_distance,
    nearest_distances,
    noise_like,
    precision_recall,
)
from minidiff.training import draw_integers
from minidiff.zoo import judge_images, load, recipe_hash, sample
from topics.common import N_SAMPLES, Bounded, mean, real, table

SIZES = (250, 500, 1000, 2000)
N_CALLS = 50
JITTER = 0.02  # of the copies, where pixels lie in [-1, 1]


def measure(device: torch.device) -> dict[str, Any]:
    """Samples of one seed beside real test images, at several numbers of images."""
    fashion, judge, seen = load("fashion", device), load("judge", device).model, real(device)
    generator = torch.Generator().manual_seed(0)
    # Classes drawn at random, as real images come: as many of each would make the pairs within a
    # block less alike than by chance, and the kernel distance negative.
    labels = draw_integers(10, N_SAMPLES, generator)
    x = sample(fashion, labels, N_CALLS, generator, batch_size=100)
    _, features = judge_images(judge, x)

    def at(n: int) -> dict[str, Any]:
        return {
            "n": n,
            "floor_frechet": mean(seen.floors(n)),
            "frechet": frechet_distance(features[:n], seen.train),
            "floor_kernel": kernel(seen.test[:n], seen.train),
            "kernel": kernel(features[:n], seen.train),
        }

    def kernel(part: Tensor, train: Tensor) -> dict[str, float]:
        # As many blocks as the smaller set allows, each against training images of its own.
        return dict(kernel_distance(part, train, block_size=125)._asdict())

    half = seen.test[:N_SAMPLES], seen.test[N_SAMPLES : 2 * N_SAMPLES]
    copies = seen.x_train[:N_SAMPLES] + JITTER * noise_like(seen.x_train[:N_SAMPLES], generator)
    held_out = nearest_distances(seen.x_test[:N_SAMPLES], seen.x_train)
    return {
        "recipe_hash": recipe_hash(fashion.recipe),
        "n": N_SAMPLES,
        "n_calls": N_CALLS,
        "sampler": "ddpm, beta_tilde, trailing",
        "by_n": [at(n) for n in SIZES],
        "precision_recall": {
            "real": precision_recall(*half)._asdict(),
            "fashion": precision_recall(half[0], features)._asdict(),
        },
        "copying_z": {
            "fashion": copying_z(nearest_distances(x, seen.x_train), held_out),
            "copies": copying_z(nearest_distances(copies, seen.x_train), held_out),
        },
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Nothing here is held to a bound: it describes the measures, not the model."""
    return []


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    head = ("N", "Frechet: real", "Frechet: fashion", "kernel: real", "kernel: fashion")
    rows = [
        (
            str(point["n"]),
            f"{point['floor_frechet']['value']:.4f}",
            f"{point['frechet']:.4f}",
            *(
                f"{point[name]['value']:.4f} ± {point[name]['standard_error']:.4f}"
                for name in ("floor_kernel", "kernel")
            ),
        )
        for point in result["by_n"]
    ]
    both, z = result["precision_recall"], result["copying_z"]
    pairs = " and ".join(
        f"{name} {values['precision']:.3f}, {values['recall']:.3f}" for name, values in both.items()
    )
    return (
        f"## The measures\n\nN images against the training set, test images beside samples of one "
        f"seed:\n\n{table(head, rows)}\n\nPrecision and recall at N = {result['n']:,}: {pairs}. "
        f"The test of copying gives z = {z['fashion']:.1f} for\nthe samples and "
        f"{z['copies']:.1f} for training images with a little noise.\n"
    )

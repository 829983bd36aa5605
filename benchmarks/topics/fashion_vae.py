"""How well the autoencoder gives back real test images, with PCA of as many numbers beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import autocast, frechet_distance, psnr
from minidiff.latent import Autoencoder
from minidiff.zoo import BOUNDS, WEIGHTS, judge_images, load, note_quality, recipe_hash
from topics.common import N_SAMPLES, Bounded, mean, real, stored, table


def measure(device: torch.device) -> dict[str, Any]:
    """All 10,000 test images; the standard deviation over the training set, too."""
    vae, seen = load("fashion-vae", device), real(device)
    model = vae.model
    assert isinstance(model, Autoencoder)
    decoded, sampled, nats, widths, z_test = [], [], [], [], []
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), autocast(device):
        for part in torch.split(seen.x_test, 500):
            posterior = model.encode(part.to(device))
            decoded.append(model.decode(posterior.mean).cpu())
            sampled.append(model.decode(posterior.sample(generator=generator)).cpu())
            nats.append(posterior.kl().cpu())
            widths.append((posterior.log_variance / 2).exp().cpu())
            z_test.append((model.scale_factor * posterior.mean).cpu())
        parts = torch.split(seen.x_train, 500)
        z_train = torch.cat([model.to_latents(part.to(device)).cpu() for part in parts])
    ours = psnr(seen.x_test, torch.cat(decoded))
    n_numbers = z_train[0].numel()
    theirs = psnr(seen.x_test, pca(seen.x_train, seen.x_test, n_numbers))
    _, features = judge_images(load("judge", device).model, torch.cat(decoded)[:N_SAMPLES])
    result = {
        "recipe_hash": recipe_hash(vae.recipe),
        "n_numbers": n_numbers,
        "psnr": mean(ours),
        "psnr_sampled": mean(psnr(seen.x_test, torch.cat(sampled))),
        "psnr_pca": mean(theirs),
        "gain": mean(ours - theirs),
        "kl": mean(torch.cat(nats)),
        "posterior_std": torch.cat(widths).mean().item(),
        "scale_factor": model.scale_factor.item(),
        "std_train": z_train.double().std().item(),
        "std_test": torch.cat(z_test).double().std().item(),
        "std_channels": z_train.double().std(dim=(0, 2, 3)).tolist(),
        "frechet": frechet_distance(features, seen.train),
        "floor": stored("judge")[f"frechet_floor_{N_SAMPLES}"],
    }
    quality = {name: result[name]["value"] for name in ("psnr", "gain", "kl")}
    note_quality(WEIGHTS / "fashion-vae.safetensors", quality)
    return result


def pca(x_train: Tensor, x_test: Tensor, n_numbers: int) -> Tensor:
    """Give test images back from their first n_numbers principal components."""
    train, test = x_train.flatten(1).double(), x_test.flatten(1).double()  # (N, 784)
    centre = train.mean(0)
    covariance = (train - centre).T @ (train - centre) / len(train)  # (784, 784)
    components = torch.linalg.eigh(covariance).eigenvectors[:, -n_numbers:]  # (784, n_numbers)
    return ((test - centre) @ components @ components.T + centre).view_as(x_test)


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    return [
        Bounded("vae_psnr", result["psnr"]["value"], ">=", "10,000 test images"),
        Bounded("vae_psnr_above_pca", result["gain"]["value"], ">=", "the same, in pairs"),
        Bounded("latent_std_error", abs(result["std_train"] - 1), "<=", "60,000 training images"),
    ]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    rows = [
        (name, f"{result[key]['value']:.2f} +- {result[key]['standard_error']:.2f}")
        for name, key in (
            ("autoencoder, the posterior's mean", "psnr"),
            ("autoencoder, a draw from the posterior", "psnr_sampled"),
            (f"PCA with {result['n_numbers']} components", "psnr_pca"),
        )
    ]
    return (
        f"## fashion-vae\n\nThe 10,000 test images, each encoded to {result['n_numbers']} numbers "
        f"and decoded, mean PSNR in decibels\n(bounds: at least {BOUNDS['vae_psnr']:g}, and more "
        f"than PCA):\n\n{table(('by', 'PSNR'), rows)}\n\n"
        f"The KL divergence is {result['kl']['value']:.0f} nats an image; scaled by "
        f"{result['scale_factor']:.3f}, the training set's latents have\nstandard deviation "
        f"{result['std_train']:.4f} (bound: 1 +- {BOUNDS['latent_std_error']:g}). "
        f"{N_SAMPLES:,} test images encoded and decoded\nhave a Frechet distance of "
        f"{result['frechet']:.3f} to the training set; as they are, "
        f"{result['floor']['value']:.3f}.\n"
    )

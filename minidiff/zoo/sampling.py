"""Draw images from a shipped model: labels in, images out."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.ddpm import Variance, sample_ddpm
from minidiff.improved import learned_variance
from minidiff.training import autocast
from minidiff.zoo.checkpoints import Pretrained
from minidiff.zoo.recipes import HybridRecipe, SuperResolutionRecipe


def sample(
    pretrained: Pretrained,
    labels: Tensor,
    n_steps: int = 50,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Draw one image for each label by ancestral sampling, with the learned variance if any.

    Latents are drawn in the same way and then decoded.

    Args:
        pretrained: A diffusion model, as `load` returns it.
        labels: Classes, (N,) int64 in [0, 10]; 10 asks for no class in particular.
        n_steps: Model calls an image.
        generator: Source of all noise.
        batch_size: Images at a time.

    Returns:
        Images (N, 1, 28, 28) in [-1, 1] on the CPU.

    Raises:
        ValueError: If it is no diffusion model, or one that enlarges a given image.

    >>> from minidiff.zoo import load
    >>> images = sample(load("fashion"), torch.tensor([9, 9]), n_steps=2)  # two ankle boots
    >>> images.shape
    torch.Size([2, 1, 28, 28])
    """
    if isinstance(pretrained.recipe, SuperResolutionRecipe):
        raise ValueError(
            f"{pretrained.recipe.name!r} enlarges an image that it is given; labels make none"
        )
    device = next(pretrained.model.parameters()).device
    learned = isinstance(pretrained.recipe, HybridRecipe)
    variance: Variance = learned_variance if learned else "beta_tilde"
    images = []
    for part in torch.split(labels, batch_size):
        denoise = pretrained.denoiser({"labels": part.to(device)})
        with autocast(device):
            shape = (len(part), *pretrained.shape)
            x = sample_ddpm(denoise, shape, n_steps, None, generator, device, variance)
            images.append(pretrained.to_images(x).cpu())
    return torch.cat(images)

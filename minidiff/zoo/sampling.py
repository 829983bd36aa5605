"""Draw images from a shipped model: labels in, images out."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.ddpm import sample_ddpm
from minidiff.training import autocast
from minidiff.zoo.checkpoints import Pretrained


def sample(
    pretrained: Pretrained,
    labels: Tensor,
    n_steps: int = 50,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Draw one image for each label by ancestral sampling.

    Args:
        pretrained: A diffusion model, as `load` returns it.
        labels: Classes, (N,) int64 in [0, 10]; 10 asks for no class in particular.
        n_steps: Model calls an image.
        generator: Source of all noise.
        batch_size: Images at a time.

    Returns:
        Images (N, 1, 28, 28) in [-1, 1] on the CPU.

    >>> from minidiff.zoo import load
    >>> images = sample(load("fashion"), torch.tensor([9, 9]), n_steps=2)  # two ankle boots
    >>> images.shape
    torch.Size([2, 1, 28, 28])
    """
    device = next(pretrained.model.parameters()).device
    images = []
    for part in torch.split(labels, batch_size):
        denoise = pretrained.denoiser({"labels": part.to(device)})
        with autocast(device):
            x = sample_ddpm(
                denoise, (len(part), 1, 28, 28), n_steps, generator=generator, device=device
            )
        images.append(x.cpu())
    return torch.cat(images)

"""A first look at what a model draws, for lessons that come before the one about sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidiff.ddpm import Denoiser, sample_ddpm
from minidiff.forward import NoiseSchedule
from minidiff.training import PredictionType, autocast


def preview(
    model: Callable[..., Tensor],
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    labels: Tensor,
    n_steps: int = 25,
    generator: torch.Generator | None = None,
    shape: Sequence[int] = (1, 8, 8),
) -> Tensor:
    """Draw one image for each label, by the sampler that chapter 04 builds.

    Args:
        model: Keeps the contract model(x_t, t, context).
        schedule: The schedule it was trained with.
        prediction_type: What it was trained to predict: "eps", "x_0" or "v".
        labels: The classes asked for, (N,) int64, on the model's device.
        n_steps: Calls of the model for one image.
        generator: Source of all noise.
        shape: Of one image, (C, H, W).

    Returns:
        Images (N, C, H, W) in [-1, 1] on the CPU.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # sees nothing but grey
    >>> preview(model, cosine_schedule(), "x_0", torch.tensor([3, 7])).abs().max()
    tensor(0.)
    """
    denoise = Denoiser(model, schedule, prediction_type, {"labels": labels})
    with autocast(labels.device):
        x = sample_ddpm(
            denoise, (len(labels), *shape), n_steps, generator=generator, device=labels.device
        )
    return x.cpu()

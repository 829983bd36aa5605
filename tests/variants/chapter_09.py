"""Right answers to the tasks of chapter 09 in other styles than the reference's."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# --- multiply_adds -------------------------------------------------------------------------------


def by_a_real_convolution(height, width, in_channels, out_channels, kernel_size, stride):
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2, device="meta"
    )
    out = conv(torch.zeros(1, in_channels, height, width, device="meta"))
    return out[0, 0].numel() * conv.weight.numel()


def with_math_prod(height, width, in_channels, out_channels, kernel_size, stride):
    return (
        math.prod((height, width, in_channels, out_channels, kernel_size, kernel_size)) // stride**2
    )


def with_the_formula_for_padding(height, width, in_channels, out_channels, kernel_size, stride):
    pad = kernel_size // 2
    rows, columns = ((n + 2 * pad - kernel_size) // stride + 1 for n in (height, width))
    return in_channels * kernel_size * kernel_size * out_channels * rows * columns


def row_by_row(height, width, in_channels, out_channels, kernel_size, stride):
    total = 0
    for _ in range(0, height, stride):
        total += len(range(0, width, stride)) * in_channels * out_channels * kernel_size**2
    return total


# --- kl_to_prior ---------------------------------------------------------------------------------


def with_sigma(mean, log_variance):
    sigma = torch.exp(0.5 * log_variance)
    return 0.5 * torch.sum(mean.pow(2) + sigma.pow(2) - 1 - 2 * sigma.log(), dim=(1, 2, 3))


def with_a_minus_in_front(mean, log_variance):
    return -0.5 * torch.sum(1 + log_variance - mean**2 - log_variance.exp(), dim=[1, 2, 3])


def with_expm1(mean, log_variance):
    nats = mean * mean + torch.expm1(log_variance) - log_variance
    return nats.reshape(len(mean), -1).sum(-1) / 2


def with_einsum(mean, log_variance):
    squares = torch.einsum("bchw,bchw->b", mean, mean)
    rest = (log_variance.exp() - log_variance - 1).sum((1, 2, 3))
    return (squares + rest) / 2


def item_by_item(mean, log_variance):
    nats = [0.5 * (m**2 + v.exp() - v - 1).sum() for m, v in zip(mean, log_variance, strict=True)]
    return torch.stack(nats)


# --- autoencoder_loss ----------------------------------------------------------------------------


def with_mse_loss(encode, decode, x, kl_weight, noise):
    mean, log_variance = encode(x)
    z = mean + torch.exp(0.5 * log_variance) * noise
    kl = -0.5 * torch.mean(1 + log_variance - mean.pow(2) - log_variance.exp())
    return F.mse_loss(decode(z), x) + kl_weight * kl


def with_addcmul(encode, decode, x, kl_weight, noise):
    mean, log_variance = encode(x)
    sigma = log_variance.exp().sqrt()
    error = (x - decode(torch.addcmul(mean, sigma, noise))).pow(2).sum() / x.numel()
    nats = (mean.square() + sigma.square() - 1).sum() / 2 - sigma.log().sum()
    return error + kl_weight * nats / mean.numel()


def with_distributions(encode, decode, x, kl_weight, noise):
    mean, log_variance = encode(x)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    error = (decode(q.loc + q.scale * noise) - x).square().mean()
    nats = q.loc.square() / 2 + q.variance / 2 - 0.5 - q.scale.log()
    return error + kl_weight * nats.mean()


def means_of_items(encode, decode, x, kl_weight, noise):
    mean, log_variance = encode(x)
    z = mean + noise * log_variance.mul(0.5).exp()
    error = (decode(z) - x).square().flatten(1).mean(1)
    kl = (0.5 * (mean**2 + log_variance.exp() - log_variance - 1)).flatten(1).mean(1)
    return torch.mean(error + kl_weight * kl)


# --- scale_factor --------------------------------------------------------------------------------


def from_moments(latents):
    return (latents.square().mean() - latents.mean() ** 2) ** -0.5


def with_rsqrt(latents):
    return torch.rsqrt(latents.var(correction=0))


def through_numpy(latents):
    return torch.tensor(1 / np.std(latents.numpy()), dtype=latents.dtype)


def flattened(latents):
    centred = latents.flatten() - latents.mean()
    return math.sqrt(len(centred)) / centred.norm()


def as_a_power(latents):
    return torch.std(latents, unbiased=False) ** -1


# --- draw_images ---------------------------------------------------------------------------------


def with_flipped_lists(model, decode, z_T, timesteps, a_bar, scale_factor):
    z, kept = z_T, a_bar[timesteps]
    previous = torch.cat([torch.ones(1, dtype=a_bar.dtype), kept[:-1]])
    for t, now, before in zip(timesteps.flip(0), kept.flip(0), previous.flip(0), strict=True):
        alpha, sigma = now.sqrt().float(), (1 - now).sqrt().float()
        v = model(z, torch.full((len(z),), int(t)))
        z_0 = alpha * z - sigma * v
        eps = (z - alpha * z_0) / sigma
        z = before.sqrt().float() * z_0 + (1 - before).sqrt().float() * eps
    return decode(z / scale_factor)


@torch.no_grad()
def as_a_rotation(model, decode, z_T, timesteps, a_bar, scale_factor):
    """v is the velocity along an arc: a step turns (z, v) by the difference of two angles."""
    angles = torch.acos(a_bar[timesteps].sqrt()).tolist()
    z = z_T
    for t, phi, end in zip(
        timesteps.tolist()[::-1], angles[::-1], [*angles[-2::-1], 0.0], strict=True
    ):
        v = model(z, torch.full((len(z),), t))
        z = math.cos(phi - end) * z - math.sin(phi - end) * v
    return decode(z * (1 / scale_factor))


def by_recursion(model, decode, z_T, timesteps, a_bar, scale_factor):
    def walk(z, i):
        if i < 0:
            return z
        t = timesteps[i].repeat(len(z))
        now = float(a_bar[timesteps[i]])
        before = float(a_bar[timesteps[i - 1]]) if i else 1.0
        v = model(z, t)
        clean = now**0.5 * z - (1 - now) ** 0.5 * v
        noise = (1 - now) ** 0.5 * z + now**0.5 * v
        return walk(before**0.5 * clean + (1 - before) ** 0.5 * noise, i - 1)

    return decode(walk(z_T, len(timesteps) - 1) / scale_factor)


def in_double_precision(model, decode, z_T, timesteps, a_bar, scale_factor):
    z, end = z_T.double(), 1.0
    for i in range(len(timesteps) - 1, -1, -1):
        t = torch.ones(len(z), dtype=torch.int64) * timesteps[i]
        now = a_bar[timesteps[i]]
        v = model(z.float(), t).double()
        z_0 = now**0.5 * z - (1 - now) ** 0.5 * v
        eps = (1 - now) ** 0.5 * z + now**0.5 * v
        end = a_bar[timesteps[i - 1]] if i > 0 else torch.tensor(1.0).double()
        z = end**0.5 * z_0 + (1 - end) ** 0.5 * eps
    return decode((z / scale_factor).float())


VARIANTS = {
    "multiply_adds": [
        by_a_real_convolution,
        with_math_prod,
        with_the_formula_for_padding,
        row_by_row,
    ],
    "kl_to_prior": [with_sigma, with_a_minus_in_front, with_expm1, with_einsum, item_by_item],
    "autoencoder_loss": [with_mse_loss, with_addcmul, with_distributions, means_of_items],
    "scale_factor": [from_moments, with_rsqrt, through_numpy, flattened, as_a_power],
    "draw_images": [with_flipped_lists, as_a_rotation, by_recursion, in_double_precision],
}

"""Chapter 09: latent diffusion. Draw a small code of the image, and let a decoder do the rest.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models"
(arXiv:2112.10752), on the autoencoder of Kingma & Welling 2014, "Auto-Encoding Variational Bayes"
(arXiv:1312.6114).

Nothing of the chapters before changes: to `train`, `Denoiser`, `guided` and every sampler, latents
are data of another shape. Only what has bounds in pixels has none here: `Denoiser(..., clip=None)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minidiff.forward import noise_like
from minidiff.improved import normal_kl


class Posterior(NamedTuple):
    """What the encoder says of an image: each latent number is normal, with a mean and a variance.

    Args:
        mean: (B, latent_channels, h, w).
        log_variance: Logarithm of the variance, shaped like the mean.

    >>> posterior = Posterior(torch.ones(2, 4, 7, 7), torch.zeros(2, 4, 7, 7))
    >>> posterior.kl()  # 196 numbers, each at a distance of 1 from the prior's mean
    tensor([98., 98.])
    """

    mean: Tensor
    log_variance: Tensor

    def sample(
        self, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw z = mean + sigma noise, through which gradients flow (Kingma & Welling 2014, eq. 4).

        Args:
            noise: Standard normal noise shaped like the mean; drawn when absent.
            generator: Source of that noise.

        Returns:
            Latents shaped like the mean.

        Raises:
            ValueError: If noise is not shaped like the mean.
        """
        if noise is None:
            noise = noise_like(self.mean, generator)
        if noise.shape != self.mean.shape:
            raise ValueError(
                f"noise must have the shape of the mean, {tuple(self.mean.shape)}, "
                f"got {tuple(noise.shape)}"
            )
        return self.mean + (self.log_variance / 2).exp() * noise

    def kl(self) -> Tensor:
        """KL divergence from the standard normal prior (Kingma & Welling 2014, appendix B).

        Returns:
            Nats of each item, summed over its latent numbers, (B,).
        """
        zero = torch.zeros_like(self.mean)
        return normal_kl(self.mean, self.log_variance, zero, zero).flatten(1).sum(1)


class Autoencoder(nn.Module):
    """A KL autoencoder: images (B, C, H, W) to latents (B, latent_channels, H/4, W/4) and back.

    Each level but the last halves height and width. `scale_factor`, 1 until it is measured, makes
    the latents' standard deviation 1 (Rombach et al. 2022, appendix G): `to_latents` multiplies by
    it, `to_images` divides. It is stored with the weights.

    Args:
        in_channels: Channels of the image.
        latent_channels: Channels of the latents.
        channels: Width of each level, from the finest to the coarsest.

    Raises:
        ValueError: If channels is empty, or an image or a latent has another shape than it should.

    >>> model = Autoencoder(channels=(8, 8, 16))
    >>> z = model.to_latents(torch.zeros(2, 1, 28, 28))
    >>> z.shape, model.to_images(z).shape
    (torch.Size([2, 4, 7, 7]), torch.Size([2, 1, 28, 28]))
    """

    scale_factor: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        latent_channels: int = 4,
        channels: Sequence[int] = (24, 48, 80),
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels must name at least one level, got none")
        self.in_channels = in_channels
        self.latent_channels = latent_channels
        self.factor = 2 ** (len(channels) - 1)  # height of the image over that of the latents
        self.register_buffer("scale_factor", torch.ones(()))

        # At full resolution a normalisation would take longer than the convolutions around it.
        down: list[nn.Module] = [nn.Conv2d(in_channels, channels[0], 3, padding=1)]
        up: list[nn.Module] = [nn.SiLU(), nn.Conv2d(channels[0], in_channels, 3, padding=1)]
        for level, width in enumerate(channels[:-1]):
            wider = channels[level + 1]
            block = _Residual(width, normalise=level > 0)
            down += [block, nn.Conv2d(width, wider, 3, stride=2, padding=1)]
            block = _Residual(width, normalise=level > 0)
            up = [nn.Upsample(scale_factor=2), nn.Conv2d(wider, width, 3, padding=1), block, *up]
        width = channels[-1]
        # Twice the channels: a mean and a logarithm of the variance for each latent number.
        out = nn.Conv2d(width, 2 * latent_channels, 3, padding=1)
        self.encoder = nn.Sequential(*down, _group_norm(width), nn.SiLU(), out)
        first = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.decoder = nn.Sequential(first, _Residual(width), *up)

    def encode(self, x: Tensor) -> Posterior:
        """Map images (B, in_channels, H, W) to the posterior of their latents."""
        fits = x.ndim == 4 and x.shape[1] == self.in_channels
        if not fits or any(size % self.factor for size in x.shape[2:]):
            raise ValueError(
                f"x must be (B, {self.in_channels}, H, W) with H and W multiples of {self.factor}, "
                f"got {tuple(x.shape)}"
            )
        mean, log_variance = self.encoder(x).to(x.dtype).chunk(2, dim=1)  # 2 x (B, latent, h, w)
        return Posterior(mean, log_variance)

    def decode(self, z: Tensor) -> Tensor:
        """Map latents (B, latent_channels, h, w), unscaled, to images (B, in_channels, H, W)."""
        if z.ndim != 4 or z.shape[1] != self.latent_channels:
            raise ValueError(f"z must be (B, {self.latent_channels}, h, w), got {tuple(z.shape)}")
        x: Tensor = self.decoder(z)
        return x.to(z.dtype)  # under autocast it comes in bfloat16

    def to_latents(self, x: Tensor) -> Tensor:
        """Encode images to what a diffusion model learns from: the posterior's mean, scaled."""
        return self.scale_factor * self.encode(x).mean

    def to_images(self, z: Tensor) -> Tensor:
        """Decode scaled latents, those that a diffusion model draws, to images."""
        return self.decode(z / self.scale_factor)


class _Residual(nn.Module):
    """Two convolutions around a skip: the block of chapter 02 without a timestep."""

    def __init__(self, channels: int, normalise: bool = True) -> None:
        super().__init__()
        self.norm_1 = _group_norm(channels) if normalise else nn.Identity()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_2 = _group_norm(channels) if normalise else nn.Identity()
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv_2.parameters():  # at first the block is its own skip
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, channels, H, W) to the same shape."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        out: Tensor = x + self.conv_2(F.silu(self.norm_2(h)))
        return out


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)


class AutoencoderLoss(NamedTuple):
    """What `autoencoder_loss` returns, three scalars: total = reconstruction + kl_weight * kl."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor


def autoencoder_loss(
    model: Autoencoder,
    x: Tensor,
    kl_weight: float,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> AutoencoderLoss:
    """Squared error of the reconstruction plus a little KL (Rombach et al. 2022, eq. 25).

    Both are means, the one over pixels, the other over latent numbers, so that kl_weight does not
    depend on the image's size. The KL term keeps latents near each other and around 0, and gives
    each a width; the reconstruction keeps them apart.

    Args:
        model: The autoencoder.
        x: Images (B, C, H, W) in [-1, 1].
        kl_weight: Weight of the KL term; 1e-6 to 1e-3 is usual.
        noise: Standard normal, shaped like the latents; drawn when absent.
        generator: Source of that noise.

    Returns:
        The total loss, to call .backward() on, and its two parts.

    Raises:
        ValueError: If kl_weight is negative.

    >>> loss = autoencoder_loss(Autoencoder(), torch.zeros(2, 1, 28, 28), kl_weight=0.0)
    >>> bool(loss.total == loss.reconstruction)
    True
    """
    if not kl_weight >= 0:
        raise ValueError(f"kl_weight must be at least 0, got {kl_weight}")
    posterior = model.encode(x)
    z = posterior.sample(noise, generator)
    reconstruction = F.mse_loss(model.decode(z), x)
    kl = posterior.kl().mean() / z[0].numel()  # nats of one latent number
    return AutoencoderLoss(reconstruction + kl_weight * kl, reconstruction, kl)


def scale_factor_of(latents: Tensor) -> Tensor:
    """1 / standard deviation over all of the training set's latents (Rombach et al. 2022, app. G).

    One number for all channels. The noise schedules of chapter 01 are made for data of standard
    deviation 1: with smaller latents the signal would be lost too early, with larger too late.

    Args:
        latents: Unscaled latents of the training set, (N, C, *space).

    Returns:
        A scalar, to multiply latents with.

    Raises:
        ValueError: If the latents do not vary, or are not finite.

    >>> scale_factor_of(torch.tensor([[-2.0], [2.0]]))
    tensor(0.5000)
    """
    std = latents.double().std(correction=0)
    if not (std.isfinite() and std > 0):
        raise ValueError(f"latents must vary and be finite, got standard deviation {std.item()}")
    return (1 / std).to(latents.dtype)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in decibels: 10 log10(peak^2 / mean squared error).

    The peak is 2, as images lie in [-1, 1]; both are clamped to it, as they would be to be shown.

    Args:
        x: Images (B, C, H, W) in [-1, 1].
        y: Their reconstructions, shaped like x.

    Returns:
        Decibels, (B,) float64; infinite where both are equal.

    Raises:
        ValueError: If the shapes differ.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))  # a quarter of the peak
    tensor([12.0412], dtype=torch.float64)
    """
    if x.shape != y.shape:
        raise ValueError(f"y must be shaped like x, {tuple(x.shape)}, got {tuple(y.shape)}")
    error = (x.double().clamp(-1, 1) - y.double().clamp(-1, 1)).square().flatten(1).mean(1)  # (B,)
    return 10 * (4 / error).log10()


@torch.no_grad()
def multiply_adds(module: nn.Module, *inputs: object) -> int:
    """Count the multiplications with addition in the convolutions and matrix products of one call.

    Those of attention are among them: it is computed product by product here, as what torch's fused
    kernels count depends on the device.

    Args:
        module: Any module.
        inputs: What it is called with, for instance x_t, t and a context.

    Returns:
        Their number, for the whole batch.

    >>> conv = nn.Conv2d(4, 8, 3, padding=1)
    >>> multiply_adds(conv, torch.zeros(1, 4, 7, 7)), 7 * 7 * 8 * 4 * 3 * 3
    (14112, 14112)
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return int(counter.get_total_flops()) // 2  # it counts the two apart

"""Chapter 01: the forward process, which turns data into noise.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (arXiv:2006.11239), section 2, and
Nichol & Dhariwal 2021, "Improved DDPM" (arXiv:2102.09672), section 3.2.

The papers count timesteps 1..T; here, as in every implementation, they run 0..T-1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The variances of a forward process and all that follows from them (Ho et al. 2020, eq. 2-7).

    Every tensor is float64, on the CPU, of shape (T,), and indexed by t in 0..T-1. Gather from
    them with `extract`.

    Args:
        betas: Variance of the noise added at each step, (T,) float64. Each lies in (0, 1); only
            the last may be 1 exactly (a schedule with zero terminal signal-to-noise ratio).

    Raises:
        TypeError: If betas is not a float64 tensor on the CPU.
        ValueError: If betas is empty, not one-dimensional, or has a value out of range or NaN.

    >>> schedule = NoiseSchedule(torch.tensor([0.1, 0.2], dtype=torch.float64))
    >>> schedule.alphas_cumprod
    tensor([0.9000, 0.7200], dtype=torch.float64)
    """

    betas: Tensor

    def __post_init__(self) -> None:
        """Refuse betas that describe no forward process."""
        betas = self.betas
        if (
            not isinstance(betas, Tensor)
            or betas.dtype != torch.float64
            or betas.device.type != "cpu"
        ):
            got = f"{betas.dtype} on {betas.device}" if isinstance(betas, Tensor) else type(betas)
            raise TypeError(f"betas must be a float64 tensor on the CPU, got {got}")
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"betas must have shape (T,) with T >= 1, got {tuple(betas.shape)}")
        inside = (betas > 0) & (betas < 1)  # NaN is never inside
        inside[-1] |= betas[-1] == 1
        if not inside.all():
            t = int((~inside).nonzero()[0])
            raise ValueError(f"betas must lie in (0, 1), got {betas[t].item()} at t = {t}")

    @property
    def n_steps(self) -> int:
        """T, the number of timesteps."""
        return len(self.betas)

    @cached_property
    def alphas(self) -> Tensor:
        """1 - beta_t: the share of the variance that step t keeps."""
        return 1 - self.betas

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """a_bar_t: the product of the alphas up to and including t."""
        return self.alphas.cumprod(0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        """a_bar_{t-1}, with 1 (clean data) before the first step."""
        return torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """beta_tilde_t, the variance of q(x_{t-1} | x_t, x_0) (eq. 7); 0 at t = 0."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio a_bar_t / (1 - a_bar_t) (Kingma et al. 2021, eq. 2)."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)


def linear_schedule(
    n_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> NoiseSchedule:
    """Betas that rise linearly (Ho et al. 2020, section 4).

    The two ends are meant for T = 1000 and are scaled by 1000 / T for any other T. Unscaled, a
    short chain never reaches noise: at T = 100, sqrt(a_bar_T) would still be 0.603.

    Args:
        n_steps: Number of timesteps T.
        beta_start: First beta at T = 1000.
        beta_end: Last beta at T = 1000.

    Raises:
        ValueError: If n_steps is so small that a scaled beta reaches 1 (T <= 20 by default).

    >>> linear_schedule(1000).alphas_cumprod[-1].sqrt().item()  # nearly no signal is left
    0.00635...
    """
    _check_n_steps(n_steps)
    scale, largest = 1000 / n_steps, max(beta_start, beta_end)
    if scale * largest >= 1:
        raise ValueError(
            f"n_steps must be greater than {1000 * largest:g} for this linear schedule, "
            f"got {n_steps}: its largest beta would be {scale * largest:g}, not below 1"
        )
    return NoiseSchedule(
        torch.linspace(
            scale * beta_start, scale * beta_end, n_steps, dtype=torch.float64, device="cpu"
        )
    )


def cosine_schedule(
    n_steps: int = 1000, s: float = 0.008, max_beta: float = 0.999
) -> NoiseSchedule:
    """Betas whose a_bar_t follows a squared cosine (Nichol & Dhariwal 2021, eq. 17).

    Args:
        n_steps: Number of timesteps T.
        s: Offset that keeps the first betas from vanishing.
        max_beta: Upper bound of beta; without it the last one would be 1.

    Raises:
        ValueError: If n_steps is no positive integer or max_beta does not lie in (0, 1].

    >>> cosine_schedule(4).alphas_cumprod
    tensor([8.4701e-01, 4.9384e-01, 1.4427e-01, 1.4427e-04], dtype=torch.float64)
    """
    _check_n_steps(n_steps)
    if not 0 < max_beta <= 1:
        raise ValueError(f"max_beta must lie in (0, 1], got {max_beta}")
    u = torch.arange(n_steps + 1, dtype=torch.float64, device="cpu") / n_steps  # 0, 1/T, ..., 1
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2  # a_bar up to a factor, (T + 1,)
    return NoiseSchedule((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def extract(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Gather one schedule coefficient for each item of a batch.

    The gathering happens in float64 on the CPU; only the result takes on the dtype and device of
    `like`. So take roots and differences of the coefficients before, not after: 1 - a_bar at
    t = 0 would keep between three and four digits in float32.

    Args:
        values: One coefficient for each timestep, (T,) float64 on the CPU.
        t: Timesteps, (B,) int64 in [0, T).
        like: Batch (B, ...) whose dtype, device and number of dimensions the result takes.

    Returns:
        (B, 1, ..., 1), ready to multiply with `like`.

    Raises:
        TypeError: If t is not int64 or `like` is not floating point.
        ValueError: If t is not (B,), is out of range, or the batch is empty.

    >>> betas, t = linear_schedule(1000).betas, torch.tensor([0, 999])
    >>> extract(betas, t, like=torch.zeros(2, 1, 4, 4)).flatten()
    tensor([1.0000e-04, 2.0000e-02])
    """
    if not like.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor (images in [-1, 1]), got {like.dtype}")
    if not isinstance(t, Tensor) or t.dtype != torch.int64:
        got = t.dtype if isinstance(t, Tensor) else type(t)
        raise TypeError(f"t must be int64, got {got}")
    if like.ndim == 0 or len(like) == 0:
        raise ValueError(f"x must have at least one item, got shape {tuple(like.shape)}")
    if t.shape != like.shape[:1]:
        raise ValueError(
            f"t must have one entry for each item of the batch, shape ({len(like)},), "
            f"got {tuple(t.shape)}"
        )
    t = t.cpu()
    low, high = int(t.min()), int(t.max())
    if low < 0 or high >= len(values):
        worst = f"min {low}" if low < 0 else f"max {high}"
        raise ValueError(f"t must be int64 in [0, {len(values)}), got {worst}")
    return values[t].to(like).view(-1, *[1] * (like.ndim - 1))  # (B,) -> (B, 1, ..., 1)


def noise_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise with the shape, dtype and device of x.

    It is drawn on the generator's own device and then moved, so one CPU generator gives the same
    noise on every machine.

    >>> noise_like(torch.zeros(2, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def forward_diffusion(
    x_0: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample x_t from q(x_t | x_0) in one step (Ho et al. 2020, eq. 4).

    Args:
        x_0: Clean data, (B, C, *space), any number of dimensions, floating point.
        t: Timestep of each item, (B,) int64 in [0, T).
        schedule: The noise schedule.
        noise: Standard normal noise shaped like x_0; drawn when absent.
        generator: Source of that noise; the global one when absent.

    Returns:
        x_t and the noise in it, both shaped like x_0.

    Raises:
        TypeError: If t is not int64 or x_0 not floating point.
        ValueError: If a shape does not match, t is out of range, or x_0 is empty or not finite.

    >>> x_0, t = torch.zeros(2, 1, 8, 8), torch.tensor([0, 999])
    >>> x_t, noise = forward_diffusion(x_0, t, linear_schedule())
    >>> x_t.shape
    torch.Size([2, 1, 8, 8])
    """
    # q(x_t | x_0) = N( sqrt(a_bar_t) x_0, (1 - a_bar_t) I )
    signal = extract(schedule.alphas_cumprod.sqrt(), t, like=x_0)  # (B, 1, ..., 1)
    spread = extract((1 - schedule.alphas_cumprod).sqrt(), t, like=x_0)  # (B, 1, ..., 1)
    if not x_0.isfinite().all():
        raise ValueError("x_0 must be finite, got NaN or infinity")
    if noise is None:
        noise = noise_like(x_0, generator)
    if noise.shape != x_0.shape:
        raise ValueError(
            f"noise must have the shape of x_0, {tuple(x_0.shape)}, got {tuple(noise.shape)}"
        )
    return signal * x_0 + spread * noise, noise


def _check_n_steps(n_steps: int) -> None:
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps must be a positive integer, got {n_steps!r}")

"""Chapter 07: few steps. The same model, walked down another path to the data.

Song et al. 2021, "Denoising Diffusion Implicit Models" (arXiv:2010.02502), and Lu et al. 2022,
"DPM-Solver++" (arXiv:2211.01095).

Every sampler here knows a Denoiser and nothing else, exactly as that of chapter 04. Where the
papers let T be the number of timesteps kept, so does `respace`: step i of the shorter chain
stands at timesteps[i] of the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from minidiff.ddpm import Denoiser, Step, last, respace, start, trailing_timesteps
from minidiff.forward import NoiseSchedule, extract, noise_like


def ddim_step(
    x_0: Tensor,
    eps: Tensor,
    i: Tensor,
    chain: NoiseSchedule,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Go from step i of a chain to step i - 1 (Song et al. 2021, eq. 12 with the sigma of eq. 16).

    x_prev = sqrt(a_bar_prev) x_0 + sqrt(1 - a_bar_prev - sigma^2) eps + sigma noise,
    sigma = eta sqrt(beta_tilde): for eta = 1 this is the step of DDPM, for eta = 0 nothing is
    random.

    Args:
        x_0: The predicted clean data, (B, C, *space).
        eps: The noise that goes with it, shaped like x_0.
        i: Steps of the chain, (B,) int64 in [0, n).
        chain: The schedule that is walked down, respaced if it has fewer steps than the training.
        eta: How much of DDPM's noise is added, 0..1.
        noise: Standard normal, shaped like x_0; needed for eta > 0.

    Returns:
        The data one step less noisy, shaped like x_0; at i = 0 it is x_0.

    Raises:
        TypeError: If i is not int64 or x_0 not floating point.
        ValueError: If eta is out of range, i is out of range, or noise is missing.

    >>> x_0, eps, chain = torch.zeros(1, 1), torch.ones(1, 1), linear_schedule(1000)
    >>> ddim_step(x_0, eps, torch.tensor([0]), chain)  # the last step ends at the data
    tensor([[0.]])
    """
    _check_eta(eta)
    if eta > 0 and noise is None:
        raise ValueError(f"noise must be given where eta is not 0, got None with eta = {eta}")
    a_bar_prev = chain.alphas_cumprod_prev
    variance = eta**2 * chain.posterior_variance  # sigma^2, (n,), 0 at i = 0
    signal = extract(a_bar_prev.sqrt(), i, like=x_0)  # (B, 1, ..., 1)
    # For eta = 1, rounding may take the difference just below zero.
    spread = extract((1 - a_bar_prev - variance).clamp(min=0).sqrt(), i, like=x_0)
    x = signal * x_0 + spread * eps
    return x if noise is None else x + extract(variance.sqrt(), i, like=x_0) * noise


@torch.no_grad()
def ddim_steps(
    denoise: Denoiser,
    shape: Sequence[int],
    n_steps: int = 50,
    eta: float = 0.0,
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    timesteps: Tensor | None = None,
) -> Iterator[Step]:
    """Sample with DDIM, one step at a time (Song et al. 2021, section 4.1).

    Args:
        denoise: The model with its schedule and context.
        shape: Shape of the samples, (B, C, *space).
        n_steps: Calls of the model, evenly spaced as in `trailing_timesteps`.
        eta: 0 is deterministic, 1 is DDPM.
        x_T: The noise to start from; drawn when absent. Its dtype and device are kept.
        generator: Source of all noise.
        device: Where to sample when x_T is absent; the CPU by default.
        timesteps: Any other sub-sequence of the training's timesteps, (n,) int64, ascending; it
            takes the place of n_steps.

    Yields:
        Step(t, x, x_0), the last one with clean data.

    Raises:
        ValueError: If eta, n_steps or timesteps is out of range, or shape is empty or not x_T's.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> [step.t for step in ddim_steps(denoise, (1, 1, 2, 2), n_steps=4)]
    [999, 749, 499, 249]
    """
    _check_eta(eta)
    timesteps, chain = _chain(denoise.schedule, n_steps, timesteps)
    x = start(shape, x_T, generator, device)
    for step in reversed(range(chain.n_steps)):
        t, i = (torch.full((len(x),), int(s), device=x.device) for s in (timesteps[step], step))
        x_0, eps, _ = denoise(x, t)
        noisy = eta > 0 and step > 0  # the last step adds none
        noise = noise_like(x, generator) if noisy else None
        x = ddim_step(x_0, eps, i, chain, eta if noisy else 0.0, noise)
        yield Step(int(timesteps[step]), x, x_0)


def sample_ddim(
    denoise: Denoiser,
    shape: Sequence[int],
    n_steps: int = 50,
    eta: float = 0.0,
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    timesteps: Tensor | None = None,
) -> Tensor:
    """Sample with DDIM: the last x of `ddim_steps`, which see for the arguments.

    Returns:
        Samples of the given shape.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> sample_ddim(Denoiser(model, linear_schedule(), "x_0"), (1, 1, 1, 2), n_steps=4)
    tensor([[[[0., 0.]]]])
    """
    return last(ddim_steps(denoise, shape, n_steps, eta, x_T, generator, device, timesteps))


@torch.no_grad()
def ddim_invert(denoise: Denoiser, x_0: Tensor, n_steps: int = 50) -> Tensor:
    """Find the noise from which DDIM with eta = 0 draws given data (Song et al. 2021, section 4.3).

    The same step is walked backwards, from clean to noisy, with the noise that the model sees
    before the step in place of that after it: the more steps, the smaller the difference. Asked
    about the same data at the timestep after the step, it errs more from 20 steps on (notebook 07).

    Args:
        denoise: The model with its schedule and context; without clipping, which cannot be undone.
        x_0: Clean data, (B, C, *space).
        n_steps: Calls of the model.

    Returns:
        The noise x_T, shaped like x_0, for `sample_ddim(..., n_steps, x_T=x_T)`.

    Raises:
        ValueError: If denoise clips or n_steps is out of range.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # sees no noise
    >>> denoise = Denoiser(model, linear_schedule(), clip=None)
    >>> ddim_invert(denoise, torch.ones(1, 1, 1, 1), n_steps=4)  # only the signal fades
    tensor([[[[0.0064]]]])
    """
    if denoise.clip is not None:
        raise ValueError(f"denoise must have clip=None to be inverted, got clip={denoise.clip}")
    timesteps, chain = _chain(denoise.schedule, n_steps)
    x, t = x_0, torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device)  # nearly clean
    for step in range(chain.n_steps):
        predicted, eps, _ = denoise(x, t)
        t, i = (torch.full((len(x),), int(s), device=x.device) for s in (timesteps[step], step))
        signal = extract(chain.alphas_cumprod.sqrt(), i, like=x)  # (B, 1, ..., 1)
        spread = extract((1 - chain.alphas_cumprod).sqrt(), i, like=x)  # (B, 1, ..., 1)
        x = signal * predicted + spread * eps
    return x


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Walk from a to b on an arc (Song et al. 2021, appendix D.5, eq. 67).

    The straight line between two draws of noise passes through points that are too short to be
    noise, by a factor of sqrt(2) halfway; the arc keeps their length.

    Args:
        a: Noise, (B, C, *space).
        b: Noise, shaped like a.
        weight: 0 gives a, 1 gives b.

    Returns:
        Noise shaped like a; each item moves on its own arc.

    Raises:
        ValueError: If the shapes differ.

    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    tensor([[0.7071, 0.7071]])
    """
    if a.shape != b.shape:
        raise ValueError(f"b must be shaped like a, {tuple(a.shape)}, got {tuple(b.shape)}")
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()  # (B, D)
    cosine = torch.cosine_similarity(flat_a, flat_b, dim=1)[:, None]  # (B, 1)
    angle = cosine.clamp(-1, 1).acos()
    # sin(w angle) / sin(angle), which is w for an angle of zero
    weights = [torch.sinc(w * angle / torch.pi) / torch.sinc(angle / torch.pi) * w
               for w in (1 - weight, weight)]  # fmt: skip
    return (weights[0] * flat_a + weights[1] * flat_b).view(a.shape).to(a.dtype)


@torch.no_grad()
def dpm_solver_steps(
    denoise: Denoiser,
    shape: Sequence[int],
    n_steps: int = 20,
    order: Literal[1, 2] = 2,
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Step]:
    """Sample with DPM-Solver++ (2M), one step at a time (Lu et al. 2022, algorithm 2).

    In lambda = log(sqrt(a_bar) / sqrt(1 - a_bar)) the path to the data solves a differential
    equation whose linear part is integrated exactly. Order 1 takes x_0 for constant during a
    step, which is DDIM; order 2 lets it go on changing as it did in the step before, at no
    further call of the model. The first step has none before it, and the last one ends at
    lambda = infinity: both are of order 1.

    Args:
        denoise: The model with its schedule and context.
        shape: Shape of the samples, (B, C, *space).
        n_steps: Calls of the model, evenly spaced as in `trailing_timesteps`.
        order: 1 or 2.
        x_T: The noise to start from; drawn when absent. Its dtype and device are kept.
        generator: Source of that noise.
        device: Where to sample when x_T is absent; the CPU by default.

    Yields:
        Step(t, x, x_0), the last one with clean data.

    Raises:
        ValueError: If order or n_steps is out of range, or shape is empty or not x_T's.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> [step.t for step in dpm_solver_steps(denoise, (1, 1, 2, 2), n_steps=4)]
    [999, 749, 499, 249]
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    timesteps, chain = _chain(denoise.schedule, n_steps)
    a_bar, a_bar_prev = chain.alphas_cumprod, chain.alphas_cumprod_prev
    half_log_snr = (a_bar / (1 - a_bar)).log() / 2  # lambda, (n,)
    h = torch.cat([half_log_snr.new_full((1,), torch.inf), -half_log_snr.diff()])  # of each step
    decay = ((1 - a_bar_prev) / (1 - a_bar)).sqrt()  # sigma_prev / sigma, (n,)
    gain = a_bar_prev.sqrt() * -torch.expm1(-h)  # alpha_prev (1 - e^-h), (n,)
    x, previous = start(shape, x_T, generator, device), None
    for step in reversed(range(chain.n_steps)):
        t, i = (torch.full((len(x),), int(s), device=x.device) for s in (timesteps[step], step))
        x_0 = denoise(x, t).x_0
        slope = torch.zeros_like(x_0)
        if order == 2 and step > 0 and previous is not None:
            # how much x_0 changes during half of this step, if it goes on as in the one before
            slope = (x_0 - previous) * float(h[step] / h[step + 1]) / 2
        x = extract(decay, i, like=x) * x + extract(gain, i, like=x) * (x_0 + slope)
        previous = x_0
        yield Step(int(timesteps[step]), x, x_0)


def sample_dpm_solver(
    denoise: Denoiser,
    shape: Sequence[int],
    n_steps: int = 20,
    order: Literal[1, 2] = 2,
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Sample with DPM-Solver++ (2M): the last x of `dpm_solver_steps`, which see for the arguments.

    Returns:
        Samples of the given shape.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> sample_dpm_solver(Denoiser(model, linear_schedule(), "x_0"), (1, 1, 1, 2), n_steps=4)
    tensor([[[[0., 0.]]]])
    """
    return last(dpm_solver_steps(denoise, shape, n_steps, order, x_T, generator, device))


def _chain(
    schedule: NoiseSchedule, n_steps: int, timesteps: Tensor | None = None
) -> tuple[Tensor, NoiseSchedule]:
    """Return the timesteps to visit, ascending, and the schedule of the chain that they make."""
    if timesteps is None:
        timesteps = trailing_timesteps(schedule.n_steps, n_steps)
    return timesteps, respace(schedule, timesteps)


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")

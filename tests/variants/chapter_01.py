"""Right answers to chapter 01's tasks in styles of their own; every check must accept them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff import forward

# --- alpha_bar -----------------------------------------------------------------------------------


def running_product(betas: Tensor) -> Tensor:
    """A loop that keeps the product so far."""
    products, so_far = [], torch.tensor(1.0, dtype=betas.dtype)
    for beta in betas:
        so_far = so_far * (1 - beta)
        products.append(so_far)
    return torch.stack(products)


def slice_by_slice(betas: Tensor) -> Tensor:
    """The lesson's line, once for each t."""
    return torch.stack([torch.prod(1 - betas[: t + 1]) for t in range(len(betas))])


def sum_of_logarithms(betas: Tensor) -> Tensor:
    """A product as the exponential of a sum."""
    return torch.exp(torch.cumsum(torch.log1p(-betas), dim=0))


def product_through_numpy(betas: Tensor) -> Any:
    """An array comes back, not a tensor."""
    return np.cumprod(1 - betas.numpy())


def list_of_floats(betas: Tensor) -> list[float]:
    """No torch at all."""
    return list(itertools.accumulate((1 - beta for beta in betas.tolist()), lambda a, b: a * b))


def product_in_single_precision(betas: Tensor) -> Tensor:
    """Less exact than it could be, and not wrong."""
    return torch.cumprod(1 - betas.float(), dim=0)


def product_in_place_on_a_copy(betas: Tensor) -> Tensor:
    """Overwrites a copy, entry by entry."""
    products = 1 - betas.clone()
    for t in range(1, len(products)):
        products[t] *= products[t - 1]
    return products


# --- linear_betas --------------------------------------------------------------------------------


def scaled_afterwards(n_steps: int) -> Tensor:
    """First the line, then the factor."""
    return torch.linspace(1e-4, 0.02, n_steps, dtype=torch.float64) * 1000 / n_steps


def straight_line(n_steps: int) -> Tensor:
    """The line through both ends, without linspace."""
    i = torch.arange(n_steps, dtype=torch.float64)
    return (0.1 + (20 - 0.1) * i / (n_steps - 1)) / n_steps


def linspace_of_numpy(n_steps: int) -> Any:
    """An array comes back, not a tensor."""
    return np.linspace(0.1 / n_steps, 20 / n_steps, n_steps)


def betas_one_by_one(n_steps: int) -> list[float]:
    """A list of python's own floats."""
    step = (0.02 - 1e-4) / (n_steps - 1)
    return [1000 / n_steps * (1e-4 + i * step) for i in range(n_steps)]


def line_in_single_precision(n_steps: int) -> Tensor:
    """The default dtype of torch."""
    return torch.linspace(0.1 / n_steps, 20 / n_steps, n_steps)


# --- forward_diffusion ---------------------------------------------------------------------------


def item_by_item(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """The lesson's naive function in a loop over the batch."""
    items = []
    for x, step, n in zip(x_0, t, noise, strict=True):
        a_bar = torch.prod(1 - betas[: step + 1])
        items.append(torch.sqrt(a_bar) * x + torch.sqrt(1 - a_bar) * n)
    return torch.stack(items)


def einsum(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """No coefficient is ever reshaped."""
    a_bar = torch.cumprod(1 - betas, 0)[t].to(x_0.dtype)
    mean = torch.einsum("b,b...->b...", a_bar.sqrt(), x_0)
    return mean + torch.einsum("b,b...->b...", (1 - a_bar).sqrt(), noise)


def double(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """Returns float64 whatever comes in."""
    a_bar = torch.cumprod(1 - betas, 0)[t].reshape(len(x_0), *[1] * (x_0.ndim - 1))
    return a_bar**0.5 * x_0.double() + (1 - a_bar) ** 0.5 * noise.double()


def late_single_precision(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """Casts before the subtraction: some digits are lost, but no noise is."""
    a_bar = torch.cumprod(1 - betas, 0).float()[t]
    while a_bar.ndim < x_0.ndim:
        a_bar = a_bar.unsqueeze(-1)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise


def through_numpy(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Any:
    """Broadcasts from the other end, by transposing."""
    a_bar = np.cumprod(1 - betas.numpy())[t.numpy()]
    return (np.sqrt(a_bar) * x_0.numpy().T + np.sqrt(1 - a_bar) * noise.numpy().T).T


def in_place_on_a_copy(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """Overwrites a copy of x_0."""
    a_bar = torch.cumprod(1 - betas, 0)[t].view(-1, *[1] * (x_0.ndim - 1)).to(x_0.dtype)
    x_t = x_0.clone()
    return x_t.mul_(a_bar.sqrt()).add_((1 - a_bar).sqrt() * noise)


def weights_followed_step_by_step(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """Follows weight and variance through the chain, as section 3 of the lesson does."""
    items = []
    for x, last, n in zip(x_0, t.tolist(), noise, strict=True):
        weight, variance = 1.0, 0.0
        for beta in betas[: last + 1].tolist():
            weight, variance = math.sqrt(1 - beta) * weight, (1 - beta) * variance + beta
        items.append(weight * x + math.sqrt(variance) * n)
    return torch.stack(items)


def with_extract(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    """Leans on the package for the product and the shapes, which the task allows."""
    a_bar = forward.NoiseSchedule(betas).alphas_cumprod
    signal = forward.extract(a_bar.sqrt(), t, like=x_0)
    return signal * x_0 + forward.extract((1 - a_bar).sqrt(), t, like=x_0) * noise


# --- noisy_batch ---------------------------------------------------------------------------------

Batch = tuple[Tensor, Tensor, Tensor]


def _x_t(x_0: Tensor, t: Tensor, betas: Tensor, noise: Tensor) -> Tensor:
    a_bar = torch.cumprod(1 - betas, 0)[t].view(-1, *[1] * (x_0.ndim - 1)).to(x_0.dtype)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise


def noise_first(x_0: Tensor, betas: Tensor, generator: torch.Generator) -> Batch:
    """Draws in the other order."""
    noise = torch.empty_like(x_0).normal_(generator=generator)
    t = torch.empty(len(x_0), dtype=torch.int64).random_(0, len(betas), generator=generator)
    return _x_t(x_0, t, betas, noise), t, noise


def with_the_package(x_0: Tensor, betas: Tensor, generator: torch.Generator) -> Batch:
    """Lets the package make x_t, and the noise too."""
    t = torch.randint(0, len(betas), (x_0.shape[0],), generator=generator)
    schedule = forward.NoiseSchedule(betas)
    x_t, noise = forward.forward_diffusion(x_0, t, schedule, generator=generator)
    return x_t, t, noise


def t_from_uniform_numbers(x_0: Tensor, betas: Tensor, generator: torch.Generator) -> Batch:
    """Stretches [0, 1) to [0, T) and rounds down."""
    t = (torch.rand(len(x_0), generator=generator, dtype=torch.float64) * len(betas)).long()
    noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    return _x_t(x_0.double(), t, betas, noise), t, noise


def t_by_weights(x_0: Tensor, betas: Tensor, generator: torch.Generator) -> Batch:
    """Equal weights for all t; a list comes back in place of a tuple."""
    t = torch.multinomial(torch.ones(len(betas)), len(x_0), True, generator=generator)
    noise = torch.normal(torch.zeros(x_0.shape, dtype=x_0.dtype), 1.0, generator=generator)
    return [_x_t(x_0, t, betas, noise), t, noise]  # type: ignore[return-value]


def seeded_numpy(x_0: Tensor, betas: Tensor, generator: torch.Generator) -> Any:
    """The generator seeds numpy's, and arrays come back."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    random = np.random.default_rng(seed)
    t = random.integers(0, len(betas), size=len(x_0))
    noise = random.standard_normal(tuple(x_0.shape))
    x_t = _x_t(x_0.double(), torch.from_numpy(t), betas, torch.from_numpy(noise))
    return x_t.numpy(), t, noise


def one_item_at_a_time(x_0: Tensor, betas: Tensor, generator: torch.Generator) -> Batch:
    """A loop over the batch that draws a t and a noise for each item."""
    a_bar = torch.cumprod(1 - betas, 0).tolist()
    x_t, t, noise = torch.empty_like(x_0), [], torch.empty_like(x_0)
    for i, x in enumerate(x_0):
        step = int(torch.randint(len(betas), (), generator=generator))
        noise[i] = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x_t[i] = a_bar[step] ** 0.5 * x + (1 - a_bar[step]) ** 0.5 * noise[i]
        t.append(step)
    return x_t, torch.tensor(t), noise


# --- same_noise_level ----------------------------------------------------------------------------


def t_by_t(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """The natural logarithm, in a loop."""
    a_bar, other = torch.cumprod(1 - betas, 0), torch.cumprod(1 - other_betas, 0)
    offered = torch.log(other / (1 - other))
    found = [(offered - torch.log(a_bar[i] / (1 - a_bar[i]))).abs().argmin() for i in t]
    return torch.stack(found)


def decibels(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """Another base of the logarithm, squares in place of the absolute value."""
    wanted, offered = (10 * forward.NoiseSchedule(b).snr.log10() for b in (betas, other_betas))
    return ((offered - wanted[t].unsqueeze(1)) ** 2).argmin(dim=1)


def logit(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """The logit of alpha_bar is the log SNR."""
    wanted = torch.logit(torch.cumprod(1 - betas, 0))[t]
    offered = torch.logit(torch.cumprod(1 - other_betas, 0))
    return torch.cdist(wanted[:, None], offered[:, None]).argmin(1)


def log_snr_in_single_precision(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """Float32 throughout, and int32 indices."""
    a_bar, other = torch.cumprod(1 - betas.float(), 0), torch.cumprod(1 - other_betas.float(), 0)
    wanted, offered = (a_bar / (1 - a_bar)).log()[t], (other / (1 - other)).log()
    return (wanted[:, None] - offered[None]).abs().min(1).indices.int()


def halves_between_neighbours(t: Tensor, betas: Tensor, other_betas: Tensor) -> Tensor:
    """Every t between two halfway marks belongs to the entry between them."""
    wanted, offered = (-forward.NoiseSchedule(b).snr.log() for b in (betas, other_betas))
    return torch.bucketize(wanted[t], (offered[1:] + offered[:-1]) / 2)


def search_in_numpy(t: Tensor, betas: Tensor, other_betas: Tensor) -> Any:
    """Ratios of the SNR, no logarithm of differences; an array comes back."""
    a_bar, other = np.cumprod(1 - betas.numpy()), np.cumprod(1 - other_betas.numpy())
    snr, other_snr = a_bar / (1 - a_bar), other / (1 - other)
    ratio = snr[t.numpy()][:, None] / other_snr[None]
    return np.argmin(np.maximum(ratio, 1 / ratio), axis=1)


VARIANTS: dict[str, list[Callable[..., Any]]] = {
    "alpha_bar": [
        running_product,
        slice_by_slice,
        sum_of_logarithms,
        product_through_numpy,
        list_of_floats,
        product_in_single_precision,
        product_in_place_on_a_copy,
    ],
    "linear_betas": [
        scaled_afterwards,
        straight_line,
        linspace_of_numpy,
        betas_one_by_one,
        line_in_single_precision,
    ],
    "forward_diffusion": [
        item_by_item,
        einsum,
        double,
        late_single_precision,
        through_numpy,
        in_place_on_a_copy,
        weights_followed_step_by_step,
        with_extract,
    ],
    "noisy_batch": [
        noise_first,
        with_the_package,
        t_from_uniform_numbers,
        t_by_weights,
        seeded_numpy,
        one_item_at_a_time,
    ],
    "same_noise_level": [
        t_by_t,
        decibels,
        logit,
        log_snr_in_single_precision,
        halves_between_neighbours,
        search_in_numpy,
    ],
}

"""Chapter 06: learned variances, the likelihood, and what they are good for.

Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models" (arXiv:2102.09672);
Ho et al. 2020 (arXiv:2006.11239, section 3) for the terms of the bound.

Everything is in bits per dimension: nats an image, divided by its number of pixels and by ln 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.ddpm import Denoiser, posterior
from minidiff.forward import NoiseSchedule, extract, forward_diffusion
from minidiff.training import Context, PredictionType, training_target

VLB_WEIGHT = 0.001  # lambda of L_hybrid


def posterior_log_variance(schedule: NoiseSchedule) -> Tensor:
    """Log beta_tilde_t, (T,), with the value of t = 1 in the place of log 0 at t = 0.

    (Nichol & Dhariwal 2021, section 3.1: their code clips so.) A chain of one step has no t = 1;
    there it is log beta.

    >>> posterior_log_variance(linear_schedule(1000))[:2]
    tensor([-9.8167, -9.8167], dtype=torch.float64)
    """
    if schedule.n_steps == 1:
        return schedule.betas.log()
    return torch.cat([schedule.posterior_variance[1:2], schedule.posterior_variance[1:]]).log()


def learned_log_variance(fraction: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Interpolate the logarithms of beta_tilde and beta (Nichol & Dhariwal 2021, eq. 15).

    Args:
        fraction: Where between log beta_tilde (0) and log beta (1), (B, C, *space); of a model
            `Prediction.variance_fraction`.
        t: Timesteps of the schedule, (B,) int64.
        schedule: The one whose betas are meant: the respaced one, for a chain of fewer steps.

    Returns:
        The log-variance, shaped like fraction.

    Raises:
        TypeError, ValueError: As `extract` does.

    >>> schedule, t = linear_schedule(1000), torch.tensor([999])
    >>> learned_log_variance(torch.ones(1, 1), t, schedule).exp()  # 1 is beta
    tensor([[0.0200]])
    """
    low = extract(posterior_log_variance(schedule), t, like=fraction)  # (B, 1, ..., 1)
    high = extract(schedule.betas.log(), t, like=fraction)  # (B, 1, ..., 1)
    return fraction * high + (1 - fraction) * low


def learned_variance(fraction: Tensor | None, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Variance that the model learned, for `sample_ddpm(..., variance=learned_variance)`.

    Args:
        fraction: As for `learned_log_variance`.
        t: Steps of the chain, (B,) int64.
        schedule: The chain's schedule.

    Returns:
        The variance, shaped like fraction.

    Raises:
        ValueError: If the model learned no variance: fraction is None.

    >>> learned_variance(torch.zeros(1, 1), torch.tensor([1]), linear_schedule(1000))
    tensor([[5.4532e-05]])
    """
    if fraction is None:
        raise ValueError("variance must be 'beta' or 'beta_tilde': this model learned none")
    return learned_log_variance(fraction, t, schedule).exp()


def normal_kl(
    mean_p: Tensor, log_variance_p: Tensor, mean_q: Tensor, log_variance_q: Tensor
) -> Tensor:
    """KL(p || q) of two normals, element by element, in nats.

    Args:
        mean_p: Mean of p.
        log_variance_p: Logarithm of its variance; all four broadcast against each other.
        mean_q: Mean of q.
        log_variance_q: Logarithm of its variance.

    >>> zero = torch.zeros(1)
    >>> normal_kl(zero, zero, zero + 1, zero)  # (difference of the means)^2 / 2
    tensor([0.5000])
    """
    difference = log_variance_p - log_variance_q
    scaled = (mean_p - mean_q).square() * (-log_variance_q).exp()
    return (difference.exp() - 1 - difference + scaled) / 2


def discretised_log_likelihood(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability of pixels under a normal cut into 256 bins, in nats (Ho et al. 2020, eq. 13).

    A pixel k of 0..255 is scaled to 2 k / 255 - 1; its bin reaches half a step to either side,
    the two outermost without end, so that the probabilities of all 256 sum to 1.

    Args:
        x_0: Images in [-1, 1] that came from 256 levels.
        mean: Mean of the normal, shaped like x_0.
        log_variance: Logarithm of its variance; broadcasts against x_0.

    Returns:
        Shaped like x_0.

    >>> levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    >>> log_p = discretised_log_likelihood(levels, torch.zeros_like(levels), torch.tensor(0.0))
    >>> log_p.exp().sum()
    tensor(1.0000, dtype=torch.float64)
    """
    half = 1 / 255
    deviation = (log_variance / 2).exp()
    centred = x_0 - mean
    upper, lower = (centred + half) / deviation, (centred - half) / deviation
    # Both tails are taken from the side on which they are small: 1 - cdf(9) would be 0.
    flip = centred > 0
    high = torch.where(flip, -lower, upper)
    low = torch.where(flip, -upper, lower)
    inner = _log_difference(torch.special.log_ndtr(high), torch.special.log_ndtr(low))
    edge_low = torch.special.log_ndtr(upper)
    edge_high = torch.special.log_ndtr(-lower)
    return torch.where(x_0 < -1 + half, edge_low, torch.where(x_0 > 1 - half, edge_high, inner))


def _log_difference(log_a: Tensor, log_b: Tensor) -> Tensor:
    """log(a - b) of a > b, from their logarithms."""
    return log_a + torch.log(-torch.expm1((log_b - log_a).clamp(max=-1e-12)))


def vlb_term(
    x_0: Tensor,
    x_t: Tensor,
    t: Tensor,
    predicted_x_0: Tensor,
    log_variance: Tensor,
    schedule: NoiseSchedule,
) -> Tensor:
    """One term of the variational bound for each item (Ho et al. 2020, eq. 5).

    L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, and at t = 0, where the step
    ends at the data, -log p(x_0 | x_1) over 256 bins. Here t counts from 0, so the paper's L_{t-1}
    is this L_t.

    Args:
        x_0: Clean images in [-1, 1] of 256 levels, (B, C, *space).
        x_t: Noisy images, shaped like x_0.
        t: Timesteps, (B,) int64.
        predicted_x_0: What the model takes for x_0, shaped like x_0.
        log_variance: Of p, broadcasts against x_0.
        schedule: The noise schedule.

    Returns:
        Bits per dimension, (B,).

    Raises:
        TypeError, ValueError: As `posterior` does.

    >>> x_0, t = torch.zeros(1, 1, 2, 2), torch.tensor([500])
    >>> schedule = linear_schedule(1000)
    >>> log_variance = extract(posterior_log_variance(schedule), t, like=x_0)
    >>> vlb_term(x_0, x_0, t, x_0, log_variance, schedule)  # the right mean and variance
    tensor([0.])
    """
    mean, _ = posterior(x_0, x_t, t, schedule)
    predicted, _ = posterior(predicted_x_0, x_t, t, schedule)
    true_log_variance = extract(posterior_log_variance(schedule), t, like=x_0)  # (B, 1, ..., 1)
    kl = normal_kl(mean, true_log_variance, predicted, log_variance)
    if (t > 0).all():
        return _bits(kl)
    decoder = -discretised_log_likelihood(x_0, predicted, log_variance)
    first = (t == 0).to(x_0.device).view(-1, *[1] * (x_0.ndim - 1))  # (B, 1, ..., 1)
    return _bits(torch.where(first, decoder, kl))


def _bits(nats: Tensor) -> Tensor:
    """Mean over all but the batch, in bits: (B, ...) -> (B,)."""
    return nats.flatten(1).mean(1) / math.log(2)


def hybrid_loss(
    model: nn.Module,
    x_0: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    context: Context | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    prediction_type: PredictionType = "eps",
) -> Tensor:
    """L_hybrid = L_simple + 0.001 L_vlb (Nichol & Dhariwal 2021, eq. 16).

    `train(..., loss=hybrid_loss)` minimises it.

    L_vlb is a sum over T terms; with t drawn uniformly one term stands for T of them. In it the
    mean is held fixed, so the bound trains the variance alone and L_simple the mean.

    Args:
        model: Keeps the contract and returns 2C channels: the prediction, and v in [-1, 1], which
            chooses the variance.
        x_0: Clean images in [-1, 1] of 256 levels, (B, C, *space), on the model's device.
        t: Timesteps, (B,) int64 in [0, T).
        schedule: The noise schedule.
        context: What the prediction may depend on, batch first.
        noise: The noise to add, shaped like x_0; drawn when absent.
        generator: Source of that noise.
        prediction_type: What the first C channels predict.

    Returns:
        The loss, a scalar to call .backward() on.

    Raises:
        TypeError, ValueError: As `train_step`, and if the output does not have 2C channels.

    >>> model = UNet(out_channels=2, channels=(8,), attention_levels=())
    >>> x_0, t = torch.zeros(2, 1, 8, 8), torch.tensor([0, 9])
    >>> hybrid_loss(model, x_0, t, linear_schedule()).shape
    torch.Size([])
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise, generator)
    target = training_target(x_0, noise, t, schedule, prediction_type)
    output = model(x_t, t.to(x_0.device), context)
    if output.shape != (len(x_0), 2 * x_0.shape[1], *x_0.shape[2:]):
        raise ValueError(
            f"the model's output must have twice the channels of x_0, {tuple(x_0.shape)}, "
            f"got {tuple(output.shape)}"
        )
    prediction, v = output.to(target.dtype).chunk(2, dim=1)  # (B, 2C, *space) -> 2 x (B, C, *space)
    simple = F.mse_loss(prediction, target)
    fixed = Denoiser(lambda *_: prediction.detach(), schedule, prediction_type, clip=None)
    log_variance = learned_log_variance((v + 1) / 2, t, schedule)
    terms = vlb_term(x_0, x_t, t, fixed(x_t, t).x_0, log_variance, schedule)  # (B,)
    return simple + VLB_WEIGHT * schedule.n_steps * terms.mean()


class ImportanceSampler:
    """Draw timesteps where the loss is large (Nichol & Dhariwal 2021, eq. 18).

    p_t is proportional to sqrt(E[L_t^2]) over the last losses seen at t; dividing each loss by
    T p_t keeps the mean what it was and makes its variance the smallest possible. Until every
    timestep has a full history, t is drawn uniformly.

    Args:
        n_steps: T.
        n_history: Losses kept for each t.
        uniform_share: Chance of drawing uniformly after all, so that no t is ever forgotten.

    Raises:
        ValueError: If a number is out of range.

    >>> sampler = ImportanceSampler(2, n_history=1, uniform_share=0.0)
    >>> sampler.update(torch.tensor([0, 1]), torch.tensor([3.0, 1.0]))
    >>> sampler.probabilities
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    def __init__(self, n_steps: int, n_history: int = 10, uniform_share: float = 0.001) -> None:
        if n_steps < 1 or n_history < 1:
            raise ValueError(
                f"n_steps and n_history must be at least 1, got {n_steps} and {n_history}"
            )
        if not 0 <= uniform_share <= 1:
            raise ValueError(f"uniform_share must lie in [0, 1], got {uniform_share}")
        self.uniform_share = uniform_share
        self.history = torch.zeros(n_steps, n_history, dtype=torch.float64, device="cpu")
        self.n_seen = torch.zeros(n_steps, dtype=torch.int64, device="cpu")

    @property
    def probabilities(self) -> Tensor:
        """p_t, (T,) float64 on the CPU; they sum to 1."""
        n_steps, n_history = self.history.shape
        uniform = torch.full_like(self.history[:, 0], 1 / n_steps)
        if (self.n_seen < n_history).any():
            return uniform
        size = self.history.square().mean(1).sqrt()  # (T,)
        if size.sum() == 0:
            return uniform
        return (1 - self.uniform_share) * size / size.sum() + self.uniform_share * uniform

    def draw(self, n_items: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw timesteps and the weights that undo the choice.

        Args:
            n_items: How many.
            generator: CPU generator.

        Returns:
            t, (n_items,) int64, and 1 / (T p_t), (n_items,) float64: multiply each loss with it.
        """
        p = self.probabilities
        t = torch.multinomial(p, n_items, replacement=True, generator=generator)
        return t, 1 / (len(p) * p[t])

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Note the losses L_t, (B,), without weights, that were seen at timesteps t (B,)."""
        for step, loss in zip(t.tolist(), losses.detach().tolist(), strict=True):
            self.history[step, self.n_seen[step] % self.history.shape[1]] = loss
            self.n_seen[step] += 1


class Bound(NamedTuple):
    """The variational bound of a batch, term by term, in bits per dimension.

    Args:
        terms: L_t for each timestep asked for, (B, n); the first is the decoder's where t = 0.
        prior: L_T, what is left to tell of x_0 after T steps, (B,).
    """

    terms: Tensor
    prior: Tensor

    @property
    def total(self) -> Tensor:
        """Bits per dimension of each image, (B,); the bound itself if all T terms are there."""
        return self.terms.sum(1) + self.prior


def prior_term(x_0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, I)) for each item (Ho et al. 2020, eq. 5).

    Args:
        x_0: Clean images, (B, C, *space).
        schedule: The noise schedule.

    Returns:
        Bits per dimension, (B,).

    >>> prior_term(torch.ones(1, 1, 2, 2), linear_schedule(1000)) < 1e-4
    tensor([True])
    """
    t = torch.full((len(x_0),), schedule.n_steps - 1, device=x_0.device)
    mean = extract(schedule.alphas_cumprod.sqrt(), t, like=x_0) * x_0
    log_variance = extract((1 - schedule.alphas_cumprod).log(), t, like=x_0)
    zero = torch.zeros_like(mean)
    return _bits(normal_kl(mean, log_variance, zero, zero))


@torch.no_grad()
def bits_per_dimension(
    denoise: Denoiser,
    x_0: Tensor,
    generator: torch.Generator | None = None,
    variances: tuple[str, ...] = ("learned",),
    timesteps: Tensor | None = None,
) -> dict[str, Bound]:
    """Evaluate the bound on images, all T terms or some of them, one draw of noise for each.

    The model is called once for each term, whatever the number of variances; they share its
    predictions and the noise, so their difference is known far better than each of them.

    Args:
        denoise: The model with its schedule and context.
        x_0: Images in [-1, 1] of 256 levels, (B, C, *space).
        generator: Source of the noise.
        variances: Any of "learned", "beta_tilde" and "beta".
        timesteps: Which terms to evaluate, (n,) int64 in [0, T); all by default.

    Returns:
        By variance, those terms of L_0 .. L_{T-1}, and L_T.

    Raises:
        ValueError: If a variance is unknown, a timestep out of range, or the model learned no
            variance and "learned" is asked for.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(25), prediction_type="x_0")
    >>> bound = bits_per_dimension(denoise, torch.zeros(1, 1, 2, 2), variances=("beta_tilde",))
    >>> bound["beta_tilde"].terms.shape
    torch.Size([1, 25])
    """
    schedule = denoise.schedule
    unknown = set(variances) - {"learned", "beta_tilde", "beta"}
    if unknown:
        raise ValueError(
            f"variances must be 'learned', 'beta_tilde' or 'beta', got {sorted(unknown)}"
        )
    fixed = {"beta_tilde": posterior_log_variance(schedule), "beta": schedule.betas.log()}
    terms: dict[str, list[Tensor]] = {name: [] for name in variances}
    for step in range(schedule.n_steps) if timesteps is None else timesteps.tolist():
        t = torch.full((len(x_0),), step, device=x_0.device)
        x_t, _ = forward_diffusion(x_0, t, schedule, generator=generator)
        predicted, _, fraction = denoise(x_t, t)
        for name in variances:
            if name == "learned":
                if fraction is None:
                    raise ValueError("variances must leave out 'learned': this model learned none")
                log_variance = learned_log_variance(fraction, t, schedule)
            else:
                log_variance = extract(fixed[name], t, like=x_0)
            terms[name].append(vlb_term(x_0, x_t, t, predicted, log_variance, schedule))
    prior = prior_term(x_0, schedule)
    return {name: Bound(torch.stack(values, dim=1), prior) for name, values in terms.items()}

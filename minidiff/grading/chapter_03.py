"""Checks of chapter 03, training: `from minidiff.grading import chapter_03 as check`.

No check trains a model: the networks are a few numbers, so that each mistake shows in one step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import training
from minidiff.forward import NoiseSchedule, extract, forward_diffusion
from minidiff.grading.check import Answer, Estimate, Inputs, task
from minidiff.grading.compare import as_value
from minidiff.grading.diagnosis import describe
from minidiff.grading.draw import Draw
from minidiff.training import EMA


class _Network(nn.Module):
    """A model of three weights for any number of dimensions, which does look at t."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(3))

    def forward(self, x_t: Tensor, t: Tensor, context: Any = None) -> Tensor:
        """Mix x_t, its square and a wave in t."""
        if not isinstance(x_t, Tensor):
            raise TypeError(f"x_t must be a tensor, got {describe(x_t)}")
        if not isinstance(t, Tensor) or t.shape != x_t.shape[:1]:
            raise ValueError(f"t must be a tensor of shape ({len(x_t)},), got {describe(t)}")
        wave = torch.cos(t.to(x_t)).view(-1, *[1] * (x_t.ndim - 1))  # (B,) -> (B, 1, ..., 1)
        return self.weights[0] * x_t + self.weights[1] * x_t**2 + self.weights[2] * wave


def _network(draw: Draw, dtype: torch.dtype) -> _Network:
    network = _Network().to(dtype)
    with torch.no_grad():
        network.weights.copy_(draw.uniform(0.5, 1.5, 3))
    return network


def _schedule(draw: Draw, low: int = 40, high: int = 400) -> NoiseSchedule:
    """Return a schedule whose first step is large.

    v = (sqrt(a_bar_t) x_t - x_0) / sqrt(1 - a_bar_t) is right as well, but the difference cancels
    where a_bar_t is nearly 1: float32 is then off by 2^-25 / (1 - a_bar_t).
    """
    betas = draw.betas(low, high)
    betas[:1] = draw.uniform(0.02, 0.1, 1)
    return NoiseSchedule(betas)


def _items(draw: Draw, n_items: int, dtype: torch.dtype) -> Tensor:
    """Return items of any shape; in the first case (B, C, L), so that no check is without one."""
    items = draw.images(n_items, dtype)
    return items if draw.case else items.flatten(2)


def _batch(draw: Draw) -> Inputs:
    """A batch with its noise and timesteps, of which T - 1 and 0 come last."""
    schedule, dtype = _schedule(draw), draw.dtype()
    x_0 = _items(draw, draw.integer(4, 8), dtype)
    t = draw.timesteps(len(x_0), schedule.n_steps).flip(0)
    t[0] = draw.integer(1, schedule.n_steps - 1)  # not what a wrong answer may take for all
    noise = draw.normal(*x_0.shape, dtype=dtype)
    return {"x_0": x_0, "noise": noise, "t": t, "schedule": schedule}


def _n_factors(inputs: Inputs) -> float:
    """A product of T factors rounds T times; some ten operations follow."""
    return float(inputs["schedule"].n_steps) + 64.0


# --- 1: timesteps --------------------------------------------------------------------------------


def _many_of_few(draw: Draw) -> Inputs:
    """Many draws from few timesteps, so that every share is sharp."""
    return {
        "n_items": draw.integer(12_000, 15_000),
        "n_steps": draw.integer(5, 9),
        "generator": draw.generator,
    }


def _timesteps_seen(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    """Draw twice, as a training does: right range, evenly, each item and each batch afresh."""
    n_items, n_steps, generator = inputs.values()
    t, again = (as_value("t", answer(n_items, n_steps, generator)) for _ in range(2))
    seen: dict[str, Any] = {
        "the shape of t": tuple(t.shape),
        "the dtype of t": str(t.dtype),
        "the range of t": "[0, 1)" if ((t >= 0) & (t < 1)).all() else "beyond [0, 1)",
        "the batch": "at one t" if (t == t.flatten()[:1]).all() else "at several t",
    }
    plain = t.shape == again.shape == (n_items,) and not t.is_floating_point()
    if not plain or seen["the batch"] == "at one t":
        return seen
    share = torch.stack([(t == step).double().mean() for step in range(n_steps)])
    p = 1 / n_steps
    centred = (t - t.double().mean()) / t.double().std()
    correlation = (centred[:-1] * centred[1:]).mean()
    seen["the set of all t drawn"] = tuple(t.unique().tolist())
    seen["the share of each t"] = Estimate(share, (p * (1 - p) / n_items) ** 0.5)
    seen["the correlation of neighbours"] = Estimate(correlation, n_items**-0.5)
    seen["the second batch"] = "the first again" if torch.equal(t, again) else "another"
    return seen


@task(
    points=1,
    inputs=_many_of_few,
    observe=_timesteps_seen,
    n_cases=2,
    package=[training.draw_integers],
)
def draw_timesteps(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """One timestep for each item of a batch, each of 0..T-1 equally likely, (B,) int64."""
    return torch.randint(n_steps, (n_items,), generator=generator)


@draw_timesteps.misconception
def last_t_never_drawn(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """t = T - 1 is never drawn. The upper end of torch.randint is exclusive already; the model
    would never meet the noise that sampling starts from.
    """
    return torch.randint(n_steps - 1, (n_items,), generator=generator)


@draw_timesteps.misconception
def first_t_never_drawn(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """t = 0 is never drawn. The papers count from 1, code from 0."""
    return torch.randint(1, n_steps, (n_items,), generator=generator)


@draw_timesteps.misconception
def counted_from_one(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """These run from 1 to T, as in the papers. In code t = T is one past the end of every table,
    and t = 0 is missing.
    """
    return torch.randint(1, n_steps + 1, (n_items,), generator=generator)


@draw_timesteps.misconception
def same_t_for_all(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """One t is drawn for the whole batch. The gradient is right on average but far noisier: give
    each item its own.
    """
    return torch.randint(n_steps, (1,), generator=generator).expand(n_items)


@draw_timesteps.misconception
def fractions(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """These are fractions between 0 and 1, as for a schedule in continuous time. Here t is an
    index, one of the integers 0..T-1.
    """
    return torch.rand(n_items, generator=generator)


@draw_timesteps.misconception
def not_rounded_down(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """The range is right, but these are floats: t indexes the schedule, so it must be int64."""
    return torch.rand(n_items, generator=generator) * n_steps


@draw_timesteps.misconception
def rounded_to_the_nearest(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """Fractions of T are rounded to the nearest integer: T itself turns up, which is one past the
    last, and 0 only half as often as the others. Round down, or draw integers.
    """
    return (torch.rand(n_items, generator=generator) * n_steps).round().long()


@draw_timesteps.misconception
def without_replacement(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """This draws without replacement, so it runs out of timesteps after T items. The items of a
    batch draw independently of each other; two may have the same t.
    """
    return torch.randperm(n_steps, generator=generator)[:n_items]


@draw_timesteps.misconception
def in_order(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """The timesteps come sorted, so which item gets which t is no longer left to chance: the first
    of a batch is always clean and the last always noise.
    """
    return torch.randint(n_steps, (n_items,), generator=generator).sort().values


@draw_timesteps.misconception
def seeded_each_time(n_items: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """Every call draws the same timesteps, because the generator is seeded inside. Its seed is the
    caller's business; only draw from it.
    """
    return torch.randint(n_steps, (n_items,), generator=generator.manual_seed(0))


# --- 2: the velocity -----------------------------------------------------------------------------


def _weights(t: Tensor, schedule: NoiseSchedule, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(a_bar_t) and sqrt(1 - a_bar_t), (B, 1, ..., 1) each."""
    signal = extract(schedule.alphas_cumprod.sqrt(), t, like=like)
    spread = extract((1 - schedule.alphas_cumprod).sqrt(), t, like=like)
    return signal, spread


@task(
    points=2,
    inputs=_batch,
    outputs=("v",),
    roundings=_n_factors,
    package=[training.training_target],
)
def v_target(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The velocity v that a model may be asked for (Salimans & Ho 2022, appendix D)."""
    signal, spread = _weights(t, schedule, like=x_0)  # (B, 1, ..., 1) each
    return signal * noise - spread * x_0


@v_target.misconception
def sign_exchanged(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The sign is exchanged: this is -v. The noise counts positive, the image negative."""
    signal, spread = _weights(t, schedule, like=x_0)
    return spread * x_0 - signal * noise


@v_target.misconception
def weights_exchanged(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The two weights are exchanged. In v they stand the other way round than in x_t: where little
    noise has been added, v is nearly all noise.
    """
    signal, spread = _weights(t, schedule, like=x_0)
    return spread * noise - signal * x_0


@v_target.misconception
def plus_for_minus(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The image is added; it is to be subtracted. At the end of the chain v is the negative of the
    image.
    """
    signal, spread = _weights(t, schedule, like=x_0)
    return signal * noise + spread * x_0


@v_target.misconception
def this_is_x_t(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """This is x_t, which the model is given. v is what it is asked for."""
    signal, spread = _weights(t, schedule, like=x_0)
    return signal * x_0 + spread * noise


@v_target.misconception
def roots_forgotten(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Both square roots are missing: alpha_bar_t and 1 - alpha_bar_t are shares of a variance."""
    signal, spread = _weights(t, schedule, like=x_0)
    return signal**2 * noise - spread**2 * x_0


@v_target.misconception
def root_before_difference(
    x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The weight of the image is 1 - sqrt(alpha_bar_t) here. It is sqrt(1 - alpha_bar_t): first the
    difference, then the root.
    """
    signal, _ = _weights(t, schedule, like=x_0)
    return signal * noise - (1 - signal) * x_0


@v_target.misconception
def straight_velocity(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """noise - x_0 is the velocity of flow matching, where x_t moves along a straight line. On this
    schedule the two weights depend on t.
    """
    return noise - x_0


@v_target.misconception
def single_step_weights(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The weights are made of alpha_t, a single step. They need the product of all steps through t,
    schedule.alphas_cumprod.
    """
    signal = extract(schedule.alphas.sqrt(), t, like=x_0)
    spread = extract(schedule.betas.sqrt(), t, like=x_0)
    return signal * noise - spread * x_0


@v_target.misconception
def image_and_noise_exchanged(
    x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Image and noise have changed places: the weight of the noise is sqrt(alpha_bar_t), that of
    the image -sqrt(1 - alpha_bar_t).
    """
    signal, spread = _weights(t, schedule, like=x_0)
    return signal * x_0 - spread * noise


@v_target.misconception
def x_t_for_x_0(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The noise is right, but x_t is subtracted. v is made of the noise and the clean image."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    signal, spread = _weights(t, schedule, like=x_0)
    return signal * noise - spread * x_t


@v_target.misconception
def weights_of_the_first_t(
    x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """All items get the weights of the first item's t. Gather one for each item, with extract."""
    signal, spread = _weights(t[:1].expand(len(t)), schedule, like=x_0)
    return signal * noise - spread * x_0


@v_target.misconception
def brackets_forgotten(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Brackets are missing: in a * noise - 1 - b * x_0 the 1 is subtracted on its own. The weight
    of the image is sqrt(1 - alpha_bar_t), all of it under one root.
    """
    signal, _ = _weights(t, schedule, like=x_0)
    return signal * noise - 1 - signal * x_0


@v_target.misconception
def image_under_the_root(x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The image stands under the root, as in sqrt(1 - a * x_0): a bracket is closed too late. Close
    it after alpha_bar_t.
    """
    signal, _ = _weights(t, schedule, like=x_0)
    return signal * noise - (1 - signal**2 * x_0).sqrt()


# --- 3: the simple loss --------------------------------------------------------------------------


def _batch_and_network(draw: Draw) -> Inputs:
    batch = _batch(draw)
    model = _network(draw, batch["x_0"].dtype)
    return {"model": model, **{name: batch[name] for name in ("x_0", "t", "noise", "schedule")}}


def _loss_and_gradient(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    """The loss and, since a training lives on it, the loss's gradient."""
    model = inputs["model"]
    loss = answer(*inputs.values())
    gradient: Any = "none"
    if any(parameter.grad is not None for parameter in model.parameters()):
        gradient = "computed already"
    elif isinstance(loss, Tensor) and loss.requires_grad:
        (of_weights,) = torch.autograd.grad(loss.sum(), model.weights, allow_unused=True)
        gradient = "none" if of_weights is None else of_weights
    return {"the loss": loss, "the gradient of the loss": gradient}


@task(
    points=3,
    inputs=_batch_and_network,
    observe=_loss_and_gradient,
    roundings=_n_factors,
    package=[training.train_step],
)
def simple_loss(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The simple loss of a model that predicts the noise, a scalar (Ho et al. 2020, eq. 14)."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t), noise)


@simple_loss.misconception
def summed(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The squares are summed. Average them over batch and pixels; otherwise the loss, and with it
    the size of a training step, grows with the batch.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t), noise, reduction="sum")


@simple_loss.misconception
def summed_over_pixels(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The squares are summed over an item and averaged over the batch only. That is the norm of eq.
    14 to the letter, but this course averages over pixels too, so that losses of small and large
    images can be compared.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t), noise, reduction="none").flatten(1).sum(1).mean()


@simple_loss.misconception
def one_loss_an_item(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """This is one loss for each item; .backward() needs a single number. Average over the batch as
    well.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t), noise, reduction="none").flatten(1).mean(1)


@simple_loss.misconception
def not_averaged(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """This is the squared error of every pixel; the loss is their mean, a single number."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t), noise, reduction="none")


@simple_loss.misconception
def target_is_x_0(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The prediction is compared with the clean image. This model is asked for the noise in x_t."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t), x_0)


@simple_loss.misconception
def target_is_scaled_noise(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The target is the noise as it lies in x_t, times sqrt(1 - alpha_bar_t). The model is asked
    for the standard normal noise itself, equally large at every t.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    spread = extract((1 - schedule.alphas_cumprod).sqrt(), t, like=x_0)
    return F.mse_loss(model(x_t, t), spread * noise)


@simple_loss.misconception
def target_drawn_again(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The target is other noise than that in x_t: it is drawn a second time. Nobody can guess noise
    that he has not seen; compare with the noise given.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t), torch.randn_like(x_0))


@simple_loss.misconception
def absolute_error(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """This is the absolute error, whose best answer is the median of all noises that fit x_t. The
    derivation gives the square, whose best answer is their mean.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.l1_loss(model(x_t, t), noise)


@simple_loss.misconception
def root_taken(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """This is the root of the mean square. Leave the root out: it gives a batch with large errors
    less weight than eq. 14 does.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t), noise).sqrt()


@simple_loss.misconception
def norm_of_all(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """This is the norm, the root of the summed squares. Eq. 14 has its square, and here the mean
    stands for the sum: neither root nor sum.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    norm: Tensor = (noise - model(x_t, t)).norm()
    return norm


@simple_loss.misconception
def mean_squared(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The mean is taken first and then squared, so that errors of opposite sign cancel. First the
    squares, then their mean.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    error: Tensor = noise - model(x_t, t)
    return error.mean() ** 2


@simple_loss.misconception
def target_is_v(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The prediction is compared with v. This model is asked for the noise, as in eq. 14."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    target = training.training_target(x_0, noise, t, schedule, "v")
    return F.mse_loss(model(x_t, t), target)


@simple_loss.misconception
def shaped_for_pictures_alone(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """alpha_bar_t has the shape (B, 1, 1, 1), which fits (B, C, H, W) alone. With x_0 of shape (B,
    C, L) it makes of x_t every item at every t: take as many 1s as x_0 has further dimensions, or
    forward_diffusion.
    """
    a_bar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1).to(x_0)
    x_t = a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise
    error: Tensor = noise - model(x_t, t)
    return error.square().mean()


@simple_loss.misconception
def x_t_of_other_noise(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """x_t is made with other noise than the target: forward_diffusion draws its own where none is
    given. Hand it the noise.
    """
    x_t, _ = forward_diffusion(x_0, t, schedule)
    return F.mse_loss(model(x_t, t), noise)


@simple_loss.misconception
def model_sees_x_0(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The model is shown the clean image, which has no noise to find. Show it x_t."""
    return F.mse_loss(model(x_0, t), noise)


@simple_loss.misconception
def t_always_0(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The model is told t = 0 for every item. It must know how noisy each x_t is: hand it t."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, torch.zeros_like(t)), noise)


@simple_loss.misconception
def first_t_for_all(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The model is told the first item's t for all items; hand it the whole t, (B,)."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t[:1].expand(len(t))), noise)


@simple_loss.misconception
def t_as_a_fraction(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The model is given t / T. By its contract it takes the integers 0..T-1 as they are; the
    embedding of t scales them.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t / schedule.n_steps), noise)


@simple_loss.misconception
def t_plus_1(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The model is told t + 1. Papers count from 1, but here schedule, model and sampler all count
    from 0.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t + 1), noise)


@simple_loss.misconception
def no_gradient(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The loss has no gradient, so nothing can be learned from it: .item(), .detach(), .data, a new
    torch.tensor or torch.no_grad() has cut it off from the model.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    return F.mse_loss(model(x_t, t).detach(), noise)


@simple_loss.misconception
def calls_backward(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The loss is right, but .backward() is called here. Only return the loss; whoever trains
    clears the gradients first and decides when to differentiate.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    loss = F.mse_loss(model(x_t, t), noise)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


# --- 4: the average of the weights ---------------------------------------------------------------


def _average_and_model(draw: Draw) -> Inputs:
    """Two networks with buffers, at the first update, in the warm-up, long after it, anywhere."""
    dtype, width = draw.dtype(), draw.integer(2, 5)
    n_updates = (0, draw.integer(3, 30), draw.integer(8000, 9000), draw.integer(30, 300))

    def network() -> nn.Module:
        made = draw.module(lambda: nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width)))
        for buffer in made.buffers():
            buffer.copy_(draw.uniform(1, 100, *buffer.shape))
        return made.to(dtype).eval()

    return {
        "average": network().requires_grad_(False),
        "model": network(),
        "decay": float(draw.uniform(0.95, 0.995, 1)),
        "n_updates": n_updates[draw.case],
    }


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _after_update(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    """Look at both networks after one update; what the answer returns does not matter."""
    average, model = inputs["average"], inputs["model"]
    answer(*inputs.values())
    graph = any(parameter.requires_grad for parameter in average.parameters())
    mine, theirs = ({b.data_ptr() for b in m.buffers()} for m in (average, model))
    return {
        "an averaged weight": _flat(average.parameters()),
        "a buffer of the average": _flat(buffer.double() for buffer in average.buffers()),
        "a weight of the model": _flat(model.parameters()),
        "the average": "part of a graph" if graph else "without a graph",
        "the memory of the buffers": "the model's" if mine & theirs else "their own",
    }


def _move(average: nn.Module, model: nn.Module, decay: float, buffers: bool = True) -> None:
    """Average the weights with a decay; copy the buffers."""
    with torch.no_grad():
        for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(parameter, 1 - decay)
    if buffers:
        for copied, buffer in zip(average.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)


def _decay(decay: float, n_updates: int) -> float:
    return min(decay, (1 + n_updates) / (10 + n_updates))


@task(
    points=2,
    inputs=_average_and_model,
    observe=_after_update,
    changes=("average",),
    package=[EMA],
)
def update_average(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """One update of the average of the weights, in place, with the warm-up of the decay."""
    decay = min(decay, (1 + n_updates) / (10 + n_updates))
    with torch.no_grad():
        for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
            mean.copy_(decay * mean + (1 - decay) * parameter)
        for copied, buffer in zip(average.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)


@update_average.misconception
def decay_on_the_model(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The two shares are exchanged: the average must keep the share d of itself and take 1 - d of
    the model. Otherwise it is hardly an average at all.
    """
    _move(average, model, 1 - _decay(decay, n_updates))


@update_average.misconception
def warm_up_forgotten(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The decay is used at full strength from the first update, so the random first weights stay in
    the average for hundreds of steps. Let it warm up: the smaller of d and (1 + n) / (10 + n).
    Without these brackets the smaller is always d.
    """
    _move(average, model, decay)


@update_average.misconception
def larger_of_the_two(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """This takes the larger of d and (1 + n) / (10 + n), so there is no warm-up, and after many
    updates the average stops following. Take the smaller.
    """
    _move(average, model, max(decay, (1 + n_updates) / (10 + n_updates)))


@update_average.misconception
def warm_up_for_ever(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The warm-up never ends: (1 + n) / (10 + n) grows towards 1, so the average ends up looking
    back over the whole training. It must stop growing at d.
    """
    _move(average, model, (1 + n_updates) / (10 + n_updates))


@update_average.misconception
def counts_this_update(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The warm-up is one update ahead: n counts the updates done before this one, so the first
    decay is 1/10.
    """
    _move(average, model, _decay(decay, n_updates + 1))


@update_average.misconception
def plain_copy(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """This copies the model's weights, so there is no average. Only the buffers are copied."""
    _move(average, model, 0.0)


@update_average.misconception
def adds_without_forgetting(
    average: nn.Module, model: nn.Module, decay: float, n_updates: int
) -> None:
    """The model's share is added, but the average keeps all of itself: its weights grow without
    end. It must shrink to d of itself first.
    """
    with torch.no_grad():
        for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
            mean.add_((1 - _decay(decay, n_updates)) * parameter)
    for copied, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copied.copy_(buffer)


@update_average.misconception
def model_overwritten(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """This moves the model towards the average: the two are exchanged. The average only watches;
    the model must train on as if it were not there.
    """
    _move(model, average, _decay(decay, n_updates))


@update_average.misconception
def written_into_the_model(
    average: nn.Module, model: nn.Module, decay: float, n_updates: int
) -> None:
    """The formula is right, but its result is written into the model: the average has not moved,
    and the model no longer trains. Write it into the average's parameters; the model's are only
    read.
    """
    _move(average, model, 1.0)
    with torch.no_grad():
        for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
            parameter.lerp_(mean, _decay(decay, n_updates))


@update_average.misconception
def model_left_out(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The model's weights do not enter: the average is mixed with itself. It takes the share 1 - d
    of the model.
    """
    _move(average, model, 1.0)
    kept = _decay(decay, n_updates)
    with torch.no_grad():
        for mean in average.parameters():
            mean.mul_(kept * (2 - kept))


@update_average.misconception
def only_a_name_bound(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The average has not moved. `a = d * a + ...` makes a new tensor and calls it a; the module
    keeps the old one. Write into the old one: copy_, lerp_, or mul_ and add_.
    """
    for copied, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copied.copy_(buffer)


@update_average.misconception
def buffers_forgotten(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The weights are right, but the buffers (a normalisation's running mean, for instance) still
    hold their first values. Copy them from the model.
    """
    _move(average, model, _decay(decay, n_updates), buffers=False)


@update_average.misconception
def works_on_a_copy(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """Nothing in the average has changed, neither weights nor buffers. The module given must be
    changed in place; a changed copy, or a new tensor under an old name, is lost.
    """
    _move(copy.deepcopy(average), model, _decay(decay, n_updates))


@update_average.misconception
def buffers_averaged(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The buffers are averaged like weights. Copy them: they describe the model as it is now, and
    some are counters, of which an average makes no sense.
    """
    mine, theirs = average.state_dict(), model.state_dict()
    for name, value in mine.items():
        kept = _decay(decay, n_updates)
        value.copy_(kept * value + (1 - kept) * theirs[name])


@update_average.misconception
def buffers_shared(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The numbers are right, but the buffers are the model's own memory, not copies: as soon as the
    model runs in training, the average's change with them. Copy the numbers, with copy_ or clone.
    """
    _move(average, model, _decay(decay, n_updates), buffers=False)
    for shared, buffer in zip(average.buffers(), model.buffers(), strict=True):
        shared.data = buffer.data


@update_average.misconception
def records_gradients(average: nn.Module, model: nn.Module, decay: float, n_updates: int) -> None:
    """The numbers are right, but the average has become part of the graph: each update adds to it,
    and memory fills up. Do the arithmetic under torch.no_grad().
    """
    kept = _decay(decay, n_updates)
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.mul_(kept).add_((1 - kept) * parameter)
    for copied, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copied.copy_(buffer)


@update_average.misconception
def weights_alone_and_their_graph(
    average: nn.Module, model: nn.Module, decay: float, n_updates: int
) -> None:
    """The weights have the right numbers, and two things are missing: torch.no_grad() around the
    arithmetic, without which the average becomes part of the graph, and copies of the buffers.
    """
    kept = _decay(decay, n_updates)
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.mul_(kept).add_((1 - kept) * parameter)


# --- 5: one step of a training -------------------------------------------------------------------

Step = Callable[[nn.Module, EMA, torch.optim.Optimizer, Tensor], Any]


def _training(draw: Draw) -> Inputs:
    """A small regression whose gradients are in turn far above and far below norm 1."""
    dtype, n_items = draw.dtype(), draw.integer(5, 9)
    model = draw.module(lambda: nn.Linear(3, 2)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    return {
        "model": model,
        "ema": EMA(model, decay=0.9),
        "optimizer": optimizer,
        "x": draw.normal(4, n_items, 3, dtype=dtype),
        "y": 2 + draw.normal(4, n_items, 2, dtype=dtype),
        "scales": torch.tensor([8.0, 0.05, 6.0, 0.04], dtype=dtype),
    }


def _after_steps(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    """Take four steps and look at the weights, their average, and the losses returned."""
    model, ema, optimizer, x, y, scales = inputs.values()
    losses = []
    for i, scale in enumerate(scales):
        loss = scale * F.mse_loss(model(x[i]), y[i])
        losses.append(answer(model, ema, optimizer, loss))
    missing = any(loss is None for loss in losses)
    graph = any(isinstance(loss, Tensor) and loss.requires_grad for loss in losses)
    numbers = [loss.detach() if isinstance(loss, Tensor) else loss for loss in losses]
    returned = None if missing else torch.tensor([float(loss) for loss in numbers])
    return {
        "a weight of the model": _flat(model.parameters()),
        "an averaged weight": _flat(ema.model.parameters()),
        "the loss of one of four successive steps": returned,
        "what is returned": "a tensor with its graph" if graph else "a number, such as loss.item()",
    }


def _clip(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


@task(
    points=3,
    inputs=_training,
    observe=_after_steps,
    roundings=256.0,
    changes=("model", "ema", "optimizer"),
    package=[training.fit, training.train],
    n_cases=2,
)
def training_step(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """All that follows the loss in one step: gradient, clipping, update, average; a number."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ema.update(model)
    return loss.item()


@training_step.misconception
def gradients_accumulate(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """Each step adds its gradient to those of all steps before, because .backward() adds: clear
    them with optimizer.zero_grad().
    """
    loss.backward()  # type: ignore[no-untyped-call]
    _clip(model)
    optimizer.step()
    ema.update(model)
    return loss.item()


@training_step.misconception
def model_does_not_move(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """The model has not moved. Either optimizer.step() is missing, or there was no gradient when it
    ran: cleared after .backward(), or not computed yet.
    """
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.zero_grad()
    optimizer.step()
    ema.update(model)
    return loss.item()


@training_step.misconception
def step_before_backward(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """The optimizer steps before .backward(), so it goes by the gradient of the batch before, and
    in the first step by none.
    """
    optimizer.step()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    _clip(model)
    ema.update(model)
    return loss.item()


@training_step.misconception
def not_clipped(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """The optimizer gets the gradients unclipped. Clipping acts on what .backward() has computed
    and must be done before optimizer.step() uses it; earlier or later it does nothing.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    ema.update(model)
    return loss.item()


@training_step.misconception
def clipped_by_value(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """Every entry of the gradient is cut off at 1, which turns its direction. Asked for is the norm
    of the whole gradient: clip_grad_norm_.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_value_(model.parameters(), 1.0)
    optimizer.step()
    ema.update(model)
    return loss.item()


@training_step.misconception
def clipped_one_by_one(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """Each parameter's gradient is clipped on its own, which turns the direction of the whole. Take
    one norm over all parameters together.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        nn.utils.clip_grad_norm_(parameter, 1.0)
    optimizer.step()
    ema.update(model)
    return loss.item()


@training_step.misconception
def small_gradients_blown_up(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """The gradient is always divided by its norm, so small ones are blown up to norm 1. Clipping
    leaves a gradient alone whose norm is below 1.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.div_(norm)
    optimizer.step()
    ema.update(model)
    return loss.item()


@training_step.misconception
def average_before_step(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """The average is updated before the optimizer's step: it lags one step behind, and begins with
    the random first weights counted twice.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    _clip(model)
    ema.update(model)
    optimizer.step()
    return loss.item()


@training_step.misconception
def average_forgotten(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """The average has not moved: ema.update was not called, or was given ema.model in place of the
    model.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    _clip(model)
    optimizer.step()
    return loss.item()


@training_step.misconception
def keeps_the_graph(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> Any:
    """The loss is returned with its graph. Whoever collects a thousand of them to draw a curve
    keeps a thousand batches in memory; return the number, loss.item().
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    _clip(model)
    optimizer.step()
    ema.update(model)
    return loss


@training_step.misconception
def returns_the_norm(
    model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, loss: Tensor
) -> float:
    """What is returned is the norm of the gradient, which clip_grad_norm_ gives. The step is right;
    return the loss.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ema.update(model)
    return norm.item()


# --- 6: a small experiment -----------------------------------------------------------------------


def _evaluation(draw: Draw) -> Inputs:
    """A batch with several items in each bin, T - 1 among them, in no order."""
    n_bins, width, n_items = draw.integer(3, 7), draw.integer(8, 40), draw.integer(6, 10)
    n_steps, dtype = n_bins * width, draw.dtype()
    schedule = _schedule(draw, n_steps, n_steps + 1)
    index = torch.arange(n_items * n_bins)
    crowded = (draw.uniform(0, 1, len(index)) < 0.3) & (index >= 2 * n_bins)
    index[crowded] = 0  # bins differ in size, and none is empty
    # t / T * n_bins may round either way at a bin's edge: keep off it
    t = index % n_bins * width + draw.uniform(1, width, len(index)).long()
    t[-4:] = torch.tensor([0, width - 1, n_steps - 1, n_steps - 1])
    t = t[draw.uniform(0, 1, len(t)).argsort()]
    x_0 = _items(draw, len(t), dtype)
    return {
        "model": _network(draw, dtype),
        "x_0": x_0,
        "t": t,
        "noise": draw.normal(*x_0.shape, dtype=dtype),
        "schedule": schedule,
        "n_bins": n_bins,
    }


def _losses_seen(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    """The means, as a tensor or a list of scalars, and whether they could be differentiated."""
    losses = answer(*inputs.values())
    if isinstance(losses, list) and all(isinstance(v, Tensor) and not v.ndim for v in losses):
        losses = torch.stack(losses)
    graph = isinstance(losses, Tensor) and losses.requires_grad
    if graph:  # where the numbers are wrong, say that first
        model, x_0, t, noise, schedule, n_bins = inputs.values()
        index = t * n_bins // schedule.n_steps
        right = _mean_of_each(_item_losses(model, x_0, t, noise, schedule), index, n_bins)
        graph = losses.shape == right.shape and torch.allclose(losses.to(right), right, rtol=1e-3)
    return {"the mean of a bin": losses, "the result": "with a graph" if graph else "plain"}


def _item_losses(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Mean squared error of v of each item, (B,)."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    target = training.training_target(x_0, noise, t, schedule, "v")
    with torch.no_grad():
        squares = F.mse_loss(model(x_t, t), target, reduction="none")  # (B, C, *space)
    return squares.flatten(1).mean(1)  # (B,)


def _means_where(losses: Tensor, index: Tensor, n_bins: int) -> Tensor:
    """Mean over the items of each bin, (B,) -> (n_bins,); NaN where there is none."""
    return torch.stack([losses[index == i].mean() for i in range(n_bins)])


def _mean_of_each(losses: Tensor, index: Tensor, n_bins: int) -> Tensor:
    """Mean over the items of each bin, (B,) -> (n_bins,); 0 where there is none."""
    total = losses.new_zeros(n_bins).index_add_(0, index, losses)
    return total / index.bincount(minlength=n_bins)[:n_bins].clamp(min=1)


@task(points=3, inputs=_evaluation, observe=_losses_seen, roundings=_n_factors)
def loss_by_timestep(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The mean loss of v in each of n_bins equal stretches of 0..T-1, -> (n_bins,)."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    target = training.training_target(x_0, noise, t, schedule, "v")
    with torch.no_grad():
        error = model(x_t, t) - target  # (B, C, *space)
    losses = error.square().flatten(1).mean(1)  # (B,)
    index = t * n_bins // schedule.n_steps  # (B,): the bin of each item
    return torch.stack([losses[index == i].mean() for i in range(n_bins)])


@loss_by_timestep.misconception
def sums_of_bins(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """These are sums over the items of each bin, so that a bin with more items seems worse; take
    means.
    """
    losses = _item_losses(model, x_0, t, noise, schedule)
    return losses.new_zeros(n_bins).index_add_(0, t * n_bins // schedule.n_steps, losses)


@loss_by_timestep.misconception
def shares_of_the_mean(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """Each bin's sum is divided by the number of all items. Divide it by the number of items in
    that bin.
    """
    losses = _item_losses(model, x_0, t, noise, schedule)
    total = losses.new_zeros(n_bins).index_add_(0, t * n_bins // schedule.n_steps, losses)
    return total / len(t)


@loss_by_timestep.misconception
def bins_of_the_batch(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The batch is cut into pieces in the order it came in. That is right only where t rises
    evenly, as in the lesson; here an item's bin is decided by its t.
    """
    return _item_losses(model, x_0, t, noise, schedule).view(n_bins, -1).mean(1)


@loss_by_timestep.misconception
def equally_full_bins(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The items are sorted by t and cut into equally many. Asked for are equal stretches of t,
    whether many items fall into one or few.
    """
    losses = _item_losses(model, x_0, t, noise, schedule)
    return losses[t.argsort()].view(n_bins, -1).mean(1)


@loss_by_timestep.misconception
def bins_counted_from_one(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The bins lie one timestep too low: each one's last t falls into the next. Here t counts from
    0, so the first of n bins is t = 0..T/n - 1.
    """
    index = ((t + 1) * n_bins // schedule.n_steps).clamp(max=n_bins - 1)
    return _mean_of_each(_item_losses(model, x_0, t, noise, schedule), index, n_bins)


@loss_by_timestep.misconception
def bins_rounded(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """t n / T is rounded to the nearest integer, so the first bin is half as wide as it should be.
    Round down.
    """
    index = (t * n_bins / schedule.n_steps).round().long().clamp(max=n_bins - 1)
    return _mean_of_each(_item_losses(model, x_0, t, noise, schedule), index, n_bins)


@loss_by_timestep.misconception
def last_t_left_out(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The bins end at T - 1, and as a bin leaves its upper end out, t = T - 1 falls into none. They
    run from 0 to T.
    """
    losses = _item_losses(model, x_0, t, noise, schedule)
    edges = torch.linspace(0, schedule.n_steps - 1, n_bins + 1)
    inside = [(t >= edges[i]) & (t < edges[i + 1]) for i in range(n_bins)]
    return torch.stack([losses[where].mean() for where in inside])


@loss_by_timestep.misconception
def sums_of_pixels(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The squares of an item are summed over its pixels; take their mean, as everywhere here."""
    losses = _item_losses(model, x_0, t, noise, schedule) * x_0[0].numel()
    return _mean_of_each(losses, t * n_bins // schedule.n_steps, n_bins)


@loss_by_timestep.misconception
def compared_with_noise(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The model's answer is compared with the noise, but this model was trained to predict v."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    with torch.no_grad():
        losses = (model(x_t, t) - noise).square().flatten(1).mean(1)
    return _mean_of_each(losses, t * n_bins // schedule.n_steps, n_bins)


@loss_by_timestep.misconception
def number_taken_for_width(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """t // n_bins divides by the number of bins. An item's bin is t divided by the width of a bin,
    which is T / n_bins.
    """
    return _means_where(_item_losses(model, x_0, t, noise, schedule), t // n_bins, n_bins)


@loss_by_timestep.misconception
def always_a_thousand(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """T is taken for 1000, as in the lesson; here it is another, schedule.n_steps. With too wide
    bins the last ones stay empty, and the mean of nothing is NaN.
    """
    return _means_where(_item_losses(model, x_0, t, noise, schedule), t // (1000 // n_bins), n_bins)


@loss_by_timestep.misconception
def largest_t_taken_for_t(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """A bin is one timestep too narrow: it is made from T - 1, or from the largest t of the batch.
    There are schedule.n_steps timesteps, 0 among them.
    """
    width = (schedule.n_steps - 1) // n_bins
    return _means_where(_item_losses(model, x_0, t, noise, schedule), t // width, n_bins)


@loss_by_timestep.misconception
def t_taken_for_a_place(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """A slice [b w : (b + 1) w] of the losses picks places in the batch, not timesteps. Pick the
    items whose t lies in that stretch.
    """
    losses, width = _item_losses(model, x_0, t, noise, schedule), schedule.n_steps // n_bins
    return torch.stack([losses[i * width : (i + 1) * width].mean() for i in range(n_bins)])


@loss_by_timestep.misconception
def remainder_for_quotient(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The remainder t % n puts neighbours into different bins. A stretch of t is what the quotient
    gives, t divided by the width of a bin and rounded down.
    """
    return _means_where(_item_losses(model, x_0, t, noise, schedule), t % n_bins, n_bins)


@loss_by_timestep.misconception
def upper_ends_included(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """Each bin includes its upper end and leaves its lower end out, so t = 0 falls into none. The
    first of n bins is t = 0..T/n - 1: lower <= t < upper.
    """
    index = (t * n_bins + schedule.n_steps - 1) // schedule.n_steps - 1
    return _means_where(_item_losses(model, x_0, t, noise, schedule), index, n_bins)


@loss_by_timestep.misconception
def divided_as_if_equally_full(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """Each bin's sum is divided by B / n, as if all bins held equally many items. Divide it by the
    number of items in that bin.
    """
    losses = _item_losses(model, x_0, t, noise, schedule)
    total = losses.new_zeros(n_bins).index_add_(0, t * n_bins // schedule.n_steps, losses)
    return total * n_bins / len(t)


@loss_by_timestep.misconception
def one_number_for_all(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """F.mse_loss gives one number for the whole batch, which cannot be shared out among bins. Keep
    one loss for each item: reduction="none", then the mean over all dimensions but the first.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    target = training.training_target(x_0, noise, t, schedule, "v")
    return _means_where(F.mse_loss(model(x_t, t), target), t * n_bins // schedule.n_steps, n_bins)


@loss_by_timestep.misconception
def x_0_shown(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The model is shown the clean images. Show it x_t, as in its training."""
    target = training.training_target(x_0, noise, t, schedule, "v")
    with torch.no_grad():
        losses = (model(x_0, t) - target).square().flatten(1).mean(1)
    return _mean_of_each(losses, t * n_bins // schedule.n_steps, n_bins)


@loss_by_timestep.misconception
def target_made_of_x_t(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """training_target is given x_t, but v is made of the noise and the clean image: give it x_0."""
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    target = training.training_target(x_t, noise, t, schedule, "v")
    with torch.no_grad():
        losses = (model(x_t, t) - target).square().flatten(1).mean(1)
    return _mean_of_each(losses, t * n_bins // schedule.n_steps, n_bins)


@loss_by_timestep.misconception
def absolute_errors(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """These are absolute errors. The loss of the training, which is to be taken apart here, is the
    mean of squares.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    target = training.training_target(x_0, noise, t, schedule, "v")
    with torch.no_grad():
        losses = (model(x_t, t) - target).abs().flatten(1).mean(1)
    return _mean_of_each(losses, t * n_bins // schedule.n_steps, n_bins)


@loss_by_timestep.misconception
def norms_of_items(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """An item's loss is the norm of its error here, the root of the summed squares. Take the mean
    of the squares: neither root nor sum.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    target = training.training_target(x_0, noise, t, schedule, "v")
    with torch.no_grad():
        losses = (model(x_t, t) - target).flatten(1).norm(dim=1)
    return _mean_of_each(losses, t * n_bins // schedule.n_steps, n_bins)


@loss_by_timestep.misconception
def noise_of_its_own(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """forward_diffusion is not given the noise, so it draws its own. Two models can only be
    compared with the same noise: hand it on.
    """
    x_t, noise = forward_diffusion(x_0, t, schedule)
    target = training.training_target(x_0, noise, t, schedule, "v")
    with torch.no_grad():
        losses = (model(x_t, t) - target).square().flatten(1).mean(1)
    return _mean_of_each(losses, t * n_bins // schedule.n_steps, n_bins)


@loss_by_timestep.misconception
def evaluated_with_gradients(
    model: nn.Module, x_0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, n_bins: int
) -> Tensor:
    """The numbers are right, but they carry a graph: evaluation needs no gradient, and without one
    takes half the memory. Call the model under torch.no_grad().
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise)
    target = training.training_target(x_0, noise, t, schedule, "v")
    losses = (model(x_t, t) - target).square().flatten(1).mean(1)
    return _mean_of_each(losses, t * n_bins // schedule.n_steps, n_bins)

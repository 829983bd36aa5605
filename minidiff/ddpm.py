"""Chapter 04: DDPM, the chain that walks from noise back to data.

Ho et al. 2020 (arXiv:2006.11239, section 3.2 and algorithm 2); Nichol & Dhariwal 2021
(arXiv:2102.09672, section 4) for chains with fewer steps.

A `Denoiser` turns any model into a prediction of x_0; a sampler knows nothing but a Denoiser.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from minidiff.forward import NoiseSchedule, extract, noise_like
from minidiff.training import Context, PredictionType, check_prediction_type

# How noisy a step is: one of two fixed choices, or a function of the model's variance fraction, the
# step of the chain (B,) and the chain's schedule (chapter 06).
Variance = Literal["beta_tilde", "beta"] | Callable[[Tensor | None, Tensor, NoiseSchedule], Tensor]
FIXED_VARIANCES = ("beta_tilde", "beta")


class Prediction(NamedTuple):
    """What a model says about x_t: three views of one answer.

    Args:
        x_0: The clean data that it sees, shaped like x_t, clipped if asked for.
        eps: The noise that goes with this x_0, shaped like x_t.
        variance_fraction: For models that learn their variance, where between the logarithms of
            beta_tilde (0) and beta (1) it lies (Nichol & Dhariwal 2021, eq. 15); otherwise None.
    """

    x_0: Tensor
    eps: Tensor
    variance_fraction: Tensor | None


class Denoiser:
    """The only place that knows what a model predicts.

    Args:
        model: Keeps the contract model(x_t, t, context); may return twice the channels of x_t,
            the second half being the variance v in [-1, 1].
        schedule: The schedule the model was trained with.
        prediction_type: What the model was trained to predict: "eps", "x_0" or "v".
        context: What the prediction depends on, batch first.
        clip: Range of the data, or None for data without bounds (latents, for instance).

    Raises:
        ValueError: If prediction_type is none of the three; if it is "eps" and the schedule ends
            with a_bar = 0, where eps says nothing about x_0; if clip is not (low, high); if the
            model's output does not fit.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # sees no noise
    >>> denoise = Denoiser(model, linear_schedule(), clip=None)
    >>> denoise(torch.full((1, 1), 0.5), torch.tensor([0])).x_0  # 0.5 / sqrt(0.9999)
    tensor([[0.5000]])
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        schedule: NoiseSchedule,
        prediction_type: PredictionType = "eps",
        context: Context | None = None,
        clip: tuple[float, float] | None = (-1.0, 1.0),
    ) -> None:
        check_prediction_type(prediction_type)
        if prediction_type == "eps" and schedule.alphas_cumprod[-1] == 0:
            raise ValueError(
                "prediction_type must be 'v' or 'x_0' for a schedule whose last a_bar is 0, "
                "got 'eps': x_0 = (x_t - eps) / 0"
            )
        if clip is not None and not clip[0] < clip[1]:
            raise ValueError(f"clip must be (low, high) with low < high, or None, got {clip}")
        self.model = model
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.context = context
        self.clip = clip

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Predict from x_t (B, C, *space) at t (B,) int64 in [0, T)."""
        a_bar = self.schedule.alphas_cumprod
        signal = extract(a_bar.sqrt(), t, like=x_t)  # (B, 1, ..., 1)
        spread = extract((1 - a_bar).sqrt(), t, like=x_t)  # (B, 1, ..., 1)
        output, fraction = self._split(self.model(x_t, t, self.context), x_t)
        if self.prediction_type == "x_0":
            x_0 = output
        elif self.prediction_type == "v":
            x_0 = signal * x_t - spread * output
        else:
            x_0 = (x_t - spread * output) / signal
        if self.clip is not None:
            x_0 = x_0.clamp(*self.clip)
        # From the clipped x_0, so that x_t = signal * x_0 + spread * eps always holds.
        return Prediction(x_0, (x_t - signal * x_0) / spread, fraction)

    @staticmethod
    def _split(output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        output = output.to(x_t.dtype)  # under autocast it comes in bfloat16
        if output.shape == x_t.shape:
            return output, None
        if output.shape != (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:]):
            raise ValueError(
                f"the model's output must be shaped like x_t, {tuple(x_t.shape)}, or have twice "
                f"its channels, got {tuple(output.shape)}"
            )
        output, variance = output.chunk(2, dim=1)  # (B, 2C, *space) -> 2 x (B, C, *space)
        return output, (variance + 1) / 2


def posterior(
    x_0: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 6-7).

    Args:
        x_0: Clean data, true or predicted, (B, C, *space).
        x_t: Noisy data, shaped like x_0.
        t: Timesteps, (B,) int64 in [0, T).
        schedule: The noise schedule.

    Returns:
        The mean, shaped like x_0, and the variance beta_tilde, (B, 1, ..., 1), 0 at t = 0.

    Raises:
        TypeError: If t is not int64 or x_0 not floating point.
        ValueError: If shapes do not match or t is out of range.

    >>> x_0, x_t, t = torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([0])
    >>> posterior(x_0, x_t, t, linear_schedule())  # before the first step lies the data itself
    (tensor([[1.]]), tensor([[0.]]))
    """
    if x_0.shape != x_t.shape:
        raise ValueError(f"x_0 must be shaped like x_t, {tuple(x_t.shape)}, got {tuple(x_0.shape)}")
    a_bar, a_bar_prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    weight_0 = a_bar_prev.sqrt() * schedule.betas / (1 - a_bar)  # (T,)
    weight_t = schedule.alphas.sqrt() * (1 - a_bar_prev) / (1 - a_bar)  # (T,)
    mean = extract(weight_0, t, like=x_0) * x_0 + extract(weight_t, t, like=x_0) * x_t
    return mean, extract(schedule.posterior_variance, t, like=x_0)


def trailing_timesteps(n_train_steps: int, n_steps: int) -> Tensor:
    """Choose n_steps of the training timesteps, evenly, the last one included.

    "Trailing" spacing (Lin et al. 2023, arXiv:2305.08891, table 2): sampling starts from pure
    noise, so the chain must start at T - 1.

    Args:
        n_train_steps: T of the schedule the model was trained with.
        n_steps: How many to keep, 1..T.

    Returns:
        (n_steps,) int64, ascending, on the CPU.

    Raises:
        ValueError: If n_steps is out of range.

    >>> trailing_timesteps(1000, 4)
    tensor([249, 499, 749, 999])
    """
    if not 1 <= n_steps <= n_train_steps:
        raise ValueError(f"n_steps must lie in [1, {n_train_steps}], got {n_steps}")
    stride = n_train_steps / n_steps
    timesteps = [round(n_train_steps - i * stride) - 1 for i in range(n_steps)]
    return torch.tensor(timesteps[::-1], dtype=torch.int64, device="cpu")


def respace(schedule: NoiseSchedule, timesteps: Tensor) -> NoiseSchedule:
    """Make the schedule of a shorter chain that visits only some timesteps.

    Its a_bar are those of the timesteps kept, so beta_i = 1 - a_bar_i / a_bar_{i-1}
    (Nichol & Dhariwal 2021, section 4, eq. 19).

    Args:
        schedule: The schedule the model was trained with.
        timesteps: Which of its timesteps to keep, (n,) int64, ascending.

    Returns:
        A schedule with n steps; step i corresponds to timesteps[i].

    Raises:
        ValueError: If timesteps is empty, not strictly ascending or out of range.

    >>> schedule = linear_schedule(1000)
    >>> short = respace(schedule, torch.tensor([499, 999]))
    >>> torch.allclose(short.alphas_cumprod, schedule.alphas_cumprod[[499, 999]])
    True
    """
    if timesteps.dtype != torch.int64 or timesteps.ndim != 1 or len(timesteps) == 0:
        raise ValueError(
            f"timesteps must be int64 of shape (n,) with n >= 1, "
            f"got {timesteps.dtype} of shape {tuple(timesteps.shape)}"
        )
    timesteps = timesteps.cpu()
    inside = (timesteps >= 0) & (timesteps < schedule.n_steps)
    if not inside.all() or not (timesteps.diff() > 0).all():
        raise ValueError(
            f"timesteps must be strictly ascending in [0, {schedule.n_steps}), "
            f"got {timesteps.tolist()}"
        )
    a_bar = schedule.alphas_cumprod[timesteps]  # (n,)
    return NoiseSchedule(1 - a_bar / torch.cat([a_bar.new_ones(1), a_bar[:-1]]))


class Step(NamedTuple):
    """What a sampler yields after each step.

    Args:
        t: The timestep just left, counted in the training schedule.
        x: The sample after the step, (B, C, *space).
        x_0: The clean data predicted in this step, shaped like x.
    """

    t: int
    x: Tensor
    x_0: Tensor


@torch.no_grad()
def ddpm_steps(
    denoise: Denoiser,
    shape: Sequence[int],
    n_steps: int | None = None,
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    variance: Variance = "beta_tilde",
) -> Iterator[Step]:
    """Ancestral sampling, one step at a time (Ho et al. 2020, algorithm 2).

    Args:
        denoise: The model with its schedule and context.
        shape: Shape of the samples, (B, C, *space).
        n_steps: Length of the chain; all T timesteps by default.
        x_T: The noise to start from; drawn when absent. Its dtype and device are kept.
        generator: Source of all noise.
        device: Where to sample when x_T is absent; the CPU by default.
        variance: "beta_tilde", that of the true posterior, or "beta" (Ho et al. 2020, section
            3.2): the best choices if the data were one point, or standard normal. Or a function
            of the predicted variance fraction, the step (B,) int64 and the chain's schedule.

    Yields:
        Step(t, x, x_0), from t = T-1 down to 0. No noise is added in the last one.

    Raises:
        ValueError: If shape is empty or not that of x_T, n_steps is out of range, or variance is
            unknown.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> [step.t for step in ddpm_steps(denoise, (1, 1, 2, 2), n_steps=4)]
    [999, 749, 499, 249]
    """
    if not callable(variance) and variance not in FIXED_VARIANCES:
        raise ValueError(f"variance must be 'beta_tilde' or 'beta', got {variance!r}")
    n_train_steps = denoise.schedule.n_steps
    timesteps = trailing_timesteps(n_train_steps, n_train_steps if n_steps is None else n_steps)
    chain = respace(denoise.schedule, timesteps)
    x = start(shape, x_T, generator, device)
    for i in reversed(range(chain.n_steps)):
        t, index = (torch.full((len(x),), int(s), device=x.device) for s in (timesteps[i], i))
        x_0, _, fraction = denoise(x, t)  # the model knows the timesteps it was trained on
        mean, spread = posterior(x_0, x, index, chain)  # the chain has its own betas
        x = mean
        if i > 0:
            noise = noise_like(x, generator)
            if callable(variance):
                spread = variance(fraction, index, chain)
            elif variance == "beta":
                spread = extract(chain.betas, index, like=x)
            x = mean + spread.sqrt() * noise
        yield Step(int(timesteps[i]), x, x_0)


def sample_ddpm(
    denoise: Denoiser,
    shape: Sequence[int],
    n_steps: int | None = None,
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    variance: Variance = "beta_tilde",
) -> Tensor:
    """Ancestral sampling: the last x of `ddpm_steps`, which see for the arguments.

    Returns:
        Samples of the given shape.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> sample_ddpm(Denoiser(model, linear_schedule(), "x_0"), (1, 1, 2, 2), n_steps=4)
    tensor([[[[0., 0.],
              [0., 0.]]]])
    """
    return last(ddpm_steps(denoise, shape, n_steps, x_T, generator, device, variance))


def last(steps: Iterator[Step]) -> Tensor:
    """Run a sampler's steps to the end and return the last x.

    >>> last(iter([Step(0, torch.zeros(1), torch.zeros(1))]))
    tensor([0.])
    """
    (step,) = deque(steps, maxlen=1)
    return step.x


def start(
    shape: Sequence[int],
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Make the pure noise that every sampler starts from, or check the one given.

    Args:
        shape: Shape of the samples, (B, C, *space).
        x_T: The noise, if there is one already; its dtype and device are kept.
        generator: Source of the noise; the global one when absent.
        device: Where to put it when x_T is absent; the CPU by default.

    Returns:
        Standard normal noise of that shape, float32 unless x_T was given.

    Raises:
        ValueError: If shape is not (B, C, *space) without zeros, or not that of x_T.

    >>> start((2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape must be (B, C, *space), each at least 1, got {tuple(shape)}")
    if x_T is None:
        return noise_like(torch.empty(tuple(shape), device=device or "cpu"), generator)
    if tuple(shape) != x_T.shape:
        raise ValueError(f"x_T must have the given shape {tuple(shape)}, got {tuple(x_T.shape)}")
    return x_T

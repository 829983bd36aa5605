"""Chapter 11: editing images. What is known of a picture joins while it is being drawn.

Lugmayr et al. 2022, "RePaint" (arXiv:2201.09865), for inpainting; Saharia et al. 2021, "SR3"
(arXiv:2104.07636), for super-resolution by a model trained for it; Wang et al. 2022, "DDNM"
(arXiv:2212.00490), for super-resolution without training; Meng et al. 2021, "SDEdit"
(arXiv:2108.01073), for image to image.

Every function takes any Denoiser and data of any shape (B, C, *space): pictures, sound, clips.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.ddpm import Denoiser, Step, last, posterior, respace, trailing_timesteps
from minidiff.forward import NoiseSchedule, extract, forward_diffusion, noise_like
from minidiff.training import Context


@torch.no_grad()
def inpaint_steps(
    denoise: Denoiser,
    known: Tensor,
    mask: Tensor,
    n_steps: int = 50,
    n_resample: int = 1,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Fill in what is hidden, one step at a time (Lugmayr et al. 2022, algorithm 1).

    After each step of the ancestral sampler the known values replace what it made in their places,
    as noisy as the step has left the rest (eq. 8). Resampling then adds the noise of one step
    again and repeats the step, n_resample times in all, so that what is drawn can still adapt to
    what is known. The model is called n_resample (n_steps - 1) + 1 times.

    Args:
        denoise: The model with its schedule and context.
        known: Data, (B, C, *space); hidden values are never looked at, whatever they are.
        mask: True where data is known, bool, broadcastable to known.
        n_steps: Length of the chain.
        n_resample: How often each step but the last is made; 1 is replacement alone.
        generator: Source of all noise.

    Yields:
        Step(t, x, x_0) for each step of the chain, the last one with known values exact.

    Raises:
        TypeError: If mask is not bool or known not floating point.
        ValueError: If mask does not broadcast to known, n_steps or n_resample is out of range, or
            known is empty or not finite where it is known.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> known, mask = torch.ones(1, 1, 2, 2), torch.eye(2, dtype=torch.bool)
    >>> [step.t for step in inpaint_steps(denoise, known, mask, n_steps=4, n_resample=3)]
    [999, 749, 499, 249]
    """
    if n_resample < 1:
        raise ValueError(f"n_resample must be at least 1, got {n_resample}")
    mask = _mask_for(known, mask)
    known = torch.where(mask, known, 0.0)
    timesteps, chain = _chain(denoise.schedule, n_steps)
    x = noise_like(known, generator)
    for step in reversed(range(n_steps)):
        for repeat in reversed(range(n_resample if step > 0 else 1)):
            x, x_0 = _step_down(denoise, x, step, timesteps, chain, generator)
            x = torch.where(mask, _diffused(known, step - 1, chain, generator), x)
            if repeat > 0:  # one step of the forward process: up again (algorithm 1, line 10)
                i = _filled(step, x)
                noise = noise_like(x, generator)
                x = extract(chain.alphas.sqrt(), i, like=x) * x
                x = x + extract(chain.betas.sqrt(), i, like=x) * noise
        yield Step(int(timesteps[step]), x, x_0)


def inpaint(
    denoise: Denoiser,
    known: Tensor,
    mask: Tensor,
    n_steps: int = 50,
    n_resample: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill in what is hidden: the last x of `inpaint_steps`, which see for the arguments.

    Returns:
        Data shaped like known, equal to it wherever mask is True.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> inpaint(denoise, torch.ones(1, 1, 2, 2), torch.eye(2, dtype=torch.bool), n_steps=4)
    tensor([[[[1., 0.],
              [0., 1.]]]])
    """
    return last(inpaint_steps(denoise, known, mask, n_steps, n_resample, generator))


class ImageConditioned(nn.Module):
    """A model that sees an image beside x_t (Saharia et al. 2021).

    The image, brought to the size of x_t by repeating its values, is concatenated to x_t along the
    channels. The contract stays: model(x_t, t, context), with the image in context["image"].

    Args:
        model: Keeps the contract and takes the channels of x_t and of the image together.

    Raises:
        ValueError: If forward gets no context["image"], or one with another batch size or another
            number of dimensions than x_t.

    >>> model = ImageConditioned(UNet(in_channels=2, out_channels=1, channels=(8, 16)))
    >>> image = torch.zeros(2, 1, 7, 7)
    >>> model(torch.zeros(2, 1, 28, 28), torch.tensor([0, 999]), {"image": image}).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        """Predict from x_t (B, C, *space) at t (B,), given context["image"] (B, C', *any size)."""
        others = dict(context or {})
        image = others.pop("image", None)
        if image is None or image.ndim != x_t.ndim or len(image) != len(x_t):
            found = "none" if image is None else f"shape {tuple(image.shape)}"
            raise ValueError(
                f"context must have an image of {x_t.ndim} dimensions for each of {len(x_t)} "
                f"items, got {found}"
            )
        image = F.interpolate(image.to(x_t.dtype), size=x_t.shape[2:], mode="nearest")
        x_t = torch.cat([x_t, image], dim=1)  # (B, C, *space) -> (B, C + C', *space)
        output: Tensor = self.model(x_t, t, others or None)
        return output


def downsample(x: Tensor, factor: int = 4) -> Tensor:
    """Average over blocks, `factor` values long each way: the picture of a coarser camera.

    Args:
        x: Data, (B, C, *space).
        factor: Divides every dimension of space.

    Returns:
        (B, C, *space / factor).

    Raises:
        ValueError: If factor does not divide every dimension of space.

    >>> downsample(torch.arange(4.0).view(1, 1, 2, 2), 2)
    tensor([[[[1.5000]]]])
    """
    space = x.shape[2:]
    if factor < 1 or not space or any(size % factor for size in space):
        raise ValueError(f"factor must divide each dimension of space {tuple(space)}, got {factor}")
    for dim, size in enumerate(space, start=2):  # (..., size, ...) -> (..., size / factor, ...)
        x = x.reshape(*x.shape[:dim], size // factor, factor, *x.shape[dim + 1 :]).mean(dim + 1)
    return x


def upsample(low: Tensor, factor: int = 4) -> Tensor:
    """Repeat each value `factor` times each way, so that `downsample` gives it back.

    Args:
        low: Data, (B, C, *space).
        factor: At least 1.

    Returns:
        (B, C, *space * factor).

    Raises:
        ValueError: If factor is below 1 or there is no space.

    >>> upsample(torch.ones(1, 1, 2), 3).shape
    torch.Size([1, 1, 6])
    """
    if factor < 1 or low.ndim < 3:
        raise ValueError(
            f"factor must be at least 1 and low (B, C, *space), got {factor}, {tuple(low.shape)}"
        )
    for dim in range(2, low.ndim):
        low = low.repeat_interleave(factor, dim)
    return low


def project(x_0: Tensor, low: Tensor, factor: int = 4) -> Tensor:
    """Make data consistent with what is known of it at low resolution (Wang et al. 2022, eq. 13).

    A^+ y + (I - A^+ A) x_0, with A = `downsample`, A^+ = `upsample` and y = low: of all data that
    is y at low resolution, the nearest to x_0.

    Args:
        x_0: Data, (B, C, *space).
        low: What it should be at low resolution, (B, C, *space / factor).
        factor: Between the two.

    Returns:
        Data shaped like x_0; `downsample` of it is low.

    Raises:
        ValueError: If the shapes do not fit.

    >>> project(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[5.0]]]), 2)
    tensor([[[4., 6.]]])
    """
    mean = downsample(x_0, factor)
    if low.shape != mean.shape:
        raise ValueError(f"low must have shape {tuple(mean.shape)}, got {tuple(low.shape)}")
    return x_0 + upsample(low - mean, factor)


@torch.no_grad()
def super_resolve_steps(
    denoise: Denoiser,
    low: Tensor,
    factor: int = 4,
    n_steps: int = 50,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Super-resolution without training, one step at a time (Wang et al. 2022, algorithm 1).

    The ancestral sampler, but each predicted x_0 is made consistent with low before the step. Only
    for low without noise, and the end may leave the range of the data a little: a clip would undo
    the consistency.

    Args:
        denoise: A model of data at high resolution, with its schedule and context.
        low: Data at low resolution, (B, C, *space).
        factor: How much finer the result is.
        n_steps: Length of the chain, the number of calls of the model.
        generator: Source of all noise.

    Yields:
        Step(t, x, x_0) with x_0 made consistent; so is the last x.

    Raises:
        TypeError: If low is not floating point.
        ValueError: If n_steps or factor is out of range or low is no (B, C, *space).

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> steps = super_resolve_steps(denoise, torch.ones(1, 1, 1), factor=2, n_steps=4)
    >>> [step.x_0.tolist() for step in steps][0]
    [[[1.0, 1.0]]]
    """
    timesteps, chain = _chain(denoise.schedule, n_steps)
    x = noise_like(upsample(low, factor), generator)
    for step in reversed(range(n_steps)):
        x, x_0 = _step_down(denoise, x, step, timesteps, chain, generator, low, factor)
        yield Step(int(timesteps[step]), x, x_0)


def super_resolve(
    denoise: Denoiser,
    low: Tensor,
    factor: int = 4,
    n_steps: int = 50,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Super-resolution without training: the last x of `super_resolve_steps`, which see.

    Returns:
        Data (B, C, *space * factor); `downsample` of it is low.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> super_resolve(denoise, torch.full((1, 1, 1), 0.5), factor=2, n_steps=4)
    tensor([[[0.5000, 0.5000]]])
    """
    return last(super_resolve_steps(denoise, low, factor, n_steps, generator))


@torch.no_grad()
def image_to_image_steps(
    denoise: Denoiser,
    x_0: Tensor,
    strength: float = 0.5,
    n_steps: int = 50,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Draw data anew from part of the way, one step at a time (Meng et al. 2021, algorithm 1).

    x_0 is diffused to a timestep, and the ancestral sampler leads back from there. The more noise,
    the more freely it is drawn anew.

    Args:
        denoise: The model with its schedule and context: what the data is to become.
        x_0: Data to start from, (B, C, *space).
        strength: Share of the chain that is walked, in (0, 1]; 1 starts from (nearly) pure noise.
        n_steps: Length of the whole chain; the model is called round(strength * n_steps) times, at
            least once.
        generator: Source of all noise.

    Yields:
        Step(t, x, x_0), the last one with clean data.

    Raises:
        TypeError: If x_0 is not floating point.
        ValueError: If strength or n_steps is out of range, or x_0 is empty or not finite.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> steps = image_to_image_steps(denoise, torch.ones(1, 1, 2, 2), strength=0.5, n_steps=4)
    >>> [step.t for step in steps]
    [499, 249]
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must lie in (0, 1], got {strength}")
    timesteps, chain = _chain(denoise.schedule, n_steps)
    n_walked = max(round(strength * n_steps), 1)
    x = _diffused(x_0, n_walked - 1, chain, generator)
    for step in reversed(range(n_walked)):
        x, predicted = _step_down(denoise, x, step, timesteps, chain, generator)
        yield Step(int(timesteps[step]), x, predicted)


def image_to_image(
    denoise: Denoiser,
    x_0: Tensor,
    strength: float = 0.5,
    n_steps: int = 50,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw data anew from part of the way: the last x of `image_to_image_steps`, which see.

    Returns:
        Data shaped like x_0.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), prediction_type="x_0")
    >>> image_to_image(denoise, torch.ones(1, 1, 2), strength=0.5, n_steps=4)
    tensor([[[0., 0.]]])
    """
    return last(image_to_image_steps(denoise, x_0, strength, n_steps, generator))


def _chain(schedule: NoiseSchedule, n_steps: int) -> tuple[Tensor, NoiseSchedule]:
    """Return the timesteps to visit, ascending, and the schedule of the chain that they make."""
    timesteps = trailing_timesteps(schedule.n_steps, n_steps)
    return timesteps, respace(schedule, timesteps)


def _filled(value: int | Tensor, x: Tensor) -> Tensor:
    """Give every item of a batch the same step, (B,) int64 on its device."""
    return torch.full((len(x),), int(value), device=x.device)


def _diffused(
    x_0: Tensor, step: int, chain: NoiseSchedule, generator: torch.Generator | None
) -> Tensor:
    """Return x_0 as noisy as it is after a step of the chain; step -1 stands before the first."""
    if step < 0:
        return x_0
    return forward_diffusion(x_0, _filled(step, x_0), chain, generator=generator)[0]


def _step_down(
    denoise: Denoiser,
    x: Tensor,
    step: int,
    timesteps: Tensor,
    chain: NoiseSchedule,
    generator: torch.Generator | None,
    low: Tensor | None = None,
    factor: int = 1,
) -> tuple[Tensor, Tensor]:
    """One step of the ancestral sampler (chapter 04), and the x_0 that it was made with."""
    x_0 = denoise(x, _filled(timesteps[step], x)).x_0
    if low is not None:
        x_0 = project(x_0, low, factor)
    mean, variance = posterior(x_0, x, _filled(step, x), chain)
    if step == 0:
        return mean, x_0
    return mean + variance.sqrt() * noise_like(x, generator), x_0


def _mask_for(known: Tensor, mask: Tensor) -> Tensor:
    """Check a mask and bring it to the device of what it masks."""
    if not known.is_floating_point():
        raise TypeError(f"known must be floating point, got {known.dtype}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True where data is known, got {mask.dtype}")
    try:
        return mask.expand(known.shape).to(known.device)
    except RuntimeError as error:
        raise ValueError(
            f"mask must broadcast to the shape of known, {tuple(known.shape)}, "
            f"got {tuple(mask.shape)}"
        ) from error

"""Checks of chapter 09, latent diffusion: `from minidiff.grading import chapter_09 as check`.

Images lie in [-1, 1], so their peak is 2. A posterior is a mean and the logarithm of a variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import ddim, ddpm, improved, latent
from minidiff.grading.check import Answer, Inputs, task
from minidiff.grading.draw import Draw

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
Decode = Callable[[Tensor], Tensor]
Model = Callable[..., Tensor]


# --- 1: what a convolution costs ------------------------------------------------------------------


def _convolution(draw: Draw) -> Inputs:
    stride = draw.case % 2 + 1
    return {
        "height": 2 * draw.integer(7, 30),
        "width": 2 * draw.integer(31, 60),
        "in_channels": draw.integer(3, 40),
        "out_channels": draw.integer(41, 90),
        "kernel_size": draw.choice((3, 5, 7)),
        "stride": stride,
    }


@task(points=1, inputs=_convolution, package=[latent.multiply_adds])
def multiply_adds(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """Multiply-adds of a convolution on one image of this height and width."""
    places = (height // stride) * (width // stride)
    return places * out_channels * in_channels * kernel_size**2


@multiply_adds.misconception
def kernel_size_once(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """The window counts with one side only. It is a square: kernel_size * kernel_size products for
    each pair of channels.
    """
    return height // stride * (width // stride) * out_channels * in_channels * kernel_size


@multiply_adds.misconception
def size_of_the_input(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """The places are those of the input. With a stride the window stops only at every
    stride-th row and column, so count those of the output.
    """
    return height * width * out_channels * in_channels * kernel_size**2


@multiply_adds.misconception
def stride_counted_once(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """The stride divides the number of places once. It thins out rows and columns, so it counts
    twice.
    """
    return height * width // stride * out_channels * in_channels * kernel_size**2


@multiply_adds.misconception
def weights_alone(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """This is the number of weights. Each of them is used again at every place of the output."""
    return out_channels * in_channels * kernel_size**2


@multiply_adds.misconception
def one_input_channel(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """The input's channels are missing: each output channel looks at all of them."""
    return height // stride * (width // stride) * out_channels * kernel_size**2


@multiply_adds.misconception
def one_output_channel(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """This is the cost of one output channel; there are out_channels of them."""
    return height // stride * (width // stride) * in_channels * kernel_size**2


@multiply_adds.misconception
def channels_added(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """The two numbers of channels are added. Every output channel looks at every input channel:
    multiply them.
    """
    return height // stride * (width // stride) * (in_channels + out_channels) * kernel_size**2


@multiply_adds.misconception
def two_for_each(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """Multiplication and addition are counted apart, which doubles the number. In this task the two
    of them count as one.
    """
    return 2 * (height // stride * (width // stride)) * out_channels * in_channels * kernel_size**2


@multiply_adds.misconception
def a_square_image(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """The width is taken to be the height. The picture need not be square."""
    return (height // stride) ** 2 * out_channels * in_channels * kernel_size**2


@multiply_adds.misconception
def without_padding(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """In your code the output is smaller by the window's rim, as without padding. With padding
    kernel_size // 2 only the stride makes it smaller.
    """
    rows = (height - kernel_size) // stride + 1
    columns = (width - kernel_size) // stride + 1
    return rows * columns * out_channels * in_channels * kernel_size**2


@multiply_adds.misconception
def bias_counted(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> int:
    """The bias is counted as one more product, but it is only added. Count the weights alone."""
    places = height // stride * (width // stride)
    return places * out_channels * (in_channels * kernel_size**2 + 1)


@multiply_adds.misconception
def a_fraction(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> float:
    """The number is right, but / makes a fraction of it. Use // for an integer."""
    places = height / stride * width / stride
    return places * out_channels * in_channels * kernel_size**2


# --- 2: the KL divergence -------------------------------------------------------------------------


def _posterior(draw: Draw) -> Inputs:
    dtype = draw.dtype()
    shape = (draw.integer(3, 6), draw.integer(2, 5), draw.integer(3, 7), draw.integer(7, 10))
    mean = draw.normal(*shape, dtype=dtype) + 0.3
    return {"mean": mean, "log_variance": draw.uniform(-3, 1.5, *shape, dtype=dtype)}


def _nats(mean: Tensor, log_variance: Tensor) -> Tensor:
    return (mean**2 + log_variance.exp() - 1 - log_variance) / 2


@task(
    points=2,
    inputs=_posterior,
    roundings=256.0,
    package=[
        latent.Posterior,
        improved.normal_kl,
        torch.distributions.kl_divergence,
    ],
)
def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), summed over each item's numbers, (B,)."""
    nats = (mean**2 + log_variance.exp() - 1 - log_variance) / 2  # (B, C, h, w)
    return nats.flatten(1).sum(1)


@kl_to_prior.misconception
def mean_over_the_numbers(mean: Tensor, log_variance: Tensor) -> Tensor:
    """This is the mean over an item's numbers. They are independent, so their divergences add
    up: sum.
    """
    return _nats(mean, log_variance).flatten(1).mean(1)


@kl_to_prior.misconception
def summed_over_the_batch(mean: Tensor, log_variance: Tensor) -> Tensor:
    """This is one number, the sum over the whole batch. Each item has its own divergence: keep the
    first dimension.
    """
    return _nats(mean, log_variance).sum()


@kl_to_prior.misconception
def summed_over_channels_alone(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Only the channels are summed; rows and columns hold latent numbers, too. Sum over all
    dimensions but the first.
    """
    return _nats(mean, log_variance).sum(1)


@kl_to_prior.misconception
def not_summed(mean: Tensor, log_variance: Tensor) -> Tensor:
    """These are the nats of each number. Sum them over all dimensions but the first."""
    return _nats(mean, log_variance)


@kl_to_prior.misconception
def half_forgotten(mean: Tensor, log_variance: Tensor) -> Tensor:
    """It is twice as much as it should be: the factor 1/2 is missing."""
    return 2 * _nats(mean, log_variance).flatten(1).sum(1)


@kl_to_prior.misconception
def one_forgotten(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The - 1 is missing, so the standard normal itself would not be at distance 0 from itself."""
    return (_nats(mean, log_variance) + 0.5).flatten(1).sum(1)


@kl_to_prior.misconception
def mean_not_squared(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The mean enters as it is. Its square counts: to lie left of 0 is as bad as to lie right."""
    return ((mean + log_variance.exp() - 1 - log_variance) / 2).flatten(1).sum(1)


@kl_to_prior.misconception
def logarithm_added(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A sign: log_variance is added. Narrow posteriors, with a large negative logarithm, are to be
    expensive: take it off.
    """
    return ((mean**2 + log_variance.exp() - 1 + log_variance) / 2).flatten(1).sum(1)


@kl_to_prior.misconception
def logarithm_of_sigma(mean: Tensor, log_variance: Tensor) -> Tensor:
    """log_variance is taken for the logarithm of sigma: exp(2 log_variance) and 2 log_variance. It
    is that of sigma squared already.
    """
    return ((mean**2 + (2 * log_variance).exp() - 1 - 2 * log_variance) / 2).flatten(1).sum(1)


@kl_to_prior.misconception
def sigma_in_place_of_the_variance(mean: Tensor, log_variance: Tensor) -> Tensor:
    """sigma stands where sigma squared should: exp(log_variance / 2) in place of
    exp(log_variance).
    """
    return ((mean**2 + (log_variance / 2).exp() - 1 - log_variance) / 2).flatten(1).sum(1)


@kl_to_prior.misconception
def logarithm_in_place_of_the_variance(mean: Tensor, log_variance: Tensor) -> Tensor:
    """log_variance stands where the variance itself should. Take its exponential for that term."""
    return ((mean**2 + log_variance - 1 - log_variance) / 2).flatten(1).sum(1)


@kl_to_prior.misconception
def the_other_way_round(mean: Tensor, log_variance: Tensor) -> Tensor:
    """This is the divergence the other way round, of the prior from the posterior. The first of
    the two is that under which the mean is taken: the posterior.
    """
    nats = ((mean**2 + 1) / log_variance.exp() - 1 + log_variance) / 2
    return nats.flatten(1).sum(1)


@kl_to_prior.misconception
def sign_turned(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The sign is turned. A divergence is never negative; in the loss it is added."""
    return -_nats(mean, log_variance).flatten(1).sum(1)


@kl_to_prior.misconception
def summed_over_the_items(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The items are summed, which is the one dimension to keep. Sum over all the others."""
    return _nats(mean, log_variance).sum(0)


@kl_to_prior.misconception
def half_of_the_mean_alone(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The factor 1/2 belongs to the whole bracket, not to the mean's square alone."""
    return (mean**2 / 2 + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


# --- 3: the loss ----------------------------------------------------------------------------------


class _Encoder(nn.Module):
    def __init__(self, n_channels: int, n_latent: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_channels, 2 * n_latent, 2, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, W) to means and log-variances, (B, n_latent, H/2, W/2) each."""
        mean, log_variance = self.conv(x).chunk(2, dim=1)
        return mean, log_variance - 0.7


class _Flat(nn.Module):
    """Encoder and decoder whose latents are (B, n_latent), not pictures."""

    def __init__(self, shape: tuple[int, ...], n_latent: int, encodes: bool) -> None:
        super().__init__()
        size = math.prod(shape)
        self.shape = shape
        self.encodes = encodes
        self.linear = nn.Linear(size, 2 * n_latent) if encodes else nn.Linear(n_latent, size)

    def forward(self, x: Tensor) -> Any:
        """Map (B, C, H, W) to means and log-variances, (B, n_latent) each, or latents back."""
        if self.encodes:
            mean, log_variance = self.linear(x.flatten(1)).chunk(2, dim=1)
            return mean, log_variance - 0.7
        return self.linear(x).sin().view(-1, *self.shape)


class _Decoder(nn.Module):
    def __init__(self, n_channels: int, n_latent: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(n_latent, n_channels, 2, stride=2)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents (B, n_latent, h, w) to (B, C, 2h, 2w); bent, so that a scale matters."""
        x: Tensor = self.conv(z).sin()
        return x


def _autoencoder(draw: Draw) -> Inputs:
    n_items, n_channels, n_latent = draw.integer(2, 5), draw.integer(1, 3), draw.integer(3, 6)
    height, width = 2 * draw.integer(2, 5), 2 * draw.integer(5, 7)
    encode: nn.Module = draw.module(lambda: _Encoder(n_channels, n_latent))
    decode: nn.Module = draw.module(lambda: _Decoder(n_channels, n_latent))
    latent_shape: tuple[int, ...] = (n_latent, height // 2, width // 2)
    if draw.case == 1:
        shape = (n_channels, height, width)
        encode = draw.module(lambda: _Flat(shape, n_latent, encodes=True))
        decode = draw.module(lambda: _Flat(shape, n_latent, encodes=False))
        latent_shape = (n_latent,)
    return {
        "encode": encode,
        "decode": decode,
        "x": draw.uniform(-1, 1, n_items, n_channels, height, width, dtype=torch.float32),
        "kl_weight": float(draw.uniform(0.3, 0.8, 1)),
        "noise": draw.normal(n_items, *latent_shape, dtype=torch.float32),
    }


def _gradient(loss: Any, network: nn.Module) -> Any:
    """The loss's gradient with respect to all weights of a network, or in words why not."""
    weights = list(network.parameters())
    if any(weight.grad is not None for weight in weights):
        return "computed already"
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return "none"
    found = torch.autograd.grad(loss.sum(), weights, retain_graph=True, allow_unused=True)
    parts = [part.flatten() for part in found if part is not None]
    return torch.cat(parts) if parts else "none"


def _loss_and_gradients(answer: Answer, inputs: Inputs) -> dict[str, Any]:
    """The loss and, since a training lives on them, what it tells the two networks."""
    loss = answer(*inputs.values())
    return {
        "the loss": loss,
        "the encoder's gradient": _gradient(loss, inputs["encode"]),
        "the decoder's gradient": _gradient(loss, inputs["decode"]),
    }


def _terms(
    encode: Encode, decode: Decode, x: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The squared errors, the nats and the latents."""
    mean, log_variance = encode(x)
    z = mean + (log_variance / 2).exp() * noise
    return (decode(z) - x).square(), _nats(mean, log_variance), z


@task(
    points=3,
    inputs=_autoencoder,
    observe=_loss_and_gradients,
    roundings=512.0,
    package=[latent.autoencoder_loss, latent.Posterior, latent.Autoencoder, improved.normal_kl],
    n_cases=3,
)
def autoencoder_loss(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """Mean squared error of what comes back plus kl_weight times the mean KL of a number."""
    mean, log_variance = encode(x)
    z = mean + (log_variance / 2).exp() * noise
    nats = (mean**2 + log_variance.exp() - 1 - log_variance) / 2
    return (decode(z) - x).square().mean() + kl_weight * nats.mean()


@autoencoder_loss.misconception
def mean_decoded(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The mean is decoded, and the noise goes unused. The decoder is to see a draw from the
    posterior, mean + sigma noise; otherwise nothing keeps sigma from being anything.
    """
    mean, log_variance = encode(x)
    return (decode(mean) - x).square().mean() + kl_weight * _nats(mean, log_variance).mean()


@autoencoder_loss.misconception
def noise_of_standard_deviation_one(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The noise is added as it is. Multiply it by sigma, exp(log_variance / 2)."""
    mean, log_variance = encode(x)
    error = (decode(mean + noise) - x).square().mean()
    return error + kl_weight * _nats(mean, log_variance).mean()


@autoencoder_loss.misconception
def variance_for_sigma(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The noise is multiplied by the variance. It is to be multiplied by its root: exp(log_variance
    / 2).
    """
    mean, log_variance = encode(x)
    error = (decode(mean + log_variance.exp() * noise) - x).square().mean()
    return error + kl_weight * _nats(mean, log_variance).mean()


@autoencoder_loss.misconception
def logarithm_for_sigma(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The noise is multiplied by log_variance itself. sigma is exp(log_variance / 2)."""
    mean, log_variance = encode(x)
    error = (decode(mean + log_variance * noise) - x).square().mean()
    return error + kl_weight * _nats(mean, log_variance).mean()


@autoencoder_loss.misconception
def noise_decoded(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The mean is missing: what is decoded is sigma noise, which knows nothing of the picture."""
    mean, log_variance = encode(x)
    error = (decode((log_variance / 2).exp() * noise) - x).square().mean()
    return error + kl_weight * _nats(mean, log_variance).mean()


@autoencoder_loss.misconception
def kl_left_out(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The KL term is missing; this is the reconstruction's error alone."""
    return _terms(encode, decode, x, noise)[0].mean()


@autoencoder_loss.misconception
def weight_left_out(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The KL term has the weight 1, whatever kl_weight is."""
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.mean() + nats.mean()


@autoencoder_loss.misconception
def weight_on_the_error(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The weight stands at the wrong term: it is that of the KL, not of the error."""
    error, nats, _ = _terms(encode, decode, x, noise)
    return kl_weight * error.mean() + nats.mean()


@autoencoder_loss.misconception
def weights_that_add_up_to_one(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The error is multiplied by 1 - kl_weight. It keeps its full weight, and the KL is added."""
    error, nats, _ = _terms(encode, decode, x, noise)
    return (1 - kl_weight) * error.mean() + kl_weight * nats.mean()


@autoencoder_loss.misconception
def kl_taken_off(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """A sign: the KL is taken off, so minimising drives posteriors away from the prior. It comes
    with a minus only in a bound that is maximised.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.mean() - kl_weight * nats.mean()


@autoencoder_loss.misconception
def kl_summed(encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor) -> Tensor:
    """The KL is summed over an item's numbers. In this task it is a mean, as the error is, so that
    the weight does not depend on the size of the latents.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.mean() + kl_weight * nats.flatten(1).sum(1).mean()


@autoencoder_loss.misconception
def both_summed(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """Both terms are summed over pixels and numbers, of which there are not as many. Take the mean
    of each.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.flatten(1).sum(1).mean() + kl_weight * nats.flatten(1).sum(1).mean()


@autoencoder_loss.misconception
def absolute_error(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """This is the mean absolute error. In this task the error is squared."""
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.sqrt().mean() + kl_weight * nats.mean()


@autoencoder_loss.misconception
def one_number_an_item(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """This is a loss for each item. The optimizer wants one number: take the mean over the batch,
    too.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.flatten(1).mean(1) + kl_weight * nats.flatten(1).mean(1)


@autoencoder_loss.misconception
def error_summed(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The error is summed over everything, so it grows with the batch and the picture. Take its
    mean, as for the KL.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.sum() + kl_weight * nats.mean()


@autoencoder_loss.misconception
def kl_summed_over_everything(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The KL is summed over the whole batch, so it grows with the batch and the code. Take its
    mean, as for the error.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.mean() + kl_weight * nats.sum()


@autoencoder_loss.misconception
def weight_on_both(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The weight multiplies both terms, and so changes nothing between them. It belongs to the KL
    alone.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return kl_weight * (error.mean() + nats.mean())


@autoencoder_loss.misconception
def kl_without_its_half(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The KL is twice as much as it should be: its factor 1/2 is missing."""
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.mean() + 2 * kl_weight * nats.mean()


@autoencoder_loss.misconception
def kl_of_the_draw(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The KL contains the square of the draw z. It is a property of the distribution: take the
    square of its mean.
    """
    _, log_variance = encode(x)
    error, _, z = _terms(encode, decode, x, noise)
    return error.mean() + kl_weight * _nats(z, log_variance).mean()


@autoencoder_loss.misconception
def draw_detached(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The value is right, but the draw is detached: the reconstruction's gradient does not reach
    the encoder, which then learns from the KL alone.
    """
    mean, log_variance = encode(x)
    z = (mean + (log_variance / 2).exp() * noise).detach()
    error = (decode(z) - x).square().mean()
    return error + kl_weight * _nats(mean, log_variance).mean()


@autoencoder_loss.misconception
def sigma_detached(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The value is right, but sigma is detached: nothing but the KL moves it, so it goes to 1
    however much the decoder suffers.
    """
    mean, log_variance = encode(x)
    z = mean + (log_variance / 2).exp().detach() * noise
    error = (decode(z) - x).square().mean()
    return error + kl_weight * _nats(mean, log_variance).mean()


@autoencoder_loss.misconception
def mean_detached(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The value is right, but the mean in the draw is detached: the reconstruction cannot tell the
    encoder where to put its points.
    """
    mean, log_variance = encode(x)
    z = mean.detach() + (log_variance / 2).exp() * noise
    error = (decode(z) - x).square().mean()
    return error + kl_weight * _nats(mean, log_variance).mean()


@autoencoder_loss.misconception
def error_detached(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The value is right, but the error is cut off from the networks (.item(), .detach() or
    torch.no_grad()): nothing but the KL can be differentiated.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.mean().detach() + kl_weight * nats.mean()


@autoencoder_loss.misconception
def kl_detached(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The value is right, but the KL is cut off from the encoder (.item(), .detach() or
    torch.no_grad()): it is in the loss and changes nothing.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return error.mean() + kl_weight * nats.mean().detach()


@autoencoder_loss.misconception
def no_gradient(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The value is right, but nothing can be differentiated through it: it is a Python float, or
    cut off from both networks by .item(), .detach() or torch.no_grad().
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    return (error.mean() + kl_weight * nats.mean()).detach()


@autoencoder_loss.misconception
def calls_backward(
    encode: Encode, decode: Decode, x: Tensor, kl_weight: float, noise: Tensor
) -> Tensor:
    """The loss is right, but .backward() is called inside. Only return the loss; whoever trains
    calls it.
    """
    error, nats, _ = _terms(encode, decode, x, noise)
    loss = error.mean() + kl_weight * nats.mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


# --- 4: the scale factor --------------------------------------------------------------------------


def _training_latents(draw: Draw) -> Inputs:
    shape = (draw.integer(400, 500), draw.integer(3, 6), draw.integer(3, 6), draw.integer(3, 6))
    stretch = draw.uniform(0.5, 1.5, 1, shape[1], 1, 1) * draw.uniform(0.25, 0.4, 1)
    shift = draw.uniform(1.5, 3.0, 1, shape[1], 1, 1) * draw.choice((-1, 1))
    dtype = draw.dtype()
    return {"latents": (stretch * (draw.normal(*shape) + shift)).to(dtype)}


@task(
    points=2,
    inputs=_training_latents,
    roundings=2048.0,  # divided by N or N - 1: both are right
    package=[latent.scale_factor_of],
)
def scale_factor(latents: Tensor) -> Tensor:
    """What to multiply latents with so that their standard deviation is 1, a scalar."""
    return 1 / latents.std()


@scale_factor.misconception
def the_standard_deviation(latents: Tensor) -> Tensor:
    """This is the standard deviation itself: multiplied with it, latents that are too wide become
    wider. Take one over it.
    """
    return latents.std()


@scale_factor.misconception
def one_over_the_variance(latents: Tensor) -> Tensor:
    """This is one over the variance. A factor on the latents changes their variance by its square,
    so take the root.
    """
    return 1 / latents.var()


@scale_factor.misconception
def a_factor_for_each_channel(latents: Tensor) -> Tensor:
    """This is a factor for each channel. In this task there is one for all, so that channels keep
    their proportions.
    """
    return 1 / latents.std(dim=(0, 2, 3))


@scale_factor.misconception
def a_factor_for_each_item(latents: Tensor) -> Tensor:
    """This is a factor for each picture; the decoder could not know it. One for all, from the whole
    training set.
    """
    return 1 / latents.flatten(1).std(dim=1)


@scale_factor.misconception
def mean_of_the_channels_deviations(latents: Tensor) -> Tensor:
    """The standard deviation of each channel is taken, and then their mean. Take that of all
    numbers together: the channels' different means count, too.
    """
    return 1 / latents.std(dim=(0, 2, 3)).mean()


@scale_factor.misconception
def root_mean_square(latents: Tensor) -> Tensor:
    """This is one over the root mean square, in which the mean counts. A standard deviation is
    taken around the mean.
    """
    return 1 / latents.square().mean().sqrt()


@scale_factor.misconception
def largest_becomes_one(latents: Tensor) -> Tensor:
    """This maps the largest number to 1. Latents need no range, but a standard deviation of 1."""
    return 1 / latents.abs().max()


@scale_factor.misconception
def mean_absolute_value(latents: Tensor) -> Tensor:
    """This is one over the mean absolute value, which is another measure of size than the standard
    deviation.
    """
    return 1 / latents.abs().mean()


@scale_factor.misconception
def first_item_alone(latents: Tensor) -> Tensor:
    """Only the first picture is looked at. The factor is that of the whole set."""
    return 1 / latents[0].std()


@scale_factor.misconception
def root_of_the_deviation(latents: Tensor) -> Tensor:
    """A root too many: std is the root of the variance already."""
    return 1 / latents.std().sqrt()


@scale_factor.misconception
def latents_scaled(latents: Tensor) -> Tensor:
    """These are the scaled latents. What is asked for is the factor, one number."""
    return latents / latents.std()


@scale_factor.misconception
def mean_of_the_channels_factors(latents: Tensor) -> Tensor:
    """Each channel gets a factor, and these are averaged. Take one standard deviation of all
    numbers together: the channels' different means count, too.
    """
    return (1 / latents.std(dim=(0, 2, 3))).mean()


@scale_factor.misconception
def mean_of_the_channels_variances(latents: Tensor) -> Tensor:
    """The channels' variances are averaged. That leaves out how far the channels' means lie apart:
    take the standard deviation of all numbers together.
    """
    return 1 / latents.var(dim=(0, 2, 3)).mean().sqrt()


# --- 5: draw latents, decode them -----------------------------------------------------------------


class _Model(nn.Module):
    """A small model that keeps the contract; it answers for v."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(n_channels + 2, n_channels, 1)

    def forward(self, z_t: Tensor, t: Tensor, context: Any = None) -> Tensor:
        """Predict, (B, C, h, w) and (B,) -> (B, C, h, w)."""
        if t.shape != z_t.shape[:1] or t.dtype != torch.int64:
            raise ValueError(
                f"t must be int64 of shape ({len(z_t)},), one for each item, "
                f"got {t.dtype} of shape {tuple(t.shape)}"
            )
        angle = (t.to(z_t) / 7).view(-1, 1, 1, 1).expand(-1, 1, *z_t.shape[2:])
        v: Tensor = self.mix(torch.cat([z_t, angle.cos(), angle.sin()], dim=1))
        return v


def _latent_model(draw: Draw) -> Inputs:
    n_latent, n_channels = draw.integer(3, 6), draw.integer(1, 3)
    shape = (draw.integer(2, 5), n_latent, draw.integer(2, 5), draw.integer(5, 7))
    n_steps = draw.integer(3, 6)
    first = draw.integer(3, 9)
    timesteps = torch.arange(n_steps) * draw.integer(9, 15) + first
    a_bar = draw.uniform(0.9, 0.97, int(timesteps[-1]) + 4).cumprod(0)  # (T,)
    return {
        "model": draw.module(lambda: _Model(n_latent)),
        "decode": draw.module(lambda: _Decoder(n_channels, n_latent)),
        "z_T": draw.normal(*shape, dtype=torch.float32) * 1.5,
        "timesteps": timesteps,
        "a_bar": a_bar,
        "scale_factor": float(draw.uniform(0.3, 0.6, 1)),
    }


def _walk(
    model: Model,
    z_T: Tensor,
    timesteps: Tensor,
    a_bar: Tensor,
    clip: Callable[[Tensor], Tensor] = lambda x: x,
    derive: bool = True,
    n_last: int = 0,
) -> Tensor:
    """DDIM from z_T to the latents, with the turns that the misconceptions take."""
    z = z_T
    for i in reversed(range(n_last, len(timesteps))):
        now = a_bar[timesteps[i]].to(z)
        before = a_bar[timesteps[i - 1]].to(z) if i > 0 else torch.ones_like(now)
        v = model(z, timesteps[i].expand(len(z)))
        z_0 = clip(now.sqrt() * z - (1 - now).sqrt() * v)
        plain = (1 - now).sqrt() * z + now.sqrt() * v
        eps = (z - now.sqrt() * z_0) / (1 - now).sqrt() if derive else plain
        z = before.sqrt() * z_0 + (1 - before).sqrt() * eps
    return z


def _put(z: Tensor, v: Tensor, now: Tensor, after: Tensor) -> Tensor:
    """One step of DDIM with eta = 0, from a_bar = now to a_bar = after."""
    z_0 = now.sqrt() * z - (1 - now).sqrt() * v
    eps = (1 - now).sqrt() * z + now.sqrt() * v
    return after.sqrt() * z_0 + (1 - after).sqrt() * eps


def _walk_along(
    model: Model,
    z_T: Tensor,
    visited: Tensor,
    a_bar: Tensor,
    ends: Tensor | None = None,
    put: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _put,
    told: Tensor | None = None,
) -> Tensor:
    """DDIM in the order of `visited`, to the a_bars of `ends`, the model being told `told`."""
    if ends is None:
        ends = torch.cat([a_bar[visited[1:]], a_bar.new_ones(1)])
    z = z_T
    for t, end, number in zip(visited, ends, visited if told is None else told, strict=True):
        z = put(z, model(z, number.expand(len(z))), a_bar[t].to(z), end.to(z))
    return z


@task(
    points=4,
    inputs=_latent_model,
    roundings=4096.0,
    package=[
        ddim.sample_ddim,
        ddim.ddim_steps,
        ddim.ddim_step,
        ddpm.Denoiser,
        latent.Autoencoder,
    ],
    n_cases=3,
)
def draw_images(
    model: Model,
    decode: Decode,
    z_T: Tensor,
    timesteps: Tensor,
    a_bar: Tensor,
    scale_factor: float,
) -> Tensor:
    """DDIM with eta = 0 through scaled latents, with a model of v; then decoded images."""
    z = z_T
    for i in reversed(range(len(timesteps))):
        now = a_bar[timesteps[i]].to(z)
        before = a_bar[timesteps[i - 1]].to(z) if i > 0 else torch.ones_like(now)
        v = model(z, timesteps[i].expand(len(z)))
        z_0 = now.sqrt() * z - (1 - now).sqrt() * v
        eps = (1 - now).sqrt() * z + now.sqrt() * v
        z = before.sqrt() * z_0 + (1 - before).sqrt() * eps
    return decode(z / scale_factor)


@draw_images.misconception
def never_divided(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The drawn latents are decoded as they are. The model learned scaled ones: divide by the scale
    factor before decoding.
    """
    return decode(_walk(model, z_T, timesteps, a_bar))


@draw_images.misconception
def multiplied(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The drawn latents are multiplied by the scale factor. That is done after encoding; before
    decoding it is undone: divide.
    """
    return decode(_walk(model, z_T, timesteps, a_bar) * scale_factor)


@draw_images.misconception
def divided_at_the_start(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The noise at the start is divided, too. It is standard normal as it is, and so is what the
    model was trained on: divide only at the end.
    """
    return decode(_walk(model, z_T / scale_factor, timesteps, a_bar) / scale_factor)


@draw_images.misconception
def scaled_at_the_start(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The noise at the start is multiplied by the scale factor. Only encoded pictures are; noise is
    standard normal as it is.
    """
    return decode(_walk(model, z_T * scale_factor, timesteps, a_bar) / scale_factor)


@draw_images.misconception
def picture_divided(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The decoded picture is divided by the scale factor. It belongs to the latents: divide before
    decoding.
    """
    return decode(_walk(model, z_T, timesteps, a_bar)) / scale_factor


@draw_images.misconception
def clipped(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The predicted latents are clipped to [-1, 1], as pixels would be. Latents have no such
    range: leave them as they are.
    """
    z = _walk(model, z_T, timesteps, a_bar, lambda z_0: z_0.clamp(-1, 1))
    return decode(z / scale_factor)


@draw_images.misconception
def clipped_and_eps_kept(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The predicted latents are clipped to [-1, 1], and the noise that went with them before is
    kept. Latents have no such range: leave them as they are.
    """
    z = _walk(model, z_T, timesteps, a_bar, lambda z_0: z_0.clamp(-1, 1), derive=False)
    return decode(z / scale_factor)


@draw_images.misconception
def latents_returned(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """These are the latents. Divide them by the scale factor and decode them."""
    return _walk(model, z_T, timesteps, a_bar)


@draw_images.misconception
def latents_returned_unscaled(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """These are the latents, divided by the scale factor already. Decode them."""
    return _walk(model, z_T, timesteps, a_bar) / scale_factor


@draw_images.misconception
def last_step_left_out(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The walk ends at the smallest timestep, where a little noise is left. One more step leads to
    the latents themselves, where a_bar is 1.
    """
    return decode(_walk(model, z_T, timesteps, a_bar, n_last=1) / scale_factor)


@draw_images.misconception
def answer_taken_for_eps(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The model's answer is taken for the noise. It is v: z_0 = sqrt(a_bar) z_t - sqrt(1 - a_bar)
    v.
    """

    def as_v(z: Tensor, t: Tensor) -> Tensor:
        now, eps = a_bar[t[0]].to(z), model(z, t)
        return (eps - (1 - now).sqrt() * z) / now.sqrt()

    return decode(_walk(as_v, z_T, timesteps, a_bar) / scale_factor)


@draw_images.misconception
def answer_taken_for_the_data(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The model's answer is taken for the clean latents. It is v: z_0 = sqrt(a_bar) z_t -
    sqrt(1 - a_bar) v.
    """

    def as_v(z: Tensor, t: Tensor) -> Tensor:
        now, z_0 = a_bar[t[0]].to(z), model(z, t)
        return (now.sqrt() * z - z_0) / (1 - now).sqrt()

    return decode(_walk(as_v, z_T, timesteps, a_bar) / scale_factor)


@draw_images.misconception
def sign_of_v(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """A sign: v is added where it is to be taken off and the other way round. v = sqrt(a_bar) eps -
    sqrt(1 - a_bar) z_0, so z_0 = sqrt(a_bar) z_t - sqrt(1 - a_bar) v.
    """
    return decode(_walk(lambda z, t: -model(z, t), z_T, timesteps, a_bar) / scale_factor)


@draw_images.misconception
def upwards(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The timesteps are walked as they stand, from clean to noisy. Sampling starts at the largest:
    reverse them.
    """
    z = z_T
    for i in range(len(timesteps)):
        now = a_bar[timesteps[i]].to(z)
        before = a_bar[timesteps[i - 1]].to(z) if i > 0 else torch.ones_like(now)
        v = model(z, timesteps[i].expand(len(z)))
        z_0 = now.sqrt() * z - (1 - now).sqrt() * v
        eps = (1 - now).sqrt() * z + now.sqrt() * v
        z = before.sqrt() * z_0 + (1 - before).sqrt() * eps
    return decode(z / scale_factor)


@draw_images.misconception
def one_step_only(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """This is what the model sees in pure noise, in one step. Walk through all timesteps."""
    return decode(_walk(model, z_T, timesteps[-1:], a_bar) / scale_factor)


@draw_images.misconception
def previous_number_for_previous_step(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """Each step leads to t - 1, but the next one starts elsewhere. It has to lead to the next
    smaller of the timesteps that are visited.
    """
    z = z_T
    for i in reversed(range(len(timesteps))):
        now = a_bar[timesteps[i]].to(z)
        before = a_bar[timesteps[i] - 1].to(z) if i > 0 else torch.ones_like(now)
        v = model(z, timesteps[i].expand(len(z)))
        z_0 = now.sqrt() * z - (1 - now).sqrt() * v
        eps = (1 - now).sqrt() * z + now.sqrt() * v
        z = before.sqrt() * z_0 + (1 - before).sqrt() * eps
    return decode(z / scale_factor)


@draw_images.misconception
def roots_forgotten(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """a_bar and 1 - a_bar enter without their roots. Variances they are; the factors are
    sqrt(a_bar) and sqrt(1 - a_bar).
    """
    z = z_T
    for i in reversed(range(len(timesteps))):
        now = a_bar[timesteps[i]].to(z)
        before = a_bar[timesteps[i - 1]].to(z) if i > 0 else torch.ones_like(now)
        v = model(z, timesteps[i].expand(len(z)))
        z_0, eps = now * z - (1 - now) * v, (1 - now) * z + now * v
        z = before * z_0 + (1 - before) * eps
    return decode(z / scale_factor)


@draw_images.misconception
def upwards_to_the_next(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The timesteps are walked as they stand, from clean to noisy: each step leads to a noisier
    one. Sampling starts at the largest: flip them.
    """
    return decode(_walk_along(model, z_T, timesteps, a_bar) / scale_factor)


@draw_images.misconception
def previous_number_to_the_end(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """Each step leads to t - 1, but the next one starts elsewhere. It has to lead to the next
    smaller of the timesteps that are visited, and the last to a_bar = 1.
    """
    visited = timesteps.flip(0)
    z = _walk_along(model, z_T, visited, a_bar, a_bar[visited - 1])
    return decode(z / scale_factor)


@draw_images.misconception
def ends_at_the_first_a_bar(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The last step leads to a_bar[0], which still holds a little noise. The latents themselves
    have a_bar = 1, which is not in the table.
    """
    visited = timesteps.flip(0)
    ends = torch.cat([a_bar[visited[1:]], a_bar[:1]])
    return decode(_walk_along(model, z_T, visited, a_bar, ends) / scale_factor)


@draw_images.misconception
def told_the_number_of_the_step(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The model is told how many steps have been made. It wants the timestep t itself,
    timesteps[i], not i.
    """
    told, visited = torch.arange(len(timesteps)), timesteps.flip(0)
    return decode(_walk_along(model, z_T, visited, a_bar, told=told) / scale_factor)


@draw_images.misconception
def told_the_index(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """The model is told the index of the timestep in the list. It wants the timestep t itself,
    timesteps[i], not i.
    """
    told, visited = torch.arange(len(timesteps)).flip(0), timesteps.flip(0)
    return decode(_walk_along(model, z_T, visited, a_bar, told=told) / scale_factor)


@draw_images.misconception
def roots_forgotten_at_the_end(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """z_0 and eps are put together without the roots of a_bar and 1 - a_bar. Those are variances;
    the factors are their roots.
    """

    def put(z: Tensor, v: Tensor, now: Tensor, after: Tensor) -> Tensor:
        z_0 = now.sqrt() * z - (1 - now).sqrt() * v
        return after * z_0 + (1 - after) * ((1 - now).sqrt() * z + now.sqrt() * v)

    return decode(_walk_along(model, z_T, timesteps.flip(0), a_bar, put=put) / scale_factor)


@draw_images.misconception
def sign_in_eps(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """A sign in eps: v is taken off. eps = sqrt(1 - a_bar) z_t + sqrt(a_bar) v; the minus is that
    of z_0.
    """

    def put(z: Tensor, v: Tensor, now: Tensor, after: Tensor) -> Tensor:
        z_0 = now.sqrt() * z - (1 - now).sqrt() * v
        eps = (1 - now).sqrt() * z - now.sqrt() * v
        return after.sqrt() * z_0 + (1 - after).sqrt() * eps

    return decode(_walk_along(model, z_T, timesteps.flip(0), a_bar, put=put) / scale_factor)


@draw_images.misconception
def eps_of_the_new_z(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """eps is computed from a z that has been overwritten already. Both z_0 and eps come from the
    same z_t: compute both first.
    """

    def put(z: Tensor, v: Tensor, now: Tensor, after: Tensor) -> Tensor:
        z = after.sqrt() * (now.sqrt() * z - (1 - now).sqrt() * v)
        return z + (1 - after).sqrt() * ((1 - now).sqrt() * z + now.sqrt() * v)

    return decode(_walk_along(model, z_T, timesteps.flip(0), a_bar, put=put) / scale_factor)


@draw_images.misconception
def divided_in_every_step(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """z_0 is divided by the scale factor in every step. The walk stays among scaled latents: divide
    once, before decoding.
    """

    def put(z: Tensor, v: Tensor, now: Tensor, after: Tensor) -> Tensor:
        z_0 = (now.sqrt() * z - (1 - now).sqrt() * v) / scale_factor
        eps = (1 - now).sqrt() * z + now.sqrt() * v
        return after.sqrt() * z_0 + (1 - after).sqrt() * eps

    return decode(_walk_along(model, z_T, timesteps.flip(0), a_bar, put=put) / scale_factor)


@draw_images.misconception
def answer_taken_for_eps_in_z_0_alone(
    model: Model, decode: Decode, z_T: Tensor, timesteps: Tensor, a_bar: Tensor,
    scale_factor: float,
) -> Tensor:  # fmt: skip
    """z_0 is computed as from a model of the noise, (z - sqrt(1 - a_bar) v) / sqrt(a_bar). The
    model answers with v: z_0 = sqrt(a_bar) z_t - sqrt(1 - a_bar) v.
    """

    def put(z: Tensor, v: Tensor, now: Tensor, after: Tensor) -> Tensor:
        z_0 = (z - (1 - now).sqrt() * v) / now.sqrt()
        eps = (1 - now).sqrt() * z + now.sqrt() * v
        return after.sqrt() * z_0 + (1 - after).sqrt() * eps

    return decode(_walk_along(model, z_T, timesteps.flip(0), a_bar, put=put) / scale_factor)

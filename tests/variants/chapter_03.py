"""Right answers to the tasks of chapter 03 in other styles than the reference's."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from minidiff.forward import extract, forward_diffusion
from minidiff.training import train_step, training_target

# --- draw_timesteps ------------------------------------------------------------------------------


def scaled_and_rounded_down(n_items, n_steps, generator):
    return (torch.rand(n_items, generator=generator, dtype=torch.float64) * n_steps).long()


def filled_in_place(n_items, n_steps, generator):
    return torch.empty(n_items, dtype=torch.int64).random_(0, n_steps, generator=generator)


def by_multinomial(n_items, n_steps, generator):
    return torch.multinomial(torch.ones(n_steps), n_items, replacement=True, generator=generator)


def one_by_one(n_items, n_steps, generator):
    return torch.cat([torch.randint(n_steps, (1,), generator=generator) for _ in range(n_items)])


# --- v_target ------------------------------------------------------------------------------------


def v_looped(x_0, noise, t, schedule):
    out = torch.zeros_like(x_0)
    for i in range(len(x_0)):
        a_bar = torch.prod(1 - schedule.betas[: t[i] + 1]).item()
        out[i] = a_bar**0.5 * noise[i] - (1 - a_bar) ** 0.5 * x_0[i]
    return out


def v_by_einsum(x_0, noise, t, schedule):
    a_bar = schedule.alphas_cumprod[t]
    signal, spread = a_bar.sqrt().to(x_0), (1 - a_bar).sqrt().to(x_0)
    return torch.einsum("b,b...->b...", signal, noise) - torch.einsum("b,b...->b...", spread, x_0)


def v_in_double(x_0, noise, t, schedule):
    a_bar = schedule.alphas_cumprod[t].reshape(-1, *[1] * (x_0.ndim - 1))
    return a_bar.sqrt() * noise.double() - (1 - a_bar).sqrt() * x_0.double()


def v_by_rotation(x_0, noise, t, schedule):
    angle = extract(torch.atan2((1 - schedule.alphas_cumprod).sqrt(),
                                schedule.alphas_cumprod.sqrt()), t, like=x_0)  # fmt: skip
    return angle.cos() * noise - angle.sin() * x_0


def v_through_numpy(x_0, noise, t, schedule):
    a_bar = np.cumprod(1 - schedule.betas.numpy())[t.numpy()]
    a_bar = a_bar.reshape(-1, *[1] * (x_0.ndim - 1))
    return torch.from_numpy(np.sqrt(a_bar) * noise.numpy() - np.sqrt(1 - a_bar) * x_0.numpy())


def v_from_x_t(x_0, noise, t, schedule):
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    a_bar = extract(schedule.alphas_cumprod, t, like=x_0)
    return (a_bar.sqrt() * x_t - x_0) / (1 - a_bar).sqrt()


# --- simple_loss ---------------------------------------------------------------------------------


def loss_item_by_item(model, x_0, t, noise, schedule):
    losses = []
    for i in range(len(x_0)):
        a_bar = torch.prod(1 - schedule.betas[: t[i] + 1]).to(x_0)
        x_t = a_bar.sqrt() * x_0[i] + (1 - a_bar).sqrt() * noise[i]
        losses.append((noise[i] - model(x_t[None], t[i : i + 1])[0]).square().mean())
    return torch.stack(losses).mean()


def loss_with_context_and_squares(model, x_0, t, noise, schedule):
    x_t = forward_diffusion(x_0, t, schedule, noise)[0]
    return ((noise - model(x_t, t, None)) ** 2).mean()


def loss_divided_by_hand(model, x_0, t, noise, schedule):
    x_t, noise = forward_diffusion(x_0, t, schedule, noise=noise)
    error = (model(x_t, t) - noise).flatten()
    return error @ error / x_0.numel()


def loss_in_double(model, x_0, t, noise, schedule):
    x_t, _ = forward_diffusion(x_0.double(), t, schedule, noise.double())
    return nn.MSELoss()(model(x_t, t), noise.double())


# --- update_average ------------------------------------------------------------------------------


def average_by_lerp(average, model, decay, n_updates):
    weight = 1 - min(decay, (1 + n_updates) / (10 + n_updates))
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.data.lerp_(parameter.data, weight)
    for copied, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copied.copy_(buffer)


@torch.no_grad()
def average_by_name(average, model, decay, n_updates):
    decay = min(decay, (1 + n_updates) / (10 + n_updates))
    weights = dict(model.named_parameters())
    for name, mean in average.named_parameters():
        mean.mul_(decay).add_(weights[name], alpha=1 - decay)
    buffers = dict(model.named_buffers())
    for name, copied in average.named_buffers():
        copied.data = buffers[name].clone()
    return average


def average_through_state_dict(average, model, decay, n_updates):
    decay = min(decay, (1 + n_updates) / (10 + n_updates))
    new = {name: value.clone() for name, value in model.state_dict().items()}
    for name, parameter in average.named_parameters():
        new[name] = decay * parameter + (1 - decay) * new[name]
    average.load_state_dict(new)


def average_by_difference(average, model, decay, n_updates):
    ramp = (1 + n_updates) / (10 + n_updates)
    keep = decay if decay < ramp else ramp
    with torch.no_grad():
        for a, p in zip(average.parameters(), model.parameters(), strict=True):
            a -= (1 - keep) * (a - p)
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a[...] = b


# --- training_step -------------------------------------------------------------------------------


def cleared_at_the_end(model, ema, optimizer, loss):
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    optimizer.zero_grad()
    ema.update(model)
    return float(loss.detach())


def clipped_by_hand(model, ema, optimizer, loss):
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    norm = sum((p.grad**2).sum() for p in model.parameters()) ** 0.5
    if norm > 1:
        for parameter in model.parameters():
            parameter.grad /= norm
    optimizer.step()
    ema.update(model)
    return loss.detach()


def gradients_by_autograd(model, ema, optimizer, loss):
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    total = torch.cat([g.flatten() for g in gradients]).norm()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient * (1 / total).clamp(max=1)
    optimizer.step()
    ema.update(model)
    return loss.item()


def zeros_kept(model, ema, optimizer, loss):
    value = loss.item()
    model.zero_grad(set_to_none=False)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1)
    optimizer.step()
    ema.update(model)
    return value


# --- loss_by_timestep ----------------------------------------------------------------------------


def bins_by_train_step(model, x_0, t, noise, schedule, n_bins):
    means, width = [], schedule.n_steps // n_bins
    with torch.no_grad():
        for i in range(n_bins):
            here = (i * width <= t) & (t < (i + 1) * width)
            loss = train_step(model, x_0[here], t[here], schedule, noise=noise[here],
                              prediction_type="v")  # fmt: skip
            means.append(loss.item())
    return means


@torch.no_grad()
def bins_item_by_item(model, x_0, t, noise, schedule, n_bins):
    sums, counts = [0.0] * n_bins, [0] * n_bins
    for i in range(len(x_0)):
        step = t[i : i + 1]
        x_t, eps = forward_diffusion(x_0[i : i + 1], step, schedule, noise[i : i + 1])
        v = training_target(x_0[i : i + 1], eps, step, schedule, "v")
        index = int(step / schedule.n_steps * n_bins)
        sums[index] += F.mse_loss(model(x_t, step), v).item()
        counts[index] += 1
    return torch.tensor([total / count for total, count in zip(sums, counts, strict=True)])


def bins_by_one_hot(model, x_0, t, noise, schedule, n_bins):
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    v = training_target(x_0, noise, t, schedule, "v")
    losses = (model(x_t, t) - v).detach().square().flatten(1).mean(1)
    inside = F.one_hot(torch.div(t, schedule.n_steps // n_bins, rounding_mode="floor"), n_bins)
    return inside.T.to(losses) @ losses / inside.sum(0)


def bins_through_numpy(model, x_0, t, noise, schedule, n_bins):
    x_t, _ = forward_diffusion(x_0, t, schedule, noise)
    v = training_target(x_0, noise, t, schedule, "v")
    losses = (model(x_t, t) - v).detach().numpy().reshape(len(t), -1)
    edges = np.arange(n_bins + 1) * schedule.n_steps / n_bins
    weights = (losses**2).mean(1)
    return np.histogram(t, edges, weights=weights)[0] / np.histogram(t, edges)[0]


def bins_by_bucketize(model, x_0, t, noise, schedule, n_bins):
    with torch.no_grad():
        x_t, _ = forward_diffusion(x_0, t, schedule, noise)
        error = model(x_t, t) - training_target(x_0, noise, t, schedule, "v")
    losses = (error**2).mean(dim=tuple(range(1, error.ndim)))
    edges = torch.arange(1, n_bins) * (schedule.n_steps // n_bins)
    index = torch.bucketize(t, edges, right=True)
    return [losses[index == i].mean() for i in range(n_bins)]


@torch.no_grad()
def bins_from_x_t(model, x_0, t, noise, schedule, n_bins):
    a_bar = schedule.alphas_cumprod[t].to(x_0).view(-1, *[1] * (x_0.ndim - 1))
    x_t = a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise
    v = (a_bar.sqrt() * x_t - x_0) / (1 - a_bar).sqrt()
    losses = F.mse_loss(model(x_t, t), v, reduction="none").flatten(1).mean(1)
    index = t.div(schedule.n_steps // n_bins, rounding_mode="floor")
    return [losses[index == i].mean().item() for i in range(n_bins)]


VARIANTS = {
    "draw_timesteps": [scaled_and_rounded_down, filled_in_place, by_multinomial, one_by_one],
    "v_target": [
        v_looped,
        v_by_einsum,
        v_in_double,
        v_by_rotation,
        v_through_numpy,
        v_from_x_t,
    ],
    "simple_loss": [
        loss_item_by_item,
        loss_with_context_and_squares,
        loss_divided_by_hand,
        loss_in_double,
    ],
    "update_average": [
        average_by_lerp,
        average_by_name,
        average_through_state_dict,
        average_by_difference,
    ],
    "training_step": [cleared_at_the_end, clipped_by_hand, gradients_by_autograd, zeros_kept],
    "loss_by_timestep": [
        bins_by_train_step,
        bins_item_by_item,
        bins_by_one_hot,
        bins_through_numpy,
        bins_by_bucketize,
        bins_from_x_t,
    ],
}

"""Right answers to chapter 02's tasks in styles of their own; every check must accept them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.unet import ResBlock

Model = Callable[[Tensor], Tensor]

# --- timestep_embedding --------------------------------------------------------------------------


def hand_by_hand(t: Tensor, dim: int) -> Tensor:
    half = dim // 2
    embedding = torch.zeros(len(t), dim)
    for b in range(len(t)):
        for i in range(half):
            angle = float(t[b]) * 10_000 ** (-i / half)
            embedding[b, i], embedding[b, half + i] = math.cos(angle), math.sin(angle)
    return embedding


def powers_in_double(t: Tensor, dim: int) -> Tensor:
    speeds = 10_000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.outer(t.double(), speeds)
    return torch.hstack([torch.cos(angles), torch.sin(angles)])


def on_the_circle(t: Tensor, dim: int) -> Tensor:
    """Cosine and sine as the two parts of a complex number."""
    speeds = torch.logspace(0, -4 + 8 / dim, dim // 2, dtype=torch.float64)
    hands = torch.exp(1j * t[:, None] * speeds)
    return torch.cat([hands.real, hands.imag], dim=1)


def clock_in_numpy(t: Tensor, dim: int) -> Any:
    angles = t.numpy()[:, None] / 10_000 ** (np.arange(dim // 2) / (dim // 2))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def shifted_cosine(t: Tensor, dim: int) -> Tensor:
    """One cosine for both halves: sin x = cos(x - pi / 2). Filled in place."""
    half = dim // 2
    out = torch.empty(t.shape[0], dim, dtype=torch.float64)
    out[:, :half] = t[:, None] * torch.exp(-torch.arange(half) * (math.log(10_000) / half))
    out[:, half:] = out[:, :half] - math.pi / 2
    return out.cos_()


# --- residual_block ------------------------------------------------------------------------------


def with_functions_only(block: ResBlock, x: Tensor, time: Tensor) -> Tensor:
    groups = block.norm_1.num_groups, block.norm_2.num_groups
    h = F.group_norm(x, groups[0], block.norm_1.weight, block.norm_1.bias, block.norm_1.eps)
    h = F.conv2d(h * h.sigmoid(), block.conv_1.weight, block.conv_1.bias, padding=1)
    both = F.linear(time * time.sigmoid(), block.time.weight, block.time.bias)
    n_out = h.shape[1]
    scale, shift = both[:, :n_out, None, None], both[:, n_out:, None, None]
    h = F.group_norm(h, groups[1], block.norm_2.weight, block.norm_2.bias, block.norm_2.eps)
    h = h + h * scale + shift
    return block.skip(x) + F.conv2d(h * h.sigmoid(), block.conv_2.weight, block.conv_2.bias, 1, 1)


def item_by_item(block: ResBlock, x: Tensor, time: Tensor) -> Tensor:
    items = []
    for image, clock in zip(x, time, strict=True):
        h = block.conv_1(F.silu(block.norm_1(image[None])))
        scale, shift = block.time(F.silu(clock)).view(2, -1, 1, 1)
        h = block.conv_2(F.silu(torch.addcmul(shift, block.norm_2(h), 1 + scale)))
        items.append(h + block.skip(image[None]))
    return torch.cat(items)


def block_in_double(block: ResBlock, x: Tensor, time: Tensor) -> Tensor:
    block, x, time = copy.deepcopy(block).double(), x.double(), time.double()
    h = block.conv_1(nn.SiLU()(block.norm_1(x)))
    scale, shift = block.time(nn.SiLU()(time)).unflatten(1, (2, -1, 1, 1)).unbind(1)
    return block.skip(x) + block.conv_2(nn.SiLU()(block.norm_2(h) * (scale + 1) + shift))


def skip_only_where_needed(block: ResBlock, x: Tensor, time: Tensor) -> Tensor:
    silu = nn.SiLU(inplace=True)
    h = block.conv_1(silu(block.norm_1(x)))
    scale, shift = torch.tensor_split(block.time(F.silu(time)), 2, dim=1)
    h = block.norm_2(h) * (1 + scale[..., None, None])
    h += shift[..., None, None]
    h = block.conv_2(silu(h))
    return h + (x if x.shape[1] == h.shape[1] else block.skip(x))


# --- attention -----------------------------------------------------------------------------------


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bhid, bhjd -> bhij", q, k).div(q.size(-1) ** 0.5).softmax(-1)
    return torch.einsum("bhij, bhjd -> bhid", weights, v)


def query_by_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for head in range(q.shape[1]):
            for i in range(q.shape[2]):
                scores = k[b, head] @ q[b, head, i] / math.sqrt(q.shape[3])  # (N,)
                weights = (scores - scores.max()).exp()
                weights = weights / weights.sum()
                out[b, head, i] = weights @ v[b, head]
    return out


def queries_scaled_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n_items, n_heads, _, d = q.shape
    q, k, v = (x.flatten(0, 1).double() for x in (q / math.sqrt(d), k, v))
    scores = torch.bmm(q, k.mT)
    scores = scores - scores.amax(-1, keepdim=True)
    weights = scores.exp_()
    weights /= weights.sum(-1, keepdim=True)
    return torch.bmm(weights, v).unflatten(0, (n_items, n_heads))


def attention_in_numpy(q: Tensor, k: Tensor, v: Tensor) -> Any:
    q, k, v = q.numpy(), k.numpy(), v.numpy()
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.matmul(weights / weights.sum(axis=-1, keepdims=True), v)


# --- up_step -------------------------------------------------------------------------------------


def skip_popped(h: Tensor, skips: list[Tensor]) -> Tensor:
    skip = skips.pop()
    return torch.cat((nn.Upsample(size=skip.shape[2:])(h), skip), 1)


def last_skip_deleted(h: Tensor, skips: list[Tensor]) -> Tensor:
    grown = F.interpolate(h, skips[-1].shape[2:])
    out = torch.cat([grown, skips[-1]], dim=1)
    del skips[-1]
    return out


def by_index(h: Tensor, skips: list[Tensor]) -> Tensor:
    rows, columns = skips[-1].shape[-2:]
    i = torch.arange(rows) * h.shape[2] // rows
    j = torch.arange(columns) * h.shape[3] // columns
    return torch.cat([h[:, :, i][..., j], skips[-1]], dim=1)


def doubled_where_smaller(h: Tensor, skips: list[Tensor]) -> Tensor:
    """Doubling and cutting the far end repeats the same pixels, from 4 to 7 too."""
    rows, columns = skips[-1].shape[-2:]
    if h.shape[-2:] != (rows, columns):
        h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[..., :rows, :columns]
    return torch.concat([h, skips[-1]], dim=1)


def pixel_by_pixel(h: Tensor, skips: list[Tensor]) -> Tensor:
    skip = skips[-1]
    rows, columns = skip.shape[-2:]
    out = skip.new_zeros(len(h), h.shape[1] + skip.shape[1], rows, columns)
    out[:, h.shape[1] :] = skip
    for i in range(rows):
        for j in range(columns):
            out[:, : h.shape[1], i, j] = h[:, :, i * h.shape[2] // rows, j * h.shape[3] // columns]
    return out


def grown_in_numpy(h: Tensor, skips: list[Tensor]) -> Any:
    rows, columns = skips[-1].shape[-2:]
    row, column = (torch.arange(n).numpy() for n in (rows, columns))
    grown = h.numpy()[:, :, row[:, None] * h.shape[2] // rows, column * h.shape[3] // columns]
    return np.concatenate([grown, skips[-1].numpy()], axis=1)


# --- influence -----------------------------------------------------------------------------------


def by_backward(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    x = x.detach().clone().requires_grad_(True)
    f(x)[0, 0, row, column].backward()
    return x.grad.abs().sum(dim=1)[0]


def beside_x(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """On a detached view, which shares its numbers with x and nothing else."""
    view = x.detach().requires_grad_()
    return torch.autograd.grad(f(view)[0, 0, row, column], view)[0].abs().sum((0, 1))


def x_put_back(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    (slopes,) = torch.autograd.grad(f(x.requires_grad_())[0, 0, row, column], x)
    x.requires_grad_(False)
    return slopes.abs().sum(1).squeeze(0)


def whole_jacobian(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    slopes = torch.autograd.functional.jacobian(f, x)  # (1, 1, H, W, 1, C, H, W)
    return slopes[0, 0, row, column, 0].abs().sum(0)


def tiny_pokes(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    """A step of a millionth to either side, pixel by pixel; nothing is differentiated."""
    out = torch.zeros(x.shape[2:], dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        for c in range(x.shape[1]):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    up, down = x.clone(), x.clone()
                    up[0, c, i, j] += step
                    down[0, c, i, j] -= step
                    change = f(up)[0, 0, row, column] - f(down)[0, 0, row, column]
                    out[i, j] += abs(float(change)) / (2 * step)
    return out


def all_pokes_at_once(f: Model, x: Tensor, row: int, column: int) -> Tensor:
    pokes = 1e-6 * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape[1:])  # (C H W, C, H, W)
    with torch.no_grad():
        change = (f(x + pokes) - f(x))[:, 0, row, column] / 1e-6  # (C H W,)
    return change.view(x.shape[1:]).abs().sum(0)


def functional_gradient(f: Model, x: Tensor, row: int, column: int) -> Any:
    slopes = torch.func.grad(lambda x: f(x)[0, 0, row, column])(x)
    return np.abs(slopes.detach().numpy()[0]).sum(axis=0)


VARIANTS = {
    "timestep_embedding": [
        hand_by_hand,
        powers_in_double,
        on_the_circle,
        clock_in_numpy,
        shifted_cosine,
    ],
    "residual_block": [
        with_functions_only,
        item_by_item,
        block_in_double,
        skip_only_where_needed,
    ],
    "attention": [by_einsum, query_by_query, queries_scaled_first, attention_in_numpy],
    "up_step": [
        skip_popped,
        last_skip_deleted,
        by_index,
        doubled_where_smaller,
        pixel_by_pixel,
        grown_in_numpy,
    ],
    "influence": [
        by_backward,
        beside_x,
        x_put_back,
        whole_jacobian,
        tiny_pokes,
        all_pokes_at_once,
        functional_gradient,
    ],
}

"""Right answers to the tasks of chapter 11 in other styles than the reference's."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

# --- merge ---------------------------------------------------------------------------------------


def with_arithmetic(mask, known, drawn):
    return mask * known + ~mask * drawn


def in_place_on_a_copy(mask, known, drawn):
    x = drawn.clone()
    x[mask] = known[mask]
    return x


def with_masked_scatter(mask, known, drawn):
    return drawn.masked_scatter(mask, known[mask])


def through_numpy(mask, known, drawn):
    return np.where(mask.numpy(), known.numpy(), drawn.numpy())


def value_by_value(mask, known, drawn):
    values = zip(mask.flatten(), known.flatten(), drawn.flatten(), strict=True)
    return torch.stack([k if m else d for m, k, d in values]).view(known.shape)


def opposite_mask(mask, known, drawn):
    return torch.where(torch.logical_not(mask), drawn, known)


# --- known_at ------------------------------------------------------------------------------------


def with_a_1_in_front(known, noise, i, a_bar):
    level = torch.cat([torch.ones(1, dtype=a_bar.dtype), a_bar])[i]
    return level.sqrt() * known + (1 - level).sqrt() * noise


def with_floats(known, noise, i, a_bar):
    level = 1.0 if i == 0 else float(a_bar[i - 1])
    return level**0.5 * known + (1 - level) ** 0.5 * noise


def with_powers(known, noise, i, a_bar):
    if i > 0:
        return a_bar[i - 1] ** 0.5 * known + torch.sqrt(1 - a_bar[i - 1]) * noise
    return known.clone()


def with_addcmul(known, noise, i, a_bar):
    level = a_bar.new_ones(()) if not i else a_bar[i - 1]
    return torch.addcmul(known * level.sqrt(), noise, (1 - level).sqrt().to(noise.dtype))


def known_at_through_numpy(known, noise, i, a_bar):
    level = 1.0 if i == 0 else a_bar.numpy()[i - 1].item()
    return np.sqrt(level).item() * known.numpy() + np.sqrt(1 - level).item() * noise.numpy()


# --- up_again ------------------------------------------------------------------------------------


def with_beta(x, noise, i, a_bar):
    beta = 1 - a_bar[i] / a_bar[i - 1]
    return (1 - beta).sqrt() * x + beta.sqrt() * noise


def roots_first(x, noise, i, a_bar):
    root = a_bar.sqrt()[i] / a_bar.sqrt()[i - 1]
    return root * x + (1 - root**2).sqrt() * noise


def with_all_alphas(x, noise, i, a_bar):
    alphas = a_bar[1:] / a_bar[:-1]
    return torch.sqrt(alphas[i - 1]) * x + torch.sqrt(1 - alphas[i - 1]) * noise


def up_with_floats(x, noise, i, a_bar):
    alpha = a_bar[i].item() / a_bar[i - 1].item()
    return alpha**0.5 * x + (1 - alpha) ** 0.5 * noise


def by_the_variances(x, noise, i, a_bar):
    scale = (a_bar[i] / a_bar[i - 1]) ** 0.5
    spread = ((1 - a_bar[i]) - scale**2 * (1 - a_bar[i - 1])) ** 0.5
    return scale * x + spread * noise


# --- project -------------------------------------------------------------------------------------


def detail_and_low(x_0, low, factor):
    nearest = {"scale_factor": factor, "mode": "nearest"}
    detail = x_0 - F.interpolate(F.avg_pool2d(x_0, factor), **nearest)
    return detail + F.interpolate(low, **nearest)


def with_blocks(x_0, low, factor):
    b, c, h, w = low.shape
    blocks = x_0.reshape(b, c, h, factor, w, factor)
    blocks = blocks - blocks.mean((3, 5), keepdim=True) + low[:, :, :, None, :, None]
    return blocks.reshape(x_0.shape)


def with_kron(x_0, low, factor):
    missing = low - F.adaptive_avg_pool2d(x_0, low.shape[-2:])
    return x_0 + torch.kron(missing, torch.ones(factor, factor, dtype=x_0.dtype))


def block_by_block(x_0, low, factor):
    x = x_0.clone()
    for row in range(low.shape[2]):
        for column in range(low.shape[3]):
            rows = slice(row * factor, (row + 1) * factor)
            columns = slice(column * factor, (column + 1) * factor)
            mean = x[:, :, rows, columns].mean((2, 3), keepdim=True)
            x[:, :, rows, columns] += low[:, :, row, column, None, None] - mean
    return x


def with_the_matrix(x_0, low, factor):
    height, width = low.shape[-2:]
    rows, columns = (
        torch.eye(n, dtype=x_0.dtype).repeat_interleave(factor, 1) for n in (height, width)
    )  # (n, n factor): 1 where a pixel belongs to a block
    missing = low - rows @ x_0 @ columns.T / factor**2
    return x_0 + rows.T @ missing @ columns


# --- inpaint -------------------------------------------------------------------------------------


def with_a_while_loop(step, known, mask, x_T, noise, a_bar):
    x, i = x_T, len(a_bar) - 1
    while i >= 0:
        x = step(x, i)
        level = a_bar[i - 1] if i > 0 else torch.ones((), dtype=a_bar.dtype)
        x = mask * (level.sqrt() * known + (1 - level).sqrt() * noise) + ~mask * x
        i -= 1
    return x


def with_levels_beforehand(step, known, mask, x_T, noise, a_bar):
    levels = torch.cat([torch.ones(1, dtype=a_bar.dtype), a_bar[:-1]])
    levels = levels.view(-1, *[1] * known.ndim)
    diffused = levels.sqrt() * known + (1 - levels).sqrt() * noise  # (n, B, C, ...)
    x = x_T
    for i in range(len(a_bar) - 1, -1, -1):
        x = torch.where(mask, diffused[i], step(x, i))
    return x


def in_place(step, known, mask, x_T, noise, a_bar):
    x = x_T.clone()
    for i in range(len(a_bar))[::-1]:
        x = step(x, i).clone()
        level = known if i == 0 else a_bar[i - 1] ** 0.5 * known + (1 - a_bar[i - 1]) ** 0.5 * noise
        x[mask] = level[mask]
    return x


def last_step_outside(step, known, mask, x_T, noise, a_bar):
    x = x_T
    for i in range(len(a_bar) - 1, 0, -1):
        clean, spread = a_bar[i - 1].sqrt(), (1 - a_bar[i - 1]).sqrt()
        x = torch.where(mask, clean * known + spread * noise, step(x, i))
    return torch.where(mask, known, step(x, 0))


def recursive(step, known, mask, x_T, noise, a_bar):
    def after(i):
        x = step(x_T if i == len(a_bar) - 1 else after(i + 1), i)
        level = 1.0 if i == 0 else float(a_bar[i - 1])
        return torch.where(mask, level**0.5 * known + (1 - level) ** 0.5 * noise, x)

    return after(0)


VARIANTS = {
    "merge": [
        with_arithmetic,
        in_place_on_a_copy,
        with_masked_scatter,
        through_numpy,
        value_by_value,
        opposite_mask,
    ],
    "known_at": [
        with_a_1_in_front,
        with_floats,
        with_powers,
        with_addcmul,
        known_at_through_numpy,
    ],
    "up_again": [with_beta, roots_first, with_all_alphas, up_with_floats, by_the_variances],
    "project": [detail_and_low, with_blocks, with_kron, block_by_block, with_the_matrix],
    "inpaint": [
        with_a_while_loop,
        with_levels_beforehand,
        in_place,
        last_step_outside,
        recursive,
    ],
}

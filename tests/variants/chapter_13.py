"""Right answers to the tasks of chapter 13 in other styles than the reference's."""

from __future__ import annotations

import numpy as np
import torch

# --- shifted -------------------------------------------------------------------------------------


def in_one_fraction(a_bar, n_frames):
    return a_bar / (a_bar + n_frames * (1 - a_bar))


def with_sigmoid(a_bar, n_frames):
    return torch.sigmoid(torch.logit(a_bar) - torch.tensor(float(n_frames)).double().log())


def one_by_one(a_bar, n_frames):
    new = []
    for a in a_bar.tolist():
        ratio = a / (1 - a) / n_frames
        new.append(ratio / (1 + ratio))
    return torch.tensor(new, dtype=torch.float64)


def from_the_noise(a_bar, n_frames):
    noise_to_signal = n_frames * (1 - a_bar) / a_bar
    return 1 / (1 + noise_to_signal)


def shifted_through_numpy(a_bar, n_frames):
    snr = a_bar.numpy() / (1 - a_bar.numpy()) / n_frames
    return snr / (1 + snr)


# --- frames_as_batch -----------------------------------------------------------------------------


def with_permute(x):
    b, c, f, h, w = x.shape
    return x.permute(0, 2, 1, 3, 4).reshape(b * f, c, h, w)


def frame_by_frame(x):
    return torch.stack([frame for clip in x for frame in clip.unbind(1)])


def clip_by_clip(x):
    return torch.cat([clip.transpose(0, 1) for clip in x])


def with_stack(x):
    return torch.stack(x.unbind(2), dim=1).flatten(0, 1)


def filled_in_place(x):
    b, c, f, h, w = x.shape
    out = torch.empty(b * f, c, h, w, dtype=x.dtype)
    for frame in range(f):
        out[frame::f] = x[:, :, frame]
    return out


def swapped_through_numpy(x):
    y = np.swapaxes(x.numpy(), 1, 2)
    return y.reshape(-1, *y.shape[2:])


# --- along_time ----------------------------------------------------------------------------------


def with_moveaxis(h, n_frames):
    x = torch.unflatten(h, 0, (-1, n_frames))
    return x.movedim(1, -1).movedim(1, 3).flatten(0, 2)


def with_einsum(h, n_frames):
    b = h.shape[0] // n_frames
    x = torch.einsum("bfchw->bhwcf", h.view(b, n_frames, *h.shape[1:]))
    return x.reshape(-1, h.shape[1], n_frames)


def place_by_place(h, n_frames):
    sequences = []
    for clip in h.split(n_frames):
        for row in range(h.shape[2]):
            for column in range(h.shape[3]):
                sequences.append(clip[:, :, row, column].T)
    return torch.stack(sequences)


def by_strided_frames(h, n_frames):
    frames = [h[f::n_frames].permute(0, 2, 3, 1).flatten(0, 2) for f in range(n_frames)]
    return torch.stack(frames, dim=2)


def along_time_through_numpy(h, n_frames):
    x = h.numpy().reshape(-1, n_frames, *h.shape[1:])
    return x.transpose(0, 3, 4, 2, 1).reshape(-1, h.shape[1], n_frames)


# --- velocity ------------------------------------------------------------------------------------


def in_a_loop(path):
    means = []
    for one in path:
        steps = one[1:] - one[:-1]
        n = 0
        while n < len(steps) and bool((steps[n] * steps[0] >= 0).all()):
            n += 1
        means.append(steps[:n].mean(0))
    return torch.stack(means)


def from_the_ends(path):
    steps = path[:, 1:] - path[:, :-1]
    turned = (steps.sign() != steps[:, :1].sign()).any(2)
    n = torch.where(turned.any(1), turned.float().argmax(1), steps.shape[1])
    index = torch.arange(len(path))
    return (path[index, n] - path[:, 0]) / n[:, None]


def with_cumprod(path):
    steps = path.diff(dim=1)
    agrees = (steps * steps[:, :1] > 0).all(dim=2, keepdim=True)
    kept = agrees.long().cumprod(1)
    return (kept * steps).sum(1) / kept.sum(1)


def with_nanmean(path):
    steps = path.diff(dim=1)
    turned = torch.cummax((steps * steps[:, :1] < 0).any(2).int(), dim=1).values.bool()
    return steps.masked_fill(turned[:, :, None], torch.nan).nanmean(1)


# --- hole_mask -----------------------------------------------------------------------------------


def slices_from_zero(corners, size, side):
    mask = torch.ones(len(corners), 1, corners.shape[1], side, side, dtype=torch.bool)
    for n, path in enumerate(corners.tolist()):
        for f, (row, column) in enumerate(path):
            mask[n, 0, f, max(row, 0) : row + size, max(column, 0) : column + size] = False
    return mask


def with_distances(corners, size, side):
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    past = grid - corners[..., None, None]  # (N, F, 2, side, side)
    hidden = ((past >= 0) & (past < size)).all(2)
    return hidden.logical_not().unsqueeze(1)


def known_on_some_side(corners, size, side):
    row = torch.arange(side).view(1, 1, 1, side, 1)
    column = torch.arange(side).view(1, 1, 1, 1, side)
    top, left = corners[:, None, :, 0, None, None], corners[:, None, :, 1, None, None]
    return (row < top) | (row >= top + size) | (column < left) | (column >= left + size)


def cut_from_a_larger_canvas(corners, size, side):
    n_clips, n_frames = corners.shape[:2]
    wide = np.ones((n_clips, n_frames, side + 2 * size, side + 2 * size), dtype=bool)
    for n in range(n_clips):
        for f in range(n_frames):
            row, column = (int(v) + size for v in corners[n, f])
            wide[n, f, row : row + size, column : column + size] = False
    return wide[:, None, :, size:-size, size:-size].copy()


# --- knows_order ---------------------------------------------------------------------------------


def both_in_one_batch(model, x_0, order, noise, t, a_bar):
    x = torch.cat([x_0, x_0[:, :, order]])
    both = noise.repeat(2, 1, 1, 1, 1)
    a = a_bar[t].to(x.dtype)
    error = model(a.sqrt() * x + (1 - a).sqrt() * both, torch.full((len(x),), t)) - both
    own, other = error.pow(2).mean((1, 2, 3, 4)).chunk(2)
    return other - own


def one_clip_at_a_time(model, x_0, order, noise, t, a_bar):
    signal, spread = float(a_bar[t]) ** 0.5, float(1 - a_bar[t]) ** 0.5
    found = []
    for clip, n in zip(x_0.split(1), noise.split(1), strict=True):
        losses = []
        for x in (clip, clip.index_select(2, order)):
            eps = model(signal * x + spread * n, torch.tensor([t]))
            losses.append(torch.nn.functional.mse_loss(eps, n))
        found.append(losses[1] - losses[0])
    return torch.stack(found)


@torch.no_grad()
def without_a_helper(model, x_0, order, noise, t, a_bar):
    at = torch.full(x_0.shape[:1], t)
    signal, spread = a_bar[t].sqrt().to(x_0), (1 - a_bar[t]).sqrt().to(x_0)
    first = model(signal * x_0 + spread * noise, at)
    shuffled = torch.stack([x_0[:, :, f] for f in order.tolist()], dim=2)
    second = model(signal * shuffled + spread * noise, at)
    return ((second - noise) ** 2 - (first - noise) ** 2).mean(dim=(1, 2, 3, 4))


def with_unreduced_loss(model, x_0, order, noise, t, a_bar):
    def loss(x):
        a = a_bar[t].to(x.dtype)
        eps = model(torch.lerp(0 * x, x, a.sqrt()) + (1 - a).sqrt() * noise, 0 * at + t)
        return torch.nn.functional.mse_loss(eps, noise, reduction="none").view(len(x), -1).mean(1)

    at = torch.zeros(len(x_0), dtype=torch.int64)
    return loss(torch.index_select(x_0, 2, order)) - loss(x_0)


VARIANTS = {
    "shifted": [in_one_fraction, with_sigmoid, one_by_one, from_the_noise, shifted_through_numpy],
    "frames_as_batch": [
        with_permute,
        frame_by_frame,
        clip_by_clip,
        with_stack,
        filled_in_place,
        swapped_through_numpy,
    ],
    "along_time": [
        with_moveaxis,
        with_einsum,
        place_by_place,
        by_strided_frames,
        along_time_through_numpy,
    ],
    "velocity": [in_a_loop, from_the_ends, with_cumprod, with_nanmean],
    "hole_mask": [
        slices_from_zero,
        with_distances,
        known_on_some_side,
        cut_from_a_larger_canvas,
    ],
    "knows_order": [
        both_in_one_batch,
        one_clip_at_a_time,
        without_a_helper,
        with_unreduced_loss,
    ],
}

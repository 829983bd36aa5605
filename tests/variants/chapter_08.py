"""Right answers to the tasks of chapter 08 in other styles than the reference's."""

from __future__ import annotations

import numpy as np
import torch

# --- guide ---------------------------------------------------------------------------------------


def with_weights(cond, uncond, scale):
    return scale * cond + (1 - scale) * uncond


def with_the_paper_s_w(cond, uncond, scale):
    w = scale - 1
    return (1 + w) * cond - w * uncond


def from_cond(cond, uncond, scale):
    return cond + (scale - 1) * (cond - uncond)


def with_lerp(cond, uncond, scale):
    return torch.lerp(uncond, cond, scale)


def with_einsum(cond, uncond, scale):
    weights = torch.tensor([scale, 1 - scale], dtype=cond.dtype)
    return torch.einsum("k,k...->...", weights, torch.stack([cond, uncond]))


def guide_through_numpy(cond, uncond, scale):
    return uncond.numpy() + scale * (cond.numpy() - uncond.numpy())


# --- drop_labels ---------------------------------------------------------------------------------


def in_place_on_a_copy(labels, none, probability, generator):
    labels = labels.clone()
    labels[torch.rand(labels.shape, generator=generator) < probability] = none
    return labels


def with_masked_fill(labels, none, probability, generator):
    keep = torch.rand(labels.shape, generator=generator) >= probability
    return labels.masked_fill(~keep, none)


def with_bernoulli(labels, none, probability, generator):
    drop = torch.empty(len(labels)).bernoulli_(probability, generator=generator)
    return torch.where(drop.bool(), torch.full_like(labels, none), labels)


def with_arithmetic(labels, none, probability, generator):
    drop = (torch.rand(len(labels), generator=generator) < probability).long()
    return drop * none + (1 - drop) * labels


def item_by_item(labels, none, probability, generator):
    numbers = torch.rand(len(labels), generator=generator).tolist()
    kept = [none if u < probability else c for u, c in zip(numbers, labels.tolist(), strict=True)]
    return torch.tensor(kept)


def the_largest_numbers(labels, none, probability, generator):
    u = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    return torch.where(u > 1 - probability, none, labels)


# --- guided_in_one_call --------------------------------------------------------------------------


def none_first(model, x_t, t, labels, none, scale):
    both = torch.cat([torch.full_like(labels, none), labels])
    uncond, cond = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), {"labels": both}).chunk(2)
    return (1 - scale) * uncond + scale * cond


def by_slices(model, x_t, t, labels, none, scale):
    n_items = x_t.shape[0]
    both = torch.full((2 * n_items,), none)
    both[:n_items] = labels
    out = model(torch.cat([x_t] * 2), torch.cat([t] * 2), context={"labels": both})
    return torch.lerp(out[n_items:], out[:n_items], scale)


def pairs_side_by_side(model, x_t, t, labels, none, scale):
    both = torch.stack([labels, torch.full_like(labels, none)], dim=1).flatten()
    out = model(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), {"labels": both})
    return out[1::2] + scale * (out[::2] - out[1::2])


@torch.no_grad()
def with_a_view(model, x_t, t, labels, none, scale):
    x = x_t.unsqueeze(0).expand(2, *x_t.shape).reshape(-1, *x_t.shape[1:])
    out = model(x, t.expand(2, -1).flatten(), {"labels": torch.cat([labels, 0 * labels + none])})
    cond, uncond = out.view(2, *x_t.shape)
    return cond + (scale - 1) * (cond - uncond)


# --- one_but_not_another -------------------------------------------------------------------------


def none_first_of_three(model, x_t, t, wanted, unwanted, none, scale, strength):
    labels = torch.cat([torch.full_like(wanted, none), wanted, unwanted])
    out = model(torch.cat([x_t] * 3), torch.cat([t] * 3), {"labels": labels})
    n, w, u = out.chunk(3)
    return n + scale * (w - n) - strength * (u - n)


def weights_that_add_up_to_one(model, x_t, t, wanted, unwanted, none, scale, strength):
    labels = torch.stack([wanted, unwanted, torch.full_like(wanted, none)]).flatten()
    out = model(x_t.repeat(3, 1, 1, 1), t.repeat(3), {"labels": labels}).view(3, *x_t.shape)
    weights = torch.tensor([scale, -strength, 1 - scale + strength])
    return torch.einsum("k,kbchw->bchw", weights, out)


def a_loop_over_pushes(model, x_t, t, wanted, unwanted, none, scale, strength):
    contexts, n_items = [wanted, unwanted, torch.full_like(wanted, none)], len(x_t)
    out = model(x_t.repeat(3, 1, 1, 1), t.repeat(3), {"labels": torch.cat(contexts)})
    *pushes, base = out.split(n_items)
    result = base
    for push, factor in zip(pushes, (scale, -strength), strict=True):
        result = result + factor * (push - base)
    return result


def threes_side_by_side(model, x_t, t, wanted, unwanted, none, scale, strength):
    labels = torch.stack([wanted, unwanted, torch.full_like(wanted, none)], 1).reshape(-1)
    out = model(x_t.repeat_interleave(3, 0), t.repeat_interleave(3), {"labels": labels})
    w, u, n = out[::3], out[1::3], out[2::3]
    return (1 - scale + strength) * n + scale * w - strength * u


# --- guided_in_an_interval -----------------------------------------------------------------------


def a_scale_for_each_item(model, x_t, t, labels, none, scale, first, last):
    scales = torch.where((t >= first) & (t <= last), scale, 1.0)[:, None, None, None]
    if (scales == 1).all():
        return model(x_t, t, {"labels": labels})
    both = torch.cat([labels, torch.full_like(labels, none)])
    cond, uncond = model(torch.cat([x_t, x_t]), torch.cat([t, t]), {"labels": both}).chunk(2)
    return uncond + scales * (cond - uncond)


def only_those_inside_are_doubled(model, x_t, t, labels, none, scale, first, last):
    inside = (t >= first) & (t <= last)
    x = torch.cat([x_t, x_t[inside]])
    asked = torch.cat([labels, torch.full_like(labels[inside], none)])
    out = model(x, torch.cat([t, t[inside]]), {"labels": asked})
    result, uncond = out[: len(x_t)].clone(), out[len(x_t) :]
    result[inside] = uncond + scale * (result[inside] - uncond)
    return result


def a_second_call_for_those_inside(model, x_t, t, labels, none, scale, first, last):
    answer = model(x_t, t, {"labels": labels})
    index = torch.nonzero((t >= first) & (t <= last))[:, 0]
    if len(index):
        nothing = {"labels": torch.full((len(index),), none)}
        uncond = model(x_t[index], t[index], nothing)
        answer = answer.index_copy(0, index, uncond + scale * (answer[index] - uncond))
    return answer


def with_clamped_timesteps(model, x_t, t, labels, none, scale, first, last):
    inside = t.clamp(first, last) == t
    if not torch.any(inside):
        return model(x_t, t, {"labels": labels})
    both = torch.cat([labels, torch.full_like(labels, none)])
    out = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), {"labels": both})
    cond, uncond = np.split(out.numpy(), 2)
    mask = inside.numpy().reshape(-1, 1, 1, 1)
    return np.where(mask, uncond + scale * (cond - uncond), cond)


VARIANTS = {
    "guide": [
        with_weights,
        with_the_paper_s_w,
        from_cond,
        with_lerp,
        with_einsum,
        guide_through_numpy,
    ],
    "drop_labels": [
        in_place_on_a_copy,
        with_masked_fill,
        with_bernoulli,
        with_arithmetic,
        item_by_item,
        the_largest_numbers,
    ],
    "guided_in_one_call": [none_first, by_slices, pairs_side_by_side, with_a_view],
    "one_but_not_another": [
        none_first_of_three,
        weights_that_add_up_to_one,
        a_loop_over_pushes,
        threes_side_by_side,
    ],
    "guided_in_an_interval": [
        a_scale_for_each_item,
        only_those_inside_are_doubled,
        a_second_call_for_those_inside,
        with_clamped_timesteps,
    ],
}

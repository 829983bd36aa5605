"""Chapter 08: guidance. A model out of a model, which does what is asked more decidedly.

Ho & Salimans 2022, "Classifier-Free Diffusion Guidance" (arXiv:2207.12598); Liu et al. 2022
(arXiv:2206.01714, eq. 11) for several conditions at once; Kynkaanniemi et al. 2024
(arXiv:2404.07724) for guiding in an interval of noise levels only.

The scale s here is such that s = 0 is unconditional and s = 1 the model as it is. Ho & Salimans
write w for s - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidiff.training import Context

Model = Callable[..., Tensor]


def guided(
    model: Model,
    context: Context,
    null_context: Context,
    guidance_scale: float = 3.0,
    interval: tuple[float, float] | None = None,
) -> Model:
    """Make a model that is guided towards a context (Ho & Salimans 2022, eq. 6).

    uncond + s (cond - uncond), from one call of the model with a doubled batch. It holds for eps,
    x_0 and v alike, since for a given x_t each is the same linear function of the other. Guide
    before clipping: `Denoiser(guided(...), schedule)`.

    Args:
        model: Keeps the contract model(x_t, t, context); trained with its context dropped at
            times, see `drop_context`.
        context: What is asked for, each tensor with the batch first.
        null_context: What stands for "nothing in particular", by the same names; each value for
            one item, without the batch, or for each item. Another context in its place is a
            negative prompt: away from this.
        guidance_scale: s; 0 asks for nothing in particular, 1 is off: the model is then called
            with the plain batch.
        interval: First and last timestep at which to guide; at others s is 1. All timesteps by
            default.

    Returns:
        A model(x_t, t) that keeps the contract; it has its context already. A learned variance is
        that of the conditional half.

    Raises:
        ValueError: If names or batch sizes do not match or the interval is empty, at once; if the
            guided model is given a context or another batch size, when it is called.

    >>> model = lambda x_t, t, context: context["labels"].view(-1, 1, 1, 1) * torch.ones_like(x_t)
    >>> strong = guided(model, {"labels": torch.tensor([2.0])}, {"labels": torch.tensor(1.0)}, 3.0)
    >>> strong(torch.zeros(1, 1, 1, 1), torch.tensor([0]))  # 1 + 3 (2 - 1)
    tensor([[[[4.]]]])
    """
    return composed(model, [context], null_context, [guidance_scale], interval)


def composed(
    model: Model,
    contexts: Sequence[Context],
    null_context: Context,
    guidance_scales: Sequence[float],
    interval: tuple[float, float] | None = None,
) -> Model:
    """Guide towards several contexts at once, or away from some (Liu et al. 2022, eq. 11).

    uncond + sum_k s_k (cond_k - uncond), from one call of the model. A scale below 0 leads away:
    "a coat, not a shirt".

    Args:
        model: As for `guided`.
        contexts: What is asked for, K of them, each as for `guided`.
        null_context: As for `guided`.
        guidance_scales: s_k, one for each context.
        interval: As for `guided`; outside, the first context alone is asked for.

    Returns:
        A model(x_t, t), as `guided` does; a learned variance is that of the first context.

    Raises:
        ValueError: As `guided`, and if there is not one scale for each context.

    >>> model = lambda x_t, t, context: context["labels"].view(-1, 1, 1, 1) * torch.ones_like(x_t)
    >>> two, five, none = ({"labels": torch.tensor([v])} for v in (2.0, 5.0, 1.0))
    >>> both = composed(model, [two, five], none, [1.0, -0.5])
    >>> both(torch.zeros(1, 1, 1, 1), torch.tensor([0]))  # 1 + 1 (2 - 1) - 0.5 (5 - 1)
    tensor([[[[0.]]]])
    """
    if not contexts or len(contexts) != len(guidance_scales):
        raise ValueError(
            f"guidance_scales must have one entry for each of at least one context, "
            f"got {len(guidance_scales)} for {len(contexts)}"
        )
    low, high = (-torch.inf, torch.inf) if interval is None else interval
    if not low <= high:
        raise ValueError(f"interval must be (first, last) with first <= last, got {interval}")
    n_items = len(next(iter(contexts[0].values()), ()))
    null = _with_batch(null_context, contexts[0])
    for other in contexts:
        if other.keys() != null.keys() or any(len(v) != n_items for v in other.values()):
            sizes = {name: len(values) for name, values in other.items()}
            raise ValueError(f"each context must have {sorted(null)}, {n_items} each, got {sizes}")
    together = {name: torch.cat([*(c[name] for c in contexts), null[name]]) for name in null}
    is_off = list(guidance_scales) == [1]

    def model_with_guidance(x_t: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        if context is not None:
            raise ValueError("context must be None: a guided model has its own")
        if len(x_t) != n_items:
            raise ValueError(f"x_t must have {n_items} items, as the context, got {len(x_t)}")
        guide = (low <= t) & (t <= high)  # (B,)
        if is_off or not guide.any():
            return model(x_t, t, contexts[0])
        n_parts = len(contexts) + 1
        out = model(x_t.repeat(n_parts, *[1] * (x_t.ndim - 1)), t.repeat(n_parts), together)
        # Under autocast it comes in bfloat16, in which a sum of differences would round again.
        *conds, uncond = out.to(x_t.dtype).chunk(n_parts)  # (K + 1) x (B, C or 2C, *space)
        n_channels = x_t.shape[1]
        strong = uncond[:, :n_channels]
        for cond, scale in zip(conds, guidance_scales, strict=True):
            strong = strong + scale * (cond - uncond)[:, :n_channels]
        guide = guide.to(strong.device).view(-1, *[1] * (x_t.ndim - 1))  # (B, 1, ..., 1)
        strong = torch.where(guide, strong, conds[0][:, :n_channels])
        return torch.cat([strong, conds[0][:, n_channels:]], dim=1)  # the variance is not guided

    return model_with_guidance


def _with_batch(null_context: Context, context: Context) -> dict[str, Tensor]:
    """Give each value of null_context as many items as the context has, on its device."""
    if null_context.keys() != context.keys() or not context:
        raise ValueError(
            f"null_context must have the names of context, {sorted(context)}, "
            f"got {sorted(null_context)}"
        )
    expanded = {}
    for name, values in context.items():
        null = null_context[name].to(values.device)
        if null.shape not in (values.shape, values.shape[1:]):
            raise ValueError(
                f"null_context {name!r} must have shape {tuple(values.shape[1:])} or "
                f"{tuple(values.shape)}, got {tuple(null.shape)}"
            )
        expanded[name] = null.expand(values.shape)
    return expanded

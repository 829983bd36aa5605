"""Checks of chapter 08, guidance: `from minidiff.grading import chapter_08 as check`.

The scale s counts as in the lesson: 0 asks for nothing in particular, 1 is off. "None" is a label
of its own. One call of the model is worth more than two: the checks count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import guidance, training
from minidiff.grading.check import Answer, Inputs, task
from minidiff.grading.compare import Estimate
from minidiff.grading.draw import Draw

Model = Callable[..., Tensor]


def _combine(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    return uncond + scale * (cond - uncond)


# --- 1: the formula ------------------------------------------------------------------------------


def _two_answers(draw: Draw) -> Inputs:
    dtype = draw.dtype()
    cond = draw.images(draw.integer(2, 6), dtype)
    scale = float(draw.uniform(1.5, 8.0, 1)) if draw.case else float(draw.uniform(0.2, 0.8, 1))
    return {"cond": cond, "uncond": draw.normal(*cond.shape, dtype=dtype), "scale": scale}


@task(
    points=1,
    inputs=_two_answers,
    roundings=256.0,
    package=[guidance.guided, guidance.composed],
)
def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """The guided answer (Ho & Salimans 2022, eq. 6, with w = scale - 1)."""
    return uncond + scale * (cond - uncond)


@guide.misconception
def scale_taken_for_w(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """This is the paper's (1 + w) cond - w uncond with the scale for w, or the same written as
    cond + scale (cond - uncond). Here 1 is to be off: w is scale - 1.
    """
    return cond + scale * (cond - uncond)


@guide.misconception
def w_taken_for_scale(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """The difference is multiplied by scale - 1, which is the paper's w. Starting from uncond it is
    the scale itself; w belongs to the form that starts from cond.
    """
    return uncond + (scale - 1) * (cond - uncond)


@guide.misconception
def answers_exchanged(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """The two answers are exchanged: scale 0 gives cond, and more leads away from what was asked
    for.
    """
    return cond + scale * (uncond - cond)


@guide.misconception
def difference_the_other_way(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """A sign: the difference is uncond - cond, so a larger scale leads away from the class."""
    return uncond + scale * (uncond - cond)


@guide.misconception
def weight_of_uncond_forgotten(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """uncond has the weight 1 whatever the scale. The two weights add up to 1: scale and
    1 - scale.
    """
    return uncond + scale * cond


@guide.misconception
def uncond_taken_off_once(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """uncond is taken off once, whatever the scale. The weights add up to 1: with scale for cond it
    is 1 - scale for uncond.
    """
    return scale * cond - uncond


@guide.misconception
def difference_alone(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """This is the push alone, scale (cond - uncond). It is to be added to uncond."""
    return scale * (cond - uncond)


@guide.misconception
def brackets_forgotten(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Brackets are missing: in uncond + scale * cond - uncond the two uncond cancel, and scale cond
    is left.
    """
    return scale * cond


@guide.misconception
def sign_of_the_second_weight(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Both weights are positive, scale and scale - 1. They add up to 1 only with a minus:
    scale cond - (scale - 1) uncond.
    """
    return scale * cond + (scale - 1) * uncond


@guide.misconception
def pushed_back_from_cond(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """It starts from cond, with the right factor scale - 1, but goes back towards uncond. The push
    is cond - uncond.
    """
    return cond + (scale - 1) * (uncond - cond)


@guide.misconception
def never_beyond_cond(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """The scale is cut off at 1, as if it were a share between two answers. Guidance begins where
    the scale is larger: it extrapolates.
    """
    return uncond + min(scale, 1.0) * (cond - uncond)


@guide.misconception
def divided_by_the_scale(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """The result is divided by the scale. Its weights add up to 1 already: nothing is left to
    normalise.
    """
    return (uncond + scale * (cond - uncond)) / scale


@guide.misconception
def result_clipped(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """The result is clipped to [-1, 1]. A guided answer may be noise or v, which have no such
    range; x_0 is clipped later, by the Denoiser.
    """
    return (uncond + scale * (cond - uncond)).clamp(-1, 1)


# --- 2: labels dropped in training ---------------------------------------------------------------


def _many_labels(draw: Draw) -> Inputs:
    n_classes, n_items = draw.integer(5, 10), draw.integer(40_000, 42_000)  # never 10 classes
    labels = torch.empty(n_items, dtype=torch.int64)
    labels.random_(1, n_classes, generator=draw.generator)  # 0 is a class, but a rare one
    labels[:: draw.integer(40, 60)] = 0
    return {
        "labels": labels,
        "none": n_classes,
        "probability": float(draw.uniform(0.24, 0.3, 1)),
        "generator": draw.generator,
    }


def _dropped(answer: Answer, inputs: Inputs) -> Mapping[str, Any]:
    labels, none = inputs["labels"].clone(), inputs["none"]
    new = answer(*inputs.values())
    seen: dict[str, Any] = {"the shape of the labels": tuple(new.shape)}
    seen["the dtype of the labels"] = str(new.dtype)
    if new.shape != labels.shape or new.is_complex():
        return seen
    changed = new != labels
    again = [answer(part.clone(), *list(inputs.values())[1:]) for part in labels[:600].split(30)]
    counts = [int((a != b).sum()) for a, b in zip(again, labels[:600].split(30), strict=True)]
    seen["whether one batch loses as many labels as another"] = len(set(counts)) == 1
    repeated = answer(labels.clone(), *list(inputs.values())[1:])
    seen["whether a second call drops the same again"] = torch.equal(repeated, new)
    values = tuple(new[changed].unique().tolist()[:20])
    p, n_items = inputs["probability"], len(labels)
    error = math.sqrt(p * (1 - p) / n_items)
    seen["what stands in the place of dropped labels"] = values
    seen["the share of dropped labels"] = Estimate(changed.double().mean(), error)
    early = changed[: n_items // 2].double().mean()
    seen["their share in the first half"] = Estimate(early, error * math.sqrt(2))
    low = labels < none / 2
    rarely = changed[low].double().mean()
    seen["their share among the first half of the classes"] = Estimate(
        rarely, math.sqrt(p * (1 - p) / int(low.sum()))
    )
    return seen


@task(
    points=2,
    inputs=_many_labels,
    observe=_dropped,
    package=[training.drop_context],
    n_cases=2,
)
def drop_labels(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Labels, (B,), some of them replaced by none (Ho & Salimans 2022, algorithm 1)."""
    drop = torch.rand(len(labels), generator=generator) < probability  # (B,)
    return torch.where(drop, none, labels)


def _drop_where(labels: Tensor, drop: Tensor, value: Tensor | int) -> Tensor:
    return torch.where(drop, value, labels)


@drop_labels.misconception
def kept_in_place_of_dropped(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """The comparison is the wrong way round: labels are kept with this probability, and nearly all
    are dropped. rand < probability is true for a share of `probability`.
    """
    drop = torch.rand(len(labels), generator=generator) > probability
    return _drop_where(labels, drop, none)


@drop_labels.misconception
def class_0_for_none(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Dropped labels become 0, which is a class like the others. "None" has an index of its own,
    the argument `none`.
    """
    drop = torch.rand(len(labels), generator=generator) < probability
    return _drop_where(labels, drop, 0)


@drop_labels.misconception
def minus_one_for_none(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Dropped labels become -1, which is no index of the table of labels. "None" is the argument
    `none`.
    """
    drop = torch.rand(len(labels), generator=generator) < probability
    return _drop_where(labels, drop, -1)


@drop_labels.misconception
def last_class_for_none(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Dropped labels become none - 1, which is the last class. Classes count from 0, so `none`
    itself is the first index that is no class.
    """
    drop = torch.rand(len(labels), generator=generator) < probability
    return _drop_where(labels, drop, none - 1)


@drop_labels.misconception
def all_or_nothing(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """One number decides for the whole batch. Each item is to decide by itself: draw as many
    numbers as there are labels.
    """
    drop = torch.rand(1, generator=generator) < probability
    return _drop_where(labels, drop, none)


@drop_labels.misconception
def the_first_ones(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Always the first items of a batch lose their labels. Their number is about right, but which
    they are is to be left to chance, from the generator.
    """
    n_dropped = round(probability * len(labels))
    return torch.cat([torch.full_like(labels[:n_dropped], none), labels[n_dropped:]])


@drop_labels.misconception
def always_as_many(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """The same number of labels is dropped each time; only which they are is left to chance. Each
    label is to be dropped independently of all others: draw one number for each.
    """
    n_dropped = int(probability * len(labels))
    chosen = torch.randperm(len(labels), generator=generator)[:n_dropped]
    return labels.index_fill(0, chosen, none)


@drop_labels.misconception
def generator_seeded(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """A second call drops the same items again: the generator is seeded in the function. It belongs
    to the caller; draw from it as it is.
    """
    generator.manual_seed(0)
    drop = torch.rand(len(labels), generator=generator) < probability
    return _drop_where(labels, drop, none)


@drop_labels.misconception
def ten_for_none(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Dropped labels become 10, whatever `none` is. That is right for ten classes only; use the
    argument.
    """
    drop = torch.rand(len(labels), generator=generator) < probability
    return _drop_where(labels, drop, 10)


@drop_labels.misconception
def a_tenth(labels: Tensor, none: int, probability: float, generator: torch.Generator) -> Tensor:
    """A tenth of the labels is dropped, whatever `probability` is. Use the argument."""
    drop = torch.rand(len(labels), generator=generator) < 0.1
    return _drop_where(labels, drop, none)


@drop_labels.misconception
def labels_made_floats(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """The right labels are replaced, but they come back as floating-point numbers. A table of
    vectors is looked up with integers: return int64, as they came.
    """
    drop = torch.rand(len(labels), generator=generator) < probability
    return _drop_where(labels, drop, none).float()


@drop_labels.misconception
def normal_numbers(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """The numbers compared with the probability are normal, of which more than half are below it.
    torch.rand, not randn, draws uniformly from [0, 1).
    """
    drop = torch.randn(len(labels), generator=generator) < probability
    return _drop_where(labels, drop, none)


@drop_labels.misconception
def another_class(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Dropped labels become random classes. That teaches the network wrong labels; it is to learn
    what "none" means.
    """
    drop = torch.rand(len(labels), generator=generator) < probability
    other = torch.randint(none, (len(labels),), generator=generator)
    return _drop_where(labels, drop, other)


@drop_labels.misconception
def the_mask(labels: Tensor, none: int, probability: float, generator: torch.Generator) -> Tensor:
    """This is the mask that says which are dropped. Use it: torch.where(mask, none, labels)."""
    return torch.rand(len(labels), generator=generator) < probability


@drop_labels.misconception
def items_removed(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Dropped items are gone from the batch. Their pictures stay, so each still needs a label: the
    one that says "none".
    """
    return labels[torch.rand(len(labels), generator=generator) >= probability]


@drop_labels.misconception
def dropout_of_numbers(
    labels: Tensor, none: int, probability: float, generator: torch.Generator
) -> Tensor:
    """This treats labels as numbers, as a dropout layer does: some become 0 and the others are
    scaled up. They are indices: replace some, and leave the others alone.
    """
    keep = torch.rand(len(labels), generator=generator) >= probability
    return labels * keep / (1 - probability)


@drop_labels.misconception
def none_added(labels: Tensor, none: int, probability: float, generator: torch.Generator) -> Tensor:
    """`none` is added to the dropped labels in place of replacing them: most of the sums lie beyond
    the end of the table.
    """
    drop = torch.rand(len(labels), generator=generator) < probability
    return labels + none * drop


# --- a model that counts -------------------------------------------------------------------------


class _Model(nn.Module):
    """The smallest model that keeps the contract and knows labels; it notes what it is given."""

    def __init__(self, n_channels: int, n_classes: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(n_channels + 2, n_channels, 1)
        self.labels = nn.Embedding(n_classes + 1, n_channels)
        self.sizes: list[int] = []

    def forward(
        self, x_t: Tensor, t: Tensor, context: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Predict, (B, C, H, W) and (B,) -> (B, C, H, W); without labels as for "none"."""
        n_items = len(x_t)
        if context is not None and not isinstance(context, Mapping):
            raise TypeError('context must be a dictionary: {"labels": labels}')
        given = {"t": t} if context is None else {"t": t, "labels": context["labels"]}
        for name, values in given.items():
            if values.shape != (n_items,) or values.dtype != torch.int64:
                raise ValueError(
                    f"{name} must be int64 of shape ({n_items},), one for each item of x_t, "
                    f"got {values.dtype} of shape {tuple(values.shape)}"
                )
        self.sizes.append(n_items)
        labels = given.get("labels", torch.full((n_items,), self.labels.num_embeddings - 1))
        angle = t.to(x_t).view(-1, 1, 1, 1).expand(-1, 1, *x_t.shape[2:])  # (B,) -> (B, 1, H, W)
        mixed = self.mix(torch.cat([x_t, angle.cos(), angle.sin()], dim=1))
        shift = self.labels(labels)[:, :, None, None]  # (B, C) -> (B, C, 1, 1)
        output: Tensor = torch.sin(mixed + shift) + shift
        return output


def _labelled(draw: Draw, fewest: int = 3) -> Inputs:
    """A model, noisy pictures, and a class asked for each; the width may equal the batch."""
    n_items, n_channels, n_classes = (
        draw.integer(fewest, 7),
        2 * draw.integer(1, 3),
        draw.integer(4, 9),
    )
    height, width = draw.integer(6, 9), n_items if draw.case == 1 else draw.integer(6, 9)
    model = draw.module(lambda: _Model(n_channels, n_classes)).eval().requires_grad_(False)
    labels = torch.empty(n_items, dtype=torch.int64)
    labels.random_(1, n_classes, generator=draw.generator)  # never 0
    return {
        "model": model,
        "x_t": draw.normal(n_items, n_channels, height, width, dtype=torch.float32),
        "t": draw.timesteps(n_items, 1000).roll(draw.case),
        "labels": labels,
        "none": n_classes,
        "scale": float(draw.uniform(2.0, 6.0, 1)),
    }


def _predicted(answer: Answer, inputs: Inputs) -> Mapping[str, Any]:
    model = inputs["model"]
    output = answer(*inputs.values())
    return {"the guided answer": output, "the number of calls": len(model.sizes)}


def _doubled(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([x_t, x_t]), torch.cat([t, t])


def _halves(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int | Tensor
) -> tuple[Tensor, Tensor]:
    """The answers for some labels and for others, from one call."""
    other = none if isinstance(none, Tensor) else torch.full_like(labels, none)
    cond, uncond = model(*_doubled(x_t, t), {"labels": torch.cat([labels, other])}).chunk(2)
    return cond, uncond


# --- 3: one doubled batch ------------------------------------------------------------------------


@task(
    points=3,
    inputs=_labelled,
    observe=_predicted,
    roundings=1024.0,
    package=[guidance.guided, guidance.composed],
    n_cases=3,
)
def guided_in_one_call(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The guided answer of a model, (B, C, H, W), from one call with a batch of 2B."""
    both = torch.cat([labels, torch.full_like(labels, none)])  # (2B,)
    output = model(torch.cat([x_t, x_t]), torch.cat([t, t]), {"labels": both})
    cond, uncond = output.chunk(2)  # (2B, C, H, W) -> 2 x (B, C, H, W)
    return uncond + scale * (cond - uncond)


@guided_in_one_call.misconception
def two_calls(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The numbers are right, but the model is called twice. Put both halves into one batch, labels
    first and then none, and cut the answer in two.
    """
    cond = model(x_t, t, {"labels": labels})
    uncond = model(x_t, t, {"labels": torch.full_like(labels, none)})
    return _combine(cond, uncond, scale)


@guided_in_one_call.misconception
def halves_exchanged(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The halves are exchanged: what comes first in the batch comes first in the answer. As it is,
    guidance leads away from the class.
    """
    cond, uncond = _halves(model, x_t, t, labels, none)
    return _combine(uncond, cond, scale)


@guided_in_one_call.misconception
def scale_for_w_in_one_call(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The push is added to the conditional half, as the paper does with w = scale - 1. Starting
    there the factor is scale - 1; with the scale itself, start from the other half.
    """
    cond, uncond = _halves(model, x_t, t, labels, none)
    return cond + scale * (cond - uncond)


@guided_in_one_call.misconception
def two_calls_with_scale_for_w(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The push is added to the conditional answer, where its factor would be scale - 1; with the
    scale itself, start from the unconditional one. And one call with a doubled batch does for both.
    """
    cond = model(x_t, t, {"labels": labels})
    uncond = model(x_t, t, {"labels": torch.full_like(labels, none)})
    return cond + scale * (cond - uncond)


@guided_in_one_call.misconception
def class_0_in_place_of_none(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The second half has zeros as labels, and so asks for class 0. "None" is the label `none`:
    torch.full_like(labels, none).
    """
    cond, uncond = _halves(model, x_t, t, labels, 0)
    return _combine(cond, uncond, scale)


@guided_in_one_call.misconception
def t_not_doubled(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """x_t is doubled and t is not. Each of the 2B items needs its timestep: torch.cat([t, t])."""
    both = torch.cat([labels, torch.full_like(labels, none)])
    output: Tensor = model(torch.cat([x_t, x_t]), t, {"labels": both})
    return output


@guided_in_one_call.misconception
def labels_without_none(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """There are labels for only half of the doubled batch. The other half needs some, too:
    torch.cat([labels, torch.full_like(labels, none)]).
    """
    output: Tensor = model(*_doubled(x_t, t), {"labels": labels})
    return output


@guided_in_one_call.misconception
def context_not_a_dictionary(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The labels are given to the model as they are. Its context is a dictionary that holds them by
    name.
    """
    output: Tensor = model(*_doubled(x_t, t), torch.cat([labels, labels]))
    return output


@guided_in_one_call.misconception
def items_repeated_one_by_one(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """x_t and t are repeated item by item (repeat_interleave), the labels half by half: most items
    get another's. torch.cat([x_t, x_t]) or x_t.repeat(2, 1, 1, 1) keeps the halves together.
    """
    both = torch.cat([labels, torch.full_like(labels, none)])
    output = model(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), {"labels": both})
    cond, uncond = output.chunk(2)
    return _combine(cond, uncond, scale)


@guided_in_one_call.misconception
def t_repeated_one_by_one(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """x_t is repeated half by half, t item by item (repeat_interleave): most items get another's
    timestep. torch.cat([t, t]) keeps them together.
    """
    both = torch.cat([labels, torch.full_like(labels, none)])
    output = model(torch.cat([x_t, x_t]), t.repeat_interleave(2), {"labels": both})
    cond, uncond = output.chunk(2)
    return _combine(cond, uncond, scale)


@guided_in_one_call.misconception
def first_t_for_all(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """All items get the timestep of the first. Each has its own: torch.cat([t, t])."""
    cond, uncond = _halves(model, x_t, t[:1].expand_as(t), labels, none)
    return _combine(cond, uncond, scale)


@guided_in_one_call.misconception
def first_two_items(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """output[0] and output[1] are the first two items of the batch, not its halves: all that is
    returned is one picture. Cut the batch with output.chunk(2).
    """
    both = torch.cat([labels, torch.full_like(labels, none)])
    output = model(*_doubled(x_t, t), {"labels": both})
    return _combine(output[0], output[1], scale)


@guided_in_one_call.misconception
def second_two_items(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """output[0] and output[1] are the first two items of the batch, not its halves, and they are
    exchanged besides. Cut the batch with output.chunk(2): first comes what was asked for first.
    """
    both = torch.cat([labels, torch.full_like(labels, none)])
    output = model(*_doubled(x_t, t), {"labels": both})
    return _combine(output[1], output[0], scale)


@guided_in_one_call.misconception
def label_10_for_none(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The second half asks for label 10, whatever `none` is. This model knows another number of
    classes; use the argument.
    """
    cond, uncond = _halves(model, x_t, t, labels, 10)
    return _combine(cond, uncond, scale)


@guided_in_one_call.misconception
def cut_along_the_channels(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """The answer is cut along its channels. The halves lie one behind the other in the batch, its
    first dimension: output.chunk(2).
    """
    both = torch.cat([labels, torch.full_like(labels, none)])
    cond, uncond = model(*_doubled(x_t, t), {"labels": both}).chunk(2, dim=1)
    return _combine(cond, uncond, scale)


@guided_in_one_call.misconception
def cut_into_every_second(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """Every second item is taken for the conditional half. The batch was put together half by half,
    and so it must be cut: output.chunk(2).
    """
    both = torch.cat([labels, torch.full_like(labels, none)])
    output = model(*_doubled(x_t, t), {"labels": both})
    return _combine(output[::2], output[1::2], scale)


@guided_in_one_call.misconception
def conditional_half_alone(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """This is the conditional half, without guidance: the scale and the other half go unused."""
    return _halves(model, x_t, t, labels, none)[0]


@guided_in_one_call.misconception
def whole_answer(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """This is the model's answer for the doubled batch, 2B items. Cut it in two, and combine the
    halves.
    """
    return torch.cat(_halves(model, x_t, t, labels, none))


@guided_in_one_call.misconception
def push_alone(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> Tensor:
    """This is the push alone, scale (cond - uncond). It is to be added to the unconditional
    half.
    """
    cond, uncond = _halves(model, x_t, t, labels, none)
    return scale * (cond - uncond)


# --- 4: one class and not another ----------------------------------------------------------------


def _with_another(draw: Draw) -> Inputs:
    drawn = _labelled(draw)
    labels, none = drawn["labels"], drawn["none"]
    step = torch.empty_like(labels).random_(1, none - 1, generator=draw.generator)
    unwanted = (labels - 1 + step) % (none - 1) + 1  # another one, never 0
    strength = float(draw.uniform(0.6, 1.4, 1))
    names = ("model", "x_t", "t")
    return {
        **{name: drawn[name] for name in names},
        "wanted": labels,
        "unwanted": unwanted,
        "none": none,
        "scale": drawn["scale"],
        "strength": strength,
    }


def _thirds(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The answers for three labels, from one call."""
    labels = torch.cat([wanted, unwanted, torch.full_like(wanted, none)])
    a, b, c = model(x_t.repeat(3, 1, 1, 1), t.repeat(3), {"labels": labels}).chunk(3)
    return a, b, c


@task(
    points=3,
    inputs=_with_another,
    observe=_predicted,
    roundings=1024.0,
    package=[guidance.guided, guidance.composed],
    n_cases=3,
)
def one_but_not_another(
    model: Model,
    x_t: Tensor,
    t: Tensor,
    wanted: Tensor,
    unwanted: Tensor,
    none: int,
    scale: float,
    strength: float,
) -> Tensor:
    """Towards one class and away from another, from one call (Liu et al. 2022)."""
    labels = torch.cat([wanted, unwanted, torch.full_like(wanted, none)])  # (3B,)
    output = model(x_t.repeat(3, 1, 1, 1), t.repeat(3), {"labels": labels})
    good, bad, uncond = output.chunk(3)  # 3 x (B, C, H, W)
    return uncond + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def towards_both(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """A sign: it leads towards the unwanted class as well. That push is to be taken off."""
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return uncond + scale * (good - uncond) + strength * (bad - uncond)


@one_but_not_another.misconception
def unwanted_in_place_of_none(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """This is a negative prompt, unwanted + scale (wanted - unwanted). Asked for is the
    composition: start at "none", with a push of its own for each of the two classes.
    """
    good, bad, _ = _thirds(model, x_t, t, wanted, unwanted, none)
    return bad + scale * (good - bad)


@one_but_not_another.misconception
def unwanted_taken_off_whole(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The whole answer for the unwanted class is taken off. Only what sets it apart from "none" may
    be: strength (unwanted - none).
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return uncond + scale * (good - uncond) - strength * bad


@one_but_not_another.misconception
def measured_from_the_wanted(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The push away from the unwanted class is measured from the wanted one. Both are measured from
    "none".
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return uncond + scale * (good - uncond) - strength * (bad - good)


@one_but_not_another.misconception
def one_factor_for_both(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """Both pushes have the factor `scale`, or, which is the same, one push goes from the unwanted
    class to the wanted one. The push away from the unwanted class has its own, `strength`.
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return uncond + scale * (good - uncond) - scale * (bad - uncond)


@one_but_not_another.misconception
def factors_exchanged(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The factors are exchanged: `scale` is for the wanted class, `strength` for the unwanted."""
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return uncond + strength * (good - uncond) - scale * (bad - uncond)


@one_but_not_another.misconception
def wanted_and_unwanted_exchanged(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The parts of the answer are in another order than the labels: it leads towards what is
    unwanted.
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return uncond + scale * (bad - uncond) - strength * (good - uncond)


@one_but_not_another.misconception
def none_taken_for_unwanted(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The second and the third part of the answer are exchanged, "none" and unwanted: the parts
    come in the order of the labels.
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return bad + scale * (good - bad) - strength * (uncond - bad)


@one_but_not_another.misconception
def three_calls(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The numbers are right, but the model is called three times. One call with a batch of 3B does
    for all, cut with chunk(3).
    """
    good, bad, uncond = (
        model(x_t, t, {"labels": labels})
        for labels in (wanted, unwanted, torch.full_like(wanted, none))
    )
    return uncond + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def two_doubled_calls(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The numbers are right, but the model is called twice, each time with "none". Put the three
    labels into one batch of 3B, cut with chunk(3).
    """
    good, uncond = _halves(model, x_t, t, wanted, none)
    bad, _ = _halves(model, x_t, t, unwanted, none)
    return uncond + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def class_0_as_the_base(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The third part has zeros as labels, and so both pushes start at class 0. "None" is the label
    `none`.
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, 0)
    return uncond + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def none_taken_for_the_first(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The parts are taken as none, wanted, unwanted, but the labels went in as wanted, unwanted,
    none. The parts come in the order of the labels.
    """
    uncond, good, bad = _thirds(model, x_t, t, wanted, unwanted, none)
    return uncond + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def thirds_of_the_channels(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The answer is cut along its channels. The three parts lie one behind the other in the batch,
    its first dimension: output.chunk(3).
    """
    labels = torch.cat([wanted, unwanted, torch.full_like(wanted, none)])
    output = model(x_t.repeat(3, 1, 1, 1), t.repeat(3), {"labels": labels})
    good, bad, uncond = output.chunk(3, dim=1)
    return uncond + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def measured_from_the_guided(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The push away from the unwanted class is measured from the answer that is guided already.
    Both pushes are measured from "none".
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    strong = uncond + scale * (good - uncond)
    return strong - strength * (bad - strong)


@one_but_not_another.misconception
def t_repeated_three_times_one_by_one(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """x_t is repeated part by part, t item by item (repeat_interleave): most items get another's
    timestep. t.repeat(3) keeps them together.
    """
    labels = torch.cat([wanted, unwanted, torch.full_like(wanted, none)])
    output = model(x_t.repeat(3, 1, 1, 1), t.repeat_interleave(3), {"labels": labels})
    good, bad, uncond = output.chunk(3)
    return uncond + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def none_counted_twice(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """Two guided answers are added, so that "none" is in the sum twice. Start at it once and add
    both pushes.
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return 2 * uncond + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def unwanted_ignored(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """The wanted class is guided to, but nothing leads away from the unwanted one: take off
    strength (unwanted - none).
    """
    good, _, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return uncond + scale * (good - uncond)


@one_but_not_another.misconception
def started_at_the_wanted(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """It starts at the answer for the wanted class, and so counts that push once more than `scale`
    says. Start at "none".
    """
    good, bad, uncond = _thirds(model, x_t, t, wanted, unwanted, none)
    return good + scale * (good - uncond) - strength * (bad - uncond)


@one_but_not_another.misconception
def items_repeated_three_times_one_by_one(
    model: Model, x_t: Tensor, t: Tensor, wanted: Tensor, unwanted: Tensor, none: int,
    scale: float, strength: float,
) -> Tensor:  # fmt: skip
    """x_t and t are repeated item by item (repeat_interleave), the labels part by part: most items
    get another's. x_t.repeat(3, 1, 1, 1) and t.repeat(3) keep the parts together.
    """
    labels = torch.cat([wanted, unwanted, torch.full_like(wanted, none)])
    output = model(x_t.repeat_interleave(3, 0), t.repeat_interleave(3), {"labels": labels})
    good, bad, uncond = output.chunk(3)
    return uncond + scale * (good - uncond) - strength * (bad - uncond)


# --- 5: in an interval ---------------------------------------------------------------------------


def _with_interval(draw: Draw) -> Inputs:
    """Some items inside and some outside, both ends among them; in case 2 all are outside."""
    drawn = _labelled(draw, fewest=5)
    n_items = len(drawn["labels"])
    first, last = draw.integer(150, 350), draw.integer(600, 800)
    t = torch.tensor([first, draw.integer(0, first), last, draw.integer(last + 1, 1000)])
    more = torch.tensor([draw.integer(first + 1, last) for _ in range(n_items - len(t))])
    t = torch.cat([t, more]).roll(-draw.case)  # in case 0 the first lies inside, in case 1 not
    if draw.case == 2:
        t = torch.tensor([draw.integer(0, first) for _ in range(n_items - 1)] + [last + 1])
    if draw.case == 3:
        t = torch.tensor([draw.integer(first + 1, last) for _ in range(n_items)])
    return {**drawn, "t": t, "first": first, "last": last}


def _in_interval(answer: Answer, inputs: Inputs) -> Mapping[str, Any]:
    model, t = inputs["model"], inputs["t"]
    output = answer(*inputs.values())
    seen = {"the answer": output}
    if not ((t >= inputs["first"]) & (t <= inputs["last"])).any():
        seen["the number of items given to the model where none is guided"] = sum(model.sizes)
    return seen


def _select(strong: Tensor, cond: Tensor, inside: Tensor) -> Tensor:
    return torch.where(inside.view(-1, 1, 1, 1), strong, cond)


@task(
    points=3,
    inputs=_with_interval,
    observe=_in_interval,
    roundings=1024.0,
    package=[guidance.guided, guidance.composed],
)
def guided_in_an_interval(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Guidance for items whose t lies in [first, last] (Kynkaanniemi et al. 2024)."""
    inside = (first <= t) & (t <= last)  # (B,)
    if not inside.any():
        plain: Tensor = model(x_t, t, {"labels": labels})
        return plain
    both = torch.cat([labels, torch.full_like(labels, none)])  # (2B,)
    output = model(torch.cat([x_t, x_t]), torch.cat([t, t]), {"labels": both})
    cond, uncond = output.chunk(2)  # 2 x (B, C, H, W)
    strong = uncond + scale * (cond - uncond)
    return torch.where(inside.view(-1, 1, 1, 1), strong, cond)  # (B, 1, 1, 1) chooses


def _both(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Guided, conditional and unconditional answer."""
    cond, uncond = _halves(model, x_t, t, labels, none)
    return uncond + scale * (cond - uncond), cond, uncond


@guided_in_an_interval.misconception
def always_doubled(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """The numbers are right, but where no item lies in the interval half of the batch is computed
    for nothing. Call the model with the plain batch there.
    """
    strong, cond, _ = _both(model, x_t, t, labels, none, scale)
    return _select(strong, cond, (first <= t) & (t <= last))


def _frugal(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    inside: Tensor,
) -> Tensor:  # fmt: skip
    """A right answer for another set of items that are guided."""
    if not inside.any():
        plain: Tensor = model(x_t, t, {"labels": labels})
        return plain
    strong, cond, _ = _both(model, x_t, t, labels, none, scale)
    return _select(strong, cond, inside)


@guided_in_an_interval.misconception
def both_ends_left_out(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Items at `first` and at `last` are not guided. Both ends belong to the interval: <=."""
    return _frugal(model, x_t, t, labels, none, scale, (first < t) & (t < last))


@guided_in_an_interval.misconception
def last_left_out(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Items at `last` are not guided, as if it were one past the end. Both ends belong to the
    interval.
    """
    return _frugal(model, x_t, t, labels, none, scale, (first <= t) & (t < last))


@guided_in_an_interval.misconception
def first_left_out(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Items at `first` are not guided. Both ends belong to the interval."""
    return _frugal(model, x_t, t, labels, none, scale, (first < t) & (t <= last))


@guided_in_an_interval.misconception
def unconditional_outside(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Outside the interval the class is ignored: the scale is 0 there. "Off" is the scale 1, the
    conditional answer.
    """
    inside = (first <= t) & (t <= last)
    if not inside.any():
        plain: Tensor = model(x_t, t, {"labels": torch.full_like(labels, none)})
        return plain
    strong, _, uncond = _both(model, x_t, t, labels, none, scale)
    return _select(strong, uncond, inside)


@guided_in_an_interval.misconception
def scale_0_outside(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Outside the interval the class is ignored: the scale is 0 there, where 1 is "off". And where
    no item lies inside, half of the batch is computed for nothing.
    """
    strong, _, uncond = _both(model, x_t, t, labels, none, scale)
    return _select(strong, uncond, (first <= t) & (t <= last))


@guided_in_an_interval.misconception
def guided_outside(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Inside and outside are exchanged: guidance is on where it should be off."""
    return _frugal(model, x_t, t, labels, none, scale, (t < first) | (last < t))


@guided_in_an_interval.misconception
def first_item_decides(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """The first item's t decides for the whole batch. Each item has its own: torch.where chooses
    item by item.
    """
    inside = (first <= t[:1]) & (t[:1] <= last)
    return _frugal(model, x_t, t, labels, none, scale, inside.expand(len(t)))


@guided_in_an_interval.misconception
def any_item_decides(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """All items are guided as soon as one of them lies in the interval. Each has its own t:
    torch.where chooses item by item.
    """
    inside = ((first <= t) & (t <= last)).any()
    return _frugal(model, x_t, t, labels, none, scale, inside.expand(len(t)))


@guided_in_an_interval.misconception
def only_if_all_lie_inside(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Nothing is guided unless all items lie in the interval. Each has its own t: torch.where
    chooses item by item.
    """
    inside = ((first <= t) & (t <= last)).all()
    return _frugal(model, x_t, t, labels, none, scale, inside.expand(len(t)))


@guided_in_an_interval.misconception
def zero_outside(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """The guided answer is multiplied by the mask, so that items outside get 0 for an answer. There
    the conditional one is wanted.
    """
    strong, _, _ = _both(model, x_t, t, labels, none, scale)
    return strong * ((first <= t) & (t <= last)).view(-1, 1, 1, 1)


@guided_in_an_interval.misconception
def scale_for_w_in_the_interval(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Inside, the push is added to the conditional answer, with the scale for a factor. It starts
    from the unconditional one; from the other the factor is scale - 1.
    """
    return _frugal(model, x_t, t, labels, none, scale + 1, (first <= t) & (t <= last))


@guided_in_an_interval.misconception
def interval_ignored(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """All items are guided, whatever their t: `first` and `last` go unused, or the two comparisons
    are joined by | (each t fulfils one of them) in place of &.
    """
    return _both(model, x_t, t, labels, none, scale)[0]


@guided_in_an_interval.misconception
def mask_not_reshaped(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """The mask, shape (B,), meets the last dimension of the answer, not its batch. Give it the
    shape (B, 1, 1, 1).
    """
    inside = (first <= t) & (t <= last)
    if not inside.any():
        plain: Tensor = model(x_t, t, {"labels": labels})
        return plain
    strong, cond, _ = _both(model, x_t, t, labels, none, scale)
    return torch.where(inside, strong, cond)


@guided_in_an_interval.misconception
def unconditional_beside_guided(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Where some items are guided, the others get the unconditional answer, as if their scale were
    0. "Off" is the scale 1, the conditional answer, as you have it where no item is guided.
    """
    inside = (first <= t) & (t <= last)
    if not inside.any():
        plain: Tensor = model(x_t, t, {"labels": labels})
        return plain
    strong, _, uncond = _both(model, x_t, t, labels, none, scale)
    return _select(strong, uncond, inside)


@guided_in_an_interval.misconception
def zero_beside_guided(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Where some items are guided, the answer is multiplied by the mask, and the others get 0.
    There the conditional one is wanted: torch.where chooses between two answers.
    """
    inside = (first <= t) & (t <= last)
    if not inside.any():
        plain: Tensor = model(x_t, t, {"labels": labels})
        return plain
    strong, _, _ = _both(model, x_t, t, labels, none, scale)
    return strong * inside.view(-1, 1, 1, 1)


@guided_in_an_interval.misconception
def branches_exchanged(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """The two answers in torch.where are exchanged: it takes the first where the mask is true, and
    those inside are to be guided.
    """
    inside = (first <= t) & (t <= last)
    if not inside.any():
        plain: Tensor = model(x_t, t, {"labels": labels})
        return plain
    strong, cond, _ = _both(model, x_t, t, labels, none, scale)
    return _select(cond, strong, inside)


@guided_in_an_interval.misconception
def none_where_nothing_is_guided(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """Where no item lies in the interval the model is asked for "none". Without guidance the class
    is still asked for: call it with the labels.
    """
    inside = (first <= t) & (t <= last)
    if not inside.any():
        plain: Tensor = model(x_t, t, {"labels": torch.full_like(labels, none)})
        return plain
    strong, cond, _ = _both(model, x_t, t, labels, none, scale)
    return _select(strong, cond, inside)


@guided_in_an_interval.misconception
def one_truth_for_many(
    model: Model, x_t: Tensor, t: Tensor, labels: Tensor, none: int, scale: float,
    first: int, last: int,
) -> Tensor:  # fmt: skip
    """`if`, `and` and a chain like first <= t <= last need a single yes or no, and t holds a value
    for each item. Make a mask of two comparisons in brackets, joined by &.
    """
    if first <= t <= last:
        return _both(model, x_t, t, labels, none, scale)[0]
    plain: Tensor = model(x_t, t, {"labels": labels})
    return plain

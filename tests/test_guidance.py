"""Chapter 08: guidance against two plain calls, against diffusers, and in closed form."""

import math
import re
from itertools import pairwise

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import gap, generator, normal, quick
from minidiff.ddim import sample_ddim
from minidiff.ddpm import Denoiser, sample_ddpm
from minidiff.forward import NoiseSchedule, cosine_schedule, extract, linear_schedule
from minidiff.guidance import composed, guided
from minidiff.unet import UNet

SCALES = [-1.0, 0.0, 0.5, 1.0, 1.5, 3.0, 7.5]

each_scale = pytest.mark.parametrize("scale", SCALES)
each_type = pytest.mark.parametrize("prediction_type", ["eps", "x_0", "v"])


def column(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def wave(x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
    """A model of no meaning, whose output depends on all that it is given."""
    phase = column(0.03 * t, x_t) + column(context["labels"], x_t)
    if "tokens" in context:
        phase = phase + column(context["tokens"].mean((1, 2)), x_t)
    return (1.7 * x_t + phase).sin()


def with_variance(x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
    return torch.cat([wave(x_t, t, context), wave(2 * x_t, t, context)], dim=1)


class Counter:
    """A model that notes what it is called with."""

    def __init__(self, model=wave) -> None:
        self.model, self.sizes, self.contexts = model, [], []

    def __call__(self, x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
        self.sizes.append(len(x_t))
        self.contexts.append(context)
        return self.model(x_t, t, context)


X_T, T = normal(5, 2, 4, 3), torch.tensor([0, 13, 500, 998, 999])
ASKED = {"labels": torch.tensor([0, 1, 2, 1, 0])}
OTHER = {"labels": torch.tensor([3, 3, 1, 0, 2])}
NONE = {"labels": torch.tensor(10)}
ALL_NONE = {"labels": torch.full((5,), 10)}


def naive(context, null, scale, x_t=X_T, t=T, model=wave):
    cond, uncond = model(x_t, t, context), model(x_t, t, null)
    return uncond + scale * (cond - uncond)


# --- the formula ---


@given(
    st.integers(1, 4), st.lists(st.integers(1, 4), max_size=3), st.integers(1, 3),
    st.floats(-3, 12), st.integers(0, 1000),
)  # fmt: skip
@quick
def test_one_doubled_call_is_two_plain_ones(n_items, space, n_channels, scale, seed):
    x_t = normal(n_items, n_channels, *space, seed=seed)
    t = torch.randint(1000, (n_items,), generator=generator(seed))
    context = {
        "labels": torch.randint(9, (n_items,), generator=generator(seed + 1)),
        "tokens": normal(n_items, 3, 2, seed=seed + 2),
    }
    null = {"labels": torch.tensor(9), "tokens": torch.zeros(3, 2, dtype=torch.float64)}
    all_null = {name: values.expand_as(context[name]) for name, values in null.items()}
    model = Counter()
    got = guided(model, context, null, scale)(x_t, t)
    assert gap(got, naive(context, all_null, scale, x_t, t)) < 1e-12
    assert model.sizes == [n_items if scale == 1 else 2 * n_items]


@each_scale
@pytest.mark.parametrize("original", [False, True], ids=["s", "w = s - 1"])
def test_the_formula_is_that_of_diffusers(scale, original):
    oracle = ClassifierFreeGuidance(scale - original, use_original_formulation=original)
    oracle._step, oracle._num_inference_steps = 0, 1
    expected = oracle.forward(wave(X_T, T, ASKED), wave(X_T, T, ALL_NONE)).pred
    assert gap(guided(wave, ASKED, NONE, scale)(X_T, T), expected) < 1e-12


def test_scale_0_is_unconditional_and_scale_1_is_off():
    assert gap(guided(wave, ASKED, NONE, 0.0)(X_T, T), wave(X_T, T, ALL_NONE)) < 1e-12
    model = Counter()
    assert torch.equal(guided(model, ASKED, NONE, 1)(X_T, T), wave(X_T, T, ASKED))
    assert model.sizes == [5]  # nothing is computed that would cancel
    assert model.contexts[0] is ASKED
    above_1 = math.nextafter(1, 2)  # no step where the second half comes in
    assert gap(guided(wave, ASKED, NONE, above_1)(X_T, T), wave(X_T, T, ASKED)) < 1e-12


@each_scale
def test_a_shared_null_context_is_one_for_each_item(scale):
    shared, each = (guided(wave, ASKED, null, scale)(X_T, T) for null in (NONE, ALL_NONE))
    assert torch.equal(shared, each)


def test_the_null_context_may_differ_from_item_to_item():
    got = guided(wave, ASKED, OTHER, 4.0)(X_T, T)  # a negative prompt of its own for each
    assert gap(got, naive(ASKED, OTHER, 4.0)) < 1e-12
    for i in range(5):
        one = guided(
            wave, {"labels": ASKED["labels"][i : i + 1]}, {"labels": OTHER["labels"][i]}, 4
        )
        assert gap(one(X_T[i : i + 1], T[i : i + 1]), got[i : i + 1]) < 1e-12


@each_scale
def test_items_of_a_batch_do_not_meet(scale):
    order = torch.tensor([3, 0, 4, 1, 2])
    moved, moved_null = ({"labels": c["labels"][order]} for c in (ASKED, OTHER))
    got = guided(with_variance, moved, moved_null, scale, (13, 998))(X_T[order], T[order])
    expected = guided(with_variance, ASKED, OTHER, scale, (13, 998))(X_T, T)[order]
    assert gap(got, expected) < 1e-12


@each_scale
def test_a_learned_variance_is_that_of_the_conditional_half(scale):
    got = guided(with_variance, ASKED, NONE, scale)(X_T, T)
    assert gap(got[:, :2], naive(ASKED, ALL_NONE, scale)) < 1e-12
    assert torch.equal(got[:, 2:], with_variance(X_T, T, ASKED)[:, 2:])
    fraction = Denoiser(guided(with_variance, ASKED, NONE, scale), linear_schedule())(X_T, T)[2]
    assert gap(2 * fraction - 1, with_variance(X_T, T, ASKED)[:, 2:]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_comes_in_bfloat16_is_not_rounded_once_more(dtype):
    def coarse(x_t, t, context):
        return wave(x_t, t, context).bfloat16()

    x_t = X_T.to(dtype)
    got = guided(coarse, ASKED, NONE, 7.5)(x_t, T)
    cond, uncond = (coarse(x_t, T, c).to(dtype) for c in (ASKED, ALL_NONE))
    assert got.dtype == dtype
    assert gap(got, uncond + 7.5 * (cond - uncond)) < 20 * torch.finfo(dtype).eps
    rounded = (coarse(x_t, T, ALL_NONE) + 7.5 * (cond - uncond).bfloat16()).to(dtype)
    assert gap(got, rounded) > 1e-3


def test_nothing_that_is_given_is_changed():
    x_t, t, asked = X_T.clone(), T.clone(), ASKED["labels"].clone()
    guided(lambda x, t, c: x.mul_(2), ASKED, NONE, 3.0)(X_T, T)
    guided(wave, ASKED, NONE, 3.0, (0, 500))(X_T, T)
    assert torch.equal(X_T, x_t)
    assert torch.equal(T, t)
    assert torch.equal(ASKED["labels"], asked)


def test_a_real_unet_is_guided_away_from_its_no_label():
    torch.manual_seed(0)
    model = UNet(channels=(8,), n_classes=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = model.double().requires_grad_(False)
    x_t, t, labels = normal(4, 1, 4, 4), torch.tensor([0, 9, 30, 49]), torch.tensor([0, 1, 2, 1])
    strong = guided(model, {"labels": labels}, {"labels": torch.tensor(3)}, 3.0)(x_t, t)
    cond, uncond = model(x_t, t, {"labels": labels}), model(x_t, t)  # no context: index 3
    assert gap(strong, uncond + 3 * (cond - uncond)) < 1e-12
    assert gap(strong, cond) > 1e-2


# --- the interval ---


def test_each_item_is_guided_where_its_own_t_lies_in_the_interval():
    got = guided(with_variance, ASKED, NONE, 3.0, (13, 998))(X_T, T)
    inside = naive(ASKED, ALL_NONE, 3.0)
    for i, expected in enumerate((ASKED, inside, inside, inside, ASKED)):
        if expected is ASKED:
            expected = wave(X_T, T, ASKED)
        assert gap(got[i, :2], expected[i]) < 1e-12
    assert torch.equal(got[:, 2:], with_variance(X_T, T, ASKED)[:, 2:])


@pytest.mark.parametrize(("t", "n_calls_items"), [(199, 5), (200, 10), (800, 10), (801, 5)])
def test_both_ends_belong_to_the_interval_and_outside_nothing_is_doubled(t, n_calls_items):
    model = Counter()
    got = guided(model, ASKED, NONE, 3.0, (200, 800))(X_T, t := torch.full((5,), t))
    assert model.sizes == [n_calls_items]
    scale = 3.0 if n_calls_items == 10 else 1.0
    assert gap(got, naive(ASKED, ALL_NONE, scale, t=t)) < 1e-12


@each_scale
def test_an_interval_of_all_timesteps_is_no_interval(scale):
    everywhere = guided(wave, ASKED, NONE, scale)(X_T, T)
    assert torch.equal(guided(wave, ASKED, NONE, scale, (0, 999))(X_T, T), everywhere)
    assert torch.equal(guided(wave, ASKED, NONE, scale, (-math.inf, 1e9))(X_T, T), everywhere)
    sigma = 0.002 + T / 12.5  # other chapters count noise levels instead
    by_level = guided(lambda x, t, c: wave(x, T.repeat(len(x) // 5), c), ASKED, NONE, scale)
    assert gap(by_level(X_T, sigma), everywhere) < 1e-12


# --- several contexts ---


def test_composed_is_the_sum_over_contexts():
    scales = [1.5, -0.5]
    got = composed(with_variance, [ASKED, OTHER], NONE, scales)(X_T, T)
    uncond = wave(X_T, T, ALL_NONE)
    expected = uncond.clone()
    for context, scale in zip((ASKED, OTHER), scales, strict=True):
        expected += scale * (wave(X_T, T, context) - uncond)
    assert gap(got[:, :2], expected) < 1e-12
    assert torch.equal(got[:, 2:], with_variance(X_T, T, ASKED)[:, 2:])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=2), st.floats(-3, 3))
@quick
def test_composed_is_linear_in_its_scales(scales, factor):
    def difference(a: float, b: float) -> Tensor:
        return composed(wave, [ASKED, OTHER], NONE, [a, b])(X_T, T) - wave(X_T, T, ALL_NONE)

    a, b = scales
    assert gap(difference(a, b), difference(a, 0) + difference(0, b)) < 1e-11
    assert gap(difference(factor * a, factor * b), factor * difference(a, b)) < 1e-11
    swapped = composed(wave, [OTHER, ASKED], NONE, [b, a])(X_T, T) - wave(X_T, T, ALL_NONE)
    assert gap(swapped, difference(a, b)) < 1e-11


@each_scale
def test_a_context_named_twice_counts_twice(scale):
    twice = composed(wave, [ASKED, ASKED], NONE, [scale, scale])(X_T, T)
    assert gap(twice, naive(ASKED, ALL_NONE, 2 * scale)) < 1e-11
    zero = composed(wave, [ASKED, OTHER], NONE, [scale, 0.0])(X_T, T)
    assert gap(zero, naive(ASKED, ALL_NONE, scale)) < 1e-12


def test_another_class_for_none_is_a_composition_too():
    """B + s (A - B) is none + s (A - none) + (1 - s) (B - none)."""
    negative = guided(wave, ASKED, OTHER, 3.0)(X_T, T)
    mixed = composed(wave, [ASKED, OTHER], NONE, [3.0, -2.0])(X_T, T)
    assert gap(negative, mixed) < 1e-12


def test_several_contexts_take_one_call_and_outside_the_interval_the_first_is_asked_for():
    model = Counter()
    strong = composed(model, [ASKED, OTHER], NONE, [2.0, -1.0], (200, 800))
    strong(X_T, torch.full((5,), 500))
    got = strong(X_T, t := torch.full((5,), 900))
    assert model.sizes == [15, 5]
    labels = torch.cat([ASKED["labels"], OTHER["labels"], ALL_NONE["labels"]])
    assert torch.equal(model.contexts[0]["labels"], labels)
    assert torch.equal(got, wave(X_T, t, ASKED))
    single = Counter()  # one context of two at scale 1 is not "off"
    composed(single, [ASKED, OTHER], NONE, [1.0, 1.0])(X_T, T)
    assert single.sizes == [15]


# --- eps, x_0 and v; clipping ---


def speaking(prediction_type: str, schedule: NoiseSchedule):
    """The model `wave`, which names x_0, in another language."""

    def model(x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
        x_0 = wave(x_t, t, context)
        signal = extract(schedule.alphas_cumprod.sqrt(), t, like=x_t)
        spread = extract((1 - schedule.alphas_cumprod).sqrt(), t, like=x_t)
        eps = (x_t - signal * x_0) / spread
        return {"x_0": x_0, "eps": eps, "v": signal * eps - spread * x_0}[prediction_type]

    return model


@each_type
@each_scale
@pytest.mark.parametrize("clip", [None, (-1.0, 1.0)], ids=["unclipped", "clipped"])
def test_guidance_is_the_same_whatever_the_model_predicts(prediction_type, scale, clip):
    schedule = linear_schedule()  # 1 / sqrt(a_bar) is at most 157: it costs two digits
    strong = guided(speaking(prediction_type, schedule), ASKED, NONE, scale)
    got = Denoiser(strong, schedule, prediction_type, clip=clip)(X_T, T)
    x_0 = naive(ASKED, ALL_NONE, scale)
    assert gap(got.x_0, x_0 if clip is None else x_0.clamp(*clip)) < 1e-10


@each_type
def test_a_guided_sampler_draws_the_same_whatever_the_model_predicts(prediction_type):
    schedule = linear_schedule()
    x = [
        sample_ddim(
            Denoiser(guided(speaking(kind, schedule), ASKED, NONE, 3.0), schedule, kind),
            X_T.shape, 10, x_T=X_T,
        )
        for kind in (prediction_type, "x_0")
    ]  # fmt: skip
    assert gap(*x) < 1e-10


def test_clipping_comes_after_guidance():
    """Halves of 3 and 5 at s = 3 ask for -1; clipped before, both are 1, and so is the result."""
    model = lambda x, t, c: c["labels"].view(-1, 1).double()  # noqa: E731
    strong = guided(model, {"labels": torch.tensor([3])}, {"labels": torch.tensor(5)}, 3.0)
    x_t, t = torch.zeros(1, 1).double(), torch.tensor([500])
    clip = Denoiser(strong, cosine_schedule(), "x_0")
    assert clip(x_t, t).x_0.item() == -1
    halves = [
        Denoiser(model, cosine_schedule(), "x_0", {"labels": torch.tensor([label])})(x_t, t).x_0
        for label in (3, 5)
    ]
    assert (halves[1] + 3 * (halves[0] - halves[1])).item() == 1


# --- in closed form ---

WIDE, NARROW = 1.0, 0.25  # variances of all data and of the class asked for, both with mean 0


def gaussian(schedule: NoiseSchedule, means=(0.0, 0.0), variances=(WIDE, NARROW)):
    """The optimal eps for normal data; label 0 is all data, 1 the class."""

    def model(x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
        mean, variance = (
            column(torch.tensor(v, dtype=torch.float64)[context["labels"]], x_t)
            for v in (means, variances)
        )
        a_bar = extract(schedule.alphas_cumprod, t, like=x_t)
        return (1 - a_bar).sqrt() * (x_t - a_bar.sqrt() * mean) / (a_bar * variance + 1 - a_bar)

    return model


def guided_gaussian(schedule: NoiseSchedule, scale: float, n_items: int) -> Denoiser:
    labels = torch.ones(n_items, dtype=torch.int64)
    null = {"labels": torch.tensor(0)}
    strong = guided(gaussian(schedule), {"labels": labels}, null, scale)
    return Denoiser(strong, schedule, clip=None)


def exact_gain(schedule: NoiseSchedule, scale: float) -> float:
    """By how much the deterministic path shrinks or stretches its start, from T - 1 to the data.

    In y = x / sqrt(a_bar) and sigma^2 = 1 / a_bar - 1 it is dy / dsigma = eps, and
    d(log y) = sigma [s / (NARROW + sigma^2) + (1 - s) / (WIDE + sigma^2)] dsigma.
    """
    a_bar = schedule.alphas_cumprod[-1].item()
    squared = 1 / a_bar - 1
    narrow, wide = NARROW / (NARROW + squared), WIDE / (WIDE + squared)
    return (narrow**scale * wide ** (1 - scale) / a_bar) ** 0.5


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 3.0])
def test_guided_ddim_follows_the_exact_path_to_first_order(scale):
    schedule = linear_schedule(8000)  # its steps are what the error comes from
    x_T = torch.ones(1, 1, dtype=torch.float64)
    errors = []
    for n_steps in (250, 500, 1000):
        x = sample_ddim(guided_gaussian(schedule, scale, 1), (1, 1), n_steps, x_T=x_T)
        errors.append(abs(math.log(x.item() / exact_gain(schedule, scale))))
    for before, after in pairwise(errors):
        assert 1.8 < before / after < 2.2


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 3.0])
def test_the_width_is_not_that_of_the_sharpened_density_and_depends_on_the_sampler(scale):
    """Bradley & Nakkiran 2024 (arXiv:2408.09000), section 3, for any two variances.

    The sharpened density p(x|c)^s p(x)^(1-s) has the variance 1 / (s / NARROW + (1 - s) / WIDE).
    """
    schedule = linear_schedule()
    sharpened = 1 / (scale / NARROW + (1 - scale) / WIDE)
    path = NARROW**scale * WIDE ** (1 - scale)  # of the deterministic sampler
    power, ratio = 2 * scale - 1, WIDE / NARROW
    chain = path**2 * (ratio**power - 1) / (power * (WIDE - NARROW))  # of the ancestral one
    assert abs(exact_gain(schedule, scale) ** 2 / path - 1) < 1e-3  # a_bar at T - 1: 4e-5
    x = sample_ddpm(
        guided_gaussian(schedule, scale, 4000),
        (4000, 1),
        x_T=normal(4000, 1),
        generator=generator(1),
    )
    # half a percent for 1,000 steps, and four standard errors for 4,000 samples
    assert abs(x.std().item() / chain**0.5 - 1) < 0.005 + 4 / 8000**0.5
    if scale in (0, 1):
        assert gap(*torch.tensor([[path, chain], [sharpened] * 2])) < 1e-12
    else:
        assert path < 0.8 * chain < 0.8 * sharpened


def test_guidance_is_the_gradient_of_the_classifier_that_the_model_holds():
    """-(cond - uncond) / sqrt(1 - a_bar) = d/dx log p(c | x_t), Bayes' rule on a mixture."""
    schedule = cosine_schedule()
    means = torch.tensor([-1.0, 0.5, 1.5], dtype=torch.float64)
    t = torch.arange(0, 1000, 37)
    a_bar = extract(schedule.alphas_cumprod, t, like=torch.zeros(len(t), 1).double())
    x_t = (2 * normal(len(t), 1)).requires_grad_()
    logits = -((x_t - a_bar.sqrt() * means).square()) / (2 * (0.09 * a_bar + 1 - a_bar))  # (B, 3)

    def model(x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
        weights = torch.cat([torch.eye(3), torch.zeros(1, 3)]).double()[context["labels"]]
        a = extract(schedule.alphas_cumprod, t, like=x_t)
        square = (x_t - a.sqrt() * means).square() / (2 * (0.09 * a + 1 - a))
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, (-square).softmax(1))
        mean = (weights * means).sum(1, keepdim=True)
        return (1 - a).sqrt() * (x_t - a.sqrt() * mean) / (0.09 * a + 1 - a)

    for c in range(3):
        (slope,) = torch.autograd.grad(logits.log_softmax(1)[:, c].sum(), x_t, retain_graph=True)
        labels = {"labels": torch.full((len(t),), c)}
        with torch.no_grad():
            strong, plain = (
                guided(model, labels, {"labels": torch.tensor(3)}, s)(x_t, t) for s in (1.0, 0.0)
            )
        got = -(strong - plain) / (1 - a_bar).sqrt()
        assert gap(got / slope.abs().clamp(min=1), slope / slope.abs().clamp(min=1)) < 1e-10


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance_scales": [1.0, 2.0]}, "guidance_scales must have one entry for each of at least"
         " one context, got 2 for 1"),
        ({"contexts": [], "guidance_scales": []}, "at least one context, got 0 for 0"),
        ({"interval": (500, 499)}, "interval must be (first, last) with first <= last, got (500,"),
        ({"interval": (math.nan, 5)}, "(first, last) with first <= last, got (nan"),
        ({"null_context": {"tokens": torch.tensor(1)}}, "null_context must have the names of "
         "context, ['labels'], got ['tokens']"),
        ({"null_context": {}}, "null_context must have the names of context, ['labels'], got []"),
        ({"contexts": [{}], "null_context": {}}, "the names of context, [], got []"),
        ({"null_context": {"labels": torch.full((4,), 10)}}, "null_context 'labels' must have shape"
         " () or (5,), got (4,)"),
        ({"null_context": {"labels": torch.tensor([10])}}, "shape () or (5,), got (1,)"),
        ({"contexts": [ASKED, {"labels": torch.zeros(4)}], "guidance_scales": [1.0, 1.0]},
         "each context must have ['labels'], 5 each, got {'labels': 4}"),
        ({"contexts": [ASKED, {"tokens": torch.zeros(5)}], "guidance_scales": [1.0, 1.0]},
         "each context must have ['labels'], 5 each, got {'tokens': 5}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_at_once(arguments, message):
    given = {"contexts": [ASKED], "null_context": NONE, "guidance_scales": [3.0]} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        composed(wave, **given)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_guided_model_has_its_own_context_and_batch(scale):
    strong = guided(wave, ASKED, NONE, scale)
    with pytest.raises(ValueError, match="context must be None: a guided model has its own"):
        strong(X_T, T, ASKED)
    with pytest.raises(ValueError, match="x_t must have 5 items, as the context, got 4"):
        strong(X_T[:4], T[:4])
    denoise = Denoiser(strong, linear_schedule(), context=ASKED)
    with pytest.raises(ValueError, match="context must be None"):
        denoise(X_T, T)

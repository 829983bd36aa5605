"""The loss, the average, the loop, and that a killed training ends as if nothing had happened."""

import copy
import dataclasses
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from minidiff import training
from minidiff.data import load_digits
from minidiff.forward import (
    NoiseSchedule,
    cosine_schedule,
    forward_diffusion,
    linear_schedule,
)
from minidiff.improved import hybrid_loss
from minidiff.training import (
    EMA,
    PredictionType,
    autocast,
    draw_integers,
    drop_context,
    fit,
    learning_rate_at,
    load_tensors,
    save_tensors,
    step_generator,
    train,
    train_step,
    training_target,
)
from minidiff.unet import UNet

PREDICTION_TYPES: tuple[PredictionType, ...] = ("eps", "x_0", "v")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that a model remembers."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal, bit for bit."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


# --- the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("space", [(), (5,), (4, 6), (2, 3, 4)])
def test_train_step_is_the_mean_squared_error(
    prediction_type: PredictionType, space: tuple[int, ...]
) -> None:
    """Ho et al. 2020, eq. 14, item by item and with plain numbers."""
    schedule = linear_schedule(1000)
    t = torch.tensor([0, 500, 999])
    x_0, noise, output = (normal(3, 2, *space, seed=seed) for seed in range(3))
    seen: dict[str, Any] = {}

    def model(x_t: Tensor, t: Tensor, context: Any = None) -> Tensor:
        seen.update(x_t=x_t, t=t, context=context)
        return output

    context = {"labels": t}
    loss = train_step(model, x_0, t, schedule, context, noise, None, prediction_type)
    squares = []
    for i, last in enumerate(t.tolist()):
        a_bar = math.prod(1 - beta for beta in schedule.betas[: last + 1].tolist())
        signal, spread = a_bar**0.5, (1 - a_bar) ** 0.5
        assert difference(seen["x_t"][i], signal * x_0[i] + spread * noise[i]) <= 1e-12
        target = {"eps": noise[i], "x_0": x_0[i], "v": signal * noise[i] - spread * x_0[i]}
        squares += (output[i] - target[prediction_type]).square().flatten().tolist()
    assert loss.item() == pytest.approx(sum(squares) / len(squares), abs=1e-12)
    assert seen["t"] is t
    assert seen["context"] is context


@pytest.mark.parametrize("make_schedule", [linear_schedule, cosine_schedule])
def test_the_v_target_is_that_of_diffusers(
    make_schedule: Callable[[int], NoiseSchedule],
) -> None:
    schedule, t = make_schedule(1000), torch.tensor([0, 1, 250, 998, 999])
    x_0, noise = normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1)
    theirs = DDIMScheduler()
    theirs.alphas_cumprod = schedule.alphas_cumprod
    velocity = theirs.get_velocity(x_0, noise, t)
    assert difference(training_target(x_0, noise, t, schedule, "v"), velocity) <= 1e-12


def test_v_at_zero_terminal_snr_asks_for_the_data() -> None:
    """Where x_t is pure noise, eps says nothing; v = -x_0 still does."""
    schedule = NoiseSchedule(torch.tensor([0.5, 1.0], dtype=torch.float64))
    x_0, noise = normal(1, 4), normal(1, 4, seed=1)
    assert torch.equal(training_target(x_0, noise, torch.tensor([1]), schedule, "v"), -x_0)


def test_train_step_draws_its_noise_from_the_generator() -> None:
    schedule, x_0, t = linear_schedule(), normal(2, 1, 4, 4), torch.tensor([3, 700])
    model = lambda x_t, t, context=None: x_t  # noqa: E731
    noise = torch.randn(x_0.shape, generator=seeded(7), dtype=torch.float64)
    drawn = train_step(model, x_0, t, schedule, generator=seeded(7))
    assert torch.equal(drawn, train_step(model, x_0, t, schedule, noise=noise))


def test_the_loss_is_computed_in_the_precision_of_the_data() -> None:
    def model(x_t: Tensor, t: Tensor, context: Any = None) -> Tensor:
        return x_t.bfloat16()  # as a model under autocast answers

    x_0 = torch.zeros(2, 1, 4, 4)
    assert train_step(model, x_0, torch.tensor([0, 9]), linear_schedule()).dtype == torch.float32


def test_a_model_with_another_output_shape_is_refused() -> None:
    message = re.escape("output must be shaped like x_0, (2, 1, 4, 4), got (2, 2, 4, 4)")
    with pytest.raises(ValueError, match=message):
        train_step(
            lambda x_t, t, context=None: torch.cat([x_t, x_t], 1),
            torch.zeros(2, 1, 4, 4),
            torch.tensor([0, 1]),
            linear_schedule(),
        )


def test_an_unknown_prediction_type_is_refused() -> None:
    message = "prediction_type must be 'eps', 'x_0' or 'v', got 'epsilon'"
    x, t = torch.zeros(1, 1), torch.tensor([0])
    with pytest.raises(ValueError, match=message):
        training_target(x, x, t, linear_schedule(), "epsilon")
    with pytest.raises(ValueError, match=message):
        next(train(tiny_unet(), DIGITS, linear_schedule(), n_steps=1, prediction_type="epsilon"))


# --- the moving average -------------------------------------------------------------------------


def test_ema_is_torchs_at_constant_decay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(3, 2))
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    theirs.update_parameters(model)  # its first update copies
    ema = EMA(model, decay=0.99)
    ema.n_updates = 10**6  # long after the warm-up
    for seed in range(5):
        for i, parameter in enumerate(model.parameters()):
            parameter.data += normal(*parameter.shape, seed=10 * seed + i).float()
        ema.update(model)
        theirs.update_parameters(model)
        for ours, reference in zip(ema.model.parameters(), theirs.module.parameters(), strict=True):
            assert torch.equal(ours, reference)


@pytest.mark.parametrize("n_updates", [1, 2, 10, 100])
def test_ema_forgets_its_start_as_the_warm_up_says(n_updates: int) -> None:
    """Share of the start after n updates: 1/10 * 2/11 * ... * n/(9 + n) = 1 / C(n + 9, 9)."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.9999)
    nn.init.ones_(model.weight)
    for _ in range(n_updates):
        ema.update(model)
    start = 1 - ema.model.weight.item()
    assert start == pytest.approx(1 / math.comb(n_updates + 9, 9), rel=1e-9, abs=1e-14)
    assert ema.n_updates == n_updates


def test_ema_keeps_to_its_decay_after_the_warm_up() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.5)
    nn.init.ones_(model.weight)
    expected = 1.0
    for n in range(20):  # (1 + n) / (10 + n) reaches 0.5 at n = 8
        ema.update(model)
        expected *= (1 + n) / (10 + n) if n < 8 else 0.5
        assert 1 - ema.model.weight.item() == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_ema_copies_buffers_and_leaves_the_model_alone() -> None:
    model = nn.BatchNorm1d(3)
    ema = EMA(model)
    model(torch.randn(8, 3, generator=seeded()))
    before = weights(model)
    ema.update(model)
    assert identical(dict(ema.model.named_buffers()), dict(model.named_buffers()))
    assert ema.model.num_batches_tracked.item() == 1
    assert identical(weights(model), before)
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert not ema.model.training


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_a_bad_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"decay must lie in [0, 1), got {decay}")):
        EMA(nn.Linear(1, 1), decay)


# --- the pieces of the loop ---------------------------------------------------------------------


@pytest.mark.parametrize(("n_steps", "n_warmup"), [(10, 2), (1000, 100), (7, 0), (50, 100)])
def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine(
    n_steps: int, n_warmup: int
) -> None:
    rates = [learning_rate_at(step, n_steps, 3e-4, n_warmup) for step in range(1, n_steps + 1)]
    n_warmup = min(n_warmup, n_steps // 2)
    rise, fall = rates[:n_warmup], rates[n_warmup:]
    assert rise == pytest.approx([3e-4 * step / n_warmup for step in range(1, n_warmup + 1)])
    assert fall == sorted(fall, reverse=True)
    assert max(rates) <= 3e-4
    assert fall[-1] == pytest.approx(0, abs=1e-18)
    # a half cosine is symmetric about its middle, where it is at half the peak
    assert fall[:-1] == pytest.approx([3e-4 - rate for rate in fall[-2::-1]])


def test_integers_are_drawn_evenly() -> None:
    counts = draw_integers(10, 100_000, seeded()).bincount(minlength=10)
    chi_square = ((counts - 10_000).square() / 10_000).sum().item()
    assert len(counts) == 10
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


def test_each_step_has_random_numbers_of_its_own() -> None:
    draws = [
        torch.rand(4, generator=step_generator(seed, step)).tolist()
        for seed in (0, 1, 2)
        for step in (1, 2, 3)
    ]
    assert len({tuple(draw) for draw in draws}) == 9
    assert draws[0] == torch.rand(4, generator=step_generator(0, 1)).tolist()


def test_context_is_dropped_at_the_given_rate_and_whole() -> None:
    n_items, probability = 20_000, 0.1
    context = {
        "labels": torch.arange(n_items),
        "tokens": torch.ones(n_items, 3, 2),
        "tokens_mask": torch.ones(n_items, 3, dtype=torch.bool),
    }
    before = copy.deepcopy(context)
    null = {
        "labels": torch.tensor(-1),
        "tokens": torch.zeros(3, 2),
        "tokens_mask": torch.tensor([True, False, False]),
    }
    dropped = drop_context(context, null, probability, seeded())
    lost = dropped["labels"] == -1
    error = (probability * (1 - probability) / n_items) ** 0.5
    assert lost.double().mean().item() == pytest.approx(probability, abs=4 * error)
    assert torch.equal(dropped["labels"][~lost], context["labels"][~lost])
    assert torch.equal(dropped["tokens"], (~lost).float().view(-1, 1, 1).expand(-1, 3, 2))
    expected = torch.where(lost[:, None], null["tokens_mask"], context["tokens_mask"])
    assert torch.equal(dropped["tokens_mask"], expected)
    assert dropped["tokens_mask"].dtype == torch.bool
    assert identical(context, before)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, [1, 2, 3]), (1.0, [9, 9, 9])])
def test_context_is_never_or_always_dropped(probability: float, expected: list[int]) -> None:
    context, null = {"labels": torch.tensor([1, 2, 3])}, {"labels": torch.tensor(9)}
    dropped = drop_context(context, null, probability, seeded())
    assert dropped["labels"].tolist() == expected


def test_a_null_context_of_other_names_is_refused() -> None:
    message = re.escape("null_context must have ['labels'], got ['tokens']")
    context, null = {"labels": torch.tensor([1])}, {"tokens": torch.tensor([1])}
    with pytest.raises(ValueError, match=message):
        drop_context(context, null, 0.1, seeded())


@pytest.mark.parametrize("probability", [10, -0.1, math.nan])
def test_a_dropout_that_is_no_probability_is_refused(probability: float) -> None:
    context, null = {"labels": torch.tensor([1])}, {"labels": torch.tensor(1)}
    with pytest.raises(ValueError, match=re.escape(f"must lie in [0, 1], got {probability}")):
        drop_context(context, null, probability, seeded())


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_bfloat16_only_where_the_processor_has_it(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (
            torch.bfloat16 if expected else torch.float32
        )


# --- files --------------------------------------------------------------------------------------


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 4).half(),
        "bfloat": torch.randn(2).bfloat16(),
        "double": normal(2, 3).T,  # not contiguous
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(7),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    save_tensors(tmp_path / "new folder" / "a.safetensors", tensors, {"by": "me"})
    loaded, metadata = load_tensors(tmp_path / "new folder" / "a.safetensors")
    assert identical(loaded, {name: value.detach() for name, value in tensors.items()})
    assert metadata == {"by": "me"}


def test_a_failed_save_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(1)}, {})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(training.os, function, full_disk)
            with pytest.raises(OSError, match="No space left"):
                save_tensors(path, {"x": torch.zeros(1)}, {})
        assert load_tensors(path)[0]["x"].item() == 1
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("n_bytes", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(100)}, {"by": "me"})
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match="a.safetensors is no whole safetensors file"):
        load_tensors(path)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "a.safetensors"
    for legacy in (False, True):
        torch.save({"x": Trap()}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            load_tensors(path)
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weight file at .*nothing.safetensors"):
        load_tensors(tmp_path / "nothing.safetensors")


# --- the loop -----------------------------------------------------------------------------------

DIGITS, LABELS = (tensor[:8] for tensor in load_digits("train"))


def tiny_unet(seed: int = 0) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(channels=(4, 8), attention_levels=(1,), n_classes=10)


def another_loss(*args: Any) -> Tensor:
    """Twice the simple loss."""
    return 2 * train_step(*args)


def tiny_training(model: nn.Module, **changes: Any) -> Iterator[training.Progress]:
    """Train on eight digits with all that `train` can do."""
    arguments: dict[str, Any] = {
        "x_0": DIGITS,
        "schedule": linear_schedule(100),
        "n_steps": 6,
        "batch_size": 4,
        "prediction_type": "v",
        "context": {"labels": LABELS},
        "null_context": {"labels": torch.tensor(10)},
        "n_warmup": 2,
        "learning_rate": 1e-2,
    }
    return train(model, **arguments | changes)


def test_train_minimises_the_loss_that_it_is_given() -> None:
    """Called with the arguments of train_step, on the batches that train_step would get."""
    calls: list[tuple[Any, ...]] = []

    def noted(*args: Any) -> Tensor:
        calls.append(args)
        return another_loss(*args)

    model, schedule = tiny_unet(), linear_schedule(100)
    simple = [loss for _, loss in tiny_training(tiny_unet(), learning_rate=0.0)]
    twice = [
        loss for _, loss in tiny_training(model, loss=noted, learning_rate=0.0, schedule=schedule)
    ]
    assert twice == pytest.approx([2 * loss for loss in simple], rel=1e-6)
    for network, x_0, t, given, context, noise, generator, prediction_type in calls:
        assert network is model
        assert given is schedule
        assert x_0.shape == (4, *DIGITS.shape[1:])
        assert t.shape == context["labels"].shape == (4,)
        assert noise is None
        assert isinstance(generator, torch.Generator)
        assert prediction_type == "v"


def test_a_hybrid_training_moves_prediction_and_variance() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet(1, 2, channels=(4, 8), attention_levels=(), n_classes=10)
    before = model.conv_out.weight.clone()
    steps = list(tiny_training(model, loss=hybrid_loss, n_steps=3))
    assert [step for step, _ in steps] == [1, 2, 3]
    moved = (model.conv_out.weight - before).flatten(1).abs().amax(1)  # (2,)
    assert (moved > 0).all()


def test_fit_is_adamw_with_clipping_and_a_learning_rate() -> None:
    """The same five steps by hand, in float64, which autocast leaves alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    by_hand = copy.deepcopy(model)

    def loss_of(network: nn.Module, generator: torch.Generator) -> Tensor:
        x = torch.randn(16, 4, generator=generator, dtype=torch.float64)
        return 10 * (network(x) - x.sum(1, keepdim=True)).square().mean()

    ema = EMA(model)
    losses = [
        loss
        for _, loss in fit(
            model,
            lambda generator: loss_of(model, generator),
            n_steps=5, learning_rate=0.1, n_warmup=2, weight_decay=0.3, max_grad_norm=0.5,
            ema=ema, seed=3,
        )
    ]  # fmt: skip

    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1, weight_decay=0.3, foreach=False)
    average = EMA(by_hand)
    for step in range(1, 6):
        loss = loss_of(by_hand, step_generator(3, step))
        assert losses[step - 1] == pytest.approx(loss.item(), abs=1e-11)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        norm = sum(gradient.square().sum() for gradient in gradients) ** 0.5
        assert norm > 0.5  # there is something to clip
        for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
            parameter.grad = gradient * 0.5 / (norm + 1e-6)  # torch guards against 0 / 0 like this
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, 5, 0.1, 2)
        optimizer.step()
        average.update(by_hand)  # after the optimizer's step
    for ours, reference in ((model, by_hand), (ema.model, average.model)):
        for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
            assert difference(a, b) <= 1e-12


class Spy(nn.Module):
    """Answers nothing and writes down what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, t: Tensor, context: dict[str, Tensor]) -> Tensor:
        self.asked.append((x_t.detach(), t, context["labels"]))
        return self.weight * x_t


def test_train_draws_all_items_and_timesteps_evenly_and_keeps_labels_with_images() -> None:
    hidden = NoiseSchedule(torch.full((5,), 1e-12, dtype=torch.float64))  # x_t is x_0
    x_0 = torch.arange(8.0).view(8, 1, 1, 1)
    model = Spy()
    for _ in train(
        model, x_0, hidden, n_steps=100, batch_size=64,
        context={"labels": torch.arange(8)}, null_context={"labels": torch.tensor(8)},
        context_dropout=0.25,
    ):  # fmt: skip
        pass
    x_t, t, labels = (torch.cat(column) for column in zip(*model.asked, strict=True))
    item = x_t.round().flatten().long()
    for counts, quantile in ((t.bincount(), 18.5), (item.bincount(), 24.3)):  # p = 0.001
        expected = 6400 / len(counts)
        assert ((counts - expected).square() / expected).sum() < quantile
    lost = labels == 8
    assert torch.equal(labels[~lost], item[~lost])
    error = (0.25 * 0.75 / 6400) ** 0.5
    assert lost.double().mean().item() == pytest.approx(0.25, abs=4 * error)


def test_training_is_decided_by_the_seed_and_touches_no_global_generator() -> None:
    models = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        model = tiny_unet()
        torch.manual_seed(disturbance)
        random.seed(disturbance)
        before = torch.get_rng_state(), random.getstate()
        steps = [step for step, _ in tiny_training(model, seed=seed, n_steps=3)]
        assert steps == [1, 2, 3]
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        models.append(weights(model))
    assert identical(models[0], models[1])
    assert not identical(models[0], models[2])


@pytest.mark.slow
def test_training_comes_near_the_optimal_denoiser_of_eight_digits() -> None:
    """No model beats E[eps | x_t], and its loss exceeds that one's by E |model - E[eps | x_t]|^2.

    A model that knows nothing (it answers 0) has loss 1. Overfitting eight images must close nine
    tenths of the way from there to the optimum, which for a finite set is known exactly.
    """
    schedule = linear_schedule(100)
    points = DIGITS.flatten(1).double()  # (8, 64)
    a_bar = schedule.alphas_cumprod

    def optimal(x_t: Tensor, t: Tensor, context: Any = None) -> Tensor:
        signal, spread = a_bar[t].sqrt()[:, None], (1 - a_bar[t]).sqrt()[:, None]  # (B, 1)
        x = x_t.flatten(1).double()  # (B, 64)
        distances = (x[:, None] - signal[..., None] * points).square().sum(-1)  # (B, 8)
        x_0 = (-distances / (2 * spread.square())).softmax(1) @ points  # (B, 64)
        return ((x - signal * x_0) / spread).view(x_t.shape)

    torch.manual_seed(0)
    model = UNet(channels=(16, 32), attention_levels=())
    ema = EMA(model, decay=0.99)
    for _ in train(
        model, DIGITS, schedule, n_steps=200, batch_size=32, learning_rate=4e-3, n_warmup=20,
        ema=ema,
    ):  # fmt: skip
        pass

    n_items, generator = 4000, seeded(1)
    x_0 = DIGITS[draw_integers(8, n_items, generator)]
    t = draw_integers(100, n_items, generator)
    noise = torch.randn(x_0.shape, generator=generator)
    with torch.no_grad():
        best, reached, nothing = (
            train_step(answer, x_0, t, schedule, noise=noise).item()
            for answer in (optimal, ema.model, lambda x_t, t, context=None: 0 * x_t)
        )
        x_t, _ = forward_diffusion(x_0, t, schedule, noise)
        gap = (ema.model(x_t, t) - optimal(x_t, t)).square().mean().item()
    assert nothing == pytest.approx(1, abs=4 * (2 / noise.numel()) ** 0.5)
    assert best < reached < best + 0.1 * (nothing - best)
    assert reached - best == pytest.approx(gap, rel=0.1)  # the cross term vanishes in the mean


# --- stopping and going on ----------------------------------------------------------------------


def finish(state: Path, seed_of_model: int = 0, **changes: Any) -> dict[str, Tensor]:
    """Train to the end from whatever the state holds: model, average, moments, all of it."""
    model = tiny_unet(seed_of_model)
    ema = EMA(model)
    for _ in tiny_training(model, state_path=state, save_every=0, ema=ema, **changes):
        pass
    tensors, metadata = load_tensors(state)
    assert metadata["step"] == metadata["n_updates"] == str(changes.get("n_steps", 6))
    for start, trained in (("model.", model), ("ema.", ema.model)):
        saved = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        assert identical(saved, weights(trained))
    return tensors


@pytest.mark.parametrize("n_done", [1, 3, 5, 6])
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path, n_done: int) -> None:
    uninterrupted = finish(tmp_path / "a.safetensors")
    model = tiny_unet()
    state = tmp_path / "b.safetensors"
    steps = tiny_training(model, state_path=state, save_every=0, ema=EMA(model))
    for _ in range(n_done):
        next(steps)
    steps.close()
    resumed = finish(state, seed_of_model=1)  # the new process begins with other weights
    assert any("exp_avg_sq" in name for name in resumed)
    assert identical(resumed, uninterrupted)


def test_a_training_that_is_closed_early_loses_nothing(tmp_path: Path) -> None:
    state, model = tmp_path / "state.safetensors", tiny_unet()
    steps = tiny_training(model, state_path=state, save_every=3600)
    assert [next(steps).step for _ in range(3)] == [1, 2, 3]
    assert not state.exists()
    steps.close()
    tensors, metadata = load_tensors(state)
    assert metadata["step"] == "3"
    saved = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    assert identical(saved, weights(model))
    assert next(tiny_training(tiny_unet(seed=1), state_path=state)).step == 4


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    finished = finish(state)
    model = tiny_unet(seed=1)
    assert list(tiny_training(model, state_path=state, ema=EMA(model))) == []
    saved = {k.removeprefix("model."): v for k, v in finished.items() if k.startswith("model.")}
    assert identical(weights(model), saved)


def test_buffers_are_resumed_too(tmp_path: Path) -> None:
    """Batch normalisation remembers running means that no gradient ever touches."""

    def run(state: Path, seed: int, n_steps: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        ema = EMA(model)

        def loss_of(generator: torch.Generator) -> Tensor:
            x = torch.randn(8, 1, 6, 6, generator=generator)
            return (model(x).float() - 1).square().mean()

        steps = fit(model, loss_of, n_steps=6, n_warmup=1, ema=ema, state_path=state, save_every=0)
        for step, _ in steps:
            if step == n_steps:
                break
        return load_tensors(state)[0]

    uninterrupted = run(tmp_path / "a.safetensors", seed=0, n_steps=6)
    run(tmp_path / "b.safetensors", seed=0, n_steps=3)
    assert identical(run(tmp_path / "b.safetensors", seed=1, n_steps=6), uninterrupted)
    assert uninterrupted["model.1.num_batches_tracked"].item() == 6
    assert uninterrupted["ema.1.num_batches_tracked"].item() == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"n_steps": 7},
        {"learning_rate": 1e-3},
        {"n_warmup": 1},
        {"seed": 1},
        {"batch_size": 5},
        {"prediction_type": "eps"},
        {"context_dropout": 0.2},
        {"schedule": cosine_schedule(100)},
        {"x_0": DIGITS[:7], "context": {"labels": LABELS[:7]}},
        {"loss": another_loss},
        {"ema": None},
        {"ema": EMA(tiny_unet(), decay=0.9)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_state_of_another_training_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    state, model = tmp_path / "state.safetensors", tiny_unet()
    next(tiny_training(model, state_path=state, save_every=0, ema=EMA(model)))
    content = state.read_bytes()
    model = tiny_unet(seed=1)
    before = weights(model)
    with pytest.raises(ValueError, match="state.safetensors belongs to another training"):
        next(tiny_training(model, **{"state_path": state, "ema": EMA(model)} | changes))
    assert identical(weights(model), before)
    assert state.read_bytes() == content


@pytest.mark.parametrize("change", ["weight_decay", "max_grad_norm", "model"])
def test_the_state_of_another_fit_is_refused(tmp_path: Path, change: str) -> None:
    def run(width: int = 2, **changes: float) -> None:
        model = nn.Linear(3, width)
        loss_of = lambda generator: model(torch.ones(1, 3)).square().mean()  # noqa: E731
        next(fit(model, loss_of, n_steps=3, state_path=tmp_path / "state", save_every=0, **changes))

    run()
    with pytest.raises(ValueError, match="state belongs to another training"):
        run(width=5) if change == "model" else run(**{change: 0.123})


def test_a_truncated_state_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    finish(state)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ValueError, match="state.safetensors is no whole safetensors file"):
        next(tiny_training(tiny_unet(), state_path=state))


# --- a training that goes wrong -----------------------------------------------------------------


def normalised_regression(explodes_at: int, how: str) -> tuple[nn.Module, Callable[..., Tensor]]:
    """A model with running means whose loss goes wrong in one call."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    calls = 0

    def loss_of(generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        x = torch.randn(8, 3, generator=generator)
        if calls == explodes_at and how == "data":
            x[0, 0] = math.inf
        loss = (model(x).float() - 1).square().mean()
        if calls == explodes_at and how == "gradient":  # sqrt has no slope at 0
            loss = loss + (model[0].bias - model[0].bias.detach()).sqrt().sum()
        return loss

    return model, loss_of


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("data", r"the loss is nan and the gradient's norm nan at step 4"),
        ("gradient", r"the loss is [\d.]+ and the gradient's norm (nan|inf) at step 4"),
    ],
)
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    tmp_path: Path, how: str, said: str
) -> None:
    def run(explodes_at: int, state: Path) -> tuple[list[dict[str, Tensor]], str]:
        """Everything that model and average held after each step and at the end; the error."""
        model, loss_of = normalised_regression(explodes_at, how)
        ema, history, error = EMA(model), [], ""
        both = nn.ModuleDict({"model": model, "ema": ema.model})
        try:
            for _ in fit(model, loss_of, n_steps=6, n_warmup=1, ema=ema, state_path=state):
                history.append(weights(both))
        except FloatingPointError as raised:
            error = str(raised)
        return [*history, weights(both)], error

    healthy, error = run(0, tmp_path / "healthy.safetensors")
    assert error == ""
    state = tmp_path / "state.safetensors"
    broken, error = run(4, state)
    assert re.match(said + "; the model keeps the weights of step 3", error)
    assert identical(broken[-1], healthy[2])  # running means and average included
    tensors, metadata = load_tensors(state)
    assert metadata["step"] == "3"
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    resumed, error = run(0, state)
    assert error == ""
    assert len(resumed) == 4  # steps 4, 5, 6 and the end
    assert identical(resumed[-1], healthy[-1])


def test_a_loss_that_is_not_finite_at_the_first_step_leaves_no_state(tmp_path: Path) -> None:
    model, loss_of = normalised_regression(1, "data")
    before = weights(model)
    with pytest.raises(
        FloatingPointError, match="at step 1; the model keeps the weights of step 0"
    ):
        next(fit(model, loss_of, n_steps=6, state_path=tmp_path / "state.safetensors"))
    assert identical(weights(model), before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_0": DIGITS[:0]}, "x_0 must hold at least one item, got none"),
        ({"context": {"labels": LABELS[:7]}}, "context 'labels' must have 8 items, got 7"),
        ({"null_context": {"tokens": LABELS}}, "null_context must have ['labels'], got ['tokens']"),
        ({"x_0": DIGITS / 0}, "x_0 must be finite, got NaN or infinity"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        next(tiny_training(tiny_unet(), **changes))


def test_integer_images_are_refused() -> None:
    message = re.escape("must be a floating-point tensor (images in [-1, 1]), got torch.uint8")
    with pytest.raises(TypeError, match=message):
        next(tiny_training(tiny_unet(), x_0=torch.zeros(8, 1, 8, 8, dtype=torch.uint8)))


# --- kill -9 ------------------------------------------------------------------------------------

N_STEPS = 200

# Imports torch once, then forks a fresh process for every training it is asked for. It computes
# nothing itself: a process with threads of its own cannot be forked safely.
SERVER = f"""
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from minidiff import training
from minidiff.data import load_digits
from minidiff.forward import linear_schedule
from minidiff.unet import UNet

def say(word, number):
    os.write(1, f"{{word}} {{number}}\\n".encode())  # at once: no kill comes between the two

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def cut(part):
    os.truncate(part, os.path.getsize(part) // 2)
    die()

def run(state, moment, seed):
    digits, labels = load_digits("train")
    torch.manual_seed(seed)
    model = UNet(channels=(4, 8), attention_levels=(1,), n_classes=10)
    steps = training.train(
        model, digits[:8], linear_schedule(100), n_steps={N_STEPS}, batch_size=4, n_warmup=2,
        context={{"labels": labels[:8]}}, null_context={{"labels": torch.tensor(10)}},
        ema=training.EMA(model), state_path=Path(state), save_every=0,
    )
    for step, loss in steps:
        say("step", step)
        if step == 2 and moment == "writing":
            os.fsync = lambda file: [cut(part) for part in Path(state).parent.glob("*.part")]
        elif step == 2 and moment in ("fsync", "replace"):
            setattr(os, moment, die)

for line in sys.stdin:
    if (child := os.fork()) == 0:
        say("started", os.getpid())
        run(*line.split()[:2], seed=int(line.split()[2]))
        os._exit(0)
    say("ended", os.waitpid(child, 0)[1])
"""


@dataclasses.dataclass
class Trainer:
    """A process that starts trainings, and kills them when told to."""

    server: subprocess.Popen[str]
    n_started: int = 0

    def read(self, expected: str) -> int:
        assert self.server.stdout is not None
        word, number = self.server.stdout.readline().split()
        assert word == expected
        return int(number)

    def start(self, state: Path, moment: str = "never") -> int:
        """Begin a training, each with other first weights, and return its process."""
        assert self.server.stdin is not None
        self.n_started += 1
        seed = self.n_started if state.exists() else 0
        self.server.stdin.write(f"{state} {moment} {seed}\n")
        self.server.stdin.flush()
        return self.read("started")

    def run_to_the_end(self, state: Path) -> dict[str, Tensor]:
        first = self.resumed_at(state)
        self.start(state)
        assert [self.read("step") for _ in range(first, N_STEPS)] == [
            *range(first + 1, N_STEPS + 1)
        ]
        assert self.read("ended") == 0
        return load_tensors(state)[0]

    @staticmethod
    def resumed_at(state: Path) -> int:
        return int(load_tensors(state)[1]["step"]) if state.exists() else 0


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield Trainer(server)
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trainer.run_to_the_end(tmp_path_factory.mktemp("undisturbed") / "state.safetensors")


@needs_posix
@pytest.mark.slow
def test_a_training_killed_ten_times_ends_as_if_it_had_not_been(
    trainer: Trainer, undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    """Each kill comes one to three steps after the last, anywhere within a step or its saving."""
    state, moments = tmp_path / "state.safetensors", random.Random(0)
    done = 0
    for _ in range(10):
        child = trainer.start(state)
        for _ in range(moments.randint(1, 3)):
            begun = time.monotonic()
            done, before = trainer.read("step"), done
            assert done == before + 1  # nothing was lost, nothing was done twice
            duration = time.monotonic() - begun
        time.sleep(moments.random() * min(duration, 1.0))
        os.kill(child, signal.SIGKILL)
        assert trainer.server.stdout is not None
        while (line := trainer.server.stdout.readline().split())[0] == "step":
            done = int(line[1])
        assert line == ["ended", str(int(signal.SIGKILL))]
        assert done <= trainer.resumed_at(state) <= done + 1
        done = trainer.resumed_at(state)  # the kill may come between saving and saying so
    assert 10 <= done < N_STEPS
    assert identical(trainer.run_to_the_end(state), undisturbed)
    assert list(tmp_path.iterdir()) == [state]


@needs_posix
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["writing", "fsync", "replace"])
def test_a_training_killed_while_it_saves_keeps_the_state_before(
    trainer: Trainer, undisturbed: dict[str, Tensor], tmp_path: Path, moment: str
) -> None:
    state = tmp_path / "state.safetensors"
    trainer.start(state, moment)
    assert [trainer.read("step") for _ in range(2)] == [1, 2]
    assert trainer.read("ended") == signal.SIGKILL
    assert trainer.resumed_at(state) == 2
    assert len(list(tmp_path.iterdir())) == 2  # the state, and what was being written
    assert identical(trainer.run_to_the_end(state), undisturbed)
    assert list(tmp_path.iterdir()) == [state]  # half-written files do not pile up

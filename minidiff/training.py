"""Chapter 03: training, from the simple loss to a loop that survives being killed.

Ho et al. 2020 (arXiv:2006.11239, section 3.4) for the loss, Salimans & Ho 2022 (arXiv:2202.00512)
for the v target, Ho & Salimans 2022 (arXiv:2207.12598, algorithm 1) for dropping the context.

`train` is a generator: it yields after every step, so whoever calls it decides what to print,
when to stop and when to look. All randomness of step n comes from the seed and n alone; there is
no data loader whose position would have to be saved.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.forward import NoiseSchedule, extract, forward_diffusion

PredictionType = Literal["eps", "x_0", "v"]
Context = Mapping[str, Tensor]


def training_target(
    x_0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule, prediction_type: PredictionType
) -> Tensor:
    """What the model is asked for: noise, clean data, or v (Salimans & Ho 2022, appendix D).

    Args:
        x_0: Clean data, (B, C, *space).
        noise: The noise that went into x_t, shaped like x_0.
        t: Timesteps, (B,) int64 in [0, T).
        schedule: The noise schedule.
        prediction_type: "eps", "x_0" or "v" = sqrt(a_bar) eps - sqrt(1 - a_bar) x_0.

    Returns:
        The target, shaped like x_0.

    Raises:
        ValueError: If prediction_type is none of the three.

    >>> schedule, x = NoiseSchedule(torch.tensor([0.36], dtype=torch.float64)), torch.ones(1, 1)
    >>> training_target(x, 2 * x, torch.tensor([0]), schedule, "v")  # 0.8 * 2 - 0.6 * 1
    tensor([[1.]])
    """
    check_prediction_type(prediction_type)
    if prediction_type == "eps":
        return noise
    if prediction_type == "x_0":
        return x_0
    signal = extract(schedule.alphas_cumprod.sqrt(), t, like=x_0)  # (B, 1, ..., 1)
    spread = extract((1 - schedule.alphas_cumprod).sqrt(), t, like=x_0)  # (B, 1, ..., 1)
    return signal * noise - spread * x_0


def train_step(
    model: nn.Module,
    x_0: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    context: Context | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    prediction_type: PredictionType = "eps",
) -> Tensor:
    """The simple loss: add noise, let the model predict, compare (Ho et al. 2020, eq. 14).

    Args:
        model: Anything that keeps the contract model(x_t, t, context).
        x_0: Clean data, (B, C, *space), on the model's device.
        t: Timesteps, (B,) int64 in [0, T).
        schedule: The noise schedule.
        context: What the prediction may depend on, batch first.
        noise: The noise to add, shaped like x_0; drawn when absent.
        generator: Source of that noise.
        prediction_type: What the model predicts, see `training_target`.

    Returns:
        The mean squared error over batch and elements, a scalar to call .backward() on.

    Raises:
        TypeError, ValueError: As `forward_diffusion` and `training_target` do, and if the model's
            output is not shaped like x_0.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)
    >>> noise = torch.full((2, 1, 8, 8), 3.0)
    >>> t = torch.tensor([0, 9])
    >>> train_step(model, torch.zeros(2, 1, 8, 8), t, linear_schedule(), noise=noise)
    tensor(9.)
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise, generator)
    target = training_target(x_0, noise, t, schedule, prediction_type)
    prediction = model(x_t, t.to(x_0.device), context)
    if prediction.shape != target.shape:
        raise ValueError(
            f"the model's output must be shaped like x_0, {tuple(target.shape)}, "
            f"got {tuple(prediction.shape)}"
        )
    return F.mse_loss(prediction.to(target.dtype), target)  # under autocast it comes in bfloat16


class EMA:
    """An exponential moving average of a model's weights; it is what one samples from.

    The decay warms up as min(decay, (1 + n) / (10 + n)) with n updates done, so that the random
    first weights are soon forgotten.

    Args:
        model: The model to follow; `ema.model` is a copy of it that needs no gradients.
        decay: Share of the average that each update keeps, in [0, 1).

    Raises:
        ValueError: If decay is out of range.

    >>> model = nn.Linear(1, 1)
    >>> ema = EMA(model, decay=0.999)
    >>> ema.update(model)  # after the optimizer's step
    >>> ema.n_updates
    1
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.n_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model: average += (1 - decay) (model - average)."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        for average, parameter in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
        self.n_updates += 1


class Progress(NamedTuple):
    """What `train` yields: the number of steps done and the loss of the last one."""

    step: int
    loss: float


def train(
    model: nn.Module,
    x_0: Tensor,
    schedule: NoiseSchedule,
    *,
    n_steps: int,
    batch_size: int = 64,
    prediction_type: PredictionType = "eps",
    context: Context | None = None,
    null_context: Context | None = None,
    context_dropout: float = 0.1,
    learning_rate: float = 1e-3,
    n_warmup: int = 100,
    ema: EMA | None = None,
    seed: int = 0,
    state_path: Path | None = None,
    save_every: float = 60.0,
    loss: Callable[..., Tensor] = train_step,
) -> Iterator[Progress]:
    """Train a diffusion model in place, step by step (Ho et al. 2020, algorithm 1).

    Args:
        model: Keeps the contract model(x_t, t, context); trained on the device it is on.
        x_0: All of the data, (N, C, *space).
        schedule: The noise schedule.
        n_steps: Optimizer steps in all.
        batch_size: Items a step, drawn with replacement.
        prediction_type: What the model predicts, see `training_target`.
        context: What the prediction may depend on, each tensor with N items.
        null_context: One item's context that means "none". Given it, each item of a batch trains
            with it, in place of its own, with probability `context_dropout`: that model can be
            guided later.
        context_dropout: That probability.
        learning_rate: Its peak, see `learning_rate_at`.
        n_warmup: Steps of warm-up.
        ema: Updated after each step.
        seed: Decides batches, timesteps, noise and dropout.
        state_path: Where to save the state; training goes on from it, see `fit`.
        save_every: Seconds between two saves.
        loss: What is minimised, a function with the arguments of `train_step`.

    Yields:
        Progress(step, loss), step = 1..n_steps.

    Raises:
        FloatingPointError: See `fit`.
        ValueError: If the data is empty, lengths do not match, or the saved state belongs to
            another training.

    >>> model = UNet(channels=(8,), attention_levels=())
    >>> x_0 = torch.zeros(4, 1, 8, 8)
    >>> [step for step, loss in train(model, x_0, linear_schedule(), n_steps=2, batch_size=2)]
    [1, 2]
    """
    if len(x_0) == 0:
        raise ValueError("x_0 must hold at least one item, got none")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    context = dict(context or {})
    for name, values in context.items():
        if len(values) != len(x_0):
            raise ValueError(f"context {name!r} must have {len(x_0)} items, got {len(values)}")
    check_prediction_type(prediction_type)
    device = next(model.parameters()).device

    def loss_of(generator: torch.Generator) -> Tensor:
        index = draw_integers(len(x_0), batch_size, generator)
        t = draw_integers(schedule.n_steps, batch_size, generator)
        batch = {name: values[index] for name, values in context.items()}
        if null_context is not None:
            batch = drop_context(batch, null_context, context_dropout, generator)
        batch = {name: values.to(device) for name, values in batch.items()}
        clean = x_0[index].to(device)
        return loss(model, clean, t, schedule, batch, None, generator, prediction_type)

    yield from fit(
        model,
        loss_of,
        n_steps=n_steps,
        learning_rate=learning_rate,
        n_warmup=n_warmup,
        ema=ema,
        seed=seed,
        state_path=state_path,
        save_every=save_every,
        about=f"loss={getattr(loss, '__name__', loss)} {batch_size=} {prediction_type=} "
        f"{context_dropout=} data={tuple(x_0.shape)} "
        f"schedule=({schedule.n_steps}, {schedule.betas.sum().item()}) ",
    )


def fit(
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    *,
    n_steps: int,
    learning_rate: float = 1e-3,
    n_warmup: int = 100,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    ema: EMA | None = None,
    seed: int = 0,
    state_path: Path | None = None,
    save_every: float = 60.0,
    about: str = "",
) -> Iterator[Progress]:
    """Minimise any loss of a model, in place, step by step; `train` is built on it.

    AdamW with a linear warm-up and a cosine decay to zero; gradients clipped; bfloat16 autocast
    where the processor has it; channels last. With `state_path` the state is saved every
    `save_every` seconds, at the end, and when the generator is closed; called again, it continues
    where it stopped, bit for bit on the CPU with the same number of threads (for a model that
    draws no randomness of its own).

    Args:
        model: The model whose parameters are trained.
        loss_of: Draws a batch with the generator it is given and returns the loss, a scalar.
        n_steps: Optimizer steps in all.
        learning_rate: Its peak, see `learning_rate_at`.
        n_warmup: Steps of warm-up.
        weight_decay: AdamW's.
        max_grad_norm: The gradient's norm is clipped to this.
        ema: Updated after each step.
        seed: With the step's number, decides all that loss_of draws.
        state_path: Where to save the state, a safetensors file.
        save_every: Seconds between two saves.
        about: What else decides the training; a saved state with another text is refused.

    Yields:
        Progress(step, loss), step = 1..n_steps.

    Raises:
        FloatingPointError: If the loss or the gradient is not finite. Model and saved state are
            those of the last good step.
        ValueError: If the saved state is damaged or belongs to another training.

    >>> model = nn.Linear(1, 1)
    >>> loss_of = lambda generator: (model(torch.ones(1, 1)) - 3).square().mean()
    >>> for step, loss in fit(model, loss_of, n_steps=200, learning_rate=0.1):
    ...     pass
    >>> loss < 0.01
    True
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
    )
    settings = (
        f"{about}{n_steps=} {learning_rate=} {n_warmup=} {weight_decay=} {max_grad_norm=} {seed=} "
        f"ema_decay={None if ema is None else ema.decay} "
        f"shapes={[tuple(value.shape) for value in model.state_dict().values()]}"
    )
    done = 0
    if state_path is not None and state_path.exists():
        done = _load_state(state_path, settings, model, optimizer, ema)
    saved, saved_step = time.monotonic(), done

    for step in range(done + 1, n_steps + 1):
        buffers = [buffer.clone() for buffer in model.buffers()]  # a forward pass may move them
        with autocast(device):
            loss = loss_of(step_generator(seed, step))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        if not (loss.isfinite() and norm.isfinite()):  # nothing has been applied yet
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
            if state_path is not None and step > 1:
                _save_state(state_path, settings, step - 1, model, optimizer, ema)
            raise FloatingPointError(
                f"the loss is {loss.item()} and the gradient's norm {norm.item()} at step {step}; "
                f"the model keeps the weights of step {step - 1} (try a lower learning_rate)"
            )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, n_steps, learning_rate, n_warmup)
        optimizer.step()
        if ema is not None:
            ema.update(model)
        if state_path is not None and (step == n_steps or time.monotonic() - saved >= save_every):
            _save_state(state_path, settings, step, model, optimizer, ema)
            saved, saved_step = time.monotonic(), step
        try:
            yield Progress(step, loss.item())
        except GeneratorExit:  # whoever draws the steps has had enough
            if state_path is not None and saved_step < step:
                _save_state(state_path, settings, step, model, optimizer, ema)
            raise


def step_generator(seed: int, step: int) -> torch.Generator:
    """Make the CPU generator of one training step, from the seed and the step's number alone.

    >>> step_generator(0, 7).initial_seed() == step_generator(0, 7).initial_seed()
    True
    """
    return torch.Generator("cpu").manual_seed((1_000_003 * seed + step) % 2**32)


def draw_integers(high: int, n_items: int, generator: torch.Generator) -> Tensor:
    """Draw n_items integers from 0..high-1, on the generator's device.

    >>> draw_integers(1, 3, torch.Generator())
    tensor([0, 0, 0])
    """
    return torch.randint(high, (n_items,), generator=generator, device=generator.device)


def learning_rate_at(step: int, n_steps: int, peak: float, n_warmup: int) -> float:
    """Learning rate of step 1..n_steps: a linear rise to the peak, then half a cosine down to 0.

    >>> [round(learning_rate_at(step, 10, 1.0, 2), 3) for step in (1, 2, 6, 10)]
    [0.5, 1.0, 0.5, 0.0]
    """
    n_warmup = min(n_warmup, n_steps // 2)
    if step <= n_warmup:
        return peak * step / n_warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))


def drop_context(
    context: Context, null_context: Context, probability: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Replace the context of some items by "none" (Ho & Salimans 2022, algorithm 1).

    Args:
        context: Tensors with the batch first.
        null_context: For each name the value that means "none", without the batch.
        probability: Chance of each item to lose its whole context.
        generator: CPU generator that decides.

    Returns:
        The context with some items replaced; the given one is left alone.

    Raises:
        ValueError: If the two do not have the same names.

    >>> generator = torch.Generator().manual_seed(0)
    >>> drop_context({"labels": torch.tensor([1, 2])}, {"labels": torch.tensor(10)}, 1.0, generator)
    {'labels': tensor([10, 10])}
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    if context.keys() != null_context.keys():
        raise ValueError(f"null_context must have {sorted(context)}, got {sorted(null_context)}")
    n_items = len(next(iter(context.values())))
    drop = torch.rand(n_items, generator=generator, device=generator.device) < probability
    dropped = {}
    for name, values in context.items():
        where = drop.to(values.device).view(-1, *[1] * (values.ndim - 1))  # (B,) -> (B, 1, ..., 1)
        dropped[name] = torch.where(where, null_context[name].to(values.device), values)
    return dropped


def autocast(device: torch.device) -> torch.autocast:
    """Context in which convolutions and matrix products run in bfloat16, where that is fast.

    Where the processor has no bfloat16 arithmetic, torch would emulate it, slower than float32;
    there, this context changes nothing. Use it around sampling, too.

    >>> with autocast(torch.device("cpu")):
    ...     pass
    """
    if device.type == "cuda":
        enabled = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Older releases of torch cannot tell; float32 is right everywhere.
        known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        enabled = device.type == "cpu" and bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    The file is written beside its final place, flushed to the disk, and renamed over the old one.

    Args:
        path: The file; its folder is made if need be.
        tensors: What to write.
        metadata: Text to store in the file's header, as JSON under the name "about".

    >>> import tempfile
    >>> save_tensors(Path(tempfile.mkdtemp()) / "a.safetensors", {"x": torch.ones(1)}, {"by": "me"})
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")  # one that a killed process left is overwritten
    try:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # One entry, since safetensors orders several differently each time. The bytes are written
        # here, since its own save_file leaves a file of another name where it is killed.
        with part.open("wb") as file:
            file.write(save(whole, {"about": json.dumps(dict(metadata), sort_keys=True)}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, tensors on the CPU and the metadata.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is truncated, altered, or no safetensors file at all (a pickle, say).

    >>> load_tensors(Path("no-such.safetensors"))
    Traceback (most recent call last):
    FileNotFoundError: no weight file at no-such.safetensors
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error})") from error


def check_prediction_type(prediction_type: str) -> None:
    """Raise ValueError unless prediction_type is one of "eps", "x_0" and "v"."""
    if prediction_type not in get_args(PredictionType):
        raise ValueError(f"prediction_type must be 'eps', 'x_0' or 'v', got {prediction_type!r}")


def _state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None
) -> dict[str, Tensor]:
    """Name every tensor that the training consists of."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": value for name, value in ema.model.state_dict().items()}
    for i, parameter in enumerate(model.parameters()):
        state: dict[str, Any] = optimizer.state[parameter]
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
    return tensors


def _save_state(
    path: Path,
    settings: str,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
) -> None:
    n_updates = 0 if ema is None else ema.n_updates
    metadata = {"settings": settings, "step": str(step), "n_updates": str(n_updates)}
    save_tensors(path, _state_tensors(model, optimizer, ema), metadata)


def _load_state(
    path: Path,
    settings: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
) -> int:
    """Put a saved state back and return the number of steps done."""
    tensors, metadata = load_tensors(path)
    if metadata.get("settings") != settings:
        raise ValueError(
            f"the state in {path} belongs to another training: "
            f"it has {metadata.get('settings')}, this one {settings}"
        )
    for i, parameter in enumerate(model.parameters()):
        start = f"optimizer.{i}."
        for name in [name for name in tensors if name.startswith(start)]:
            value = tensors.pop(name).to(parameter.device)
            if value.shape == parameter.shape:  # in the parameter's own memory layout
                value = torch.empty_like(parameter).copy_(value)
            optimizer.state[parameter][name.removeprefix(start)] = value
    targets = {"model": model} if ema is None else {"model": model, "ema": ema.model}
    for start, target in targets.items():
        target.load_state_dict(
            {
                name.removeprefix(f"{start}."): v
                for name, v in tensors.items()
                if name.startswith(start)
            }
        )
    if ema is not None:
        ema.n_updates = int(metadata["n_updates"])
    return int(metadata["step"])

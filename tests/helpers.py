"""What the tests of several samplers share."""

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from minidiff.forward import NoiseSchedule, cosine_schedule, linear_schedule

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}
ORACLE_NAMES = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
quick = settings(max_examples=30, deadline=None)

each_type = pytest.mark.parametrize("prediction_type", ORACLE_NAMES)
each_clip = pytest.mark.parametrize("clip", [None, (-1.0, 1.0)], ids=["unclipped", "clipped"])
each_schedule = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)


def gap(a: Tensor, b: Tensor) -> float:
    """max |a - b|, after asserting that nothing is broadcast."""
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def column(values: Tensor, t: Tensor, x: Tensor) -> Tensor:
    return values[t].to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def wave(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
    """A model of no meaning, whose output depends on all that it is given."""
    return (1.7 * x_t + 0.03 * t.view(-1, *[1] * (x_t.ndim - 1))).sin()


def in_float64(scheduler, schedule: NoiseSchedule) -> None:
    """Give a scheduler of diffusers float64 in place of its float32."""
    scheduler.betas, scheduler.alphas = schedule.betas, schedule.alphas
    scheduler.alphas_cumprod = schedule.alphas_cumprod

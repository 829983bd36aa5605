"""What several topics need: figures with their standard errors, and what real images score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from minidiff import autocast, frechet_distance
from minidiff.data import load_fashion
from minidiff.zoo import BOUNDS, judge_images, load

RESULTS = Path(__file__).parent.parent / "results"
SEEDS = (0, 1, 2)
N_SAMPLES = 2_000
BATCH = 100  # images at a time: larger batches leave the processor's cache


class Bounded(NamedTuple):
    """A figure that must not lie on the wrong side of a bound of `minidiff/zoo/bounds.py`."""

    name: str
    value: float
    sign: Literal[">=", "<="]
    who: str

    @property
    def met(self) -> bool:
        """Whether the bound is met; NaN never does."""
        bound = BOUNDS[self.name]
        return self.value >= bound if self.sign == ">=" else self.value <= bound


@dataclass(frozen=True)
class Real:
    """Real images and the judge's features of them, (N, 128) float64."""

    x_train: Tensor
    train: Tensor
    x_test: Tensor
    test: Tensor
    test_classes: Tensor
    test_labels: Tensor

    def floors(self, n: int) -> Tensor:
        """Frechet distance to the training set of each disjoint set of n test images."""
        parts = [part for part in torch.split(self.test, n) if len(part) == n]
        return torch.tensor([frechet_distance(part, self.train) for part in parts])


@cache
def real(device: torch.device) -> Real:
    """Look at all real images once."""
    x_train, _ = load_fashion("train")
    x_test, labels = load_fashion("test")
    judge = load("judge", device).model
    _, train = judge_images(judge, x_train)
    classes, test = judge_images(judge, x_test)
    return Real(x_train, train, x_test, test, classes, labels)


def draw(
    labels: Tensor,
    sampler: Callable[[Tensor, torch.Generator], Tensor],
    seed: int,
    device: torch.device,
) -> Tensor:
    """Draw one image for each label, batch by batch, (N, 1, 28, 28) on the CPU.

    Args:
        labels: Classes, (N,).
        sampler: Takes the labels of one batch, on the device, and the generator.
        seed: Of all noise.
        device: Where to sample.
    """
    generator = torch.Generator().manual_seed(seed)
    images = []
    for part in torch.split(labels, BATCH):
        with autocast(device):
            images.append(sampler(part.to(device), generator).cpu())
    return torch.cat(images)


def share(hits: Tensor) -> dict[str, float]:
    """Return the share of hits with its binomial standard error."""
    value = hits.double().mean().item()
    error = math.sqrt(value * (1 - value) / len(hits))
    return {"value": value, "standard_error": error, "n": len(hits)}


def mean(values: Tensor) -> dict[str, float]:
    """Return the mean with its standard error."""
    error = values.double().std() / math.sqrt(len(values))
    return {
        "value": values.double().mean().item(),
        "standard_error": error.item(),
        "n": len(values),
    }


def stored(name: str) -> dict[str, Any]:
    """Read the result of another topic."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

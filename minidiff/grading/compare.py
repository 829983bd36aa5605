"""What answers return: made comparable, and how far two of them are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.grading.diagnosis import describe

N_SIGMAS = 7.0  # of an estimate's standard error: one false alarm in 400 thousand million
ROUNDING = 2.0**-23  # of one float32 operation, relative


@dataclass(frozen=True)
class Estimate:
    """A statistic of random output, compared within `N_SIGMAS` standard errors.

    Args:
        value: The statistic, any shape.
        standard_error: Of the value, the same shape or a number.
    """

    value: Any
    standard_error: Any


class Malformed(Exception):
    """An answer returned something that cannot be compared; the message says what."""


def as_value(name: str, value: Any) -> Any:
    """Make a tensor of numbers, arrays and lists; leave what else can be compared as it is.

    Raises:
        Malformed: The value cannot be compared.

    >>> as_value("x", [[1, 2.5]])
    tensor([[1.0000, 2.5000]], dtype=torch.float64)
    """
    if isinstance(value, Tensor):
        return value.detach().to_dense().cpu().clone()
    if isinstance(value, Estimate):
        numbers = (value.value, value.standard_error)
        return Estimate(*(torch.as_tensor(n, dtype=torch.float64).detach().cpu() for n in numbers))
    if isinstance(value, bool | str) or (isinstance(value, tuple) and _is_plain(value)):
        return value
    if isinstance(value, list) and any(isinstance(v, Tensor) for v in value):
        raise Malformed(f"It returns a list of tensors for {name}; torch.stack makes one of them.")
    if isinstance(value, np.ndarray | np.generic | float | int | list):
        try:
            return torch.from_numpy(np.array(value, order="C"))  # a copy: strides may be negative
        except (TypeError, ValueError):
            pass  # it holds more than numbers, or is no rectangle
    if value is None:
        raise Malformed(
            f"It returns None for {name}: is a part not written yet, or the `return` missing?"
        )
    unpack = ": unpack it, or return one of its items" if isinstance(value, tuple) else ""
    raise Malformed(f"It returns {describe(value)} for {name}; expected a tensor{unpack}.")


def _is_plain(value: Any) -> bool:
    """Tell whether a value can be compared with ==: a shape, say."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def plain(value: Any) -> Any:
    """Return an estimate's value, and anything else as it is."""
    return value.value if isinstance(value, Estimate) else value


def by_chance(value: Any) -> Any:
    """Return how far another estimate of the same may be off: `N_SIGMAS` errors of a difference.

    >>> by_chance(torch.tensor(1.0))
    0.0
    """
    return N_SIGMAS * math.sqrt(2) * value.standard_error if isinstance(value, Estimate) else 0.0


def excess(mine: Any, right: Any, n_roundings: float = 64.0, scale: float = 0.0) -> float:
    """Return the largest difference of two values in units of what is allowed.

    What is allowed follows from the right value alone: an answer cannot buy itself tolerance.

    Args:
        mine: From `as_value`.
        right: Likewise.
        n_roundings: How many roundings of float32 they may be apart.
        scale: The largest number that went into the arithmetic.

    Returns:
        0 where they are equal, at most 1 where the difference is allowed, else more; infinite where
        kind, shape or an exact number differs.

    >>> excess(torch.tensor(1.0 + 32 * 2**-23), torch.tensor(1.0), n_roundings=64)
    0.5
    """
    if isinstance(mine, bool) or isinstance(right, bool):  # True and tensor(True) are one
        mine, right = (torch.as_tensor(v) if isinstance(v, bool) else v for v in (mine, right))
    spread = by_chance(right)
    if isinstance(mine, Estimate) and isinstance(right, Estimate):
        mine, right = mine.value, right.value
    if not isinstance(mine, Tensor) or not isinstance(right, Tensor):
        return 0.0 if type(mine) is type(right) and mine == right else math.inf
    if mine.shape != right.shape or wrong_dtype(mine, right):
        return math.inf
    if mine.is_complex():  # then both are
        mine, right = torch.view_as_real(mine), torch.view_as_real(right)
    a, b = mine.double(), right.double()
    equal = (a == b) | (a.isnan() & b.isnan())
    if equal.all():
        return 0.0
    if not right.is_floating_point():
        return math.inf
    allowed = n_roundings * ROUNDING * max(largest(right), scale, 1e-6) + spread
    return float(((a - b).abs() / allowed).masked_fill(equal, 0).nan_to_num(math.inf).max())


def wrong_dtype(mine: Tensor, right: Tensor) -> bool:
    """Tell whether a dtype will not do: complex for real, fractions for whole numbers, half.

    >>> wrong_dtype(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    False
    """
    if mine.is_complex() or right.is_complex():
        return mine.is_complex() != right.is_complex()
    if not right.is_floating_point():
        truth = mine.dtype == torch.bool, right.dtype == torch.bool
        return mine.is_floating_point() or truth[0] != truth[1]
    return mine.is_floating_point() and mine.dtype.itemsize < min(4, right.dtype.itemsize)


def largest(value: Any) -> float:
    """Return the largest magnitude among the finite floating-point numbers in a value.

    >>> largest({"x": torch.tensor([1.0, -3.0]), "t": torch.tensor([999])})
    3.0
    """
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
        return float(value.detach().double().nan_to_num(0, 0, 0).abs().max())
    if isinstance(value, dict):
        return max(map(largest, value.values()), default=0.0)
    if isinstance(value, list | tuple):
        return max(map(largest, value), default=0.0)
    return 0.0

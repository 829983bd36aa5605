"""The random inputs of a check: all that varies from call to call comes from a `Draw`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
Module = TypeVar("Module", bound=nn.Module)


class Draw:
    """A source of inputs; the same seed and case give the same inputs again.

    It draws with methods of tensors and a generator of its own, so neither a global seed nor a
    replaced `torch.randn` has any influence on it.

    Args:
        seed: Of one call of a check.
        case: The number of the input within that call, 0 first.

    >>> draw = Draw(seed=0, case=0)
    >>> draw.integer(3, 4)
    3
    """

    def __init__(self, seed: int, case: int) -> None:
        self.case = case
        self.generator = torch.Generator("cpu").manual_seed((1_000_003 * seed + case) % 2**63)

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high).

        Raises:
            ValueError: If there is none.

        >>> 0 <= Draw(0, 0).integer(0, 10) < 10
        True
        """
        if low >= high:
            raise ValueError(f"low must be below high = {high}, got {low}")
        value = torch.empty(1, dtype=torch.int64).random_(low, high, generator=self.generator)
        return int(value)

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options.

        >>> Draw(0, 0).choice(["a"])
        'a'
        """
        return options[self.integer(0, len(options))]

    def dtype(self) -> torch.dtype:
        """Return float32 or float64.

        >>> Draw(0, 0).dtype() in (torch.float32, torch.float64)
        True
        """
        return self.choice((torch.float32, torch.float64))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return standard normal numbers of a shape.

        >>> Draw(0, 0).normal(2, 3).shape
        torch.Size([2, 3])
        """
        return torch.empty(shape, dtype=torch.float64).normal_(generator=self.generator).to(dtype)

    def uniform(
        self, low: float, high: float, *shape: int, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Return uniform numbers in [low, high) of a shape.

        >>> Draw(0, 0).uniform(-1, 1, 5).abs().max() <= 1
        tensor(True)
        """
        values = torch.empty(shape, dtype=torch.float64)
        return values.uniform_(low, high, generator=self.generator).to(dtype)

    def images(self, n_items: int, dtype: torch.dtype) -> Tensor:
        """Return n_items items in [-1, 1) of a random shape: sound, images or video.

        >>> len(Draw(0, 0).images(3, torch.float32))
        3
        """
        space = [self.integer(3, 7) for _ in range(self.integer(1, 4))]
        return self.uniform(-1, 1, n_items, self.integer(1, 4), *space, dtype=dtype)

    def timesteps(self, n_items: int, n_steps: int) -> Tensor:
        """Return n_items timesteps (B,) int64, the first 0, the second T - 1, the rest between.

        >>> Draw(0, 0).timesteps(2, 1000)
        tensor([  0, 999])
        """
        t = torch.empty(n_items, dtype=torch.int64).random_(0, n_steps, generator=self.generator)
        t[:2] = torch.tensor([0, n_steps - 1])[:n_items]
        return t

    def betas(self, low: int = 40, high: int = 400) -> Tensor:
        """Return betas (T,) float64, T in [low, high), rising unevenly; the last a_bar is small.

        >>> betas = Draw(0, 0).betas()
        >>> bool((1 - betas).prod() < 0.1)
        True
        """
        n_steps = self.integer(low, high)
        betas = self.uniform(0.5, 1.5, n_steps).cumsum(0)
        return betas * (self.uniform(3.0, 6.0, 1) / betas.sum()).clamp(max=0.9 / betas.max())

    def module(self, make: Callable[[], Module]) -> Module:
        """Make a module whose weights come from this draw; no layer of it starts at zero.

        >>> Draw(0, 0).module(lambda: nn.Linear(2, 2)).weight.shape
        torch.Size([2, 2])
        """
        with torch.random.fork_rng(devices=[]):
            module = make()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
                scale_of_norm = parameter.ndim == 1 and name.endswith("weight")
                parameter.copy_(self.normal(*parameter.shape) / fan_in**0.5 + scale_of_norm)
        return module

"""Chapter 11: editing images. What is known about a picture joins while it is being drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.training import Context


class ImageConditioned(nn.Module):
    """A model that sees an image beside x_t (Saharia et al. 2021, section 2.3).

    The image, brought to the size of x_t by repeating its pixels, is concatenated to x_t along the
    channels. The contract stays: model(x_t, t, context), with the image in context["image"].

    Args:
        model: Keeps the contract and takes the channels of x_t and of the image together.

    Raises:
        ValueError: If forward gets no context["image"], or one with another batch size or another
            number of dimensions than x_t.

    >>> model = ImageConditioned(UNet(in_channels=2, out_channels=1, channels=(8, 16)))
    >>> image = torch.zeros(3, 1, 7, 7)
    >>> model(torch.zeros(3, 1, 28, 28), torch.tensor([0, 9, 999]), {"image": image}).shape
    torch.Size([3, 1, 28, 28])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        """Predict from x_t (B, C, *space) at t (B,), given context["image"] (B, C', *any size)."""
        image = (context or {}).get("image")
        if image is None or image.ndim != x_t.ndim or len(image) != len(x_t):
            found = "none" if image is None else f"shape {tuple(image.shape)}"
            raise ValueError(
                f"context must have an image for each of {len(x_t)} items, with {x_t.ndim} "
                f"dimensions, got {found}"
            )
        image = F.interpolate(image.to(x_t.dtype), size=x_t.shape[2:], mode="nearest")
        others = {name: values for name, values in (context or {}).items() if name != "image"}
        x_t = torch.cat([x_t, image], dim=1)  # (B, C, *space) -> (B, C + C', *space)
        output: Tensor = self.model(x_t, t, others or None)
        return output


def downsample(x: Tensor, factor: int = 4) -> Tensor:
    """Average blocks of factor^d values, d dimensions of space: the image a coarse camera takes.

    Args:
        x: Data, (B, C, *space), with one to three dimensions of space.
        factor: How many values each way become one; divides every dimension of space.

    Returns:
        (B, C, *space / factor).

    Raises:
        ValueError: If factor does not divide the space, or space has other than 1 to 3 dimensions.

    >>> downsample(torch.arange(4.0).view(1, 1, 2, 2), 2)
    tensor([[[[1.5000]]]])
    """
    space = x.shape[2:]
    pools: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
    if len(space) not in pools or factor < 1 or any(size % factor for size in space):
        raise ValueError(
            f"factor must divide each of 1 to 3 dimensions of space, got {factor} for {tuple(space)}"
        )
    low: Tensor = pools[len(space)](x, factor)
    return low

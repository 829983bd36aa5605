"""The 1,797 handwritten digits that scikit-learn ships: 8x8 pixels, nothing to fetch."""

from typing import Literal

import torch
from torch import Tensor


def load_digits(split: Literal["train", "test", "all"] = "all") -> tuple[Tensor, Tensor]:
    """Load the 8x8 handwritten digits (test part of Alpaydin and Kaynak 1998, UCI repository).

    Every fifth example of each class belongs to the test split, so both splits hold all ten
    classes in equal proportion and are the same on every machine.

    Args:
        split: "train" (1,442 images), "test" (355) or "all" (1,797, in the original order).

    Returns:
        images (N, 1, 8, 8), float32 in [-1, 1], and labels (N,), int64 in [0, 10), on the CPU.

    Raises:
        ValueError: if ``split`` is none of the three.

    Example:
        >>> images, labels = load_digits()
        >>> images.shape, labels.shape
        (torch.Size([1797, 1, 8, 8]), torch.Size([1797]))
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f'split must be "train", "test" or "all", got {split!r}')
    from sklearn.datasets import load_digits as sklearn_load_digits  # slow to import, used once

    pixels, classes = sklearn_load_digits(return_X_y=True)  # (1797, 64) in 0..16, (1797,)
    images = torch.from_numpy(pixels).float().div(8).sub(1).view(-1, 1, 8, 8)  # 17 grey levels
    labels = torch.from_numpy(classes).long()
    if split == "all":
        return images, labels

    one_hot = labels[:, None] == torch.arange(10, device="cpu")  # (N, 10)
    rank = one_hot.long().cumsum(0)[one_hot] - 1  # (N,): the how-manieth of its class, from 0
    in_test = rank % 5 == 4
    chosen = in_test if split == "test" else ~in_test
    return images[chosen], labels[chosen]

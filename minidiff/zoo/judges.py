"""The frozen judge: a classifier that looks at generated images and was never part of making them.

It is used only to evaluate. Its features are the 128 numbers before the last layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.data import read_pictures
from minidiff.training import autocast


class Judge(nn.Module):
    """A small convolutional classifier of 28x28 images.

    >>> judge = Judge().eval()
    >>> judge(torch.zeros(2, 1, 28, 28)).shape, judge.features(torch.zeros(2, 1, 28, 28)).shape
    (torch.Size([2, 10]), torch.Size([2, 128]))
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(1, 32), _conv(32, 32), nn.MaxPool2d(2),
            _conv(32, 64), _conv(64, 64), nn.MaxPool2d(2),
            _conv(64, 128), _conv(128, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(128, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Map images (B, 1, 28, 28) in [-1, 1] to features (B, 128)."""
        features: Tensor = self.body(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 1, 28, 28) in [-1, 1] to logits (B, n_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def augment(x: Tensor, generator: torch.Generator, shift: int = 2) -> Tensor:
    """Mirror each image with probability 1/2 and move the batch by up to `shift` pixels.

    Args:
        x: Images (B, C, H, W) in [-1, 1].
        generator: CPU generator that decides.
        shift: Largest move in pixels; what comes in at the edge is background, -1.

    >>> augment(torch.full((2, 1, 28, 28), -1.0), torch.Generator()).unique()
    tensor([-1.])
    """
    mirror = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
    x = torch.where(mirror.to(x.device).view(-1, 1, 1, 1), x.flip(-1), x)
    height, width = x.shape[-2:]
    down, right = torch.randint(
        2 * shift + 1, (2,), generator=generator, device=generator.device
    ).tolist()
    return F.pad(x, [shift] * 4, value=-1.0)[..., down : down + height, right : right + width]


@torch.no_grad()
def judge_images(judge: Judge, x: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Look at many images: the judge's class and features of each.

    Args:
        judge: The frozen judge.
        x: Images (N, 1, 28, 28) in [-1, 1].
        batch_size: Images at a time.

    Returns:
        Classes (N,) int64 and features (N, 128) float64, on the CPU.

    >>> classes, features = judge_images(Judge().eval(), torch.zeros(3, 1, 28, 28))
    >>> classes.shape, features.dtype
    (torch.Size([3]), torch.float64)
    """
    device = next(judge.parameters()).device
    classes, features = [], []
    for part in torch.split(x, batch_size):
        with autocast(device):
            feature = judge.features(part.to(device))
        feature = feature.float()
        classes.append(judge.head(feature).argmax(1).cpu())
        features.append(feature.double().cpu())
    return torch.cat(classes), torch.cat(features)


def judge_pictures(judge: Judge, pictures: Tensor, scenes: Tensor) -> Tensor:
    """Look at captioned fashion: which kind, which colour, on which ground?

    Colours are read from pixels, the kind by the judge from the photograph that the pixels hold,
    see `read_pictures`. A small garment that is not where the scene says is cut apart.

    Args:
        judge: The frozen judge of grey photographs.
        pictures: (N, 3, 32, 32), uint8 or in [-1, 1].
        scenes: What was asked for, (N, 5) int64; only size and place are looked at.

    Returns:
        (N, 3) int64, to be compared with scenes[:, :3].

    >>> pictures = torch.zeros(2, 3, 32, 32)
    >>> judge_pictures(Judge().eval(), pictures, torch.zeros(2, 5, dtype=torch.int64)).shape
    torch.Size([2, 3])
    """
    reading = read_pictures(pictures, scenes)
    kinds, _ = judge_images(judge, reading.photographs)
    return torch.stack([kinds, reading.colours.cpu(), reading.grounds.cpu()], dim=1)

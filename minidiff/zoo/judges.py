"""The frozen judge: a classifier that looks at generated images and was never part of making them.

It is used only to evaluate. Its features are the 128 numbers before the last layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance between two sets of features, taken as normals (Heusel et al. 2017, eq. 6).

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)). The trace of the root is the sum of the
    roots of the eigenvalues of C_x^(1/2) C_y C_x^(1/2), which is symmetric: two `eigh`, no
    complex numbers.

    Args:
        x: Features (N, D) float64; N of at least 2, better 4 D.
        y: Features (M, D) float64.

    Raises:
        ValueError: If dtypes or shapes do not fit or there are fewer than two items.

    >>> x = torch.randn(100, 3, dtype=torch.float64)
    >>> round(frechet_distance(x, x + 2), 6)  # the same but moved by 2 in each of 3 directions
    12.0
    """
    for name, features in (("x", x), ("y", y)):
        if features.dtype != torch.float64 or features.ndim != 2 or len(features) < 2:
            raise ValueError(
                f"{name} must be float64 (N, D) with N >= 2, "
                f"got {features.dtype} of shape {tuple(features.shape)}"
            )
        if not features.isfinite().all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have as many features, got {x.shape[1]} and {y.shape[1]}")
    cov_x, cov_y = (f.T.cov().view(f.shape[1], f.shape[1]) for f in (x, y))  # (D, D)
    values, vectors = torch.linalg.eigh(cov_x)
    root_x = vectors * values.clamp(min=0).sqrt() @ vectors.T  # (D, D), its square is cov_x
    eigenvalues = torch.linalg.eigvalsh(root_x @ cov_y @ root_x)
    distance = (x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace()
    return float(distance - 2 * eigenvalues.clamp(min=0).sqrt().sum())


def nearest_distances(x: Tensor, training: Tensor) -> Tensor:
    """Distance from each image to the nearest one of the training set.

    Args:
        x: Images (N, C, H, W).
        training: Images (M, C, H, W).

    Returns:
        Euclidean distances over all pixels, (N,) float32.

    Raises:
        ValueError: If the images are not of one shape.

    >>> nearest_distances(torch.zeros(1, 1, 2, 2), torch.ones(3, 1, 2, 2))
    tensor([2.])
    """
    if x.shape[1:] != training.shape[1:]:
        raise ValueError(
            f"x and training must have images of one shape, "
            f"got {tuple(x.shape[1:])} and {tuple(training.shape[1:])}"
        )
    training = training.flatten(1)  # (M, C H W)
    return torch.cat(
        [torch.cdist(part.flatten(1), training).amin(1) for part in torch.split(x, 250)]
    )

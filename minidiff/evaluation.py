"""Chapter 05: how good is it? Distances between two sets of images, and what each one misses.

Heusel et al. 2017 (arXiv:1706.08500) for the Frechet distance, Binkowski et al. 2018
(arXiv:1801.01401) for the kernel distance, Kynkaanniemi et al. 2019 (arXiv:1904.06991) for
precision and recall, Meehan et al. 2020 (arXiv:2004.05675) for the test of copying.

All but the last compare *features*: numbers that a network, trained for something else, computes
from an image. They are float64 of shape (N, D), one row an image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Measured(NamedTuple):
    """A figure and the standard deviation that it would have if everything were drawn afresh."""

    value: float
    standard_error: float


class PrecisionRecall(NamedTuple):
    """Share of generated items that look real, and share of real ones that can be generated."""

    precision: float
    recall: float


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance between two sets of features, taken as normals (Heusel et al. 2017, eq. 6).

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)). The trace of the root is the sum of the
    roots of the eigenvalues of C_x^(1/2) C_y C_x^(1/2), which is symmetric: two `eigh`, no
    complex numbers.

    Args:
        x: Features (N, D) float64; N of at least 2, better 4 D.
        y: Features (M, D) float64.

    Raises:
        ValueError: If dtypes or shapes do not fit, there are fewer than two items, or a number is
            not finite.

    >>> x = torch.randn(100, 3, dtype=torch.float64)
    >>> round(frechet_distance(x, x + 2), 6)  # the same but moved by 2 in each of 3 directions
    12.0
    """
    _check_features(x=x, y=y)
    cov_x, cov_y = (f.T.cov().view(f.shape[1], f.shape[1]) for f in (x, y))  # (D, D)
    values, vectors = torch.linalg.eigh(cov_x)
    root_x = vectors * values.clamp(min=0).sqrt() @ vectors.T  # (D, D), its square is cov_x
    eigenvalues = torch.linalg.eigvalsh(root_x @ cov_y @ root_x)
    distance = (x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace()
    return float(distance - 2 * eigenvalues.clamp(min=0).sqrt().sum())


def kernel_distance(x: Tensor, y: Tensor, block_size: int = 500) -> Measured:
    """Kernel distance between two sets of features (Binkowski et al. 2018, eq. 4; "KID").

    The mean of k(x, x') + k(y, y') - 2 k(x, y) over pairs of different items, with the kernel
    k(a, b) = (a . b / D + 1)^3. Unbiased: for two sets from one source it is 0 on average, at
    any N, so it may be negative. Computed block by block; the blocks have no item in common, so
    their scatter gives the standard error.

    Args:
        x: Features (N, D) float64.
        y: Features (M, D) float64; what is beyond the shorter set's last whole block is not used.
        block_size: Items of each set in one block.

    Returns:
        The mean over blocks, and its standard error.

    Raises:
        ValueError: As `frechet_distance`, and if there are fewer than two blocks.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 1000, 8, dtype=torch.float64, generator=generator)
    >>> distance = kernel_distance(x, y, block_size=100)
    >>> abs(distance.value) < 3 * distance.standard_error
    True
    """
    _check_features(x=x, y=y)
    n_blocks = min(len(x), len(y)) // block_size if block_size > 1 else 0
    if n_blocks < 2:
        raise ValueError(
            f"block_size must be at least 2 and fit twice into both sets, "
            f"got {block_size} for {len(x)} and {len(y)} items"
        )
    blocks = (torch.split(f[: n_blocks * block_size], block_size) for f in (x, y))
    values = torch.stack([squared_mmd(a, b) for a, b in zip(*blocks, strict=True)])  # (n_blocks,)
    return Measured(float(values.mean()), float(values.std()) / math.sqrt(n_blocks))


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of two sets (Gretton et al. 2012, eq. 3).

    Args:
        x: Features (N, D) float64, N >= 2.
        y: Features (M, D) float64, M >= 2.

    Returns:
        A scalar; below 0 where the sets agree better than chance.

    >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> squared_mmd(x, x)  # pairs within: 1; across: (1 + 1 + 1 + 8) / 4
    tensor(-3.5000, dtype=torch.float64)
    """
    n, m = len(x), len(y)
    k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within_x = (k_xx.sum() - k_xx.trace()) / (n * (n - 1))  # no item is paired with itself
    within_y = (k_yy.sum() - k_yy.trace()) / (m * (m - 1))
    return within_x + within_y - 2 * k_xy.mean()


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2).

    A set is taken to fill the balls around its items that reach as far as their k-th neighbour
    in the set. Precision is the share of generated items that lie where real ones are, recall the
    share of real items that lie where generated ones are.

    Args:
        real: Features (N, D) float64.
        generated: Features (M, D) float64; both depend on N and M, so compare at equal ones.
        k: Which neighbour.

    Raises:
        ValueError: As `frechet_distance`, and if k does not lie in [1, N) or [1, M).

    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(100, 2, dtype=torch.float64, generator=generator)
    >>> precision_recall(x, x[:1].repeat(50, 1) + 1e-3)  # copies of one real item
    PrecisionRecall(precision=1.0, recall=0.0)
    """
    _check_features(real=real, generated=generated)
    if not 1 <= k < min(len(real), len(generated)):
        raise ValueError(
            f"k must lie in [1, N), got {k} for {len(real)} real and {len(generated)} "
            f"generated items"
        )
    return PrecisionRecall(_share_inside(generated, real, k), _share_inside(real, generated, k))


def _share_inside(items: Tensor, population: Tensor, k: int) -> float:
    """Share of items that lie in the ball of any member of a population."""
    # The nearest of all is the member itself, at distance 0.
    radii = _distances(population, population).kthvalue(k + 1, dim=1).values  # (M,)
    return float((_distances(items, population) <= radii).any(1).double().mean())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (N, M), exact also for neighbours that are very near."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def nearest(x: Tensor, training: Tensor, batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """Find the nearest training item of each item, in pixels.

    Args:
        x: Items (N, C, *space).
        training: Items (M, C, *space).
        batch_size: Items at a time.

    Returns:
        Euclidean distances over all pixels, (N,), and indices into `training`, (N,) int64.

    Raises:
        ValueError: If the items are not of one shape.

    >>> training = torch.tensor([3.0, 1.0, 2.0]).view(3, 1, 1, 1)
    >>> nearest(torch.zeros(1, 1, 1, 1), training)
    (tensor([1.]), tensor([1]))
    """
    if x.shape[1:] != training.shape[1:]:
        raise ValueError(
            f"x and training must have images of one shape, "
            f"got {tuple(x.shape[1:])} and {tuple(training.shape[1:])}"
        )
    flat = training.flatten(1)  # (M, C H W)
    parts = torch.split(x.flatten(1), batch_size)
    indices = torch.cat([torch.cdist(part, flat).argmin(1) for part in parts])  # (N,)
    # cdist subtracts large numbers; once more from the differences, so that a copy is at 0
    return (x.flatten(1) - flat[indices]).norm(dim=1), indices


def nearest_distances(x: Tensor, training: Tensor) -> Tensor:
    """Distance from each item to the nearest one of the training set: the first of `nearest`.

    >>> nearest_distances(torch.zeros(1, 1, 2, 2), torch.ones(3, 1, 2, 2))
    tensor([2.])
    """
    return nearest(x, training)[0]


def copying_z(generated: Tensor, held_out: Tensor) -> float:
    """Test whether generated items lie nearer to the training set than new real ones do.

    The statistic of Mann and Whitney, in standard deviations: how often a generated item is
    farther from the training set than a real one that was not trained on (Meehan et al. 2020,
    section 3.2, there Z_U). Around 0 there is no difference; below -3 the model copies.

    Args:
        generated: Distances of generated items to the training set, (N,).
        held_out: Distances of held-out real items to the same training set, (M,).

    Raises:
        ValueError: If one is empty, not one-dimensional, or holds a number that is not finite.

    >>> held_out = torch.linspace(5, 9, 100)
    >>> copying_z(held_out, held_out), copying_z(held_out / 10, held_out) < -3
    (0.0, True)
    """
    for name, distances in (("generated", generated), ("held_out", held_out)):
        if distances.ndim != 1 or len(distances) == 0:
            raise ValueError(f"{name} must be (N,) with N >= 1, got {tuple(distances.shape)}")
        if not distances.isfinite().all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    n, m = len(generated), len(held_out)
    both = torch.cat([generated, held_out])
    _, ties, n_equal = torch.unique(both, return_inverse=True, return_counts=True)
    counts = n_equal.double()
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[ties]  # equal distances share their mean rank
    u = ranks[:n].sum() - n * (n + 1) / 2  # pairs in which the generated item is farther
    spread = n * m / 12 * ((n + m + 1) - (counts**3 - counts).sum() / ((n + m) * (n + m - 1)))
    return float((u - n * m / 2) / spread.sqrt()) if spread > 0 else 0.0


def _check_features(**features: Tensor) -> None:
    for name, values in features.items():
        if values.dtype != torch.float64 or values.ndim != 2 or len(values) < 2:
            raise ValueError(
                f"{name} must be float64 (N, D) with N >= 2, "
                f"got {values.dtype} of shape {tuple(values.shape)}"
            )
        if not values.isfinite().all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    widths = {name: values.shape[1] for name, values in features.items()}
    if len({*widths.values()}) > 1:
        names, numbers = " and ".join(widths), " and ".join(map(str, widths.values()))
        raise ValueError(f"{names} must have as many features, got {numbers}")

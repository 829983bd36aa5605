"""Checks of chapter 05, evaluation: `from minidiff.grading import chapter_05 as check`.

Features are float64 (N, D), one row an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import evaluation
from minidiff.grading.check import Inputs, task
from minidiff.grading.draw import Draw

Distance = Callable[[Tensor, Tensor], float]


def _two_sets(draw: Draw) -> Inputs:
    """Two sets whose features are correlated, with other means, spreads and numbers of items."""
    dim = draw.integer(3, 6)
    n, m = draw.integer(9, 16), draw.integer(17, 24)
    x = draw.normal(n, dim) @ draw.normal(dim, dim) + draw.uniform(-1, 1, dim)
    y = draw.normal(m, dim) @ draw.normal(dim, dim) + draw.uniform(0.5, 2, dim)
    return {"x": x / 2, "y": y / 2} if draw.case % 2 else {"x": y / 2, "y": x / 2}


# --- 1: feature by feature -----------------------------------------------------------------------


@task(points=2, inputs=_two_sets, roundings=256, package=[evaluation.frechet_distance])
def frechet_diagonal(x: Tensor, y: Tensor) -> Tensor:
    """Frechet distance of two sets whose features are taken as independent normals."""
    return ((x.mean(0) - y.mean(0)) ** 2 + (x.std(0) - y.std(0)) ** 2).sum()


@frechet_diagonal.misconception
def variances_in_place_of_deviations(x: Tensor, y: Tensor) -> Tensor:
    """The variances are subtracted and squared. What is stretched is a length, so it is the
    standard deviations that are compared.
    """
    return ((x.mean(0) - y.mean(0)) ** 2 + (x.var(0) - y.var(0)) ** 2).sum()


@frechet_diagonal.misconception
def variances_subtracted_unsquared(x: Tensor, y: Tensor) -> Tensor:
    """(s_x - s_y)^2 is not s_x^2 - s_y^2: that difference may even be negative. Subtract first,
    then square.
    """
    return ((x.mean(0) - y.mean(0)) ** 2 + x.var(0) - y.var(0)).sum()


@frechet_diagonal.misconception
def variances_added(x: Tensor, y: Tensor) -> Tensor:
    """Both variances are added and nothing is taken off for pairing large with large: the term
    -2 s_x s_y is missing. Equal sets must have distance 0.
    """
    return ((x.mean(0) - y.mean(0)) ** 2 + x.var(0) + y.var(0)).sum()


@frechet_diagonal.misconception
def geometric_mean_once(x: Tensor, y: Tensor) -> Tensor:
    """The mixed term s_x s_y is taken off once. A square of a difference has it twice; with one,
    equal sets do not have distance 0.
    """
    return ((x.mean(0) - y.mean(0)) ** 2 + x.var(0) + y.var(0) - x.std(0) * y.std(0)).sum()


@frechet_diagonal.misconception
def root_of_the_distance(x: Tensor, y: Tensor) -> Tensor:
    """There is a square root around it all. The field quotes the squared length, without a root."""
    return ((x.mean(0) - y.mean(0)) ** 2 + (x.std(0) - y.std(0)) ** 2).sum().sqrt()


@frechet_diagonal.misconception
def mean_over_features(x: Tensor, y: Tensor) -> Tensor:
    """The features' contributions are averaged. A squared length is the sum over its directions."""
    return ((x.mean(0) - y.mean(0)) ** 2 + (x.std(0) - y.std(0)) ** 2).mean()


@frechet_diagonal.misconception
def one_number_for_each_feature(x: Tensor, y: Tensor) -> Tensor:
    """There is one number for each feature. The distance of two sets is one number: add them up."""
    return (x.mean(0) - y.mean(0)) ** 2 + (x.std(0) - y.std(0)) ** 2


@frechet_diagonal.misconception
def over_the_features_of_each_item(x: Tensor, y: Tensor) -> Tensor:
    """Mean and deviation are taken over the features of each item (dim=1), where the two sets need
    not even be equally long. Take them over the items, dim=0: one of each for every feature.
    """
    return ((x.mean(1) - y.mean(1)) ** 2 + (x.std(1) - y.std(1)) ** 2).sum()


@frechet_diagonal.misconception
def over_all_numbers(x: Tensor, y: Tensor) -> Tensor:
    """Mean and deviation are those of all numbers together. Each feature has its own: use dim=0."""
    return (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2


@frechet_diagonal.misconception
def divided_by_n(x: Tensor, y: Tensor) -> Tensor:
    """The deviations divide by N. Around a mean that was itself estimated from the N items, divide
    by N - 1, which is what std does when it is not told otherwise.
    """
    x_std, y_std = x.std(0, correction=0), y.std(0, correction=0)
    return ((x.mean(0) - y.mean(0)) ** 2 + (x_std - y_std) ** 2).sum()


@frechet_diagonal.misconception
def means_alone(x: Tensor, y: Tensor) -> Tensor:
    """Only the means are compared. A set without any variety has the right mean as well: add the
    squared differences of the deviations.
    """
    return ((x.mean(0) - y.mean(0)) ** 2).sum()


@frechet_diagonal.misconception
def deviations_alone(x: Tensor, y: Tensor) -> Tensor:
    """Only the deviations are compared: the squared differences of the means are missing."""
    return ((x.std(0) - y.std(0)) ** 2).sum()


@frechet_diagonal.misconception
def absolute_differences(x: Tensor, y: Tensor) -> Tensor:
    """The differences are taken as they are, without their sign. They have to be squared before
    they are added.
    """
    return ((x.mean(0) - y.mean(0)).abs() + (x.std(0) - y.std(0)).abs()).sum()


@frechet_diagonal.misconception
def summed_before_squaring(x: Tensor, y: Tensor) -> Tensor:
    """The differences are added up over the features and then squared, so that those of opposite
    sign cancel. Square first.
    """
    return (x.mean(0) - y.mean(0)).sum() ** 2 + (x.std(0) - y.std(0)).sum() ** 2


# --- 2: with covariances -------------------------------------------------------------------------


def _shift(x: Tensor, y: Tensor) -> Tensor:
    return (x.mean(0) - y.mean(0)).square().sum()


def _root(matrix: Tensor) -> Tensor:
    """The symmetric root of a covariance, (D, D)."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


def _spread(x: Tensor, y: Tensor) -> Tensor:
    """The part of the distance that compares covariances."""
    cov_x, cov_y = x.T.cov(), y.T.cov()
    roots: Tensor = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt()
    return torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


@task(points=3, inputs=_two_sets, roundings=512, package=[evaluation.frechet_distance])
def frechet(x: Tensor, y: Tensor) -> Tensor:
    """Frechet distance of two sets taken as normals (Heusel et al. 2017, eq. 6)."""
    cov_x, cov_y = x.T.cov(), y.T.cov()
    root_x = _root(cov_x)
    eigenvalues: Tensor = torch.linalg.eigvalsh(root_x @ cov_y @ root_x)
    trace = torch.trace(cov_x) + torch.trace(cov_y) - 2 * eigenvalues.clamp(min=0).sqrt().sum()
    return _shift(x, y) + trace


@frechet.misconception
def features_taken_as_independent(x: Tensor, y: Tensor) -> Tensor:
    """This is task 1: only the diagonals of the covariances are used. The eigenvalues must be those
    of the whole matrix.
    """
    return _shift(x, y) + (x.std(0) - y.std(0)).square().sum()


@frechet.misconception
def root_of_each_entry(x: Tensor, y: Tensor) -> Tensor:
    """`.sqrt()` takes the root of each entry of the product. The root of a matrix is another
    matrix, whose square it is; its trace is the sum of the roots of the eigenvalues.
    """
    cov_x, cov_y = x.T.cov(), y.T.cov()
    return _shift(x, y) + torch.trace(cov_x + cov_y - 2 * (cov_x @ cov_y).sqrt())


@frechet.misconception
def entries_multiplied(x: Tensor, y: Tensor) -> Tensor:
    """The covariances are multiplied entry by entry (*). C_x C_y is a product of matrices: @."""
    cov_x, cov_y = x.T.cov(), y.T.cov()
    roots: Tensor = torch.linalg.eigvalsh(cov_x * cov_y).clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


@frechet.misconception
def product_taken_as_symmetric(x: Tensor, y: Tensor) -> Tensor:
    """eigh and eigvalsh are for symmetric matrices and read only one half; C_x C_y is not
    symmetric. C_x^(1/2) C_y C_x^(1/2) is, and has the same eigenvalues.
    """
    cov_x, cov_y = x.T.cov(), y.T.cov()
    roots: Tensor = torch.linalg.eigvalsh(cov_x @ cov_y).clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


@frechet.misconception
def product_of_the_roots(x: Tensor, y: Tensor) -> Tensor:
    """The trace is that of C_x^(1/2) C_y^(1/2), a product of two roots. Unless the two matrices
    commute that is not the root of their product, and the distance comes out too large.
    """
    cov_x, cov_y = x.T.cov(), y.T.cov()
    return _shift(x, y) + torch.trace(cov_x + cov_y - 2 * _root(cov_x) @ _root(cov_y))


@frechet.misconception
def no_root(x: Tensor, y: Tensor) -> Tensor:
    """The eigenvalues are added as they are. The trace of the root is the sum of their roots."""
    cov_x, cov_y = x.T.cov(), y.T.cov()
    return _shift(x, y) + torch.trace(cov_x + cov_y - 2 * cov_x @ cov_y)


@frechet.misconception
def two_forgotten(x: Tensor, y: Tensor) -> Tensor:
    """The factor 2 before the root is missing. A test: the distance of a set from itself is 0."""
    cov_x, cov_y = x.T.cov(), y.T.cov()
    roots: Tensor = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - roots.sum()


@frechet.misconception
def length_of_the_shift_unsquared(x: Tensor, y: Tensor) -> Tensor:
    """The distance of the means is not squared: .norm() takes a root, .square().sum() does not."""
    return _shift(x, y).sqrt() + _spread(x, y)


@frechet.misconception
def shift_forgotten(x: Tensor, y: Tensor) -> Tensor:
    """The means are not compared: |m_x - m_y|^2 is missing."""
    return _spread(x, y)


@frechet.misconception
def root_of_the_whole(x: Tensor, y: Tensor) -> Tensor:
    """There is a square root around it all. The field quotes the squared length, without a root."""
    return (_shift(x, y) + _spread(x, y)).clamp(min=0).sqrt()


@frechet.misconception
def covariance_of_the_items(x: Tensor, y: Tensor) -> Tensor:
    """cov takes rows for variables, so x.cov() is (N, N), how items vary together. Features are the
    columns: x.T.cov(), which is (D, D).
    """
    return torch.trace(x.cov() @ y.cov())


@frechet.misconception
def covariances_divided_by_n(x: Tensor, y: Tensor) -> Tensor:
    """The covariances divide by N. Around a mean that was itself estimated from the N items, divide
    by N - 1.
    """
    cov_x, cov_y = x.T.cov(correction=0), y.T.cov(correction=0)
    roots: Tensor = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


@frechet.misconception
def means_not_subtracted(x: Tensor, y: Tensor) -> Tensor:
    """The matrices are x^T x / N, second moments. In a covariance the mean is subtracted first."""
    cov_x, cov_y = x.T @ x / len(x), y.T @ y / len(y)
    roots: Tensor = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


@frechet.misconception
def correlations(x: Tensor, y: Tensor) -> Tensor:
    """These are correlations, in which every feature has the variance 1. Covariances keep how wide
    each feature is: cov, not corrcoef.
    """
    cov_x, cov_y = x.T.corrcoef(), y.T.corrcoef()
    roots: Tensor = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


# --- 3: the kernel distance ----------------------------------------------------------------------


def _sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels within x, within y and across, (N, N), (M, M), (N, M)."""
    pairs = ((x, x), (y, y), (x, y))
    k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in pairs)
    return k_xx, k_yy, k_xy


def _off_diagonal(k: Tensor) -> Tensor:
    return (k.sum() - torch.trace(k)) / (len(k) * (len(k) - 1))


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    k_xx, k_yy, k_xy = _sums(x, y)
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * k_xy.mean()


@task(
    points=3,
    inputs=_two_sets,
    roundings=1024,
    package=[evaluation.squared_mmd, evaluation.kernel_distance],
)
def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared distance of two sets with the kernel (a . b / D + 1)^3 (KID)."""
    k_xx, k_yy, k_xy = _sums(x, y)
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * k_xy.mean()


@squared_mmd.misconception
def diagonal_kept(x: Tensor, y: Tensor) -> Tensor:
    """Each item is paired with itself, too, and is alike beyond chance: that makes the distance too
    large. Leave out the diagonal of k(x, x) and k(y, y).
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    return k_xx.mean() + k_yy.mean() - 2 * k_xy.mean()


@squared_mmd.misconception
def diagonal_left_out_but_counted(x: Tensor, y: Tensor) -> Tensor:
    """The diagonal is left out of the sum but still counted in the number of pairs. There are
    N (N - 1) of them, not N^2.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    within_x, within_y = ((k.sum() - torch.trace(k)) / len(k) ** 2 for k in (k_xx, k_yy))
    return within_x + within_y - 2 * k_xy.mean()


@squared_mmd.misconception
def diagonal_kept_but_not_counted(x: Tensor, y: Tensor) -> Tensor:
    """The sum is divided by N (N - 1) but still holds the diagonal: subtract the trace first."""
    k_xx, k_yy, k_xy = _sums(x, y)
    within_x, within_y = (k.sum() / (len(k) * (len(k) - 1)) for k in (k_xx, k_yy))
    return within_x + within_y - 2 * k_xy.mean()


@squared_mmd.misconception
def across_counted_once(x: Tensor, y: Tensor) -> Tensor:
    """The mean across is taken off once; two means are added, so it must be taken off twice. A
    test: for two sets from one source it is 0 on average.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - k_xy.mean()


@squared_mmd.misconception
def across_added(x: Tensor, y: Tensor) -> Tensor:
    """The mean across is added. The less alike the two sets are, the smaller it is, and the larger
    should be the distance: subtract it.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) + 2 * k_xy.mean()


@squared_mmd.misconception
def diagonal_left_out_across(x: Tensor, y: Tensor) -> Tensor:
    """The diagonal is left out across the sets as well. x_i and y_i are no pair of an item with
    itself: all N M pairs count.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    n = min(k_xy.shape)
    across = (k_xy.sum() - k_xy.diagonal().sum()) / (k_xy.numel() - n)
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * across


@squared_mmd.misconception
def not_divided_by_the_dimensions(x: Tensor, y: Tensor) -> Tensor:
    """a . b is not divided by D, the number of features."""
    scale = x.shape[1] ** 0.5
    return _mmd(x * scale, y * scale)


@squared_mmd.misconception
def divided_by_the_root_of_the_dimensions(x: Tensor, y: Tensor) -> Tensor:
    """a . b is divided by the square root of D, as in attention. Here it is D itself."""
    scale = x.shape[1] ** 0.25
    return _mmd(x * scale, y * scale)


@squared_mmd.misconception
def one_forgotten(x: Tensor, y: Tensor) -> Tensor:
    """The 1 in the bracket is missing, and with it the comparison of means and covariances: only
    third moments are left.
    """
    k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1]) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * k_xy.mean()


@squared_mmd.misconception
def square_in_place_of_the_cube(x: Tensor, y: Tensor) -> Tensor:
    """The bracket is squared; the exponent is 3."""
    k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1] + 1) ** 2 for a, b in ((x, x), (y, y), (x, y)))
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * k_xy.mean()


@squared_mmd.misconception
def linear_kernel(x: Tensor, y: Tensor) -> Tensor:
    """The exponent 3 is missing. The bracket alone compares means and nothing else."""
    k_xx, k_yy, k_xy = (a @ b.T / x.shape[1] + 1 for a, b in ((x, x), (y, y), (x, y)))
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * k_xy.mean()


@squared_mmd.misconception
def entries_in_place_of_pairs(x: Tensor, y: Tensor) -> Tensor:
    """a * b multiplies item by item, so that the first meets only the first; the two sets need not
    even be equally long. Every item meets every other: a @ b.T, (N, M).
    """
    return ((x * x).sum(1) + (x * y).sum(1)).mean()


@squared_mmd.misconception
def root_of_the_square(x: Tensor, y: Tensor) -> Tensor:
    """A root is taken. KID is the squared distance, and it must be able to fall below 0, or it
    would not be 0 on average for equal sources.
    """
    return _mmd(x, y).clamp(min=0).sqrt()


@squared_mmd.misconception
def kernel_of_the_means(x: Tensor, y: Tensor) -> Tensor:
    """The kernel is taken of the two means. The mean of the kernel over all pairs is asked for:
    only so it also sees how the sets are spread.
    """
    k_xx, k_yy, k_xy = _sums(x.mean(0, keepdim=True), y.mean(0, keepdim=True))
    return (k_xx + k_yy - 2 * k_xy).squeeze()


# --- 4: precision --------------------------------------------------------------------------------


def _clumps(draw: Draw) -> Inputs:
    """Real items with a few outliers, and generated ones around some of them; not equally many."""
    dim, k = draw.integer(2, 4), 2 + draw.case
    n, m = draw.integer(70, 90), draw.integer(150, 200)  # enough that some lie at every border
    real = draw.normal(n, dim)
    real[:: draw.integer(5, 9)] *= 2.5
    generated = 1.2 * draw.normal(m, dim) + draw.uniform(0.3, 1, dim)
    return {"real": real, "generated": generated, "k": k}


def _radii(population: Tensor, k: int) -> Tensor:
    """Distance from each item to its k-th neighbour, (N,); the 0-th is the item itself."""
    return torch.cdist(population, population).sort(1).values[:, k]


def _share(hits: Tensor) -> Tensor:
    return hits.double().mean()


@task(points=3, inputs=_clumps, package=[evaluation.precision_recall])
def precision(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """Share of generated items inside the ball of a real one (Kynkaanniemi et al. 2019, eq. 2)."""
    distances = torch.cdist(generated, real)  # (M, N)
    return _share((distances <= _radii(real, k)).any(1))


@precision.misconception
def itself_counted_as_a_neighbour(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The balls reach one neighbour too short: sorted, the first distance of an item is the 0 to
    itself. The k-th neighbour stands at index k.
    """
    return _share((torch.cdist(generated, real) <= _radii(real, k - 1)).any(1))


@precision.misconception
def one_neighbour_too_far(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The balls reach one neighbour too far. Sorted, the distance to the item itself stands at
    index 0, so the k-th neighbour at k; kthvalue, which counts from 1, finds it at k + 1.
    """
    return _share((torch.cdist(generated, real) <= _radii(real, k + 1)).any(1))


@precision.misconception
def always_the_nearest_neighbour(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The balls reach to the nearest neighbour, whatever k is."""
    return _share((torch.cdist(generated, real) <= _radii(real, 1)).any(1))


@precision.misconception
def always_the_third_neighbour(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The balls reach to the third neighbour, whatever k is: use the argument."""
    return _share((torch.cdist(generated, real) <= _radii(real, 3)).any(1))


@precision.misconception
def recall_in_place_of_precision(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """This is recall: the share of real items that lie in balls of generated ones. For precision
    the balls are the real ones'.
    """
    return _share((torch.cdist(real, generated) <= _radii(generated, k)).any(1))


@precision.misconception
def share_of_real_balls_that_are_hit(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The share is that of real balls with a generated item inside (it is called coverage). Asked
    for is the share of generated items: `any` over the real ones.
    """
    return _share((torch.cdist(generated, real) <= _radii(real, k)).any(0))


@precision.misconception
def ball_of_the_nearest_alone(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """Only the ball of the nearest real item is looked at. Another one, farther away, may reach
    farther: an item counts if it lies in the ball of any.
    """
    distances, nearest = torch.cdist(generated, real).min(1)
    return _share(distances <= _radii(real, k)[nearest])


@precision.misconception
def share_of_all_pairs(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """This is the share of all pairs. An item counts once, whether it lies in one ball or in ten:
    any(1) before the mean.
    """
    return _share(torch.cdist(generated, real) <= _radii(real, k))


@precision.misconception
def balls_counted(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """Balls are counted, so that an item in ten of them counts ten times. It counts once: any(1)
    in place of sum(1).
    """
    return (torch.cdist(generated, real) <= _radii(real, k)).sum(1).double().mean()


@precision.misconception
def in_all_balls(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """This asks for items that lie in all balls at once. One is enough: any, not all."""
    return _share((torch.cdist(generated, real) <= _radii(real, k)).all(1))


@precision.misconception
def one_radius_for_all(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """All balls have the mean radius. Each real item has its own, so that the balls are small where
    real items are dense.
    """
    return _share((torch.cdist(generated, real) <= _radii(real, k).mean()).any(1))


@precision.misconception
def neighbours_among_the_generated(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The radii are distances from real items to *generated* ones. A ball reaches to the k-th
    neighbour in its own set: real to real.
    """
    radii = torch.cdist(real, generated).sort(1).values[:, k - 1]
    return _share((torch.cdist(generated, real) <= radii).any(1))


@precision.misconception
def radii_of_the_generated(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The balls lie around the generated items. An item then asks whether a real one is near *it*;
    the balls must be the real ones', whose radii tell how dense the real ones are.
    """
    return _share((torch.cdist(generated, real) <= _radii(generated, k)[:, None]).any(1))


@precision.misconception
def squares_against_lengths(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """Squared distances are compared with radii that are not squared. Square both or neither."""
    return _share((torch.cdist(generated, real) ** 2 <= _radii(real, k)).any(1))


@precision.misconception
def outside_in_place_of_inside(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """This is the share of those that lie outside: 1 minus what is asked for. Inside is
    distance <= radius.
    """
    return _share((torch.cdist(generated, real) > _radii(real, k)).all(1))


# --- 5: the floor --------------------------------------------------------------------------------


def _distance_of_means(x: Tensor, y: Tensor) -> float:
    return float((x.mean(0) - y.mean(0)).square().sum())


def _distance_of_spreads(x: Tensor, y: Tensor) -> float:
    return float((x.std(0) - y.std(0)).square().sum() + (x.mean(0) - y.mean(0)).abs().sum())


def _real_sets(draw: Draw) -> Inputs:
    """Held-out and training features, and a size that does not divide the number held out."""
    dim, n = draw.integer(2, 5), draw.integer(5, 9)
    n_held_out = n * draw.integer(4, 8) + draw.integer(2, n)
    return {
        "held_out": draw.normal(n_held_out, dim),
        "training": draw.normal(4 * n_held_out, dim) + 0.2,
        "n": n,
        "distance": (_distance_of_means, _distance_of_spreads)[draw.case % 2],
    }


def _summary(values: list[float], correction: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and standard error of a list."""
    numbers = torch.tensor(values, dtype=torch.float64)
    return numbers.mean(), numbers.std(correction=correction) / math.sqrt(len(numbers))


def _whole_parts(held_out: Tensor, n: int) -> list[Tensor]:
    return [part for part in torch.split(held_out, n) if len(part) == n]


@task(
    points=3,
    inputs=_real_sets,
    outputs=("the mean", "the standard error"),
    roundings=256,
)
def floor(held_out: Tensor, training: Tensor, n: int, distance: Distance) -> tuple[Tensor, Tensor]:
    """Mean distance of disjoint sets of n real items to the training set; its standard error."""
    return _summary([distance(part, training) for part in _whole_parts(held_out, n)])


@floor.misconception
def rest_included(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The last part, which has fewer than n items, is included. Fewer items have a larger distance:
    leave it out.
    """
    return _summary([distance(part, training) for part in torch.split(held_out, n)])


@floor.misconception
def training_set_cut_as_well(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The training set is cut down to n items, too. The reference stays whole: only the set to be
    judged has n items, as a model's will have.
    """
    return _summary([distance(part, training[:n]) for part in _whole_parts(held_out, n)])


@floor.misconception
def part_against_part(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """Each part is compared with the part of the training set at the same place. Every one is
    compared with the whole training set.
    """
    pairs = zip(_whole_parts(held_out, n), torch.split(training, n), strict=False)
    return _summary([distance(x, y) for x, y in pairs])


@floor.misconception
def deviation_in_place_of_the_error(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The second number is the standard deviation of one distance. The mean of several is more
    certain: divide by the root of their number.
    """
    values = torch.tensor([distance(part, training) for part in _whole_parts(held_out, n)])
    return values.double().mean(), values.double().std()


@floor.misconception
def divided_by_the_items(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The standard error is divided by the root of n, the items in a set. What is averaged are
    distances: divide by the root of the number of *sets*.
    """
    values = torch.tensor([distance(part, training) for part in _whole_parts(held_out, n)])
    return values.double().mean(), values.double().std() / math.sqrt(n)


@floor.misconception
def error_without_the_root(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The deviation is divided by the number of sets; the standard error of a mean falls with the
    root of it.
    """
    values = torch.tensor([distance(part, training) for part in _whole_parts(held_out, n)])
    return values.double().mean(), values.double().std() / len(values)


@floor.misconception
def variance_in_place_of_the_deviation(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The variance is divided where the deviation belongs: the error is std / sqrt(number)."""
    values = torch.tensor([distance(part, training) for part in _whole_parts(held_out, n)])
    return values.double().mean(), values.double().var() / math.sqrt(len(values))


@floor.misconception
def error_with_the_number_of_sets(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The deviation divides by the number of sets. Around a mean that was itself estimated from
    them divide by one less, as torch's std does; numpy's needs ddof=1.
    """
    return _summary([distance(part, training) for part in _whole_parts(held_out, n)], correction=0)


@floor.misconception
def growing_sets(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The sets grow: the first n items, the first 2 n, and so on. Each must have n items, and no
    two an item in common.
    """
    ends = range(n, len(held_out) + 1, n)
    return _summary([distance(held_out[:end], training) for end in ends])


@floor.misconception
def overlapping_sets(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """A set begins at every item, so neighbouring sets share nearly all they hold, and the standard
    error comes out far too small. Begin at 0, n, 2 n, ...
    """
    return _summary([distance(held_out[i : i + n], training) for i in range(len(held_out) - n + 1)])


@floor.misconception
def n_sets(held_out: Tensor, training: Tensor, n: int, distance: Distance) -> tuple[Tensor, Tensor]:
    """This cuts into n sets. n is the number of items in each."""
    return _summary([distance(part, training) for part in held_out.tensor_split(n)])


@floor.misconception
def every_so_many(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """Each set takes every n-th item, and so has not n of them. Cut the items into pieces of n:
    split(n), without the rest.
    """
    return _summary([distance(held_out[i::n], training) for i in range(n)])


@floor.misconception
def model_s_place_and_floor_s_exchanged(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The training set is cut into pieces, and these are compared with the held-out items. The
    floor asks how far n *new* real items are from the training set.
    """
    return _summary([distance(part, held_out) for part in _whole_parts(training, n)])


@floor.misconception
def sum_in_place_of_the_mean(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The first number is the sum of the distances; asked for is their mean."""
    values = [distance(part, training) for part in _whole_parts(held_out, n)]
    mean, error = _summary(values)
    return mean * len(values), error


@floor.misconception
def last_whole_set_left_out(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The last set of n items is missing: range(0, len(held_out) - n, n) ends too early."""
    return _summary([distance(part, training) for part in _whole_parts(held_out, n)[:-1]])

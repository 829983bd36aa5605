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


def _two_sets_or_few_items(draw: Draw) -> Inputs:
    """Two sets; on the last case y has fewer items than features, so its covariance is singular."""
    if draw.case < 3:
        return _two_sets(draw)
    dim, m = draw.integer(24, 30), draw.integer(5, 8)
    x = draw.normal(draw.integer(60, 80), dim) @ draw.normal(dim, dim) / dim**0.5
    return {"x": x, "y": draw.normal(m, dim) + draw.uniform(0.5, 2, dim)}


@task(points=3, inputs=_two_sets_or_few_items, roundings=512, package=[evaluation.frechet_distance])
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


def _by_root(root: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The distance with what is taken for the root of the covariance of x."""
    cov_x, cov_y = x.T.cov(), y.T.cov()
    roots: Tensor = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


@frechet.misconception
def no_clamp(x: Tensor, y: Tensor) -> Tensor:
    """With fewer items than features most eigenvalues are 0, and rounding makes some of them
    negative: their roots are nan. Where one is negative, take 0.
    """
    cov_x, cov_y = x.T.cov(), y.T.cov()
    values, vectors = torch.linalg.eigh(cov_x)
    root_x = vectors * values.sqrt() @ vectors.T
    roots: Tensor = torch.linalg.eigvalsh(root_x @ cov_y @ root_x).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


@frechet.misconception
def covariance_in_place_of_its_root(x: Tensor, y: Tensor) -> Tensor:
    """The matrix is C_x C_y C_x. It is symmetric, but has other eigenvalues than C_x C_y: on both
    sides stands the *root* of C_x.
    """
    return _by_root(x.T.cov(), x, y)


@frechet.misconception
def root_without_turning_back(x: Tensor, y: Tensor) -> Tensor:
    """The root of C_x lacks its last factor. The eigenvectors stand on both sides: V L^(1/2) V^T.
    A test: its square must be C_x.
    """
    values, vectors = torch.linalg.eigh(x.T.cov())
    return _by_root(vectors * values.clamp(min=0).sqrt(), x, y)


@frechet.misconception
def eigenvectors_in_rows(x: Tensor, y: Tensor) -> Tensor:
    """The root of C_x is V^T L^(1/2) V. eigh gives eigenvectors as *columns* of V, so V comes first
    and V^T last. A test: its square must be C_x.
    """
    values, vectors = torch.linalg.eigh(x.T.cov())
    return _by_root(vectors.T * values.clamp(min=0).sqrt() @ vectors, x, y)


@frechet.misconception
def eigenvalues_without_their_directions(x: Tensor, y: Tensor) -> Tensor:
    """In place of the root of C_x stands the diagonal matrix of its eigenvalues' roots. Which way
    each of them points is lost: the eigenvectors belong on both sides.
    """
    return _by_root(torch.linalg.eigvalsh(x.T.cov()).clamp(min=0).sqrt().diag(), x, y)


@frechet.misconception
def eigenvalues_multiplied_in_order(x: Tensor, y: Tensor) -> Tensor:
    """Eigenvalues of C_x and of C_y are multiplied, the smallest with the smallest. Those of the
    product C_x C_y are others, unless both matrices have the same eigenvectors.
    """
    cov_x, cov_y = x.T.cov(), y.T.cov()
    products = torch.linalg.eigvalsh(cov_x) * torch.linalg.eigvalsh(cov_y)
    roots: Tensor = products.clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * roots.sum()


@frechet.misconception
def root_of_the_trace(x: Tensor, y: Tensor) -> Tensor:
    """The root is taken of the trace. Asked for is the trace of the root: the root of each
    eigenvalue, then their sum.
    """
    cov_x, cov_y = x.T.cov(), y.T.cov()
    root = torch.trace(cov_x @ cov_y).clamp(min=0).sqrt()
    return _shift(x, y) + torch.trace(cov_x) + torch.trace(cov_y) - 2 * root


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


def _two_sets_or_one_source(draw: Draw) -> Inputs:
    """Two sets; on the last case they are from one source, and the estimate is negative."""
    if draw.case < 3:
        return _two_sets(draw)
    dim, n, m = draw.integer(3, 6), draw.integer(9, 16), draw.integer(17, 24)
    while True:
        x, y = draw.normal(n, dim), draw.normal(m, dim)
        if _mmd(x, y) < -0.05:
            return {"x": x, "y": y}


@task(
    points=3,
    inputs=_two_sets_or_one_source,
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


@squared_mmd.misconception
def negative_values_cut_off(x: Tensor, y: Tensor) -> Tensor:
    """A negative estimate is replaced by 0. It is no error: were it cut off, two sets from one
    source would not have 0 on average.
    """
    return _mmd(x, y).clamp(min=0)


@squared_mmd.misconception
def negative_values_made_positive(x: Tensor, y: Tensor) -> Tensor:
    """A negative estimate loses its sign. It is no error: without the sign, two sets from one
    source would not have 0 on average.
    """
    return _mmd(x, y).abs()


@squared_mmd.misconception
def diagonal_emptied_before_the_kernel(x: Tensor, y: Tensor) -> Tensor:
    """The diagonal of the products is set to 0 *before* the kernel, which makes it 1 again. Leave
    it out afterwards.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    n, m = len(x), len(y)
    within_x = (k_xx.sum() - torch.trace(k_xx) + n) / (n * (n - 1))
    within_y = (k_yy.sum() - torch.trace(k_yy) + m) / (m * (m - 1))
    return within_x + within_y - 2 * k_xy.mean()


@squared_mmd.misconception
def one_taken_off_for_each_item(x: Tensor, y: Tensor) -> Tensor:
    """For the diagonal N is subtracted, as if each item's kernel with itself were 1. It is
    (|x_i|^2 / D + 1)^3: subtract the trace.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    within_x, within_y = ((k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in (k_xx, k_yy))
    return within_x + within_y - 2 * k_xy.mean()


@squared_mmd.misconception
def divided_by_the_number_of_items(x: Tensor, y: Tensor) -> Tensor:
    """a . b is divided by len(a), the number of items. D is the number of features, a.shape[1]."""
    k_xx, k_yy, k_xy = ((a @ b.T / len(a) + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * k_xy.mean()


@squared_mmd.misconception
def one_divided_as_well(x: Tensor, y: Tensor) -> Tensor:
    """The bracket is (a . b + 1) / D. Only the product is divided by D; the 1 is added after."""
    dim = x.shape[1]
    k_xx, k_yy, k_xy = (((a @ b.T + 1) / dim) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * k_xy.mean()


@squared_mmd.misconception
def n_in_place_of_m(x: Tensor, y: Tensor) -> Tensor:
    """The sums over y and across are divided as if y had N items, too. It has M: M (M - 1) pairs
    within, N M across.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    n = len(x)
    within = k_xx.sum() - torch.trace(k_xx) + k_yy.sum() - torch.trace(k_yy)
    return within / (n * (n - 1)) - 2 * k_xy.sum() / n**2


@squared_mmd.misconception
def bracket_forgotten_in_the_number_of_pairs(x: Tensor, y: Tensor) -> Tensor:
    """`/ n * (n - 1)` divides by n and then multiplies by n - 1. A bracket makes both divide:
    / (n * (n - 1)).
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    within_x, within_y = ((k.sum() - torch.trace(k)) / len(k) * (len(k) - 1) for k in (k_xx, k_yy))
    return within_x + within_y - 2 * k_xy.mean()


@squared_mmd.misconception
def half_of_the_pairs(x: Tensor, y: Tensor) -> Tensor:
    """Each pair within a set is summed once, i < j, but the number of pairs counts it twice. Double
    the sum, or divide by N (N - 1) / 2.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    return (_off_diagonal(k_xx) + _off_diagonal(k_yy)) / 2 - 2 * k_xy.mean()


@squared_mmd.misconception
def across_divided_twice(x: Tensor, y: Tensor) -> Tensor:
    """The term across is divided by N M twice: mean() has done it already."""
    k_xx, k_yy, k_xy = _sums(x, y)
    return _off_diagonal(k_xx) + _off_diagonal(k_yy) - 2 * k_xy.mean() / k_xy.numel()


@squared_mmd.misconception
def mean_without_its_diagonal(x: Tensor, y: Tensor) -> Tensor:
    """Sum and diagonal are divided by different numbers: mean() divides by N^2, the trace is
    divided by N (N - 1). Subtract first, then divide both.
    """
    k_xx, k_yy, k_xy = _sums(x, y)
    within_x, within_y = (k.mean() - torch.trace(k) / (len(k) * (len(k) - 1)) for k in (k_xx, k_yy))
    return within_x + within_y - 2 * k_xy.mean()


# --- 4: precision --------------------------------------------------------------------------------


def _clumps(draw: Draw) -> Inputs:
    """Real items with a few outliers, and generated ones around some of them; not equally many."""
    dim, k = draw.integer(2, 4), 2 + draw.case
    n, m = draw.integer(70, 90), draw.integer(150, 200)  # enough that some lie at every border
    real = draw.normal(n, dim)
    real[:: draw.integer(5, 9)] *= 2.5
    generated = 1.2 * draw.normal(m, dim) + draw.uniform(0.3, 1, dim)
    generated[:50] *= draw.uniform(1, 8, 50, 1)  # and some far out, beyond ever larger balls
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


@precision.misconception
def hits_not_divided(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """This is a number of items. A share is that number divided by how many were generated."""
    return (torch.cdist(generated, real) <= _radii(real, k)).any(1).double().sum()


@precision.misconception
def divided_by_the_number_of_real_items(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The hits are divided by the number of real items. They are generated ones, so divide by how
    many were generated.
    """
    hits = (torch.cdist(generated, real) <= _radii(real, k)).any(1)
    return hits.double().sum() / len(real)


@precision.misconception
def neighbours_among_the_generated_and_one_too_far(
    real: Tensor, generated: Tensor, k: int
) -> Tensor:
    """The radii are distances from real items to *generated* ones. A ball reaches to the k-th
    neighbour in its own set: cdist(real, real), in which each item itself comes first.
    """
    radii = torch.cdist(real, generated).sort(1).values[:, k]
    return _share((torch.cdist(generated, real) <= radii).any(1))


@precision.misconception
def the_farthest(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The balls reach to one of the farthest items: topk returns the largest unless told
    otherwise. Use largest=False, or sort.
    """
    radii = torch.cdist(real, real).topk(k + 1).values[:, -1]
    return _share((torch.cdist(generated, real) <= radii).any(1))


@precision.misconception
def largest_radius_for_all(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """All balls have the largest radius. Each real item has its own, so that the balls are small
    where real items are dense.
    """
    return _share((torch.cdist(generated, real) <= _radii(real, k).max()).any(1))


@precision.misconception
def row_in_place_of_column(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """The index k picks a row: all distances of one single item. Sorted along dim=1, the k-th
    neighbours of all items are a column, [:, k].
    """
    radii = torch.cdist(real, real).sort(1).values[k]
    return _share((torch.cdist(generated, real) <= radii).any(1))


@precision.misconception
def lengths_against_squares(real: Tensor, generated: Tensor, k: int) -> Tensor:
    """Distances are compared with radii that are squared. Square both or neither."""
    return _share((torch.cdist(generated, real) <= _radii(real, k) ** 2).any(1))


# --- 5: the floor --------------------------------------------------------------------------------


def _distance_of_means(x: Tensor, y: Tensor) -> float:
    return float((x.mean(0) - y.mean(0)).square().sum())


def _distance_in_deviations(x: Tensor, y: Tensor) -> float:  # not the same as from y to x
    return float(((x.mean(0) - y.mean(0)).square() / y.var(0) + x.std(0) / y.std(0)).sum())


def _real_sets(draw: Draw) -> Inputs:
    """Held-out and training features, and a size that divides the number held out on one case."""
    dim, n = draw.integer(2, 5), draw.integer(8, 12)
    n_held_out = n * draw.integer(4, 8) + (0 if draw.case == 2 else draw.integer(2, n))
    return {
        "held_out": draw.normal(n_held_out, dim),
        "training": draw.normal(4 * n_held_out, dim) + 0.2,
        "n": n,
        "distance": (_distance_of_means, _distance_in_deviations)[draw.case % 2],
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
    """The last set of n items is missing, also where a rest follows it."""
    return _summary([distance(part, training) for part in _whole_parts(held_out, n)[:-1]])


@floor.misconception
def last_part_always_left_out(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """Where n divides the number of items, the last set is whole and counts, but it is left out.
    Leave out only what has fewer than n items; a range of starts ends at len(held_out) - n + 1.
    """
    return _summary([distance(part, training) for part in torch.split(held_out, n)[:-1]])


@floor.misconception
def arguments_of_the_distance_exchanged(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """This calls distance(training, part). Asked for is distance(part, training), and not every
    distance is the same both ways.
    """
    return _summary([distance(training, part) for part in _whole_parts(held_out, n)])


@floor.misconception
def distance_to_the_held_out(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """Each part is compared with the held-out items, of which it is one. The floor asks how far it
    is from the training set.
    """
    return _summary([distance(part, held_out) for part in _whole_parts(held_out, n)])


@floor.misconception
def n_as_the_number_of_sets(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """This makes n sets, of len(held_out) // n items each. It is the other way round: n items each,
    len(held_out) // n sets.
    """
    parts = torch.split(held_out, len(held_out) // n)[:n]
    return _summary([distance(part, training) for part in parts])


@floor.misconception
def rest_shared_out(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """`chunk` makes pieces of about equal size, so that some have more than n items. Each set has
    exactly n, and the rest is left out: split.
    """
    parts = torch.chunk(held_out, len(held_out) // n)
    return _summary([distance(part, training) for part in parts])


@floor.misconception
def every_so_many_whole_sets(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The sets are right in size, but each takes items from all over. Cut them in order: the first
    n, the next n, and so on.
    """
    n_sets = len(held_out) // n
    parts = [held_out[i : n_sets * n : n_sets] for i in range(n_sets)]
    return _summary([distance(part, training) for part in parts])


@floor.misconception
def mean_and_error_exchanged(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The two numbers are exchanged: the mean comes first, then its standard error."""
    mean, error = _summary([distance(part, training) for part in _whole_parts(held_out, n)])
    return error, mean


@floor.misconception
def one_less_twice(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The deviation is divided by the root of the number of sets less one. The one is taken off in
    the deviation already, and only there.
    """
    values = [distance(part, training) for part in _whole_parts(held_out, n)]
    mean, error = _summary(values)
    return mean, error * math.sqrt(len(values) / (len(values) - 1))


@floor.misconception
def divided_by_all_items(
    held_out: Tensor, training: Tensor, n: int, distance: Distance
) -> tuple[Tensor, Tensor]:
    """The standard error is divided by the root of the number of all held-out items. What is
    averaged are distances: divide by the root of the number of *sets*.
    """
    values = [distance(part, training) for part in _whole_parts(held_out, n)]
    mean, error = _summary(values)
    return mean, error * math.sqrt(len(values) / len(held_out))

"""Right answers to the tasks of chapter 05 in other styles than the reference's."""

from __future__ import annotations

import math
import statistics

import numpy as np
import torch
from scipy.linalg import sqrtm

# --- frechet_diagonal ----------------------------------------------------------------------------


def feature_by_feature(x, y):
    total = 0.0
    for a, b in zip(x.T, y.T, strict=True):
        total += (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    return total


def square_spread_out(x, y):
    mixed = 2 * (x.var(0) * y.var(0)).sqrt()
    return torch.sum((x.mean(0) - y.mean(0)).square() + x.var(0) + y.var(0) - mixed)


def diagonal_through_numpy(x, y):
    x, y = x.numpy(), y.numpy()
    shift = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    return shift + ((x.std(axis=0, ddof=1) - y.std(axis=0, ddof=1)) ** 2).sum()


def as_the_length_of_a_vector(x, y):
    x, y = (torch.cat([f.mean(dim=0), f.std(dim=0)]) for f in (x, y))
    return torch.linalg.vector_norm(x - y) ** 2


def diagonal_in_python(x, y):
    columns = zip(x.T.tolist(), y.T.tolist(), strict=True)
    return sum(
        (statistics.fmean(a) - statistics.fmean(b)) ** 2
        + (statistics.stdev(a) - statistics.stdev(b)) ** 2
        for a, b in columns
    )


# --- frechet -------------------------------------------------------------------------------------


def with_complex_eigenvalues(x, y):
    cov_x, cov_y = x.T.cov(), y.T.cov()
    roots = torch.linalg.eigvals(cov_x @ cov_y).sqrt().real.sum()
    return (x.mean(0) - y.mean(0)).square().sum() + (cov_x + cov_y).trace() - 2 * roots


def with_scipy_s_matrix_root(x, y):
    x, y = x.numpy(), y.numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(sqrtm(cov_x @ cov_y))
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cov_x + cov_y - 2 * root)


def with_a_cholesky_factor(x, y):
    shift = x.mean(0) - y.mean(0)
    factor = torch.linalg.cholesky(x.T.cov())  # (D, D); cov_x is factor @ factor.T
    roots = torch.linalg.eigvalsh(factor.T @ y.T.cov() @ factor).clamp(min=0).sqrt()
    return shift @ shift + x.T.cov().trace() + y.T.cov().trace() - 2 * roots.sum()


def with_singular_values(x, y):
    x_0, y_0 = x - x.mean(0), y - y.mean(0)
    x_0, y_0 = x_0 / (len(x) - 1) ** 0.5, y_0 / (len(y) - 1) ** 0.5
    roots = torch.linalg.svdvals(x_0 @ y_0.T).sum()  # of cov_x cov_y
    return (x.mean(0) - y.mean(0)).pow(2).sum() + x_0.pow(2).sum() + y_0.pow(2).sum() - 2 * roots


def with_a_root_by_svd(x, y):
    u, s, _ = torch.linalg.svd(torch.cov(x.T))
    root = u @ torch.diag(s.sqrt()) @ u.T
    middle = torch.linalg.eigvalsh(root @ torch.cov(y.T) @ root)
    trace = torch.trace(torch.cov(x.T)) + torch.trace(torch.cov(y.T))
    return torch.dist(x.mean(0), y.mean(0)) ** 2 + trace - 2 * torch.sqrt(middle.clamp(min=0)).sum()


# --- squared_mmd ---------------------------------------------------------------------------------


def kernel(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def diagonal_filled_with_zeros(x, y):
    k_xx, k_yy = kernel(x, x).fill_diagonal_(0), kernel(y, y).fill_diagonal_(0)
    n, m = len(x), len(y)
    return k_xx.sum() / n / (n - 1) + k_yy.sum() / m / (m - 1) - 2 * kernel(x, y).mean()


def by_loops(x, y):
    def mean(a, b, itself):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if itself or i != j]
        return sum((float(a[i].dot(b[j])) / a.shape[1] + 1) ** 3 for i, j in pairs) / len(pairs)

    return mean(x, x, False) + mean(y, y, False) - 2 * mean(x, y, True)


def with_a_mask(x, y):
    within = 0
    for f in (x, y):
        within = within + kernel(f, f)[~torch.eye(len(f), dtype=torch.bool)].mean()
    return within - 2 * kernel(x, y).mean()


def with_the_upper_triangle(x, y):
    n, m = len(x), len(y)
    upper = torch.triu(kernel(x, x), diagonal=1).sum() * 2 / (n * (n - 1))
    upper += torch.triu(kernel(y, y), diagonal=1).sum() * 2 / (m * (m - 1))
    return upper - 2 * kernel(x, y).sum() / (n * m)


def mmd_through_numpy(x, y):
    x, y = x.numpy(), y.numpy()
    k = lambda a, b: (np.einsum("id,jd->ij", a, b) / a.shape[1] + 1.0) ** 3  # noqa: E731
    k_xx, k_yy = k(x, x), k(y, y)
    n, m = len(x), len(y)
    within = (k_xx.sum() - np.trace(k_xx)) / (n * (n - 1))
    return within + (k_yy.sum() - np.trace(k_yy)) / (m * (m - 1)) - 2 * k(x, y).mean()


# --- precision -----------------------------------------------------------------------------------


def with_kthvalue(real, generated, k):
    radii = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    return (torch.cdist(generated, real) <= radii).any(1).double().mean()


def precision_by_loops(real, generated, k):
    hits = 0
    for item in generated:
        for i, centre in enumerate(real):
            others = torch.cat([real[:i], real[i + 1 :]])
            radius = (others - centre).norm(dim=1).sort().values[k - 1]
            if (item - centre).norm() <= radius:
                hits += 1
                break
    return hits / len(generated)


def with_topk_and_the_real_ones_in_rows(real, generated, k):
    radii = torch.cdist(real, real).topk(k + 1, largest=False).values[:, -1]
    inside = torch.cdist(real, generated) <= radii[:, None]  # (N, M)
    return inside.any(dim=0).float().mean()


def with_squares(real, generated, k):
    def squares(a, b):
        return (a[:, None] - b[None]).square().sum(-1)

    radii = squares(real, real).fill_diagonal_(math.inf).sort(1).values[:, k - 1]
    return ((squares(generated, real) - radii).min(dim=1).values <= 0).double().mean()


def precision_through_numpy(real, generated, k):
    real, generated = real.numpy(), generated.numpy()
    own = np.sqrt(((real[:, None] - real) ** 2).sum(-1))
    radii = np.partition(own, k, axis=1)[:, k]
    across = np.sqrt(((generated[:, None] - real) ** 2).sum(-1))
    return np.mean(np.any(across <= radii, axis=1))


# --- floor ---------------------------------------------------------------------------------------


def with_a_range(held_out, training, n, distance):
    starts = range(0, len(held_out) - n + 1, n)
    values = torch.tensor([distance(held_out[i : i + n], training) for i in starts])
    return values.mean(), values.std() / len(values) ** 0.5


def with_chunks_reshaped(held_out, training, n, distance):
    n_sets = len(held_out) // n
    sets = held_out[: n_sets * n].reshape(n_sets, n, -1)
    values = torch.stack([torch.tensor(distance(s, training)).double() for s in sets])
    return values.mean(), (values.var() / n_sets).sqrt()


def floor_through_numpy(held_out, training, n, distance):
    values = np.array([distance(p, training) for p in held_out.split(n) if len(p) == n])
    return values.mean(), values.std(ddof=1) / np.sqrt(values.size)


def with_statistics(held_out, training, n, distance):
    values, rest = [], held_out
    while len(rest) >= n:
        part, rest = rest[:n], rest[n:]
        values.append(distance(part, training))
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def by_sums_of_squares(held_out, training, n, distance):
    count = len(held_out) // n
    values = [distance(held_out[i * n : (i + 1) * n], training) for i in range(count)]
    mean = sum(values) / count
    variance = sum((v - mean) ** 2 for v in values) / (count - 1)
    return mean, math.sqrt(variance / count)


VARIANTS = {
    "frechet_diagonal": [
        feature_by_feature,
        square_spread_out,
        diagonal_through_numpy,
        as_the_length_of_a_vector,
        diagonal_in_python,
    ],
    "frechet": [
        with_complex_eigenvalues,
        with_scipy_s_matrix_root,
        with_a_cholesky_factor,
        with_singular_values,
        with_a_root_by_svd,
    ],
    "squared_mmd": [
        diagonal_filled_with_zeros,
        by_loops,
        with_a_mask,
        with_the_upper_triangle,
        mmd_through_numpy,
    ],
    "precision": [
        with_kthvalue,
        precision_by_loops,
        with_topk_and_the_real_ones_in_rows,
        with_squares,
        precision_through_numpy,
    ],
    "floor": [
        with_a_range,
        with_chunks_reshaped,
        floor_through_numpy,
        with_statistics,
        by_sums_of_squares,
    ],
}

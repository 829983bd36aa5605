"""Chapter 05: the measures against references, and against models that must not win."""

import math
import re

import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import mannwhitneyu, norm
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from minidiff.data import DataNotFound, load_fashion
from minidiff.ddpm import Denoiser, sample_ddpm
from minidiff.evaluation import (
    PrecisionRecall,
    copying_z,
    frechet_distance,
    kernel_distance,
    nearest,
    nearest_distances,
    precision_recall,
    squared_mmd,
)
from minidiff.forward import cosine_schedule, extract
from minidiff.zoo import BOUNDS, WEIGHTS, Judge, judge_images, load


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def two_sets(dim: int, n: int = 4, m: int = 6) -> tuple[Tensor, Tensor]:
    """Sets of more than n dim and m dim items, of different means and covariances."""
    x = normal(n * dim + 5, dim) @ normal(dim, dim, seed=1) / dim**0.5
    return x, normal(m * dim + 5, dim, seed=2) @ normal(dim, dim, seed=3) / dim**0.5 + 1


# --- Frechet distance ---


@pytest.mark.parametrize("dim", [2, 3, 16, 128])
def test_frechet_distance_is_that_of_torchmetrics(dim):
    x, y = two_sets(dim)
    moments = (x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    expected = _compute_fid(*moments).item()
    assert abs(frechet_distance(x, y) - expected) < 1e-10 * max(1, expected)


@pytest.mark.parametrize("dim", [1, 3, 16])
def test_frechet_distance_is_that_by_a_matrix_root(dim):
    x, y = two_sets(dim)
    cov_x, cov_y = torch.cov(x.T).view(dim, dim), torch.cov(y.T).view(dim, dim)
    root = torch.from_numpy(sqrtm((cov_x @ cov_y).numpy())).real
    shift = (x.mean(0) - y.mean(0)).square().sum()
    expected = float(shift + (cov_x + cov_y - 2 * root).trace())
    assert abs(frechet_distance(x, y) - expected) < 1e-10 * max(1, expected)
    assert abs(frechet_distance(y, x) - expected) < 1e-10 * max(1, expected)


def test_frechet_distance_of_numbers_is_that_of_means_and_deviations():
    x, y = two_sets(1)
    expected = (x.mean() - y.mean()).square() + (x.std() - y.std()).square()
    assert abs(frechet_distance(x, y) - expected) < 1e-12


def test_frechet_distance_of_a_scaled_and_shifted_set():
    """Of x and a x + b it is |(1 - a) m - b|^2 + (1 - a)^2 tr C; a rotation changes nothing."""
    x, a, b = normal(100, 8), 1.7, normal(8, seed=1)
    expected = ((1 - a) * x.mean(0) - b).square().sum() + (1 - a) ** 2 * x.var(0).sum()
    assert abs(frechet_distance(x, a * x + b) - expected) < 1e-10
    rotation = torch.linalg.qr(normal(8, 8, seed=2)).Q
    turned = frechet_distance(x @ rotation, (a * x + b) @ rotation)
    assert abs(turned - expected) < 1e-10
    assert abs(frechet_distance(x, x)) < 1e-10


def test_frechet_distance_bears_sets_without_spread():
    x = normal(50, 6)
    constant = torch.full((10, 6), 2.0, dtype=torch.float64)
    expected = (x.mean(0) - 2).square().sum() + x.var(0).sum()
    assert abs(frechet_distance(x, constant) - expected) < 1e-10
    assert frechet_distance(constant, constant) == 0


def test_frechet_distance_of_fewer_items_than_dimensions_rounds_to_half_the_digits():
    """An eigenvalue 0 is off by 1e-16 of the largest; its root then by 1e-8."""
    x, y = normal(10, 40), normal(30, 40, seed=1)
    expected = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()).item()
    assert abs(frechet_distance(x, y) - expected) < 1e-5 * expected
    assert frechet_distance(x, x) > -1e-5


def test_frechet_distance_is_too_large_by_what_the_number_of_items_says():
    """Of N numbers from N(0, 1) to N(0, 1) itself: 1/N for the mean, 2 - 2 E(std) for the width."""
    n, n_repeats = 10, 4000
    exact = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) / 2**0.5  # mean 0, variance 1
    c_4 = math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
    values = torch.tensor([frechet_distance(x, exact) for x in normal(n_repeats, n, 1)])
    standard_error = values.std() / n_repeats**0.5
    assert abs(values.mean() - (1 / n + 2 - 2 * c_4)) < 4 * standard_error
    assert values.mean() > 20 * standard_error  # and not 0, though it is one distribution


# --- kernel distance ---


@pytest.mark.parametrize(("n", "dim"), [(2, 1), (7, 3), (50, 128)])
def test_squared_mmd_is_that_of_torchmetrics(n, dim):
    x, y = normal(n, dim) + 0.3, 2 * normal(n, dim, seed=1)
    expected = poly_mmd(x, y).item()
    assert abs(squared_mmd(x, y) - expected) < 1e-10 * max(1, abs(expected))
    assert abs(squared_mmd(y, x) - expected) < 1e-10 * max(1, abs(expected))


def test_squared_mmd_of_sets_of_different_sizes_by_loops():
    x, y = normal(5, 3), normal(8, 3, seed=1) + 1

    def k(a, b):
        return (a.dot(b) / 3 + 1) ** 3

    within_x = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    across = [k(a, b) for a in x for b in y]
    parts = [torch.stack(part).mean() for part in (within_x, within_y, across)]
    assert abs(squared_mmd(x, y) - (parts[0] + parts[1] - 2 * parts[2])) < 1e-12


@pytest.mark.parametrize("n", [2, 5, 25])
def test_squared_mmd_of_one_source_is_0_on_average_at_any_n(n):
    pairs = normal(2000, 2, n, 3)
    values = torch.stack([squared_mmd(x, y) for x, y in pairs])
    standard_error = values.std() / len(values) ** 0.5
    assert abs(values.mean()) < 4 * standard_error
    assert (values < 0).any()


def test_squared_mmd_is_the_distance_of_the_first_three_moments():
    """Of N(m, 1) and N(0, 1): 3 m^2 + 3 (m^2)^2 + (m^3 + 3 m)^2, from (a b + 1)^3 spread out."""
    m = 0.5
    pairs = normal(3000, 2, 20, 1)
    values = torch.stack([squared_mmd(x + m, y) for x, y in pairs])
    expected = 3 * m**2 + 3 * m**4 + (m**3 + 3 * m) ** 2
    assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


def test_kernel_distance_is_mean_and_error_of_blocks_that_share_nothing():
    x, y = normal(25, 4), normal(40, 4, seed=1) + 1
    blocks = [poly_mmd(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    value, standard_error = kernel_distance(x, y, block_size=8)
    assert abs(value - torch.stack(blocks).mean()) < 1e-12 * value
    assert abs(standard_error - torch.stack(blocks).std() / 3**0.5) < 1e-12 * value


@pytest.mark.parametrize("block_size", [-1, 0, 1, 13, 26])
def test_a_block_size_that_does_not_fit_twice_is_refused(block_size):
    message = f"must be at least 2 and fit twice into both sets, got {block_size} for 25 and 40"
    with pytest.raises(ValueError, match=message):
        kernel_distance(normal(25, 4), normal(40, 4), block_size)


# --- precision and recall ---


def share_by_loops(items: Tensor, population: Tensor, k: int) -> float:
    hits = 0
    for item in items:
        inside = False
        for i, centre in enumerate(population):
            others = [(centre - o).norm() for j, o in enumerate(population) if j != i]
            inside |= bool((item - centre).norm() <= sorted(others)[k - 1])
        hits += inside
    return hits / len(items)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dim", [1, 2, 30])
def test_precision_and_recall_by_loops(k, dim):
    real, made = normal(14, dim), 1.5 * normal(11, dim, seed=1)
    got = precision_recall(real, made, k)
    assert got == (share_by_loops(made, real, k), share_by_loops(real, made, k))
    assert precision_recall(made, real, k) == got[::-1]


def test_precision_and_recall_of_equal_and_of_distant_sets():
    x = normal(50, 3)
    assert precision_recall(x, x) == PrecisionRecall(1, 1)
    assert precision_recall(x, x.repeat(2, 1)) == PrecisionRecall(1, 1)
    assert precision_recall(x, x + 100) == PrecisionRecall(0, 0)
    far_apart = torch.cat([x[:25], x[25:] + 100])
    assert precision_recall(far_apart, x[:25]) == PrecisionRecall(1, 0.5)
    assert precision_recall(x[:25], far_apart) == PrecisionRecall(0.5, 1)


@pytest.mark.parametrize("k", [0, 9, -1])
def test_a_k_out_of_range_is_refused(k):
    message = re.escape(f"k must lie in [1, N), got {k} for 20 real and 9 generated items")
    with pytest.raises(ValueError, match=message):
        precision_recall(normal(20, 2), normal(9, 2), k)


# --- features ---


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (normal(9, 2).float(), normal(9, 2), "must be float64 (N, D) with N >= 2, got torch.floa"),
        (normal(9, 2), normal(9), "must be float64 (N, D) with N >= 2, got torch.float64 of shape"),
        (normal(1, 2), normal(9, 2), "must be float64 (N, D) with N >= 2, got"),
        (normal(9, 2), normal(9, 3), "must have as many features, got 2 and 3"),
        (normal(9, 2), normal(9, 2) / 0, "must be finite, got NaN or infinity"),
    ],
)
def test_features_that_do_not_fit_are_refused(measure, x, y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(x, y)


# --- nearest training items, and copying ---


def test_nearest_by_a_double_loop():
    x, training = normal(300, 1, 4, 8).float(), normal(40, 1, 4, 8, seed=1).float()
    distances = torch.stack([torch.stack([(a - b).norm() for b in training]) for a in x])
    found, indices = nearest(x, training, batch_size=7)
    assert torch.equal(indices, distances.argmin(1))
    assert (found - distances.min(1).values).abs().max() < 1e-5  # a rounding of 32 squares
    assert torch.equal(nearest_distances(x, training), found)


def test_a_copy_is_at_distance_0():
    training = normal(40, 1, 28, 28).float() - 5  # large numbers, small differences
    distances, indices = nearest(training[[7, 3]], training)
    assert distances.tolist() == [0, 0]
    assert indices.tolist() == [7, 3]


def test_nearest_of_other_shapes_are_refused():
    message = re.escape("x and training must have images of one shape, got (1, 2, 2) and (1, 4, 1)")
    for function in (nearest, nearest_distances):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 4, 1))


@pytest.mark.parametrize("decimals", [0, 1, 15], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 9), (300, 120)])
def test_copying_z_is_that_of_scipy(n, m, decimals):
    a, b = normal(n).round(decimals=decimals), (normal(m, seed=1) + 0.2).round(decimals=decimals)
    z = copying_z(a, b)
    test = mannwhitneyu(a.numpy(), b.numpy(), use_continuity=False, method="asymptotic")
    assert abs(2 * norm.sf(abs(z)) - test.pvalue) < 1e-10
    assert z == 0 or (z > 0) == (test.statistic > n * m / 2)
    assert abs(copying_z(b, a) + z) < 1e-12
    assert abs(copying_z((a + 9).exp(), (b + 9).exp()) - z) < 1e-12  # ranks alone count


def test_copying_z_has_mean_0_and_deviation_1_where_nothing_is_copied():
    values = torch.tensor([copying_z(x[:30], x[30:]) for x in normal(4000, 80)])
    assert abs(values.mean()) < 4 / 4000**0.5
    assert abs(values.std() - 1) < 4 / 8000**0.5


@pytest.mark.parametrize("name", ["generated", "held_out"])
@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (torch.ones(2, 1), "must be (N,) with N >= 1, got (2, 1)"),
        (torch.ones(0), "must be (N,) with N >= 1, got (0,)"),
        (torch.tensor([1.0, math.nan]), "must be finite, got NaN or infinity"),
    ],
)
def test_distances_that_do_not_fit_are_refused(name, distances, message):
    with pytest.raises(ValueError, match=re.escape(f"{name} {message}")):
        copying_z(**{"generated": torch.ones(3), "held_out": torch.ones(3), name: distances})


# --- the measures in the judge's features, on real data and on what must not win ---

N = 500


@pytest.fixture(scope="module")
def judge() -> Judge:
    if not (WEIGHTS / "judge.safetensors").exists():
        pytest.skip("THE WEIGHTS ARE MISSING: judge.safetensors; make them with `minidiff train`")
    return load("judge").model


@pytest.fixture(scope="module")
def images() -> dict[str, Tensor]:
    """Real images: 2,000 of the training set and twice 500 that were held out."""
    try:
        train, (test, _) = load_fashion("train")[0][:2000], load_fashion("test")
    except DataNotFound as error:
        pytest.skip(str(error))
    return {"train": train, "floor": test[:N], "held out": test[N : 2 * N]}


@pytest.fixture(scope="module")
def features(judge: Judge, images: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: judge_images(judge, x)[1] for name, x in images.items()}


def worthless(kind: str) -> Tensor:
    noise = normal(N, 1, 28, 28).float().clamp(-1, 1)
    return {"empty": torch.full_like(noise, -1), "grey": torch.zeros_like(noise), "noise": noise}[
        kind
    ]


@pytest.mark.parametrize("kind", ["empty", "grey", "noise"])
def test_a_worthless_model_loses_on_every_measure(kind, judge, features):
    _, made = judge_images(judge, worthless(kind))
    real, floor = features["train"], features["floor"]
    limit = BOUNDS["fashion_frechet_ratio"]
    assert frechet_distance(made, real) > 2 * limit * frechet_distance(floor, real)
    distance, control = (kernel_distance(f, real, 100) for f in (made, floor))
    error = math.hypot(distance.standard_error, control.standard_error)
    assert distance.value - control.value > 10 * error
    half = real[:N]
    both, best = precision_recall(half, made), precision_recall(half, floor)
    assert min(best) > 0.5
    assert max(both) < 0.5 * min(best)


def test_one_image_over_and_over_is_precise_and_recalls_nothing(features):
    one = features["train"][N : N + 1].expand(N, -1) + 1e-6 * normal(N, 128)
    assert precision_recall(features["train"][:N], one) == PrecisionRecall(1, 0)


def test_a_model_that_copies_wins_on_all_but_one_measure(images, features):
    """Its images are training images, so no comparison of sets can find fault with them."""
    real, copies, floor = features["train"][N:], features["train"][:N], features["floor"]
    assert frechet_distance(copies, real) < 1.5 * frechet_distance(floor, real)
    distance = kernel_distance(copies, real, 100)
    assert abs(distance.value) < 4 * distance.standard_error
    as_good = precision_recall(real[:N], floor)
    error = (0.25 / N) ** 0.5  # of a share, at most
    for mine, best in zip(precision_recall(real[:N], copies), as_good, strict=True):
        assert mine > best - 4 * 2**0.5 * error
    held_out = nearest_distances(images["held out"], images["train"])
    assert copying_z(nearest_distances(images["train"][:N], images["train"]), held_out) < -20
    assert abs(copying_z(nearest_distances(images["floor"], images["train"]), held_out)) < 4


def test_copies_with_a_little_noise_are_caught_by_their_pixels(images):
    train = images["train"]
    held_out = nearest_distances(images["held out"], train)
    jittered = (train[:N] + 0.1 * normal(N, 1, 28, 28).float()).clamp(-1, 1)
    assert copying_z(nearest_distances(jittered, train), held_out) < -20


def test_mirrored_copies_are_caught_by_their_features_alone(judge, images, features):
    """In pixels a mirrored boot is no copy; the judge was trained to overlook the difference."""
    mirrored = images["train"][:N].flip(-1)
    pixels = nearest_distances(mirrored, images["train"])
    assert copying_z(pixels, nearest_distances(images["held out"], images["train"])) > -3
    found = nearest_distances(judge_images(judge, mirrored)[1], features["train"])
    assert copying_z(found, nearest_distances(features["held out"], features["train"])) < -3


def test_a_perfect_model_of_a_hundred_images_is_caught(images):
    """Its best answer is a softmax over them, and its samples land on them."""
    points, schedule = images["train"][:100], cosine_schedule()
    values = points.flatten(1)

    def model(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        x = x_t.flatten(1)
        a_bar = extract(schedule.alphas_cumprod, t, like=x)
        logits = a_bar.sqrt() * (x @ values.T) - a_bar * values.square().sum(1) / 2
        return ((logits / (1 - a_bar)).softmax(1) @ values).view_as(x_t)

    denoise = Denoiser(model, schedule, "x_0")
    drawn = sample_ddpm(denoise, (60, 1, 28, 28), n_steps=25, generator=generator())
    distances, originals = nearest(drawn, points)
    assert distances.max() < 0.1  # of distances around 7 between different images
    assert len(originals.unique()) > 20  # not one image over and over
    held_out = nearest_distances(images["held out"], images["train"])
    assert copying_z(nearest_distances(drawn, images["train"]), held_out) < -10

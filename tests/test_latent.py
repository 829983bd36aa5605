"""Chapter 09: the autoencoder, its loss, the scale of its latents, and what a call costs."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torchmetrics.functional.image import peak_signal_noise_ratio

from helpers import generator, normal
from minidiff import zoo
from minidiff.data import load_digits
from minidiff.ddim import sample_ddim
from minidiff.ddpm import Denoiser
from minidiff.forward import cosine_schedule, forward_diffusion
from minidiff.guidance import guided
from minidiff.improved import normal_kl
from minidiff.latent import (
    Autoencoder,
    Posterior,
    autoencoder_loss,
    multiply_adds,
    psnr,
    scale_factor_of,
)
from minidiff.training import fit, train
from minidiff.unet import Attention, UNet
from minidiff.zoo import RECIPES, AutoencoderRecipe, LatentRecipe, checkpoints, recipe_hash, recipes


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """No parameter stays zero, so that every path shows in the output."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=source))
    return module


def small(**options) -> Autoencoder:
    return randomised(Autoencoder(channels=(8, 8, 16), **options))


def largest(difference: Tensor) -> float:
    return difference.abs().max().item()


# --- the posterior ------------------------------------------------------------------------------


def test_kl_is_that_of_torch_distributions():
    mean, log_variance = normal(5, 4, 3, 3), normal(5, 4, 3, 3, seed=1)
    p = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(p, Normal(0.0, 1.0)).flatten(1).sum(1)
    assert largest(Posterior(mean, log_variance).kl() - expected) < 1e-12
    assert Posterior(mean, log_variance).kl().shape == (5,)


def test_kl_is_the_mean_of_the_log_ratio():
    """Monte Carlo, within five standard errors: no closed form is used."""
    mean, log_variance = torch.tensor([[0.7]]), torch.tensor([[-1.2]])
    z = Posterior(mean.expand(100_000, 1), log_variance.expand(100_000, 1)).sample(
        generator=generator()
    )
    p, prior = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
    ratio = (p.log_prob(z) - prior.log_prob(z)).double()
    error = ratio.std() / math.sqrt(len(ratio))
    assert (ratio.mean() - Posterior(mean, log_variance).kl().item()).abs() < 5 * error


def test_kl_is_zero_for_the_prior_and_positive_beside_it():
    zero = torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(Posterior(zero, zero).kl(), torch.zeros(3).double())
    for mean, log_variance in ((0.01, 0.0), (0.0, 0.01), (0.0, -0.01)):
        assert (Posterior(zero + mean, zero + log_variance).kl() > 0).all()


def test_a_draw_has_the_mean_and_the_variance_of_the_posterior():
    mean, log_variance, n = torch.tensor([-1.0, 2.0]), torch.tensor([0.5, -3.0]), 100_000
    z = (
        Posterior(mean.expand(n, 2), log_variance.expand(n, 2))
        .sample(generator=generator())
        .double()
    )
    variance = log_variance.exp().double()
    assert ((z.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    assert ((z.var(0) - variance).abs() < 5 * variance * math.sqrt(2 / n)).all()


def test_a_draw_lets_gradients_through():
    """dz/dmean = 1 and dz/dlog_variance = sigma noise / 2 (Kingma & Welling 2014, section 2.4)."""
    mean = normal(2, 3).requires_grad_()
    log_variance = normal(2, 3, seed=1).requires_grad_()
    noise = normal(2, 3, seed=2)
    Posterior(mean, log_variance).sample(noise).sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
    assert largest(log_variance.grad - (log_variance / 2).exp() * noise / 2) < 1e-15


def test_a_draw_comes_from_its_generator_or_its_noise():
    posterior = Posterior(normal(2, 3), normal(2, 3, seed=1))
    a, b = (posterior.sample(generator=generator(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(posterior.sample(torch.zeros(2, 3).double()), posterior.mean)
    assert not torch.equal(posterior.sample(), posterior.sample())
    with pytest.raises(ValueError, match=r"noise must have the shape of the mean, \(2, 3\), got"):
        posterior.sample(torch.zeros(3, 2))


# --- the autoencoder ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "factor"), [((8,), 1), ((8, 12), 2), ((8, 12, 16), 4), ((4, 4, 4, 4), 8)]
)
@pytest.mark.parametrize(("in_channels", "latent_channels"), [(1, 4), (3, 2)])
def test_shapes(channels, factor, in_channels, latent_channels):
    model = Autoencoder(in_channels, latent_channels, channels)
    x = torch.zeros(2, in_channels, 2 * factor, 3 * factor)
    posterior = model.encode(x)
    assert model.factor == factor
    assert posterior.mean.shape == posterior.log_variance.shape == (2, latent_channels, 2, 3)
    assert model.decode(posterior.mean).shape == x.shape


def test_items_of_a_batch_do_not_meet():
    model, x = small().double(), normal(3, 1, 8, 8)
    whole = model.encode(x)
    for i in range(3):
        assert largest(model.encode(x[i : i + 1]).mean - whole.mean[i : i + 1]) < 1e-12
    z = normal(3, 4, 2, 2)
    assert largest(model.decode(z)[1:2] - model.decode(z[1:2])) < 1e-12


def test_what_is_fine_stays_where_it_is():
    """The latents are a picture: a change in one corner of the image stays in that corner."""
    model, x = small().double(), normal(1, 1, 32, 32)
    for module in model.modules():  # a normalisation looks at the whole picture
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda h: h
    changed = x.clone()
    changed[..., :4, :4] += 1
    moved = (model.encode(changed).mean - model.encode(x).mean).abs().amax((0, 1))  # (8, 8)
    assert moved[0, 0] > 1e-3
    assert moved[5:, :].max() == moved[:, 5:].max() == 0


def test_the_scale_factor_is_multiplied_in_and_divided_out():
    model, x = small(), normal(2, 1, 8, 8).float()
    plain = model.encode(x).mean
    assert torch.equal(model.to_latents(x), plain)  # 1 until it is measured
    model.scale_factor.fill_(0.25)
    assert torch.equal(model.to_latents(x), 0.25 * plain)
    assert torch.equal(model.to_images(model.to_latents(x)), model.decode(plain))


def test_the_scale_factor_is_stored_with_the_weights():
    model, other = small(), Autoencoder(channels=(8, 8, 16))
    model.scale_factor.fill_(0.25)
    other.load_state_dict(model.state_dict())
    assert other.scale_factor == 0.25
    assert "scale_factor" not in dict(model.named_parameters())  # it is not trained


def test_the_scale_factor_makes_the_standard_deviation_1():
    z = 3 + 5 * normal(100, 4, 7, 7)
    factor = scale_factor_of(z)
    assert factor.shape == ()
    assert abs((factor * z).std(correction=0).item() - 1) < 1e-12
    assert abs(factor.item() - 0.2) < 5 * 0.2 / math.sqrt(2 * z.numel())
    channels = (factor * z * torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1)).std(dim=(0, 2, 3))
    assert (channels.diff() > 0.5).all()  # one number for all: they keep their proportions
    assert scale_factor_of(z.float()).dtype == torch.float32


def test_half_precision_inside_comes_out_in_the_dtype_of_the_input():
    model, x = small(), normal(2, 1, 8, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(x)
        back = model.decode(posterior.mean)
    assert posterior.mean.dtype == posterior.log_variance.dtype == back.dtype == torch.float32
    assert largest(posterior.mean - model.encode(x).mean) > 0


def test_bad_input_of_the_autoencoder():
    model = small()
    with pytest.raises(ValueError, match="channels must name at least one level, got none"):
        Autoencoder(channels=())
    for shape in ((1, 8, 8), (2, 3, 8, 8), (2, 1, 9, 8), (2, 1, 8, 10)):
        with pytest.raises(ValueError, match=r"x must be \(B, 1, H, W\) with H and W multiples"):
            model.encode(torch.zeros(shape))
    for shape in ((4, 2, 2), (1, 3, 2, 2)):
        with pytest.raises(ValueError, match=r"z must be \(B, 4, h, w\), got"):
            model.decode(torch.zeros(shape))
    for z in (torch.ones(3, 2), torch.tensor([0.0, math.inf]), torch.tensor([0.0, math.nan])):
        with pytest.raises(ValueError, match="latents must vary and be finite, got standard dev"):
            scale_factor_of(z)


# --- the loss -----------------------------------------------------------------------------------


def test_the_loss_is_the_error_plus_a_little_kl():
    model, x, noise = small().double(), normal(3, 1, 8, 8), normal(3, 4, 2, 2, seed=1)
    loss = autoencoder_loss(model, x, 0.1, noise)
    posterior = model.encode(x)
    z = posterior.mean + (posterior.log_variance / 2).exp() * noise
    error = (model.decode(z) - x).square().mean()
    zero = torch.zeros(())
    kl = normal_kl(posterior.mean, posterior.log_variance, zero, zero).mean()
    assert largest(loss.reconstruction - error) < 1e-12
    assert largest(loss.kl - kl) < 1e-12
    assert largest(loss.total - (error + 0.1 * kl)) < 1e-12
    assert autoencoder_loss(model, x, 0.0, noise).total == loss.reconstruction


def test_the_loss_does_not_depend_on_the_size_of_batch_or_image():
    """Both terms are means: the same picture twice, or side by side, gives the same loss."""
    model, x, noise = small().double(), normal(1, 1, 8, 8), normal(1, 4, 2, 2, seed=1)
    one = autoencoder_loss(model, x, 0.1, noise)
    two = autoencoder_loss(model, x.repeat(2, 1, 1, 1), 0.1, noise.repeat(2, 1, 1, 1))
    assert largest(torch.stack(one) - torch.stack(two)) < 1e-12
    zeros = torch.zeros(1, 4, 4, 4).double()
    wide = Posterior(zeros + 1, zeros)
    assert wide.kl().mean() / 64 == Posterior(zeros[..., :2, :2] + 1, zeros[..., :2, :2]).kl() / 16


class Identity(Autoencoder):
    """One latent number a pixel; decoding changes nothing, so the best posterior is known."""

    def __init__(self, mean: Tensor, log_variance: Tensor) -> None:
        super().__init__(1, 1, (8,))
        self.posterior = Posterior(mean, log_variance)

    def encode(self, x: Tensor) -> Posterior:
        return self.posterior

    def decode(self, z: Tensor) -> Tensor:
        return z


@pytest.mark.parametrize("weight", [1e-3, 0.1, 1.0])
def test_the_best_posterior_is_where_the_two_terms_balance(weight):
    """(mean - x)^2 + sigma^2 + weight KL is least at mean 2x / (2 + w), sigma^2 = w / (2 + w)."""
    x = normal(2, 1, 4, 4)
    mean = (2 * x / (2 + weight)).requires_grad_()
    log_variance = torch.full_like(x, math.log(weight / (2 + weight))).requires_grad_()
    model = Identity(mean, log_variance)
    both = [  # noise of -1 and 1 has the variance of the standard normal exactly
        autoencoder_loss(model, x, weight, sign * torch.ones_like(x)).total for sign in (-1, 1)
    ]
    sum(both).backward()
    assert largest(mean.grad) < 1e-12
    assert largest(log_variance.grad) < 1e-12


def test_without_kl_the_posterior_is_as_narrow_as_it_can_be():
    x = normal(2, 1, 4, 4)
    log_variance = torch.full_like(x, -3.0).requires_grad_()
    model = Identity(x, log_variance)
    sum(autoencoder_loss(model, x, 0.0, s * torch.ones_like(x)).total for s in (-1, 1)).backward()
    assert (log_variance.grad > 0).all()  # a narrower one would always be better


def test_every_parameter_is_reached():
    model = small()
    autoencoder_loss(model, normal(2, 1, 8, 8).float(), 0.1, generator=generator()).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("weight", [-1e-6, math.nan])
def test_a_negative_weight_is_refused(weight):
    with pytest.raises(ValueError, match="kl_weight must be at least 0, got"):
        autoencoder_loss(small(), torch.zeros(1, 1, 8, 8), weight)


# --- PSNR and the count of operations -----------------------------------------------------------


def test_psnr_is_that_of_torchmetrics():
    x = torch.rand(6, 1, 5, 5, generator=generator(), dtype=torch.float64) * 2 - 1
    y = (x + 0.3 * normal(6, 1, 5, 5)).clamp(-1, 1)
    expected = peak_signal_noise_ratio(y, x, data_range=2.0, reduction="none", dim=(1, 2, 3))
    assert largest(psnr(x, y) - expected) < 1e-5  # it holds the peak in float32
    by_hand = 20 * math.log10(2) - 10 * (x - y).square().mean((1, 2, 3)).log10()
    assert largest(psnr(x, y) - by_hand) < 1e-10


def test_psnr_clamps_and_is_infinite_for_equal_images():
    x = torch.ones(1, 1, 2, 2)
    assert psnr(x, x + 5).item() == psnr(x, x).item() == math.inf
    assert psnr(x, -x).item() == 0  # an error as large as the peak
    with pytest.raises(ValueError, match=r"y must be shaped like x, \(1, 1, 2, 2\), got"):
        psnr(x, x[..., :1])


def test_ten_times_the_squared_error_is_ten_decibels_less():
    x = torch.zeros(1, 1, 3, 3).double()
    assert largest(psnr(x, x + 0.01) - psnr(x, x + 0.01 * math.sqrt(10)) - 10) < 1e-9


@pytest.mark.parametrize(
    ("module", "x", "expected"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), torch.zeros(2, 3, 6, 7), 2 * 6 * 7 * 5 * 3 * 9),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), torch.zeros(2, 3, 6, 8), 2 * 3 * 4 * 5 * 3 * 9),
        (nn.Conv2d(4, 6, 1, groups=2), torch.zeros(1, 4, 3, 3), 9 * 6 * 2),
        (nn.Linear(7, 11), torch.zeros(4, 7), 4 * 7 * 11),
        (nn.SiLU(), torch.zeros(4, 7), 0),
    ],
)
def test_multiply_adds_are_counted(module, x, expected):
    assert multiply_adds(module, x) == expected


@pytest.mark.parametrize("context_dim", [None, 5])
def test_multiply_adds_of_attention_are_counted(context_dim):
    attention, x = Attention(8, context_dim=context_dim), torch.zeros(2, 8, 3, 4)
    words = torch.zeros(2, 6, 5)
    n, m = 3 * 4, 6 if context_dim else 3 * 4  # who asks, who answers
    projections = n * 8 * 8 + m * (context_dim or 8) * 16 + n * 8 * 8  # query; key and value; out
    products = 2 * n * m * 8  # with the keys, with the values
    counted = multiply_adds(attention, x, *([words] if context_dim else []))
    assert counted == 2 * (projections + products)


def test_multiply_adds_grow_with_batch_and_area():
    model, t = Autoencoder(channels=(8, 8, 16)), torch.zeros(2, dtype=torch.int64)
    one = multiply_adds(model.encoder, torch.zeros(1, 1, 8, 8))
    assert multiply_adds(model.encoder, torch.zeros(2, 1, 8, 8)) == 2 * one
    assert multiply_adds(model.encoder, torch.zeros(1, 1, 16, 16)) == 4 * one
    unet = UNet(channels=(8,), n_classes=10)
    x, context = torch.zeros(2, 1, 8, 8), {"labels": torch.tensor([1, 2])}
    assert multiply_adds(unet, x, t, context) == multiply_adds(unet, x, t) > 0


def test_counting_leaves_nothing_behind():
    conv, x = nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 5, 5)
    first = multiply_adds(conv, x)
    assert conv(x).requires_grad  # gradients are on again
    assert multiply_adds(conv, x) == first


# --- the same functions as before ---------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[Autoencoder, Tensor, Tensor]:
    """An autoencoder of the 8x8 digits (64 numbers to 16), trained for some seconds."""
    digits, labels = load_digits()
    torch.manual_seed(0)
    model = Autoencoder(1, 4, (8, 16, 16))

    def loss_of(generator: torch.Generator) -> Tensor:
        x = digits[torch.randint(len(digits), (64,), generator=generator)]
        return autoencoder_loss(model, x, 1e-4, generator=generator).total

    for _ in fit(model, loss_of, n_steps=150, learning_rate=4e-3, weight_decay=0.0):
        pass
    model.requires_grad_(False).eval()
    model.scale_factor.copy_(scale_factor_of(model.encode(digits).mean))
    return model, digits, labels


def test_a_short_training_beats_pca_with_a_quarter_of_the_numbers(trained):
    model, digits, _ = trained
    back = model.to_images(model.to_latents(digits))
    flat = digits.flatten(1).double()
    centre = flat.mean(0)
    components = torch.linalg.svd(flat - centre, full_matrices=False).Vh[:4]  # (4, 64)
    pca = ((flat - centre) @ components.T @ components + centre).view_as(digits)
    assert psnr(digits, back).mean() > psnr(digits, pca).mean()


def test_latents_are_data_like_any_other(trained):
    """The very same train, Denoiser, guidance and sampler; only what is clipped changes."""
    autoencoder, digits, labels = trained
    z = autoencoder.to_latents(digits)
    assert z.shape == (len(digits), 4, 2, 2)
    assert abs(z.std(correction=0).item() - 1) < 1e-5
    torch.manual_seed(0)
    model, schedule = UNet(4, 4, (16,), n_classes=10), cosine_schedule()
    none = {"labels": torch.tensor(10)}
    options = {"context": {"labels": labels}, "null_context": none, "prediction_type": "v"}
    losses = [p.loss for p in train(model, z, schedule, n_steps=80, **options)]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    model.eval()
    strong = guided(model, {"labels": labels[:20]}, none, 2.0)
    denoise = Denoiser(strong, schedule, "v", clip=None)
    drawn = sample_ddim(denoise, (20, 4, 2, 2), 5, generator=generator())
    assert drawn.isfinite().all()
    assert autoencoder.to_images(drawn).shape == (20, 1, 8, 8)


def test_unit_variance_keeps_the_signal_to_noise_ratio_of_the_schedule():
    """With the scale factor, x_t has variance 1 at every t; without, only at the end."""
    z, schedule = 0.2 * normal(4000, 4), cosine_schedule()
    for scale, constant in ((scale_factor_of(z), True), (1.0, False)):
        for step in (0, 300, 600):
            t = torch.full((4000,), step)
            z_t, _ = forward_diffusion(scale * z, t, schedule, generator=generator(1))
            near = abs(z_t.var().item() - 1) < 5 * math.sqrt(2 / z_t.numel())
            assert near == constant, (scale, step)


# --- recipes ------------------------------------------------------------------------------------


def test_another_autoencoder_makes_another_latent_recipe():
    vae, latent = RECIPES["fashion-vae"], RECIPES["fashion-latent"]
    assert isinstance(vae, AutoencoderRecipe)
    assert isinstance(latent, LatentRecipe)
    assert (latent.autoencoder, latent.autoencoder_hash) == (vae.name, recipe_hash(vae))
    other = replace(latent, autoencoder_hash=recipe_hash(replace(vae, seed=1)))
    assert recipe_hash(other) != recipe_hash(latent)
    assert latent.shape == (vae.latent_channels, 7, 7)
    assert sum(p.numel() for p in vae.model().parameters()) < 350_000
    assert sum(p.numel() for p in latent.model().parameters()) < 800_000


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Both recipes with two steps on a few images, trained into a folder of their own."""
    x = torch.rand(40, 1, 28, 28, generator=generator()) * 2 - 1
    monkeypatch.setattr(recipes, "load_fashion", lambda split: (x, torch.arange(40) % 10))
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    vae = replace(RECIPES["fashion-vae"], n_steps=2, batch_size=4)
    latent = replace(
        RECIPES["fashion-latent"], n_steps=2, batch_size=4, autoencoder_hash=recipe_hash(vae)
    )
    monkeypatch.setitem(RECIPES, "fashion-vae", vae)
    monkeypatch.setitem(RECIPES, "fashion-latent", latent)
    assert [p.step for p in zoo.train_recipe("fashion-vae")] == [1, 2]
    return x


def test_the_scale_factor_is_measured_on_the_weights_that_are_kept(tiny):
    model = zoo.load("fashion-vae").model
    assert isinstance(model, Autoencoder)
    z = recipes.encode_all(model, tiny)
    assert z.shape == (40, 4, 7, 7)
    assert abs(z.std().item() - 1) < 0.01  # the weights were rounded to half precision


def test_a_latent_model_comes_with_its_autoencoder(tiny):
    assert len(list(zoo.train_recipe("fashion-latent"))) == 2
    pretrained = zoo.load("fashion-latent")
    assert pretrained.shape == (4, 7, 7)
    assert pretrained.denoiser().clip is None
    assert pretrained.denoiser(clip=(-3, 3)).clip == (-3, 3)
    z = normal(2, 4, 7, 7).float()
    assert torch.equal(pretrained.to_images(z), zoo.load("fashion-vae").model.to_images(z))
    images = zoo.sample(pretrained, torch.tensor([1, 10]), n_steps=2, generator=generator())
    assert images.shape == (2, 1, 28, 28)


def test_a_latent_model_refuses_another_autoencoder(tiny, monkeypatch):
    list(zoo.train_recipe("fashion-latent"))
    changed = replace(RECIPES["fashion-vae"], seed=1)
    monkeypatch.setitem(RECIPES, "fashion-vae", changed)
    list(zoo.train_recipe("fashion-vae"))
    message = "the model was trained with the latents of another 'fashion-vae', of recipe"
    with pytest.raises(ValueError, match=message):
        zoo.load("fashion-latent")
    with pytest.raises(ValueError, match=message):
        next(zoo.train_recipe("fashion-latent"))  # its recipe still names the former
    judge = RECIPES["judge"]
    zoo.save_weights(checkpoints.WEIGHTS / "judge.safetensors", judge.model(), judge)
    with pytest.raises(ValueError, match="'judge' is no autoencoder"):
        checkpoints.load_autoencoder("judge", recipe_hash(judge))


def test_a_model_of_pixels_has_nothing_to_decode(tiny):
    path = checkpoints.WEIGHTS / "fashion.safetensors"
    zoo.save_weights(path, RECIPES["fashion"].model(), RECIPES["fashion"])
    pretrained = zoo.load("fashion")
    assert pretrained.shape == (1, 28, 28)
    assert pretrained.denoiser().clip == (-1, 1)
    assert pretrained.to_images(tiny) is tiny
    with pytest.raises(ValueError, match="'fashion-vae' is no diffusion model"):
        _ = zoo.load("fashion-vae").shape

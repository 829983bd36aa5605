"""Every interactive: its sentence and picture follow the controls; a picture is always there."""

import base64
import contextlib
import copy

import pytest
import torch

from minidiff.data import Score
from minidiff.ddim import sample_ddim, sample_dpm_solver
from minidiff.ddpm import Denoiser, Step
from minidiff.evaluation import (
    copying_z,
    frechet_distance,
    kernel_distance,
    nearest_distances,
    precision_recall,
)
from minidiff.forward import cosine_schedule, forward_diffusion, noise_like
from minidiff.lab import widgets
from minidiff.lab.preview import preview
from minidiff.lab.widgets import (
    Explorer,
    _likeness,
    caption_explorer,
    evaluation_explorer,
    feature_map_explorer,
    few_steps_explorer,
    forward_explorer,
    gaussian_explorer,
    guidance_explorer,
    harmony_explorer,
    inpaint_explorer,
    interpolation_explorer,
    loss_explorer,
    schedule_explorer,
    speech_explorer,
    trajectory_explorer,
    variance_explorer,
)
from minidiff.latent import Autoencoder
from minidiff.text import TextUNet, Tokenizer
from minidiff.training import training_target
from minidiff.unet import UNet

# --- chapter 01 ---


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def is_static_png(explorer: Explorer) -> bool:
    """Whether the picture shown without a kernel is the present one, as a PNG."""
    data, metadata = explorer._repr_mimebundle_()
    content = base64.b64decode(data["image/png"])
    alt = metadata["image/png"]["alt"]
    return content.startswith(b"\x89PNG") and content == explorer.png and alt == explorer.sentence


def test_forward_explorer_follows_both_controls(pictures):
    explorer = forward_explorer(pictures)
    seen = {explorer.png}
    for name, value in (("t", 0), ("t", 999), ("schedule_name", "cosine"), ("t", 500)):
        explorer.controls[name].value = value
        assert explorer.png not in seen
        assert is_static_png(explorer)
        seen.add(explorer.png)
    a_bar = cosine_schedule().alphas_cumprod[500]
    weights = f"{a_bar.sqrt():.4f} x_0 + {(1 - a_bar).sqrt():.4f} noise"
    assert explorer.sentence.startswith(f"t = 500, cosine: x_t = {weights}.")
    assert explorer.sentence.endswith("more noise than picture.")
    explorer.controls["t"].value = 490
    assert explorer.sentence.endswith("more picture than noise.")


def test_forward_explorer_keeps_its_noise(pictures):
    first, again = forward_explorer(pictures), forward_explorer(pictures)
    assert first.png == again.png != forward_explorer(pictures, seed=1).png
    first.controls["t"].value = 600
    first.controls["t"].value = 250
    assert first.png == again.png


@pytest.mark.parametrize(
    ("schedule_name", "n_steps", "signal", "verdict"),
    [
        ("linear, unscaled", 50, "0.7765", "not pure noise"),
        ("linear, unscaled", 400, "0.1322", "not pure noise"),
        ("linear", 50, "0.0028", "pure noise, nearly"),
        ("linear", 1000, "0.0064", "pure noise, nearly"),
        ("cosine", 20, "0.0025", "pure noise, nearly"),
    ],
)
def test_schedule_explorer_reads_the_end_of_the_chain(schedule_name, n_steps, signal, verdict):
    explorer = schedule_explorer()
    explorer.controls["schedule_name"].value = schedule_name
    explorer.controls["n_steps"].value = n_steps
    assert f"the last image is {signal} x_0" in explorer.sentence
    assert explorer.sentence.endswith(f"It is {verdict}.")
    assert is_static_png(explorer)


def test_schedule_explorer_says_why_a_chain_is_refused():
    explorer = schedule_explorer()
    before = explorer.png
    explorer.controls["n_steps"].value = 20
    assert explorer.sentence.startswith("No such chain: n_steps must be greater than 20")
    assert explorer.png != before
    assert is_static_png(explorer)


# --- chapter 04 ---


@pytest.fixture(scope="module")
def trajectory() -> list[Step]:
    """Three steps of two samples that end at 0; the second prediction is off by twice as much."""
    end = torch.zeros(2, 1, 8, 8)
    off = torch.tensor([0.25, -0.5]).view(2, 1, 1, 1)
    return [Step(999, end + 1, end + off), Step(666, end + 0.5, end + off / 5), Step(0, end, end)]


def test_trajectory_explorer_measures_the_way_that_is_left(trajectory):
    explorer = trajectory_explorer(trajectory, ["bag", "shirt"])
    assert explorer.controls["step"].value == 2  # a picture of the middle says more than noise
    seen = set()
    for step, t, rest in (
        (1, 999, "differs from the end by 0.38, most for shirt (0.50)."),
        (2, 666, "differs from the end by 0.08, most for shirt (0.10)."),
        (3, 0, "is the final one."),
    ):
        explorer.controls["step"].value = step
        assert explorer.sentence == f"Step {step} of 3, at t = {t}: the predicted x_0 {rest}"
        assert is_static_png(explorer)
        assert explorer.png not in seen
        seen.add(explorer.png)


def test_trajectory_explorer_shows_x_and_x_0_of_that_step(trajectory):
    """The picture of a step changes when either of the two does."""
    shown = trajectory_explorer(trajectory, ["bag", "shirt"]).png
    for name in ("x", "x_0"):
        changed = list(trajectory)
        changed[1] = changed[1]._replace(**{name: torch.ones(2, 1, 8, 8)})
        assert trajectory_explorer(changed, ["bag", "shirt"]).png != shown


def test_trajectory_explorer_refuses_what_does_not_fit(trajectory):
    with pytest.raises(ValueError, match="steps must hold at least one step, got none"):
        trajectory_explorer([], [])
    with pytest.raises(ValueError, match="names must have 2 items, got 1"):
        trajectory_explorer(trajectory, ["bag"])


# --- chapter 02 ---


@pytest.fixture(scope="module")
def unet() -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(channels=(8, 16), attention_levels=(), n_classes=3)


@pytest.fixture
def feature_maps(unet, pictures) -> Explorer:
    return feature_map_explorer(unet, pictures[:1, :, :7, :7], cosine_schedule(), label=2)


def test_feature_map_explorer_walks_through_the_levels(feature_maps):
    sizes = []
    feature_maps.controls["channel"].value = 0
    for level in feature_maps.controls["level"].options:
        feature_maps.controls["level"].value = level
        width = feature_maps.controls["channel"].max + 1
        sizes.append(feature_maps.sentence.split("(")[1].split(")")[0])
        assert feature_maps.sentence.startswith(f"Channel 0 of {width}, {level} (")
        assert is_static_png(feature_maps)
    assert sizes == ["7x7", "7x7", "4x4", "4x4", "4x4", "7x7"]  # the skips, not what goes down


def test_feature_map_explorer_follows_channel_and_t(feature_maps):
    feature_maps.controls["channel"].value = 4
    seen = {feature_maps.png}
    for name, value in (("channel", 5), ("step", 0), ("step", 10)):
        feature_maps.controls[name].value = value
        assert feature_maps.png not in seen
        assert is_static_png(feature_maps)
        seen.add(feature_maps.png)
    assert feature_maps.sentence.startswith("Channel 5 of 8, up, level 0 (7x7), t = 999:")


def test_feature_map_explorer_knows_how_many_channels_a_level_has(feature_maps):
    controls = feature_maps.controls
    controls["level"].value = "middle"
    controls["channel"].value = 15
    assert feature_maps.sentence.startswith("Channel 15 of 16, middle")
    controls["level"].value = "down, level 0"
    assert feature_maps.sentence.startswith("Channel 7 of 8, down, level 0")


def test_feature_map_explorer_shows_what_the_model_computes(unet, pictures):
    """The values in the sentence are those of the first convolution, and the label counts."""
    x_0, schedule = pictures[:1], cosine_schedule()
    explorer = feature_map_explorer(unet, x_0, schedule, label=2)
    for name, value in (("level", "first convolution"), ("channel", 0), ("step", 0)):
        explorer.controls[name].value = value
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    a_bar = schedule.alphas_cumprod[0]
    h = unet.conv_in(a_bar.sqrt().float() * x_0 + (1 - a_bar).sqrt().float() * noise)[0, 0]
    assert f"its values lie between {h.min():.2f} and {h.max():.2f};" in explorer.sentence


def test_feature_map_explorer_passes_the_label_on(unet, pictures):
    model = copy.deepcopy(unet)
    torch.nn.init.ones_(model.ups[-1].blocks[0].conv_2.weight)  # zero at first, blind to labels
    seen = set()
    for label in (None, 1, 2):
        explorer = feature_map_explorer(model, pictures[:1], cosine_schedule(), label)
        assert explorer.controls["level"].value == "up, level 0"
        explorer.controls["channel"].value = 3
        seen.add(explorer.png)
    assert len(seen) == 3


def test_feature_map_explorer_starts_with_the_channel_that_is_most_like_the_image(feature_maps):
    controls = feature_maps.controls
    first, likeness = controls["channel"].value, []
    for channel in range(8):
        controls["channel"].value = channel
        likeness.append(float(feature_maps.sentence.split("image is ")[1].split(",")[0]))
    assert likeness[first] == max(likeness) > 0


def test_feature_map_explorer_leaves_no_hook_behind(unet, pictures):
    feature_map_explorer(unet, pictures[:1], cosine_schedule())
    assert not any(module._forward_hooks for module in unet.modules())


def test_likeness_is_the_absolute_correlation():
    x_0 = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros_like(x_0)
    small = torch.nn.functional.avg_pool2d(x_0, 2)
    torch.testing.assert_close(
        _likeness(torch.cat([3 * x_0 + 1, -x_0, flat], dim=1), x_0), torch.tensor([[1.0, 1.0, 0.0]])
    )
    torch.testing.assert_close(_likeness(-2 * small, x_0), torch.ones(1, 1))
    noise = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([noise.flatten(), x_0.flatten()]).corrcoef()[0, 1].abs()
    torch.testing.assert_close(_likeness(noise, x_0)[0, 0], expected)


def test_feature_map_explorer_takes_one_image(unet, pictures):
    with pytest.raises(
        ValueError, match=r"x_0 must be one image \(1, C, H, W\), got \(3, 1, 8, 8\)"
    ):
        feature_map_explorer(unet, pictures, cosine_schedule())


# --- chapter 03 ---


def test_loss_explorer_finds_no_fault_in_a_perfect_model(pictures):
    def model(x_t, t, context):
        return pictures[context["labels"]]

    explorer = loss_explorer(model, cosine_schedule(), "x_0", pictures, torch.arange(3))
    for t in (0, 500, 999):
        explorer.controls["t"].value = t
        assert explorer.sentence.startswith(f"t = {t}: x_t = ")
        assert explorer.sentence.endswith("The loss is 0.000; x_0 is guessed within 0.00 a pixel.")


def test_loss_explorer_follows_t(pictures):
    def model(x_t, t, context):
        return torch.zeros_like(x_t)

    schedule, noise = cosine_schedule(), noise_like(pictures, torch.Generator().manual_seed(4))
    explorer = loss_explorer(model, schedule, "v", pictures, torch.arange(3), seed=4)
    seen = {explorer.png}
    for t in (0, 20, 999):
        explorer.controls["t"].value = t
        v = training_target(pictures, noise, torch.full((3,), t), schedule, "v")
        assert f"The loss is {v.square().mean():.3f};" in explorer.sentence
        assert explorer.png not in seen
        assert is_static_png(explorer)
        seen.add(explorer.png)


def test_loss_explorer_offers_every_timestep_of_a_short_chain(pictures):
    def model(x_t, t, context):
        return torch.zeros_like(x_t)

    explorer = loss_explorer(model, cosine_schedule(4), "eps", pictures, torch.arange(3))
    assert list(explorer.controls["t"].options) == [0, 1, 2, 3]


def test_preview_draws_the_class_asked_for(pictures):
    def model(x_t, t, context):  # knows one picture a class, and nothing else
        return pictures[context["labels"]]

    asked = torch.tensor([2, 0, 2, 1])
    for n_steps in (1, 25):
        drawn = preview(model, cosine_schedule(), "x_0", asked, n_steps)
        torch.testing.assert_close(drawn, pictures[asked])


def test_preview_is_decided_by_its_generator():
    def model(x_t, t, context):
        return torch.zeros_like(x_t)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.zeros(2, dtype=torch.int64)
        return preview(model, cosine_schedule(), "v", labels, 3, generator, shape=(1, 5, 7))

    assert draw(0).shape == (2, 1, 5, 7)
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


# --- chapter 00 ---


def test_gaussian_explorer_reads_the_sliders():
    explorer = gaussian_explorer()
    before = explorer.png
    assert "a code for q used on p wastes more" in explorer.sentence  # q is narrow, p wide
    explorer.controls["sigma_q"].value = 1.0  # both N(., 1): KL is half the squared distance
    assert explorer.png != before
    assert explorer.sentence.startswith("KL(p || q) = 1.125 nats and KL(q || p) = 1.125 nats")
    explorer.controls["mu_q"].value = 0.0
    assert explorer.sentence.endswith("p and q are the same.")
    assert is_static_png(explorer)


# --- chapter 05 ---


def as_they_are(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).double()


@pytest.fixture(scope="module")
def clothes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Held-out images of five classes, which differ in brightness, and as many training images."""
    labels = torch.arange(100) % 5
    noise = torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x = (labels.repeat(2).view(-1, 1, 1, 1) / 5 - 0.4 + 0.2 * noise).clamp(-1, 1)
    return x[:100], labels, x[100:]


def test_evaluation_explorer_measures_what_it_shows(clothes):
    real, labels, training = clothes
    explorer = evaluation_explorer(real, labels, training, as_they_are, n=30)
    explorer.controls["fault"].value = "copies"
    explorer.controls["level"].value = 5
    copies, floor = training[:30], real[30:60]
    distance, control = (
        frechet_distance(*map(as_they_are, (x, training))) for x in (copies, floor)
    )
    assert f"Frechet distance {distance:.2f} (real: {control:.2f})" in explorer.sentence
    kernel = kernel_distance(*map(as_they_are, (copies, training[30:])), 5).value
    assert f"kernel distance {kernel:.3f} " in explorer.sentence
    both = precision_recall(*map(as_they_are, (training[30:60], copies)))
    assert f"precision {both.precision:.2f} and recall {both.recall:.2f} " in explorer.sentence
    z = copying_z(torch.zeros(30), nearest_distances(floor, training))
    assert explorer.sentence.endswith(f"copying z = {z:.1f}.")


def test_evaluation_explorer_follows_both_controls(clothes):
    explorer = evaluation_explorer(*clothes, as_they_are, n=30)
    seen, sentences = set(), set()
    explorer.controls["level"].value = 5
    for fault in explorer.controls["fault"].options:
        explorer.controls["fault"].value = fault
        assert explorer.sentence.startswith(f"{fault}, strength 5 of 5: ")
        assert is_static_png(explorer)
        seen.add(explorer.png)
        explorer.controls["level"].value = 0
        sentences.add(explorer.sentence.removeprefix(fault))
        explorer.controls["level"].value = 5
    assert len(seen) == 5
    assert len(sentences) == 1  # at strength 0 there is no fault


def test_evaluation_explorer_needs_enough_images(clothes):
    with pytest.raises(ValueError, match="must hold at least 2 n = 102 images each, got 100 and"):
        evaluation_explorer(*clothes, as_they_are, n=51)


# --- chapter 06 ---


def halves(x_t, t, context=None):
    """A model whose fraction is 0.9 in the left half of an image and 0.3 in the right one."""
    v = torch.full_like(x_t, 2 * 0.9 - 1)
    v[..., x_t.shape[-1] // 2 :] = 2 * 0.3 - 1
    return torch.cat([x_t, v], dim=1)


@pytest.fixture
def variances(pictures) -> Explorer:
    return variance_explorer(Denoiser(halves, cosine_schedule(), "v"), pictures)


def test_variance_explorer_follows_both_controls(variances):
    seen = {variances.png}
    for name, value in (("t", 0), ("t", 999), ("n_steps", 10), ("t", 55), ("n_steps", 100)):
        variances.controls[name].value = value
        assert variances.png not in seen
        assert is_static_png(variances)
        seen.add(variances.png)
    variances.controls["t"].value = 5
    assert variances.sentence.startswith("t = 5, 100 steps: the last step, which ends at the data")
    variances.controls["t"].value = 55
    assert variances.sentence.startswith("t = 55, 100 steps: beta_tilde is ")
    assert "The learned variance lies 0.60 of the way" in variances.sentence
    assert variances.sentence.endswith("tenth of the pixels is below 0.30, a tenth above 0.90.")


@pytest.mark.parametrize(("t", "n_steps"), [(5, 1000), (1, 1000), (377, 50), (55, 25)])
def test_variance_explorer_knows_the_betas_of_a_jump(variances, t, n_steps):
    variances.controls["t"].value, variances.controls["n_steps"].value = t, n_steps
    a_bar, before = cosine_schedule().alphas_cumprod, t - 1000 // n_steps
    beta = 1 - a_bar[t] / a_bar[before]
    tilde = (1 - a_bar[before]) / (1 - a_bar[t]) * beta
    assert f"beta_tilde is {tilde:.2g} and beta {beta:.2g}." in variances.sentence


def test_variance_explorer_asks_the_model_about_the_noisy_images(pictures):
    asked = []

    def model(x_t, t, context):
        asked.append((x_t, int(t[0])))
        return halves(x_t, t)

    explorer = variance_explorer(Denoiser(model, cosine_schedule(), "v"), pictures, seed=3)
    assert [t for _, t in asked] == list(explorer.controls["t"].options)
    noise = noise_like(pictures, torch.Generator().manual_seed(3))
    for x_t, t in asked:
        expected, _ = forward_diffusion(pictures, torch.full((3,), t), cosine_schedule(), noise)
        assert torch.equal(x_t, expected)
    n_asked = len(asked)
    explorer.controls["t"].value = 0
    assert len(asked) == n_asked  # a move computes nothing but the picture


def test_variance_explorer_takes_short_chains_and_refuses_models_without_a_variance(pictures):
    explorer = variance_explorer(Denoiser(halves, cosine_schedule(50), "v"), pictures)
    assert list(explorer.controls["n_steps"].options) == [50, 25, 10]
    assert explorer.controls["t"].options[-1] == 49
    with pytest.raises(ValueError, match="must hold a model that learned its variance"):
        variance_explorer(Denoiser(lambda x_t, *_: x_t, cosine_schedule(), "v"), pictures)


# --- chapter 07 ---


@pytest.fixture(scope="module")
def bent() -> Denoiser:
    """A model whose answers depend on x_t and t, so that few steps err."""

    def model(x_t, t, context):
        return (x_t + 0.002 * t.view(-1, 1, 1, 1)).sin() / 2

    return Denoiser(model, cosine_schedule(), "x_0")


def test_few_steps_explorer_measures_the_way_to_100_calls(bent):
    x_T = noise_like(torch.empty(2, 1, 8, 8), torch.Generator().manual_seed(3))
    explorer = few_steps_explorer(bent, x_T, ["bag", "shirt"], seed=5)
    end, seen = sample_ddim(bent, x_T.shape, 100, x_T=x_T), {explorer.png}
    for sampler, n_calls, eta, said in (
        ("DDIM", 2, 0.0, "DDIM with eta = 0 in 2 calls is"),
        ("DDIM", 16, 0.5, "DDIM with eta = 0.5 in 16 calls is"),
        ("DDIM", 16, 1.0, "DDIM with eta = 1 in 16 calls, which is DDPM, is"),
        ("DPM-Solver++", 4, 1.0, "DPM-Solver++ in 4 calls (eta = 1 is not used) is"),
    ):
        for name, value in (("sampler", sampler), ("n_calls", n_calls), ("eta", eta)):
            explorer.controls[name].value = value
        if sampler == "DDIM":
            noise = torch.Generator().manual_seed(5)
            x = sample_ddim(bent, x_T.shape, n_calls, eta, x_T, noise)
        else:
            x = sample_dpm_solver(bent, x_T.shape, n_calls, x_T=x_T)
        far = (x - end).square().flatten(1).mean(1).sqrt()
        name = ["bag", "shirt"][int(far.argmax())]
        rest = f"{far.mean():.2f} away from 100 calls, most for {name} ({far.max():.2f})."
        assert explorer.sentence == f"{said} {rest}"
        assert is_static_png(explorer)
        assert explorer.png not in seen
        seen.add(explorer.png)


def test_few_steps_explorer_needs_a_name_for_each(bent):
    with pytest.raises(ValueError, match="names must have 2 items, got 1"):
        few_steps_explorer(bent, torch.ones(2, 1, 8, 8), ["bag"])


# --- chapter 08 ---


class OneOfTwo:
    """A model that knows one grey a class, and for "none" what it is asked about; it counts."""

    def __init__(self) -> None:
        self.n_images = 0

    def __call__(self, x_t, t, context):
        self.n_images += len(x_t)
        greys = torch.tensor([-0.5, 0.25])
        known = greys[context["labels"].clamp(max=1)].view(-1, 1, 1, 1).expand_as(x_t)
        return torch.where(context["labels"].view(-1, 1, 1, 1) < 2, known, x_t.clamp(-1, 1))


def guidance_of(model) -> Explorer:
    return guidance_explorer(model, cosine_schedule(), "x_0", ["bag", "shirt"], shape=(1, 8, 8))


def test_guidance_explorer_follows_all_controls():
    explorer = guidance_of(OneOfTwo())
    seen, options = {explorer.png}, {"scale": 7.0, "label": 0, "noise": 3}
    values = {name: control.value for name, control in explorer.controls.items()}
    assert values == {"scale": 4.0, "label": 1, "noise": 0}
    for name, value in options.items():
        explorer.controls[name].value = value
        assert explorer.png not in seen
        assert is_static_png(explorer)
        seen.add(explorer.png)
    assert explorer.sentence.startswith("s = 7, bag, noise 3: two of the pictures differ by ")
    assert explorer.sentence.endswith(" a pixel, at s = 1 by 0.00.")


def test_guidance_explorer_draws_what_the_scale_says():
    explorer = guidance_of(OneOfTwo())
    for scale, differs in ((1.0, False), (0.0, True)):
        explorer.controls["scale"].value = scale
        assert ("differ by 0.00" not in explorer.sentence) == differs
    before = explorer.sentence  # without a class, the class makes no difference to what is drawn
    explorer.controls["label"].value = 0
    assert explorer.sentence.replace("bag", "shirt") == before


def test_guidance_explorer_draws_the_first_noise_beforehand_and_others_once():
    model = OneOfTwo()
    explorer = guidance_of(model)
    # 3 images and 10 calls: 2 classes and none; 3 scales with 2 halves each
    assert model.n_images == 30 * (3 + 3 * 2 * 2)
    for name in ("scale", "label"):
        for _, value in explorer.controls[name].options:
            explorer.controls[name].value = value
    assert model.n_images == 450
    explorer.controls["noise"].value = 1
    assert model.n_images == 450 + 30 * 3  # at s = 1 one half, at s = 7 two
    explorer.controls["scale"].value = 4.0
    assert model.n_images == 540 + 30 * 2
    explorer.controls["scale"].value = 7.0
    assert model.n_images == 600


def test_guidance_explorer_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match=r"scales must hold 1, .* got \(0, 2\)"):
        guidance_explorer(OneOfTwo(), cosine_schedule(), "x_0", ["bag"], scales=(0, 2))
    with pytest.raises(ValueError, match="n_images must be at least 2, got 1"):
        guidance_explorer(OneOfTwo(), cosine_schedule(), "x_0", ["bag"], n_images=1)


# --- chapter 09 ---


class Halves(Autoencoder):
    """Its latents are half the picture, so each way of mixing can be said in closed form."""

    def to_latents(self, x):
        return x / 2

    def to_images(self, z):
        return 2 * z


def walks(n_items: int = 3) -> Explorer:
    greys = torch.linspace(-0.8, 0.8, n_items).view(-1, 1, 1, 1)
    x = greys * torch.ones(n_items, 1, 8, 8)
    model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # noqa: E731  # sees no noise
    denoise = Denoiser(model, cosine_schedule(), clip=None)
    real = torch.zeros(2, 1, 8, 8)
    return interpolation_explorer(Halves(), denoise, x, ["night", "dusk", "day"][:n_items], real)


def test_interpolation_explorer_follows_both_controls():
    explorer = walks()
    values = {name: control.value for name, control in explorer.controls.items()}
    assert values == {"pair": 0, "step": 4}
    assert [label for label, _ in explorer.controls["pair"].options] == [
        "night - dusk",
        "night - day",
        "dusk - day",
    ]
    seen = {explorer.png}
    for name, value in (("pair", 1), ("step", 0), ("step", 7), ("pair", 2)):
        explorer.controls[name].value = value
        assert explorer.png not in seen
        assert is_static_png(explorer)
        seen.add(explorer.png)


@pytest.mark.parametrize("step", [0, 3, 8])
def test_interpolation_explorer_measures_what_it_mixes(step):
    explorer = walks()
    explorer.controls["pair"].value = 1  # from -0.8 to 0.8: both straight lines pass through 0
    explorer.controls["step"].value = step
    grey = abs(-0.8 + 1.6 * step / 8)
    sentence = f"{step} / 8 of the way from night to day. To the nearest real image: "
    assert explorer.sentence.startswith(f"{sentence}pixels {grey:.2f}, latents {grey:.2f}, noise ")
    if step in (0, 8):  # this model leads back to where it came from
        assert explorer.sentence.endswith(f"noise {grey:.2f}.")


def test_interpolation_explorer_refuses_what_does_not_fit():
    with pytest.raises(
        ValueError, match="x and names must have as many items, 2 or more, got 1 and"
    ):
        walks(1)
    model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # noqa: E731
    denoise = Denoiser(model, cosine_schedule(), clip=None)
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="x and names must have as many items, 2 or more, got 2"):
        interpolation_explorer(Halves(), denoise, x, ["night"], x)


# --- chapter 10 ---


@pytest.fixture(scope="module")
def reader() -> tuple[TextUNet, Tokenizer]:
    tokenizer = Tokenizer(["a", "coat", "red", "bag"], 6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TextUNet(len(tokenizer), 3, 3, (8, 8), text_levels=(0, 1), text_dim=8, n_tokens=6)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model, tokenizer


def captions_of(reader, captions=("a red coat", "a bag"), **options) -> Explorer:
    model, tokenizer = reader
    options = {"n_noises": 3, "n_steps": 2} | options
    return caption_explorer(
        model, cosine_schedule(), "v", tokenizer, captions, (3, 9, 9), **options
    )


def test_caption_explorer_follows_all_controls(reader):
    explorer = captions_of(reader)
    seen = {explorer.png}
    assert explorer.sentence.startswith("a red coat, noise 0: the word looked at more than on ")
    for name, value in (("caption", "a bag"), ("noise", 2)):
        explorer.controls[name].value = value
        assert explorer.png not in seen
        assert is_static_png(explorer)
        seen.add(explorer.png)
    assert explorer.sentence.startswith("a bag, noise 2: ")


def test_caption_explorer_draws_what_is_typed_and_once(reader, monkeypatch):
    explorer = captions_of(reader)
    calls, forward = [], reader[0].forward
    monkeypatch.setattr(reader[0], "forward", lambda *args: calls.append(1) or forward(*args))
    explorer.typed.value = "  red  bag "
    assert explorer.controls["caption"].value == "red bag"
    assert list(explorer.controls["caption"].options) == ["a red coat", "a bag", "red bag"]
    assert explorer.sentence.startswith("red bag, noise 0: ")
    assert explorer.answer.value == ""
    assert len(calls) == 2  # one a step
    for caption in ("a bag", "red bag"):
        explorer.typed.value = caption
        assert explorer.controls["caption"].value == caption
    assert len(calls) == 2
    assert len(explorer.controls["caption"].options) == 3


def test_caption_explorer_names_words_it_never_learned_and_captions_too_long(reader):
    explorer = captions_of(reader)
    explorer.typed.value = "a zebra coat"
    assert explorer.answer.value == "Words it never learned: zebra."
    assert explorer.controls["caption"].value == "a zebra coat"
    explorer.typed.value = "a red red red red coat"
    assert "a caption must have at most 5 words, got 6" in explorer.answer.value
    assert explorer.controls["caption"].value == "a zebra coat"
    explorer.typed.value = "a bag"
    assert explorer.answer.value == ""


def test_caption_explorer_says_where_words_are_looked_at(reader, monkeypatch):
    """A model that looks at "red" in the middle and at "coat" in the corners."""
    middle = torch.zeros(9, 9)
    middle[3:6, 3:6] = 0.5

    @contextlib.contextmanager
    def watched(model):
        flat = torch.full((9, 9), 0.1)
        maps = torch.stack([flat, flat, flat + middle, 0.6 - middle, 0 * flat, 0 * flat])
        yield [maps.expand(12, -1, -1, -1), maps.expand(12, -1, -1, -1)]

    monkeypatch.setattr(widgets, "watch_attention", watched)
    explorer = captions_of(reader)
    red, coat = 0.6 / (0.1 + 0.5 / 9), 0.6 / (0.6 - 0.5 / 9)
    assert explorer.sentence.endswith(
        f"the middle of the picture, 'red' ({red:.1f} times), in its corners 'coat' "
        f"({coat:.1f} times)."
    )


def test_caption_explorer_refuses_captions_too_long_and_models_without_attention(reader):
    with pytest.raises(ValueError, match="a caption must have at most 5 words, got 7"):
        captions_of(reader, ["a " * 7])
    with pytest.raises(ValueError, match="model must have cross-attention"):
        captions_of((UNet(3, 3, (8,)), reader[1]))


# --- chapter 11 ---


class White:
    """A model whose data is white; it counts the images that it is asked about."""

    def __init__(self) -> None:
        self.n_images = 0

    def __call__(self, x_t, t, context=None):
        self.n_images += len(x_t)
        return torch.ones_like(x_t)


@pytest.fixture
def board():
    model = White()
    x_0 = torch.stack([torch.full((1, 28, 28), grey) for grey in (0.5, -0.5)])
    explorer = inpaint_explorer(
        Denoiser(model, cosine_schedule(), "x_0"), x_0, ["grey", "dark"], 4, 3, n_samples=2
    )
    grid, buttons = explorer.box.children[-1].children[1:3]
    return explorer, grid.children, *buttons.children, model


def colors(cells) -> list[str]:
    return [cell.style.button_color for cell in cells]


def test_inpaint_explorer_has_drawn_the_first_mask_for_all_pictures(board):
    explorer, cells, _, _, model = board
    assert model.n_images == 4 * (4 + 3 * 3 + 1)  # 4 images; once, and each step but the last 3 x
    seen = {explorer.png}
    for picture, way, off in ((0, "once", 0.5), (0, "3 times", 0.5), (1, "3 times", 1.5)):
        explorer.controls["picture"].value, explorer.controls["way"].value = picture, way
        name = ("grey", "dark")[picture]
        hidden = f"{name}, each step {way}: 392 of 784 pixels were hidden; what is drawn there is "
        assert explorer.sentence == f"{hidden}{off:.2f} off."
        assert is_static_png(explorer)
        seen.add(explorer.png)
    assert len(seen) == 3
    assert model.n_images == 56  # a move computes nothing but the picture
    assert colors(cells)[6:8] == ["transparent", "#D55E00"]


def test_inpaint_explorer_draws_what_the_board_hides(board):
    explorer, cells, inpaint, hide_nothing, model = board
    hide_nothing.click()
    assert set(colors(cells)) == {"transparent"}
    before = explorer.png
    for i in (0, 15, 15, 30):
        cells[i].click()
    assert [i for i, color in enumerate(colors(cells)) if color == "#D55E00"] == [0, 30]
    assert explorer.png == before  # to draw on the board computes nothing
    inpaint.click()
    assert model.n_images == 56 + 2 * 14
    assert explorer.sentence.startswith("grey, each step once: 8 of 784 pixels were hidden; ")
    explorer.controls["picture"].value = 1
    assert explorer.sentence == (
        "dark, each step once: 8 of 784 pixels are hidden; press inpaint to have them drawn."
    )
    inpaint.click()
    assert explorer.sentence.endswith(
        "8 of 784 pixels were hidden; what is drawn there is 1.50 off."
    )
    hide_nothing.click()
    inpaint.click()
    assert explorer.sentence.endswith("0 of 784 pixels were hidden, and nothing is drawn.")


def test_inpaint_explorer_refuses_what_its_board_does_not_fit():
    denoise = Denoiser(White(), cosine_schedule(), "x_0")
    with pytest.raises(ValueError, match=r"x_0 must be \(B, 1, 28, 28\), got \(1, 1, 8, 8\)"):
        inpaint_explorer(denoise, torch.zeros(1, 1, 8, 8), ["a"])
    with pytest.raises(ValueError, match="names must have 2 items, got 1"):
        inpaint_explorer(denoise, torch.zeros(2, 1, 28, 28), ["a"])


# --- chapter 12 ---


def test_speech_explorer_says_what_is_heard_at_each_step():
    generator = torch.Generator().manual_seed(0)
    mels = [torch.rand(1, 64, 128, generator=generator) * 2 - 1 for _ in range(3)]
    steps = [Step(t, mel, mel / 2) for t, mel in zip((999, 666, 333), mels, strict=True)]
    heard = ["", "four nine", "four two seven"]
    seen = []

    def hear(x):
        seen.append(x)
        return heard

    explorer = speech_explorer(steps, hear, "four two seven")
    torch.testing.assert_close(seen[0], torch.cat(mels) / 2, atol=0, rtol=0)
    assert explorer.sentence == (
        "Step 1 of 3, at t = 999: 0 of 3 words are right; nothing is heard."
    )
    pictures = {explorer.png}
    for step, begin in (
        (2, "Step 2 of 3, at t = 666: 1 of 3 words are right; heard: four nine."),
        (3, "Step 3 of 3, at t = 333: 3 of 3 words are right; heard: four two seven."),
    ):
        explorer.controls["step"].value = step
        assert explorer.sentence == begin
        assert is_static_png(explorer)
        assert explorer.png not in pictures
        pictures.add(explorer.png)
    assert len(seen) == 1  # everything was heard when it was made


@pytest.mark.parametrize("shape", [(2, 64, 128), (64, 128)])
def test_speech_explorer_refuses_what_is_not_one_utterance(shape):
    step = Step(0, torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="one utterance"):
        speech_explorer([step], lambda mels: [""])
    with pytest.raises(ValueError, match="one utterance"):
        speech_explorer([], lambda mels: [])


def two_chords():
    pitches = torch.tensor([[72, 67, 60, 48], [71, 67, 62, 43]])[..., None].repeat(1, 1, 16)
    onsets = torch.zeros(2, 4, 16, dtype=torch.bool)
    onsets[..., ::4] = True
    return Score(pitches, onsets)


def test_harmony_explorer_shows_and_plays_each_harmony_that_was_drawn():
    calls = []

    def model(x_t, t, context=None):
        calls.append(len(x_t))
        return torch.zeros_like(x_t)

    denoise = Denoiser(model, cosine_schedule(), "x_0")
    explorer = harmony_explorer(denoise, two_chords(), ["in C", "in G"], ways=(1, 2), n_steps=3)
    assert calls == [2] * (3 + 5)  # all melodies at once; steps but the last made twice
    player = explorer.box.children[-1]
    sounds = set()
    for passage, name in enumerate(("in C", "in G")):
        for voices in explorer.controls["voices"].options:
            explorer.controls["passage"].value = passage
            explorer.controls["voices"].value = voices
            assert explorer.sentence.startswith(f"{name}, {voices}")
            assert is_static_png(explorer)
            assert 'src="data:audio/mpeg;base64,' in player.value
            sounds.add(player.value)
    assert len(sounds) == 6
    assert explorer.sentence == (
        "in G, Bach's voices: 4 of 4 beats form a triad or a seventh chord."
    )
    assert len(calls) == 8


def test_harmony_explorer_wants_a_name_for_each_passage():
    denoise = Denoiser(lambda x_t, t, context=None: x_t, cosine_schedule(), "x_0")
    with pytest.raises(ValueError, match="names must have 2 items, got 1"):
        harmony_explorer(denoise, two_chords(), ["in C"])

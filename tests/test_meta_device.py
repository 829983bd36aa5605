"""Where nothing is said about a device, results stay with their inputs, whatever the default.

Every public function of the chapters runs on CPU inputs while "meta", a device that holds no
numbers, is the default. A forgotten `device=` then fails without a GPU.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minidiff import (
    audio,
    ddim,
    ddpm,
    editing,
    evaluation,
    forward,
    guidance,
    improved,
    latent,
    text,
    training,
    unet,
    video,
)

CHAPTERS = (
    forward,
    unet,
    training,
    ddpm,
    evaluation,
    improved,
    ddim,
    guidance,
    latent,
    text,
    editing,
    audio,
    video,
)


def generator() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(0)


def randomised(module: nn.Module) -> nn.Module:
    """No parameter stays zero, so that every path shows in the output."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


torch.manual_seed(0)
X, NOISE = torch.randn(2, 4, 1, 5, 5).unbind()
H, TIME = torch.randn(4, 8, 5, 5), torch.randn(4, 32)
T = torch.tensor([0, 7, 30, 49])
SCHEDULE = forward.linear_schedule(50)
CONTEXT = {"labels": torch.tensor([0, 1, 2, 3])}
NONE = {"labels": torch.tensor(3)}
WORDS, MASK = torch.randn(4, 3, 6), torch.tensor([[True, True, False]] * 4)
MODEL = randomised(unet.UNet(channels=(8, 16), n_classes=3, attention_levels=(0,)))
DENOISE = ddpm.Denoiser(MODEL, SCHEDULE, "v", CONTEXT)
RES = randomised(unet.ResBlock(8, 16, 32))
SELF, CROSS = randomised(unet.Attention(8)), randomised(unet.Attention(8, context_dim=6))
DOWN, MID = randomised(unet.DownBlock(8, 16, 32, attention=True)), randomised(unet.MidBlock(8, 32))
UP = randomised(unet.UpBlock(8, 8, 16, 32, attention=True))
STEP = ddpm.Step(0, X, X)
FEATURES, OTHER_FEATURES = torch.randn(2, 20, 3, dtype=torch.float64).unbind()
TWOFOLD = randomised(unet.UNet(1, 2, channels=(8, 16), n_classes=3))
LEARNED = ddpm.Denoiser(TWOFOLD, SCHEDULE, "v", CONTEXT)


def schedule_tensors(schedule: forward.NoiseSchedule) -> list[Tensor]:
    names = ("betas", "alphas", "alphas_cumprod", "alphas_cumprod_prev", "posterior_variance")
    return [getattr(schedule, name) for name in (*names, "snr")]


def trained(run: Callable[[nn.Module, training.EMA, Path], Any], folder: Path) -> list[Any]:
    """Two steps, a state saved, and two steps more from that state."""
    results: list[Any] = []
    for _ in range(2):
        model = copy.deepcopy(MODEL)
        ema = training.EMA(model)
        results += [run(model, ema, folder / "state.safetensors"), model, ema.model]
    return results


def run_train(model: nn.Module, ema: training.EMA, path: Path) -> list[training.Progress]:
    null = {"labels": torch.tensor(3, device="cpu")}
    options = {"n_steps": 2, "batch_size": 3, "context": CONTEXT, "null_context": null}
    return list(training.train(model, X, SCHEDULE, **options, ema=ema, state_path=path))


def run_fit(model: nn.Module, ema: training.EMA, path: Path) -> list[training.Progress]:
    loss_of = lambda g: training.train_step(model, X, T, SCHEDULE, CONTEXT, generator=g)  # noqa: E731
    return list(training.fit(model, loss_of, n_steps=2, ema=ema, state_path=path))


def updated_ema() -> nn.Module:
    ema, other = training.EMA(MODEL), copy.deepcopy(MODEL)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    ema.update(other)
    return ema.model


def saved_and_loaded(folder: Path) -> Any:
    training.save_tensors(folder / "x.safetensors", {"x": X, "t": T}, {"by": "me"})
    return training.load_tensors(folder / "x.safetensors")


def autocast_product(folder: Path) -> Tensor:
    with training.autocast(X.device):
        return X @ X.mT


# One call or several for each public name. Whatever is drawn without a generator is in here, too.
CALLS: dict[str, Callable[[Path], Any]] = {
    "NoiseSchedule": lambda _: schedule_tensors(forward.NoiseSchedule(SCHEDULE.betas.clone())),
    "linear_schedule": lambda _: schedule_tensors(forward.linear_schedule(50)),
    "cosine_schedule": lambda _: schedule_tensors(forward.cosine_schedule(50)),
    "extract": lambda _: forward.extract(SCHEDULE.betas, T, like=X),
    "noise_like": lambda _: [forward.noise_like(X, g) for g in (None, generator())],
    "forward_diffusion": lambda _: [
        forward.forward_diffusion(X, T, SCHEDULE),
        forward.forward_diffusion(X, T, SCHEDULE, NOISE),
        forward.forward_diffusion(X, T, SCHEDULE, generator=generator()),
    ],
    "get_timestep_embedding": lambda _: [
        unet.get_timestep_embedding(t, 8) for t in (T, T.double())
    ],
    "ResBlock": lambda _: RES(H, TIME),
    "Attention": lambda _: [SELF(H), CROSS(H, WORDS), CROSS(H, WORDS, MASK)],
    "DownBlock": lambda _: DOWN(H, TIME),
    "MidBlock": lambda _: MID(H, TIME),
    "UpBlock": lambda _: UP(H[..., :3, :3], [H], TIME),
    "UNet": lambda _: [MODEL(X, T, CONTEXT), MODEL(X, T)],
    "training_target": lambda _: [
        training.training_target(X, NOISE, T, SCHEDULE, kind) for kind in ("eps", "x_0", "v")
    ],
    "train_step": lambda _: training.train_step(MODEL, X, T, SCHEDULE, CONTEXT),
    "EMA": lambda _: updated_ema(),
    "Progress": lambda _: training.Progress(1, 2.0),
    "train": lambda folder: trained(run_train, folder),
    "fit": lambda folder: trained(run_fit, folder),
    "step_generator": lambda _: training.draw_integers(9, 5, training.step_generator(1, 2)),
    "draw_integers": lambda _: training.draw_integers(9, 5, generator()),
    "learning_rate_at": lambda _: training.learning_rate_at(3, 10, 1.0, 2),
    "drop_context": lambda _: training.drop_context(
        CONTEXT, {"labels": torch.tensor(3, device="cpu")}, 0.5, generator()
    ),
    "autocast": autocast_product,
    "save_tensors": saved_and_loaded,
    "load_tensors": saved_and_loaded,
    "check_prediction_type": lambda _: training.check_prediction_type("eps"),
    "Prediction": lambda _: ddpm.Prediction(X, X, None),
    "Denoiser": lambda _: DENOISE(X, T),
    "posterior": lambda _: ddpm.posterior(X, NOISE, T, SCHEDULE),
    "trailing_timesteps": lambda _: ddpm.trailing_timesteps(50, 7),
    "respace": lambda _: schedule_tensors(ddpm.respace(SCHEDULE, T)),
    "Step": lambda _: STEP,
    "ddpm_steps": lambda _: list(ddpm.ddpm_steps(DENOISE, X.shape, 3, x_T=NOISE)),
    "sample_ddpm": lambda _: [
        ddpm.sample_ddpm(DENOISE, X.shape, 3),
        ddpm.sample_ddpm(DENOISE, X.shape, 3, generator=generator(), variance="beta"),
    ],
    "last": lambda _: ddpm.last(iter([STEP])),
    "start": lambda _: [ddpm.start(X.shape), ddpm.start(X.shape, generator=generator())],
    "Measured": lambda _: evaluation.Measured(1.0, 0.1),
    "PrecisionRecall": lambda _: evaluation.PrecisionRecall(1.0, 0.5),
    "frechet_distance": lambda _: evaluation.frechet_distance(FEATURES, OTHER_FEATURES),
    "kernel_distance": lambda _: evaluation.kernel_distance(FEATURES, OTHER_FEATURES, 5),
    "squared_mmd": lambda _: evaluation.squared_mmd(FEATURES, OTHER_FEATURES),
    "precision_recall": lambda _: evaluation.precision_recall(FEATURES, OTHER_FEATURES),
    "nearest": lambda _: evaluation.nearest(X, NOISE, batch_size=3),
    "nearest_distances": lambda _: evaluation.nearest_distances(X, NOISE),
    "copying_z": lambda _: evaluation.copying_z(FEATURES[:, 0], OTHER_FEATURES[:, 0]),
    "ddim_step": lambda _: ddim.ddim_step(X, NOISE, T, SCHEDULE, 0.5, NOISE),
    "ddim_steps": lambda _: list(ddim.ddim_steps(DENOISE, X.shape, 3, 0.5, x_T=NOISE)),
    "sample_ddim": lambda _: [
        ddim.sample_ddim(DENOISE, X.shape, 3),
        ddim.sample_ddim(DENOISE, X.shape, eta=1.0, generator=generator(), timesteps=T),
    ],
    "ddim_invert": lambda _: ddim.ddim_invert(ddpm.Denoiser(MODEL, SCHEDULE, clip=None), X, 3),
    "slerp": lambda _: ddim.slerp(X, NOISE, 0.3),
    "dpm_solver_steps": lambda _: list(ddim.dpm_solver_steps(DENOISE, X.shape, 3, x_T=NOISE)),
    "sample_dpm_solver": lambda _: [
        ddim.sample_dpm_solver(DENOISE, X.shape, 3),
        ddim.sample_dpm_solver(DENOISE, X.shape, 3, order=1, generator=generator()),
    ],
    "guided": lambda _: [
        guidance.guided(MODEL, CONTEXT, NONE, 3.0)(X, T),
        guidance.guided(MODEL, CONTEXT, NONE, 3.0, (7, 30))(X, T),
        guidance.guided(MODEL, CONTEXT, CONTEXT, 3.0)(X, T),
    ],
    "composed": lambda _: guidance.composed(MODEL, [CONTEXT, CONTEXT], NONE, [2.0, -0.5])(X, T),
}


def importance_sampled() -> list[Any]:
    sampler = improved.ImportanceSampler(3, n_history=1)
    sampler.update(torch.tensor([0, 1, 2], device="cpu"), torch.tensor([1.0, 2, 3], device="cpu"))
    return [sampler.probabilities, *sampler.draw(5, generator())]


CALLS |= {
    "posterior_log_variance": lambda _: improved.posterior_log_variance(SCHEDULE),
    "learned_log_variance": lambda _: improved.learned_log_variance(X, T, SCHEDULE),
    "learned_variance": lambda _: [
        improved.learned_variance(X, T, SCHEDULE),
        ddpm.sample_ddpm(LEARNED, X.shape, 3, x_T=NOISE, variance=improved.learned_variance),
    ],
    "normal_kl": lambda _: improved.normal_kl(X, X, NOISE, NOISE),
    "discretised_log_likelihood": lambda _: improved.discretised_log_likelihood(X, NOISE, X),
    "vlb_term": lambda _: improved.vlb_term(X, NOISE, T, X / 2, NOISE, SCHEDULE),
    "hybrid_loss": lambda _: improved.hybrid_loss(TWOFOLD, X, T, SCHEDULE, CONTEXT),
    "ImportanceSampler": lambda _: importance_sampled(),
    "Bound": lambda _: improved.Bound(X[:, 0, 0], X[:, 0, 0, 0]).total,
    "prior_term": lambda _: improved.prior_term(X, SCHEDULE),
    "bits_per_dimension": lambda _: list(
        improved.bits_per_dimension(LEARNED, X, None, ("learned", "beta", "beta_tilde")).values()
    ),
}


VAE = randomised(latent.Autoencoder(channels=(8, 8)))
IMAGES, LATENTS = torch.randn(4, 1, 6, 6), torch.randn(4, 4, 3, 3)

CALLS |= {
    "Posterior": lambda _: [
        latent.Posterior(X, NOISE).sample(),
        latent.Posterior(X, NOISE).sample(generator=generator()),
        latent.Posterior(X, NOISE).kl(),
    ],
    "Autoencoder": lambda _: [
        VAE.encode(IMAGES), VAE.decode(LATENTS), VAE.to_latents(IMAGES), VAE.to_images(LATENTS)
    ],
    "AutoencoderLoss": lambda _: latent.AutoencoderLoss(X, X, X),
    "autoencoder_loss": lambda _: [
        latent.autoencoder_loss(VAE, IMAGES, 0.1),
        latent.autoencoder_loss(VAE, IMAGES, 0.1, generator=generator()),
    ],
    "scale_factor_of": lambda _: latent.scale_factor_of(X),
    "psnr": lambda _: latent.psnr(X, NOISE),
    "multiply_adds": lambda _: latent.multiply_adds(MODEL, X, T, CONTEXT),
}  # fmt: skip
SEES_AN_IMAGE = editing.ImageConditioned(randomised(unet.UNet(2, 1, channels=(8, 16))))
KNOWN = X > 0
CALLS |= {
    "ImageConditioned": lambda _: SEES_AN_IMAGE(X, T, {"image": X[..., :2, :2]}),
    "downsample": lambda _: editing.downsample(X, 5),
    "upsample": lambda _: editing.upsample(X, 2),
    "project": lambda _: editing.project(X, NOISE[..., :1, :1], 5),
    "inpaint_steps": lambda _: list(editing.inpaint_steps(DENOISE, X, KNOWN, 3, 2)),
    "inpaint": lambda _: editing.inpaint(DENOISE, X, KNOWN, 3, generator=generator()),
    "super_resolve_steps": lambda _: list(editing.super_resolve_steps(DENOISE, X, 2, 3)),
    "super_resolve": lambda _: editing.super_resolve(DENOISE, X, 2, 3, generator()),
    "image_to_image_steps": lambda _: list(editing.image_to_image_steps(DENOISE, X, 0.7, 3)),
    "image_to_image": lambda _: editing.image_to_image(DENOISE, X, 0.7, 3, generator()),
}

TOKENIZER = text.Tokenizer(["a", "coat", "red"], 6)
CAPTIONS = TOKENIZER(["a red coat", "", "coat", "a coat"])
READER = randomised(
    text.TextUNet(len(TOKENIZER), 1, 1, (8, 16), text_levels=(1,), text_dim=8, n_tokens=6)
)
BLOCK = randomised(text.TextBlock(8))


def watched() -> list[Tensor]:
    with text.watch_attention(READER) as seen:
        READER(X, T, CAPTIONS)
    return seen


CALLS |= {
    "Tokenizer": lambda _: list(text.Tokenizer(["a", "coat"], 6)(["a coat", ""]).values()),
    "TextBlock": lambda _: BLOCK(H[..., 0].mT, CAPTIONS["tokens_mask"][:, :5]),
    "TextEncoder": lambda _: READER.text(**CAPTIONS),
    "TextUNet": lambda _: READER(X, T, CAPTIONS),
    "NoAttention": lambda _: text.NoAttention()(X, X, T),
    "attention_weights": lambda _: text.attention_weights(CROSS, H, WORDS, MASK),
    "watch_attention": lambda _: watched(),
}


SOUND = torch.randn(2, 2048)
MELS, MAGNITUDES = audio.mel_spectrogram(SOUND), audio.spectrogram(SOUND).abs()
SPEAKER = randomised(
    audio.UNet1d(
        3, 3, (8, 16), n_classes=3, frame_channels=2, n_words=len(TOKENIZER), text_levels=(1,),
        text_dim=8, n_tokens=6,
    )
)  # fmt: skip
OVER_TIME = randomised(audio.ResBlock1d(8, 16, 32))
TOLD = {**CAPTIONS, **CONTEXT, "frames": torch.randn(4, 2, 5)}
CALLS |= {
    "hz_to_mel": lambda _: audio.hz_to_mel(X.abs()),
    "mel_to_hz": lambda _: audio.mel_to_hz(X),
    "mel_filters": lambda _: audio.mel_filters(),
    "spectrogram": lambda _: audio.spectrogram(SOUND),
    "mel_spectrogram": lambda _: [
        audio.mel_spectrogram(SOUND), audio.mel_spectrogram(SOUND, 12)
    ],
    "mel_to_magnitude": lambda _: audio.mel_to_magnitude(MELS),
    "griffin_lim": lambda _: [
        audio.griffin_lim(MAGNITUDES, 2),
        audio.griffin_lim(MAGNITUDES, 2, generator=generator()),
        audio.griffin_lim(MAGNITUDES, 2, phase=MAGNITUDES),
    ],
    "mel_to_sound": lambda _: audio.mel_to_sound(MELS, 2, generator()),
    "frames_of": lambda _: audio.frames_of([("a", 0.0, 0.1)], ["_", "a"]),
    "word_errors": lambda _: audio.word_errors("one two", "two"),
    "ResBlock1d": lambda _: OVER_TIME(H[..., 0], TIME),
    "UNet1d": lambda _: SPEAKER(X[:, [0, 0, 0], 0], T, TOLD),
}  # fmt: skip

FILMS = torch.randn(4, 1, 3, 8, 8, generator=generator())
PLACES = torch.randn(6, 16, 2, 2, generator=generator())
FILMING = randomised(
    video.VideoUNet(len(TOKENIZER), n_frames=3, channels=(16, 16, 16), text_dim=8, n_tokens=6)
)
STILL = randomised(text.TextUNet(len(TOKENIZER), 1, 1, channels=(16, 16), text_dim=8, n_tokens=6))
FOLLOWING = randomised(video.MotionCompensated(FILMING, STILL, SCHEDULE, side=6))
CALLS |= {
    "shift_schedule": lambda _: schedule_tensors(video.shift_schedule(SCHEDULE, 0.5)),
    "patchify": lambda _: video.patchify(FILMS, 2),
    "unpatchify": lambda _: video.unpatchify(video.patchify(FILMS, 2), 2, 3),
    "CaptionWaves": lambda _: [
        video.CaptionWaves(8, 3).on_grid((2, 2)),
        FILMING.waves(torch.ones(2, 8, device="cpu"), (2, 2)),
    ],
    "TemporalBlock": lambda _: FILMING.mid.attention[1](PLACES),
    "space_time": lambda _: FILMING.mid.attention(PLACES),
    "VideoUNet": lambda _: FILMING(FILMS, T, CAPTIONS),
    "large_groups": lambda _: video.large_groups(copy.deepcopy(STILL)),
    "match_frames": lambda _: video.match_frames(FILMS, 1),
    "along_motion": lambda _: video.along_motion(FILMS, video.match_frames(FILMS, 1)),
    "find_light": lambda _: video.find_light(FILMS[:, :, 0]),
    "window": lambda _: list(video.window(video.find_light(FILMS[:, :, 0]), (8, 8), 6)),
    "with_known": lambda _: list(video.with_known(FILMS, None)),
    "MotionCompensated": lambda _: FOLLOWING(FILMS, T, CAPTIONS),
    "known_frames": lambda _: video.known_frames([0, 2], 3),
    "known_context": lambda _: list(
        video.known_context(FILMS, video.known_frames([0, 2], 3)).values()
    ),
    "draw_masks": lambda _: video.draw_masks(9, generator(), 3, 4),
    "moving_hole": lambda _: video.moving_hole(torch.tensor([[0, 1]], device="cpu"), 2, 4),
    "constant_velocity": lambda _: video.constant_velocity(FILMS[:, :, :2], 3, 1),
    "loss_of_each": lambda _: [
        video.loss_of_each(FILMING, FILMS, T, SCHEDULE, CAPTIONS),
        video.loss_of_each(FILMING, FILMS, T, SCHEDULE, CAPTIONS, generator=generator()),
    ],
}


def leaves(result: Any) -> Iterator[Any]:
    """Every tensor and number in a result."""
    if isinstance(result, nn.Module):
        result = result.state_dict()
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        for item in result:
            yield from leaves(item)
    else:
        yield result


def run_seeded(call: Callable[[Path], Any], folder: Path) -> list[Any]:
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(leaves(call(folder)))


@pytest.mark.parametrize("name", CALLS)
def test_the_default_device_changes_nothing(name, tmp_path):
    expected = run_seeded(CALLS[name], tmp_path / "cpu")
    with torch.device("meta"):
        results = run_seeded(CALLS[name], tmp_path / "meta")
    assert len(results) == len(expected)
    for got, wanted in zip(results, expected, strict=True):
        if isinstance(wanted, Tensor):
            assert got.device.type == "cpu"
            assert torch.equal(got, wanted)
        else:
            assert got == wanted


def test_no_public_function_is_left_out():
    public = {
        name
        for module in CHAPTERS
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    assert public == CALLS.keys()


def test_a_forgotten_device_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "noise_like", lambda x, generator=None: torch.randn(x.shape))
    CALLS["forward_diffusion"](tmp_path)
    with torch.device("meta"), pytest.raises(RuntimeError, match="device meta"):
        CALLS["forward_diffusion"](tmp_path)

"""Chapter 12: from sound to mel bands and back, the UNet over time, and how speech is judged."""

import itertools
import math
import random

import pytest
import torch
import torchaudio
from torch import nn

from minidiff import audio
from minidiff.audio import (
    HOP,
    N_FFT,
    SAMPLE_RATE,
    ResBlock1d,
    UNet1d,
    frames_of,
    griffin_lim,
    hz_to_mel,
    mel_filters,
    mel_spectrogram,
    mel_to_hz,
    mel_to_magnitude,
    mel_to_sound,
    spectrogram,
    word_errors,
)
from minidiff.ddim import sample_dpm_solver
from minidiff.ddpm import Denoiser
from minidiff.editing import inpaint
from minidiff.forward import cosine_schedule
from minidiff.guidance import guided
from minidiff.text import Tokenizer, watch_attention
from minidiff.training import train


def largest_difference(a: torch.Tensor, b: torch.Tensor | float) -> float:
    return (a - b).abs().max().item()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tone(hz: float, n_samples: int = 8000, amplitude: float = 0.5) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * hz * torch.arange(n_samples).double() / SAMPLE_RATE)


# --- the mel scale ---


def test_mel_and_hz_are_inverse():
    hz = torch.linspace(0, 8000, 500, dtype=torch.float64)
    assert largest_difference(mel_to_hz(hz_to_mel(hz)), hz) < 1e-9
    assert (hz_to_mel(hz).diff().diff() < 0).all()  # steps grow shorter


@pytest.mark.parametrize(
    ("n_mels", "n_fft", "rate", "low"), [(64, 1024, 16_000, 40.0), (40, 2048, 22_050, 0.0)]
)
def test_filters_equal_torchaudio(n_mels, n_fft, rate, low):
    oracle = torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, low, rate / 2, n_mels, rate, norm=None, mel_scale="htk"
    )
    assert largest_difference(mel_filters(n_mels, n_fft, rate, low), oracle.T) < 1e-4


def test_neighbouring_triangles_add_up_to_one():
    filters = mel_filters()
    inside = filters.argmax(1)[0], filters.argmax(1)[-1]
    assert largest_difference(filters.sum(0)[inside[0] + 1 : inside[1]], 1.0) < 1e-5


def test_an_empty_band_is_refused():
    message = "n_mels must be smaller for n_fft = 1024, got 300: a band is empty"
    with pytest.raises(ValueError, match=message):
        mel_filters(300)


# --- spectrograms ---


@pytest.mark.parametrize("shape", [(5000,), (2, 5000), (2, 3, 4096)])
def test_spectrogram_is_the_fourier_transform_of_windows(shape):
    sound = torch.randn(shape, generator=generator()).double()
    found = spectrogram(sound)
    pad = N_FFT // 2
    mirrored = torch.cat(
        [sound[..., 1 : pad + 1].flip(-1), sound, sound[..., -pad - 1 : -1].flip(-1)], -1
    )
    window = torch.sin(math.pi * torch.arange(N_FFT).double() / N_FFT) ** 2
    expected = torch.fft.rfft(mirrored.unfold(-1, N_FFT, HOP) * window).mT
    assert found.shape == (*shape[:-1], 513, shape[-1] // HOP + 1)
    assert (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize("hz", [250.0, 1000.0, 5000.0])
def test_a_tone_is_loudest_in_its_own_band(hz):
    mel = mel_spectrogram(tone(hz).float())
    band = mel[:, 10:20].mean(1).argmax()
    expected = (mel_filters()[:, round(hz * N_FFT / SAMPLE_RATE)]).argmax()
    assert abs(int(band) - int(expected)) <= 1


def test_ten_times_as_loud_is_twenty_decibels_more():
    quiet, loud = (
        mel_spectrogram(tone(700.0, amplitude=a).float())[:, 10:20].max() for a in (0.01, 0.1)
    )
    step = 20 * 2 / (audio.LOUDEST - audio.QUIETEST)
    assert abs(loud - quiet - step) < 1e-3


def test_mel_spectrogram_adds_silence_and_refuses_what_is_too_long():
    mel = mel_spectrogram(torch.ones(2, 3000), n_frames=40)
    assert mel.shape == (2, 64, 40)
    assert (mel[..., 20:] == -1).all()
    assert mel.abs().max() <= 1
    with pytest.raises(ValueError, match=r"at most 2559 samples for 10 frames, got 2560"):
        mel_spectrogram(torch.zeros(2560), n_frames=10)
    assert mel_spectrogram(torch.zeros(2559), n_frames=10).shape == (64, 10)


def test_silence_stays_silent():
    silence = torch.full((2, 64, 6), -1.0)
    assert (mel_to_magnitude(silence) == 0).all()
    assert (mel_to_sound(silence) == 0).all()


# --- Griffin and Lim ---


@pytest.fixture(scope="module")
def voice() -> torch.Tensor:
    """A pulse train that glides from 100 to 200 Hz, through a resonance: a vowel of sorts."""
    phase = torch.linspace(100, 200, 8192).double().cumsum(0) / SAMPLE_RATE
    return sum(torch.sin(2 * math.pi * k * phase) / k for k in range(1, 20)) / 4


def test_true_phases_give_the_sound_back(voice):
    parts = spectrogram(voice)
    found = griffin_lim(parts.abs()[None], n_steps=0, phase=parts.angle()[None])[0]
    assert largest_difference(found, voice) < 1e-9
    again = griffin_lim(parts.abs()[None], n_steps=3, phase=parts.angle()[None])[0]
    assert largest_difference(again, voice) < 1e-9  # a fixed point


def test_the_distance_never_grows_without_momentum(voice):
    magnitude = spectrogram(voice).abs()[None]
    phase = 2 * math.pi * torch.rand(magnitude.shape, generator=generator()).double()
    distances = []
    for n_steps in range(8):
        found = spectrogram(griffin_lim(magnitude, n_steps, momentum=0.0, phase=phase)).abs()
        distances.append((found - magnitude).norm().item())
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(distances))
    assert distances[-1] < 0.7 * distances[0]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_griffin_lim_equals_torchaudio(voice, momentum):
    magnitude = spectrogram(voice).abs()[None]
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    oracle = torchaudio.functional.griffinlim(
        magnitude, window, N_FFT, HOP, N_FFT, power=1.0, n_iter=12, momentum=momentum,
        length=len(voice), rand_init=False,
    )  # fmt: skip
    found = griffin_lim(magnitude, 12, momentum, phase=torch.zeros_like(magnitude))
    assert largest_difference(found, oracle) < 1e-6


def test_griffin_lim_draws_its_phases_from_the_generator(voice):
    magnitude = spectrogram(voice).abs()[None]
    first, again, other = (griffin_lim(magnitude, 2, generator=generator(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_griffin_lim_refuses_bad_input():
    good = torch.zeros(1, 513, 4)
    for bad in (good[0], torch.zeros(1, 512, 4), torch.zeros(1, 513, 2)):
        with pytest.raises(ValueError, match="magnitude must be"):
            griffin_lim(bad)
    for momentum in (-0.1, 1.0):
        with pytest.raises(ValueError, match="momentum must lie in"):
            griffin_lim(good, momentum=momentum)
    with pytest.raises(ValueError, match="phase must be shaped like magnitude"):
        griffin_lim(good, phase=torch.zeros(1, 513, 5))


# --- timings and words ---


def test_each_frame_has_the_sound_of_its_middle():
    timings = [("a", 0.0, 0.1), ("b", 0.1, 0.15), ("a", 0.2, 0.3)]
    frames = frames_of(timings, ["_", "a", "b"], n_frames=30)
    assert torch.equal(frames.sum(0), torch.ones(30))
    for i in range(30):
        second = i * HOP / SAMPLE_RATE
        heard = next((name for name, begin, end in timings if begin <= second < end), "_")
        assert frames[["_", "a", "b"].index(heard), i] == 1
    with pytest.raises(ValueError, match="timings must name one of _, a, got 'c'"):
        frames_of([("c", 0.0, 1.0)], ["_", "a"])


def test_word_errors_is_an_edit_distance():
    def slow(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        other = slow(a[1:], b[1:]) + (a[0] != b[0])
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, other)

    draw = random.Random(0)
    for _ in range(200):
        a, b = (tuple(draw.choices("xyz", k=draw.randint(0, 4))) for _ in range(2))
        assert word_errors(" ".join(a), " ".join(b)) == slow(a, b)


# --- the UNet over time ---


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


TOKENIZER = Tokenizer(["one", "two"], n_tokens=4)


def everything() -> UNet1d:
    model = UNet1d(
        5, 5, (8, 16), n_classes=3, frame_channels=2, n_words=len(TOKENIZER), text_levels=(1,),
        text_dim=8, n_tokens=4,
    )  # fmt: skip
    return randomised(model)


def context(n: int = 2, length: int = 19) -> dict[str, torch.Tensor]:
    frames = torch.randn(n, 2, length, generator=generator(3))
    labels = torch.arange(n) % 3
    return {"labels": labels, "frames": frames, **TOKENIZER(["one two", "two"][:n])}


@pytest.mark.parametrize("length", [1, 7, 19, 128])
def test_unet_keeps_any_length(length):
    model = everything()
    x_t, t = torch.randn(2, 5, length), torch.tensor([0, 999])
    assert model(x_t, t, context(length=length)).shape == x_t.shape


def test_unet_needs_nothing_but_time():
    model = randomised(UNet1d(5, 3, (8, 16)))
    x_t = torch.randn(2, 5, 12, generator=generator())
    out = model(x_t, torch.tensor([0, 999]))
    assert out.shape == (2, 3, 12)
    assert largest_difference(out, model(x_t, torch.tensor([0, 10]))) > 1e-4
    assert largest_difference(out[0], model(x_t, torch.tensor([0, 10]))[0]) < 1e-5


@pytest.mark.parametrize("name", ["labels", "frames", "tokens"])
def test_unet_looks_at_each_part_of_its_context(name):
    model, t = everything(), torch.tensor([5, 5])
    x_t, told = torch.randn(2, 5, 19, generator=generator()), context()
    other = {**told, name: told[name].flip(0)}
    assert largest_difference(model(x_t, t, told), model(x_t, t, other)) > 1e-4


def test_a_row_of_the_batch_knows_nothing_of_the_others():
    model, t = everything(), torch.tensor([5, 50])
    x_t, told = torch.randn(2, 5, 19, generator=generator()), context()
    alone = {key: values[:1] for key, values in told.items()}
    together = model(x_t, t, told)
    assert largest_difference(together[:1], model(x_t[:1], t[:1], alone)) < 1e-5


def test_without_labels_it_is_told_none():
    model, t = everything(), torch.tensor([5, 50])
    x_t, told = torch.randn(2, 5, 19, generator=generator()), context()
    without = {key: values for key, values in told.items() if key != "labels"}
    none = {**told, "labels": torch.tensor([3, 3])}
    assert torch.equal(model(x_t, t, without), model(x_t, t, none))


def test_words_alone_would_leave_a_frame_without_its_place():
    """With all frames alike, only the embedding of places tells one from another."""
    model = everything()
    x_t, told = torch.zeros(1, 5, 40), {**context(1, 40), "frames": torch.zeros(1, 2, 40)}
    inside = slice(12, 28)  # away from the edges
    out = model(x_t, torch.tensor([5]), told)[..., inside]
    assert out.std(dim=2).max() > 1e-3
    nn.init.zeros_(model.place.weight)
    still = model(x_t, torch.tensor([5]), told)[..., inside]
    assert still.std(dim=2).max() < 0.5 * out.std(dim=2).max()


def test_the_start_is_its_own_skip():
    block = ResBlock1d(8, 8, time_dim=4)
    x = torch.randn(2, 8, 11, generator=generator())
    assert torch.equal(block(x, torch.randn(2, 4)), x)  # the last convolution starts at zero
    assert (UNet1d(5, 5, (8,))(x[:, :5], torch.tensor([1, 2])) == 0).all()


def test_unet_refuses_bad_input():
    model, x_t, t = everything(), torch.zeros(2, 5, 19), torch.tensor([0, 1])
    for bad in (x_t[0], torch.zeros(2, 4, 19), torch.zeros(0, 5, 19), torch.zeros(2, 5, 1, 19)):
        with pytest.raises(ValueError, match=r"x_t must be \(B, 5, L\)"):
            model(bad, t, context())
    with pytest.raises(ValueError, match=r"t must have shape \(2,\)"):
        model(x_t, t[:1], context())
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\]"):
        model(x_t, t, {**context(), "labels": torch.tensor([0, 4])})
    for frames in (None, torch.zeros(2, 2, 18), torch.zeros(2, 3, 19)):
        told = {**context(), "frames": frames}
        if frames is None:
            del told["frames"]
        with pytest.raises(ValueError, match=r"context must have frames of shape \(2, 2, 19\)"):
            model(x_t, t, told)
    with pytest.raises(ValueError, match="context must hold tokens and tokens_mask"):
        model(x_t, t, {"labels": context()["labels"], "frames": context()["frames"]})
    for channels, n_blocks in (((), 1), ((8,), 0)):
        with pytest.raises(ValueError, match="channels must name at least one level"):
            UNet1d(5, 5, channels, n_blocks)


def test_two_blocks_a_level_and_attention_fit_together():
    model = randomised(UNet1d(5, 5, (8, 16), n_blocks=2, attention_levels=(0, 1), time_dim=12))
    assert model(torch.zeros(2, 5, 9), torch.tensor([0, 1])).shape == (2, 5, 9)


def test_attention_over_time_can_be_watched():
    model, told = everything(), context()
    with torch.no_grad(), watch_attention(model) as seen:
        model(torch.randn(2, 5, 19), torch.tensor([5, 5]), told)
    assert seen[0].shape == (2, 4, 19)
    assert largest_difference(seen[0].sum(1), 1.0) < 1e-5
    assert (seen[0][1, 2:] == 0).all()  # padding


# --- the functions of earlier chapters, unchanged ---


@pytest.mark.slow
def test_training_guidance_and_inpainting_serve_sound_as_they_are():
    """A network learns which of two tones a label asks for; half of one is filled in."""
    names, length = torch.tensor([0, 1]), 16
    clean = torch.full((2, 4, length), -0.8)
    clean[0, :2], clean[1, 2:] = 0.8, 0.8
    schedule, null = cosine_schedule(), {"labels": torch.tensor(2)}
    torch.manual_seed(0)
    model = UNet1d(4, 4, (16, 32), n_classes=2)
    for _ in train(
        model, clean, schedule, n_steps=80, batch_size=8, prediction_type="x_0",
        context={"labels": names}, null_context=null, learning_rate=3e-3, n_warmup=10,
    ):  # fmt: skip
        pass
    model.eval().requires_grad_(False)
    asked = torch.tensor([0, 1, 1, 0])
    denoise = Denoiser(guided(model, {"labels": asked}, null, 2.0), schedule, "x_0")
    x = sample_dpm_solver(denoise, (4, 4, length), 10, generator=generator())
    assert (x - clean[asked]).abs().mean() < 0.2
    mask = torch.arange(length) < length // 2
    filled = inpaint(Denoiser(model, schedule, "x_0"), clean, mask, 10, 2, generator())
    assert torch.equal(filled[..., mask], clean[..., mask])
    assert (filled - clean).abs().mean() < 0.2


@pytest.mark.parametrize(
    "sound",
    [torch.zeros(2, 2_000, dtype=torch.int64), torch.zeros(2, 512), torch.tensor(1.0)],
    ids=["integers", "too short", "a number"],
)
def test_a_spectrogram_wants_floats_and_enough_of_them(sound):
    with pytest.raises(
        ValueError, match="sound must be floating point, with more than 512 samples"
    ):
        spectrogram(sound)
    assert spectrogram(torch.zeros(2, 513)).shape == (2, 513, 3)


@pytest.mark.parametrize(
    "mel",
    [torch.zeros(2, 63, 5), torch.zeros(64), torch.zeros(2, 64, 5, dtype=torch.uint8)],
    ids=["63 bands", "one frame", "bytes"],
)
def test_magnitudes_are_guessed_from_64_bands_of_floats(mel):
    for read_back in (mel_to_magnitude, mel_to_sound):
        with pytest.raises(ValueError, match="mel must be floating point of shape"):
            read_back(mel)

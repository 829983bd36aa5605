"""Chapter 12: audio. A UNet over time, and the way from sound to a picture of it and back.

Griffin & Lim 1984 (IEEE TASSP 32(2)) for the way back; Stevens, Volkmann & Newman 1937 for the mel
scale; Popov et al. 2021, "Grad-TTS" (arXiv:2105.06337), for diffusion over mel spectrograms.

Frames lie along the last axis: a spectrogram is (B, mel bands, frames), a score (B, pitches,
frames). Schedule, training, samplers, guidance and inpainting are those of the chapters before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.text import NoAttention, TextEncoder
from minidiff.unet import Attention, _group_norm, _labels_of, _zero, get_timestep_embedding

SAMPLE_RATE = 16_000  # samples a second
N_FFT, HOP = 1024, 256  # samples in a window, and from one to the next
N_MELS, N_FRAMES = 64, 128  # bands and frames of an utterance: 2.032 seconds
QUIETEST, LOUDEST = -20.0, 40.0  # decibels that become -1 and 1


def hz_to_mel(hz: Tensor) -> Tensor:
    """Map frequency to the mel scale, on which equal steps sound equal: 2595 log10(1 + f / 700).

    >>> hz_to_mel(torch.tensor([0.0, 1000.0, 2000.0])).round()  # the second step is shorter
    tensor([   0., 1000., 1521.])
    """
    return 2595 * torch.log10(1 + hz / 700)


def mel_to_hz(mel: Tensor) -> Tensor:
    """Map the mel scale to frequency, the inverse of `hz_to_mel`.

    >>> mel_to_hz(torch.tensor([0.0, 1000.0])).round()
    tensor([   0., 1000.])
    """
    return 700 * (10 ** (mel / 2595) - 1)


def mel_filters(
    n_mels: int = N_MELS, n_fft: int = N_FFT, sample_rate: int = SAMPLE_RATE, low: float = 40.0
) -> Tensor:
    """Make triangles that overlap by half, equally wide on the mel scale.

    Args:
        n_mels: Number of bands.
        n_fft: Samples in a window.
        sample_rate: Samples a second.
        low: Where the first triangle begins, in Hz; the last one ends at half the sample rate.

    Returns:
        (n_mels, n_fft // 2 + 1) float32: what each frequency of the Fourier transform adds to
        each band, 1 at the top of a triangle.

    Raises:
        ValueError: If a band is so narrow that no frequency falls into it.

    >>> mel_filters().shape
    torch.Size([64, 513])
    """
    ends = hz_to_mel(torch.tensor([low, sample_rate / 2], dtype=torch.float64, device="cpu"))
    steps = torch.linspace(0, 1, n_mels + 2, dtype=torch.float64, device="cpu")
    left, top, right = mel_to_hz(torch.lerp(ends[0], ends[1], steps)).unfold(0, 3, 1).T[..., None]
    hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64, device="cpu")
    rise, fall = (hz - left) / (top - left), (right - hz) / (right - top)  # (n_mels, F)
    filters = torch.minimum(rise, fall).clamp(min=0)
    if not filters.any(dim=1).all():
        raise ValueError(
            f"n_mels must be smaller for n_fft = {n_fft}, got {n_mels}: a band is empty"
        )
    return filters.float()


def spectrogram(sound: Tensor, n_fft: int = N_FFT, hop: int = HOP) -> Tensor:
    """Short-time Fourier transform: the spectrum of one window after another, `hop` apart.

    Args:
        sound: (..., n_samples) floating point; more than n_fft / 2 of them.
        n_fft: Samples in a window, which rises and falls as a squared sine (Hann).
        hop: Samples between the middles of two windows; the first is around sample 0, what lies
            before it being the mirror image of what comes after.

    Returns:
        (..., n_fft // 2 + 1, n_samples // hop + 1) complex.

    Raises:
        ValueError: If sound is not floating point or too short.

    >>> spectrogram(torch.zeros(2, 1024)).shape
    torch.Size([2, 513, 5])
    """
    if not sound.is_floating_point() or sound.ndim < 1 or sound.shape[-1] <= n_fft // 2:
        raise ValueError(
            f"sound must be floating point, with more than {n_fft // 2} samples, "
            f"got {sound.dtype} of shape {tuple(sound.shape)}"
        )
    window = torch.hann_window(n_fft, dtype=sound.dtype, device=sound.device)
    flat = sound.reshape(-1, sound.shape[-1])
    parts = torch.stft(flat, n_fft, hop, window=window, return_complex=True)  # (B, F, L)
    return parts.view(*sound.shape[:-1], *parts.shape[1:])


def mel_spectrogram(sound: Tensor, n_frames: int | None = None) -> Tensor:
    """What a model sees of a sound: the loudness of each mel band in each frame.

    The magnitude of the spectrum, summed in triangles, in decibels; -20 dB and less become -1,
    40 dB and more 1. Phase is lost, and pitch within a band.

    Args:
        sound: (..., n_samples) in [-1, 1], at SAMPLE_RATE.
        n_frames: Silence is added at the end so that there are so many frames.

    Returns:
        (..., 64, L) in [-1, 1], with L = n_samples // 256 + 1 frames.

    Raises:
        ValueError: If the sound has more than n_frames.

    >>> mel_spectrogram(torch.zeros(16_000), n_frames=128).unique()
    tensor([-1.])
    """
    if n_frames is not None:
        n_missing = (n_frames - 1) * HOP - sound.shape[-1]
        if n_missing < -HOP + 1:
            raise ValueError(
                f"sound must have at most {n_frames * HOP - 1} samples for {n_frames} frames, "
                f"got {sound.shape[-1]}"
            )
        sound = F.pad(sound, (0, max(n_missing, 0)))
    filters = mel_filters().to(sound.device, sound.dtype)
    bands = filters @ spectrogram(sound).abs()  # (64, 513) @ (..., 513, L) -> (..., 64, L)
    decibels = 20 * torch.log10(bands.clamp(min=1e-5))
    return (2 * (decibels - QUIETEST) / (LOUDEST - QUIETEST) - 1).clamp(-1, 1)


def mel_to_magnitude(mel: Tensor) -> Tensor:
    """Guess the spectrum's magnitude from its mel bands: the least squares solution, if positive.

    Args:
        mel: (..., 64, L) in [-1, 1], as `mel_spectrogram` makes it.

    Returns:
        (..., 513, L), at least 0; exactly 0 where mel is -1.

    Raises:
        ValueError: If mel has not 64 bands or is not floating point.

    >>> mel_to_magnitude(-torch.ones(1, 64, 3)).unique()
    tensor([0.])
    """
    if not mel.is_floating_point() or mel.ndim < 2 or mel.shape[-2] != N_MELS:
        raise ValueError(
            f"mel must be floating point of shape (..., {N_MELS}, L), "
            f"got {mel.dtype} of shape {tuple(mel.shape)}"
        )
    decibels = (mel.clamp(-1, 1) + 1) / 2 * (LOUDEST - QUIETEST) + QUIETEST
    bands = 10 ** (decibels / 20) - 10 ** (QUIETEST / 20)  # silence is silent
    inverse = torch.linalg.pinv(mel_filters().double()).to(mel.device, mel.dtype)
    magnitude: Tensor = (inverse @ bands).clamp(min=0)
    return magnitude


def griffin_lim(
    magnitude: Tensor,
    n_steps: int = 32,
    momentum: float = 0.99,
    phase: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find a sound whose spectrogram has a given magnitude (Griffin & Lim 1984, section III).

    Windows overlap, so not every array is the spectrogram of a sound. In turn: take the sound
    nearest to what there is, keep the phases of its spectrogram, put the magnitude back. With
    momentum, the phases run ahead in the direction of the last change (Perraudin et al. 2013).

    Args:
        magnitude: (B, 513, L), at least 0.
        n_steps: How often.
        momentum: 0 is the algorithm of 1984.
        phase: The phases to start from, shaped like magnitude; random ones when absent.
        generator: Source of these.

    Returns:
        Sound (B, 256 (L - 1)).

    Raises:
        ValueError: If magnitude is not (B, 513, L) with L >= 3, phase not shaped like it, or
            momentum not in [0, 1).

    >>> griffin_lim(torch.zeros(1, 513, 5), n_steps=2).shape
    torch.Size([1, 1024])
    """
    if magnitude.ndim != 3 or magnitude.shape[1] != N_FFT // 2 + 1 or magnitude.shape[2] < 3:
        raise ValueError(f"magnitude must be (B, 513, L), L >= 3, got {tuple(magnitude.shape)}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    if phase is None:
        device = magnitude.device if generator is None else generator.device
        phase = 2 * math.pi * torch.rand(magnitude.shape, generator=generator, device=device)
    if phase.shape != magnitude.shape:
        raise ValueError(
            f"phase must be shaped like magnitude, {tuple(magnitude.shape)}, "
            f"got {tuple(phase.shape)}"
        )
    window = torch.hann_window(N_FFT, dtype=magnitude.dtype, device=magnitude.device)
    n_samples = HOP * (magnitude.shape[2] - 1)

    def nearest_sound(parts: Tensor) -> Tensor:  # (B, 513, L) complex -> (B, n_samples)
        return torch.istft(parts, N_FFT, HOP, window=window, length=n_samples)

    parts = torch.polar(magnitude, phase.to(magnitude))
    before = torch.zeros_like(parts)
    for _ in range(n_steps):
        now = spectrogram(nearest_sound(parts))
        ahead = now + momentum * (now - before)
        parts = magnitude * ahead / ahead.abs().clamp(min=1e-12)
        before = now
    return nearest_sound(parts)


def mel_to_sound(
    mel: Tensor, n_steps: int = 32, generator: torch.Generator | None = None
) -> Tensor:
    """Make mel spectrograms audible: `mel_to_magnitude`, then `griffin_lim`.

    Args:
        mel: (B, 64, L) in [-1, 1].
        n_steps: Steps of Griffin-Lim.
        generator: Source of its first phases.

    Returns:
        Sound (B, 256 (L - 1)) at SAMPLE_RATE.

    Raises:
        ValueError: As `mel_to_magnitude` and `griffin_lim`.

    >>> mel_to_sound(-torch.ones(1, 64, 128)).shape
    torch.Size([1, 32512])
    """
    return griffin_lim(mel_to_magnitude(mel), n_steps, generator=generator)


def frames_of(
    timings: Sequence[tuple[str, float, float]], names: Sequence[str], n_frames: int = N_FRAMES
) -> Tensor:
    """Say for each frame which sound is heard in its middle.

    Args:
        timings: (name, begin, end) in seconds, in order; begin belongs to a sound, end does not.
        names: The sounds that there are; the first is silence, heard wherever nothing else is.
        n_frames: L; the middle of frame i is at 256 i / 16,000 seconds.

    Returns:
        (len(names), L) float32, a single 1 in each column.

    Raises:
        ValueError: If a name is unknown.

    >>> frames_of([("t", 0.016, 0.048)], ["_", "t"], n_frames=4)
    tensor([[1., 0., 0., 1.],
            [0., 1., 1., 0.]])
    """
    middles = torch.arange(n_frames, dtype=torch.float64, device="cpu") * HOP / SAMPLE_RATE
    which = torch.zeros(n_frames, dtype=torch.int64, device="cpu")
    for name, begin, end in timings:
        if name not in names:
            raise ValueError(f"timings must name one of {', '.join(names)}, got {name!r}")
        which[(begin <= middles) & (middles < end)] = list(names).index(name)
    return F.one_hot(which, len(names)).T.float()


def word_errors(asked: str, heard: str) -> int:
    """Count how many words must be put in, left out or exchanged (Levenshtein 1966).

    Divided by the number of words asked for, it is the word error rate; 1 minus that is the word
    accuracy, which is below 0 where more is heard than was asked for.

    Args:
        asked: What was to be said, words with spaces between them; may be empty.
        heard: What a recogniser wrote down, likewise.

    Returns:
        The number of errors, from 0 to the number of words of the longer text.

    >>> word_errors("one two three", "one three three four")
    2
    """
    wanted = asked.split()
    row = list(range(len(wanted) + 1))  # errors of the first i words wanted, nothing heard yet
    for n_heard, word in enumerate(heard.split(), start=1):
        diagonal, row[0] = row[0], n_heard
        for i, want in enumerate(wanted, start=1):
            diagonal, row[i] = row[i], min(row[i] + 1, row[i - 1] + 1, diagonal + (word != want))
    return row[-1]


class ResBlock1d(nn.Module):
    """The residual block of chapter 02, with convolutions over time.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_dim: Features of the embedding of t.

    >>> ResBlock1d(8, 16, time_dim=32)(torch.zeros(2, 8, 50), torch.zeros(2, 32)).shape
    torch.Size([2, 16, 50])
    """

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.norm_1 = _group_norm(in_channels)
        self.conv_1 = nn.Conv1d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * out_channels)
        self.norm_2 = _group_norm(out_channels)
        self.conv_2 = _zero(nn.Conv1d(out_channels, out_channels, 3, padding=1))
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x (B, in_channels, L) and time (B, time_dim) to (B, out_channels, L)."""
        h = self.conv_1(F.silu(self.norm_1(x)))  # (B, out, L)
        scale, shift = self.time(F.silu(time))[:, :, None].chunk(2, dim=1)  # 2 x (B, out, 1)
        h = self.norm_2(h) * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.conv_2(F.silu(h))
        return out


class UNet1d(nn.Module):
    """The UNet over time: down with skips, across, and up again.

    Everything that it can depend on is optional. A label (a voice) joins the embedding of t, as in
    chapter 02. Frames, one column for each frame of x_t, are concatenated to it. Tokens are read
    by the text encoder of chapter 10; as a whole they join the embedding of t, and one by one they
    are looked at by cross-attention, for which each frame is told its place.

    Args:
        in_channels: Channels of x_t: mel bands, or pitches.
        out_channels: Channels of the prediction.
        channels: Width of each level, from the finest to the coarsest.
        n_blocks: Residual blocks a level on either side.
        attention_levels: Levels (0 is the finest) with self-attention; the bottom always has it.
        time_dim: Features of the embedding of t; 4 channels[0] by default.
        n_classes: Number of labels, or None; index n_classes stands for "no label", and is what
            the model gets where context has no labels.
        frame_channels: Channels of context["frames"]; 0 for none.
        n_words: Size of the vocabulary of context["tokens"], or None.
        text_levels: Levels that look at the words; the bottom always does.
        text_dim: Features of a word.
        n_tokens: Longest text.

    Raises:
        ValueError: If channels is empty, or forward gets a shape or context that does not fit.

    >>> model = UNet1d(80, 80, channels=(8, 16), n_classes=6, frame_channels=20)
    >>> context = {"labels": torch.tensor([0, 6]), "frames": torch.zeros(2, 20, 128)}
    >>> model(torch.zeros(2, 80, 128), torch.tensor([0, 999]), context).shape
    torch.Size([2, 80, 128])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 96, 128),
        n_blocks: int = 1,
        attention_levels: Sequence[int] = (),
        time_dim: int | None = None,
        n_classes: int | None = None,
        frame_channels: int = 0,
        n_words: int | None = None,
        text_levels: Sequence[int] = (1, 2),
        text_dim: int = 64,
        n_tokens: int = 16,
    ) -> None:
        super().__init__()
        if not channels or n_blocks < 1:
            raise ValueError(
                "channels must name at least one level and n_blocks be at least 1, "
                f"got {channels} and {n_blocks}"
            )
        self.in_channels, self.frame_channels = in_channels, frame_channels
        self.n_blocks = n_blocks
        self.embedding_dim = channels[0] + channels[0] % 2  # sines and cosines: an even number
        dim = 4 * channels[0] if time_dim is None else time_dim
        self.time = nn.Sequential(
            nn.Linear(self.embedding_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.labels = None if n_classes is None else nn.Embedding(n_classes + 1, dim)
        self.text = None if n_words is None else TextEncoder(n_words, text_dim, n_tokens)
        self.whole = None if n_words is None else nn.Linear(text_dim, dim)
        self.place = None if n_words is None else nn.Linear(self.embedding_dim, channels[0])

        self.conv_in = nn.Conv1d(in_channels + frame_channels, channels[0], 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        self.shrinks = nn.ModuleList()
        width = channels[0]
        for level, out in enumerate(channels):
            looks = n_words is not None and level in text_levels
            widths = [width] + [out] * (n_blocks - 1)
            self.downs.append(_Level(widths, out, dim, level in attention_levels, looks, text_dim))
            if level < len(channels) - 1:
                self.shrinks.append(nn.Conv1d(out, out, 3, stride=2, padding=1))
            width = out
        self.mid_1, self.mid_2 = ResBlock1d(width, width, dim), ResBlock1d(width, width, dim)
        self.mid_attention = Attention(width)
        self.mid_look = NoAttention() if n_words is None else Attention(width, text_dim)
        for level, out in reversed(list(enumerate(channels))):
            looks = n_words is not None and level in text_levels
            widths = [width + out] + [2 * out] * (n_blocks - 1)  # beside one skip each
            self.ups.append(_Level(widths, out, dim, level in attention_levels, looks, text_dim))
            width = out
        self.norm_out = _group_norm(width)
        self.conv_out = _zero(nn.Conv1d(width, out_channels, 3, padding=1))

    def forward(
        self, x_t: Tensor, t: Tensor, context: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Predict from x_t at time t.

        Args:
            x_t: Noisy data, (B, in_channels, L); any length.
            t: Timesteps, (B,).
            context: What the model was made for: "labels" (B,) int64 in [0, n_classes]; "frames"
                (B, frame_channels, L); "tokens" (B, N) int64 and "tokens_mask" (B, N) bool.

        Returns:
            (B, out_channels, L).
        """
        context = {} if context is None else context
        self._check(x_t, t, context)
        dtype = self.conv_in.weight.dtype
        time = self.time(get_timestep_embedding(t, self.embedding_dim).to(dtype))  # (B, time_dim)
        if self.labels is not None:
            time = time + self.labels(_labels_of(context, t, none=self.labels.num_embeddings - 1))
        if self.frame_channels:
            x_t = torch.cat([x_t, context["frames"].to(x_t.dtype)], dim=1)
        h = self.conv_in(x_t)  # (B, in + frame_channels, L) -> (B, channels[0], L)
        words = mask = None
        if self.text is not None and self.whole is not None and self.place is not None:
            mask = context["tokens_mask"]
            words = self.text(context["tokens"], mask)  # (B, N, text_dim)
            time = time + self.whole(words[:, 0])
            frames = torch.arange(h.shape[-1], device=h.device)  # when is it?
            place = get_timestep_embedding(frames, self.embedding_dim).to(dtype)
            h = h + self.place(place).T  # (B, channels[0], L) + (channels[0], L)
        skips: list[Tensor] = []
        for level, down in enumerate(self.downs):
            if level > 0:
                h = self.shrinks[level - 1](h)  # (B, C, L) -> (B, C, L / 2), rounded up
            for i in range(self.n_blocks):
                h = down(i, h, time, words, mask)
                skips.append(h)
        h = self.mid_look(self.mid_attention(self.mid_1(h, time)), words, mask)
        h = self.mid_2(h, time)
        for up in self.ups:
            if h.shape[-1] != skips[-1].shape[-1]:
                h = F.interpolate(h, size=skips[-1].shape[-1], mode="nearest")
            for i in range(self.n_blocks):
                h = up(i, torch.cat([h, skips.pop()], dim=1), time, words, mask)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out

    def _check(self, x_t: Tensor, t: Tensor, context: Mapping[str, Tensor]) -> None:
        if x_t.ndim != 3 or x_t.shape[1] != self.in_channels or x_t.numel() == 0:
            raise ValueError(f"x_t must be (B, {self.in_channels}, L), got {tuple(x_t.shape)}")
        if t.shape != x_t.shape[:1]:
            raise ValueError(f"t must have shape ({len(x_t)},), got {tuple(t.shape)}")
        frames = context.get("frames")
        wanted = (len(x_t), self.frame_channels, x_t.shape[2])
        if self.frame_channels and (frames is None or frames.shape != wanted):
            found = "none" if frames is None else f"shape {tuple(frames.shape)}"
            raise ValueError(f"context must have frames of shape {wanted}, got {found}")
        if self.text is not None and not {"tokens", "tokens_mask"} <= context.keys():
            raise ValueError(
                "context must hold tokens and tokens_mask (of the empty text for none), "
                f"got {sorted(context)}"
            )


class _Level(nn.Module):
    """The blocks of one level, each followed by what attention it has."""

    def __init__(
        self,
        widths: Sequence[int],
        out_channels: int,
        time_dim: int,
        attention: bool,
        looks: bool,
        text_dim: int,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock1d(width, out_channels, time_dim) for width in widths)
        self.attentions = nn.ModuleList(
            Attention(out_channels) if attention else nn.Identity() for _ in widths
        )
        self.looks = nn.ModuleList(
            Attention(out_channels, text_dim) if looks else NoAttention() for _ in widths
        )

    def forward(
        self, i: int, x: Tensor, time: Tensor, words: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        out: Tensor = self.looks[i](self.attentions[i](self.blocks[i](x, time)), words, mask)
        return out

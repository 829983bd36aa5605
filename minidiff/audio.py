"""Chapter 12: audio. A UNet over time, and the way from sound to a picture of it and back.

Griffin & Lim 1984 (IEEE TASSP 32(2)) for the way back; Stevens, Volkmann & Newman 1937 for the mel
scale; Popov et al. 2021, "Grad-TTS" (arXiv:2105.06337), for diffusion over mel spectrograms.

Frames lie along the last axis: a spectrogram is (B, mel bands, frames), a score (B, pitches,
frames). Schedule, training, samplers, guidance and inpainting are those of the chapters before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.text import NoAttention, TextEncoder
from minidiff.unet import Attention, _group_norm, _labels_of, _zero, get_timestep_embedding


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

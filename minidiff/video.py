"""Chapter 13: video. A clip is data with one more dimension; only the backbone has to know.

Ho et al. 2022, "Video Diffusion Models" (arXiv:2204.03458, section 3), for factorised space and
time; Hoogeboom et al. 2023, "simple diffusion" (arXiv:2301.11093, section 2.1), for a schedule
that is shifted where neighbours say the same.

Schedule, training, denoiser, samplers, guidance and inpainting are those of the chapters before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.forward import NoiseSchedule
from minidiff.text import TextUNet
from minidiff.unet import Attention, get_timestep_embedding


def shift_schedule(schedule: NoiseSchedule, factor: float) -> NoiseSchedule:
    """Multiply the signal-to-noise ratio of every timestep (Hoogeboom et al. 2023, eq. 3 and 4)."""
    if not 0 < factor < float("inf"):
        raise ValueError(f"factor must be positive and finite, got {factor}")
    a_bar = schedule.alphas_cumprod
    a_bar = factor * a_bar / (1 - a_bar + factor * a_bar)  # snr / (1 + snr)
    before = torch.cat([a_bar.new_ones(1), a_bar[:-1]])
    return NoiseSchedule(1 - a_bar / before)


def patchify(x: Tensor, patch: int) -> Tensor:
    x = x.transpose(1, 2)  # (B, F, C, H, W)
    x = F.pixel_unshuffle(x, patch)
    return x.flatten(0, 1)  # (B F, C p p, H / p, W / p)


def unpatchify(h: Tensor, patch: int, n_frames: int) -> Tensor:
    x = F.pixel_shuffle(h, patch).unflatten(0, (-1, n_frames))  # (B, F, C, H, W)
    return x.transpose(1, 2)


class TemporalBlock(nn.Module):
    def __init__(self, channels: int, n_frames: int, attention: bool) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.norm = nn.GroupNorm(4, channels)
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        self.attention = None
        if attention:
            self.places = nn.Parameter(0.02 * torch.randn(channels, n_frames))
            self.attention = Attention(channels)

    def forward(self, h: Tensor) -> Tensor:
        x = F.silu(self.norm(h))
        height, width = h.shape[2:]
        x = x.unflatten(0, (-1, self.n_frames)).transpose(1, 2).flatten(3)  # (B, C, F, H W)
        x = self.conv(x).unflatten(3, (height, width)).transpose(1, 2).flatten(0, 1)
        h = h + x
        if self.attention is not None:
            s = h.unflatten(0, (-1, self.n_frames)).permute(0, 3, 4, 2, 1)  # (B, H, W, C, F)
            b = s.shape[:3]
            s = s.flatten(0, 2)
            s = self.attention(s + self.places) - self.places
            h = s.unflatten(0, b).permute(0, 4, 3, 1, 2).flatten(0, 1)
            h = h.contiguous(memory_format=torch.channels_last)
        return h


class VideoUNet(TextUNet):
    def __init__(
        self, n_words, in_channels=1, channels=(64, 128), n_blocks=1, text_levels=(1,), text_dim=64,
        n_tokens=16, n_frames=16, patch=4, attention_levels=(1,),
    ) -> None:
        inner = in_channels * patch**2
        super().__init__(n_words, inner, inner, channels, n_blocks, text_levels, text_dim, n_tokens)
        self.patch, self.n_frames = patch, n_frames
        def moves(order):
            return nn.ModuleList(TemporalBlock(channels[l], n_frames, l in attention_levels) for l in order)
        self.move_down = moves(range(len(channels)))
        self.move_mid = TemporalBlock(channels[-1], n_frames, True)
        self.move_up = moves(reversed(range(len(channels))))
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = max(module.num_channels // 16, 1)

    def forward(self, x_t, t, context=None):
        mask = context["tokens_mask"]
        words = self.text(context["tokens"], mask)  # (B, N, text_dim)
        time = get_timestep_embedding(t, self.embedding_dim).to(self.conv_in.weight.dtype)
        time = self.time(time) + self.whole(words[:, 0])  # (B, time_dim)
        nf = self.n_frames
        time = time.repeat_interleave(nf, 0)
        def look(attend, h):  # noqa
            if not isinstance(attend, Attention):
                return h
            s = h.unflatten(0, (-1, nf)).transpose(1, 2)
            s = attend(s, words, mask)
            return s.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        h = self.conv_in(patchify(x_t, self.patch).contiguous(memory_format=torch.channels_last))
        skips = []
        for down, move, lk in zip(self.downs, self.move_down, self.look_down):
            # move before downsampling
            level = []
            for block, attention in zip(down.blocks, down.attentions):
                h = move(attention(block(h, time)))
                level.append(h)
            h = down.down(h)
            h = look(lk, h)
            skips.append(level)
        h = look(self.look_mid, self.move_mid(self.mid(h, time)))
        for up, move, lk in zip(self.ups, self.move_up, self.look_up):
            h = look(lk, move(up(h, skips.pop()[::-1], time)))
        out = self.conv_out(F.silu(self.norm_out(h)))
        return unpatchify(out, self.patch, nf)

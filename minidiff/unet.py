"""Chapter 02: the UNet, which looks at a noisy image and a timestep and predicts what to remove.

Ronneberger et al. 2015 (arXiv:1505.04597) for the shape, Ho et al. 2020 (arXiv:2006.11239,
appendix B) for the blocks, Dhariwal & Nichol 2021 (arXiv:2105.05233, section 3) for the way time
enters: each residual block scales and shifts its normalised features by functions of t. Their
table 3 finds this better than adding the embedding (FID 13.06 against 15.08), and it costs nothing.

Every model of the course keeps one contract: `model(x_t, t, context=None)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def get_timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of the timestep (Vaswani et al. 2017, section 3.5).

    Args:
        t: Timesteps, (B,), integer or floating point.
        dim: Number of features; even, at least 2.
        max_period: The longest wavelength is nearly 2 pi times this.

    Returns:
        (B, dim) float32 (float64 for float64 t): cosines in the first half, sines in the second.

    Raises:
        ValueError: If t is not one-dimensional or dim is odd or below 2.

    >>> get_timestep_embedding(torch.tensor([0, 500]), 4)[0]
    tensor([1., 1., 0., 0.])
    """
    if t.ndim != 1:
        raise ValueError(f"t must have shape (B,), got {tuple(t.shape)}")
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be even and at least 2, got {dim}")
    dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
    i = torch.arange(dim // 2, dtype=dtype, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * i / (dim // 2))  # (dim / 2,)
    angles = t.to(dtype)[:, None] * frequencies  # (B, 1) * (dim / 2,) -> (B, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, dim)


class ResBlock(nn.Module):
    """Two convolutions around a skip, modulated by the embedding of t.

    norm -> silu -> conv -> norm -> scale and shift by t -> silu -> conv -> add the input.
    The last convolution starts at zero, so at first the block is its own skip.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_dim: Features of the embedding.

    >>> block = ResBlock(8, 16, time_dim=32)
    >>> block(torch.zeros(2, 8, 7, 7), torch.zeros(2, 32)).shape
    torch.Size([2, 16, 7, 7])
    """

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.norm_1 = _group_norm(in_channels)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * out_channels)
        self.norm_2 = _group_norm(out_channels)
        self.conv_2 = _zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x (B, in_channels, H, W) and time (B, time_dim) to (B, out_channels, H, W)."""
        h = self.conv_1(F.silu(self.norm_1(x)))  # (B, out, H, W)
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(
            2, dim=1
        )  # 2 x (B, out, 1, 1)
        h = self.norm_2(h) * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.conv_2(F.silu(h))
        return out


class Attention(nn.Module):
    """Multi-head attention over positions, with a skip (Vaswani et al. 2017, eq. 1).

    Without `context_dim` every position looks at every other (self-attention). With it every
    position looks at the entries of a context sequence, such as the words of a caption
    (cross-attention). The output projection starts at zero.

    Args:
        dim: Channels of x.
        context_dim: Features of the context; None for self-attention.
        n_heads: Number of heads, which divides dim; by default the most that 4 and dim allow.

    Raises:
        ValueError: If n_heads does not divide dim, or forward gets a context where it takes none,
            none where it needs one, or a mask that hides a whole sequence.

    >>> Attention(8)(torch.zeros(2, 8, 7, 7)).shape
    torch.Size([2, 8, 7, 7])
    >>> Attention(8, context_dim=5)(torch.zeros(2, 8, 7, 7), context=torch.zeros(2, 3, 5)).shape
    torch.Size([2, 8, 7, 7])
    """

    def __init__(
        self, dim: int, context_dim: int | None = None, n_heads: int | None = None
    ) -> None:
        super().__init__()
        self.n_heads = math.gcd(4, dim) if n_heads is None else n_heads
        if self.n_heads < 1 or dim % self.n_heads:
            raise ValueError(f"n_heads must divide dim = {dim}, got {n_heads}")
        self.context_dim = context_dim
        self.norm = _group_norm(dim)
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim if context_dim is None else context_dim, 2 * dim)
        self.out = _zero(nn.Linear(dim, dim))

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Let each position of x gather what it needs.

        Args:
            x: (B, dim, *space).
            context: (B, N, context_dim), for cross-attention only.
            mask: (B, N) bool, True where the context counts and False where it is padding.

        Returns:
            (B, dim, *space).
        """
        if (context is None) != (self.context_dim is None):
            wanted = "no context" if self.context_dim is None else "a context (B, N, context_dim)"
            raise ValueError(f"this attention takes {wanted}, got {_describe(context)}")
        if context is not None and (
            context.ndim != 3 or len(context) != len(x) or context.shape[2] != self.context_dim
        ):
            raise ValueError(
                f"context must be ({len(x)}, N, {self.context_dim}), got {tuple(context.shape)}"
            )
        if mask is not None:
            shape = (len(x), x[0, 0].numel() if context is None else context.shape[1])
            if mask.dtype != torch.bool or mask.shape != shape:  # a float mask would be added
                raise ValueError(f"mask must be bool of shape {shape}, got {_describe(mask)}")
            if not mask.any(dim=1).all():
                raise ValueError(
                    "mask must leave at least one entry of each sequence, got a row of False"
                )
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, dim, *space) -> (B, L, dim)
        q = self._split(self.to_q(h))  # (B, heads, L, dim / heads)
        k, v = map(self._split, self.to_kv(h if context is None else context).chunk(2, dim=-1))
        attend = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, N)
        # softmax(q k^T / sqrt(dim / heads)) v
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)  # (B, heads, L, dim / heads)
        h = self.out(h.transpose(1, 2).flatten(2))  # (B, L, dim)
        out: Tensor = x + h.transpose(1, 2).reshape(x.shape)  # (B, L, dim) -> (B, dim, *space)
        return out

    def _split(self, h: Tensor) -> Tensor:
        h = h.view(*h.shape[:2], self.n_heads, -1)  # (B, L, D) -> (B, L, heads, D / heads)
        return h.transpose(1, 2)  # (B, heads, L, D / heads)


class DownBlock(nn.Module):
    """One level of the descent: residual blocks, each followed by attention if asked for.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_dim: Features of the time embedding.
        n_blocks: Residual blocks in this level.
        attention: Whether self-attention follows each of them.
        downsample: Whether the level ends by halving height and width (rounded up).

    >>> block = DownBlock(8, 16, time_dim=32)
    >>> h, skips = block(torch.zeros(2, 8, 7, 7), torch.zeros(2, 32))
    >>> h.shape, [tuple(skip.shape) for skip in skips]
    (torch.Size([2, 16, 4, 4]), [(2, 16, 7, 7)])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        n_blocks: int = 1,
        attention: bool = False,
        downsample: bool = True,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * n_blocks
        self.blocks = nn.ModuleList(
            ResBlock(width, out_channels, time_dim) for width in widths[:-1]
        )
        self.attentions = nn.ModuleList(
            Attention(out_channels) if attention else nn.Identity() for _ in range(n_blocks)
        )
        self.down: nn.Module = nn.Identity()
        if downsample:
            self.down = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what goes down, (B, out, H/2, W/2), and one skip a block, (B, out, H, W)."""
        skips = []
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(x, time))
            skips.append(x)
        return self.down(x), skips


class MidBlock(nn.Module):
    """The bottom: a residual block, self-attention, a residual block.

    Args:
        channels: Channels of input and output.
        time_dim: Features of the time embedding.

    >>> MidBlock(16, time_dim=32)(torch.zeros(2, 16, 4, 4), torch.zeros(2, 32)).shape
    torch.Size([2, 16, 4, 4])
    """

    def __init__(self, channels: int, time_dim: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, time_dim)
        self.attention = Attention(channels)
        self.block_2 = ResBlock(channels, channels, time_dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x (B, channels, H, W) to the same shape."""
        h = self.attention(self.block_1(x, time))
        out: Tensor = self.block_2(h, time)
        return out


class UpBlock(nn.Module):
    """One level of the ascent: grow to the skips' size, then concatenate one skip a block.

    Args:
        in_channels: Channels that come from below.
        skip_channels: Channels of each skip.
        out_channels: Channels of the output.
        time_dim: Features of the time embedding.
        n_blocks: Residual blocks in this level, as many as skips.
        attention: Whether self-attention follows each of them.

    >>> block = UpBlock(16, 8, 8, time_dim=32)
    >>> block(torch.zeros(2, 16, 4, 4), [torch.zeros(2, 8, 7, 7)], torch.zeros(2, 32)).shape
    torch.Size([2, 8, 7, 7])
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        time_dim: int,
        n_blocks: int = 1,
        attention: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * n_blocks
        self.blocks = nn.ModuleList(
            ResBlock(width + skip_channels, out_channels, time_dim) for width in widths[:-1]
        )
        self.attentions = nn.ModuleList(
            Attention(out_channels) if attention else nn.Identity() for _ in range(n_blocks)
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor], time: Tensor) -> Tensor:
        """Map x (B, in, h, w) and skips, last one first, to (B, out, H, W)."""
        size = skips[0].shape[-2:]
        if x.shape[-2:] != size:  # to the skips' own size, so that 7 -> 4 -> 7 works
            x = F.interpolate(x, size=size, mode="nearest")
        for block, attention, skip in zip(self.blocks, self.attentions, skips, strict=True):
            x = attention(block(torch.cat([x, skip], dim=1), time))  # (B, in + skip, H, W)
        return x


class UNet(nn.Module):
    """The denoising network: down with skips, across, and up again.

    Args:
        in_channels: Channels of x_t.
        out_channels: Channels of the prediction (twice as many with a learned variance).
        channels: Width of each level, from the finest to the coarsest.
        n_blocks: Residual blocks a level on either side.
        attention_levels: Levels (0 is the finest) with self-attention; the bottom always has it.
        n_classes: Number of labels, or None for a model without. Index n_classes stands for
            "no label"; it is what the model gets where context has no labels.

    Raises:
        ValueError: If channels is empty, or forward gets a shape, timestep or label that does
            not fit.

    >>> model = UNet(channels=(8, 16), n_classes=10)
    >>> t, labels = torch.tensor([0, 999]), torch.tensor([3, 10])
    >>> model(torch.zeros(2, 1, 28, 28), t, {"labels": labels}).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        n_blocks: int = 1,
        attention_levels: Sequence[int] = (2,),
        n_classes: int | None = None,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels must name at least one level, got none")
        if n_blocks < 1:
            raise ValueError(f"n_blocks must be at least 1, got {n_blocks}")
        self.in_channels = in_channels
        self.n_classes = n_classes
        self.embedding_dim = channels[0] + channels[0] % 2  # sines and cosines: an even number
        time_dim = 4 * channels[0]
        self.time = nn.Sequential(
            nn.Linear(self.embedding_dim, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        self.labels = None if n_classes is None else nn.Embedding(n_classes + 1, time_dim)

        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        width = channels[0]
        for level, out in enumerate(channels):
            last = level == len(channels) - 1
            attention = level in attention_levels
            self.downs.append(DownBlock(width, out, time_dim, n_blocks, attention, not last))
            width = out
        self.mid = MidBlock(width, time_dim)
        for level, out in reversed(list(enumerate(channels))):
            attention = level in attention_levels
            self.ups.append(UpBlock(width, out, out, time_dim, n_blocks, attention))
            width = out
        self.norm_out = _group_norm(width)
        self.conv_out = _zero(nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self, x_t: Tensor, t: Tensor, context: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Predict from x_t at time t.

        Args:
            x_t: Noisy data, (B, in_channels, H, W); any height and width.
            t: Timesteps, (B,).
            context: May hold "labels", (B,) int64 in [0, n_classes].

        Returns:
            (B, out_channels, H, W).
        """
        self._check(x_t, t)
        time = get_timestep_embedding(t, self.embedding_dim).to(self.conv_in.weight.dtype)
        time = self.time(time)  # (B, embedding_dim) -> (B, time_dim)
        if self.labels is not None:
            time = time + self.labels(_labels_of(context, t, none=self.labels.num_embeddings - 1))
        h = self.conv_in(x_t)
        skips: list[list[Tensor]] = []
        for down in self.downs:
            h, level_skips = down(h, time)
            skips.append(level_skips)
        h = self.mid(h, time)
        for up in self.ups:
            h = up(h, skips.pop()[::-1], time)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out

    def _check(self, x_t: Tensor, t: Tensor) -> None:
        if x_t.ndim != 4 or x_t.shape[1] != self.in_channels or x_t.numel() == 0:
            raise ValueError(f"x_t must be (B, {self.in_channels}, H, W), got {tuple(x_t.shape)}")
        if t.shape != x_t.shape[:1]:
            raise ValueError(f"t must have shape ({len(x_t)},), got {tuple(t.shape)}")


def _labels_of(context: Mapping[str, Tensor] | None, t: Tensor, none: int) -> Tensor:
    """Return the labels of a batch, "none" where there are none."""
    if context is None or "labels" not in context:
        return torch.full_like(t, none, dtype=torch.int64)
    labels = context["labels"]
    if labels.dtype != torch.int64 or labels.shape != t.shape:
        raise ValueError(f"labels must be int64 of shape {tuple(t.shape)}, got {_describe(labels)}")
    # On a GPU the look would stall it; there the embedding itself refuses.
    if labels.device.type == "cpu" and not 0 <= labels.min() <= labels.max() <= none:
        raise ValueError(
            f"labels must lie in [0, {none}], {none} being no label, "
            f"got {int(labels.min())}..{int(labels.max())}"
        )
    return labels


def _group_norm(channels: int) -> nn.GroupNorm:
    """Normalise over 8 groups, or fewer where these would be unequal or under four channels."""
    return nn.GroupNorm(math.gcd(8, max(channels // 4, 1), channels), channels)


def _zero(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _describe(x: Tensor | None) -> str:
    return "None" if x is None else f"{x.dtype} of shape {tuple(x.shape)}"

"""Chapter 10: text to image. A caption is read by a transformer, and each place looks at its words.

Vaswani et al. 2017 (arXiv:1706.03762) for the encoder; Rombach et al. 2022 (arXiv:2112.10752,
section 3.3) for cross-attention in a UNet; Nichol et al. 2021 (arXiv:2112.10741, section 4.1) for
the caption as a whole beside it; Tang et al. 2022 (arXiv:2210.04885) for what the attention shows.

A caption is a context like any other, {"tokens": (B, N), "tokens_mask": (B, N)}. Training, guidance
and samplers are those of the chapters before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.unet import Attention, UNet, get_timestep_embedding

PAD, START, UNKNOWN = 0, 1, 2  # the first three tokens of every vocabulary


class Tokenizer:
    """Turns captions into numbers, a word each.

    Upper and lower case are the same, and punctuation is dropped. Each row begins with the start
    token, so that the empty caption still has one entry to look at.

    Args:
        words: The vocabulary; any other word becomes the unknown token.
        n_tokens: Length N of every row; what is shorter is padded.

    Raises:
        ValueError: If words hold the same twice, or a caption has more than N - 1 words.

    >>> tokenizer = Tokenizer(["a", "coat", "red"], n_tokens=6)
    >>> tokenizer(["A red, red coat!", ""])["tokens"]
    tensor([[1, 3, 5, 5, 4, 0],
            [1, 0, 0, 0, 0, 0]])
    """

    def __init__(self, words: Sequence[str], n_tokens: int = 20) -> None:
        if len(set(words)) != len(words):
            raise ValueError(f"words must differ from each other, got {sorted(words)}")
        if n_tokens < 1:
            raise ValueError(f"n_tokens must be at least 1, got {n_tokens}")
        self.words = ("<pad>", "<start>", "<unknown>", *words)
        self.n_tokens = n_tokens
        self._number = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        """Return the number of tokens that there are."""
        return len(self.words)

    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return {"tokens": (B, N) int64, "tokens_mask": (B, N) bool, True where one counts}."""
        rows = []
        for caption in captions:
            words = self.split(caption)
            if len(words) >= self.n_tokens:
                raise ValueError(
                    f"a caption must have at most {self.n_tokens - 1} words, "
                    f"got {len(words)}: {caption!r}"
                )
            row = [START, *(self._number.get(word, UNKNOWN) for word in words)]
            rows.append(row + [PAD] * (self.n_tokens - len(row)))
        tokens = torch.tensor(rows, dtype=torch.int64, device="cpu").view(-1, self.n_tokens)
        return {"tokens": tokens, "tokens_mask": tokens != PAD}

    @staticmethod
    def split(caption: str) -> list[str]:
        """Return the words of a caption, in lower case.

        >>> Tokenizer.split("T-shirt (red)")
        ['t-shirt', 'red']
        """
        return re.findall(r"[^\W_]+(?:-[^\W_]+)*", caption.lower())


class TextBlock(nn.Module):
    """One layer of the encoder: words look at each other, then each thinks for itself.

    Layers are normalised word by word. The `Attention` of chapter 02 normalises groups of channels
    over all positions: there the padding would change every word.

    Args:
        dim: Features of a word.
        n_heads: Number of heads, which divides dim.

    Raises:
        ValueError: If n_heads does not divide dim.

    >>> block, mask = TextBlock(8), torch.tensor([[True, True, False]])
    >>> block(torch.zeros(1, 3, 8), mask).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, dim: int, n_heads: int = 4) -> None:
        super().__init__()
        if n_heads < 1 or dim % n_heads:
            raise ValueError(f"n_heads must divide dim = {dim}, got {n_heads}")
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Map words h (B, N, dim) to the same shape; mask (B, N) is True where one counts."""
        q, k, v = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, N, dim / heads)
            for part in self.to_qkv(self.norm_1(h)).chunk(3, dim=2)  # 3 x (B, N, dim)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        h = h + self.out(attended.transpose(1, 2).flatten(2))  # (B, N, dim)
        out: Tensor = h + self.mlp(self.norm_2(h))
        return out


class TextEncoder(nn.Module):
    """A small transformer that gives each word features which know the whole caption.

    Args:
        n_words: Size of the vocabulary.
        dim: Features of a word.
        n_tokens: Longest caption.
        n_layers: Number of blocks.

    Raises:
        ValueError: If tokens and mask do not fit, or a row has no token that counts.

    >>> encoder = TextEncoder(n_words=6, dim=8, n_tokens=6)
    >>> encoder(**Tokenizer(["a", "coat", "red"], n_tokens=6)(["a red coat"])).shape
    torch.Size([1, 6, 8])
    """

    def __init__(self, n_words: int, dim: int = 96, n_tokens: int = 20, n_layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(n_words, dim)
        self.positions = nn.Embedding(n_tokens, dim)
        self.blocks = nn.ModuleList(TextBlock(dim) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, tokens_mask: Tensor) -> Tensor:
        """Map tokens (B, N) int64 and tokens_mask (B, N) bool to features (B, N, dim)."""
        n_tokens = self.positions.num_embeddings
        if tokens.dtype != torch.int64 or tokens.ndim != 2 or tokens.shape[1] > n_tokens:
            raise ValueError(
                f"tokens must be int64 of shape (B, N) with N <= {n_tokens}, "
                f"got {tokens.dtype} of shape {tuple(tokens.shape)}"
            )
        if tokens_mask.dtype != torch.bool or tokens_mask.shape != tokens.shape:
            raise ValueError(
                f"tokens_mask must be bool of shape {tuple(tokens.shape)}, "
                f"got {tokens_mask.dtype} of shape {tuple(tokens_mask.shape)}"
            )
        if not tokens_mask.any(dim=1).all():
            raise ValueError(
                "tokens_mask must keep a token of each caption (the empty one has its start "
                "token), got a row of False"
            )
        places = torch.arange(tokens.shape[1], device=tokens.device)  # (N,)
        h = self.words(tokens) + self.positions(places)  # (B, N, dim) + (N, dim)
        for block in self.blocks:
            h = block(h, tokens_mask)
        out: Tensor = self.norm(h)
        return out


class TextUNet(UNet):
    """The UNet of chapter 02 with cross-attention to a caption that it reads itself.

    The caption enters in two ways. As a whole: the start token, which has looked at all words, is
    added to the embedding of time, as a label was (Nichol et al. 2021, section 4.1). And word by
    word: after text_levels every place looks at the words (Rombach et al. 2022, section 3.3).

    Args:
        n_words: Size of the vocabulary.
        in_channels: Channels of x_t.
        out_channels: Channels of the prediction.
        channels: Width of each level, from the finest to the coarsest.
        n_blocks: Residual blocks a level on either side.
        text_levels: Levels (0 is the finest) that look at the words; the bottom always does.
        text_dim: Features of a word.
        n_tokens: Longest caption.

    Raises:
        ValueError: If forward gets no caption, or one that does not fit.

    >>> tokenizer = Tokenizer(["a", "coat", "red"])
    >>> model = TextUNet(len(tokenizer), channels=(8, 16))
    >>> x_t, t = torch.zeros(1, 3, 32, 32), torch.tensor([999])
    >>> model(x_t, t, tokenizer(["a red coat"])).shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        n_words: int,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128),
        n_blocks: int = 1,
        text_levels: Sequence[int] = (1, 2),
        text_dim: int = 96,
        n_tokens: int = 20,
    ) -> None:
        super().__init__(in_channels, out_channels, channels, n_blocks, attention_levels=())
        self.text = TextEncoder(n_words, text_dim, n_tokens)
        self.whole = nn.Linear(text_dim, 4 * channels[0])
        levels = range(len(channels))
        self.look_down, self.look_up = (
            nn.ModuleList(
                Attention(channels[level], text_dim) if level in text_levels else NoAttention()
                for level in order
            )
            for order in (levels, reversed(levels))
        )
        self.look_mid = Attention(channels[-1], text_dim)

    def forward(
        self, x_t: Tensor, t: Tensor, context: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Predict from x_t at time t, as the caption says.

        Args:
            x_t: Noisy pictures, (B, in_channels, H, W).
            t: Timesteps, (B,).
            context: {"tokens": (B, N) int64, "tokens_mask": (B, N) bool}.

        Returns:
            (B, out_channels, H, W).
        """
        self._check(x_t, t)
        if context is None or not {"tokens", "tokens_mask"} <= context.keys():
            raise ValueError(
                "context must hold tokens and tokens_mask (of the empty caption for none), "
                f"got {None if context is None else sorted(context)}"
            )
        mask = context["tokens_mask"]
        words = self.text(context["tokens"], mask)  # (B, N, text_dim)
        time = get_timestep_embedding(t, self.embedding_dim).to(self.conv_in.weight.dtype)
        time = self.time(time) + self.whole(words[:, 0])  # (B, time_dim)
        h = self.conv_in(x_t)
        skips: list[list[Tensor]] = []
        for down, look in zip(self.downs, self.look_down, strict=True):
            h, level_skips = down(h, time)
            h = look(h, words, mask)
            skips.append(level_skips)
        h = self.look_mid(self.mid(h, time), words, mask)
        for up, look in zip(self.ups, self.look_up, strict=True):
            h = look(up(h, skips.pop()[::-1], time), words, mask)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class NoAttention(nn.Module):
    """Stands where a level does not look at the words."""

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Return x."""
        return x


def attention_weights(
    attention: Attention, x: Tensor, context: Tensor, mask: Tensor | None = None
) -> Tensor:
    """How much each place looks at each word: softmax(q k^T / sqrt(d)), eq. 1 of Vaswani et al.

    `Attention` never holds these numbers in memory; here they are computed again, to be looked at.

    Args:
        attention: A cross-attention.
        x: (B, dim, *space), as the attention gets it.
        context: (B, N, context_dim).
        mask: (B, N) bool, True where the context counts.

    Returns:
        (B, heads, L, N) with L places in all; sums to 1 over N.

    Raises:
        ValueError: If attention is self-attention, or context does not fit.

    >>> look, x = Attention(8, context_dim=5), torch.zeros(2, 8, 4, 4)
    >>> attention_weights(look, x, torch.zeros(2, 3, 5))[0, 0, 0]
    tensor([0.3333, 0.3333, 0.3333], grad_fn=<SelectBackward0>)
    """
    if attention.context_dim is None:
        raise ValueError("attention must be cross-attention, got one without a context")
    if context.ndim != 3 or len(context) != len(x) or context.shape[2] != attention.context_dim:
        raise ValueError(
            f"context must be ({len(x)}, N, {attention.context_dim}), got {tuple(context.shape)}"
        )
    h = attention.norm(x).flatten(2).transpose(1, 2)  # (B, dim, *space) -> (B, L, dim)
    q, k = (
        part.unflatten(2, (attention.n_heads, -1)).transpose(1, 2)  # (B, heads, L or N, d)
        for part in (attention.to_q(h), attention.to_kv(context).chunk(2, dim=2)[0])
    )
    logits = (q @ k.mT).float() / q.shape[-1] ** 0.5  # (B, heads, L, N)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], -torch.inf)
    weights: Tensor = logits.softmax(dim=3)
    return weights


@contextmanager
def watch_attention(model: nn.Module, size: Sequence[int] | None = None) -> Iterator[list[Tensor]]:
    """Note where a model looks, at each call of it (Tang et al. 2022, eq. 4-6).

    Args:
        model: Its cross-attentions are watched.
        size: Height and width of the maps; those of x_t by default, smaller than the picture if
            x_t are latents.

    Yields:
        A list that grows by one entry a call, (B, N, *space): how much each pixel, or frame, looks
        at each word, the mean over heads and layers, coarse ones enlarged. Its shares add up to 1.

    Raises:
        ValueError: If model has no cross-attention.

    >>> tokenizer = Tokenizer(["a", "coat", "red"], n_tokens=6)
    >>> model = TextUNet(len(tokenizer), channels=(8, 16), n_tokens=6)
    >>> with torch.no_grad(), watch_attention(model) as seen:
    ...     _ = model(torch.zeros(1, 3, 32, 32), torch.tensor([9]), tokenizer(["a red coat"]))
    >>> len(seen), seen[0].shape
    (1, torch.Size([1, 6, 32, 32]))
    """
    seen: list[Tensor] = []
    layers: list[Tensor] = []

    def look(attention: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(attention, Attention)
        weights = attention_weights(attention, *args).mean(1).mT  # (B, L, N) -> (B, N, L)
        layers.append(weights.reshape(*weights.shape[:2], *args[0].shape[2:]))  # (B, N, h, w)

    def end(model: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        shape = args[0].shape[2:] if size is None else tuple(size)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
        maps = [F.interpolate(layer, shape, mode=mode) for layer in layers]
        seen.append(torch.stack(maps).mean(0))  # (B, N, H, W)
        layers.clear()

    handles = [
        module.register_forward_hook(look)
        for module in model.modules()
        if isinstance(module, Attention) and module.context_dim is not None
    ]
    if not handles:
        raise ValueError("model must have cross-attention, got one without")
    handles.append(model.register_forward_hook(end))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()

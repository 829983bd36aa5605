"""Right answers to the tasks of chapter 10 in other styles than the reference's."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

# --- tokenize ------------------------------------------------------------------------------------


def with_a_dictionary(caption, vocabulary, n_tokens):
    numbers = {word: number for number, word in enumerate(vocabulary)}
    row = torch.zeros(n_tokens, dtype=torch.int64)
    row[0] = 1
    for i, word in enumerate(caption.lower().split(), start=1):
        row[i] = numbers.get(word, 2)
    return row


def as_a_list(caption, vocabulary, n_tokens):
    row = [1]
    for word in filter(None, caption.split(" ")):
        try:
            row.append(vocabulary.index(word.lower()))
        except ValueError:
            row.append(2)
    while len(row) < n_tokens:
        row.append(0)
    return row


def with_pad(caption, vocabulary, n_tokens):
    known = dict(zip(vocabulary, range(len(vocabulary)), strict=True))
    row = torch.tensor([1] + [known.get(w.lower(), 2) for w in caption.split()])
    return F.pad(row, (0, n_tokens - len(row)))


def with_numpy(caption, vocabulary, n_tokens):
    row = np.full(n_tokens, vocabulary.index("<pad>"))
    words = ["<start>", *caption.lower().split()]
    row[: len(words)] = [vocabulary.index(w if w in vocabulary else "<unknown>") for w in words]
    return row


# --- masked_weights ------------------------------------------------------------------------------


def with_einsum(q, k, mask):
    logits = torch.einsum("bld,bnd->bln", q, k) / q.shape[-1] ** 0.5
    return torch.where(mask[:, None], logits, float("-inf")).softmax(-1)


def by_exponentials(q, k, mask):
    e = (q @ k.transpose(1, 2) / q.size(-1) ** 0.5).exp() * mask.unsqueeze(1)
    return e / e.sum(dim=-1, keepdim=True)


def with_a_large_number(q, k, mask):
    logits = torch.matmul(q, k.transpose(-2, -1)) * q.shape[2] ** -0.5
    return F.softmax(logits - 1e9 * (~mask).to(q)[:, None, :], dim=-1)


def caption_by_caption(q, k, mask):
    weights = torch.zeros(*q.shape[:2], k.shape[1], dtype=q.dtype)
    for b in range(len(q)):
        keys = k[b][mask[b]]
        weights[b][:, mask[b]] = (q[b] @ keys.T / q.shape[2] ** 0.5).softmax(1)
    return weights


def normalised_again(q, k, mask):
    weights = (q @ k.mT / q.shape[2] ** 0.5).softmax(2) * mask[:, None]
    return weights / weights.sum(2, keepdim=True)


# --- look_at_words -------------------------------------------------------------------------------


def look_with_einsum(x, words, mask, to_q, to_kv, to_out):
    q = torch.einsum("bchw,cd->bhwd", x, to_q)
    kv = torch.einsum("bne,ef->bnf", words, to_kv)
    dim = q.shape[-1]
    logits = torch.einsum("bhwd,bnd->bhwn", q, kv[..., :dim]) / dim**0.5
    weights = logits.masked_fill(~mask[:, None, None, :], float("-inf")).softmax(-1)
    return x + torch.einsum("bhwn,bnd,dc->bchw", weights, kv[..., dim:], to_out)


def look_with_the_fused_one(x, words, mask, to_q, to_kv, to_out):
    b, c, h, w = x.shape
    q = x.permute(0, 2, 3, 1).reshape(b, h * w, c) @ to_q
    k, v = torch.split(words @ to_kv, to_q.shape[1], dim=-1)
    gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, :])
    return (gathered @ to_out).reshape(b, h, w, c).permute(0, 3, 1, 2) + x


def look_place_by_place(x, words, mask, to_q, to_kv, to_out):
    out, dim = x.clone(), to_q.shape[1]
    kv = words @ to_kv
    for b in range(len(x)):
        k, v = kv[b][mask[b]][:, :dim], kv[b][mask[b]][:, dim:]
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                weights = (k @ (x[b, :, i, j] @ to_q) / dim**0.5).softmax(0)
                out[b, :, i, j] += weights @ v @ to_out
    return out


def look_in_double(x, words, mask, to_q, to_kv, to_out):
    h = x.double().flatten(2).transpose(1, 2)
    k, v = (words.double() @ to_kv.double()).chunk(2, -1)
    q = h @ to_q.double()
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    logits[~mask[:, None, :].expand_as(logits)] = float("-inf")
    h = h + logits.softmax(-1) @ v @ to_out.double()
    return h.transpose(1, 2).reshape(x.shape).float()


# --- guided_by_captions --------------------------------------------------------------------------


def empty_first(model, x_t, t, tokens, mask, scale):
    n = len(x_t)
    start = torch.cat([torch.ones(n, 1), torch.zeros(n, tokens.shape[1] - 1)], dim=1).long()
    both = {"tokens": torch.cat([start, tokens]), "tokens_mask": torch.cat([start.bool(), mask])}
    uncond, cond = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2)
    return (1 - scale) * uncond + scale * cond


def one_row_expanded(model, x_t, t, tokens, mask, scale):
    row = torch.zeros(tokens.shape[1], dtype=torch.int64)
    row[0] = 1
    null = row.expand_as(tokens)
    context = {
        "tokens": torch.cat([tokens, null]),
        "tokens_mask": torch.cat([mask, null > 0]),
    }
    out = model(torch.cat([x_t] * 2), torch.cat([t] * 2), context)
    return torch.lerp(out[len(x_t) :], out[: len(x_t)], scale)


def words_left_but_masked(model, x_t, t, tokens, mask, scale):
    only_start = torch.zeros_like(mask)
    only_start[:, 0] = True  # the words are still there, but none of them counts
    context = {"tokens": tokens.repeat(2, 1), "tokens_mask": torch.cat([mask, only_start])}
    cond, uncond = model(torch.cat([x_t, x_t]), torch.cat([t, t]), context).chunk(2)
    return cond + (scale - 1) * (cond - uncond)


def side_by_side(model, x_t, t, tokens, mask, scale):
    nothing = torch.zeros_like(tokens).index_fill_(1, torch.tensor([0]), 1)
    pair = torch.stack([tokens, nothing], 1).flatten(0, 1)
    masks = torch.stack([mask, nothing == 1], 1).flatten(0, 1)
    context = {"tokens": pair, "tokens_mask": masks}
    out = model(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), context)
    return out[1::2] + scale * (out[::2] - out[1::2])


# --- maps_by_word --------------------------------------------------------------------------------


def maps_with_interpolate(layers, size):
    total = 0
    for weights in layers:
        b, _, n_places, n = weights.shape
        side = int(n_places**0.5)
        maps = weights.mean(1).permute(0, 2, 1).view(b, n, side, side)
        total = total + F.interpolate(maps, size=(size, size), mode="nearest")
    return total / len(layers)


def maps_with_einsum(layers, size):
    out = []
    for weights in layers:
        side = round(weights.shape[2] ** 0.5)
        grid = weights.unflatten(2, (side, side)).mean(1)  # (B, h, w, N)
        grid = grid.repeat_interleave(size // side, 1).repeat_interleave(size // side, 2)
        out.append(torch.einsum("bhwn->bnhw", grid))
    return sum(out) / len(out)


def maps_pixel_by_pixel(layers, size):
    (b, _, _, n) = layers[0].shape
    maps = torch.zeros(b, n, size, size, dtype=layers[0].dtype)
    for weights in layers:
        side = round(weights.shape[2] ** 0.5)
        for i in range(size):
            for j in range(size):
                place = (i * side // size) * side + j * side // size
                maps[:, :, i, j] += weights[:, :, place].mean(1) / len(layers)
    return maps


def maps_with_kron(layers, size):
    def one(weights):
        side = round(weights.shape[2] ** 0.5)
        grid = weights.mean(1).mT.unflatten(2, (side, side)).contiguous()
        return torch.kron(grid, torch.ones(size // side, size // side, dtype=grid.dtype))

    return torch.stack([one(weights) for weights in layers], dim=-1).mean(-1)


VARIANTS = {
    "tokenize": [with_a_dictionary, as_a_list, with_pad, with_numpy],
    "masked_weights": [
        with_einsum,
        by_exponentials,
        with_a_large_number,
        caption_by_caption,
        normalised_again,
    ],
    "look_at_words": [
        look_with_einsum,
        look_with_the_fused_one,
        look_place_by_place,
        look_in_double,
    ],
    "guided_by_captions": [empty_first, one_row_expanded, words_left_but_masked, side_by_side],
    "maps_by_word": [
        maps_with_interpolate,
        maps_with_einsum,
        maps_pixel_by_pixel,
        maps_with_kron,
    ],
}

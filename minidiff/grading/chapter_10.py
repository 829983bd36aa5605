"""Checks of chapter 10, text to image: `from minidiff.grading import chapter_10 as check`.

Token 0 is padding, 1 the start, 2 any unknown word, as in the lesson. A mask is True where a token
counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import guidance, text, unet
from minidiff.grading.check import Answer, Inputs, task
from minidiff.grading.draw import Draw

Model = Callable[..., Tensor]

WORDS = (
    "red", "blue", "green", "coat", "boot", "bag", "on", "the", "small", "large", "left", "top",
    "dress", "shirt", "in",
)  # fmt: skip


# --- 1: tokens -----------------------------------------------------------------------------------


def _a_caption(draw: Draw) -> Inputs:
    """Known words, one of them twice and one in capitals, and a word that is not known.

    Two of them have two spaces between them; the last caption is empty.
    """
    n_words = draw.integer(8, len(WORDS))
    order = torch.empty(len(WORDS), dtype=torch.float64).uniform_(generator=draw.generator)
    known = [WORDS[i] for i in order.argsort().tolist()[:n_words]]
    first, second, third = known[0], known[1], known[2]
    unknown = draw.choice(("mauve", "velvet", "zebra"))
    said = [first, unknown, second.upper(), third.capitalize(), first, draw.choice(known)]
    if draw.case == 4:
        said = []
    room = 0 if draw.case == 3 else draw.integer(2, 6)  # the last row is full
    vocabulary = ["<pad>", "<start>", "<unknown>", *known]
    n_tokens = 1 + len(said) + room
    caption = " ".join(said).replace(" ", "  ", 1)
    return {"caption": caption, "vocabulary": vocabulary, "n_tokens": n_tokens}


@task(points=1, inputs=_a_caption, package=[text.Tokenizer], n_cases=5)
def tokenize(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """Tokens of a caption, (n_tokens,) int64: start, words, padding."""
    words = caption.lower().split()
    row = [1] + [vocabulary.index(word) if word in vocabulary else 2 for word in words]
    return torch.tensor(row + [0] * (n_tokens - len(row)))


def _numbers(words: list[str], vocabulary: list[str], unknown: int = 2) -> list[int]:
    return [vocabulary.index(word) if word in vocabulary else unknown for word in words]


def _padded(row: list[int], n_tokens: int, value: int = 0) -> Tensor:
    return torch.tensor(row + [value] * (n_tokens - len(row)))


@tokenize.misconception
def start_forgotten(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The start token is missing: the row begins with 1. Without it the empty caption would have
    nothing to look at.
    """
    return _padded(_numbers(caption.lower().split(), vocabulary), n_tokens)


@tokenize.misconception
def capitals_kept(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """Words with capital letters are taken for unknown. Upper and lower case are the same:
    caption.lower().
    """
    return _padded([1, *_numbers(caption.split(), vocabulary)], n_tokens)


@tokenize.misconception
def unknown_words_dropped(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """Unknown words are left out, and what follows moves up. Each has the token 2, so that the
    model knows that something was said there and the other words keep their positions.
    """
    words = [word for word in caption.lower().split() if word in vocabulary]
    return _padded([1, *_numbers(words, vocabulary)], n_tokens)


@tokenize.misconception
def unknown_words_padded(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """Unknown words become 0, which is padding: the mask would hide them. Their token is 2."""
    return _padded([1, *_numbers(caption.lower().split(), vocabulary, 0)], n_tokens)


@tokenize.misconception
def unknown_words_minus_one(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """Unknown words become -1, which is no row of the table of words. Their token is 2."""
    return _padded([1, *_numbers(caption.lower().split(), vocabulary, -1)], n_tokens)


@tokenize.misconception
def padded_in_front(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The padding stands in front. It comes last, so that a word keeps its position however long
    the row is.
    """
    row = [1, *_numbers(caption.lower().split(), vocabulary)]
    return torch.tensor([0] * (n_tokens - len(row)) + row)


@tokenize.misconception
def padded_after_the_start(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The words are padded to n_tokens and the start token is put before them: one entry too many.
    n_tokens counts the start token, too.
    """
    row = _numbers(caption.lower().split(), vocabulary)
    return torch.tensor([1, *row, *[0] * (n_tokens - len(row))])


@tokenize.misconception
def padded_by_n_tokens(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The row got n_tokens entries of padding on top of its words. Fill up to n_tokens entries in
    all: how many are missing?
    """
    row = [1, *_numbers(caption.lower().split(), vocabulary)]
    return torch.tensor(row + [0] * n_tokens)


@tokenize.misconception
def an_empty_word(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """Between two spaces stands an unknown word here, and the empty caption has one, too:
    split(" ") cuts at each single space. split() without an argument finds the words.
    """
    row = [1, *_numbers(caption.lower().split(" "), vocabulary)]
    return torch.tensor(row + [0] * (n_tokens - len(row)))


@tokenize.misconception
def padded_with_unknown(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The row is filled up with 2, the unknown word: it would be read. Padding is 0."""
    return _padded([1, *_numbers(caption.lower().split(), vocabulary)], n_tokens, 2)


@tokenize.misconception
def padded_with_start(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The row is filled up with start tokens. There is one, in front; padding is 0."""
    return _padded([1, *_numbers(caption.lower().split(), vocabulary)], n_tokens, 1)


@tokenize.misconception
def not_padded(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The tokens are right, but the row ends with the caption. Rows of a batch need one length:
    fill up with 0 to n_tokens.
    """
    return torch.tensor([1, *_numbers(caption.lower().split(), vocabulary)])


@tokenize.misconception
def each_word_once(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """A word that is said twice is there once. Each word of the caption has its own token, in the
    order in which they are said.
    """
    words = list(dict.fromkeys(caption.lower().split()))
    return _padded([1, *_numbers(words, vocabulary)], n_tokens)


@tokenize.misconception
def letter_by_letter(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """A loop over a string goes through its letters. caption.split() gives the words."""
    return _padded([1, *_numbers(list(caption.lower()), vocabulary)], n_tokens)


@tokenize.misconception
def counted_without_the_first_three(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """Known words are counted from 0, past the three special tokens. A word's token is its index in
    the whole vocabulary.
    """
    numbers = _numbers(caption.lower().split(), vocabulary)
    return _padded([1, *(n - 3 if n >= 3 else n for n in numbers)], n_tokens)


@tokenize.misconception
def counted_three_too_far(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """Known words are counted three too far. The vocabulary holds the three special tokens already:
    a word's token is its index as it is.
    """
    numbers = _numbers(caption.lower().split(), vocabulary)
    return _padded([1, *(n + 3 if n >= 3 else n for n in numbers)], n_tokens)


@tokenize.misconception
def tokens_as_floats(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The tokens are right, but they are floating-point numbers. A table is looked up with
    integers: int64.
    """
    return _padded([1, *_numbers(caption.lower().split(), vocabulary)], n_tokens).float()


@tokenize.misconception
def mask_for_tokens(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """This is the mask, which says where a token counts. Return the tokens themselves."""
    return _padded([1, *_numbers(caption.lower().split(), vocabulary)], n_tokens) != 0


@tokenize.misconception
def end_of_caption(caption: str, vocabulary: list[str], n_tokens: int) -> Tensor:
    """The start token stands behind the caption. It is the first of the row."""
    return _padded([*_numbers(caption.lower().split(), vocabulary), 1], n_tokens)


# --- 2: weights with a mask ----------------------------------------------------------------------


def _queries_and_keys(draw: Draw) -> Inputs:
    """Places that ask and words that answer; in case 1 as many of the one as of the other."""
    n_items, n_words = draw.integer(2, 5), draw.integer(5, 9)
    n_places = n_words if draw.case == 1 else n_words + draw.integer(2, 6)
    dim, dtype = draw.integer(10, 17), draw.dtype()
    lengths = torch.tensor([draw.integer(2, n_words) for _ in range(n_items)])
    lengths[0] = 2
    lengths[1] = n_words - 1
    mask = torch.arange(n_words)[None] < lengths[:, None]  # (B, N), no row full or empty
    q = 2 * draw.normal(n_items, n_places, dim, dtype=dtype)
    return {"q": q, "k": 2 * draw.normal(n_items, n_words, dim, dtype=dtype), "mask": mask}


@task(
    points=2,
    inputs=_queries_and_keys,
    roundings=1024.0,
    package=[text.attention_weights, F.scaled_dot_product_attention],
)
def masked_weights(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """How each place divides its attention among the words that count, (B, L, N)."""
    logits: Tensor = q @ k.mT / q.shape[2] ** 0.5  # (B, L, N)
    return logits.masked_fill(~mask[:, None, :], -torch.inf).softmax(dim=2)


def _logits(q: Tensor, k: Tensor) -> Tensor:
    logits: Tensor = q @ k.mT / q.shape[2] ** 0.5
    return logits


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask[:, None, :], -torch.inf)


@masked_weights.misconception
def mask_ignored(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The mask goes unused: attention is paid to the padding, too."""
    return _logits(q, k).softmax(dim=2)


@masked_weights.misconception
def mask_after_the_softmax(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The padding is set to zero after the softmax, and what is left no longer adds up to 1. Set it
    to -inf before.
    """
    return _logits(q, k).softmax(dim=2) * mask[:, None, :]


@masked_weights.misconception
def zero_before_the_softmax(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The logits of the padding are 0, and exp(0) = 1 is a good share. Only -inf becomes a weight
    of 0.
    """
    return (_logits(q, k) * mask[:, None, :]).softmax(dim=2)


@masked_weights.misconception
def mask_upside_down(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The mask is used the wrong way round: attention goes to the padding alone. True is where a
    word counts, so ~mask is what gets -inf.
    """
    return _masked(_logits(q, k), ~mask).softmax(dim=2)


@masked_weights.misconception
def mask_added(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The mask is added to the logits as a number: a word gets one more than the padding, which
    keeps a good share. Add -inf where the mask is False.
    """
    return (_logits(q, k) + mask[:, None, :]).softmax(dim=2)


@masked_weights.misconception
def root_forgotten(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The logits are not divided by the root of the number of features. Their variance grows with
    it, and the softmax becomes a hard choice.
    """
    return _masked(q @ k.mT, mask).softmax(dim=2)


@masked_weights.misconception
def divided_without_the_root(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The logits are divided by the number of features. It is their standard deviation that is to
    be 1: divide by the root.
    """
    return _masked(q @ k.mT / q.shape[2], mask).softmax(dim=2)


@masked_weights.misconception
def multiplied_by_the_root(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The logits are multiplied by the root of the number of features. Divide by it."""
    return _masked(q @ k.mT * q.shape[2] ** 0.5, mask).softmax(dim=2)


@masked_weights.misconception
def root_of_the_words(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The root is that of the number of words. What a logit sums over are features: their number is
    q.shape[2].
    """
    return _masked(q @ k.mT / k.shape[1] ** 0.5, mask).softmax(dim=2)


@masked_weights.misconception
def root_of_the_places(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The root is that of the number of places. What a logit sums over are features: the last
    dimension of q.
    """
    return _masked(q @ k.mT / q.shape[1] ** 0.5, mask).softmax(dim=2)


@masked_weights.misconception
def minus_one_for_infinity(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The logits of the padding are -1, and exp(-1) = 0.37 is still a share. Only -inf becomes a
    weight of 0.
    """
    return _logits(q, k).masked_fill(~mask[:, None, :], -1.0).softmax(dim=2)


@masked_weights.misconception
def mask_without_places(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The mask is (B, N) and the logits are (B, L, N): shapes are matched from the last dimension,
    so B meets L. Give the mask a dimension of size 1 for the places.
    """
    return _logits(q, k).masked_fill(~mask, -torch.inf).softmax(dim=2)


@masked_weights.misconception
def zero_times_infinity(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The mask was multiplied by -inf, and where it is 0 that gives NaN: 0 times infinity is no
    number. Choose with masked_fill or torch.where instead.
    """
    return (_logits(q, k) + ~mask[:, None, :] * -torch.inf).softmax(dim=2)


@masked_weights.misconception
def softmax_over_places(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The softmax runs over the places, so that each word is shared out among them. Each place
    divides its attention among the words: the last dimension.
    """
    weights = _logits(q, k).softmax(dim=1)
    return weights.masked_fill(~mask[:, None, :], 0.0)


@masked_weights.misconception
def softmax_over_places_masked_before(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The softmax runs over the places, where a masked word is -inf throughout: 0 divided by 0.
    Each place divides its attention among the words: the last dimension.
    """
    return _masked(_logits(q, k), mask).softmax(dim=1)


@masked_weights.misconception
def softmax_over_everything(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """All places together share a single 1. Each has its own to divide: a softmax over the last
    dimension.
    """
    logits = _masked(_logits(q, k), mask)
    return logits.flatten(1).softmax(dim=1).view_as(logits)


@masked_weights.misconception
def softmax_over_the_batch(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The softmax runs over the batch: captions compete with each other. It belongs to the last
    dimension, the words.
    """
    return _masked(_logits(q, k), mask).softmax(dim=0)


@masked_weights.misconception
def softmax_forgotten(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """These are the logits; the softmax is missing."""
    return _masked(_logits(q, k), mask)


@masked_weights.misconception
def sigmoid_for_softmax(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Each word is judged by itself, with a sigmoid. The weights of a place are shares of one
    whole: a softmax over the words.
    """
    return _masked(_logits(q, k), mask).sigmoid()


@masked_weights.misconception
def first_mask_for_all(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The mask of the first caption is used for all. Each has its own: mask[:, None, :]."""
    return _masked(_logits(q, k), mask[:1]).softmax(dim=2)


@masked_weights.misconception
def words_ask_places(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Words and places are exchanged: this is k q^T, (B, N, L). The places ask."""
    logits: Tensor = k @ q.mT / q.shape[2] ** 0.5
    return logits.softmax(dim=2)


@masked_weights.misconception
def rows_and_columns_of_the_weights(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The weights are right, but places and words are exchanged in the result: (B, N, L). Return
    (B, L, N).
    """
    return _masked(_logits(q, k), mask).softmax(dim=2).mT


# --- 3: cross-attention --------------------------------------------------------------------------


def _places_and_words(draw: Draw) -> Inputs:
    n_items, n_words = draw.integer(2, 5), draw.integer(5, 9)
    dim, inner, word_dim = draw.integer(6, 9), draw.integer(10, 14), draw.integer(15, 18)
    height = draw.integer(3, 6)
    width = height if draw.case == 1 else height + draw.integer(1, 3)
    lengths = torch.tensor([draw.integer(2, n_words) for _ in range(n_items)])
    lengths[0] = 2
    return {
        "x": draw.normal(n_items, dim, height, width, dtype=torch.float32),
        "words": draw.normal(n_items, n_words, word_dim, dtype=torch.float32),
        "mask": torch.arange(n_words)[None] < lengths[:, None],
        "to_q": 2 * draw.normal(dim, inner, dtype=torch.float32) / dim**0.5,
        "to_kv": 2 * draw.normal(word_dim, 2 * inner, dtype=torch.float32) / word_dim**0.5,
        "to_out": draw.normal(inner, dim, dtype=torch.float32) / inner**0.5,
    }


@task(
    points=3,
    inputs=_places_and_words,
    roundings=2048.0,
    package=[unet.Attention, text.attention_weights],
)
def look_at_words(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """Cross-attention with one head, (B, C, H, W) (Rombach et al. 2022, section 3.3)."""
    h = x.flatten(2).mT  # (B, C, H, W) -> (B, L, C)
    q, (k, v) = h @ to_q, (words @ to_kv).chunk(2, dim=2)  # (B, L, D), 2 x (B, N, D)
    logits: Tensor = q @ k.mT / q.shape[2] ** 0.5  # (B, L, N)
    weights = logits.masked_fill(~mask[:, None, :], -torch.inf).softmax(dim=2)
    gathered = weights @ v @ to_out  # (B, L, C)
    return x + gathered.mT.reshape(x.shape)


def _look(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor,
    scale: float | None = None, exchanged: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Logits (B, L, N), values (B, N, D) and places (B, L, C)."""
    h = x.flatten(2).mT
    q, (k, v) = h @ to_q, (words @ to_kv).chunk(2, dim=2)
    if exchanged:
        k, v = v, k
    return q @ k.mT / (q.shape[2] ** 0.5 if scale is None else scale), v, h


def _gather(weights: Tensor, v: Tensor, to_out: Tensor, x: Tensor) -> Tensor:
    return (weights @ v @ to_out).mT.reshape(x.shape)


@look_at_words.misconception
def picture_not_added(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """What is gathered takes the place of the picture. It is added to it: x + ..."""
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    return _gather(_masked(logits, mask).softmax(2), v, to_out, x)


@look_at_words.misconception
def places_not_moved_to_the_middle(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """(B, C, H, W) was given the shape (B, L, C) without moving the channels: numbers of different
    channels stand in one row. First flatten(2), then transpose.
    """
    h = x.reshape(len(x), -1, x.shape[1])
    q, (k, v) = h @ to_q, (words @ to_kv).chunk(2, dim=2)
    weights = _masked(q @ k.mT / q.shape[2] ** 0.5, mask).softmax(2)
    return x + _gather(weights, v, to_out, x)


@look_at_words.misconception
def channels_not_moved_back(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """What was gathered, (B, L, C), was given the shape of x without moving the channels back.
    First transpose, then reshape.
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    gathered = _masked(logits, mask).softmax(2) @ v @ to_out
    return x + gathered.reshape(x.shape)


@look_at_words.misconception
def moved_neither_there_nor_back(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The shapes are right, but channels and places are mixed, on the way there and on the way
    back: reshape moves nothing. flatten(2) and then transpose; afterwards transpose and then
    reshape.
    """
    h = x.reshape(len(x), -1, x.shape[1])
    q, (k, v) = h @ to_q, (words @ to_kv).chunk(2, dim=2)
    weights = _masked(q @ k.mT / q.shape[2] ** 0.5, mask).softmax(2)
    return x + (weights @ v @ to_out).reshape(x.shape)


@look_at_words.misconception
def places_column_by_column(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The places were read column by column and written back row by row. Both ways need the same
    order, that of flatten(2): rows.
    """
    h = x.mT.flatten(2).mT
    q, (k, v) = h @ to_q, (words @ to_kv).chunk(2, dim=2)
    weights = _masked(q @ k.mT / q.shape[2] ** 0.5, mask).softmax(2)
    return x + _gather(weights, v, to_out, x)


@look_at_words.misconception
def written_column_by_column(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The places were read row by row, as flatten(2) does, and what they gathered was written
    column by column. The last two sizes are height, then width, on the way back, too.
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    gathered = (_masked(logits, mask).softmax(2) @ v @ to_out).mT
    return x + gathered.reshape(*x.mT.shape).mT


@look_at_words.misconception
def query_added(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The query was added to what its place gathered. Only x is added, and after to_out."""
    logits, v, h = _look(x, words, mask, to_q, to_kv, to_out)
    gathered = _masked(logits, mask).softmax(2) @ v + h @ to_q
    return x + (gathered @ to_out).mT.reshape(x.shape)


@look_at_words.misconception
def words_cut_in_two(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The words were cut in two, one half for the keys and the other for the values. Each word has
    both: cut the features, the last dimension of words @ to_kv.
    """
    q, (k, v) = x.flatten(2).mT @ to_q, (words @ to_kv).chunk(2, dim=1)
    weights = _masked(q @ k.mT / q.shape[2] ** 0.5, mask).softmax(2)
    return x + _gather(weights, v, to_out, x)


@look_at_words.misconception
def keys_and_values_exchanged(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """Keys and values are exchanged: of the two halves of words @ to_kv the first are the keys."""
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out, exchanged=True)
    return x + _gather(_masked(logits, mask).softmax(2), v, to_out, x)


@look_at_words.misconception
def keys_for_values(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The keys are gathered; they only say how well a word fits. Gather the values, the second half
    of words @ to_kv.
    """
    logits, _, _ = _look(x, words, mask, to_q, to_kv, to_out)
    k = (words @ to_kv).chunk(2, dim=2)[0]
    return x + _gather(_masked(logits, mask).softmax(2), k, to_out, x)


@look_at_words.misconception
def every_second_feature(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """Every second feature of words @ to_kv was taken for the keys, the others for the values. They
    are its two halves, chunk(2, dim=2).
    """
    q, kv = x.flatten(2).mT @ to_q, words @ to_kv
    k, v = kv[..., ::2], kv[..., 1::2]
    weights = _masked(q @ k.mT / q.shape[2] ** 0.5, mask).softmax(2)
    return x + _gather(weights, v, to_out, x)


@look_at_words.misconception
def padding_looked_at(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The mask goes unused: the picture gathers from the padding, too."""
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    return x + _gather(logits.softmax(2), v, to_out, x)


@look_at_words.misconception
def values_masked_alone(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The padding was set to zero after the softmax, or its values were: it still takes a share of
    the attention. Give it -inf before the softmax.
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    return x + _gather(logits.softmax(2) * mask[:, None, :], v, to_out, x)


@look_at_words.misconception
def only_the_padding(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The mask is used the wrong way round: the picture gathers from the padding alone. True is
    where a word counts.
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    return x + _gather(_masked(logits, ~mask).softmax(2), v, to_out, x)


@look_at_words.misconception
def places_share_a_word(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The softmax runs over the places. Each place divides its attention among the words: the last
    dimension of (B, L, N).
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    weights = logits.softmax(1).masked_fill(~mask[:, None, :], 0.0)
    return x + _gather(weights, v, to_out, x)


@look_at_words.misconception
def nothing_but_nan(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """All is NaN. Over which dimension does the softmax run? Over the places a masked word is -inf
    throughout, which gives 0 divided by 0; and -inf times 0 is NaN as well.
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    return x + _gather(_masked(logits, mask).softmax(1), v, to_out, x)


@look_at_words.misconception
def no_root(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The logits are not divided by the root of the number of features of a query."""
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out, scale=1.0)
    return x + _gather(_masked(logits, mask).softmax(2), v, to_out, x)


@look_at_words.misconception
def root_of_the_channels(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The root is that of the number of channels of x. Queries and keys have features of their own,
    and it is over those that a logit sums.
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out, scale=x.shape[1] ** 0.5)
    return x + _gather(_masked(logits, mask).softmax(2), v, to_out, x)


@look_at_words.misconception
def root_of_the_words_features(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The root is that of the number of features of a word. A logit sums over the features of
    queries and keys, of which there are q.shape[2].
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out, scale=words.shape[2] ** 0.5)
    return x + _gather(_masked(logits, mask).softmax(2), v, to_out, x)


@look_at_words.misconception
def mean_of_the_words(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """Every place gathers the plain mean of the words: the softmax was taken twice over nothing, or
    the logits go unused. Weigh the values by how well their keys fit.
    """
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    return x + _gather(_masked(0 * logits, mask).softmax(2), v, to_out, x)


@look_at_words.misconception
def output_left_out(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """to_out is missing: the values have another number of features than x has channels."""
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    gathered = _masked(logits, mask).softmax(2) @ v
    return x + gathered.mT.reshape(x.shape)


@look_at_words.misconception
def picture_added_twice(
    x: Tensor, words: Tensor, mask: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor
) -> Tensor:
    """The picture is added twice."""
    logits, v, _ = _look(x, words, mask, to_q, to_kv, to_out)
    return 2 * x + _gather(_masked(logits, mask).softmax(2), v, to_out, x)


# --- a model that reads and counts ---------------------------------------------------------------


class _Reader(nn.Module):
    """The smallest model that reads captions; it notes what it is given."""

    def __init__(self, n_channels: int, n_words: int, n_tokens: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(n_channels + 2, n_channels, 1)
        self.words = nn.Embedding(n_words, n_channels)
        self.places = nn.Embedding(n_tokens, n_channels)
        self.sizes: list[int] = []

    def forward(self, x_t: Tensor, t: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """Predict, (B, C, H, W) and (B,) -> (B, C, H, W)."""
        n_items, n_tokens = len(x_t), self.places.num_embeddings
        if not isinstance(context, Mapping) or {*context} != {"tokens", "tokens_mask"}:
            raise TypeError('context must be {"tokens": tokens, "tokens_mask": mask}')
        tokens, mask = context["tokens"], context["tokens_mask"]
        for name, values, shape, dtype in (
            ("t", t, (n_items,), torch.int64),
            ("tokens", tokens, (n_items, n_tokens), torch.int64),
            ("tokens_mask", mask, (n_items, n_tokens), torch.bool),
        ):
            if values.shape != shape or values.dtype != dtype:
                raise ValueError(
                    f"{name} must be {dtype} of shape {shape}, one row for each item of x_t, got "
                    f"{values.dtype} of shape {tuple(values.shape)}"
                )
        if not mask.any(dim=1).all():
            raise ValueError("tokens_mask must keep a token of each caption, got a row of False")
        self.sizes.append(n_items)
        read = torch.sin(3 * self.words(tokens) + self.places.weight)  # (B, N, C)
        weights = mask[..., None].to(read)
        said = (read * weights).sum(1) / weights.sum(1)  # the mean of what counts, (B, C)
        angle = t.to(x_t).view(-1, 1, 1, 1).expand(-1, 1, *x_t.shape[2:])  # (B,) -> (B, 1, H, W)
        mixed = self.mix(torch.cat([x_t, angle.cos(), angle.sin()], dim=1))
        shift = 3 * said[:, :, None, None]  # (B, C) -> (B, C, 1, 1)
        output: Tensor = torch.sin(mixed + shift) + shift
        return output


def _captioned(draw: Draw) -> Inputs:
    """A model, noisy pictures and a caption for each; none is empty or fills its row."""
    n_items, n_channels = draw.integer(3, 7), 2 * draw.integer(1, 3)
    n_words, n_tokens = draw.integer(8, 12), draw.integer(7, 10)
    height, width = draw.integer(6, 9), n_items if draw.case == 1 else draw.integer(6, 9)
    model = draw.module(lambda: _Reader(n_channels, n_words, n_tokens)).eval().requires_grad_(False)
    lengths = torch.tensor([draw.integer(3, n_tokens) for _ in range(n_items)])
    mask = torch.arange(n_tokens)[None] < lengths[:, None]
    tokens = torch.empty(n_items, n_tokens, dtype=torch.int64)
    tokens.random_(3, n_words, generator=draw.generator)
    tokens[:, 0] = 1
    return {
        "model": model,
        "x_t": draw.normal(n_items, n_channels, height, width, dtype=torch.float32),
        "t": draw.timesteps(n_items, 1000).roll(draw.case),
        "tokens": tokens * mask,
        "mask": mask,
        "scale": float(draw.uniform(2.0, 6.0, 1)),
    }


def _predicted(answer: Answer, inputs: Inputs) -> Mapping[str, Any]:
    model = inputs["model"]
    output = answer(*inputs.values())
    return {"the guided answer": output, "the number of calls": len(model.sizes)}


# --- 4: guided by a caption ----------------------------------------------------------------------


@task(
    points=3,
    inputs=_captioned,
    observe=_predicted,
    roundings=2048.0,
    package=[guidance.guided, guidance.composed],
    n_cases=3,
)
def guided_by_captions(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The answer guided away from the empty caption, (B, C, H, W), from one call."""
    nothing = torch.zeros_like(tokens)
    nothing[:, 0] = 1  # the start token alone
    both = {"tokens": torch.cat([tokens, nothing]), "tokens_mask": torch.cat([mask, nothing != 0])}
    cond, uncond = model(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
    return uncond + scale * (cond - uncond)


def _empty(tokens: Tensor) -> tuple[Tensor, Tensor]:
    nothing = torch.zeros_like(tokens)
    nothing[:, 0] = 1
    return nothing, nothing != 0


def _read_both(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor,
    null: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The answers for captions and for what stands for none, from one call."""
    both = {"tokens": torch.cat([tokens, null[0]]), "tokens_mask": torch.cat([mask, null[1]])}
    cond, uncond = model(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
    return cond, uncond


def _combine(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    return uncond + scale * (cond - uncond)


@guided_by_captions.misconception
def two_calls_for_captions(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The numbers are right, but the model is called twice. Put captions and empty captions into
    one batch, and cut the answer in two.
    """
    null = _empty(tokens)
    cond = model(x_t, t, {"tokens": tokens, "tokens_mask": mask})
    uncond = model(x_t, t, {"tokens": null[0], "tokens_mask": null[1]})
    return _combine(cond, uncond, scale)


@guided_by_captions.misconception
def padding_alone_for_none(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The empty caption has nothing but padding, all of it masked. It keeps its start token: token
    1 in front, and True for it in the mask.
    """
    null = torch.zeros_like(tokens), torch.zeros_like(mask)
    return _combine(*_read_both(model, x_t, t, tokens, mask, null), scale)


@guided_by_captions.misconception
def padding_token_in_front(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The one token of the empty caption that counts is 0, the padding. It is the start token,
    1.
    """
    null = torch.zeros_like(tokens), _empty(tokens)[1]
    return _combine(*_read_both(model, x_t, t, tokens, mask, null), scale)


@guided_by_captions.misconception
def mask_of_the_caption_for_none(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The empty captions have the masks of the captions, so that their padding is read. Only their
    start token counts.
    """
    null = _empty(tokens)[0], mask
    return _combine(*_read_both(model, x_t, t, tokens, mask, null), scale)


@guided_by_captions.misconception
def empty_caption_unmasked(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The mask of the empty captions is True throughout: their padding is read. Only their start
    token counts.
    """
    null = _empty(tokens)[0], torch.ones_like(mask)
    return _combine(*_read_both(model, x_t, t, tokens, mask, null), scale)


@guided_by_captions.misconception
def unknown_words_for_none(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """In the place of each word stands the unknown word. That is a caption of words not
    understood, and not an empty one: the start token alone.
    """
    words = torch.where(mask, 2, 0)
    words[:, 0] = 1
    return _combine(*_read_both(model, x_t, t, tokens, mask, (words, mask)), scale)


@guided_by_captions.misconception
def unknown_word_in_front(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The one token of the empty caption is 2, the unknown word. It is the start token, 1."""
    null = 2 * _empty(tokens)[0], _empty(tokens)[1]
    return _combine(*_read_both(model, x_t, t, tokens, mask, null), scale)


@guided_by_captions.misconception
def zeros_with_the_captions_mask(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The tokens of the empty captions are all 0, and the captions' own masks let the padding be
    read. An empty caption is a start token, 1, and a mask that is True for it alone.
    """
    null = torch.zeros_like(tokens), mask
    return _combine(*_read_both(model, x_t, t, tokens, mask, null), scale)


@guided_by_captions.misconception
def captions_and_empty_exchanged(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """Guidance leads away from the caption here. Are the halves exchanged (what comes first in the
    batch comes first in the answer), or is it the formula that begins at the wrong one of the two?
    """
    cond, uncond = _read_both(model, x_t, t, tokens, mask, _empty(tokens))
    return _combine(uncond, cond, scale)


@guided_by_captions.misconception
def scale_for_w_with_captions(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The push is added to the answer for the caption, where its factor would be scale - 1. With
    the scale itself, start from the answer for the empty caption.
    """
    cond, uncond = _read_both(model, x_t, t, tokens, mask, _empty(tokens))
    return cond + scale * (cond - uncond)


@guided_by_captions.misconception
def mask_not_doubled(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The tokens are doubled and the mask is not. Each of the 2B captions needs its own, the empty
    ones that of an empty caption.
    """
    both = {"tokens": torch.cat([tokens, _empty(tokens)[0]]), "tokens_mask": mask}
    output: Tensor = model(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
    return output


@guided_by_captions.misconception
def captions_not_doubled(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """x_t is doubled and the captions are not. The second half needs some, too: empty ones."""
    context = {"tokens": tokens, "tokens_mask": mask}
    output: Tensor = model(torch.cat([x_t, x_t]), torch.cat([t, t]), context)
    return output


@guided_by_captions.misconception
def t_of_one_half(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """x_t is doubled and t is not. Each of the 2B items needs its timestep: torch.cat([t, t])."""
    null = _empty(tokens)
    both = {"tokens": torch.cat([tokens, null[0]]), "tokens_mask": torch.cat([mask, null[1]])}
    output: Tensor = model(torch.cat([x_t, x_t]), t, both)
    return output


@guided_by_captions.misconception
def tokens_without_their_dictionary(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The tokens are given to the model as they are. Its context is a dictionary that holds tokens
    and tokens_mask by name.
    """
    output: Tensor = model(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([tokens, tokens]))
    return output


@guided_by_captions.misconception
def pictures_repeated_one_by_one(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """x_t and t are repeated item by item (repeat_interleave), the captions half by half: most
    items get another's. torch.cat([x_t, x_t]) keeps the halves together.
    """
    null = _empty(tokens)
    both = {"tokens": torch.cat([tokens, null[0]]), "tokens_mask": torch.cat([mask, null[1]])}
    output = model(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), both)
    cond, uncond = output.chunk(2)
    return _combine(cond, uncond, scale)


@guided_by_captions.misconception
def every_second_answer(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """x_t, t and the answers are taken alternately, told and not told, but the captions come half
    by half (cat). Either all of them alternate or none.
    """
    null = _empty(tokens)
    both = {"tokens": torch.cat([tokens, null[0]]), "tokens_mask": torch.cat([mask, null[1]])}
    output = model(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), both)
    return _combine(output[::2], output[1::2], scale)


@guided_by_captions.misconception
def a_single_empty_caption(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """There is one empty caption for the whole batch. Each item needs its own row: B captions and B
    empty ones.
    """
    null = _empty(tokens[:1])
    both = {"tokens": torch.cat([tokens, null[0]]), "tokens_mask": torch.cat([mask, null[1]])}
    output: Tensor = model(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
    return output


@guided_by_captions.misconception
def mask_of_numbers(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The mask of the empty captions holds numbers, and with it the whole mask does. A mask is
    bool: compare, as in nothing != 0.
    """
    null = _empty(tokens)[0]
    both = {"tokens": torch.cat([tokens, null]), "tokens_mask": torch.cat([mask, null])}
    output: Tensor = model(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
    return output


@guided_by_captions.misconception
def caption_for_none(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """Both halves hold the captions, and there is no difference to multiply: this is the answer
    without guidance. The second half is to hold empty captions.
    """
    return _read_both(model, x_t, t, tokens, mask, (tokens, mask))[0]


@guided_by_captions.misconception
def push_of_the_caption_alone(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """This is the push alone, scale (cond - uncond). It is to be added to the answer for the empty
    caption.
    """
    cond, uncond = _read_both(model, x_t, t, tokens, mask, _empty(tokens))
    return scale * (cond - uncond)


@guided_by_captions.misconception
def channels_cut_in_two(
    model: Model, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """The answer is cut along its channels. The halves lie one behind the other in the batch, its
    first dimension: output.chunk(2).
    """
    cond, uncond = torch.cat(_read_both(model, x_t, t, tokens, mask, _empty(tokens))).chunk(2, 1)
    return _combine(cond, uncond, scale)


# --- 5: maps by word -----------------------------------------------------------------------------


def _layers(draw: Draw) -> Inputs:
    """Attention weights of some layers, each on a square of its own; sizes and heads differ."""
    n_items, n_heads, n_words = draw.integer(2, 4), draw.integer(2, 5), draw.integer(5, 8)
    dtype, size = draw.dtype(), 8
    sides = [4, 8, 2] if draw.case % 2 else [2, 4, 4]
    layers = [
        (3 * draw.normal(n_items, n_heads + extra, side**2, n_words, dtype=dtype)).softmax(3)
        for extra, side in enumerate(sides)
    ]
    return {"layers": layers, "size": size}


@task(points=3, inputs=_layers, roundings=256.0, package=[text.watch_attention])
def maps_by_word(layers: list[Tensor], size: int) -> Tensor:
    """How much each pixel looked at each word, (B, N, size, size): mean over heads and layers."""
    maps = []
    for weights in layers:  # (B, heads, L, N)
        side = round(weights.shape[2] ** 0.5)
        by_word = weights.mean(dim=1).mT  # (B, L, N) -> (B, N, L)
        by_word = by_word.reshape(*by_word.shape[:2], side, side)
        blocks = by_word.repeat_interleave(size // side, 2).repeat_interleave(size // side, 3)
        maps.append(blocks)
    return torch.stack(maps).mean(dim=0)


def _by_word(weights: Tensor) -> Tensor:
    """(B, L, N), heads already put together -> (B, N, side, side)."""
    side = round(weights.shape[1] ** 0.5)
    return weights.mT.reshape(len(weights), weights.shape[2], side, side)


def _enlarge(maps: Tensor, size: int) -> Tensor:
    factor = size // maps.shape[2]
    return maps.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _mean_of(maps: list[Tensor]) -> Tensor:
    return torch.stack(maps).mean(0)


@maps_by_word.misconception
def words_not_moved(layers: list[Tensor], size: int) -> Tensor:
    """(B, L, N) was given the shape (B, N, h, w) without moving the words: reshape moves nothing.
    First transpose places and words, then reshape.
    """
    maps = []
    for weights in layers:
        side = round(weights.shape[2] ** 0.5)
        mean = weights.mean(1)  # (B, L, N)
        maps.append(_enlarge(mean.reshape(len(mean), mean.shape[2], side, side), size))
    return _mean_of(maps)


@maps_by_word.misconception
def rows_and_columns_exchanged(layers: list[Tensor], size: int) -> Tensor:
    """Rows and columns of the maps are exchanged. Places are counted row by row, as flatten does:
    the first size is that of a column of rows.
    """
    return _mean_of([_enlarge(_by_word(weights.mean(1)), size).mT for weights in layers])


@maps_by_word.misconception
def tiled(layers: list[Tensor], size: int) -> Tensor:
    """The coarse maps are repeated side by side, as tiles are. Each place is to grow into a block
    of equal pixels: repeat_interleave, or interpolate with mode="nearest".
    """
    maps = []
    for weights in layers:
        by_word = _by_word(weights.mean(1))
        factor = size // by_word.shape[2]
        maps.append(by_word.repeat(1, 1, factor, factor))
    return _mean_of(maps)


@maps_by_word.misconception
def smoothed(layers: list[Tensor], size: int) -> Tensor:
    """The coarse maps are enlarged smoothly. Here each place is to grow into a block of equal
    pixels: mode="nearest".
    """
    return _mean_of(
        [
            F.interpolate(_by_word(weights.mean(1)), (size, size), mode="bilinear")
            for weights in layers
        ]
    )


@maps_by_word.misconception
def heads_summed(layers: list[Tensor], size: int) -> Tensor:
    """The heads are summed up, so that the shares of a pixel no longer add up to 1. Take their
    mean.
    """
    return _mean_of([_enlarge(_by_word(weights.sum(1)), size) for weights in layers])


@maps_by_word.misconception
def first_head(layers: list[Tensor], size: int) -> Tensor:
    """Only the first head of each layer is looked at. Each head looks for something else: take the
    mean of all.
    """
    return _mean_of([_enlarge(_by_word(weights[:, 0]), size) for weights in layers])


@maps_by_word.misconception
def largest_head(layers: list[Tensor], size: int) -> Tensor:
    """Of the heads the largest weight is taken, so that the shares of a pixel no longer add up to
    1. Take their mean.
    """
    return _mean_of([_enlarge(_by_word(weights.amax(1)), size) for weights in layers])


@maps_by_word.misconception
def layers_summed(layers: list[Tensor], size: int) -> Tensor:
    """The layers are summed up, so that the shares of a pixel no longer add up to 1. Take their
    mean.
    """
    return torch.stack([_enlarge(_by_word(weights.mean(1)), size) for weights in layers]).sum(0)


@maps_by_word.misconception
def last_layer(layers: list[Tensor], size: int) -> Tensor:
    """This is the map of the last layer alone: is the result overwritten in the loop, or returned
    inside it?
    """
    return _enlarge(_by_word(layers[-1].mean(1)), size)


@maps_by_word.misconception
def first_layer(layers: list[Tensor], size: int) -> Tensor:
    """This is the map of the first layer alone: does the return stand inside the loop?"""
    return _enlarge(_by_word(layers[0].mean(1)), size)


@maps_by_word.misconception
def weighed_by_places(layers: list[Tensor], size: int) -> Tensor:
    """Fine layers count for more than coarse ones, by their number of places. All count alike: a
    plain mean over the layers.
    """
    maps = [_enlarge(_by_word(weights.mean(1)), size) * weights.shape[2] for weights in layers]
    return torch.stack(maps).sum(0) / sum(weights.shape[2] for weights in layers)


@maps_by_word.misconception
def each_word_to_one(layers: list[Tensor], size: int) -> Tensor:
    """Each map is divided by its largest value. That helps to see it; what is asked for are the
    shares themselves, which add up to 1 over the words.
    """
    maps = _mean_of([_enlarge(_by_word(weights.mean(1)), size) for weights in layers])
    return maps / maps.amax((2, 3), keepdim=True)


@maps_by_word.misconception
def divided_by_the_mean(layers: list[Tensor], size: int) -> Tensor:
    """Each map is divided by its mean. That helps to compare words; what is asked for are the
    shares themselves, which add up to 1 over the words.
    """
    maps = _mean_of([_enlarge(_by_word(weights.mean(1)), size) for weights in layers])
    return maps / maps.mean((2, 3), keepdim=True)


@maps_by_word.misconception
def each_layer_divided_by_its_mean(layers: list[Tensor], size: int) -> Tensor:
    """The map of each layer is divided by its mean. That helps to compare words; what is asked for
    are the shares themselves, which add up to 1 over the words.
    """
    maps = [_enlarge(_by_word(weights.mean(1)), size) for weights in layers]
    return _mean_of([m / m.mean((2, 3), keepdim=True) for m in maps])


@maps_by_word.misconception
def shared_out_in_the_block(layers: list[Tensor], size: int) -> Tensor:
    """The share of a place is divided among the pixels of its block, so that the shares of a pixel
    no longer add up to 1. Each pixel has the share of its place, whole.
    """
    return _mean_of(
        [
            _enlarge(_by_word(weights.mean(1)), size) * weights.shape[2] / size**2
            for weights in layers
        ]
    )


@maps_by_word.misconception
def heads_of_all_layers(layers: list[Tensor], size: int) -> Tensor:
    """A layer with many heads counts for more than one with few. First the mean over the heads of
    each layer, then the mean over the layers.
    """
    maps = [_enlarge(_by_word(weights.mean(1)), size) * weights.shape[1] for weights in layers]
    return torch.stack(maps).sum(0) / sum(weights.shape[1] for weights in layers)


@maps_by_word.misconception
def pictures_averaged(layers: list[Tensor], size: int) -> Tensor:
    """The mean runs over the pictures, the first dimension of (B, heads, L, N). It is to run over
    the heads, the second.
    """
    maps = [_enlarge(_by_word(weights.mean(0)), size) for weights in layers]
    return sum(maps[1:], maps[0]) / len(maps)


@maps_by_word.misconception
def pictures_averaged_last(layers: list[Tensor], size: int) -> Tensor:
    """The last mean runs over the pictures, and the layers are still there. Of (layers, B, N, size,
    size) the layers are the first dimension.
    """
    return torch.stack([_enlarge(_by_word(weights.mean(1)), size) for weights in layers]).mean(1)


@maps_by_word.misconception
def enlarged_like_the_first(layers: list[Tensor], size: int) -> Tensor:
    """Each layer is enlarged by the factor of the first. Layers have sides of their own: work out
    the factor inside the loop.
    """
    factor = size // round(layers[0].shape[2] ** 0.5)
    maps = [_by_word(w.mean(1)).repeat_interleave(factor, 2) for w in layers]
    maps = [m.repeat_interleave(factor, 3) for m in maps]
    return sum(maps[1:], maps[0]) / len(maps)


@maps_by_word.misconception
def places_stacked(layers: list[Tensor], size: int) -> Tensor:
    """Layers with different numbers of places cannot be stacked. Make each a map and enlarge it to
    (size, size) first.
    """
    return torch.stack([weights.mean(1) for weights in layers]).mean(0)


@maps_by_word.misconception
def words_last(layers: list[Tensor], size: int) -> Tensor:
    """The numbers are right, but the words come last. Return (B, N, size, size)."""
    maps = _mean_of([_enlarge(_by_word(weights.mean(1)), size) for weights in layers])
    return maps.permute(0, 2, 3, 1)


@maps_by_word.misconception
def first_item_alone(layers: list[Tensor], size: int) -> Tensor:
    """The batch is gone: these are the maps of the first picture, or the mean over pictures. Keep
    the first dimension.
    """
    return _mean_of([_enlarge(_by_word(weights.mean(1)), size) for weights in layers])[0]


@maps_by_word.misconception
def not_enlarged(layers: list[Tensor], size: int) -> Tensor:
    """Layers of different sizes cannot be stacked. Enlarge each map to (size, size) first."""
    return torch.stack([_by_word(weights.mean(1)) for weights in layers]).mean(0)

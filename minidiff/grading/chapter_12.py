"""Checks of chapter 12, audio: `from minidiff.grading import chapter_12 as check`.

Spectrograms are (frequencies, frames). Complex numbers come as their real and imaginary parts,
along a last axis of two.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff import audio
from minidiff.grading.check import Inputs, task
from minidiff.grading.draw import Draw
from minidiff.zoo import music

PACKAGE = [
    audio.hz_to_mel,
    audio.mel_to_hz,
    audio.mel_filters,
    audio.griffin_lim,
    audio.frames_of,
    audio.word_errors,
]


# --- 1: equal steps to the ear -------------------------------------------------------------------


def _frequencies(draw: Draw) -> Inputs:
    """Of one dimension, of two, of none, and of three."""
    shape = [draw.integer(2, 6) for _ in range((1, 2, 0, 3)[draw.case])]
    hz = draw.uniform(20.0, 8000.0, *shape, dtype=draw.dtype())
    if hz.ndim:
        hz.view(-1)[0] = 0.0
    return {"hz": hz}


@task(points=1, inputs=_frequencies, package=PACKAGE)
def to_mel(hz: Tensor) -> Tensor:
    """Frequencies in mel: 2595 log10(1 + f / 700)."""
    return 2595 * torch.log10(1 + hz / 700)


@to_mel.misconception
def natural_logarithm(hz: Tensor) -> Tensor:
    """torch.log is the natural logarithm; with the factor 2595 it must be the one to base 10."""
    return 2595 * torch.log(1 + hz / 700)


@to_mel.misconception
def base_two(hz: Tensor) -> Tensor:
    """This is the logarithm to base 2. With the factor 2595 it must be the one to base 10."""
    return 2595 * torch.log2(1 + hz / 700)


@to_mel.misconception
def factor_of_the_other_base(hz: Tensor) -> Tensor:
    """1127 is the factor of the natural logarithm, and goes with torch.log. Mixed with log10 the
    scale is 2.3 times too short.
    """
    return 1127 * torch.log10(1 + hz / 700)


@to_mel.misconception
def one_left_out(hz: Tensor) -> Tensor:
    """Without the 1 inside the logarithm, 0 Hz lies at minus infinity. The 1 puts it at 0."""
    return 2595 * torch.log10(hz / 700)


@to_mel.misconception
def one_outside(hz: Tensor) -> Tensor:
    """The 1 stands outside the logarithm. It belongs to what the logarithm is taken of."""
    return 2595 * (1 + torch.log10(hz / 700))


@to_mel.misconception
def one_divided_too(hz: Tensor) -> Tensor:
    """The 1 is divided by 700 as well. Only the frequency is, before 1 is added to it."""
    return 2595 * torch.log10((1 + hz) / 700)


@to_mel.misconception
def factor_left_out(hz: Tensor) -> Tensor:
    """The factor 2595 is missing. With it, 1000 Hz are 1000 mel, nearly."""
    return torch.log10(1 + hz / 700)


@to_mel.misconception
def corner_left_out(hz: Tensor) -> Tensor:
    """The frequency is not divided by 700 Hz, where the scale bends from straight to logarithmic.
    So it bends at 1 Hz.
    """
    return 2595 * torch.log10(1 + hz)


@to_mel.misconception
def in_kilohertz(hz: Tensor) -> Tensor:
    """This divides by 1000 as well: the 700 is in Hz already."""
    return 2595 * torch.log10(1 + hz / 1000 / 700)


@to_mel.misconception
def wrong_way(hz: Tensor) -> Tensor:
    """That is the way back, from mel to Hz."""
    return 700 * (10 ** (hz / 2595) - 1)


@to_mel.misconception
def corner_at_1000(hz: Tensor) -> Tensor:
    """The scale bends at 1000 Hz here. There is such a formula, with another factor; with 2595 the
    corner is at 700.
    """
    return 2595 * torch.log10(1 + hz / 1000)


# --- 2: triangles --------------------------------------------------------------------------------


def _corners(draw: Draw) -> Inputs:
    n_bands = draw.integer(3, 7)
    steps = draw.uniform(0.6, 1.4, n_bands + 2).cumsum(0) ** 1.3
    corners = 0.1 * steps  # kHz, ever farther apart
    hz = torch.arange(draw.integer(40, 60), dtype=torch.float64) * (corners[-1] * 1.1 / 40)
    hz = torch.cat([hz, corners]).sort().values  # the corners themselves among them
    dtype = draw.dtype()
    return {"hz": hz.to(dtype), "corners": corners.to(dtype)}


@task(points=2, inputs=_corners, roundings=256.0, package=PACKAGE)
def triangles(hz: Tensor, corners: Tensor) -> Tensor:
    """Triangle i rises from corners[i] to corners[i + 1], falls to corners[i + 2], (bands, F)."""
    left, top, right = (corners[i : len(corners) - 2 + i, None] for i in range(3))
    rise, fall = (hz - left) / (top - left), (right - hz) / (right - top)
    return torch.minimum(rise, fall).clamp(min=0)


def _parts(hz: Tensor, corners: Tensor) -> tuple[Tensor, ...]:
    left, top, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return left, top, right, (hz - left) / (top - left), (right - hz) / (right - top)


@triangles.misconception
def not_cut_off(hz: Tensor, corners: Tensor) -> Tensor:
    """Outside its corners a triangle goes on below zero. There it must be 0."""
    *_, rise, fall = _parts(hz, corners)
    return torch.minimum(rise, fall)


@triangles.misconception
def larger_of_both(hz: Tensor, corners: Tensor) -> Tensor:
    """Of the rising and the falling line the larger one is taken. Under both of them lies the
    triangle: take the smaller.
    """
    *_, rise, fall = _parts(hz, corners)
    return torch.maximum(rise, fall).clamp(min=0)


@triangles.misconception
def only_rising(hz: Tensor, corners: Tensor) -> Tensor:
    """Each triangle rises, and never falls again."""
    return _parts(hz, corners)[3].clamp(0, 1)


@triangles.misconception
def only_falling(hz: Tensor, corners: Tensor) -> Tensor:
    """Each triangle falls, but there is no rising side."""
    return _parts(hz, corners)[4].clamp(0, 1)


@triangles.misconception
def boxes(hz: Tensor, corners: Tensor) -> Tensor:
    """These are boxes: 1 anywhere between the outer corners. A triangle is 1 at its top alone."""
    left, _, right, *_ = _parts(hz, corners)
    return ((hz > left) & (hz < right)).to(hz.dtype)


@triangles.misconception
def same_width_on_both_sides(hz: Tensor, corners: Tensor) -> Tensor:
    """Both sides are as steep as the left one. The corners are not equally far apart: the right
    side is divided by right - top.
    """
    left, top, right, rise, _ = _parts(hz, corners)
    return torch.minimum(rise, (right - hz) / (top - left)).clamp(min=0)


@triangles.misconception
def top_counted_twice(hz: Tensor, corners: Tensor) -> Tensor:
    """At the top both lines hold: there it must be 1, once. Here both are added."""
    _, top, _, rise, fall = _parts(hz, corners)
    return (torch.minimum(rise, fall) * (1.0 + (hz == top))).clamp(min=0)


@triangles.misconception
def top_left_out(hz: Tensor, corners: Tensor) -> Tensor:
    """The triangle is 0 at its very top: a frequency equal to the middle corner lies on neither
    side. There it must be 1.
    """
    _, top, _, rise, fall = _parts(hz, corners)
    return (torch.minimum(rise, fall) * (hz != top)).clamp(min=0)


@triangles.misconception
def sum_of_both(hz: Tensor, corners: Tensor) -> Tensor:
    """The two lines, each cut off at 0 and 1, are added. Beside a triangle one of them is 1
    already, so take the smaller of both in place of the sum.
    """
    *_, rise, fall = _parts(hz, corners)
    return rise.clamp(0, 1) + fall.clamp(0, 1)


@triangles.misconception
def falling_line_from_the_top(hz: Tensor, corners: Tensor) -> Tensor:
    """The second line is 0 at the top and rises, too. It must be 1 at the top and 0 at the right
    corner: it measures how far right - hz is.
    """
    _, top, right, rise, _ = _parts(hz, corners)
    return torch.minimum(rise, (hz - top) / (right - top)).clamp(min=0)


@triangles.misconception
def symmetric_by_the_left(hz: Tensor, corners: Tensor) -> Tensor:
    """These triangles are as wide on the right as on the left. The corners are not equally far
    apart: the right side reaches 0 at the right corner.
    """
    left, top, *_ = _parts(hz, corners)
    return (1 - (hz - top).abs() / (top - left)).clamp(min=0)


@triangles.misconception
def symmetric_by_the_mean(hz: Tensor, corners: Tensor) -> Tensor:
    """Half of the whole width is taken on either side of the top. The two sides are not equally
    wide: each has a line of its own.
    """
    left, top, right, *_ = _parts(hz, corners)
    return (1 - (hz - top).abs() / ((right - left) / 2)).clamp(min=0)


@triangles.misconception
def equal_area(hz: Tensor, corners: Tensor) -> Tensor:
    """Each triangle is divided by its width, so that all have one area. That is another convention;
    here the top is 1.
    """
    left, _, right, rise, fall = _parts(hz, corners)
    return torch.minimum(rise, fall).clamp(min=0) * 2 / (right - left)


@triangles.misconception
def without_overlap(hz: Tensor, corners: Tensor) -> Tensor:
    """The triangles stand side by side, two corners apart. They are to overlap: triangle i begins
    at corners[i], one corner farther than the one before.
    """
    left, top, right = corners[:-2:2, None], corners[1:-1:2, None], corners[2::2, None]
    rise, fall = (hz - left) / (top - left), (right - hz) / (right - top)
    return torch.minimum(rise, fall).clamp(min=0)


@triangles.misconception
def axes_exchanged(hz: Tensor, corners: Tensor) -> Tensor:
    """Bands and frequencies are exchanged: a row for each band, a column for each frequency."""
    *_, rise, fall = _parts(hz, corners)
    return torch.minimum(rise, fall).clamp(min=0).T


@triangles.misconception
def bands_of_ones(hz: Tensor, corners: Tensor) -> Tensor:
    """Each band is divided by its sum over frequencies. Then it is a mean of the spectrum; the
    bands here are sums, and a triangle's top is 1.
    """
    *_, rise, fall = _parts(hz, corners)
    weights = torch.minimum(rise, fall).clamp(min=0)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)


# --- 3: one step of Griffin and Lim --------------------------------------------------------------


def _spectra(draw: Draw) -> Inputs:
    shape, dtype = (draw.integer(3, 6), draw.integer(4, 8)), draw.dtype()
    return {
        "magnitude": draw.uniform(0.2, 3.0, *shape, dtype=dtype),
        "now": draw.normal(*shape, 2, dtype=dtype),
        "before": draw.normal(*shape, 2, dtype=dtype),
        "momentum": float(draw.uniform(0.3, 0.9, 1)),
    }


def _length(z: Tensor) -> Tensor:
    return z.square().sum(-1, keepdim=True).sqrt()


@task(points=2, inputs=_spectra, roundings=1024.0, package=PACKAGE)
def put_back(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """The magnitudes asked for with the phases of now, run ahead by momentum (now - before)."""
    ahead = now + momentum * (now - before)  # (..., 2)
    return magnitude[..., None] * ahead / _length(ahead)


@put_back.misconception
def no_momentum(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """These are the phases of now: momentum has no part in it. Run ahead first, then take the
    phases.
    """
    return magnitude[..., None] * now / _length(now)


@put_back.misconception
def running_back(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """before - now leads back to where one was. Ahead is now - before."""
    ahead = now + momentum * (before - now)
    return magnitude[..., None] * ahead / _length(ahead)


@put_back.misconception
def momentum_of_all(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """momentum before is added, not momentum (now - before). Only the last change is to be
    continued.
    """
    ahead = now + momentum * before
    return magnitude[..., None] * ahead / _length(ahead)


@put_back.misconception
def before_alone(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """Only momentum (now - before) is left: the change, without now, from which it starts."""
    ahead = momentum * (now - before)
    return magnitude[..., None] * ahead / _length(ahead)


@put_back.misconception
def magnitude_multiplied(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """The magnitude multiplies what has a length of its own. Divide by that length first: what is
    kept is the direction alone.
    """
    return magnitude[..., None] * (now + momentum * (now - before))


@put_back.misconception
def length_of_now(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """What ran ahead is divided by the length of now. Divide it by its own, or the magnitudes are
    not those asked for.
    """
    return magnitude[..., None] * (now + momentum * (now - before)) / _length(now)


@put_back.misconception
def length_squared(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """This divides by the length's square: the root is missing."""
    ahead = now + momentum * (now - before)
    return magnitude[..., None] * ahead / ahead.square().sum(-1, keepdim=True)


@put_back.misconception
def parts_on_their_own(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """Real and imaginary part are each divided by their own absolute value, so only signs are left.
    The length is the root of the sum of both squares.
    """
    return magnitude[..., None] * (now + momentum * (now - before)).sign()


@put_back.misconception
def unit_length(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """The phases are right, and every length is 1. The magnitudes asked for are missing."""
    ahead = now + momentum * (now - before)
    return ahead / _length(ahead)


@put_back.misconception
def nothing_put_back(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """This runs ahead, and never puts the magnitudes back that are asked for."""
    return now + momentum * (now - before)


@put_back.misconception
def one_length_for_all(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """All numbers are divided by one length, that of the whole array. Each complex number has its
    own.
    """
    ahead = now + momentum * (now - before)
    length = ahead.square().sum().sqrt()
    return magnitude[..., None] * ahead / length


@put_back.misconception
def left_complex(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """These are complex numbers; return their real and imaginary part along a last axis
    (`torch.view_as_real`).
    """
    ahead = now + momentum * (now - before)
    return torch.view_as_complex((magnitude[..., None] * ahead / _length(ahead)).contiguous())


@put_back.misconception
def half_of_the_circle(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """The angle is taken from the ratio of the parts (atan), which is the same for a number and for
    the opposite one. Where the real part is negative, the result points the wrong way; atan2 knows
    the whole circle.
    """
    ahead = now + momentum * (now - before)
    return magnitude[..., None] * ahead / _length(ahead) * ahead[..., :1].sign()


@put_back.misconception
def parts_exchanged(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """Real and imaginary part are exchanged. The real part comes first; of atan2's two arguments it
    is the second.
    """
    ahead = now + momentum * (now - before)
    return (magnitude[..., None] * ahead / _length(ahead)).flip(-1)


@put_back.misconception
def momentum_afterwards(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """The momentum is added after the magnitudes were put back, which spoils them. Run ahead first,
    then put them back.
    """
    put = magnitude[..., None] * now / _length(now)
    return put + momentum * (put - before)


@put_back.misconception
def ahead_of_before(magnitude: Tensor, now: Tensor, before: Tensor, momentum: float) -> Tensor:
    """This starts at before, and so does not even get to now. Start at now, and go on by momentum
    times the last change.
    """
    ahead = before + momentum * (now - before)
    return magnitude[..., None] * ahead / _length(ahead)


@put_back.misconception
def length_over_frequencies(
    magnitude: Tensor, now: Tensor, before: Tensor, momentum: float
) -> Tensor:
    """The length is taken over the first axis, that is of a whole column of frequencies. Each
    complex number has its own: that of its two parts, the last axis.
    """
    ahead = now + momentum * (now - before)
    return magnitude[..., None] * ahead / ahead.square().sum(0, keepdim=True).sqrt()


# --- 4: how many words are wrong -----------------------------------------------------------------

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _texts(draw: Draw) -> Inputs:
    """Many pairs at a time: each wrong version must show somewhere."""
    asked, heard = [], []
    for _ in range(40):
        words = [draw.choice(_WORDS) for _ in range(draw.integer(2, 5))]
        asked.append(" ".join(words))
        for _ in range(draw.integer(0, 4)):
            way, place = draw.integer(0, 4), draw.integer(0, 4)
            if way == 0 and words:
                words.pop(place % len(words))
            elif way == 1:
                words.insert(place % (len(words) + 1), draw.choice(_WORDS))
            elif way == 2 and words:
                words[place % len(words)] = draw.choice(_WORDS)
            else:
                words = words[1:] + words[:1]
        heard.append(" ".join(words))
    asked += ["one two three", "six seven", "one two", "four"]
    heard += ["two three", "five six seven eight", "", "four four four"]
    return {"asked": asked, "heard": heard}


def _distance(a: list[str], h: list[str], put: int = 1, leave: int = 1, swap: int = 1) -> int:
    row = [leave * i for i in range(len(a) + 1)]
    for j, word in enumerate(h, start=1):
        diagonal, row[0] = row[0], put * j
        for i, want in enumerate(a, start=1):
            other = diagonal + swap * (word != want)
            diagonal, row[i] = row[i], min(row[i] + put, row[i - 1] + leave, other)
    return row[-1]


@task(points=3, inputs=_texts, package=PACKAGE)
def count_errors(asked: list[str], heard: list[str]) -> Tensor:
    """For each pair of texts the fewest words to put in, leave out or exchange, (N,) int64."""
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([_distance(a.split(), h.split()) for a, h in pairs])


@count_errors.misconception
def place_by_place(asked: list[str], heard: list[str]) -> Tensor:
    """Words are compared place by place. One word left out at the front then makes all that follow
    wrong, where leaving it out is one error.
    """
    rows = []
    for a, h in zip(map(str.split, asked), map(str.split, heard), strict=True):
        different = sum(x != y for x, y in zip(a, h, strict=False))
        rows.append(different + abs(len(a) - len(h)))
    return torch.tensor(rows)


@count_errors.misconception
def shorter_of_both(asked: list[str], heard: list[str]) -> Tensor:
    """Compared place by place, and only as far as the shorter one goes: what is left of the longer
    one counts too, and words may have moved.
    """
    pairs = zip(map(str.split, asked), map(str.split, heard), strict=True)
    return torch.tensor([sum(x != y for x, y in zip(a, h, strict=False)) for a, h in pairs])


@count_errors.misconception
def letters(asked: list[str], heard: list[str]) -> Tensor:
    """Letters are counted in place of words. Split the texts first."""
    return torch.tensor([_distance([*a], [*h]) for a, h in zip(asked, heard, strict=True)])


@count_errors.misconception
def order_forgotten(asked: list[str], heard: list[str]) -> Tensor:
    """Words are looked for in the other text, wherever they stand. Order matters: "two one" is not
    "one two".
    """
    rows = []
    for a, h in zip(map(str.split, asked), map(str.split, heard), strict=True):
        left = list(a)
        for word in h:
            if word in left:
                left.remove(word)
        rows.append(len(left) + len(h) - (len(a) - len(left)))
    return torch.tensor(rows)


@count_errors.misconception
def exchange_is_two(asked: list[str], heard: list[str]) -> Tensor:
    """An exchange counts two errors here, as if a word were left out and another put in. It is
    one.
    """
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([_distance(a.split(), h.split(), swap=2) for a, h in pairs])


@count_errors.misconception
def insertions_are_free(asked: list[str], heard: list[str]) -> Tensor:
    """Words that are heard and were not asked for cost nothing here. Who says all ten digits would
    then be right always.
    """
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([_distance(a.split(), h.split(), put=0) for a, h in pairs])


@count_errors.misconception
def omissions_are_free(asked: list[str], heard: list[str]) -> Tensor:
    """Words that were asked for and are not heard cost nothing here. Silence would then be
    perfect.
    """
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([_distance(a.split(), h.split(), leave=0) for a, h in pairs])


@count_errors.misconception
def difference_of_lengths(asked: list[str], heard: list[str]) -> Tensor:
    """Only the numbers of words are compared, not the words."""
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([abs(len(a.split()) - len(h.split())) for a, h in pairs])


@count_errors.misconception
def right_or_wrong(asked: list[str], heard: list[str]) -> Tensor:
    """Each text counts 1 if anything is wrong. Count the words that are."""
    return torch.tensor([int(a.split() != h.split()) for a, h in zip(asked, heard, strict=True)])


@count_errors.misconception
def words_right(asked: list[str], heard: list[str]) -> Tensor:
    """This counts what is right: the words asked for minus the errors. The errors are wanted."""
    pairs = [(a.split(), h.split()) for a, h in zip(asked, heard, strict=True)]
    return torch.tensor([len(a) - _distance(a, h) for a, h in pairs])


def _last_entry(a: list[str], h: list[str], rule: str, edges: tuple[int, int]) -> int:
    """The table of errors with another rule, or with edges that do not count up."""
    down, across = edges
    table = [[down * i + across * j for j in range(len(h) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(h) + 1):
            before = table[i - 1][j - 1], table[i - 1][j], table[i][j - 1]
            wrong = int(a[i - 1] != h[j - 1])
            if rule == "one more":
                table[i][j] = min(before) + 1
            elif rule == "one more where they differ":
                table[i][j] = min(before) + wrong
            else:
                wrong = int(a[i - 2] != h[j - 2]) if rule == "one place off" else wrong
                table[i][j] = min(before[0] + wrong, before[1] + 1, before[2] + 1)
    return table[-1][-1]


def _by_table(
    asked: list[str], heard: list[str], rule: str = "", edges: tuple[int, int] = (1, 1)
) -> Tensor:
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([_last_entry(a.split(), h.split(), rule, edges) for a, h in pairs])


@count_errors.misconception
def edges_of_zeros(asked: list[str], heard: list[str]) -> Tensor:
    """The table's edges are zeros. From nothing to j words takes j errors: the edges count up."""
    return _by_table(asked, heard, edges=(0, 0))


@count_errors.misconception
def first_row_of_zeros(asked: list[str], heard: list[str]) -> Tensor:
    """One edge counts up, and the other is zeros: nothing was asked for, j words are heard, and
    that is j errors. So what is heard too much at the front costs nothing here.
    """
    return _by_table(asked, heard, edges=(1, 0))


@count_errors.misconception
def first_column_of_zeros(asked: list[str], heard: list[str]) -> Tensor:
    """One edge counts up, and the other is zeros: i words were asked for, nothing is heard, and
    that is i errors. So what is missing at the front costs nothing here.
    """
    return _by_table(asked, heard, edges=(0, 1))


@count_errors.misconception
def always_one_more(asked: list[str], heard: list[str]) -> Tensor:
    """Each step costs one, even where both words are the same. Along the diagonal it costs one only
    where they differ.
    """
    return _by_table(asked, heard, "one more")


@count_errors.misconception
def equal_words_always_free(asked: list[str], heard: list[str]) -> Tensor:
    """Whether the words differ decides the price of all three steps here. It does so along the
    diagonal alone: leaving a word out, or putting one in, always costs one.
    """
    return _by_table(asked, heard, "one more where they differ")


@count_errors.misconception
def words_one_place_off(asked: list[str], heard: list[str]) -> Tensor:
    """The wrong words are compared. d[i, j] is about the first i and the first j words: the last of
    these are number i - 1 and j - 1, counted from 0.
    """
    return _by_table(asked, heard, "one place off")


@count_errors.misconception
def last_word_left_out(asked: list[str], heard: list[str]) -> Tensor:
    """The last word of each text has no part in it: the table needs one row and one column more
    than there are words, and the answer is in its last corner.
    """
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([_distance(a.split()[:-1], h.split()[:-1]) for a, h in pairs])


@count_errors.misconception
def per_word(asked: list[str], heard: list[str]) -> Tensor:
    """This divides by the number of words asked for: that is the word error rate. Here the errors
    themselves are to be counted.
    """
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([_distance(a.split(), h.split()) / len(a.split()) for a, h in pairs])


@count_errors.misconception
def missing_words_only(asked: list[str], heard: list[str]) -> Tensor:
    """This counts the words asked for that are heard nowhere. Words too many count as well, and so
    does their order.
    """
    pairs = zip(asked, heard, strict=True)
    return torch.tensor([sum(w not in h.split() for w in a.split()) for a, h in pairs])


# --- 5: which sound is heard in which frame ------------------------------------------------------


def _timings(draw: Draw) -> Inputs:
    """Sounds with a pause before, within and after; two begins and an end lie on a frame.

    The last end lies just after the middle between two frames.

    hop is a power of two, so that what lies on a frame does so whichever way it is computed.
    """
    n_sounds, hop = draw.integer(3, 6), draw.choice((0.0625, 0.125, 0.25))
    n = n_sounds + draw.integer(1, 3)  # some sound is heard twice
    lengths = draw.uniform(2.0, 6.0, n)
    ends = draw.integer(1, 4) + lengths.cumsum(0)  # in frames
    begins = ends - lengths
    begins[0] = begins[0].round()
    pause = draw.integer(1, n - 1)  # before this sound
    ends[pause - 1] = ends[pause - 1].floor()
    later = ends[pause - 1] + draw.integer(2, 4)  # some frames of silence
    ends[pause:] += later - begins[pause]
    begins[1:] = ends[:-1]
    begins[pause] = later
    ends[-1] = ends[-1].floor() + draw.uniform(0.55, 0.65, 1)[0]  # after the middle of a frame
    n_frames = int(ends[-1]) + draw.integer(2, 5)
    which = (torch.arange(n) + draw.integer(0, 5)) % (n_sounds - 1) + 1
    return {
        "begins": begins * hop, "ends": ends * hop, "which": which, "n_sounds": n_sounds,
        "n_frames": n_frames, "hop": hop,
    }  # fmt: skip


def _marked(begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, middles: Tensor) -> Tensor:
    heard = (begins[:, None] <= middles) & (middles < ends[:, None])  # (K, n_frames)
    number = (heard * which[:, None]).sum(0)
    frames: Tensor = torch.nn.functional.one_hot(number, n_sounds).T.float()
    return frames


@task(points=2, inputs=_timings, package=PACKAGE)
def mark_frames(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """A 1 for the sound at i hop seconds in column i, for sound 0 (silence) where there is none."""
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    return _marked(begins, ends, which, n_sounds, middles)


def _right(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    return _marked(begins, ends, which, n_sounds, middles)


@mark_frames.misconception
def silence_left_out(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Where nothing is heard, the column is empty. Silence is a sound as well: number 0."""
    frames = _right(begins, ends, which, n_sounds, n_frames, hop)
    frames[0] = 0
    return frames


@mark_frames.misconception
def half_a_frame_late(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """The middle of frame i is at i hop seconds; this takes (i + 1/2) hop, as rounding begin / hop
    does.
    """
    middles = (torch.arange(n_frames, dtype=torch.float64) + 0.5) * hop
    return _marked(begins, ends, which, n_sounds, middles)


@mark_frames.misconception
def one_frame_late(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Frames are counted from 1 here. The first is frame 0, at 0 seconds."""
    middles = (torch.arange(n_frames, dtype=torch.float64) + 1) * hop
    return _marked(begins, ends, which, n_sounds, middles)


@mark_frames.misconception
def rounded_down(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """begin / hop is rounded down, so a sound is marked in a frame before it begins. A frame hears
    what sounds at i hop: round begin / hop and end / hop up.
    """
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    first, last = (begins / hop).floor() * hop, (ends / hop).floor() * hop
    return _marked(first, last, which, n_sounds, middles)


@mark_frames.misconception
def heard_at_its_end(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """A sound that ends exactly at i hop is still marked in frame i: its end does not belong to it.
    Compare with < there.
    """
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    return _marked(begins, ends + hop / 1e6, which, n_sounds, middles)


@mark_frames.misconception
def end_for_begin(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """At its begin a sound is not heard here, and at its end it is. It is the other way round:
    <= for the begin, < for the end.
    """
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    return _marked(begins + hop / 1e6, ends + hop / 1e6, which, n_sounds, middles)


@mark_frames.misconception
def not_at_its_begin(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """A sound that begins exactly at i hop is not marked in frame i: it is heard at its begin.
    Compare with <= there.
    """
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    return _marked(begins + hop / 1e6, ends, which, n_sounds, middles)


@mark_frames.misconception
def hop_of_the_lesson(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Frames are 0.016 seconds apart here, as in the lesson. How far they are apart is what the
    argument hop says.
    """
    middles = torch.arange(n_frames, dtype=torch.float64) * audio.HOP / audio.SAMPLE_RATE
    return _marked(begins, ends, which, n_sounds, middles)


@mark_frames.misconception
def frames_not_seconds(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Seconds are compared with the frames' numbers. Frame i is at i hop seconds."""
    return _marked(begins, ends, which, n_sounds, torch.arange(n_frames, dtype=torch.float64))


@mark_frames.misconception
def stretched(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """linspace puts its last number at the end that it is given, so the steps are a little longer
    than hop. The last frame is at (n_frames - 1) hop.
    """
    middles = torch.linspace(0, n_frames * hop, n_frames, dtype=torch.float64)
    return _marked(begins, ends, which, n_sounds, middles)


@mark_frames.misconception
def repeated_sound_overwritten(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """A sound that is said twice is marked only where it is said last: the row is written as a
    whole, and the second time overwrites the first. Add to the row, or write the columns alone.
    """
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    frames = torch.zeros(n_sounds, n_frames)
    for begin, end, number in zip(begins, ends, which, strict=True):
        frames[number] = ((begin <= middles) & (middles < end)).float()
    frames[0] = 1 - frames.sum(0)
    return frames


@mark_frames.misconception
def first_sound_in_silence(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Where nothing is heard, the first of the sounds is marked: argmax of a column that holds no
    True is 0, and which[0] is a sound. Silence is number 0 itself.
    """
    frames = _right(begins, ends, which, n_sounds, n_frames, hop)
    frames[which[0]] += frames[0]
    frames[0] = 0
    return frames


@mark_frames.misconception
def ends_ignored(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """The ends have no part in it: each sound lasts until the next begins, and the last for ever.
    There are pauses, and silence after all.
    """
    until = torch.cat([begins[1:], ends.new_tensor([math.inf])])
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    return _marked(begins, until, which, n_sounds, middles)


@mark_frames.misconception
def ends_of_the_next(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Each sound lasts until the next begins. There are pauses: it ends where it ends."""
    until = torch.cat([begins[1:], ends[-1:]])
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    return _marked(begins, until, which, n_sounds, middles)


@mark_frames.misconception
def for_ever(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """After its end the last sound is heard until the last frame. There is silence."""
    late = ends.clone()
    late[-1] = math.inf
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    return _marked(begins, late, which, n_sounds, middles)


@mark_frames.misconception
def frame_of_the_begin(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Each sound is marked in the one frame in which it begins. It lasts until it ends."""
    number = torch.zeros(n_frames, dtype=torch.int64)
    number[(begins / hop).ceil().long()] = which
    return torch.nn.functional.one_hot(number, n_sounds).T.float()


@mark_frames.misconception
def numbers_not_marks(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """This holds the sound's number for each frame. Wanted is a row for each sound, with a 1 in the
    columns in which it is heard.
    """
    frames = _right(begins, ends, which, n_sounds, n_frames, hop)
    return frames.argmax(0).float()


@mark_frames.misconception
def turned(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Rows and columns are exchanged: a row for each sound, a column for each frame."""
    return _right(begins, ends, which, n_sounds, n_frames, hop).T


@mark_frames.misconception
def everything_that_was_said(
    begins: Tensor, ends: Tensor, which: Tensor, n_sounds: int, n_frames: int, hop: float
) -> Tensor:
    """Each sound is marked from its begin on, and none ever ends: columns hold several ones."""
    middles = torch.arange(n_frames, dtype=torch.float64) * hop
    frames = torch.zeros(n_sounds, n_frames)
    for begin, number in zip(begins, which, strict=True):
        frames[number, begin <= middles] = 1
    return frames


# --- 6: does the chord change? -------------------------------------------------------------------


def _chords(draw: Draw) -> Inputs:
    """Four voices in which on some beats only octaves, doublings or the order of voices change."""
    root = draw.integer(0, 12)
    classes = [(root + step) % 12 for step in (0, 7, 4, 0)]  # soprano first; the root doubled
    octaves = [6, 5, 4, 3]
    events = [*"aabbccdeffghhii"]
    for i in range(len(events) - 1, 0, -1):
        j = draw.integer(0, i + 1)
        events[i], events[j] = events[j], events[i]
    beat = draw.choice((2, 4))
    columns: list[list[int]] = []
    for event in ["start", "d", "a", "passing", *events]:
        passing = event == "passing" or (event == "b" and draw.integer(0, 2) == 1)
        if passing and columns:  # the tenor moves just before this beat
            columns[-1] = [p + (voice == 2) for voice, p in enumerate(columns[-1])]
        classes, octaves = _next(event, classes, octaves, draw)
        columns += [[c + 12 * o for c, o in zip(classes, octaves, strict=True)]] * beat
    return {"pitches": torch.tensor(columns).T.contiguous(), "beat": beat}


def _next(
    event: str, classes: list[int], octaves: list[int], draw: Draw
) -> tuple[list[int], list[int]]:
    classes, octaves = list(classes), list(octaves)
    others = [c for c in range(12) if c not in classes]
    if event == "b":  # an inner voice leaps by an octave
        octaves[1] = 9 - octaves[1]
    elif event == "c":  # alto and tenor exchange their notes, or soprano and bass
        for i, j in ((1, 2), (0, 3)):
            classes[i], classes[j] = classes[j], classes[i]
    elif event == "d":  # another note of the chord is doubled
        twice = [v for v in range(4) if classes.count(classes[v]) > 1]
        if twice:
            classes[twice[-1]] = next(c for c in classes if c != classes[twice[-1]])
    elif event in "efgi":  # one voice alone moves to a note that is new
        classes["efgi".index(event)] = draw.choice(others)
    elif event == "h":  # all move
        shift = draw.integer(1, 3)
        classes = [(c + shift) % 12 for c in classes]
    return classes, octaves


def _sounding(pitches: Tensor) -> Tensor:
    return F.one_hot(pitches % 12, 12).amax(0)  # (4, T) -> (T, 12)


def _differ(chords: Tensor) -> Tensor:
    return (chords[1:] != chords[:-1]).any(-1)


@task(points=2, inputs=_chords, package=[music.chord_changes])
def chord_changes(pitches: Tensor, beat: int) -> Tensor:
    """For four voices (4, L) of MIDI numbers, `beat` steps a beat, whether at each beat but the
    first other pitch classes sound than one beat before, (L / beat - 1,) bool.
    """
    sounding = F.one_hot(pitches[:, ::beat] % 12, 12).amax(0)  # (L / beat, 12)
    return (sounding[1:] != sounding[:-1]).any(-1)


@chord_changes.misconception
def pitches_compared(pitches: Tensor, beat: int) -> Tensor:
    """Pitches are compared, so a voice that leaps by an octave makes another chord. Octaves do not
    count: 12 semitones up is the same pitch class.
    """
    return _differ(pitches[:, ::beat].T)


@chord_changes.misconception
def voice_by_voice(pitches: Tensor, beat: int) -> Tensor:
    """Pitch classes are compared voice by voice, so two voices that exchange their notes make
    another chord. Who sings what does not count.
    """
    return _differ(pitches[:, ::beat].T % 12)


@chord_changes.misconception
def doublings_counted(pitches: Tensor, beat: int) -> Tensor:
    """How often a pitch class is sung counts here, so another doubling makes another chord. What
    sounds is a set.
    """
    return _differ((pitches[:, ::beat].T % 12).sort(-1).values)


@chord_changes.misconception
def bass_alone(pitches: Tensor, beat: int) -> Tensor:
    """Only the bass is looked at. Under a bass that stays the chord may change."""
    return _differ(pitches[3:, ::beat].T % 12)


@chord_changes.misconception
def melody_alone(pitches: Tensor, beat: int) -> Tensor:
    """Only the soprano is looked at. Bach often puts a new chord under a note that is held."""
    return _differ(pitches[:1, ::beat].T % 12)


@chord_changes.misconception
def all_must_move(pitches: Tensor, beat: int) -> Tensor:
    """True only where every voice changes its pitch class. One new pitch class makes another
    chord.
    """
    classes = pitches[:, ::beat] % 12
    return (classes[:, 1:] != classes[:, :-1]).all(0)


@chord_changes.misconception
def same_instead(pitches: Tensor, beat: int) -> Tensor:
    """This is where the chord stays: the opposite."""
    return ~_differ(_sounding(pitches[:, ::beat]))


@chord_changes.misconception
def every_step(pitches: Tensor, beat: int) -> Tensor:
    """Every step of the grid is compared with the one before. Look at the beats alone, every
    `beat`-th step.
    """
    return _differ(_sounding(pitches))


@chord_changes.misconception
def first_beat_too(pitches: Tensor, beat: int) -> Tensor:
    """One too many: the first beat is counted as a change. It has no beat before it."""
    return torch.cat([torch.tensor([True]), _differ(_sounding(pitches[:, ::beat]))])


@chord_changes.misconception
def end_of_the_beat(pitches: Tensor, beat: int) -> Tensor:
    """The last step of each beat is looked at, where passing notes stand. A beat is where it
    begins, at steps 0, beat, 2 beat, ...
    """
    return _differ(_sounding(pitches[:, beat - 1 :: beat]))


@chord_changes.misconception
def anything_since(pitches: Tensor, beat: int) -> Tensor:
    """True wherever anything has moved since the last beat, passing notes too. Only what sounds on
    the two beats is compared.
    """
    moved = _differ(_sounding(pitches))  # (L - 1,)
    return torch.cat([moved, moved[-1:]])[: len(moved) // beat * beat].view(-1, beat).any(-1)


@chord_changes.misconception
def against_the_first_chord(pitches: Tensor, beat: int) -> Tensor:
    """Every chord is compared with the first one. Compare it with the one a beat before."""
    chords = _sounding(pitches[:, ::beat])
    return (chords[1:] != chords[:1]).any(-1)


@chord_changes.misconception
def already_the_share(pitches: Tensor, beat: int) -> Tensor:
    """That is the share of beats at which the chord changes, a single number. What is asked for is
    which ones.
    """
    return _differ(_sounding(pitches[:, ::beat])).double().mean()

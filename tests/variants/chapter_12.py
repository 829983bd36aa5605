"""Right answers to the tasks of chapter 12 in other styles than the reference's."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch

# --- to_mel --------------------------------------------------------------------------------------


def with_natural_logarithm(hz):
    return 2595 / math.log(10) * torch.log1p(hz / 700)


def with_division_inside(hz):
    return 2595 * ((700 + hz) / 700).log10()


def mel_through_numpy(hz):
    return 2595 * np.log10(1 + hz.numpy() / 700)


def one_by_one(hz):
    mels = [2595 * math.log10(1 + f / 700) for f in hz.flatten().tolist()]
    return torch.tensor(mels, dtype=hz.dtype).view(hz.shape)


# --- triangles -----------------------------------------------------------------------------------


def band_by_band(hz, corners):
    rows = []
    for i in range(len(corners) - 2):
        left, top, right = corners[i : i + 3]
        rising = (left < hz) & (hz <= top)
        falling = (top < hz) & (hz < right)
        rows.append(rising * (hz - left) / (top - left) + falling * (right - hz) / (right - top))
    return torch.stack(rows)


def with_unfold(hz, corners):
    left, top, right = corners.unfold(0, 3, 1).T[:, :, None]
    return torch.minimum((hz - left) / (top - left), (right - hz) / (right - top)).relu()


def with_where(hz, corners):
    left, top, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    side = torch.where(hz <= top, (hz - left) / (top - left), (right - hz) / (right - top))
    return torch.where((hz > left) & (hz < right), side, 0.0)


def with_interpolation(hz, corners):
    rows = [
        np.interp(hz.numpy(), corners[i : i + 3].numpy(), [0.0, 1.0, 0.0])
        for i in range(len(corners) - 2)
    ]
    return torch.from_numpy(np.stack(rows)).to(hz.dtype)


# --- put_back ------------------------------------------------------------------------------------


def with_complex_numbers(magnitude, now, before, momentum):
    now, before = torch.view_as_complex(now), torch.view_as_complex(before)
    ahead = now + momentum * (now - before)
    return torch.view_as_real(magnitude * ahead / ahead.abs())


def with_angles(magnitude, now, before, momentum):
    ahead = (1 + momentum) * now - momentum * before
    angle = torch.atan2(ahead[..., 1], ahead[..., 0])
    return torch.stack([magnitude * angle.cos(), magnitude * angle.sin()], dim=-1)


def with_normalize(magnitude, now, before, momentum):
    ahead = torch.lerp(before, now, 1 + momentum)
    return torch.nn.functional.normalize(ahead, dim=-1) * magnitude.unsqueeze(-1)


def with_hypot(magnitude, now, before, momentum):
    real, imaginary = (now + momentum * (now - before)).unbind(-1)
    scale = magnitude / torch.hypot(real, imaginary)
    return torch.stack([scale * real, scale * imaginary], -1)


# --- count_errors --------------------------------------------------------------------------------


def with_a_table(asked, heard):
    counts = []
    for a, h in zip(asked, heard, strict=True):
        a, h = a.split(), h.split()
        table = np.zeros((len(a) + 1, len(h) + 1), int)
        table[:, 0], table[0] = range(len(a) + 1), range(len(h) + 1)
        for i in range(1, len(a) + 1):
            for j in range(1, len(h) + 1):
                other = table[i - 1, j - 1] + (a[i - 1] != h[j - 1])
                table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, other)
        counts.append(int(table[-1, -1]))
    return torch.tensor(counts)


def by_recursion(asked, heard):
    @functools.cache
    def errors(a, h):
        if not a or not h:
            return len(a) + len(h)
        if a[0] == h[0]:
            return errors(a[1:], h[1:])
        return 1 + min(errors(a[1:], h), errors(a, h[1:]), errors(a[1:], h[1:]))

    return [errors(tuple(a.split()), tuple(h.split())) for a, h in zip(asked, heard, strict=True)]


def with_two_rows(asked, heard):
    def errors(a, h):
        last = list(range(len(h) + 1))
        for i, x in enumerate(a):
            row = [i + 1]
            for j, y in enumerate(h):
                row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (x != y)))
            last = row
        return last[-1]

    rows = [errors(a.split(), h.split()) for a, h in zip(asked, heard, strict=True)]
    return np.array(rows)


def from_behind(asked, heard):
    def errors(a, h):
        if not (a and h):
            return len(a or h)
        same = errors(a[:-1], h[:-1]) + (a[-1] != h[-1])
        return min(same, errors(a[:-1], h) + 1, errors(a, h[:-1]) + 1)

    return torch.as_tensor(
        [errors(a.split(), h.split()) for a, h in zip(asked, heard, strict=True)]
    )


# --- mark_frames ---------------------------------------------------------------------------------


def frame_by_frame(begins, ends, which, n_sounds, n_frames, hop):
    frames = torch.zeros(n_sounds, n_frames)
    for i in range(n_frames):
        number = 0
        for begin, end, sound in zip(begins, ends, which, strict=True):
            if begin <= i * hop < end:
                number = int(sound)
        frames[number, i] = 1.0
    return frames


def sound_by_sound(begins, ends, which, n_sounds, n_frames, hop):
    seconds, frames = hop * torch.arange(n_frames), torch.zeros(n_sounds, n_frames)
    for begin, end, sound in zip(begins, ends, which, strict=True):
        frames[sound] += (begin <= seconds) & (seconds < end)
    frames[0] = 1 - frames[1:].sum(0)
    return frames


def with_eye(begins, ends, which, n_sounds, n_frames, hop):
    seconds = torch.arange(n_frames) * hop
    heard = (seconds[:, None] >= begins) & (seconds[:, None] < ends)
    number = torch.where(heard.any(1), which[heard.float().argmax(1)], 0)
    return torch.eye(n_sounds)[:, number]


def frames_through_numpy(begins, ends, which, n_sounds, n_frames, hop):
    frames = np.zeros((n_sounds, n_frames))
    frames[0] = 1
    for begin, end, sound in zip(begins.numpy(), ends.numpy(), which.numpy(), strict=True):
        columns = slice(math.ceil(begin / hop), math.ceil(end / hop))
        frames[:, columns] = 0
        frames[sound, columns] = 1
    return frames


# --- chord_changes -------------------------------------------------------------------------------


def with_sets(pitches, beat):
    chords = [{p % 12 for p in column} for column in pitches.T[::beat].tolist()]
    return torch.tensor([a != b for a, b in itertools.pairwise(chords)])


def with_bits(pitches, beat):
    bits = 2 ** (pitches[:, ::beat] % 12)
    chords = bits[0] | bits[1] | bits[2] | bits[3]
    return chords[1:] != chords[:-1]


def beat_by_beat(pitches, beat):
    changes = []
    for time in range(beat, pitches.shape[1], beat):
        before, now = pitches[:, time - beat] % 12, pitches[:, time] % 12
        changes.append(not torch.equal(before.unique(), now.unique()))
    return torch.tensor(changes)


def by_membership(pitches, beat):
    beats = pitches[:, ::beat] % 12
    here = (beats[:, :, None] == torch.arange(12)).any(0)
    return (here[1:] ^ here[:-1]).any(1)


VARIANTS = {
    "to_mel": [
        with_natural_logarithm, with_division_inside, mel_through_numpy, one_by_one,
    ],
    "triangles": [band_by_band, with_unfold, with_where, with_interpolation],
    "put_back": [with_complex_numbers, with_angles, with_normalize, with_hypot],
    "count_errors": [with_a_table, by_recursion, with_two_rows, from_behind],
    "mark_frames": [frame_by_frame, sound_by_sound, with_eye, frames_through_numpy],
    "chord_changes": [with_sets, with_bits, beat_by_beat, by_membership],
}  # fmt: skip

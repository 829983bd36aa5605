"""Judges of music: what tells a chorale from notes in any order, in numbers.

Each compares passages, Scores of (N, 4, L), with real ones; none was part of a training. What was
copied is silenced first (`silence_copies`), so that it scores what silence does.

A figure by itself says little. What is reported is the share of a gap that is closed: 0 for real
notes in shuffled order, 1 for real passages of chorales that were held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.data.chorales import (
    BAR,
    BEAT,
    SILENT,
    Score,
    excerpts,
)

MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones above the tonic
CHORDS = {
    "major": (0, 4, 7),
    "minor": (0, 3, 7),
    "diminished": (0, 3, 6),
    "augmented": (0, 4, 8),
    "dominant seventh": (0, 4, 7, 10),
    "major seventh": (0, 4, 7, 11),
    "minor seventh": (0, 3, 7, 10),
    "half-diminished seventh": (0, 3, 6, 10),
    "diminished seventh": (0, 3, 6, 9),
}
MAX_STEP = 13  # semitones: larger melodic intervals count as this


class Key(NamedTuple):
    """A key: its tonic, a pitch class 0..11 (C is 0), and whether it is major."""

    tonic: int
    is_major: bool

    @property
    def scale(self) -> list[int]:
        """Its seven pitch classes; those of natural minor where it is minor."""
        home = self.tonic if self.is_major else self.tonic + 3  # the major key of the same scale
        return [(home + step) % 12 for step in MAJOR_SCALE]


# --- one passage at a time: pitch classes, keys, chords -----------------------------------------


def pitch_class_times(pitches: Tensor) -> Tensor:
    """How long each pitch class sounds, in sixteenth notes, all voices together.

    Args:
        pitches: (..., 4, L) int64.

    Returns:
        (..., 12) int64; rests do not count.

    >>> pitch_class_times(torch.tensor([[60, 62], [60, 60], [48, 48], [0, 0]]))
    tensor([5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    """
    classes = torch.where(pitches == SILENT, 12, pitches % 12)
    return F.one_hot(classes, 13).sum((-3, -2))[..., :12]


def find_key(pitches: Tensor) -> Key | None:
    """Find the key of a passage as music21 does, by Krumhansl's and Schmuckler's method.

    It compares how long each pitch class sounds with the profile of each of the 24 keys.

    Args:
        pitches: (4, L) int64.

    Returns:
        The key, or None for silence.
    """
    from music21 import note, stream  # slow to import

    times = pitch_class_times(pitches).tolist()
    if not any(times):
        return None
    line: Any = stream.Stream()
    for pitch_class, time in enumerate(times):
        if time:
            line.append(note.Note(60 + pitch_class, quarterLength=time / BEAT))
    found = line.analyze("key")
    return Key(found.tonic.pitchClass, found.mode == "major")


def share_in_key(score: Score, keys: Iterable[Key | None]) -> Tensor:
    """What share of the notes lies in the key?

    Args:
        score: Score of (N, 4, L).
        keys: The key of each passage.

    Returns:
        (N,) float64 in [0, 1]; 0 for silence.
    """
    shares = []
    for pitches, onsets, key in zip(*score, keys, strict=True):
        sung = pitches[onsets & (pitches != SILENT)] % 12
        inside = torch.isin(sung, torch.tensor(key.scale if key else [-1], device=sung.device))
        shares.append(inside.double().mean() if len(sung) else torch.tensor(0.0).double())
    return torch.stack(shares)


def share_of_scale(score: Score, keys: Iterable[Key | None]) -> Tensor:
    """What share of the seven notes of the key is heard at all?

    Args and Returns: As `share_in_key`.
    """
    heard = pitch_class_times(score.pitches) > 0  # (N, 12)
    shares = [
        row[key.scale].double().mean() if key else torch.tensor(0.0).double()
        for row, key in zip(heard, keys, strict=True)
    ]
    return torch.stack(shares)


def forms_chord(pitches: Tensor) -> Tensor:
    """Whether the voices form a triad or a seventh chord, in whatever position.

    A seventh chord may lack its fifth, as Bach's often do; nothing else may be missing or added.

    Args:
        pitches: (..., 4, T) int64, a chord each.

    Returns:
        (..., T) bool; False where a voice rests.

    >>> g7, cluster = torch.tensor([[65], [59], [50], [43]]), torch.tensor([[62], [61], [60], [48]])
    >>> forms_chord(g7).item(), forms_chord(cluster).item()
    (True, False)
    """
    classes = (1 << (pitches % 12)).movedim(-2, 0)  # 4 x (..., T), one bit each
    both = classes[0] | classes[1] | classes[2] | classes[3]
    chords = torch.tensor(sorted(_CHORD_BITS), device=pitches.device)
    return torch.isin(both, chords) & (pitches != SILENT).all(-2)


def chord_changes(pitches: Tensor) -> Tensor:
    """Whether at each beat but the first other pitch classes sound than one beat before.

    Args:
        pitches: (..., 4, L) int64, beginning on a beat.

    Returns:
        (..., L / 4 - 1) bool.

    >>> held = torch.tensor([72, 64, 55, 48])[:, None].expand(4, 12).clone()
    >>> held[3, 8:] = 45  # A in the bass makes A minor seventh of C major
    >>> chord_changes(held)
    tensor([False,  True])
    """
    beats = pitches[..., ::BEAT]  # (..., 4, L / 4)
    present = F.one_hot(torch.where(beats == SILENT, 12, beats % 12), 13)[..., :12]
    chords = present.amax(-3)  # (..., L / 4, 12): which pitch classes sound
    return (chords[..., 1:, :] != chords[..., :-1, :]).any(-1)


def parallels(pitches: Tensor) -> Tensor:
    """Whether two voices move in parallel fifths or octaves from one beat to the next.

    Both move, the same way, and the interval is a fifth or an octave before and after: the first
    thing that a teacher of counterpoint forbids.

    Args:
        pitches: (..., 4, L) int64, beginning on a beat.

    Returns:
        (..., L / 4 - 1) bool.

    >>> up = torch.tensor([[67, 69], [64, 60], [55, 57], [48, 50]]).repeat_interleave(4, dim=1)
    >>> parallels(up)  # soprano and tenor in octaves, tenor and bass in fifths
    tensor([True])
    """
    beats = pitches[..., ::BEAT]
    moves = beats.diff(dim=-1)  # (..., 4, L / 4 - 1)
    found = torch.zeros_like(moves[..., 0, :], dtype=torch.bool)
    for upper in range(4):
        for lower in range(upper + 1, 4):
            apart = (beats[..., upper, :] - beats[..., lower, :]) % 12
            same = (apart[..., 1:] == apart[..., :-1]) & ((apart[..., 1:] % 7) == 0)
            step = moves[..., upper, :]
            found |= same & (step != 0) & (step.sign() == moves[..., lower, :].sign())
    return found & (beats != SILENT).all(-2)[..., 1:] & (beats != SILENT).all(-2)[..., :-1]


# --- many passages: distributions, and how far they are from real ones --------------------------


def pitch_class_histogram(score: Score, keys: Iterable[Key | None]) -> Tensor:
    """How the time is divided among the twelve pitch classes, counted from each passage's key.

    Counted from the tonic of the major key with the same notes, so that all keys can be added.

    Args:
        score: Score of (N, 4, L).
        keys: The key of each passage.

    Returns:
        (13,) float64 that sums to 1; the last is the share of rests.
    """
    total = torch.zeros(13, dtype=torch.float64)
    total[12] = (score.pitches == SILENT).sum()
    for times, key in zip(pitch_class_times(score.pitches), keys, strict=True):
        if key:
            total[:12] += times.roll(-key.scale[0])
    return total / total.sum()


def range_histograms(score: Score) -> Tensor:
    """How the time of each voice is divided among the pitches.

    Returns:
        (4, 128) float64, each row summing to 1; MIDI number 0 stands for rests.
    """
    one_hot = F.one_hot(score.pitches.movedim(1, 0).flatten(1), 128)  # (4, N L, 128)
    return one_hot.sum(1).double() / one_hot.shape[1]


def interval_histograms(score: Score) -> Tensor:
    """Which intervals there are from note to note in each voice, and between voices on beats.

    Returns:
        (10, 28) float64, each row summing to 1. Four rows of melodic intervals, -13..13 semitones
        with all larger ones at the ends; six of harmonic ones, a row for each pair of voices, in
        0..11 beyond octaves. The last column is the share of passages (or beats) without any.
    """
    rows = []
    for voice in range(4):
        row = torch.zeros(28, dtype=torch.float64)
        for pitches, onsets in zip(score.pitches[:, voice], score.onsets[:, voice], strict=True):
            sung = pitches[onsets & (pitches != SILENT)]
            steps = sung.diff().clamp(-MAX_STEP, MAX_STEP) + MAX_STEP
            row += torch.bincount(steps, minlength=28) if len(steps) else F.one_hot(_LAST, 28)
        rows.append(row)
    beats = score.pitches[..., ::BEAT]  # (N, 4, L / 4)
    for upper in range(4):
        for lower in range(upper + 1, 4):
            apart = (beats[:, upper] - beats[:, lower]) % 12
            silent = (beats[:, upper] == SILENT) | (beats[:, lower] == SILENT)
            rows.append(torch.bincount(torch.where(silent, 27, apart).flatten(), minlength=28))
    table = torch.stack([row.double() for row in rows])
    return table / table.sum(1, keepdim=True)


def total_variation(p: Tensor, q: Tensor) -> float:
    """How far two distributions are apart, 0..1: half the sum of |p - q|, mean over rows.

    >>> total_variation(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]]))
    0.5
    """
    return float((p - q).abs().sum(-1).mean() / 2)


def gap_closed(value: float, shuffled: float, real: float) -> float:
    """What share of the way from shuffled notes to real passages lies behind a figure?

    >>> gap_closed(0.875, shuffled=0.5, real=1.0)
    0.75
    """
    return (value - shuffled) / (real - shuffled)


@dataclass(frozen=True)
class Portrait:
    """What the judges see in many passages.

    Args:
        pitch_classes: See `pitch_class_histogram`.
        ranges: See `range_histograms`.
        intervals: See `interval_histograms`.
        key: Mean of share_in_key times share_of_scale: notes of the key, and all of them.
        in_key: Mean of share_in_key alone.
        chord_change: Share of beats at which the chord changes.
        chords: Share of beats on which the voices form a triad or a seventh chord.
        parallels: Share of beats reached in parallel fifths or octaves.
    """

    pitch_classes: Tensor
    ranges: Tensor
    intervals: Tensor
    key: float
    in_key: float
    chord_change: float
    chords: float
    parallels: float


def portray(score: Score) -> Portrait:
    """Let all judges look at passages, Score of (N, 4, L)."""
    keys = [find_key(pitches) for pitches in score.pitches]
    in_key = share_in_key(score, keys)
    return Portrait(
        pitch_class_histogram(score, keys),
        range_histograms(score),
        interval_histograms(score),
        float((in_key * share_of_scale(score, keys)).mean()),
        float(in_key.mean()),
        float(chord_changes(score.pitches).double().mean()),
        float(forms_chord(score.pitches[..., ::BEAT]).double().mean()),
        float(parallels(score.pitches).double().mean()),
    )


def compare(
    drawn: Portrait, real: Portrait, shuffled: Portrait, reference: Portrait
) -> dict[str, float]:
    """Say how much of the gap between shuffled notes and real passages is closed.

    Args:
        drawn: What is judged.
        real: Passages of held-out chorales.
        shuffled: Their notes in shuffled order.
        reference: Passages of the training chorales, to which distances are measured: the three
            above are measured alike.

    Returns:
        "pitch_classes", "ranges", "key" and "intervals", gaps closed; "chord_change", how far that
        rate is from the real one, relative to it.
    """

    def closed(look: Callable[[Portrait], Tensor]) -> float:
        distances = [total_variation(look(p), look(reference)) for p in (drawn, shuffled, real)]
        return gap_closed(*distances)

    return {
        "pitch_classes": closed(lambda portrait: portrait.pitch_classes),
        "ranges": closed(lambda portrait: portrait.ranges),
        "key": gap_closed(drawn.key, shuffled.key, real.key),
        "intervals": closed(lambda portrait: portrait.intervals),
        "chord_change": abs(drawn.chord_change / real.chord_change - 1),
    }


# --- controls: shuffled notes, random voices, copies --------------------------------------------


def shuffle_notes(
    score: Score, generator: torch.Generator, voices: Iterable[int] = range(4), within: bool = False
) -> Score:
    """Exchange the notes of all passages for one another; each keeps its place and its length.

    Args:
        score: Score of (N, 4, L) without rests.
        generator: CPU generator that decides.
        voices: Whose notes are exchanged; other voices stay as they are.
        within: Whether each voice keeps its own notes; otherwise a bass may get a soprano's.

    Returns:
        Score with the same onsets.
    """
    chosen = list(voices)
    pitches, onsets = score.pitches.clone(), score.onsets
    groups = [[voice] for voice in chosen] if within else [chosen]
    for group in groups:
        part, begins = pitches[:, group], onsets[:, group].clone()  # (N, V, L)
        begins |= part != F.pad(part, (1, 0), value=SILENT)[..., :-1]
        begins[..., 0] = True
        sung = part[begins]
        order = torch.randperm(len(sung), generator=generator)
        note = (begins.flatten().cumsum(0) - 1).view(begins.shape)  # which note sounds where
        pitches[:, group] = sung[order][note]
    return Score(pitches, onsets)


def copied(score: Score, known: set[bytes], length: int = 2 * BAR) -> Tensor:
    """What share of the excerpts of each passage is known, in whatever key?

    Args:
        score: Score of (N, 4, L).
        known: Excerpts of the same length, see `excerpts`.
        length: In sixteenth notes; two bars by default.

    Returns:
        (N,) float64.
    """
    shares = []
    for pitches in score.pitches:
        ours = excerpts(pitches, length)
        shares.append(len(ours & known) / max(len(ours), 1))
    return torch.tensor(shares, dtype=torch.float64)


def silence_copies(score: Score, known: set[bytes], length: int = 2 * BAR) -> Score:
    """Put rests in place of each passage that is copied, so that it scores what silence does.

    Copied is what shares half of its excerpts with known music, or with a passage before it.

    Args and Returns: Scores as in `copied`.
    """
    pitches, onsets = score.pitches.clone(), score.onsets.clone()
    heard: set[bytes] = set()
    for i, passage in enumerate(score.pitches):
        ours = excerpts(passage, length)
        if len(ours & (known | heard)) >= len(ours) / 2:
            pitches[i], onsets[i] = SILENT, False
        heard |= ours
    return Score(pitches, onsets)


def _chord_bits() -> set[int]:
    bits = set()
    for intervals in CHORDS.values():
        for root in range(12):
            bits.add(sum(1 << (root + step) % 12 for step in intervals))
            if len(intervals) == 4:  # without its fifth
                bits.add(sum(1 << (root + intervals[i]) % 12 for i in (0, 1, 3)))
    return bits


_CHORD_BITS = _chord_bits()
_LAST = torch.tensor(27, device="cpu")

"""Some 360 chorales by Bach in four voices, as music21 ships them, and how they become numbers.

A score is two tensors on a grid of sixteenth notes: the pitch that each voice sings and where its
notes begin. A roll is the same for a diffusion model: floats in [-1, 1], one channel for each pitch
that a voice may sing and one for where its notes begin.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.data.fashion import DataNotFound, _root

SINGERS = ("soprano", "alto", "tenor", "bass")
LOWEST, HIGHEST = (57, 53, 48, 36), (81, 74, 69, 64)  # MIDI numbers of what Bach's voices sing
BEAT = 4  # grid steps: sixteenth notes in a quarter
BAR = 16  # four quarters
LENGTH = 128  # of the passages that the course learns from: eight bars
SILENT = 0  # stands for a rest where otherwise a MIDI number stands

_WIDTHS = tuple(high - low + 1 for low, high in zip(LOWEST, HIGHEST, strict=True))
_STARTS = tuple(sum(_WIDTHS[:i]) + i for i in range(4))  # of each voice's channels
N_CHANNELS = sum(_WIDTHS) + 4

_REST = -0.9  # a voice rests where none of its channels is above
_NAMES = ("name", "hymn", "length", "pitches", "onsets")
_SAME_HYMN = 0.25  # share of the shorter melody's excerpts that stands in the other one
_TEST_EVERY = 6  # hymns


class Score(NamedTuple):
    """Music on a grid of sixteenth notes.

    Args:
        pitches: MIDI numbers, (..., 4, L) int64, soprano first; SILENT for a rest.
        onsets: True where a note begins, (..., 4, L) bool; elsewhere the one before it is held.
    """

    pitches: Tensor
    onsets: Tensor


class Chorale(NamedTuple):
    """One of Bach's chorales.

    Args:
        name: Its number in the catalogue of Bach's works, "bwv253" for instance.
        hymn: Chorales on the same melody have the same number.
        score: The whole of it, (4, L).
    """

    name: str
    hymn: int
    score: Score


def load_chorales(
    split: Literal["train", "test", "all"] = "all", root: Path | None = None
) -> list[Chorale]:
    """Load Bach's chorales, from music21 where they are not in the cache (half a minute).

    Every sixth hymn belongs to the test split with all that Bach made of it, so no melody of the
    test split is ever heard in training, in whatever key.

    Args:
        split: "train", "test" or "all".
        root: Folder of the cache; by default the environment variable MINIDIFF_CACHE, else the
            user's cache folder.

    Returns:
        The chorales, in the order of their names.

    Raises:
        ValueError: If split is none of the three.
        DataNotFound: If music21 is not installed or the cache cannot be written.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f'split must be "train", "test" or "all", got {split!r}')
    chorales = _read_cache(fetch_chorales(root))
    in_test = _TEST_EVERY - 1
    return [
        chorale
        for chorale in chorales
        if split == "all" or (chorale.hymn % _TEST_EVERY == in_test) == (split == "test")
    ]


def find_chorales(root: Path | None = None) -> Path | None:
    """Look for the chorales in the cache; a warning says if the file is damaged.

    Args:
        root: As in `load_chorales`.

    Returns:
        The file, or None.
    """
    path = _root(root) / "chorales.npz"
    if not path.is_file():
        return None
    try:
        _read_cache(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        warnings.warn(f"{path} is damaged ({error}) and must be made again", stacklevel=2)
        return None
    return path


def fetch_chorales(root: Path | None = None) -> Path:
    """Return the file that holds the chorales; where it is missing, make it with music21.

    Args:
        root: As in `load_chorales`.

    Raises:
        DataNotFound: As `load_chorales` does.
    """
    if (found := find_chorales(root)) is not None:
        return found
    files = _files()
    print(f"Bach's chorales: reading {len(files)} scores of music21 ...", file=sys.stderr)
    scores = {path.stem: score for path in files if (score := read_score(path)) is not None}
    hymns = same_hymns([score.pitches[0] for score in scores.values()])
    arrays = {
        "name": np.array(list(scores)),
        "hymn": np.array(hymns, dtype=np.int16),
        "length": np.array([s.pitches.shape[-1] for s in scores.values()], dtype=np.int16),
        "pitches": torch.cat([s.pitches for s in scores.values()], 1).numpy().astype(np.uint8),
        "onsets": torch.cat([s.onsets for s in scores.values()], 1).numpy(),
    }
    path = _root(root) / "chorales.npz"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        Path(file.name).replace(path)  # atomic: the whole file or none
    except OSError as error:
        raise DataNotFound(
            f"the cache cannot be written ({error}): "
            "set MINIDIFF_CACHE to a folder that you may write to"
        ) from error
    return path


def read_score(path: Path) -> Score | None:
    """Read one score with music21, (4, L), unless it is none of the kind that is learned from.

    That is four voices, soprano, alto, tenor and bass, on the grid and within LOWEST and HIGHEST,
    of LENGTH at least. Tied notes are one. Rests, which are rare and between the lines of the
    hymn, are filled with the note before them.

    Args:
        path: A file that music21 understands.
    """
    from music21 import converter  # slow to import

    music: Any = converter.parse(path, forceSource=True, storePickle=False)
    parts = list(music.parts)
    if [str(part.partName).lower() for part in parts] != list(SINGERS):
        return None
    length = round(BEAT * float(max(part.highestTime for part in parts)))
    if length < LENGTH:
        return None
    pitches = torch.full((4, length), SILENT, dtype=torch.int64)
    onsets = torch.zeros(4, length, dtype=torch.bool)
    for voice, part in enumerate(parts):
        for begin, end, pitch, begins in _notes(part):
            if begin != int(begin) or end != int(end):
                return None
            pitches[voice, int(begin) : int(end)] = pitch
            onsets[voice, int(begin)] |= begins
    pitches = _without_rests(pitches)
    low, high = pitches.amin(1).tolist(), pitches.amax(1).tolist()
    if any(a < b for a, b in zip(low, LOWEST, strict=True)) or any(
        a > b for a, b in zip(high, HIGHEST, strict=True)
    ):
        return None
    return Score(pitches, onsets)


def same_hymns(melodies: Sequence[Tensor]) -> list[int]:
    """Number the hymns: melodies that share a quarter of their excerpts are one.

    An excerpt is eight beats in whatever key. Whatever shares enough with any member of a hymn
    belongs to it.

    Args:
        melodies: Pitches, (L,) int64 each.

    Returns:
        A number for each melody, from 0, in the order in which hymns appear.

    >>> tune = torch.tensor([60, 62, 64, 65, 67, 69, 71, 72, 71, 69]).repeat_interleave(4)
    >>> same_hymns([tune, tune.flip(0), tune + 5])
    [0, 1, 0]
    """
    sets = [excerpts(melody[None], 8 * BEAT) for melody in melodies]
    hymns: list[int] = []
    for i, ours in enumerate(sets):
        kin = {
            hymns[j]
            for j in range(i)
            if len(ours & sets[j]) >= _SAME_HYMN * max(min(len(ours), len(sets[j])), 1)
        }
        hymn = min(kin, default=i)
        hymns = [hymn if number in kin else number for number in hymns] + [hymn]
    order = {hymn: number for number, hymn in enumerate(dict.fromkeys(hymns))}
    return [order[hymn] for hymn in hymns]


def excerpts(pitches: Tensor, length: int = 2 * BAR) -> set[bytes]:
    """Collect all excerpts that begin on a beat, in whatever key.

    Args:
        pitches: (V, L) int64.
        length: Of an excerpt, in sixteenth notes.

    Returns:
        Each as bytes: its pitches relative to the first one of the upper voice.
    """
    parts = pitches.unfold(-1, length, BEAT) if pitches.shape[-1] >= length else pitches[:, :0]
    parts = parts.movedim(1, 0) if parts.ndim == 3 else parts  # (V, N, length) -> (N, V, length)
    return {(part - part[0, 0]).to(torch.int8).numpy().tobytes() for part in parts if part.numel()}


def passages(chorales: Sequence[Chorale], length: int = LENGTH, hop: int | None = None) -> Score:
    """Cut chorales into passages of one length, which begin on a beat.

    Args:
        chorales: Some chorales.
        length: Of a passage, in sixteenth notes.
        hop: From the beginning of one to that of the next; `length` by default, so that they do
            not overlap. What is left at the end of a chorale is not used.

    Returns:
        Score of (N, 4, length); each note that sounds at the beginning begins there.

    Raises:
        ValueError: If hop is no positive multiple of a beat, or no chorale is long enough.
    """
    hop = length if hop is None else hop
    if hop < BEAT or hop % BEAT:
        raise ValueError(f"hop must be a positive multiple of {BEAT}, got {hop}")
    kept = [c.score for c in chorales if c.score.pitches.shape[-1] >= length]
    if not kept:
        raise ValueError(f"chorales must hold one of at least {length} sixteenth notes, got none")
    pitches = torch.cat([s.pitches.unfold(1, length, hop).movedim(1, 0) for s in kept])
    onsets = torch.cat([s.onsets.unfold(1, length, hop).movedim(1, 0) for s in kept])
    onsets[..., 0] = True
    return Score(pitches.contiguous(), onsets)


def transpositions(pitches: Tensor) -> tuple[Tensor, Tensor]:
    """How far a passage may be moved down and up with no voice leaving its range.

    Args:
        pitches: (..., 4, L) int64, no rests.

    Returns:
        Semitones (...) down, at most 0, and (...) up, at least 0; never over half an octave.

    >>> low, high = transpositions(torch.tensor([[70], [60], [55], [50]]))
    >>> low.item(), high.item()
    (-6, 6)
    """
    low = torch.tensor(LOWEST, device=pitches.device) - pitches.amin(-1)  # (..., 4)
    high = torch.tensor(HIGHEST, device=pitches.device) - pitches.amax(-1)
    return low.amax(-1).clamp(-6, 0), high.amin(-1).clamp(0, 6)


def voice_channels(voice: int) -> slice:
    """Channels of a roll that belong to one voice: its pitches, then where its notes begin.

    Args:
        voice: Index into SINGERS.

    >>> [voice_channels(voice) for voice in (0, 3)]
    [slice(0, 26, None), slice(72, 102, None)]
    """
    return slice(_STARTS[voice], _STARTS[voice] + _WIDTHS[voice] + 1)


def to_roll(score: Score) -> Tensor:
    """Write a score as floats in [-1, 1].

    Each voice has a channel for each pitch of its range, 1 where it sings that pitch and -1
    elsewhere, and one more that is 1 where a note begins. In a rest all are -1.

    Args:
        score: Score of (N, 4, L).

    Returns:
        (N, 102, L) float32.

    Raises:
        ValueError: If a pitch lies outside its voice's range, or shapes or dtypes do not fit.
    """
    pitches, onsets = score
    if pitches.ndim != 3 or pitches.shape[1] != 4 or onsets.shape != pitches.shape:
        raise ValueError(
            "score must have pitches and onsets (N, 4, L), "
            f"got {tuple(pitches.shape)} and {tuple(onsets.shape)}"
        )
    if pitches.dtype != torch.int64 or onsets.dtype != torch.bool:
        raise ValueError(
            f"score must be int64 pitches and bool onsets, got {pitches.dtype}, {onsets.dtype}"
        )
    voices = []
    for voice, (low, width) in enumerate(zip(LOWEST, _WIDTHS, strict=True)):
        rests, index = pitches[:, voice] == SILENT, pitches[:, voice] - low  # (N, L) each
        if not (rests | ((index >= 0) & (index < width))).all():
            raise ValueError(
                f"pitches of the {SINGERS[voice]} must lie in {low}..{HIGHEST[voice]}, "
                f"got {int(pitches[:, voice].min())}..{int(pitches[:, voice].max())}"
            )
        index = torch.where(rests, width, index)
        on = F.one_hot(index, width + 1)[..., :width].movedim(-1, 1)  # (N, L) -> (N, width, L)
        voices.append(torch.cat([on, onsets[:, voice, None]], 1))
    return 2.0 * torch.cat(voices, 1) - 1


def from_roll(roll: Tensor) -> Score:
    """Read a score from any roll: what is drawn never is exactly -1 or 1.

    A voice sings the pitch whose channel is highest, the nearest one, unless all are at -1: that
    is a rest, which no chorale here has. A note begins where the voice's last channel is above 0,
    and wherever the pitch changes.

    Args:
        roll: (N, 102, L) floats.

    Returns:
        Score of (N, 4, L).

    Raises:
        ValueError: If the shape does not fit.

    >>> silence = from_roll(torch.full((1, N_CHANNELS, 8), -1.0))
    >>> silence.pitches.unique(), silence.onsets.any()
    (tensor([0]), tensor(False))
    """
    if roll.ndim != 3 or roll.shape[1] != N_CHANNELS:
        raise ValueError(f"roll must be (N, {N_CHANNELS}, L), got {tuple(roll.shape)}")
    pitches, onsets = [], []
    for voice, low in enumerate(LOWEST):
        channels = roll[:, voice_channels(voice)]  # (N, width + 1, L)
        highest, index = channels[:, :-1].max(1)  # (N, L) each
        pitches.append(torch.where(highest > _REST, index + low, SILENT))
        onsets.append(channels[:, -1] > 0)
    sung, begins = torch.stack(pitches, 1), torch.stack(onsets, 1)  # (N, 4, L) each
    changes = sung != F.pad(sung, (1, 0), value=SILENT)[..., :-1]
    return Score(sung, (begins | changes) & (sung != SILENT))


def synthesize(
    score: Score,
    beats_per_minute: float = 84.0,
    sample_rate: int = 16_000,
    voices: Sequence[int] = (0, 1, 2, 3),
) -> Tensor:
    """Play a score on a small organ: each note a sum of sines (additive synthesis).

    A note of frequency f has overtones 2f, 3f, ... that are the weaker the higher, a quick attack
    and a slow release. MIDI number 69 is the a' of 440 Hz, and an octave is 12 numbers.

    Args:
        score: Score of (4, L).
        beats_per_minute: Quarters a minute.
        sample_rate: Samples a second.
        voices: Which voices to hear.

    Returns:
        (samples,) float32 in [-1, 1].

    Raises:
        ValueError: If the score is no single one, or a rate is not positive.

    >>> tone = Score(torch.full((4, 4), 69), torch.eye(4, dtype=torch.bool)[:1].expand(4, 4))
    >>> synthesize(tone, beats_per_minute=60, sample_rate=8000).shape  # one second, and an echo
    torch.Size([10400])
    """
    if score.pitches.ndim != 2 or score.onsets.shape != score.pitches.shape:
        raise ValueError(f"score must be (4, L), got {tuple(score.pitches.shape)}")
    if beats_per_minute <= 0 or sample_rate <= 0:
        raise ValueError(
            f"rates must be positive, got {beats_per_minute} beats a minute, {sample_rate} Hz"
        )
    seconds = 60 / beats_per_minute / BEAT  # of a sixteenth
    release = 0.3
    n_samples = round((score.pitches.shape[-1] * seconds + release) * sample_rate)
    wave = torch.zeros(n_samples)
    for voice in voices:
        for begin, end, pitch in notes(score.pitches[voice], score.onsets[voice]):
            start = round(begin * seconds * sample_rate)
            held = (end - begin) * seconds
            time = torch.arange(round((held + release) * sample_rate)) / sample_rate
            envelope = (time / 0.02).clamp(max=1) * (-1.5 * time).exp().clamp(min=0.4)
            envelope *= ((held + release - time) / release).clamp(0, 1).square()
            frequency = 440 * 2 ** ((pitch - 69) / 12)
            tone = sum(
                (2 * torch.pi * k * frequency * time).sin() / k**1.5
                for k in range(1, 9)
                if k * frequency < sample_rate / 2
            )
            room = wave[start : start + len(time)]
            room += (envelope * tone)[: len(room)]
    return wave / wave.abs().max().clamp(min=1e-6) * 0.9


def notes(pitches: Tensor, onsets: Tensor) -> list[tuple[int, int, int]]:
    """List the notes of one voice: where each begins and ends, and its pitch.

    Args:
        pitches: (L,) int64; a rest is no note.
        onsets: (L,) bool; a note begins where its pitch changes, too.

    >>> notes(torch.tensor([60, 60, 60, 0, 62]), torch.tensor([1, 0, 1, 0, 1], dtype=torch.bool))
    [(0, 2, 60), (2, 3, 60), (4, 5, 62)]
    """
    starts = onsets | (pitches != F.pad(pitches, (1, 0), value=-1)[:-1])
    begin = starts.nonzero().flatten().tolist()
    return [
        (a, b, int(pitches[a]))
        for a, b in zip(begin, [*begin[1:], len(pitches)], strict=True)
        if pitches[a] != SILENT
    ]


# --- reading scores and the cache ---------------------------------------------------------------


def _files() -> list[Path]:
    """Return the scores of music21 that may be chorales."""
    try:
        from music21 import corpus
    except ImportError as error:
        raise DataNotFound(
            "Bach's chorales come with music21, which is not installed: "
            "run `pip install 'minidiff[audio]'`"
        ) from error
    paths = [Path(path) for path in corpus.getComposer("bach")]
    return sorted(path for path in paths if re.match(r"bwv\d+(\.|-|$)", path.stem))


def _notes(part: Any) -> Iterator[tuple[float, float, int, bool]]:
    """Yield begin, end (in sixteenths), pitch and whether it begins there, of each written note."""
    for measure in part.getElementsByClass("Measure"):
        for note in measure.recurse().notes:
            begin = float(measure.offset + note.getOffsetInHierarchy(measure))
            end = begin + float(note.quarterLength)
            begins = note.tie is None or note.tie.type == "start"
            if end > begin:  # no grace note
                yield BEAT * begin, BEAT * end, int(note.pitches[-1].midi), begins


def _without_rests(pitches: Tensor) -> Tensor:
    """Hold each note until the next, (4, L); what comes before the first one is the first one."""
    filled = pitches.clone()
    for row in filled:
        sung = (row != SILENT).nonzero().flatten()
        last = torch.searchsorted(sung, torch.arange(len(row)), right=True) - 1
        row.copy_(row[sung[last.clamp(min=0)]])
    return filled


def _read_cache(path: Path) -> list[Chorale]:
    with np.load(path, allow_pickle=False) as file:
        names, hymns, lengths, pitches, onsets = (file[name] for name in _NAMES)
    if pitches.shape != (4, lengths.sum()) or onsets.shape != pitches.shape:
        raise ValueError(f"it holds pitches of shape {pitches.shape}")
    cuts = [int(cut) for cut in lengths]
    all_pitches = torch.split(torch.from_numpy(pitches).long(), cuts, dim=1)
    all_onsets = torch.split(torch.from_numpy(onsets), cuts, dim=1)
    return [
        Chorale(str(name), int(hymn), Score(*score))
        for name, hymn, *score in zip(names, hymns, all_pitches, all_onsets, strict=True)
    ]

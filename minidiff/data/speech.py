"""Spoken digits: strings of one to four words, said by espeak-ng in several voices.

espeak-ng (GPL-3) comes as a program with the package `espeakng-loader` and is called through
ctypes; nothing of it is shipped here. It says to the millisecond when each sound begins.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minidiff.audio import (
    HOP,
    LOUDEST,
    N_FRAMES,
    N_MELS,
    QUIETEST,
    SAMPLE_RATE,
    frames_of,
    mel_spectrogram,
)
from minidiff.data.fashion import DataNotFound, _root

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = (
    "f2",
    "belinda",
    "Alex",
    "Denis",
    "Hugo",
    "klatt2",
)  # of the training, in the order of labels
# Heard by the judge alone.
OTHER_VOICES = (
    "f1",
    "f3",
    "linda",
    "m1",
    "m4",
    "benjamin",
    "Mike",
    "klatt",
)  # heard by the judge alone
PHONEMES = (  # as espeak-ng calls the sounds of the ten words; the first is silence
    "_", ";", "@", "E", "I", "T", "V", "aI", "eI", "f", "i:", "i@", "k", "n", "o@", "oU", "r",
    "s", "t", "u:", "v", "w", "z",
)  # fmt: skip
SPEEDS = (150, 200)  # words per minute, from, to
PITCHES = (35, 65)  # on espeak-ng's scale of 0..100
N_SECONDS = (N_FRAMES - 1) * HOP / SAMPLE_RATE  # 2.032
Split = Literal["train", "test", "listener", "listener-test"]
N_UTTERANCES: dict[Split, int] = {
    "train": 12_000,
    "test": 1_200,
    "listener": 6_000,
    "listener-test": 600,
}
_PART = 3_000  # utterances: the speaker's state drifts, so each part is a fresh process's
_LENGTHS = (0.1, 0.2, 0.3, 0.4)  # shares of strings of one to four words


class Spoken(NamedTuple):
    """What was said: sound (n,) float32 in [-1, 1], and (phoneme, begin, end) in seconds."""

    sound: Tensor
    timings: list[tuple[str, float, float]]


class Speech(NamedTuple):
    """A data set of speech.

    Mel spectrograms (N, 64, 128) uint8, phonemes of each frame (N, n_phonemes, 128) uint8, voices
    (N,) int64 and texts, N of them.
    """

    mels: Tensor
    frames: Tensor
    voices: Tensor
    texts: list[str]


def digit_strings(split: Literal["train", "test"]) -> list[str]:
    """Return all strings of one to four digits that belong to a split.

    One in ten of those with two words or more is for the test alone.

    Raises:
        ValueError: If there is no such split.

    >>> len(digit_strings("train")), len(digit_strings("test"))
    (10000, 1110)
    >>> digit_strings("train")[3]
    'three'
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    strings = [f"{number:0{n}d}" for n in (1, 2, 3, 4) for number in range(10**n)]
    generator = torch.Generator("cpu").manual_seed(0)
    held_out = torch.zeros(len(strings), dtype=torch.bool, device="cpu")
    first = 0
    for n in (1, 2, 3, 4):
        if n > 1:
            order = torch.randperm(10**n, generator=generator, device="cpu")
            held_out[first + order[: 10**n // 10]] = True
        first += 10**n
    wanted = held_out.tolist() if split == "test" else (~held_out).tolist()
    chosen = [string for string, want in zip(strings, wanted, strict=True) if want]
    return [" ".join(WORDS[int(digit)] for digit in string) for string in chosen]


def speak(text: str, voice: str = "m1", words_per_minute: int = 175, pitch: int = 50) -> Spoken:
    """Let espeak-ng say a text.

    Args:
        text: English words.
        voice: A variant of its American English, such as those of VOICES.
        words_per_minute: 80 to 450.
        pitch: 0 to 100.

    Returns:
        The sound at 16,000 samples a second, its loudest at 0.5, and when which phoneme is heard;
        stress marks are dropped and pauses are "_".

    Raises:
        DataNotFound: If espeak-ng is not installed.
        ValueError: If there is no such voice.

    >>> spoken = speak("two")
    >>> [phoneme for phoneme, begin, end in spoken.timings], len(spoken.sound) > 4000
    (['t', 'u:', '_'], True)
    """
    speaker = _speaker()
    sound, events = speaker.say(text, voice, words_per_minute, pitch)
    n = -(-len(sound) // 441) * 441  # a multiple, so that 22,050 to 16,000 is a whole ratio
    wave = torch.from_numpy(np.pad(sound, (0, n - len(sound)))).float()
    wave = _resample(wave, n * 320 // 441)
    wave = 0.5 * wave / wave.abs().max().clamp(min=1e-9)
    timings: list[tuple[str, float, float]] = []
    rate = float(speaker.rate)
    ends = [sample for _, sample in events[1:]] + [len(sound)]
    for (name, begin), end in zip(events, ends, strict=True):
        phoneme = "_" if name.startswith("_") else name.lstrip("',")
        if end <= begin:
            continue
        if timings and timings[-1][0] == "_" == phoneme:
            timings[-1] = ("_", timings[-1][1], end / rate)
        else:
            timings.append((phoneme, begin / rate, end / rate))
    return Spoken(wave, timings)


def load_speech(split: Split = "train", root: Path | None = None) -> Speech:
    """Load spoken digit strings; the first time they are spoken, which takes about a minute.

    Args:
        split: "train" (12,000), "test" (1,200 strings never in "train", same voices), "listener"
            and "listener-test" (6,000 and 600 of other voices, for the judge).
        root: Cache folder, as for `load_fashion`.

    Raises:
        DataNotFound: If they are not in the cache and espeak-ng is not installed.
        ValueError: If there is no such split.

    >>> speech = load_speech("listener-test")
    >>> speech.mels.shape, speech.frames.shape, speech.texts[0]
    (torch.Size([600, 64, 128]), torch.Size([600, 23, 128]), ...)
    """
    path = fetch_speech(split, root)
    try:
        arrays = _read(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        warnings.warn(f"{path} is damaged and is made again", stacklevel=2)
        path.unlink()
        arrays = _read(fetch_speech(split, root))
    lengths, columns, phonemes = arrays["lengths"], arrays["columns"], arrays["phonemes"]
    mels = np.zeros((len(lengths), N_MELS, N_FRAMES), np.uint8)
    which = np.zeros((len(lengths), N_FRAMES), np.int64)  # silence at the end
    ends = lengths.cumsum()
    for i, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        mels[i, :, :length] = columns[end - length : end].T
        which[i, :length] = phonemes[end - length : end]
    frames = np.zeros((len(lengths), len(PHONEMES), N_FRAMES), np.uint8)
    np.put_along_axis(frames, which[:, None], 1, axis=1)
    return Speech(
        torch.from_numpy(mels),
        torch.from_numpy(frames),
        torch.from_numpy(arrays["voices"]).long(),
        [str(text) for text in arrays["texts"]],
    )


def fetch_speech(split: Split = "train", root: Path | None = None) -> Path:
    """Return the cached file of a split; have it spoken if need be.

    Raises:
        DataNotFound, ValueError: As `load_speech` does.
    """
    path = speech_path(split, root)
    if path.is_file():
        if zipfile.is_zipfile(path):
            return path
        warnings.warn(f"{path} is damaged and is made again", stacklevel=2)
    _library()  # says what to install, before any work
    print(f"Speech ({split}): {N_UTTERANCES[split]} utterances are spoken ...", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="partial-") as work:
        parts = [Path(work) / f"{number}.npz" for number in range(-(-N_UTTERANCES[split] // _PART))]
        with ThreadPoolExecutor(_cores()) as pool:
            list(pool.map(_in_process, [split] * len(parts), range(len(parts)), parts))
        loaded = [dict(np.load(part)) for part in parts]
        joined = {key: np.concatenate([part[key] for part in loaded]) for key in loaded[0]}
        whole = Path(work) / "whole.npz"
        np.savez_compressed(whole, allow_pickle=False, **joined)
        os.replace(whole, path)
    return path


def speech_path(split: Split, root: Path | None = None) -> Path:
    """Return where a split is kept, whether it is there or not; another recipe, another name.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in N_UTTERANCES:
        raise ValueError(f"split must be one of {', '.join(N_UTTERANCES)}, got {split!r}")
    about = (
        N_UTTERANCES[split], VOICES, OTHER_VOICES, SPEEDS, PITCHES, _LENGTHS, _PART,
        QUIETEST, LOUDEST,
    )  # fmt: skip
    name = hashlib.sha256(repr(about).encode()).hexdigest()[:8]
    return _root(root) / "speech" / f"{split}-{name}.npz"


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file, whose checksums are verified by that."""
    with np.load(path) as file:
        return {name: file[name] for name in ("lengths", "columns", "phonemes", "voices", "texts")}


def draw_utterances(split: Split) -> Iterator[tuple[str, int, int, int]]:
    """Draw what is said in a split: text, voice (an index), words a minute and pitch."""
    held_out = split in ("test", "listener-test")
    strings = digit_strings("test" if held_out else "train")
    of_length = [[s for s in strings if s.count(" ") == n] for n in range(len(_LENGTHS))]
    generator = torch.Generator("cpu").manual_seed(list(N_UTTERANCES).index(split))
    voices = OTHER_VOICES if split.startswith("listener") else VOICES
    shares = torch.tensor([share * bool(of_length[n]) for n, share in enumerate(_LENGTHS)])

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator, device="cpu"))

    for _ in range(N_UTTERANCES[split]):
        n = int(torch.multinomial(shares, 1, generator=generator))
        text = of_length[n][draw(0, len(of_length[n]))]
        yield text, draw(0, len(voices)), draw(SPEEDS[0], SPEEDS[1] + 1), draw(*PITCHES)


def to_frames(timings: Sequence[tuple[str, float, float]]) -> Tensor:
    """Turn timings into the context (n_phonemes, 128) that the model sees, see `frames_of`."""
    return frames_of(timings, PHONEMES, N_FRAMES)


# --- the speaker --------------------------------------------------------------------------------


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_END, _PHONEME = 0, 7  # types of events
_SYNCHRONOUS, _PHONEME_EVENTS, _DO_NOT_EXIT = 2, 0x1, 0x8000
_RATE, _PITCH, _UTF_8 = 1, 3, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Speaker:
    """espeak-ng, which keeps one state for the whole process."""

    def __init__(self) -> None:
        path, data = _library()
        self.library = ctypes.CDLL(path)
        self.voices = Path(data) / "voices" / "!v"
        options = _PHONEME_EVENTS | _DO_NOT_EXIT
        self.rate: int = self.library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), options)
        if self.rate != 22_050:
            raise DataNotFound(f"espeak-ng must speak at 22050 samples a second, got {self.rate}")
        self.library.espeak_Synth.argtypes = (
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint,
            ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        )  # fmt: skip
        self.sounds: list[np.ndarray] = []
        self.events: list[tuple[str, int]] = []
        self.callback = _Callback(self._hear)  # kept, or it would be collected
        self.library.espeak_SetSynthCallback(self.callback)

    def _hear(self, samples, n_samples, events) -> int:  # type: ignore[no-untyped-def]
        if n_samples > 0:
            self.sounds.append(np.ctypeslib.as_array(samples, (n_samples,)) / np.float32(32_768))
        i = 0
        while events[i].type != _END:
            if events[i].type == _PHONEME:
                self.events.append((events[i].name.decode(), events[i].sample))
            i += 1
        return 0

    def say(
        self, text: str, voice: str, words_per_minute: int, pitch: int
    ) -> tuple[np.ndarray, list[tuple[str, int]]]:
        known = (self.voices / voice).is_file()  # espeak-ng takes another one where it is not
        if not known or self.library.espeak_SetVoiceByName(f"en-us+{voice}".encode()) != 0:
            raise ValueError(f"voice must be one of espeak-ng's variants, got {voice!r}")
        self.library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        self.sounds.clear()
        self.events.clear()
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF_8, None, None)
        return np.concatenate(self.sounds), list(self.events)


@cache
def _speaker() -> _Speaker:
    return _Speaker()


def _library() -> tuple[str, str]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise DataNotFound(
            "espeak-ng is not installed; run: pip install 'minidiff[audio]'"
        ) from error
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


def _resample(wave: Tensor, n: int) -> Tensor:
    """Bring a sound to n samples, fewer than it has, by leaving out what would be aliased."""
    resampled: Tensor = torch.fft.irfft(torch.fft.rfft(wave)[: n // 2 + 1], n) * (n / len(wave))
    return resampled


def _in_process(split: str, number: int, path: Path) -> None:
    command = f"from minidiff.data.speech import _speak_part; _speak_part({split!r}, {number}, "
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", f"{command}{str(path)!r})"], check=True, env=environment)


def _speak_part(split: Split, number: int, path: str) -> None:
    """Speak one part of a split and write it to a file."""
    torch.set_num_threads(1)
    voices = OTHER_VOICES if split.startswith("listener") else VOICES
    lengths, columns, phonemes, indices, texts = [], [], [], [], []
    utterances = list(draw_utterances(split))[number * _PART : (number + 1) * _PART]
    for text, voice, speed, pitch in utterances:
        sound, timings = speak(text, voices[voice], speed, pitch)
        mel = to_bytes(mel_spectrogram(sound, N_FRAMES))  # (64, 128)
        heard = (mel > 0).any(0).nonzero()
        lengths.append(int(heard.max()) + 1)
        columns.append(mel[:, : lengths[-1]].T.numpy())
        phonemes.append(to_frames(timings).argmax(0)[: lengths[-1]].to(torch.uint8).numpy())
        indices.append(voice)
        texts.append(text)
    np.savez(
        path,
        allow_pickle=False,
        lengths=np.array(lengths),
        columns=np.concatenate(columns),
        phonemes=np.concatenate(phonemes),
        voices=np.array(indices, np.uint8),
        texts=np.array(texts),
    )


def to_bytes(mel: Tensor) -> Tensor:
    """Map [-1, 1] to 0..255.

    >>> to_bytes(torch.tensor([-1.0, 1.0]))
    tensor([  0, 255], dtype=torch.uint8)
    """
    return mel.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1

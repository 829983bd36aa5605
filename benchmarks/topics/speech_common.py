"""What the topics on speech share: utterances, both judges, and the voice of an utterance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import mel_spectrogram, mel_to_sound, word_errors
from minidiff.data import VOICES, Speech, load_speech
from minidiff.data.captions import to_unit
from minidiff.zoo import Listener, listen, load, transcribe
from topics.common import share

N_UTTERANCES, N_GAPS, N_CURVE = 150, 60, 60  # a seed, each seed others
# The scale was chosen on utterances from number 900 on, which no seed and no curve sees.
N_CALLS, SCALE = 20, 1.0
SCALES = (1.0, 2.0, 3.0)
JUDGES = ("pocketsphinx", "listener")


def generator(seed: int) -> torch.Generator:
    """Make a generator that no training used."""
    return torch.Generator().manual_seed(2_000 + seed)


def take(speech: Speech, which: slice | list[int]) -> Speech:
    """Return some utterances."""
    texts = speech.texts[which] if isinstance(which, slice) else [speech.texts[i] for i in which]
    return Speech(speech.mels[which], speech.frames[which], speech.voices[which], texts)


def utterances(seed: int) -> Speech:
    """Return the test utterances of a seed; seed 3 is that of the curves."""
    first = seed * N_UTTERANCES
    return take(load_speech("test"), slice(first, first + (N_CURVE if seed == 3 else N_UTTERANCES)))


def word_accuracy(asked: list[str], heard: list[str]) -> dict[str, float]:
    """Return 1 - errors / words over all texts, with a standard error over texts."""
    errors = torch.tensor([word_errors(a, h) for a, h in zip(asked, heard, strict=True)]).double()
    words = torch.tensor([len(a.split()) for a in asked]).double()
    rate = (errors.sum() / words.sum()).item()
    spread = (errors - rate * words).std() * len(asked) ** 0.5 / words.sum()  # of a ratio
    return {"value": 1 - rate, "standard_error": spread.item(), "n": int(words.sum())}


def judge(mels: Tensor, texts: list[str], device: torch.device, seed: int) -> dict[str, Any]:
    """Let both judges hear mel spectrograms (N, 64, 128) made audible."""
    listener = load("listener", device).model
    assert isinstance(listener, Listener)
    sounds = mel_to_sound(mels, generator=torch.Generator().manual_seed(seed))
    return {
        "pocketsphinx": word_accuracy(texts, transcribe(sounds, seed)),
        "listener": word_accuracy(texts, listen(listener, mel_spectrogram(sounds))),
    }


def judged(
    mels: Tensor, part: Speech, centres: Tensor, device: torch.device, seed: int
) -> dict[str, Any]:
    """Both judges, and how often the voice is the one asked for."""
    nearest = torch.cdist(spectra(mels), centres).argmin(1)
    return {**judge(mels, part.texts, device, seed), "voice": share(nearest == part.voices)}


def spectra(mels: Tensor) -> Tensor:
    """Mean spectrum of each utterance over the frames in which something is heard, (N, 64)."""
    loud = (mels.mean(1, keepdim=True) > -0.7).float()  # (N, 1, 128)
    return (mels * loud).sum(2) / loud.sum(2).clamp(min=1)


def mean_spectra() -> Tensor:
    """Mean spectrum of each voice of the training, (6, 64)."""
    train = load_speech("train")
    every = spectra(to_unit(train.mels))
    return torch.stack([every[train.voices == voice].mean(0) for voice in range(len(VOICES))])


def with_relative(figures: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    """Add to each judge's accuracy what it is relative to the control's."""
    for who in JUDGES:
        figures[who]["relative"] = figures[who]["value"] / control[who]["value"]
    return figures


def cell(figure: dict[str, float]) -> str:
    """Write a figure with its standard error."""
    return f"{figure['value']:.3f} ± {figure['standard_error']:.3f}"


def relative(figure: dict[str, float]) -> str:
    """Write a figure and what it is relative to the control's."""
    return f"{figure['value']:.3f}, {figure['relative']:.3f}"

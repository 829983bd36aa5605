"""Spoken digits: what is said, what is held out, and what the two judges refuse."""

import zipfile

import numpy as np
import pytest
import torch
from torch import Tensor

from minidiff import mel_spectrogram, mel_to_sound, word_errors
from minidiff.audio import N_FRAMES, N_MELS, SAMPLE_RATE
from minidiff.data import (
    OTHER_VOICES,
    PHONEMES,
    VOICES,
    WORDS,
    DataNotFound,
    Speech,
    digit_strings,
    fetch_speech,
    load_speech,
    speak,
    to_frames,
)
from minidiff.data import speech as module
from minidiff.data.captions import to_unit
from minidiff.data.speech import N_UTTERANCES, draw_utterances, speech_path, to_bytes
from minidiff.zoo import (
    BOUNDS,
    RECIPES,
    Listener,
    judges,
    listen,
    load,
    sample,
    sample_speech,
    transcribe,
)
from minidiff.zoo.judges import listener_loss

N = 12  # utterances that pocketsphinx hears; 0.1 seconds each


@pytest.fixture(scope="module")
def test() -> Speech:
    return load_speech("test")


@pytest.fixture(scope="module")
def recorded(test: Speech) -> Tensor:
    return to_unit(test.mels[:N])


def accuracy(asked: list[str], heard: list[str]) -> float:
    errors = sum(word_errors(a, h) for a, h in zip(asked, heard, strict=True))
    return 1 - errors / sum(len(a.split()) for a in asked)


# --- what is said ---


def test_strings_are_split_once_for_all():
    train, held_out = digit_strings("train"), digit_strings("test")
    assert len(train) == 10_000
    assert len(held_out) == 1_110
    assert set(train).isdisjoint(held_out)
    assert len(set(train) | set(held_out)) == 10 + 100 + 1000 + 10_000
    assert all(1 <= len(text.split()) <= 4 and set(text.split()) <= set(WORDS) for text in train)
    assert set(WORDS) <= set(train)  # each word alone
    with pytest.raises(ValueError, match='split must be "train" or "test"'):
        digit_strings("listener")


def test_splits_share_neither_strings_nor_voices():
    said = {split: list(draw_utterances(split)) for split in N_UTTERANCES}
    texts = {split: {text for text, *_ in rows} for split, rows in said.items()}
    for held_out in ("test", "listener-test"):
        for seen in ("train", "listener"):
            assert texts[held_out].isdisjoint(texts[seen])
    assert set(VOICES).isdisjoint(OTHER_VOICES)
    assert len(VOICES) >= 6
    for split, rows in said.items():
        assert len(rows) == N_UTTERANCES[split]
        n_voices = len(OTHER_VOICES if split.startswith("listener") else VOICES)
        assert {voice for _, voice, _, _ in rows} == set(range(n_voices))


def test_the_data_are_as_described(test):
    assert test.mels.shape == (1200, N_MELS, N_FRAMES)
    assert test.mels.dtype == test.frames.dtype == torch.uint8
    assert torch.equal(test.frames.sum(1), torch.ones(1200, N_FRAMES, dtype=torch.uint8))
    assert [text for text, *_ in draw_utterances("test")] == test.texts
    assert test.voices.tolist() == [voice for _, voice, _, _ in draw_utterances("test")]
    silent = test.frames[:, 0, -5:].bool().all(1)
    assert silent.double().mean() > 0.95  # what is short ends with silence
    assert (test.mels[silent][:, :, -1] == 0).double().mean() > 0.99


def test_speech_tells_when_each_sound_is_heard():
    spoken = speak("six", "m1", 150)
    phonemes = [name for name, _, _ in spoken.timings if name != "_"]
    assert phonemes == ["s", "I", "k", "s"]
    assert all(begin < end for _, begin, end in spoken.timings)
    begins = [begin for _, begin, _ in spoken.timings]
    assert begins == sorted(begins)
    length = len(spoken.sound) / SAMPLE_RATE
    assert spoken.timings[-1][2] == pytest.approx(length, abs=0.03)
    assert spoken.sound.abs().max() == pytest.approx(0.5)
    mel, frames = mel_spectrogram(spoken.sound, N_FRAMES), to_frames(spoken.timings)
    hiss, vowel = (frames[PHONEMES.index(name)] == 1 for name in ("s", "I"))
    assert mel[55:, hiss].mean() > mel[55:, vowel].mean()  # an s is brighter on top
    assert mel[:10, hiss].mean() < mel[:10, vowel].mean()


def test_faster_is_shorter_and_another_voice_sounds_otherwise():
    slow, fast = (speak("seven", "m1", words) for words in (120, 240))
    assert len(fast.sound) < 0.7 * len(slow.sound)
    one, other = (mel_spectrogram(speak("seven", v).sound, N_FRAMES) for v in ("m1", "f2"))
    assert (one - other).abs().mean() > 0.05
    with pytest.raises(ValueError, match="voice must be one of espeak-ng's variants, got 'nobody'"):
        speak("seven", "nobody")


def test_bytes_are_within_half_a_step():
    x = torch.linspace(-1, 1, 1001)
    assert (to_unit(to_bytes(x)) - x).abs().max() <= 0.5 / 127.5 + 1e-6


# --- the cache ---


@pytest.fixture
def few(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "N_UTTERANCES", {**N_UTTERANCES, "test": 3})
    monkeypatch.setattr(module, "_in_process", lambda *a: module._speak_part(a[0], a[1], str(a[2])))
    return tmp_path


def test_speech_is_spoken_once(few, monkeypatch):
    first = load_speech("test", few)
    assert len(first.texts) == len(first.mels) == len(first.frames) == len(first.voices) == 3
    assert [path.name for path in (few / "speech").iterdir()] == [speech_path("test", few).name]
    monkeypatch.setattr(module, "_speak_part", lambda *a: pytest.fail("spoken again"))
    again = load_speech("test", few)
    assert torch.equal(first.mels, again.mels)
    assert torch.equal(first.frames, again.frames)


def test_a_damaged_cache_is_made_again(few):
    first = load_speech("test", few)
    path = speech_path("test", few)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        again = load_speech("test", few)
    assert again.texts == first.texts
    data[data.index(b"columns") + 120] ^= 0xFF  # one byte within the compressed spectrograms
    path.write_bytes(bytes(data))
    with pytest.raises((zipfile.BadZipFile, ValueError, Exception)), np.load(path) as file:
        file["columns"]
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        assert load_speech("test", few).texts == first.texts


def test_without_the_extra_one_sentence_says_what_to_install(few, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DataNotFound, match=r"espeak-ng is not installed; run: pip install"):
        fetch_speech("test", few)
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    judges._sphinx.cache_clear()
    with pytest.raises(DataNotFound, match=r"pocketsphinx is not installed; run: pip install"):
        transcribe(torch.zeros(1, 1000))


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be one of train, test, listener"):
        load_speech("validation")


# --- the judges ---


def test_the_listener_reads_places_in_order():
    class Told(Listener):
        def forward(self, mels):
            rows = torch.zeros(1, 8, 11)
            for place, number in enumerate((0, 3, 3, 0, 3, 8, 8, 0)):
                rows[0, place, number] = 1
            return rows

    assert listen(Told(16).eval(), torch.zeros(1, 64, 32)) == ["two two seven"]


def test_the_listener_learns_without_timings():
    torch.manual_seed(0)
    model, generator = Listener(16), torch.Generator().manual_seed(0)
    mels, texts = torch.rand(4, 64, 128) * 2 - 1, ["one", "two nine", "six", "zero zero"]
    kept = mels.clone()
    loss = listener_loss(model, mels, texts, generator)
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(mels, kept)  # augmented copies, not the data
    assert model.head.weight.grad.abs().max() > 0


@pytest.mark.slow
def test_both_judges_hear_recordings_and_refuse_everything_else(test, recorded):
    """An empty, a constant and a copied output fail; so do the right words in another order."""
    texts, listener = test.texts[:N], load("listener").model

    def heard(mels: Tensor) -> dict[str, float]:
        sounds = mel_to_sound(mels, generator=torch.Generator().manual_seed(0))
        return {
            "pocketsphinx": accuracy(texts, transcribe(sounds)),
            "listener": accuracy(texts, listen(listener, mel_spectrogram(sounds))),
        }

    control = heard(recorded)
    for who, value in control.items():
        assert value > 0.6, who  # of few utterances; `make measure` hears 200
    fakes = {
        "empty": torch.full_like(recorded, -1.0),
        "constant": torch.zeros_like(recorded),
        "copied": recorded[:1].expand_as(recorded),
        "exchanged": recorded.roll(1, dims=0),
        "backwards": recorded.flip(2),
    }
    for name, mels in fakes.items():  # the right accuracy is far above: 0.8 of the control's
        for who, value in heard(mels).items():
            assert value < BOUNDS["speech_attention_words"] * control[who], (name, who)


def test_pocketsphinx_hears_the_same_each_time(recorded):
    sounds = mel_to_sound(recorded[:2], generator=torch.Generator().manual_seed(0))
    assert transcribe(sounds) == transcribe(sounds)


# --- the models ---


@pytest.mark.parametrize("name", ["speech", "speech-attention"])
def test_speech_is_drawn_by_the_sampler_of_chapter_07(name, test):
    pretrained = load(name)
    context = {"labels": test.voices[:3]}
    if name == "speech":
        context["frames"] = test.frames[:3]
    else:
        context |= pretrained.recipe.tokenizer()(test.texts[:3])
    x_T = torch.randn(3, *pretrained.shape, generator=torch.Generator().manual_seed(0))
    mels = sample_speech(pretrained, context, n_steps=3, x_T=x_T, batch_size=2)
    assert mels.shape == (3, N_MELS, N_FRAMES)
    assert mels.abs().max() <= 1
    again = sample_speech(pretrained, context, n_steps=3, x_T=x_T)
    assert (mels - again).abs().max() < 0.02  # whatever the batch
    with pytest.raises(ValueError, match="speaks; there is sample_speech for that"):
        sample(pretrained, torch.tensor([0]))
    with pytest.raises(ValueError, match="does not speak"):
        sample_speech(load("fashion"), {"labels": torch.tensor([0])})


def test_the_models_are_small():
    for name in ("speech", "speech-attention", "listener"):
        n = sum(p.numel() for p in RECIPES[name].model().parameters())
        assert n < {"listener": 0.2e6}.get(name, 1.2e6)

"""Text to speech: do two judges hear the digits that were asked for, strings never spoken before?

The control is the speaker's own recordings, made audible from the same mel bands by the same
Griffin-Lim. Silence, one constant and copied recordings stand beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import autocast, inpaint, mel_spectrogram, mel_to_sound, word_errors
from minidiff.data import load_speech
from minidiff.data.captions import to_unit
from minidiff.data.speech import VOICES, Speech
from minidiff.zoo import (
    BOUNDS,
    WEIGHTS,
    Listener,
    listen,
    load,
    note_quality,
    recipe_hash,
    sample_speech,
    transcribe,
)
from topics.common import SEEDS, Bounded, share, table

N_UTTERANCES, N_GAPS, N_CURVE = 200, 100, 100  # a seed, each seed others
N_CALLS, SCALE = 20, 2.0
SCALES = (1.0, 1.5, 2.0, 3.0)
GAP_STEPS, GAP_RESAMPLE = 20, 2
MODELS = ("speech", "speech-attention")
JUDGES = ("pocketsphinx", "listener")


def measure(device: torch.device) -> dict[str, Any]:
    """Three seeds for both models and a gap; rivals without a model; a curve over guidance."""
    listener = load("listener", device).model
    assert isinstance(listener, Listener)
    models = {name: load(name, device) for name in MODELS}
    test, train = load_speech("test"), load_speech("train")
    centres = mean_spectra(to_unit(train.mels), train.voices)

    def spoken(name: str, part: Speech, seed: int, scale: float = SCALE) -> Tensor:
        context = {"labels": part.voices}
        if name == "speech":
            context["frames"] = part.frames
        else:
            context |= models[name].recipe.tokenizer()(part.texts)  # type: ignore[union-attr]
        return sample_speech(models[name], context, N_CALLS, scale, generator=generator(seed))

    def judged(mels: Tensor, part: Speech, seed: int) -> dict[str, Any]:
        accuracies = judge(mels, part.texts, listener, seed)
        nearest = torch.cdist(spectra(mels), centres).argmin(1)
        return {**accuracies, "voice": share(nearest == part.voices)}

    runs = []
    for seed in SEEDS:
        part = take(test, slice(seed * N_UTTERANCES, (seed + 1) * N_UTTERANCES))
        run: dict[str, Any] = {"seed": seed, "control": judged(to_unit(part.mels), part, seed)}
        for name in MODELS:
            run[name] = judged(spoken(name, part, seed), part, seed)
            for who in JUDGES:
                run[name][who]["relative"] = run[name][who]["value"] / run["control"][who]["value"]
        part = take(part, [i for i, text in enumerate(part.texts) if text.count(" ") >= 2][:N_GAPS])
        run["gap"] = gap(part, models["speech"], listener, seed, device)
        print(run, flush=True)
        runs.append(run)

    part = take(test, slice(0, N_UTTERANCES))
    rivals = {
        name: judged(mels, part, 0)
        for name, mels in {
            "silence": torch.full((len(part.texts), 64, 128), -1.0),
            "one constant": torch.zeros(len(part.texts), 64, 128),
            "one recording": to_unit(train.mels[:1]).expand(len(part.texts), -1, -1),
            "nearest text": to_unit(train.mels[nearest_texts(part.texts, train.texts)]),
        }.items()
    }
    print(rivals, flush=True)
    part = take(test, slice(3 * N_UTTERANCES, 3 * N_UTTERANCES + N_CURVE))
    curve = []
    for scale in SCALES:
        point: dict[str, Any] = {"guidance_scale": scale}
        for name in MODELS:
            point[name] = judged(spoken(name, part, 3, scale), part, 3)
        print(point, flush=True)
        curve.append(point)

    for name in MODELS:
        quality = {
            f"{who}_relative": min(run[name][who]["relative"] for run in runs) for who in JUDGES
        }
        note_quality(WEIGHTS / f"{name}.safetensors", quality)
    heard = [run["control"]["listener"]["value"] for run in runs]
    note_quality(WEIGHTS / "listener.safetensors", {"word_accuracy": min(heard)})
    return {
        "recipe_hash": recipe_hash(models["speech"].recipe),
        "recipe_hash_attention": recipe_hash(models["speech-attention"].recipe),
        "recipe_hash_listener": recipe_hash(load("listener").recipe),
        "n": N_UTTERANCES,
        "n_gaps": N_GAPS,
        "n_calls": N_CALLS,
        "sampler": "dpm_solver",
        "guidance_scale": SCALE,
        "gap_steps": GAP_STEPS,
        "gap_resample": GAP_RESAMPLE,
        "runs": runs,
        "rivals": rivals,
        "curve": curve,
    }


def generator(seed: int) -> torch.Generator:
    """Make a generator that no training used."""
    return torch.Generator().manual_seed(2_000 + seed)


def take(speech: Speech, which: slice | list[int]) -> Speech:
    """Return some utterances."""
    texts = speech.texts[which] if isinstance(which, slice) else [speech.texts[i] for i in which]
    return Speech(speech.mels[which], speech.frames[which], speech.voices[which], texts)


def word_accuracy(asked: list[str], heard: list[str]) -> dict[str, float]:
    """Return 1 - errors / words over all texts, with a standard error over texts."""
    errors = torch.tensor([word_errors(a, h) for a, h in zip(asked, heard, strict=True)]).double()
    words = torch.tensor([len(a.split()) for a in asked]).double()
    rate = (errors.sum() / words.sum()).item()
    spread = (errors - rate * words).std() * len(asked) ** 0.5 / words.sum()  # of a ratio
    return {"value": 1 - rate, "standard_error": spread.item(), "n": int(words.sum())}


def judge(mels: Tensor, texts: list[str], listener: Listener, seed: int) -> dict[str, Any]:
    """Let both judges hear mel spectrograms (N, 64, 128) made audible."""
    sounds = mel_to_sound(mels, generator=torch.Generator().manual_seed(seed))
    again = mel_spectrogram(sounds)
    return {
        "pocketsphinx": word_accuracy(texts, transcribe(sounds, seed)),
        "listener": word_accuracy(texts, listen(listener, again)),
    }


def gap(
    part: Speech, speech: Any, listener: Listener, seed: int, device: torch.device
) -> dict[str, Any]:
    """Cut out the second word of each recording and fill it in."""
    mels, mask = to_unit(part.mels), second_word(part)
    strong = {"labels": part.voices.to(device), "frames": part.frames.to(device)}
    denoise = speech.denoiser(strong)
    with autocast(device):
        filled = inpaint(
            denoise, mels.to(device), ~mask.to(device), GAP_STEPS, GAP_RESAMPLE, generator(seed)
        ).cpu()
    assert torch.equal(filled[~mask.expand_as(filled)], mels[~mask.expand_as(mels)])
    ways = {"recordings": mels, "silent gap": mels.masked_fill(mask, -1.0), "filled": filled}
    result: dict[str, Any] = {
        way: judge(mels, part.texts, listener, seed) for way, mels in ways.items()
    }
    for who in JUDGES:
        result[f"gain_{who}"] = result["filled"][who]["value"] - result["silent gap"][who]["value"]
    return result


def second_word(part: Speech) -> Tensor:
    """Mark the middle of each recording, from one third of the heard frames to two thirds."""
    n_heard = (part.frames[:, 0] == 0).float().cumsum(1)  # (N, 128)
    share_done = n_heard / n_heard[:, -1:]
    return ((share_done > 1 / 3) & (share_done <= 2 / 3))[:, None]  # (N, 1, 128)


def spectra(mels: Tensor) -> Tensor:
    """Mean spectrum of each utterance over the frames in which something is heard, (N, 64)."""
    loud = (mels.mean(1, keepdim=True) > -0.7).float()  # (N, 1, 128)
    return (mels * loud).sum(2) / loud.sum(2).clamp(min=1)


def mean_spectra(mels: Tensor, voices: Tensor) -> Tensor:
    """Mean spectrum of each voice, (6, 64)."""
    every = spectra(mels)
    return torch.stack([every[voices == voice].mean(0) for voice in range(len(VOICES))])


def nearest_texts(texts: list[str], others: list[str]) -> list[int]:
    """For each text the index of another that is nearest in words."""
    known = {other: i for i, other in enumerate(others)}
    return [min(known.items(), key=lambda item: word_errors(text, item[0]))[1] for text in texts]


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    rows = []
    for run in result["runs"]:
        for who in JUDGES:
            name = f"seed {run['seed']}, {who}"
            rows += [
                Bounded("speech_control", run["control"][who]["value"], ">=", name),
                Bounded("speech_words", run["speech"][who]["relative"], ">=", name),
                Bounded(
                    "speech_attention_words", run["speech-attention"][who]["relative"], ">=", name
                ),
            ]
        gain = run["gap"]["gain_pocketsphinx"]
        rows.append(Bounded("speech_gap_gain", gain, ">=", f"seed {run['seed']}"))
    return rows


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""

    def cell(figure: dict[str, float]) -> str:
        return f"{figure['value']:.3f} ± {figure['standard_error']:.3f}"

    def relative(figure: dict[str, float]) -> str:
        return f"{figure['value']:.3f}, {figure['relative']:.3f}"

    head = ("", *(f"seed {run['seed']}" for run in result["runs"]), "bound")
    rows = []
    for who in JUDGES:
        own = [cell(run["control"][who]) for run in result["runs"]]
        rows.append((f"recordings, {who}", *own, f"at least {BOUNDS['speech_control']}"))
        for name, key in zip(MODELS, ("speech_words", "speech_attention_words"), strict=True):
            cells = [relative(run[name][who]) for run in result["runs"]]
            label = f"`{name}`, {who}: accuracy, relative to recordings"
            rows.append((label, *cells, f"relative at least {BOUNDS[key]}"))
    for name in ("control", *MODELS):
        label = "recordings" if name == "control" else f"`{name}`"
        cells = [cell(run[name]["voice"]) for run in result["runs"]]
        rows.append((f"{label}, nearest voice is the one asked for", *cells, ""))
    for way in ("recordings", "silent gap", "filled"):
        cells = [cell(run["gap"][way]["pocketsphinx"]) for run in result["runs"]]
        rows.append((f"a third cut out: {way}, pocketsphinx", *cells, ""))
    cells = [f"{run['gap']['gain_pocketsphinx']:.3f}" for run in result["runs"]]
    rows.append(("filled above silent", *cells, f"at least {BOUNDS['speech_gap_gain']}"))
    rivals = [
        (name, *(cell(figures[who]) for who in (*JUDGES, "voice")))
        for name, figures in result["rivals"].items()
    ]
    curve = [
        (f"{p['guidance_scale']:g}", *(cell(p[name][who]) for name in MODELS for who in JUDGES))
        for p in result["curve"]
    ]
    return (
        f"## speech\n\nWord accuracy on digit strings never spoken in training, {result['n']} a "
        f"seed; {result['n_calls']} calls of DPM-Solver++\nat scale "
        f"{result['guidance_scale']:g}, then Griffin-Lim:\n\n{table(head, rows)}\n\n"
        "What is reached without a model, where `nearest text` is a training recording of the "
        f"most similar string:\n\n{table(('', *JUDGES, 'voice'), rivals)}\n\n"
        "By guidance scale (other strings):\n\n"
        f"{table(('scale', *(f'`{n}`, {w}' for n in MODELS for w in JUDGES)), curve)}\n"
    )

"""Text to speech: do two judges hear the digits that were asked for, strings never spoken before?

The control is the speaker's own recordings, made audible from the same mel bands by the same
Griffin-Lim. Silence, one constant and copied recordings stand beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import autocast, inpaint, word_errors
from minidiff.data import Speech, load_speech
from minidiff.data.captions import to_unit
from minidiff.zoo import (
    BOUNDS,
    WEIGHTS,
    Pretrained,
    load,
    note_quality,
    recipe_hash,
    sample_speech,
)
from topics.common import SEEDS, Bounded, table
from topics.speech_common import (
    JUDGES,
    N_CALLS,
    N_CURVE,
    N_GAPS,
    N_UTTERANCES,
    SCALE,
    SCALES,
    cell,
    generator,
    judge,
    judged,
    mean_spectra,
    relative,
    take,
    utterances,
    with_relative,
)

GAP_STEPS, GAP_RESAMPLE = 20, 2


def measure(device: torch.device) -> dict[str, Any]:
    """Three seeds of strings and gaps; rivals without a model; a curve over guidance."""
    speech, centres = load("speech", device), mean_spectra()

    def spoken(part: Speech, seed: int, scale: float = SCALE) -> Tensor:
        context = {"labels": part.voices, "frames": part.frames}
        return sample_speech(speech, context, N_CALLS, scale, generator=generator(seed))

    runs = []
    for seed in SEEDS:
        part = utterances(seed)
        control = judged(to_unit(part.mels), part, centres, device, seed)
        figures = judged(spoken(part, seed), part, centres, device, seed)
        run: dict[str, Any] = {"seed": seed, "control": control}
        run["speech"] = with_relative(figures, control)
        long = [i for i, text in enumerate(part.texts) if text.count(" ") >= 2][:N_GAPS]
        run["gap"] = gap(take(part, long), speech, seed, device)
        print(run, flush=True)
        runs.append(run)

    train, part = load_speech("train"), take(utterances(0), slice(0, N_CURVE))
    fakes = {
        "silence": torch.full((N_CURVE, 64, 128), -1.0),
        "one constant": torch.zeros(N_CURVE, 64, 128),
        "one recording": to_unit(train.mels[:1]).expand(N_CURVE, -1, -1),
        "nearest text": to_unit(train.mels[nearest_texts(part.texts, train.texts)]),
    }
    rivals = {name: judged(mels, part, centres, device, 0) for name, mels in fakes.items()}
    print(rivals, flush=True)
    part, curve = utterances(3), []
    for scale in SCALES:
        figures = judged(spoken(part, 3, scale), part, centres, device, 3)
        curve.append({"guidance_scale": scale, **figures})
        print(curve[-1], flush=True)
    worst = {
        f"{who}_relative": min(run["speech"][who]["relative"] for run in runs) for who in JUDGES
    }
    note_quality(WEIGHTS / "speech.safetensors", worst)
    return {
        "recipe_hash": recipe_hash(speech.recipe),
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


def gap(part: Speech, speech: Pretrained, seed: int, device: torch.device) -> dict[str, Any]:
    """Cut out the middle third of each recording and fill it in."""
    mels, mask = to_unit(part.mels), middle_third(part)
    context = {"labels": part.voices.to(device), "frames": part.frames.to(device)}
    with autocast(device):
        filled = inpaint(
            speech.denoiser(context),
            mels.to(device),
            ~mask.to(device),
            GAP_STEPS,
            GAP_RESAMPLE,
            generator(seed),
        ).cpu()
    assert torch.equal(filled.masked_fill(mask, 0), mels.masked_fill(mask, 0))
    ways = {"recordings": mels, "silent gap": mels.masked_fill(mask, -1.0), "filled": filled}
    result: dict[str, Any] = {
        way: judge(mels, part.texts, device, seed) for way, mels in ways.items()
    }
    for who in JUDGES:
        result[f"gain_{who}"] = result["filled"][who]["value"] - result["silent gap"][who]["value"]
    return result


def middle_third(part: Speech) -> Tensor:
    """Mark each recording from one third of the heard frames to two thirds, (N, 1, 128) bool."""
    n_heard = (part.frames[:, 0] == 0).float().cumsum(1)  # (N, 128)
    share_done = n_heard / n_heard[:, -1:]
    return ((share_done > 1 / 3) & (share_done <= 2 / 3))[:, None]


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
            ]
        gain = run["gap"]["gain_pocketsphinx"]
        rows.append(Bounded("speech_gap_gain", gain, ">=", f"seed {run['seed']}"))
    return rows


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    head = ("", *(f"seed {run['seed']}" for run in result["runs"]), "bound")
    rows = []
    for who in JUDGES:
        own = [cell(run["control"][who]) for run in result["runs"]]
        rows.append((f"recordings, {who}", *own, f"at least {BOUNDS['speech_control']}"))
        cells = [relative(run["speech"][who]) for run in result["runs"]]
        least = f"relative at least {BOUNDS['speech_words']}"
        rows.append((f"`speech`, {who}: accuracy, relative to recordings", *cells, least))
    for name, label in (("control", "recordings"), ("speech", "`speech`")):
        cells = [cell(run[name]["voice"]) for run in result["runs"]]
        rows.append((f"{label}: nearest voice is the one asked for", *cells, ""))
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
        (f"{p['guidance_scale']:g}", *(cell(p[who]) for who in JUDGES)) for p in result["curve"]
    ]
    return (
        f"## speech\n\nWord accuracy on digit strings never spoken in training, {result['n']} a "
        f"seed; {result['n_calls']} steps of DPM-Solver++\nat scale "
        f"{result['guidance_scale']:g}, then Griffin-Lim:\n\n{table(head, rows)}\n\n"
        "What is reached without a model, where `nearest text` is a training recording of the "
        f"most similar string:\n\n{table(('', *JUDGES, 'voice'), rivals)}\n\n"
        f"By guidance scale (other strings):\n\n{table(('scale', *JUDGES), curve)}\n"
    )

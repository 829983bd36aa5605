"""Text to speech from words alone: do two judges hear the digits that were asked for?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff.data import Speech
from minidiff.zoo import (
    BOUNDS,
    WEIGHTS,
    SpeechRecipe,
    load,
    note_quality,
    recipe_hash,
    sample_speech,
)
from topics.common import SEEDS, Bounded, stored, table
from topics.speech_common import (
    JUDGES,
    N_CALLS,
    N_UTTERANCES,
    SCALE,
    SCALES,
    cell,
    generator,
    judged,
    mean_spectra,
    relative,
    utterances,
    with_relative,
)


def measure(device: torch.device) -> dict[str, Any]:
    """Three seeds, relative to the recordings of the topic `speech`, and a curve over guidance."""
    reader, centres = load("speech-attention", device), mean_spectra()
    recipe = reader.recipe
    assert isinstance(recipe, SpeechRecipe)
    tokenizer = recipe.tokenizer()

    def spoken(part: Speech, seed: int, scale: float = SCALE) -> Tensor:
        context = {"labels": part.voices, **tokenizer(part.texts)}
        return sample_speech(reader, context, N_CALLS, scale, generator=generator(seed))

    runs = []
    for seed, other in zip(SEEDS, stored("speech")["runs"], strict=True):
        part = utterances(seed)
        figures = judged(spoken(part, seed), part, centres, device, seed)
        runs.append({"seed": seed, **with_relative(figures, other["control"])})
        print(runs[-1], flush=True)
    part, curve = utterances(3), []
    for scale in SCALES:
        figures = judged(spoken(part, 3, scale), part, centres, device, 3)
        curve.append({"guidance_scale": scale, **figures})
        print(curve[-1], flush=True)
    worst = {f"{who}_relative": min(run[who]["relative"] for run in runs) for who in JUDGES}
    note_quality(WEIGHTS / "speech-attention.safetensors", worst)
    return {
        "recipe_hash": recipe_hash(recipe),
        "n": N_UTTERANCES,
        "n_calls": N_CALLS,
        "sampler": "dpm_solver",
        "guidance_scale": SCALE,
        "runs": runs,
        "curve": curve,
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    return [
        Bounded("speech_attention_words", run[who]["relative"], ">=", f"seed {run['seed']}, {who}")
        for run in result["runs"]
        for who in JUDGES
    ]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    head = ("", *(f"seed {run['seed']}" for run in result["runs"]), "bound")
    least = f"relative at least {BOUNDS['speech_attention_words']}"
    rows = [
        (
            f"{who}: accuracy, relative to recordings",
            *(relative(r[who]) for r in result["runs"]),
            least,
        )
        for who in JUDGES
    ]
    voices = [cell(run["voice"]) for run in result["runs"]]
    rows.append(("nearest voice is the one asked for", *voices, ""))
    curve = [
        (f"{p['guidance_scale']:g}", *(cell(p[who]) for who in JUDGES)) for p in result["curve"]
    ]
    return (
        f"## speech-attention\n\nThe same from words alone:\n\n{table(head, rows)}\n\n"
        f"By guidance scale (other strings):\n\n{table(('scale', *JUDGES), curve)}\n"
    )

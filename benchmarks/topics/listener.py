"""The judge of speech that is a network: how well it hears recordings, in known and new voices."""

from __future__ import annotations

from typing import Any

import torch

from minidiff.data import load_speech
from minidiff.data.captions import to_unit
from minidiff.zoo import BOUNDS, WEIGHTS, Listener, listen, load, note_quality, recipe_hash
from topics.common import Bounded
from topics.speech_common import word_accuracy


def measure(device: torch.device) -> dict[str, Any]:
    """Word accuracy on recordings of strings that it was not trained on."""
    listener = load("listener", device)
    assert isinstance(listener.model, Listener)
    result: dict[str, Any] = {"recipe_hash": recipe_hash(listener.recipe)}
    for name, split in (("own_voices", "listener-test"), ("other_voices", "test")):
        speech = load_speech(split)  # type: ignore[arg-type]
        result[name] = word_accuracy(speech.texts, listen(listener.model, to_unit(speech.mels)))
    quality = {name: result[name]["value"] for name in ("own_voices", "other_voices")}
    note_quality(WEIGHTS / "listener.safetensors", quality)
    return result


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    value = result["other_voices"]["value"]
    return [Bounded("listener_accuracy", value, ">=", "the generator's voices")]


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    own, other = result["own_voices"], result["other_voices"]
    return (
        f"## listener\n\nThe recogniser hears {100 * own['value']:.2f} % of {own['n']:,} words in "
        f"strings that it was not trained on,\nspoken in its own voices, and "
        f"{100 * other['value']:.2f} % of {other['n']:,} in those of the generator (at least "
        f"{BOUNDS['listener_accuracy']:g}).\n"
    )

"""Music: how far drawn chorales are from notes in any order, and melodies harmonised.

Every figure is a share of the gap between real notes in shuffled order, 0, and real passages of
chorales that were held out with their melodies, 1. What was copied counts as silence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff import autocast, inpaint, sample_ddpm
from minidiff.data.chorales import (
    BAR,
    BEAT,
    Score,
    excerpts,
    from_roll,
    load_chorales,
    passages,
    to_roll,
    voice_channels,
)
from minidiff.zoo import BOUNDS, WEIGHTS, load, note_quality, recipe_hash
from minidiff.zoo.music import (
    Portrait,
    compare,
    copied,
    forms_chord,
    gap_closed,
    parallels,
    portray,
    shuffle_notes,
    silence_copies,
    total_variation,
)
from topics.common import SEEDS, Bounded, mean, table

N_PASSAGES, BATCH, N_STEPS = 200, 50, 100
WAY = (25, 4)  # of the harmonies held to the bound: steps, and how often each is made
OTHER_WAYS = ((100, 1), (10, 10))  # on one seed: as many calls, 97 to 100
CLOSED = ("pitch_classes", "ranges", "key", "intervals")


def measure(device: torch.device) -> dict[str, Any]:
    """Three seeds of passages drawn from noise, and of all test melodies harmonised."""
    train, real = load_chorales("train"), passages(load_chorales("test"))
    known = {n: set().union(*(excerpts(c.score.pitches, n) for c in train)) for n in (BAR, 2 * BAR)}
    reference, of_real = portray(passages(train)), portray(real)
    pretrained = load("chorales", device)
    denoise = pretrained.denoiser()

    def read(score: Score, shuffled: Portrait) -> dict[str, Any]:
        seen = portray(silence_copies(score, known[2 * BAR]))
        return {
            **looks(seen),
            **compare(seen, of_real, shuffled, reference),
            "copied": mean(copied(score, known[2 * BAR])),
            "copied_bars": mean(copied(score, known[BAR], BAR)),
        }

    runs = []
    for seed in SEEDS:
        g = torch.Generator().manual_seed(1_000 + seed)
        shuffled_score = shuffle_notes(real, g)
        shuffled = portray(shuffled_score)
        parts = []
        for _ in range(0, N_PASSAGES, BATCH):
            with autocast(device):
                parts.append(
                    sample_ddpm(denoise, (BATCH, *pretrained.shape), N_STEPS, None, g, device).cpu()
                )
        drawn = from_roll(torch.cat(parts))
        run: dict[str, Any] = {"seed": seed, "drawn": read(drawn, shuffled)}
        run["drawn"]["chords_se"] = chords_of(drawn)["chords"]["standard_error"]
        run["shuffled"] = looks(shuffled)
        run["harmonised"] = harmonies(denoise, real, WAY, g, device)
        run["random"] = chords_of(shuffle_notes(real, g, voices=(1, 2, 3), within=True))
        run["harmonised"]["closed"] = gap_closed(
            run["harmonised"]["chords"]["value"], run["random"]["chords"]["value"], of_real.chords
        )
        runs.append(run)
        print(run, flush=True)

    others = []
    for way in OTHER_WAYS:
        g = torch.Generator().manual_seed(1_000)
        others.append({"way": list(way), **harmonies(denoise, real, way, g, device)})
        print(others[-1], flush=True)

    worst = {name: min(run["drawn"][name] for run in runs) for name in CLOSED}
    worst["chord_change"] = max(run["drawn"]["chord_change"] for run in runs)
    worst["copied"] = max(run["drawn"]["copied"]["value"] for run in runs)
    worst["harmonised_chords"] = min(run["harmonised"]["closed"] for run in runs)
    note_quality(WEIGHTS / "chorales.safetensors", worst)
    return {
        "recipe_hash": recipe_hash(pretrained.recipe),
        "n": N_PASSAGES,
        "n_steps": N_STEPS,
        "way": list(WAY),
        "n_melodies": len(real.pitches),
        "real": {
            **looks(of_real),
            **chords_of(real),
            "copied": mean(copied(real, known[2 * BAR])),
            "copied_bars": mean(copied(real, known[BAR], BAR)),
            **{
                f"{name}_distance": total_variation(
                    getattr(of_real, name), getattr(reference, name)
                )
                for name in ("pitch_classes", "ranges", "intervals")
            },
        },
        "runs": runs,
        "others": others,
    }


def looks(portrait: Portrait) -> dict[str, float]:
    """What is to be seen in passages by themselves, compared with nothing."""
    return {
        "in_key": portrait.in_key,
        "chord_change_rate": portrait.chord_change,
        "chords": portrait.chords,
        "parallels": portrait.parallels,
    }


def melody_mask() -> Tensor:
    """Know the soprano, (1, 102, 1) bool."""
    mask = torch.zeros(1, voice_channels(3).stop, 1, dtype=torch.bool)
    mask[:, voice_channels(0)] = True
    return mask


def harmonies(
    denoise: Any,
    real: Score,
    way: tuple[int, int],
    generator: torch.Generator,
    device: torch.device,
) -> dict[str, Any]:
    """Harmonise the melody of each real passage, and say what comes of it."""
    known = to_roll(real)
    with autocast(device):
        roll = inpaint(denoise, known.to(device), melody_mask(), *way, generator).cpu()
    assert torch.equal(roll[:, voice_channels(0)], known[:, voice_channels(0)])  # the melody, exact
    score = from_roll(roll)
    same = (score.pitches == real.pitches)[:, 1:, ::BEAT].double().mean((1, 2))
    return {**chords_of(score), "same_as_bach": mean(same)}


def chords_of(score: Score) -> dict[str, dict[str, float]]:
    """Share of beats that form a chord, and that are reached in parallel fifths or octaves."""
    return {
        "chords": mean(forms_chord(score.pitches[..., ::BEAT]).double().mean(-1)),
        "parallels": mean(parallels(score.pitches).double().mean(-1)),
    }


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    rows = []
    for run in result["runs"]:
        who, drawn = f"seed {run['seed']}", run["drawn"]
        rows += [Bounded(f"chorales_{name}", drawn[name], ">=", who) for name in CLOSED]
        rows.append(Bounded("chorales_chord_change", drawn["chord_change"], "<=", who))
        rows.append(Bounded("chorales_copied", drawn["copied"]["value"], "<=", who))
        rows.append(Bounded("harmonised_chords", run["harmonised"]["closed"], ">=", who))
    return rows


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""

    def cell(figure: dict[str, float]) -> str:
        return f"{figure['value']:.3f} ± {figure['standard_error']:.3f}"

    runs, real = result["runs"], result["real"]
    rows = [
        (
            f"{run['seed']}",
            *(f"{run['drawn'][name]:.2f}" for name in (*CLOSED, "chord_change")),
            cell(run["drawn"]["copied"]),
            cell(run["drawn"]["copied_bars"]),
        )
        for run in runs
    ]
    limits = [f"{BOUNDS[f'chorales_{name}']}" for name in (*CLOSED, "chord_change", "copied")]
    rows.append(("bound", *limits, "-"))
    rows.append(("real", *["1"] * 4, "0", cell(real["copied"]), cell(real["copied_bars"])))
    drawn = table(
        (
            "seed",
            "pitch classes",
            "voices' pitches",
            "key",
            "intervals",
            "chord change off by",
            "two-bar excerpts copied",
            "bars copied",
        ),
        rows,
    )
    harmonised = table(
        ("voices", "beats that form a chord", "parallels", "same pitch as Bach", "gap closed"),
        [
            ("Bach's", cell(real["chords"]), cell(real["parallels"]), "1", "1"),
            *(
                (
                    f"random, seed {run['seed']}",
                    cell(run["random"]["chords"]),
                    cell(run["random"]["parallels"]),
                    "-",
                    "0",
                )
                for run in runs
            ),
            *(
                (
                    f"drawn, seed {run['seed']}",
                    *(cell(run["harmonised"][n]) for n in ("chords", "parallels", "same_as_bach")),
                    f"{run['harmonised']['closed']:.2f}",
                )
                for run in runs
            ),
            *(
                (
                    f"drawn in {row['way'][0]} steps, each made {row['way'][1]} times, seed 0",
                    *(cell(row[n]) for n in ("chords", "parallels", "same_as_bach")),
                    "-",
                )
                for row in result["others"]
            ),
        ],
    )
    return f"""## Music: `chorales`

{result["n"]} passages of eight bars a seed, {result["n_steps"]} calls each. Of the gap between
real notes in shuffled order and passages of held-out chorales, the share closed; how far the
rate of chord changes is from the real one; and what was copied from the training chorales, in
whatever key.

{drawn}

The melodies of {result["n_melodies"]} held-out passages harmonised by `inpaint`, the soprano known,
in {result["way"][0]} steps each made {result["way"][1]} times
(bound of the gap closed: {BOUNDS["harmonised_chords"]}):

{harmonised}
"""

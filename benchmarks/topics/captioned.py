"""Text to image: does the picture show what the caption says, also what was never shown?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minidiff.data import KINDS, SIZES, describe, draw_scenes, load_fashion, paint
from minidiff.data.captions import N_COMPLETE
from minidiff.zoo import (
    BOUNDS,
    WEIGHTS,
    CaptionRecipe,
    judge_pictures,
    load,
    note_quality,
    recipe_hash,
    sample_captions,
)
from topics.common import SEEDS, Bounded, share, table

N_CALLS = 20
SCALES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
SCALE = CaptionRecipe.guidance_scale  # the best of them for the captions of the curve
N_SEEN, N_UNSEEN, N_PAIRS, N_CURVE = 1_000, 500, 250, 1_000
COMPLETE = tuple(range(N_COMPLETE))  # wordings that say all that the judge must know
WORDS = ("kind", "colour", "ground")


def measure(device: torch.device) -> dict[str, Any]:
    """Three seeds of seen and unseen captions, paraphrases and exchanged colours; a curve."""
    captioned, judge = load("captioned", device), load("judge", device).model

    def noise(n: int, g: torch.Generator) -> Tensor:
        return torch.randn(n, *captioned.shape, generator=g)

    def seen_in(captions: list[str], scenes: Tensor, x_T: Tensor, scale: float = SCALE) -> Tensor:
        pictures = sample_captions(captioned, captions, N_CALLS, scale, x_T)
        return judge_pictures(judge, pictures, scenes)

    photographs, kinds = load_fashion("test")
    real = {}
    for name in ("seen", "unseen"):
        scenes = draw_scenes(kinds, generator(99), held_out=name == "unseen")
        read = judge_pictures(judge, paint(photographs, scenes), scenes)
        real[name] = {what: share(hit) for what, hit in hits(read, scenes).items()}
        real[name] |= kinds_by_part(read, scenes)
    scenes = draw_scenes(kinds, generator(99))
    before, after = (
        judge_pictures(judge, paint(photographs, s), s) for s in (scenes, exchanged(scenes))
    )
    real["seen"]["swap"] = share(changed_places(before, after))
    print(real, flush=True)

    runs = []
    for seed in SEEDS:
        g = generator(seed)
        result: dict[str, Any] = {"seed": seed}
        for name, n in (("seen", N_SEEN), ("unseen", N_UNSEEN)):
            scenes = draw_scenes(torch.arange(n) % 10, g, held_out=name == "unseen")
            captions, x_T = describe(scenes, g, COMPLETE), noise(n, g)
            read = seen_in(captions, scenes, x_T)
            result[name] = {what: share(hit) for what, hit in hits(read, scenes).items()}
            result[name] |= kinds_by_part(read, scenes)
            for what in WORDS:
                ratio = result[name][what]["value"] / real[name][what]["value"]
                result[name][what]["relative"] = ratio
            if name == "seen":
                kept = (scenes[:N_PAIRS], x_T[:N_PAIRS], read[:N_PAIRS], captions[:N_PAIRS])
        scenes, x_T, first, captions = kept
        others = rephrased(scenes, captions, g)
        second = seen_in(others, scenes, x_T)
        result["paraphrase"] = share((first == second).all(1))
        swapped = exchanged(scenes)
        second = seen_in(describe(swapped, g, COMPLETE), swapped, x_T)
        result["swap"] = share(changed_places(first, second))
        result["swap"]["relative"] = result["swap"]["value"] / real["seen"]["swap"]["value"]
        print(result, flush=True)
        runs.append(result)

    curve = []
    for scale in SCALES:
        g = generator(SEEDS[-1] + 1)
        scenes = draw_scenes(torch.arange(N_CURVE) % 10, g)
        captions, x_T = describe(scenes, g, COMPLETE), noise(N_CURVE, g)
        read = seen_in(captions, scenes, x_T, scale)
        point = {what: share(hit) for what, hit in hits(read, scenes).items()}
        curve.append({"guidance_scale": scale, **point})
        print(curve[-1], flush=True)

    worst = {
        f"{name}_{what}_relative": min(run[name][what]["relative"] for run in runs)
        for name in ("seen", "unseen")
        for what in WORDS
    }
    worst["paraphrase"] = min(run["paraphrase"]["value"] for run in runs)
    worst["swap_relative"] = min(run["swap"]["relative"] for run in runs)
    note_quality(WEIGHTS / "captioned.safetensors", worst)
    return {
        "recipe_hash": recipe_hash(captioned.recipe),
        "n_seen": N_SEEN,
        "n_unseen": N_UNSEEN,
        "n_pairs": N_PAIRS,
        "n_calls": N_CALLS,
        "sampler": "dpm_solver",
        "guidance_scale": SCALE,
        "real": real,
        "runs": runs,
        "curve": curve,
    }


def generator(seed: int) -> torch.Generator:
    """Make a generator that no training used."""
    return torch.Generator().manual_seed(1_000 + seed)


def hits(read: Tensor, scenes: Tensor) -> dict[str, Tensor]:
    """Where kind, garment's colour, ground's colour and all three are as asked, (N,) bool each."""
    right = read == scenes[:, :3]  # (N, 3)
    return {**dict(zip(WORDS, right.unbind(1), strict=True)), "all": right.all(1)}


def kinds_by_part(read: Tensor, scenes: Tensor) -> dict[str, Any]:
    """Share whose kind is as asked, for each size and for each kind."""
    right = read[:, 0] == scenes[:, 0]  # (N,)
    return {
        "kind_by_size": [share(right[scenes[:, 3] == size]) for size in range(len(SIZES))],
        "kind_by_kind": [share(right[scenes[:, 0] == kind]) for kind in range(len(KINDS))],
    }


def exchanged(scenes: Tensor) -> Tensor:
    """Let garment and ground exchange their colours."""
    return scenes[:, [0, 2, 1, 3, 4]]


def changed_places(before: Tensor, after: Tensor) -> Tensor:
    """Where the two colours that were read have changed places, (N,) bool."""
    return (before[:, 1:] == after[:, 1:].flip(1)).all(1)


def rephrased(scenes: Tensor, captions: list[str], g: torch.Generator) -> list[str]:
    """Write other captions of the same scenes."""
    others = describe(scenes, g, COMPLETE)
    for i, (old, new) in enumerate(zip(captions, others, strict=True)):
        while new == old:
            (new,) = describe(scenes[i : i + 1], g, COMPLETE)
        others[i] = new
    return others


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    rows = [
        Bounded("captioned_real_kind", result["real"][name]["kind"]["value"], ">=", f"real, {name}")
        for name in ("seen", "unseen")
    ]
    for run in result["runs"]:
        who = f"seed {run['seed']}"
        rows += [
            Bounded("captioned_kind", run["seen"]["kind"]["relative"], ">=", who),
            Bounded("captioned_colour", run["seen"]["colour"]["relative"], ">=", who),
            Bounded("captioned_unseen_kind", run["unseen"]["kind"]["relative"], ">=", who),
            Bounded("captioned_unseen_colour", run["unseen"]["colour"]["relative"], ">=", who),
            Bounded("captioned_paraphrase", run["paraphrase"]["value"], ">=", who),
            Bounded("captioned_swap", run["swap"]["relative"], ">=", who),
        ]
    return rows


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    seeds = [f"seed {run['seed']}" for run in result["runs"]]
    head = ("", *seeds, "bound", "real composites")
    rows = []
    for name, label in (("seen", ""), ("unseen", ", pairs never shown")):
        for what in WORDS:
            key = f"captioned_{'' if name == 'seen' else 'unseen_'}{what}"
            shares = [run[name][what] for run in result["runs"]]
            rows.append(
                (
                    f"{what}{label}: share, relative to real",
                    *(f"{s['value']:.3f}, {s['relative']:.3f}" for s in shares),
                    f"at least {BOUNDS[key]}" if key in BOUNDS else "",
                    f"{result['real'][name][what]['value']:.3f}",
                )
            )
    pairs = (
        ("paraphrase", "two wordings, same reading", "value"),
        ("swap", "colours exchanged, relative to real", "relative"),
    )
    for what, label, form in pairs:
        own = result["real"]["seen"].get(what, {}).get("value")
        rows.append(
            (
                label,
                *(f"{run[what][form]:.3f}" for run in result["runs"]),
                f"at least {BOUNDS[f'captioned_{what}']}",
                f"{own:.3f}" if own else "",
            )
        )
    missed = sorted({row.name for row in bounds(result) if not row.met})
    open_ = f" Bounds that are missed so far: {', '.join(missed)}." if missed else ""
    curve = ", ".join(
        f"{point['all']['value']:.3f} at {point['guidance_scale']:g}" for point in result["curve"]
    )
    return (
        f"## captioned\n\n{result['n_seen']:,} captions of pairs (kind, colour) seen in training, "
        f"{result['n_unseen']:,} of pairs never shown,\n{result['n_pairs']} pairs of captions; "
        f"{result['n_calls']} calls of DPM-Solver++ at scale {result['guidance_scale']:g}. The "
        f"kind is judged from the photograph\nthat the pixels hold at the place that was asked "
        f"for, colours are read from pixels.{open_}\n\n{table(head, rows)}\n\n"
        f"All three are as asked, by guidance scale, for {N_CURVE:,} captions of another seed, "
        f"which chose the\nscale: {curve}.\n"
    )

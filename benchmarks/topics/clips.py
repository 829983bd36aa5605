"""Text to video: does it fly as the caption says, and can the model go on where a clip breaks off?

Twelve frames are predicted from four without a caption: what moves, where to and how fast, has to
be read from the known frames. The constant velocity is a control that wins as long as nothing
happens: it copies pixels, which no sample does, but it knows of no walls. Everywhere the model is
shown what is known; what `inpaint` makes of one that is not, by replacing alone, stands beside it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from minidiff import (
    autocast,
    constant_velocity,
    inpaint,
    known_context,
    known_frames,
    loss_of_each,
    moving_hole,
    psnr,
)
from minidiff.data import centroids, describe_moves, draw_moves, load_clips, read_motion
from minidiff.data.captions import to_unit
from minidiff.data.clips import N_COMPLETE_CLIPS, N_FRAMES, Clips
from minidiff.zoo import (
    BOUNDS,
    WEIGHTS,
    judge_clips,
    load,
    note_quality,
    recipe_hash,
    sample_captions,
)
from topics.common import SEEDS, Bounded, mean, share, table

N_CALLS = 20
SCALES = (1.0, 2.0, 3.0, 5.0)
SCALE = 3.0  # held to the bounds
N_DRAWN, N_PREDICTED, N_REAL, N_ORDER, N_CURVE, N_FILLED = 500, 200, 2_000, 200, 160, 144
N_KNOWN = 4
N_STEPS, N_RESAMPLE = 20, 5  # of `inpaint`
ORDER_T = 500
COMPLETE = tuple(range(N_COMPLETE_CLIPS))  # wordings that say everything
WHAT = ("kind", "direction", "speed")
WAYS = ("repeated", "constant velocity", "predicted")
HOLE = 16  # side of the moving hole
KNOWN_FRAMES = (0, 5, 10, 15)  # of the clips whose other frames are missing


def measure(device: torch.device) -> dict[str, Any]:
    """Three seeds of captions and of clips to go on with; a curve; order, gaps and a hole."""
    clips_model, judge = load("clips", device), load("judge", device).model
    test = load_clips("test", N_REAL)
    read = judge_clips(judge, test.clips)
    real = hits(read, test.moves)
    real["counter"] = counter_controls(test)
    print(real, flush=True)

    runs = []
    for seed in SEEDS:
        result = {"seed": seed, **drawn(clips_model, judge, generator(seed), N_DRAWN, SCALE)}
        result["kind"]["relative"] = result["kind"]["value"] / real["kind"]["value"]
        part = slice(seed * N_PREDICTED, (seed + 1) * N_PREDICTED)
        clips, moves = to_unit(test.clips[part]), test.moves[part]
        result["prediction"] = predicted(clips_model, judge, clips, moves, generator(seed), device)
        part = slice(-(seed + 1) * N_ORDER, -seed * N_ORDER or None)
        result["order"] = order(clips_model, test, part, generator(seed), device)
        print(result, flush=True)
        runs.append(result)

    curve = [
        {"guidance_scale": scale}
        | drawn(clips_model, judge, generator(SEEDS[-1] + 1), N_CURVE, scale)
        for scale in SCALES
    ]
    unet = replace(clips_model, model=clips_model.model.model)  # without what stands around it
    alone = drawn(unet, judge, generator(SEEDS[-1] + 1), N_CURVE, SCALE)
    part = slice(len(SEEDS) * N_PREDICTED, len(SEEDS) * N_PREDICTED + N_FILLED)
    filled = gaps(clips_model, to_unit(test.clips[part]), device)
    print(curve, alone, filled, flush=True)

    worst = {
        "kind_relative": min(run["kind"]["relative"] for run in runs),
        "direction": min(run["direction"]["value"] for run in runs),
        "speed": min(run["speed"]["value"] for run in runs),
        "prediction_gain": min(run["prediction"]["gain"]["value"] for run in runs),
        "order": min(run["order"]["value"] for run in runs),
    }
    note_quality(WEIGHTS / "clips.safetensors", worst)
    return {
        "recipe_hash": recipe_hash(clips_model.recipe),
        "n_drawn": N_DRAWN,
        "n_predicted": N_PREDICTED,
        "n_known": N_KNOWN,
        "n_calls": N_CALLS,
        "n_steps": N_STEPS,
        "n_resample": N_RESAMPLE,
        "order_t": ORDER_T,
        "sampler": "dpm_solver",
        "guidance_scale": SCALE,
        "real": real,
        "runs": runs,
        "curve": curve,
        "unet_alone": alone,
        "filled": filled,
    }


def generator(seed: int) -> torch.Generator:
    """Make a generator that no training used."""
    return torch.Generator().manual_seed(3_000 + seed)


def hits(read: Tensor, moves: Tensor) -> dict[str, Any]:
    """Shares of kinds, directions and speeds that are as asked."""
    return {what: share(h) for what, h in zip(WHAT, (read == moves).unbind(1), strict=True)}


def drawn(model: Any, judge: Any, g: torch.Generator, n: int, scale: float) -> dict[str, Any]:
    """Draw clips for n captions that say everything, each kind as often, and look at them."""
    moves = draw_moves(torch.arange(n) % 10, g)
    captions = describe_moves(moves, g, COMPLETE)
    clips = sample_captions(
        model, captions, N_CALLS, scale, generator=g, batch_size=16
    )  # a clip is as large as sixteen pictures
    return hits(judge_clips(judge, clips), moves)


def counter_controls(test: Clips) -> dict[str, Any]:
    """Directions read from what is no answer: nothing, a constant, a still, another clip."""
    clips, directions = to_unit(test.clips[:200]), test.moves[:200, 1]
    outputs = {
        "empty": torch.full_like(clips, -1.0),
        "constant": torch.zeros_like(clips),
        "still": clips[:, :, :1].expand_as(clips),
        "another clip": clips.roll(1, 0),
    }
    return {name: share(read_motion(x).directions == directions) for name, x in outputs.items()}


def predicted(
    model: Any, judge: Any, clips: Tensor, moves: Tensor, g: torch.Generator, device: torch.device
) -> dict[str, Any]:
    """Predict the last twelve frames from the first four, without a caption, in three ways."""
    first = clips[:, :, :N_KNOWN]
    ways = {
        "repeated": repeated(clips),
        "constant velocity": constant_velocity(first),
        "predicted": filled_in(model, clips, known_frames(range(N_KNOWN)), g, device),
    }
    assert torch.equal(ways["predicted"][:, :, :N_KNOWN], first)  # known frames exact
    frames = read_motion(clips).bounces
    bounces = frames < N_FRAMES - 1  # something is left to be seen after it
    before = (torch.arange(N_FRAMES) <= frames[bounces, None])[:, None, :, None, None]
    quality = {way: psnr_of_new(x, clips) for way, x in ways.items()}
    after = {way: hidden_psnr(x[bounces], clips[bounces], before) for way, x in ways.items()}
    result: dict[str, Any] = {
        way: {
            "psnr": mean(decibels),
            "bouncing": mean(decibels[bounces]),
            "not bouncing": mean(decibels[~bounces]),
            "after the bounce": mean(after[way]),
            "kind": share(judge_clips(judge, ways[way])[:, 0] == moves[:, 0]),
        }
        for way, decibels in quality.items()
    }
    result["gain"] = mean(quality["predicted"] - quality["repeated"])
    result["bounce_gain"] = mean(after["predicted"] - after["constant velocity"])
    own = share(judge_clips(judge, clips)[:, 0] == moves[:, 0])
    result["real kind"] = own
    result["kind_relative"] = result["predicted"]["kind"]["value"] / own["value"]
    return result


def repeated(clips: Tensor) -> Tensor:
    """The known frames, and the last of them for all that follow."""
    return clips[:, :, torch.arange(N_FRAMES).clamp(max=N_KNOWN - 1)]


def psnr_of_new(x: Tensor, clips: Tensor) -> Tensor:
    """PSNR over all frames that are not known; a perfect copy counts as 60 decibels."""
    return psnr(x[:, :, N_KNOWN:], clips[:, :, N_KNOWN:]).clamp(max=60)


def filled_in(
    model: Any,
    clips: Tensor,
    mask: Tensor,
    g: torch.Generator,
    device: torch.device,
    shown: bool = True,
) -> Tensor:
    """Fill in what a mask hides of clips, without a caption."""
    parts = []
    for part, known in zip(clips.split(16), mask.expand_as(clips).split(16), strict=True):
        context = model.recipe.tokenizer()([""] * len(part))
        if shown:
            context |= known_context(part, known)
        denoise = model.denoiser({name: values.to(device) for name, values in context.items()})
        with autocast(device):
            x = inpaint(denoise, part.to(device), known, N_STEPS, N_RESAMPLE, g)
        parts.append(x.cpu())
    return torch.cat(parts)


def order(
    model: Any, test: Clips, part: slice, g: torch.Generator, device: torch.device
) -> dict[str, float]:
    """Compare the losses of clips with those of the same clips, frames shuffled, same noise."""
    clips = to_unit(test.clips[part])
    shuffled = torch.stack([c[:, torch.randperm(N_FRAMES, generator=g)] for c in clips])
    noise = torch.randn(clips.shape, generator=g)
    lower = []
    for x, y, n in zip(clips.split(50), shuffled.split(50), noise.split(50), strict=True):
        nothing = model.recipe.tokenizer()([""] * len(x))
        nothing = {name: values.to(device) for name, values in nothing.items()}
        t = torch.full((len(x),), ORDER_T)
        with torch.no_grad(), autocast(device):
            a, b = (
                loss_of_each(model.model, z.to(device), t, model.schedule, nothing, n.to(device))
                for z in (x, y)
            )
        lower.append(a.cpu() < b.cpu())
    return share(torch.cat(lower))


def gaps(model: Any, clips: Tensor, device: torch.device) -> dict[str, Any]:
    """Fill in frames to come, missing frames, and a hole that follows the garment; PSNR of it."""
    masks = {
        "frames to come": known_frames(range(N_KNOWN)),
        "missing frames": known_frames(KNOWN_FRAMES),
        "moving hole": hole_over(clips),
    }
    cheap = {
        "frames to come": ("repeated", repeated(clips)),
        "missing frames": ("cross-faded", cross_faded(clips, KNOWN_FRAMES)),
        "moving hole": ("left dark", torch.where(masks["moving hole"], clips, -1.0)),
    }
    result = {}
    for what, mask in masks.items():
        ways = {
            "inpainted": filled_in(model, clips, mask, generator(0), device),
            cheap[what][0]: cheap[what][1],
            "replaced alone": filled_in(model, clips, mask, generator(0), device, shown=False),
        }
        result[what] = {way: mean(hidden_psnr(x, clips, mask)) for way, x in ways.items()}
    return result


def hole_over(clips: Tensor) -> Tensor:
    """A hole over the garment, but for every fourth frame: masks (B, 1, F, H, W)."""
    corners = (centroids(clips) - HOLE / 2).round().long()  # (B, F, 2)
    masks = torch.cat([moving_hole(c, HOLE) for c in corners])
    masks[:, :, ::4] = True
    return masks


def hidden_psnr(x: Tensor, clips: Tensor, mask: Tensor) -> Tensor:
    """PSNR of what was hidden, of each clip, (B,)."""
    hidden = ~mask.expand_as(clips)
    error = (x - clips).square().double() * hidden
    return 10 * (4 / (error.flatten(1).sum(1) / hidden.flatten(1).sum(1))).log10()


def cross_faded(clips: Tensor, frames: tuple[int, ...]) -> Tensor:
    """Cross-fade linearly from one known frame to the next."""
    x = clips.clone()
    for first, last in pairwise(frames):
        for frame in range(first + 1, last):
            weight = (frame - first) / (last - first)
            x[:, :, frame] = torch.lerp(clips[:, :, first], clips[:, :, last], weight)
    return x


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """Every figure that must meet a bound."""
    rows = [Bounded("clips_real_direction", result["real"]["direction"]["value"], ">=", "real")]
    for run in result["runs"]:
        who, prediction = f"seed {run['seed']}", run["prediction"]
        rows += [
            Bounded("clips_direction", run["direction"]["value"], ">=", who),
            Bounded("clips_speed", run["speed"]["value"], ">=", who),
            Bounded("clips_kind", run["kind"]["relative"], ">=", who),
            Bounded("clips_prediction_gain", prediction["gain"]["value"], ">=", who),
            Bounded("clips_prediction_kind", prediction["kind_relative"], ">=", who),
            Bounded("clips_bounce_gain", prediction["bounce_gain"]["value"], ">=", who),
            Bounded("clips_order", run["order"]["value"], ">=", who),
        ]
    return rows


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    runs, real, alone = result["runs"], result["real"], result["unet_alone"]
    seeds = [f"seed {run['seed']}" for run in runs]
    names = {"kind": "kind, relative to real clips", "direction": "direction", "speed": "speed"}
    rows = [
        (
            f"{label}: share as asked",
            *(f"{run[what].get('relative', run[what]['value']):.3f}" for run in runs),
            f"at least {BOUNDS[f'clips_{what}']}",
            f"{real[what]['value']:.3f}",
        )
        for what, label in names.items()
    ]
    rows.append(
        (
            "ordered told from shuffled by the loss",
            *(f"{run['order']['value']:.3f}" for run in runs),
            f"at least {BOUNDS['clips_order']}",
            "",
        )
    )
    predictions = [run["prediction"] for run in runs]
    second = [
        (f"{way}: {where}", *(f"{p[way][key]['value']:.2f}" for p in predictions), "")
        for way in WAYS
        for key, where in (
            ("psnr", "all clips"), ("not bouncing", "not bouncing"), ("bouncing", "bouncing"),
            ("after the bounce", "bouncing, after the bounce"),
        )
    ]  # fmt: skip
    for key, label in (
        ("gain", "predicted above repeated"),
        ("bounce_gain", "predicted above constant velocity, after the bounce"),
    ):
        name = "clips_prediction_gain" if key == "gain" else "clips_bounce_gain"
        values = (f"{p[key]['value']:.2f} ± {p[key]['standard_error']:.2f}" for p in predictions)
        second.append((label, *values, f"at least {BOUNDS[name]}"))
    kinds = (f"{p['kind_relative']:.3f}" for p in predictions)
    second.append(
        ("kind in the last frame, relative to real", *kinds,
         f"at least {BOUNDS['clips_prediction_kind']}")
    )  # fmt: skip
    curve = ", ".join(
        f"{point['kind']['value']:.3f} and {point['direction']['value']:.3f} at "
        f"{point['guidance_scale']:g}"
        for point in result["curve"]
    )
    counter = ", ".join(f"{name} {figure['value']:.3f}" for name, figure in real["counter"].items())
    filled = "; ".join(
        f"{what}: " + ", ".join(f"{way} {figure['value']:.2f}" for way, figure in ways.items())
        for what, ways in result["filled"].items()
    )
    return (
        f"## clips\n\n{result['n_drawn']} captions a seed that say everything, "
        f"{result['n_calls']} calls of DPM-Solver++ at scale {result['guidance_scale']:g}. "
        f"Direction and speed are\nread from the light's motion before the first bounce, the kind "
        f"is judged from the last frame:\n\n{table(('', *seeds, 'bound', 'real clips'), rows)}\n\n"
        f"Directions of what is no answer: {counter}.\nKind and direction, by guidance scale: "
        f"{curve};\nby the UNet alone, without a picture model, {alone['kind']['value']:.3f} and "
        f"{alone['direction']['value']:.3f} at {result['guidance_scale']:g}.\n\n"
        f"Twelve frames predicted from {result['n_known']}, without a caption, "
        f"{result['n_predicted']} test clips a seed, `inpaint` in {result['n_steps']} steps, "
        f"each\nmade {result['n_resample']} times; PSNR in decibels, at most 60:\n\n"
        f"{table(('', *seeds, 'bound'), second)}\n\nPSNR of what was hidden: {filled}.\n"
    )

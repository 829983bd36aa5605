"""The autoencoder of captioned fashion: what survives it, before any caption is read."""

from __future__ import annotations

from typing import Any

import torch

from minidiff.data import draw_scenes, load_fashion, paint
from minidiff.data.captions import to_unit
from minidiff.latent import Autoencoder, psnr
from minidiff.training import autocast
from minidiff.zoo import WEIGHTS, judge_pictures, load, note_quality, recipe_hash
from topics.common import Bounded, mean, share, table

WORDS = ("kind", "colour", "ground")


def measure(device: torch.device) -> dict[str, Any]:
    """Encode and decode all test pictures; read them before and after."""
    vae, judge = load("captioned-vae", device), load("judge", device).model
    assert isinstance(vae.model, Autoencoder)
    photographs, kinds = load_fashion("test")
    scenes = draw_scenes(kinds, torch.Generator().manual_seed(1_099))
    x = to_unit(paint(photographs, scenes))
    with torch.no_grad(), autocast(device):
        decoded = torch.cat(
            [
                vae.model.to_images(vae.model.to_latents(part.to(device))).float().cpu()
                for part in torch.split(x, 500)
            ]
        )
    result: dict[str, Any] = {
        "recipe_hash": recipe_hash(vae.recipe),
        "psnr": mean(psnr(x, decoded)),
    }
    for name, pictures in (("before", x), ("after", decoded)):
        right = judge_pictures(judge, pictures, scenes) == scenes[:, :3]  # (N, 3)
        result[name] = dict(zip(WORDS, map(share, right.unbind(1)), strict=True))
    quality = {what: result["after"][what]["value"] for what in WORDS}
    quality["psnr"] = result["psnr"]["value"]
    note_quality(WEIGHTS / "captioned-vae.safetensors", quality)
    return result


def bounds(result: dict[str, Any]) -> list[Bounded]:
    """No bound of its own: what it loses counts as the loss of `captioned`."""
    return []


def page(result: dict[str, Any]) -> str:
    """Its part of RESULTS.md."""
    rows = [
        (what, *(f"{result[name][what]['value']:.3f}" for name in ("before", "after")))
        for what in WORDS
    ]
    head = ("", "real composites", "the same, encoded and decoded")
    return (
        f"## captioned-vae\n\nThe {result['psnr']['n']:,} test pictures, each encoded to 512 "
        f"numbers and decoded: {result['psnr']['value']:.1f} dB.\nShare read as it is; no bound, "
        f"as what is lost here counts as lost by `captioned`:\n\n"
        f"{table(head, rows)}\n"
    )

"""Draw images from a shipped model: labels or captions in, images out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minidiff.ddim import sample_dpm_solver
from minidiff.ddpm import Denoiser, Variance, sample_ddpm
from minidiff.forward import noise_like
from minidiff.guidance import guided
from minidiff.improved import learned_variance
from minidiff.training import autocast
from minidiff.zoo.checkpoints import Pretrained
from minidiff.zoo.recipes import (
    CaptionRecipe,
    ChoraleRecipe,
    ClipRecipe,
    HybridRecipe,
    SpeechRecipe,
    SuperResolutionRecipe,
)


def sample(
    pretrained: Pretrained,
    labels: Tensor,
    n_steps: int = 50,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Draw one image for each label by ancestral sampling, with the learned variance if any.

    Latents are drawn in the same way and then decoded.

    Args:
        pretrained: A diffusion model, as `load` returns it.
        labels: Classes, (N,) int64 in [0, 10]; 10 asks for no class in particular.
        n_steps: Model calls an image.
        generator: Source of all noise.
        batch_size: Images at a time.

    Returns:
        Images (N, 1, 28, 28) in [-1, 1] on the CPU.

    Raises:
        ValueError: If it is no diffusion model, one that enlarges a given image, or one that reads
            captions or speaks, for which there are `sample_captions` and `sample_speech`.

    >>> from minidiff.zoo import load
    >>> images = sample(load("fashion"), torch.tensor([9, 9]), n_steps=2)  # two ankle boots
    >>> images.shape
    torch.Size([2, 1, 28, 28])
    """
    if isinstance(pretrained.recipe, CaptionRecipe | ClipRecipe):
        raise ValueError(f"{pretrained.recipe.name!r} wants captions, not labels")
    if isinstance(pretrained.recipe, SpeechRecipe):
        raise ValueError(f"{pretrained.recipe.name!r} speaks; there is sample_speech for that")
    if isinstance(pretrained.recipe, ChoraleRecipe):
        raise ValueError(f"{pretrained.recipe.name!r} draws music; labels make none")
    if isinstance(pretrained.recipe, SuperResolutionRecipe):
        raise ValueError(
            f"{pretrained.recipe.name!r} enlarges an image that it is given; labels make none"
        )
    device = next(pretrained.model.parameters()).device
    learned = isinstance(pretrained.recipe, HybridRecipe)
    variance: Variance = learned_variance if learned else "beta_tilde"
    images = []
    for part in torch.split(labels, batch_size):
        denoise = pretrained.denoiser({"labels": part.to(device)})
        with autocast(device):
            shape = (len(part), *pretrained.shape)
            x = sample_ddpm(denoise, shape, n_steps, None, generator, device, variance)
            images.append(pretrained.to_images(x).cpu())
    return torch.cat(images)


def sample_captions(
    pretrained: Pretrained,
    captions: Sequence[str],
    n_steps: int = 20,
    guidance_scale: float | None = None,
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Draw a picture or clip for each caption: guided away from the empty one, by DPM-Solver++.

    Args:
        pretrained: A model that reads captions, as `load` returns it.
        captions: N of them.
        n_steps: Steps an image.
        guidance_scale: 1 is off; by default the one that the model was measured with.
        x_T: The noise to start from, (N, *pretrained.shape); drawn when absent.
        generator: Source of that noise.
        batch_size: Pictures at a time.

    Returns:
        Pictures (N, 3, 32, 32), or clips (N, 1, 16, 40, 40), in [-1, 1] on the CPU.

    Raises:
        ValueError: If the model reads no captions, a caption is too long, or x_T is not shaped as
            above.

    >>> from minidiff.zoo import load
    >>> sample_captions(load("captioned"), ["a red coat on a blue background"], n_steps=2).shape
    torch.Size([1, 3, 32, 32])
    """
    recipe, model = pretrained.recipe, pretrained.model
    if not isinstance(recipe, CaptionRecipe | ClipRecipe):
        raise ValueError(f"{recipe.name!r} reads no captions")
    if guidance_scale is None:
        guidance_scale = recipe.guidance_scale
    device = next(model.parameters()).device
    tokenizer = recipe.tokenizer()
    null = {name: values[0].to(device) for name, values in tokenizer([""]).items()}
    if x_T is None:
        x_T = noise_like(torch.empty(len(captions), *recipe.shape, device="cpu"), generator)
    if x_T.shape != (len(captions), *recipe.shape):
        raise ValueError(f"x_T must be {(len(captions), *recipe.shape)}, got {tuple(x_T.shape)}")
    pictures = []
    for start in range(0, len(captions), batch_size):
        noise = x_T[start : start + batch_size].to(device)
        context = tokenizer(captions[start : start + batch_size])
        context = {name: values.to(device) for name, values in context.items()}
        strong = guided(model, context, null, guidance_scale)
        denoise = Denoiser(strong, recipe.schedule(), recipe.prediction_type, clip=recipe.clip)
        with autocast(device):
            z = sample_dpm_solver(denoise, noise.shape, n_steps, x_T=noise)
            pictures.append(pretrained.to_images(z).cpu().clamp(-1, 1))
    return torch.cat(pictures)


def sample_speech(
    pretrained: Pretrained,
    context: Mapping[str, Tensor],
    n_steps: int = 20,
    guidance_scale: float = 1.0,
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Draw one utterance for each voice and text by DPM-Solver++, guided if asked for.

    Args:
        pretrained: A model that speaks, as `load` returns it.
        context: N voices, "labels", and what they say: "frames" for a model that is told the
            timings, "tokens" and "tokens_mask" of its recipe's tokenizer for the other.
        n_steps: Steps an utterance.
        guidance_scale: 1 is off.
        x_T: The noise to start from, (N, 64, 128); drawn when absent.
        generator: Source of that noise.
        batch_size: Utterances at a time.

    Returns:
        Mel spectrograms (N, 64, 128) in [-1, 1] on the CPU; `mel_to_sound` makes them audible.

    Raises:
        ValueError: If the model does not speak, or context lacks something.

    >>> from minidiff.zoo import load
    >>> speech = load("speech-attention")
    >>> words = speech.recipe.tokenizer()(["four two"])
    >>> sample_speech(speech, {"labels": torch.tensor([0]), **words}, n_steps=2).shape
    torch.Size([1, 64, 128])
    """
    recipe, model = pretrained.recipe, pretrained.model
    if not isinstance(recipe, SpeechRecipe):
        raise ValueError(f"{recipe.name!r} does not speak")
    device = next(model.parameters()).device
    null = {name: value.to(device) for name, value in recipe.null_context().items()}
    if x_T is None:
        shape = (len(next(iter(context.values()))), *recipe.shape)
        x_T = noise_like(torch.empty(shape, device="cpu"), generator)
    mels = []
    for start in range(0, len(x_T), batch_size):
        part = slice(start, start + batch_size)
        asked = {name: values[part].to(device) for name, values in context.items()}
        strong = guided(model, asked, null, guidance_scale)
        denoise = Denoiser(strong, recipe.schedule(), recipe.prediction_type)
        noise = x_T[part].to(device)
        with autocast(device):
            mels.append(sample_dpm_solver(denoise, noise.shape, n_steps, x_T=noise).cpu())
    return torch.cat(mels)

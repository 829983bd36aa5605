"""Weight files: safetensors in half precision or less that carry the recipe they were made by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from minidiff.ddpm import Denoiser
from minidiff.forward import NoiseSchedule
from minidiff.latent import Autoencoder
from minidiff.training import EMA, Context, Progress, load_tensors, save_tensors
from minidiff.zoo.recipes import (
    RECIPES,
    CaptionRecipe,
    ChoraleRecipe,
    ClipRecipe,
    DiffusionRecipe,
    LatentRecipe,
    ListenerRecipe,
    Recipe,
    SpeechRecipe,
    recipe_hash,
    with_steps,
)

WEIGHTS = Path(__file__).parent / "weights"
IN_BYTES = (CaptionRecipe, ClipRecipe)  # stored in a byte a weight, see `to_bytes`
SCALES = "in_bytes.scales"  # what their scales are called in a weight file


@dataclass(frozen=True)
class Pretrained:
    """A trained model, ready to be used, and where it came from."""

    model: nn.Module
    recipe: Recipe
    metadata: Mapping[str, str]
    autoencoder: Autoencoder | None = None  # of a model that draws latents

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule the model was trained with."""
        return self._diffusion().schedule()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the model draws: (1, 28, 28), that of latents, or another."""
        return self._diffusion().shape

    def denoiser(
        self,
        context: Context | None = None,
        clip: tuple[float, float] | Literal["data"] | None = "data",
    ) -> Denoiser:
        """Make the `Denoiser` that the samplers take.

        Args:
            context: What the prediction depends on, batch first.
            clip: Range of x_0; that of the data by default: none for latents.

        Raises:
            ValueError: If the model is no diffusion model.
        """
        recipe = self._diffusion()
        limits = recipe.clip if clip == "data" else clip
        return Denoiser(self.model, recipe.schedule(), recipe.prediction_type, context, limits)

    @torch.no_grad()
    def to_images(self, x: Tensor) -> Tensor:
        """Make images of samples: latents (B, 4, 7, 7) are decoded, images are left as they are."""
        return x if self.autoencoder is None else self.autoencoder.to_images(x)

    def _diffusion(self) -> DiffusionRecipe:
        if not isinstance(self.recipe, DiffusionRecipe):
            raise ValueError(f"{self.recipe.name!r} is no diffusion model")
        return self.recipe


def load(name: str, device: torch.device | str = "cpu", path: Path | None = None) -> Pretrained:
    """Load a shipped model.

    Args:
        name: A key of RECIPES.
        device: Where to put it.
        path: Another weight file made by the same recipe.

    Returns:
        The model in float32, in evaluation mode, without gradients.

    Raises:
        ValueError: If there is no such recipe, the file is damaged or fits another model, or the
            autoencoder is not that with whose latents the model was trained.
        FileNotFoundError: If the weight file is missing.

    >>> load("no such model")
    Traceback (most recent call last):
    ValueError: name must be one of captioned, ..., got 'no such model'
    """
    recipe = recipe_named(name)
    path = WEIGHTS / f"{name}.safetensors" if path is None else path
    tensors, metadata = load_tensors(path)
    if metadata.get("sha256") != digest(tensors, metadata):
        raise ValueError(f"{path} was altered: its content does not match its checksum")
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights globally
        model = recipe.model()
    try:
        model.load_state_dict(from_bytes(tensors))  # widened to float32 here
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model {name!r}") from error
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.requires_grad_(False).eval()
    autoencoder = None
    if isinstance(recipe, LatentRecipe):
        made_by = json.loads(metadata["recipe"])
        autoencoder = load_autoencoder(made_by["autoencoder"], made_by["autoencoder_hash"], device)
    return Pretrained(model, recipe, metadata, autoencoder)


def load_autoencoder(name: str, hash_: str, device: torch.device | str = "cpu") -> Autoencoder:
    """Load an autoencoder, if it still is the one whose recipe has this hash.

    Raises:
        ValueError: If it has another, or is no autoencoder; and as `load` does.
    """
    pretrained = load(name, device)
    if pretrained.metadata["recipe_hash"] != hash_:
        raise ValueError(
            f"the model was trained with the latents of another {name!r}, of recipe {hash_}; "
            f"that of the file is {pretrained.metadata['recipe_hash']}: train the model again"
        )
    if not isinstance(pretrained.model, Autoencoder):
        raise ValueError(f"{name!r} is no autoencoder")
    return pretrained.model


def recipe_named(name: str) -> Recipe:
    """Return the recipe, or raise a ValueError that names those that there are."""
    if name not in RECIPES:
        raise ValueError(f"name must be one of {', '.join(sorted(RECIPES))}, got {name!r}")
    return RECIPES[name]


def train_recipe(
    name: str,
    device: torch.device | str = "cpu",
    out: Path | None = None,
    state: Path | None = None,
    n_steps: int | None = None,
) -> Iterator[Progress]:
    """Train a recipe from its first step, or from where it was killed, and write its weight file.

    Args:
        name: A key of RECIPES.
        device: Where to train.
        out: The weight file to write at the end; the shipped one by default.
        state: Where the training's state is kept meanwhile; beside `out` by default.
        n_steps: A shorter or longer training than the recipe's; needs an `out` of its own. Later
            stages of a training are made shorter or longer alike.

    Yields:
        Progress(step, loss), as `train` does.

    Raises:
        ValueError: If there is no such recipe, or n_steps comes without `out`.
    """
    recipe = recipe_named(name)
    if n_steps is not None:
        if out is None:
            raise ValueError("out must be given with n_steps: the shipped file keeps its recipe")
        recipe = with_steps(recipe, n_steps)
    out = WEIGHTS / f"{name}.safetensors" if out is None else out
    state = out.with_suffix(".state.safetensors") if state is None else state
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights globally
        torch.manual_seed(recipe.seed)
        model = recipe.model().to(device)
    ema = EMA(model, recipe.ema_decay)
    yield from recipe.train(model, ema, state)
    save_weights(out, ema.model, recipe)
    state.unlink(missing_ok=True)


def save_weights(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write a model in half precision, or less, with its recipe in the metadata.

    Args:
        path: The file to write.
        model: Its weights are stored; floating-point ones as float16, of some recipes in bytes, see
            `to_bytes`.
        recipe: What made them.
    """
    tensors = {
        name: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
    }
    if isinstance(recipe, IN_BYTES):
        tensors = to_bytes(tensors, {name for name, _ in model.named_parameters()})
    metadata = {
        "recipe": json.dumps(asdict(recipe), sort_keys=True),
        "recipe_hash": recipe_hash(recipe),
        "data": data_of(recipe),
        "steps": str(recipe.n_steps),
        "seed": str(recipe.seed),
        "torch": torch.__version__,
        "license": "MIT",
    }
    save_tensors(path, tensors, metadata | {"sha256": digest(tensors, metadata)})


def to_bytes(tensors: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Round matrices and kernels to 8 bits, with a scale for each row or output channel.

    Half the size of half precision. The error of a weight grows by about 1/254 of the largest one
    of its channel, by more where that is below 0.001. (Others call it symmetric quantisation per
    channel, of weights alone.)

    Args:
        tensors: Floating-point tensors by name.
        names: Which to round: those among them that have two dimensions or more, at least one.

    Returns:
        The same, those rounded as int8, and all their scales in one tensor, by order of names.

    >>> to_bytes({"w": torch.tensor([[0.5, -1.27]])}, {"w"})
    {'w': tensor([[  50, -127]], dtype=torch.int8), 'in_bytes.scales': tensor([0.0100])}
    """
    packed, scales = dict(tensors), []
    for name in sorted(names):
        weight = tensors[name]
        if weight.ndim > 1:
            largest = weight.flatten(1).abs().amax(1)  # (rows,)
            scales.append((largest.float() / 127).clamp(min=1e-6).to(weight.dtype))
            scale = scales[-1].float().view(-1, *[1] * (weight.ndim - 1))
            packed[name] = (weight / scale).round().clamp(-127, 127).to(torch.int8)
    return packed | {SCALES: torch.cat(scales)}


def from_bytes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `to_bytes`, as far as it can be; tensors that never were in bytes are left as they are.

    >>> from_bytes(to_bytes({"w": torch.tensor([[0.5, -1.27]])}, {"w"}))
    {'w': tensor([[ 0.5000, -1.2700]])}
    """
    if SCALES not in tensors:
        return dict(tensors)
    widened = {name: value for name, value in tensors.items() if name != SCALES}
    packed = sorted(name for name, value in widened.items() if value.dtype == torch.int8)
    scales = torch.split(tensors[SCALES].float(), [len(widened[name]) for name in packed])
    for name, scale in zip(packed, scales, strict=True):
        widened[name] = widened[name] * scale.view(-1, *[1] * (widened[name].ndim - 1))
    return widened


def data_of(recipe: Recipe) -> str:
    """Say what a recipe's model is trained on."""
    if isinstance(recipe, SpeechRecipe | ListenerRecipe):
        return "digits spoken by espeak-ng, training strings"
    if isinstance(recipe, ChoraleRecipe):
        return "Bach's chorales as music21 ships them, training split"
    return "Fashion-MNIST, training split"


def note_quality(path: Path, quality: Mapping[str, float]) -> None:
    """Write what was measured into the metadata of a weight file; the weights stay as they are.

    Args:
        path: The weight file.
        quality: Figures by name.

    Raises:
        FileNotFoundError, ValueError: As `load_tensors` does.
    """
    tensors, metadata = load_tensors(path)
    metadata |= {"quality": json.dumps(quality, sort_keys=True)}
    save_tensors(path, tensors, metadata | {"sha256": digest(tensors, metadata)})


def digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors, and all other metadata."""
    about = {name: text for name, text in metadata.items() if name != "sha256"}
    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()

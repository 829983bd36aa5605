"""What was trained, and how: one recipe for each weight file that the course ships.

A recipe is all numbers that decide the weights. Its hash stands in the weight file's metadata.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from minidiff.audio import N_FRAMES, N_MELS, UNet1d
from minidiff.data import (
    caption_words,
    clip_words,
    load_captioned,
    load_chorales,
    load_clips,
    load_fashion,
)
from minidiff.data.captions import CANVAS, to_unit
from minidiff.data.chorales import (
    BEAT,
    LENGTH,
    N_CHANNELS,
    Score,
    passages,
    to_roll,
    transpositions,
)
from minidiff.data.clips import CLIP_SIDE
from minidiff.data.clips import N_FRAMES as N_CLIP_FRAMES
from minidiff.data.speech import PHONEMES, VOICES, WORDS, load_speech
from minidiff.editing import ImageConditioned, downsample
from minidiff.forward import NoiseSchedule, cosine_schedule, linear_schedule
from minidiff.improved import hybrid_loss
from minidiff.latent import Autoencoder, autoencoder_loss, scale_factor_of
from minidiff.text import TextUNet, Tokenizer
from minidiff.training import (
    EMA,
    Context,
    PredictionType,
    Progress,
    autocast,
    draw_integers,
    fit,
    train,
    train_step,
)
from minidiff.unet import UNet
from minidiff.video import (
    CLOSE_UP,
    MotionCompensated,
    VideoUNet,
    draw_masks,
    find_light,
    known_context,
    large_groups,
    shift_schedule,
    window,
)
from minidiff.zoo.judges import Judge, Listener, augment, listener_loss

SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}


@dataclass(frozen=True)
class DiffusionRecipe:
    """A class-conditional UNet on Fashion-MNIST, with labels dropped so that it can be guided."""

    name: str
    about: str
    channels: tuple[int, ...]
    attention_levels: tuple[int, ...]
    n_blocks: int
    schedule_name: Literal["linear", "cosine"]
    prediction_type: PredictionType
    n_steps: int
    batch_size: int
    learning_rate: float
    n_warmup: int
    label_dropout: float
    ema_decay: float
    seed: int = 0

    def schedule(self) -> NoiseSchedule:
        """Make the noise schedule of the training."""
        return SCHEDULES[self.schedule_name]()

    def model(self) -> UNet:
        """Make the untrained model."""
        return UNet(1, 1, self.channels, self.n_blocks, self.attention_levels, n_classes=10)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the model draws."""
        return 1, 28, 28

    @property
    def clip(self) -> tuple[float, float] | None:
        """Range of the data, if it has one."""
        return -1.0, 1.0

    def data(self, device: torch.device) -> tuple[Tensor, Context]:
        """Return what is learned from, (N, *shape), and what it depends on, N first."""
        x, labels = load_fashion("train")
        return x, {"labels": labels}

    def null_context(self) -> Context | None:
        """Return what stands for no condition, without a batch; None if there always is one."""
        return {"labels": torch.tensor(10, device="cpu")}

    def train(self, model: nn.Module, ema: EMA, state_path: Path | None) -> Iterator[Progress]:
        """Train the model on the training split."""
        return self.learn(model, self.data(next(model.parameters()).device), ema, state_path)

    def learn(
        self,
        model: nn.Module,
        data: tuple[Tensor, Context],
        ema: EMA,
        state_path: Path | None,
        loss: Callable[..., Tensor] | None = None,
    ) -> Iterator[Progress]:
        """Train a model on data; loss takes the place of the recipe's own."""
        x_0, context = data
        return train(
            model,
            x_0,
            self.schedule(),
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            prediction_type=self.prediction_type,
            context=context,
            null_context=self.null_context(),
            context_dropout=self.label_dropout,
            learning_rate=self.learning_rate,
            n_warmup=self.n_warmup,
            ema=ema,
            seed=self.seed,
            state_path=state_path,
            loss=loss or self.loss,
        )

    @property
    def loss(self) -> Callable[..., Tensor]:
        """What the training minimises."""
        return train_step


@dataclass(frozen=True)
class HybridRecipe(DiffusionRecipe):
    """The same with a learned variance."""

    def model(self) -> UNet:
        """Make the untrained model: a second output channel chooses the variance."""
        return UNet(1, 2, self.channels, self.n_blocks, self.attention_levels, n_classes=10)

    @property
    def loss(self) -> Callable[..., Tensor]:
        """What the training minimises."""
        return hybrid_loss


@dataclass(frozen=True)
class AutoencoderRecipe:
    """A KL autoencoder of Fashion-MNIST."""

    name: str
    about: str
    latent_channels: int
    channels: tuple[int, ...]
    kl_weight: float
    n_steps: int
    batch_size: int
    learning_rate: float
    n_warmup: int
    weight_decay: float
    ema_decay: float
    seed: int = 0

    def model(self) -> Autoencoder:
        """Make the untrained model."""
        return Autoencoder(1, self.latent_channels, self.channels)

    def data(self) -> Tensor:
        """Return what is learned from, (N, C, H, W)."""
        return load_fashion("train")[0]

    def train(self, model: nn.Module, ema: EMA, state_path: Path | None) -> Iterator[Progress]:
        """Train on the training split, then measure the scale factor."""
        assert isinstance(model, Autoencoder)
        assert isinstance(ema.model, Autoencoder)
        x_0 = self.data()
        device = next(model.parameters()).device

        def loss_of(generator: torch.Generator) -> Tensor:
            x = to_unit(x_0[draw_integers(len(x_0), self.batch_size, generator)]).to(device)
            return autoencoder_loss(model, x, self.kl_weight, generator=generator).total

        yield from fit(
            model,
            loss_of,
            n_steps=self.n_steps,
            learning_rate=self.learning_rate,
            n_warmup=self.n_warmup,
            weight_decay=self.weight_decay,
            ema=ema,
            seed=self.seed,
            state_path=state_path,
            about=f"kl_weight={self.kl_weight} batch_size={self.batch_size} ",
        )
        # The average is what is kept, so its latents are those to be scaled.
        ema.model.scale_factor.copy_(scale_factor_of(encode_all(ema.model, x_0)))


def encode_all(model: Autoencoder, x: Tensor, batch_size: int = 500) -> Tensor:
    """Encode many images (N, C, H, W) to scaled latents (N, C', H / 4, W / 4), on the CPU."""
    device = next(model.parameters()).device
    with torch.no_grad(), autocast(device):
        parts = [
            model.to_latents(to_unit(part).to(device)).cpu() for part in torch.split(x, batch_size)
        ]
    return torch.cat(parts)


@dataclass(frozen=True)
class CaptionedAutoencoderRecipe(AutoencoderRecipe):
    """The same for captioned fashion, 32x32 in colour; then the decoder goes on alone.

    What reads latents may improve for as long as one likes: what was learned from them still fits.
    """

    n_decoder_steps: int = 0

    def model(self) -> Autoencoder:
        """Make the untrained model."""
        return Autoencoder(3, self.latent_channels, self.channels)

    def data(self) -> Tensor:
        """Return the pictures, (N, 3, 32, 32) uint8."""
        return load_captioned("train").pictures

    def train(self, model: nn.Module, ema: EMA, state_path: Path | None) -> Iterator[Progress]:
        """Train both halves, then the decoder on the latents of the encoder as it is stored."""
        yield from super().train(model, ema, state_path)
        assert isinstance(ema.model, Autoencoder)
        ema.model.half().float()
        second = state_path and state_path.with_stem(f"{state_path.stem}-decoder")
        for step, loss in self.train_decoder(ema.model, second):
            yield Progress(self.n_steps + step, loss)
        if second is not None:
            second.unlink()

    def train_decoder(self, model: Autoencoder, state_path: Path | None) -> Iterator[Progress]:
        """Train the decoder of a model, in place, on the means that its encoder gives."""
        x_0, device = self.data(), next(model.parameters()).device
        model.to(memory_format=torch.channels_last)
        decoder = copy.deepcopy(model.decoder).requires_grad_(True)
        ema = EMA(decoder, self.ema_decay)

        def loss_of(generator: torch.Generator) -> Tensor:
            x = to_unit(x_0[draw_integers(len(x_0), self.batch_size, generator)]).to(device)
            with torch.no_grad():
                z = model.encode(x).mean
            return F.mse_loss(decoder(z).to(x.dtype), x)

        yield from fit(
            decoder,
            loss_of,
            n_steps=self.n_decoder_steps,
            learning_rate=self.learning_rate,
            n_warmup=self.n_warmup,
            weight_decay=self.weight_decay,
            ema=ema,
            seed=self.seed + 1,
            state_path=state_path,
            about=f"batch_size={self.batch_size} ",
        )
        model.decoder.load_state_dict(ema.model.state_dict())


@dataclass(frozen=True)
class LatentRecipe(DiffusionRecipe):
    """The same on the latents of a trained autoencoder.

    The hash of the autoencoder's recipe is part of this one: another autoencoder makes this
    another recipe, whose weights have to be trained again.
    """

    autoencoder: str = ""
    autoencoder_hash: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latents."""
        return 4, 7, 7

    @property
    def clip(self) -> None:
        """Latents have no bounds."""
        return

    def model(self) -> UNet:
        """Make the untrained model."""
        n_channels = self.shape[0]
        return UNet(
            n_channels,
            n_channels,
            self.channels,
            self.n_blocks,
            self.attention_levels,
            n_classes=10,
        )

    def data(self, device: torch.device) -> tuple[Tensor, Context]:
        """Encode the training split once: the posteriors' means, scaled."""
        x, context = super().data(device)
        return encode_all(self.load_autoencoder(device), x), context

    def load_autoencoder(self, device: torch.device) -> Autoencoder:
        """Load the autoencoder in whose latents the model lives."""
        from minidiff.zoo.checkpoints import load_autoencoder  # which imports this module

        return load_autoencoder(self.autoencoder, self.autoencoder_hash, device)


@dataclass(frozen=True)
class SuperResolutionRecipe(DiffusionRecipe):
    """A UNet that sees the image at low resolution beside x_t, and no class."""

    factor: int = 4

    def model(self) -> ImageConditioned:  # type: ignore[override]
        """Make the untrained model: x_t and the image are two channels."""
        return ImageConditioned(
            UNet(2, 1, self.channels, self.n_blocks, self.attention_levels, n_classes=None)
        )

    def data(self, device: torch.device) -> tuple[Tensor, Context]:
        """Return the training split and its images at low resolution."""
        x, _ = load_fashion("train")
        return x, {"image": downsample(x, self.factor)}

    def null_context(self) -> None:
        """Return None: there always is an image."""
        return


@dataclass(frozen=True, kw_only=True)
class CaptionRecipe(LatentRecipe):
    """A UNet that reads captions, on the latents of captioned fashion."""

    guidance_scale: ClassVar[float] = 4.0  # to be drawn with; no part of the training

    text_levels: tuple[int, ...]
    text_dim: int
    n_tokens: int
    n_paintings: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latents."""
        return CAPTIONED_VAE.latent_channels, CANVAS // 4, CANVAS // 4

    def tokenizer(self) -> Tokenizer:
        """Make the tokenizer, whose vocabulary is that of the captions."""
        return Tokenizer(caption_words(), self.n_tokens)

    def model(self) -> UNet:
        """Make the untrained model."""
        return TextUNet(
            len(self.tokenizer()),
            self.shape[0],
            self.shape[0],
            self.channels,
            self.n_blocks,
            self.text_levels,
            self.text_dim,
            self.n_tokens,
        )

    def data(self, device: torch.device) -> tuple[Tensor, Context]:
        """Encode the pictures of the training split, each photograph painted a few times."""
        autoencoder, latents, captions = self.load_autoencoder(device), [], []
        for seed in range(self.n_paintings):
            painted = load_captioned("train", seed)
            latents.append(encode_all(autoencoder, painted.pictures))
            captions += painted.captions
        return torch.cat(latents), self.tokenizer()(captions)

    def null_context(self) -> Context:
        """Return the empty caption."""
        return {name: values[0] for name, values in self.tokenizer()([""]).items()}

    @property
    def loss(self) -> Callable[..., Tensor]:
        """What the training minimises."""
        return train_step_with_plain_attention


def train_step_with_plain_attention(*args: Any, **kwargs: Any) -> Tensor:
    """`train_step`, twice as fast for a small model on a CPU.

    There the backward pass of torch's fused attention in bfloat16 takes longer than all the rest.
    """
    with sdpa_kernel(SDPBackend.MATH):
        return train_step(*args, **kwargs)


def train_step_on_bytes(model: nn.Module, x_0: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`train_step_with_plain_attention` for data kept as uint8, a quarter of the memory."""
    return train_step_with_plain_attention(model, to_unit(x_0), *args, **kwargs)


def train_step_on_known(
    model: nn.Module,
    x_0: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    context: Context | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    prediction_type: PredictionType = "eps",
) -> Tensor:
    """`train_step_on_bytes` for clips of which the model is shown what `draw_masks` lets it see."""
    if generator is None:
        raise ValueError("generator must be given: it draws the masks")
    clips = to_unit(x_0)
    masks = draw_masks(len(clips), generator, clips.shape[2], clips.shape[3]).to(clips.device)
    seen = {**(context or {}), **known_context(clips, masks)}
    return train_step_with_plain_attention(
        model, clips, t, schedule, seen, noise, generator, prediction_type
    )


def train_step_on_windows(
    model: nn.Module,
    x_0: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    context: Context | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    prediction_type: PredictionType = "eps",
) -> Tensor:
    """`train_step_on_bytes` on squares of `CLOSE_UP` around the light, give or take two pixels.

    Later `MotionCompensated` finds the light in a guess of the picture, and not to the pixel.
    """
    if generator is None:
        raise ValueError("generator must be given: it draws where the light is found")
    pictures = to_unit(x_0)
    middles = find_light(pictures)
    off = torch.randint(-2, 3, middles.shape, generator=generator, device="cpu")
    square = window(middles + off.to(middles.device), pictures.shape[2:], CLOSE_UP)
    seen = pictures.movedim(1, -1)[square].movedim(-1, 1)  # (B, 1, CLOSE_UP, CLOSE_UP)
    return train_step_with_plain_attention(
        model, seen, t, schedule, context, noise, generator, prediction_type
    )


@dataclass(frozen=True, kw_only=True)
class SpeechRecipe(DiffusionRecipe):
    """A UNet over time that speaks: what is heard in each frame is given, or a text is read."""

    time_dim: int
    timings: bool
    text_levels: tuple[int, ...]
    text_dim: int
    n_tokens: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the model draws, a mel spectrogram."""
        return N_MELS, N_FRAMES

    def tokenizer(self) -> Tokenizer:
        """Make the tokenizer, whose vocabulary is that of the digits."""
        return Tokenizer(WORDS, self.n_tokens)

    def model(self) -> UNet1d:  # type: ignore[override]
        """Make the untrained model."""
        return UNet1d(
            N_MELS,
            N_MELS,
            self.channels,
            self.n_blocks,
            self.attention_levels,
            self.time_dim,
            n_classes=len(VOICES),
            frame_channels=len(PHONEMES) if self.timings else 0,
            n_words=None if self.timings else len(self.tokenizer()),
            text_levels=self.text_levels,
            text_dim=self.text_dim,
            n_tokens=self.n_tokens,
        )

    def data(self, device: torch.device) -> tuple[Tensor, Context]:
        """Return the spectrograms of the training split, as bytes, their voices and texts."""
        speech = load_speech("train")
        text = {"frames": speech.frames} if self.timings else self.tokenizer()(speech.texts)
        return speech.mels, {"labels": speech.voices, **text}

    def null_context(self) -> Context:
        """Return what stands for no voice and no text in particular."""
        voice = {"labels": torch.tensor(len(VOICES), device="cpu")}
        if self.timings:
            silence = torch.zeros(len(PHONEMES), N_FRAMES, dtype=torch.uint8, device="cpu")
            return voice | {"frames": silence}
        return voice | {name: values[0] for name, values in self.tokenizer()([""]).items()}

    @property
    def loss(self) -> Callable[..., Tensor]:
        """What the training minimises."""
        return train_step_on_bytes


@dataclass(frozen=True, kw_only=True)
class ChoraleRecipe(DiffusionRecipe):
    """A UNet over time on rolls of Bach's chorales, half of them transposed."""

    time_dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the model draws."""
        return N_CHANNELS, LENGTH

    def model(self) -> UNet1d:  # type: ignore[override]
        """Make the untrained model."""
        return UNet1d(
            N_CHANNELS,
            N_CHANNELS,
            self.channels,
            self.n_blocks,
            self.attention_levels,
            self.time_dim,
        )

    def data(self, device: torch.device) -> tuple[Tensor, Context]:
        """Return all passages of the training split that begin on a beat, (N, 8, LENGTH) int64."""
        return torch.cat(passages(load_chorales("train"), hop=BEAT), dim=1), {}

    def null_context(self) -> None:
        """Return None: it is told nothing."""
        return

    @property
    def loss(self) -> Callable[..., Tensor]:
        """What the training minimises."""
        return train_step_on_scores


def train_step_on_scores(
    model: nn.Module,
    x_0: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    context: Context | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    prediction_type: PredictionType = "eps",
) -> Tensor:
    """`train_step` for scores (B, 8, L) int64, pitches over onsets, half of them transposed.

    All keys in which no voice leaves its range are equally likely for that half; the other stays as
    it was written, so that the model learns in which keys Bach wrote, too.
    """
    pitches, onsets = x_0.chunk(2, dim=1)  # (B, 8, L) -> 2 x (B, 4, L)
    low, high = transpositions(pitches)  # (B,) each
    drawn = torch.rand(2, len(x_0), generator=generator, device="cpu").to(low.device)
    semitones = low + (drawn[0] * (high - low + 1)).long()
    semitones = torch.where(drawn[1] < 0.5, semitones, 0)
    roll = to_roll(Score(pitches + semitones[:, None, None], onsets.bool()))
    return train_step_with_plain_attention(
        model, roll, t, schedule, context, noise, generator, prediction_type
    )


@dataclass(frozen=True, kw_only=True)
class ClipRecipe(DiffusionRecipe):
    """A UNet over space and time that reads captions, on moving fashion.

    It first learns to draw, and then, in fewer steps, also to complete what is known of a clip. A
    second one learns to draw pictures of what flies. At last a small network learns how far to
    trust these.
    """

    guidance_scale: ClassVar[float] = 3.0  # to be drawn with; no part of the training

    text_levels: tuple[int, ...]
    text_dim: int
    n_tokens: int
    patch: int
    time_levels: tuple[int, ...]
    snr_factor: float
    n_clips: int
    n_known_steps: int
    known_learning_rate: float
    known_dropout: float
    picture_channels: tuple[int, ...]
    picture_text_dim: int
    n_pictures: int
    n_picture_steps: int
    picture_batch_size: int
    n_motion_steps: int
    motion_width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the model draws."""
        return 1, N_CLIP_FRAMES, CLIP_SIDE, CLIP_SIDE

    def schedule(self) -> NoiseSchedule:
        """Make the noise schedule of the training, shifted."""
        return shift_schedule(super().schedule(), self.snr_factor)

    def tokenizer(self) -> Tokenizer:
        """Make the tokenizer, whose vocabulary is that of the captions."""
        return Tokenizer(clip_words(), self.n_tokens)

    def model(self) -> MotionCompensated:  # type: ignore[override]
        """Make the untrained model."""
        n_words = len(self.tokenizer())
        model = VideoUNet(
            n_words,
            patch=self.patch,
            channels=self.channels,
            n_blocks=self.n_blocks,
            text_levels=self.text_levels,
            time_levels=self.time_levels,
            text_dim=self.text_dim,
            n_tokens=self.n_tokens,
        )
        picture = TextUNet(
            n_words,
            1,
            1,
            self.picture_channels,
            self.n_blocks,
            self.text_levels,
            self.picture_text_dim,
            self.n_tokens,
        )
        large_groups(picture)
        schedule, width = self.schedule(), self.motion_width
        return MotionCompensated(model, picture, schedule, patch=self.patch, width=width)

    def data(self, device: torch.device) -> tuple[Tensor, Context]:
        """Return clips of the training split, as bytes, and their captions."""
        clips, _, captions = load_clips("train", self.n_clips)
        return clips, self.tokenizer()(captions)

    def pictures(self) -> tuple[Tensor, Context]:
        """Return first frames of clips, (N, 1, 40, 40) as bytes, and their captions."""
        clips, _, captions = load_clips("train", self.n_pictures, n_frames=1)
        return clips[:, :, 0], self.tokenizer()(captions)

    def null_context(self) -> Context:
        """Return the empty caption."""
        return {name: values[0] for name, values in self.tokenizer()([""]).items()}

    def train(self, model: nn.Module, ema: EMA, state_path: Path | None) -> Iterator[Progress]:
        """Train in four stages; each part that learned goes on as the average of its weights."""
        assert isinstance(model, MotionCompensated)
        assert isinstance(ema.model, MotionCompensated)
        clips = self.data(next(model.parameters()).device)
        unet, picture = EMA(model.model, self.ema_decay), EMA(model.picture, self.ema_decay)
        known = replace(
            self,
            n_steps=self.n_known_steps,
            learning_rate=self.known_learning_rate,
            label_dropout=self.known_dropout,
            seed=self.seed + 1,
        )
        pictures = replace(
            self,
            n_steps=self.n_picture_steps,
            batch_size=self.picture_batch_size,
            snr_factor=self.snr_factor * N_CLIP_FRAMES,  # the mean of all frames is one picture
        )
        motion = replace(
            self, n_steps=self.n_motion_steps, label_dropout=self.known_dropout, seed=self.seed + 2
        )
        states, done = [], 0
        for name, recipe, part, average, data, loss in (
            ("draw", self, model.model, unet, clips, train_step_on_bytes),
            ("known", known, model.model, unet, clips, train_step_on_known),
            ("picture", pictures, model.picture, picture, self.pictures(), train_step_on_windows),
            ("motion", motion, model, ema, clips, train_step_on_known),
        ):
            if part is model:  # what stands around the two networks learns alone
                ema.model.model.load_state_dict(unet.model.state_dict())
                ema.model.picture.load_state_dict(picture.model.state_dict())
                model.model.requires_grad_(False)
                model.picture.requires_grad_(False)
            part.load_state_dict(average.model.state_dict())
            states.append(state_path and state_path.with_stem(f"{state_path.stem}-{name}"))
            for step, value in recipe.learn(part, data, average, states[-1], loss):
                yield Progress(done + step, value)
            done += recipe.n_steps
        for state in filter(None, states):
            state.unlink()


@dataclass(frozen=True)
class JudgeRecipe:
    """A classifier of Fashion-MNIST."""

    name: str
    about: str
    n_steps: int
    batch_size: int
    learning_rate: float
    n_warmup: int
    weight_decay: float
    label_smoothing: float
    ema_decay: float
    seed: int = 0

    def model(self) -> Judge:
        """Make the untrained model."""
        return Judge()

    def train(self, model: nn.Module, ema: EMA, state_path: Path | None) -> Iterator[Progress]:
        """Train the classifier on the training split, mirrored and shifted at random."""
        x_0, labels = load_fashion("train")
        device = next(model.parameters()).device

        def loss_of(generator: torch.Generator) -> Tensor:
            index = draw_integers(len(x_0), self.batch_size, generator)
            logits = model(augment(x_0[index], generator).to(device))
            return F.cross_entropy(
                logits.float(), labels[index].to(device), label_smoothing=self.label_smoothing
            )

        return fit(
            model,
            loss_of,
            n_steps=self.n_steps,
            learning_rate=self.learning_rate,
            n_warmup=self.n_warmup,
            weight_decay=self.weight_decay,
            ema=ema,
            seed=self.seed,
            state_path=state_path,
        )


@dataclass(frozen=True)
class ListenerRecipe:
    """A recogniser of spoken digits, trained on voices that no generator has heard."""

    name: str
    about: str
    width: int
    n_steps: int
    batch_size: int
    learning_rate: float
    n_warmup: int
    weight_decay: float
    ema_decay: float
    seed: int = 0

    def model(self) -> Listener:
        """Make the untrained model."""
        return Listener(self.width)

    def train(self, model: nn.Module, ema: EMA, state_path: Path | None) -> Iterator[Progress]:
        """Train the recogniser on its own voices."""
        assert isinstance(model, Listener)
        speech = load_speech("listener")

        def loss_of(generator: torch.Generator) -> Tensor:
            index = draw_integers(len(speech.mels), self.batch_size, generator)
            texts = [speech.texts[i] for i in index.tolist()]
            return listener_loss(model, to_unit(speech.mels[index]), texts, generator)

        return fit(
            model,
            loss_of,
            n_steps=self.n_steps,
            learning_rate=self.learning_rate,
            n_warmup=self.n_warmup,
            weight_decay=self.weight_decay,
            ema=ema,
            seed=self.seed,
            state_path=state_path,
        )


def recipe_hash(recipe: Any) -> str:
    """Sixteen hexadecimal digits that change whenever the recipe does."""
    text = json.dumps(asdict(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_steps(recipe: Any) -> dict[str, int]:
    """Steps of each stage of a training, by the name of the recipe's field; mostly there is one.

    >>> stage_steps(CAPTIONED_VAE)
    {'n_steps': 7000, 'n_decoder_steps': 20000}
    """
    return {
        name: value
        for name, value in asdict(recipe).items()
        if name.startswith("n_") and name.endswith("steps")
    }


Recipe = DiffusionRecipe | AutoencoderRecipe | JudgeRecipe | ListenerRecipe


def with_steps(recipe: Recipe, n_steps: int) -> Recipe:
    """Make the first stage of a training n_steps long, and the others longer or shorter alike.

    >>> stage_steps(with_steps(CAPTIONED_VAE, 70))
    {'n_steps': 70, 'n_decoder_steps': 200}
    """
    stages: dict[str, Any] = {
        name: max(value * n_steps // recipe.n_steps, 1)
        for name, value in stage_steps(recipe).items()
    }
    return replace(recipe, **stages)


FASHION_VAE = AutoencoderRecipe(
    name="fashion-vae",
    about="a KL autoencoder of Fashion-MNIST; chapter 09",
    latent_channels=4,
    channels=(24, 48, 80),
    kl_weight=5e-4,
    n_steps=8000,
    batch_size=32,
    learning_rate=2e-3,
    n_warmup=200,
    weight_decay=0.0,
    ema_decay=0.998,
)

CAPTIONED_VAE = CaptionedAutoencoderRecipe(
    name="captioned-vae",
    about="a KL autoencoder of captioned fashion, 32x32 in colour; chapter 10",
    latent_channels=8,
    channels=(24, 48, 80),
    kl_weight=5e-4,
    n_steps=7000,
    batch_size=32,
    learning_rate=1e-3,
    n_warmup=500,
    weight_decay=0.0,
    ema_decay=0.998,
    n_decoder_steps=20_000,
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DiffusionRecipe(
            name="fashion",
            about="Fashion-MNIST by class label; chapters 00 to 08",
            channels=(48, 96, 160),
            attention_levels=(),  # the bottom, 7x7, has it always
            n_blocks=1,
            schedule_name="cosine",
            prediction_type="v",
            n_steps=9000,
            batch_size=64,
            learning_rate=1e-3,
            n_warmup=300,
            label_dropout=0.1,
            ema_decay=0.999,
        ),
        HybridRecipe(
            name="fashion-improved",
            about="a small one with a learned variance; chapter 06",
            channels=(24, 48, 80),
            attention_levels=(),
            n_blocks=1,
            schedule_name="cosine",
            prediction_type="v",
            n_steps=8000,
            batch_size=64,
            learning_rate=1e-3,
            n_warmup=300,
            label_dropout=0.1,
            ema_decay=0.999,
        ),
        CAPTIONED_VAE,
        CaptionRecipe(
            name="captioned",
            about="text to image, in the latent space of captioned-vae; chapter 10",
            channels=(88,),
            attention_levels=(),
            n_blocks=2,
            schedule_name="cosine",
            prediction_type="v",
            n_steps=25_000,
            batch_size=256,
            learning_rate=1.5e-3,
            n_warmup=500,
            label_dropout=0.1,
            ema_decay=0.9995,
            autoencoder=CAPTIONED_VAE.name,
            autoencoder_hash=recipe_hash(CAPTIONED_VAE),
            text_levels=(0,),
            text_dim=64,
            n_tokens=20,
            n_paintings=4,
        ),
        JudgeRecipe(
            name="judge",
            about="Fashion-MNIST classifier; looks at samples, never at a training",
            n_steps=5000,
            batch_size=128,
            learning_rate=2e-3,
            n_warmup=200,
            weight_decay=0.05,
            label_smoothing=0.1,
            ema_decay=0.995,
        ),
        FASHION_VAE,
        LatentRecipe(
            name="fashion-latent",
            about="Fashion-MNIST by class label, in the latent space of fashion-vae; chapter 09",
            channels=(56,),
            attention_levels=(),  # the bottom, 7x7, has it always
            n_blocks=2,
            schedule_name="cosine",
            prediction_type="v",
            n_steps=12000,
            batch_size=64,
            learning_rate=1e-3,
            n_warmup=300,
            label_dropout=0.1,
            ema_decay=0.999,
            autoencoder=FASHION_VAE.name,
            autoencoder_hash=recipe_hash(FASHION_VAE),
        ),
        SuperResolutionRecipe(
            name="super-resolution",
            about="Fashion-MNIST from 7x7 to 28x28; chapter 11",
            channels=(24, 48, 48),
            attention_levels=(),
            n_blocks=1,
            schedule_name="cosine",
            prediction_type="v",
            n_steps=4000,
            batch_size=32,
            learning_rate=1e-3,
            n_warmup=300,
            label_dropout=0.0,  # it is always given its image
            ema_decay=0.999,
        ),
        SpeechRecipe(
            name="speech",
            about="spoken digits in six voices, each frame told its phoneme; chapter 12",
            channels=(64, 80, 112),
            attention_levels=(),  # the bottom, 32 frames, has it always
            n_blocks=1,
            schedule_name="cosine",
            # As many bands as channels leave no room for the noise that v would ask for.
            prediction_type="x_0",
            n_steps=3000,
            batch_size=32,
            learning_rate=1.5e-3,
            n_warmup=200,
            label_dropout=0.1,
            ema_decay=0.999,
            time_dim=128,
            timings=True,
            text_levels=(1, 2),
            text_dim=64,
            n_tokens=5,
        ),
        SpeechRecipe(
            name="speech-attention",
            about="spoken digits in six voices, from words alone; chapter 12",
            channels=(64, 80, 96),
            attention_levels=(),  # the bottom, 32 frames, has it always
            n_blocks=1,
            schedule_name="cosine",
            # As many bands as channels leave no room for the noise that v would ask for.
            prediction_type="x_0",
            n_steps=6000,
            batch_size=32,
            learning_rate=1.5e-3,
            n_warmup=200,
            label_dropout=0.1,
            ema_decay=0.999,
            time_dim=128,
            timings=False,
            text_levels=(1, 2),
            text_dim=64,
            n_tokens=5,
        ),
        ListenerRecipe(
            name="listener",
            about="spoken digits; listens to speech, never to a training; chapter 12",
            width=96,
            n_steps=2000,
            batch_size=32,
            learning_rate=2e-3,
            n_warmup=200,
            weight_decay=0.05,
            ema_decay=0.995,
        ),
        ChoraleRecipe(
            name="chorales",
            about="Bach's chorales in four voices; chapter 12",
            channels=(64, 64, 80),
            attention_levels=(),  # the bottom, 32 beats, has it always
            n_blocks=1,
            schedule_name="cosine",
            prediction_type="x_0",
            n_steps=6000,
            batch_size=32,
            learning_rate=2e-3,
            n_warmup=300,
            label_dropout=0.0,  # it is told nothing
            ema_decay=0.999,
            time_dim=128,
        ),
        ClipRecipe(
            name="clips",
            about="text to video, moving fashion, 16 frames at 40x40; chapter 13",
            channels=(32, 32, 48),
            attention_levels=(),
            n_blocks=1,
            schedule_name="cosine",
            prediction_type="v",
            n_steps=12_000,
            batch_size=8,
            learning_rate=2e-3,
            n_warmup=300,
            label_dropout=0.1,
            ema_decay=0.999,
            text_levels=(2,),
            text_dim=48,
            n_tokens=16,
            patch=2,
            time_levels=(2,),
            snr_factor=1 / 16,  # as many frames show the same garment
            n_clips=24_000,
            n_known_steps=6000,
            known_learning_rate=1e-3,
            known_dropout=0.3,
            picture_channels=(32, 48, 48),
            picture_text_dim=32,
            n_pictures=60_000,
            n_picture_steps=9000,
            picture_batch_size=64,
            n_motion_steps=3000,
            motion_width=16,
        ),
    )
}

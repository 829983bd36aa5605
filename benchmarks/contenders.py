"""minidiff and its peers, each with its own model, recipe and sampler, behind one small interface.

The recipes are those that each library publishes for small images:

* diffusers: `examples/unconditional_image_generation` with the settings of its README;
* denoising-diffusion-pytorch: the defaults of `GaussianDiffusion` and `Trainer`;
* smalldiffusion: `examples/fashion_mnist_unet.py`.

Two of them need sizes that divide by 8 and get the images with a border of two pixels. None is
told the classes. All draw with 25 calls of the model, each with its library's own sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff import EMA, Denoiser, autocast, sample_dpm_solver, train
from minidiff.training import draw_integers, step_generator
from minidiff.zoo import RECIPES, DiffusionRecipe

N_CALLS = 25
BATCH = 64  # where the settings are equal

Setting = Literal["own", "bf16", "equal"]
SETTINGS: dict[Setting, str] = {
    "own": "its own defaults",
    "bf16": "the same model, bfloat16, channels last, batches of 64",
    "equal": "about as many parameters as minidiff's, likewise",
}


@dataclass(frozen=True)
class Contender:
    """A model in training and the sampler that goes with it.

    Attributes:
        model: What is trained.
        batch_size: Images a step.
        steps: Yields after each optimizer step, on images (N, 1, 28, 28) in [-1, 1].
        sample: Draws that many images (n, 1, 28, 28) from the averaged weights.
    """

    model: nn.Module
    batch_size: int
    steps: Callable[[Tensor], Iterator[object]]
    sample: Callable[[int], Tensor]


def minidiff(setting: Setting, n_steps: int, device: torch.device) -> Contender:
    """The recipe of `fashion` without labels; it has bfloat16 and channels last by itself."""
    recipe = RECIPES["fashion"]
    assert isinstance(recipe, DiffusionRecipe)
    recipe = replace(recipe, n_steps=n_steps)
    model = recipe.model()
    model.labels = None
    model.to(device)
    ema, schedule = EMA(model, recipe.ema_decay), recipe.schedule()

    def steps(x_0: Tensor) -> Iterator[object]:
        return train(
            model,
            x_0,
            schedule,
            n_steps=n_steps,
            batch_size=recipe.batch_size,
            prediction_type=recipe.prediction_type,
            learning_rate=recipe.learning_rate,
            n_warmup=recipe.n_warmup,
            ema=ema,
        )

    def sample(n: int) -> Tensor:
        denoise = Denoiser(ema.model, schedule, recipe.prediction_type)
        with autocast(device):
            return sample_dpm_solver(denoise, (n, 1, 28, 28), N_CALLS, device=device).float()

    return Contender(model, recipe.batch_size, steps, sample)


def diffusers(setting: Setting, n_steps: int, device: torch.device) -> Contender:
    """UNet2DModel with DDPM's loss, drawn from by DPM-Solver++."""
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    widths = (32, 32, 80, 96) if setting == "equal" else (32, 64, 128, 256)
    model = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=widths,
        norm_num_groups=16 if setting == "equal" else 32,
    ).to(device)
    noising = DDPMScheduler(1000)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6
    )
    decay = get_cosine_schedule_with_warmup(optimizer, 500, max(n_steps, 501))
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)

    def loss_of(x_0: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(x_0.shape, generator=generator).to(device)
        t = draw_integers(1000, len(x_0), generator).to(device)
        predicted = model(noising.add_noise(x_0, noise, t), t).sample
        return F.mse_loss(predicted.float(), noise)

    def after_step() -> None:
        decay.step()
        ema.step(model.parameters())

    @torch.no_grad()
    def sample(n: int) -> Tensor:
        sampler = DPMSolverMultistepScheduler.from_config(noising.config)
        sampler.set_timesteps(N_CALLS)
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
        x = torch.randn(n, 1, 32, 32).to(device)
        for t in sampler.timesteps:
            with precision(setting, device):
                predicted = model(x, t).sample
            x = sampler.step(predicted.float(), t, x).prev_sample
        ema.restore(model.parameters())
        return x[:, :, 2:-2, 2:-2].clamp(-1, 1)

    size = 16 if setting == "own" else BATCH
    return peer(model, size, loss_of, optimizer, after_step, sample, setting, border=2)


def denoising_diffusion_pytorch(setting: Setting, n_steps: int, device: torch.device) -> Contender:
    """Unet(dim=32) with v, a sigmoid schedule and mirrored images, drawn from by DDIM."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA as Average  # noqa: N811

    mults = (1, 2, 4) if setting == "equal" else (1, 2, 4, 8)
    unet = Unet(dim=36 if setting == "equal" else 32, dim_mults=mults, channels=1)
    model = GaussianDiffusion(unet, image_size=32, sampling_timesteps=N_CALLS).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = Average(model, beta=0.995, update_every=10)

    def loss_of(x_0: Tensor, generator: torch.Generator) -> Tensor:
        loss: Tensor = model((mirrored(x_0, generator) + 1) / 2)  # it draws t and noise itself
        return loss

    @torch.no_grad()
    def sample(n: int) -> Tensor:
        with precision(setting, device):
            x = ema.ema_model.sample(batch_size=n)
        return 2 * x[:, :, 2:-2, 2:-2].float() - 1

    size = 16 if setting == "own" else BATCH
    return peer(model, size, loss_of, optimizer, ema.update, sample, setting, border=2)


def smalldiffusion(setting: Setting, n_steps: int, device: torch.device) -> Contender:
    """Its Fashion-MNIST UNet, mirrored images, drawn from by its accelerated sampler."""
    from ema_pytorch import EMA as Average  # noqa: N811
    from smalldiffusion import ScheduleLogLinear, Unet, samples
    from smalldiffusion.diffusion import generate_train_sample
    from smalldiffusion.model import Scaled

    schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
    n_blocks = 1 if setting == "equal" else 2
    model = Scaled(Unet)(
        28, 1, 1, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(14,), num_res_blocks=n_blocks
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=7e-4)
    ema = Average(model, beta=0.999, update_every=1, update_after_step=0)

    def loss_of(x_0: Tensor, generator: torch.Generator) -> Tensor:
        x_0, sigma, noise, _ = generate_train_sample(mirrored(x_0, generator), schedule)
        loss: Tensor = model.get_loss(x_0, sigma, noise)
        return loss

    @torch.no_grad()
    def sample(n: int) -> Tensor:
        from accelerate import Accelerator

        sigmas = schedule.sample_sigmas(N_CALLS)
        with precision(setting, device):
            *_, x = samples(
                ema.ema_model,
                sigmas,
                gam=1.6,
                batchsize=n,
                accelerator=Accelerator(cpu=device.type == "cpu"),
            )
        return x.float().clamp(-1, 1)

    size = 1024 if setting == "own" else BATCH
    return peer(model, size, loss_of, optimizer, ema.update, sample, setting)


def peer(
    model: nn.Module,
    batch_size: int,
    loss_of: Callable[[Tensor, torch.Generator], Tensor],
    optimizer: torch.optim.Optimizer,
    after_step: Callable[[], object],
    sample: Callable[[int], Tensor],
    setting: Setting,
    border: int = 0,
) -> Contender:
    """Make a contender of a library that leaves the loop to its user."""
    device = next(model.parameters()).device
    if setting != "own":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def steps(x_0: Tensor) -> Iterator[object]:
        model.train()
        step = 0
        while True:
            step += 1
            generator = step_generator(0, step)
            batch = x_0[draw_integers(len(x_0), batch_size, generator)].to(device)
            with precision(setting, device):
                loss = loss_of(F.pad(batch, [border] * 4, value=-1.0), generator)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            after_step()
            yield loss.item()

    return Contender(model, batch_size, steps, sample)


def precision(setting: Setting, device: torch.device) -> AbstractContextManager[Any]:
    """Leave the arithmetic as it is at a library's own defaults, else bfloat16."""
    return nullcontext() if setting == "own" else autocast(device)


def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, at random."""
    flip = torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device) < 0.5
    return torch.where(flip, x.flip(-1), x)


CONTENDERS: dict[str, Callable[[Setting, int, torch.device], Contender]] = {
    "minidiff": minidiff,
    "diffusers": diffusers,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
    "smalldiffusion": smalldiffusion,
}

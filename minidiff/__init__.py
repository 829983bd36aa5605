"""minidiff: diffusion models built by hand, chapter by chapter.

Each chapter is a module, in the order of the course; their public names stand here as well. Beside
them, `data` holds what is learned from, `zoo` what was trained, and `lab` what a notebook shows.
"""

from minidiff.ddpm import (
    Denoiser,
    Prediction,
    Step,
    ddpm_steps,
    posterior,
    respace,
    sample_ddpm,
    trailing_timesteps,
)  # isort: skip
from minidiff.forward import (
    NoiseSchedule,
    cosine_schedule,
    extract,
    forward_diffusion,
    linear_schedule,
    noise_like,
)
from minidiff.training import EMA, Progress, autocast, fit, train, train_step, training_target
from minidiff.unet import (
    Attention,
    DownBlock,
    MidBlock,
    ResBlock,
    UNet,
    UpBlock,
    get_timestep_embedding,
)

__version__ = "0.1.0"

__all__ = [
    "EMA",
    "Attention",
    "Denoiser",
    "DownBlock",
    "MidBlock",
    "NoiseSchedule",
    "Prediction",
    "Progress",
    "ResBlock",
    "Step",
    "UNet",
    "UpBlock",
    "autocast",
    "cosine_schedule",
    "ddpm_steps",
    "extract",
    "fit",
    "forward_diffusion",
    "get_timestep_embedding",
    "linear_schedule",
    "noise_like",
    "posterior",
    "respace",
    "sample_ddpm",
    "trailing_timesteps",
    "train",
    "train_step",
    "training_target",
]

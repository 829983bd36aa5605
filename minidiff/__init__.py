"""minidiff: diffusion models built by hand, chapter by chapter.

Each chapter is a module, in the order of the course; their public names stand here as well. Beside
them, `data` holds what is learned from, `zoo` what was trained, and `lab` what a notebook shows.
"""

from minidiff.ddim import (
    ddim_invert,
    ddim_step,
    ddim_steps,
    dpm_solver_steps,
    sample_ddim,
    sample_dpm_solver,
    slerp,
)
from minidiff.ddpm import (
    Denoiser,
    Prediction,
    Step,
    ddpm_steps,
    posterior,
    respace,
    sample_ddpm,
    trailing_timesteps,
)
from minidiff.evaluation import (
    Measured,
    PrecisionRecall,
    copying_z,
    frechet_distance,
    kernel_distance,
    nearest,
    nearest_distances,
    precision_recall,
)
from minidiff.forward import (
    NoiseSchedule,
    cosine_schedule,
    extract,
    forward_diffusion,
    linear_schedule,
    noise_like,
)
from minidiff.guidance import composed, guided
from minidiff.improved import (
    Bound,
    ImportanceSampler,
    bits_per_dimension,
    discretised_log_likelihood,
    hybrid_loss,
    learned_log_variance,
    learned_variance,
    normal_kl,
    posterior_log_variance,
    prior_term,
    vlb_term,
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
    "Bound",
    "Denoiser",
    "DownBlock",
    "ImportanceSampler",
    "Measured",
    "MidBlock",
    "NoiseSchedule",
    "PrecisionRecall",
    "Prediction",
    "Progress",
    "ResBlock",
    "Step",
    "UNet",
    "UpBlock",
    "autocast",
    "bits_per_dimension",
    "composed",
    "copying_z",
    "cosine_schedule",
    "ddim_invert",
    "ddim_step",
    "ddim_steps",
    "ddpm_steps",
    "discretised_log_likelihood",
    "dpm_solver_steps",
    "extract",
    "fit",
    "forward_diffusion",
    "frechet_distance",
    "get_timestep_embedding",
    "guided",
    "hybrid_loss",
    "kernel_distance",
    "learned_log_variance",
    "learned_variance",
    "linear_schedule",
    "nearest",
    "nearest_distances",
    "noise_like",
    "normal_kl",
    "posterior",
    "posterior_log_variance",
    "precision_recall",
    "prior_term",
    "respace",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpm_solver",
    "slerp",
    "trailing_timesteps",
    "train",
    "train_step",
    "training_target",
    "vlb_term",
]

"""The interactives of the course: a picture, some controls, and a sentence that reads them.

Every interactive is one `Explorer`: controls and a function from their values to a figure and a
sentence. Where no kernel runs (on the web, in print) its first picture is shown instead.
"""

from __future__ import annotations

import base64
import gc
import html
import io
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import ipywidgets
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image as PILImage
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from minidiff.audio import word_errors
from minidiff.data.chorales import BEAT, Score, from_roll, synthesize, to_roll, voice_channels
from minidiff.ddim import ddim_invert, sample_ddim, sample_dpm_solver, slerp
from minidiff.ddpm import Denoiser, Step, respace
from minidiff.editing import inpaint
from minidiff.evaluation import (
    copying_z,
    frechet_distance,
    kernel_distance,
    nearest_distances,
    precision_recall,
)
from minidiff.forward import (
    NoiseSchedule,
    cosine_schedule,
    forward_diffusion,
    linear_schedule,
    noise_like,
)
from minidiff.guidance import guided
from minidiff.improved import learned_log_variance
from minidiff.lab.show import (
    COLORS,
    draw_images,
    draw_mel,
    draw_score,
    figure,
    mp3,
    png,
    quick_png,
)
from minidiff.latent import Autoencoder
from minidiff.text import Tokenizer, watch_attention
from minidiff.training import PredictionType, autocast, training_target
from minidiff.unet import UNet
from minidiff.zoo.music import forms_chord

Draw = Callable[..., tuple[Figure, str]]

# What ipywidgets leaves out: names by which a screen reader calls sliders and their readouts, and
# that keys belong to the control that has the focus (JupyterLab moves to another cell at an arrow).
ACCESS = """
requestAnimationFrame(() => {  // when all of the box stands in the page
  const box = element.closest(".widget-vbox");
  for (const part of box.querySelectorAll("select, .noUi-handle, .widget-readout")) {
    part.setAttribute("data-lm-suppress-shortcuts", "true");
    const label = part.closest(".widget-inline-hbox").querySelector("label");
    part.setAttribute("aria-label", label.textContent);
    if (part.isContentEditable) part.setAttribute("role", "textbox");
  }
});
"""


class Explorer:
    """Controls above a picture that follows them.

    A move redraws nothing that was drawn before, and computes the figure's layout no second time.

    Args:
        draw: Takes the value of each control by name; returns a figure and a sentence that says
            what is to be seen in it (shown below the picture, and the picture's alt text). Its
            figures have their axes and titles in the same places.
        controls: Widgets by the names of draw's arguments, in the order in which they appear.

    >>> from minidiff.lab.show import figure
    >>> slider = ipywidgets.IntSlider(value=3, min=0, max=9, description="t")
    >>> explorer = Explorer(lambda t: (figure()[0], f"t is {t}."), {"t": slider})
    >>> slider.value = 4
    >>> explorer.sentence
    't is 4.'
    """

    def __init__(self, draw: Draw, controls: Mapping[str, ipywidgets.ValueWidget]) -> None:
        self.draw = draw
        self.controls = dict(controls)
        self.picture = ipywidgets.HTML()
        self.text = ipywidgets.HTML()
        script = {"output_type": "display_data", "metadata": {}}
        script["data"] = {"application/javascript": ACCESS}
        access = ipywidgets.Output(outputs=(script,))
        self.typed: ipywidgets.Text | None = None  # where one may type, if anywhere
        self.answer: ipywidgets.HTML | None = None  # what is said to what was typed
        self.box = ipywidgets.VBox([*self.controls.values(), self.picture, self.text, access])
        self._places: list[Any] = []  # of the first figure's axes and title
        self._frame = lru_cache(maxsize=256)(self._render)
        for control in self.controls.values():
            control.style.description_width = "9em"
            control.layout.width = "32em"
            control.observe(self._update, names="value")
        self._update()
        gc.collect()  # now, while nobody waits: it would hold up one of the first moves

    def _update(self, change: Any = None) -> None:
        """Show the frame of the controls' present values."""
        self.png, self.sentence = self._frame(*(c.value for c in self.controls.values()))
        data, alt = base64.b64encode(self.png).decode(), html.escape(self.sentence)
        self.picture.value = f'<img src="data:image/png;base64,{data}" alt="{alt}">'
        self.text.value = f'<span role="status" aria-live="polite">{alt}</span>'

    def _render(self, *values: Hashable) -> tuple[bytes, str]:
        """Draw one frame: the first as a small file, which is saved, later ones in little time."""
        fig, sentence = self.draw(**dict(zip(self.controls, values, strict=True)))
        if not self._places:
            data = png(fig)
            self._places = [ax.get_position(original=True) for ax in fig.axes]
            self._places += [text.get_position() for text in fig.texts]
            return data, sentence
        fig.set_layout_engine("none")
        parts: list[Any] = [*fig.axes, *fig.texts]
        for part, place in zip(parts, self._places, strict=True):
            part.set_position(place)
        return quick_png(fig), sentence

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Show the live widget where there is a kernel, and the picture everywhere else."""
        bundle: dict[str, Any] = self.box._repr_mimebundle_(**kwargs) or {}
        picture = base64.b64encode(self.png).decode()
        bundle |= {"image/png": picture, "text/plain": self.sentence}
        return bundle, {"image/png": {"alt": self.sentence}}


def forward_explorer(x_0: Tensor, seed: int = 0) -> Explorer:
    """Images at any timestep of two schedules; only the mixture changes, the noise stays.

    Args:
        x_0: Clean images (B, C, H, W) in [-1, 1], one row of them.
        seed: Of the noise.

    >>> explorer = forward_explorer(torch.zeros(2, 1, 8, 8))
    >>> explorer.controls["t"].value = 999
    >>> explorer.sentence
    't = 999, linear: x_t = 0.0064 x_0 + 1.0000 noise. SNR 4e-05: more noise than picture.'
    """
    schedules = {"linear": linear_schedule(), "cosine": cosine_schedule()}
    noise = noise_like(x_0, torch.Generator().manual_seed(seed))

    def draw(schedule_name: str, t: int) -> tuple[Figure, str]:
        schedule = schedules[schedule_name]
        x_t, _ = forward_diffusion(x_0, torch.full((len(x_0),), t), schedule, noise)
        signal = schedule.alphas_cumprod.sqrt()  # (T,)
        spread = (1 - schedule.alphas_cumprod).sqrt()  # (T,)
        fig, (left, right) = figure(
            "How much of the picture is left?", 1, 2, size=(8.0, 2.4), width_ratios=(2, 1)
        )
        draw_images(left, torch.cat([x_0, x_t]), f"x_0 above x_t at t = {t}", n_columns=len(x_0))
        for weights, label, style, color in (
            (signal, "of x_0", "-", COLORS[0]), (spread, "of the noise", "--", COLORS[1]),
        ):  # fmt: skip
            right.plot(weights, style, color=color, label=label)
            right.plot(t, weights[t], "ko")
        right.set(xlim=(-20, 1019), ylim=(-0.03, 1.03), xlabel="t", ylabel="weight")
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        more = "picture than noise" if schedule.snr[t] > 1 else "noise than picture"
        return fig, (
            f"t = {t}, {schedule_name}: x_t = {signal[t]:.4f} x_0 + {spread[t]:.4f} noise. "
            f"SNR {schedule.snr[t]:.2g}: more {more}."
        )

    controls = {
        "schedule_name": ipywidgets.Dropdown(options=list(schedules), description="schedule"),
        "t": ipywidgets.IntSlider(value=250, min=0, max=999, description="t"),
    }
    return Explorer(draw, controls)


def schedule_explorer() -> Explorer:
    """a_bar and the signal-to-noise ratio over a chain of any length, for three ways to make it.

    >>> explorer = schedule_explorer()
    >>> explorer.controls["n_steps"].value = 100
    >>> explorer.controls["schedule_name"].value = "linear, unscaled"
    >>> explorer.sentence
    'T = 100, linear, unscaled: the last image is 0.6030 x_0 + 0.7978 noise. It is not pure noise.'
    """
    makers: dict[str, Callable[[int], NoiseSchedule]] = {
        "linear": linear_schedule,
        "linear, unscaled": lambda n_steps: NoiseSchedule(
            torch.linspace(1e-4, 0.02, n_steps, dtype=torch.float64)
        ),
        "cosine": cosine_schedule,
    }
    reference = linear_schedule()

    def draw(schedule_name: str, n_steps: int) -> tuple[Figure, str]:
        fig, (left, right) = figure(
            "Does this chain end in pure noise?", 1, 2, size=(8.0, 2.6), sharex=True
        )
        left.set(xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="(t + 1) / T", ylabel="a_bar")
        right.set(xlim=(0, 1), ylim=(-10, 6), xlabel="(t + 1) / T", ylabel="log10 of SNR")
        chains = [(reference, "linear, T = 1000", "0.7", "-")]
        try:
            schedule = makers[schedule_name](n_steps)
        except ValueError as error:  # the linear one refuses T <= 20
            sentence = f"No such chain: {error}."
        else:
            chains.append((schedule, f"{schedule_name}, T = {n_steps}", COLORS[0], "--"))
            signal = schedule.alphas_cumprod[-1].sqrt()
            spread = (1 - schedule.alphas_cumprod[-1]).sqrt()
            verdict = "pure noise, nearly" if signal < 0.01 else "not pure noise"
            sentence = (
                f"T = {n_steps}, {schedule_name}: the last image is {signal:.4f} x_0 + "
                f"{spread:.4f} noise. It is {verdict}."
            )
        for chain, label, color, style in chains:
            progress = torch.arange(1, chain.n_steps + 1) / chain.n_steps  # (T,), 1 at the end
            left.plot(progress, chain.alphas_cumprod, style, color=color, label=label)
            right.plot(progress, chain.snr.log10(), style, color=color)
        left.legend(loc="upper right")
        return fig, sentence

    controls = {
        "schedule_name": ipywidgets.Dropdown(options=list(makers), description="schedule"),
        "n_steps": ipywidgets.SelectionSlider(
            options=[20, 50, 100, 200, 400, 1000, 4000], value=100, description="T"
        ),
    }
    return Explorer(draw, controls)


def loss_explorer(
    model: Callable[..., Tensor],
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    x_0: Tensor,
    labels: Tensor,
    seed: int = 0,
) -> Explorer:
    """What a model makes of noisy images at any timestep, and the loss that it pays there.

    Everything is computed when the explorer is made; the noise is the same at every timestep.

    Args:
        model: Keeps the contract model(x_t, t, context).
        schedule: The schedule it was trained with.
        prediction_type: What it was trained to predict: "eps", "x_0" or "v".
        x_0: Clean images (B, C, H, W) in [-1, 1], one row of them.
        labels: Their classes, (B,) int64.
        seed: Of the noise.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # sees no noise
    >>> grey = torch.zeros(2, 1, 8, 8)
    >>> explorer = loss_explorer(model, cosine_schedule(), "x_0", grey, torch.tensor([3, 7]))
    >>> explorer.controls["t"].value = 999
    >>> explorer.sentence
    't = 999: x_t = 0.000 x_0 + 1.000 noise. The loss is 0.000; x_0 is guessed within 0.00 a pixel.'
    """
    options = sorted({round(i * (schedule.n_steps - 1) / 50) for i in range(51)})
    timesteps = torch.tensor(options)  # (N,): 51 of them, or all of a short chain
    t = timesteps.repeat_interleave(len(x_0))  # (N B,)
    clean = x_0.repeat(len(timesteps), 1, 1, 1)  # (N B, C, H, W)
    noise = noise_like(x_0, torch.Generator().manual_seed(seed))
    x_t, noise = forward_diffusion(clean, t, schedule, noise.repeat(len(timesteps), 1, 1, 1))
    with torch.no_grad():
        output = model(x_t, t, {"labels": labels.repeat(len(timesteps))})
    guess = Denoiser(lambda *_: output, schedule, prediction_type)(x_t, t).x_0
    target = training_target(clean, noise, t, schedule, prediction_type)
    shape = (len(timesteps), -1)
    losses = (output - target).square().reshape(shape).mean(1)  # -> (N,)
    errors = (guess - clean).square().reshape(shape).mean(1).sqrt()  # (N,)
    signal = schedule.alphas_cumprod.sqrt()  # (T,)
    spread = (1 - schedule.alphas_cumprod).sqrt()  # (T,)

    def draw(t: int) -> tuple[Figure, str]:
        i = options.index(t)
        item = slice(i * len(x_0), (i + 1) * len(x_0))
        fig, (left, right) = figure(
            "What can the model still see?", 1, 2, size=(8.0, 2.8), width_ratios=(2, 1)
        )
        rows = "rows: x_0, x_t, what the model takes for x_0"
        draw_images(left, torch.cat([x_0, x_t[item], guess[item]]), rows, n_columns=len(x_0))
        right.plot(timesteps, losses)
        right.plot(t, losses[i], "ko")
        right.set(xlim=(-20, schedule.n_steps + 19), ylim=(0, 1.1 * float(losses.max()) + 1e-6))
        right.set(xlabel="t", ylabel=f"loss ({prediction_type})")
        return fig, (
            f"t = {t}: x_t = {signal[t]:.3f} x_0 + {spread[t]:.3f} noise. "
            f"The loss is {losses[i]:.3f}; x_0 is guessed within {errors[i]:.2f} a pixel."
        )

    control = ipywidgets.SelectionSlider(
        options=options, value=options[len(options) // 2], description="t"
    )
    return Explorer(draw, {"t": control})


def gaussian_explorer() -> Explorer:
    """Explore KL( p || q ) of two normals, with p = N(0, 1) at first (chapter 00).

    >>> explorer = gaussian_explorer()
    >>> for name in ("mu_q", "sigma_q"):
    ...     explorer.controls[name].value = {"mu_q": 0.0, "sigma_q": 1.0}[name]
    >>> explorer.sentence
    'KL(p || q) = 0.000 nats and KL(q || p) = 0.000 nats: p and q are the same.'
    """
    x = torch.linspace(-8, 8, 801, dtype=torch.float64, device="cpu")

    def draw(mu_p: float, sigma_p: float, mu_q: float, sigma_q: float) -> tuple[Figure, str]:
        p, q = Normal(mu_p, sigma_p), Normal(mu_q, sigma_q)
        fig, ax = figure("How far is q from p?", size=(6, 2.6))
        for normal, color, name in ((p, COLORS[0], "p"), (q, COLORS[1], "q")):
            density = torch.exp(normal.log_prob(x))  # type: ignore[no-untyped-call]
            ax.plot(x, density, color=color, label=name)
            ax.fill_between(x, density, alpha=0.15, color=color)
        ax.set(xlim=(-8, 8), ylim=(0, 1.4), xlabel="x", ylabel="density")
        ax.legend()
        there, back = float(kl_divergence(p, q)), float(kl_divergence(q, p))
        reading = f"KL(p || q) = {there:.3f} nats and KL(q || p) = {back:.3f} nats"
        equally_wide = abs(sigma_p - sigma_q) < 0.05  # half a step of the sliders
        if equally_wide and abs(mu_p - mu_q) < 0.05:
            return fig, f"{reading}: p and q are the same."
        if equally_wide:
            return fig, f"{reading}: they agree, since the deviations are equal."
        dearer = "a code for q used on p" if there > back else "a code for p used on q"
        return fig, f"{reading}: {dearer} wastes more."

    def slider(value: float, low: float, high: float, name: str) -> ipywidgets.FloatSlider:
        return ipywidgets.FloatSlider(value, min=low, max=high, step=0.1, description=name)

    return Explorer(
        draw,
        {
            "mu_p": slider(0.0, -3, 3, "mean of p"),
            "sigma_p": slider(1.0, 0.3, 3, "deviation of p"),
            "mu_q": slider(1.5, -3, 3, "mean of q"),
            "sigma_q": slider(0.5, 0.3, 3, "deviation of q"),
        },
    )


def trajectory_explorer(
    steps: Sequence[Step], names: Sequence[str], n_columns: int = 5
) -> Explorer:
    """Scrub through a sampler's run: the sample after each step, and the x_0 predicted in it.

    Args:
        steps: All that a sampler yielded, its images (B, 1, H, W) in [-1, 1].
        names: What each of the B samples is meant to show.
        n_columns: Images a row.

    Raises:
        ValueError: If there are no steps, or not one name for each sample.

    >>> x = torch.zeros(2, 1, 8, 8)
    >>> explorer = trajectory_explorer([Step(999, x + 1, x - 1), Step(499, x, x)], ["bag", "shirt"])
    >>> explorer.controls["step"].value = 1
    >>> explorer.sentence
    'Step 1 of 2, at t = 999: the predicted x_0 differs from the end by 1.00, most for bag (1.00).'
    """
    if not steps:
        raise ValueError("steps must hold at least one step, got none")
    if len(names) != len(steps[0].x):
        raise ValueError(f"names must have {len(steps[0].x)} items, got {len(names)}")
    # (S, B, 1, H, W) each, on the CPU, so that a move computes nothing but the picture
    samples = torch.stack([step.x.float().cpu() for step in steps])
    predictions = torch.stack([step.x_0.float().cpu() for step in steps])
    distances = (predictions - samples[-1]).square().flatten(2).mean(2).sqrt()  # (S, B)

    def draw(step: int) -> tuple[Figure, str]:
        i = step - 1
        fig, axes = figure("What is it going to be?", 1, 2, size=(8.0, 2.4))
        draw_images(axes[0], samples[i], f"x after step {step}", n_columns)
        draw_images(axes[1], predictions[i], "x_0, as predicted in this step", n_columns)
        name, largest = names[int(distances[i].argmax())], distances[i].max()
        sentence = f"Step {step} of {len(steps)}, at t = {steps[i].t}: the predicted x_0 "
        if largest < 0.005:
            return fig, sentence + "is the final one."
        sentence += f"differs from the end by {distances[i].mean():.2f}, "
        return fig, sentence + f"most for {name} ({largest:.2f})."

    step = ipywidgets.IntSlider(
        value=-(-2 * len(steps) // 3), min=1, max=len(steps), description="step"
    )
    return Explorer(draw, {"step": step})


def feature_map_explorer(
    model: UNet, x_0: Tensor, schedule: NoiseSchedule, label: int | None = None, seed: int = 0
) -> Explorer:
    """Look into a UNet: any channel at any level, while it works on one noisy image (chapter 02).

    Every map is computed when the explorer is made; the noise is the same at every timestep. The
    curves tell how much of the clean image a map still carries: the absolute correlation, over
    the map's positions, with the image averaged down to the map's size.

    Args:
        model: The UNet.
        x_0: One clean image, (1, C, H, W) in [-1, 1].
        schedule: The schedule the model was trained with.
        label: Its class, for a model that knows classes; None for no label.
        seed: Of the noise.

    Raises:
        ValueError: If x_0 is not one image.

    >>> model = UNet(channels=(8, 16), attention_levels=())
    >>> explorer = feature_map_explorer(model, torch.zeros(1, 1, 7, 7), cosine_schedule())
    >>> explorer.controls["level"].value = "middle"
    >>> explorer.sentence.split(":")[0]
    'Channel 0 of 16, middle (4x4), t = 599'
    """
    if x_0.ndim != 4 or len(x_0) != 1:
        raise ValueError(f"x_0 must be one image (1, C, H, W), got {tuple(x_0.shape)}")
    t = torch.linspace(0, schedule.n_steps - 1, 11).round().long()  # (N,)
    noise = noise_like(x_0, torch.Generator().manual_seed(seed))
    repeats = (len(t), 1, 1, 1)
    x_t, _ = forward_diffusion(x_0.repeat(repeats), t, schedule, noise.repeat(repeats))
    context = None if label is None else {"labels": torch.full_like(t, label)}
    maps = _feature_maps(model, x_t, t, context)  # {level: (N, C, h, w)}
    likeness = {level: _likeness(h, x_0) for level, h in maps.items()}  # {level: (N, C)}
    options = {f"{int(s)}": i for i, s in enumerate(t)}

    def draw(level: str, channel: int, step: int) -> tuple[Figure, str]:
        h, r = maps[level][step, channel], likeness[level]  # (h, w), (N, C)
        fig, (left, middle, right) = figure(
            "What does this channel respond to?", 1, 3, size=(8.0, 2.6), width_ratios=(1, 1.2, 1.2)
        )
        draw_images(left, x_t[step : step + 1], f"x_t at t = {t[step]}")
        limit = float(maps[level][:, channel].abs().max()) + 1e-6  # the same at every timestep
        middle.imshow(h.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        middle.set_title(f"{level}, channel {channel}\nred +{limit:.1f}, blue -{limit:.1f}")
        middle.axis("off")
        right.plot(t, r[:, channel], label="this channel")
        right.plot(t, r.mean(1), "--", label="mean of the level")
        right.plot(t[step], r[step, channel], "ko")
        right.set(xlim=(-20, schedule.n_steps + 19), ylim=(0, 1.02), xlabel="t")
        right.set_title("correlation with x_0", fontsize=10)
        right.legend(fontsize=8)
        size = "x".join(map(str, h.shape))
        return fig, (
            f"Channel {channel} of {r.shape[1]}, {level} ({size}), t = {t[step]}: "
            f"its values lie between {h.min():.2f} and {h.max():.2f}; its correlation with the "
            f"clean image is {r[step, channel]:.2f}, the level's mean {r[step].mean():.2f}."
        )

    controls = {
        "level": ipywidgets.SelectionSlider(
            options=list(maps), value=list(maps)[-1], description="level"
        ),
        "channel": ipywidgets.IntSlider(value=0, min=0, max=0, description="channel"),
        "step": ipywidgets.SelectionSlider(options=options, index=6, description="t"),
    }

    def fit_channels(change: Any = None) -> None:
        controls["channel"].max = maps[controls["level"].value].shape[1] - 1

    controls["level"].observe(fit_channels, names="value")  # before the explorer draws
    fit_channels()
    first = likeness[controls["level"].value][controls["step"].value]  # (C,)
    controls["channel"].value = int(first.argmax())  # one in which there is something to see
    return Explorer(draw, controls)


@torch.no_grad()
def _feature_maps(
    model: UNet, x_t: Tensor, t: Tensor, context: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Run the model once and keep what each of its parts puts out, in the order of the run."""
    names = {model.conv_in: "first convolution", model.mid: "middle"}
    names |= {down: f"down, level {i}" for i, down in enumerate(model.downs)}
    names |= {up: f"up, level {len(model.ups) - 1 - i}" for i, up in enumerate(model.ups)}
    maps: dict[str, Tensor] = {}

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        # of a DownBlock the last skip, which still has the level's own size
        maps[names[module]] = output[1][-1] if isinstance(output, tuple) else output

    handles = [module.register_forward_hook(keep) for module in names]
    try:
        model(x_t, t, context)
    finally:
        for handle in handles:
            handle.remove()
    return {name: h.float().cpu() for name, h in maps.items()}


def _likeness(h: Tensor, x_0: Tensor) -> Tensor:
    """Absolute correlation over positions between maps (N, C, h, w) and an image, as (N, C)."""
    height, width = h.shape[-2:]
    image = F.adaptive_avg_pool2d(x_0.mean(1), (height, width)).flatten()  # (1, H, W) -> (h w,)
    image = F.normalize(image - image.mean(), dim=0)
    h = h.flatten(2)  # (N, C, h w)
    return (F.normalize(h - h.mean(2, keepdim=True), dim=2) @ image).abs()


def evaluation_explorer(
    real: Tensor,
    labels: Tensor,
    training: Tensor,
    features: Callable[[Tensor], Tensor],
    n: int = 300,
    seed: int = 0,
) -> Explorer:
    """What each measure of chapter 05 sees of a known fault, beside what real images score.

    A pretended model returns held-out real images with one of five faults, more of it the farther
    the slider is moved. Everything is computed when the explorer is made.

    Args:
        real: Held-out images (K, C, H, W) in [-1, 1], K of at least 2 n.
        labels: Their classes, (K,) int64.
        training: Images (M, C, H, W) that a model would be trained on, M of at least 2 n. Those
            that it copies are among the first n; kernel distance, precision and recall are
            measured against others.
        features: Maps images (B, C, H, W) to features (B, D) float64.
        n: Images that the pretended model draws.
        seed: Of the noise.

    Raises:
        ValueError: If there are too few images.

    >>> x = torch.rand(100, 1, 4, 4) * 2 - 1
    >>> as_they_are = lambda x: x.flatten(1).double()
    >>> explorer = evaluation_explorer(x[:60], torch.arange(60) % 2, x[60:], as_they_are, n=20)
    >>> explorer.controls["fault"].value = "copies"
    >>> explorer.sentence.split(":")[0]
    'copies, strength 3 of 5'
    """
    if min(len(real), len(training)) < 2 * n:
        raise ValueError(
            f"real and training must hold at least 2 n = {2 * n} images each, "
            f"got {len(real)} and {len(training)}"
        )
    n_levels, classes = 5, sorted({*labels.tolist()})
    seen = features(training)  # (M, D)
    held_out = nearest_distances(real[n : 2 * n], training)  # (n,)

    def measured(x: Tensor, made: Tensor) -> dict[str, float]:
        precision, recall = precision_recall(seen[n : 2 * n], made)
        return {
            "frechet": frechet_distance(made, seen),
            "kernel": kernel_distance(made, seen[n:], n // 6).value,
            "precision": precision,
            "recall": recall,
            "z": copying_z(nearest_distances(x, training), held_out),
        }

    def faulty(fault: str, level: int) -> Tensor:
        share, x = level / n_levels, real[:n]
        if fault == "noise":
            noise = noise_like(x, torch.Generator().manual_seed(seed))
            return (x + 0.3 * share * noise).clamp(-1, 1)
        if fault == "blur":
            return x.lerp(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), share)
        if fault == "faded":
            return x - 0.6 * share * (x + 1)  # -1, the background, stays
        if fault == "copies":
            return torch.cat([training[: round(share * n)], x[round(share * n) :]])
        kept = real[labels <= classes[round((len(classes) - 1) * (1 - 0.9 * share))]]
        return kept[torch.arange(n) % len(kept)]

    faults = ("noise", "blur", "faded", "classes left out", "copies")
    perfect = measured(real[:n], features(real[:n]))
    sets, values = {}, {}
    for fault in faults:
        for i in range(n_levels + 1):
            sets[fault, i] = x = faulty(fault, i)
            values[fault, i] = measured(x, features(x)) if i else perfect
    floor = measured(real[n : 2 * n], features(real[n : 2 * n]))
    panels: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
        "Frechet distance": (("frechet",), {"yscale": "log", "ylim": (0.1, 100)}),
        "kernel distance": (("kernel",), {"ylim": (-0.1, 1.1)}),
        "precision, recall": (("precision", "recall"), {"ylim": (-0.03, 1.5)}),
        "copying, z": (("z",), {"ylim": (-25, 12)}),
    }
    columns = torch.arange(14) * n // 14  # items from the whole set

    def draw(fault: str, level: int) -> tuple[Figure, str]:
        fig, axes = figure(
            "Which measure notices the fault?", 2, 4, size=(8.5, 3.4), height_ratios=(1, 2)
        )
        for ax in axes[0]:
            ax.remove()
        top = fig.add_subplot(axes[0, 0].get_gridspec()[0, :])
        draw_images(top, sets[fault, level][columns], n_columns=len(columns))
        for ax, (title, (names, limits)) in zip(axes[1], panels.items(), strict=True):
            for i, name in enumerate(names):
                curve = [values[fault, j][name] for j in range(n_levels + 1)]
                ax.plot(curve, ("-", "--")[i], color=COLORS[i], label=name)
                ax.plot(level, curve[level], "ko")
                ax.axhline(floor[name], color=COLORS[i], linestyle=":", linewidth=1.2)
            ax.set(title=title, xlim=(-0.2, n_levels + 0.2), xlabel="strength", **limits)
            ax.minorticks_off()
        axes[1, 2].legend(loc="upper right", fontsize=8)
        now = values[fault, level]
        return fig, (
            f"{fault}, strength {level} of {n_levels}: Frechet distance {now['frechet']:.2f} "
            f"(real: {floor['frechet']:.2f}), kernel distance {now['kernel']:.3f} (real: "
            f"{floor['kernel']:.3f}), precision {now['precision']:.2f} and recall "
            f"{now['recall']:.2f} (real: {floor['precision']:.2f} and {floor['recall']:.2f}), "
            f"copying z = {now['z']:.1f}."
        )

    controls = {
        "fault": ipywidgets.Dropdown(options=faults, description="fault"),
        "level": ipywidgets.IntSlider(value=3, min=0, max=n_levels, description="strength"),
    }
    return Explorer(draw, controls)


def variance_explorer(denoise: Denoiser, x_0: Tensor, seed: int = 0) -> Explorer:
    """Where a learned variance lies between beta_tilde and beta, pixel by pixel (chapter 06).

    Every map is computed when the explorer is made; the noise is the same at every timestep. A
    chain of fewer steps is one of equal jumps that passes the timestep chosen.

    Args:
        denoise: A model that learned its variance, with its schedule and context.
        x_0: Clean images (B, 1, H, W) in [-1, 1], one row of them, which fit the context.
        seed: Of the noise.

    Raises:
        ValueError: If the model learned no variance.

    >>> model = lambda x_t, t, context=None: torch.cat([x_t, torch.zeros_like(x_t)], dim=1)
    >>> explorer = variance_explorer(Denoiser(model, cosine_schedule()), torch.zeros(2, 1, 8, 8))
    >>> explorer.controls["n_steps"].value = 250
    >>> explorer.sentence.split(". ")[1]
    'The learned variance lies 0.50 of the way from one logarithm to the other'
    """
    schedule = denoise.schedule
    t_last = schedule.n_steps - 1
    options = [t for t in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610) if t < t_last]
    options.append(t_last)
    noise = noise_like(x_0, torch.Generator().manual_seed(seed))
    x_t, fractions = [], []
    for step in options:
        t = torch.full((len(x_0),), step, device=x_0.device)
        x_t.append(forward_diffusion(x_0, t, schedule, noise)[0])
        fraction = denoise(x_t[-1], t).variance_fraction
        if fraction is None:
            raise ValueError("denoise must hold a model that learned its variance")
        fractions.append(fraction.float().cpu())
    jumps = {n: schedule.n_steps // n for n in (1000, 250, 100, 50, 25, 10)}
    jumps = {n: jump for n, jump in jumps.items() if jump >= 1}

    def ends(jump: int, t: int) -> tuple[NoiseSchedule, Tensor]:
        chain = respace(schedule, torch.arange(t % jump, schedule.n_steps, jump))
        return chain, torch.full((len(x_0),), t // jump)

    def curve(jump: int) -> Tensor:
        a_bar = schedule.alphas_cumprod
        t = torch.arange(jump, schedule.n_steps)  # a step from before that ends at x_0
        betas = 1 - a_bar[t] / a_bar[t - jump]
        return torch.stack([t, betas * (1 - a_bar[t - jump]) / (1 - a_bar[t]), betas], dim=1)

    curves = {n: curve(jump) for n, jump in jumps.items()}  # (k, 3): t, beta_tilde, beta

    def draw(t: int, n_steps: int) -> tuple[Figure, str]:
        i, jump = options.index(t), jumps[n_steps]
        fraction = fractions[i]
        colours = torch.from_numpy(colormaps["cividis"](fraction.clamp(0, 1)[:, 0].numpy()))
        map_ = 2 * colours[..., :3].permute(0, 3, 1, 2).float() - 1  # (B, H, W, 4) -> (B, 3, H, W)
        grey = torch.cat([x_0, x_t[i]]).float().cpu().expand(-1, 3, -1, -1)
        fig, (left, right) = figure(
            "Where between beta_tilde and beta?", 1, 2, size=(8.0, 3.2), width_ratios=(1.3, 1)
        )
        title = "rows: x_0, x_t, fraction (blue 0, yellow 1)"
        draw_images(left, torch.cat([grey, map_]), title, n_columns=len(x_0))
        where, beta_tilde, beta = curves[n_steps].T
        right.loglog(where + 1, beta, label="beta")
        right.loglog(where + 1, beta_tilde, "--", label="beta_tilde")
        right.set(xlim=(0.9, 1.1 * schedule.n_steps), ylim=(1e-5, 2), xlabel="t + 1")
        right.set_title("variance of the step", fontsize=10)
        sentence = f"t = {t}, {n_steps} steps: "
        if t < jump:
            right.legend(loc="upper left", fontsize=8)
            return fig, sentence + "the last step, which ends at the data and adds no noise."
        chain, index = ends(jump, t)
        log_variance = learned_log_variance(fraction, index, chain)
        spread = log_variance.quantile(torch.tensor([0.1, 0.9])).exp()
        right.vlines(t + 1, *spread, color="black", linewidth=5, label="learned, 8 pixels in 10")
        right.plot(t + 1, log_variance.mean().exp(), "o", color="white", markeredgecolor="black")
        right.legend(loc="upper left", fontsize=8)
        low, high = fraction.quantile(0.1), fraction.quantile(0.9)
        return fig, (
            f"{sentence}beta_tilde is {chain.posterior_variance[index[0]]:.2g} and beta "
            f"{chain.betas[index[0]]:.2g}. The learned variance lies {fraction.mean():.2f} of the "
            f"way from one logarithm to the other. A tenth of the pixels is below {low:.2f}, a "
            f"tenth above {high:.2f}."
        )

    controls = {
        "t": ipywidgets.SelectionSlider(
            options=options, value=options[min(4, len(options) - 1)], description="t"
        ),
        "n_steps": ipywidgets.SelectionSlider(
            options=list(jumps), value=next(iter(jumps)), description="number of steps"
        ),
    }
    return Explorer(draw, controls)


def few_steps_explorer(
    denoise: Denoiser, x_T: Tensor, names: Sequence[str], seed: int = 0
) -> Explorer:
    """One start, drawn by two samplers in few calls of the model (chapter 07).

    Everything is drawn when the explorer is made: what changes with a move, and what stays, is due
    to the sampler alone. The upper row is where DDIM with eta = 0 leads in 100 calls.

    Args:
        denoise: The model with its schedule and context.
        x_T: The noise to start from, (B, C, H, W), one row of it.
        names: What each of the B samples is meant to show.
        seed: Of the noise added on the way where eta is not 0.

    Raises:
        ValueError: If there is not one name for each sample.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, linear_schedule(), "x_0")
    >>> explorer = few_steps_explorer(denoise, torch.ones(1, 1, 8, 8), ["nothing"])
    >>> explorer.controls["sampler"].value = "DPM-Solver++"
    >>> explorer.sentence.split(",")[0]
    'DPM-Solver++ in 8 calls (eta = 0 is not used) is 0.00 away from 100 calls'
    """
    if len(names) != len(x_T):
        raise ValueError(f"names must have {len(x_T)} items, got {len(names)}")
    counts, etas = (2, 4, 8, 16, 32), (0.0, 0.25, 0.5, 0.75, 1.0)
    end = sample_ddim(denoise, x_T.shape, 100, x_T=x_T).float().cpu()
    samples: dict[tuple[str, int, float], Tensor] = {}
    for n in counts:
        solved = sample_dpm_solver(denoise, x_T.shape, n, x_T=x_T)
        for eta in etas:
            generator = torch.Generator().manual_seed(seed)
            x = sample_ddim(denoise, x_T.shape, n, eta, x_T, generator)
            samples["DDIM", n, eta] = x.float().cpu()
            samples["DPM-Solver++", n, eta] = solved.float().cpu()
    far = {  # root mean square over the pixels, (B,)
        key: (x - end).square().flatten(1).mean(1).sqrt() for key, x in samples.items()
    }

    def draw(sampler: str, n_calls: int, eta: float) -> tuple[Figure, str]:
        here = far[sampler, n_calls, eta]  # (B,)
        fig, (left, right) = figure(
            "What changes with the sampler, and what stays?", 1, 2, (8.0, 2.7), width_ratios=(2, 1)
        )
        both = torch.cat([end, samples[sampler, n_calls, eta]])  # (2 B, C, H, W)
        draw_images(left, both, f"above 100 calls, below {n_calls} of {sampler}", len(end))
        for name, label, style, color in (
            ("DDIM", f"DDIM, eta = {eta:g}", "o-", COLORS[0]),
            ("DPM-Solver++", "DPM-Solver++", "s--", COLORS[1]),
        ):
            curve = [float(far[name, n, eta].mean()) for n in counts]
            right.plot(counts, curve, style, color=color, label=label, markersize=4)
        right.plot(n_calls, here.mean(), "ko", markersize=9, fillstyle="none")
        right.set(xscale="log", xlim=(1.7, 38), ylim=(0, 1.1), xlabel="calls of the model")
        right.set_xticks(counts, [str(n) for n in counts])
        right.minorticks_off()
        right.set_title("distance to 100 calls", fontsize=10)
        right.legend(loc="upper right", fontsize=8)
        said = f"DDIM with eta = {eta:g} in {n_calls} calls"
        if sampler != "DDIM":
            said = f"{sampler} in {n_calls} calls (eta = {eta:g} is not used)"
        elif eta == 1:
            said += ", which is DDPM,"
        return fig, (
            f"{said} is {here.mean():.2f} away from 100 calls, "
            f"most for {names[int(here.argmax())]} ({here.max():.2f})."
        )

    controls = {
        "sampler": ipywidgets.Dropdown(options=["DDIM", "DPM-Solver++"], description="sampler"),
        "n_calls": ipywidgets.SelectionSlider(options=counts, value=8, description="calls"),
        "eta": ipywidgets.SelectionSlider(
            options=[(f"{eta:g}", eta) for eta in etas], value=0.0, description="eta"
        ),
    }
    return Explorer(draw, controls)


def guidance_explorer(
    model: Callable[..., Tensor],
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    names: Sequence[str],
    scales: Sequence[float] = (0.0, 1.0, 2.0, 4.0, 7.0),
    shape: Sequence[int] = (1, 28, 28),
    n_images: int = 3,
    n_steps: int = 10,
    device: torch.device | str = "cpu",
) -> Explorer:
    """Turn guidance up and down for any class, from the same noise or from new one (chapter 08).

    What noise 0 leads to is drawn for every class and scale when the explorer is made, what other
    noises lead to when it is asked for.

    Args:
        model: Keeps the contract model(x_t, t, context); the label len(names) means "none".
        schedule: The schedule it was trained with.
        prediction_type: What it was trained to predict: "eps", "x_0" or "v".
        names: Of the classes.
        scales: Those to choose from, ascending, 1 among them.
        shape: Of one image, (C, H, W).
        n_images: At a time, two or more.
        n_steps: Calls of the model, by DPM-Solver++.
        device: Where the model is.

    Raises:
        ValueError: If 1 is not among the scales, or n_images is below 2.

    >>> model = lambda x_t, t, context: context["labels"].view(-1, 1, 1, 1) * torch.ones_like(x_t)
    >>> explorer = guidance_explorer(model, cosine_schedule(), "x_0", ["bag"], shape=(1, 8, 8))
    >>> explorer.sentence
    's = 4, bag, noise 0: two of the pictures differ by 0.00 a pixel, at s = 1 by 0.00.'
    """
    if 1 not in scales:
        raise ValueError(f"scales must hold 1, with which all others are compared, got {scales}")
    if n_images < 2:
        raise ValueError(f"n_images must be at least 2, got {n_images}")
    none = len(names)
    drawn: dict[tuple[float, int, int], Tensor] = {}  # (n_images, C, H, W) each, on the CPU

    def fill(scale: float, labels: Sequence[int], noise: int) -> None:
        """Draw what a noise leads to at a scale, for several classes at once."""
        generator = torch.Generator().manual_seed(noise)
        x_T = noise_like(torch.empty(n_images, *shape, device="cpu"), generator)
        x_T = x_T.repeat(len(labels), 1, 1, 1).to(device)  # the same for each class
        asked = torch.tensor(labels, device=device).repeat_interleave(n_images)
        null = {"labels": torch.tensor(none, device=device)}
        strong = guided(model, {"labels": asked}, null, scale)
        with autocast(x_T.device):
            denoise = Denoiser(strong, schedule, prediction_type)
            x = sample_dpm_solver(denoise, x_T.shape, n_steps, x_T=x_T)
        for label, images in zip(labels, torch.split(x.float().cpu(), n_images), strict=True):
            drawn[scale, label, noise] = images

    def find(scale: float, label: int, noise: int) -> Tensor:
        if scale == 0:  # whatever the class: the same as to ask for none
            scale, label = 1.0, none
        if (scale, label, noise) not in drawn:
            fill(scale, [label], noise)
        return drawn[scale, label, noise]

    def draw(scale: float, label: int, noise: int) -> tuple[Figure, str]:
        plain, strong = find(1.0, label, noise), find(scale, label, noise)
        fig, axes = figure(
            "What does a larger scale give, and what does it take?", 1, 2, (8.0, 2.3)
        )
        draw_images(axes[0], plain, f"{names[label]}, s = 1", n_columns=n_images)
        draw_images(axes[1], strong, f"{names[label]}, s = {scale:g}", n_columns=n_images)
        apart, before = (
            float(torch.pdist(x.flatten(1)).mean()) / x[0].numel() ** 0.5 for x in (strong, plain)
        )
        return fig, (
            f"s = {scale:g}, {names[label]}, noise {noise}: two of the pictures differ by "
            f"{apart:.2f} a pixel, at s = 1 by {before:.2f}."
        )

    fill(1.0, [*range(none), none], 0)
    for scale in scales:
        if scale not in (0, 1):
            fill(scale, range(none), 0)
    controls = {
        "scale": ipywidgets.SelectionSlider(
            options=[(f"{scale:g}", scale) for scale in scales], index=(2 * len(scales) - 1) // 3,
            description="guidance scale",
        ),
        "label": ipywidgets.Dropdown(
            options=[(name, i) for i, name in enumerate(names)], value=2 * none // 3,
            description="class",
        ),
        "noise": ipywidgets.IntSlider(value=0, min=0, max=9, description="new noise"),
    }  # fmt: skip
    return Explorer(draw, controls)


def interpolation_explorer(
    autoencoder: Autoencoder,
    denoise: Denoiser,
    x: Tensor,
    names: Sequence[str],
    real: Tensor,
    n_calls: int = 25,
) -> Explorer:
    """Walk from one image to another in pixels, in latents, and in noise (chapter 09).

    Every picture of every pair is made when the explorer is: mixed pixel by pixel; decoded from
    mixed latents; and drawn by DDIM from mixed noises, those to which it leads the latents back.

    Args:
        autoencoder: Makes latents of images and images of latents.
        denoise: A model of its latents, without clipping.
        x: Images (B, C, H, W) in [-1, 1], two or more.
        names: One for each.
        real: Other images, (N, C, H, W), to the nearest of which each picture is compared.
        n_calls: Calls of the model, each way.

    Raises:
        ValueError: If there are fewer than two images, or not one name for each.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)
    >>> denoise = Denoiser(model, cosine_schedule(), "x_0", clip=None)
    >>> x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    >>> explorer = interpolation_explorer(Autoencoder(), denoise, x, ["night", "day"], x)
    >>> explorer.sentence.split(". ")[0]
    '4 / 8 of the way from night to day'
    """
    if len(x) < 2 or len(names) != len(x):
        raise ValueError(
            f"x and names must have as many items, 2 or more, got {len(x)} and {names}"
        )
    n_steps = 8
    weights = [i / n_steps for i in range(n_steps + 1)]
    pairs = [(a, b) for a in range(len(x)) for b in range(a + 1, len(x))]
    a, b = (x[[pair[i] for pair in pairs]] for i in (0, 1))  # (P, C, H, W) each
    with torch.no_grad(), autocast(x.device):
        z_a, z_b = autoencoder.to_latents(a), autoencoder.to_latents(b)
        noise_a, noise_b = ddim_invert(denoise, torch.cat([z_a, z_b]), n_calls).chunk(2)
        mixed = torch.cat([slerp(noise_a, noise_b, weight) for weight in weights])
        drawn = sample_ddim(denoise, mixed.shape, n_calls, x_T=mixed)
        ways = {
            "pixels": torch.cat([a.lerp(b, weight) for weight in weights]),
            "latents": autoencoder.to_images(torch.cat([z_a.lerp(z_b, w) for w in weights])),
            "noise": autoencoder.to_images(drawn),
        }
    far, pictures = {}, {}
    for way, images in ways.items():
        images = images.float().cpu().clamp(-1, 1)
        root = images[0].numel() ** 0.5  # a distance becomes a root mean square over pixels
        far[way] = nearest_distances(images, real.cpu()).view(-1, len(pairs)) / root
        pictures[way] = images.view(-1, len(pairs), *x.shape[1:])  # (n_steps + 1, P, C, H, W)

    def draw(pair: int, step: int) -> tuple[Figure, str]:
        start, end = (names[i] for i in pairs[pair])
        fig, (left, right) = figure(
            "What lies between two pictures?", 1, 2, (8.5, 2.7), width_ratios=(2.2, 1)
        )
        strips = torch.cat([pictures[way][:, pair] for way in ways])
        draw_images(left, strips, f"{start} to {end}", n_columns=n_steps + 1)
        height, width = strips.shape[-2] + 1, strips.shape[-1] + 1
        for row, way in enumerate(ways):
            left.text(-2, (row + 0.5) * height, way, ha="right", va="center", fontsize=9)
        left.axvspan(step * width, (step + 1) * width, fill=False, edgecolor=COLORS[1], linewidth=2)
        for (way, curve), style in zip(far.items(), ("o-", "s--", "^:"), strict=True):
            right.plot(weights, curve[:, pair], style, label=way, markersize=4)
        right.axvline(weights[step], color=COLORS[1], linewidth=1)
        right.set(xlim=(-0.03, 1.03), ylim=(0, 0.55), xlabel="share of the way")
        right.set_title("distance to the nearest real one", fontsize=10)
        right.legend(loc="lower center", fontsize=7, ncols=3)
        here = ", ".join(f"{way} {curve[step, pair]:.2f}" for way, curve in far.items())
        way = f"{step} / {n_steps} of the way from {start} to {end}"
        return fig, f"{way}. To the nearest real image: {here}."

    controls = {
        "pair": ipywidgets.Dropdown(
            options=[(f"{names[i]} - {names[j]}", k) for k, (i, j) in enumerate(pairs)],
            value=0,
            description="pair",
        ),
        "step": ipywidgets.IntSlider(
            value=n_steps // 2, min=0, max=n_steps, description="eighths of the way"
        ),
    }
    return Explorer(draw, controls)


def caption_explorer(
    model: nn.Module,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    shape: Sequence[int] = (3, 32, 32),
    autoencoder: Autoencoder | None = None,
    n_noises: int = 5,
    n_steps: int = 10,
    guidance_scale: float = 3.0,
    device: torch.device | str = "cpu",
) -> Explorer:
    """Type a caption; see the picture, and where each of its words is looked at (chapter 10).

    The given captions are drawn when the explorer is made, a typed one when Enter is pressed: it
    then is one of those to choose from. Beside the picture stands a copy for each word, bright
    where the word is looked at more than elsewhere: the mean over heads, layers and steps.

    Args:
        model: Keeps the contract model(x_t, t, context), with cross-attention.
        schedule: The schedule it was trained with.
        prediction_type: What it was trained to predict: "eps", "x_0" or "v".
        tokenizer: Which it was trained with.
        captions: To begin with.
        shape: Of what the model draws, (C, H, W): of one picture, C = 1 or 3, or of its latents.
        autoencoder: Decodes the latents; None where the model draws pictures.
        n_noises: How many starts there are.
        n_steps: Calls of the model, by DPM-Solver++.
        guidance_scale: 1 is off.
        device: Where the model is.

    Raises:
        ValueError: If a caption is too long, or the model has no cross-attention.

    >>> tokenizer = Tokenizer(["a", "coat", "red"])
    >>> model = TextUNet(len(tokenizer), 1, 1, channels=(8,), text_levels=(0,))
    >>> explorer = caption_explorer(
    ...     model, cosine_schedule(), "v", tokenizer, ["a red coat"], (1, 8, 8), n_steps=2
    ... )
    >>> explorer.sentence.split(": ")[0]
    'a red coat, noise 0'
    """
    null = {name: values[0].to(device) for name, values in tokenizer([""]).items()}
    generator = torch.Generator().manual_seed(0)
    x_T = noise_like(torch.empty(n_noises, *shape, device="cpu"), generator)
    drawn: dict[str, tuple[Tensor, Tensor]] = {}  # pictures (n, C, H, W), maps (n, N, H, W)

    @torch.no_grad()
    def fill(several: Sequence[str]) -> None:
        """Draw what all noises lead to for some captions."""
        context = tokenizer([caption for caption in several for _ in range(n_noises)])
        context = {name: values.to(device) for name, values in context.items()}
        noise = x_T.repeat(len(several), 1, 1, 1).to(device)  # the same for each caption
        strong = guided(model, context, null, guidance_scale)
        with autocast(noise.device), watch_attention(model) as seen:
            clip = (-1.0, 1.0) if autoencoder is None else None
            denoise = Denoiser(strong, schedule, prediction_type, clip=clip)
            x = sample_dpm_solver(denoise, noise.shape, n_steps, x_T=noise)
            x = x if autoencoder is None else autoencoder.to_images(x)
        maps = torch.stack([maps[: len(x)] for maps in seen]).mean(0)  # the conditional half
        maps = F.interpolate(maps, x.shape[2:], mode="bilinear")
        parts = (torch.split(values.float().cpu(), n_noises) for values in (x, maps))
        drawn.update(zip(several, zip(*parts, strict=True), strict=True))

    def draw(caption: str, noise: int) -> tuple[Figure, str]:
        x, maps = (values[noise] for values in drawn[caption])  # (C, H, W), (N, H, W)
        words = ["(start)", *tokenizer.split(caption)]
        words = [w if w in tokenizer.words or not i else f"{w}?" for i, w in enumerate(words)]
        share = maps[: len(words)]  # (n_words, H, W)
        relative = share / share.mean(dim=(1, 2), keepdim=True)
        low, high = relative.amin((1, 2), keepdim=True), relative.amax((1, 2), keepdim=True)
        light = (relative - low) / (high - low).clamp(min=1e-6)  # each from 0 to 1
        copies = (x + 1) * (0.1 + 0.9 * light[:, None]) - 1  # (n_words, C, H, W)
        n_columns, n_places = 5, 5 * -(-tokenizer.n_tokens // 5)
        blank = copies.new_ones(n_places - len(words), *x.shape)
        fig, (left, right) = figure(
            "Where is each word looked at?", 1, 2, size=(8.0, 4.6), width_ratios=(1, 1.45)
        )
        draw_images(left, x[None], n_columns=1)
        height, width = x.shape[1] + 12, x.shape[2]  # room for the word above each copy
        padded = F.pad(torch.cat([copies, blank]), (0, 0, 12, 0), value=1.0)
        draw_images(right, padded, n_columns=n_columns)
        for i, word in enumerate(words):
            row, column = divmod(i, n_columns)
            at = (column * (width + 1) + 1 + width / 2, row * (height + 1) + 9)
            right.text(*at, word, ha="center", va="center", fontsize=8)
        h, w = x.shape[1] // 3, x.shape[2] // 3
        middle = relative[1:, h : 2 * h, w : 2 * w].mean((1, 2))  # of each word but the start
        corners = relative[1:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
        if len(words) == 1:
            return fig, f"(empty), noise {noise}: there is no word to look at."
        said = [
            f"{words[1 + int(where.argmax())]!r} ({where.max():.1f} times)"
            for where in (middle, corners)
        ]
        return fig, (
            f"{caption}, noise {noise}: the word looked at more than on average is, in the middle "
            f"of the picture, {said[0]}, in its corners {said[1]}."
        )

    fill(captions)
    controls = {
        "caption": ipywidgets.Dropdown(options=list(captions), description="caption"),
        "noise": ipywidgets.IntSlider(value=0, min=0, max=n_noises - 1, description="noise"),
    }
    explorer = Explorer(draw, controls)
    controls["caption"].layout.width = "48em"
    typed = ipywidgets.Text(
        placeholder="type a caption and press Enter", description="your caption",
        continuous_update=False, style={"description_width": "9em"}, layout={"width": "48em"},
    )  # fmt: skip
    answer = ipywidgets.HTML()

    def read(change: Any) -> None:
        """Draw what was typed, and say which words are unknown."""
        caption = " ".join(typed.value.split())
        try:
            if caption and caption not in drawn:
                fill([caption])
                controls["caption"].options = [*controls["caption"].options, caption]
        except ValueError as error:
            answer.value = html.escape(str(error))
            return
        unknown = [word for word in tokenizer.split(caption) if word not in tokenizer.words]
        answer.value = html.escape(f"Words it never learned: {', '.join(unknown)}." * bool(unknown))
        if caption:
            controls["caption"].value = caption

    typed.observe(read, names="value")
    explorer.box.children = (typed, answer, *explorer.box.children)
    explorer.typed, explorer.answer = typed, answer
    return explorer


# The cells of a board: arrows move the focus, the space bar or a click turns a cell, and a pointer
# that is drawn across turns all it meets.
BOARD = """
requestAnimationFrame(() => {
  const box = element.closest(".widget-vbox");
  const cells = [...box.querySelectorAll(".minidiff-cell")];
  const width = Math.sqrt(cells.length);
  cells.forEach((cell, i) => {
    cell.tabIndex = i ? -1 : 0;
    cell.setAttribute("data-lm-suppress-shortcuts", "true");
    cell.setAttribute("aria-label", `row ${Math.floor(i / width) + 1}, column ${i % width + 1}`);
    cell.addEventListener("keydown", event => {
      const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: width, ArrowUp: -width}[event.key];
      if (!step) return;
      event.preventDefault();
      const next = cells[i + step];
      if (next) { cell.tabIndex = -1; next.tabIndex = 0; next.focus(); }
    });
    cell.addEventListener("pointerdown", event => {
      cell.releasePointerCapture(event.pointerId);
      cell.click();
    });
    cell.addEventListener("pointerenter", event => { if (event.buttons === 1) cell.click(); });
    cell.addEventListener("click", event => {  // the pointer's own click has been counted
      if (event.isTrusted && event.detail > 0) event.stopImmediatePropagation();
    }, true);
  });
});
"""
N_CELLS = 14  # a board has as many cells each way
CELL = 20  # pixels of the screen


def inpaint_explorer(
    denoise: Denoiser,
    x_0: Tensor,
    names: Sequence[str],
    n_steps: int = 12,
    n_resample: int = 5,
    n_samples: int = 3,
    seed: int = 0,
) -> Explorer:
    """Hide any part of a picture, drawn by hand, and have it drawn anew (chapter 11).

    Below the picture is a board: cells are turned with the mouse or with arrow keys and the space
    bar, at once; the button then runs the model on the picture shown, which takes a second or two.
    For the first mask, the right half, all pictures are filled in when the explorer is made.

    Args:
        denoise: The model with its schedule, and without a context that belongs to a batch.
        x_0: Pictures to choose from, (B, 1, 28, 28) in [-1, 1].
        names: What each of them shows.
        n_steps: Length of the chain.
        n_resample: How often each step is made, beside once.
        n_samples: Pictures drawn at a time.
        seed: Of all noise.

    Raises:
        ValueError: If x_0 are no such pictures, or not one name for each.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # all data is one point, 0
    >>> denoise = Denoiser(model, cosine_schedule(), "x_0")
    >>> explorer = inpaint_explorer(denoise, torch.ones(1, 1, 28, 28), ["white"], n_steps=2)
    >>> explorer.sentence
    'white, each step once: 392 of 784 pixels were hidden; what is drawn there is 1.00 off.'
    """
    if x_0.ndim != 4 or x_0.shape[1:] != (1, 2 * N_CELLS, 2 * N_CELLS):
        raise ValueError(f"x_0 must be (B, 1, 28, 28), got {tuple(x_0.shape)}")
    if len(names) != len(x_0):
        raise ValueError(f"names must have {len(x_0)} items, got {len(names)}")
    ways = {"once": 1, f"{n_resample} times": n_resample}
    right_half = "".join("#" if i % N_CELLS >= N_CELLS // 2 else "." for i in range(N_CELLS**2))
    drawn: dict[tuple[int, str, str], Tensor] = {}  # (n_samples, 1, 28, 28) each, on the CPU

    def known_in(cells: str) -> Tensor:
        mask = torch.tensor([cell == "." for cell in cells], device="cpu").view(N_CELLS, N_CELLS)
        return mask.repeat_interleave(2, 0).repeat_interleave(2, 1)  # (28, 28)

    def fill(pictures: Sequence[int], cells: str) -> None:
        """Draw what is hidden in some pictures, in every way."""
        images = x_0[list(pictures)].repeat_interleave(n_samples, 0)
        for way, repeats in ways.items():
            generator = torch.Generator().manual_seed(seed)
            with autocast(x_0.device):
                x = inpaint(denoise, images, known_in(cells), n_steps, repeats, generator)
            x = x.float().cpu().view(len(pictures), n_samples, *x_0.shape[1:])
            drawn.update({(p, way, cells): x[i] for i, p in enumerate(pictures)})

    def draw(picture: int, way: str, mask: str) -> tuple[Figure, str]:
        cells = mask.split()[0]
        known = known_in(cells)
        original = x_0[picture : picture + 1].float().cpu()
        orange = torch.tensor([0.84, 0.37, 0.0], device="cpu").view(1, 3, 1, 1) * 2 - 1
        shown = torch.where(known, original.expand(-1, 3, -1, -1), orange)
        fig, axes = figure("What belongs there?", 1, 3, (8.0, 2.3), width_ratios=(1, 1, n_samples))
        draw_images(axes[0], original, "the original")
        draw_images(axes[1], shown, "what is known")
        n_hidden = int((~known).sum())
        sentence = f"{names[picture]}, each step {way}: {n_hidden} of {known.numel()} pixels "
        samples = drawn.get((picture, way, cells))
        if samples is None:
            draw_images(axes[2], original.new_full((n_samples, 1, 28, 28), 0.8), "not drawn yet")
            return fig, sentence + "are hidden; press inpaint to have them drawn."
        draw_images(axes[2], samples, f"drawn, each step {way}")
        if n_hidden == 0:
            return fig, sentence + "were hidden, and nothing is drawn."
        off = (samples - original)[..., ~known].square().mean().sqrt()
        return fig, sentence + f"were hidden; what is drawn there is {off:.2f} off."

    fill(range(len(x_0)), right_half)
    controls = {
        "picture": ipywidgets.SelectionSlider(
            options=[(name, i) for i, name in enumerate(names)], description="picture"
        ),
        "way": ipywidgets.Dropdown(options=list(ways), description="each step"),
        "mask": ipywidgets.Text(value=f"{right_half} 0"),
    }
    explorer = Explorer(draw, controls)
    controls["mask"].layout.display = "none"  # the board writes it
    _add_board(explorer, x_0, controls["picture"], controls["mask"], fill)
    return explorer


def _add_board(
    explorer: Explorer,
    x_0: Tensor,
    picture: ipywidgets.ValueWidget,
    mask: ipywidgets.ValueWidget,
    fill: Callable[[Sequence[int], str], None],
) -> None:
    """Put a board of cells over the picture below an explorer, and a button that runs the model."""
    side = N_CELLS * CELL
    styles = {
        ".": ipywidgets.ButtonStyle(button_color="transparent"),
        "#": ipywidgets.ButtonStyle(button_color=COLORS[1]),
    }
    layout = ipywidgets.Layout(
        width=f"{CELL}px", height=f"{CELL}px", margin="0", padding="0", border="1px solid #8886"
    )
    cells = [*mask.value.split()[0]]
    buttons = [ipywidgets.Button(layout=layout, style=styles[cell]) for cell in cells]
    size = ipywidgets.Layout(width=f"{side}px", height=f"{side}px", margin="0", max_width="none")
    back = ipywidgets.Image(format="png", layout=size)
    grid = ipywidgets.GridBox(
        buttons,
        layout=ipywidgets.Layout(
            grid_template_columns=f"repeat({N_CELLS}, {CELL}px)",
            grid_gap="0",
            width=f"{side}px",
            margin=f"-{side}px 0 8px 0",
        ),
    )
    press = ipywidgets.Button(description="inpaint", button_style="primary")
    clear = ipywidgets.Button(description="hide nothing")
    presses = iter(range(1, 10**9))

    def turn(i: int, cell: str) -> None:
        cells[i], buttons[i].style = cell, styles[cell]

    def show(change: Any = None) -> None:
        pixels = ((x_0[picture.value, 0].float().cpu() + 1) * 127.5).round().clamp(0, 255)
        big = pixels.to(torch.uint8).repeat_interleave(CELL // 2, 0).repeat_interleave(CELL // 2, 1)
        buffer = io.BytesIO()
        PILImage.fromarray(big.numpy()).save(buffer, format="PNG")
        back.value = buffer.getvalue()

    def run(_: Any) -> None:
        press.disabled = True
        try:
            fill([picture.value], "".join(cells))
            mask.value = f"{''.join(cells)} {next(presses)}"
        finally:
            press.disabled = False

    def hide_nothing(_: Any) -> None:
        for i in range(len(cells)):
            if cells[i] != ".":
                turn(i, ".")

    for i, button in enumerate(buttons):
        button.add_class("minidiff-cell")
        button.on_click(lambda _, i=i: turn(i, ".#"[cells[i] == "."]))
    press.on_click(run)
    clear.on_click(hide_nothing)
    picture.observe(show, names="value")
    show()
    script = {"output_type": "display_data", "metadata": {}}
    script["data"] = {"application/javascript": BOARD}
    keys = ipywidgets.Output(outputs=(script,))
    board = ipywidgets.VBox([back, grid, ipywidgets.HBox([press, clear]), keys])
    explorer.box.children = (*explorer.box.children, board)


def harmony_explorer(
    denoise: Denoiser,
    real: Score,
    names: Sequence[str],
    ways: Sequence[int] = (1, 3),
    n_steps: int = 30,
    seed: int = 0,
) -> Explorer:
    """See and hear melodies of Bach's harmonised: his own voices beside drawn ones (chapter 12).

    All is drawn and played once, when the explorer is made, so that every move is quick.

    Args:
        denoise: The model of rolls with its schedule.
        real: Passages to choose from, Score of (B, 4, L).
        names: What each is called.
        ways: How often each step is made.
        n_steps: Length of the chain.
        seed: Of all noise.

    Raises:
        ValueError: If there is not one name for each passage.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)  # knows nothing
    >>> denoise = Denoiser(model, cosine_schedule(), "x_0")
    >>> chord = torch.tensor([72, 67, 64, 48])[None, :, None].expand(1, 4, 16)
    >>> passage = Score(chord, torch.ones(1, 4, 16, dtype=torch.bool))
    >>> explorer = harmony_explorer(denoise, passage, ["C major"], ways=(1,), n_steps=2)
    >>> explorer.controls["voices"].value = "Bach's"
    >>> explorer.sentence
    "C major, Bach's voices: 4 of 4 beats form a triad or a seventh chord."
    """
    if len(names) != len(real.pitches):
        raise ValueError(f"names must have {len(real.pitches)} items, got {len(names)}")
    known = to_roll(real).to(denoise.schedule.betas.device)
    mask = torch.zeros(1, known.shape[1], 1, dtype=torch.bool, device=known.device)
    mask[:, voice_channels(0)] = True
    scores = {}
    for way in ways:
        generator = torch.Generator().manual_seed(seed)
        with autocast(known.device):
            roll = inpaint(denoise, known, mask, n_steps, way, generator).cpu()
        scores["drawn, each step once" if way == 1 else f"drawn, each step {way} times"] = (
            from_roll(roll)
        )
    scores["Bach's"] = real
    sounds = {}
    for voices, score in scores.items():
        for i, name in enumerate(names):
            data = mp3(synthesize(Score(score.pitches[i], score.onsets[i])))
            sounds[i, voices] = (
                f'<audio controls preload="none" aria-label="{html.escape(name)}, '
                f'{html.escape(voices)}" '
                f'src="data:audio/mpeg;base64,{base64.b64encode(data).decode()}"></audio>'
            )

    def draw(passage: int, voices: str) -> tuple[Figure, str]:
        fig, axes = figure(
            "Who wrote the lower three voices?", 1, 2, (9.0, 3.0), sharex=True, sharey=True
        )
        for ax, by in zip(axes, ("Bach's", voices), strict=True):
            pitches, onsets = (x[passage] for x in scores[by])
            draw_score(ax, Score(pitches, onsets), by)
        axes[1].set(ylabel="")
        beats = scores[voices].pitches[passage, :, ::BEAT]
        n_chords = int(forms_chord(beats).sum())
        whose = "Bach's voices" if voices == "Bach's" else voices
        return fig, (
            f"{names[passage]}, {whose}: {n_chords} of {beats.shape[-1]} beats form a triad or a "
            "seventh chord."
        )

    explorer = Explorer(
        draw,
        {
            "passage": ipywidgets.Dropdown(
                options=[(name, i) for i, name in enumerate(names)], description="chorale"
            ),
            "voices": ipywidgets.Dropdown(options=list(scores), description="lower voices"),
        },
    )
    player = ipywidgets.HTML()

    def follow(change: Any = None) -> None:
        passage, voices = (control.value for control in explorer.controls.values())
        player.value = sounds[passage, voices]

    for control in explorer.controls.values():
        control.observe(follow, names="value")
    follow()
    explorer.box.children = (*explorer.box.children, player)
    return explorer


def speech_explorer(
    steps: Sequence[Step], hear: Callable[[Tensor], Sequence[str]], asked: str = ""
) -> Explorer:
    """Watch speech arise: what there is after each step, what it is taken for, and what is heard.

    Args:
        steps: What a sampler yielded for one utterance, x and x_0 (1, bands, frames).
        hear: Writes down what it hears in mel spectrograms (N, bands, frames).
        asked: What should be said.

    Raises:
        ValueError: If there are no steps, or they are not of one utterance.

    >>> step = Step(999, torch.zeros(1, 64, 128), torch.zeros(1, 64, 128))
    >>> speech_explorer([step], lambda mels: ["four two"], "four two").sentence
    'Step 1 of 1, at t = 999: 2 of 2 words are right; heard: four two.'
    """
    if not steps or any(step.x_0.ndim != 3 or len(step.x_0) != 1 for step in steps):
        raise ValueError("steps must be those of one utterance, x_0 (1, bands, frames)")
    heard = hear(torch.cat([step.x_0.float().cpu() for step in steps]))

    def draw(step: int) -> tuple[Figure, str]:
        t, x, x_0 = steps[step - 1]
        text = heard[step - 1]
        fig, axes = figure("What will be said?", 1, 2, (6.5, 2.2))
        draw_mel(axes[0], x[0], "after this step")
        draw_mel(axes[1], x_0[0], "the utterance that it is taken for")
        n_words = len(asked.split())
        n_right = max(n_words - word_errors(asked, text), 0)
        right = f"{n_right} of {n_words} words are right; " if asked else ""
        found = f"heard: {text}." if text else "nothing is heard."
        return fig, f"Step {step} of {len(steps)}, at t = {t}: {right}{found}"

    slider = ipywidgets.IntSlider(value=1, min=1, max=len(steps), description="step")
    return Explorer(draw, {"step": slider})

"""Figures as the notebooks show them: one style, small files, and a text for those who cannot see.

Colours are those of Okabe and Ito, told apart with any kind of colour vision; the background is
white also in dark mode, so that every line keeps its contrast.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from IPython.display import HTML, Image, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image as PILImage
from torch import Tensor
from torchvision.utils import make_grid

from minidiff.data.chorales import BEAT, HIGHEST, LOWEST, Score, notes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DPI = 72
STYLE: Any = {
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "figure.dpi": DPI,
    "font.size": 10,
    "grid.alpha": 0.3,
    "image.cmap": "gray",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def figure(
    question: str = "", n_rows: int = 1, n_columns: int = 1, size: tuple[float, float] = (7.0, 3.0),
    **subplots: Any,
) -> tuple[Figure, Any]:  # fmt: skip
    """Make a figure whose title is the question it answers.

    Args:
        question: The title of the whole figure.
        n_rows: Rows of axes.
        n_columns: Columns of axes.
        size: Width and height in inches.
        subplots: Passed on to matplotlib's `subplots` (sharex, width_ratios, ...).

    Returns:
        The figure and its axes, as `matplotlib.pyplot.subplots` returns them.

    >>> fig, ax = figure("How fast does the signal fade?")
    >>> plt.close(fig)
    """
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(n_rows, n_columns, figsize=size, **subplots)
        fig.suptitle(question, fontsize=12)
    return fig, axes


def png(fig: Figure, tight: bool = False) -> bytes:
    r"""Draw a figure as a PNG and close it; `tight` trims what is empty around it.

    >>> png(figure()[0])[:4]
    b'\x89PNG'
    """
    buffer = io.BytesIO()
    with plt.rc_context(STYLE):
        box = "tight" if tight else None
        fig.savefig(buffer, format="png", dpi=DPI, bbox_inches=box, metadata={"Software": None})
    plt.close(fig)
    image = PILImage.open(buffer).convert("RGB")
    # Colours spread over the colour space, so that a thin coloured line keeps its own.
    image = image.quantize(192, PILImage.Quantize.MAXCOVERAGE, 1, dither=PILImage.Dither.NONE)
    small = io.BytesIO()
    image.save(small, format="PNG", optimize=True)
    return small.getvalue()


def quick_png(fig: Figure) -> bytes:
    r"""Draw a figure as `png` does, in less than half the time but with more bytes; close it.

    >>> quick_png(figure()[0])[:4]
    b'\x89PNG'
    """
    fig.dpi = DPI
    canvas = FigureCanvasAgg(fig)
    with plt.rc_context(STYLE):
        canvas.draw()  # type: ignore[no-untyped-call]  # once, where savefig draws twice
    plt.close(fig)
    buffer = io.BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = PILImage.fromarray(pixels).convert("RGB")
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def show(fig: Figure, alt: str, tight: bool = False) -> None:
    """Display a figure with a text that says what is to be seen in it.

    Args:
        fig: The figure; it is closed.
        alt: What a reader who cannot see the figure should know.
        tight: Whether to trim what is empty around it.

    >>> show(figure("What?")[0], "An empty figure.")  # doctest: +SKIP
    """
    display(Image(data=png(fig, tight), format="png", alt=alt))  # type: ignore[no-untyped-call]


def tile(x: Tensor, n_columns: int = 8) -> Tensor:
    """Lay out a batch of images in one picture.

    Args:
        x: Images (B, C, H, W) in [-1, 1], C = 1 or 3; values outside are clipped.
        n_columns: Images a row.

    Returns:
        (H', W', 3) in [0, 1] on the CPU, one white pixel between images.

    >>> tile(torch.zeros(10, 1, 28, 28), n_columns=5).shape
    torch.Size([59, 146, 3])
    """
    x = x.detach().float().cpu().clamp(-1, 1).add(1).div(2)
    grid: Tensor = make_grid(x, nrow=n_columns, padding=1, pad_value=1.0)
    return grid.permute(1, 2, 0)  # (3, H', W') -> (H', W', 3)


def draw_images(ax: Axes, x: Tensor, title: str = "", n_columns: int = 8) -> None:
    """Draw a batch of images into axes.

    Args:
        ax: Where to draw.
        x: Images (B, C, H, W) in [-1, 1].
        title: A line above them.
        n_columns: Images a row.

    >>> fig, ax = figure()
    >>> draw_images(ax, torch.zeros(4, 1, 8, 8))
    >>> plt.close(fig)
    """
    picture = tile(x, n_columns).numpy()
    shrunk = picture.shape[1] > ax.get_window_extent().width  # else every pixel is seen
    ax.imshow(picture, interpolation="antialiased" if shrunk else "nearest", vmin=0, vmax=1)
    ax.set_title(title)
    ax.axis("off")


def show_images(
    x: Tensor,
    question: str,
    alt: str,
    n_columns: int = 8,
    labels: Sequence[str] | None = None,
    width: float = 7.0,
) -> None:
    """Display a batch of images in rows.

    Args:
        x: Images (B, C, H, W) in [-1, 1].
        question: The title: the question that the picture answers.
        alt: What a reader who cannot see the picture should know.
        n_columns: Images a row.
        labels: One line to the left of each row.
        width: Of the whole picture in inches.

    >>> show_images(torch.zeros(8, 1, 8, 8), "What?", "Eight grey squares.")  # doctest: +SKIP
    """
    n_rows = -(-len(x) // n_columns)
    height, image_width = x.shape[-2:]
    ratio = (n_rows * (height + 1)) / (n_columns * (image_width + 1))
    fig, ax = figure(size=(width, width * ratio + 0.4))
    draw_images(ax, x, title=question, n_columns=n_columns)  # close to the images
    if labels is not None:
        for row, label in enumerate(labels):
            y = row * (height + 1) + height / 2
            ax.text(-2, y, label, ha="right", va="center", fontsize=9)
    show(fig, alt, tight=True)


def gif(
    frames: Sequence[Tensor],
    alt: str,
    seconds: float = 4.0,
    scale: int = 2,
    n_columns: int = 8,
    loop: bool = False,
) -> None:
    """Display an animation that plays once and stays on its last frame.

    Args:
        frames: Batches of images (B, C, H, W) in [-1, 1], one batch a frame.
        alt: What a reader who cannot see it should know.
        seconds: How long it plays.
        scale: Screen pixels a pixel.
        n_columns: Images a row.
        loop: Play it again and again instead.

    >>> gif([torch.zeros(4, 1, 8, 8)] * 2, "Nothing moves.")  # doctest: +SKIP
    """
    pictures = []
    for frame in frames:
        pixels = (tile(frame, n_columns) * 255).round().to(torch.uint8).numpy()
        picture = PILImage.fromarray(pixels)
        size = (picture.width * scale, picture.height * scale)
        picture = picture.resize(size, PILImage.Resampling.NEAREST)
        pictures.append(picture.quantize(32, dither=PILImage.Dither.NONE))
    buffer = io.BytesIO()
    duration = [round(1000 * seconds / len(pictures))] * len(pictures)
    again = {"loop": 0} if loop else {}  # 0 stands for ever
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=duration, **again
    )
    display(Image(data=buffer.getvalue(), format="gif", alt=alt))  # type: ignore[no-untyped-call]


def draw_score(
    ax: Axes, score: Score, title: str = "", voices: Sequence[int] = (0, 1, 2, 3)
) -> None:
    """Draw four voices (4, L) as a piano roll into axes, each note a bar in its voice's colour.

    Of a grid of axes only those at the edges get labels.

    Args:
        ax: Where to draw.
        score: Pitches and onsets; a rest leaves a gap.
        title: What is drawn.
        voices: Which voices.

    >>> fig, ax = figure()
    >>> from minidiff.data import Score
    >>> draw_score(ax, Score(torch.full((4, 16), 60), torch.ones(4, 16, dtype=torch.bool)))
    >>> plt.close(fig)
    """
    for voice in voices:
        sung = notes(score.pitches[voice].cpu(), score.onsets[voice].cpu())
        bars = [  # the corners of each
            [(x / BEAT, pitch + y) for x, y in ((b, -0.6), (e, -0.6), (e, 0.6), (b, 0.6))]
            for b, e, pitch in ((begin + 0.1, end - 0.1, pitch) for begin, end, pitch in sung)
        ]
        ax.add_collection(PolyCollection(bars, facecolor=COLORS[voice]))
    ax.set(
        title=title,
        xlabel="beat",
        ylabel="pitch",
        xlim=(0, score.pitches.shape[-1] / BEAT),
        ylim=(LOWEST[3] - 1, HIGHEST[0] + 1),
        yticks=[36, 48, 60, 72],
        yticklabels=["C2", "C3", "C4", "C5"],
    )
    ax.label_outer()


def mp3(sound: Tensor, sample_rate: int = 16_000) -> bytes:
    """Compress a sound (n,), its loudest brought to 0.9, as MP3: about 4 KB a second.

    Silence at its end is cut off: all but 0.1 seconds of what is 40 decibels below the loudest.

    >>> len(mp3(torch.zeros(16_000))) < 9_000
    True
    """
    import soundfile

    wave = sound.detach().float().cpu()
    wave = 0.9 * wave / wave.abs().max().clamp(min=1e-3)
    heard = (wave.abs() >= 0.009).nonzero()
    if len(heard):
        wave = wave[: int(heard[-1]) + sample_rate // 10]
    buffer = io.BytesIO()
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.7}
    soundfile.write(buffer, wave.numpy(), sample_rate, format="MP3", **options)
    return buffer.getvalue()


def play(sounds: dict[str, Tensor], sample_rate: int = 16_000) -> None:
    """Display a player for each of some sounds, embedded and compressed.

    Args:
        sounds: (n,) each, by what is said beside the player.
        sample_rate: Samples a second.

    >>> play({"silence": torch.zeros(16_000)})  # doctest: +SKIP
    """
    rows = []
    for name, sound in sounds.items():
        data = base64.b64encode(mp3(sound, sample_rate)).decode()
        label = html.escape(name, quote=True)
        rows.append(
            f'<div><audio controls preload="none" aria-label="{label}" '
            f'style="height: 2em; vertical-align: middle" src="data:audio/mpeg;base64,{data}">'
            f"</audio> {label}</div>"
        )
    display(HTML("\n".join(rows)))  # type: ignore[no-untyped-call]


def draw_mel(ax: Axes, mel: Tensor, title: str = "") -> None:
    """Draw a mel spectrogram (bands, frames) in [-1, 1] into axes, low bands at the bottom.

    Of a grid of axes only those at the edges get labels.

    >>> fig, ax = figure()
    >>> draw_mel(ax, torch.zeros(64, 128))
    >>> plt.close(fig)
    """
    ax.imshow(
        mel.detach().float().cpu().numpy(),
        origin="lower",
        aspect="auto",
        cmap=plt.get_cmap("magma", 16),  # steps of 4 decibels: half the bytes
        vmin=-1,
        vmax=1,
        interpolation="nearest",
    )
    ax.set_title(title)
    ax.grid(False)
    ax.set(xlabel="frame", ylabel="band")
    ax.label_outer()

"""Chapter 13: video. A clip is data with one more dimension, and only the backbone has to know.

Ho et al. 2022, "Video Diffusion Models" (arXiv:2204.03458, section 3), for a UNet that treats space
and time in turn; Hoogeboom et al. 2023, "simple diffusion" (arXiv:2301.11093, its part on
adjusting noise schedules), for a schedule that is shifted where neighbours say the same again;
Tancik et al. 2020 (arXiv:2006.10739) for waves that tell a network where and when it is; Voleti et
al. 2022, "MCVD" (arXiv:2205.09853), for one network that draws, predicts and fills in. Motion
compensation is as old as digital video (Jain & Jain 1981, "Displacement measurement and its
application in interframe image coding"); a model of pictures within one of clips is after Singer
et al. 2022, "Make-A-Video" (arXiv:2209.14792).

Clips are (B, C, F, H, W), F frames. Training, `Denoiser`, samplers, `guided` and `inpaint` are
those of the chapters before, to the letter: they never asked how many dimensions space has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.forward import NoiseSchedule, forward_diffusion
from minidiff.text import TextUNet
from minidiff.training import Context, PredictionType, training_target
from minidiff.unet import Attention, ResBlock, get_timestep_embedding

N_WAVES = 32  # of `CaptionWaves`
KNOWN_LOOKS = 30.0  # weight of a known pixel beside one that is predicted, in `MotionCompensated`
CLOSE_UP = 28  # side of what its picture model is shown


def shift_schedule(schedule: NoiseSchedule, factor: float) -> NoiseSchedule:
    """Multiply the signal-to-noise ratio of each timestep (Hoogeboom et al. 2023).

    F frames that show the same thing are F looks at it: their mean has F times the ratio of one. A
    factor of 1 / F makes up for that, so that a clip is as hard to see as a picture was.

    Args:
        schedule: Any schedule that never is without signal.
        factor: Of the ratio; below 1 there is more noise.

    Returns:
        A schedule of the same length whose snr is factor * schedule.snr.

    Raises:
        ValueError: If factor is not positive and finite, or the schedule ends without signal.

    >>> schedule = cosine_schedule(1000)
    >>> shifted = shift_schedule(schedule, 1 / 16)
    >>> round((schedule.snr / shifted.snr)[500].item(), 6)
    16.0
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be positive and finite, got {factor}")
    if schedule.betas[-1] == 1:
        raise ValueError("schedule must keep some signal to the end, got one whose last beta is 1")
    a_bar, rest = factor * schedule.alphas_cumprod, 1 - schedule.alphas_cumprod
    a_bar = a_bar / (a_bar + rest)  # snr / (snr + 1), with the new snr
    a_bar_prev = torch.cat([a_bar.new_ones(1), a_bar[:-1]])
    return NoiseSchedule(1 - a_bar / a_bar_prev)


def patchify(x: Tensor, patch: int) -> Tensor:
    """Cut clips into frames, and frames into patches whose pixels become channels.

    Nothing is lost: what is known of a clip pixel by pixel is known exactly, as `inpaint` needs it.

    Args:
        x: Clips, (B, C, F, H, W).
        patch: Side of a patch, which divides H and W.

    Returns:
        (B F, C patch^2, H / patch, W / patch).

    Raises:
        ValueError: If x is no batch of clips or patch does not divide H and W.

    >>> patchify(torch.zeros(2, 1, 16, 40, 40), 4).shape
    torch.Size([32, 16, 10, 10])
    """
    if x.ndim != 5:
        raise ValueError(f"x must be (B, C, F, H, W), got {tuple(x.shape)}")
    if patch < 1 or x.shape[3] % patch or x.shape[4] % patch:
        raise ValueError(f"patch must divide height and width {tuple(x.shape[3:])}, got {patch}")
    return F.pixel_unshuffle(x.transpose(1, 2).flatten(0, 1), patch)  # (B F, C, H, W) -> ...


def unpatchify(h: Tensor, patch: int, n_frames: int) -> Tensor:
    """Put patches and frames together again: the inverse of `patchify`.

    Args:
        h: (B F, C patch^2, H / patch, W / patch).
        patch: Side of a patch.
        n_frames: F.

    Returns:
        Clips, (B, C, F, H, W).

    >>> x = torch.arange(64.0).view(1, 1, 4, 4, 4)
    >>> torch.equal(unpatchify(patchify(x, 2), 2, 4), x)
    True
    """
    frames = F.pixel_shuffle(h, patch)  # (B F, C, H, W)
    return frames.view(-1, n_frames, *frames.shape[1:]).transpose(1, 2)  # (B, C, F, H, W)


class TemporalBlock(nn.Module):
    """Frames exchange what they know, each place on its own (Ho et al. 2022, section 3).

    A convolution over neighbouring frames, and attention over all of them if asked for. Both start
    at zero: at first the block changes nothing, and each frame is a picture by itself.

    Args:
        channels: Channels of input and output.
        n_frames: Frames of a clip.
        attention: Whether each frame looks at all others.

    Raises:
        ValueError: If forward gets frames that make no whole clips.

    >>> block = TemporalBlock(8, n_frames=4, attention=True)
    >>> block(torch.zeros(2 * 4, 8, 5, 5)).shape
    torch.Size([8, 8, 5, 5])
    """

    def __init__(self, channels: int, n_frames: int, attention: bool = False) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.norm = nn.GroupNorm(max(channels // 16, 1), channels)
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))  # over (F, H W)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.attention = Attention(channels) if attention else None
        # Attention does not know an order; what is added here tells it which frame is which.
        numbers = torch.arange(n_frames, device="cpu")
        places = get_timestep_embedding(numbers, channels, max_period=100.0) / 2  # (F, C)
        self.places = nn.Parameter(places[:, :, None, None]) if attention else None

    def forward(self, h: Tensor) -> Tensor:
        """Map frames h (B F, C, H, W) to the same shape."""
        if len(h) % self.n_frames:
            raise ValueError(f"h must hold clips of {self.n_frames} frames, got {len(h)} frames")
        n_items, n_channels, height, width = h.shape
        clips = (n_items // self.n_frames, self.n_frames, n_channels)  # (B, F, C)
        x = F.silu(self.norm(h)).view(*clips, height * width)  # (B, F, C, H W)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)  # over F, in (B, C, F, H W) and back
        h = h + x.reshape(h.shape)
        if self.attention is None or self.places is None:
            return h
        x = h.view(*clips, height, width) + self.places  # (B, F, C, H, W)
        x = x.permute(0, 3, 4, 2, 1)  # (B, H, W, C, F)
        attended = self.attention(x.flatten(0, 2)).view(x.shape)  # (B H W, C, F): space is batch
        h = attended.permute(0, 4, 3, 1, 2).reshape(h.shape)  # (B, F, C, H, W) -> (B F, C, H, W)
        return h.contiguous(memory_format=torch.channels_last)


class CaptionWaves(nn.Module):
    """Waves that run across the canvas, each as strong as the caption wants it.

    "To the left" begins on the right: caption, place and frame together decide what is where.
    Convolutions and attention treat all places alike, and a sum of the three cannot say it. So they
    are multiplied. Wave k is cos(w_k . (frame, row, column) + p_k), a Fourier feature (Tancik et
    al. 2020) with a phase in place of a sine beside the cosine, and the caption scales it.

    Args:
        text_dim: Features of a caption.
        n_frames: Frames of a clip.
        n_waves: How many. Their directions, speeds and phases are random, not learned, and kept
            with the weights.

    >>> CaptionWaves(8, n_frames=4, n_waves=6)(torch.zeros(2, 8), (5, 5)).shape
    torch.Size([8, 6, 5, 5])
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, text_dim: int, n_frames: int, n_waves: int = N_WAVES) -> None:
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(0)
        frequencies = 2 * torch.randn(n_waves, 3, generator=generator, device="cpu")
        phases = 2 * math.pi * torch.rand(n_waves, generator=generator, device="cpu")
        self.register_buffer("frequencies", frequencies)  # of frame, row, column, radians
        self.register_buffer("phases", phases)
        self.n_frames = n_frames
        self.strengths = nn.Linear(text_dim, n_waves)

    def forward(self, caption: Tensor, size: Sequence[int]) -> Tensor:
        """Scale the waves as each caption wants them.

        Args:
            caption: Features of whole captions, (B, text_dim).
            size: Height and width of the grid.

        Returns:
            (B n_frames, n_waves, *size): frames are the batch, in the order of `patchify`.
        """
        strengths = 1 + self.strengths(caption)  # (B, n_waves)
        out: Tensor = strengths[:, None, :, None, None] * self.on_grid(size)  # (B, F, n_waves, ...)
        return out.flatten(0, 1)

    def on_grid(self, size: Sequence[int]) -> Tensor:
        """Return the waves before any caption, (n_frames, n_waves, *size); axes span [-1, 1]."""
        dtype = torch.promote_types(self.frequencies.dtype, torch.float32)
        frame, row, column = (
            torch.linspace(-1, 1, n, dtype=dtype, device=self.frequencies.device)
            for n in (self.n_frames, *size)
        )
        # No matrix product, which autocast would round: an angle is several turns.
        by_frame, by_row, by_column = self.frequencies.to(dtype).T[:, None, :, None, None]
        angles: Tensor = (
            by_frame * frame[:, None, None, None]
            + by_row * row[:, None]
            + by_column * column
            + self.phases[:, None, None]
        )  # (F, n_waves, H, W)
        return angles.cos()


class VideoUNet(TextUNet):
    """The UNet that reads captions, for clips: frames are its batch, and meet in `TemporalBlock`s.

    One stands behind each residual block, where chapter 02 had room for attention over a picture's
    places, and one at the bottom. With them taken out, each frame is drawn as a picture by itself.
    Beside the pixels of its patch each place gets `CaptionWaves` as further channels, and what is
    known of the clip, see `known_context`. The weights of the latter start at zero, so a model that
    was trained without may go on with it (as Rombach et al. 2022 give pictures with a hole to their
    inpainting model, section 4.5).

    Args:
        n_words: Size of the vocabulary.
        n_channels: Channels of a clip.
        n_frames: Its frames.
        patch: Side of the patches, see `patchify`.
        channels: Width of each level, from the finest to the coarsest; multiples of 16.
        n_blocks: Residual blocks a level on either side.
        text_levels: Levels (0 is the finest) that look at the words; the bottom always does.
        time_levels: Levels in which each frame looks at all others; the bottom always does.
        text_dim: Features of a word.
        n_tokens: Longest caption.

    Raises:
        ValueError: If channels are no multiples of 16, or forward gets clips, captions or known
            pixels that do not fit.

    >>> tokenizer = Tokenizer(["a", "coat", "up"], n_tokens=16)
    >>> model = VideoUNet(len(tokenizer), channels=(16, 16, 32))
    >>> x_t, t = torch.zeros(1, 1, 16, 40, 40), torch.tensor([999])
    >>> model(x_t, t, tokenizer(["a coat, up"])).shape
    torch.Size([1, 1, 16, 40, 40])
    """

    def __init__(
        self,
        n_words: int,
        n_channels: int = 1,
        n_frames: int = 16,
        patch: int = 2,
        channels: Sequence[int] = (32, 32, 48),
        n_blocks: int = 1,
        text_levels: Sequence[int] = (2,),
        time_levels: Sequence[int] = (2,),
        text_dim: int = 48,
        n_tokens: int = 16,
    ) -> None:
        if any(width % 16 for width in channels):
            raise ValueError(f"channels must be multiples of 16, got {tuple(channels)}")
        inner, n_known = n_channels * patch**2, (n_channels + 1) * patch**2
        n_inputs = inner + N_WAVES + n_known
        super().__init__(
            n_words, n_inputs, inner, channels, n_blocks, text_levels, text_dim, n_tokens
        )
        nn.init.zeros_(self.conv_in.weight.data[:, -n_known:])
        self.n_channels, self.n_frames, self.patch = n_channels, n_frames, patch
        for level, (down, up, width) in enumerate(
            zip(self.downs, reversed(self.ups), channels, strict=True)
        ):
            for side in (down, up):
                side.attentions = nn.ModuleList(
                    space_time(width, n_frames, level in time_levels) for _ in range(n_blocks)
                )
        self.mid.attention = space_time(channels[-1], n_frames, attention=True)  # type: ignore[assignment]
        self.waves = CaptionWaves(text_dim, n_frames)
        large_groups(self)

    def forward(
        self, x_t: Tensor, t: Tensor, context: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Predict from x_t at time t, as the caption says.

        Args:
            x_t: Noisy clips, (B, n_channels, n_frames, H, W); patch divides H and W.
            t: Timesteps, (B,).
            context: {"tokens": (B, N) int64, "tokens_mask": (B, N) bool}, and if something is known
                of the clips {"known": (B, n_channels + 1, n_frames, H, W)}, see `known_context`.

        Returns:
            (B, n_channels, n_frames, H, W).
        """
        if x_t.ndim != 5 or x_t.shape[1:3] != (self.n_channels, self.n_frames):
            raise ValueError(
                f"x_t must be (B, {self.n_channels}, {self.n_frames}, H, W), got {tuple(x_t.shape)}"
            )
        if t.shape != x_t.shape[:1]:
            raise ValueError(f"t must have shape ({len(x_t)},), got {tuple(t.shape)}")
        words, mask = self.read(context)  # once a clip, (B, N, text_dim) and (B, N)
        shape = (len(x_t), self.n_channels + 1, *x_t.shape[2:])
        known = (context or {}).get("known", x_t.new_zeros(1).expand(shape))
        if known.shape != shape:
            raise ValueError(f"context['known'] must be {shape}, got {tuple(known.shape)}")
        frames = patchify(x_t, self.patch)  # (B F, C patch^2, H / patch, W / patch)
        waves = self.waves(words[:, 0], frames.shape[2:])  # (B F, N_WAVES, H / patch, W / patch)
        t, words, mask = (v.repeat_interleave(self.n_frames, dim=0) for v in (t, words, mask))
        known = patchify(known, self.patch)  # (B F, (C + 1) patch^2, H / patch, W / patch)
        frames = torch.cat([frames, waves.to(frames.dtype), known.to(frames.dtype)], dim=1)
        frames = frames.contiguous(memory_format=torch.channels_last)
        return unpatchify(self.draw(frames, t, words, mask), self.patch, self.n_frames)


def space_time(channels: int, n_frames: int, attention: bool) -> nn.Module:
    """A `TemporalBlock`; with attention, first the places of each frame look at each other.

    Space, then time: every place of every frame can reach every other in two looks, and 25 places
    and 16 frames cost 25 + 16 comparisons for each in place of 400 (Ho et al. 2022, section 3).

    >>> space_time(16, n_frames=4, attention=True)(torch.zeros(4, 16, 5, 5)).shape
    torch.Size([4, 16, 5, 5])
    """
    over_time = TemporalBlock(channels, n_frames, attention)
    return nn.Sequential(Attention(channels), over_time) if attention else over_time


def large_groups(model: nn.Module) -> None:
    """Normalise in groups of 16 channels, in place: torch is slow with many small ones."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = module.num_channels // 16


def match_frames(x_0: Tensor, reach: int = 2, sharpness: float | Tensor = 1.0) -> Tensor:
    """Where has what a frame shows gone in the next frame? Block matching, as video codecs do it.

    The cross-correlation of both frames for each offset of at most reach pixels, then a softmax:
    one offset where the match is clear, a spread where it is not. (The sum of squared differences
    is a constant minus twice the correlation.) The whole frame is one block, so it finds one motion
    a frame. Frames are taken as periodic, since correlations are then products of Fourier
    transforms; nothing is lost by it where the canvas is empty along its edges.

    Args:
        x_0: Clips, (B, C, F, H, W).
        reach: Largest offset along either axis.
        sharpness: Factor of the correlations.

    Returns:
        (B, F - 1, 2 reach + 1, 2 reach + 1), offsets down and right from -reach to reach; each
        sums to 1.

    Raises:
        ValueError: If x_0 is no batch of clips, or a frame is too small for offsets of reach.

    >>> clip = torch.zeros(1, 1, 2, 6, 6)
    >>> clip[0, 0, 0, 2, 2] = clip[0, 0, 1, 2, 3] = 1  # a point moves to the right
    >>> match_frames(clip, reach=1, sharpness=10.0)[0, 0].round().int()
    tensor([[0, 0, 0],
            [0, 0, 1],
            [0, 0, 0]], dtype=torch.int32)
    """
    if x_0.ndim != 5:
        raise ValueError(f"x_0 must be (B, C, F, H, W), got {tuple(x_0.shape)}")
    height, width = x_0.shape[-2:]
    if reach < 0 or 2 * reach >= min(height, width):
        raise ValueError(f"reach must fit into frames of {height}x{width}, got {reach}")
    waves = torch.fft.rfft2(x_0)  # (B, C, F, H, W / 2 + 1)
    product = (waves[:, :, :-1].conj() * waves[:, :, 1:]).sum(1)  # (B, F - 1, ...)
    match = torch.fft.irfft2(product, s=(height, width))  # of each offset, (B, F - 1, H, W)
    match = match.roll((reach, reach), (2, 3))[:, :, : 2 * reach + 1, : 2 * reach + 1]
    kernels: Tensor = (match.flatten(2) * sharpness).softmax(2)
    return kernels.view(match.shape)


def along_motion(x: Tensor, kernels: Tensor) -> Tensor:
    """Sum over all other frames, each moved to where its frame is by the kernels in between.

    A frame is moved by a convolution with a kernel, back by one with the mirrored kernel, and over
    several frames step by step; all of it as products of Fourier transforms.

    Args:
        x: (B, C, F, H, W).
        kernels: Of the step from each frame to the next, (B, F - 1, k, k) with odd k, as
            `match_frames` returns them.

    Returns:
        (B, C, F, H, W).

    Raises:
        ValueError: If there is not one kernel, odd and no larger than a frame, for each step.

    >>> x = torch.arange(6.0).view(1, 1, 2, 1, 3)  # two frames of one row
    >>> right = torch.zeros(1, 1, 1, 3).index_fill(3, torch.tensor(2), 1.0)
    >>> along_motion(x, right).round()[0, 0]  # the second moved to the left, the first to the right
    tensor([[[4., 5., 3.]],
    <BLANKLINE>
            [[2., 0., 1.]]])
    """
    size = x.shape[-2:]
    if (
        x.ndim != 5
        or kernels.shape[:2] != (len(x), x.shape[2] - 1)
        or kernels.ndim != 4
        or any(k % 2 == 0 or k > n for k, n in zip(kernels.shape[2:], size, strict=True))
    ):
        raise ValueError(
            f"kernels must be (B, F - 1, k, k) with odd k for x (B, C, F, H, W), got "
            f"{tuple(kernels.shape)} for {tuple(x.shape)}"
        )
    reach = [(k - 1) // 2 for k in kernels.shape[2:]]
    room = [n - k for n, k in zip(size, kernels.shape[2:], strict=True)]
    whole = F.pad(kernels, (0, room[1], 0, room[0])).roll([-r for r in reach], (2, 3))
    steps = torch.fft.rfft2(whole)[:, None].unbind(2)  # F - 1 of (B, 1, H, W / 2 + 1)
    frames = torch.fft.rfft2(x).unbind(2)  # F of (B, C, H, W / 2 + 1)
    before, after = [torch.zeros_like(frames[0])], [torch.zeros_like(frames[0])]
    for frame, step in zip(frames[:-1], steps, strict=True):
        before.append(step * (before[-1] + frame))
    for frame, step in zip(frames[:0:-1], steps[::-1], strict=True):
        after.append(step.conj() * (after[-1] + frame))
    total = [a + b for a, b in zip(before, after[::-1], strict=True)]
    moved: Tensor = torch.fft.irfft2(torch.stack(total, dim=2), s=size)
    return moved


def find_light(pictures: Tensor) -> Tensor:
    """Return the pixel in the middle of the light of each picture, (B, 2), row and column.

    Args:
        pictures: (B, C, H, W) in [-1, 1], -1 where nothing is; up to a tenth of full light counts
            as nothing, too. In the dark it is the first pixel.

    >>> pictures = torch.full((1, 1, 4, 4), -1.0)
    >>> pictures[0, 0, 1, 2:] = 1
    >>> find_light(pictures)
    tensor([[1, 2]])
    """
    light = (pictures.mean(1) + 1) / 2  # (B, H, W)
    light = light * (light > 0.1)
    total = light.sum((1, 2)).clamp(min=1e-3)
    middle = [
        (light.sum(2 - axis) * torch.arange(n, device=light.device)).sum(1) / total
        for axis, n in enumerate(light.shape[1:])
    ]
    return torch.stack(middle, dim=1).round().long()


def window(middles: Tensor, size: Sequence[int], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index a square of pictures: x.movedim(1, -1)[window(...)] is what it shows, channels last.

    It goes on at the opposite edge where it leaves the picture, as `match_frames` takes pictures
    for periodic: noise stays noise, and the dark stays dark.

    Args:
        middles: Row and column of the square's middle, (B, 2) int64.
        size: Height and width of the pictures.
        side: Of the square.

    Returns:
        Indices of picture, row and column that broadcast to (B, side, side).

    Raises:
        ValueError: If the square is larger than the pictures.

    >>> x = torch.arange(16).view(1, 4, 4, 1)  # channels last
    >>> x[window(torch.tensor([[0, 2]]), (4, 4), 2)][0, :, :, 0]
    tensor([[13, 14],
            [ 1,  2]])
    """
    if not 1 <= side <= min(size):
        raise ValueError(f"side must fit into pictures of {size[0]}x{size[1]}, got {side}")
    reach = torch.arange(side, device=middles.device) - side // 2
    rows, columns = ((m[:, None] + reach) % n for m, n in zip(middles.T, size, strict=True))
    which = torch.arange(len(middles), device=middles.device)
    return which[:, None, None], rows[:, :, None], columns[:, None, :]


class MotionCompensated(nn.Module):
    """A model of clips that looks along the motion it has found, and has a picture model draw.

    Layers over time look at a place; what moves is elsewhere in the next frame, so details travel
    badly, and each frame gets its own. Here the model's x_0 is matched from frame to frame, and
    all F frames are moved onto the middle one. Their mean is *one* noisy picture, of what all
    frames show, with F times the signal-to-noise ratio of a frame. An ordinary picture model
    predicts it; what it draws is moved back into all frames. (Singer et al. 2022 and Blattmann et
    al. 2023, arXiv:2304.08818, build models of clips around one of pictures, too.) A small network
    says for each pixel how far to trust it.

    Where clips are known in part, what is known stands in x_0 as it is, and a known pixel counts
    as `KNOWN_LOOKS` predicted ones; what the picture model draws counts as F of them.

    Args:
        model: Predicts v of clips and keeps the contract model(x_t, t, context).
        picture: Predicts v of pictures around their light, (B, C, side, side), at the same t, and
            keeps the same contract; trained on shift_schedule(schedule, F).
        schedule: That of the clips' training.
        n_channels: Channels of a clip.
        patch: Side of the patches of the small network, see `patchify`.
        width: Its channels, a multiple of 16.
        side: Of what the picture model is shown.

    Raises:
        ValueError: When called, as the models, `patchify` and `window` do.

    >>> tokenizer = Tokenizer(["a", "coat", "up"], n_tokens=16)
    >>> model = VideoUNet(len(tokenizer), channels=(16, 16, 32))
    >>> picture = TextUNet(len(tokenizer), 1, 1, channels=(16, 32), n_tokens=16)
    >>> schedule = shift_schedule(cosine_schedule(), 1 / 16)
    >>> whole = MotionCompensated(model, picture, schedule)
    >>> x_t, t = torch.zeros(1, 1, 16, 40, 40), torch.tensor([999])
    >>> whole(x_t, t, tokenizer(["a coat, up"])).shape
    torch.Size([1, 1, 16, 40, 40])
    """

    signal: Tensor
    noise: Tensor

    def __init__(
        self,
        model: nn.Module,
        picture: nn.Module,
        schedule: NoiseSchedule,
        n_channels: int = 1,
        patch: int = 2,
        width: int = 16,
        side: int = CLOSE_UP,
    ) -> None:
        super().__init__()
        self.model, self.picture = model, picture
        self.patch, self.side, self.time_dim = patch, side, 32
        for name, value in (
            ("signal", schedule.alphas_cumprod.sqrt()),
            ("noise", (1 - schedule.alphas_cumprod).sqrt()),
        ):
            self.register_buffer(name, value.float(), persistent=False)
        self.log_sharpness = nn.Parameter(torch.zeros((), device="cpu"))
        self.conv_in = nn.Conv2d((3 * n_channels + 1) * patch**2, width, 3, padding=1)
        self.block = ResBlock(width, width, self.time_dim)
        large_groups(self.block)
        self.conv_out = nn.Conv2d(width, n_channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x_t: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        """Predict v from x_t (B, C, F, H, W) at t (B,), as `VideoUNet` does."""
        v = self.model(x_t, t, context).to(x_t.dtype)
        a, b = (s[t].to(x_t.dtype).view(-1, 1, 1, 1, 1) for s in (self.signal, self.noise))
        x_0, looks = with_known((a * x_t - b * v).clamp(-1, 1), context)
        drawn = self.draw(x_t, t, x_0, looks, context)
        share = self.trust(torch.cat([x_t, x_0, drawn, looks / KNOWN_LOOKS], dim=1), t)
        return (a * x_t - torch.lerp(x_0, drawn, share)) / b

    def draw(
        self, x_t: Tensor, t: Tensor, x_0: Tensor, looks: Tensor, context: Context | None
    ) -> Tensor:
        """Draw the one picture that all frames show, and move it into each, (B, C, F, H, W)."""
        kernels = match_frames(x_0, sharpness=self.log_sharpness.exp())
        n_frames, middle = x_t.shape[2], x_t.shape[2] // 2
        frames = torch.cat([looks * x_0, looks, x_t], dim=1)
        onto_middle = (along_motion(frames, kernels) + frames)[:, :, middle]
        sizes = [x_0.shape[1], 1, x_t.shape[1]]
        guess, weight, mean = torch.split(onto_middle, sizes, dim=1)
        weight = weight.clamp(min=n_frames)  # which rounding may have missed by a little
        guess, mean = guess / weight, mean / n_frames  # of x_0 and of x_t, (B, C, H, W)
        # With clear matches the mean is a x_0 + b / sqrt(F) noise, and as a noisy picture its
        # squares must add up to 1.
        a, b = (s[t].to(x_t.dtype).view(-1, 1, 1, 1) for s in (self.signal, self.noise))
        norm = (a.square() + b.square() / n_frames).sqrt()
        square = window(find_light(guess), guess.shape[2:], self.side)
        seen = (mean / norm).movedim(1, -1)[square].movedim(-1, 1)  # (B, C, side, side)
        words = {name: values for name, values in (context or {}).items() if name != "known"}
        v = self.picture(seen, t, words).to(x_t.dtype)
        drawn = (a * seen - b / n_frames**0.5 * v) / norm
        picture = guess.movedim(1, -1).index_put(square, drawn.clamp(-1, 1).movedim(1, -1))
        picture = torch.lerp(guess, picture.movedim(-1, 1), n_frames / weight)
        alone = F.pad(picture[:, :, None], (0,) * 4 + (middle, n_frames - middle - 1))
        return along_motion(alone, kernels) + alone

    def trust(self, seen: Tensor, t: Tensor) -> Tensor:
        """Say for each pixel how far to trust the picture, 0..1, (B, C, F, H, W)."""
        n_frames = seen.shape[2]
        time = get_timestep_embedding(t, self.time_dim).to(seen.dtype)
        time = time.repeat_interleave(n_frames, dim=0)  # (B F, time_dim)
        patches = patchify(seen, self.patch).contiguous(memory_format=torch.channels_last)
        h = self.conv_out(F.silu(self.block(self.conv_in(patches), time)))
        return unpatchify(h, self.patch, n_frames).to(seen.dtype).sigmoid()


def with_known(x_0: Tensor, context: Context | None) -> tuple[Tensor, Tensor]:
    """Put what is known of clips into x_0, and say how much each pixel counts.

    Args:
        x_0: What a model predicts, (B, C, F, H, W).
        context: Its context, with "known" of `known_context` if something is known.

    Returns:
        x_0 with what is known, and looks, (B, 1, F, H, W): 1 for what is predicted, `KNOWN_LOOKS`
        for what is known.

    >>> clip = torch.full((1, 1, 2, 1, 1), 0.5)
    >>> x_0, looks = with_known(torch.zeros_like(clip), known_context(clip, known_frames([0], 2)))
    >>> x_0.flatten(), looks.flatten()
    (tensor([0.5000, 0.0000]), tensor([30.,  1.]))
    """
    looks = torch.ones_like(x_0[:, :1])
    known = (context or {}).get("known")
    if known is None:
        return x_0, looks
    shown, mask = known[:, :-1], known[:, -1:] > 0
    return torch.where(mask, shown, x_0), torch.where(mask, KNOWN_LOOKS, looks)


def known_frames(frames: Sequence[int], n_frames: int = 16) -> Tensor:
    """Mask for `inpaint` that knows whole frames: the first ones to predict, some to fill between.

    Args:
        frames: Which are known.
        n_frames: Of a clip.

    Returns:
        (1, 1, n_frames, 1, 1) bool, True where a frame is known.

    Raises:
        ValueError: If a frame is not in [0, n_frames).

    >>> known_frames(range(4), 6).flatten().tolist()
    [True, True, True, True, False, False]
    """
    if not all(0 <= frame < n_frames for frame in frames):
        raise ValueError(f"frames must lie in [0, {n_frames}), got {list(frames)}")
    mask = torch.zeros(n_frames, dtype=torch.bool, device="cpu")
    mask[list(frames)] = True
    return mask.view(1, 1, n_frames, 1, 1)


def moving_hole(corners: Tensor, size: int, side: int = 40) -> Tensor:
    """Mask for `inpaint` with a square hole that is elsewhere in each frame.

    Args:
        corners: First row and column of the hole, (F, 2) int64; it may lie partly outside.
        size: Side of the hole in pixels.
        side: Height and width of the frames.

    Returns:
        (1, 1, F, side, side) bool, False in the hole.

    Raises:
        ValueError: If corners are not (F, 2).

    >>> moving_hole(torch.tensor([[0, 0], [0, 1]]), size=1, side=2).int().flatten(2)
    tensor([[[0, 1, 1, 1, 1, 0, 1, 1]]], dtype=torch.int32)
    """
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise ValueError(f"corners must be (F, 2), got {tuple(corners.shape)}")
    places = torch.arange(side, device=corners.device)
    inside = (places >= corners[:, :, None]) & (places < corners[:, :, None] + size)  # (F, 2, side)
    return ~(inside[:, 0, :, None] & inside[:, 1, None, :])[None, None]  # (1, 1, F, side, side)


def known_context(known: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What is known of clips, to be shown to a `VideoUNet` that shall complete them.

    `inpaint` puts known pixels, as noisy as the rest, into x_t. At large t nobody recognises them
    there, and that is when a clip is decided on. So the model is shown them without noise, beside
    x_t and at every t (Voleti et al. 2022).

    Args:
        known: Clips, (B, C, F, H, W); hidden values are never looked at, whatever they are.
        mask: True where they are known, bool, (B or 1, 1, F, H or 1, W or 1).

    Returns:
        {"known": (B, C + 1, F, H, W)}: known pixels, 0 where there is none, and the mask.

    Raises:
        TypeError: If mask is not bool.
        ValueError: If it is not a mask of one channel for these clips.

    >>> known_context(torch.full((1, 1, 2, 1, 1), 0.5), known_frames([0], 2))["known"].flatten(2)
    tensor([[[0.5000, 0.0000],
             [1.0000, 0.0000]]])
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True where clips are known, got {mask.dtype}")
    shape = (len(known), 1, *known.shape[2:])
    if mask.ndim != 5 or any(m not in (1, n) for m, n in zip(mask.shape, shape, strict=True)):
        raise ValueError(f"mask must broadcast to {shape}, got {tuple(mask.shape)}")
    shown = torch.cat([torch.where(mask, known, 0.0), mask.to(known.dtype).expand(shape)], dim=1)
    return {"known": shown}


def draw_masks(
    n_clips: int, generator: torch.Generator, n_frames: int = 16, side: int = 40
) -> Tensor:
    """Draw what shall be known of clips in a training (after Voleti et al. 2022).

    Of two clips in five nothing; of one in four the first frames, up to half of them; of three in
    twenty some frames here and there; and of one in five all but a hole, which moves evenly and is
    closed in a frame now and then.

    Args:
        n_clips: B.
        generator: CPU generator.
        n_frames: Of a clip.
        side: Height and width of the frames.

    Returns:
        Masks (B, 1, n_frames, side, side), True where a clip is known.

    >>> draw_masks(2, torch.Generator().manual_seed(0), n_frames=4, side=8).shape
    torch.Size([2, 1, 4, 8, 8])
    """
    masks = torch.zeros(n_clips, 1, n_frames, side, side, dtype=torch.bool, device="cpu")
    moments = torch.linspace(0, 1, n_frames, device="cpu")[:, None]
    for mask in masks:
        which, a, b, c, d, e = torch.rand(6, generator=generator, device="cpu").tolist()
        closed = torch.rand(n_frames, generator=generator, device="cpu") < 0.3
        if which < 0.4:
            pass
        elif which < 0.65:
            mask[:, : 1 + int(a * n_frames / 2)] = True
        elif which < 0.8:
            mask[:, closed] = True
        else:
            size = side // 5 + int(e * 2 * side / 5)  # a fifth to three fifths of the side
            ends = torch.tensor([[a, b], [c, d]], device="cpu") * (side - size)
            path = torch.lerp(ends[0], ends[1], moments)  # (F, 2)
            mask[:] = moving_hole(path.long(), size, side)[0]
            mask[:, closed] = True
    return masks


def constant_velocity(known: Tensor, n_frames: int = 16, reach: int = 3) -> Tensor:
    """Predict without a model: the last frame moves on as the frames before it did.

    The velocity is that whole number of pixels a frame, down and right, that best maps each known
    frame to the next. What leaves the picture is lost: nothing here knows of walls.

    Args:
        known: The first frames of clips, (B, C, n_known, H, W), at least two.
        n_frames: Frames in all.
        reach: The largest velocity tried, along either axis.

    Returns:
        (B, C, n_frames, H, W), the first ones as they are known.

    Raises:
        ValueError: If there are not two known frames.

    >>> clip = -torch.ones(1, 1, 2, 3, 3)
    >>> clip[0, 0, 0, 0, 0] = clip[0, 0, 1, 0, 1] = 1  # a point moves to the right
    >>> constant_velocity(clip, n_frames=3)[0, 0, 2, 0].tolist()
    [-1.0, -1.0, 1.0]
    """
    n_known = known.shape[2]
    if known.ndim != 5 or n_known < 2:
        raise ValueError(f"known must be (B, C, F, H, W) with F >= 2, got {tuple(known.shape)}")
    velocities = [(v, w) for v in range(-reach, reach + 1) for w in range(-reach, reach + 1)]
    before, after = known[:, :, :-1], known[:, :, 1:]
    errors = [(_moved(before, *v) - after).square().mean((1, 2, 3, 4)) for v in velocities]
    best = torch.stack(errors).argmin(0).tolist()  # of each clip
    frames = []
    for step in range(1, n_frames - n_known + 1):
        moved = [
            _moved(clip[-1:], step * velocities[b][0], step * velocities[b][1])
            for clip, b in zip(known.transpose(1, 2), best, strict=True)
        ]
        frames.append(torch.cat(moved))  # (B, C, H, W)
    return torch.cat([known, *(frame[:, :, None] for frame in frames)], dim=2)


def loss_of_each(
    model: nn.Module,
    x_0: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    context: Context | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    prediction_type: PredictionType = "v",
) -> Tensor:
    """The loss of `train_step`, for each item of the batch: how unlikely a model finds it.

    Args:
        model: Keeps the contract model(x_t, t, context).
        x_0: Clean data, (B, C, *space).
        t: Timesteps, (B,) int64.
        schedule: The noise schedule.
        context: What the prediction may depend on, batch first.
        noise: The noise to add; the same for two sets of data makes their losses comparable.
        generator: Source of that noise where it is not given.
        prediction_type: What the model predicts.

    Returns:
        (B,); their mean is the loss of `train_step`.

    >>> model = lambda x_t, t, context=None: torch.zeros_like(x_t)
    >>> x_0, t = torch.zeros(2, 1, 4, 8, 8), torch.tensor([999, 999])
    >>> loss_of_each(model, x_0, t, linear_schedule(), prediction_type="x_0")
    tensor([0., 0.])
    """
    x_t, noise = forward_diffusion(x_0, t, schedule, noise, generator)
    target = training_target(x_0, noise, t, schedule, prediction_type)
    error: Tensor = model(x_t, t.to(x_0.device), context).to(target.dtype) - target
    return error.square().flatten(1).mean(1)


def _moved(x: Tensor, down: int, right: int) -> Tensor:
    """Move pictures (..., H, W) by whole pixels; what comes in at an edge is -1."""
    height, width = x.shape[-2:]
    out = torch.full_like(x, -1.0)
    if abs(down) >= height or abs(right) >= width:
        return out
    out[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = x[
        ..., max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return out

"""Moving fashion: real garments fly over a dark canvas and bounce off its walls.

After Moving MNIST (Srivastava et al. 2015, arXiv:1502.04681, section 3.2), with the photographs of
Fashion-MNIST, one garment a clip, and a caption that says what flies, where to, and how fast.
`read_motion` and `crop` read both from pixels, and know nothing of how a clip was made.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.data.captions import KINDS
from minidiff.data.fashion import load_fashion

N_FRAMES = 16
CLIP_SIDE = 40  # pixels, height and width of the canvas
GARMENT = 20  # of the photograph on it
N_FREE = 7  # steps at least before the first bounce

DIRECTIONS = (  # clockwise, each with the words that stand for it
    ("to the right", "rightwards"),
    ("down and to the right", "down and rightwards"),
    ("down", "downwards"),
    ("down and to the left", "down and leftwards"),
    ("to the left", "leftwards"),
    ("up and to the left", "up and leftwards"),
    ("up", "upwards"),
    ("up and to the right", "up and rightwards"),
)
STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # (down, right)
SPEEDS = (("slowly", "gently"), ("fast", "quickly"))
PIXELS_A_FRAME = (1, 2)  # along each axis that it moves on, for each of SPEEDS

CLIP_WORDINGS = (
    "a {kind} moving {direction} {speed}",
    "a {kind} flies {speed} {direction}",
    "{speed} {direction}, a {kind}",
    "the {kind} goes {direction}, {speed}",
    "{direction} goes a {kind}, {speed}",
    "this {kind} moves {direction}, {speed}",
    # from here on not everything is said
    "a {kind} moving {direction}",
    "a {kind} that moves {speed}",
    "a {kind}",
)
N_COMPLETE_CLIPS = 6  # the first ones say everything


class Move(NamedTuple):
    """What a clip shows: indices into KINDS, DIRECTIONS and SPEEDS."""

    kind: int
    direction: int
    speed: int


class Clips(NamedTuple):
    """Clips (N, 1, 16, 40, 40) uint8, moves (N, 3) int64 as in `Move`, and a caption for each."""

    clips: Tensor
    moves: Tensor
    captions: list[str]


class MotionReading(NamedTuple):
    """What moves in clips, read from pixels; -1 where nothing moves.

    Indices into DIRECTIONS and SPEEDS, (N,) int64; velocities (N, 2), pixels a frame down and
    right, before the first bounce; the frame of that bounce, (N,) int64, 16 where there is none.
    """

    directions: Tensor
    speeds: Tensor
    velocities: Tensor
    bounces: Tensor


def load_clips(
    split: Literal["train", "test"] = "train",
    n: int = 24_000,
    seed: int = 0,
    n_frames: int = N_FRAMES,
) -> Clips:
    """Let the first n photographs of a split fly, a clip each, and describe them.

    Args:
        split: At most 60,000 or 10,000 clips, 1.6 kB a frame.
        n: How many.
        seed: Decides directions, speeds, starts and wordings.
        n_frames: Of each clip.

    Returns:
        The clips with their moves and captions, on the CPU.

    Raises:
        ValueError, DataNotFound: As `load_fashion` does, and if there are fewer than n.

    >>> clips, moves, captions = load_clips("test", n=2)
    >>> clips.shape, captions[0]
    (torch.Size([2, 1, 16, 40, 40]), '...')
    """
    photographs, kinds = load_fashion(split)
    if not 1 <= n <= len(kinds):
        raise ValueError(f"n must lie in [1, {len(kinds)}], got {n}")
    generator = torch.Generator("cpu").manual_seed(seed)
    moves = draw_moves(kinds[:n], generator)
    clips = animate(photographs[:n], moves, generator, n_frames)
    return Clips(clips, moves, describe_moves(moves, generator))


def draw_moves(kinds: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a direction and a speed, each alike, for given kinds.

    Args:
        kinds: Indices into KINDS, (N,) int64.
        generator: CPU generator.

    Returns:
        Moves (N, 3) int64.

    >>> draw_moves(torch.tensor([9, 0]), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    n = len(kinds)
    directions = torch.randint(len(DIRECTIONS), (n,), generator=generator, device="cpu")
    speeds = torch.randint(len(SPEEDS), (n,), generator=generator, device="cpu")
    return torch.stack([kinds, directions, speeds], dim=1)  # (N, 3)


def describe_moves(
    moves: Tensor, generator: torch.Generator, wordings: tuple[int, ...] | None = None
) -> list[str]:
    """Write a caption for each move.

    Args:
        moves: (N, 3) int64, as in `Move`.
        generator: CPU generator that chooses wording and words.
        wordings: Indices into CLIP_WORDINGS to choose among; all of them by default.

    Returns:
        N captions.

    >>> describe_moves(torch.tensor([[9, 3, 1]]), torch.Generator().manual_seed(0), (1,))
    ['...']
    """
    texts = tuple(CLIP_WORDINGS[i] for i in wordings or range(len(CLIP_WORDINGS)))
    numbers = torch.rand(len(moves), 4, generator=generator, device="cpu").tolist()
    captions = []
    for row, (a, b, c, d) in zip(moves.tolist(), numbers, strict=True):
        move = Move(*row)
        caption = _pick(texts, a).format(
            kind=_pick(KINDS[move.kind], b),
            direction=_pick(DIRECTIONS[move.direction], c),
            speed=_pick(SPEEDS[move.speed], d),
        )
        captions.append(caption.replace("a ankle", "an ankle").replace("a overcoat", "an overcoat"))
    return captions


def clip_words() -> tuple[str, ...]:
    """Return every word that captions of clips are made of, in alphabetical order.

    >>> len(clip_words()), clip_words()[:3]
    (45, ('a', 'an', 'and'))
    """
    names = {"kind": "", "direction": "", "speed": ""}
    phrases = [
        *(wording.format(**names) for wording in CLIP_WORDINGS),
        *(words for choices in (*KINDS, *DIRECTIONS, *SPEEDS) for words in choices),
        "an",
    ]
    return tuple(sorted({word for phrase in phrases for word in phrase.replace(",", "").split()}))


def animate(
    photographs: Tensor, moves: Tensor, generator: torch.Generator, n_frames: int = N_FRAMES
) -> Tensor:
    """Let photographs fly, as moves ask for, from a place drawn at random.

    What bounces is the garment, not the square photograph around it, and not in the first
    `N_FREE` steps, so that everyone can see where it is going.

    Args:
        photographs: (N, 1, 28, 28) in [-1, 1], -1 where nothing is.
        moves: (N, 3) int64, as in `Move`; the kind is not looked at.
        generator: CPU generator that draws where each starts.
        n_frames: Number of frames.

    Returns:
        Clips (N, 1, n_frames, 40, 40) uint8.

    >>> moves = torch.tensor([[0, 0, 1]])  # to the right, fast
    >>> clip = animate(torch.ones(1, 1, 28, 28), moves, torch.Generator().manual_seed(0))
    >>> read_motion(clip)[:2]  # as asked
    (tensor([0]), tensor([1]))
    """
    small = F.interpolate(photographs.add(1).div(2), (GARMENT,) * 2, mode="bicubic", antialias=True)
    small = small.clamp(0, 1).mul(255).round().to(torch.uint8)  # (N, 1, 20, 20)
    n = len(small)
    steps = torch.tensor(STEPS, device=moves.device)[moves[:, 1]]  # (N, 2), down and right
    velocity = steps * torch.tensor(PIXELS_A_FRAME, device=moves.device)[moves[:, 2], None]
    uniform = torch.rand(n, 2, generator=generator, device="cpu")
    frames = torch.arange(n_frames, device=moves.device)
    seen = small[:, 0] > 25  # a tenth of full light
    corners = torch.empty(n, n_frames, 2, dtype=torch.int64, device=moves.device)
    for axis in (0, 1):
        line = seen.any(dim=2 - axis)  # rows or columns that hold something, (N, 20)
        first = line.float().argmax(1)  # (N,)
        last = GARMENT - 1 - line.flip(1).float().argmax(1)
        room = CLIP_SIDE - 1 - (last - first)  # that the garment can move, (N,)
        v = velocity[:, axis]
        free = room - N_FREE * v.abs()
        offset = (uniform[:, axis].to(free.device) * (free + 1)).long() - (N_FREE * v).clamp(max=0)
        # A garment that runs to and fro in its room is where a wave of triangles is.
        at = (offset[:, None] + v[:, None] * frames).remainder(2 * room[:, None])  # (N, n_frames)
        corners[:, :, axis] = torch.minimum(at, 2 * room[:, None] - at) - first[:, None]
    return _place(small, corners)


def read_motion(clips: Tensor) -> MotionReading:
    """Read from pixels where to and how fast things move before they bounce.

    The centroid of the light is followed from frame to frame. It has bounced where it turns back,
    along either axis, against its first three steps; its velocity is the mean over the steps
    before. The direction is the nearest of eight; the speed along the longer axis is slow below
    1.5 pixels a frame, and below half a pixel nothing moves.

    Args:
        clips: (N, 1, n_frames, H, W), uint8 or in [-1, 1].

    Returns:
        Directions, speeds, velocities and bounces.

    >>> read_motion(torch.full((1, 1, 16, 40, 40), -1.0)).directions  # nothing is there
    tensor([-1])
    """
    path = centroids(clips)  # (N, n_frames, 2)
    steps = path.diff(dim=1)  # (N, n_frames - 1, 2)
    first = steps[:, :3].mean(1, keepdim=True)  # (N, 1, 2)
    turned = ((steps * first.sign() < -0.25) & (first.abs() > 0.25)).any(2)  # (N, n_frames - 1)
    # A bounce may fall between two frames and halve that step; the step before a turn is left out.
    after = turned.cumsum(1) > 0
    bounces = torch.where(turned.any(1), turned.float().argmax(1), len(path[0]))  # (N,)
    before = ~after
    before[:, 3:-1] &= ~after[:, 4:]
    before[:, :3] = True
    share = before.float() / before.sum(1, keepdim=True)
    velocities = (steps * share[:, :, None]).sum(1)  # (N, 2)
    fastest = velocities.abs().amax(1)
    angle = torch.atan2(velocities[:, 0], velocities[:, 1])  # 0 to the right, growing clockwise
    directions = (angle / (torch.pi / 4)).round().long() % len(DIRECTIONS)
    still = fastest < 0.5
    speeds = (fastest >= 1.5).long()
    return MotionReading(
        directions.masked_fill(still, -1), speeds.masked_fill(still, -1), velocities, bounces
    )


def centroids(clips: Tensor) -> Tensor:
    """Return the centre of the light of each frame; the canvas's own where all is dark.

    Args:
        clips: (N, 1, n_frames, H, W), uint8 or in [-1, 1].

    Returns:
        (N, n_frames, 2), pixels from the top and from the left.

    >>> centroids(torch.full((1, 1, 1, 3, 3), -1.0))
    tensor([[[1., 1.]]])
    """
    light = _light(clips)  # (N, n_frames, H, W)
    light = light * (light > 0.1)  # the faint noise of a whole canvas would pull to its middle
    total = light.sum((2, 3)).unsqueeze(2)  # (N, n_frames, 1)
    height, width = light.shape[2:]
    rows = torch.arange(height, device=light.device, dtype=light.dtype)
    columns = torch.arange(width, device=light.device, dtype=light.dtype)
    moments = torch.stack(
        [(light.sum(3) * rows).sum(2), (light.sum(2) * columns).sum(2)], dim=2
    )  # (N, n_frames, 2)
    middle = moments.new_tensor([(height - 1) / 2, (width - 1) / 2])
    return torch.where(total > 1e-3, moments / total.clamp(min=1e-3), middle)


def crop(clips: Tensor) -> Tensor:
    """Cut the garment out of each frame, as large as the photographs of Fashion-MNIST.

    The square of 20 pixels that holds most of the light is where it is; of several that hold as
    much (a garment may be narrow) the one in the middle.

    Args:
        clips: (N, 1, n_frames, 40, 40), uint8 or in [-1, 1].

    Returns:
        Photographs (N, n_frames, 1, 28, 28) in [-1, 1].

    >>> crop(torch.full((1, 1, 2, 40, 40), -1.0)).shape
    torch.Size([1, 2, 1, 28, 28])
    """
    light = _light(clips)  # (N, n_frames, 40, 40)
    n, n_frames = light.shape[:2]
    edge = GARMENT // 2
    padded = F.pad(light.flatten(0, 1)[:, None], [edge] * 4)  # (N n_frames, 1, 60, 60)
    held = padded * (padded > 0.1)
    for square in ((GARMENT, 1), (1, GARMENT)):  # rows, then columns: a square is both
        held = F.avg_pool2d(held, square, stride=1)  # (N n_frames, 1, 41, 41) in the end
    held = held[:, 0]
    best = held >= 0.995 * held.amax((1, 2), keepdim=True)
    corners = torch.stack([_middle(best.any(2)), _middle(best.any(1))], dim=1)  # (N n_frames, 2)
    reach = torch.arange(GARMENT, device=light.device)
    rows = (corners[:, 0, None] + reach)[:, :, None]  # (N n_frames, 20, 1)
    columns = (corners[:, 1, None] + reach)[:, None, :]  # (N n_frames, 1, 20)
    which = torch.arange(len(padded), device=light.device)[:, None, None]
    small = padded[which, 0, rows, columns][:, None]  # (N n_frames, 1, 20, 20)
    large = F.interpolate(small, (28, 28), mode="bicubic").clamp(0, 1)
    return large.mul(2).sub(1).view(n, n_frames, 1, 28, 28)


def _place(small: Tensor, corners: Tensor) -> Tensor:
    """Put each photograph where its corner is, (N, 1, 20, 20) and (N, n_frames, 2)."""
    n, n_frames = corners.shape[:2]
    edge = GARMENT  # a corner may lie outside, where the photograph is empty
    side = CLIP_SIDE + 2 * edge
    clips = torch.zeros(n, n_frames, side, side, dtype=torch.uint8, device=small.device)
    reach = torch.arange(GARMENT, device=small.device)
    which = torch.arange(n, device=small.device)[:, None, None]
    for frame in range(n_frames):
        rows = (corners[:, frame, 0, None] + edge + reach)[:, :, None]  # (N, 20, 1)
        columns = (corners[:, frame, 1, None] + edge + reach)[:, None, :]  # (N, 1, 20)
        clips[which, frame, rows, columns] = small[:, 0]
    return clips[:, None, :, edge:-edge, edge:-edge].contiguous()  # (N, 1, n_frames, 40, 40)


def _middle(held: Tensor) -> Tensor:
    """Return the middle of the places that are True, (N, L) -> (N,)."""
    places = torch.arange(held.shape[1], device=held.device)
    return (held * places).sum(1) // held.sum(1)


def _light(clips: Tensor) -> Tensor:
    """Return the grey values in [0, 1], (N, 1, n_frames, H, W) -> (N, n_frames, H, W)."""
    if clips.dtype == torch.uint8:
        return clips[:, 0].float().div(255)
    return clips[:, 0].float().clamp(-1, 1).add(1).div(2)


def _pick(choices: tuple[str, ...], number: float) -> str:
    """Choose by a number in [0, 1)."""
    return choices[int(number * len(choices))]

"""Captioned fashion: the real photographs of Fashion-MNIST in colour, on a coloured ground.

A picture is the mixture  grey value * garment's colour + (1 - grey value) * ground's colour, so its
pixels lie on a straight line between two colours, and where on it says the photograph again:
`read_pictures` is the inverse of `paint`. Captions say the same in many wordings and word orders.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.data.fashion import load_fashion

CANVAS = 32  # pixels, height and width
SIDES = (28, 20)  # of the photograph on it, for each of SIZES

COLOURS = ("black", "white", "red", "green", "blue", "yellow", "purple", "orange")
RGB = (
    (20, 20, 20),
    (240, 240, 240),
    (200, 20, 40),
    (30, 150, 60),
    (40, 80, 220),
    (245, 225, 50),
    (140, 50, 170),
    (240, 115, 20),
)
KINDS = (  # in the order of FASHION_CLASSES, with the words that stand for each
    ("t-shirt", "tee"),
    ("pair of trousers", "pair of pants"),
    ("pullover", "sweater", "jumper"),
    ("dress", "gown"),
    ("coat", "overcoat"),
    ("sandal",),
    ("shirt", "blouse"),
    ("sneaker", "trainer"),
    ("bag", "handbag"),
    ("ankle boot", "boot"),
)
SIZES = (("large", "big"), ("small", "little"))
PLACES = ("in the middle", "on the left", "on the right", "at the top", "at the bottom")
_MOVES = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # (down, right) for each of PLACES

# The garment's colour of these pairs is never shown: each kind lacks one colour.
HELD_OUT = tuple((kind, (3 * kind + 2) % len(COLOURS)) for kind in range(len(KINDS)))

WORDINGS = (
    "a {size} {colour} {kind} {place} on a {ground} background",
    "{place}, a {size} {colour} {kind} on {ground}",
    "{size} {kind} in {colour}, {place}, {ground} background",
    "on a {ground} background, a {size} {kind} in {colour} {place}",
    "{ground} background with a {size} {colour} {kind} {place}",
    "this {kind} is {colour} and {size}, {place} of a {ground} picture",
    "in front of a {ground} wall, a {size} {colour} {kind} {place}",
    # from here on not everything is said
    "a {colour} {kind} on a {ground} background",
    "a {size} {colour} {kind} against {ground}",
    "the {kind} is {colour}, the background {ground}",
    "a picture of a {colour} {kind} {place}",
    "{colour} {kind}",
)
N_COMPLETE = 7  # the first ones say everything
# Words that captions hold now and then but no vocabulary: one has to learn to look past them.
_FILLERS = ("lovely", "plain", "new", "old", "fine", "cheap")
_FILLER_PROBABILITY = 0.1


class Scene(NamedTuple):
    """What is on a picture: indices into KINDS, COLOURS (twice), SIZES and PLACES."""

    kind: int
    colour: int
    ground: int
    size: int
    place: int


class Captioned(NamedTuple):
    """Pictures (N, 3, 32, 32) uint8, scenes (N, 5) int64 as in `Scene`, and a caption for each."""

    pictures: Tensor
    scenes: Tensor
    captions: list[str]


class Reading(NamedTuple):
    """What pictures show: colours, grounds (N,) int64 and photographs (N, 1, 28, 28) in [-1, 1]."""

    colours: Tensor
    grounds: Tensor
    photographs: Tensor


def load_captioned(split: Literal["train", "test"] = "train", seed: int = 0) -> Captioned:
    """Paint each photograph of a split once, and describe it.

    Args:
        split: 60,000 or 10,000 pictures; no pair of HELD_OUT is among them.
        seed: Decides colours, sizes, places and wordings.

    Returns:
        The pictures with their scenes and captions, on the CPU.

    Raises:
        ValueError, DataNotFound: As `load_fashion` does.

    >>> pictures, scenes, captions = load_captioned("test")
    >>> pictures.shape, captions[0]
    (torch.Size([10000, 3, 32, 32]), 'in front of a white wall, a large purple boot in the middle')
    """
    photographs, kinds = load_fashion(split)
    generator = torch.Generator("cpu").manual_seed(seed)
    scenes = draw_scenes(kinds, generator)
    return Captioned(paint(photographs, scenes), scenes, describe(scenes, generator))


def draw_scenes(kinds: Tensor, generator: torch.Generator, held_out: bool = False) -> Tensor:
    """Draw colours, sizes and places, each alike, for given kinds.

    Args:
        kinds: Indices into KINDS, (N,) int64.
        generator: CPU generator.
        held_out: Draw only pairs of HELD_OUT instead of only others.

    Returns:
        Scenes (N, 5) int64; garment and ground never have the same colour.

    >>> Scene(*draw_scenes(torch.tensor([3]), torch.Generator(), held_out=True)[0].tolist())[:2]
    (3, 3)
    """
    allowed = torch.full((len(KINDS), len(COLOURS)), float(not held_out), device="cpu")
    for kind, colour in HELD_OUT:
        allowed[kind, colour] = float(held_out)
    colours = torch.multinomial(allowed[kinds], 1, generator=generator)[:, 0]  # (N,)
    n = len(kinds)

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (n,), generator=generator, device="cpu")

    grounds = (colours + draw(1, len(COLOURS))) % len(COLOURS)  # any but the garment's
    sizes, places = draw(0, len(SIZES)), draw(0, len(PLACES))
    return torch.stack([kinds, colours, grounds, sizes, places], dim=1)  # (N, 5)


def describe(
    scenes: Tensor, generator: torch.Generator, wordings: tuple[int, ...] | None = None
) -> list[str]:
    """Write a caption for each scene.

    Args:
        scenes: (N, 5) int64, as in `Scene`.
        generator: CPU generator that chooses wording and words.
        wordings: Indices into WORDINGS to choose among, without filler words; by default all of
            them, now and then with a filler.

    Returns:
        N captions.

    >>> describe(torch.tensor([[9, 7, 1, 1, 3]]), torch.Generator().manual_seed(0), (0,))
    ['a small orange boot at the top on a white background']
    """
    texts = tuple(WORDINGS[i] for i in wordings or range(len(WORDINGS)))
    numbers = torch.rand(len(scenes), 5, generator=generator, device="cpu").tolist()
    captions = []
    for row, (a, b, c, d, e) in zip(scenes.tolist(), numbers, strict=True):
        scene = Scene(*row)
        kind = _pick(KINDS[scene.kind], b)
        if wordings is None and d < _FILLER_PROBABILITY:
            kind = f"{_pick(_FILLERS, e)} {kind}"
        text = _pick(texts, a).format(
            kind=kind,
            colour=COLOURS[scene.colour],
            ground=COLOURS[scene.ground],
            size=_pick(SIZES[scene.size], c),
            place=PLACES[scene.place],
        )
        captions.append(re.sub(r"\ba(?= [aeiou])", "an", text))
    return captions


def caption_words() -> tuple[str, ...]:
    """Return every word that captions are made of, in alphabetical order, fillers left out.

    >>> len(caption_words()), caption_words()[:3]
    (54, ('a', 'against', 'an'))
    """
    phrases = [
        *(re.sub(r"\{\w+\}", "", wording) for wording in WORDINGS),
        *COLOURS,
        *PLACES,
        *(word for words in (*KINDS, *SIZES) for word in words),
        "an",
    ]
    return tuple(sorted({word for phrase in phrases for word in re.findall(r"[a-z-]+", phrase)}))


def paint(photographs: Tensor, scenes: Tensor) -> Tensor:
    """Paint photographs as scenes ask for: scaled, placed, and mixed of two colours.

    The photograph's grey values are the garment's share of each pixel:
    colour * grey + ground * (1 - grey).

    Args:
        photographs: (N, 1, 28, 28) in [-1, 1], -1 where nothing is.
        scenes: (N, 5) int64, as in `Scene`; the kind is not looked at.

    Returns:
        Pictures (N, 3, 32, 32) uint8.

    >>> white = torch.ones(1, 1, 28, 28)
    >>> picture = paint(white, torch.tensor([[0, 2, 4, 0, 0]]))  # a large red square on blue
    >>> picture[0, :, 16, 16].tolist(), picture[0, :, 0, 0].tolist()
    ([200, 20, 40], [40, 80, 220])
    """
    grey = photographs.add(1).div(2)  # (N, 1, 28, 28) in [0, 1]
    share = torch.zeros(len(grey), 1, CANVAS, CANVAS, device=grey.device)
    for size, side in enumerate(SIDES):
        scaled = grey if side == 28 else _resize(grey, side)
        for place in range(len(PLACES)):
            at = (scenes[:, 3] == size) & (scenes[:, 4] == place)
            top, left = _corner(size, place)
            share[at, :, top : top + side, left : left + side] = scaled[at]
    rgb = torch.tensor(RGB, dtype=torch.float32, device=grey.device)[:, :, None, None]
    colour, ground = rgb[scenes[:, 1]], rgb[scenes[:, 2]]  # 2 x (N, 3, 1, 1)
    return (ground + share * (colour - ground)).round().to(torch.uint8)  # (N, 3, 32, 32)


def read_pictures(pictures: Tensor, scenes: Tensor) -> Reading:
    """Read from pixels what pictures show; the inverse of `paint`.

    The ground is the median of the outermost pixels, the garment's colour the mean of the 8 pixels
    that are farthest from it; each is named after the nearest of COLOURS. The photograph is cut
    out where and as large as the scene says: a small garment in another place is cut apart.

    Args:
        pictures: (N, 3, 32, 32), uint8 or in [-1, 1].
        scenes: What was asked for, (N, 5) int64; only size and place are looked at.

    Returns:
        Colours, grounds and photographs.

    >>> white, scene = torch.ones(1, 1, 28, 28), torch.tensor([[0, 2, 4, 0, 0]])
    >>> colours, grounds, photographs = read_pictures(paint(white, scene), scene)
    >>> colours.item(), grounds.item(), photographs.unique()
    (2, 4, tensor([1.]))
    """
    x = to_unit(pictures).add(1).mul(127.5)  # (N, 3, 32, 32) in 0..255
    ring = torch.ones(CANVAS, CANVAS, dtype=torch.bool, device=x.device)
    ring[1:-1, 1:-1] = False
    ground = x[:, :, ring].median(dim=2).values  # (N, 3)
    away = x.flatten(2) - ground[:, :, None]  # (N, 3, 1024)
    farthest = away.square().sum(1).topk(8, dim=1).indices  # (N, 8)
    line = away.gather(2, farthest[:, None].expand(-1, 3, -1)).mean(2)  # (N, 3)
    # Where each pixel lies on the line from the ground's colour, 0, to the garment's, 1.
    share = (away * line[:, :, None]).sum(1) / line.square().sum(1, keepdim=True).clamp(min=1.0)
    share = share.clamp(0, 1).view(-1, 1, CANVAS, CANVAS)
    photographs = torch.empty(len(x), 1, 28, 28, device=x.device)
    for size, side in enumerate(SIDES):
        for place in range(len(PLACES)):
            at = (scenes[:, 3] == size) & (scenes[:, 4] == place)
            top, left = _corner(size, place)
            crop = share[at, :, top : top + side, left : left + side]
            photographs[at] = crop if side == 28 else _resize(crop, 28)
    return Reading(_nearest(ground + line), _nearest(ground), photographs.mul(2).sub(1))


def to_unit(pictures: Tensor) -> Tensor:
    """Map uint8 pixels 0..255 to float32 in [-1, 1]; what is in [-1, 1] already stays.

    >>> to_unit(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    if pictures.dtype == torch.uint8:
        return pictures.float().div_(127.5).sub_(1)
    return pictures.clamp(-1, 1)


def _pick(choices: tuple[str, ...], number: float) -> str:
    """Choose by a number in [0, 1)."""
    return choices[int(number * len(choices))]


def _corner(size: int, place: int) -> tuple[int, int]:
    """First row and column of the photograph on the canvas."""
    room = (CANVAS - SIDES[size]) // 2
    down, right = _MOVES[place]
    return room * (1 + down), room * (1 + right)


def _resize(grey: Tensor, side: int) -> Tensor:
    if len(grey) == 0:
        return grey.new_empty(0, 1, side, side)
    return F.interpolate(grey, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def _nearest(rgb: Tensor) -> Tensor:
    """Return the index of the nearest of COLOURS, (N, 3) -> (N,)."""
    palette = torch.tensor(RGB, dtype=rgb.dtype, device=rgb.device)  # (8, 3)
    return torch.cdist(rgb, palette).argmin(dim=1)

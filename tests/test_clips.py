"""Moving fashion: how a clip was made can be read from its pixels, and from nothing else."""

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.data import (
    DIRECTIONS,
    KINDS,
    SPEEDS,
    DataNotFound,
    animate,
    centroids,
    clip_words,
    crop,
    describe_moves,
    draw_moves,
    load_clips,
    load_fashion,
    read_motion,
)
from minidiff.data import clips as module
from minidiff.data.clips import (
    CLIP_SIDE,
    CLIP_WORDINGS,
    GARMENT,
    N_COMPLETE_CLIPS,
    N_FRAMES,
    N_FREE,
    PIXELS_A_FRAME,
    STEPS,
    Move,
)
from minidiff.text import UNKNOWN, Tokenizer
from minidiff.zoo import BOUNDS, RECIPES, WEIGHTS, Judge, judge_clips, load

ALL_MOVES = torch.cartesian_prod(*map(torch.arange, (1, len(DIRECTIONS), len(SPEEDS))))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def garments(n: int, seed: int = 0) -> Tensor:
    """Photographs (n, 1, 28, 28) of bright rectangles, as high or as wide as the picture."""
    x = torch.full((n, 1, 28, 28), -1.0)
    for i, width in enumerate(torch.randint(8, 29, (n,), generator=generator(seed)).tolist()):
        edge = (28 - width) // 2
        rows, columns = slice(None), slice(edge, edge + width)
        x[i, 0, rows, columns] = 0.8
        if i % 2:
            x[i] = x[i].mT.clone()
    return x


@pytest.fixture(scope="module")
def photographs() -> tuple[Tensor, Tensor]:
    try:
        images, labels = load_fashion("test")
    except DataNotFound as error:
        pytest.skip(str(error))
    return images[:1000], labels[:1000]


@pytest.fixture(scope="module")
def judge() -> Judge:
    if not (WEIGHTS / "judge.safetensors").exists():
        pytest.skip("THE WEIGHTS ARE MISSING: judge.safetensors")
    model = load("judge").model
    assert isinstance(model, Judge)
    return model


# --- moves and captions ---


def test_directions_go_round_clockwise():
    assert len(DIRECTIONS) == len(STEPS) == 8
    angles = torch.tensor(STEPS).double().unbind(1)
    turns = torch.atan2(*angles) / (torch.pi / 4)
    assert (turns.round() % 8).tolist() == list(range(8))


def test_moves_are_drawn_evenly():
    kinds = torch.arange(10).repeat(2000)
    moves = draw_moves(kinds, generator())
    assert torch.equal(moves[:, 0], kinds)
    for column, n in ((1, 8), (2, 2)):
        share = moves[:, column].bincount(minlength=n) / len(moves)
        assert (share - 1 / n).abs().max() < 5 * (1 / n * (1 - 1 / n) / len(moves)) ** 0.5


@pytest.mark.parametrize("number", range(len(CLIP_WORDINGS)))
def test_a_caption_says_what_its_wording_holds(number):
    moves = draw_moves(torch.arange(10).repeat(8), generator(number))
    fields = {"kind": KINDS, "direction": DIRECTIONS, "speed": SPEEDS}
    for row, caption in zip(
        moves.tolist(), describe_moves(moves, generator(1), (number,)), strict=True
    ):
        said = {
            name
            for name, index in Move(*row)._asdict().items()
            if any(words in caption for words in fields[name][index])
        }
        assert said >= set(re.findall(r"\{(\w+)\}", CLIP_WORDINGS[number])), caption
        assert not re.search(r"\ban [^aeiou]|\ba [aeiou]|[{}]|  ", caption), caption


def test_the_first_wordings_say_everything_and_in_several_orders():
    fields = [re.findall(r"\{(\w+)\}", wording) for wording in CLIP_WORDINGS]
    assert all(len(found) == len(Move._fields) for found in fields[:N_COMPLETE_CLIPS])
    assert all(len(found) < len(Move._fields) for found in fields[N_COMPLETE_CLIPS:])
    assert len({tuple(found) for found in fields[:N_COMPLETE_CLIPS]}) >= 4


def test_the_vocabulary_is_exactly_the_words_of_captions_and_none_is_too_long():
    moves = draw_moves(torch.arange(10).repeat(300), generator())
    captions = describe_moves(moves, generator(1))
    assert {w for caption in captions for w in Tokenizer.split(caption)} == set(clip_words())
    tokens = RECIPES["clips"].tokenizer()(captions)["tokens"]
    assert not (tokens == UNKNOWN).any()


# --- clips ---


def test_a_garment_is_in_each_frame_whole_and_unchanged():
    """Frames are the same photograph elsewhere: no pixel is lost or made up at a wall."""
    clips = animate(garments(16), ALL_MOVES, generator())
    assert clips.shape == (16, 1, N_FRAMES, CLIP_SIDE, CLIP_SIDE)
    assert clips.dtype == torch.uint8
    values = clips.flatten(3).sort(dim=3).values  # (N, 1, F, H W)
    assert torch.equal(values, values[:, :, :1].expand_as(values))


def test_it_moves_as_asked_and_turns_back_only_at_a_wall():
    moves = ALL_MOVES.repeat(30, 1)
    clips = animate(garments(len(moves)), moves, generator())
    lit = clips[:, 0] > 25
    for axis in (0, 1):
        line = lit.any(3 - axis).int()  # (N, F, 40)
        first, last = line.argmax(2), CLIP_SIDE - 1 - line.flip(2).argmax(2)
        steps = first.diff(dim=1)  # (N, F - 1)
        speed = torch.tensor(PIXELS_A_FRAME)[moves[:, 2]] * torch.tensor(STEPS)[moves[:, 1], axis]
        assert torch.equal(steps[:, :N_FREE], speed[:, None].expand(-1, N_FREE))
        turning = steps * speed.sign()[:, None] < speed.abs()[:, None]  # a full step is not made
        clip, step = torch.nonzero(turning & (steps.roll(1, 1).sign() == speed.sign()[:, None]),
                                   as_tuple=True)  # fmt: skip
        reach = speed.abs()[clip] - 1
        near = (first[clip, step] <= reach) | (last[clip, step] >= CLIP_SIDE - 1 - reach)
        near |= (first[clip, step + 1] <= reach) | (last[clip, step + 1] >= CLIP_SIDE - 1 - reach)
        assert near.all()


def test_motion_is_read_as_it_was_made():
    moves = ALL_MOVES.repeat(30, 1)
    reading = read_motion(animate(garments(len(moves)), moves, generator()))
    assert torch.equal(reading.directions, moves[:, 1])
    assert torch.equal(reading.speeds, moves[:, 2])
    speed = torch.tensor(PIXELS_A_FRAME)[moves[:, 2], None] * torch.tensor(STEPS)[moves[:, 1]]
    # a bounce between the last two frames may halve one of fifteen steps unseen
    assert (reading.velocities - speed).abs().max() <= 2 / 15 + 1e-4
    assert reading.bounces.min() >= N_FREE - 1
    assert (reading.bounces == N_FRAMES).any()


def test_motion_is_read_from_pixels_alone_whoever_made_them():
    """A point that was not made by `animate`, on another canvas, with its own way of turning."""
    clip = torch.full((1, 1, 9, 30, 50), -1.0)
    for frame, column in enumerate((10, 12, 14, 16, 18, 20, 18, 16, 14)):
        clip[0, 0, frame, 15, column : column + 3] = 1
    reading = read_motion(clip)
    assert reading.directions.item() == 0
    assert reading.speeds.item() == 1
    assert reading.bounces.item() == 5
    mirrored = read_motion(clip.flip(4))
    assert mirrored.directions.item() == 4
    upright = read_motion(clip.mT)
    assert upright.directions.item() == 2
    assert read_motion(clip.add(1).mul(127.5).to(torch.uint8)).velocities[0, 1] == 2


def test_where_nothing_moves_there_is_no_direction():
    still = animate(garments(4), ALL_MOVES[:4], generator())[:, :, :1].expand(-1, -1, 16, -1, -1)
    for clips in (still, torch.full((2, 1, 16, 40, 40), -1.0), torch.zeros(2, 1, 16, 40, 40)):
        reading = read_motion(clips)
        assert (reading.directions == -1).all()
        assert (reading.speeds == -1).all()


def test_a_centroid_is_the_mean_place_of_the_light():
    clip = torch.zeros(1, 1, 2, 5, 5, dtype=torch.uint8)
    clip[0, 0, 0, 1, 1], clip[0, 0, 0, 3, 1] = 255, 85
    path = centroids(clip)
    assert torch.allclose(path[0, 0], torch.tensor([1.5, 1.0]))
    assert path[0, 1].tolist() == [2, 2]  # the middle, where there is no light


def test_what_is_cut_out_is_the_photograph_wherever_it_is():
    x = garments(16)
    clips = animate(x, ALL_MOVES, generator())
    found = crop(clips)
    assert found.shape == (16, N_FRAMES, 1, 28, 28)
    assert (found - found[:, :1]).abs().max() == 0  # the same in each frame
    small = F.interpolate(x.add(1).div(2), (GARMENT,) * 2, mode="bicubic", antialias=True)
    large = F.interpolate(small.clamp(0, 1), (28, 28), mode="bicubic").clamp(0, 1)
    shifted = (found[:, 0] - large.mul(2).sub(1)).abs().mean((1, 2, 3))
    assert shifted.median() < 0.01
    assert shifted.max() < 0.25  # at most a pixel aside, where the width is odd


def test_clips_are_decided_by_the_seed(monkeypatch):
    monkeypatch.setattr(module, "load_fashion", lambda split: (garments(20), torch.arange(20) % 10))
    first, again, other = load_clips("test", 8), load_clips("test", 8), load_clips("test", 8, 1)
    assert torch.equal(first.clips, again.clips)
    assert first.captions == again.captions
    assert not torch.equal(first.clips, other.clips)
    assert len(first.captions) == len(first.moves) == 8
    for n in (0, 21):
        with pytest.raises(ValueError, match=rf"n must lie in \[1, 20\], got {n}"):
            load_clips("test", n)


# --- real garments ---


def test_the_control_reads_real_clips(photographs, judge):
    """Direction and speed from pixels, the kind by the judge, as samples are looked at."""
    images, kinds = photographs
    moves = draw_moves(kinds, generator())
    clips = animate(images, moves, generator(1))
    right = (judge_clips(judge, clips) == moves).double().mean(0)
    assert right[1] >= BOUNDS["clips_real_direction"]
    assert right[2] >= BOUNDS["clips_real_direction"]
    assert right[0] > 0.8
    first, last = (judge_clips(judge, clips[:50], frame)[:, 0] for frame in (0, -1))
    assert (first == last).double().mean() >= 0.95  # a wall may cut off what is hardly to be seen


def test_outputs_of_no_use_fail_each_measure(photographs, judge):
    """An empty, a constant and a still clip, and one of another caption."""
    images, kinds = photographs
    moves = draw_moves(kinds[:300], generator())
    clips = animate(images[:300], moves, generator(1)).float().div(127.5).sub(1)
    outputs = {
        "empty": torch.full_like(clips, -1.0),
        "constant": torch.zeros_like(clips),
        "still": clips[:, :, :1].expand_as(clips),
        "copied": clips[:1].expand_as(clips),
    }
    for name, x in outputs.items():
        kind, direction, speed = (judge_clips(judge, x) == moves).double().mean(0)
        assert direction < 0.5 * BOUNDS["clips_direction"], name
        assert speed < 0.7 * BOUNDS["clips_speed"], name
        assert name == "still" or kind < 0.5 * BOUNDS["clips_kind"], name

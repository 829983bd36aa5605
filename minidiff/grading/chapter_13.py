"""Checks of chapter 13, video: `from minidiff.grading import chapter_13 as check`.

Clips are (B, C, F, H, W), F frames. Where frames are the batch of a network of pictures they are
(B F, C, H, W), all frames of the first clip first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import training, video
from minidiff.grading.check import Inputs, task
from minidiff.grading.draw import Draw

Model = Callable[[Tensor, Tensor], Tensor]


# --- 1: as noisy as F looks ask for --------------------------------------------------------------


def _levels(draw: Draw) -> Inputs:
    a_bar = (1 - draw.betas(12, 40)).cumprod(0)
    return {"a_bar": a_bar, "n_frames": draw.integer(3, 16)}  # never the lesson's 16


@task(points=1, inputs=_levels, roundings=256.0, package=[video.shift_schedule])
def shifted(a_bar: Tensor, n_frames: int) -> Tensor:
    """a_bar whose signal-to-noise ratio is 1 / n_frames of what it was."""
    snr = a_bar / (1 - a_bar) / n_frames
    return snr / (1 + snr)


@shifted.misconception
def multiplied(a_bar: Tensor, n_frames: int) -> Tensor:
    """The ratio is multiplied by the number of frames: the clip would be clearer than before. Many
    looks ask for more noise, so divide.
    """
    snr = a_bar / (1 - a_bar) * n_frames
    return snr / (1 + snr)


@shifted.misconception
def a_bar_divided(a_bar: Tensor, n_frames: int) -> Tensor:
    """This divides a_bar itself: even at t = 0 hardly any signal is left. It is the ratio
    a_bar / (1 - a_bar) that is divided.
    """
    return a_bar / n_frames


@shifted.misconception
def ratio_returned(a_bar: Tensor, n_frames: int) -> Tensor:
    """This is the new ratio, not the new a_bar. Solve ratio = a_bar / (1 - a_bar) for a_bar."""
    return a_bar / (1 - a_bar) / n_frames


@shifted.misconception
def divided_by_the_root(a_bar: Tensor, n_frames: int) -> Tensor:
    """The ratio is divided by the root of the number of frames. It is one of variances: the mean of
    F frames has 1 / F of the variance of one, not its root.
    """
    snr: Tensor = a_bar / (1 - a_bar) / n_frames**0.5
    return snr / (1 + snr)


@shifted.misconception
def divided_by_the_square(a_bar: Tensor, n_frames: int) -> Tensor:
    """The ratio is divided by the square of the number of frames. The mean of F frames has 1 / F
    of the variance of one.
    """
    snr = a_bar / (1 - a_bar) / n_frames**2
    return snr / (1 + snr)


@shifted.misconception
def noise_to_signal(a_bar: Tensor, n_frames: int) -> Tensor:
    """The ratio is upside down, noise to signal, (1 - a_bar) / a_bar: the result grows where the
    signal should fade.
    """
    snr = (1 - a_bar) / a_bar / n_frames
    return snr / (1 + snr)


@shifted.misconception
def variance_left(a_bar: Tensor, n_frames: int) -> Tensor:
    """This is 1 - a_bar, the share of the noise. The signal's share is ratio / (1 + ratio)."""
    snr = a_bar / (1 - a_bar) / n_frames
    return 1 / (1 + snr)


@shifted.misconception
def root_of_a_bar(a_bar: Tensor, n_frames: int) -> Tensor:
    """This is the root of the new a_bar, by which the signal is multiplied. Return a_bar itself."""
    snr = a_bar / (1 - a_bar) / n_frames
    return (snr / (1 + snr)).sqrt()


@shifted.misconception
def noise_multiplied(a_bar: Tensor, n_frames: int) -> Tensor:
    """The noise 1 - a_bar is multiplied by the number of frames and what is left is called signal:
    that may fall below 0. Both shares change, so go by their ratio.
    """
    return 1 - n_frames * (1 - a_bar)


@shifted.misconception
def raised_to_a_power(a_bar: Tensor, n_frames: int) -> Tensor:
    """a_bar is raised to the power of the number of frames, as if each step were made that often.
    The ratio is to be divided.
    """
    new: Tensor = a_bar**n_frames
    return new


@shifted.misconception
def always_sixteen(a_bar: Tensor, n_frames: int) -> Tensor:
    """The ratio is divided by 16, the lesson's number of frames. Here it is `n_frames`."""
    snr: Tensor = a_bar / (1 - a_bar) / 16
    return snr / (1 + snr)


@shifted.misconception
def root_of_the_ratio(a_bar: Tensor, n_frames: int) -> Tensor:
    """This takes a root of the signal-to-noise ratio first. a_bar and 1 - a_bar are variances
    already: their ratio is what is divided.
    """
    snr: Tensor = (a_bar / (1 - a_bar)).sqrt() / n_frames
    return snr / (1 + snr)


@shifted.misconception
def solved_with_the_wrong_sign(a_bar: Tensor, n_frames: int) -> Tensor:
    """The ratio is right, and solved with a wrong sign: ratio / (1 - ratio). From ratio =
    a_bar / (1 - a_bar) follows a_bar = ratio / (1 + ratio).
    """
    snr = a_bar / (1 - a_bar) / n_frames
    return snr / (1 - snr)


# --- 2: frames are the batch ---------------------------------------------------------------------


def _clips(draw: Draw) -> Inputs:
    """All five sizes differ, so that no two dimensions can be mistaken for each other unseen."""
    sizes = [2, 3, 4, 5, 6]
    offset = draw.integer(0, 5)
    shape = sizes[offset:] + sizes[:offset]
    return {"x": draw.normal(*shape, dtype=draw.dtype())}


@task(points=2, inputs=_clips, package=[video.patchify])
def frames_as_batch(x: Tensor) -> Tensor:
    """Clips (B, C, F, H, W) as pictures (B F, C, H, W), the frames of a clip side by side."""
    return x.transpose(1, 2).flatten(0, 1)


@frames_as_batch.misconception
def viewed(x: Tensor) -> Tensor:
    """The shape is right and the content is not: `view` and `reshape` read numbers in the order in
    which they lie, channel by channel. First bring F beside B, with `transpose` or `permute`.
    """
    b, c, f, h, w = x.shape
    return x.reshape(b * f, c, h, w)


@frames_as_batch.misconception
def frames_before_clips(x: Tensor) -> Tensor:
    """The first frames of all clips come first. All frames of the first clip are to stand side by
    side: B before F.
    """
    return x.permute(2, 0, 1, 3, 4).flatten(0, 1)


@frames_as_batch.misconception
def channels_as_batch(x: Tensor) -> Tensor:
    """Channels went into the batch and frames stayed: (B C, F, H, W). It is to be the other way
    round.
    """
    return x.flatten(0, 1)


@frames_as_batch.misconception
def not_flattened(x: Tensor) -> Tensor:
    """Frames stand beside the batch, as they should, but there are still five dimensions. A network
    of pictures takes four: flatten the first two.
    """
    return x.transpose(1, 2)


@frames_as_batch.misconception
def frames_as_channels(x: Tensor) -> Tensor:
    """Frames became channels, (B, C F, H, W): the network would take a clip for one picture. Here
    each frame is a picture of its own.
    """
    return x.flatten(1, 2)


@frames_as_batch.misconception
def first_frames(x: Tensor) -> Tensor:
    """These are the first frames alone. All of them are wanted."""
    return x[:, :, 0]


@frames_as_batch.misconception
def mean_frame(x: Tensor) -> Tensor:
    """This is the mean over the frames. All of them are wanted, one after the other."""
    return x.mean(2)


@frames_as_batch.misconception
def pictures_turned(x: Tensor) -> Tensor:
    """Height and width have changed places. Only F moves: name the other dimensions in their own
    order.
    """
    return x.permute(0, 2, 1, 4, 3).flatten(0, 1)


@frames_as_batch.misconception
def backwards(x: Tensor) -> Tensor:
    """The frames of each clip come in the opposite order, the last one first."""
    return x.flip(2).transpose(1, 2).flatten(0, 1)


@frames_as_batch.misconception
def channels_last(x: Tensor) -> Tensor:
    """Channels come last. This course, as torch does, keeps them right after the batch:
    (B F, C, H, W).
    """
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1)


@frames_as_batch.misconception
def clips_and_frames_exchanged(x: Tensor) -> Tensor:
    """B and F changed places, and F was flattened with the channels: (F C, B, H, W). Exchange C and
    F, so that F stands beside B.
    """
    return x.transpose(0, 2).flatten(0, 1)


# --- 3: sequences through time -------------------------------------------------------------------


def _features(draw: Draw) -> Inputs:
    sizes = [2, 3, 4, 5, 6]
    offset = draw.integer(0, 5)
    b, c, f, h, w = sizes[offset:] + sizes[:offset]
    return {"h": draw.normal(b * f, c, h, w, dtype=draw.dtype()), "n_frames": f}


def _split(h: Tensor, n_frames: int) -> Tensor:
    """(B F, C, H, W) -> (B, F, C, H, W)."""
    return h.reshape(-1, n_frames, *h.shape[1:])


@task(points=3, inputs=_features, package=[video.TemporalBlock, video.space_time])
def along_time(h: Tensor, n_frames: int) -> Tensor:
    """Features of frames (B F, C, H, W) as sequences through time, (B H W, C, F)."""
    x = h.view(-1, n_frames, *h.shape[1:])  # (B, F, C, H, W)
    return x.permute(0, 3, 4, 2, 1).flatten(0, 2)


@along_time.misconception
def viewed_at_once(h: Tensor, n_frames: int) -> Tensor:
    """The shape is right and the content is not: one `reshape` reads numbers in the order in which
    they lie. Split off F, then `permute`, then flatten.
    """
    return h.reshape(-1, h.shape[1], n_frames)


@along_time.misconception
def frames_split_off_first(h: Tensor, n_frames: int) -> Tensor:
    """The batch is split as (F, B), but all frames of the first clip come first: it is (B, F).
    So these sequences mix clips.
    """
    return h.reshape(n_frames, -1, *h.shape[1:]).permute(1, 3, 4, 2, 0).flatten(0, 2)


@along_time.misconception
def along_space(h: Tensor, n_frames: int) -> Tensor:
    """These are sequences through space, (B F, C, H W): places of a frame would look at each other.
    Here space goes into the batch, and time becomes the sequence.
    """
    return h.flatten(2)


@along_time.misconception
def space_joined(h: Tensor, n_frames: int) -> Tensor:
    """This is one sequence for all of space and time, (B, C, F H W): all would look at all. Each
    place is to be a sequence of its own.
    """
    return _split(h, n_frames).transpose(1, 2).flatten(2)


@along_time.misconception
def time_before_channels(h: Tensor, n_frames: int) -> Tensor:
    """The sequences are (B H W, F, C). Channels come before time, as `Attention` takes them."""
    return _split(h, n_frames).permute(0, 3, 4, 1, 2).flatten(0, 2)


@along_time.misconception
def columns_before_rows(h: Tensor, n_frames: int) -> Tensor:
    """Places are listed column by column. As everywhere, rows come first: B, H, W in this order."""
    return _split(h, n_frames).permute(0, 4, 3, 2, 1).flatten(0, 2)


@along_time.misconception
def places_before_clips(h: Tensor, n_frames: int) -> Tensor:
    """The first place of all clips comes first, (H W B, C, F). The batch comes first: B, H, W."""
    return _split(h, n_frames).permute(3, 4, 0, 2, 1).flatten(0, 2)


@along_time.misconception
def channels_in_the_batch(h: Tensor, n_frames: int) -> Tensor:
    """Each channel became a sequence of its own, (B H W C, F). Keep channels together: they are
    what a frame knows about a place.
    """
    return _split(h, n_frames).permute(0, 3, 4, 2, 1).flatten(0, 3)


@along_time.misconception
def not_flattened_yet(h: Tensor, n_frames: int) -> Tensor:
    """The order of the dimensions is right, (B, H, W, C, F). Now flatten the first three."""
    return _split(h, n_frames).permute(0, 3, 4, 2, 1)


@along_time.misconception
def time_reversed(h: Tensor, n_frames: int) -> Tensor:
    """Time runs backwards in these sequences."""
    return _split(h, n_frames).permute(0, 3, 4, 2, 1).flatten(0, 2).flip(2)


@along_time.misconception
def mean_over_space(h: Tensor, n_frames: int) -> Tensor:
    """Space was averaged away, (B, C, F). Each place keeps its own sequence."""
    return _split(h, n_frames).mean((3, 4)).transpose(1, 2)


@along_time.misconception
def channels_before_frames(h: Tensor, n_frames: int) -> Tensor:
    """The shape is right, but the batch was split with C before F. It is (B F): in memory, frames
    follow each other and each holds its channels. Split it as (B, F, C, H, W).
    """
    x = h.reshape(-1, h.shape[1], n_frames, *h.shape[2:])
    return x.permute(0, 3, 4, 1, 2).flatten(0, 2)


@along_time.misconception
def one_sequence_for_all_clips(h: Tensor, n_frames: int) -> Tensor:
    """These sequences run through all clips, (H W, C, B F): frames of one would look at those of
    another. Split the batch first.
    """
    return h.permute(2, 3, 1, 0).flatten(0, 1)


@along_time.misconception
def space_brought_forward_only(h: Tensor, n_frames: int) -> Tensor:
    """The shape is right and the content is not: space went forward, but F was never split off from
    the batch, and the last reshape mixes it with the channels.
    """
    return h.permute(0, 2, 3, 1).reshape(-1, h.shape[1], n_frames)


# --- 4: how fast before the first bounce ---------------------------------------------------------


def _path(draw: Draw) -> Inputs:
    """A path that is straight, but for one turn or two, and a little unsteady."""
    n_frames, n_clips = draw.integer(12, 18), draw.integer(3, 6)
    turn = torch.empty(n_clips, dtype=torch.int64)
    turn.random_(4, n_frames - 6, generator=draw.generator)
    turn[-1] = n_frames  # one that never bounces
    velocity = draw.uniform(0.8, 2.5, n_clips, 2) * (draw.uniform(-1, 1, n_clips, 2).sign())
    steps = velocity[:, None].repeat(1, n_frames - 1, 1)  # (N, F - 1, 2)
    steps = steps * (1 + draw.uniform(-0.2, 0.2, n_clips, n_frames - 1, 1))
    number = torch.arange(n_frames - 1)
    for clip in range(n_clips):
        axis = draw.integer(0, 2)
        steps[clip, number >= turn[clip], axis] *= -1
        steps[clip, number >= turn[clip] + 2, 1 - axis] *= -1  # off another wall, soon after
        steps[clip, number >= turn[clip] + 4] *= -1  # and back once more along either axis
    start = draw.uniform(10, 30, n_clips, 1, 2)
    return {"path": torch.cat([start, start + steps.cumsum(1)], dim=1)}


def _before(steps: Tensor) -> Tensor:
    """Which steps come before the first that turns back along either axis, (N, F - 1)."""
    turned = (steps * steps[:, :1] < 0).any(2)
    return turned.cumsum(1) == 0


def _mean_where(steps: Tensor, keep: Tensor) -> Tensor:
    keep = keep.to(steps.dtype)[:, :, None]
    return (steps * keep).sum(1) / keep.sum(1)


@task(points=3, inputs=_path, roundings=256.0)
def velocity(path: Tensor) -> Tensor:
    """Mean step of paths (N, F, 2) before the first bounce, (N, 2)."""
    steps = path.diff(dim=1)  # (N, F - 1, 2)
    turned = (steps * steps[:, :1] < 0).any(2)  # (N, F - 1)
    before = (turned.cumsum(1) == 0).to(steps.dtype)[:, :, None]
    return (steps * before).sum(1) / before.sum(1)


@velocity.misconception
def all_steps(path: Tensor) -> Tensor:
    """This is the mean over all steps. After a bounce it flies back, and there and back cancel:
    only the steps before the first bounce count.
    """
    return path.diff(dim=1).mean(1)


@velocity.misconception
def first_step(path: Tensor) -> Tensor:
    """This is the first step alone. Each step is a little unsteady: take the mean of all of them up
    to the bounce.
    """
    return path[:, 1] - path[:, 0]


@velocity.misconception
def divided_by_all_steps(path: Tensor) -> Tensor:
    """The right steps are added up, and the sum divided by the number of all steps. Divide by the
    number of those that were added.
    """
    steps = path.diff(dim=1)
    return (steps * _before(steps)[:, :, None]).mean(1)


@velocity.misconception
def steps_added_up(path: Tensor) -> Tensor:
    """This is the whole way up to the bounce. Divide it by the number of steps."""
    steps = path.diff(dim=1)
    return (steps * _before(steps)[:, :, None]).sum(1)


@velocity.misconception
def each_axis_alone(path: Tensor) -> Tensor:
    """Each axis is cut at its own turn. The first bounce off any wall ends it for both: let a turn
    along either axis count, `any` over the last dimension.
    """
    steps = path.diff(dim=1)
    before = ((steps * steps[:, :1] < 0).cumsum(1) == 0).to(steps.dtype)
    return (steps * before).sum(1) / before.sum(1)


@velocity.misconception
def both_axes_must_turn(path: Tensor) -> Tensor:
    """A bounce is seen only where both axes turn back at once, that is in a corner. One axis is
    enough: `any` over axes that turned, or `all` over axes that did not.
    """
    steps = path.diff(dim=1)
    return _mean_where(steps, (steps * steps[:, :1] < 0).all(2).cumsum(1) == 0)


@velocity.misconception
def turning_step_included(path: Tensor) -> Tensor:
    """The step that turns back is still counted. Stop before it."""
    steps = path.diff(dim=1)
    before = _before(steps)
    including = torch.cat([torch.ones_like(before[:, :1]), before[:, :-1]], dim=1)
    return _mean_where(steps, including)


@velocity.misconception
def only_steps_that_agree(path: Tensor) -> Tensor:
    """Steps that agree with the first one are counted wherever they are, also after a second
    bounce; but what comes after the first one is not to count. A running sum, `cumsum`, tells what
    came before.
    """
    steps = path.diff(dim=1)
    return _mean_where(steps, (steps * steps[:, :1] > 0).all(2))


@velocity.misconception
def the_wrong_way_round(path: Tensor) -> Tensor:
    """A sign: each step is the frame before minus the frame after. It goes from one frame to the
    next.
    """
    steps = path.diff(dim=1)
    return -_mean_where(steps, _before(steps))


@velocity.misconception
def speed_without_direction(path: Tensor) -> Tensor:
    """Signs are lost: this is how fast it moves along each axis, and not where to."""
    steps = path.diff(dim=1)
    return _mean_where(steps, _before(steps)).abs()


@velocity.misconception
def one_number(path: Tensor) -> Tensor:
    """This is the length of the mean step, one number for each path. Return both components, down
    and right.
    """
    steps = path.diff(dim=1)
    return _mean_where(steps, _before(steps)).square().sum(1).sqrt()


@velocity.misconception
def mean_place(path: Tensor) -> Tensor:
    """This is the mean place before the bounce. A velocity is made of differences: path.diff over
    the frames.
    """
    before = _before(path.diff(dim=1))
    return _mean_where(path[:, :-1], before)


@velocity.misconception
def compared_with_the_step_before(path: Tensor) -> Tensor:
    """Each step is compared with the one before it, and the steps that are kept begin with the
    second. Compare with the first step, which counts itself.
    """
    steps = path.diff(dim=1)
    agrees = ((steps[:, 1:] * steps[:, :-1]) > 0).all(2).long().cumprod(1)
    return _mean_where(steps[:, 1:], agrees)


@velocity.misconception
def angle_with_the_first(path: Tensor) -> Tensor:
    """Steps are compared by their scalar product with the first one. That stays positive at many a
    bounce: look at the sign along each axis.
    """
    steps = path.diff(dim=1)
    agrees = (steps * steps[:, :1]).sum(2) > 0
    return _mean_where(steps, agrees.long().cumprod(1))


@velocity.misconception
def one_more_than_steps(path: Tensor) -> Tensor:
    """The way is divided by one step too many: between n + 1 places there are n steps."""
    steps = path.diff(dim=1)
    keep = _before(steps).to(steps.dtype)[:, :, None]
    return (steps * keep).sum(1) / (keep.sum(1) + 1)


@velocity.misconception
def summed_over_clips(path: Tensor) -> Tensor:
    """The running count of turns goes over the clips (dimension 0): a bounce in one clip ends all
    that come after it in the batch. Count over the steps, dimension 1.
    """
    steps = path.diff(dim=1)
    turned = (steps * steps[:, :1] < 0).any(2)
    return _mean_where(steps, turned.cumsum(0) == 0)


# --- 5: a hole that flies -------------------------------------------------------------------------


def _corners(draw: Draw) -> Inputs:
    """Holes inside, over the first rows or columns, and over the last ones, in every clip."""
    n_clips, n_frames = draw.integer(2, 4), draw.integer(5, 8)
    size, side = draw.choice([4, 6]), draw.integer(11, 14)
    corners = torch.empty(n_clips, n_frames, 2, dtype=torch.int64)
    corners.random_(1 - size, side, generator=draw.generator)
    corners[:, 0, 0], corners[:, 0, 1] = draw.integer(0, 2), side - size - draw.integer(0, 2)
    corners[:, 1] = torch.tensor([1 - size + draw.integer(0, 2), side // 2 - 1])
    corners[:, 2] = torch.tensor([side // 3, side - size + draw.integer(1, 3)])
    return {"corners": corners, "size": size, "side": side}


def _inside(corners: Tensor, size: int, side: int) -> tuple[Tensor, Tensor]:
    """Which rows and which columns the hole of each frame covers, (N, F, side) each."""
    places = torch.arange(side)
    first = corners[..., None]  # (N, F, 2, 1)
    covered = (places >= first) & (places < first + size)
    return covered[:, :, 0], covered[:, :, 1]


def _known(rows: Tensor, columns: Tensor) -> Tensor:
    return ~(rows[..., :, None] & columns[..., None, :])[:, None]


@task(points=2, inputs=_corners, package=[video.moving_hole])
def hole_mask(corners: Tensor, size: int, side: int) -> Tensor:
    """A mask of bools, (N, 1, F, side, side): True where known, False in the square hole of each
    frame, whose first row and column is corners (N, F, 2); it may lie partly outside.
    """
    places = torch.arange(side)
    inside = (places >= corners[..., None]) & (places < corners[..., None] + size)
    return ~(inside[:, None, :, 0, :, None] & inside[:, None, :, 1, None, :])


@hole_mask.misconception
def true_in_the_hole(corners: Tensor, size: int, side: int) -> Tensor:
    """The mask is upside down, True in the hole. For `inpaint`, True is what is known."""
    return ~_known(*_inside(corners, size, side))


@hole_mask.misconception
def rows_for_columns(corners: Tensor, size: int, side: int) -> Tensor:
    """Rows and columns have changed places. A corner is (row, column): the first number counts
    down, dimension 3 of the mask, the second to the right.
    """
    return _known(*_inside(corners.flip(2), size, side))


@hole_mask.misconception
def a_cross(corners: Tensor, size: int, side: int) -> Tensor:
    """Whole rows and whole columns are hidden, a cross. A pixel lies in the hole if its row *and*
    its column do.
    """
    rows, columns = _inside(corners, size, side)
    return ~(rows[..., :, None] | columns[..., None, :])[:, None]


@hole_mask.misconception
def rows_only(corners: Tensor, size: int, side: int) -> Tensor:
    """A stripe from edge to edge is hidden: only the rows are looked at."""
    rows, columns = _inside(corners, size, side)
    return _known(rows, torch.ones_like(columns))


@hole_mask.misconception
def one_too_large(corners: Tensor, size: int, side: int) -> Tensor:
    """The hole is one row and one column too large: it ends before corner + size."""
    return _known(*_inside(corners, size + 1, side))


@hole_mask.misconception
def one_too_small(corners: Tensor, size: int, side: int) -> Tensor:
    """The first row and the first column of the hole are missing: the corner itself is hidden, >=
    in place of >.
    """
    return _known(*_inside(corners + 1, size - 1, side))


@hole_mask.misconception
def around_the_corner(corners: Tensor, size: int, side: int) -> Tensor:
    """The hole lies around the corner, as if that were its middle. It begins there and goes on down
    and to the right.
    """
    return _known(*_inside(corners - size // 2, size, side))


@hole_mask.misconception
def ends_at_the_corner(corners: Tensor, size: int, side: int) -> Tensor:
    """The hole ends at the corner. It begins there and goes on down and to the right."""
    return _known(*_inside(corners - size + 1, size, side))


@hole_mask.misconception
def negative_slices(corners: Tensor, size: int, side: int) -> Tensor:
    """Where a hole begins outside, above or on the left, nothing is hidden: in mask[-2:2], -2 means
    two before the end, and the slice is empty. Compare places with the corner, or begin at
    max(corner, 0).
    """
    mask = torch.ones(len(corners), 1, corners.shape[1], side, side, dtype=torch.bool)
    for clip, path in enumerate(corners.tolist()):
        for frame, (row, column) in enumerate(path):
            mask[clip, 0, frame, row : row + size, column : column + size] = False
    return mask


@hole_mask.misconception
def pushed_inside(corners: Tensor, size: int, side: int) -> Tensor:
    """Holes that lie partly outside were pushed back inside. What lies outside hides nothing; the
    rest stays where it is.
    """
    return _known(*_inside(corners.clamp(0, side - size), size, side))


@hole_mask.misconception
def begins_inside(corners: Tensor, size: int, side: int) -> Tensor:
    """A hole that begins outside was moved to the edge and kept its size. Its part outside is lost:
    clamp the end after adding the size, not the corner before.
    """
    return _known(*_inside(corners.clamp(min=0), size, side))


@hole_mask.misconception
def around_the_edge(corners: Tensor, size: int, side: int) -> Tensor:
    """What leaves at one edge comes back at the opposite one. A hole that lies partly outside hides
    less.
    """
    along = (torch.arange(side) - corners[..., None]).remainder(side) < size  # (N, F, 2, side)
    return _known(along[:, :, 0], along[:, :, 1])


@hole_mask.misconception
def standing_hole(corners: Tensor, size: int, side: int) -> Tensor:
    """The hole of the first frame is in all frames. Each has a corner of its own."""
    return _known(*_inside(corners[:, :1].expand_as(corners), size, side))


@hole_mask.misconception
def one_path_for_all(corners: Tensor, size: int, side: int) -> Tensor:
    """All clips have the first one's hole. Each has its own path."""
    return _known(*_inside(corners[:1].expand_as(corners), size, side))


@hole_mask.misconception
def holes_that_stay(corners: Tensor, size: int, side: int) -> Tensor:
    """Holes stay: each frame also hides what those before it hid. Make each frame's mask anew."""
    hidden = ~_known(*_inside(corners, size, side))
    return hidden.cumsum(2) == 0


@hole_mask.misconception
def no_channel(corners: Tensor, size: int, side: int) -> Tensor:
    """The channel is missing. Clips are (N, C, F, H, W), and a mask for all channels has C = 1."""
    return _known(*_inside(corners, size, side))[:, 0]


@hole_mask.misconception
def frames_before_channel(corners: Tensor, size: int, side: int) -> Tensor:
    """Frames and channel have changed places: (N, F, 1, side, side). C comes before F."""
    return _known(*_inside(corners, size, side)).transpose(1, 2)


@hole_mask.misconception
def less_than_half_away(corners: Tensor, size: int, side: int) -> Tensor:
    """The hole is what lies less than half its size away from the corner, as if that were its
    middle. It begins at the corner and goes on down and to the right.
    """
    near = (torch.arange(side) - corners[..., None]).abs() < size / 2  # (N, F, 2, side)
    return _known(near[:, :, 0], near[:, :, 1])


# --- 6: does a model know the order? -------------------------------------------------------------


class _Smooth:
    """A model that knows one thing of clips: frames resemble their neighbours. It predicts eps."""

    def __init__(self, a_bar: Tensor, dtype: torch.dtype) -> None:
        self.a_bar, self.dtype = a_bar, dtype

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in x_t (B, C, F, H, W) at timesteps t (B,), as strict as a network."""
        if not isinstance(t, Tensor) or t.shape != x_t.shape[:1]:
            got = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
            raise ValueError(f"t must be ({len(x_t)},), one for each clip, got {got}")
        if x_t.dtype != self.dtype:
            raise ValueError(
                f"x_t must be {self.dtype} like x_0, got {x_t.dtype}: a_bar is float64"
            )
        a_bar = self.a_bar.to(x_t.dtype)[t].view(-1, 1, 1, 1, 1)
        near = torch.cat([x_t[:, :, :1], x_t, x_t[:, :, -1:]], dim=2)
        mean = (near[:, :, :-2] + 2 * x_t + near[:, :, 2:]) / 4
        clean = 0.8 * mean / a_bar.sqrt()
        eps: Tensor = (x_t - a_bar.sqrt() * clean) / (1 - a_bar).sqrt()
        return eps


def _ordered_clips(draw: Draw) -> Inputs:
    """Clips that drift, some hardly at all, so that the model finds order in some of them only."""
    n_clips, n_frames = draw.integer(24, 33), draw.integer(6, 9)
    dtype = draw.dtype()
    strength = draw.uniform(0, 0.7, n_clips, 1, 1, 1, 1, dtype=dtype)
    ramp = torch.linspace(-1, 1, n_frames, dtype=dtype).view(1, 1, -1, 1, 1)
    x_0 = strength * ramp * draw.normal(n_clips, 1, 1, 2, 3, dtype=dtype)
    x_0 = x_0 + 0.1 * draw.normal(n_clips, 1, n_frames, 2, 3, dtype=dtype)
    a_bar = (1 - draw.betas(40, 60)).cumprod(0)
    order = torch.cat([torch.arange(1, n_frames, 2), torch.arange(0, n_frames, 2)])
    t = int((a_bar > 0.55).sum()) - 1 if draw.case % 2 else int((a_bar > 0.35).sum()) - 1
    return {
        "model": _Smooth(a_bar, dtype),
        "x_0": x_0,
        "order": order,
        "noise": draw.normal(*x_0.shape, dtype=dtype),
        "t": t,
        "a_bar": a_bar,
    }


def _losses(
    model: Model, x_0: Tensor, noise: Tensor, t: int, a_bar: Tensor, roots: bool = True
) -> Tensor:
    """Mean squared error of the predicted noise, of each clip, (B,)."""
    signal, spread = (a_bar[t].sqrt(), (1 - a_bar[t]).sqrt()) if roots else (a_bar[t], 1 - a_bar[t])
    x_t = signal.to(x_0.dtype) * x_0 + spread.to(x_0.dtype) * noise
    return (model(x_t, torch.full((len(x_0),), t)) - noise).square().flatten(1).mean(1)


@task(
    points=3,
    inputs=_ordered_clips,
    roundings=256.0,
    package=[video.loss_of_each, training.train_step],
)
def knows_order(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """How much lower the loss of each clip is than with its frames in another order, (B,)."""

    def losses(x: Tensor) -> Tensor:
        x_t = a_bar[t].sqrt().to(x.dtype) * x + (1 - a_bar[t]).sqrt().to(x.dtype) * noise
        error = model(x_t, torch.full((len(x),), t)) - noise
        return error.square().flatten(1).mean(1)  # (B,)

    return losses(x_0[:, :, order]) - losses(x_0)


@knows_order.misconception
def differences_turned(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """A sign: this is the loss in order minus the loss in the other order, which is negative where
    the model prefers the order.
    """
    other = _losses(model, x_0[:, :, order], noise, t, a_bar)
    return _losses(model, x_0, noise, t, a_bar) - other


@knows_order.misconception
def clips_shuffled(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """This puts clips, not frames, into the other order: x[order] is about the batch. Frames are
    dimension 2.
    """
    index = torch.arange(len(x_0))
    index[: len(order)] = order
    other = _losses(model, x_0[index], noise, t, a_bar)
    return other - _losses(model, x_0, noise, t, a_bar)


@knows_order.misconception
def noise_shuffled_too(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The noise was put into the other order, too. Two losses can be compared if only the clips
    differ: keep the noise as it is.
    """
    other = _losses(model, x_0[:, :, order], noise[:, :, order], t, a_bar)
    return other - _losses(model, x_0, noise, t, a_bar)


@knows_order.misconception
def noisy_clip_shuffled(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The noisy clip is put into the other order, and what the model says is compared with the
    noise in its old order. Shuffle x_0, then add the noise.
    """
    signal, spread = a_bar[t].sqrt().to(x_0.dtype), (1 - a_bar[t]).sqrt().to(x_0.dtype)
    x_t = (signal * x_0 + spread * noise)[:, :, order]
    error = model(x_t, torch.full((len(x_0),), t)) - noise
    return error.square().flatten(1).mean(1) - _losses(model, x_0, noise, t, a_bar)


@knows_order.misconception
def mean_over_the_batch(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """This is one number for the batch. Each clip is to have its own: take the mean over all
    dimensions but the first.
    """
    other = _losses(model, x_0[:, :, order], noise, t, a_bar)
    return (other - _losses(model, x_0, noise, t, a_bar)).mean()


@knows_order.misconception
def summed(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The squares are added up. A loss is their mean."""
    n_numbers = x_0[0].numel()
    other = _losses(model, x_0[:, :, order], noise, t, a_bar)
    return n_numbers * (other - _losses(model, x_0, noise, t, a_bar))


@knows_order.misconception
def roots_forgotten(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """x_t is made without roots: a_bar and 1 - a_bar are variances, the weights their roots."""
    other = _losses(model, x_0[:, :, order], noise, t, a_bar, roots=False)
    return other - _losses(model, x_0, noise, t, a_bar, roots=False)


@knows_order.misconception
def compared_with_the_clip(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The prediction is compared with the clip. This model predicts the noise."""

    def losses(x: Tensor) -> Tensor:
        x_t = a_bar[t].sqrt().to(x.dtype) * x + (1 - a_bar[t]).sqrt().to(x.dtype) * noise
        return (model(x_t, torch.full((len(x),), t)) - x).square().flatten(1).mean(1)

    return losses(x_0[:, :, order]) - losses(x_0)


@knows_order.misconception
def shown_clean_clips(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The model is shown clean clips and asked for noise that is not in them. Show it x_t."""
    at = torch.full((len(x_0),), t)
    other = (model(x_0[:, :, order], at) - noise).square().flatten(1).mean(1)
    return other - (model(x_0, at) - noise).square().flatten(1).mean(1)


@knows_order.misconception
def share_of_the_batch(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """This tells where the loss is lower, not by how much. Return the differences; you may count
    afterwards.
    """
    other = _losses(model, x_0[:, :, order], noise, t, a_bar)
    return (_losses(model, x_0, noise, t, a_bar) < other).to(x_0.dtype)


@knows_order.misconception
def played_backwards(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The frames are played backwards, whatever `order` is. Use it as an index of dimension 2."""
    other = _losses(model, x_0.flip(2), noise, t, a_bar)
    return other - _losses(model, x_0, noise, t, a_bar)


@knows_order.misconception
def relative_losses(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """This is the relative difference, divided by the loss in order. The difference itself is
    wanted.
    """
    own = _losses(model, x_0, noise, t, a_bar)
    return (_losses(model, x_0[:, :, order], noise, t, a_bar) - own) / own


@knows_order.misconception
def put_back_in_order(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The frames were put into the opposite order: order.argsort() as an index, or an assignment to
    x[:, :, order], undoes what x_0[:, :, order] does. Frame order[f] is to come to place f.
    """
    other = _losses(model, x_0[:, :, order.argsort()], noise, t, a_bar)
    return other - _losses(model, x_0, noise, t, a_bar)


@knows_order.misconception
def noise_without_its_root(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The noise is scaled by 1 - a_bar. That is its variance: it takes the root of it."""
    signal, spread = a_bar[t].sqrt().to(x_0.dtype), (1 - a_bar[t]).to(x_0.dtype)
    at = torch.full((len(x_0),), t)

    def losses(x: Tensor) -> Tensor:
        return (model(signal * x + spread * noise, at) - noise).square().flatten(1).mean(1)

    return losses(x_0[:, :, order]) - losses(x_0)


@knows_order.misconception
def signal_without_its_root(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The clip is scaled by a_bar. That is its share of the variance: take its root."""
    signal, spread = a_bar[t].to(x_0.dtype), (1 - a_bar[t]).sqrt().to(x_0.dtype)
    at = torch.full((len(x_0),), t)

    def losses(x: Tensor) -> Tensor:
        return (model(signal * x + spread * noise, at) - noise).square().flatten(1).mean(1)

    return losses(x_0[:, :, order]) - losses(x_0)


@knows_order.misconception
def absolute_errors(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """This is the mean absolute error. The loss is the mean of squares."""
    signal, spread = a_bar[t].sqrt().to(x_0.dtype), (1 - a_bar[t]).sqrt().to(x_0.dtype)
    at = torch.full((len(x_0),), t)

    def losses(x: Tensor) -> Tensor:
        return (model(signal * x + spread * noise, at) - noise).abs().flatten(1).mean(1)

    return losses(x_0[:, :, order]) - losses(x_0)


@knows_order.misconception
def ratio_of_losses(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """This is a ratio of losses. The difference is wanted: the other order's loss minus its own."""
    other = _losses(model, x_0[:, :, order], noise, t, a_bar)
    return other / _losses(model, x_0, noise, t, a_bar)


@knows_order.misconception
def without_a_sign(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The sign is lost: where the model prefers the other order, the result is to be negative."""
    other = _losses(model, x_0[:, :, order], noise, t, a_bar)
    return (other - _losses(model, x_0, noise, t, a_bar)).abs()


@knows_order.misconception
def one_step_early(
    model: Model, x_0: Tensor, order: Tensor, noise: Tensor, t: int, a_bar: Tensor
) -> Tensor:
    """The clip is made noisy with a_bar[t - 1], and the model is told t. Timesteps count from 0: it
    is a_bar[t].
    """
    signal, spread = (v.to(x_0.dtype) for v in (a_bar[t - 1].sqrt(), (1 - a_bar[t - 1]).sqrt()))
    at = torch.full((len(x_0),), t)

    def losses(x: Tensor) -> Tensor:
        return (model(signal * x + spread * noise, at) - noise).square().flatten(1).mean(1)

    return losses(x_0[:, :, order]) - losses(x_0)

"""Chapter 13: clips are data with one more dimension; what is new is where frames meet."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import gap, generator, normal
from minidiff.ddim import sample_ddim
from minidiff.ddpm import Denoiser, sample_ddpm
from minidiff.editing import inpaint
from minidiff.forward import NoiseSchedule, cosine_schedule, forward_diffusion, linear_schedule
from minidiff.guidance import guided
from minidiff.text import TextUNet, Tokenizer
from minidiff.training import EMA, train, train_step
from minidiff.video import (
    KNOWN_LOOKS,
    CaptionWaves,
    MotionCompensated,
    TemporalBlock,
    VideoUNet,
    along_motion,
    constant_velocity,
    draw_masks,
    find_light,
    known_context,
    known_frames,
    loss_of_each,
    match_frames,
    moving_hole,
    patchify,
    shift_schedule,
    space_time,
    unpatchify,
    window,
    with_known,
)

TOKENIZER = Tokenizer(["a", "boot", "coat", "up", "down"], n_tokens=6)
CONTEXT = TOKENIZER(["a boot up", "coat", ""])
T = torch.tensor([0, 500, 999])


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """No parameter stays zero, so that every path shows in the output."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator(seed + i)))
    return module.eval()


def small(**settings) -> VideoUNet:
    options = {"n_frames": 4, "patch": 2, "channels": (16, 16), "text_dim": 8, "n_tokens": 6}
    options |= {"text_levels": (1,), "time_levels": (1,)}
    model = randomised(VideoUNet(len(TOKENIZER), **options | settings)).double()
    assert isinstance(model, VideoUNet)
    return model


MODEL = small()
CLIPS = normal(3, 1, 4, 8, 8)


# --- the schedule ---


@pytest.mark.parametrize("factor", [1 / 16, 0.5, 1.0, 7.0])
@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
def test_a_shifted_schedule_has_the_ratio_times_the_factor(factor, make):
    schedule = make(1000)
    shifted = shift_schedule(schedule, factor)
    assert shifted.n_steps == 1000
    relative = shifted.snr / (factor * schedule.snr)
    assert (relative - 1).abs().max() < 1e-9
    # in logarithms it is the schedule moved by a constant (Hoogeboom et al. 2023, eq. 4)
    moved = shifted.snr.log() - schedule.snr.log()
    assert (moved - math.log(factor)).abs().max() < 1e-9


def test_a_shift_undoes_a_shift():
    schedule = cosine_schedule(100)
    again = shift_schedule(shift_schedule(schedule, 1 / 16), 16)
    assert gap(again.betas, schedule.betas) < 1e-12


def test_the_mean_of_all_frames_has_the_ratio_of_one_picture():
    """A still clip under the shifted schedule is as hard to see as a picture was."""
    n_frames, schedule, t = 16, cosine_schedule(1000), torch.full((4000,), 400)
    shifted = shift_schedule(schedule, 1 / n_frames)
    still = normal(4000, 1, 1, 1, 2).sign().expand(-1, -1, n_frames, -1, -1)
    x_t, _ = forward_diffusion(still, t, shifted, generator=generator(1))
    signal = shifted.alphas_cumprod[400].sqrt()
    noise = (x_t.mean(2) / signal - still[:, :, 0]).square()
    expected = 1 / schedule.snr[400]
    error = noise.std() / noise.numel() ** 0.5
    assert abs(noise.mean() - expected) < 5 * error


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_factor_must_be_positive_and_finite(factor):
    with pytest.raises(ValueError, match="factor must be positive and finite, got"):
        shift_schedule(linear_schedule(), factor)


def test_a_schedule_without_signal_at_its_end_cannot_be_shifted():
    dark = NoiseSchedule(torch.tensor([0.5, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="schedule must keep some signal to the end"):
        shift_schedule(dark, 0.5)


# --- patches ---


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_patches_lose_nothing(patch):
    x = normal(2, 3, 5, 8, 16)
    h = patchify(x, patch)
    assert h.shape == (10, 3 * patch**2, 8 // patch, 16 // patch)
    assert torch.equal(unpatchify(h, patch, 5), x)


def test_a_patch_is_what_it_should_be():
    x = normal(2, 1, 3, 8, 8)
    h = patchify(x, 4)
    assert torch.equal(h[1 * 3 + 2, :, 1, 0], x[1, 0, 2, 4:8, 0:4].flatten())  # clip 1, frame 2
    expected = F.unfold(x[:, 0, :].flatten(0, 1)[:, None], 4, stride=4).view(6, 16, 2, 2)
    assert torch.equal(h, expected)


def test_patches_refuse_what_they_cannot_cut():
    with pytest.raises(ValueError, match=r"x must be \(B, C, F, H, W\), got \(1, 1, 8, 8\)"):
        patchify(torch.zeros(1, 1, 8, 8), 2)
    for patch in (3, 0):
        with pytest.raises(ValueError, match=rf"patch must divide .* \(8, 8\), got {patch}"):
            patchify(torch.zeros(1, 1, 2, 8, 8), patch)


# --- where frames meet ---


def test_a_new_block_changes_nothing_but_to_say_which_frame_is_which():
    h = torch.randn(8, 16, 3, 3, generator=generator())
    assert torch.equal(TemporalBlock(16, 4)(h), h)
    block = TemporalBlock(16, 4, attention=True)
    assert block.places is not None
    assert torch.equal(block(h), (h.view(2, 4, 16, 3, 3) + block.places).view_as(h))
    assert torch.pdist(block.places.detach().flatten(1)).min() > 0.1  # no two alike


def test_the_block_over_time_is_a_convolution_and_attention_written_out():
    block, h = randomised(TemporalBlock(16, 4, attention=True)).double(), normal(8, 16, 3, 2)
    x = F.silu(block.norm(h)).view(2, 4, 16, 3, 2)
    weight, bias = block.conv.weight[..., 0], block.conv.bias
    expected = h.view(2, 4, 16, 3, 2).clone()
    for clip in range(2):
        for row in range(3):
            for column in range(2):
                line = x[clip, :, :, row, column].T[None]  # (1, C, F)
                new = (
                    expected[clip, :, :, row, column] + F.conv1d(line, weight, bias, padding=1)[0].T
                )
                sequence = (new + block.places[:, :, 0, 0]).T[None]  # (1, C, F)
                expected[clip, :, :, row, column] = block.attention(sequence)[0].T
    assert gap(block(h), expected.view(8, 16, 3, 2)) < 1e-12


def test_a_block_over_time_mixes_frames_and_neither_places_nor_clips():
    block = randomised(TemporalBlock(16, 4, attention=True)).double()
    block.norm = nn.Identity()  # which alone looks at all places of a frame
    h, other = normal(8, 16, 3, 3), normal(8, 16, 3, 3)
    other[:, :, 1, 1] = h[:, :, 1, 1]
    other[4:] = h[4:]
    same = (block(h) - block(other)).abs().amax(1)  # (8, 3, 3)
    assert same[:4, 1, 1].max() < 1e-12  # all else at other places is without influence
    assert same[4:].max() == 0  # and so is the other clip
    changed = h.clone()
    changed[0] = normal(16, 3, 3, seed=1)
    reached = (block(h) - block(changed)).abs().amax((1, 2, 3))
    assert (reached[:4] > 1e-6).all()  # each frame hears of the first one


def test_without_attention_a_frame_reaches_its_neighbours_alone():
    block, h = randomised(TemporalBlock(16, 5)).double(), normal(5, 16, 2, 2)
    changed = h.clone()
    changed[2] = normal(16, 2, 2, seed=1)
    reached = (block(h) - block(changed)).abs().amax((1, 2, 3)) > 1e-9
    assert reached.tolist() == [False, True, True, True, False]


def test_attention_over_time_knows_an_order_only_by_its_places():
    block = randomised(TemporalBlock(16, 4, attention=True)).double()
    nn.init.zeros_(block.conv.weight)
    h, order = normal(4, 16, 2, 2), torch.tensor([2, 0, 3, 1])
    assert gap(block(h)[order], block(h[order])) > 1e-3
    nn.init.zeros_(block.places)
    assert gap(block(h)[order], block(h[order])) < 1e-12


def test_space_and_time_in_turn_reach_every_place_of_every_frame():
    module, h = randomised(space_time(16, 4, attention=True)).double(), normal(8, 16, 3, 3)
    changed = h.clone()
    changed[1, :, 0, 2] = normal(16, seed=1)
    reached = (module(h) - module(changed)).abs().amax(1)
    assert reached[:4].min() > 1e-7
    assert reached[4:].max() == 0  # the other clip
    assert isinstance(space_time(16, 4, attention=False), TemporalBlock)


def test_a_block_refuses_frames_that_make_no_whole_clips():
    with pytest.raises(ValueError, match="h must hold clips of 4 frames, got 6 frames"):
        TemporalBlock(16, 4)(torch.zeros(6, 16, 2, 2))


# --- where and when, times what ---


def test_a_wave_is_the_cosine_of_its_formula():
    module = CaptionWaves(8, n_frames=4, n_waves=6).double()
    waves = module.on_grid((3, 5))
    assert waves.shape == (4, 6, 3, 5)
    for frame in range(4):
        for row in range(3):
            for column in range(5):
                place = torch.tensor([2 * frame / 3 - 1, row - 1, column / 2 - 1]).double()
                expected = (module.frequencies @ place + module.phases).cos()
                assert gap(waves[frame, :, row, column], expected) < 1e-6


def test_a_caption_scales_each_wave():
    module, captions = randomised(CaptionWaves(8, 4, 6)).double(), normal(3, 8)
    out, waves = module(captions, (5, 7)).view(3, 4, 6, 5, 7), module.on_grid((5, 7))
    strengths = 1 + F.linear(captions, module.strengths.weight, module.strengths.bias)
    for clip in range(3):
        for k in range(6):
            assert gap(out[clip, :, k], strengths[clip, k] * waves[:, k]) < 1e-12


def test_what_a_caption_changes_is_something_else_at_each_place_of_each_frame():
    """No sum f(caption) + g(frame, place) can do this: there the difference is one number."""
    module, captions = randomised(CaptionWaves(8, 4, 6)).double(), normal(2, 8)
    one, other = module(captions, (5, 5)).view(2, 4, 6, 5, 5)
    change = (one - other).transpose(0, 1)  # (n_waves, F, H, W)
    for axis in (1, 2, 3):
        assert change.std(axis).amin() > 1e-4


def test_waves_tell_all_places_of_all_frames_apart():
    waves = CaptionWaves(8, n_frames=16).double().on_grid((10, 10))  # (F, n_waves, H, W)
    assert torch.pdist(waves.transpose(1, 2).transpose(2, 3).flatten(0, 2)).min() > 0.3


def test_angles_are_not_rounded_by_autocast():
    module, captions = CaptionWaves(8, 16), torch.randn(2, 8, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.on_grid((10, 10)), CaptionWaves(8, 16).on_grid((10, 10)))
        rounded = module(captions, (10, 10))
    assert rounded.dtype == torch.float32
    assert gap(rounded, module(captions, (10, 10))) < 4 * 2**-8  # strengths alone are
    exact = CaptionWaves(8, 16).double().on_grid((10, 10))
    assert gap(module.on_grid((10, 10)).double(), exact) < 1e-5


def test_the_waves_are_always_the_same_and_kept_with_the_weights():
    torch.manual_seed(3)
    first = CaptionWaves(8, 4)
    torch.manual_seed(4)
    second = CaptionWaves(8, 4)
    assert torch.equal(first.frequencies, second.frequencies)
    assert set(first.state_dict()) == {
        "frequencies", "phases", "strengths.weight", "strengths.bias"
    }  # fmt: skip


# --- the model ---


@torch.no_grad()
def test_without_blocks_over_time_each_frame_is_a_picture_by_itself():
    """The rest of the model is the UNet of chapter 10, frame by frame."""
    model = small()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, TemporalBlock):
                setattr(module, name, nn.Identity())
    whole, (words, mask) = model(CLIPS, T, CONTEXT), model.read(CONTEXT)
    waves = model.waves(words[:, 0], (4, 4)).unflatten(0, (3, 4))  # (B, F, n_waves, 4, 4)
    for frame in range(4):
        picture = F.pixel_unshuffle(CLIPS[:, :, frame], 2)
        inputs = torch.cat([picture, waves[:, frame], torch.zeros(3, 8, 4, 4)], dim=1)
        alone = model.draw(inputs, T, words, mask)
        assert gap(F.pixel_shuffle(alone, 2), whole[:, :, frame]) < 1e-10


@torch.no_grad()
def test_clips_of_a_batch_do_not_meet_and_padding_changes_nothing():
    together = MODEL(CLIPS, T, CONTEXT)
    for i in range(3):
        alone = {name: values[i : i + 1] for name, values in CONTEXT.items()}
        assert gap(MODEL(CLIPS[i : i + 1], T[i : i + 1], alone), together[i : i + 1]) < 1e-10
    padded = {name: values.clone() for name, values in CONTEXT.items()}
    padded["tokens"][~padded["tokens_mask"]] = 4
    assert gap(MODEL(CLIPS, T, padded), together) < 1e-10


@torch.no_grad()
def test_everything_that_is_given_matters():
    out = MODEL(CLIPS, T, CONTEXT)
    other = TOKENIZER(["a boot down", "boot", "a"])
    changed = CLIPS.clone()
    changed[:, :, 3] += 0.1
    assert (MODEL(CLIPS, T, other) - out).abs().amax((1, 2, 3, 4)).min() > 1e-4
    assert (MODEL(CLIPS, 999 - T + 1, CONTEXT) - out).abs().amax((1, 2, 3, 4)).max() > 1e-4
    assert (MODEL(changed, T, CONTEXT) - out).abs().amax((0, 1, 3, 4)).min() > 1e-6  # each frame


def test_a_new_model_predicts_zero_and_all_of_it_learns():
    torch.manual_seed(0)
    model = VideoUNet(
        len(TOKENIZER),
        n_frames=4,
        channels=(16, 32),
        text_levels=(1,),
        time_levels=(1,),
        n_tokens=6,
    )
    context = TOKENIZER(["a boot up", "coat", ""])
    x = CLIPS.float()
    assert model(x, T, context).abs().max() == 0
    randomised(model)
    model.train()
    context |= known_context(x, known_frames([0], 4))
    train_step(model, x, T, cosine_schedule(), context, prediction_type="v").backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@torch.no_grad()
def test_what_is_known_matters_and_nothing_known_is_none_given():
    mask = known_frames([1], 4)
    seen = CONTEXT | known_context(CLIPS, mask)
    hidden = CONTEXT | known_context(torch.where(mask, CLIPS, torch.nan), mask)
    nothing = CONTEXT | known_context(CLIPS, torch.zeros_like(mask))
    out = MODEL(CLIPS, T, CONTEXT)
    assert torch.equal(MODEL(CLIPS, T, nothing), out)
    assert torch.equal(MODEL(CLIPS, T, seen), MODEL(CLIPS, T, hidden))
    assert (MODEL(CLIPS, T, seen) - out).abs().amax((1, 3, 4)).min() > 1e-6  # in every frame
    dark = CONTEXT | known_context(torch.zeros_like(CLIPS), mask)
    assert gap(MODEL(CLIPS, T, dark), out) > 1e-6  # to know a zero is to know something


@torch.no_grad()
def test_a_new_model_does_not_look_at_what_is_known_and_learns_to():
    torch.manual_seed(0)
    model = VideoUNet(len(TOKENIZER), n_frames=4, channels=(16, 16), text_dim=8, n_tokens=6)
    assert model.conv_in.weight[:, -8:].abs().max() == 0 < model.conv_in.weight[:, -9].abs().max()
    nn.init.normal_(model.conv_out.weight)
    x, seen = CLIPS.float(), known_context(CLIPS.float(), known_frames([1], 4))
    assert torch.equal(model(x, T, CONTEXT | seen), model(x, T, CONTEXT))
    with torch.enable_grad():
        train_step(model, x, T, cosine_schedule(), CONTEXT | seen).backward()
    assert model.conv_in.weight.grad is not None
    assert model.conv_in.weight.grad[:, -8:].abs().amax((0, 2, 3)).min() > 0


def test_norms_have_groups_of_sixteen_channels():
    norms = [m for m in small(channels=(32, 48)).modules() if isinstance(m, nn.GroupNorm)]
    assert norms
    assert all(norm.num_channels == 16 * norm.num_groups for norm in norms)


def test_the_model_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"channels must be multiples of 16, got \(16, 24\)"):
        VideoUNet(5, channels=(16, 24))
    for shape in ((3, 4, 8, 8), (3, 1, 5, 8, 8), (3, 2, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"x_t must be \(B, 1, 4, H, W\), got"):
            MODEL(normal(*shape), T, CONTEXT)
    with pytest.raises(ValueError, match=r"t must have shape \(3,\), got \(2,\)"):
        MODEL(CLIPS, T[:2], CONTEXT)
    with pytest.raises(ValueError, match="context must hold tokens and tokens_mask"):
        MODEL(CLIPS, T)
    for known in (CLIPS, normal(3, 2, 4, 8, 6), normal(2, 2, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"'known'\] must be \(3, 2, 4, 8, 8\), got"):
            MODEL(CLIPS, T, CONTEXT | {"known": known})


# --- along the motion ---


def test_frames_are_matched_by_their_correlation():
    x = normal(2, 3, 4, 6, 7)
    kernels = match_frames(x, reach=2, sharpness=0.1)
    assert kernels.shape == (2, 3, 5, 5)
    for clip, frame in ((0, 0), (1, 2)):
        now, then = x[clip, :, frame], x[clip, :, frame + 1]
        match = torch.tensor(
            [
                [(now.roll((down, right), (1, 2)) * then).sum() for right in range(-2, 3)]
                for down in range(-2, 3)
            ]
        )
        assert gap(kernels[clip, frame], (0.1 * match).flatten().softmax(0).view(5, 5)) < 1e-12
    assert gap(match_frames(x, sharpness=0.0), torch.ones(2, 3, 5, 5).double() / 25) < 1e-12


def flying(velocities, side=16):
    """A clip of one picture on a dark canvas, that flies with these velocities."""
    picture = torch.full((1, side, side), -1.0, dtype=torch.float64)
    picture[:, 6:10, 5:10] = normal(1, 4, 5).abs().clamp(max=1)
    frames = [picture]
    for velocity in velocities:
        frames.append(frames[-1].roll(velocity, (1, 2)))
    return torch.stack(frames, dim=1)[None]  # (1, 1, F, side, side)


STEPS = ((0, 1), (-2, 1), (2, 2), (0, 0), (-1, -2))


def test_the_best_match_is_the_motion():
    kernels = match_frames(flying(STEPS), sharpness=50.0)[0]
    for kernel, (down, right) in zip(kernels, STEPS, strict=True):
        assert kernel[2 + down, 2 + right] > 0.99
        assert abs(kernel.sum() - 1) < 1e-12


def test_along_the_motion_all_frames_show_the_same():
    clip = flying(STEPS)
    total = along_motion(clip, match_frames(clip, sharpness=1000.0))
    assert gap(total, 5 * clip) < 1e-6
    standing = match_frames(flying([(0, 0)] * 5), sharpness=1000.0)
    assert gap(along_motion(clip, standing), clip.sum(2, keepdim=True) - clip) < 1e-6


def test_frames_are_moved_by_convolution_and_back_by_the_mirrored_kernel():
    x, kernels = normal(2, 3, 4, 6, 7), match_frames(normal(2, 1, 4, 6, 7), 1, 0.1)

    def moved(picture, kernel):
        return sum(
            kernel[down + 1, right + 1] * picture.roll((down, right), (1, 2))
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
        )

    expected = torch.zeros_like(x)
    for clip in range(2):
        for here in range(4):
            for there in range(4):
                picture = x[clip, :, there]
                for step in range(there, here):
                    picture = moved(picture, kernels[clip, step])
                for step in range(there - 1, here - 1, -1):
                    picture = moved(picture, kernels[clip, step].flip(0, 1))
                expected[clip, :, here] += picture * (here != there)
    assert gap(along_motion(x, kernels), expected) < 1e-10


def test_frames_and_kernels_that_do_not_fit_are_refused():
    x = normal(2, 1, 4, 6, 7)
    with pytest.raises(ValueError, match=r"x_0 must be \(B, C, F, H, W\), got \(2, 1, 4, 6\)"):
        match_frames(x[..., 0])
    for reach in (3, -1):
        with pytest.raises(ValueError, match=f"reach must fit into frames of 6x7, got {reach}"):
            match_frames(x, reach)
    for shape in ((2, 4, 3, 3), (1, 3, 3, 3), (2, 3, 2, 3), (2, 3, 7, 7), (2, 3, 3)):
        with pytest.raises(ValueError, match=r"kernels must be \(B, F - 1, k, k\) with odd k"):
            along_motion(x, normal(*shape))


SCHEDULE = shift_schedule(cosine_schedule(), 1 / 4)


def picture_model(n_channels: int = 1) -> TextUNet:
    model = TextUNet(
        len(TOKENIZER), n_channels, n_channels, channels=(16, 16), text_levels=(1,), text_dim=8,
        n_tokens=6,
    )  # fmt: skip
    return randomised(model)


def following(model: nn.Module = MODEL, picture: nn.Module | None = None) -> MotionCompensated:
    picture = picture or picture_model()
    return MotionCompensated(model, picture, SCHEDULE, side=6).double().eval()


class Knows(nn.Module):
    """A model whose x_0 is always the same; it keeps what it was shown."""

    def __init__(self, x_0: Tensor, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.x_0, self.a_bar = x_0, schedule.alphas_cumprod

    def forward(self, x_t: Tensor, t: Tensor, context=None) -> Tensor:
        self.seen = (x_t, t, context)
        shape = (-1, *[1] * (x_t.ndim - 1))
        a, b = self.a_bar[t].sqrt().view(shape), (1 - self.a_bar[t]).sqrt().view(shape)
        return (a * x_t - self.x_0) / b


def cut(x: Tensor, light: Tensor) -> Tensor:
    """A square of 6 pixels out of pictures x, around the light of others."""
    return x.movedim(1, -1)[window(find_light(light), x.shape[2:], 6)].movedim(-1, 1)


def test_a_window_is_a_square_around_a_pixel_and_goes_on_at_the_other_edge():
    x, middles = normal(5, 2, 7, 8), torch.tensor([[3, 3], [0, 0], [6, 7], [2, 7], [9, -1]])
    for side in (1, 2, 3, 6, 7):
        squares = x.movedim(1, -1)[window(middles, (7, 8), side)].movedim(-1, 1)
        for picture, (row, column), found in zip(x, middles.tolist(), squares, strict=True):
            shifts = (side // 2 - row, side // 2 - column)
            assert torch.equal(found, picture.roll(shifts, (1, 2))[:, :side, :side])
    with pytest.raises(ValueError, match="side must fit into pictures of 7x8, got 8"):
        window(middles, (7, 8), 8)


def test_the_light_is_found_to_the_pixel():
    pictures = torch.full((3, 1, 9, 11), -1.0, dtype=torch.float64)
    pictures[0, 0, 2:5, 4:9] = 1  # around row 3, column 6
    pictures[1] = -0.81  # too faint to count
    pictures[1, 0, 7, 1] = -0.5
    assert find_light(pictures).tolist() == [[3, 6], [7, 1], [0, 0]]
    assert torch.equal(find_light(pictures.expand(-1, 3, -1, -1)), find_light(pictures))


def test_the_mean_along_the_motion_is_a_picture_of_the_schedule_before_the_shift():
    clip, t = flying(STEPS[:3]), torch.tensor([300])
    picture = Knows(torch.zeros(1, 1, 6, 6).double(), cosine_schedule())
    model = following(Knows(clip, SCHEDULE), picture)
    model.log_sharpness.data.fill_(7.0)
    context = {name: values[:1] for name, values in CONTEXT.items()}
    signal = [s.alphas_cumprod[t].sqrt() for s in (SCHEDULE, cosine_schedule())]
    model(signal[0] * clip, t, context)  # without noise
    seen, at, words = picture.seen
    assert gap(seen, signal[1] * cut(clip[:, :, 2], clip[:, :, 2])) < 1e-5
    assert torch.equal(at, t)
    assert words.keys() == context.keys()

    x_t = normal(*clip.shape)  # and noise alone: the mean of four frames, each moved onto the third
    steps = torch.tensor(((0, 0), *STEPS[:3])).cumsum(0)  # where each frame is
    moved = [x_t[:, :, f].roll((steps[2] - steps[f]).tolist(), (2, 3)) for f in range(4)]
    mean = torch.stack(moved).mean(0)
    model(x_t, t, context)
    assert gap(picture.seen[0], signal[1] / signal[0] * cut(mean, clip[:, :, 2])) < 1e-4


def test_what_the_picture_model_draws_is_moved_into_every_frame():
    clip, t = flying(STEPS[:3]), torch.tensor([300])
    faint = torch.where(clip > -1, 0.9 * clip, clip)  # what the model of clips makes of it
    picture = Knows(cut(clip[:, :, 2], faint[:, :, 2]), cosine_schedule())
    model = following(Knows(faint, SCHEDULE), picture)
    model.log_sharpness.data.fill_(7.0)
    a_bar, x_t = SCHEDULE.alphas_cumprod[t], normal(*clip.shape)
    for bias, trust in ((-50.0, 0.0), (0.0, 0.5), (50.0, 1.0)):
        model.conv_out.bias.data.fill_(bias)
        x_0 = a_bar.sqrt() * x_t - (1 - a_bar).sqrt() * model(x_t, t, {})
        assert gap(x_0, torch.lerp(faint, clip, trust)) < 1e-4


def test_what_is_known_stands_as_it_is_and_outweighs_what_is_drawn():
    clip, t = flying(STEPS[:3]), torch.tensor([300])
    shown, mask = torch.where(clip > -1, clip + 0.25, clip), known_frames([0], 4)
    x_0, looks = with_known(clip, known_context(shown, mask))
    assert torch.equal(x_0, torch.where(mask, shown, clip))
    assert looks[0, 0, :, 0, 0].tolist() == [KNOWN_LOOKS, 1, 1, 1]
    assert torch.equal(with_known(clip, None)[1], torch.ones_like(clip))

    dark = torch.full((1, 1, 6, 6), -1.0).double()
    model = following(picture=Knows(dark, cosine_schedule()))
    model.log_sharpness.data.fill_(7.0)
    drawn = model.draw(normal(*clip.shape), t, x_0, looks, None)[:, :, 2]
    known = torch.where(clip > -1, clip + 0.25 * KNOWN_LOOKS / (KNOWN_LOOKS + 3), clip)[:, :, 2]
    expected = torch.lerp(
        cut(known, known), dark, 4 / (KNOWN_LOOKS + 3)
    )  # F looks at what is drawn
    assert gap(cut(drawn, known), expected) < 1e-4


@torch.no_grad()
def test_clips_of_a_motion_compensated_model_do_not_meet():
    model = randomised(following())
    clips = CLIPS.clamp(-1, 1)
    out = model(clips, T, CONTEXT)
    for i in range(3):
        alone = {name: values[i : i + 1] for name, values in CONTEXT.items()}
        assert gap(model(clips[i : i + 1], T[i : i + 1], alone), out[i : i + 1]) < 1e-8
    seen = CONTEXT | known_context(clips, known_frames([0], 4))
    assert (model(clips, T, seen) - out).abs().amax((1, 3, 4)).min() > 1e-6


def test_all_of_a_motion_compensated_model_learns():
    model = randomised(following(small())).train()
    context = CONTEXT | known_context(CLIPS, known_frames([0], 4))
    train_step(model, CLIPS, T, SCHEDULE, context, prediction_type="v").backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# --- what the chapters before make of it, unchanged ---


def test_a_clip_is_trained_sampled_guided_and_inpainted_like_a_picture():
    torch.manual_seed(0)
    model = VideoUNet(
        len(TOKENIZER), n_frames=4, patch=2, channels=(16, 16), text_dim=8, n_tokens=6
    )
    schedule, null = shift_schedule(cosine_schedule(), 1 / 4), TOKENIZER([""])
    null = {name: values[0] for name, values in null.items()}
    ema = EMA(model)
    x_0 = CLIPS.float().clamp(-1, 1)
    losses = [
        loss
        for _, loss in train(
            model, x_0, schedule, n_steps=3, batch_size=2, prediction_type="v",
            context=CONTEXT, null_context=null, ema=ema,
        )
    ]  # fmt: skip
    assert all(map(math.isfinite, losses))
    strong = Denoiser(guided(ema.model, CONTEXT, null, 2.0), schedule, "v")
    for sampler in (sample_ddpm, sample_ddim):
        x = sampler(strong, x_0.shape, n_steps=3, generator=generator())
        assert x.shape == x_0.shape
        assert x.abs().max() <= 1
    mask = known_frames([0, 3], 4)
    x = inpaint(strong, x_0, mask, 3, 2, generator())
    assert torch.equal(x[:, :, [0, 3]], x_0[:, :, [0, 3]])
    assert not torch.equal(x[:, :, 1], x_0[:, :, 1])


# --- masks and rivals ---


def test_known_frames_are_those_named():
    assert known_frames([1, 3], 5).flatten().tolist() == [False, True, False, True, False]
    assert known_frames([], 2).shape == (1, 1, 2, 1, 1)
    for frames in ([5], [-1]):
        with pytest.raises(ValueError, match=rf"frames must lie in \[0, 5\), got \[{frames[0]}\]"):
            known_frames(frames, 5)


def test_a_moving_hole_hides_a_square_in_each_frame():
    corners = torch.tensor([[0, 0], [2, 3], [-1, 4], [9, 9]])
    mask = moving_hole(corners, size=3, side=6)
    assert mask.shape == (1, 1, 4, 6, 6)
    assert (~mask).sum((0, 1, 3, 4)).tolist() == [9, 9, 2 * 2, 0]
    assert not mask[0, 0, 1, 2:5, 3:6].any()
    with pytest.raises(ValueError, match=r"corners must be \(F, 2\), got \(4,\)"):
        moving_hole(corners[:, 0], 3)


def test_a_known_context_holds_what_is_known_and_where():
    mask = torch.rand(3, 1, 4, 8, 1, generator=generator()) < 0.5
    shown = known_context(torch.where(mask, CLIPS, torch.inf), mask)["known"]
    assert torch.equal(shown[:, :1], torch.where(mask, CLIPS, 0))
    assert torch.equal(shown[:, 1:], mask.expand_as(CLIPS).double())
    two = known_context(normal(2, 3, 4, 8, 8), known_frames([0], 4))["known"]  # three colours
    assert two.shape == (2, 4, 4, 8, 8)
    assert two[:, 3, 0].min() == 1
    assert two[:, :, 1:].abs().max() == 0


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="mask must be bool, True where clips are known"):
        known_context(CLIPS, known_frames([0], 4).float())
    for shape in ((3, 2, 4, 8, 8), (2, 1, 4, 8, 8), (1, 1, 3, 1, 1), (1, 4, 1, 1)):
        with pytest.raises(ValueError, match=r"mask must broadcast to \(3, 1, 4, 8, 8\), got"):
            known_context(CLIPS, torch.ones(shape, dtype=torch.bool))


def test_masks_of_a_training_are_of_four_kinds():
    n = 2000
    masks = draw_masks(n, generator(3), n_frames=16, side=10)
    assert masks.shape == (n, 1, 16, 10, 10)
    assert torch.equal(masks[:9], draw_masks(9, generator(3), n_frames=16, side=10))
    whole, some = masks.flatten(3).all(3)[:, 0], masks.flatten(3).any(3)[:, 0]  # (n, 16) each
    known = whole.sum(1)
    by_frame = (whole == some).all(1)  # no frame is known in part
    first = by_frame & (known > 0) & (known == whole.long().cumprod(1).sum(1))
    shares = [(by_frame & (known == 0)), first, by_frame & (known > 0) & ~first, ~by_frame]
    for kind, share in zip(shares, (0.4, 0.25, 0.15, 0.2), strict=True):
        assert abs(kind.double().mean() - share) < 0.04
    assert known[first].min() == 1
    assert known[first].max() == 8
    holes = ~masks[~by_frame][:, 0]  # (m, 16, 10, 10)
    sizes = holes.any(3).sum(2)  # rows of the hole in each frame
    assert all(set(row) <= {0, max(row)} for row in sizes.tolist())  # closed, or as large as ever
    assert set(sizes.amax(1).tolist()) == {2, 3, 4, 5}
    assert torch.equal(sizes, holes.any(2).sum(2))
    assert 0.2 < (sizes == 0).double().mean() < 0.4
    been = holes.any(1).sum((1, 2))  # places that were hidden at some time
    assert (been > sizes.amax(1) ** 2).double().mean() > 0.9  # it moves


@pytest.mark.parametrize("velocity", [(0, 1), (-2, 0), (3, -3), (0, 0)])
def test_constant_velocity_continues_what_moves_on(velocity):
    picture = torch.full((2, 1, 40, 40), -1.0, dtype=torch.float64)
    picture[:, :, 17:23, 16:24] = normal(2, 1, 6, 8)
    frames = [picture.roll((velocity[0] * f, velocity[1] * f), (2, 3)) for f in range(5)]
    clip = torch.stack(frames, dim=2)
    assert torch.equal(constant_velocity(clip[:, :, :2], n_frames=5), clip)


def test_constant_velocity_leaves_the_picture_where_a_wall_would_be():
    clip = torch.full((1, 1, 2, 6, 6), -1.0)
    clip[0, 0, 0, 2, 3] = clip[0, 0, 1, 2, 4] = 1
    predicted = constant_velocity(clip, n_frames=9)
    lit = (predicted > 0).sum((0, 1, 3, 4)).tolist()
    assert lit == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_constant_velocity_needs_two_frames():
    with pytest.raises(ValueError, match="known must be .* with F >= 2, got"):
        constant_velocity(torch.zeros(1, 1, 1, 4, 4))


# --- the loss as a judge ---


def test_the_losses_of_clips_have_the_loss_of_the_batch_for_their_mean():
    noise = normal(*CLIPS.shape, seed=3)
    schedule = cosine_schedule()
    for kind in ("eps", "x_0", "v"):
        each = loss_of_each(MODEL, CLIPS, T, schedule, CONTEXT, noise, prediction_type=kind)
        both = train_step(MODEL, CLIPS, T, schedule, CONTEXT, noise, prediction_type=kind)
        assert each.shape == (3,)
        assert abs(each.mean() - both) < 1e-12
    again = [
        loss_of_each(MODEL, CLIPS, T, schedule, CONTEXT, generator=generator(1)) for _ in range(2)
    ]
    assert torch.equal(*again)


def test_a_model_that_knows_the_clip_finds_another_order_unlikely():
    """The optimal denoiser of one clip, against the same frames shuffled."""
    schedule, t = linear_schedule(), torch.full((1,), 300)
    clip = CLIPS[:1]
    shuffled = clip[:, :, [2, 0, 3, 1]]
    noise = normal(*clip.shape, seed=5)

    def knows(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        return clip

    own, other = (
        loss_of_each(knows, x, t, schedule, None, noise, prediction_type="x_0")  # type: ignore[arg-type]
        for x in (clip, shuffled)
    )
    assert own.item() == 0 < other.item()

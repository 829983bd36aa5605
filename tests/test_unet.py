"""The network: what each block computes, what it leaves alone, and every shape it must bear."""

import re
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding as diffusers_embedding
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.unet import (
    Attention,
    DownBlock,
    MidBlock,
    ResBlock,
    UNet,
    UpBlock,
    get_timestep_embedding,
)

Module = TypeVar("Module", bound=nn.Module)
SIZES = [(28, 28), (7, 7), (8, 8), (1, 1), (5, 9), (1, 16), (33, 2)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(model: Module, seed: int = 0) -> Module:
    """Make a model float64 and move every weight, so that nothing is zero any more."""
    for i, parameter in enumerate(model.double().parameters()):
        parameter.data += 0.3 * normal(*parameter.shape, seed=1000 * seed + i)
    return model.eval()


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 6, 32, 128])
def test_the_timestep_embedding_is_that_of_diffusers(dim: int) -> None:
    t = torch.tensor([0, 1, 17, 500, 999])
    expected = diffusers_embedding(t, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert get_timestep_embedding(t, dim).dtype == torch.float32
    assert difference(get_timestep_embedding(t, dim), expected) <= 1e-6


def test_the_timestep_embedding_in_float64() -> None:
    t = torch.tensor([0.0, 0.25, 999.0], dtype=torch.float64)
    i = torch.arange(8, dtype=torch.float64)
    angles = torch.outer(t, 10_000 ** (-i / 8))
    expected = torch.cat([angles.cos(), angles.sin()], dim=1)
    assert get_timestep_embedding(t, 16).dtype == torch.float64
    assert difference(get_timestep_embedding(t, 16), expected) <= 1e-12


def test_the_timestep_embedding_tells_all_timesteps_apart() -> None:
    embedding = get_timestep_embedding(torch.arange(1000).double(), 32)
    distances = torch.cdist(embedding, embedding) + 10 * torch.eye(1000)
    assert distances.min() > 0.5
    assert difference(embedding.square().sum(1), torch.full((1000,), 16.0).double()) <= 1e-12


@pytest.mark.parametrize(
    ("t", "dim", "message"),
    [
        (torch.tensor(3), 8, "t must have shape (B,), got ()"),
        (torch.zeros(2, 1), 8, "t must have shape (B,), got (2, 1)"),
        (torch.tensor([3]), 7, "dim must be even and at least 2, got 7"),
        (torch.tensor([3]), 0, "dim must be even and at least 2, got 0"),
    ],
)
def test_a_bad_timestep_embedding_is_refused(t: Tensor, dim: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        get_timestep_embedding(t, dim)


# --- residual block -----------------------------------------------------------------------------


def test_a_residual_block_starts_as_its_own_skip() -> None:
    x, time = normal(2, 8, 5, 5), normal(2, 32, seed=1)
    same, wider = ResBlock(8, 8, 32).double(), ResBlock(8, 12, 32).double()
    assert torch.equal(same(x, time), x)
    assert torch.equal(wider(x, time), wider.skip(x))


def test_a_residual_block_by_hand() -> None:
    block = perturbed(ResBlock(8, 12, time_dim=16))
    x, time = normal(2, 8, 5, 6), normal(2, 16, seed=1)
    weight = block.state_dict()

    def group_norm(h: Tensor, name: str) -> Tensor:
        groups = h.unflatten(1, (getattr(block, name).num_groups, -1))  # (B, G, C / G, H, W)
        mean = groups.mean((2, 3, 4), keepdim=True)
        variance = (groups - mean).square().mean((2, 3, 4), keepdim=True)
        h = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
        return torch.einsum("bchw,c->bchw", h, weight[f"{name}.weight"]) + weight[
            f"{name}.bias"
        ].view(-1, 1, 1)

    def silu(h: Tensor) -> Tensor:
        return h / (1 + torch.exp(-h))

    h = F.conv2d(
        silu(group_norm(x, "norm_1")), weight["conv_1.weight"], weight["conv_1.bias"], padding=1
    )
    modulation = silu(time) @ weight["time.weight"].T + weight["time.bias"]
    scale, shift = modulation[:, :12, None, None], modulation[:, 12:, None, None]
    h = silu(group_norm(h, "norm_2") * (1 + scale) + shift)
    h = F.conv2d(h, weight["conv_2.weight"], weight["conv_2.bias"], padding=1)
    expected = h + F.conv2d(x, weight["skip.weight"], weight["skip.bias"])
    assert difference(block(x, time), expected) <= 1e-12


def test_time_scales_and_does_not_only_shift() -> None:
    """With scale = -1 and shift = 0 nothing of x passes; an added embedding could not do that."""
    block = perturbed(ResBlock(8, 8, time_dim=16))
    x, time = normal(2, 8, 5, 5), normal(2, 16, seed=1)
    assert difference(block(x, time), block(x, time + 1)) > 1e-2
    block.time.weight.data.zero_()
    block.time.bias.data = torch.cat([torch.full((8,), -1.0), torch.zeros(8)]).double()
    branch = block(x, time) - x
    assert difference(branch, block.conv_2.bias.view(1, -1, 1, 1).expand_as(branch)) <= 1e-12


@pytest.mark.parametrize("channels", range(1, 65))
def test_no_group_is_normalised_over_fewer_than_four_channels(channels: int) -> None:
    norm = ResBlock(channels, channels, 8).norm_1
    assert norm.num_groups <= 8
    assert channels // norm.num_groups >= min(4, channels)


# --- attention ----------------------------------------------------------------------------------


def reference_attention(attention: Attention, dim: int) -> nn.MultiheadAttention:
    """torch's own attention with the same weights."""
    d = attention.context_dim or dim
    theirs = nn.MultiheadAttention(
        dim, attention.n_heads, kdim=d, vdim=d, batch_first=True, dtype=torch.float64
    )
    q, (k, v) = attention.to_q, attention.to_kv.weight.chunk(2)
    if d == dim:
        theirs.in_proj_weight.data = torch.cat([q.weight, k, v])
    else:
        theirs.q_proj_weight.data, theirs.k_proj_weight.data = q.weight.data, k.data
        theirs.v_proj_weight.data = v.data
    theirs.in_proj_bias.data = torch.cat([q.bias, attention.to_kv.bias])
    theirs.out_proj.load_state_dict(attention.out.state_dict())
    return theirs


@pytest.mark.parametrize("n_heads", [1, 2, 4, None])
def test_self_attention_is_torchs(n_heads: int | None) -> None:
    attention = perturbed(Attention(8, n_heads=n_heads))
    x = normal(2, 8, 3, 5)
    h = attention.norm(x).flatten(2).mT  # (B, L, dim)
    expected, weights = reference_attention(attention, 8)(h, h, h)
    assert difference(weights.sum(-1), torch.ones(2, 15).double()) <= 1e-12
    assert difference(attention(x), x + expected.mT.reshape(x.shape)) <= 1e-12


@pytest.mark.parametrize("space", [(4, 6), (10,), (2, 3, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_is_torchs(space: tuple[int, ...], masked: bool) -> None:
    attention = perturbed(Attention(8, context_dim=5, n_heads=2))
    x, context = normal(3, 8, *space), normal(3, 4, 5, seed=1)
    mask = torch.tensor([[True, True, False, False], [True] * 4, [False, True, False, True]])
    h = attention.norm(x).flatten(2).mT  # (B, L, dim)
    expected, _ = reference_attention(attention, 8)(
        h, context, context, key_padding_mask=~mask if masked else None
    )
    result = attention(x, context, mask if masked else None)
    assert difference(result, x + expected.mT.reshape(x.shape)) <= 1e-12


def test_attention_by_hand() -> None:
    """Vaswani et al. 2017, eq. 1, written out with one sum after another."""
    attention = perturbed(Attention(6, n_heads=2))
    x = normal(1, 6, 4)
    h = attention.norm(x)[0].T  # (L, dim)
    q, (k, v) = attention.to_q(h), attention.to_kv(h).chunk(2, dim=-1)
    gathered = torch.zeros(4, 6, dtype=torch.float64)
    for head in (slice(0, 3), slice(3, 6)):
        for i in range(4):
            scores = torch.stack([(q[i, head] * k[j, head]).sum() / 3**0.5 for j in range(4)])
            weights = scores.exp() / scores.exp().sum()
            gathered[i, head] = sum(weights[j] * v[j, head] for j in range(4))
    assert difference(attention(x), x + attention.out(gathered).T) <= 1e-12


@pytest.mark.parametrize("context_dim", [None, 5])
def test_attention_starts_as_the_identity(context_dim: int | None) -> None:
    context = None if context_dim is None else normal(2, 3, 5)
    x = normal(2, 8, 4, 4)
    assert torch.equal(Attention(8, context_dim).double()(x, context), x)


def test_self_attention_commutes_with_a_permutation_of_positions() -> None:
    attention = perturbed(Attention(8))
    x, order = normal(2, 8, 12), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert difference(attention(x)[..., order], attention(x[..., order])) <= 1e-12
    assert difference(attention(x)[..., order], attention(x)) > 0.1  # the order is not trivial


def test_cross_attention_does_not_see_the_order_of_its_context() -> None:
    attention = perturbed(Attention(8, context_dim=5))
    x, context = normal(2, 8, 3, 3), normal(2, 4, 5, seed=1)
    assert difference(attention(x, context), attention(x, context.flip(1))) <= 1e-12


def test_padding_a_context_changes_nothing() -> None:
    attention = perturbed(Attention(8, context_dim=5))
    x, context = normal(2, 8, 3, 3), normal(2, 4, 5, seed=1)
    padded = torch.cat([context, 1e6 * normal(2, 3, 5, seed=2)], dim=1)
    mask = torch.arange(7).expand(2, 7) < 4
    assert difference(attention(x, padded, mask), attention(x, context)) <= 1e-12


def test_attention_weights_sum_to_one() -> None:
    """So that a context of equal entries says the same however many they are."""
    attention = perturbed(Attention(8, context_dim=5))
    x, entry = normal(2, 8, 3, 3), normal(2, 1, 5, seed=1)
    assert difference(attention(x, entry.expand(2, 9, 5)), attention(x, entry)) <= 1e-12


@pytest.mark.parametrize(
    ("context", "mask", "message"),
    [
        (None, None, "takes a context (B, N, context_dim), got None"),
        (
            torch.zeros(2, 3, 5),
            torch.tensor([[True, False, False], [False, False, False]]),
            "mask must leave at least one entry of each sequence, got a row of False",
        ),
        (torch.zeros(2, 3, 5), torch.ones(2, 3), "mask must be bool of shape (2, 3), got"),
        (torch.zeros(2, 3, 5), torch.ones(2, 4).bool(), "mask must be bool of shape (2, 3), got"),
        (torch.zeros(2, 3, 6), None, "context must be (2, N, 5), got (2, 3, 6)"),
        (torch.zeros(3, 3, 5), None, "context must be (2, N, 5), got (3, 3, 5)"),
    ],
)
def test_a_bad_context_is_refused(
    context: Tensor | None, mask: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Attention(8, context_dim=5)(torch.zeros(2, 8, 4), context, mask)


def test_self_attention_refuses_a_context() -> None:
    message = re.escape("takes no context, got torch.float32 of shape (2, 3, 5)")
    with pytest.raises(ValueError, match=message):
        Attention(8)(torch.zeros(2, 8, 4), torch.zeros(2, 3, 5))


@pytest.mark.parametrize("n_heads", [3, 16, 0, -2])
def test_heads_that_do_not_divide_the_channels_are_refused(n_heads: int) -> None:
    with pytest.raises(ValueError, match=f"n_heads must divide dim = 8, got {n_heads}"):
        Attention(8, n_heads=n_heads)


# --- the levels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_level_goes_down_by_half_rounded_up_and_comes_back(
    height: int, width: int, attention: bool
) -> None:
    down = DownBlock(8, 12, time_dim=16, n_blocks=2, attention=attention)
    up = UpBlock(20, 12, 8, time_dim=16, n_blocks=2, attention=attention)
    x, time = torch.zeros(2, 8, height, width), torch.zeros(2, 16)
    h, skips = down(x, time)
    assert h.shape == (2, 12, -(-height // 2), -(-width // 2))
    assert [skip.shape for skip in skips] == [(2, 12, height, width)] * 2
    assert up(torch.zeros(2, 20, *h.shape[2:]), skips, time).shape == (2, 8, height, width)
    assert MidBlock(12, 16)(h, time).shape == h.shape


def test_the_ascent_uses_each_of_its_skips() -> None:
    block = perturbed(UpBlock(8, 4, 8, time_dim=16, n_blocks=2))
    x, time = normal(1, 8, 4, 4), normal(1, 16)
    skips = [normal(1, 4, 7, 7, seed=seed) for seed in (1, 2)]
    result = block(x, skips, time)
    for i in range(2):
        others = [skip + (i == j) for j, skip in enumerate(skips)]
        assert difference(block(x, others, time), result) > 1e-3


# --- the whole network --------------------------------------------------------------------------


@given(
    height=st.integers(1, 33),
    width=st.integers(1, 33),
    channels=st.lists(st.integers(2, 17), min_size=1, max_size=4),
    n_blocks=st.integers(1, 2),
    attention_levels=st.sets(st.integers(0, 3)),
    in_channels=st.integers(1, 4),
    out_channels=st.integers(1, 4),
    batch=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_size_and_any_width(
    height: int,
    width: int,
    channels: list[int],
    n_blocks: int,
    attention_levels: set[int],
    in_channels: int,
    out_channels: int,
    batch: int,
) -> None:
    model = perturbed(
        UNet(in_channels, out_channels, channels, n_blocks, tuple(attention_levels), n_classes=3)
    )
    x_t, t = normal(batch, in_channels, height, width), torch.arange(batch)
    output = model(x_t, t, {"labels": t})
    assert output.shape == (batch, out_channels, height, width)
    assert output.isfinite().all()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_output_is_zero_at_the_start(height: int, width: int) -> None:
    model = UNet(2, 3, channels=(8, 12, 16), n_blocks=2, n_classes=10)
    output = model(torch.randn(2, 2, height, width), torch.tensor([0, 999]))
    assert torch.equal(output, torch.zeros(2, 3, height, width))


@pytest.fixture(scope="module")
def model() -> UNet:
    """A conditional network in float64, none of whose weights is zero."""
    return perturbed(UNet(1, 2, channels=(8, 12, 16), n_blocks=2, n_classes=10))


X_T, T = normal(4, 1, 9, 6), torch.tensor([0, 3, 500, 999])


def test_every_parameter_learns() -> None:
    """Zero layers hide the ones before them for a step, no longer."""
    torch.manual_seed(0)
    model = UNet(1, 2, channels=(8, 12, 16), n_blocks=2, attention_levels=(1, 2), n_classes=10)
    nn.init.normal_(model.conv_out.weight, std=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        output = model(X_T.float(), T, {"labels": torch.arange(4)})
        (output - normal(4, 2, 9, 6, seed=3)).square().mean().backward()
        optimizer.step()
    dead = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert dead == []


def test_the_items_of_a_batch_do_not_mix(model: UNet) -> None:
    context = {"labels": torch.arange(4)}
    one_by_one = [
        model(X_T[i : i + 1], T[i : i + 1], {"labels": torch.tensor([i])}) for i in range(4)
    ]
    assert difference(model(X_T, T, context), torch.cat(one_by_one)) <= 1e-10


def test_the_timestep_matters(model: UNet) -> None:
    assert difference(model(X_T, T), model(X_T, T + 1)) > 1e-3


def test_timesteps_may_be_fractions(model: UNet) -> None:
    low, middle, high = (model(X_T, torch.full((4,), t).double()) for t in (2.0, 2.0 + 1e-6, 3.0))
    assert 0 < difference(low, middle) < 1e-3 < difference(low, high)


def test_no_labels_are_the_unconditional_index(model: UNet) -> None:
    unconditional = model(X_T, T, {"labels": torch.full((4,), 10)})
    assert torch.equal(model(X_T, T), unconditional)
    assert torch.equal(model(X_T, T, {}), unconditional)
    assert model.labels.num_embeddings == 11
    assert model.labels.weight[10].abs().min() > 0  # an index of its own, not a vector of zeros


def test_each_label_asks_for_something_else(model: UNet) -> None:
    outputs = torch.stack([model(X_T, T, {"labels": torch.full((4,), y)}) for y in range(11)])
    distances = torch.cdist(outputs.flatten(1), outputs.flatten(1))
    assert (distances + 10 * torch.eye(11)).min() > 1e-2


def test_channels_last_computes_the_same(model: UNet) -> None:
    contiguous = model(X_T, T)
    twin = UNet(1, 2, channels=(8, 12, 16), n_blocks=2, n_classes=10).double()
    twin.load_state_dict(model.state_dict())
    twin.to(memory_format=torch.channels_last)
    strided = twin(X_T.contiguous(memory_format=torch.channels_last), T)
    assert difference(strided, contiguous) <= 1e-10


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str
)
def test_lower_precision_stays_close_to_float64(
    model: UNet, dtype: torch.dtype, tolerance: float
) -> None:
    """Tolerances are relative to the output's spread: 23 and 8 bits, some forty layers deep."""
    exact = model(X_T, T)
    twin = UNet(1, 2, channels=(8, 12, 16), n_blocks=2, n_classes=10)
    twin.load_state_dict(model.state_dict())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = twin(X_T.float(), T)
    assert output.dtype == dtype
    assert difference(output.double(), exact) <= tolerance * exact.std().item()


def test_a_state_dict_restores_the_network(model: UNet) -> None:
    twin = UNet(1, 2, channels=(8, 12, 16), n_blocks=2, n_classes=10).double()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(X_T, T), model(X_T, T))


ZEROS = torch.zeros(2, 1, 8, 8)
NOW = torch.tensor([0, 1])
CALLS: dict[str, tuple[Callable[[UNet], object], str]] = {
    "no channel axis": (
        lambda m: m(ZEROS[:, 0], NOW),
        "x_t must be (B, 1, H, W), got (2, 8, 8)",
    ),
    "too many channels": (
        lambda m: m(torch.zeros(2, 3, 8, 8), NOW),
        "x_t must be (B, 1, H, W), got (2, 3, 8, 8)",
    ),
    "an empty batch": (
        lambda m: m(ZEROS[:0], NOW[:0]),
        "x_t must be (B, 1, H, W), got (0, 1, 8, 8)",
    ),
    "no pixels": (
        lambda m: m(ZEROS[..., :0], NOW),
        "x_t must be (B, 1, H, W), got (2, 1, 8, 0)",
    ),
    "one t for all": (
        lambda m: m(ZEROS, torch.tensor(0)),
        "t must have shape (2,), got ()",
    ),
    "too few t": (
        lambda m: m(ZEROS, NOW[:1]),
        "t must have shape (2,), got (1,)",
    ),
    "labels of another dtype": (
        lambda m: m(ZEROS, NOW, {"labels": torch.zeros(2)}),
        "labels must be int64 of shape (2,), got torch.float32 of shape (2,)",
    ),
    "one-hot labels": (
        lambda m: m(ZEROS, NOW, {"labels": torch.zeros(2, 10).long()}),
        "labels must be int64 of shape (2,), got torch.int64 of shape (2, 10)",
    ),
    "a label too high": (
        lambda m: m(ZEROS, NOW, {"labels": torch.tensor([3, 11])}),
        "labels must lie in [0, 10], 10 being no label, got 3..11",
    ),
    "a label too low": (
        lambda m: m(ZEROS, NOW, {"labels": torch.tensor([-1, 3])}),
        "labels must lie in [0, 10], 10 being no label, got -1..3",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS.keys())
def test_bad_input_is_refused(call: Callable[[UNet], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(UNet(channels=(4,), n_classes=10))


def test_a_network_without_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="channels must name at least one level, got none"):
        UNet(channels=())


def test_a_level_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="n_blocks must be at least 1, got 0"):
        UNet(channels=(8,), n_blocks=0)

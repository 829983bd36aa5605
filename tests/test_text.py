"""Chapter 10: the tokenizer, the encoder against torch's own, and cross-attention that is seen."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import gap, generator, normal, quick
from minidiff.ddpm import Denoiser, sample_ddpm
from minidiff.forward import cosine_schedule, linear_schedule
from minidiff.guidance import guided
from minidiff.text import (
    PAD,
    START,
    UNKNOWN,
    TextBlock,
    TextEncoder,
    TextUNet,
    Tokenizer,
    attention_weights,
    watch_attention,
)
from minidiff.training import train, train_step
from minidiff.unet import Attention, UNet

WORDS = ("a", "blue", "coat", "on", "red", "t-shirt")
CAPTIONS = ["a red coat on blue", "a t-shirt", "", "a green coat"]
N = 8  # tokens


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Double precision, and no parameter at zero, so that every path shows in the output."""
    module.double().eval().requires_grad_(False)
    for i, parameter in enumerate(module.parameters()):
        parameter += 0.3 * normal(*parameter.shape, seed=1000 * seed + i)
    return module


TOKENIZER = Tokenizer(WORDS, N)
CONTEXT = TOKENIZER(CAPTIONS)
NULL = {name: values[0] for name, values in TOKENIZER([""]).items()}
ENCODER = randomised(TextEncoder(len(TOKENIZER), dim=8, n_tokens=N))
MODEL = randomised(
    TextUNet(len(TOKENIZER), channels=(8, 8, 16), text_levels=(1, 2), text_dim=8, n_tokens=N)
)
X_T, T = normal(4, 3, 16, 16), torch.tensor([0, 13, 500, 999])


# --- the tokenizer ---


def test_a_caption_becomes_start_words_and_padding():
    assert TOKENIZER.words[:3] == ("<pad>", "<start>", "<unknown>")
    assert (PAD, START, UNKNOWN) == (0, 1, 2)
    tokens = CONTEXT["tokens"]
    assert tokens[0].tolist() == [START, 3, 7, 5, 6, 4, PAD, PAD]
    assert tokens[2].tolist() == [START] + [PAD] * 7
    assert tokens[3].tolist() == [START, 3, UNKNOWN, 5] + [PAD] * 4
    assert tokens.dtype == torch.int64
    assert torch.equal(CONTEXT["tokens_mask"], tokens != PAD)
    assert len(TOKENIZER) == len(WORDS) + 3


@given(st.lists(st.sampled_from([*WORDS, "zebra"]), max_size=N - 1))
@quick
def test_tokens_say_the_words_again(words):
    row = TOKENIZER([" ".join(words)])["tokens"][0]
    assert row[0] == START
    said = [TOKENIZER.words[i] for i in row[1:] if i != PAD]
    assert said == ["<unknown>" if word == "zebra" else word for word in words]


@pytest.mark.parametrize(
    "caption", ["A Red COAT", "a red, coat!", "  a\tred\n coat ", "(a) red -- coat", "a red_coat"]
)
def test_case_and_punctuation_do_not_count(caption):
    assert torch.equal(TOKENIZER([caption])["tokens"], TOKENIZER(["a red coat"])["tokens"])


def test_a_hyphen_within_a_word_belongs_to_it():
    assert Tokenizer.split("a T-shirt - new") == ["a", "t-shirt", "new"]
    assert Tokenizer.split("Ein Kleid für 3 €") == ["ein", "kleid", "für", "3"]


def test_no_captions_give_no_rows():
    assert TOKENIZER([])["tokens"].shape == (0, N)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tokenizer(["a", "a"]), "words must differ from each other, got ['a', 'a']"),
        (lambda: Tokenizer(["a"], 0), "n_tokens must be at least 1, got 0"),
        (lambda: TOKENIZER(["a " * N]), "a caption must have at most 7 words, got 8"),
    ],
)
def test_bad_words_are_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# --- the encoder ---


def test_a_block_is_that_of_torch():
    block, mask = randomised(TextBlock(8, n_heads=2)), CONTEXT["tokens_mask"]
    oracle = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    names = {
        "self_attn.in_proj_weight": block.to_qkv.weight,
        "self_attn.in_proj_bias": block.to_qkv.bias,
        "self_attn.out_proj.weight": block.out.weight,
        "self_attn.out_proj.bias": block.out.bias,
        "linear1.weight": block.mlp[0].weight,
        "linear1.bias": block.mlp[0].bias,
        "linear2.weight": block.mlp[2].weight,
        "linear2.bias": block.mlp[2].bias,
        "norm1.weight": block.norm_1.weight,
        "norm1.bias": block.norm_1.bias,
        "norm2.weight": block.norm_2.weight,
        "norm2.bias": block.norm_2.bias,
    }
    oracle.load_state_dict(names)
    h = normal(4, N, 8)
    expected = oracle(h, src_key_padding_mask=~mask)
    assert gap(block(h, mask)[mask], expected[mask]) < 1e-12


@pytest.mark.parametrize("extra", range(1, 4))
def test_padding_changes_nothing(extra):
    short = Tokenizer(WORDS, N - extra)(["a t-shirt", "", "a red"])
    long = TOKENIZER(["a t-shirt", "", "a red"])
    assert gap(ENCODER(**short), ENCODER(**long)[:, : N - extra]) < 1e-12
    x_t, t = X_T[:3], T[:3]
    assert gap(MODEL(x_t, t, short), MODEL(x_t, t, long)) < 1e-12


def test_what_stands_in_the_padding_is_not_seen():
    tokens, mask = CONTEXT["tokens"], CONTEXT["tokens_mask"]
    other = torch.where(mask, tokens, 5)
    assert gap(ENCODER(tokens, mask)[mask], ENCODER(other, mask)[mask]) < 1e-12
    changed = {"tokens": other, "tokens_mask": mask}
    assert gap(MODEL(X_T, T, CONTEXT), MODEL(X_T, T, changed)) < 1e-12
    seen = {"tokens": other, "tokens_mask": torch.ones_like(mask)}
    assert gap(MODEL(X_T, T, CONTEXT), MODEL(X_T, T, seen)) > 1e-3


def test_the_attention_of_chapter_02_would_see_the_padding():
    """Why the encoder has a block of its own: groups are normalised over all positions."""
    attention, h = randomised(Attention(8)), normal(1, 8, N)
    mask = torch.arange(N)[None] < 4
    other = torch.where(mask[:, None], h, 5.0)
    assert gap(attention(h, mask=mask)[..., :4], attention(other, mask=mask)[..., :4]) > 1e-3
    block, h = randomised(TextBlock(8)), h.mT
    other = torch.where(mask[..., None], h, 5.0)
    assert gap(block(h, mask)[:, :4], block(other, mask)[:, :4]) < 1e-12


def test_the_order_of_words_counts_and_only_by_their_positions():
    reversed_ = {name: values[:1].clone() for name, values in CONTEXT.items()}
    reversed_["tokens"][0, 1:6] = reversed_["tokens"][0, 1:6].flip(0)
    first = {name: values[:1] for name, values in CONTEXT.items()}
    assert gap(MODEL(X_T[:1], T[:1], first), MODEL(X_T[:1], T[:1], reversed_)) > 1e-3
    blind = randomised(TextEncoder(len(TOKENIZER), dim=8, n_tokens=N))
    blind.positions.weight.zero_()
    bag, reversed_bag = blind(**first), blind(**reversed_)
    assert gap(bag[:, 1:6], reversed_bag[:, 1:6].flip(1)) < 1e-12


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        (CONTEXT["tokens"].float(), CONTEXT["tokens_mask"], "tokens must be int64 of shape (B, N)"),
        (CONTEXT["tokens"][0], CONTEXT["tokens_mask"][0], "tokens must be int64 of shape (B, N)"),
        (torch.ones(1, 9, dtype=torch.int64), torch.ones(1, 9).bool(), "with N <= 8"),
        (CONTEXT["tokens"], CONTEXT["tokens_mask"].float(), "tokens_mask must be bool of shape"),
        (CONTEXT["tokens"], CONTEXT["tokens_mask"][:1], "tokens_mask must be bool of shape (4, 8)"),
        (CONTEXT["tokens"], CONTEXT["tokens"] > 1, "tokens_mask must keep a token of each caption"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens, mask, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ENCODER(tokens, mask)


# --- the model ---


def test_without_its_words_it_is_the_unet_of_chapter_02():
    plain = UNet(3, 3, (8, 8, 16), 1, ()).double()
    state = MODEL.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    silent = randomised(
        TextUNet(len(TOKENIZER), channels=(8, 8, 16), text_levels=(1, 2), text_dim=8, n_tokens=N)
    )
    silent.load_state_dict(state)
    for module in silent.modules():
        if isinstance(module, Attention) and module.context_dim is not None:
            nn.init.zeros_(module.out.weight)
            nn.init.zeros_(module.out.bias)
    assert gap(silent(X_T, T, CONTEXT), plain(X_T, T)) > 1e-3  # the caption as a whole
    nn.init.zeros_(silent.whole.weight)
    nn.init.zeros_(silent.whole.bias)
    assert gap(silent(X_T, T, CONTEXT), plain(X_T, T)) < 1e-12
    assert gap(MODEL(X_T, T, CONTEXT), plain(X_T, T)) > 1e-3


def test_each_item_reads_its_own_caption():
    alone = torch.cat(
        [
            MODEL(X_T[i : i + 1], T[i : i + 1], {n: v[i : i + 1] for n, v in CONTEXT.items()})
            for i in range(4)
        ]
    )
    assert gap(MODEL(X_T, T, CONTEXT), alone) < 1e-12


@pytest.mark.parametrize("levels", [(), (0,), (1, 2)])
def test_words_are_looked_at_where_it_was_asked_for(levels):
    model = TextUNet(9, channels=(8, 8, 16), text_levels=levels, text_dim=8, n_tokens=N)
    looks = [m for m in model.modules() if isinstance(m, Attention) and m.context_dim is not None]
    assert len(looks) == 2 * len(levels) + 1  # down and up, and the bottom always


@pytest.mark.parametrize(
    ("context", "got"),
    [(None, "None"), ({}, "[]"), ({"tokens": CONTEXT["tokens"]}, "['tokens']")],
)
def test_a_model_without_a_caption_is_refused(context, got):
    message = "context must hold tokens and tokens_mask (of the empty caption for none), got "
    with pytest.raises(ValueError, match=re.escape(message + got)):
        MODEL(X_T, T, context)


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=re.escape("x_t must be (B, 3, H, W), got (4, 1, 8, 8)")):
        MODEL(normal(4, 1, 8, 8), T, CONTEXT)
    with pytest.raises(ValueError, match=re.escape("t must have shape (4,), got (2,)")):
        MODEL(X_T, T[:2], CONTEXT)


def test_guidance_starts_from_the_empty_caption():
    nothing = TOKENIZER([""] * 4)
    cond, uncond = MODEL(X_T, T, CONTEXT), MODEL(X_T, T, nothing)
    assert uncond.isfinite().all()
    assert gap(guided(MODEL, CONTEXT, NULL, 3.0)(X_T, T), uncond + 3 * (cond - uncond)) < 1e-10
    empty = guided(MODEL, nothing, NULL, 3.0)(X_T, T)  # nothing to be led to
    assert gap(empty, uncond) < 1e-10


def test_it_trains_and_samples_with_the_functions_of_all_chapters():
    """A two-word language: "red" is bright, "blue" is dark; learned in some seconds."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(["blue", "red"], 3)
    model = TextUNet(len(tokenizer), 1, 1, (8,), text_levels=(), text_dim=8, n_tokens=3)
    captions = ["red", "blue"] * 8
    x_0 = torch.tensor([0.8, -0.8] * 8).view(16, 1, 1, 1).expand(16, 1, 4, 4)
    null = {name: values[0] for name, values in tokenizer([""]).items()}
    steps = train(
        model, x_0, cosine_schedule(), n_steps=120, batch_size=16, prediction_type="v",
        context=tokenizer(captions), null_context=null, learning_rate=1e-2,
    )  # fmt: skip
    losses = [loss for _, loss in steps]
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    strong = guided(model.eval(), tokenizer(["red", "blue"]), null, 2.0)
    denoise = Denoiser(strong, cosine_schedule(), "v")
    x = sample_ddpm(denoise, (2, 1, 4, 4), 20, generator=generator())
    assert x[0].mean() > 0.4
    assert x[1].mean() < -0.4


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = TextUNet(len(TOKENIZER), channels=(8, 8, 16), text_dim=8, n_tokens=N)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator())
    train_step(model, X_T.float(), T, linear_schedule(), CONTEXT, generator=generator()).backward()
    dead = [
        name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0
    ]
    assert dead == []


# --- where it looks ---


@pytest.mark.parametrize("n_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_the_weights_are_those_that_the_attention_uses(n_heads, masked):
    attention = randomised(Attention(8, context_dim=6, n_heads=n_heads))
    x, context = normal(2, 8, 3, 4), normal(2, 5, 6, seed=1)
    mask = torch.tensor([[True] * 5, [True, False, True, False, False]]) if masked else None
    weights = attention_weights(attention, x, context, mask).double()  # (B, heads, L, N)
    assert weights.shape == (2, n_heads, 12, 5)
    assert gap(weights.sum(3), torch.ones(2, n_heads, 12).double()) < 1e-6
    v = attention.to_kv(context).chunk(2, dim=2)[1].unflatten(2, (n_heads, -1)).transpose(1, 2)
    gathered = attention.out((weights @ v).transpose(1, 2).flatten(2))  # (B, L, dim)
    expected = x + gathered.mT.reshape(x.shape)
    assert gap(attention(x, context, mask), expected) < 1e-5  # the weights are float32
    if masked:
        assert weights[1, :, :, ~mask[1]].abs().max() == 0


def test_shares_of_a_pixel_add_up_to_1_and_padding_gets_none():
    with watch_attention(MODEL) as seen:
        first = MODEL(X_T, T, CONTEXT)
        second = MODEL(X_T[:2], T[:2], {name: values[:2] for name, values in CONTEXT.items()})
    assert [tuple(maps.shape) for maps in seen] == [(4, N, 16, 16), (2, N, 16, 16)]
    for maps in seen:
        assert gap(maps.sum(1), torch.ones(len(maps), 16, 16).to(maps)) < 1e-5
        assert maps.permute(0, 2, 3, 1)[~CONTEXT["tokens_mask"][: len(maps), None, None].expand(
            -1, 16, 16, -1)].abs().max() == 0  # fmt: skip
        assert maps.min() >= 0
    assert gap(seen[0][2, 0], torch.ones(16, 16).to(seen[0])) < 1e-5  # the start token of ""
    assert torch.equal(first[:2], MODEL(X_T, T, CONTEXT)[:2])  # watching changes nothing
    assert gap(first[:2], second) < 1e-12
    assert len(seen) == 2  # no hook is left behind


def test_the_mean_is_over_heads_and_layers():
    calls = []
    looks = [m for m in MODEL.modules() if isinstance(m, Attention) and m.context_dim is not None]
    handles = [
        look.register_forward_hook(lambda module, args, output: calls.append((module, args)))
        for look in looks
    ]
    with watch_attention(MODEL) as seen:
        MODEL(X_T, T, CONTEXT)
    for handle in handles:
        handle.remove()
    expected = torch.zeros(4, N, 16, 16)
    for module, args in calls:
        weights = attention_weights(module, *args).mean(1).mT  # (B, N, L)
        side = int(weights.shape[2] ** 0.5)
        layer = weights.reshape(4, N, side, side).float()
        expected += nn.functional.interpolate(layer, (16, 16), mode="bilinear") / len(calls)
    assert len(calls) == 5
    assert gap(seen[0].float(), expected) < 1e-6


def test_hooks_go_also_when_something_fails():
    def broken():
        with watch_attention(MODEL) as seen:
            MODEL(X_T, T, None)
        return seen

    with pytest.raises(ValueError, match="context must hold tokens"):
        broken()
    assert not any(module._forward_hooks for module in MODEL.modules())


def test_a_model_without_cross_attention_is_refused():
    message = "model must have cross-attention, got one without"
    with pytest.raises(ValueError, match=message), watch_attention(UNet(channels=(8,))):
        pass


def test_blocks_and_weights_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="n_heads must divide dim = 8, got 3"):
        TextBlock(8, n_heads=3)
    x, words = torch.zeros(2, 8, 4, 4), torch.zeros(2, 3, 5)
    with pytest.raises(ValueError, match="attention must be cross-attention"):
        attention_weights(Attention(8), x, words)
    message = re.escape("context must be (2, N, 5), got (1, 3, 5)")
    with pytest.raises(ValueError, match=message):
        attention_weights(Attention(8, context_dim=5), x, words[:1])

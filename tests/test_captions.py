"""Captioned fashion: what is painted can be read again, and captions say what is there."""

import re

import pytest
import torch
from torch import Tensor

from minidiff.data import (
    COLOURS,
    FASHION_CLASSES,
    HELD_OUT,
    KINDS,
    PLACES,
    SIZES,
    DataNotFound,
    Scene,
    caption_words,
    describe,
    draw_scenes,
    load_captioned,
    load_fashion,
    paint,
    read_pictures,
)
from minidiff.data import captions as module
from minidiff.data.captions import N_COMPLETE, RGB, SIDES, WORDINGS, to_unit
from minidiff.text import UNKNOWN, Tokenizer
from minidiff.zoo import BOUNDS, RECIPES, WEIGHTS, Judge, judge_pictures, load

COMPLETE = tuple(range(N_COMPLETE))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_scenes() -> Tensor:
    """Every size, place and pair of colours, of one kind."""
    grid = torch.cartesian_prod(*map(torch.arange, (1, 8, 8, 2, 5)))
    return grid[grid[:, 1] != grid[:, 2]]


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


# --- scenes ---


def test_the_data_is_as_rich_as_it_should_be():
    assert len(KINDS) == len(FASHION_CLASSES)
    assert len(COLOURS) == len(RGB) >= 8
    assert len(SIZES) == len(SIDES) == 2
    assert len(PLACES) == 5
    distances = torch.cdist(*[torch.tensor(RGB).float()] * 2)
    assert distances[~torch.eye(8, dtype=torch.bool)].min() > 100  # no two look alike


def test_scenes_are_drawn_evenly_and_some_pairs_never():
    kinds = torch.arange(10).repeat(4000)
    scenes = draw_scenes(kinds, generator())
    assert torch.equal(scenes[:, 0], kinds)
    assert (scenes[:, 1] != scenes[:, 2]).all()
    counts = torch.zeros(10, 8).index_put_((kinds, scenes[:, 1]), torch.ones(1), accumulate=True)
    held_out = torch.zeros(10, 8, dtype=torch.bool)
    held_out[tuple(torch.tensor(HELD_OUT).T)] = True
    assert counts[held_out].max() == 0
    expected = 4000 / 7
    assert (counts[~held_out] - expected).abs().max() < 5 * expected**0.5
    for column, n in ((2, 8), (3, 2), (4, 5)):
        share = scenes[:, column].bincount(minlength=n) / len(scenes)
        assert (share - 1 / n).abs().max() < 0.02


def test_held_out_scenes_are_the_others():
    scenes = draw_scenes(torch.arange(10).repeat(50), generator(), held_out=True)
    assert {tuple(pair) for pair in scenes[:, :2].tolist()} == set(HELD_OUT)
    assert sorted(kind for kind, _ in HELD_OUT) == list(range(10))  # each kind lacks one colour
    assert len({colour for _, colour in HELD_OUT}) == 8  # and each colour is lacking somewhere


# --- captions ---


@pytest.mark.parametrize("number", range(len(WORDINGS)))
def test_a_caption_says_what_its_wording_holds(number):
    scenes = draw_scenes(torch.arange(10).repeat(5), generator(number))
    for row, caption in zip(
        scenes.tolist(), describe(scenes, generator(1), (number,)), strict=True
    ):
        scene = Scene(*row)
        said = {
            "kind": any(f" {k}" in f" {caption}" for k in KINDS[scene.kind]),
            "colour": COLOURS[scene.colour] in caption,
            "ground": COLOURS[scene.ground] in caption,
            "size": any(word in caption for word in SIZES[scene.size]),
            "place": PLACES[scene.place] in caption,
        }
        assert {name for name, is_said in said.items() if is_said} == set(
            re.findall(r"\{(\w+)\}", WORDINGS[number])
        ), caption
        assert not re.search(r"\ban [^aeiou]|\ba [aeiou]|[{}]|  ", caption), caption


def test_the_first_wordings_say_everything_and_in_several_orders():
    fields = [re.findall(r"\{(\w+)\}", wording) for wording in WORDINGS]
    assert all(len(found) == len(Scene._fields) for found in fields[:N_COMPLETE])
    assert all(len(found) < len(Scene._fields) for found in fields[N_COMPLETE:])
    assert len({tuple(found) for found in fields[:N_COMPLETE]}) >= 5
    orders = {(f.index("colour") < f.index("ground")) for f in fields[:N_COMPLETE]}
    assert orders == {True, False}  # which colour comes first says nothing


def test_every_word_is_in_the_vocabulary_but_for_the_fillers():
    scenes = draw_scenes(torch.arange(10).repeat(1000), generator())
    captions = describe(scenes, generator(1))
    words = {word for caption in captions for word in Tokenizer.split(caption)}
    fillers = words - set(caption_words())
    assert fillers == {"lovely", "plain", "new", "old", "fine", "cheap"}
    assert set(caption_words()) <= words
    recipe = RECIPES["captioned"]
    tokens = recipe.tokenizer()(captions)["tokens"]  # and none is too long
    share = (tokens == UNKNOWN).any(1).double().mean().item()
    assert share == pytest.approx(0.1, abs=5 * (0.09 / len(captions)) ** 0.5)


def test_without_wordings_named_there_are_hundreds_of_ways_to_say_one_thing():
    scene = torch.tensor([[9, 2, 4, 1, 1]]).expand(2000, 5)
    assert len(set(describe(scene, generator()))) > 100
    assert len(set(describe(scene, generator(), COMPLETE))) == N_COMPLETE * 2 * 2


# --- pictures ---


def test_a_picture_is_a_mixture_of_two_colours():
    photograph = torch.linspace(-1, 1, 28 * 28).view(1, 1, 28, 28)
    (picture,) = paint(photograph, torch.tensor([[0, 5, 6, 0, 0]]))
    yellow, purple = torch.tensor(RGB[5]), torch.tensor(RGB[6])
    assert picture.dtype == torch.uint8
    assert torch.equal(picture[:, 0, 0].int(), purple.int())
    share = (photograph[0, 0, 10, 7] + 1) / 2
    expected = share * yellow + (1 - share) * purple
    assert (picture[:, 12, 9] - expected).abs().max() <= 0.5


@pytest.mark.parametrize("size", range(2))
def test_places_lie_where_they_say(size):
    scenes = torch.tensor([[0, 1, 0, size, place] for place in range(5)])
    light = paint(torch.ones(5, 1, 28, 28), scenes)[:, 0] > 100  # (5, 32, 32)
    assert light.sum((1, 2)).tolist() == [SIDES[size] ** 2] * 5
    rows = torch.arange(32.0)
    down = (light.sum(2) * rows).sum(1) / light.sum((1, 2)) - 15.5
    right = (light.sum(1) * rows).sum(1) / light.sum((1, 2)) - 15.5
    room = (32 - SIDES[size]) / 2
    assert down.tolist() == [0, 0, 0, -room, room]
    assert right.tolist() == [0, -room, room, 0, 0]


def test_reading_is_the_inverse_of_painting(photographs):
    images, _ = photographs
    scenes = all_scenes()
    originals = images[torch.arange(len(scenes)) % 1000]
    pictures = paint(originals, scenes)
    reading = read_pictures(pictures, scenes)
    assert torch.equal(reading.grounds, scenes[:, 2])
    right = (reading.colours == scenes[:, 1]).double().mean().item()
    assert right > 0.96  # where no pixel is bright, the garment's colour is not to be seen
    large = scenes[:, 3] == 0
    error = (reading.photographs - originals).abs().amax((1, 2, 3))[large]
    assert error.median() < 0.1  # the brightest pixels stand for 1
    small = (reading.photographs - originals)[~large].square().mean().sqrt()
    assert small < 0.25  # 20 pixels hold less than 28


def test_pictures_as_bytes_and_as_numbers_are_read_alike(photographs):
    scenes = draw_scenes(photographs[1][:100], generator())
    pictures = paint(photographs[0][:100], scenes)
    a, b = read_pictures(pictures, scenes), read_pictures(to_unit(pictures), scenes)
    assert torch.equal(a.colours, b.colours)
    assert (a.photographs - b.photographs).abs().max() < 1e-4


def test_the_judge_agrees_on_real_composites(judge, photographs):
    """The control: what real pictures score, both kinds of pairs."""
    images, labels = photographs
    for held_out in (False, True):
        scenes = draw_scenes(labels, generator(5), held_out)
        right = judge_pictures(judge, paint(images, scenes), scenes) == scenes[:, :3]
        kind, colour, ground = right.double().mean(0).tolist()
        assert kind >= BOUNDS["captioned_real_kind"]
        assert min(colour, ground) > 0.95


@pytest.mark.parametrize("fake", ["empty", "one picture", "noise", "another place", "grey"])
def test_what_does_not_show_the_caption_fails(fake, judge, photographs):
    """The counter-control: nothing but the right picture meets the bounds."""
    images, labels = photographs
    scenes = draw_scenes(labels, generator(5))
    moved = scenes.clone()
    moved[:, 3], moved[:, 4] = 1, (scenes[:, 4] + 1) % 5
    asked = scenes.clone()
    asked[:, 3] = 1
    pictures = {
        "empty": torch.zeros(1000, 3, 32, 32),
        "one picture": paint(images[:1], scenes[:1]).expand(1000, -1, -1, -1),
        "noise": torch.randn(1000, 3, 32, 32, generator=generator()),
        "another place": paint(images, moved),
        "grey": to_unit(paint(images, scenes)).mean(1, keepdim=True).expand(-1, 3, -1, -1),
    }[fake]
    given = asked if fake == "another place" else scenes
    right = judge_pictures(judge, pictures, given) == given[:, :3]
    kind, colour, _ = right.double().mean(0).tolist()
    own = BOUNDS["captioned_real_kind"]
    if fake == "grey":  # the kind is still to be seen
        assert colour < 0.5
    else:
        assert kind < 0.8 * own
    assert min(kind / own, colour) < BOUNDS["captioned_unseen_kind"]


# --- the data set ---


def test_the_data_set_is_the_same_each_time_and_holds_no_held_out_pair(photographs, monkeypatch):
    monkeypatch.setattr(module, "load_fashion", lambda split: photographs)
    pictures, scenes, captions = load_captioned("test")
    assert pictures.shape == (1000, 3, 32, 32)
    assert pictures.dtype == torch.uint8
    assert len(captions) == len(scenes) == 1000
    assert not {tuple(pair) for pair in scenes[:, :2].tolist()} & set(HELD_OUT)
    assert torch.equal(scenes[:, 0], photographs[1])
    again, other = load_captioned("test"), load_captioned("test", seed=1)
    assert torch.equal(again.pictures, pictures)
    assert again.captions == captions != other.captions
    assert torch.equal(pictures, paint(photographs[0], scenes))


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match='split must be "train" or "test", got \'dev\''):
        load_captioned("dev")

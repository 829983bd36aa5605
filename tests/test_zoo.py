"""The shipped models: whole, honest about where they come from, and judged by one that can see."""

import itertools
import json
import re
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from minidiff import training
from minidiff.data import (
    PHONEMES,
    WORDS,
    Captioned,
    Chorale,
    DataNotFound,
    Score,
    Speech,
    describe,
    draw_scenes,
    from_roll,
    load_fashion,
    paint,
)
from minidiff.ddim import sample_dpm_solver
from minidiff.ddpm import Denoiser, sample_ddpm
from minidiff.evaluation import frechet_distance
from minidiff.guidance import guided
from minidiff.improved import hybrid_loss, learned_variance
from minidiff.training import load_tensors, save_tensors, train_step
from minidiff.zoo import (
    BOUNDS,
    RECIPES,
    WEIGHTS,
    CaptionRecipe,
    ChoraleRecipe,
    ClipRecipe,
    DiffusionRecipe,
    HybridRecipe,
    Judge,
    JudgeRecipe,
    ListenerRecipe,
    Pretrained,
    SpeechRecipe,
    SuperResolutionRecipe,
    judge_images,
    load,
    nearest_distances,
    recipe_hash,
    recipes,
    sample,
    sample_captions,
    save_weights,
    train_recipe,
)
from minidiff.zoo.checkpoints import from_bytes, to_bytes
from minidiff.zoo.judges import augment
from minidiff.zoo.recipes import stage_steps

NAMES = sorted(RECIPES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def shipped(name: str) -> Path:
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"THE WEIGHTS ARE MISSING: {path.name}; make them with `minidiff train {name}`")
    return path


@pytest.fixture(scope="module")
def judge() -> Judge:
    shipped("judge")
    model = load("judge").model
    assert isinstance(model, Judge)
    return model


@pytest.fixture(scope="module")
def fashion() -> dict[str, tuple[Tensor, Tensor]]:
    """The real data: 10,000 test images, and 4,000 of the training images."""
    try:
        images, labels = load_fashion("train")
        return {"train": (images[:4000], labels[:4000]), "test": load_fashion("test")}
    except DataNotFound as error:
        pytest.skip(str(error))


Features = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def judged(judge: Judge, fashion: dict[str, tuple[Tensor, Tensor]]) -> Features:
    """What the judge says of the real images: classes and features of either split."""
    return {split: judge_images(judge, images) for split, (images, _) in fashion.items()}


# --- weight files -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_is_ready_to_be_used(name: str) -> None:
    shipped(name)
    pretrained = load(name)
    assert isinstance(pretrained.model, type(RECIPES[name].model()))
    assert not pretrained.model.training
    assert {parameter.dtype for parameter in pretrained.model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in pretrained.model.parameters())
    assert all(p.isfinite().all() and p.abs().max() > 0 for p in pretrained.model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_file_says_how_it_was_made(name: str) -> None:
    tensors, metadata = load_tensors(shipped(name))
    recipe = RECIPES[name]
    assert metadata["recipe_hash"] == recipe_hash(recipe)
    assert json.loads(metadata["recipe"]) == json.loads(json.dumps(asdict(recipe)))
    assert metadata["steps"] == str(recipe.n_steps)
    assert metadata["seed"] == str(recipe.seed)
    speaks = name in ("speech", "speech-attention", "listener")
    spoken, fashion = (
        "digits spoken by espeak-ng, training strings",
        "Fashion-MNIST, training split",
    )
    expected = spoken if speaks else fashion
    if name == "chorales":
        expected = "Bach's chorales as music21 ships them, training split"
    assert metadata["data"] == expected
    assert metadata["license"] == "MIT"
    assert metadata["torch"]
    floating = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    assert floating == {torch.float16}


def test_all_weight_files_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*")) < 20 * 2**20
    assert {path.stem for path in WEIGHTS.glob("*.safetensors")} <= set(NAMES)


def test_the_hash_of_a_recipe_changes_with_each_of_its_numbers() -> None:
    recipe = RECIPES["judge"]
    assert isinstance(recipe, JudgeRecipe)
    changed = [
        replace(recipe, n_steps=recipe.n_steps + 1),
        replace(recipe, learning_rate=1.1 * recipe.learning_rate),
        replace(recipe, seed=1),
    ]
    assert len({recipe_hash(r) for r in [recipe, *changed]}) == 4
    assert recipe_hash(replace(recipe)) == recipe_hash(recipe)
    assert re.fullmatch("[0-9a-f]{16}", recipe_hash(recipe))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A weight file of the judge's recipe, untrained."""
    torch.manual_seed(0)
    path = tmp_path / "judge.safetensors"
    save_weights(path, Judge(), RECIPES["judge"])
    return path


def test_some_weights_come_back_to_a_byte(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe, path = RECIPES["clips"], tmp_path / "clips.safetensors"
    assert isinstance(recipe, ClipRecipe)
    model = recipe.model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    save_weights(path, model, recipe)
    stored, _ = load_tensors(path)
    back = load("clips", path=path).model.state_dict()
    matrices = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert {name for name, value in stored.items() if value.dtype == torch.int8} == matrices
    for name, value in model.state_dict().items():
        assert back[name].dtype == value.dtype
        if name in matrices:
            largest = value.flatten(1).abs().amax(1).view(-1, *[1] * (value.ndim - 1))
            half = 2**-10  # the scale and the weight were rounded to half precision before
            assert ((back[name] - value).abs() <= (1 / 254 + half) * largest).all(), name
            assert stored[name].flatten(1).abs().amax(1).min() == 127  # all of the byte is used
        else:  # what no training changes, too
            assert torch.equal(back[name], value.half().to(value.dtype))


def test_a_channel_of_zeros_comes_back_from_bytes() -> None:
    tensors = {"w": torch.zeros(2, 3).half(), "b": torch.ones(2).half()}
    tensors["w"][1] = torch.tensor([3e-8, 0, 65504])
    back = from_bytes(to_bytes(tensors, {"w"}))
    assert torch.equal(back["w"][0], torch.zeros(3))
    assert torch.allclose(back["w"][1], torch.tensor([0, 0, 65504.0]), rtol=1e-3)
    assert torch.equal(back["b"], tensors["b"])


def test_weights_come_back_to_half_precision(file: Path) -> None:
    torch.manual_seed(0)
    model, pretrained = Judge(), load("judge", path=file)
    for name, value in pretrained.model.state_dict().items():
        original = model.state_dict()[name]
        assert value.dtype == original.dtype
        assert torch.equal(value, original.half().to(original.dtype))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
def test_a_truncated_weight_file_is_refused(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="judge.safetensors is no whole safetensors file"):
        load("judge", path=file)


def test_a_flipped_bit_anywhere_is_refused(file: Path) -> None:
    """In the length, in the header (names, shapes, recipe, padding) or in the numbers."""
    content = file.read_bytes()
    end_of_header = 8 + int.from_bytes(content[:8], "little")
    positions = [
        *range(8),
        *range(8, end_of_header, 23),
        *range(end_of_header, len(content), len(content) // 20),
        len(content) - 1,
    ]
    accepted = []
    for position in positions:
        altered = bytearray(content)
        altered[position] ^= 1 << position % 8
        file.write_bytes(altered)
        with suppress(ValueError):
            load("judge", path=file)
            accepted.append(content[max(8, position - 20) : position + 20])
    assert accepted == []


def test_altered_weights_are_named_as_such(file: Path) -> None:
    tensors, metadata = load_tensors(file)
    tensors["head.bias"][0] += 1
    save_tensors(file, tensors, metadata)
    message = re.escape(f"{file} was altered: its content does not match its checksum")
    with pytest.raises(ValueError, match=message):
        load("judge", path=file)


def test_a_pickle_is_refused(file: Path) -> None:
    torch.save(Judge().state_dict(), file)
    with pytest.raises(ValueError, match="judge.safetensors is no whole safetensors file"):
        load("judge", path=file)


def test_the_weights_of_another_model_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="judge.safetensors does not fit the model 'fashion'"):
        load("fashion", path=file)


def test_unknown_names_and_missing_files_are_refused(tmp_path: Path) -> None:
    message = f"name must be one of {', '.join(NAMES)}, got 'nothing'"
    with pytest.raises(ValueError, match=message):
        load("nothing")
    with pytest.raises(ValueError, match=message):
        next(train_recipe("nothing"))
    with pytest.raises(ValueError, match="out must be given with n_steps"):
        next(train_recipe("judge", n_steps=2))
    with pytest.raises(FileNotFoundError, match="no weight file at .*nothing.safetensors"):
        load("judge", path=tmp_path / "nothing.safetensors")


# --- making them again --------------------------------------------------------------------------


@pytest.fixture
def small_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same recipes for three steps on three hundred images, saved at every step."""
    diffusion, classifier = RECIPES["fashion"], RECIPES["judge"]
    assert isinstance(diffusion, DiffusionRecipe)
    assert isinstance(classifier, JudgeRecipe)
    small = replace(diffusion, n_steps=3, batch_size=4, channels=(8, 16), attention_levels=(1,))
    monkeypatch.setitem(RECIPES, "fashion", small)
    hybrid = RECIPES["fashion-improved"]
    assert isinstance(hybrid, HybridRecipe)
    hybrid = replace(hybrid, n_steps=3, batch_size=4, channels=(8, 16), attention_levels=(1,))
    monkeypatch.setitem(RECIPES, "fashion-improved", hybrid)
    monkeypatch.setitem(RECIPES, "judge", replace(classifier, n_steps=3, batch_size=4))
    for name in ("fashion-vae", "fashion-latent"):  # the latter trains on the shipped one's latents
        short = replace(RECIPES[name], n_steps=3, batch_size=4)
        monkeypatch.setitem(RECIPES, name, short)
    two_stages = replace(recipes.CAPTIONED_VAE, n_steps=2, n_decoder_steps=1, batch_size=4)
    monkeypatch.setitem(RECIPES, "captioned-vae", two_stages)
    larger = RECIPES["super-resolution"]
    assert isinstance(larger, SuperResolutionRecipe)
    larger = replace(larger, n_steps=3, batch_size=4, channels=(8, 16))
    monkeypatch.setitem(RECIPES, "super-resolution", larger)
    reader = RECIPES["captioned"]
    assert isinstance(reader, CaptionRecipe)
    small_reader = replace(
        reader, n_steps=3, batch_size=4, channels=(8, 16), text_levels=(), text_dim=8
    )
    monkeypatch.setitem(RECIPES, "captioned", small_reader)
    scenes = draw_scenes(torch.arange(300) % 10, seeded())
    captioned = Captioned(
        paint(normal(300, 1, 28, 28).float().clamp(-1, 1), scenes),
        scenes,
        describe(scenes, seeded()),
    )
    monkeypatch.setattr(recipes, "load_captioned", lambda split, seed=0: captioned)
    data = normal(300, 1, 28, 28).float().clamp(-1, 1), torch.arange(300) % 10
    monkeypatch.setattr(recipes, "load_fashion", lambda split: data)
    for name in ("speech", "speech-attention"):
        speaker = RECIPES[name]
        assert isinstance(speaker, SpeechRecipe)
        speaker = replace(
            speaker, n_steps=3, batch_size=4, channels=(8, 16), text_levels=(), text_dim=8
        )
        monkeypatch.setitem(RECIPES, name, speaker)
    listener = RECIPES["listener"]
    assert isinstance(listener, ListenerRecipe)
    monkeypatch.setitem(RECIPES, "listener", replace(listener, n_steps=3, batch_size=4, width=8))
    texts = [WORDS[i % 10] for i in range(60)]
    spoken = Speech(
        torch.randint(256, (60, 64, 128), generator=seeded()).to(torch.uint8),
        torch.eye(len(PHONEMES), dtype=torch.uint8)[:, [0] * 128].expand(60, -1, -1),
        torch.arange(60) % 6,
        texts,
    )
    monkeypatch.setattr(recipes, "load_speech", lambda split: spoken)
    composer = RECIPES["chorales"]
    assert isinstance(composer, ChoraleRecipe)
    composer = replace(composer, n_steps=3, batch_size=4, channels=(8, 16))
    monkeypatch.setitem(RECIPES, "chorales", composer)
    steps = torch.randint(5, (4, 160), generator=seeded())
    sung = Score(torch.tensor([[67], [62], [57], [48]]) + steps, steps > 2)
    monkeypatch.setattr(recipes, "load_chorales", lambda split: [Chorale("a", 0, sung)])
    mover = RECIPES["clips"]
    assert isinstance(mover, ClipRecipe)
    short = {
        "n_steps": 1,
        "n_known_steps": 1,
        "n_picture_steps": 1,
        "n_motion_steps": 1,
        "batch_size": 4,
        "picture_batch_size": 4,
        "text_dim": 8,
        "picture_text_dim": 8,
        "n_clips": 20,
        "n_pictures": 20,
    }
    narrow = (16, 16, 16)
    mover = replace(mover, channels=narrow, picture_channels=narrow, **short)
    monkeypatch.setitem(RECIPES, "clips", mover)
    minutes = itertools.count(step=100.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=minutes.__next__))


@pytest.mark.usefixtures("small_recipes")
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_makes_the_same_file_again_even_if_it_was_interrupted(
    name: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    before = torch.get_rng_state()
    every_step = list(range(1, sum(stage_steps(RECIPES[name]).values()) + 1))
    assert [step for step, _ in train_recipe(name, out=first)] == every_step
    assert torch.equal(torch.get_rng_state(), before)

    for step in every_step[:-1]:
        steps = train_recipe(name, out=second)
        assert next(steps).step == step
        steps.close()
        assert not second.exists()
        torch.manual_seed(step)  # the next process does not know what the last one drew
    assert [step for step, _ in train_recipe(name, out=second)] == every_step[-1:]

    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}
    metadata = load(name, path=first).metadata
    assert metadata["recipe_hash"] == recipe_hash(RECIPES[name])
    assert metadata["sha256"] == load_tensors(second)[1]["sha256"]
    assert first.read_bytes() == second.read_bytes()


def test_a_picture_model_learns_what_is_seen_around_the_light() -> None:
    pictures = torch.zeros(40, 1, 40, 40, dtype=torch.uint8)
    pictures[:20, :, 2:5, 30:33] = 255  # near a corner, so that the window goes over an edge
    pictures[20:, :, 19:22, 9:12] = 255
    shown = []

    def model(x_t: Tensor, t: Tensor, context: object) -> Tensor:
        shown.append(x_t)
        return x_t

    t, schedule = torch.zeros(40, dtype=torch.int64), recipes.cosine_schedule()
    recipes.train_step_on_windows(model, pictures, t, schedule, generator=seeded())  # type: ignore[arg-type]
    assert shown[0].shape == (40, 1, 28, 28)
    off = recipes.find_light(shown[0]) - 14  # next to no noise at t = 0
    assert set(off.flatten().tolist()) == {-2, -1, 0, 1, 2}
    assert ((shown[0] > 0.5).sum((1, 2, 3)) == 9).all()  # nothing is lost or seen twice
    with pytest.raises(ValueError, match="generator must be given"):
        recipes.train_step_on_windows(model, pictures, t, schedule)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_recipes")
def test_the_shipped_model_is_the_average_and_not_the_last_step(tmp_path: Path) -> None:
    state = tmp_path / "kept" / "state.safetensors"
    steps = train_recipe("fashion", out=tmp_path / "a.safetensors", state=state)
    for _ in range(3):
        next(steps)
    tensors, _ = load_tensors(state)
    assert list(steps) == []
    model = load("fashion", path=tmp_path / "a.safetensors").model.state_dict()
    assert all(torch.equal(value, tensors[f"ema.{k}"].half().float()) for k, value in model.items())
    assert not all(torch.equal(v, tensors[f"model.{k}"].half().float()) for k, v in model.items())


# --- drawing ------------------------------------------------------------------------------------


@pytest.fixture
def untrained() -> Pretrained:
    """A diffusion model of two small levels, with random weights."""
    recipe = RECIPES["fashion"]
    assert isinstance(recipe, DiffusionRecipe)
    recipe = replace(recipe, channels=(4, 8), attention_levels=(1,))
    model = recipe.model().eval().requires_grad_(False)
    for i, parameter in enumerate(model.parameters()):
        parameter += 0.1 * normal(*parameter.shape, seed=i)
    return Pretrained(model, recipe, {})


def test_samples_are_decided_by_the_generator_and_the_labels(untrained: Pretrained) -> None:
    labels = torch.tensor([0, 5, 9, 10])
    images = sample(untrained, labels, n_steps=3, generator=seeded(1))
    assert images.shape == (4, 1, 28, 28)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert torch.equal(sample(untrained, labels, 3, seeded(1)), images)
    assert not torch.equal(sample(untrained, labels, 3, seeded(2)), images)
    assert not torch.equal(sample(untrained, 10 - labels, 3, seeded(1))[0], images[0])


def test_samples_are_drawn_in_batches(untrained: Pretrained) -> None:
    images = sample(untrained, torch.arange(5), n_steps=2, generator=seeded(), batch_size=2)
    generator = seeded()
    parts = [
        sample(untrained, part, n_steps=2, generator=generator)
        for part in torch.arange(5).split(2)
    ]  # fmt: skip
    assert torch.equal(images, torch.cat(parts))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([11]), "labels must lie in [0, 10], 10 being no label, got 11..11"),
        (torch.tensor([0.0]), "labels must be int64 of shape (1,), got torch.float32"),
        (torch.tensor([], dtype=torch.int64), "each at least 1, got (0, 1, 28, 28)"),
    ],
)
def test_bad_labels_are_refused(untrained: Pretrained, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        sample(untrained, labels, n_steps=2)


def test_the_denoiser_knows_what_the_model_was_trained_for(untrained: Pretrained) -> None:
    labels = {"labels": torch.tensor([3])}
    denoise = untrained.denoiser(labels, clip=None)
    assert isinstance(untrained.recipe, DiffusionRecipe)
    assert denoise.prediction_type == untrained.recipe.prediction_type
    assert torch.equal(denoise.schedule.betas, untrained.recipe.schedule().betas)
    assert (denoise.context, denoise.clip) == (labels, None)


def test_labels_make_no_music() -> None:
    recipe = RECIPES["chorales"]
    assert isinstance(recipe, ChoraleRecipe)
    model = replace(recipe, channels=(8,)).model()
    with pytest.raises(ValueError, match="'chorales' draws music; labels make none"):
        sample(Pretrained(model, recipe, {}), torch.tensor([0]))


def test_scores_train_as_their_rolls_do_half_of_them_as_they_were_written() -> None:
    seen = []

    def model(x_t: Tensor, t: Tensor, context: object = None) -> Tensor:
        seen.append(x_t)
        return torch.zeros_like(x_t)

    recipe = RECIPES["chorales"]
    assert isinstance(recipe, ChoraleRecipe)
    pitches = torch.tensor([69, 64, 60, 50])[None, :, None].expand(400, 4, 8)
    score = torch.cat([pitches, torch.ones_like(pitches)], 1)
    t = torch.zeros(400, dtype=torch.int64)  # hardly any noise
    recipe.loss(model, score, t, recipe.schedule(), None, None, seeded(), "x_0")
    heard = from_roll(seen[0]).pitches[..., 0] - pitches[..., 0]  # (400, 4) semitones
    assert (heard == heard[:, :1]).all()  # all voices together
    assert set(heard[:, 0].tolist()) == set(range(-6, 7))
    unmoved = (heard[:, 0] == 0).double().mean().item()
    assert unmoved == pytest.approx(0.5 + 0.5 / 13, abs=4 * 0.025)


def test_a_judge_draws_nothing(file: Path) -> None:
    with pytest.raises(ValueError, match="'judge' is no diffusion model"):
        sample(load("judge", path=file), torch.tensor([0]))


def test_a_recipe_with_a_learned_variance_trains_with_the_hybrid_loss() -> None:
    recipe, plain = RECIPES["fashion-improved"], RECIPES["fashion"]
    assert isinstance(recipe, HybridRecipe)
    assert isinstance(plain, DiffusionRecipe)
    assert (recipe.loss, plain.loss) == (hybrid_loss, train_step)
    x_t, t = normal(2, 1, 28, 28).float(), torch.tensor([0, 999])
    model = replace(recipe, channels=(4, 8)).model().eval()
    assert model(x_t, t).shape == (2, 2, 28, 28)
    assert replace(plain, channels=(4, 8)).model().eval()(x_t, t).shape == (2, 1, 28, 28)


def test_a_model_that_learned_its_variance_is_sampled_with_it() -> None:
    recipe = RECIPES["fashion-improved"]
    assert isinstance(recipe, HybridRecipe)
    recipe = replace(recipe, channels=(4, 8))
    model = recipe.model().eval().requires_grad_(False)
    for i, parameter in enumerate(model.parameters()):
        parameter += 0.1 * normal(*parameter.shape, seed=i)
    learned, labels = Pretrained(model, recipe, {}), torch.tensor([0, 5])
    images = sample(learned, labels, n_steps=3, generator=seeded(1))
    with training.autocast(torch.device("cpu")):
        by_hand, fixed = (
            sample_ddpm(
                learned.denoiser({"labels": labels}), (2, 1, 28, 28), 3, None, seeded(1), None, v
            )
            for v in (learned_variance, "beta_tilde")
        )
    assert torch.equal(images, by_hand)
    assert not torch.equal(images, fixed)


# --- captions ---


@pytest.fixture
def reader() -> Pretrained:
    """A small model that reads captions, with random weights."""
    recipe = RECIPES["captioned"]
    assert isinstance(recipe, CaptionRecipe)
    recipe = replace(recipe, channels=(4, 8), text_levels=(1,), text_dim=8)
    model = recipe.model().eval().requires_grad_(False)
    for i, parameter in enumerate(model.parameters()):
        parameter += 0.1 * normal(*parameter.shape, seed=i)
    autoencoder = recipes.CAPTIONED_VAE.model().eval().requires_grad_(False)
    return Pretrained(model, recipe, {}, autoencoder)


def test_captions_are_drawn_as_they_are_by_hand(reader: Pretrained) -> None:
    captions = ["a red coat on a blue background", "bag", ""]
    x = sample_captions(reader, captions, 2, 2.0, generator=seeded(1), batch_size=2)
    assert x.shape == (3, 3, 32, 32)
    assert x.abs().max() <= 1
    assert isinstance(reader.recipe, CaptionRecipe)
    tokenizer = reader.recipe.tokenizer()
    null = {name: values[0] for name, values in tokenizer([""]).items()}
    x_T = torch.randn(3, 8, 8, 8, generator=seeded(1))
    for part in (slice(0, 2), slice(2, 3)):
        strong = guided(reader.model, tokenizer(captions[part]), null, 2.0)
        denoise = Denoiser(strong, reader.schedule, "v", clip=None)
        with training.autocast(torch.device("cpu")):
            z = sample_dpm_solver(denoise, x_T[part].shape, 2, x_T=x_T[part])
            expected = reader.autoencoder.to_images(z).clamp(-1, 1)
        assert torch.equal(x[part], expected)
    again = sample_captions(reader, captions, 2, 2.0, x_T=x_T, batch_size=2)
    assert torch.equal(again, x)
    own = sample_captions(reader, captions, 2, x_T=x_T)
    assert torch.equal(own, sample_captions(reader, captions, 2, 4.0, x_T=x_T))


def test_a_photograph_is_painted_and_described_a_few_times(
    reader: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(reader.recipe, CaptionRecipe)
    photographs, kinds = 2 * torch.rand(5, 1, 28, 28, generator=seeded()) - 1, torch.arange(5)
    painted = []

    def paint_anew(split: str, seed: int) -> Captioned:
        scenes = draw_scenes(kinds, seeded(seed))
        painted.append(
            Captioned(paint(photographs, scenes), scenes, describe(scenes, seeded(seed)))
        )
        return painted[-1]

    monkeypatch.setattr(recipes, "load_captioned", paint_anew)
    monkeypatch.setattr(CaptionRecipe, "load_autoencoder", lambda *_: reader.autoencoder)
    latents, context = reader.recipe.data(torch.device("cpu"))
    assert latents.shape == (20, 8, 8, 8)
    assert not torch.equal(painted[0].scenes, painted[1].scenes)
    for n, (pictures, _, captions) in enumerate(painted):  # each picture has its own caption
        part = slice(5 * n, 5 * n + 5)
        assert torch.equal(latents[part], recipes.encode_all(reader.autoencoder, pictures))
        assert torch.equal(context["tokens"][part], reader.recipe.tokenizer()(captions)["tokens"])


def test_labels_and_captions_are_not_taken_for_each_other(
    reader: Pretrained, untrained: Pretrained
) -> None:
    with pytest.raises(ValueError, match="'captioned' wants captions, not labels"):
        sample(reader, torch.tensor([0]))
    with pytest.raises(ValueError, match="'fashion' reads no captions"):
        sample_captions(untrained, ["a red coat"])
    with pytest.raises(ValueError, match="a caption must have at most 19 words, got 20"):
        sample_captions(reader, ["a " * 20])
    with pytest.raises(ValueError, match=r"x_T must be \(1, 8, 8, 8\), got \(2, 8, 8, 8\)"):
        sample_captions(reader, ["a red coat"], x_T=torch.zeros(2, 8, 8, 8))


def test_plain_attention_trains_as_fused_attention_does(reader: Pretrained) -> None:
    z, scenes = normal(4, 8, 8, 8).float(), draw_scenes(torch.arange(4), seeded())
    assert isinstance(reader.recipe, CaptionRecipe)
    context = reader.recipe.tokenizer()(describe(scenes, seeded()))
    t, schedule = torch.tensor([0, 100, 500, 999]), reader.schedule
    args = (t, schedule, context, None)
    plain = reader.recipe.loss(reader.model, z, *args, generator=seeded(), prediction_type="v")
    fused = train_step(reader.model, z, *args, generator=seeded(), prediction_type="v")
    assert abs(plain - fused) < 1e-5


def test_bytes_are_encoded_as_numbers_are() -> None:
    model = recipes.CAPTIONED_VAE.model().eval()
    pictures = torch.arange(2 * 3 * 32 * 32).view(2, 3, 32, 32).to(torch.uint8)
    x = pictures.float() / 127.5 - 1
    assert (
        recipes.encode_all(model, pictures, 1) - recipes.encode_all(model, x)
    ).abs().max() < 0.05


# --- the judge's training -------------------------------------------------------------------------


def test_augment_mirrors_half_of_the_images_and_moves_them_by_two_pixels_at_most() -> None:
    """One bright pixel in the right half, far enough from the edge to stay in the picture."""
    x = torch.full((64, 1, 28, 28), -1.0)
    x[:, :, 10, 20] = 1
    before, generator, moves, n_mirrored = x.clone(), seeded(), set(), 0
    for _ in range(100):
        rows, columns = (augment(x, generator)[:, 0] == 1).nonzero()[:, 1:].unbind(1)
        mirrored = columns < 14
        shift = torch.stack([rows - 10, columns - torch.where(mirrored, 7, 20)], 1)
        assert (shift == shift[0]).all()
        moves.add(tuple(shift[0].tolist()))
        n_mirrored += int(mirrored.sum())
    assert moves <= set(itertools.product(range(-2, 3), repeat=2))
    assert len(moves) >= 20  # of 25
    assert n_mirrored == pytest.approx(3200, abs=4 * 1600**0.5)
    assert torch.equal(x, before)


# --- the judge, on real data and on what must not fool it ---------------------------------------


def test_the_features_are_those_before_the_last_layer_and_many(judge: Judge) -> None:
    x = normal(7, 1, 28, 28).float()
    classes, features = judge_images(judge, x, batch_size=3)
    assert features.dtype == torch.float64
    assert features.shape[1] >= 128
    with training.autocast(torch.device("cpu")):
        expected = judge.features(x).double()
    assert (features - expected).abs().max() <= 0.05 * expected.abs().max()
    assert torch.equal(classes, judge.head(features.float()).argmax(1))


def accuracy(judged: Features, fashion: dict[str, tuple[Tensor, Tensor]]) -> float:
    return (judged["test"][0] == fashion["test"][1]).double().mean().item()


def test_the_judge_recognises_real_images(
    judged: Features, fashion: dict[str, tuple[Tensor, Tensor]]
) -> None:
    assert accuracy(judged, fashion) >= BOUNDS["judge_accuracy"]


@pytest.mark.parametrize("fake", ["empty", "constant", "one image", "noise", "one class"])
def test_what_is_no_diverse_set_of_clothes_is_far_from_the_real_one(
    fake: str, judge: Judge, judged: Features, fashion: dict[str, tuple[Tensor, Tensor]]
) -> None:
    images, labels = fashion["test"]
    fakes = {
        "empty": torch.full((200, 1, 28, 28), -1.0),
        "constant": torch.zeros(200, 1, 28, 28),
        "one image": images[:1].expand(200, -1, -1, -1),
        "noise": normal(200, 1, 28, 28).float().clamp(-1, 1),
        "one class": images[labels == 1],
    }
    real = judged["train"][1]
    floor = frechet_distance(judged["test"][1][:2000], real)
    distance = frechet_distance(judge_images(judge, fakes[fake])[1], real)
    assert distance > 2 * BOUNDS["fashion_frechet_ratio"] * floor


def test_the_frechet_distance_of_real_images_is_its_own_floor(judged: Features) -> None:
    """The control: another 2,000 real images pass the bound by far."""
    test, train = judged["test"][1], judged["train"][1]
    ratio = frechet_distance(test[2000:4000], train) / frechet_distance(test[:2000], train)
    assert 0.5 < ratio < 2


def test_a_copied_training_set_is_caught(fashion: dict[str, tuple[Tensor, Tensor]]) -> None:
    train, test = fashion["train"][0], fashion["test"][0][:500]
    floor = nearest_distances(test, train).mean()
    bound = BOUNDS["fashion_nearest_ratio"]
    assert nearest_distances(fashion["test"][0][500:1000], train).mean() >= bound * floor  # control
    copies = train[:500]
    assert nearest_distances(copies, train).mean() < 0.01 * floor
    disguised = (copies + 0.1 * normal(*copies.shape).float()).clamp(-1, 1)
    assert nearest_distances(disguised, train).mean() < bound * floor


@pytest.mark.slow
def test_the_shipped_model_draws_what_it_is_asked_for(judge: Judge) -> None:
    """A quick look, without selection; the bounds themselves are measured on 2,000 samples."""
    shipped("fashion")
    labels = torch.arange(50) % 10
    images = sample(load("fashion"), labels, n_steps=25, generator=seeded())
    agreement = (judge_images(judge, images)[0] == labels).double().mean().item()
    expected = BOUNDS["fashion_agreement"] * BOUNDS["judge_accuracy"]
    assert agreement >= expected - 4 * (expected * (1 - expected) / 50) ** 0.5
    assert images.std(0).mean() > 0.3  # fifty different images

"""Bach's chorales: what becomes of a score, and judges that silence, copies and chance fail."""

import re
import warnings
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers import generator
from minidiff.data import DataNotFound
from minidiff.data import chorales as module
from minidiff.data.chorales import (
    BAR,
    BEAT,
    HIGHEST,
    LENGTH,
    LOWEST,
    N_CHANNELS,
    SILENT,
    SINGERS,
    Chorale,
    Score,
    excerpts,
    fetch_chorales,
    find_chorales,
    from_roll,
    load_chorales,
    notes,
    passages,
    read_score,
    same_hymns,
    synthesize,
    to_roll,
    transpositions,
    voice_channels,
)
from minidiff.zoo import BOUNDS
from minidiff.zoo.music import (
    CHORDS,
    Key,
    Portrait,
    chord_changes,
    compare,
    copied,
    find_key,
    forms_chord,
    gap_closed,
    interval_histograms,
    parallels,
    pitch_class_histogram,
    pitch_class_times,
    portray,
    range_histograms,
    share_in_key,
    share_of_scale,
    shuffle_notes,
    silence_copies,
    total_variation,
)

music21 = pytest.importorskip("music21")
CLOSED = ("pitch_classes", "ranges", "key", "intervals")


def random_score(n: int = 3, length: int = 32, seed: int = 0) -> Score:
    """Voices that jump to any pitch of their ranges at any time, and rest now and then."""
    g = generator(seed)
    begins = torch.rand(n, 4, length, generator=g) < 0.3
    begins[..., 0] = True
    low, high = torch.tensor(LOWEST)[:, None], torch.tensor(HIGHEST)[:, None]
    drawn = low + (torch.rand(n, 4, length, generator=g) * (high - low + 1)).long()
    drawn[torch.rand(n, 4, length, generator=g) < 0.1] = SILENT
    latest = torch.where(begins, torch.arange(length), 0).cummax(-1).values
    pitches = drawn.gather(-1, latest)
    return Score(pitches, (begins | _moves(Score(pitches, begins))) & (pitches != SILENT))


def without_rests(n: int, length: int) -> Score:
    """The same with voices that never rest."""
    score = random_score(n, length)
    return Score(
        torch.where(score.pitches == SILENT, 60, score.pitches), score.onsets | _moves(score)
    )


def _moves(score: Score) -> Tensor:
    return score.pitches != F.pad(score.pitches, (1, 0), value=-1)[..., :-1]


def chord(*pitches: int) -> Tensor:
    return torch.tensor(pitches)[:, None]


def held(*pitches: int, n: int = 1) -> Score:
    """One chord through a whole passage, n times."""
    sung = torch.tensor(pitches)[None, :, None].expand(n, 4, LENGTH).contiguous()
    onsets = torch.zeros(n, 4, LENGTH, dtype=torch.bool)
    onsets[..., 0] = True
    return Score(sung, onsets)


# --- rolls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_roll_gives_its_score_back(seed: int) -> None:
    score = random_score(seed=seed)
    roll = to_roll(score)
    assert roll.shape == (3, N_CHANNELS, 32)
    assert roll.dtype == torch.float32
    assert set(roll.unique().tolist()) == {-1.0, 1.0}
    back = from_roll(roll)
    assert torch.equal(back.pitches, score.pitches)
    assert torch.equal(back.onsets, score.onsets)


def test_a_roll_survives_noise_below_one() -> None:
    score = without_rests(3, 32)
    roll = to_roll(score)
    noisy = roll + 0.99 * (2 * torch.rand(roll.shape, generator=generator()) - 1)
    back = from_roll(noisy)
    assert torch.equal(back.pitches, score.pitches)
    assert torch.equal(back.onsets, score.onsets)


def test_a_voice_sings_the_nearest_pitch_unless_it_is_told_nothing() -> None:
    width = HIGHEST[0] - LOWEST[0] + 1
    x = torch.randn(200, width, generator=generator()) * 0.3 - 0.5
    pitches = 2 * torch.eye(width, dtype=torch.float64) - 1  # as `to_roll` writes each
    roll = torch.full((200, N_CHANNELS, 1), -1.0)
    roll[:, :width, 0] = x
    expected = torch.cdist(x.double(), pitches).argmin(1) + LOWEST[0]
    assert torch.equal(from_roll(roll).pitches[:, 0, 0], expected)
    assert (from_roll(roll).pitches[:, 1:] == SILENT).all()


def test_each_voice_has_its_channels_and_all_channels_a_voice() -> None:
    used = [list(range(N_CHANNELS))[voice_channels(voice)] for voice in range(4)]
    assert [channel for voice in used for channel in voice] == list(range(N_CHANNELS))
    score = random_score(1)
    before = to_roll(score)
    for voice in range(4):
        other = score.pitches.clone()
        other[:, voice] = LOWEST[voice] + HIGHEST[voice] - other[:, voice].clamp(min=LOWEST[voice])
        moved = (to_roll(Score(other, ~score.onsets)) != before)[0].any(-1)
        onset_channels = [voice_channels(v).stop - 1 for v in range(4)]
        changed = set(moved.nonzero().flatten().tolist()) - set(onset_channels)
        assert changed <= set(used[voice])
        assert changed


def test_held_and_repeated_notes_differ_in_one_number_each() -> None:
    pitches = held(70, 62, 58, 45).pitches[..., :8]
    once, twice = torch.zeros(1, 4, 8, dtype=torch.bool), torch.zeros(1, 4, 8, dtype=torch.bool)
    once[..., 0] = twice[..., 0] = twice[..., 4] = True
    differences = to_roll(Score(pitches, twice)) != to_roll(Score(pitches, once))
    assert differences.sum() == 4
    assert notes(pitches[0, 0], once[0, 0]) == [(0, 8, 70)]
    assert notes(pitches[0, 0], twice[0, 0]) == [(0, 4, 70), (4, 8, 70)]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Score(chord(82, 60, 55, 48)[None], torch.ones(1, 4, 1).bool()), "soprano must lie in 57"),
        (Score(chord(70, 60, 55, 35)[None], torch.ones(1, 4, 1).bool()), "bass must lie in 36"),
        (Score(chord(70, 60, 55, 48), torch.ones(4, 1).bool()), "onsets (N, 4, L), got (4, 1)"),
        (
            Score(chord(70, 60, 55, 48)[None], torch.ones(1, 4, 2).bool()),
            "got (1, 4, 1) and (1, 4, 2)",
        ),
        (Score(chord(70, 60, 55, 48)[None], torch.ones(1, 4, 1)), "got torch.int64, torch.float32"),
    ],
)
def test_no_roll_of_a_score_that_does_not_fit(score: Score, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        to_roll(score)


def test_no_score_of_a_roll_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=re.escape("roll must be (N, 102, L), got (1, 101, 8)")):
        from_roll(torch.zeros(1, 101, 8))


def test_transpositions_reach_the_edge_of_a_range_and_not_beyond() -> None:
    score = random_score(50, seed=3)
    pitches = torch.where(score.pitches == SILENT, 62, score.pitches).clamp(
        torch.tensor(LOWEST)[:, None] + 2, torch.tensor(HIGHEST)[:, None] - 3
    )
    low, high = transpositions(pitches)
    onsets = torch.ones_like(pitches, dtype=torch.bool)
    for shift, beyond in ((low, low - 1), (high, high + 1)):
        to_roll(Score(pitches + shift[:, None, None], onsets))
        for i in (shift.abs() < 6).nonzero().flatten().tolist():
            with pytest.raises(ValueError, match="must lie in"):
                to_roll(Score(pitches[i : i + 1] + beyond[i], onsets[i : i + 1]))
    assert low.min() >= -6
    assert high.max() <= 6


# --- passages and excerpts ----------------------------------------------------------------------


def test_passages_begin_on_beats_and_hold_what_the_chorale_holds() -> None:
    score = random_score(1, 150)
    whole = Chorale("a", 0, Score(score.pitches[0], score.onsets[0]))
    cut = passages([whole], 64, hop=BEAT)
    assert cut.pitches.shape == (22, 4, 64)
    for i in (0, 7, 21):
        span = slice(BEAT * i, BEAT * i + 64)
        assert torch.equal(cut.pitches[i], whole.score.pitches[:, span])
        assert torch.equal(cut.onsets[i, :, 1:], whole.score.onsets[:, span][:, 1:])
    assert cut.onsets[..., 0].all()
    assert passages([whole], 64).pitches.shape[0] == 2
    with pytest.raises(ValueError, match="hop must be a positive multiple of 4, got 6"):
        passages([whole], 64, hop=6)
    with pytest.raises(ValueError, match="at least 152 sixteenth notes, got none"):
        passages([whole], 152)


def test_excerpts_do_not_know_the_key_but_the_voices() -> None:
    score = random_score(1, 64, seed=4)
    pitches = torch.where(score.pitches == SILENT, 60, score.pitches)[0]
    ours = excerpts(pitches)
    assert len(ours) == (64 - 2 * BAR) // BEAT + 1
    assert excerpts(pitches + 3) == ours
    assert not excerpts(pitches.flip(0)) & ours
    assert excerpts(pitches[:, :8]) == set()


def test_hymns_are_told_apart_by_their_melodies() -> None:
    g = generator()
    tunes = [torch.randint(60, 75, (40,), generator=g).repeat_interleave(4) for _ in range(3)]
    half = torch.cat([tunes[0][80:], tunes[2][:80]])  # shares with both, and so joins them
    assert same_hymns([tunes[0], tunes[1], tunes[0] - 4, tunes[2]]) == [0, 1, 0, 2]
    assert same_hymns([tunes[0], tunes[1], tunes[2], half]) == [0, 1, 0, 0]


# --- reading with music21, and the cache --------------------------------------------------------


def written(path: Path, change: str = "") -> Path:
    """Write four voices as a score of music21's; the tenor repeats, ties and rests."""
    score = music21.stream.Score()
    for name, pitch in zip(SINGERS, (72, 64, 60, 48), strict=True):
        part = music21.stream.Part()
        lengths = [1, 1, 2.5, 0.5, 0.25, 0.25, 2.5] + [4] * 6
        for i, length in enumerate(lengths):
            note = music21.note.Note(pitch + i % 3, quarterLength=length)
            if name == "bass" and i == 6 and change == "triplet":
                note = music21.note.Note(pitch, quarterLength=Fraction(1, 3))
            if name == "tenor" and i == 2:
                note = music21.note.Rest(quarterLength=length)
            if name == "soprano" and i == 3 and change == "high":
                note.pitch.midi = 90
            part.append(note)
        part = part.makeNotation()
        part.partName = name.capitalize()
        score.insert(0, part)
    if change == "solo":
        score.remove(score.parts[3])
    score.write("musicxml", path)
    return path


def test_a_score_is_read_as_it_is_written(tmp_path: Path) -> None:
    score = read_score(written(tmp_path / "a.musicxml"))
    assert score is not None
    assert score.pitches.shape == (4, 128)
    lengths = [4, 4, 10, 2, 1, 1, 10] + [16] * 6  # the third crosses a bar line: it is tied
    expected = torch.tensor([72 + i % 3 for i in range(13)]).repeat_interleave(
        torch.tensor(lengths)
    )
    assert torch.equal(score.pitches[0], expected)
    begins = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    assert torch.equal(score.onsets[0].nonzero().flatten(), begins)
    assert (score.pitches[2, 8:18] == score.pitches[2, 7]).all()  # the rest is held through
    assert not score.onsets[2, 8:18].any()


@pytest.mark.parametrize("change", ["triplet", "high", "solo"])
def test_what_is_off_the_grid_out_of_range_or_not_in_four_voices_is_left_out(
    tmp_path: Path, change: str
) -> None:
    assert read_score(written(tmp_path / "a.musicxml", change)) is None


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder, and music21 with four chorales, of which one has five voices."""
    files = [path for path in module._files() if path.stem in {"bwv253", "bwv269", "bwv1.6"}]
    assert len(files) == 3
    monkeypatch.setattr(module, "_files", lambda: files)
    return tmp_path / "cache"


def test_the_cache_is_made_once_and_made_again_where_it_is_damaged(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_chorales(small) is None
    path = fetch_chorales(small)
    first = load_chorales(root=small)
    assert [chorale.name for chorale in first] == ["bwv253", "bwv269"]
    assert [chorale.hymn for chorale in first] == [0, 1]
    for chorale in first:
        again = read_score(next(f for f in module._files() if f.stem == chorale.name))
        assert again is not None
        assert torch.equal(chorale.score.pitches, again.pitches)
        assert torch.equal(chorale.score.onsets, again.onsets)
    assert [path.name for path in small.iterdir()] == ["chorales.npz"]

    kept = module._files()
    monkeypatch.setattr(module, "_files", lambda: pytest.fail("read a second time"))
    assert fetch_chorales(small) == path
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.warns(UserWarning, match="is damaged"):
        assert find_chorales(small) is None
    monkeypatch.setattr(module, "_files", lambda: kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [chorale.name for chorale in load_chorales(root=small)] == ["bwv253", "bwv269"]
    with pytest.raises(ValueError, match="got 'valid'"):
        load_chorales("valid", small)  # type: ignore[arg-type]


def test_it_says_what_to_do_where_the_cache_cannot_be_written(small: Path) -> None:
    small.write_text("a file where the folder should be")
    with pytest.raises(DataNotFound, match="set MINIDIFF_CACHE to a folder"):
        fetch_chorales(small)


def test_it_says_what_to_do_where_music21_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "music21", None)
    with pytest.raises(DataNotFound, match="pip install 'minidiff"):
        fetch_chorales(tmp_path)


# --- all of them, where `make data` has read them -----------------------------------------------


@pytest.fixture(scope="module")
def splits() -> tuple[list[Chorale], list[Chorale]]:
    if find_chorales() is None:
        pytest.skip("the chorales are not in the cache: run `minidiff fetch`")
    return load_chorales("train"), load_chorales("test")


@pytest.fixture(scope="module")
def real(splits: tuple[list[Chorale], list[Chorale]]) -> Score:
    return passages(splits[1])


@pytest.fixture(scope="module")
def portraits(splits: tuple[list[Chorale], list[Chorale]], real: Score) -> tuple[Portrait, ...]:
    """Of real passages, of their notes shuffled, and of training chorales."""
    shuffled = shuffle_notes(real, generator())
    return portray(real), portray(shuffled), portray(passages(splits[0], hop=4 * LENGTH))


def test_no_melody_of_the_test_split_is_known_from_training(
    splits: tuple[list[Chorale], list[Chorale]],
) -> None:
    train, test = splits
    assert len(train) + len(test) == len(load_chorales()) >= 350
    assert 0.1 < len(test) / len(train) < 0.25
    assert not {c.hymn for c in train} & {c.hymn for c in test}
    ours = [excerpts(c.score.pitches[:1], 8 * BEAT) for c in train]
    for chorale in test:
        melody = excerpts(chorale.score.pitches[:1], 8 * BEAT)
        for other in ours:
            assert len(melody & other) < 0.25 * min(len(melody), len(other))


def test_real_passages_copy_nothing_and_training_passages_all(
    splits: tuple[list[Chorale], list[Chorale]], real: Score
) -> None:
    known = set().union(*(excerpts(c.score.pitches) for c in splits[0]))
    assert copied(real, known).mean() < BOUNDS["chorales_copied"] / 5
    train = passages(splits[0])
    assert (copied(train, known) == 1).all()
    low, _ = transpositions(train.pitches)
    moved = Score(train.pitches + low[:, None, None], train.onsets)
    assert (copied(moved, known) == 1).all()  # nor does another key hide it
    assert (silence_copies(moved, known).pitches == SILENT).all()


def figures(score: Score, portraits: tuple[Portrait, ...]) -> dict[str, float]:
    return compare(portray(score), *portraits)


def test_real_and_shuffled_passages_are_the_ends_of_the_scale(
    portraits: tuple[Portrait, ...],
) -> None:
    real, shuffled, _ = portraits
    assert all(compare(real, *portraits)[name] == pytest.approx(1) for name in CLOSED)
    assert all(compare(shuffled, *portraits)[name] == pytest.approx(0) for name in CLOSED)


def test_half_of_the_real_passages_pass_every_bound(
    real: Score, portraits: tuple[Portrait, ...]
) -> None:
    """The control: what is real passes, whichever half of it one takes."""
    for half in (slice(0, None, 2), slice(1, None, 2)):
        found = figures(Score(real.pitches[half], real.onsets[half]), portraits)
        assert all(found[name] >= BOUNDS[f"chorales_{name}"] for name in CLOSED)
        assert found["chord_change"] <= BOUNDS["chorales_chord_change"]


@pytest.mark.parametrize("fake", ["empty", "constant", "repeated", "one copied", "copied"])
def test_what_is_no_music_or_not_new_fails_every_figure(
    fake: str,
    splits: tuple[list[Chorale], list[Chorale]],
    real: Score,
    portraits: tuple[Portrait, ...],
) -> None:
    n = len(real.pitches)
    train = passages(splits[0])
    chord_held = held(72, 67, 60, 48, n=n)
    on_beats = chord_held.onsets.clone()
    on_beats[..., ::BEAT] = True
    fakes = {
        "empty": Score(torch.zeros_like(real.pitches), torch.zeros_like(real.onsets)),
        "constant": chord_held,
        "repeated": Score(chord_held.pitches, on_beats),
        "one copied": Score(*(x[:1].expand(n, -1, -1) for x in real)),
        "copied": Score(train.pitches[:n], train.onsets[:n]),
    }
    known = set().union(*(excerpts(c.score.pitches) for c in splits[0]))
    found = figures(silence_copies(fakes[fake], known), portraits)
    assert all(found[name] < BOUNDS[f"chorales_{name}"] for name in CLOSED)
    assert found["chord_change"] > BOUNDS["chorales_chord_change"]


def test_random_voices_are_the_floor_of_the_harmonies(
    real: Score, portraits: tuple[Portrait, ...]
) -> None:
    random = shuffle_notes(real, generator(), voices=(1, 2, 3), within=True)
    assert torch.equal(random.pitches[:, 0], real.pitches[:, 0])
    chords = portray(random).chords
    assert chords < 0.5 * portraits[0].chords
    assert gap_closed(chords, chords, portraits[0].chords) == 0 < BOUNDS["harmonised_chords"]


# --- one judge at a time ------------------------------------------------------------------------


def test_the_key_is_the_one_that_music21_finds_from_all_notes() -> None:
    """The oracle: its key finder on the notes themselves, one by one with their lengths."""
    for seed in range(4):
        score = random_score(1, 48, seed=seed)
        scale = torch.tensor([0, 2, 4, 5, 7, 9, 11])
        pitches = 60 + seed + scale[score.pitches[0] % 7]
        stream = music21.stream.Stream()
        for voice in range(4):
            for begin, end, pitch in notes(pitches[voice], score.onsets[0, voice]):
                note = music21.note.Note(pitch, quarterLength=(end - begin) / BEAT)
                stream.insert(begin / BEAT, note)
        expected = stream.analyze("key")
        assert find_key(pitches) == Key(expected.tonic.pitchClass, expected.mode == "major")
    assert find_key(torch.zeros(4, 8, dtype=torch.int64)) is None


def test_minor_keys_have_the_notes_of_their_relative_major() -> None:
    assert sorted(Key(9, False).scale) == sorted(Key(0, True).scale) == [0, 2, 4, 5, 7, 9, 11]
    for tonic in range(12):
        for mode in ("major", "minor"):
            oracle = music21.key.Key(music21.pitch.Pitch(tonic), mode)
            expected = {pitch.pitchClass for pitch in oracle.pitches}
            assert set(Key(tonic, mode == "major").scale) == expected


def test_shares_of_notes_and_of_the_scale_are_counted_by_hand() -> None:
    pitches = torch.tensor([[60, 60, 61, 64], [67, 67, 67, 67], [0, 0, 0, 0], [48, 48, 48, 49]])
    onsets = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]]).bool()
    score, keys = Score(pitches[None], onsets[None]), [Key(0, True)]
    assert share_in_key(score, keys).item() == 6 / 8  # C C# E, G G, C C C#
    assert share_of_scale(score, keys).item() == pytest.approx(3 / 7)  # C, E, G
    assert pitch_class_times(pitches).tolist() == [5, 2, 0, 0, 1, 0, 0, 4, 0, 0, 0, 0]
    silence = Score(torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4).bool())
    assert share_in_key(silence, [None]).item() == share_of_scale(silence, [None]).item() == 0


@pytest.mark.parametrize("name", CHORDS)
def test_chords_are_those_of_music21_in_every_position(name: str) -> None:
    root, *others = CHORDS[name]
    oracle = music21.chord.Chord([60 + step for step in (root, *others)])
    assert oracle.isTriad() or oracle.isSeventh()
    for transposed in range(12):
        voices = [48 + transposed + step for step in (root, *others, root)][:4]
        for order in (voices, voices[::-1], [voices[i] + 12 * i for i in (2, 0, 3, 1)]):
            assert forms_chord(chord(*order)).item()


def test_what_music21_calls_no_chord_is_none() -> None:
    """Of all sets of up to four pitch classes the triads and sevenths, and sevenths lacking 5."""
    lacking = {(0, 4, 10), (0, 3, 10), (0, 4, 11), (0, 3, 9)}
    sets = torch.cartesian_prod(*[torch.arange(12)] * 3)[::7]
    found = forms_chord(torch.cat([torch.zeros_like(sets[:, :1]), sets], 1).T + 48)
    for classes, ours in zip(sets.tolist(), found.tolist(), strict=True):
        present = sorted({0, *classes})
        turned = {tuple(sorted((c - root) % 12 for c in present)) for root in present}
        assert ours == bool(turned & ({*CHORDS.values()} | lacking))
    assert not forms_chord(chord(0, 64, 60, 48)).item()


def test_chords_change_with_pitch_classes_and_not_with_octaves() -> None:
    pitches = torch.tensor([[72, 64, 55, 48], [60, 67, 64, 48], [60, 67, 64, 45], [0, 0, 0, 0]])
    beats = pitches.T.repeat_interleave(BEAT, dim=1)
    assert chord_changes(beats).tolist() == [False, True, True]


def test_parallels_need_two_moving_voices_and_the_same_perfect_interval() -> None:
    def found(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
        both = torch.tensor([first, second]).T.repeat_interleave(BEAT, dim=1)
        return bool(parallels(both).item())

    assert found((74, 65, 60, 53), (76, 64, 60, 55)) is False
    assert found((74, 65, 60, 50), (76, 64, 60, 52)) is True  # octaves of soprano and bass
    assert found((72, 64, 57, 53), (74, 65, 59, 55)) is True  # fifths of soprano and bass
    assert found((74, 65, 60, 50), (74, 65, 60, 50)) is False  # nobody moves
    assert found((62, 65, 60, 50), (52, 64, 60, 52)) is False  # contrary motion
    assert found((74, 65, 60, 50), (76, 0, 60, 52)) is False


def test_histograms_sum_to_one_and_count_what_is_there() -> None:
    score = random_score(5, 64)
    keys = [find_key(pitches) for pitches in score.pitches]
    classes = pitch_class_histogram(score, keys)
    assert classes.sum().item() == pytest.approx(1)
    assert classes[12].item() == pytest.approx((score.pitches == SILENT).double().mean().item())
    ranges = range_histograms(score)
    assert (ranges.sum(1) - 1).abs().max() < 1e-12
    bass = (score.pitches[:, 3] == 50).double().mean()
    assert abs(ranges[3, 50] - bass) < 1e-12
    intervals = interval_histograms(score)
    assert intervals.shape == (10, 28)
    assert (intervals.sum(1) - 1).abs().max() < 1e-12


def test_histograms_of_pitch_classes_do_not_know_the_key() -> None:
    pitches = 60 + torch.tensor([0, 2, 4, 5, 7, 9, 11])[random_score(4, 64).pitches % 7]
    onsets = torch.ones_like(pitches, dtype=torch.bool)
    first, second = Score(pitches, onsets), Score(pitches + 5, onsets)
    a, b = (pitch_class_histogram(s, [find_key(p) for p in s.pitches]) for s in (first, second))
    assert (a - b).abs().max() < 1e-12


def test_intervals_are_counted_by_hand() -> None:
    pitches = torch.tensor([[60, 62, 62, 50], [55, 55, 55, 55], [0, 0, 0, 0], [48, 48, 48, 62]])
    onsets = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
    table = interval_histograms(Score(pitches[None], onsets[None]))
    assert table[0].nonzero().flatten().tolist() == [1, 13, 15]  # down 12, none, up 2
    assert table[1, 27] == table[2, 27] == 1  # no interval at all
    assert table[3, 26] == 1  # fourteen count as thirteen
    assert table[4, 5] == 1  # soprano over alto at the one beat: a fourth
    assert table[5, 27] == 1  # nobody sings tenor


def test_total_variation_and_gaps() -> None:
    p = torch.rand(3, 7, generator=generator(), dtype=torch.float64).softmax(1)
    q = p.flip(1)
    assert total_variation(p, p) == 0
    assert total_variation(p, q) == pytest.approx(total_variation(q, p))
    assert total_variation(torch.eye(2)[:1], torch.eye(2)[1:]) == 1
    assert gap_closed(0.2, shuffled=0.6, real=0.1) == pytest.approx(0.8)  # of distances, too


def test_shuffled_notes_are_the_same_notes_in_the_same_rhythm() -> None:
    score = without_rests(6, 64)
    everywhere, own = (
        shuffle_notes(score, generator(1)),
        shuffle_notes(score, generator(1), within=True),
    )

    def sung(s: Score, voice: int | None = None) -> list[int]:
        rows = [
            pitch
            for passage, onsets in zip(*s, strict=True)
            for v in range(4)
            if voice in (None, v)
            for _, _, pitch in notes(passage[v], onsets[v])
        ]
        return sorted(rows)

    for shuffled in (everywhere, own):
        assert torch.equal(shuffled.onsets, score.onsets)
        changes = shuffled.pitches[..., 1:] != shuffled.pitches[..., :-1]
        before = score.pitches[..., 1:] != score.pitches[..., :-1]
        assert not (changes & ~(before | score.onsets[..., 1:])).any()  # no note broken up
        assert not torch.equal(shuffled.pitches, score.pitches)
    assert sung(own, 3) == sung(score, 3)
    assert sung(everywhere, 3) != sung(score, 3)


def test_a_passage_is_silenced_where_it_was_heard_before() -> None:
    score = without_rests(3, 64)
    twice = Score(torch.cat([score.pitches, score.pitches + 1]), torch.cat([score.onsets] * 2))
    kept = silence_copies(twice, set())
    assert torch.equal(kept.pitches[:3], score.pitches)
    assert (kept.pitches[3:] == SILENT).all()
    assert not kept.onsets[3:].any()
    assert copied(score, excerpts(score.pitches[1])).tolist() == [0, 1, 0]


# --- sound --------------------------------------------------------------------------------------


def test_a_note_sounds_at_its_frequency_for_its_time() -> None:
    pitches, rate = torch.full((4, 16), SILENT), 8000
    pitches[0, 4:12] = 69
    onsets = torch.zeros(4, 16, dtype=torch.bool)
    onsets[0, 4] = True
    wave = synthesize(Score(pitches, onsets), beats_per_minute=60, sample_rate=rate)
    assert wave.shape == (round(4.3 * rate),)
    assert wave.dtype == torch.float32
    assert wave.abs().max() == pytest.approx(0.9)
    assert wave[:rate].abs().max() == 0  # a quarter's rest
    assert wave[round(3.35 * rate) :].abs().max() < 1e-6
    spectrum = torch.fft.rfft(wave[rate : 3 * rate]).abs()
    assert spectrum.argmax().item() / 2 == pytest.approx(440, abs=0.5)  # bins of half a hertz
    low = synthesize(Score(pitches - 12 * (pitches > 0), onsets), 60, rate)
    assert torch.fft.rfft(low[rate : 3 * rate]).abs().argmax().item() / 2 == pytest.approx(
        220, abs=0.5
    )


def test_voices_may_be_heard_alone_and_silence_stays_silent() -> None:
    score = Score(*(x[0] for x in random_score(1)))
    assert synthesize(score, voices=()).abs().max() == 0
    assert not torch.equal(synthesize(score, voices=(0,)), synthesize(score))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((held(72, 67, 60, 48),), "score must be (4, L), got (1, 4, 128)"),
        ((Score(*(x[0] for x in random_score(1))), 0.0), "got 0.0 beats a minute, 16000 Hz"),
    ],
)
def test_bad_input_to_the_organ_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        synthesize(*arguments)

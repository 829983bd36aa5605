"""Every command does its work, and every mistake gets one sentence instead of a traceback."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

from minidiff import __version__, data
from minidiff.cli import PIXEL_SIZE, main
from minidiff.training import load_tensors
from minidiff.zoo import RECIPES, checkpoints, recipes, save_weights

ROOT = Path(__file__).resolve().parent.parent
NAMES = f"name must be one of {', '.join(sorted(RECIPES))}"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an untrained model for each recipe, in place of the shipped weights."""
    folder = tmp_path / "weights"
    for name, recipe in RECIPES.items():
        save_weights(folder / f"{name}.safetensors", recipe.model(), recipe)
    monkeypatch.setattr(checkpoints, "WEIGHTS", folder)
    return folder


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what standard error holds, after asserting that it is one line and no traceback."""
    error = capsys.readouterr().err
    assert error.startswith("minidiff")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def run_installed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as the installed script does, in a process of its own."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["minidiff"].split(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_names_every_command():
    run = run_installed("--help")
    assert run.returncode == 0
    for command in ("doctor", "fetch", "train", "sample"):
        assert f"\n    {command} " in run.stdout


def test_the_installed_command_ends_with_the_exit_code_of_main():
    run = run_installed("sample", "no-such-model")
    assert run.returncode == 1
    assert f"{NAMES}, got 'no-such-model'" in run.stderr
    assert "Traceback" not in run.stderr


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"minidiff {__version__}\n"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("paint", "invalid choice: 'paint'"),
        ("sample", "the following arguments are required: name"),
        ("sample fashion --n 0", "argument --n: must be at least 1, got 0"),
        ("sample fashion --n many", "argument --n: invalid"),
        ("sample fashion --steps -3", "argument --steps: must be at least 1, got -3"),
        ("sample fashion --label shoe", "argument --label: invalid int value: 'shoe'"),
        ("train fashion --steps 1.5", "argument --steps: invalid"),
        ("doctor --all", "unrecognized arguments: --all"),
    ],
)
def test_a_line_that_is_no_command_ends_with_2(line: str, what: str, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    assert what in sentence(capsys)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("sample fashoin", f"{NAMES}, got 'fashoin'"),
        ("sample judge", "'judge' is no diffusion model"),
        ("sample captioned", "'captioned' wants captions, not labels"),
        ("sample clips", "'clips' wants captions, not labels"),
        ("sample fashion --caption coat", "'fashion' reads no captions"),
        ("sample super-resolution", "'super-resolution' enlarges an image that it is given"),
        ("sample fashion --label 12", "8 Bag, 9 Ankle boot, got 12"),
        ("sample fashion --steps 2000", "n_steps must lie in [1, 1000], got 2000"),
        ("sample fashion --device abacus", "device 'abacus' cannot be used on this machine"),
        ("sample fashion --device cuda:99", "device 'cuda:99' cannot be used on this machine"),
        ("sample fashion --out no/such/folder.png", "--out must be in a folder that exists"),
        ("sample fashion --out grid.txt", "--out must end like a picture"),
        ("train fashoin", f"{NAMES}, got 'fashoin'"),
        ("train fashion --steps 3", "--steps makes another model than the shipped one"),
    ],
)
def test_a_command_that_cannot_be_done_ends_with_1(
    line: str, what: str, weights: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(weights)
    assert main(line.split()) == 1
    assert what in sentence(capsys)
    assert not list(weights.glob("*.png"))


def test_an_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "fetch_fashion", interrupt)
    assert main(["fetch"]) == 130
    assert sentence(capsys) == "minidiff: interrupted\n"


def test_fetch_without_any_way_to_the_data_says_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    (tmp_path / "file").touch()  # where a folder would have to be made
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "file"))
    assert main(["fetch"]) == 1
    assert "set MINIDIFF_CACHE to a folder that you may write to" in sentence(capsys)


def test_fetch_has_the_digits_spoken_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    asked: list[str] = []

    def fetched(split: str) -> Path:
        asked.append(split)
        return tmp_path / "speech" / f"{split}.npz"

    monkeypatch.setattr(data, "fetch_fashion", lambda: tmp_path)
    monkeypatch.setattr(data, "fetch_speech", fetched)
    assert main(["fetch"]) == 0
    assert asked == ["train", "test", "listener", "listener-test"]
    assert f"Spoken digits are in {tmp_path / 'speech'}." in capsys.readouterr().out


# --- sample -------------------------------------------------------------------------------------


def drawn(out: Path, *options: str) -> Image.Image:
    assert main(["sample", "fashion", "--steps", "2", "--out", str(out), *options]) == 0
    return Image.open(out).convert("L")


def test_sample_draws_a_column_for_each_class(weights: Path, tmp_path: Path, capsys):
    picture = drawn(tmp_path / "a.png", "--n", "12")
    cell = 28 * PIXEL_SIZE + 2
    assert picture.size == (10 * cell + 2, 2 * cell + 2)
    assert picture.getextrema()[1] > 0
    assert "12 images, seed 0" in capsys.readouterr().out


def test_the_seed_and_the_label_decide_the_picture(weights: Path, tmp_path: Path):
    pictures = [
        drawn(tmp_path / f"{number}.png", "--n", "4", *options.split()).tobytes()
        for number, options in enumerate(["--label 3", "--label 3 --seed 0", "--label 3 --seed 1"])
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def test_sample_draws_a_square_of_what_a_caption_asks_for(weights: Path, tmp_path: Path):
    asked, out = "a red coat on a blue background", tmp_path / "a.png"
    options = ["--caption", asked, "--n", "4", "--steps", "2", "--out", str(out)]
    assert main(["sample", "captioned", *options]) == 0
    picture = Image.open(out)
    assert picture.size == (2 * (32 * PIXEL_SIZE + 2) + 2,) * 2
    red, green, blue = picture.split()
    assert red.tobytes() != green.tobytes() != blue.tobytes()


def test_sample_draws_a_clip_as_a_row_of_its_frames(weights: Path, tmp_path: Path):
    out = tmp_path / "a.png"
    options = ["--caption", "a boot moving up", "--n", "2", "--steps", "1", "--out", str(out)]
    assert main(["sample", "clips", *options]) == 0
    picture = Image.open(out)
    assert picture.size == (16 * (40 * PIXEL_SIZE + 2) + 2, 2 * (40 * PIXEL_SIZE + 2) + 2)


def test_sample_refuses_a_damaged_weight_file(weights: Path, capsys):
    path = weights / "fashion.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["sample", "fashion"]) == 1
    assert f"{path} is no whole safetensors file" in sentence(capsys)


# --- train --------------------------------------------------------------------------------------


def test_train_writes_the_weight_file_and_removes_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    images = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(recipes, "load_fashion", lambda split: (images, torch.arange(20) % 10))
    out = tmp_path / "judge.safetensors"
    assert main(["train", "judge", "--steps", "2", "--out", str(out), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"Wrote {out}.\n"
    tensors, metadata = load_tensors(out)
    assert tensors.keys() == RECIPES["judge"].model().state_dict().keys()
    assert metadata["steps"] == "2"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


# --- doctor -------------------------------------------------------------------------------------


def test_doctor_finds_nothing_lacking(weights: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(data, "find_fashion", lambda: tmp_path)
    monkeypatch.setattr(data.speech, "speech_path", lambda split: Path(__file__))
    assert main(["doctor"]) == 0
    found = capsys.readouterr().out
    assert torch.__version__ in found
    assert f"Fashion-MNIST in {tmp_path}" in found
    for name in RECIPES:
        assert f"{name}, " in found
    assert "LACK" not in found


def test_doctor_says_what_to_do_about_each_lack(weights: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "empty"))
    (weights / "fashion.safetensors").unlink()
    (weights / "judge.safetensors").write_bytes(b"not a weight file")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    lacks = [number for number, line in enumerate(lines) if line.startswith("LACK")]
    advice = [lines[number + 1].split("-> ")[1] for number in lacks]
    assert advice == [
        "run: minidiff fetch",  # clothes
        "run: minidiff fetch",  # spoken digits
        "run: minidiff fetch",  # chorales
        "restore the file, or train it: minidiff train fashion",
        "restore the file, or train it: minidiff train judge",
    ]


def test_doctor_names_a_damaged_data_file(weights: Path, tmp_path: Path, monkeypatch, capsys):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"damaged")
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path))
    assert main(["doctor"]) == 1
    assert f"{raw / 't10k-labels-idx1-ubyte'} is damaged" in capsys.readouterr().out

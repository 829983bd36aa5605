"""The command line: what is on this machine, the data, training, and pictures.

Heavy imports stand inside the functions, so that ``minidiff --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from minidiff import __version__

if TYPE_CHECKING:
    import torch

GIB = 2**30
PIXEL_SIZE = 3  # a sample's pixel is drawn as a square of this many pixels


class Finding(NamedTuple):
    """One line of ``minidiff doctor``: what was looked at, what was found, what to do about it."""

    subject: str
    found: str
    advice: str = ""  # empty where nothing is lacking


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What stands after the program's name; ``sys.argv[1:]`` by default.

    Returns:
        The exit code: 0, 1 after an error or a lack, 130 after an interruption. What went wrong
        is one sentence on standard error.

    Raises:
        SystemExit: With code 2 where the arguments make no command, with 0 after ``--help``.

    >>> main(["sample", "no such model"])
    1
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
        try:
            return int(options.command(options))
        except (OSError, ValueError, RuntimeError, ArithmeticError) as error:
            _say(str(error))
            return 1
        except KeyboardInterrupt:
            _say("interrupted")
            return 130


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with a command, and where the help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _say(message: str) -> None:
    print(f"minidiff: {' '.join(message.split())}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="minidiff", description="Diffusion models built by hand.")
    parser.add_argument("--version", action="version", version=f"minidiff {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    doctor = commands.add_parser("doctor", help="say what is on this machine and what it lacks")
    doctor.set_defaults(command=_doctor)

    fetch = commands.add_parser("fetch", help="fetch the data sets and check them")
    fetch.set_defaults(command=_fetch)

    train = commands.add_parser(
        "train",
        help="train a shipped model again",
        description="Train a shipped model again. The training's state is saved every minute; the "
        "same command goes on from there.",
    )
    train.add_argument("name", help="the recipe, such as fashion")
    train.add_argument("--steps", type=_positive, help="another number of steps; needs --out")
    train.add_argument("--out", type=Path, help="the weight file to write (default: the shipped)")
    train.add_argument("--state", type=Path, help="where to keep the state (default: beside --out)")
    train.set_defaults(command=_train)

    sample = commands.add_parser("sample", help="draw images with a trained model")
    sample.add_argument("name", help="the model, such as fashion")
    sample.add_argument("--n", type=_positive, default=64, help="how many images (default: 64)")
    sample.add_argument(
        "--out",
        type=Path,
        default=Path("grid.png"),
        help="the picture to write (default: %(default)s)",
    )
    sample.add_argument(
        "--steps", type=_positive, default=50, help="calls of the model for one image (default: 50)"
    )
    sample.add_argument(
        "--label", type=int, help="one class alone, 0 to 9 (default: all of them in turn)"
    )
    sample.add_argument("--caption", help="what to draw, for a model that reads captions")
    sample.add_argument(
        "--seed", type=int, default=0, help="another seed, other images (default: 0)"
    )
    sample.set_defaults(command=_sample)

    for command in (train, sample):
        command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the GPU where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} cannot be used on this machine; try cpu") from error
    return device


# --- doctor -------------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    lacks = 0
    for finding in _findings():
        lacks += bool(finding.advice)
        print(f"{'LACK' if finding.advice else 'ok':6}{finding.subject:10}{finding.found}")
        if finding.advice:
            print(f"{'':16}-> {finding.advice}")
    return 1 if lacks else 0


def _findings() -> Iterator[Finding]:
    import torch
    import torchvision

    yield Finding("minidiff", f"{__version__}, Python {platform.python_version()}")
    yield Finding("torch", f"{torch.__version__}, torchvision {torchvision.__version__}")
    yield _processor()
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        memory = f"{gpu.total_memory / GIB:.0f} GiB memory"
        yield Finding("GPU", f"{gpu.name}, {memory}, {_bfloat16('cuda')}")
    else:
        yield Finding("GPU", "none that PyTorch can use; the course runs without one")
    yield from _data()
    yield from _weights()


def _processor() -> Finding:
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    n_cores = len(affinity(0)) if affinity else os.cpu_count()
    found = f"{platform.machine()}, cores: {n_cores}, {_bfloat16('cpu')}"
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (AttributeError, ValueError, OSError):  # Windows does not tell
        return Finding("processor", found)
    advice = "" if memory >= 3 else "the notebooks want 4 GiB: run one at a time, close the rest"
    return Finding("processor", f"{found}, {memory:.0f} GiB memory", advice)


def _bfloat16(device_type: str) -> str:
    import torch

    from minidiff.training import autocast

    with autocast(torch.device(device_type)):
        return ("" if torch.is_autocast_enabled(device_type) else "no ") + "bfloat16"


def _data() -> Iterator[Finding]:
    from minidiff.data import find_chorales, find_fashion, load_digits
    from minidiff.data.speech import N_UTTERANCES, speech_path

    with warnings.catch_warnings(record=True) as damages:
        warnings.simplefilter("always")
        folder = find_fashion()
    if folder is not None:
        yield Finding("data", f"Fashion-MNIST in {folder}, checksums right")
    else:
        found = "; ".join(str(damage.message) for damage in damages) or "no Fashion-MNIST"
        yield Finding("data", found, "run: minidiff fetch")
    yield Finding("data", f"{len(load_digits()[0])} handwritten digits of scikit-learn")
    spoken = all(speech_path(split).is_file() for split in N_UTTERANCES)
    yield Finding(
        "data",
        "spoken digits" if spoken else "no spoken digits yet; chapter 12 makes them in minutes",
        "" if spoken else "run: minidiff fetch",
    )
    chorales = find_chorales()
    yield Finding(
        "data",
        f"Bach's chorales in {chorales}" if chorales else "no chorales yet; music21 has them",
        "" if chorales else "run: minidiff fetch",
    )
    free = shutil.disk_usage(folder or Path.home()).free / GIB
    advice = "" if free >= 0.5 else "make room: data and trainings want half a gibibyte"
    yield Finding("disk", f"{free:.1f} GiB free", advice)


def _weights() -> Iterator[Finding]:
    from minidiff.zoo import RECIPES, load

    for name in RECIPES:
        try:
            model = load(name).model
        except (OSError, ValueError) as error:
            yield Finding(
                "weights", str(error), f"restore the file, or train it: minidiff train {name}"
            )
        else:
            n_parameters = sum(p.numel() for p in model.parameters())
            yield Finding(
                "weights", f"{name}, {n_parameters / 1e6:.1f} M parameters, checksum right"
            )


# --- fetch, train, sample -----------------------------------------------------------------------


def _fetch(options: argparse.Namespace) -> int:
    from minidiff.data import fetch_chorales, fetch_fashion, fetch_speech
    from minidiff.data.speech import N_UTTERANCES

    print(f"Fashion-MNIST is in {fetch_fashion()}, checksums right.")
    folders = {fetch_speech(split).parent for split in N_UTTERANCES}
    print(f"Spoken digits are in {', '.join(map(str, folders))}.")
    print(f"Bach's chorales are in {fetch_chorales()}.")
    return 0


def _train(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from minidiff.zoo import WEIGHTS, train_recipe
    from minidiff.zoo.checkpoints import recipe_named
    from minidiff.zoo.recipes import stage_steps, with_steps

    if options.steps is not None and options.out is None:
        raise ValueError("--steps makes another model than the shipped one, so it needs --out FILE")
    recipe = recipe_named(options.name)
    if options.steps is not None:
        recipe = with_steps(recipe, options.steps)
    n_steps = sum(stage_steps(recipe).values())
    device = _device(options.device)
    out = options.out or WEIGHTS / f"{options.name}.safetensors"
    with tqdm(total=n_steps, unit="step") as bar:
        for step, loss in train_recipe(options.name, device, out, options.state, options.steps):
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update(step - bar.n)
    print(f"Wrote {out}.")
    return 0


def _sample(options: argparse.Namespace) -> int:
    import torch
    from PIL import Image
    from torchvision.utils import save_image

    from minidiff.data import FASHION_CLASSES
    from minidiff.zoo import load, sample, sample_captions

    out: Path = options.out
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out must be in a folder that exists, got {out}")
    if out.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--out must end like a picture, .png for instance, got {out}")
    n_classes = len(FASHION_CLASSES)
    if options.label is not None and not 0 <= options.label < n_classes:
        classes = ", ".join(f"{number} {name}" for number, name in enumerate(FASHION_CLASSES))
        raise ValueError(f"--label must be one of {classes}, got {options.label}")
    pretrained = load(options.name, _device(options.device))
    labels = torch.arange(options.n) % n_classes
    if options.label is not None:
        labels = torch.full_like(labels, options.label)
    generator = torch.Generator().manual_seed(options.seed)
    if options.caption is None:
        x = sample(pretrained, labels, options.steps, generator)  # (n, C, H, W)
    else:
        captions = [options.caption] * options.n
        x = sample_captions(pretrained, captions, options.steps, generator=generator)
    in_turn = options.label is None and options.caption is None
    n_columns = n_classes if in_turn else round(options.n**0.5)
    if x.ndim == 5:  # clips, each a row of its frames
        n_columns, x = x.shape[2], x.transpose(1, 2).flatten(0, 1)  # (n, C, F, H, W) -> (n F, ...)
    big = x.cpu().repeat_interleave(PIXEL_SIZE, dim=2).repeat_interleave(PIXEL_SIZE, dim=3)
    save_image(big, out, nrow=n_columns, normalize=True, value_range=(-1, 1))
    print(f"Wrote {out}: {options.n} images, seed {options.seed}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

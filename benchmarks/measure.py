"""Measure what the shipped models are worth and compare it with the bounds: `make measure`.

What takes longer than a notebook may is computed here and written to benchmarks/results/*.json;
the notebooks show those figures, recompute a part of them and assert that both agree. Nothing is
selected: three fixed seeds, and each must meet each bound. The exit code is 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from minidiff.lab.machine import best_device
from minidiff.zoo import BOUNDS
from minidiff.zoo.bounds import MISSED
from topics.common import RESULTS, stored

TOPICS = (
    "judge",
    "fashion",
    "evaluation",
    "fashion-improved",
    "few-steps",
    "guidance",
    "speed",
    "fashion-vae",
    "fashion-latent",
    "captioned-vae",
    "captioned",
    "inpainting",
    "super-resolution",
    "chorales",
    "listener",
    "speech",
    "speech-attention",
    "clips",
)
HEAD = """# What was measured

`make measure` writes this page and the files in `results/`. Nothing is selected: each seed must
meet each bound of `minidiff/zoo/bounds.py`, and the bounds stood before the results.

"""


def main() -> int:
    """Measure some topics, all by default; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("topics", nargs="*", help=f"of {', '.join(TOPICS)}; all by default")
    topics = parser.parse_args().topics or TOPICS
    if unknown := set(topics) - set(TOPICS):
        parser.error(f"topics must be of {', '.join(TOPICS)}, got {', '.join(sorted(unknown))}")
    device, missed = best_device(), False
    for name in topics:
        topic = module_of(name)
        begin = time.perf_counter()
        result = topic.measure(device)
        seconds = round(time.perf_counter() - begin)
        write(name, {**result, "total_seconds": seconds}, device)
        for row in topic.bounds(result):
            missed |= not row.met and row.name not in MISSED
            print(
                f"{'ok    ' if row.met else 'MISSED'} {row.name:24s} {row.value:8.4f} {row.sign} "
                f"{BOUNDS[row.name]} ({row.who})"
            )
    write_page()
    return int(missed)


def write_page() -> None:
    """Write RESULTS.md from everything that was measured."""
    pages = [module_of(name).page(stored(name)) for name in measured()]
    if (RESULTS / "peers.json").exists() and "quality" in stored("peers"):
        pages.append(import_module("peers").page(stored("peers")))
    (RESULTS.parent / "RESULTS.md").write_text(HEAD + "\n".join(pages))


def module_of(name: str) -> ModuleType:
    """Return the module of a topic."""
    return import_module(f"topics.{name.replace('-', '_')}")


def measured() -> list[str]:
    """Return the topics of which there is a result."""
    return [name for name in TOPICS if (RESULTS / f"{name}.json").exists()]


def write(name: str, result: dict[str, Any], device: torch.device) -> None:
    """Write one result with where and when it was measured."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(about(device) | result, indent=1) + "\n")


def about(device: torch.device) -> dict[str, str]:
    """Return where and when something is measured."""
    threads = f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    sys.exit(main())

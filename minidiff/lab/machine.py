"""What this machine can do, and how much of it a notebook may use."""

from __future__ import annotations

import os

import torch


def best_device() -> torch.device:
    """Return the first that there is of a CUDA GPU and the CPU.

    >>> best_device().type in ("cuda", "cpu")
    True
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def budget(quick: int, full: int) -> int:
    """Choose how much a cell computes: `full` on a GPU, `quick` without.

    The environment variable MINIDIFF_BUDGET, "quick" or "full", overrides the choice. It shrinks
    counts only; no cell is ever skipped.

    Args:
        quick: The count that a laptop manages in seconds.
        full: The count that gives the real thing.

    Raises:
        ValueError: If MINIDIFF_BUDGET is set to anything else.

    >>> budget(quick=40, full=20_000) in (40, 20_000)
    True
    """
    choice = os.environ.get("MINIDIFF_BUDGET") or (
        "full" if best_device().type == "cuda" else "quick"
    )
    if choice not in ("quick", "full"):
        raise ValueError(f"MINIDIFF_BUDGET must be 'quick' or 'full', got {choice!r}")
    return full if choice == "full" else quick

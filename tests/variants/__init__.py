"""All checks there are, and beside each right answers in other styles, which must pass.

A file chapter_NN.py holds `VARIANTS`: for each task of the chapter a list of functions.
"""

import json
import math
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

from minidiff import grading
from minidiff.grading import Check, Estimate
from minidiff.grading.guard import unwrap

APART = 10.0  # tolerances between two outcomes that are not to be taken for each other
APART_ESTIMATES = 2.0  # likewise for estimates, whose tolerance leaves 7 standard errors of room


def _checks(chapter: str) -> dict[str, Check]:
    module = import_module(f"minidiff.grading.{chapter}")
    found = {c.name: c for c in vars(module).values() if isinstance(c, Check)}
    return {n: c for n, c in found.items() if c.reference.__module__ == module.__name__}


CHAPTERS = sorted(
    module.name
    for module in pkgutil.iter_modules(grading.__path__)
    if module.name.startswith("chapter_")
)
CHECKS = {chapter: _checks(chapter) for chapter in CHAPTERS}


def variants(chapter: str) -> dict[str, list[Callable[..., Any]]]:
    """Return the right answers in other styles of a chapter, by task."""
    found: dict[str, list[Callable[..., Any]]] = import_module(f"variants.{chapter}").VARIANTS
    return found


def attempts(chapter: str) -> list[dict[str, str | None]]:
    """Return what readers wrote wrongly in a chapter: task, source and recognised misconception."""
    path = Path(__file__).parent.parent / "attempts" / f"{chapter}.json"
    found: list[dict[str, str | None]] = json.loads(path.read_text()) if path.exists() else []
    return found


def fresh_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Write a function once more: the same lines, another code object."""
    plain = unwrap(function)
    code = plain.__code__.replace(co_name="mine")
    copy = FunctionType(code, plain.__globals__, "mine", plain.__defaults__, plain.__closure__)
    copy.__kwdefaults__ = plain.__kwdefaults__
    return copy if plain is function else torch.no_grad()(copy)  # the one decorator in use


def apart(check: Check, a: Any, b: Any, inputs: dict[str, Any]) -> tuple[float, float]:
    """Return the distance of two outcomes in tolerances, and in units of what it should be."""
    best = (0.0, 0.0)
    for name, distance in check.distances(a, b, inputs).items():
        estimated = not isinstance(b, Exception) and isinstance(b.get(name), Estimate)
        best = max(best, (distance, distance / (APART_ESTIMATES if estimated else APART)))
    return best


def closest(check: Check, seed: int) -> tuple[float, float, str]:
    """Return the smallest distance of reference and misconceptions on a seed's inputs, and whose.

    Two that differ anywhere among the inputs of one call are told apart: the largest counts.
    """
    answers = {"reference": check.reference, **check.misconceptions}
    smallest = (math.inf, math.inf, "")
    cases = range(check.n_cases)
    inputs = [check.inputs(seed, case) for case in cases]
    outcomes = {n: [check.outcome(f, seed, case) for case in cases] for n, f in answers.items()}
    for i, a in enumerate(answers):
        for b in list(answers)[:i]:
            pairs = zip(outcomes[a], outcomes[b], inputs, strict=True)
            distance, enough = max(apart(check, mine, right, given) for mine, right, given in pairs)
            smallest = min(smallest, (distance, enough, f"{a} and {b}"), key=lambda s: s[1])
    return smallest

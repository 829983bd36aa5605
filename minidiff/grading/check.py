"""The engine of the checks: run an answer on random inputs, compare, and name the mistake.

A task is a reference function with a list of *misconceptions*: wrong versions that people really
write, each with a docstring that helps whoever wrote it. An answer that differs from the reference
is compared with each of them, and where one gives the same output, its docstring is the help.
Otherwise the check names the property that fails: shape, dtype, mean, spread, and so on.

`guard` runs the answers, `compare` measures how far two results are apart, `diagnosis` finds words
for it, `draw` makes the inputs.
"""

from __future__ import annotations

import inspect
import math
import secrets
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from minidiff.grading.compare import Estimate, Malformed, by_chance, excess, largest, plain
from minidiff.grading.diagnosis import describe, difference, hint, hint_for_error, summary
from minidiff.grading.draw import Draw
from minidiff.grading.guard import (
    Answer,
    Outcome,
    Run,
    codes_of,
    original_torch,
    place,
    run,
    unchanged,
)

__all__ = ["Answer", "Check", "CheckFailed", "Estimate", "Inputs", "Malformed", "Outcome", "task"]

Inputs = dict[str, Any]  # by name, in the order of the task's arguments


class CheckFailed(AssertionError):
    """An answer is not right; the message says what differs and how one might mend it.

    Args:
        message: The whole message.
        misconception: Name of the mistake that was recognised, if one was.
    """

    def __init__(self, message: str, misconception: str | None = None) -> None:
        super().__init__(message)
        self.misconception = misconception

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in a notebook: the engine's own frames help nobody."""
        return str(self).splitlines()


class Check:
    """One task: call it with an answer, and it prints the points or raises `CheckFailed`.

    Args:
        reference: The right function. Its name is the task's, its docstring the task in a line.
        points: What a right answer is worth.
        inputs: Makes the arguments, in order and by name, from a `Draw`; the same ones again from
            an equal `Draw`.
        outputs: Names of what the answer returns.
        observe: What to compare, by name, where that is not simply what the answer returns: calls
            the answer with the inputs itself. What cannot be computed may be left out.
        roundings: How many roundings of float32, relative to the largest number at hand, a right
            answer may be off; a number, or a function of the inputs.
        changes: Names of the inputs that the answer is meant to change.
        package: Functions and classes of minidiff or torch that would do the task; an answer
            that uses one is refused.
        n_cases: How many inputs a call tries.

    Raises:
        ValueError: If points or n_cases is no positive integer.
        CheckFailed: When called with an answer that is not right.

    >>> @task(points=1, inputs=lambda draw: {"x": draw.normal(3)})
    ... def double(x):
    ...     '''Twice x.'''
    ...     return 2 * x
    >>> @double.misconception
    ... def squared(x):
    ...     '''That is the square: add x to itself.'''
    ...     return x**2
    >>> double(lambda x: x + x)
    ✓ 1/1  double
    >>> double(lambda x: x * x, seed=0)
    Traceback (most recent call last):
      ...
    minidiff.grading.check.CheckFailed: ✗ 0/1  double
    The result is wrong by up to 9.1 (at [2]: yours 4.747, expected -4.358).
    That is the square: add x to itself.
    Seen with x float64 (3,).
    To look at it: check.double.inputs(seed=0, case=0)
    """

    def __init__(
        self,
        reference: Answer,
        *,
        points: int,
        inputs: Callable[[Draw], Inputs],
        outputs: Sequence[str] = ("the result",),
        observe: Callable[[Answer, Inputs], Mapping[str, Any]] | None = None,
        roundings: float | Callable[[Inputs], float] = 64.0,
        changes: Sequence[str] = (),
        package: Sequence[Any] = (),
        n_cases: int = 4,
    ) -> None:
        for name, value in (("points", points), ("n_cases", n_cases)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        self.name = reference.__name__
        self.__doc__ = reference.__doc__
        self.reference = reference
        self.points = points
        self.misconceptions: dict[str, Answer] = {}
        self.package = tuple(package)
        self.n_cases = n_cases
        self._inputs = inputs
        self._outputs = outputs
        self._observe = observe
        self._roundings = roundings
        self._changes = changes
        self._forbidden = codes_of(reference).union(*map(codes_of, package))

    def misconception(self, wrong: Answer) -> Answer:
        """Add a wrong version of the task; its docstring is the help for whoever wrote it."""
        if not wrong.__doc__:
            raise ValueError(f"{wrong.__name__} must have a docstring: it is the help")
        self.misconceptions[wrong.__name__] = wrong
        return wrong

    def __call__(self, answer: Any, seed: int | None = None) -> None:
        """Check an answer on fresh inputs, or on those of a seed."""
        seed = secrets.randbits(31) if seed is None else seed
        with original_torch():
            complaint, misconception = self._judge(answer, seed)
        if complaint:
            raise CheckFailed(
                _wrapped(f"✗ 0/{self.points}  {self.name}\n{complaint}"), misconception
            )
        print(f"✓ {self.points}/{self.points}  {self.name}")

    def inputs(self, seed: int, case: int = 0) -> Inputs:
        """Make the arguments of one case once more, by name, to look at them.

        Raises:
            ValueError: There is no such case.
        """
        if case not in range(self.n_cases):
            raise ValueError(f"case must be in [0, {self.n_cases}), got {case}")
        return self._inputs(Draw(seed, case))

    def outcome(self, answer: Answer, seed: int, case: int, global_seed: int = 0) -> Outcome:
        """Run an answer on one input: what is to be compared, by name, or what it raised."""
        return self._run(answer, self.inputs(seed, case), global_seed=global_seed).outcome

    def agree(self, a: Outcome, b: Outcome, seed: int, case: int) -> bool:
        """Tell whether two outcomes on the same input are equal up to rounding."""
        return self._agree(a, b, self.inputs(seed, case))

    def distances(self, a: Outcome, b: Outcome, inputs: Inputs) -> dict[str, float]:
        """Return by name how far two outcomes are apart, in units of what is allowed.

        Args:
            a: The one in question.
            b: The one it ought to be, from which the tolerance is taken.
            inputs: With which both came about.
        """
        if isinstance(a, Exception) or isinstance(b, Exception):
            # x * w and w * x complain of the same two sizes in another order
            same = type(a) is type(b) and sorted(str(a).split()) == sorted(str(b).split())
            return {"error": 0.0 if same else math.inf}
        n_roundings = self._roundings(inputs) if callable(self._roundings) else self._roundings
        scale = largest(inputs)
        both = a.keys() & b.keys()
        return {
            name: excess(a[name], b[name], n_roundings, scale) if name in both else math.inf
            for name in b | a
        }

    def _agree(self, a: Outcome, b: Outcome, inputs: Inputs) -> bool:
        return max(self.distances(a, b, inputs).values(), default=0.0) <= 1

    def _run(self, answer: Answer, inputs: Inputs, **options: Any) -> Run:
        def use(watched: Answer) -> Mapping[str, Any]:
            if self._observe is not None:
                return self._observe(watched, inputs)
            return self._name_outputs(watched(*inputs.values()))

        return run(answer, use, **options)

    def _name_outputs(self, result: Any) -> Mapping[str, Any]:
        names = self._outputs
        if len(names) == 1:
            return {names[0]: result}
        if not isinstance(result, tuple | list) or len(result) != len(names):
            wanted = " and ".join(names)
            raise Malformed(f"It should return {wanted}, but it returns {describe(result)}.")
        return dict(zip(names, result, strict=True))

    def _judge(self, answer: Any, seed: int) -> tuple[str, str | None]:
        """Return the complaint, empty if there is none, and the misconception's name."""
        if not callable(answer):
            wanted = f"the function itself, without calling it: check.{self.name}(your_function)"
            return f"This is {describe(answer)}; give {wanted}.", None
        if codes_of(answer) & self._forbidden:
            return _BORROWED, None
        cases = range(self.n_cases)
        inputs, used, spent = ([self.inputs(seed, c) for c in cases] for _ in range(3))
        right = [self._reference_outcome(given) for given in spent]  # before the answer does harm
        runs = [self._run(answer, used[c], forbidden=self._forbidden, silent=c > 0) for c in cases]
        if any(run.borrowed for run in runs):
            return _BORROWED, None
        mine = [run.outcome for run in runs]
        wrong = [c for c in cases if not self._agree(mine[c], right[c], inputs[c])]
        name, help_ = self._recognise(mine, inputs, seed) if wrong else (None, "")
        harm = [_argument_changed(used[c], inputs[c], self._changes) for c in cases]
        if name is None:
            help_ = next(filter(None, harm), "") or self._randomness(
                answer, runs[0], inputs[0], used[0], spent[0], seed
            )
        if not wrong and not help_:
            return "", None
        case = wrong[0] if wrong else max(cases, key=lambda c: bool(harm[c]))
        differs, fault = self._words(answer, mine, right, case, inputs[case]) if wrong else ("", "")
        lines = [
            differs,
            help_ or fault,
            f"Seen with {summary(inputs[case])}.",
            f"To look at it: check.{self.name}.inputs({seed=}, {case=})",
        ]
        return "\n".join(filter(None, lines)), name

    def _reference_outcome(self, inputs: Inputs) -> dict[str, Any]:
        outcome = self._run(self.reference, inputs).outcome
        if isinstance(outcome, Exception):
            raise RuntimeError(f"the reference of {self.name} fails") from outcome
        return outcome

    def _recognise(
        self, mine: list[Outcome], inputs: list[Inputs], seed: int
    ) -> tuple[str | None, str]:
        """Return name and help of the misconception that gives the same output on every input."""
        for name, mistake in self.misconceptions.items():
            theirs = (self.outcome(mistake, seed, case) for case in range(self.n_cases))
            if all(map(self._agree, mine, theirs, inputs)):
                return name, inspect.cleandoc(mistake.__doc__ or "")
        return None, ""

    def _randomness(
        self, answer: Answer, first: Run, inputs: Inputs, used: Inputs, spent: Inputs, seed: int
    ) -> str:
        """Say if results depend on more than the arguments, empty if not.

        Args:
            answer: The answer.
            first: Its run on the first input.
            inputs: That input as it was drawn,
            used: after the run,
            spent: and after a run of the reference.
            seed: From which it was drawn.
        """
        if isinstance(first.outcome, Exception):
            return ""
        second = self._run(answer, self.inputs(seed), global_seed=1)
        if any(map(unchanged, first.states, second.states)):  # they started from different seeds
            return "It sets the global seed, which belongs to the caller: use the generator given."
        if not self._agree(_plain(second.outcome), _plain(first.outcome), inputs):
            network = any(isinstance(value, torch.nn.Module) for value in inputs.values())
            dropout = ", or on dropout, which a network's eval() turns off" if network else ""
            return (
                "Called twice with the same arguments, it gives different results: it depends on "
                f"the global seed, or on what an earlier call left behind{dropout}. All that is "
                "random must come from the arguments."
            )
        for name, value in inputs.items():
            if isinstance(value, torch.Generator) and (
                unchanged(used[name], value) and not unchanged(spent[name], value)
            ):
                return f"It draws nothing from the {name} it is given."
        return ""

    def _words(
        self,
        answer: Answer,
        mine: list[Outcome],
        right: list[dict[str, Any]],
        case: int,
        inputs: Inputs,
    ) -> tuple[str, str]:
        """Say what differs most on a case and where, and which of its properties is at fault."""
        ours, known = mine[case], right[case]
        if isinstance(ours, Malformed):
            return str(ours), ""
        if isinstance(ours, Exception):
            first = "\n".join(str(ours).splitlines()[:2])  # torch goes on for many lines
            told = f"It raised {type(ours).__name__}: {first[:400]}".removesuffix(": ")
            line = place(answer, ours)
            return f"{told}\nin {line}" if line else told, hint_for_error(ours)
        distances = self.distances(ours, known, inputs)
        name = max(distances, key=lambda name: (distances[name], name in ours))
        both = plain(ours.get(name)), plain(known.get(name))
        spread = by_chance(known.get(name))
        constant = _same_for_all(mine, name) and not _same_for_all(right, name)
        return difference(name, *both, inputs, spread), hint(*both, inputs, spread, constant)


def task(*, points: int, inputs: Callable[[Draw], Inputs], **options: Any) -> Callable[..., Check]:
    """Turn a reference function into a `Check`, which see for the options."""
    return lambda reference: Check(reference, points=points, inputs=inputs, **options)


_BORROWED = "This lets a ready-made function do the work; the task is to write it yourself."


def _argument_changed(after: Inputs, before: Inputs, meant: Sequence[str]) -> str:
    """Say which argument an answer changed that it should not, empty if none."""
    for name, value in before.items():
        random = isinstance(value, torch.Generator)
        if name not in meant and not random and not unchanged(after[name], value):
            clone = f"`y = {name}` is none; `{name}.clone()` is."
            copy = clone if isinstance(value, torch.Tensor) else f"copy.deepcopy({name}) makes one."
            return f"It changes its argument {name} in place; work on a copy. {copy}"
    return ""


def _wrapped(message: str) -> str:
    """Fold long lines, except code."""
    fold = textwrap.TextWrapper(96, break_long_words=False, break_on_hyphens=False).fill
    code = ("in line ", "To look at it: ")
    return "\n".join(x if x.startswith(code) else fold(x) for x in message.splitlines())


def _plain(outcome: Outcome) -> Outcome:
    """Compare estimates as plain numbers: two calls with the same arguments leave no chance."""
    if isinstance(outcome, Exception):
        return outcome
    return {name: plain(value) for name, value in outcome.items()}


def _same_for_all(outcomes: Sequence[Outcome], name: str) -> bool:
    """Tell whether an answer gave the same output for every input."""
    values = [plain(o[name]) for o in outcomes if not isinstance(o, Exception) and name in o]
    return len(values) > 1 and all(excess(value, values[0]) <= 1 for value in values)

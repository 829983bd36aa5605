"""Run an answer where it does no harm, and note what it does beside returning a result.

This catches accidents and shortcuts. Code that sets out to deceive the check it runs in can always
do so: graded work has hidden tests besides.
"""

from __future__ import annotations

import contextlib
import functools
import io
import linecache
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from types import BuiltinFunctionType, CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minidiff.grading.compare import Malformed, as_value
from minidiff.grading.diagnosis import describe

Answer = Callable[..., Any]
Outcome = dict[str, Any] | Exception


class NotWritten(Malformed):
    """An answer is still the empty function that was handed out."""

    def __str__(self) -> str:
        return "Nothing is written here yet: replace the body of the function, then check again."


@dataclass(frozen=True)
class Run:
    """One run of an answer.

    Args:
        outcome: What is to be compared, by name, or what was raised.
        borrowed: Whether forbidden code ran.
        states: Of the global generators of torch, numpy and Python afterwards.
    """

    outcome: Outcome
    borrowed: bool
    states: list[Any]


def run(
    answer: Answer,
    use: Callable[[Answer], Mapping[str, Any]],
    forbidden: Set[int] = frozenset(),
    global_seed: int = 0,
    silent: bool = True,
) -> Run:
    """Call `use` with an answer, whatever the answer does; what it replaces in torch is undone.

    Args:
        answer: The answer.
        use: Calls it and returns what is to be compared, by name.
        forbidden: Ids of code that the answer must not run, see `codes_of`.
        global_seed: What the global generators start from; afterwards they are as before.
        silent: Whether what is printed is dropped.

    >>> run(lambda x: x + 1, lambda answer: {"sum": answer(1)}).outcome
    {'sum': tensor(2)}
    """
    result: Any = _NOT_RETURNED

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal result
        result = _NOT_RETURNED
        result = answer(*args, **kwargs)
        if result is ... or result is NotImplemented or (result is None and _is_empty(answer)):
            raise NotWritten
        return result

    outcome: Outcome
    with _silence(silent), seeded(global_seed), torch.enable_grad(), calls(forbidden) as called:
        try:
            outcome = {name: as_value(name, value) for name, value in use(watched).items()}
        except (Exception, SystemExit) as error:
            outcome = _explained(answer, error, result)
        states = _global_states()
    _restore()
    return Run(outcome, bool(called), states)


_NOT_RETURNED = object()


@contextmanager
def _silence(silent: bool) -> Iterator[None]:
    sink = io.StringIO()
    with contextlib.ExitStack() as stack:
        if silent:
            stack.enter_context(contextlib.redirect_stdout(sink))
            stack.enter_context(contextlib.redirect_stderr(sink))
        yield


def _explained(answer: Answer, error: Exception | SystemExit, result: Any) -> Exception:
    """Return an error as it is if the answer's own code raised it, else say what led to it."""
    own = _frames(answer, error)
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    if isinstance(error, SystemExit):
        return Malformed("It calls exit(), which would end the whole notebook.")
    stub = isinstance(error, NotImplementedError) and own and own[-1][0] is innermost
    # torch raises this error as well: further inside, or of a function for some dtype
    if stub and "not implemented for" not in str(error):
        return NotWritten()
    if isinstance(error, Malformed) or own or result is _NOT_RETURNED:
        return error
    told = f"{type(error).__name__}: {error}"
    return Malformed(f"It returns {describe(result)}, with which the check cannot go on ({told}).")


def place(answer: Answer, error: Exception) -> str:
    """Return the line of an answer in which an error arose, empty if it is none of its lines.

    >>> def halve(x):
    ...     return x / 0
    >>> place(halve, run(halve, lambda answer: {"half": answer(1)}).outcome)
    'line 2: return x / 0'
    """
    frames = _frames(answer, error)
    if not frames:
        return ""
    frame, line = frames[-1]
    source = linecache.getline(frame.f_code.co_filename, line).strip()
    return f"line {line}: {source}".removesuffix(": ")


def _frames(answer: Answer, error: BaseException) -> list[tuple[FrameType, int]]:
    """Return those frames of a traceback that run the answer's own code."""
    codes = codes_of(answer)
    frames = traceback.walk_tb(error.__traceback__)
    return [(frame, line) for frame, line in frames if id(frame.f_code) in codes]


def _is_empty(answer: Answer) -> bool:
    """Tell whether a function is `pass`, `...`, a docstring or `return None` and no more."""
    code = getattr(unwrap(answer), "__code__", None)
    return isinstance(code, CodeType) and len(code.co_code) == len(_NOTHING.co_code)


_NOTHING = (lambda: None).__code__


# --- whose code runs -----------------------------------------------------------------------------


def unwrap(item: Any) -> Any:
    """Return the function under partial, method, lru_cache, no_grad and functools.wraps.

    >>> unwrap(functools.partial(torch.no_grad()(describe)))
    <function describe at ...>
    """
    for _ in range(100):  # who knows what a wrapper wraps
        if isinstance(item, functools.partial):
            item = item.func
        elif hasattr(item, "__wrapped__"):
            item = item.__wrapped__
        elif hasattr(item, "__func__"):
            item = item.__func__
        else:
            break
    return item


def codes_of(item: Any) -> set[int]:
    """Return the id of a function's code, or those of all methods of a class.

    By identity, for code objects are equal where somebody has written the same line himself. A
    function written in C has no code; its own id stands for it.

    >>> codes_of(describe) == {id(describe.__code__)}
    True
    """
    item = unwrap(item)
    if isinstance(item, type):
        return {code for method in vars(item).values() for code in codes_of(method)}
    if isinstance(item, BuiltinFunctionType):
        return {id(item)}
    code = getattr(item, "__code__", None)
    return {id(code)} if isinstance(code, CodeType) else set()


@contextmanager
def calls(codes: Set[int]) -> Iterator[list[int]]:
    """Note which of some codes are called.

    >>> with calls(codes_of(describe)) as called:
    ...     _ = describe(None)
    >>> len(called)
    1
    """
    called: list[int] = []

    def note(frame: FrameType, event: str, function: Any) -> None:
        code = id(function if event == "c_call" else frame.f_code)
        if event in ("call", "c_call") and code in codes:
            called.append(code)

    if not codes or sys.getprofile() is not None:  # there can be one profiler, say %prun
        yield called
        return
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


def _functions(owner: Any) -> dict[str, Any]:
    inherited = vars(Tensor.__base__) if owner is Tensor else {}
    return {name: f for name, f in {**inherited, **vars(owner)}.items() if callable(f)}


_ORIGINALS = [(owner, _functions(owner)) for owner in (torch, F, Tensor)]


def _restore() -> list[tuple[Any, str, Any]]:
    """Undo what was replaced in torch; return where, by which name, and what stood there."""
    replaced = []
    for owner, originals in _ORIGINALS:
        now = _functions(owner)
        if now != originals:
            names = [name for name, f in originals.items() if now.get(name) is not f]
            replaced += [(owner, name, now[name]) for name in names if name in now]
            for name in names:
                setattr(owner, name, originals[name])
    return replaced


@contextmanager
def original_torch() -> Iterator[None]:
    """Put back for a while what torch was made of when this module was imported.

    Somebody may have replaced a function or a tensor's method, by accident or to make any answer
    look right. What was added, not replaced, stays. Default device and dtype are torch's own.

    >>> torch.sqrt = lambda x: x
    >>> with original_torch():
    ...     torch.sqrt(torch.tensor(4.0))
    tensor(2.)
    >>> _restore()
    [(<module 'torch' ...>, 'sqrt', <function ...>)]
    """
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in _restore():
            stack.callback(setattr, owner, name, replacement)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        yield


# --- what an answer changes ----------------------------------------------------------------------


def _global_states() -> list[Any]:
    of_numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (who uses it is to be found out)
    return [torch.get_rng_state(), of_numpy, random.getstate()]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (on the CPU), numpy and Python for a while.

    >>> before = torch.get_rng_state()
    >>> with seeded(0):
    ...     _ = torch.rand(1)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    of_torch, of_numpy, of_python = _global_states()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(of_torch)
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


def unchanged(a: Any, b: Any) -> bool:
    """Tell whether two arguments, nested or not, hold the same numbers.

    >>> unchanged({"x": [torch.zeros(2)]}, {"x": [torch.ones(2)]})
    False
    """
    if isinstance(a, Tensor):
        same = isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype
        return same and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if hasattr(a, "state_dict"):  # modules and optimizers
        return unchanged(a.state_dict(), b.state_dict())
    if isinstance(a, dict):
        return list(a) == list(b) and all(unchanged(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(unchanged, a, b))
    if is_dataclass(a):
        return all(unchanged(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return not isinstance(a, int | float | str) or bool(a == b)

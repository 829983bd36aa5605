"""Words for a wrong result: what differs, and which of its properties is at fault."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

INF = math.inf
CLOSE = 1e-3  # of the largest error: a pattern is named, not proved
CLEARLY = 10.0  # tolerances that tell a wrong item from a right one
ROUNDED = 1e-5  # of the largest number: what float32 may do to a right answer

# what errors of torch that everybody meets mean, by a part of their text
ERRORS = {
    "must match the size of tensor": (
        "Shapes are matched from the last dimension backwards, and sizes must be equal or 1: "
        "beside (B, C, H, W), a (B,) has to become (B, 1, 1, 1)."
    ),
    "received an invalid combination of arguments": (
        "Compare what was got with what is expected: sizes are tuples, as in (n,), and what stands "
        "after the * is given by name, as in generator=generator."
    ),
    "not implemented for 'Long'": (
        "torch cannot do this with integers: it takes a floating-point tensor, or a dtype by name."
    ),
    "dim must be a 2-tuple": (
        "A norm over several dimensions at once is read as that of a matrix: flatten(1) first, "
        "then norm(dim=1)."
    ),
}


def describe(value: Any) -> str:
    """Name a value by type and shape.

    >>> describe(torch.zeros(2, 3))
    'a float32 tensor of shape (2, 3)'
    """
    if isinstance(value, Tensor):
        return f"a {str(value.dtype)[6:]} tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple) and (parts := getattr(type(value), "__match_args__", ())):
        return f"the {' and '.join(parts)} that {type(value).__name__} gives together"
    if isinstance(value, tuple | list):
        packed = [i for i, v in enumerate(value) if isinstance(v, tuple) and _holds_tensors(v)]
        nested = "".join(f" whose item {i} is a tuple itself: unpack it" for i in packed[:1])
        return f"a {type(value).__name__} of {len(value)}{nested}"
    if isinstance(value, bool | int | float | str):
        return f"the {type(value).__name__} {value!r}"[:80]
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(part, Tensor) for part in value)


def summary(inputs: Mapping[str, Any]) -> str:
    """Name the arguments with their dtypes and shapes.

    >>> summary({"x_0": torch.zeros(5, 3), "n_steps": 1000, "generator": torch.Generator()})
    'x_0 float32 (5, 3), n_steps 1000, generator Generator'
    """
    parts = []
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            parts.append(f"{name} {str(value.dtype)[6:]} {tuple(value.shape)}")
        elif isinstance(value, bool | int | float | str):
            parts.append(f"{name} {value!r}")
        else:
            parts.append(f"{name} {type(value).__name__}")
    return ", ".join(parts)


def difference(
    name: str, mine: Any, right: Any, inputs: Mapping[str, Any], spread: Tensor | float = 0.0
) -> str:
    """Say in one line how far a result is off and where.

    Args:
        name: Of the result.
        mine: The result.
        right: What was expected.
        inputs: The arguments, by name.
        spread: How far an estimate may be off by chance.

    >>> difference("x_t", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), {})
    'x_t is wrong by up to 0.5 (at [1]: yours 2, expected 2.5).'
    """
    name = name[0].upper() + name[1:] if " " in name else name
    if not isinstance(mine, Tensor) or not isinstance(right, Tensor):
        return f"{name} is {_short(mine)}; expected {_short(right)}."
    if mine.shape != right.shape:
        return f"{name} has the shape {tuple(mine.shape)}; expected {tuple(right.shape)}."
    half = mine.is_floating_point() and mine.dtype.itemsize < 4
    if half or mine.is_floating_point() != right.is_floating_point():
        return f"{name} has the dtype {mine.dtype}; expected {right.dtype}."
    if not mine.numel():
        return f"{name} is empty."
    a, b = mine.double(), right.double()
    off = _distance(a, b)
    worst = tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape))
    size = float(off[worst])
    place = f"at {list(worst)}: " if worst else ""
    yours, expected = _told_apart(float(a[worst]), float(b[worst]))
    if isinstance(spread, Tensor):
        expected = f"about {b[worst]:.2g}"
    values = f"{place}yours {yours}, expected {expected}"
    t = inputs.get("t")
    if worst and isinstance(t, Tensor) and t.ndim == 1 and len(t) == len(a):
        values += f", where t = {t[worst[0]].item():g}"
    return f"{name} is {f'wrong by up to {size:.3g}' if size < INF else 'not finite'} ({values})."


def hint(
    mine: Any,
    right: Any,
    inputs: Mapping[str, Any],
    spread: Tensor | float = 0.0,
    constant: bool = False,
) -> str:
    """Name the property of a wrong result that is at fault, empty if none stands out.

    Args:
        mine: The result.
        right: What was expected.
        inputs: The arguments, by name.
        spread: How far an estimate may be off by chance.
        constant: Whether the result is the same for different arguments, and should not be.

    >>> hint(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), {})
    'Everywhere it is 0.5 times what it should be.'
    """
    if not isinstance(mine, Tensor) or not isinstance(right, Tensor):
        return ""
    if mine.is_complex() or not mine.numel():
        return ""
    if constant:
        return "It is the same whatever the arguments are."
    if mine.shape != right.shape:
        return _about_shapes(mine, right)
    a, b = mine.double(), right.double()
    if mine.is_floating_point() and not right.is_floating_point() and torch.equal(a, b):
        if right.dtype == torch.bool:
            return "The numbers are right; true or false is asked for: `.bool()` makes them."
        return "The numbers are right; whole numbers are asked for: `.long()` makes them."
    if (a.isnan() & ~b.isnan()).any():
        return (
            "It holds NaN: a division of 0 by 0, the mean of nothing, or a root or logarithm of a "
            "negative number?"
        )
    if (a.isinf() & ~b.isinf()).any():
        return "It holds infinite numbers: a division by 0, or an exponential that grows too large?"
    worst = float(_distance(a, b).max())
    tolerance = CLOSE * min(worst, _largest(b)) + ROUNDED * _largest(b)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == a.shape and _near(a, value, tolerance):
            return f"It is the argument {name} itself."
    if isinstance(spread, Tensor):
        return _about_items(a, b, inputs, tolerance + spread, 1.0)
    found = ""
    if worst > 2 * tolerance:
        found = _about_patterns(a, b, tolerance) or _about_items(a, b, inputs, tolerance, CLEARLY)
    if not found and worst < 0.01 * _largest(b):
        return "It comes close everywhere, but rounding does not explain the difference."
    return found or _about_moments(a, b)


def hint_for_error(error: Exception) -> str:
    """Explain an error of torch that everybody meets, empty if it is none of these.

    >>> hint_for_error(KeyError("x"))
    ''
    """
    return next((words for part, words in ERRORS.items() if part in str(error)), "")


def _about_shapes(mine: Tensor, right: Tensor) -> str:
    a, b = mine.double(), right.double()
    tolerance = ROUNDED * _largest(b)
    if mine.numel() == right.numel() and _near(a.flatten(), b.flatten(), tolerance):
        return "The numbers are right; only the shape is not."
    if mine.ndim == 2 and mine.T.shape == right.shape and _near(a.T, b, tolerance):
        return "The numbers are right, but rows and columns are exchanged."
    if mine.ndim == right.ndim == 1 and abs(len(a) - len(b)) == 1:
        longer, shorter, said = (a, b, "too many") if len(a) > len(b) else (b, a, "missing")
        for end, others in (("first", longer[1:]), ("last", longer[:-1])):
            if _near(others, shorter, tolerance):
                return f"One entry is {said}, the {end}; the others are right."
    if right.ndim and mine.shape == (len(right), *right.shape):
        return (
            "Every item meets every item of the batch: shapes are matched from the last dimension "
            "backwards, so (B, 1, 1, 1) and (B, C, L) do not lie along each other."
        )
    return ""


def _about_items(
    a: Tensor, b: Tensor, inputs: Mapping[str, Any], tolerance: Tensor | float, clearly: float
) -> str:
    """Tell which rows, columns and so on are wrong by so many tolerances, where some are right."""
    off = _distance(a, b) / tolerance
    parts = []
    for dim, n in enumerate(off.shape):
        error = off.movedim(dim, 0).reshape(n, -1).amax(1)
        wrong = error > clearly
        if wrong.all() or not wrong.any() or (error[~wrong] > 1).any():
            continue
        t = inputs.get("t") if dim == 0 else None
        if isinstance(t, Tensor) and t.shape == wrong.shape:
            bad, good = sorted({*t[wrong].tolist()}), sorted({*t[~wrong].tolist()})
            if not {*bad} & {*good}:
                parts.append(f"It is wrong at t = {_listed(bad)} and right at t = {_listed(good)}.")
                continue
        few, word = (wrong, "wrong") if 2 * wrong.sum() <= n else (~wrong, "right")
        kinds = {1: ("entries",), 2: ("rows", "columns")}.get(off.ndim, ())
        kind = kinds[dim] if kinds else f"indices of dimension {dim}"
        which = few.nonzero().flatten().tolist()
        be = "is" if len(which) == 1 else "are"
        parts.append(f"Of its {n} {kind} only {len(which)} {be} {word}: {_listed(which)}.")
    return " ".join(parts)


def _about_patterns(a: Tensor, b: Tensor, tolerance: float) -> str:
    """Recognise one number only, a constant factor or offset, the right numbers in disorder."""
    if a.numel() < 2:
        return ""
    if (a == a.flatten()[0]).all():
        return f"Each of its numbers is {a.flatten()[0]:.4g}."
    factor = float((a * b).sum() / b.square().sum().clamp(min=1e-300))
    if _near(a, factor * b, tolerance) and not _near(a, 0 * a, tolerance):
        return f"Everywhere it is {_told_apart(factor, 1.0, 3)[0]} times what it should be."
    offset = float((a - b).mean())
    if _near(a, b + offset, tolerance):
        return f"Everywhere it is off by the same {offset:+.3g}."
    disorder = bool(((b != b.min()) & (b != b.max())).any())  # not just ones and zeros
    if disorder and _near(a.flatten().sort().values, b.flatten().sort().values, tolerance):
        return "The numbers are right, but in another order."
    return ""


def _about_moments(a: Tensor, b: Tensor) -> str:
    """Compare mean and standard deviation, where there is enough to tell them from chance."""
    if a.numel() < 30:
        return ""
    parts = [
        "its {} is {}, expected {}".format(name, *_told_apart(float(mine), float(right), 3))
        for name, mine, right, share in (
            ("mean", a.mean(), b.mean(), 0.1),
            ("standard deviation", a.std(), b.std(), 0.05),
        )
        if abs(mine - right) > share * b.std()
    ]
    return (", and ".join(parts)).capitalize() + "." if parts else ""


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return |a - b|: 0 where both are the same infinity or NaN, infinite where one is NaN."""
    same = (a == b) | (a.isnan() & b.isnan())
    return (a - b).abs().nan_to_num(INF, INF).masked_fill(same, 0)


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and bool((_distance(a, b.double()) <= tolerance).all())


def _largest(b: Tensor) -> float:
    finite = b[b.isfinite()]
    return max(float(finite.abs().max()), 1e-30) if finite.numel() else 1.0


def _told_apart(a: float, b: float, n_digits: int = 4) -> tuple[str, str]:
    """Write two numbers with as many digits as it takes to tell them apart."""
    for n in range(n_digits, 18):
        if f"{a:.{n}g}" != f"{b:.{n}g}":
            break
    return f"{a:.{n}g}", f"{b:.{n}g}"


def _listed(numbers: list[Any]) -> str:
    text = ", ".join(f"{n:g}" for n in numbers[:4])
    return f"{text}, ..." if len(numbers) > 4 else text


def _short(value: Any) -> str:
    """Show what can be shown in a few characters, and describe the rest."""
    shown = value if isinstance(value, str) else repr(value)
    return shown if not isinstance(value, Tensor) and len(shown) < 60 else describe(value)

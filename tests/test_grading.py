"""The checks: each mistake gets its own sentence, each right answer passes, nothing fools them."""

import contextlib
import functools
import io
import math
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from torch import Tensor, nn
from torch.nn import functional as F

import variants
from minidiff.grading import Check, CheckFailed, Draw, Estimate, task

SEEDS = range(5)
WRITTEN = "Nothing is written here yet"
BORROWED = "This lets a ready-made function do the work"

TASKS = {
    f"{chapter[-2:]}-{name}": (chapter, check)
    for chapter, checks in variants.CHECKS.items()
    for name, check in checks.items()
}
MISTAKES = {
    f"{key}-{name}": (check, name)
    for key, (_, check) in TASKS.items()
    for name in check.misconceptions
}
RIGHT = {
    f"{key}-{function.__name__}": (check, function)
    for key, (chapter, check) in TASKS.items()
    for function in variants.variants(chapter).get(check.name, ())
}

each_task = pytest.mark.parametrize("check", [c for _, c in TASKS.values()], ids=TASKS)
each_mistake = pytest.mark.parametrize(("check", "name"), MISTAKES.values(), ids=MISTAKES)
each_variant = pytest.mark.parametrize(("check", "function"), RIGHT.values(), ids=RIGHT)


def complaint(check: Check, answer, seed=0) -> CheckFailed:
    """Return how a check rejects an answer."""
    with pytest.raises(CheckFailed) as failed:
        check(answer, seed)
    return failed.value


def verdict(check: Check, answer, seed=0) -> str:
    """Return what a check prints last of a right answer."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        check(answer, seed)
    return printed.getvalue().splitlines()[-1]


def said(failed: CheckFailed) -> str:
    """Return a message without its line breaks."""
    return " ".join(str(failed).split())


def first_call(check: Check):
    """Return arguments and result of the reference, as the check calls it."""
    calls = []

    def noted(*args):
        calls.append((args, check.reference(*args)))
        return calls[-1][1]

    check.outcome(noted, 0, 0)
    return calls[0]


# --- the tasks of all chapters --------------------------------------------------------------------


@each_mistake
def test_a_misconception_is_rejected_with_its_own_sentence(check, name):
    mistake = check.misconceptions[name]
    for seed in SEEDS:
        failed = complaint(check, mistake, seed)
        assert failed.misconception == name, f"{seed=}: {failed}"
        assert " ".join(mistake.__doc__.split()) in said(failed)


@each_mistake
def test_a_misconception_has_one_to_four_sentences(check, name):
    text = re.sub(r"\b(eq|eqs|e\.g|i\.e|sec|al)\. ", "", check.misconceptions[name].__doc__)
    assert 1 <= len(re.findall(r"[.?!][)\"]?(?=\s|$)", text)) <= 4, text


@each_task
def test_there_are_three_misconceptions_or_more(check):
    assert len(check.misconceptions) >= 3


@each_task
def test_no_two_misconceptions_are_taken_for_each_other(check):
    for seed in SEEDS:
        distance, enough, pair = variants.closest(check, seed)
        assert enough >= 1, f"{seed=}: {pair} are {distance:.2g} tolerances apart"


@each_task
def test_points_and_words(check):
    assert isinstance(check.points, int)
    assert check.points > 0
    assert check.__doc__


@each_task
def test_the_reference_written_once_more_passes(check):
    for seed in SEEDS:
        check(variants.fresh_copy(check.reference), seed)


@each_task
def test_what_the_reference_gives_is_finite_and_varies(check):
    cases = range(check.n_cases)
    outcomes = [check.outcome(check.reference, seed, case) for seed in SEEDS for case in cases]
    for outcome in outcomes:
        for name, value in outcome.items():
            value = getattr(value, "value", value)
            assert not isinstance(value, Tensor) or value.isfinite().all(), name
    assert any(not check.agree(outcomes[0], other, 0, 0) for other in outcomes[1:])


@each_variant
def test_a_right_answer_in_another_style_passes(check, function):
    for seed in SEEDS:
        check(function, seed)


@pytest.mark.parametrize("chapter", variants.CHECKS)
def test_each_task_has_three_variants_and_each_variant_a_task(chapter):
    right = variants.variants(chapter)
    assert right.keys() == variants.CHECKS[chapter].keys()
    for functions in right.values():
        assert len({function.__name__ for function in functions}) == len(functions) >= 3


@each_task
def test_an_empty_function_is_rejected_kindly(check):
    def raises(*_):
        raise NotImplementedError

    def dots(*_): ...

    def documented(*_):
        """Do the task."""

    def ellipsis(*_):
        return ...

    for stub in (raises, dots, documented, ellipsis, lambda *_: None):
        assert WRITTEN in str(complaint(check, stub))


@each_task
def test_what_does_no_work_is_rejected(check):
    args, result = first_call(check)

    def nothing(*args):
        args = args[0]

    def constant(*_):
        return result

    def zeros(*_):
        if isinstance(result, tuple):
            return tuple(torch.zeros_like(r) for r in result)
        return torch.zeros_like(result) if isinstance(result, Tensor) else 0

    assert result is None or complaint(check, constant)
    for answer in (nothing, zeros, None, 1.5, result, torch.nn.Identity, dict):
        assert complaint(check, answer)
    for i, arg in enumerate(args):
        if not isinstance(arg, nn.Module):
            assert complaint(check, lambda *args, i=i: args[i])


@each_task
def test_the_work_of_others_is_refused(check):
    for function in (check.reference, *check.package):
        for answer in (function, functools.partial(function)):
            assert BORROWED in str(complaint(check, answer))
    assert BORROWED in str(complaint(check, lambda *args: check.reference(*args)))


@each_task
def test_a_check_is_quick(check):
    answer = variants.fresh_copy(check.reference)
    seconds = []
    for seed in range(7):
        begin = time.process_time()  # what other programs take does not count
        check(answer, seed)
        seconds.append(time.process_time() - begin)
    assert min(seconds) < 0.05


def test_the_checks_need_nothing_that_only_notebooks_need():
    code = f"""if True:
        import sys
        for chapter in {variants.CHAPTERS}:
            __import__("minidiff.grading." + chapter)
        print({{"IPython", "matplotlib", "nbgrader"}} & sys.modules.keys())"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# --- the engine: what it says ---------------------------------------------------------------------


def inputs(draw):
    return {"x": draw.normal(draw.integer(4, 9), 3), "t": draw.timesteps(5, 100)}


@task(points=2, inputs=inputs)
def scale(x, t):
    """Twice x plus its largest number."""
    return 2 * x + x.max()


@scale.misconception
def thrice(x, t):
    """Twice, not three times."""
    return 3 * x + x.max()


@scale.misconception
def wrong_sizes(x, t):
    """The sizes do not fit."""
    return 2 * x + t


def right(x, t):
    return 2 * x + x.max()


def test_a_right_answer_gets_its_points(capsys):
    assert scale(right) is None
    assert capsys.readouterr().out == "✓ 2/2  scale\n"


def test_the_message_says_what_differs_where_and_why():
    failed = complaint(scale, lambda x, t: x + x + x + x.max(), seed=7)
    first, second, third, fourth, fifth = str(failed).splitlines()
    assert first == "✗ 0/2  scale"
    assert re.fullmatch(
        r"The result is wrong by up to [\d.]+ \(at \[\d, \d\]: yours .+, expected .+\)\.", second
    )
    assert third == "Twice, not three times."
    assert fourth == f"Seen with x float64 {tuple(scale.inputs(7)['x'].shape)}, t int64 (5,)."
    assert fifth == "To look at it: check.scale.inputs(seed=7, case=0)"
    assert failed.misconception == "thrice"


def test_the_seed_in_the_message_gives_the_same_inputs_again():
    failed = str(complaint(scale, thrice, seed=None))
    seed, case = map(int, re.search(r"inputs\(seed=(\d+), case=(\d+)\)", failed).groups())
    again = scale.inputs(seed, case)
    assert f"x float64 {tuple(again['x'].shape)}" in failed
    assert torch.equal(again["x"], scale.inputs(seed, case)["x"])
    assert str(complaint(scale, thrice, seed)) == failed


@pytest.mark.parametrize("options", [{"points": 0}, {"points": 1.5}, {"points": 1, "n_cases": 0}])
def test_a_task_worth_nothing_or_tried_on_nothing_is_refused(options):
    with pytest.raises(ValueError, match="must be a positive integer, got"):
        task(inputs=inputs, **options)(right)


def test_an_empty_range_has_no_integer():
    with pytest.raises(ValueError, match="low must be below high = 3, got 3"):
        Draw(0, 0).integer(3, 3)


def test_asking_for_inputs_that_there_are_not_is_explained():
    for case in (-1, scale.n_cases):
        with pytest.raises(ValueError, match=rf"case must be in \[0, 4\), got {case}"):
            scale.inputs(seed=0, case=case)


def test_each_call_draws_fresh_inputs():
    seen = []
    for _ in range(2):
        scale(lambda x, t: (seen.append(x.clone()), right(x, t))[1])
    assert len({x.sum().item() for x in seen}) == 2 * scale.n_cases
    assert len({x.shape for x in seen}) > 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, t: right(x, t).T, "rows and columns are exchanged"),
        (lambda x, t: right(x, t).flatten(), "only the shape is not"),
        (lambda x, t: right(x, t).half(), "has the dtype torch.float16; expected torch.float64"),
        (lambda x, t: 0.5 * right(x, t), "Everywhere it is 0.5 times what it should be"),
        (lambda x, t: 1.0004 * right(x, t), "Everywhere it is 1.0004 times what it should be"),
        (lambda x, t: right(x, t) + 3, "Everywhere it is off by the same +3"),
        (lambda x, t: right(x, t) + 4e-4, "Everywhere it is off by the same +0.0004"),
        (lambda x, t: right(x, t) + 1e-3 * x.sin(), "but rounding does not explain the difference"),
        (lambda x, t: right(x, t)[None].expand(len(x), -1, -1), "Every item meets every item"),
        (lambda x, t: (right(x, t) + t.min()) * x[:, 0], "shapes are matched from the last"),
        (lambda x, t: right(x, t) + torch.rand(5, t), "sizes are tuples"),
        (lambda x, t: right(x, t).flip(0), "The numbers are right, but in another order"),
        (lambda x, t: right(x, t) + 0j, "has the dtype torch.complex128; expected torch.float64"),
        (lambda x, t: x, "It is the argument x itself"),
        (lambda x, t: torch.ones(2, 2), "It is the same whatever the arguments are"),
        (lambda x, t: torch.zeros_like(x), "Each of its numbers is 0"),
        (lambda x, t: right(x, t) / 0, "The result is not finite (at [0, 0]: yours "),
        (lambda x, t: right(x, t) / 0, "It holds infinite numbers"),
        (lambda x, t: right(x, t) * float("nan"), "yours nan, expected "),
        (lambda x, t: (-right(x, t).abs()).sqrt(), "a root or logarithm of a negative number?"),
        (lambda x, t: torch.cat([right(x, t)[:-1], x[-1:]]), "rows only 1 is wrong: "),
        (lambda x, t: torch.cat([right(x, t)[:1], 3 * x[1:]]), "rows only 1 is right: 0."),
        (lambda x, t: torch.cat([right(x, t)[:, :2], x[:, 2:]], 1), "columns only 1 is wrong: 2."),
        (lambda x, t: (right(x, t),), "It returns a tuple of 1 for the result; expected a tensor"),
        (
            lambda x, t: right(x, t).max(0),
            "It returns the values and indices that max gives together",
        ),
        (lambda x, t: [right(x, t)], "It returns a list of tensors for the result; torch.stack"),
        (lambda x, t: [x.tolist(), [1.0]], "It returns a list of 2 for the result; expected a"),
        (lambda x, t: {"x": x}, "It returns an object of type dict"),
        (lambda x, t: print("x", end=""), "or the `return` missing"),
        (lambda x: x, "It raised TypeError"),
        (lambda x, t: sys.exit(), "It calls exit()"),
    ],
)
def test_where_no_mistake_is_recognised_the_property_is_named(answer, words):
    failed = complaint(scale, answer)
    assert words.lower() in said(failed).lower()
    assert failed.misconception is None
    prose = [line for line in str(failed).splitlines() if not line.startswith("in line ")]
    assert max(map(len, prose)) <= 96


def test_complex_numbers_for_real_ones_are_no_matter_of_chance():
    def turned(x, t):
        return right(x, t).mul(1j)

    assert "Called twice" not in said(complaint(scale, turned))
    assert "Called twice" in said(complaint(scale, lambda x, t: turned(x, t) + torch.rand(1)))


def test_right_numbers_of_the_wrong_kind_are_called_right():
    @task(points=1, inputs=lambda draw: {"x": draw.normal(5)}, outputs=("signs", "above"))
    def kinds(x):
        """Signs, and what is above 0."""
        return x.sign().long(), x > 0

    failed = complaint(kinds, lambda x: (x.sign(), x > 0))
    assert "whole numbers are asked for: `.long()` makes them" in said(failed)
    failed = complaint(kinds, lambda x: (x.sign().long(), (x > 0).double()))
    assert "true or false is asked for: `.bool()`" in said(failed)


def test_of_two_numbers_none_is_in_another_order():
    @task(points=1, inputs=lambda draw: {"k": draw.timesteps(4, 9)})
    def marks(k):
        """A one in each row."""
        return F.one_hot(k, 9).float()

    failed = complaint(marks, lambda k: F.one_hot((k + 1) % 9, 9).float())
    assert "another order" not in said(failed)


def test_an_error_is_shown_with_its_line():
    def fails(x, t):
        y = x.sum()
        return y @ x

    assert "It raised RuntimeError: " in str(complaint(scale, fails))
    assert re.search(r"\nin line \d+: return y @ x\n", str(complaint(scale, fails)))


def test_an_error_without_its_source_is_shown_with_the_number_of_its_line():
    namespace = {}
    exec("def fails(x, t):\n    return x.no_such_method()", namespace)
    assert "\nin line 2\nSeen with" in str(complaint(scale, namespace["fails"]))


def test_an_error_is_recognised_whichever_way_round_it_is_written():
    assert complaint(scale, lambda x, t: t + 2 * x).misconception == "wrong_sizes"
    assert complaint(scale, lambda x, t: x @ x @ x).misconception is None


def test_an_error_of_torch_is_no_empty_function():
    def no_forward(x, t):
        return nn.Module()(x)

    assert WRITTEN not in str(complaint(scale, no_forward))
    assert "It raised NotImplementedError: Module" in str(complaint(scale, no_forward))

    def integers(x, t):
        return torch.rand_like(t)

    assert WRITTEN not in str(complaint(scale, integers))
    assert "torch cannot do this with integers" in said(complaint(scale, integers))


def test_calling_the_function_in_place_of_giving_it_is_explained():
    assert "without calling it: check.scale(your_function)" in said(complaint(scale, torch.ones(3)))


def test_wrong_and_right_timesteps_are_listed():
    @task(points=1, inputs=lambda draw: {"t": draw.timesteps(4, 9), "x": draw.normal(4, 2)})
    def late(t, x):
        """X."""
        return x

    failed = complaint(late, lambda t, x: torch.where(t[:, None] == 0, 0.0, x))
    assert "It is wrong at t = 0 and right at t = " in str(failed)
    assert "where t = 0)" in str(failed)


def test_the_moments_are_named():
    @task(points=1, inputs=lambda draw: {"x": draw.normal(50, 50)})
    def spread(x):
        """X."""
        return x

    failed = str(complaint(spread, lambda x: (3 * x + 1).flip(1)))
    assert "Its mean is " in failed
    assert "its standard deviation is " in failed


# --- the engine: no false alarm -------------------------------------------------------------------


@torch.no_grad()
def without_gradients(x, t):
    return right(x, t)


@torch.inference_mode()
def in_inference_mode(x, t):
    return right(x, t)


class Callable:
    def method(self, x, t):
        return right(x, t)

    def __call__(self, x, t):
        return right(x, t)


def on_a_copy(x, t):
    x = x.clone()
    x *= 2
    return x.add_(x.max() / 2)


@pytest.mark.parametrize(
    "answer",
    [
        without_gradients,
        in_inference_mode,
        functools.partial(right),
        functools.lru_cache(right),
        Callable(),
        Callable().method,
        on_a_copy,
        lambda x, t: right(x, t).float(),
        lambda x, t: right(x, t).requires_grad_(),
        lambda x, t: nn.Parameter(right(x, t)),
        lambda x, t: right(x, t).to_sparse(),
        lambda x, t: right(x, t).numpy(),
        lambda x, t: right(x, t).numpy()[::-1].copy()[::-1],
        lambda x, t: right(x, t).tolist(),
        lambda x, t: right(x.flip(0), t).flip(0),
        lambda x, t: (print("a trace"), right(x, t))[1],
    ],
)
def test_a_right_answer_passes_whatever_its_kind(answer):
    assert verdict(scale, answer).startswith("✓")


def test_numbers_of_python_are_tensors_too():
    @task(points=1, inputs=lambda draw: {"x": draw.normal(3)}, outputs=("mean", "count", "any"))
    def three(x):
        """Mean, count, and whether one is positive."""
        return x.mean(), torch.tensor(len(x)), (x > 0).any()

    three(lambda x: [sum(x.tolist()) / 3, len(x), bool((x > 0).any())])
    three(lambda x: (x.numpy().mean(), np.int64(3), np.bool_((x > 0).any())))
    assert "count has the dtype" in str(complaint(three, lambda x: (x.mean(), 3.0, (x > 0).any())))
    assert "It should return mean and count and any" in str(complaint(three, lambda x: x))
    assert "It returns a tuple of 2 for mean; expected a tensor: unpack it" in str(
        complaint(three, lambda x: ((x, x), 3, True))
    )


def test_what_is_not_finite_may_be_expected():
    @task(points=1, inputs=lambda draw: {"x": draw.normal(3)})
    def odd(x):
        """1 / 0 and 0 / 0 beside x."""
        return torch.cat([x, torch.tensor([math.inf, math.nan])])

    odd(lambda x: torch.cat([x + 1e-9, torch.tensor([math.inf, math.nan])]))
    assert "Of its 5 entries only 2 are right: 3, 4." in str(
        complaint(odd, lambda x: torch.cat([2 - x, torch.tensor([math.inf, math.nan])]))
    )
    assert complaint(odd, lambda x: torch.cat([x, torch.tensor([-math.inf, math.nan])]))
    assert complaint(odd, lambda x: torch.cat([x, torch.tensor([math.nan, math.inf])]))


def test_an_empty_result_may_be_expected():
    @task(points=1, inputs=lambda draw: {"x": draw.normal(3)})
    def negative_squares(x):
        """Nothing."""
        return x[x.square() < 0]

    negative_squares(lambda x: x.new_empty(0))
    assert "has the shape (3,); expected (0,)" in str(complaint(negative_squares, lambda x: x))


def test_the_tolerance_is_that_of_float32_and_no_answer_can_widen_it():
    scale(lambda x, t: right(x, t) * (1 + 1e-6))
    assert complaint(scale, lambda x, t: right(x, t) * (1 + 1e-4))
    assert complaint(scale, lambda x, t: torch.cat([right(x, t)[:-1], 1e30 * x[-1:]]))


def noise_seen(answer, inputs):
    noise = answer(inputs["n_items"], inputs["generator"])
    return {"the mean": Estimate(noise.mean(), noise.std() / len(noise) ** 0.5)}


@task(
    points=1,
    inputs=lambda draw: {"n_items": draw.integer(800, 900), "generator": draw.generator},
    observe=noise_seen,
)
def noise(n_items, generator):
    """Standard normal noise, (N,)."""
    return torch.randn(n_items, generator=generator)


@pytest.mark.parametrize(
    "answer",
    [
        lambda n, g: -torch.randn(n, generator=g),
        lambda n, g: torch.cat([torch.randn(1, generator=g) for _ in range(n)]),
        lambda n, g: torch.from_numpy(
            np.random.default_rng(int(torch.randint(2**40, (), generator=g))).normal(size=n)
        ),
    ],
)
def test_an_answer_may_draw_in_its_own_way(answer):
    assert all(verdict(noise, answer, seed).startswith("✓") for seed in range(20))


def test_an_estimate_takes_its_tolerance_from_the_reference():
    assert "The mean is wrong" in str(
        complaint(noise, lambda n, g: 50 * torch.randn(n, generator=g) + 3)
    )


# --- the engine: randomness -----------------------------------------------------------------------


def seeds_torch(x, t):
    torch.manual_seed(0)
    return right(x, t)


def seeds_numpy(x, t):
    np.random.seed(0)  # noqa: NPY002
    return right(x, t)


def seeds_python(x, t):
    random.seed(0)
    return right(x, t)


seeds_before_it_is_imported = torch.random.manual_seed


@pytest.mark.parametrize(
    "answer",
    [
        seeds_torch,
        seeds_numpy,
        seeds_python,
        lambda x, t: (seeds_before_it_is_imported(3), right(x, t))[1],
    ],
)
def test_setting_a_global_seed_is_noticed(answer):
    assert "It sets the global seed" in str(complaint(scale, answer))


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, t: right(x, t) + torch.rand(()),
        lambda x, t: right(x, t) + np.random.rand(),  # noqa: NPY002
        lambda x, t: right(x, t) + random.random(),
        lambda x, t: right(x, t) + np.random.default_rng().random(),
        lambda x, t, count=[]: (count.append(1), right(x, t) + len(count))[1],
    ],
)
def test_results_that_depend_on_more_than_the_arguments_are_noticed(answer):
    assert "Called twice with the same arguments" in str(complaint(scale, answer))
    assert "Seen with x float64" in str(complaint(scale, answer))


def test_a_generator_must_be_used():
    assert "It draws nothing from the generator" in str(
        complaint(noise, lambda n, g: torch.randn(n, generator=torch.Generator().manual_seed(0)))
    )
    assert "depends on the global seed" in str(complaint(noise, lambda n, g: torch.randn(n)))


def states():
    of_numpy = str(np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().tolist(), of_numpy, random.getstate()


@pytest.mark.parametrize(
    "answer", [right, seeds_torch, seeds_numpy, seeds_python, lambda x, t: 1 / 0]
)
def test_the_callers_own_randomness_is_left_alone(answer):
    before = states()
    with pytest.raises(CheckFailed) if answer is not right else torch.enable_grad():
        scale(answer)
    assert states() == before


# --- the engine: side effects ---------------------------------------------------------------------


@dataclass(frozen=True)
class Frozen:
    values: Tensor


def nested(draw):
    layer = draw.module(lambda: nn.Linear(3, 1))
    return {
        "x": draw.normal(4, 3, dtype=(torch.float32, torch.float64)[draw.case % 2]),
        "context": {"labels": [draw.normal(2)]},
        "layer": layer,
        "optimizer": torch.optim.SGD(layer.parameters(), lr=0.1),
        "frozen": Frozen(draw.normal(3)),
    }


@task(points=1, inputs=nested)
def total(x, context, layer, optimizer, frozen):
    """The sum."""
    return x.double().sum()


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("x", lambda x, *_: x.add_(0.1)),
        ("x", lambda x, *_: x.double().mul_(2)),  # for float64 that is no copy
        ("context", lambda x, context, *_: context["labels"][0].zero_()),
        ("context", lambda x, context, *_: context.update(more=1)),
        ("layer", lambda x, context, layer, *_: layer.weight.data.zero_()),
        ("optimizer", lambda x, c, la, optimizer, f: optimizer.param_groups[0].update(lr=0.5)),
        ("frozen", lambda x, context, layer, optimizer, frozen: frozen.values.zero_()),
    ],
)
def test_a_changed_argument_is_noticed(name, harm):
    def answer(*args):
        result = args[0].double().sum()
        harm(*args)
        return result

    failed = said(complaint(total, answer))
    assert f"It changes its argument {name} in place" in failed
    assert "`x.clone()` is" in failed if name == "x" else f"copy.deepcopy({name})" in failed
    assert "Seen with x float" in failed


def test_a_change_is_shown_with_the_input_on_which_it_was_seen():
    def doubles(x, context, layer, optimizer, frozen):
        return x.double().mul_(2).sum() / 2  # for float64 that is no copy

    assert "Seen with x float64" in str(complaint(total, doubles))
    assert "case=1" in str(complaint(total, doubles))


def test_dropout_is_named_where_a_network_is_given():
    def dropped(x, context, layer, optimizer, frozen):
        return F.dropout(x.double(), 0.5).sum()

    assert "or on dropout, which a network's eval() turns off" in said(complaint(total, dropped))
    assert "dropout" not in said(complaint(scale, lambda x, t: F.dropout(x)))


def test_an_argument_that_is_to_be_changed_may_be():
    def after(answer, inputs):
        answer(inputs["x"])
        return inputs

    @task(points=1, inputs=lambda draw: {"x": draw.normal(3)}, observe=after, changes=("x",))
    def halve(x):
        """Halve x in place."""
        x.mul_(0.5)

    halve(lambda x: x.div_(2))
    assert WRITTEN in str(complaint(halve, lambda x: None))
    assert "x is wrong" in str(complaint(halve, lambda x: x / 2))


def test_one_buffer_for_all_results_is_seen_through():
    buffer = torch.empty(100, 3, dtype=torch.float64)

    def reuses(x, t):
        return buffer[: len(x)].copy_(right(x, t))

    assert verdict(scale, reuses).startswith("✓")


def test_what_is_printed_is_printed_once(capsys):
    scale(lambda x, t: (print("a"), print("b", file=sys.stderr), right(x, t))[2])
    assert capsys.readouterr() == ("a\n✓ 2/2  scale\n", "b\n")


# --- the engine: not fooled -----------------------------------------------------------------------


class Doubler:
    def __call__(self, x, t):
        return scale.reference(x, t)


class Module(nn.Module):
    def forward(self, x, t):
        return 2 * x + x.max()


class Subclass(Module):
    pass


@task(points=1, inputs=inputs, package=[Module])
def by_module(x, t):
    """Twice x plus its largest number."""
    return 2 * x + x.max()


@task(points=1, inputs=lambda draw: {"x": draw.normal(5), "dim": 0}, package=[torch.cumsum])
def summed(x, dim):
    """The sums through each x."""
    return torch.stack([x[: i + 1].sum() for i in range(len(x))])


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (scale, scale.reference),
        (scale, functools.partial(scale.reference)),
        (scale, torch.no_grad()(scale.reference)),
        (scale, lambda x, t: scale.reference(x, t)),
        (scale, lambda x, t: 1 * scale.reference(x.clone(), t)),
        (scale, lambda x, t: right(x, t) if len(x) < 6 else scale.reference(x, t)),
        (scale, Doubler()),
        (by_module, Module),
        (by_module, Module()),
        (by_module, Module().forward),
        (by_module, Subclass()),
        (by_module, lambda x, t: Subclass()(x, t)),
        (summed, torch.cumsum),
        (summed, functools.partial(torch.cumsum, dim=0)),
        (summed, lambda x, dim: 1 * torch.cumsum(x, dim)),
    ],
)
def test_the_package_does_not_do_the_work(check, answer):
    for seed in SEEDS:
        assert BORROWED in str(complaint(check, answer, seed))


def test_a_right_answer_need_not_avoid_what_is_like_the_forbidden():
    assert verdict(summed, lambda x, dim: x.cumsum(dim)).startswith("✓")


def test_inputs_may_be_made_with_what_is_forbidden_in_answers():
    def made(draw):
        return {"x": Module()(draw.normal(3), None), "t": draw.timesteps(2, 5)}

    @task(points=1, inputs=made, package=[Module])
    def twice(x, t):
        """Twice x."""
        return 2 * x

    assert verdict(twice, lambda x, t: x + x).startswith("✓")


def test_a_running_profiler_is_left_alone():
    seen = []
    sys.setprofile(lambda *event: seen.append(event))
    try:
        scale(right)
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(
    ("owner", "name", "replaced"),
    [
        (torch, "randn", lambda *size, **_: torch.zeros(*size)),
        (torch, "allclose", lambda *_, **__: True),
        (torch, "equal", lambda *_: True),
        (torch, "manual_seed", lambda _: None),
        (F, "mse_loss", lambda *_: torch.tensor(0.0)),
        (Tensor, "double", lambda self: self.new_zeros(self.shape)),
        (Tensor, "all", lambda self, *_: torch.tensor(True)),
        (Tensor, "max", lambda self, *_: torch.tensor(0.0)),
        (Tensor, "__sub__", lambda self, other: 0 * self),
    ],
)
def test_replacing_a_part_of_torch_helps_nobody(monkeypatch, owner, name, replaced):
    @task(points=1, inputs=lambda draw: {"x": draw.normal(4), "y": draw.normal(4)})
    def loss(x, y):
        """The mean squared error."""
        return F.mse_loss(x, y)

    monkeypatch.setattr(owner, name, replaced)
    try:
        loss(lambda x, y: F.mse_loss(x, y))
        loss(lambda x, y: torch.tensor(0.0))
    except CheckFailed as error:
        failed = str(error)
        assert getattr(owner, name) is replaced  # it is put back as it was found
    finally:
        monkeypatch.undo()
    assert "Each of its numbers is 0" in failed or "It is the same" in failed
    assert getattr(owner, name) is not replaced


def test_what_an_answer_does_to_torch_does_not_reach_the_reference(monkeypatch):
    def spoils(x, t):
        monkeypatch.setattr(torch.Tensor, "max", lambda self: 0.0)
        return 2 * x

    assert "Twice" not in str(complaint(scale, spoils))


def test_a_method_added_to_tensors_stays(monkeypatch):
    monkeypatch.setattr(Tensor, "twice", lambda self: 2 * self, raising=False)
    assert verdict(scale, lambda x, t: x.twice() + x.max()).startswith("✓")


def layer_and_x(draw):
    return {"layer": draw.module(lambda: nn.Linear(4, 4)), "x": draw.normal(4, dtype=torch.float32)}


def test_gradients_device_and_dtype_are_as_usual_whatever_the_notebook_set():
    @task(points=1, inputs=layer_and_x)
    def slope(layer, x):
        """The derivative of |layer(x)|^2."""
        x = x.clone().requires_grad_()
        return torch.autograd.grad(layer(x).square().sum(), x)[0]

    try:
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        slope(lambda layer, x: torch.full((), 2.0) * layer(x) @ layer.weight)
        assert not torch.is_grad_enabled()
        assert torch.get_default_device().type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def test_observing_what_cannot_be_used_is_no_crash():
    def seen(answer, inputs):
        a, b = answer(inputs["x"])
        return {"a": a, "b": b}

    @task(points=1, inputs=lambda draw: {"x": draw.normal(4)}, observe=seen)
    def pair(x):
        """X and its double."""
        return x, 2 * x

    @pair.misconception
    def triple(x):
        """Three are returned; give two."""
        return x, x, x

    assert complaint(pair, lambda x: [2 * x, x, x]).misconception is None
    assert complaint(pair, lambda x: (2 * x, 2 * x, x)).misconception == "triple"
    assert "It returns a tuple of 1, with which the check cannot go on" in str(
        complaint(pair, lambda x: (x,))
    )
    assert "a tuple of 1 whose item 0 is a tuple itself: unpack it, with which" in said(
        complaint(pair, lambda x: ((x, 2 * x),))
    )


def test_the_authors_mistakes_are_errors():
    with pytest.raises(ValueError, match="<lambda> must have a docstring"):
        scale.misconception(lambda x, t: x)

    @task(points=1, inputs=lambda draw: {"x": draw.normal(4)})
    def broken(x):
        """Fails."""
        raise KeyError("x")

    with pytest.raises(RuntimeError, match="the reference of broken fails"):
        broken(lambda x: x)


# --- in a notebook --------------------------------------------------------------------------------


def test_a_notebook_shows_the_message_alone_and_the_cell_has_failed():
    setup = "from minidiff.grading import chapter_01 as check\ndef mine(betas):\n    return betas"
    cells = map(nbformat.v4.new_code_cell, [setup, "check.alpha_bar(mine, seed=1)", "done = 1"])
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    with pytest.raises(CellExecutionError, match="It is the argument betas itself"):
        NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[1].outputs
    assert output.output_type == "error"
    assert output.ename == "CheckFailed"
    assert output.traceback == output.evalue.splitlines()
    assert output.traceback[0] == "✗ 0/1  alpha_bar"


def test_a_notebook_shows_the_line_of_the_cell_that_failed():
    answer = "def mine(betas):\n    # the product\n    return betas.cumprod()"
    setup = "from minidiff.grading import chapter_01 as check"
    cells = map(nbformat.v4.new_code_cell, [setup, answer, "check.alpha_bar(mine, seed=1)"])
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, kernel_name="python3").execute()
    assert notebook.cells[2].outputs[0].traceback[2] == "in line 3: return betas.cumprod()"

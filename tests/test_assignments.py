"""Assignments: from a solution to the exercise, through nbgrader, to points and feedback."""

import ast
import csv
import hashlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.nbgraderformat import MetadataValidator

import exercises
import grade
from kernel import ROOT
from minidiff.data import load_digits
from minidiff.forward import NoiseSchedule, cosine_schedule, linear_schedule
from minidiff.grading import Check
from notebooks import METADATA

TINY = "01_tiny"
SOLUTIONS = exercises.assignments()
every_solution = pytest.mark.parametrize("name", SOLUTIONS)
STUB = 'raise NotImplementedError("replace this line with your own")'
BLANK = "*Replace this line with your answer.*"


def marked(kind: str, grade_id: str, source: str, points: int | None = None) -> NotebookNode:
    marks = {
        "grade": points is not None,
        "grade_id": grade_id,
        "locked": kind in ("locked", "test"),
        "schema_version": 3,
        "solution": kind in ("solution", "written"),
        "task": False,
    }
    if points is not None:
        marks["points"] = points
    new_cell = new_markdown_cell if kind == "written" else new_code_cell
    return new_cell(source, metadata={"nbgrader": marks})


def task(name: str, argument: str, solution: str, open_test: str, hidden: str, points: int):
    body = f"    ### BEGIN SOLUTION\n    {solution}\n    ### END SOLUTION"
    test = f"{open_test}\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"
    return [
        marked("solution", name, f"def {name}({argument}):\n{body}"),
        marked("test", f"test-{name}", test, points),
    ]


def tiny_solution() -> NotebookNode:
    cells = [
        new_markdown_cell("# 01 · Tiny: exercises\n\n$\\sqrt{2}$"),
        marked("locked", "setup", "import math"),
        *task("double", "x", "return 2 * x", "assert double(2) == 4", "assert double(-3) == -6", 1),
        *task("root", "x", "return x**0.5", "assert root(4) == 2", "assert root(9) == 3", 2),
        *task(
            "norm",
            "x, y",
            "return math.hypot(x, y)",
            "assert norm(3, 4) == 5",
            "assert norm(5, 12) == 13",
            3,
        ),
        marked("written", "words", "Because it is so.\n\nRubric: 3 points for that.", 3),
    ]
    return new_notebook(cells=cells, metadata=METADATA)


def cell(notebook: NotebookNode, grade_id: str) -> NotebookNode:
    return next(
        c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id
    )


def solve(notebook: NotebookNode) -> NotebookNode:
    """Fill an exercise in, as a student does."""
    cell(notebook, "double").source = "def double(x):\n    return x + x"
    cell(notebook, "root").source = "def root(x):\n    return math.sqrt(x)"
    cell(notebook, "norm").source = "def norm(x, y):\n    return (x * x + y * y) ** 0.5"
    cell(notebook, "words").source = "In my own words."
    return notebook


# Each case alters a solved exercise; beside it the points that it still gets and what is remarked.
CASES: dict[str, tuple[Callable[[NotebookNode], object], list[float | None], str]] = {}


def case(points: list[float | None], remark: str = ""):
    def register(alter: Callable[[NotebookNode], object]):
        CASES[alter.__name__] = (alter, points, remark)
        return alter

    return register


def insert(notebook: NotebookNode, before: str, source: str) -> None:
    notebook.cells.insert(notebook.cells.index(cell(notebook, before)), new_code_cell(source))


@case([1, 2, 3, None])
def all_right(notebook):
    pass


@case([0, 2, 3, None])
def one_wrong(notebook):
    cell(notebook, "double").source = "def double(x):\n    return x**2"


@case([1, 0, 3, None])
def only_hidden_test_fails(notebook):
    cell(notebook, "root").source = "def root(x):\n    return 2"


@case([1, 2, 3, 0])
def question_not_answered(notebook):
    cell(notebook, "words").source = BLANK


@case([1, 2, 3, None])
def writes_warnings(notebook):
    insert(notebook, "double", "import sys, warnings")
    cell(notebook, "double").source = (
        "def double(x):\n    warnings.warn('look')\n    print('look', file=sys.stderr)\n"
        "    return 2 * x"
    )


@case([0, 2, 3, None], "test-double was altered, it is restored")
def a_test_tampered_with(notebook):
    cell(notebook, "double").source = "def double(x):\n    return 0"
    cell(notebook, "test-double").source = "assert True"


@case([1, 2, 3, None], "setup was altered, it is restored")
def setup_tampered_with(notebook):
    cell(notebook, "setup").source = "import sys"


@case([0, 2, 3, None], "test-double was altered")
def points_and_locks_tampered_with(notebook):
    cell(notebook, "double").source = "def double(x):\n    return 0"
    test = cell(notebook, "test-double")
    test.source = "assert True"
    test.metadata.nbgrader.update(points=100, solution=True, locked=False, schema_version=1)


@case([0, 2, 3, None])
def a_test_tagged_to_be_skipped(notebook):
    cell(notebook, "double").source = "def double(x):\n    return 0"
    cell(notebook, "test-double").metadata.tags = ["skip-execution"]


@case([1, 2, 3, None])
def a_test_made_a_text(notebook):
    test = cell(notebook, "test-norm")
    test.cell_type = "raw"
    del test["outputs"], test["execution_count"]


@case([1, 0, 3, None], "test-root is missing")
def a_test_deleted(notebook):
    notebook.cells.remove(cell(notebook, "test-root"))


@case([1, 2, 3, 0], "words is missing")
def question_deleted(notebook):
    notebook.cells.remove(cell(notebook, "words"))


@case([0, 0, 0, 0], "norm is missing")
def everything_deleted(notebook):
    notebook.cells.clear()


@case([1, 2, 3, None], "test-root is there more than once")
def a_test_copied(notebook):
    copy = new_code_cell("pass", metadata=cell(notebook, "test-root").metadata)
    notebook.cells.insert(notebook.cells.index(cell(notebook, "root")), copy)


@case([1, 2, 3, None])
def foreign_marks(notebook):
    notebook.cells.append(marked("test", "from-another-course", "assert False", 7))
    notebook.cells.append(new_code_cell("1", metadata={"nbgrader": "what?"}))


@case([1, 2, 3, None])
def odd_characters(notebook):
    insert(notebook, "root", "print('\\ud800', 'äöü\\0\\x1b[31m')")


@case([1, 2, 3, None], "cell 5 ran longer than 4 s")
def endless_loop(notebook):
    # what the cell did before it was interrupted remains
    insert(notebook, "root", "started = True\nwhile True:\n    pass")
    cell(notebook, "root").source = "def root(x):\n    return math.sqrt(x) if started else 0"


@case([1, 0, 3, None], "test-root ran longer than 4 s")
def endless_answer(notebook):
    cell(notebook, "root").source = "def root(x):\n    while x:\n        pass"


@case([1, 2, 3, None], "cell 5 ran longer than 4 s and could not be interrupted")
def endless_loop_that_cannot_be_interrupted(notebook):
    endless = "while True:\n    try:\n        while True:\n            pass\n"
    insert(notebook, "root", endless + "    except BaseException:\n        pass")


@case([1, 2, 3, None], "cell 5 ran longer than 4 s")
def endless_printing(notebook):
    insert(notebook, "root", "while True:\n    print('again' * 100)")


@case([1, 2, 3, None], "cell 5 stopped the kernel")
def exit_called(notebook):
    insert(notebook, "root", "exit()")


@case([1, 0, 3, None], "test-root stopped the kernel")
def exit_called_in_answer(notebook):
    # the kernel ends only after the cell, whose test would have passed
    cell(notebook, "root").source = "def root(x):\n    exit()\n    return math.sqrt(x)"


@case([1, 2, 3, None])
def sys_exit_called(notebook):
    insert(notebook, "root", "import sys\nsys.exit(1)")


@case([1, 0, 3, None], "test-root stopped the kernel")
def process_ended_in_answer(notebook):
    cell(notebook, "root").source = "import os\ndef root(x):\n    os._exit(0)"


@case([0, 2, 3, None], "double stopped the kernel; cell 5 stopped the kernel")
def process_killed_twice(notebook):
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM if 0 else 9)"
    cell(notebook, "double").source = kill
    insert(notebook, "root", kill)


FILL = "hoard = []\nwhile True:\n    hoard.append(bytearray(10**7))"
if grade.LIMITS_MEMORY:

    @case([1, 2, 3, None], "cell 5 ran out of memory")
    def memory_filled(notebook):
        insert(notebook, "root", FILL)  # at the top level: it would stay full

    @case([1, 0, 3, None], "test-root ran out of memory")
    def memory_filled_in_answer(notebook):
        lines = FILL.replace("\n", "\n    ")
        cell(notebook, "root").source = f"def root(x):\n    {lines}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of solutions with the tiny assignment."""
    folder = tmp_path_factory.mktemp("source")
    (folder / TINY).mkdir()
    nbformat.write(tiny_solution(), folder / TINY / f"{TINY}.ipynb")
    return folder


@pytest.fixture(scope="module")
def exercise(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny assignment as students get it."""
    [path] = exercises.generate(source, tmp_path_factory.mktemp("exercises"))
    return path


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def graded(source: Path, exercise: Path, tmp_path_factory: pytest.TempPathFactory):
    """All cases handed in, each by a student of that name, and graded in one go."""
    folder = tmp_path_factory.mktemp("submissions") / "in"
    for student, (alter, *_) in CASES.items():
        notebook = solve(read(exercise))
        alter(notebook)
        (folder / student).mkdir(parents=True)
        nbformat.write(notebook, folder / student / f"{TINY}.ipynb")
    out = folder.parent / "out"
    before = digest(folder)
    submissions = grade.grade(folder, out, source, timeout=4, memory=1.0)
    assert digest(folder) == before, "the submissions were altered"
    return {each.student: each for each in submissions}, out


@pytest.mark.parametrize("student", CASES)
def test_a_submission_gets_what_it_earned(graded, student):
    submissions, out = graded
    _, points, remark = CASES[student]
    assert submissions[student].points == points
    assert submissions[student].maximum == 9
    found = "; ".join(submissions[student].remarks)
    assert remark in found if remark else not found
    assert (out / student / f"{TINY}.html").stat().st_size < 3_000_000


def test_the_table_holds_the_points(graded):
    submissions, out = graded
    with (out / "grades.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(submissions)
    row = rows["a_test_deleted"]
    assert [row[f"task {n}"] for n in (1, 2, 3, 4)] == ["1", "0", "3", ""]
    assert (row["assignment"], row["sum"], row["maximum"]) == (TINY, "4", "9")
    assert (row["by hand"], row["remarks"]) == ("words (3)", "test-root is missing")
    assert rows["question_not_answered"]["by hand"] == ""


def test_feedback_shows_points_errors_and_formulas_without_the_network(graded):
    _, out = graded
    page = (out / "one_wrong" / f"{TINY}.html").read_text()
    assert "Score: 5.0 / 9.0" in page
    assert "AssertionError" in page
    assert grade.BY_HAND in page
    assert "<msqrt>" in page
    assert "stopped the kernel" in (out / "exit_called" / f"{TINY}.html").read_text()
    assert not re.search(r'<(script|link|img)[^>]*(src|href)="(?!data:)[^"]*require', page)


HALF_A_CHARACTER = (
    b'{"cells": [{"cell_type": "code", "source": "# \\ud800", "metadata": {}, "outputs": [],'
    b'"execution_count": null}], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}'
)


def test_submissions_that_cannot_be_graded_are_reported_and_stop_nobody(
    source, exercise, tmp_path, capsys
):
    folder = tmp_path / "in"

    def hand_in(student: str, name: str, content: bytes | None = None) -> None:
        path = folder / student / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            nbformat.writes(solve(read(exercise))).encode() if content is None else content
        )

    hand_in("broken json", f"{TINY}.ipynb", b'{"cells": [')
    hand_in("empty", f"{TINY}.ipynb", b"")
    hand_in("no notebook at all", f"{TINY}.ipynb", b"[1, 2, 3]")
    hand_in("odd cells", f"{TINY}.ipynb", b'{"cells": [3], "metadata": {}, "nbformat": 4}')
    hand_in("odd encoding", f"{TINY}.ipynb", "ä".encode("latin-1"))
    hand_in("nothing", "answers.docx", b"?")
    hand_in("strange mark", f"{TINY}.ipynb", HALF_A_CHARACTER)
    hand_in("unknown", "01_tinytinier.ipynb")
    hand_in("unknown", f".ipynb_checkpoints/{TINY}-checkpoint.ipynb")
    hand_in("zoë müller [2]", f"{TINY}/{TINY} (1).ipynb")
    hand_in("zoë müller [2]", f"{TINY}/{TINY}.ipynb", nbformat.writes(read(exercise)).encode())
    submissions = grade.grade(folder, tmp_path / "out", source, timeout=4, memory=1.0)
    assert [(s.student, s.assignment, s.maximum, "; ".join(s.remarks)) for s in submissions] == [
        ("broken json", TINY, None, "not a valid notebook"),
        ("empty", TINY, None, "not a valid notebook"),
        ("no notebook at all", TINY, None, "not a valid notebook"),
        ("nothing", "", None, "no notebook"),
        ("odd cells", TINY, None, "not a valid notebook"),
        ("odd encoding", TINY, None, "not a valid notebook"),
        (
            "strange mark",
            TINY,
            9,
            "; ".join(
                f"{grade_id} is missing"
                for grade_id in (
                    [
                        "setup",
                        "double",
                        "test-double",
                        "root",
                        "test-root",
                        "norm",
                        "test-norm",
                        "words",
                    ]
                )
            ),
        ),
        ("unknown", "01_tinytinier", None, "there is no such assignment"),
        (
            "zoë müller [2]",
            TINY,
            9,
            f"graded {TINY}.ipynb; 1 more of the same assignment not graded",
        ),
    ]
    assert submissions[-1].points == [0, 0, 0, 0]  # the exact name, which is the untouched one
    assert (tmp_path / "out" / "zoë müller [2]" / f"{TINY}.html").is_file()
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == len(submissions)
    assert shown.err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_name_in_another_encoding_is_shown(tmp_path, capsys):
    (tmp_path / "in" / os.fsdecode("Jürgen".encode("latin-1"))).mkdir(parents=True)
    [submission] = grade.grade(tmp_path / "in", tmp_path / "out")
    assert submission.student == "J\ufffdrgen"
    assert "no notebook" in (tmp_path / "out" / "grades.csv").read_text(encoding="utf-8-sig")


def test_the_command_grades_old_notebooks_and_says_nothing_else(source, exercise, tmp_path):
    """A notebook of format 3, as a file downloaded twice is called, with no kernel installed."""
    notebook = nbformat.convert(solve(read(exercise)), 3)
    folder = tmp_path / "in" / "Jürgen Groß"
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{TINY} (1).ipynb")
    call = (
        "import sys, grade; from pathlib import Path; "
        "grade.grade(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), memory=1.0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", call, tmp_path / "in", tmp_path / "out", source],
        cwd=ROOT / "scripts",
        env={
            "HOME": str(tmp_path / "home"),
            "JUPYTER_PATH": str(tmp_path / "none"),
            "PATH": "",
            "PYTHONIOENCODING": "utf-8",
        },
        capture_output=True,
        encoding="utf-8",
    )
    line = f"[1/1] Jürgen Groß {TINY} ... 6/9; by hand: words (3); graded {TINY} (1).ipynb\n"
    assert (done.stdout, done.stderr) == (line, "")


def test_wrong_folders_are_refused(tmp_path, capsys):
    (tmp_path / "student").mkdir()
    assert grade.main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere holds no student's folder" in capsys.readouterr().err
    assert grade.main([str(tmp_path), "--out", str(tmp_path / "grades")]) == 1
    assert "out must not lie in the submissions" in capsys.readouterr().err


def test_an_exercise_is_made_and_an_old_one_removed(source, exercise, tmp_path):
    for name in ("02_gone", "03_gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.ipynb").write_text("{}")
    (tmp_path / "03_gone" / "mine.txt").write_text("not generated")
    (tmp_path / "README.md").write_text("for teachers")
    [path] = exercises.generate(source, tmp_path)
    assert path.read_bytes() == exercise.read_bytes()
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"README.md", "03_gone/mine.txt", f"{TINY}/{TINY}.ipynb"}
    assert cell(read(path), "double").source == f"def double(x):\n    {STUB}"
    assert cell(read(path), "test-double").source == "assert double(2) == 4"
    assert cell(read(path), "words").source == BLANK


def test_a_solution_that_nbgrader_refuses_is_named(tmp_path):
    notebook = tiny_solution()
    cell(notebook, "root").metadata.nbgrader.grade_id = "double"
    (tmp_path / TINY).mkdir()
    nbformat.write(notebook, tmp_path / TINY / f"{TINY}.ipynb")
    with pytest.raises(exercises.NbGraderException, match="Duplicate grade id: double"):
        exercises.generate(tmp_path, tmp_path / "out")


# --- the assignments of the course ---------------------------------------------------------------


def kind(item: NotebookNode) -> str:
    """Return what a cell is to nbgrader: locked, solution, test, written, or nothing."""
    marks = item.metadata.get("nbgrader", {})
    if marks.get("grade"):
        return "written" if marks["solution"] else "test"
    return "solution" if marks.get("solution") else "locked" if marks.get("locked") else ""


def split(source: str, region: str) -> tuple[str, str]:
    """Return the lines outside and inside the regions marked BEGIN and END."""
    parts = re.split(rf"^ *### (?:BEGIN|END) {region}\n?", source, flags=re.MULTILINE)
    return "".join(parts[::2]), "".join(parts[1::2])


def checks_called(source: str) -> set[str]:
    """Return the names of the checks that a cell calls."""
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {
        call.attr
        for call in calls
        if isinstance(call, ast.Attribute) and ast.unparse(call.value) == "check"
    }


@every_solution
def test_a_solution_has_the_form_that_all_have(name):
    notebook = read(SOLUTIONS[name])
    MetadataValidator().validate_nb(notebook)  # grade_ids are unique, points are there
    kinds = [kind(item) for item in notebook.cells]
    assert 4 <= kinds.count("test") <= 6
    assert kinds.count("written") == 1
    assert kinds.index("locked") < kinds.index("solution")
    for item in notebook.cells:
        if item.cell_type == "code":
            assert not item.outputs
            assert item.execution_count is None
            lines = [line for line in item.source.splitlines() if "### " not in line]
            assert len(lines) <= 25, item.source
        assert ("BEGIN SOLUTION" in item.source) == (kind(item) == "solution"), item.source
        assert ("BEGIN HIDDEN TESTS" in item.source) == (kind(item) == "test"), item.source


@every_solution
def test_every_test_calls_its_check_and_is_worth_what_that_says(name):
    chapter = importlib.import_module(f"minidiff.grading.chapter_{name[:2]}")
    called = []
    for item in read(SOLUTIONS[name]).cells:
        if kind(item) != "test":
            continue
        shown, hidden = split(item.source, "HIDDEN TESTS")
        [check] = checks_called(item.source)
        assert checks_called(shown) == {check}
        assert isinstance(vars(chapter)[check], Check)
        assert item.metadata.nbgrader.points == vars(chapter)[check].points, check
        tree = ast.walk(ast.parse(hidden))
        assert any(isinstance(node, ast.Assert) for node in tree) or "assert_close" in hidden, check
        called.append(check)
    assert len(set(called)) == len(called)


@every_solution
def test_points_and_minutes_are_stated(name):
    notebook = read(SOLUTIONS[name])
    text = "\n".join(item.source for item in notebook.cells if item.cell_type == "markdown")
    points = [item.metadata.nbgrader.points for item in notebook.cells if kind(item) == "test"]
    stated = re.findall(r"^## .*\((\d+) points?, (\d+) minutes?\)$", text, re.MULTILINE)
    n_words = next(c.metadata.nbgrader.points for c in notebook.cells if kind(c) == "written")
    assert sorted(int(n) for n, _ in stated) == sorted([*points, n_words])
    opening = " ".join(notebook.cells[0].source.split())
    assert f"{sum(points) + n_words} points" in opening
    assert f"{sum(int(minutes) for _, minutes in stated)} minutes" in opening


def test_the_guide_for_teachers_lists_every_task_as_it_is():
    guide = (exercises.EXERCISES / "README.md").read_text()
    listed = re.findall(r"^\| (\d\d) \| `?(.+?)`? \| (\d+) \| (\d+) \|", guide, re.MULTILINE)
    stated = []
    for name, path in SOLUTIONS.items():
        notebook = read(path)
        text = "\n".join(item.source for item in notebook.cells if item.cell_type == "markdown")
        minutes = re.findall(r"^## .*\(\d+ points?, (\d+) minutes?\)$", text, re.MULTILINE)
        graded = [item for item in notebook.cells if kind(item) in ("test", "written")]
        for item, needed in zip(graded, minutes, strict=True):
            [task] = checks_called(item.source) if kind(item) == "test" else ["in words"]
            stated.append((name[:2], task, str(item.metadata.nbgrader.points), needed))
    assert listed == stated


def prose(number: str) -> str:
    """Return all text of a chapter's assignment in one line."""
    [name] = [name for name in SOLUTIONS if name.startswith(number)]
    cells = read(SOLUTIONS[name]).cells
    return " ".join(" ".join(c.source for c in cells if c.cell_type == "markdown").split())


def test_the_numbers_in_the_prose_of_chapter_01():
    text, linear, cosine = prose("01"), linear_schedule(), cosine_schedule()
    unscaled = NoiseSchedule(torch.linspace(1e-4, 0.02, 100, dtype=torch.float64))
    assert f"= {linear.betas.sum():.2f}" in text
    few, many = (linear_schedule(T).alphas_cumprod[-1].sqrt() for T in (64, 1024))
    assert f"({few:.3f} after 64 steps, {many:.3f} after 1024)" in text
    for bound, t in ((1, 259), (0.01, 674)):
        assert (linear.snr < bound).nonzero()[0] == t
        assert f"below {bound:g} at $t = {t}$" in text
    twins = (cosine.snr.log()[:, None] - linear.snr.log()).abs().argmin(1)
    assert f"$t = 399$ where the linear schedule is at {twins[399]}" in text
    assert 305 < (linear.snr < unscaled.snr[-1]).nonzero()[0] < 315
    assert "about $t = 310$" in text
    last = unscaled.alphas_cumprod[-1]
    assert f"{last.sqrt():.3f} * x_0 + {(1 - last).sqrt():.3f} * noise" in text
    assert f"(SNR {unscaled.snr[-1]:.2f})" in text


def test_the_numbers_in_the_prose_of_chapter_03():
    text, (images, _) = prose("03"), load_digits("train")
    assert f"(mean square 1) into image ({images.square().mean():.2f})" in text
    assert f"$0.99^{{100}} = {100 * 0.99**100:.0f}\\,\\%$" in text
    reached = [next(n for n in range(2000) if (1 + n) / (10 + n) >= d) for d in (0.9, 0.99)]
    assert "reaches 0.9 at $n = {}$ and 0.99 only at $n = {}$".format(*reached) in text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exercises as they are made from the solutions now."""
    folder = tmp_path_factory.mktemp("made")
    return {path.stem: path for path in exercises.generate(exercises=folder)}


def test_the_exercises_are_fresh(made):
    kept = exercises.assignments(exercises.EXERCISES)
    assert kept.keys() == made.keys(), "run make exercises"
    for name, path in made.items():
        assert path.read_bytes() == kept[name].read_bytes(), "run make exercises"


@every_solution
def test_an_exercise_holds_no_solution(made, name):
    solution, exercise = read(SOLUTIONS[name]), read(made[name])
    assert len(solution.cells) == len(exercise.cells)
    secret, shown = [], "\n".join(item.source for item in exercise.cells)
    for ours, theirs in zip(solution.cells, exercise.cells, strict=True):
        if kind(ours) == "written":
            assert theirs.source == BLANK
            secret += ours.source.splitlines()
        elif kind(ours) == "test":
            outside, inside = split(ours.source, "HIDDEN TESTS")
            assert theirs.source == outside.rstrip("\n")
            secret += inside.splitlines()
        elif kind(ours) == "solution":
            outside, inside = split(ours.source, "SOLUTION")
            assert STUB in theirs.source
            assert set(theirs.source.split("\n")) <= {*outside.split("\n"), f"    {STUB}"}
            secret += inside.splitlines()
        else:
            assert theirs.source == ours.source
    given = "\n".join(
        split(split(item.source, "SOLUTION")[0], "HIDDEN TESTS")[0]
        for item in solution.cells
        if kind(item) != "written"
    )
    for line in map(str.strip, secret):
        assert len(line) < 12 or line in given or line not in shown
    assert "rubric" not in shown.lower()
    for path in (str(ROOT), str(Path.home())):
        assert path not in shown


@pytest.fixture(scope="module")
def grader(tmp_path_factory: pytest.TempPathFactory) -> grade.Grader:
    return grade.Grader(tmp_path_factory.mktemp("course"), SOLUTIONS, grade.configure(250, 4.0))


def graded_notebook(grader: grade.Grader, submission: grade.Submission, page: Path) -> NotebookNode:
    student = f"s{grader.n_graded}"
    grader.grade(submission, page)
    name = submission.assignment
    return read(grader.folder / "autograded" / student / name / f"{name}.ipynb")


@pytest.mark.slow
@every_solution
def test_a_solution_gets_all_points(grader, name, tmp_path):
    submission = grade.Submission("solution", name, SOLUTIONS[name])
    done = graded_notebook(grader, submission, tmp_path / "page.html")
    assert submission.remarks == []
    errors = [o.evalue for c in done.cells for o in c.get("outputs", []) if "evalue" in o]
    assert errors == []
    [words] = [c.metadata.nbgrader.points for c in done.cells if kind(c) == "written"]
    assert submission.total == submission.maximum - words
    assert submission.by_hand == [f"words ({words})"]


@pytest.mark.slow
@every_solution
def test_an_untouched_exercise_opens_and_gets_no_points(grader, made, name, tmp_path):
    submission = grade.Submission("exercise", name, made[name])
    done = graded_notebook(grader, submission, tmp_path / "page.html")
    assert submission.remarks == []
    assert set(submission.points) == {0}
    assert submission.by_hand == []
    errors = {n: o for n, c in enumerate(done.cells) for o in c.get("outputs", []) if "ename" in o}
    first = [kind(item) for item in done.cells].index("solution")
    assert all(number > first for number in errors), "a cell above the first task fails"
    for number, item in enumerate(done.cells):
        if kind(item) == "test":
            assert errors[number].ename == "CheckFailed"
            assert "Nothing is written here yet" in errors[number].evalue

"""Grade a folder of submissions with nbgrader: a table of points, and a page for each student.

    python scripts/grade.py submissions                 into build/grades
    python scripts/grade.py submissions --out grades --timeout 120 --memory 8

`submissions` holds a folder for each student, named after the student, with the notebooks anywhere
in it. A notebook belongs to the assignment that its name begins with, so "01_forward_diffusion
(1).ipynb" counts too; of several, that with the exact name is graded, else the last. The folder is
only read, and nothing needs the network.

Written, anew each time: grades.csv with the points of each task, in their order in the notebook,
what is left to grade by hand and what was remarked; and <student>/NN_slug.html, the feedback.

Before grading, locked cells and points are restored. A cell that fails, runs too long, fills the
memory or stops the kernel costs what depends on it; everything else is still graded. All the same,
submissions are programs that run on your account: grade in a container or on a throw-away account.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from nbgrader.apps.api import NbGraderAPI
from nbgrader.preprocessors import Execute, IgnorePattern, LimitOutput, SaveAutoGrades
from traitlets import Integer
from traitlets.config import Config

from course import PageExporter
from exercises import SOLUTIONS, assignments, open_course, release, run
from kernel import ROOT, OwnKernel
from notebooks import METADATA, settings

LARGEST = 20_000_000  # bytes of a notebook that is still read
LONGEST = 2_000_000  # characters of output that a cell may leave
START_UP = 60  # seconds that all kernels of a submission together may take to start
LIMITS_MEMORY = sys.platform == "linux"  # elsewhere the limit is missing or has no effect
# Of data, not of address space: torch maps far more of that than it uses.
SET_LIMIT = "__import__('resource').setrlimit(__import__('resource').RLIMIT_DATA, {})"
BY_HAND = "Not graded yet: somebody has to read it."
OUT_OF_MEMORY = re.compile(r"MemoryError|bad_alloc|n[o']t allocate memory")
NEW_CELL = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


class NotGradable(Exception):
    """A submission cannot be graded at all; the message says why."""


class CellStopped(Exception):
    """A cell cannot be run together with the others; also the error that it is marked with."""


class ExecuteEachCell(Execute):
    """Executes a submission so that a cell can hurt only itself.

    A cell that stops the kernel, fills its memory or cannot be interrupted is marked as failed, and
    the others run again, without it, in a new kernel. All cells together may take ten times as long
    as one, and a minute more for the kernels to start.
    """

    memory = Integer(help="bytes that the kernel may use, as far as the system can limit it").tag(
        config=True
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(kernel_manager_class=OwnKernel, **options)

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any], km: None = None
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Execute the notebook in folders of its own, as often as it takes."""
        self.stopped: dict[int, str] = {}  # why, by the cell's index
        self.deadline = time.monotonic() + 10 * self.timeout + START_UP
        done = False
        while not done:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                try:
                    super().preprocess(nb, {"metadata": {"path": folder}})
                    done = True
                except CellStopped:
                    pass
        for index, reason in self.stopped.items():
            mark = {"ename": CellStopped.__name__, "evalue": reason, "traceback": [reason]}
            nb.cells[index].outputs.append(new_output("error", **mark))
        return nb, resources

    def setup_kernel(self, **options: Any) -> AbstractContextManager[None]:
        """Start a kernel that has the package, a limit of memory, and no screen to write on."""
        env = {**os.environ, **settings(Path(self.resources["metadata"]["path"]))}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
        self.extra_arguments = ["--log-level=CRITICAL"]
        if LIMITS_MEMORY:
            line = SET_LIMIT.format(f"({self.memory}, {self.memory})")
            self.extra_arguments.append(f"--IPKernelApp.exec_lines={line}")
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return super().setup_kernel(env=env, **silent, **options)

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict[str, Any], index: int
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Execute a cell, unless it was stopped in an earlier kernel."""
        if cell.cell_type == "code" and time.monotonic() > self.deadline:
            self.stopped.setdefault(index, "was not run: the notebook takes too long")
        if index in self.stopped:
            return cell, resources
        self.exits, self.written = False, 0
        try:
            cell, resources = super().preprocess_cell(cell, resources, index)
            errors = [o for o in cell.get("outputs", []) if o.output_type == "error"]
            if self.exits:
                self.stop(index, "stopped the kernel")
            if any(OUT_OF_MEMORY.search(f"{error.ename} {error.evalue}") for error in errors):
                self.stop(index, "ran out of memory")
        except DeadKernelError:
            self.stop(index, "stopped the kernel")
        except CellTimeoutError:
            self.stop(index, f"ran longer than {self.timeout} s and could not be interrupted")
        return cell, resources

    def stop(self, index: int, reason: str) -> None:
        """Give the kernel up because of a cell."""
        self.stopped[index] = reason
        raise CellStopped

    def on_cell_executed(self, **event: Any) -> None:
        """Notice that the cell has called `exit()`, which the kernel obeys a moment later."""
        super().on_cell_executed(**event)
        payload = event["execute_reply"]["content"].get("payload", [])
        self.exits = any(item.get("source") == "ask_exit" for item in payload)

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str, cell_index: int
    ) -> NotebookNode | None:
        """Keep an output, unless the cell has written too much already."""
        self.written += len(str(msg["content"]))
        if self.written > LONGEST and msg["msg_type"] != "error":
            return None
        return super().output(outs, msg, display_id, cell_index)


@dataclass
class Submission:
    """What a student handed in for one assignment, and what came of it.

    Args:
        student: name of the student's folder.
        assignment: name of the assignment, NN_slug; of the file, where there is no such assignment.
        path: the notebook; None where there is nothing to grade.
        points: of each task, in the order of the notebook; None where they are given by hand.
        maximum: what all tasks are worth.
        by_hand: what is left to grade, such as "words (3)".
        remarks: whatever the teacher should know.
    """

    student: str
    assignment: str = ""
    path: Path | None = None
    points: list[float | None] = field(default_factory=list)
    maximum: float | None = None
    by_hand: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Sum of the points given so far."""
        return sum(filter(None, self.points))

    @property
    def score(self) -> str:
        """The sum and what else is to say, in a line."""
        if self.maximum is None:
            return "; ".join(self.remarks)
        score = f"{self.total:g}/{self.maximum:g}"
        return "; ".join([score, *(f"by hand: {task}" for task in self.by_hand), *self.remarks])


def find_submissions(folder: Path, names: list[str]) -> list[Submission]:
    """Return what there is to grade in the folders of the students, and what cannot be."""
    submissions = []
    for student in sorted(path for path in folder.iterdir() if path.is_dir()):
        if student.name.startswith((".", "__")):
            continue
        found: dict[str, list[Path]] = {}
        for path in sorted(student.rglob("*.ipynb")):
            inside = path.relative_to(student).parts
            if path.is_file() and not any(part.startswith((".", "__")) for part in inside):
                found.setdefault(assignment_of(path.stem, names), []).append(path)
        for name, paths in sorted(found.items()):
            submissions.append(choose(Submission(readable(student.name), name), paths, names))
        if not found:
            submissions.append(Submission(readable(student.name), remarks=["no notebook"]))
    return submissions


def assignment_of(stem: str, names: list[str]) -> str:
    """Return the assignment that a file belongs to; the file's own name where there is none."""
    for name in sorted(names, key=len, reverse=True):
        if re.match(rf"{re.escape(name)}(?![A-Za-z0-9])", stem):
            return name
    return readable(stem)


def readable(name: str) -> str:
    """Return a file's name such that it can be written, whatever encoding it was unpacked from."""
    return os.fsencode(name).decode(errors="replace")


def choose(submission: Submission, paths: list[Path], names: list[str]) -> Submission:
    """Take the one notebook that is to be graded, if there is one."""
    if submission.assignment not in names:
        submission.remarks.append("there is no such assignment")
        return submission
    exact = [path for path in paths if path.stem == submission.assignment]
    submission.path = (exact or paths)[-1]
    if len(paths) > 1 or not exact:
        submission.remarks.append(f"graded {readable(submission.path.name)}")
    if len(paths) > 1:
        submission.remarks.append(f"{len(paths) - 1} more of the same assignment not graded")
    return submission


def read(path: Path) -> NotebookNode:
    """Read a notebook of any version.

    Raises:
        NotGradable: it is none, or too large.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise NotGradable(f"larger than {LARGEST / 1e6:g} MB")
        notebook = nbformat.reads(path.read_text(encoding="utf-8-sig"), as_version=4)
        for cell in notebook.cells:
            if cell.cell_type not in NEW_CELL or not isinstance(cell.source, str):
                raise ValueError("not a cell")
    except NotGradable:
        raise
    except Exception as error:  # a broken file can go wrong in any way
        raise NotGradable("not a valid notebook") from error
    return notebook


def restore(
    handed_in: NotebookNode, released: NotebookNode, solution: NotebookNode
) -> tuple[NotebookNode, list[str]]:
    """Return the notebook to grade: the submission's sources, with the metadata as released.

    nbgrader restores the sources of locked cells itself. Nothing else of the metadata stays: a tag
    could have a test skipped, and a test that was not run counts as passed.

    Args:
        handed_in: the submission.
        released: the exercise.
        solution: the solution; its tests are no alterations.
    """
    known, ours = by_grade_id(released), by_grade_id(solution)
    remarks, cells, seen = [], [], set()
    for cell in reversed(handed_in.cells):  # of cells with the same id, the last counts
        marks = cell.metadata.get("nbgrader")
        grade_id = marks.get("grade_id") if isinstance(marks, dict) else None
        metadata, kind = {}, cell.cell_type
        if grade_id in seen:
            remarks.append(f"{grade_id} is there more than once, the last one counts")
        elif grade_id in known:
            seen.add(grade_id)
            metadata, kind = (
                {"nbgrader": known[grade_id].metadata.nbgrader},
                known[grade_id].cell_type,
            )
            locked = metadata["nbgrader"]["locked"]
            if locked and cell.source not in (known[grade_id].source, ours[grade_id].source):
                remarks.append(f"{grade_id} was altered, it is restored")
        source = cell.source.encode(errors="replace").decode()  # half a character cannot be saved
        new = NEW_CELL[kind](source, metadata=metadata)
        if kind == "markdown" and "attachments" in cell:
            new.attachments = cell.attachments
        cells.insert(0, new)
    remarks += [f"{grade_id} is missing" for grade_id in known if grade_id not in seen]
    return new_notebook(cells=cells, metadata=METADATA), remarks


def by_grade_id(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """Return the cells that nbgrader knows, by their id, in order."""
    cells = (cell for cell in notebook.cells if "nbgrader" in cell.metadata)
    return {cell.metadata.nbgrader.grade_id: cell for cell in cells}


def configure(timeout: int, memory: float) -> Config:
    """Return nbgrader's settings: `timeout` in seconds, `memory` in GiB."""
    config = Config()
    config.Autograde.autograde_preprocessors = [
        ExecuteEachCell,
        IgnorePattern,
        LimitOutput,
        SaveAutoGrades,
    ]
    too_long = f"ran longer than {timeout} s"
    config.ExecuteEachCell = Config(
        error_on_timeout={
            "ename": CellTimeoutError.__name__,
            "evalue": too_long,
            "traceback": [too_long],
        },
        iopub_timeout=min(timeout, 10),  # that an interrupted cell may take to end
        kernel_name="python3",
        memory=int(memory * 2**30),
        shutdown_kernel="immediate",
        timeout=timeout,
    )
    config.GenerateFeedback.exporter_class = PageExporter  # it draws formulas without the network
    return config


class Grader:
    """Grades submissions in a folder of its own; each assignment is made ready once."""

    def __init__(self, folder: Path, solutions: dict[str, Path], config: Config) -> None:
        self.folder = folder
        self.solutions = solutions
        self.course: NbGraderAPI = open_course(folder, config)
        self.released: dict[str, NotebookNode] = {}
        self.n_graded = 0

    def grade(self, submission: Submission, feedback: Path) -> None:
        """Grade a submission, note the points in it and write the page `feedback`.

        Raises:
            NotGradable: there is nothing that can be graded.
            Exception: nbgrader failed; of what kind depends on the submission.
        """
        if submission.path is None:
            raise NotGradable
        name, student = submission.assignment, f"s{self.n_graded}"  # safe in paths and patterns
        self.n_graded += 1
        solution = self.solutions[name]
        handed_in = read(submission.path)
        if name not in self.released:
            self.released[name] = nbformat.read(release(self.course, solution), as_version=4)
        released = self.released[name]
        notebook, remarks = restore(handed_in, released, nbformat.read(solution, as_version=4))
        path = self.folder / "submitted" / student / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
        run("autograde", self.course, name, student)
        done = nbformat.read(self.folder / "autograded" / student / name / path.name, as_version=4)
        submission.remarks += remarks + stopped_cells(done)
        self.note_points(submission, student, done)
        run("generate_feedback", self.course, name, student)
        page = self.folder / "feedback" / student / name / f"{name}.html"
        feedback.parent.mkdir(parents=True, exist_ok=True)
        feedback.write_bytes(page.read_bytes())

    def note_points(self, submission: Submission, student: str, done: NotebookNode) -> None:
        """Copy the points out of nbgrader's database; say in it what is not graded yet."""
        name, present = submission.assignment, by_grade_id(done)
        with self.course.gradebook as book:
            grades = book.find_submission_notebook(name, name, student).grades
            of = {grade.name: grade for grade in grades}
            for grade_id in filter(of.get, by_grade_id(self.released[name])):
                grade = of[grade_id]
                by_hand = grade.needs_manual_grade and grade_id in present
                submission.points.append(None if by_hand else grade.score)
                submission.maximum = (submission.maximum or 0) + grade.max_score
                if by_hand:
                    submission.by_hand.append(f"{grade_id} ({grade.max_score:g})")
                    book.find_comment(grade_id, name, name, student).manual_comment = BY_HAND
            book.db.commit()


def stopped_cells(notebook: NotebookNode) -> list[str]:
    """Return a remark for each cell of a graded notebook that had to be stopped."""
    remarks = []
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.get("ename") in (CellStopped.__name__, CellTimeoutError.__name__):
                grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", f"cell {number}")
                remarks.append(f"{grade_id} {output.evalue}")
    return remarks


def write_table(submissions: list[Submission], path: Path) -> None:
    """Write the points of all submissions as a table for any spreadsheet."""
    n_tasks = max(len(submission.points) for submission in submissions)
    tasks = [f"task {number}" for number in range(1, n_tasks + 1)]
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # -sig: Excel asks for it
        table = csv.writer(file)
        head = ["student", "assignment", *tasks, "sum", "maximum", "by hand", "remarks"]
        table.writerow(head)
        for each in submissions:
            graded = each.maximum is not None
            points = ["" if p is None else f"{p:g}" for p in each.points]
            points += [""] * (n_tasks - len(points))
            sums = [f"{each.total:g}", f"{each.maximum:g}"] if graded else ["", ""]
            texts = ["; ".join(each.by_hand), "; ".join(each.remarks)]
            table.writerow([each.student, each.assignment, *points, *sums, *texts])


def grade(
    folder: Path,
    out: Path,
    solutions: Path = SOLUTIONS,
    timeout: int = 60,
    memory: float = 4.0,
) -> list[Submission]:
    """Grade all submissions in `folder` into `out`, a line of progress each.

    Args:
        folder: a folder for each student; it is only read.
        out: where grades.csv and the pages go.
        solutions: the assignments, as nbgrader's source notebooks.
        timeout: seconds that a cell may take.
        memory: GiB that a submission may use, where the system can limit it.

    Raises:
        FileNotFoundError: there is no such folder, or no student's folder in it.
        ValueError: `out` lies inside `folder`.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"out must not lie in the submissions, got {out}")
    sources = assignments(solutions)
    if not (submissions := find_submissions(folder, list(sources)) if folder.is_dir() else []):
        raise FileNotFoundError(f"{folder} holds no student's folder")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        grader = Grader(Path(root), sources, configure(timeout, memory))
        for number, each in enumerate(submissions, start=1):
            label = f"[{number}/{len(submissions)}] {each.student} {each.assignment}"
            print(f"{label} ... ", end="", flush=True)
            page = out / each.student / f"{each.assignment}.html"
            page.unlink(missing_ok=True)  # what an earlier run left
            try:
                grader.grade(each, page)
            except NotGradable as error:
                each.remarks += map(str, error.args)
            except Exception as error:  # whatever it is, the others come next
                each.remarks.append(f"could not be graded: {type(error).__name__}: {error}")
            print(each.score, flush=True)
    write_table(submissions, out / "grades.csv")
    return submissions


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Grade a folder of submissions with nbgrader.")
    parser.add_argument(
        "submissions", type=Path, help="the folder that holds the students' folders"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "grades")
    parser.add_argument("--timeout", type=int, default=60, help="seconds that a cell may take")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB that a submission may use")
    options = parser.parse_args(arguments)
    if not LIMITS_MEMORY:
        print("warning: this system cannot limit a submission's memory", file=sys.stderr)
    try:
        graded = grade(
            options.submissions, options.out, timeout=options.timeout, memory=options.memory
        )
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    n_left = sum(submission.maximum is None for submission in graded)
    failed = f"; {n_left} could not be graded" if n_left else ""
    print(f"{len(graded)} submissions in {options.out / 'grades.csv'}{failed}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

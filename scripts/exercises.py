"""Make exercises/ from solutions/ with nbgrader: the same bytes each time, on every machine.

    python scripts/exercises.py

Solutions, hidden tests and model answers are left out, and cells that students are not meant to
change are locked. An exercise whose solution is gone is removed. Never edit an exercise by hand.
"""

import argparse
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.apps.api import NbGraderAPI
from nbgrader.converters.base import NbGraderException
from traitlets.config import Config, PyFileConfigLoader

from kernel import ROOT
from notebooks import METADATA

SOLUTIONS = ROOT / "solutions"
EXERCISES = ROOT / "exercises"
ERROR = re.compile(r"^\s*[\w.]+: .+", re.MULTILINE)  # the last line of a traceback


def assignments(solutions: Path = SOLUTIONS) -> dict[str, Path]:
    """Return the solution of each assignment by the assignment's name, NN_slug, in order."""
    found = sorted(solutions.glob("[0-9][0-9]_*/*.ipynb"))
    return {path.stem: path for path in found if path.stem == path.parent.name}


def open_course(root: Path, config: Config | None = None) -> NbGraderAPI:
    """Return nbgrader for the course in the folder `root`, set as nbgrader_config.py says.

    Args:
        root: an empty folder, which nbgrader fills.
        config: settings that go before those of nbgrader_config.py.
    """
    settings = PyFileConfigLoader("nbgrader_config.py", str(ROOT)).load_config()
    settings.merge(config or Config())
    settings.CourseDirectory.root = str(root.resolve())
    settings.Exchange.root = settings.Exchange.cache = str(root / "exchange")  # there is none
    return NbGraderAPI(config=settings)


@contextmanager
def at_home() -> Iterator[None]:
    """Let nbgrader find alembic, which it calls by name; keep its and SQLAlchemy's warnings in."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), path])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ["PATH"] = path


def run(step: str, course: NbGraderAPI, *arguments: Any) -> None:
    """Run a step of nbgrader: generate_assignment, autograde or generate_feedback.

    Raises:
        NbGraderException: the step failed; the message is the first error in nbgrader's log.
    """
    with at_home():
        result = getattr(course, step)(*arguments)
    if not result["success"]:
        if "KeyboardInterrupt" in result["error"]:  # nbgrader catches that too
            raise KeyboardInterrupt
        errors = ERROR.findall(result.get("log", "")) or [result["error"]]
        raise NbGraderException(errors[0].strip())


def release(course: NbGraderAPI, solution: Path) -> Path:
    """Let nbgrader turn a solution into what students get; return the path of that notebook."""
    root, name = Path(course.coursedir.root), solution.stem
    source = root / course.coursedir.source_directory / name
    source.mkdir(parents=True)
    shutil.copy(solution, source)
    run("generate_assignment", course, name)
    return root / course.coursedir.release_directory / name / f"{name}.ipynb"


def generate(solutions: Path = SOLUTIONS, exercises: Path = EXERCISES) -> list[Path]:
    """Write the exercise of every solution; return the paths written."""
    written = []
    with tempfile.TemporaryDirectory() as folder:
        course = open_course(Path(folder))
        for name, solution in assignments(solutions).items():
            notebook = nbformat.read(release(course, solution), as_version=4)
            notebook.metadata.clear()
            notebook.metadata.update(METADATA)
            path = exercises / name / f"{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{nbformat.writes(notebook)}\n".encode())
            written.append(path)
    for stale in set(assignments(exercises).values()) - set(written):
        stale.unlink()
        if not any(stale.parent.iterdir()):
            stale.parent.rmdir()
    return written


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Make exercises/ from solutions/.")
    parser.add_argument("--out", type=Path, default=EXERCISES)
    options = parser.parse_args(arguments)
    try:
        written = generate(exercises=options.out)
    except NbGraderException as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(written)} exercises in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

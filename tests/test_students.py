"""What readers without knowledge of the topic wrote, in their order: the help they get stays.

tests/attempts/chapter_NN.json lists the wrong answers of one reader, each with the mistake that the
check recognises, or null where it names a property of the result only.
"""

import functools
from typing import Any

import nbformat
import pytest

import variants
from kernel import ROOT
from minidiff.grading import CheckFailed

SEEDS = (1, 20_000)
ATTEMPTS = {
    f"{chapter[-2:]}-{i}-{attempt['task']}": (chapter, attempt)
    for chapter in variants.CHAPTERS
    for i, attempt in enumerate(variants.attempts(chapter))
}


@functools.cache
def setup(chapter: str) -> dict[str, Any]:
    """Run the cell with the imports of a chapter's exercise; return its names."""
    (path,) = ROOT.glob(f"exercises/{chapter[-2:]}_*/*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    (cell,) = (c for c in cells if c.metadata.get("nbgrader", {}).get("grade_id") == "setup")
    names: dict[str, Any] = {}
    exec(cell.source, names)
    return names


@pytest.mark.parametrize(("chapter", "attempt"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_an_attempt_gets_the_help_it_got(chapter, attempt):
    names = dict(setup(chapter))
    exec(attempt["source"], names)
    check = variants.CHECKS[chapter][attempt["task"]]
    for seed in SEEDS:
        with pytest.raises(CheckFailed) as failed:
            check(names[attempt["task"]], seed)
        assert failed.value.misconception == attempt["misconception"], failed.value
        heading, *said = str(failed.value).splitlines()
        assert heading.startswith("✗ 0/")
        if attempt["misconception"]:
            sentence = check.misconceptions[attempt["misconception"]].__doc__
            assert " ".join(sentence.split()) in " ".join(said)
        else:
            assert not said[0].startswith(("Seen with", "To look at it")), said


def test_readers_tried_chapters_01_and_04():
    assert {"chapter_01", "chapter_04"} <= {chapter for chapter, _ in ATTEMPTS.values()}


def test_no_attempt_is_kept_twice():
    for chapter in variants.CHAPTERS:
        sources = [attempt["source"].strip() for attempt in variants.attempts(chapter)]
        assert len(set(sources)) == len(sources)

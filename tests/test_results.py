"""What `make measure` wrote: it belongs to the shipped weights, meets the bounds, and is quoted."""

import json
import re
from pathlib import Path

import pytest

import contenders
import measure
import peers
import variants
from minidiff.training import load_tensors
from minidiff.zoo import BOUNDS, RECIPES, WEIGHTS, recipe_hash
from minidiff.zoo.bounds import MISSED

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_a_result_belongs_to_the_shipped_weights(name):
    _, metadata = load_tensors(WEIGHTS / f"{name}.safetensors")
    assert result(name)["recipe_hash"] == metadata["recipe_hash"] == recipe_hash(RECIPES[name])
    assert "quality" in metadata  # `make measure` came after the training


@pytest.mark.parametrize("name", measure.TOPICS)
def test_every_seed_meets_every_bound(name):
    topic, seeds = measure.module_of(name), result(name).get("runs", [])
    assert [run["seed"] for run in seeds] in ([], [0, 1, 2])
    rows = topic.bounds(result(name))
    assert [row for row in rows if not row.met and row.name not in MISSED] == []


def test_a_bound_that_is_called_missed_is_missed():
    rows = [row for name in measure.TOPICS for row in measure.module_of(name).bounds(result(name))]
    assert {row.name for row in rows if not row.met} == MISSED


def test_every_bound_of_a_measured_figure_is_asked_for():
    rows = [row for name in measure.TOPICS for row in measure.module_of(name).bounds(result(name))]
    live = {"digits_agreement", "digits_seconds"}  # these are asserted in lesson 03
    assert {row.name for row in rows} == set(BOUNDS) - live


def test_the_measurements_are_as_large_as_they_must_be():
    assert result("fashion")["n_calls"] <= 250
    assert all(run["agreement"]["n"] == 2_000 for run in result("fashion")["runs"])
    for name in ("few-steps", "guidance"):
        assert result(name)["n"] == 2_000
    assert result("guidance")["n_calls"] <= 25
    assert all(run["n_calls"] == 25 for run in result("few-steps")["runs"])
    improved = result("fashion-improved")["frechet"]
    assert (improved["n"], improved["n_calls"]) == (2_000, 50)
    assert [run["seed"] for run in improved["runs"]] == [0, 1, 2]
    assert (result("super-resolution")["n"], result("inpainting")["n"]) == (2_000, 300)


def test_what_was_measured_is_what_the_page_says():
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    for name in measure.TOPICS:
        assert measure.module_of(name).page(result(name)) in page


def test_minidiff_and_its_peers_were_measured_at_every_setting():
    compared = result("peers")
    everyone = [
        (name, setting) for setting in contenders.SETTINGS for name in contenders.CONTENDERS
    ]
    assert [(row["name"], row["setting"]) for row in compared["speed"]] == everyone
    assert [row["name"] for row in compared["quality"]] == list(contenders.CONTENDERS)
    assert set(compared["versions"]) == set(contenders.CONTENDERS) - {"minidiff"}
    assert peers.page(compared) in (ROOT / "benchmarks" / "RESULTS.md").read_text()


def test_the_contenders_of_equal_size_are_of_equal_size():
    rows = [row for row in result("peers")["speed"] if row["setting"] == "equal"]
    ours = next(row["parameters"] for row in rows if row["name"] == "minidiff")
    assert all(abs(row["parameters"] / ours - 1) <= 0.06 for row in rows)


def test_the_checks_were_tried_as_they_are():
    """`python benchmarks/grading.py` has to follow each change of a task."""
    grading = result("grading")
    assert grading["sum"]["false_alarms"] == grading["sum"]["not_recognised"] == 0
    for chapter, checks in variants.CHECKS.items():
        tried = grading["chapters"][chapter]
        assert tried["repetitions_of_right_answers"] >= 200
        assert tried["tasks"] == len(checks)
        assert tried["misconceptions"] == sum(len(c.misconceptions) for c in checks.values())
        assert tried["variants"] == sum(map(len, variants.variants(chapter).values()))
        assert max(tried["median_ms"].values()) <= 50
        assert tried["largest_ms"] <= 5_000


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("fashion", "README.md"),
        ("fashion", "minidiff/zoo/weights/fashion.md"),
        ("fashion-improved", "minidiff/zoo/weights/fashion-improved.md"),
        ("captioned", "minidiff/zoo/weights/captioned.md"),
        ("clips", "minidiff/zoo/weights/clips.md"),
    ],
)
def test_the_figures_quoted_are_the_figures_measured(name, page):
    tables = re.findall(r"(?:^\|.*\n)+", measure.module_of(name).page(result(name)), re.MULTILINE)
    assert tables
    assert all(table.rstrip() in (ROOT / page).read_text() for table in tables)

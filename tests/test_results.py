"""What `make measure` wrote: it belongs to the shipped weights, meets the bounds, and is quoted."""

import json
from pathlib import Path

import pytest

import variants
from minidiff.training import load_tensors
from minidiff.zoo import BOUNDS, RECIPES, WEIGHTS, recipe_hash

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_a_result_belongs_to_the_shipped_weights(name):
    _, metadata = load_tensors(WEIGHTS / f"{name}.safetensors")
    assert result(name)["recipe_hash"] == metadata["recipe_hash"] == recipe_hash(RECIPES[name])
    assert "quality" in metadata  # `make measure` came after the training


def test_every_seed_meets_every_bound():
    runs = result("fashion")["runs"]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert result("fashion")["n_calls"] <= 250
    for run in runs:
        assert run["agreement"]["n"] == 2_000
        assert run["agreement_ratio"] >= BOUNDS["fashion_agreement"]
        assert run["frechet_ratio"] <= BOUNDS["fashion_frechet_ratio"]
        assert run["nearest_ratio"] >= BOUNDS["fashion_nearest_ratio"]
    assert result("judge")["accuracy"]["value"] >= BOUNDS["judge_accuracy"]


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


@pytest.mark.parametrize("page", ["README.md", "minidiff/zoo/weights/fashion.md"])
def test_the_figures_quoted_are_the_figures_measured(page):
    lines = (ROOT / "benchmarks" / "RESULTS.md").read_text().splitlines()
    table = "\n".join(line for line in lines if line.startswith("|"))
    assert table in (ROOT / page).read_text()

"""Try each check of the exercises on many more random inputs than the tests do.

Every right answer must pass and every misconception get its own sentence, each time; the exit code
is 1 if one does not. The summary is written to benchmarks/results/grading.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from measure import RESULTS, write
from minidiff.grading import Check, CheckFailed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import variants


def main() -> int:
    """Try all checks; return 1 if a right answer failed or a misconception was not recognised."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--n", type=int, default=200, help="random inputs of each right answer")
    parser.add_argument("--n-wrong", type=int, default=40, help="of each misconception")
    parser.add_argument("--first-seed", type=int, default=1_000)
    parser.add_argument(
        "--only", nargs="+", metavar="NN", help="some chapters; the others keep theirs"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="chapters at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    right, wrong = (
        range(options.first_seed, options.first_seed + n) for n in (options.n, options.n_wrong)
    )
    names = [n for n in variants.CHAPTERS if options.only is None or n[-2:] in options.only]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        chapters = dict(
            pool.starmap(try_chapter, [(name, right, wrong) for name in names], chunksize=1)
        )
    if options.only is not None and (RESULTS / "grading.json").exists():
        chapters = json.loads((RESULTS / "grading.json").read_text())["chapters"] | chapters
    counts = ("tasks", "misconceptions", "variants", "false_alarms", "not_recognised")
    total = {name: sum(chapter[name] for chapter in chapters.values()) for name in counts}
    print("sum", total)
    write("grading", {"sum": total, "chapters": chapters}, torch.device("cpu"))
    return 1 if total["false_alarms"] or total["not_recognised"] else 0


def try_chapter(
    chapter: str, seeds_of_right: range, seeds_of_wrong: range
) -> tuple[str, dict[str, Any]]:
    """Try all checks of a chapter with all that is right and all that is known to be wrong."""
    torch.set_num_threads(1)
    checks = variants.CHECKS[chapter]
    right = variants.variants(chapter)
    false_alarms = not_recognised = 0
    closest = (math.inf, math.inf, "")
    largest, medians = 0.0, {}
    for name, check in checks.items():
        times = []
        for answer in (variants.fresh_copy(check.reference), *right[name]):
            for seed in seeds_of_right:
                failed, seconds = attempt(check, answer, seed)
                times.append(seconds)
                if failed is not None:
                    false_alarms += 1
                    print(f"false alarm: {name}, {answer.__name__}, {seed=}: {failed}")
        medians[name] = round(1_000 * statistics.median(times), 1)
        for mistake, answer in check.misconceptions.items():
            for seed in seeds_of_wrong:
                failed, seconds = attempt(check, answer, seed)
                times.append(seconds)
                if failed is None or failed.misconception != mistake:
                    not_recognised += 1
                    print(f"not recognised: {name}, {mistake}, {seed=}: {failed}")
        largest = max(largest, *times)
        found = min((variants.closest(check, seed) for seed in seeds_of_wrong), key=lambda c: c[1])
        closest = min(closest, found, key=lambda c: c[1])
    result = {
        "tasks": len(checks),
        "misconceptions": sum(len(check.misconceptions) for check in checks.values()),
        "variants": sum(len(right[name]) for name in checks),
        "repetitions_of_right_answers": len(seeds_of_right),
        "repetitions_of_misconceptions": len(seeds_of_wrong),
        "false_alarms": false_alarms,
        "not_recognised": not_recognised,
        "smallest_distance": {
            "tolerances": round(closest[0], 1),
            "of_what_it_must_be": round(closest[1], 2),
            "between": closest[2],
        },
        "median_ms": medians,
        "largest_ms": round(1_000 * largest, 1),
    }
    print(chapter, result, flush=True)
    return chapter, result


def attempt(
    check: Check, answer: Callable[..., Any], seed: int
) -> tuple[CheckFailed | None, float]:
    """Check an answer; return how it failed, if it did, and the seconds that took."""
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            check(answer, seed)
        except CheckFailed as failed:
            return failed, time.perf_counter() - begin
    return None, time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())

"""At the end of a run, what the checks know, if their tests were among it."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    tests = ("test_grading.py", "test_students.py")
    if not any(name in report.nodeid for report in ran for name in tests):
        return
    import variants  # only now: it imports torch

    rows = []
    for chapter, checks in variants.CHECKS.items():
        right = variants.variants(chapter)
        n_misconceptions = sum(len(check.misconceptions) for check in checks.values())
        n_variants = sum(len(right.get(name, ())) for name in checks)
        tried = variants.attempts(chapter)
        n_recognised = sum(attempt["misconception"] is not None for attempt in tried)
        counts = (len(checks), n_misconceptions, n_variants, len(tried), n_recognised)
        rows.append((chapter, *counts))
    total = [sum(row[column] for row in rows) for column in range(1, 6)]
    heads = ("tasks", "misconceptions", "correct variants", "readers' attempts", "recognised")
    terminalreporter.section("what the checks know")
    for cells in (("", *heads), *rows, ("sum", *total)):
        terminalreporter.write_line("{:12s}{:>8}{:>16}{:>18}{:>19}{:>12}".format(*cells))

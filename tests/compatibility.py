"""Counts the tests that are cases of TensorFlow Serving's documentation, sources or tests, and writes their table.

A case is marked `@pytest.mark.compatible(area)`, or `compatible(area, differs="why")` where this server does otherwise
on purpose. `make compatibility` runs all of them and writes docs/compatibility.md of those that passed; `make test`
compares the page with what is marked.
"""

import collections
import os
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
AREAS = (
    "JSON requests", "JSON replies", "tensors", "Predict and metadata", "Classify, Regress and MultiInference",
    "errors and statuses", "labels and policies", "changes of the file system", "reload of the configuration",
    "configuration files", "batching", "warm-up and loading", "TensorFlow Lite", "metrics", "flags", "connections",
)  # fmt: skip
_PROPERTY = "compatible"
Case = tuple[str, str, str]  # area, why it differs, the test: file::function
_passed: list[Case] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets each marked test carry its mark to whoever writes the table."""
    for item in items:
        if mark := item.get_closest_marker("compatible"):
            (area,), differs = mark.args, mark.kwargs.get("differs", "")
            assert area in AREAS, f"{item.nodeid}: {area!r} is none of {AREAS}"
            item.user_properties.append((_PROPERTY, (area, differs, item.nodeid.partition("[")[0])))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keeps what has passed."""
    if report.when == "call" and report.passed:
        _passed.extend(tuple(value) for name, value in report.user_properties if name == _PROPERTY)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the page where it is asked for, in the process that has seen every test."""
    if os.environ.get("COMPATIBILITY_PAGE") and not hasattr(session.config, "workerinput"):
        PAGE.write_text(page(_passed))


def counts(cases: list[Case]) -> dict[str, tuple[int, int]]:
    """Returns how many cases of each area agree, and how many differ."""
    tried = collections.Counter(area for area, _, _ in cases)
    differing = collections.Counter(area for area, differs, _ in cases if differs)
    return {area: (tried[area] - differing[area], differing[area]) for area in AREAS if tried[area]}


def page(cases: list[Case]) -> str:
    """Returns the page of the cases that passed."""
    by_area = counts(cases)
    agree, differ = (sum(pair[index] for pair in by_area.values()) for index in (0, 1))
    rows = [f"| {area} | {a + d} | {a} | {d or ''} |" for area, (a, d) in by_area.items()]
    reasons = sorted({(AREAS.index(area), area, differs) for area, differs, _ in cases if differs})
    return "\n".join(
        [
            "# Compatibility, case by case",
            "",
            "Each case is a test that expects what TensorFlow Serving's public documentation, sources or tests say.",
            "The two servers were never run beside each other: what is expected was read, not recorded.",
            "The run of those tests (`make compatibility`) writes this page; `make test` compares it with the marks.",
            "",
            "| area | cases | agree | differ on purpose |",
            "| --- | --- | --- | --- |",
            *rows,
            f"| **all** | {agree + differ} | {agree} | {differ} |",
            "",
            "## What differs, and why",
            "",
            *[f"- {area}: {why}" for _, area, why in reasons],
            "",
            "## The cases",
            "",
            "By the names of their tests, with how many inputs each has.",
            "",
            *[line for area in by_area for line in _listed(area, cases)],
        ]
    )


def _listed(area: str, cases: list[Case]) -> list[str]:
    """Returns the lines of an area: its tests, by file."""
    tests = collections.Counter(test for of, _, test in cases if of == area)
    by_file: dict[str, list[str]] = {}
    for test, inputs in sorted(tests.items()):
        file, _, function = test.partition("::")
        sentence = function.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        by_file.setdefault(file, []).append(f"{sentence} ({inputs})" if inputs > 1 else sentence)
    return [f"### {area}", "", *[f"- `{file}`: {'; '.join(names)}" for file, names in by_file.items()], ""]

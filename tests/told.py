"""What the sweeps of a run came to, as one table at its end: each tells how much it went through.

A test takes the fixture ``told`` and calls ``told("what was gone through", how_many)`` once it has seen all of it hold:
what a sweep that failed went through is not in the count. Mutants, by their names, and tests marked ``attack`` are
counted as tests; a mutant of an attack is a mutant alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

Told = Callable[[str, int], None]
PREFIX, SWEEP = "told: ", "is a sweep"
MUTANT = ("mutant", "is_caught")  # in the name of a test that a check can fail
SEED, DEFAULT_SEED = "SUREFOOT_SEED", "20250601"
# In the order of the table; what is not here comes after.
ORDER = (
    "cuts before a primitive",
    "cuts again, inside a recovery",
    "images of a power cut, on ext4",
    "of these, every prefix of what was written",
    "images after which the real model was loaded",
    "images that lost what was not synced",
    "cycles of install, confirm and rollback",
    "processes killed, one before each primitive",
    "processes killed at random",
    "random walks of 20 steps",
    "cuts of trust, fetching and publishing",
    "cuts again, inside the next run of trust, fetching and publishing",
    "cuts of an app's update",
    "writes and flushes answered with EIO",
    "disks full, out of inodes, over their quota",
    "disks read-only in the middle",
    "bits flipped in a repository",
)


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Told:
    """Count what a test went through, for the table. Whoever takes it is a sweep, and missed where it fails."""
    record_property(SWEEP, True)

    def tell(what: str, count: int) -> None:
        record_property(f"{PREFIX}{what}", count)

    return tell


class Table:
    """Gathers while a run goes on."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.tests: dict[str, list[bool]] = {"sweeps": [], "attacks": [], "mutants": []}  # whether each passed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has ended."""
        if report.skipped or (report.when != "call" and report.passed):
            return
        properties = dict(report.user_properties)
        is_mutant = any(each in report.nodeid.rpartition("::")[2] for each in MUTANT)
        kinds = {
            "sweeps": SWEEP in properties,
            "attacks": "attack" in report.keywords and not is_mutant,
            "mutants": is_mutant,
        }
        for kind in (kind for kind, is_one in kinds.items() if is_one):
            self.tests[kind].append(report.passed)
        for what, value in report.user_properties:
            if what.startswith(PREFIX) and isinstance(value, int):
                self.counts[what.removeprefix(PREFIX)] = self.counts.get(what.removeprefix(PREFIX), 0) + value

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table, before pytest's own last line."""
        if not any(self.tests.values()):
            return
        order = {what: number for number, what in enumerate(ORDER)}
        width = max(map(len, (*self.counts, *self.tests)))
        terminalreporter.section(f"gone through, SUREFOOT_SEED={os.environ[SEED]}")
        for what in sorted(self.counts, key=lambda each: order.get(each, len(ORDER))):
            terminalreporter.line(f"{what:<{width}}  {self.counts[what]:>9,}")
        for kind, passed in self.tests.items():
            terminalreporter.line(f"{kind:<{width}}  {len(passed):>9,}  {passed.count(False)} failed")

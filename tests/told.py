"""What the sweeps of a run came to, as one table at its end: each tells how much it went through.

A test takes the fixture ``told`` and calls ``told("what was gone through", how_many)`` once it has seen all of it hold.
Tests named ``mutant`` and tests marked ``attack`` are counted by themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

Told = Callable[[str, int], None]
PREFIX = "told: "
# In the order of the table; what is not here comes after.
ORDER = (
    "cuts before a primitive",
    "cuts again, inside a recovery",
    "images of a power cut, on ext4",
    "images that lost what was not synced",
    "cycles of install, confirm and rollback",
    "processes killed at random",
    "random walks of 20 steps",
    "cuts of trust, fetching and publishing",
    "cuts of an app's update",
    "writes and flushes answered with EIO",
    "disks full, out of inodes, over their quota",
    "bits flipped in a repository",
)


@pytest.fixture
def told(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Told:
    """Count what a test went through, for the table."""

    def tell(what: str, count: int) -> None:
        record_property(f"{PREFIX}{what}", count)

    return tell


class Table:
    """Gathers while a run goes on."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.attacks = self.mutants = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has ended."""
        if report.when != "call" or report.skipped:
            return
        if "mutant" in report.nodeid:
            self._add("mutants", 1, report.failed)
        if "attack" in report.keywords:
            self._add("attacks", 1, report.failed)
        for name, value in report.user_properties:
            if name.startswith(PREFIX) and isinstance(value, int):
                self._add(name.removeprefix(PREFIX), value, report.failed)

    def _add(self, what: str, count: int, failed: bool) -> None:
        self.counts[what] = self.counts.get(what, 0) + count
        self.lost[what] = self.lost.get(what, 0) + failed

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table, before pytest's own last line."""
        if not self.counts:
            return
        order = {what: number for number, what in enumerate((*ORDER, "attacks", "mutants"))}
        width = max(map(len, self.counts))
        terminalreporter.section("gone through")
        terminalreporter.line(f"{'':<{width}}  {'count':>9}  tests that failed")
        for what in sorted(self.counts, key=lambda each: order.get(each, len(ORDER))):
            terminalreporter.line(f"{what:<{width}}  {self.counts[what]:>9,}  {self.lost[what]}")
        seed = os.environ.get("SUREFOOT_SEED")
        terminalreporter.line(f"seed {seed}" if seed else "seeds: each test's own, printed with -s and where one fails")

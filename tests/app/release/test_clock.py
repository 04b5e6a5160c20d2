"""Which clock is believed: a function of plain values."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from surefoot.release import clock
from surefoot.release.clock import BUILD_TIME, Reading, judge

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
BEFORE, AFTER = NOW - timedelta(days=1), NOW + timedelta(days=1)


@pytest.mark.parametrize(
    ("mode", "synchronised", "floor", "trusted"),
    [
        ("auto", True, BEFORE, True),
        ("auto", True, NOW, True),
        ("auto", True, AFTER, False),
        ("auto", False, BEFORE, False),
        ("trusted", False, BEFORE, True),
        ("trusted", False, AFTER, False),
        ("untrusted", True, BEFORE, False),
    ],
)
def test_what_is_believed(mode, synchronised, floor, trusted):
    assert judge(mode, NOW, synchronised, floor) == Reading(NOW if trusted else floor, trusted)


def test_the_build_time_has_passed():
    assert datetime(2025, 1, 1, tzinfo=timezone.utc) < BUILD_TIME < datetime.now(timezone.utc)


def test_the_kernel_gives_the_same_answer_as_adjtimex(needs):
    """Compared with the standard library's C interface by a program of its own, since no tool is sure to be here."""
    needs(sys.platform.startswith("linux") and shutil.which("cc") is not None, "Linux and a C compiler")
    source = (
        "#include <sys/timex.h>\n#include <string.h>\n#include <stdio.h>\n"
        "int main(){struct timex t;memset(&t,0,sizeof t);int r=adjtimex(&t);"
        'printf("%d", r>=0 && r!=TIME_ERROR && !(t.status & STA_UNSYNC));return 0;}'
    )
    program = subprocess.run(
        ["sh", "-c", "cc -x c -o /tmp/.adjtimex-$$ - && /tmp/.adjtimex-$$; rm -f /tmp/.adjtimex-$$"],
        input=source,
        capture_output=True,
        text=True,
        check=True,
    )
    assert program.stdout == str(int(clock.kernel_synchronised()))

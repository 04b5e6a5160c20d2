"""When a reboot is due, by what a device says of its kernels and processes."""

from __future__ import annotations

import pytest

from tests.roles.test_support_bundle import load

LOOK = load("roles/maintenance/files/look.py")


@pytest.mark.parametrize(
    ("running", "installed", "newer"),
    [
        ("6.1.0-28-amd64", ["6.1.0-28-amd64", "6.1.0-31-amd64"], "6.1.0-31-amd64"),
        ("6.1.0-31-amd64", ["6.1.0-28-amd64", "6.1.0-31-amd64"], ""),
        ("6.1.0-9-amd64", ["6.1.0-9-amd64", "6.1.0-10-amd64"], "6.1.0-10-amd64"),
        # Two kernels side by side, one for each processor.
        ("6.6.51+rpt-rpi-v8", ["6.6.51+rpt-rpi-v8", "6.12.25+rpt-rpi-2712"], ""),
        ("6.6.51+rpt-rpi-v8", ["6.12.25+rpt-rpi-v8", "6.12.25+rpt-rpi-2712"], "6.12.25+rpt-rpi-v8"),
        ("6.12.43+deb13-amd64", ["6.12.48+deb13-amd64"], "6.12.48+deb13-amd64"),
        ("6.1.0-28-amd64", ["6.1.0-31-cloud-amd64"], ""),
        # A Jetson and a container name no kernel there.
        ("5.15.148-tegra", [], ""),
    ],
)
def test_a_reboot_is_due_for_a_newer_kernel_of_the_same_flavour(running: str, installed: list[str], newer: str) -> None:
    assert LOOK.newer_kernel(running, installed) == newer


@pytest.mark.parametrize(
    ("line", "due"),
    [
        ("7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)", True),
        ("7f00-7f01 r-xp 00000000 08:01 1 /usr/sbin/sshd (deleted)", True),
        ("7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/x86_64-linux-gnu/libssl.so.3", False),
        ("7f00-7f01 r--p 00000000 08:01 1 /usr/lib/locale/locale-archive (deleted)", False),
        ("7f00-7f01 rw-s 00000000 00:01 1 /memfd:ring (deleted)", False),
        ("7f00-7f01 r-xp 00000000 00:01 1 /tmp/jit (deleted)", False),
    ],
)
def test_a_reboot_is_due_where_replaced_code_still_runs(line: str, due: bool) -> None:
    assert LOOK.replaced(f"0-1 r--p 0 0 0 /usr/bin/x\n{line}\n") is due

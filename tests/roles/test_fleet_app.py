"""The app forward and back by the playbooks, on a real device without a network; the models go their own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from surefoot import __version__
from tests.parts import artifacts
from tests.roles.fleet import Fleet

pytestmark = pytest.mark.timeout(1800)


def current(fleet: Fleet) -> str:
    return fleet.run("box-1", f"readlink {CURRENT}")


# As a deploy leaves the device that was cut off after its switch to settings that an earlier one gave up.
CUT_OFF = """
import subprocess, sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
apps = SourceFileLoader("trial", "/usr/local/sbin/surefoot-trial").load_module().Apps(Path("/data/surefoot/apps"))
if not apps.whole(sys.argv[1]):
    apps.mark("complete", sys.argv[1])
apps.begin_trial(sys.argv[1])
apps.switch(sys.argv[1])
apps.place(sys.argv[1])
if sys.argv[2:]:
    subprocess.run(sys.argv[2:], check=True)
subprocess.run(["systemctl", "daemon-reload"], check=True)
subprocess.run(["systemctl", "--no-block", "restart", "surefoot.service"], check=True)
"""
CURRENT = "/data/surefoot/apps/current"
UNIT = "systemctl show --property MemoryMax --value surefoot.service"
MEMORY, OTHER_MEMORY = "536870912", "402653184"
OTHER = {"inference_app_most_memory_bytes": int(OTHER_MEMORY)}


def test_the_app_and_the_models_are_returned_apart_and_together_and_offline(
    make_fleet: Callable[[str], Fleet],
) -> None:
    fleet = make_fleet("test-fleet-app")
    fleet.add("box-1", "systemd")
    fleet.good("provision")
    fleet.good("deploy")
    first = current(fleet)

    alone = fleet.play("rollback", surefoot_what="app")
    assert alone.status == 2
    assert f"there is no app to return to; found: nothing before {first}" in alone.said

    newer: dict[str, Any] = {
        "inference_app_bundle": str(artifacts.bundle(variant="second")),
        "surefoot_version": "2.0.0",
    }
    fleet.good("deploy", **newer)
    second = current(fleet)
    assert second != first and fleet.serves("box-1") == "2.0.0"

    # Settings that cannot serve: the port is that of SSH. Returned from by the deploy, then by the device alone.
    bad = fleet.play("deploy", **newer, **OTHER, inference_app_http_port=22, inference_app_start_timeout_s=20)
    assert bad.status == 2 and f"returned to {second}, which answers" in bad.said
    assert (current(fleet), fleet.run("box-1", UNIT)) == (second, MEMORY)
    assert fleet.good("deploy", **newer).changes == set()
    app = second.partition("@")[0]
    given_up = fleet.run("box-1", f"cd /data/surefoot/apps; ls -d {app}@* | grep -v {second}")
    fleet.run("box-1", f"python3 - {given_up} <<'END'\n{CUT_OFF}\nEND")
    fleet.run("box-1", f"timeout 200 sh -c 'until [ $(readlink {CURRENT}) = {second} ]; do sleep 1; done'")
    assert fleet.serves("box-1") == "2.0.0" and fleet.run("box-1", UNIT) == MEMORY
    assert "start 3 of 3" in fleet.run("box-1", "journalctl --unit surefoot.service --output cat")

    fleet.run("box-1", "ip route flush default; ! ip route get 192.0.2.1")
    foretold = fleet.good("rollback", "--check", "--diff", surefoot_what="app")
    assert current(fleet) == second
    back = fleet.good("rollback", "--diff", surefoot_what="app")
    assert back.changes == foretold.changes != set()
    assert (current(fleet), fleet.serves("box-1")) == (first, "2.0.0")  # the model stays
    again = fleet.good("rollback", surefoot_what="app")
    assert again.changes == set() and f"{first} serves, returned to from {second} earlier" in again.said
    assert f" no {__version__} " in fleet.good("status").said

    fleet.good("rollback")  # as ever: the models alone
    assert (current(fleet), fleet.serves("box-1")) == (first, "1.0.0")

    fleet.good("deploy", **newer)
    assert (current(fleet), fleet.serves("box-1")) == (second, "2.0.0")
    fleet.good("rollback", surefoot_what="all")
    assert (current(fleet), fleet.serves("box-1")) == (first, "1.0.0")
    assert fleet.good("rollback", surefoot_what="all").changes == set()

    fleet.good("deploy", **OTHER)  # the same app
    assert current(fleet) != first and current(fleet).startswith(first.partition("@")[0])
    assert fleet.run("box-1", UNIT) == OTHER_MEMORY
    assert fleet.good("deploy", **OTHER).changes == set()
    fleet.good("rollback", surefoot_what="app")
    assert (current(fleet), fleet.run("box-1", UNIT), fleet.serves("box-1")) == (first, MEMORY, "1.0.0")

    # The other settings again, on a disk that takes no writes: what was confirmed serves, and their unit gives way.
    other = fleet.run("box-1", f"cat {CURRENT}/before")
    fleet.run("box-1", f"python3 - {other} mount -o remount,bind,ro /data <<'END'\n{CUT_OFF}\nEND")
    fleet.run("box-1", "timeout 200 sh -c 'until [ -L /run/surefoot-instead ]; do sleep 0.2; done'")
    assert fleet.serves("box-1") == "1.0.0"
    assert fleet.run("box-1", "readlink -e /run/surefoot-instead") == f"/data/surefoot/apps/{first}"
    assert (current(fleet), fleet.run("box-1", UNIT)) == (other, MEMORY)
    assert fleet.run("box-1", f"cat {CURRENT}/tries") == "0"
    assert "could not be counted" in fleet.run("box-1", "journalctl --unit surefoot.service --output cat")
    fleet.run("box-1", "mount -o remount,bind,rw /data")
    fleet.good("deploy")
    assert (current(fleet), fleet.run("box-1", "ls -d /run/surefoot-instead", check=False)) == (first, "")

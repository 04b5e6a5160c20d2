#!/usr/bin/python3 -IS
"""Runs the app's container for systemd: starts it, says when its gateway answers, feeds the watchdog while it does.

usage: attend INSTEAD APPS RUN_DIR OPTION...    the app is INSTEAD if that is there, else APPS/current; its `image`
names the image; OPTIONs are those of `docker run`

systemd takes messages of a service's own processes only (sd_notify(3)), and those of a container are the engine's: this
stays beside it, and ends when it ends. The container is watched by its first process, not by the engine, so that an
engine that restarts with live-restore interrupts nothing.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time

NAME = "surefoot"
DOCKER = "/usr/bin/docker"
ANSWER_TIMEOUT_S = 5.0
FEEDS_A_PERIOD = 3
UNTIL_READY_S = 0.2  # between two questions to a gateway that has yet to answer for the first time


class Stopped(Exception):
    """systemd wants the container to end."""


def stop(*_):
    """SIGTERM."""
    raise Stopped


def tell(state):
    """Tell systemd: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def answers(gateway):
    """Whether the gateway says that it lives, asked as a client asks."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT_S)
            connection.connect(gateway)
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: surefoot\r\nConnection: close\r\n\r\n")
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def docker(*arguments):
    """What the engine's command says; nothing where it fails, its reason is in the journal then."""
    return subprocess.run([DOCKER, *arguments], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


def first_process():
    """A descriptor that can be read once the container's first process has ended; nothing where there is none."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", NAME)
    if not pid.isdigit() or pid == "0":
        return None
    try:
        descriptor = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return None
    # Asked again: the number may have gone to another process in between.
    return descriptor if docker("inspect", "--format", "{{.State.Pid}}", NAME) == pid else None


def attend(process, gateway):
    """Until the container's first process ends."""
    period_s = int(os.environ.get("WATCHDOG_USEC") or 60_000_000) / 1e6 / FEEDS_A_PERIOD
    ready = False
    while True:
        asked_s = time.monotonic()
        if answers(gateway):
            tell("WATCHDOG=1" if ready else "READY=1")
            ready = True
        elif ready:
            print("the gateway does not answer; systemd's watchdog is not fed", file=sys.stderr)
        left_s = asked_s + period_s - time.monotonic() if ready else UNTIL_READY_S
        if select.select([process], [], [], max(0.0, left_s))[0]:
            return


def main(instead, apps, run_dir, *options):
    """Returns the exit status: 0 only where systemd asked for the end."""
    signal.signal(signal.SIGTERM, stop)
    try:
        app = os.path.realpath(instead if os.path.exists(instead) else f"{apps}/current")  # noqa: PTH110  # as below
        with open(f"{app}/image", encoding="utf-8") as noted:  # noqa: PTH123  # pathlib would stay in memory
            image = noted.read().strip()
        # Of an attendant that was killed.
        subprocess.run([DOCKER, "rm", "--force", NAME], capture_output=True, check=False)
        named = (f"--env=SUREFOOT_CONFIG={app}/surefoot.toml", f"--env=SUREFOOT_APP={app}")
        if not docker("run", "--detach", f"--name={NAME}", *named, *options, image):
            return 1
        process = first_process()
        if process is not None:
            attend(process, f"{run_dir}/http.sock")
        print("the container has ended", file=sys.stderr)
        return 1
    except Stopped:
        tell("STOPPING=1")
        docker("stop", NAME)
        return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

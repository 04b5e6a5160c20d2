#!/usr/bin/python3 -IS
"""Feeds the hardware watchdog of a device while its gateway answers. Standard library only, Python 3.10 or newer.

Verbs: ``run`` (the service) and ``look``, which prints as JSON what there is and changes nothing. The device is closed
in order ("V", see https://docs.kernel.org/watchdog/watchdog-api.html) on SIGTERM alone: whatever else ends this program
leaves the timer running, and the device is reset unless systemd has started it again by then.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import ctypes
import fcntl
import ipaddress
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

UNIT = "surefoot-watchdog.service"
STATE = Path("/run/surefoot-watchdog/state.json")
RECORD = "silences.jsonl"
MOST_RECORD_BYTES = 1_000_000  # PITFALLS 60: what a power cut must not take, and what a card may have to bear
MOST_LOG_BYTES = 32 * 1024  # of one entry, so that the record holds thirty
LOG_LINES = 200
MOST_ENDPOINT_BYTES = 16 * 1024
MOST_ANSWER_BYTES = 1024 * 1024
ANSWER_TIMEOUT_S = 10.0
ASK_TIMEOUT_S = 5.0  # of systemctl and journalctl: the record has to be written before the device is reset
PROBE_S = 5.0
MOST_START_S = 3600.0
MOST_HOLDERS = 16
ANSWERS = "the gateway answers"

# asm-generic/ioctl.h and linux/watchdog.h; the same numbers on arm64 and amd64
WDIOC_GETSUPPORT = 0x80285700
WDIOC_GETBOOTSTATUS = 0x80045702
WDIOC_SETTIMEOUT = 0xC0045706
WDIOC_GETTIMEOUT = 0x80045707
WDIOF_CARDRESET = 0x20
MLOCK_ALL_ON_FAULT = 1 | 2 | 4  # MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT: mlock(2)


# -- pure ------------------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """For how long a gateway may be silent: as it is, while it starts, while a model loads."""

    silence_s: float
    start_s: float
    load_s: float


class Sight(NamedTuple):
    """What is known of the gateway; times are CLOCK_MONOTONIC.

    ``since_s``: when this program began to look, or last saw that the app was stopped. ``answered_s``: the last answer.
    ``loading_s``: since when a model loads, as far as the gateway could say. ``app``: what systemd says, ``running``,
    ``starting``, ``stopped`` (on purpose, or not there at all) or ``unknown``.
    """

    since_s: float
    answered_s: float | None = None
    loading_s: float | None = None
    app: str = "unknown"


class Verdict(NamedTuple):
    """Whether the watchdog is fed now, and why."""

    feed: bool
    why: str


def decide(now_s: float, sight: Sight, limits: Limits) -> Verdict:
    """Feed, or let the device be reset."""
    silent_s = now_s - max(sight.since_s, sight.answered_s or 0.0)
    if sight.app == "stopped":
        return Verdict(True, "the app is stopped on purpose, or not installed")
    if sight.answered_s is not None and silent_s <= limits.silence_s:
        return Verdict(True, ANSWERS)
    starting = sight.app == "starting" or sight.answered_s is None or sight.answered_s < sight.since_s
    if starting and silent_s <= limits.start_s:
        return Verdict(True, "the app starts")
    if sight.loading_s is not None and now_s - sight.loading_s <= limits.load_s:
        return Verdict(True, "a model loads")
    most_s = limits.start_s if starting else limits.silence_s
    return Verdict(False, f"the gateway has not answered for more than {most_s:g} s")


def app_state(unit: dict[str, str], answered_s: float | None, *, published: bool) -> str:
    """What ``systemctl show`` says of the app's unit, as a word of :class:`Sight`.

    Args:
        unit: LoadState, ActiveState and ActiveEnterTimestampMonotonic (in microseconds).
        answered_s: the gateway's last answer. A unit that became active after it has been started since.
        published: whether the app has left word of where it can be reached.
    """
    state = unit.get("ActiveState")
    if unit.get("LoadState") != "loaded":
        return "unknown" if published or not state else "stopped"
    if state == "inactive":
        return "stopped"
    entered = unit.get("ActiveEnterTimestampMonotonic", "")
    entered_s = int(entered) / 1e6 if entered.isdecimal() else 0.0
    if state in ("activating", "deactivating", "reloading") or (answered_s is not None and entered_s > answered_s):
        return "starting"
    return "running"


def loads(status: Any) -> bool:
    """Whether the app's ``/status.json`` says that a model loads, or that a release is being written or judged."""
    models = status.get("models") if isinstance(status, dict) else None
    for model in models if isinstance(models, list) else []:
        slots = model.get("slots") or {}
        active = slots.get("active") or {}
        busy = [slot for slot in (slots.get("slots") or {}).values() if slot.get("status") in ("filling", "staged")]
        if model.get("state") == "loading" or busy or active.get("digest") != model.get("digest"):
            return True
    return False


def unanswered(entries: Sequence[dict[str, Any]]) -> set[str]:
    """The boots in which the gateway fell silent last, with no answer since."""
    boots = set()
    for entry in reversed(entries):
        if entry.get("event") != "silent":
            break
        boots.add(str(entry.get("boot")))
    return boots


def patient(limits: Limits, resets: int) -> Limits:
    """A reset that did not help will not help soon: each in a row doubles the time that a start may take."""
    return limits._replace(start_s=max(limits.start_s, min(limits.start_s * 2.0**resets, MOST_START_S)))


def appended(record: bytes, entry: bytes) -> bytes:
    """The record with one more line, and without its oldest ones where it would grow too long."""
    lines = [*record.splitlines(keepends=True), entry]
    while len(lines) > 1 and sum(map(len, lines)) > MOST_RECORD_BYTES:
        del lines[0]
    return b"".join(lines)


# -- edges -----------------------------------------------------------------------------------------------------------


class Device:
    """The watchdog device, open. A FIFO in its place is a double for tests, and is called one."""

    def __init__(self, path: str, timeout_s: int) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self.double = stat.S_ISFIFO(os.fstat(self._descriptor).st_mode)
        self.timeout_s = timeout_s
        self.identity = "double: a FIFO, no hardware"
        self.caused_boot = False
        if not self.double:
            self._set_up(timeout_s)

    def _set_up(self, timeout_s: int) -> None:
        value = array.array("i", [timeout_s])
        fcntl.ioctl(self._descriptor, WDIOC_SETTIMEOUT, value, True)
        fcntl.ioctl(self._descriptor, WDIOC_GETTIMEOUT, value, True)
        self.timeout_s = value[0]
        support = bytearray(40)  # struct watchdog_info: options, firmware_version, identity[32]
        fcntl.ioctl(self._descriptor, WDIOC_GETSUPPORT, support, True)
        self.identity = support[8:].split(b"\0")[0].decode(errors="replace")
        with contextlib.suppress(OSError):  # not every driver knows
            fcntl.ioctl(self._descriptor, WDIOC_GETBOOTSTATUS, value, True)
            self.caused_boot = bool(value[0] & WDIOF_CARDRESET)

    def feed(self) -> None:
        """Start the timer again."""
        os.write(self._descriptor, b"\0")

    def disarm(self) -> None:
        """Close in order. A driver without a way out (``nowayout``) goes on counting all the same."""
        os.write(self._descriptor, b"V")
        os.close(self._descriptor)


class Gateway:
    """The app's gateway as a client sees it, and its unit as systemd does."""

    def __init__(self, run_dir: Path, unit: str) -> None:
        self._endpoint = run_dir / "endpoint.json"
        self._unit = unit

    def _connect(self) -> socket.socket:
        with self._endpoint.open("rb") as stream:
            endpoint = json.loads(stream.read(MOST_ENDPOINT_BYTES))
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unix.settimeout(ANSWER_TIMEOUT_S)
            unix.connect(endpoint["http_socket"])
        except OSError:  # not there, or full; the address may still answer
            unix.close()
            address = urlsplit(endpoint["url"])
            if address.scheme != "http" or not ipaddress.ip_address(address.hostname or "").is_loopback:
                raise
            return socket.create_connection((address.hostname, address.port), ANSWER_TIMEOUT_S)
        return unix

    def get(self, path: str) -> Any:
        """The JSON at an address. By hand, since http.client takes 8 MB of memory.

        Raises:
            OSError, ValueError, KeyError, TypeError: there is none.
        """
        answer = b""
        with self._connect() as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            while len(answer) < MOST_ANSWER_BYTES and (part := connection.recv(1 << 16)):
                answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b"\r\n")[0].split(b" ")
        if status[1:2] != [b"200"]:
            raise OSError(f"{path} answered {status[:3]}")
        return json.loads(body)

    def app(self, answered_s: float | None) -> str:
        """See :func:`app_state`. A systemd that does not answer leaves it unknown."""
        names = "LoadState,ActiveState,ActiveEnterTimestampMonotonic"
        said = ask("systemctl", "show", f"--property={names}", self._unit)
        unit = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        return app_state(unit, answered_s, published=self._endpoint.exists())


class Record:
    """When and why the gateway fell silent: written then, and once more when it answers again after a reset."""

    def __init__(self, folder: Path, boot: str) -> None:
        self._path = folder / RECORD
        self._boot = boot

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as stream:
                return stream.read(2 * MOST_RECORD_BYTES)
        except OSError:
            return b""

    def unanswered(self) -> set[str]:
        """See the function. A line that cannot be read ends the row."""
        entries = []
        for line in self._read().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            entries.append(entry if isinstance(entry, dict) else {})
        return unanswered(entries)

    def add(self, event: str, **facts: object) -> None:
        """One entry, durable when this returns. A disk that takes none must not change what is decided."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = {"time": now, "boot": self._boot, "uptime_s": round(time.monotonic(), 1), "event": event, **facts}
        try:
            replace(self._path, appended(self._read(), json.dumps(entry).encode() + b"\n"))
        except OSError as error:
            say(f"the record was not written: {error}")


def replace(path: Path, content: bytes) -> None:
    """Write a file whole: fsync, rename, fsync of its directory."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def ask(*command: str) -> str:
    """What a command prints, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=ASK_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")


def say(message: str) -> None:
    """To the journal."""
    print(message, flush=True)


def notify(message: str) -> None:
    """To systemd: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.sendto(message.encode(), address.replace("@", "\0", 1))


class Prober(threading.Thread):
    """Asks the gateway over and over. A thread of its own: the watchdog is fed on time however long an answer takes."""

    def __init__(self, gateway: Gateway, every_s: float) -> None:
        super().__init__(daemon=True)
        self.sight = Sight(since_s=time.monotonic())
        self._gateway = gateway
        self._every_s = every_s

    def run(self) -> None:
        """Until the process ends. A bug here ends it, in disorder: nobody may feed on the word of a dead thread."""
        try:
            while True:
                self.sight = self._look(self.sight)
                time.sleep(self._every_s)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _look(self, sight: Sight) -> Sight:
        try:
            self._gateway.get("/v2/health/live")
        except (OSError, ValueError, KeyError, TypeError):
            app = self._gateway.app(sight.answered_s)
            return sight._replace(app=app, since_s=time.monotonic() if app == "stopped" else sight.since_s)
        sight = sight._replace(answered_s=time.monotonic(), app="running")
        try:
            loading = loads(self._gateway.get("/status.json"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return sight  # it answers, and cannot say: what it said last stands, within its limit
        return sight._replace(loading_s=(sight.loading_s or time.monotonic()) if loading else None)


def run(arguments: argparse.Namespace) -> int:
    """The service."""
    stopped = _stop_signals()
    threading.stack_size(256 * 1024)
    if ctypes.CDLL(None).mlockall(MLOCK_ALL_ON_FAULT) != 0:
        say("memory is not locked: a device that is short of it may not be fed in time")
    device = Device(arguments.device, arguments.timeout_s)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = Record(arguments.record_dir, boot)
    owed = record.unanswered()
    resets = len(owed - {boot})
    limits = patient(Limits(arguments.silence_s, arguments.start_s, arguments.load_s), resets)
    prober = Prober(Gateway(arguments.run_dir, arguments.app_unit), min(PROBE_S, arguments.silence_s / 6))
    prober.start()
    say(f"{device.path} ({device.identity}) resets this device {device.timeout_s} s after it was fed last")
    if resets:
        say(f"resets in a row without an answer in between: {resets}; a start may take {limits.start_s:g} s now")
    verdict = Verdict(True, "")
    while True:
        before, verdict = verdict, decide(time.monotonic(), prober.sight, limits)
        if verdict.feed:
            device.feed()
        if verdict != before:
            _changed(device, verdict, limits, resets)
            if not verdict.feed:
                log = ask("journalctl", "--quiet", "--no-pager", "--output=short-iso", f"--lines={LOG_LINES}")
                record.add("silent", why=verdict.why, sight=prober.sight._asdict(), log=log[-MOST_LOG_BYTES:])
                owed = {boot}
        if owed and verdict.why == ANSWERS:
            record.add("answered")
            owed = set()
        if select.select([stopped], [], [], device.timeout_s / 5)[0]:
            break
    device.disarm()
    say("stopped in order: the watchdog is disarmed")
    return 0


def _stop_signals() -> int:
    """A pipe that can be read once either has come. A handler that did more could run in the middle of anything."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader


def _changed(device: Device, verdict: Verdict, limits: Limits, resets: int) -> None:
    say(f"{'fed' if verdict.feed else 'NOT FED'}: {verdict.why}")
    state = {"device": device.path, "identity": device.identity, "double": device.double, "timeout_s": device.timeout_s}
    state |= {"caused_boot": device.caused_boot, "resets": resets, **limits._asdict(), **verdict._asdict()}
    STATE.write_text(json.dumps(state) + "\n")
    notify(f"READY=1\nSTATUS={'Fed' if verdict.feed else 'NOT FED'}: {verdict.why}")


def look(arguments: argparse.Namespace) -> int:
    """Print what there is, for the role. Opens no watchdog, since that starts it."""
    path = Path(arguments.device)
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0
    kind = {0: "none", stat.S_IFCHR: "device", stat.S_IFIFO: "double"}.get(stat.S_IFMT(mode), "something else")
    facts = Path("/sys/class/watchdog") / ("watchdog0" if path.name == "watchdog" else path.name)
    try:
        state = json.loads(STATE.read_text())
    except (OSError, ValueError):
        state = None
    service = ask("systemctl", "show", "--property=ActiveState,MainPID", UNIT)
    found = {
        "kind": kind,
        "facts": {name: _word(facts / name) for name in ("identity", "min_timeout", "max_timeout", "nowayout")},
        # As in "1min"; "0" or "infinity" where systemd leaves the watchdog alone.
        "systemd": ask("systemctl", "show", "--property=RuntimeWatchdogUSec", "--value").strip(),
        "service": dict(line.split("=", 1) for line in service.splitlines()),
        "holders": _holders("/dev/watchdog" if kind == "device" else str(path)),
        "state": state,
    }
    print(json.dumps(found))
    return 0


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _holders(prefix: str) -> list[dict[str, Any]]:
    """Processes that have it open: /dev/watchdog and /dev/watchdog0 are one."""
    found: dict[int, str] = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # gone, or not ours to see
            if str(link.readlink()).startswith(prefix) and len(found) < MOST_HOLDERS:
                found[int(link.parts[2])] = _word(Path(*link.parts[:3], "comm"))
    return [{"pid": pid, "name": name} for pid, name in sorted(found.items())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb."""
    parser = argparse.ArgumentParser(prog="surefoot-watchdog", description="Feeds a hardware watchdog.")
    verbs = parser.add_subparsers(required=True)
    looking = verbs.add_parser("look", help="print what there is")
    running = verbs.add_parser("run", help="the service")
    for verb, function in ((looking, look), (running, run)):
        verb.add_argument("--device", required=True)
        verb.set_defaults(function=function)
    running.add_argument("--timeout-s", type=int, required=True, help="of the hardware")
    running.add_argument("--silence-s", type=float, required=True)
    running.add_argument("--start-s", type=float, required=True)
    running.add_argument("--load-s", type=float, required=True)
    running.add_argument("--run-dir", type=Path, required=True, help="where the app leaves endpoint.json")
    running.add_argument("--record-dir", type=Path, required=True)
    running.add_argument("--app-unit", required=True)
    chosen = parser.parse_args(arguments)
    return int(chosen.function(chosen))


if __name__ == "__main__":
    sys.exit(main())

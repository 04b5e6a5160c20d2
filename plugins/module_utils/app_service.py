# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
"""The unit that runs the app, and what its gateway says: asked as a client asks. The standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ansible_collections.surefoot.edge.plugins.module_utils.app_engines import run
from ansible_collections.surefoot.edge.plugins.module_utils.app_store import Apps

MOST_ANSWER_BYTES = 4 << 20
ANSWER_TIMEOUT_S = 5.0
LINES_OF_THE_JOURNAL = 15
PAUSE_S = 0.2
WATCH_PAUSE_S = 0.5


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("surefoot", timeout=ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Gateway:
    """The app's gateway, by its Unix socket."""

    def __init__(self, run_dir: Path) -> None:
        self._socket = run_dir / "http.sock"

    def ask(self, address: str) -> tuple[int, Any]:
        """Status and JSON of an answer; status 0 where there is none."""
        connection = _Unix(self._socket)
        try:
            connection.request("GET", address)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read(MOST_ANSWER_BYTES))
        except (OSError, ValueError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def version(self) -> str:
        """The version that it says it is; empty where it does not answer."""
        status, about = self.ask("/v2")
        return str(about.get("version", "")) if status == 200 and isinstance(about, dict) else ""

    def ready_models(self) -> list[str]:
        """The models that it serves now."""
        status, told = self.ask("/status.json")
        try:
            return [each["name"] for each in told["models"] if each["ready"]] if status == 200 else []
        except (LookupError, TypeError):
            return []

    def lacks(self, version: str, models: Iterable[str]) -> str:
        """What it lacks of an app that serves so many models; empty where nothing."""
        found = self.version()
        if found != version:
            return f"version {found or 'none'} answers, not {version}"
        silent = [name for name in models if self.ask(f"/v2/models/{name}/ready")[0] != 200]
        return f"{', '.join(silent)} not ready" if silent else ""


class Service:
    """The unit that runs the app.

    Args:
        unit: its name.
        run_dir: of the app.
        timeout_s: within which it answers after a start.
        instead: the link of an app that the device starts instead of one whose start it cannot count.
        clock, pause: a test's own.
    """

    def __init__(
        self,
        unit: str,
        run_dir: Path,
        timeout_s: float,
        instead: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.gateway = Gateway(run_dir)
        self._unit, self._run_dir, self._timeout_s, self._instead = unit, run_dir, timeout_s, instead
        self._clock, self._pause = clock, pause
        self._begun = int(time.time())

    def is_enabled(self) -> bool:
        """Whether it starts at boot."""
        return run(["systemctl", "is-enabled", self._unit]).out.strip() == "enabled"

    def enable(self) -> None:
        """Let it start at boot."""
        run(["systemctl", "enable", self._unit])

    def started_with(self) -> str:
        """What it noted of what it was started with; empty where it does not run."""
        if run(["systemctl", "is-active", self._unit]).out.strip() != "active":
            return ""
        try:
            return (self._run_dir / "started-with").read_text(encoding="utf-8").split()[0]
        except (OSError, LookupError, ValueError):
            return ""

    def starts_instead(self) -> str:
        """The app that the device starts instead of the current one, whose start it cannot count; empty where none."""
        try:
            return self._instead.readlink().name
        except OSError:
            return ""

    def process(self) -> str:
        """The number of its main process: another one after each start."""
        return run(["systemctl", "show", "--property=MainPID", "--value", self._unit]).out.strip()

    def restart(self, version: str) -> str:
        """Start it anew. Returns what is wrong, empty where it answers as that version."""
        run(["systemctl", "daemon-reload"])
        done = run(["systemctl", "restart", self._unit], self._timeout_s + 120.0)
        return self.answers(version) if done.status == 0 else f"{self._unit} did not start: {self.last_words()}"

    def answers(self, version: str) -> str:
        """Wait until it answers. Returns what is wrong, empty where it is that version."""
        deadline = self._clock() + self._timeout_s
        while True:
            found = self.gateway.version()
            if found == version:
                return ""
            if self._clock() > deadline:
                return (
                    f"version {found or 'none'} answers after {self._timeout_s:g} s, not {version}: {self.last_words()}"
                )
            self._pause(PAUSE_S)

    def stays(self, apps: Apps, version: str, models: Iterable[str], steady_s: float, most_s: float) -> str:
        """Wait until the current app has served all models for so long without a break, as one process.

        Args:
            apps: the device's, which may meanwhile return by itself.
            version: that it answers as.
            models: that it must serve.
            steady_s: for how long.
            most_s: within which the models must be ready.

        Returns:
            What is wrong; empty where it did.
        """
        app, process = apps.current, self.process()
        ends = self._clock() + most_s
        since: float | None = None
        while True:
            now = self._clock()
            if apps.current != app:
                return f"the device returned to {apps.current} by itself: {self.last_words()}"
            if self.starts_instead():
                return f"the device started {self.starts_instead()} instead: {self.last_words()}"
            if self.process() != process:
                return f"it ended and was started again within {steady_s:g} s: {self.last_words()}"
            lacking = self.gateway.lacks(version, models)
            if not lacking and since is not None and now - since >= steady_s:
                return ""
            if lacking and now > ends:
                return f"{lacking} after {most_s:g} s: {self.last_words()}"
            since = None if lacking else now if since is None else since
            self._pause(WATCH_PAUSE_S)

    def last_words(self) -> str:
        """The end of what it said to the journal, in one line."""
        said = run([
            "journalctl", "--quiet", "--no-pager", "--output=cat", f"--since=@{self._begun}",
            f"--lines={LINES_OF_THE_JOURNAL}", f"_SYSTEMD_UNIT={self._unit}", "+",
            f"CONTAINER_NAME={self._unit.partition('.')[0]}",
        ])  # fmt: skip
        return " | ".join(said.out.split("\n"))[-1500:].strip(" |") or "it said nothing"

"""Tells systemd that the server is up, and feeds its watchdog while the gateway answers: sd_notify(3).

Where nothing asks to be told (another init, a container, a terminal), all of this does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

ANSWER_TIMEOUT_S = 5.0
MOST_ANSWER_BYTES = 64
FEEDS_A_PERIOD = 3  # two answers may be late before systemd acts
REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: surefoot\r\nConnection: close\r\n\r\n"

log = logging.getLogger("surefoot.supervisor")


class Notifier:
    """One service of systemd. ``feed_every_s`` is ``None`` where no watchdog is set."""

    def __init__(self, address: str = "", feed_every_s: float | None = None) -> None:
        self._address = address
        self.feed_every_s = feed_every_s

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Notifier:
        """What systemd asked of this process. Taken out of the environment: it is not meant for our children.

        Args:
            environment: of this process, changed.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        period_us, whose = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        asked = period_us.isdigit() and int(period_us) > 0 and whose in ("", str(os.getpid()))
        return cls(address, int(period_us) / 1e6 / FEEDS_A_PERIOD if asked else None)

    def tell(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1``. That nobody listens is no fault of the server."""
        if not self._address:
            return
        # A name that begins with @ lies in the abstract namespace: unix(7).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.sendto("\n".join(assignments).encode(), address)

    async def feed(self, http_socket: Path) -> None:
        """Feed the watchdog for as long as the gateway answers. Ends only where there is none to feed.

        Args:
            http_socket: where it answers.
        """
        while self.feed_every_s is not None:
            if await answers(http_socket):
                self.tell("WATCHDOG=1")
            else:
                log.error("the gateway does not answer; systemd's watchdog is not fed")
            await asyncio.sleep(self.feed_every_s)


async def answers(http_socket: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
    """Whether the gateway says that it lives, asked as a client asks."""
    try:
        return await asyncio.wait_for(_ask(http_socket), timeout_s)
    except (OSError, asyncio.TimeoutError):
        return False


async def _ask(http_socket: Path) -> bool:
    reader, writer = await asyncio.open_unix_connection(str(http_socket))
    try:
        writer.write(REQUEST)
        return (await reader.read(MOST_ANSWER_BYTES)).split(b" ")[1:2] == [b"200"]
    finally:
        writer.close()

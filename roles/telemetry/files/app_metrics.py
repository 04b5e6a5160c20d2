#!/usr/bin/python3 -IS
"""Copies the app's own figures to a file that Prometheus' node exporter reads, so that one address has both.

usage: surefoot-app-metrics HOST:PORT FILE SECONDS
The file lies in memory, and is replaced whole. Only families that begin with ``surefoot_`` are taken: the usual ones of
a process would be taken for the exporter's. ``surefoot_app_up`` says whether the app answered. Standard library only.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

ANSWER_TIMEOUT_S = 10.0
MOST_BYTES = 4 * 1024 * 1024
UP = "# HELP surefoot_app_up Whether the app answered.\n# TYPE surefoot_app_up gauge\nsurefoot_app_up {}\n"


def ours(exposition: str) -> str:
    """The lines of our own families, in the text format of https://prometheus.io/docs/instrumenting/exposition_formats/."""

    def family(line: str) -> str:
        words = line.split(None, 3)
        return words[2] if line.startswith("#") and len(words) > 2 else line

    return "".join(f"{line}\n" for line in exposition.split("\n") if family(line).startswith("surefoot_"))


def ask(host: str, port: int) -> str:
    """What the app shows. By hand, since http.client takes 8 MB of memory.

    Raises:
        OSError, ValueError: it does not, or not whole.
    """
    answer = b""
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    with socket.create_connection((host, port), ANSWER_TIMEOUT_S) as connection:
        connection.sendall(f"GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        while part := connection.recv(1 << 16):
            answer += part
            if len(answer) > MOST_BYTES or time.monotonic() > deadline:
                raise OSError("the answer is too long, or takes too long")
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b"\r\n")[0].split(b" ")[1:2] != [b"200"]:
        raise OSError(f"found {head[:100]!r}, expected 200")
    return body.decode()


def copy(host: str, port: int, file: Path) -> None:
    """Once."""
    try:
        content = ours(ask(host, port)) + UP.format(1)
    except (OSError, ValueError):  # not running, or not healthy: that is a figure too
        content = UP.format(0)
    new = file.with_suffix(".new")  # the exporter reads *.prom alone
    new.write_text(content)
    new.replace(file)


def main(address: str, file: str, seconds: str) -> None:
    """For ever."""
    host, _, port = address.rpartition(":")
    while True:
        copy(host.strip("[]"), int(port), Path(file))
        time.sleep(float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Clients that ask without a pause, and note every answer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3

from tests.app.serving.device import Device, picture


class Seen:
    """Answers so far: how many of each status or fault, and which versions answered, in order of first sight."""

    def __init__(self) -> None:
        self.statuses: Counter[object] = Counter()
        self.versions: list[str] = []


@contextmanager
def asking(server: Device, clients: int = 3, model: str = "tiny") -> Iterator[Seen]:
    """Classify a picture again and again from several threads for the length of the block."""
    seen, leave = Seen(), threading.Event()
    url, body = f"{server.url}/v2/models/{model}/classify", picture(1)

    def client() -> None:
        pool = urllib3.PoolManager(retries=False, timeout=15.0)
        while not leave.is_set():
            try:
                reply = pool.request("POST", url, body=body, headers={"content-type": "image/png"})
                status: object = reply.status
                version = reply.json().get("model_version")
            except urllib3.exceptions.HTTPError as error:
                status, version = repr(error), None
            seen.statuses[status] += 1
            if version is not None and version not in seen.versions:
                seen.versions.append(version)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        leave.set()
        for thread in threads:
            thread.join()

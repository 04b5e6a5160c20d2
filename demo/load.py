"""Requests that go on while something changes, each counted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3


class Load:
    """Sends one image after another in a thread of its own, and counts what comes back by version."""

    def __init__(self, url: str, model: str, image: bytes) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.latencies_ms: list[float] = []
        self._url = f"{url}/v2/models/{model}/classify"
        self._image = image
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        pool = urllib3.PoolManager(retries=False, timeout=10.0)
        while not self._stop.is_set():
            begun = time.perf_counter()
            try:
                reply = pool.request("POST", self._url, body=self._image, headers={"Content-Type": "image/png"})
                if reply.status == 200:
                    self.answered[reply.json()["model_version"]] += 1
                    self.latencies_ms.append((time.perf_counter() - begun) * 1e3)
                else:
                    self.failed.append(f"{reply.status} {reply.data[:200]!r}")
            except Exception as error:  # whatever it was, that request did not succeed
                self.failed.append(repr(error))
            self._stop.wait(0.025)  # some forty a second, so that the load itself does not slow the change

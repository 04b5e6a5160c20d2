"""A repository behind any web server or CDN. A line that breaks is taken up again where it broke, a bounded time.

Ranges and validators are RFC 9110's (14.2 Range, 13.1.5 If-Range, 10.2.3 Retry-After).
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from surefoot.config import Fetch
from surefoot.errors import TransportFailed
from surefoot.release.connections import Connections, Watch, certificate_fault
from surefoot.release.pacing import Cap, Meter, Timing, Tries
from surefoot.release.source import NotFound, Piece, check_relative, strong, whole

MOST_REDIRECTS = 3
NOT_THERE = {403, 404, 410}  # 403 is what object stores say of what is not there
LATER = {408, 425, 429, 500, 502, 503, 504}  # what may be another answer next time
REDIRECTS = {301, 302, 303, 307, 308}


class _Unfinished(Exception):
    """A try ended early. ``asked_s``: how long the server asked to wait. ``anew``: what came is of another file."""

    def __init__(self, reason: str, *, asked_s: float | None = None, anew: bool = False) -> None:
        super().__init__(reason)
        self.asked_s, self.anew = asked_s, anew


class _NothingMore(Exception):
    """Nothing lies at the offset or beyond it."""


class HttpSource:
    """A repository behind any web server or CDN.

    Args:
        base: its address; a path without a slash at its end is taken as if it had one.
        connections: to it.
        fetch: patience and rates.
        timing: clock, waiting and chance.
    """

    def __init__(self, base: str, connections: Connections, fetch: Fetch, timing: Timing) -> None:
        self.base = base if base.endswith("/") else f"{base}/"
        self._connections, self._fetch, self._timing = connections, fetch, timing
        self._cap = Cap(fetch.most_bytes_s, self._timing)

    def read(self, relative: str, most_bytes: int) -> bytes:
        """See :class:`~surefoot.release.source.Source`."""
        return whole(self.stream(relative), relative, most_bytes)

    def stream(self, relative: str, offset: int = 0, tag: str = "", length: int | None = None) -> Iterator[Piece]:
        """See :class:`~surefoot.release.source.Source`."""
        check_relative(relative)
        url = urljoin(self.base, quote(relative))
        tries = Tries(self._fetch, self._timing, offset)
        while True:
            try:
                with closing(self._once(url, offset, tag)) as pieces:
                    for piece in pieces:
                        offset, tag = piece.end, piece.tag
                        tries.reached(offset)
                        yield piece
                if length is None or offset >= length:
                    return
                raise _Unfinished(f"the end, {length - offset} too early")
            except _NothingMore:
                return
            except (HTTPError, OSError, _Unfinished) as error:
                self._wait(url, offset, error, tries)
                if isinstance(error, _Unfinished) and error.anew:
                    offset, tag = 0, ""

    def _wait(self, url: str, offset: int, error: Exception, tries: Tries) -> None:
        """Wait for the next try, or give up."""
        fault = certificate_fault(error)
        if fault:
            raise TransportFailed(
                f"the certificate of {urlsplit(url).netloc} is not believed",
                found=fault,
                hint="check the address and this device's clock; a private authority is named by fetch.ca_file",
            ) from error
        asked_s = error.asked_s if isinstance(error, _Unfinished) else None
        if not tries.again(asked_s):
            later = "" if asked_s is None else f"; it asks to wait for {asked_s:g} s"
            raise TransportFailed(
                f"{url} did not arrive",
                found=f"{offset} bytes, then {str(error) or type(error).__name__}, {tries.failures} failures in a row"
                + later,
                expected=f"at most {self._fetch.retries}, and {self._fetch.most_wait_s:g} s to wait",
                hint="check the line and the address, then run the same command again: it goes on from there",
            ) from error

    def _once(self, url: str, offset: int, tag: str) -> Generator[Piece, None, None]:
        """What one answer brings."""
        response = self._get(url, offset, tag)
        with closing(response):
            if response.status == 416:
                raise _NothingMore
            _check_plain(response, url)
            found = strong(response.headers.get("ETag", ""))
            at = _start(response, url, offset)
            if at and tag and found not in {"", tag}:
                raise _Unfinished("a part of another file", anew=True)
            kept_tag, skip = (found or tag, offset - at) if at else (found, 0)
            at += skip
            for chunk in self._body(response):
                kept = chunk[skip:]
                skip = max(0, skip - len(chunk))
                if kept:
                    yield Piece(at, kept, kept_tag)
                    at += len(kept)

    def _body(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        def read() -> bytes:
            return response.read1(self._cap.chunk_bytes, decode_content=False)

        meter = Meter(self._fetch, self._timing)
        with Watch(self._fetch.timeout_s, response.shutdown) as watch:
            while chunk := meter.read(lambda: watch.during(read)):
                self._cap.passed(len(chunk))
                yield chunk

    def _get(self, url: str, offset: int, tag: str) -> urllib3.BaseHTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "surefoot"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if tag:
                headers["If-Range"] = tag
        for _ in range(MOST_REDIRECTS + 1):
            response = self._connections.get(url, headers)
            if response.status in {200, 206, 416}:
                return response
            response.close()
            status = f"HTTP {response.status}"
            if response.status in REDIRECTS:
                url = redirected(url, response.headers.get("Location", ""))
            elif response.status in NOT_THERE:
                raise NotFound(f"{url} is not there", found=status, hint="check the address")
            elif response.status in LATER:
                raise _Unfinished(status, asked_s=retry_after_s(response.headers))
            else:
                raise TransportFailed(f"{url} did not arrive", found=status, hint="look what the server says to it")
        raise TransportFailed(
            f"{url} redirects too often", expected=f"at most {MOST_REDIRECTS} times", hint="look what it redirects to"
        )


def redirected(url: str, location: str) -> str:
    """Where a redirect leads.

    Raises:
        TransportFailed: out of HTTP, from https to http, or nowhere.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        good = location and parts.hostname and parts.scheme in {"https", urlsplit(url).scheme}
    except ValueError:
        target, good = location, False
    if not good:
        raise TransportFailed(f"{url} redirects to where we do not follow", found=target, hint="correct the address")
    return target


def retry_after_s(headers: urllib3.HTTPHeaderDict) -> float | None:
    """How long the server asks to wait (seconds); ``None`` where it does not say, or not so that we know.

    A date is measured from the ``Date`` of the same answer: this device's clock may be anything.
    """
    asked = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", asked):
        return float(asked)
    try:
        span = parsedate_to_datetime(asked) - parsedate_to_datetime(headers.get("Date", ""))
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return max(0.0, span.total_seconds())


def _check_plain(response: urllib3.BaseHTTPResponse, url: str) -> None:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise TransportFailed(
            f"{url} comes in a form that was not asked for",
            found=f"Content-Encoding: {encoding}",
            expected="the file's own bytes",
            hint="switch compression off for it, at the server or a proxy before it",
        )


def _start(response: urllib3.BaseHTTPResponse, url: str, offset: int) -> int:
    """The offset at which the body of a response begins."""
    if response.status == 200:
        return 0
    match = re.match(r"bytes (\d{1,15})-", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) > offset:
        raise TransportFailed(
            f"{url} answers with another range than was asked for",
            found=response.headers.get("Content-Range", "no Content-Range"),
            expected=f"bytes {offset}-",
            hint="the server or a proxy before it is broken",
        )
    return int(match[1])

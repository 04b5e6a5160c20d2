"""Where a repository is read from: a folder, or any web server. Bytes only; what they are worth is judged elsewhere."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from surefoot.errors import BadRequest, TransportFailed, UntrustedRelease

CHUNK_BYTES = 64 * 1024
MOST_REDIRECTS = 3
MOST_RECONNECTS = 4  # within one stream, each only after bytes have arrived
READ_DEADLINE = 4  # times the timeout: the most that one metadata file may take, however slowly bytes drip

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


class NotFound(TransportFailed):
    """The source answers, but has no such file."""


class Source(Protocol):
    """Something that a repository can be read from, by paths relative to its top."""

    def read(self, relative: str, most_bytes: int) -> bytes:
        """A whole small file.

        Raises:
            NotFound: it is not there.
            TransportFailed: it did not arrive.
            UntrustedRelease: it is longer than ``most_bytes``.
        """

    def stream(self, relative: str, offset: int) -> Iterator[bytes]:
        """A file from ``offset`` (bytes) on, in pieces. Endless where the other side is: the caller counts.

        Raises:
            NotFound: it is not there.
            TransportFailed: it broke off; what was given so far is good to go on from.
        """


def open_source(location: str, timeout_s: float) -> Source:
    """The source for a plain path, ``file://``, ``http://`` or ``https://``.

    Raises:
        BadRequest: something else.
    """
    parts = urlsplit(location)
    if parts.scheme in {"http", "https"} and parts.hostname:
        return HttpSource(location, timeout_s)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return FileSource(Path(unquote(parts.path)))
    if location and "://" not in location:
        return FileSource(Path(location))
    raise BadRequest(
        "not a place to read a repository from", found=repr(location), expected="a folder, file://, http:// or https://"
    )


def check_relative(relative: str) -> None:
    """Refuse a path that could lead out of the repository.

    Raises:
        UntrustedRelease: such a path; only metadata can have named it.
    """
    parts = relative.split("/")
    if len(parts) > 8 or not all(_COMPONENT.fullmatch(part) for part in parts):
        raise UntrustedRelease("a path leads out of the repository", found=repr(relative))


class FileSource:
    """A repository in a folder: a local disk, a mounted share, a USB stick."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, relative: str, most_bytes: int) -> bytes:
        """See :class:`Source`."""
        parts: list[bytes] = []
        length = 0
        for chunk in self.stream(relative, 0):
            length += len(chunk)
            if length > most_bytes:
                raise _too_long(relative, most_bytes)
            parts.append(chunk)
        return b"".join(parts)

    def stream(self, relative: str, offset: int) -> Iterator[bytes]:
        """See :class:`Source`."""
        check_relative(relative)
        path = self.folder / relative
        try:
            if not path.resolve(strict=True).is_relative_to(self.folder.resolve()):
                raise UntrustedRelease(f"{path} leads out of the repository", found=str(path.resolve()))
            # O_NONBLOCK: a pipe planted in the folder must not stop us for ever
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{path} is not there", hint="check the repository's location") from error
        except OSError as error:
            raise TransportFailed(f"cannot read {path}", found=str(error.strerror)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UntrustedRelease(f"{path} is not a plain file", hint="look who writes to that folder")
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            try:
                stream.seek(offset)
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
            except OSError as error:
                raise TransportFailed(f"cannot read {path}", found=str(error.strerror)) from error


class HttpSource:
    """A repository behind any web server or CDN.

    Args:
        base: its address; a path without a slash at its end is taken as if it had one.
        timeout_s: for connecting, and for each wait on the next bytes.
    """

    def __init__(self, base: str, timeout_s: float) -> None:
        self.base = base if base.endswith("/") else f"{base}/"
        self.timeout_s = timeout_s
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s), retries=False, maxsize=2
        )

    def read(self, relative: str, most_bytes: int) -> bytes:
        """See :class:`Source`."""
        deadline = time.monotonic() + READ_DEADLINE * self.timeout_s
        parts: list[bytes] = []
        length = 0
        for chunk in self.stream(relative, 0):
            length += len(chunk)
            if length > most_bytes:
                raise _too_long(relative, most_bytes)
            if time.monotonic() > deadline:
                raise TransportFailed(
                    f"{self.base}{relative} arrives too slowly",
                    found=f"{length} bytes in {READ_DEADLINE * self.timeout_s:g} s",
                    hint="try again on a better line, or raise trust.fetch_timeout_s",
                )
            parts.append(chunk)
        return b"".join(parts)

    def stream(self, relative: str, offset: int) -> Iterator[bytes]:
        """See :class:`Source`. A line that breaks is taken up again by Range while it makes progress."""
        check_relative(relative)
        url = urljoin(self.base, quote(relative))
        tag, reconnects = "", 0
        while True:
            arrived = False
            try:
                response = self._get(url, offset, tag)
                try:
                    if response.status == 416:
                        return  # nothing lies beyond the offset
                    tag = _strong(response.headers.get("ETag", "")) or tag
                    skip = offset - _start(response, url, offset)
                    while chunk := response.read1(CHUNK_BYTES, decode_content=False):
                        kept = chunk[skip:]
                        skip = max(0, skip - len(chunk))
                        if kept:
                            arrived = True
                            offset += len(kept)
                            yield kept
                    return
                finally:
                    response.close()
            except (HTTPError, OSError) as error:
                reconnects += 1
                if not arrived or reconnects > MOST_RECONNECTS:
                    raise TransportFailed(
                        f"{url} did not arrive",
                        found=f"{offset} bytes, then {_reason(error)}",
                        hint="check the line and the address, then run the same command again: it goes on from there",
                    ) from error

    def _get(self, url: str, offset: int, tag: str) -> urllib3.BaseHTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "surefoot"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if tag:
                headers["If-Range"] = tag
        for _ in range(MOST_REDIRECTS + 1):
            response = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
            if response.status in {301, 302, 303, 307, 308}:
                response.close()
                target = urljoin(url, response.headers.get("Location", ""))
                check_redirect(url, target)
                url = target
                continue
            if response.status in {200, 206, 416}:
                return response
            response.close()
            if response.status in {403, 404, 410}:  # 403 is what object stores say of what is not there
                raise NotFound(f"{url} is not there", found=f"HTTP {response.status}", hint="check the address")
            raise TransportFailed(f"{url} did not arrive", found=f"HTTP {response.status}", hint="try again later")
        raise TransportFailed(f"{url} redirects too often", expected=f"at most {MOST_REDIRECTS} times")


def check_redirect(url: str, target: str) -> None:
    """Refuse a redirect out of HTTP, or from https to http.

    Raises:
        TransportFailed: such a one.
    """
    if urlsplit(target).scheme not in {"https", urlsplit(url).scheme} or not urlsplit(target).hostname:
        raise TransportFailed(f"{url} redirects to where we do not follow", found=target, hint="correct the address")


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


def _strong(tag: str) -> str:
    return tag if tag.startswith('"') else ""


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _too_long(relative: str, most_bytes: int) -> UntrustedRelease:
    return UntrustedRelease(
        f"{relative} is longer than it can be", found=f"more than {most_bytes} bytes", hint="look who answers there"
    )

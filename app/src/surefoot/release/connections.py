"""Connections to web servers: which certificates are believed, which proxy is asked, and how long a head may take."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from surefoot.config import Fetch
from surefoot.errors import BadRequest, DeviceUnable

T = TypeVar("T")
DIRECT = "direct"
HEAD_WAITS = 2  # times the timeout: the most that connecting, or the head of an answer, may take altogether
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, X509_VERIFY_PARAM_set_flags(3); Python has no name for it


class Connections:
    """Opens connections as the configuration says.

    Args:
        fetch: the configuration.
        check_dates: whether a certificate must be valid now; see :func:`~surefoot.release.location.open_source`.
    """

    def __init__(self, fetch: Fetch, *, check_dates: bool) -> None:
        self._fetch, self._check_dates = fetch, check_dates
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}

    def get(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Ask once; redirects are not followed, the body is not read.

        Raises:
            BadRequest: the proxy for it is none that can be used.
            DeviceUnable: the configured certificates cannot be read.
            HTTPError (urllib3), OSError: it did not work.
        """
        way = urlsplit(url).scheme, proxy_for(url, self._fetch.proxy)
        if way not in self._pools:
            self._pools[way] = self._pool(*way)
        return self._pools[way].request("GET", url, headers=headers, preload_content=False, redirect=False)

    def _pool(self, scheme: str, proxy: str) -> urllib3.PoolManager:
        secured = scheme == "https" or proxy.startswith("https:")
        context = _context(self._fetch.ca_file, self._check_dates) if secured else None
        common: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=self._fetch.timeout_s, read=self._fetch.timeout_s),
            "retries": False,  # ours: urllib3's end where the body begins
            "maxsize": 2,
            "ssl_context": context,
        }
        if not proxy:
            pool = urllib3.PoolManager(**common)
        else:
            parts = urlsplit(proxy)
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else None
            address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            headers = urllib3.make_headers(proxy_basic_auth=login)
            pool = urllib3.ProxyManager(address, proxy_headers=headers, proxy_ssl_context=context, **common)
        pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return pool


def proxy_for(url: str, configured: str) -> str:
    """The proxy to ask for ``url``; "" for none.

    Args:
        url: what is wanted.
        configured: ``fetch.proxy``. Empty leaves it to the environment; ``NO_PROXY`` counts beside either.

    Raises:
        BadRequest: it is no HTTP proxy.
    """
    if configured == DIRECT:
        return ""
    parts, known = urlsplit(url), urllib.request.getproxies_environment()
    host = parts.netloc.rpartition("@")[2]
    if urllib.request.proxy_bypass_environment(host, known):  # type: ignore[attr-defined]  # typeshed lacks it
        return ""
    proxy = configured or known.get(parts.scheme) or known.get("all") or ""
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and (urlsplit(proxy).scheme not in {"http", "https"} or not urlsplit(proxy).hostname):
        raise BadRequest(
            "not a proxy that can be used",
            found=proxy.rpartition("@")[2],
            expected="http://HOST:PORT or https://HOST:PORT",
            hint='correct HTTPS_PROXY or fetch.proxy; fetch.proxy = "direct" uses none',
        )
    return proxy


def certificate_fault(error: BaseException) -> str:
    """Why a server's certificate was not believed; "" where that is not the cause of ``error``."""
    cause: BaseException | None = error
    while cause is not None:
        for each in (cause, *cause.args):
            if isinstance(each, ssl.SSLCertVerificationError):
                return str(getattr(each, "verify_message", "") or each)
        cause = cause.__cause__ or cause.__context__
    return ""


def _context(ca_file: str, check_dates: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not check_dates:
        context.verify_flags |= _NO_CHECK_TIME
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise DeviceUnable(
                f"cannot read the certificates in {ca_file}",
                found=error.strerror or str(error),
                expected="one or more certificates in PEM",
                hint="correct fetch.ca_file; a container sees only what lies below data_dir",
            ) from error
    return context


class Watch:
    """Shuts a line on which too much time passes. A timeout counts from byte to byte: a drip in a head would pass it.

    Entered, it ends after ``limit_s``. With :meth:`during`, each call may last between once and twice as long.

    Args:
        limit_s: ``None``: for ever.
        shut: makes whoever reads from the line fail.
    """

    def __init__(self, limit_s: float | None, shut: Callable[[], None]) -> None:
        self._limit_s, self._shut = limit_s, shut
        self._waiting, self._new = True, False
        self._late = False
        self._timer: threading.Timer | None = None

    def during(self, read: Callable[[], T]) -> T:
        """What ``read`` gives. Between two calls no time passes."""
        self._waiting = self._new = True
        try:
            return read()
        finally:
            self._waiting = False

    def __enter__(self) -> Watch:  # noqa: PYI034  Self is not in Python 3.10
        self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        timer, self._limit_s = self._timer, None
        if timer is not None:
            timer.cancel()
        if self._late and isinstance(error, Exception):
            raise OSError("no whole answer in time") from error

    def _arm(self) -> None:
        if self._limit_s is not None:
            self._timer = threading.Timer(self._limit_s, self._ring)
            self._timer.daemon = True
            self._timer.start()

    def _ring(self) -> None:
        if self._waiting and not self._new:
            self._late = True
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # shut already
                self._shut()
        else:
            self._new = False
            self._arm()


def _watched(connection: HTTPConnection) -> Watch:
    def shut() -> None:
        if connection.sock is not None:
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)  # the line under TLS, whatever TLS is at

    wait_s = connection.timeout
    return Watch(HEAD_WAITS * wait_s if isinstance(wait_s, (int, float)) else None, shut)


class _Head:
    """A stream that remembers its last line."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.last = b""

    def readline(self, *limit: int) -> bytes:
        self.last = self._stream.readline(*limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Answer(http.client.HTTPResponse):
    """Refuses a head that was cut off. The standard library takes the end of the line for the end of the head."""

    def begin(self) -> None:
        head = _Head(self.fp)
        self.fp = head  # type: ignore[assignment]  # it has what is asked of a stream
        super().begin()
        if head.last not in (b"\r\n", b"\n"):
            raise http.client.RemoteDisconnected("the head of the answer was cut off")


class _Http(HTTPConnection):
    response_class = _Answer

    def connect(self) -> None:
        with _watched(self):
            super().connect()

    def getresponse(self) -> Any:
        with _watched(self):
            return super().getresponse()


class _Https(HTTPSConnection):
    response_class = _Answer

    def connect(self) -> None:
        with _watched(self):
            super().connect()

    def getresponse(self) -> Any:
        with _watched(self):
            return super().getresponse()


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https

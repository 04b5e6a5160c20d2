"""A real web server for the tests: Debian's nginx over a folder, on Unix sockets, plain and with TLS."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.parts import debian

CONFIGURATION = """
daemon off;
master_process off;
pid HERE/pid;
error_log HERE/error.log;
events {}
http {
  log_format told escape=json
    '{"status":$status,"body_bytes":$body_bytes_sent,"path":"$uri","range":"$http_range","if_range":"$http_if_range"}';
  access_log HERE/access.log told;
  client_body_temp_path HERE/body;
  proxy_temp_path HERE/proxy;
  fastcgi_temp_path HERE/fastcgi;
  uwsgi_temp_path HERE/uwsgi;
  scgi_temp_path HERE/scgi;
  default_type application/octet-stream;
  server {
    listen unix:HERE/plain;
TLS
    root FOLDER;
  }
}
"""
TLS = """
    listen unix:HERE/secured ssl;
    ssl_certificate CERTIFICATE;
    ssl_certificate_key KEY;
"""


class Asked(msgspec.Struct, frozen=True):
    """One line of nginx's own log: what it answered to what."""

    status: int
    body_bytes: int
    path: str
    range: str
    if_range: str


@dataclass(frozen=True)
class Nginx:
    """``plain`` and ``secured`` are its sockets; the second needs a certificate."""

    folder: Path
    here: Path

    @property
    def plain(self) -> Path:
        return self.here / "plain"

    @property
    def secured(self) -> Path:
        return self.here / "secured"

    def asked(self) -> list[Asked]:
        """What was answered so far, each request that has come to its end."""
        return [msgspec.json.decode(line, type=Asked) for line in (self.here / "access.log").read_bytes().splitlines()]


def possible() -> bool:
    """Whether nginx is here, or can be had."""
    return debian.possible("nginx")


@contextmanager
def running(folder: Path, here: Path, certificate: Path | None = None, key: Path | None = None) -> Iterator[Nginx]:
    """nginx over ``folder``, its own files in ``here`` (a short path: sockets lie in it); stopped at the end."""
    here.mkdir(parents=True, exist_ok=True)
    secured = TLS.replace("CERTIFICATE", str(certificate)).replace("KEY", str(key)) if certificate else ""
    text = CONFIGURATION.replace("TLS", secured).replace("FOLDER", str(folder)).replace("HERE", str(here))
    (here / "nginx.conf").write_text(text)
    program = debian.program("nginx", "usr/sbin/nginx")
    process = subprocess.Popen(
        [program, "-c", here / "nginx.conf", "-e", here / "error.log", "-p", here],
        stderr=subprocess.DEVNULL,
    )
    server = Nginx(folder, here)
    last = server.secured if certificate else server.plain
    try:
        deadline = time.monotonic() + 20
        while not last.exists():
            assert process.poll() is None and time.monotonic() < deadline, (here / "error.log").read_text()
            time.sleep(0.01)
        yield server
    finally:
        process.terminate()
        process.wait(10)

"""A site's proxy: it wants a password, and reads TLS with certificates of the site's own CA."""

from __future__ import annotations

import base64
import contextlib
import datetime
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "builder", "correct-horse-battery"


def _certificate(name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, folder: Path) -> Path:
    """A key and a certificate for a host, or for the CA itself, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:60])])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


class Proxy(socketserver.ThreadingTCPServer):
    """``asked``: the hosts that clients with the password were let through to; ``turned_away``: how many had none."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.folder = folder
        self.asked: list[str] = []
        self.turned_away = 0
        self._lock = threading.Lock()
        pem = _certificate("site-ca", None, folder).read_bytes()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._issuer = (x509.load_pem_x509_certificate(pem), key)
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(self._issuer[0].public_bytes(serialization.Encoding.PEM))

    @property
    def url(self) -> str:
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self.server_address[1]}"

    def context(self, host: str) -> ssl.SSLContext:
        with self._lock:
            pem = self.folder / f"{host}.pem"
            if not pem.exists():
                _certificate(host, self._issuer, self.folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split()
        headers = dict(line.decode().rstrip().split(": ", 1) for line in iter(self.rfile.readline, b"\r\n"))
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if method != "CONNECT" or headers.get("Proxy-Authorization") != wanted:
            self.server.turned_away += 1
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        host, port = target.split(":")
        self.server.asked.append(host)
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            near = self.server.context(host).wrap_socket(self.connection, server_side=True)
            plain = socket.create_connection((host, int(port)), timeout=60)
            far = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            _pump(near, far)


def _pump(one: ssl.SSLSocket, other: ssl.SSLSocket) -> None:
    """Hand on what either side says, until one of them ends."""
    with one, other:
        while True:
            ready = [side for side in (one, other) if side.pending()] or select.select([one, other], [], [], 60)[0]
            if not ready:
                return
            for side in ready:
                data = side.recv(65536)
                if not data:
                    return
                (other if side is one else one).sendall(data)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Proxy]:
    """A proxy on a free port of loopback."""
    with Proxy(folder) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()

"""Who a host is and who may log in: its SSH host key, the keys of its users, a hashed password."""

from __future__ import annotations

import base64
import binascii
import ctypes
import ctypes.util
import hashlib
import re
from collections.abc import Iterable

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from surefoot.errors import BadRequest

LEAST_RSA_BITS = 2048
WELL_KNOWN_PASSWORDS = (
    "", "1234", "12345678", "admin", "changeme", "debian", "jetson", "nvidia", "odroid", "orangepi", "password", "pi",
    "radxa", "raspberry", "raspberrypi", "rock", "root", "secret", "surefoot", "toor", "ubuntu",
)  # fmt: skip
# crypt(5): yescrypt, SHA-512, SHA-256, bcrypt. The older ones are too quick to guess.
HASH = re.compile(r"\$(?:y|5|6|2[aby])\$[./A-Za-z0-9$=]{8,256}")
SECURITY_KEYS = ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")
PRIVATE_KEY = re.compile(
    r"-----BEGIN OPENSSH PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{1,2000}\n-----END OPENSSH PRIVATE KEY-----\n?"
)


class HostKey(msgspec.Struct, frozen=True):
    """An Ed25519 host key. ``private`` is an OpenSSH file, ``public`` is ``ssh-ed25519 AAAA…``."""

    private: str
    public: str

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` prints it: ``SHA256:…``."""
        digest = hashlib.sha256(base64.b64decode(self.public.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def make_host_key() -> HostKey:
    """A new key from the operating system's randomness."""
    key = Ed25519PrivateKey.generate()
    return HostKey(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(), _public(key))


def find_host_key(text: str) -> HostKey | None:
    """The host key inside the text of an earlier seed, or None where there is none that can be read."""
    found = PRIVATE_KEY.search(text.replace("\\n", "\n"))
    if found is None:
        return None
    try:
        key = load_ssh_private_key(found[0].encode(), password=None)
    except (ValueError, UnsupportedAlgorithm):
        return None
    # As it was written: each time it is written anew, the format has other random check bytes.
    return HostKey(found[0].rstrip("\n") + "\n", _public(key)) if isinstance(key, Ed25519PrivateKey) else None


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def authorised_keys(text: str, source: str) -> list[str]:
    """The public keys of a ``.pub`` or ``authorized_keys`` file, one a line, as they were written.

    Args:
        text: content of the file.
        source: its name, for messages.

    Raises:
        BadRequest: there is a private key in it, or no key, or a line that is not one or that sshd would not take.
    """
    if "PRIVATE KEY" in text:
        raise BadRequest(
            f"{source} is a private key",
            expected="a public key",
            hint=f"name the public one, which is usually {source}.pub; the private one must never leave your machine",
        )
    lines = [line.strip() for line in text.splitlines()]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    keys = [_authorised(line, f"line {number} of {source}") for number, line in numbered]
    if not keys:
        raise BadRequest(f"{source} holds no key", expected="lines such as: ssh-ed25519 AAAA… name")
    return keys


def _authorised(line: str, where: str) -> str:
    expected = "an SSH public key: ssh-ed25519, ecdsa-sha2-*, sk-* or ssh-rsa of 2048 bits or more, without options"
    if not line.isprintable():
        raise BadRequest(f"{where} has control characters", expected=expected)
    kind, _, rest = line.partition(" ")
    try:
        blob = base64.b64decode((rest.split() or [""])[0], validate=True)
        if kind in SECURITY_KEYS:
            good = blob.startswith(len(kind).to_bytes(4, "big") + kind.encode())
        else:
            key = load_ssh_public_key(line.encode())
            good = kind != "ssh-dss" and not (isinstance(key, RSAPublicKey) and key.key_size < LEAST_RSA_BITS)
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        good = False
    if not good:
        raise BadRequest(f"{where} is no usable key", expected=expected)
    return line


def check_password_hash(text: str, names: Iterable[str]) -> str:
    """A password as crypt(5) hashes it, once it is sure not to be a default.

    Args:
        text: the hash, as ``mkpasswd`` or ``openssl passwd -6`` print it.
        names: what else it must not be the hash of: the user's name, the host's.

    Raises:
        BadRequest: it is no hash of a kind that is slow to guess, or the password is one that everybody knows, or
            this machine has no crypt(3) to find that out with.
    """
    advice = "make one with: mkpasswd --method=yescrypt (package whois), or openssl passwd -6"
    if not HASH.fullmatch(text):
        raise BadRequest(
            "that is no hashed password",
            found="a plain password, or a hash of an old kind" if text else "nothing",
            expected="a hash that begins with $y$, $6$, $5$ or $2b$",
            hint=advice,
        )
    for guess in (*WELL_KNOWN_PASSWORDS, *names):
        if _crypt(guess, text) == text:
            raise BadRequest(
                "that is the hash of a default password",
                found=f"the hash of {guess!r}",
                expected="a password that nobody can look up",
                hint="leave it out: the user then logs in by key alone; or " + advice,
            )
    return text


def _crypt(password: str, setting: str) -> str:
    try:
        crypt = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1").crypt
    except (OSError, AttributeError):
        crypt = None
    if crypt is not None:
        crypt.restype = ctypes.c_char_p
        hashed = crypt(password.encode(), setting.encode())
        if hashed and not hashed.startswith(b"*"):
            return str(hashed.decode())
    raise BadRequest(
        "that hashed password cannot be checked here",
        found="no crypt(3) on this machine that knows its kind" if crypt is None else "crypt(3) does not take it",
        hint="leave it out, so that the user logs in by key alone; or run this on Linux",
    )

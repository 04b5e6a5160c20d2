"""One private key in one file: PKCS#8, encrypted by a passphrase, readable by its owner alone.

``cryptography``'s own ``BestAvailableEncryption`` derives the key by 2,048 rounds of PBKDF2, which costs 0.4 ms: a
guesser with one CPU tries thousands of passphrases a second. So the ``EncryptedPrivateKeyInfo`` (RFC 5958, section 3)
is put together here with scrypt as its key derivation (RFC 7914, section 7), which costs about 0.4 s and 16 MiB.
More memory (N = 2**17) would be better still, but OpenSSL reads no key that needs more than 32 MiB, and a key must
stay readable without this project: ``openssl pkey -in targets.pem`` opens these, and so does ``cryptography`` >= 43.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from surefoot.durable import Disk, read_bounded
from surefoot.errors import BadRequest

MOST_KEY_BYTES = 16 * 1024
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

# Object identifiers, DER encoded: PBES2 and AES-256-CBC (RFC 8018, appendix C), scrypt (RFC 7914, section 7).
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
_SEQUENCE, _OCTETS, _INTEGER = 0x30, 0x04, 0x02


class Cost(msgspec.Struct, frozen=True):
    """scrypt's parameters: memory is 128 * n * r bytes, time grows with n * r * p.

    The default is twice what OWASP's password storage page asks for at this memory (n = 2**14, r = 8, p = 5).
    """

    n: int = 1 << 14
    r: int = 8
    p: int = 10


def encrypt(key: Ed25519PrivateKey, passphrase: bytes, cost: Cost) -> bytes:
    """The key as an encrypted PKCS#8 PEM."""
    salt, vector = os.urandom(16), os.urandom(16)
    secret = Scrypt(salt=salt, length=32, n=cost.n, r=cost.r, p=cost.p).derive(passphrase)
    padder, cipher = PKCS7(128).padder(), Cipher(algorithms.AES(secret), modes.CBC(vector)).encryptor()
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    sealed = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()
    parameters = _der(_SEQUENCE, _der(_OCTETS, salt), *(_integer(value) for value in (cost.n, cost.r, cost.p, 32)))
    derivation = _der(_SEQUENCE, _SCRYPT, parameters)
    encryption = _der(_SEQUENCE, _AES_256_CBC, _der(_OCTETS, vector))
    algorithm = _der(_SEQUENCE, _PBES2, _der(_SEQUENCE, derivation, encryption))
    body = base64.b64encode(_der(_SEQUENCE, algorithm, _der(_OCTETS, sealed)))
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    begin, end = b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"-----END ENCRYPTED PRIVATE KEY-----"
    return b"\n".join([begin, *lines, end, b""])


def write(path: Path, key: Ed25519PrivateKey, passphrase: str, disk: Disk, cost: Cost) -> None:
    """Write a key file, mode 0600.

    Raises:
        BadRequest: the passphrase is empty, or the file is there already.
    """
    if not passphrase:
        raise BadRequest("an empty passphrase protects nothing", hint="choose one of several words")
    if path.exists():
        raise BadRequest(f"{path} is there already", hint="keys are never overwritten; choose another directory")
    disk.write(path, encrypt(key, passphrase.encode(), cost), FILE_MODE)


def read(path: Path, passphrase: str) -> Ed25519PrivateKey:
    """Read a key file.

    Raises:
        BadRequest: the file is missing, others can read it, it is no ed25519 key, or the passphrase is wrong.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = read_bounded(path, MOST_KEY_BYTES)
    except OSError as error:
        raise BadRequest(f"cannot read the key {path}", found=str(error.strerror)) from error
    if mode & 0o077:
        raise BadRequest(
            f"others can reach the key {path}", found=f"mode {mode:04o}", expected="mode 0600", hint=f"chmod 600 {path}"
        )
    try:
        key = load_pem_private_key(data, passphrase.encode())
    except (ValueError, TypeError) as error:
        raise BadRequest(
            f"cannot open the key {path}",
            found=str(error).split(".")[0],
            hint="check the passphrase (SUREFOOT_PASSPHRASE or --passphrase-file)",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadRequest(f"the key {path} is of the wrong kind", found=type(key).__name__, expected="ed25519")
    return key


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _integer(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))

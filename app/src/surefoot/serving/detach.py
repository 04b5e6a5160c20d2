"""A server in the background: a session of its own, a bounded log, and a start that reports how it went."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from surefoot.config import Config
from surefoot.durable import unable
from surefoot.errors import BadRequest, DeviceUnable, SurefootError, TransportFailed, UntrustedRelease
from surefoot.serving import endpoint
from surefoot.serving.endpoint import Endpoint
from surefoot.serving.sockets import check_host

LOG_NAME = "serve.log"
MOST_LOG_BYTES = 1024 * 1024  # kept twice: serve.log and serve.log.1
LOG_CHECK_S = 5.0
START_MARGIN_S = 60.0
MOST_CONFIG_BYTES = 1 << 20
MOST_LINE_BYTES = 64 * 1024
LOG_FORMAT = "%(asctime)s %(name)s[%(process)d] %(levelname)s %(message)s"
_FAMILIES: dict[str, type[SurefootError]] = {
    family.__name__: family for family in (BadRequest, DeviceUnable, TransportFailed, UntrustedRelease)
}


class Outcome(msgspec.Struct, frozen=True):
    """How the start went: one of them."""

    endpoint: Endpoint | None = None
    error: dict[str, str] | None = None


def start_detached(config: Config) -> Endpoint:
    """Start a server in the background and wait until it accepts requests and has tried to load every model.

    Raises:
        DeviceUnable: it did not start; the reason is its own, or the end of its log.
        BadRequest: the configuration cannot be served.
    """
    check_host(config.gateway.host)
    if endpoint.running(config.run_dir):
        raise endpoint.already_running(config.run_dir)
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        log = (config.run_dir / LOG_NAME).open("ab")
    except OSError as error:
        raise DeviceUnable(f"cannot write in {config.run_dir}", found=str(error.strerror)) from error
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "surefoot.serving.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(msgspec.json.encode(config, enc_hook=str))
    line = b""
    if process.stdout is not None:
        with process.stdout as stream:
            line = _line(stream.fileno(), config.runtime.load_timeout_s + START_MARGIN_S)
    outcome = msgspec.json.decode(line, type=Outcome) if line else Outcome()
    if outcome.endpoint is not None:
        process.returncode = 0  # it lives on; nobody here waits for it
        return outcome.endpoint
    if outcome.error is not None:
        said = dict(outcome.error)
        raise _FAMILIES.get(said.pop("error", ""), DeviceUnable)(said.pop("what", ""), **said)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    raise DeviceUnable("the server did not start", found=_tail(config.run_dir / LOG_NAME), hint="see that log")


def _line(descriptor: int, timeout_s: float) -> bytes:
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n") and len(line) < MOST_LINE_BYTES:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(descriptor, MOST_LINE_BYTES) if readable else b""
        if not part:
            return b""
        line += part
    return line


def _tail(path: Path) -> str:
    try:
        lines = path.read_bytes()[-2000:].decode(errors="replace").splitlines()
    except OSError:
        return f"{path} cannot be read"
    return f"{path}: {lines[-1]}" if lines else f"{path} is empty"


def serve_detached() -> int:
    """The other side of :func:`start_detached`: runs in the new process."""
    from surefoot.serving.supervisor import run

    config = decode_config(sys.stdin.buffer.read(MOST_CONFIG_BYTES))
    outcome = os.dup(sys.stdout.fileno())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdin, sys.stdout):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    threading.Thread(target=_bound_log, args=(config.run_dir / LOG_NAME,), daemon=True).start()

    def tell(said: Outcome) -> None:
        with contextlib.suppress(OSError):  # whoever started this does not wait any more
            os.write(outcome, msgspec.json.encode(said) + b"\n")
            os.close(outcome)

    try:
        return run(config, lambda where: tell(Outcome(endpoint=where)))
    except SurefootError as error:
        logging.getLogger("surefoot.supervisor").error("%s", error)
        tell(Outcome(error=_family(error)))
        return 1


def log_to(path: Path) -> None:
    """Let standard error of this process and its children go to a file, and keep that short.

    Raises:
        DeviceUnable: the file cannot be written.
    """
    try:
        with path.open("ab") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
    except OSError as error:
        raise unable(error, path) from error
    threading.Thread(target=_bound_log, args=(path,), daemon=True).start()


def decode_config(data: bytes) -> Config:
    """A configuration as :func:`start_detached` hands it over."""
    return msgspec.json.decode(data, type=Config, dec_hook=_decode)


def _family(error: SurefootError) -> dict[str, str]:
    said = error.as_dict()
    said["error"] = next((name for name, family in _FAMILIES.items() if isinstance(error, family)), "DeviceUnable")
    return said


def _bound_log(path: Path) -> None:
    """Keep the log short: all processes append to one file, so its content is set aside and it is cut to nothing."""
    while True:
        with contextlib.suppress(OSError):
            if path.stat().st_size > MOST_LOG_BYTES:
                aside = path.with_name(f"{path.name}.1")
                aside.write_bytes(path.read_bytes()[-MOST_LOG_BYTES:])
                os.truncate(path, 0)
        time.sleep(LOG_CHECK_S)


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise TypeError(f"{value!r} is not a {kind.__name__}")

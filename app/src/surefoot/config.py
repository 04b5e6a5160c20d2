"""The device's one typed configuration, read from a TOML file.

Unknown keys are refused: a mistyped name must not pass silently.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from surefoot.durable import read_bounded
from surefoot.errors import BadRequest, DeviceUnable

DEFAULT_PATH = Path("/data/surefoot/surefoot.toml")
ENVIRONMENT_VARIABLE = "SUREFOOT_CONFIG"
MOST_CONFIG_BYTES = 64 * 1024

PROCESS_ENVIRONMENT = {  # of every process that we start, whatever library a runtime's plug-in imports in it
    "ORT_DISABLE_TELEMETRY": "1",  # see surefoot.runtimes.onnx
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONSAFEPATH": "1",
}

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 50)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section: immutable, by name, nothing unknown."""


class Gateway(Section, frozen=True, kw_only=True):
    """Where clients talk to, and how much they may ask."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080  # 0: take a free one once, and keep it for later starts
    most_body_bytes: Annotated[int, Meta(ge=1024, le=512 * 1024 * 1024)] = 64 * 1024 * 1024
    queue_depth: Annotated[int, Meta(ge=1, le=100_000)] = 64  # waiting for one worker; more get 503 with Retry-After
    request_timeout_s: Seconds = 30.0
    drain_timeout_s: Seconds = 30.0


class Trial(Section, frozen=True, kw_only=True):
    """What a new model must show before it is confirmed."""

    tries: Annotated[int, Meta(ge=1, le=100)] = 3
    min_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    min_inferences: Annotated[int, Meta(ge=1)] = 30
    retries: Annotated[int, Meta(ge=0, le=100)] = 3  # of a release whose tries were used up, by the device itself
    retry_after_s: Seconds = 3600.0  # of confirmed service in one boot before the first; doubled each time, to a day


class Storage(Section, frozen=True, kw_only=True):
    """Bounds on what is kept."""

    archive_bytes: Bytes = 256 * 1024 * 1024
    steps_back: Annotated[int, Meta(ge=1, le=100)] = 2  # confirmed releases before the active one to keep within reach
    history_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = 256 * 1024
    reserve_bytes: Bytes = 16 * 1024 * 1024  # left free on the data partition by every install


class Runtime(Section, frozen=True, kw_only=True):
    """How a runtime may use the machine."""

    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    load_timeout_s: Seconds = 120.0


class Gate(Section, frozen=True, kw_only=True):
    """How long a gate may take, and wait, before it puts a release off."""

    most_seconds: Seconds = 1800.0  # for timing
    cool_wait_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0  # until the device is cool enough, in all
    exclusive_gap_s: Annotated[float, Meta(ge=0, le=600)] = 2.0  # between two processes that need one accelerator


class Shadow(Section, frozen=True, kw_only=True):
    """Whether a release that waits for its activation sees a sample of real inputs, and how much it may take."""

    enabled: bool = False
    share: Annotated[float, Meta(gt=0, le=1)] = 0.05  # of the requests
    most_per_s: Annotated[float, Meta(gt=0, le=1000)] = 2.0
    most_input_bytes: Annotated[int, Meta(ge=1, le=1 << 30)] = 4 * 1024 * 1024  # a larger input is not shown
    most_memory_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] = 256 * 1024 * 1024  # it is ended beyond


class Standby(Section, frozen=True, kw_only=True):
    """Whether the confirmed release that served before stays loaded for a rollback, and what that may cost."""

    seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 900.0  # 0: never
    most_memory_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] = 256 * 1024 * 1024  # what holds more leaves
    least_available_bytes: Bytes = 512 * 1024 * 1024  # of memory, beside it; where there is less it leaves


class Scrub(Section, frozen=True, kw_only=True):
    """How often every byte that is kept is read again, to find what rotted, and how gently."""

    every_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 86_400.0  # half of it at the least, by chance; 0: never
    most_bytes_s: Annotated[int, Meta(ge=4096, le=1 << 40)] = 2 * 1024 * 1024


class Trust(Section, frozen=True, kw_only=True):
    """``clock``: ``auto`` asks the kernel whether time is synchronised; the others say so by decision."""

    clock: Literal["auto", "trusted", "untrusted"] = "auto"


class Fetch(Section, frozen=True, kw_only=True):
    """How bytes come from a repository on the network."""

    timeout_s: Seconds = 30.0  # silence for so long, or less than min_bytes_s over so long, ends a try
    min_bytes_s: Annotated[int, Meta(ge=1, le=1 << 40)] = 1024  # so that what drips comes to an end
    most_bytes_s: Bytes = 0  # 0: as fast as the line is
    retries: Annotated[int, Meta(ge=0, le=100)] = 5  # after failures in a row; what makes progress starts anew
    most_wait_s: Seconds = 300.0  # before one try; a server that asks for more is left for this time
    # Empty: what HTTPS_PROXY and NO_PROXY say. "direct": none. A password may stand in HTTPS_PROXY only.
    proxy: Annotated[str, Meta(pattern=r"^(|direct|https?://[^\s/@]+/?)\Z")] = ""
    ca_file: str = ""  # certificates (PEM) to believe beside the system's; relative to the file


class Config(Section, frozen=True, kw_only=True):
    """The whole of ``surefoot.toml``."""

    data_dir: Path = Path("/data/surefoot")
    run_dir: Path = Path("/run/surefoot")
    device_class: str = ""  # empty: generic-<architecture>
    runtimes: Annotated[tuple[str, ...], Meta(min_length=1)] = ("onnxruntime", "tflite")  # in order of preference
    gateway: Gateway = Gateway()
    gate: Gate = Gate()
    trial: Trial = Trial()
    storage: Storage = Storage()
    runtime: Runtime = Runtime()
    shadow: Shadow = Shadow()
    standby: Standby = Standby()
    scrub: Scrub = Scrub()
    trust: Trust = Trust()
    fetch: Fetch = Fetch()

    @property
    def models_dir(self) -> Path:
        """One folder a model."""
        return self.data_dir / "models"

    @property
    def trust_dir(self) -> Path:
        """What this device believes."""
        return self.data_dir / "trust"

    @property
    def inbox_dir(self) -> Path:
        """Downloads in progress."""
        return self.data_dir / "inbox"


def default_device_class() -> str:
    """``generic-amd64``, ``generic-arm64`` or ``macos-arm64``: what any machine is until its role says better."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"{'macos' if sys.platform == 'darwin' else 'generic'}-{machine}"


def load(path: Path | None = None) -> Config:
    """Read the configuration.

    Args:
        path: the file; ``None`` takes ``$SUREFOOT_CONFIG``, then ``/data/surefoot/surefoot.toml``.

    Raises:
        BadRequest: the file is missing, too long, not TOML, or has a key or value that is not known.
    """
    path = path or Path(os.environ.get(ENVIRONMENT_VARIABLE, DEFAULT_PATH))
    try:
        config = msgspec.toml.decode(read_bounded(path, MOST_CONFIG_BYTES), type=Config, dec_hook=_decode)
    except OSError as error:
        raise BadRequest(
            f"cannot read the configuration {path}",
            found=str(error.strerror),
            hint=f"name it with --config or ${ENVIRONMENT_VARIABLE}",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, DeviceUnable) as error:
        raise BadRequest(f"the configuration {path} is not valid", found=str(error)) from error
    base = path.parent.resolve()
    ca_file = str(base / config.fetch.ca_file) if config.fetch.ca_file else ""
    return msgspec.structs.replace(
        config,
        data_dir=base / config.data_dir,
        run_dir=base / config.run_dir,
        device_class=config.device_class or default_device_class(),
        fetch=msgspec.structs.replace(config.fetch, ca_file=ca_file),
    )


def _decode(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"{value!r} is not a {kind.__name__}")

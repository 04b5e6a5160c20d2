"""What every runtime can do. Another vendor is a package with an entry point, not a patch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from surefoot.errors import DeviceUnable
from surefoot.release.manifest import Tensor

GROUP = "surefoot.runtimes"
Array = npt.NDArray[Any]


class ModelRefused(DeviceUnable):
    """The file itself is at fault: not a model, or not one this runtime can run. Evidence against a release."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to load: ``threads`` inside one inference; ``provider`` an accelerator that must be used, or empty."""

    threads: int = 1
    provider: str = ""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The tensors a loaded model takes and gives, as the runtime itself reports them."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is really used: never what was asked for. ``exclusive``: the accelerator takes one process at a time."""

    runtime: str
    version: str
    provider: str
    exclusive: bool = False


class Runtime(Protocol):
    """One loaded model. Lives in a worker process, never in the gateway.

    ``proof`` is a tiny model that comes with the runtime, for :mod:`surefoot.runtimes.proof`: it answers
    ``y = 2 x + 1``, x and y float32 [1, 4].
    """

    proof: Path

    def providers(self) -> tuple[str, ...]:
        """What this build of the library offers to compute on. Whether one works is only known by loading with it."""

    def load(self, artifact: Path, options: Options) -> Signature:
        """Load a model file.

        Raises:
            ModelRefused: the file is not a model this runtime can run.
            DeviceUnable: the provider asked for is not there.
        """

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. Keys are tensor names; shapes and dtypes as in the signature.

        Raises:
            BadRequest: the runtime refuses these inputs.
        """

    def facts(self) -> Facts:
        """Version and provider really in use."""

    def close(self) -> None:
        """Free what was loaded. The object is not used again."""


DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


def available() -> dict[str, str]:
    """Names of the runtimes found, each with the object it comes from. Finding one does not import it."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def load_runtime(name: str) -> Runtime:
    """A new, empty runtime by name.

    Raises:
        DeviceUnable: no such runtime, or its library is missing on this device.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            runtime: Runtime = point.load()()
        except ImportError as error:
            raise DeviceUnable(
                f"runtime {name} cannot be used here",
                found=str(error),
                hint=f"install the app with its extra: surefoot[{name}]",
            ) from error
        return runtime
    raise DeviceUnable(
        f"no runtime {name!r}", found=", ".join(sorted(available())) or "none", hint="see surefoot doctor"
    )

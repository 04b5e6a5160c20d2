"""ONNX Runtime, quiet: no telemetry, no spinning threads, and the provider that was asked for or none.

Telemetry: the wheels of 1.32 carry a client that creates ``~/.cache/Microsoft/DeveloperTools/.onnxruntime/deviceid``
on import and uploads over HTTPS. ``disable_telemetry_events()`` comes too late, since the import has already written
the identifier; only ``ORT_DISABLE_TELEMETRY=1`` in the environment before the import keeps the client from being
made (Privacy.md in the wheel says so, and ``tests/app/runtimes/test_telemetry.py`` watches the system calls).

Works with onnxruntime from 1.23.2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.errors import BadRequest, DeviceUnable
from surefoot.release.manifest import DataType, Tensor
from surefoot.runtimes.onnx_file import names_other_files
from surefoot.runtimes.protocol import Array, Facts, ModelRefused, Options, Signature

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
CPU = "CPUExecutionProvider"
_ELSEWHERE = {"AzureExecutionProvider"}  # in every stock wheel; asks a server, computes nothing on the device

_DATATYPES: dict[str, DataType] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}


class OnnxRuntime:
    """One ONNX model in one session. The library is imported here, never when this module is."""

    proof = Path(__file__).with_name("proof.onnx")

    def __init__(self) -> None:
        self._library: Any = import_quietly()
        self._session: Any = None
        self._outputs: list[str] = []
        self._provider = ""

    def providers(self) -> tuple[str, ...]:
        """What this build offers. See :class:`surefoot.runtimes.protocol.Runtime`."""
        return tuple(name for name in self._library.get_available_providers() if name not in _ELSEWHERE)

    def load(self, artifact: Path, options: Options) -> Signature:
        """Load an ``.onnx`` file. See :class:`surefoot.runtimes.protocol.Runtime`."""
        provider = options.provider or CPU
        offered = self._library.get_available_providers()
        if provider not in offered:
            raise _not_given(provider, ", ".join(offered))
        _refuse_other_files(artifact)
        try:
            # The CPU stands behind an accelerator for the operators that it lacks, as ONNX Runtime itself does.
            # Whether the accelerator was taken at all is read back below.
            session = self._library.InferenceSession(
                str(artifact), self._session_options(options), providers=list(dict.fromkeys([provider, CPU]))
            )
        except Exception as error:  # the library raises a family of its own that differs between versions
            raise ModelRefused(
                f"{artifact.name} cannot be loaded by ONNX Runtime {self._library.__version__}",
                found=_first_line(error),
                hint="release a model this version can run, or update the app",
            ) from error
        used = session.get_providers()
        if provider not in used:
            raise _not_given(provider, ", ".join(used))
        session.disable_fallback()  # an accelerator that fails later must fail, not quietly become the CPU
        self._session, self._provider = session, provider
        signature = Signature(
            inputs=tuple(_tensor(node) for node in session.get_inputs()),
            outputs=tuple(_tensor(node) for node in session.get_outputs()),
        )
        self._outputs = [tensor.name for tensor in signature.outputs]
        return signature

    def _session_options(self, options: Options) -> Any:
        settings = self._library.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = self._library.ExecutionMode.ORT_SEQUENTIAL
        # Spinning takes whole cores while idle: https://onnxruntime.ai/docs/performance/tune-performance/threading.html
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
        settings.add_session_config_entry("session.load_model_format", "ONNX")  # by no other reader than was looked at
        settings.log_severity_level = 3
        return settings

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. See :class:`surefoot.runtimes.protocol.Runtime`."""
        try:
            results = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise BadRequest("ONNX Runtime refuses these inputs", found=_first_line(error)) from error
        return dict(zip(self._outputs, results, strict=True))

    def facts(self) -> Facts:
        """Version and provider really in use."""
        return Facts(runtime="onnxruntime", version=str(self._library.__version__), provider=self._provider)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def import_quietly() -> Any:
    """Import onnxruntime with its telemetry off.

    Raises:
        DeviceUnable: it was imported before with telemetry on; the client then lives as long as the process.
        ImportError: it is not installed.
    """
    if "onnxruntime" in sys.modules and not os.environ.get(TELEMETRY_VARIABLE):
        raise DeviceUnable(
            "onnxruntime was imported with its telemetry on",
            hint=f"set {TELEMETRY_VARIABLE}=1 before anything imports onnxruntime",
        )
    os.environ[TELEMETRY_VARIABLE] = "1"
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]  # some of its releases are typed

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _refuse_other_files(artifact: Path) -> None:
    hint = "release a model this version can run, or update the app"
    try:
        elsewhere = names_other_files(artifact)
    except (OSError, ValueError) as error:
        raise ModelRefused(
            f"{artifact.name} cannot be loaded, it is no ONNX file", found=str(error), hint=hint
        ) from error
    if elsewhere:
        raise ModelRefused(
            f"{artifact.name} cannot be loaded, its weights are in another file",
            expected="all of the model in one file, which its digest covers",
            hint="save it with its weights in it: onnx.save(model, path, save_as_external_data=False)",
        )


def _tensor(node: Any) -> Tensor:
    if node.type not in _DATATYPES:
        raise ModelRefused(
            f"tensor {node.name} has a type that cannot be carried",
            found=str(node.type),
            expected=", ".join(_DATATYPES),
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return Tensor(name=node.name, datatype=_DATATYPES[node.type], shape=shape)


def _not_given(provider: str, found: str) -> DeviceUnable:
    return DeviceUnable(
        f"ONNX Runtime does not give the provider {provider}",
        found=found,
        expected=provider,
        hint="install the onnxruntime build and the driver for this accelerator; the CPU does not stand in for it",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]

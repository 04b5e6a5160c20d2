"""One release in memory: verified against its digest, loaded, warmed, and asked. Used by the worker only."""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from surefoot.durable import hash_file, read_bounded
from surefoot.errors import BadRequest, DeviceUnable, SurefootError, UntrustedRelease
from surefoot.release import golden, manifest
from surefoot.release.golden import Case
from surefoot.release.manifest import File, Manifest, Tensor, Variant
from surefoot.runtimes.calibrated import softmax
from surefoot.runtimes.preprocessing import image_to_tensor
from surefoot.runtimes.protocol import DTYPES, Array, Options, Runtime, Signature, load_runtime
from surefoot.serving.messages import (
    Classified,
    Clocked,
    GoldenRun,
    Infer,
    Inferred,
    Load,
    Loaded,
    TensorHead,
)
from surefoot.watch.agreement import judge

MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
WARM_RUNS = 3  # the first calls after a load are slower by far: arenas, lazy kernels, page faults
MOST_KEPT_INPUTS = 16  # of the golden cases, for timing
Payload = list[memoryview]


class LoadedModel:
    """A verified model that answers. Everything here may raise; the process around it turns errors into answers."""

    def __init__(self, directory: Path, release: Manifest, variant: Variant, runtime: Runtime, signature: Signature):
        self._directory = directory
        self._release = release
        self._variant = variant
        self._runtime = runtime
        # Tensors as the release declares them, so that gateway, golden cases and clients all see the same shapes.
        self._inputs = {tensor.name: tensor for tensor in variant.inputs}
        self._outputs = tuple(tensor.name for tensor in variant.outputs)
        self._kept: list[dict[str, Array]] = []
        del signature

    def describe(self, load: Load, load_s: float) -> Loaded:
        """What is loaded, for status and for clients. ``load_s`` includes verification and warming."""
        facts = self._runtime.facts()
        return Loaded(
            name=self._release.name,
            version=self._release.version,
            digest=load.digest,
            variant=self._variant.id,
            runtime=facts.runtime,
            runtime_version=facts.version,
            provider=facts.provider,
            inputs=self._variant.inputs,
            outputs=self._variant.outputs,
            labels=self._release.labels,
            classifies=self._variant.preprocessing is not None and self._variant.output_kind == "logits",
            stateless=self._release.stateless,
            load_s=load_s,
            memory_bytes=memory_bytes(),
            exclusive=facts.exclusive,
        )

    def warm(self) -> None:
        """Run a few times on zeros, so that no client pays for it."""
        zeros = {
            tensor.name: np.zeros([1 if size == -1 else size for size in tensor.shape], DTYPES[tensor.datatype])
            for tensor in self._variant.inputs
        }
        for _ in range(WARM_RUNS):
            self._runtime.infer(zeros)

    def infer(self, question: Infer, payload: memoryview) -> tuple[Inferred, Payload]:
        """Tensors in, tensors out.

        Raises:
            BadRequest: the runtime refuses the inputs.
        """
        inputs: dict[str, Array] = {}
        at = 0
        for head in question.inputs:
            flat = np.frombuffer(payload[at : at + head.size_bytes], DTYPES[head.datatype])
            inputs[head.name] = flat.reshape(head.shape)
            at += head.size_bytes
        started = time.perf_counter()
        outputs = self._runtime.infer(inputs)
        run_ms = (time.perf_counter() - started) * 1e3
        heads, parts = pack(outputs, question.outputs or self._outputs)
        return Inferred(question.id, heads, run_ms), parts

    def classify(self, request_id: int, picture: bytes) -> Classified:
        """An encoded picture to a calibrated answer.

        Raises:
            BadRequest: not a picture that can be taken, or a model that does not classify pictures.
        """
        inputs = self._from_picture(picture)
        started = time.perf_counter()
        outputs = self._runtime.infer(inputs)
        run_ms = (time.perf_counter() - started) * 1e3
        logits = outputs[self._outputs[0]].reshape(-1)
        probabilities = softmax(logits, self._variant.calibration.temperature)
        if not np.isfinite(probabilities).all():
            raise DeviceUnable(
                "the model gave an answer that is not a number",
                found=str(logits[~np.isfinite(logits)][:3].tolist()),
                hint="roll the model back: surefoot model rollback",
            )
        best = int(probabilities.argmax())
        labels = self._release.labels
        return Classified(
            id=request_id,
            label_index=best,
            label=labels[best] if best < len(labels) else str(best),
            confidence=float(probabilities[best]),
            probabilities=tuple(probabilities.tolist()),
            run_ms=run_ms,
        )

    def golden(self) -> GoldenRun:
        """Run the golden cases and judge them; a case that cannot be run is one that disagrees, not an exception.

        Raises:
            UntrustedRelease: the golden file is not the one the manifest names.
            DeviceUnable: it cannot be read.
        """
        file = self._release.golden.file
        verify(self._directory, file)
        cases = golden.decode(read_bounded(self._directory / file.name, golden.MOST_GOLDEN_BYTES))
        given: dict[str, dict[str, Array]] = {}
        errors: dict[str, str] = {}
        self._kept.clear()
        for case in cases:
            try:
                inputs = self._from_picture(case.image) if case.image is not None else self._from_raw(case)
                outputs = self._runtime.infer(inputs)
            except SurefootError as error:
                errors[case.id] = str(error)
                continue
            if len(self._kept) < MOST_KEPT_INPUTS:
                self._kept.append(inputs)
            given[case.id] = {name: outputs[name] for name in self._outputs}
        memory = memory_bytes()
        verdict = judge(cases, given, self._variant, errors, self._release.golden.cases)
        return GoldenRun(verdict, memory)

    def clock(self, at: int, runs: int) -> Clocked:
        """Time the runtime on one of the golden inputs. See :class:`surefoot.serving.messages.Clock`.

        Raises:
            DeviceUnable: no golden case has been run.
        """
        if not self._kept:
            raise DeviceUnable("there is nothing to time", found="no golden case that could be run")
        inputs = self._kept[at % len(self._kept)]
        latencies: list[float] = []
        waits: list[float] = []
        for _ in range(runs):
            waited_ms, started = waiting_ms(), time.perf_counter()
            self._runtime.infer(inputs)
            latencies.append((time.perf_counter() - started) * 1e3)
            waits.append(min(latencies[-1], waiting_ms() - waited_ms))
        return Clocked(tuple(latencies), tuple(waits))

    def _from_picture(self, picture: bytes) -> dict[str, Array]:
        spec = self._variant.preprocessing
        if spec is None or self._variant.output_kind != "logits":
            raise BadRequest(
                f"model {self._release.name} does not classify pictures",
                expected="tensors: " + ", ".join(self._inputs),
                hint=f"send them to /v2/models/{self._release.name}/infer",
            )
        tensor = image_to_tensor(picture, spec)
        declared = self._variant.inputs[0]
        return {declared.name: tensor.astype(DTYPES[declared.datatype], copy=False)}

    def _from_raw(self, case: Case) -> dict[str, Array]:
        inputs: dict[str, Array] = {}
        for name, raw in (case.inputs or {}).items():
            try:
                inputs[name] = np.frombuffer(raw.data, DTYPES[raw.datatype]).reshape(raw.shape)
            except ValueError as error:
                raise UntrustedRelease(
                    f"golden case {case.id}: input {name} is not a tensor", found=str(error)
                ) from error
        return inputs


def open_model(load: Load) -> LoadedModel:
    """Verify a slot and load its variant.

    Raises:
        UntrustedRelease: the files are not those of the release, or the model is not what its manifest says.
        ModelRefused: the runtime cannot load the file.
        DeviceUnable: the runtime or its accelerator is not here, or a file cannot be read.
    """
    directory = Path(load.directory)
    try:
        data = read_bounded(directory / manifest.FILE_NAME, manifest.MOST_MANIFEST_BYTES)
    except OSError as error:
        raise unreadable(directory / manifest.FILE_NAME, error) from error
    if manifest.digest(data) != load.digest:
        raise UntrustedRelease(
            "the slot does not hold the release that was recorded",
            found=manifest.digest(data)[:12],
            expected=load.digest[:12],
            hint="surefoot model verify",
        )
    release = manifest.decode(data)
    variant = release.variant(load.variant)
    verify(directory, variant.artifact)
    runtime = load_runtime(variant.runtime)
    signature = runtime.load(directory / variant.artifact.name, Options(threads=load.threads, provider=load.provider))
    agree("input", variant.inputs, signature.inputs)
    agree("output", variant.outputs, signature.outputs)
    return LoadedModel(directory, release, variant, runtime, signature)


def verify(directory: Path, file: File) -> None:
    """Check one file of a release by length and hash.

    Raises:
        UntrustedRelease: it is missing or another.
        DeviceUnable: it cannot be read.
    """
    path = directory / file.name
    try:
        sha256, length = hash_file(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if (sha256, length) != (file.sha256, file.length_bytes):
        raise UntrustedRelease(
            f"{file.name} is not the file that its manifest names",
            found=f"{sha256[:12]}, {length} bytes",
            expected=f"{file.sha256[:12]}, {file.length_bytes} bytes",
            hint="the file was changed or the disk is failing: install the release again",
        )


def unreadable(path: Path, error: OSError) -> SurefootError:
    """What is missing is evidence against a release. What cannot be read now is none: a disk may fail once."""
    kind = UntrustedRelease if error.errno in MISSING else DeviceUnable
    return kind(
        f"{path} cannot be read",
        found=str(error.strerror),
        hint="surefoot model verify says what the disk holds",
    )


def agree(kind: str, declared: Sequence[Tensor], real: Sequence[Tensor]) -> None:
    """What the manifest declares must be what the runtime found. A declared size may narrow a free one.

    Raises:
        UntrustedRelease: they differ.
    """
    found = {tensor.name: tensor for tensor in real}
    if kind == "input" and {tensor.name for tensor in declared} != set(found):
        raise UntrustedRelease(
            "the manifest and the model name different inputs",
            found=", ".join(found),
            expected=", ".join(tensor.name for tensor in declared),
        )
    for tensor in declared:
        other = found.get(tensor.name)
        same = (
            other is not None
            and other.datatype == tensor.datatype
            and len(other.shape) == len(tensor.shape)
            and all(b in (a, -1) for a, b in zip(tensor.shape, other.shape, strict=True))
        )
        if not same:
            raise UntrustedRelease(
                f"the manifest and the model disagree about {kind} {tensor.name}",
                found=f"{other.datatype} {list(other.shape)}" if other else ", ".join(found),
                expected=f"{tensor.datatype} {list(tensor.shape)}",
            )


def pack(outputs: dict[str, Array], names: Sequence[str]) -> tuple[tuple[TensorHead, ...], Payload]:
    """Arrays as headers and bytes, in the order of ``names``."""
    heads: list[TensorHead] = []
    parts: Payload = []
    for name in names:
        array = np.ascontiguousarray(outputs[name])
        datatype = next(key for key, dtype in DTYPES.items() if dtype == array.dtype)
        heads.append(TensorHead(name, datatype, outputs[name].shape, array.nbytes))  # type: ignore[arg-type]  # datatype is a key of DTYPES
        parts.append(array.reshape(-1).view(np.uint8).data)
    return tuple(heads), parts


def memory_bytes() -> int:
    """Resident memory of this process."""
    if sys.platform.startswith("linux"):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS: getrusage(2)


def waiting_ms() -> float:
    """How long this process's threads could have run while others had the CPU; 0 where the kernel does not count it.

    Linux, Documentation/scheduler/sched-stats.rst: the second figure of /proc/<pid>/task/<tid>/schedstat, nanoseconds.
    """
    waited_ns = 0
    try:
        for name in os.listdir("/proc/self/task"):  # noqa: PTH208  # no Path a thread: this lies between two timings
            with open(f"/proc/self/task/{name}/schedstat", "rb") as file:  # noqa: PTH123  # likewise
                waited_ns += int(file.read(64).split()[1])
    except (OSError, IndexError, ValueError):  # not Linux, or a thread that has just ended
        return 0.0
    return waited_ns / 1e6

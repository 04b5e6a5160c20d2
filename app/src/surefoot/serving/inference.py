"""The two operations that clients come for: tensors to tensors, and a picture to a label."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec

from surefoot.errors import BadRequest, SurefootError
from surefoot.serving import exchange, oip
from surefoot.serving.backend import Backend, Link, Reply
from surefoot.serving.exchange import BodyMeter, ClientGoneError, Headers, Receive, Scope, Send
from surefoot.serving.frames import Buffer
from surefoot.serving.messages import Classified, Classify, Infer, Inferred
from surefoot.serving.metrics import Metrics
from surefoot.serving.refusals import NoSuchModel, WorkerLost, WrongMedia

log = logging.getLogger("surefoot.gateway")
PICTURES = ("image/png", "image/jpeg")
OCTETS = b"application/octet-stream"


class Answered(msgspec.Struct, frozen=True):
    """What an operation gives to send."""

    link: Link
    content_type: bytes
    parts: list[bytes | memoryview]
    headers: Headers


class Models:
    """The models of this gateway by name."""

    def __init__(self) -> None:
        self.backends: dict[str, Backend] = {}

    def find(self, name: str, version: str | None = None) -> Backend:
        """The model, if it is here and, where a version is given, serves that one.

        Raises:
            NoSuchModel: no such model, or it serves another version.
        """
        backend = self.backends.get(name)
        if backend is None:
            raise NoSuchModel(f"there is no model {name[:80]!r}", found=", ".join(self.backends) or "no model")
        if version is not None and backend.current is not None:
            serving = backend.current.route.loaded.version
            if version != serving:
                raise NoSuchModel(f"{name} does not serve version {version[:80]!r}", found=serving)
        return backend


class Operation:
    """An ASGI endpoint that asks a worker. Subclasses read the body and make the answer."""

    name = ""

    def __init__(
        self, models: Models, metrics: Metrics, meter: BodyMeter, most_body_bytes: int, timeout_s: float
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._meter = meter
        self._most_body_bytes = most_body_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        parameters = scope["path_params"]
        name, status, held = parameters["model"], 500, 0
        label = name if name in self._models.backends else ""  # a name made up by a client is no label
        self._metrics.in_flight.inc()
        try:
            backend = self._models.find(name, parameters.get("version"))
            deadline_s = time.monotonic() + self._timeout_s
            backend.serving()  # before the body: a client need not send it for nothing
            body = await exchange.read_body(scope, receive, self._most_body_bytes, deadline_s, self._meter)
            held = len(body)
            answered = await self.ask(backend, scope, body, deadline_s, started)
            status = 200
            elapsed_s = time.perf_counter() - started
            answered.link.inferences += 1
            answered.link.latencies.record(elapsed_s * 1e3)
            self._metrics.latency(name, self.name, elapsed_s)
            await exchange.answer(send, 200, answered.content_type, answered.parts, answered.headers)
        except SurefootError as error:
            if not isinstance(error, BadRequest) and label:
                link = self._models.backends[name].current
                if link is not None:
                    link.failures += 1
            status = await exchange.answer_error(send, error)
        except ClientGoneError:
            status = 499
        finally:
            self._meter.held_bytes -= held
            self._metrics.in_flight.dec()
            self._metrics.request(label, self.name, status)

    async def ask(self, backend: Backend, scope: Scope, body: bytes, deadline_s: float, started: float) -> Answered:
        """Read the body, ask a worker, make the answer."""
        raise NotImplementedError


class InferOperation(Operation):
    """``POST /v2/models/<model>[/versions/<version>]/infer``."""

    name = "infer"

    async def ask(self, backend: Backend, scope: Scope, body: bytes, deadline_s: float, _: float) -> Answered:
        """Tensors."""
        loaded = backend.serving().route.loaded
        length = exchange.header(scope, b"inference-header-content-length")
        request = oip.parse(body, length, loaded.inputs, loaded.outputs)
        if request.timeout_s is not None:
            deadline_s = min(deadline_s, time.monotonic() + request.timeout_s)
        question = Infer(backend.number(), deadline_s, request.inputs, tuple(output.name for output in request.outputs))
        link, (reply, payload) = await backend.ask(question, request.payload, deadline_s - time.monotonic())
        if not isinstance(reply, Inferred):
            raise WorkerLost("the worker answered another question", found=type(reply).__name__)
        show(backend, question, request.payload, len(body), (reply, payload))
        version = link.route.loaded.version
        parts, head_length = oip.respond(backend.name, version, request, reply.outputs, payload)
        if head_length is None:
            return Answered(link, b"application/json", parts, [])
        return Answered(link, OCTETS, parts, [(b"inference-header-content-length", str(head_length).encode())])


class ClassifyOperation(Operation):
    """``POST /v2/models/<model>[/versions/<version>]/classify`` with a PNG or JPEG as the body."""

    name = "classify"

    async def ask(self, backend: Backend, scope: Scope, body: bytes, deadline_s: float, started: float) -> Answered:
        """A picture."""
        media = (exchange.header(scope, b"content-type") or "").split(";")[0].strip().lower()
        if media not in (*PICTURES, "", "application/octet-stream"):
            raise WrongMedia("classify takes pictures", found=media[:80], expected=" or ".join(PICTURES))
        if not body:
            raise BadRequest("the body is empty", expected="a PNG or a JPEG")
        if not backend.serving().route.loaded.classifies:
            raise BadRequest(f"{backend.name} does not classify pictures", hint=f"use /v2/models/{backend.name}/infer")
        question = Classify(backend.number(), deadline_s)
        link, (reply, _) = await backend.ask(question, [body], deadline_s - time.monotonic())
        if not isinstance(reply, Classified):
            raise WorkerLost("the worker answered another question", found=type(reply).__name__)
        show(backend, question, [body], len(body), (reply, memoryview(b"")))
        value = {
            "model_name": backend.name,
            "model_version": link.route.loaded.version,
            "label": reply.label,
            "label_index": reply.label_index,
            "confidence": reply.confidence,
            "probabilities": reply.probabilities,
            "latency_ms": (time.perf_counter() - started) * 1e3,
        }
        return Answered(link, b"application/json", [msgspec.json.encode(value)], [])


def show(
    backend: Backend, question: Infer | Classify, payload: Sequence[Buffer], size_bytes: int, reply: Reply
) -> None:
    """Let the model's shadow see an answered input, if it is part of the sample. The client's answer goes first."""
    onlooker = backend.onlooker
    if onlooker is not None and onlooker.wants(size_bytes):
        asyncio.get_running_loop().call_soon(onlooker.see, question, payload, *reply)

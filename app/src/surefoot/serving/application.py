"""The gateway's ASGI application: which address answers what. Every failure is JSON with ``error``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from surefoot import __version__
from surefoot.errors import BadRequest, DeviceUnable, SurefootError
from surefoot.serving import exchange, oip
from surefoot.serving.backend import Backend
from surefoot.serving.inference import ClassifyOperation, InferOperation, Models
from surefoot.serving.metrics import CONTENT_TYPE, Metrics
from surefoot.serving.page import render
from surefoot.serving.refusals import NoSuchPath, NoWorker, WrongMethod
from surefoot.serving.status import ServingStatus

EXTENSIONS = ["binary_tensor_data", "surefoot_classify"]
HTML = b"text/html; charset=utf-8"
PAGE_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]

log = logging.getLogger("surefoot.gateway")
AskStatus = Callable[[], Awaitable[ServingStatus]]
Handler = Callable[[Mapping[str, str], Send], Awaitable[None]]


class Pages:
    """Everything that is answered without a worker."""

    def __init__(self, models: Models, metrics: Metrics, ask_status: AskStatus) -> None:
        self._models = models
        self._metrics = metrics
        self._ask_status = ask_status

    async def server(self, _: Mapping[str, str], send: Send) -> None:
        """``GET /v2``."""
        await exchange.answer_json(send, {"name": "surefoot", "version": __version__, "extensions": EXTENSIONS})

    async def live(self, _: Mapping[str, str], send: Send) -> None:
        """``GET /v2/health/live``: the gateway answers."""
        await exchange.answer_json(send, {"live": True})

    async def ready(self, _: Mapping[str, str], send: Send) -> None:
        """``GET /v2/health/ready``: every model has a live worker, and there is at least one."""
        without = [name for name, backend in self._models.backends.items() if backend.current is None]
        if without or not self._models.backends:
            problem = f"no worker serves {', '.join(without)}" if without else "no model is active on this device"
            await _not_ready(send, NoWorker(problem))
        else:
            await exchange.answer_json(send, {"ready": True})

    async def model(self, path: Mapping[str, str], send: Send) -> None:
        """``GET /v2/models/<model>``: what it takes and gives, and which release it is."""
        backend = self._models.find(path["model"], path.get("version"))
        route = backend.serving().route
        loaded = route.loaded
        await exchange.answer_json(
            send,
            {
                "name": backend.name,
                "versions": [loaded.version],
                "platform": loaded.runtime,
                "inputs": oip.describe(loaded.inputs),
                "outputs": oip.describe(loaded.outputs),
                "parameters": {
                    "digest": loaded.digest,
                    "variant": loaded.variant,
                    "slot": route.slot,
                    "provider": loaded.provider,
                    "classifies": loaded.classifies,
                },
            },
        )

    async def model_ready(self, path: Mapping[str, str], send: Send) -> None:
        """``GET /v2/models/<model>/ready``."""
        backend: Backend = self._models.find(path["model"], path.get("version"))
        try:
            backend.serving()
        except NoWorker as error:
            await _not_ready(send, error, name=backend.name)
            return
        await exchange.answer_json(send, {"name": backend.name, "ready": True})

    async def status(self, _: Mapping[str, str], send: Send) -> None:
        """``GET /status.json``."""
        await exchange.answer_json(send, await self._ask_status())

    async def page(self, _: Mapping[str, str], send: Send) -> None:
        """``GET /``: the same for people."""
        page = render(await self._ask_status())
        await exchange.answer(send, 200, HTML, [page.encode()], PAGE_HEADERS)

    async def metrics(self, _: Mapping[str, str], send: Send) -> None:
        """``GET /metrics``. A supervisor that does not answer leaves its figures out; the gateway's own stay."""
        try:
            status = await self._ask_status()
        except DeviceUnable:
            status = None
        await exchange.answer(send, 200, CONTENT_TYPE, [self._metrics.exposition(status)])


def application(pages: Pages, infer: InferOperation, classify: ClassifyOperation) -> ASGIApp:
    """The routes. The two operations come first: they are what is called all day."""
    routes = []
    for endpoint, operation in (("infer", infer), ("classify", classify)):
        for version in ("", "/versions/{version}"):
            routes.append(_route(f"/v2/models/{{model}}{version}/{endpoint}", operation, "POST"))
    for path, handler in (
        ("/v2", pages.server),
        ("/v2/health/live", pages.live),
        ("/v2/health/ready", pages.ready),
        ("/v2/models/{model}", pages.model),
        ("/v2/models/{model}/versions/{version}", pages.model),
        ("/v2/models/{model}/ready", pages.model_ready),
        ("/v2/models/{model}/versions/{version}/ready", pages.model_ready),
        ("/metrics", pages.metrics),
        ("/status.json", pages.status),
        ("/", pages.page),
    ):
        routes.append(_route(path, _Get(handler), "GET"))
    return Guard(Router(routes, redirect_slashes=False))


def _route(path: str, endpoint: Any, method: str) -> Route:
    return Route(path, endpoint, methods=[method])


class _Get:
    """A handler as an ASGI endpoint: it reads no body, whatever a client sends along."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._handler(scope["path_params"], send)
        except SurefootError as error:
            await exchange.answer_error(send, error)


class Guard:
    """The outermost layer: what the router refuses, and what nobody foresaw, in the protocol's form."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1003})
            return
        begun = False

        async def watched(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            scope["app"] = self  # the router then raises for an unknown address instead of answering in plain text
            await self._inner(scope, receive, watched)
        except HTTPException as error:
            await exchange.answer_error(send, _refusal(error, scope), _allow(error))
        except Exception as error:
            log.exception("unexpected")
            if begun:
                raise
            await exchange.answer_json(send, {"error": f"the server failed: {type(error).__name__}"}, 500)


def _refusal(error: HTTPException, scope: Scope) -> SurefootError:
    path = str(scope["path"])[:200]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return WrongMethod(f"{path} does not take this method", found=str(scope["method"])[:20], expected=allowed)
    if error.status_code == 404:
        return NoSuchPath(f"there is nothing at {path}", hint="the addresses are in docs/reference/serving.md")
    return BadRequest(str(error.detail))


def _allow(error: HTTPException) -> list[tuple[bytes, bytes]]:
    allowed = (error.headers or {}).get("Allow")
    return [(b"allow", allowed.encode())] if allowed else []


async def _not_ready(send: Send, error: SurefootError, name: str | None = None) -> None:
    value: dict[str, Any] = {"ready": False, "error": str(error)}
    if name is not None:
        value["name"] = name
    await exchange.answer_json(send, value, 503, [(b"retry-after", b"1")])

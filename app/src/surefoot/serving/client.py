"""A small client: pictures to labels, and what a server says of itself."""

from __future__ import annotations

from typing import Any

import msgspec
import urllib3

from surefoot.errors import BadRequest, DeviceUnable, SurefootError, TransportFailed

MOST_ANSWER_BYTES = 16 * 1024 * 1024
TIMEOUT_S = 30.0
_SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one picture. ``confidence`` is calibrated: of answers at 0.9, about nine in ten are right."""

    model_name: str
    model_version: str
    label: str
    label_index: int
    confidence: float
    probabilities: list[float]
    latency_ms: float


class Client:
    """Talks to one server.

    Args:
        url: ``http://host:port``.
        timeout_s: for connecting and for each read.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadRequest("not the address of a server", found=url, expected="http://host:port")
        self._url = url.rstrip("/")
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s), retries=False, maxsize=1
        )

    def classify(self, picture: bytes, model: str) -> Classification:
        """What a picture shows.

        Args:
            picture: an encoded PNG or JPEG.
            model: its name on the server.

        Raises:
            BadRequest: the server refuses the picture or knows no such model.
            DeviceUnable: the server cannot answer now.
            TransportFailed: no answer came.
        """
        media = next((media for start, media in _SIGNATURES.items() if picture.startswith(start)), "image/png")
        answer = self._ask("POST", f"/v2/models/{model}/classify", picture, media)
        try:
            return msgspec.json.decode(answer, type=Classification)
        except msgspec.DecodeError as error:
            raise TransportFailed(f"{self._url} answered something else", found=str(error)) from error

    def server(self) -> dict[str, Any]:
        """The server's metadata."""
        return self._object("/v2")

    def model(self, model: str) -> dict[str, Any]:
        """A model's metadata: versions, tensors, digest."""
        return self._object(f"/v2/models/{model}")

    def ready(self) -> bool:
        """Whether every model is served."""
        try:
            self._ask("GET", "/v2/health/ready")
        except DeviceUnable:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _object(self, path: str) -> dict[str, Any]:
        try:
            return msgspec.json.decode(self._ask("GET", path), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise TransportFailed(f"{self._url} answered something else", found=str(error)) from error

    def _ask(self, method: str, path: str, body: bytes | None = None, media: str = "application/json") -> bytes:
        headers = {"content-type": media} if body is not None else {}
        try:
            reply = self._pool.request(method, self._url + path, body=body, headers=headers, preload_content=False)
            try:
                answer = reply.read(MOST_ANSWER_BYTES + 1)
            finally:
                reply.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise TransportFailed(
                f"no answer from {self._url}", found=str(error), hint="is it running? surefoot status"
            ) from error
        if len(answer) > MOST_ANSWER_BYTES:
            raise TransportFailed("the answer is too long", expected=f"at most {MOST_ANSWER_BYTES} bytes")
        if reply.status >= 400:
            raise _refusal(reply.status, answer)
        return answer


def _refusal(status: int, answer: bytes) -> SurefootError:
    family = BadRequest if 400 <= status < 500 else DeviceUnable
    try:
        said = msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError:
        said = {"what": f"the server answered {status}"}
    parts = {key: str(said[key]) for key in ("found", "expected", "hint") if said.get(key)}
    return family(str(said.get("what") or said.get("error") or f"the server answered {status}"), **parts)

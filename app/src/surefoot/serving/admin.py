"""How other processes of this device talk to a running server."""

from __future__ import annotations

import socket
import time

import msgspec

from surefoot.config import Config
from surefoot.errors import BadRequest, DeviceUnable, SurefootError, TransportFailed, UntrustedRelease
from surefoot.serving import endpoint
from surefoot.serving.endpoint import Endpoint
from surefoot.serving.orders import Order, Result
from surefoot.serving.status import ModelServing, ServingStatus, SwapReport

MOST_ANSWER_BYTES = 16 * 1024 * 1024
STATUS_TIMEOUT_S = 10.0
STOP_MARGIN_S = 20.0
GOLDEN_MARGIN_S = 240.0
_POLL_S = 0.02

__all__ = ["AdminClient", "ModelServing", "NotRunning", "ServingStatus", "SwapReport"]


class NotRunning(DeviceUnable):
    """No server runs here. What the store says is then all there is."""


class AdminClient:
    """Orders to one running server. Each opens its own connection."""

    def __init__(self, config: Config, where: Endpoint) -> None:
        self.endpoint = where
        self._config = config

    @classmethod
    def connect(cls, config: Config) -> AdminClient:
        """The server of ``config.run_dir``.

        Raises:
            NotRunning: there is none.
        """
        where = endpoint.read(config.run_dir)
        if where is None or not endpoint.running(config.run_dir):
            raise NotRunning("no server runs here", found=str(config.run_dir), hint="start it: surefoot serve --detach")
        return cls(config, where)

    def status(self) -> ServingStatus:
        """What is being served.

        Raises:
            NotRunning: the server has gone.
            DeviceUnable: it does not answer, or refuses this user.
        """
        status = self._ask(Order("status"), STATUS_TIMEOUT_S).status
        if status is None:
            raise DeviceUnable("the server answered something else than its status")
        return status

    def swap(self, name: str) -> SwapReport:
        """Make the server serve what the store of this model says is active. Waits until it does, or cannot.

        Raises:
            NotRunning: the server has gone.
            BadRequest: not a model's name.
            DeviceUnable: it does not answer in time.
        """
        swap = self._ask(Order("swap", name), self._config.runtime.load_timeout_s + GOLDEN_MARGIN_S).swap
        if swap is None:
            raise DeviceUnable("the server answered something else than a swap")
        return swap

    def stop(self) -> None:
        """End the server after what it has begun, and wait until it is gone.

        Raises:
            DeviceUnable: it is not gone in time.
        """
        wait_s = self._config.gateway.drain_timeout_s + STOP_MARGIN_S
        self._ask(Order("stop"), STATUS_TIMEOUT_S)
        deadline = time.monotonic() + wait_s
        while endpoint.running(self._config.run_dir):
            if time.monotonic() > deadline:
                raise DeviceUnable(
                    "the server does not end",
                    found=f"process {self.endpoint.pid} after {wait_s:g} s",
                    hint="see its log",
                )
            time.sleep(_POLL_S)

    def _ask(self, order: Order, timeout_s: float) -> Result:
        deadline = time.monotonic() + timeout_s
        answer = bytearray()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout_s)
                connection.connect(self.endpoint.admin_socket)
                connection.sendall(msgspec.json.encode(order) + b"\n")
                while not answer.endswith(b"\n") and len(answer) <= MOST_ANSWER_BYTES:
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
                    part = connection.recv(1 << 16)
                    if not part:
                        break
                    answer += part
        except TimeoutError as error:
            raise DeviceUnable(
                f"the server did not answer {order.op}", found=f"nothing in {timeout_s:g} s", hint="see its log"
            ) from error
        except PermissionError as error:
            raise DeviceUnable(
                "this user may not administer the server",
                found=self.endpoint.admin_socket,
                hint="run as the user who started it, or as root",
            ) from error
        except OSError as error:
            raise NotRunning("the server has gone", found=str(error.strerror)) from error
        return _result(bytes(answer))


def _result(answer: bytes) -> Result:
    try:
        result = msgspec.json.decode(answer, type=Result)
    except msgspec.DecodeError as error:
        raise DeviceUnable("the server's answer was cut short", found=f"{len(answer)} bytes") from error
    if result.error is not None:
        families: dict[str, type[SurefootError]] = {
            family.__name__: family for family in (BadRequest, DeviceUnable, TransportFailed, UntrustedRelease)
        }
        said = dict(result.error)
        family = families.get(said.pop("error", ""), DeviceUnable)
        raise family(said.pop("what", "the server refused"), **said)
    return result

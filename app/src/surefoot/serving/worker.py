"""The process that holds a runtime: ``python -m surefoot.serving.worker --control FD --lifeline FD``.

One thread answers one question at a time: the supervisor's on the control socket, clients' on the sockets that it
hands over. Another thread watches the lifeline, a pipe whose other end only the supervisor holds: when it closes, for
whatever reason, the worker leaves at once, also in the middle of an inference.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from surefoot.durable import locked
from surefoot.errors import BadRequest, DeviceUnable, SurefootError, UntrustedRelease
from surefoot.runtimes.protocol import ModelRefused
from surefoot.serving import messages
from surefoot.serving.frames import Decoder, Frame, FrameError, receive, write_frame
from surefoot.serving.loaded import LoadedModel, open_model
from surefoot.serving.messages import Attach, Classify, Clock, Golden, Hold, Infer, Load, Loaded
from surefoot.serving.priority import run_low

LOCK_WAIT_S = 10.0
HOLD_WAIT_S = 0.3  # whoever only looks whether it is held lets go at once
SEND_TIMEOUT_S = 30.0  # a reader that takes no byte for so long is dropped, so that it cannot stop the others
READ_BYTES = 1 << 18

log = logging.getLogger("surefoot.worker")


class Worker:
    """Serves one model on any number of sockets until told to leave."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lock = contextlib.ExitStack()
        self._model: LoadedModel | None = None
        self._poll = select.poll()
        self._connections: dict[int, tuple[socket.socket, Decoder]] = {}
        self._add(control)

    def _add(self, connection: socket.socket) -> None:
        connection.settimeout(SEND_TIMEOUT_S)
        self._connections[connection.fileno()] = (connection, Decoder())
        self._poll.register(connection, select.POLLIN)

    def _drop(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        connection, _ = self._connections.pop(descriptor)
        connection.close()

    def run(self) -> None:
        """Answer until the control socket closes."""
        while True:
            for descriptor, _ in self._poll.poll():
                connection, decoder = self._connections[descriptor]
                try:
                    data, descriptors = receive(connection, READ_BYTES)
                    for frame in decoder.feed(data, descriptors):
                        self._answer(connection, frame)
                except (OSError, FrameError) as error:
                    log.warning("a connection is dropped: %s", error)
                    data = b""
                if not data:
                    if connection is self._control:
                        return
                    self._drop(descriptor)

    def _answer(self, connection: socket.socket, frame: Frame) -> None:
        request_id = 0
        try:
            question = messages.decode_question(frame.header)
            request_id = getattr(question, "id", 0)
            answer, parts = self._do(question, frame)
        except SurefootError as error:
            evidence = isinstance(error, (UntrustedRelease, ModelRefused))
            answer, parts = messages.failure(request_id, error, evidence), []
        except msgspec.DecodeError as error:
            answer, parts = messages.failure(0, BadRequest("not a question for a worker", found=str(error))), []
        except Exception as error:  # a fault of ours must be an answer, not a silence
            log.exception("unexpected")
            unexpected = DeviceUnable("the worker failed unexpectedly", found=f"{type(error).__name__}: {error}")
            answer, parts = messages.failure(request_id, unexpected), []
        write_frame(connection, messages.encode(answer), parts)

    def _do(self, question: messages.Question, frame: Frame) -> tuple[messages.Answer, list[memoryview]]:
        if isinstance(question, Load):
            return self._load(question), []
        if self._model is None:
            raise DeviceUnable("no model is loaded in this worker")
        if isinstance(question, Infer):
            _in_time(question.deadline_s)
            return self._model.infer(question, frame.payload)
        if isinstance(question, Classify):
            _in_time(question.deadline_s)
            return self._model.classify(question.id, bytes(frame.payload)), []
        if isinstance(question, Golden):
            model = self._model
            return run_low(model.golden, threads=1), []
        if isinstance(question, Hold):
            self._hold(question.lock, HOLD_WAIT_S)
            return messages.Held(), []
        if isinstance(question, Clock):
            return self._model.clock(question.at, question.runs), []
        if not isinstance(question, Attach) or len(frame.descriptors) != 1:
            raise BadRequest("attach needs one descriptor", found=str(len(frame.descriptors)))
        self._add(socket.socket(fileno=frame.descriptors[0]))
        return messages.Attached(), []

    def _load(self, load: Load) -> Loaded:
        if self._model is not None:
            raise BadRequest("this worker has loaded a model before", hint="start another worker")
        self._hold(load.lock, LOCK_WAIT_S)
        started = time.monotonic()

        def verified_and_warm() -> LoadedModel:
            model = open_model(load)
            model.warm()
            return model

        self._model = run_low(verified_and_warm, load.threads)
        return self._model.describe(load, time.monotonic() - started)

    def _hold(self, lock: str, wait_s: float) -> None:
        self._lock.close()
        if lock:
            self._lock.enter_context(locked(Path(lock), shared=True, wait_s=wait_s, what="the slot"))


def _in_time(deadline_s: float) -> None:
    if time.monotonic() > deadline_s:
        raise DeviceUnable("the deadline passed before the request was begun")


def leave_with(lifeline: int) -> None:
    """End this process as soon as the other end of the lifeline is closed."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline, 1)
        os._exit(0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker.

    Returns:
        The exit status: 0 after an orderly end.
    """
    parser = argparse.ArgumentParser(prog="surefoot.serving.worker")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the supervisor's socket")
    parser.add_argument("--lifeline", type=int, required=True, help="descriptor of the pipe that means: go on")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s[%(process)d] %(levelname)s %(message)s")
    # The supervisor ends workers by their lifeline, after the gateway has drained: a signal meant for the whole group
    # (Ctrl-C, systemd's KillMode=control-group) must not cut a request off.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with(chosen.lifeline)
    with socket.socket(fileno=chosen.control) as control:
        Worker(control).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

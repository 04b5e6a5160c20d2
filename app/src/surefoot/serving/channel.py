"""Frames on a non-blocking socket inside an event loop. Used by the gateway and by the supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from surefoot.serving.frames import Buffer, Decoder, Frame, FrameError, prefix, receive, rights

READ_BYTES = 1 << 18
MOST_UNSENT_BYTES = 1 << 30


class Channel:
    """One socket. ``on_frame`` gets each frame, ``on_closed`` is called once when the other side is gone.

    Sending tries the socket at once, since a frame nearly always fits; only what does not fit waits for the loop.
    """

    def __init__(
        self, connection: socket.socket, on_frame: Callable[[Frame], None], on_closed: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._decoder = Decoder()
        self._unsent: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._unsent_bytes = 0
        self._descriptor = connection.fileno()
        self.closed = False
        connection.setblocking(False)
        self._loop.add_reader(self._descriptor, self._readable)

    def send(self, header: bytes, payload: Sequence[Buffer] = (), descriptors: Sequence[int] = ()) -> None:
        """Send a frame. Descriptors are closed here, sent or not.

        Raises:
            FrameError: the channel is closed, or far too much waits to be sent.
        """
        if self.closed:
            _close_all(descriptors)
            raise FrameError("the process on the other side went away")
        parts = [memoryview(part).cast("B") for part in payload if len(part)]
        size = sum(map(len, parts))
        head = memoryview(prefix(header, size, len(descriptors)) + header)
        sent = 0
        if not self._unsent:
            try:
                sent = self._connection.sendmsg([head, *parts], rights(descriptors))
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                _close_all(descriptors)
                self._close(str(error))
                raise FrameError("the process on the other side went away", found=str(error)) from error
        if sent:
            _close_all(descriptors)
            descriptors = ()
            if sent == len(head) + size:
                return
        if self._unsent_bytes + size > MOST_UNSENT_BYTES:
            _close_all(descriptors)
            raise FrameError("the process on the other side does not read")
        for index, view in enumerate((head, *parts)):
            if sent >= len(view):
                sent -= len(view)
                continue
            self._unsent.append((view[sent:], tuple(descriptors) if index == 0 else ()))
            self._unsent_bytes += len(view) - sent
            sent = 0
        self._loop.add_writer(self._descriptor, self._writable)

    def _writable(self) -> None:
        while self._unsent:
            view, descriptors = self._unsent[0]
            try:
                sent = self._connection.sendmsg([view], rights(descriptors))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._close(str(error))
                return
            _close_all(descriptors)
            self._unsent_bytes -= sent
            if sent < len(view):
                self._unsent[0] = (view[sent:], ())
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._descriptor)

    def _readable(self) -> None:
        try:
            data, descriptors = receive(self._connection, READ_BYTES)
            frames = self._decoder.feed(data, descriptors)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, FrameError) as error:
            self._close(str(error))
            return
        for frame in frames:
            self._on_frame(frame)
        if not data:
            self._close("the other side closed")

    def close(self) -> None:
        """Close from this side; ``on_closed`` is not called."""
        self._on_closed = lambda _: None
        self._close("closed here")

    def _close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        for _, descriptors in self._unsent:
            _close_all(descriptors)
        self._unsent.clear()
        self._connection.close()
        self._on_closed(reason)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

"""Frames between our processes: a 12-byte prefix, a MessagePack header, raw tensor bytes.

Prefix: three little-endian uint32, the lengths of header and payload, bounded before anything is allocated, and the
count of descriptors (SCM_RIGHTS). The count is needed: one read may return a frame without descriptors together with
the next one's, so that a descriptor's place in the stream says nothing but its order.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from surefoot.errors import DeviceUnable

PREFIX = struct.Struct("<III")
MOST_HEADER_BYTES = 4 * 1024 * 1024
MOST_PAYLOAD_BYTES = 512 * 1024 * 1024
MOST_DESCRIPTORS = 4
_DESCRIPTOR_SPACE = socket.CMSG_SPACE(MOST_DESCRIPTORS * struct.calcsize("i"))

Buffer = bytes | bytearray | memoryview


class Frame(NamedTuple):
    """One message. ``descriptors`` belong to the receiver, who closes them."""

    header: bytes
    payload: memoryview
    descriptors: tuple[int, ...] = ()


class FrameError(DeviceUnable):
    """The other side does not speak this protocol, or went away in the middle of a frame."""


def prefix(header: bytes, payload_bytes: int, descriptors: int = 0) -> bytes:
    """The bytes before a frame.

    Raises:
        FrameError: header or payload is longer than the other side would take.
    """
    _check(len(header), payload_bytes, descriptors)
    return PREFIX.pack(len(header), payload_bytes, descriptors)


def _check(header_bytes: int, payload_bytes: int, descriptors: int) -> None:
    if header_bytes > MOST_HEADER_BYTES or payload_bytes > MOST_PAYLOAD_BYTES or descriptors > MOST_DESCRIPTORS:
        raise FrameError(
            "a message between processes is too long",
            found=f"header {header_bytes}, payload {payload_bytes} bytes, {descriptors} descriptors",
            expected=f"at most {MOST_HEADER_BYTES}, {MOST_PAYLOAD_BYTES} and {MOST_DESCRIPTORS}",
        )


class Decoder:
    """Turns a byte stream into frames, however it was cut."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._descriptors: list[int] = []

    def feed(self, data: bytes, descriptors: Sequence[int] = ()) -> list[Frame]:
        """Take what arrived and give each frame that is now whole.

        Raises:
            FrameError: a length over the bound.
        """
        self._descriptors.extend(descriptors)
        if self._held:
            self._held += data
            source: Buffer = self._held
        else:
            source = data  # the usual case, one read is one frame: nothing is copied
        frames: list[Frame] = []
        at, view = 0, memoryview(source)
        while len(view) - at >= PREFIX.size:
            header_bytes, payload_bytes, count = PREFIX.unpack_from(view, at)
            _check(header_bytes, payload_bytes, count)
            start = at + PREFIX.size
            end = start + header_bytes + payload_bytes
            if end > len(view):
                break
            payload = view[start + header_bytes : end]
            if source is self._held:  # the buffer is about to be cut, so the payload gets bytes of its own
                payload = memoryview(bytes(payload))
            owned, self._descriptors = tuple(self._descriptors[:count]), self._descriptors[count:]
            frames.append(Frame(bytes(view[start : start + header_bytes]), payload, owned))
            at = end
        rest = bytes(view[at:]) if source is data else b""
        view.release()
        if source is data:
            self._held += rest
        else:
            del self._held[:at]
        return frames


def receive(connection: socket.socket, most_bytes: int) -> tuple[bytes, list[int]]:
    """One read with the descriptors that came with it. Empty bytes mean that the other side is gone."""
    data, ancillary, _, _ = connection.recvmsg(most_bytes, _DESCRIPTOR_SPACE)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return data, list(descriptors)


def rights(descriptors: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """Descriptors as the ancillary data of ``sendmsg``."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def write_frame(
    connection: socket.socket, header: bytes, payload: Sequence[Buffer] = (), descriptors: Sequence[int] = ()
) -> None:
    """Send one frame on a blocking socket.

    Raises:
        OSError: the other side is gone, or does not read within the socket's timeout.
    """
    parts = [memoryview(part).cast("B") for part in payload]
    head = prefix(header, sum(map(len, parts)), len(descriptors)) + header
    views = [memoryview(head), *(part for part in parts if len(part))]
    sent = connection.sendmsg(views, rights(descriptors))
    while True:
        while views and sent >= len(views[0]):
            sent -= len(views.pop(0))
        if not views:
            return
        views[0] = views[0][sent:]
        sent = connection.sendmsg(views)

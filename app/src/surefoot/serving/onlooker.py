"""In the gateway: a release that sees a sample of the requests after they were answered, and answers nobody.

One input at a time is with it, and none waits: what it has no time for it is not shown. Of each only the comparison is
counted; the input is gone when its answer has come.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Sequence

import msgspec

from surefoot.serving import messages
from surefoot.serving.channel import Channel
from surefoot.serving.control import Show
from surefoot.serving.frames import Buffer, Frame, FrameError
from surefoot.serving.messages import Answer, Classified, Classify, Infer, Inferred
from surefoot.serving.tensors import FORMATS
from surefoot.watch.likeness import Tally, alike

PATIENCE_S = 60.0  # at the lowest priority an answer may take long
MOST_OUTPUT_BYTES = 1 << 20  # of what is compared


class Onlooker:
    """The gateway's end of a shadow."""

    def __init__(self, show: Show, connection: socket.socket) -> None:
        self.show = show
        self.tally = Tally()
        self._channel = Channel(connection, self._received, lambda _: None)
        self._next_s = 0.0
        self._waiting: tuple[Answer, memoryview] | None = None

    def wants(self, size_bytes: int) -> bool:
        """Whether this input is part of the sample. Asked once an input."""
        now = time.monotonic()
        if self._channel.closed or now < self._next_s or random.random() >= self.show.share:  # noqa: S311  # a sample
            return False
        self._next_s = now + 1 / self.show.most_per_s
        if self._waiting is not None or size_bytes > self.show.most_input_bytes:
            self._count(skipped=1)
            return False
        return True

    def see(self, question: Infer | Classify, payload: Sequence[Buffer], answer: Answer, view: memoryview) -> None:
        """Show it an input that was answered."""
        if self._waiting is not None or self._channel.closed:
            self._count(skipped=1)
            return
        self._waiting = (answer, view)
        again: Infer | Classify = msgspec.structs.replace(question, deadline_s=time.monotonic() + PATIENCE_S)
        try:
            self._channel.send(messages.encode(again), payload)
        except FrameError:
            self._waiting = None
            self._count(failed=1)

    def _received(self, frame: Frame) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        try:
            own = messages.decode_answer(frame.header)
        except msgspec.DecodeError:
            self._count(failed=1)
            return
        same = self._same(*waiting, own, frame.payload)
        if same is None:
            self._count(failed=1)
        else:
            self._count(agreed=int(same), disagreed=int(not same))

    def _same(self, answer: Answer, view: memoryview, own: Answer, own_view: memoryview) -> bool | None:
        if isinstance(answer, Classified) and isinstance(own, Classified):
            return answer.label_index == own.label_index
        if isinstance(answer, Inferred) and isinstance(own, Inferred):
            first, other = self._first(answer, view), self._first(own, own_view)
            if first is not None and other is not None:
                return alike(*first[:1], other[0], first[1], self.show.tolerance)
        return None

    def _first(self, answer: Inferred, view: memoryview) -> tuple[tuple[float, ...], int] | None:
        """Of the model's first output the values, flat, and the length of its last axis."""
        at = 0
        for head in answer.outputs:
            if head.name == self.show.loaded.outputs[0].name:
                letter = FORMATS.get(head.datatype)
                if letter is None or head.size_bytes > MOST_OUTPUT_BYTES:
                    return None
                values = struct.unpack(
                    f"<{head.size_bytes // struct.calcsize('<' + letter)}{letter}", view[at : at + head.size_bytes]
                )
                return values, head.shape[-1] if head.shape else 1
            at += head.size_bytes
        return None

    def _count(self, *, agreed: int = 0, disagreed: int = 0, failed: int = 0, skipped: int = 0) -> None:
        self.tally = self.tally.plus(Tally(agreed, disagreed, failed, skipped))

    def close(self) -> None:
        """It is shown nothing more."""
        self._channel.close()

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.serving.frames import (
    MOST_HEADER_BYTES,
    MOST_PAYLOAD_BYTES,
    PREFIX,
    Decoder,
    FrameError,
    prefix,
    receive,
    write_frame,
)


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=80)), max_size=6),
    st.lists(st.integers(1, 30), min_size=1, max_size=30),
)
def test_however_the_stream_is_cut_the_same_frames_come_out(frames, cuts):
    stream = b"".join(prefix(header, len(payload)) + header + payload for header, payload in frames)
    decoder, found, at, turn = Decoder(), [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        found += decoder.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert [(frame.header, bytes(frame.payload)) for frame in found] == frames


@pytest.mark.parametrize(
    "lengths", [(MOST_HEADER_BYTES + 1, 0), (0, MOST_PAYLOAD_BYTES + 1), (2**32 - 1, 2**32 - 1), (0, 0, 5)]
)
def test_a_length_over_the_bound_is_refused_before_anything_is_kept(lengths):
    with pytest.raises(FrameError):
        Decoder().feed(PREFIX.pack(*lengths, *[0] * (3 - len(lengths))))


def test_what_the_other_side_would_refuse_is_not_sent():
    with pytest.raises(FrameError):
        prefix(b"", MOST_PAYLOAD_BYTES + 1)


def test_a_descriptor_belongs_to_its_own_frame_even_where_one_read_returns_two_and_is_not_inherited():
    one, other = socket.socketpair()
    reading, writing = os.pipe()
    with one, other:
        write_frame(one, b"plain", [b"abc"])
        write_frame(one, b"with", [], [reading])
        os.close(reading)
        decoder, frames = Decoder(), []
        while len(frames) < 2:
            frames += decoder.feed(*receive(other, 1 << 16))
        first, second = frames
        assert (first.header, bytes(first.payload), first.descriptors) == (b"plain", b"abc", ())
        (received,) = second.descriptors
        assert not os.get_inheritable(received)
        os.write(writing, b"through")
        assert os.read(received, 100) == b"through"
    os.close(received)
    os.close(writing)

"""What the images of a cut are made of; and that the record of a real disk is whole."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import disks, kernel
from tests.crash.blocks import BLOCK_BYTES, PARTS, SECTOR_BYTES, ZEROS, Blocks, Cutter, Image, apply, read_log
from tests.crash.powercuts import Bench
from tests.crash.recorder import FLUSH, HEAD, WRITE


def write(number: int, letter: bytes) -> bytes:
    return HEAD.pack(WRITE, number * BLOCK_BYTES, BLOCK_BYTES) + letter * BLOCK_BYTES


def cutter(log: bytes, *marks: int) -> Cutter:
    return Cutter({}, read_log(log), random.Random(1), list(marks or (0,)))


def test_a_long_write_is_one_of_each_block() -> None:
    log = HEAD.pack(WRITE, 2 * BLOCK_BYTES - 1, BLOCK_BYTES + 2) + b"x" * (BLOCK_BYTES + 2)
    assert [(one.number, one.at, len(one.data)) for one in read_log(log)] == [
        (1, BLOCK_BYTES - 1, 1),
        (2, 0, BLOCK_BYTES),
        (3, 0, 1),
    ]


def test_what_was_flushed_is_there_and_what_came_after_may_be() -> None:
    log = write(1, b"a") + HEAD.pack(FLUSH, 0, 0) + write(2, b"b") + write(3, b"c")
    images = list(cutter(log).images(400))
    assert {bool(image.blocks) for image in images} == {False, True}
    later = [image.blocks for image in images if 2 in image.blocks or 3 in image.blocks]
    assert all(blocks[1] == b"a" * BLOCK_BYTES for blocks in later)
    assert {(2 in blocks, 3 in blocks) for blocks in later} == {(True, False), (False, True), (True, True)}


LETTERS = write(1, b"a") + write(2, b"b") + HEAD.pack(FLUSH, 0, 0) + write(3, b"c") + write(1, b"d")


def _every_prefix_comes_first(made: Cutter) -> None:
    images = list(made.images(100))
    prefixes = [image for image in images if image.prefix]
    assert prefixes == images[: len(prefixes)], "a part was tried before a prefix"
    held = [{number: data[:1] for number, data in image.blocks.items()} for image in prefixes]
    a, b, c = {1: b"a"}, {2: b"b"}, {3: b"c"}
    assert held == [{}, a, a | b, a | b | c, {1: b"d"} | b | c], "a prefix is missing"
    assert len(images) == 100


def test_every_prefix_of_the_writes_comes_first_and_parts_fill_up() -> None:
    _every_prefix_comes_first(cutter(LETTERS))


def test_there_are_parts_however_many_prefixes() -> None:
    images = list(cutter(LETTERS).images(0))
    assert len(images) == 5 + PARTS


class FlushesAlone(Cutter):
    """Mutant: of the prefixes those that end at a flush."""

    def _prefixes(self, seen: dict[int, set[int]]) -> Iterator[Image]:
        return (image for image in super()._prefixes(seen) if "first 0" in image.what)


def test_mutant_with_the_prefixes_at_flushes_alone_is_caught() -> None:
    with pytest.raises(AssertionError, match="a prefix is missing"):
        _every_prefix_comes_first(FlushesAlone({}, read_log(LETTERS), random.Random(1), [0]))


def test_a_block_may_be_torn_between_its_sectors_alone() -> None:
    images = list(cutter(write(1, b"a")).images(300))
    sectors: set[bytes] = set()
    for image in images:
        data = image.blocks.get(1, ZEROS)
        sectors |= {data[at : at + SECTOR_BYTES] for at in range(0, BLOCK_BYTES, SECTOR_BYTES)}
    assert sectors == {b"a" * SECTOR_BYTES, bytes(SECTOR_BYTES)}
    assert len({image.digest for image in images}) == len(images) > 100


def test_two_writes_of_a_block_arrive_in_their_order() -> None:
    last = [image.blocks.get(1, ZEROS) for image in cutter(write(1, b"a") + write(1, b"b")).images(400)]
    assert b"b" * BLOCK_BYTES in last and b"a" * BLOCK_BYTES in last and ZEROS in last


def test_the_same_content_is_the_same_image() -> None:
    log = write(1, b"a") + HEAD.pack(FLUSH, 0, 0) + write(1, b"a") + HEAD.pack(FLUSH, 0, 0)
    whole = [image for image in cutter(log).images(400) if image.blocks.get(1) == b"a" * BLOCK_BYTES]
    assert len(whole) == 1


def test_an_acknowledgement_counts_from_the_flush_that_it_waited_for() -> None:
    first = write(1, b"a") + HEAD.pack(FLUSH, 0, 0)
    images = list(cutter(first + write(2, b"b"), 0, len(first)).images(400))
    blocks: tuple[Blocks, ...] = ({}, {1: b"a" * BLOCK_BYTES}, {1: b"a" * BLOCK_BYTES, 2: b"b" * BLOCK_BYTES})
    nothing, first_only, both = ({image.marks for image in images if image.blocks == one} for one in blocks)
    assert (nothing, both) == ({1}, {2})
    assert first_only == {1, 2}, "it may all have arrived just before the flush was done, or long after"


def test_the_record_of_a_real_disk_gives_that_disk(bench: Bench, scratch: Path) -> None:
    base = disks.blank(scratch / "blank.img")

    def use() -> None:
        with disks.recorded(base, scratch) as recording:
            for number in range(20):
                (recording.folder / str(number)).write_bytes(bytes([number + 1]) * 9000)
            recording.settle()
            (recording.folder / "7").unlink()
            recording.settle()

    kernel.privately(use)
    entries = read_log((scratch / "log").read_bytes())
    assert sum(entry.is_flush for entry in entries) >= 4
    blocks = dict(base)
    apply(blocks, 0, [entry for entry in entries if not entry.is_flush])
    assert {number: data for number, data in blocks.items() if data != ZEROS} == disks.blocks_in(scratch / "source.img")

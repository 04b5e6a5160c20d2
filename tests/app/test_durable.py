"""The durable writer: the order of its primitives, what a cut between any two leaves, and what an error says."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from surefoot.durable import Disk, hash_file, locked, read_bounded, taken_bytes, unable
from surefoot.errors import DeviceUnable


class Watched(Disk):
    """Keeps the order of the primitives; ``cut`` stops before that one."""

    def __init__(self, cut: int | None = None) -> None:
        self.steps: list[tuple[str, str]] = []
        self.cut = cut

    def step(self, primitive: str, path: Path) -> None:
        if self.cut == len(self.steps):
            raise KeyboardInterrupt
        self.steps.append((primitive, path.name))


def test_a_file_is_written_synced_renamed_and_its_directory_synced(tmp_path: Path) -> None:
    disk = Watched()
    disk.write(tmp_path / "x", b"new")
    assert disk.steps == [
        ("create", ".tmp-x"),
        ("write", ".tmp-x"),
        ("fsync", ".tmp-x"),
        ("rename", "x"),
        ("fsync", tmp_path.name),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_cut_at_any_primitive_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "x"
    seen = []
    for cut in range(5):
        Disk().write(path, b"old")
        with pytest.raises(KeyboardInterrupt):
            Watched(cut).write(path, b"newer")
        seen.append(path.read_bytes())
        Disk().write(path, b"again")
        assert path.read_bytes() == b"again", "what a cut leaves must not block the next write"
    assert seen == [b"old"] * 4 + [b"newer"]


def test_several_files_change_only_when_there_was_room_for_all(tmp_path: Path) -> None:
    disk = Watched()
    disk.write_all({tmp_path / "x": b"1", tmp_path / "y": b"1"})
    names = [primitive for primitive, _ in disk.steps]
    assert names.index("rename") > len(names) - 1 - names[::-1].index("write")
    assert names[-3:] == ["rename", "rename", "fsync"], "one directory, one fsync"

    class Full(Disk):
        def _create(self, path: Path, mode: int) -> int:
            if path.name == ".tmp-y":
                raise OSError(errno.ENOSPC, "No space left on device")
            return super()._create(path, mode)

    with pytest.raises(DeviceUnable, match="ENOSPC"):
        Full().write_all({tmp_path / "x": b"2", tmp_path / "y": b"2"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"1", "y": b"1"}


def test_a_stream_is_hashed_as_it_is_written_and_leaves_nothing_when_its_source_fails(tmp_path: Path) -> None:
    digest, length = Disk().write_stream(tmp_path / "x", [b"a" * 10, b"b" * 5])
    assert (digest, length) == hash_file(tmp_path / "x")
    assert length == 15

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(DeviceUnable, match="EIO") as error:
        Disk().write_stream(tmp_path / "x", broken())
    assert "replace it" in error.value.hint
    assert (tmp_path / "x").read_bytes() == b"a" * 10 + b"b" * 5
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_failed_fsync_is_final_and_the_old_content_stays(tmp_path: Path) -> None:
    """The kernel drops the dirty pages, so a second fsync would report a success that is none."""

    class Failing(Disk):
        calls = 0

        def _fsync(self, descriptor: int, path: Path) -> None:
            Failing.calls += 1
            raise OSError(errno.EIO, "Input/output error")

    Disk().write(tmp_path / "x", b"old")
    with pytest.raises(DeviceUnable, match="EIO"):
        Failing().write(tmp_path / "x", b"new")
    assert Failing.calls == 1
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / ".tmp-x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceUnable):
        Disk().write(tmp_path / "x", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_modes_are_what_was_asked_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        Disk().write(tmp_path / "open", b"")
        Disk().write(tmp_path / "secret", b"", 0o600)
        Disk().make_directory(tmp_path / "d" / "e")
    finally:
        os.umask(old)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "secret", "d", "d/e")}
    assert modes == {"open": 0o644, "secret": 0o600, "d": 0o755, "d/e": 0o755}


def test_a_log_grows_by_whole_lines_even_after_a_torn_one(tmp_path: Path) -> None:
    path, disk = tmp_path / "log", Watched()
    disk.append(path, b"one")
    assert disk.steps[-1] == ("fsync", tmp_path.name), "a new file's name must be durable"
    path.write_bytes(path.read_bytes() + b"to")
    disk.append(path, b"two\n")
    assert path.read_bytes() == b"one\nto\ntwo\n"


def test_a_directory_is_published_with_both_parents_synced(tmp_path: Path) -> None:
    disk = Watched()
    disk.make_directory(tmp_path / "inbox" / "filled")
    disk.make_directory(tmp_path / "shelf")
    disk.write(tmp_path / "inbox" / "filled" / "x", b"1")
    disk.steps.clear()
    disk.publish_directory(tmp_path / "inbox" / "filled", tmp_path / "shelf" / "a")
    assert disk.steps == [
        ("fsync", "filled"),
        ("syncfs", "filled"),
        ("rename", "a"),
        ("fsync", "shelf"),
        ("fsync", "inbox"),
    ]
    with pytest.raises(DeviceUnable):
        disk.make_directory(tmp_path / "inbox" / "filled")
        disk.publish_directory(tmp_path / "inbox" / "filled", tmp_path / "shelf" / "a")


def test_a_directory_loses_its_name_before_its_content(tmp_path: Path) -> None:
    def fill() -> Path:
        (tmp_path / "a" / "sub").mkdir(parents=True)
        (tmp_path / "a" / "x").write_bytes(b"1")
        (tmp_path / "a" / "sub" / "y").write_bytes(b"1")
        return tmp_path / "a"

    disk = Watched()
    disk.remove_directory(fill())
    assert [primitive for primitive, _ in disk.steps] == [
        "rename", "fsync", "unlink", "rmdir", "unlink", "rmdir", "fsync",
    ]  # fmt: skip
    for cut in range(1, len(disk.steps)):
        with pytest.raises(KeyboardInterrupt):
            Watched(cut).remove_directory(fill())
        assert not (tmp_path / "a").exists()
        Disk().remove_directory(fill())
        assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_removed_without_a_word(tmp_path: Path) -> None:
    Disk().remove(tmp_path / "none")
    Disk().remove_directory(tmp_path / "none")
    (tmp_path / "dangling").symlink_to("nowhere")
    Disk().remove(tmp_path / "dangling")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_an_operating_systems_refusal_says_what_to_do(number: int) -> None:
    error = unable(OSError(number, os.strerror(number)), Path("state.0"))
    assert errno.errorcode[number] in error.found
    assert error.hint


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 11)
    with pytest.raises(DeviceUnable, match="too long"):
        read_bounded(tmp_path / "x", 10)
    assert read_bounded(tmp_path / "x", 11) == b"x" * 11


# -- locks -------------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from surefoot.durable import locked
with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(path: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_of_another_process_is_respected_and_its_file_alone_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = hold(path, "alone")
    for shared in (True, False):
        with pytest.raises(DeviceUnable, match="in use by another process"), locked(path, shared=shared, wait_s=0):
            pytest.fail("two at once")
    other.kill()
    other.wait()
    assert path.exists()
    with locked(path, wait_s=0):
        pass


def test_readers_share_and_a_writer_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = hold(path, "shared")
    with locked(path, shared=True, wait_s=0):
        pass
    with pytest.raises(DeviceUnable, match=r"longer than 0.05 s"), locked(path, wait_s=0.05):
        pytest.fail("a writer beside a reader")
    other.communicate("go\n", timeout=10)
    with locked(path, wait_s=0):
        pass


def test_a_lock_is_not_inherited_and_its_descriptor_cannot_write(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as descriptor:
        assert not os.get_inheritable(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
    with pytest.raises(DeviceUnable), locked(tmp_path / "no" / "such" / "folder"):
        pytest.fail("a lock in a folder that is not there")


def test_room_for_the_whole_is_taken_before_its_first_byte_and_its_length_says_how_far_it_is(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def chunks() -> Iterator[bytes]:
        seen.append(((tmp_path / "part").stat().st_size, taken_bytes(tmp_path / "part")))
        yield b"x" * 1000

    Disk().extend(tmp_path / "part", chunks(), 0, room_bytes=1 << 20)
    assert (tmp_path / "part").stat().st_size == 1000
    if sys.platform.startswith("linux"):
        assert seen[0][0] == 0 and seen[0][1] >= 1 << 20


def test_room_that_is_not_there_is_refused_before_a_byte_is_asked_for(
    small_disk: Path,
) -> None:
    asked: list[str] = []

    def chunks() -> Iterator[bytes]:
        asked.append("asked")
        yield b"x"

    with pytest.raises(DeviceUnable, match="cannot write") as caught:
        Disk().extend(small_disk / "part", chunks(), 0, room_bytes=8 << 20)
    assert caught.value.found.startswith("ENOSPC") and asked == []


@pytest.fixture
def small_disk(tmp_path: Path, needs: Callable[[bool, str], None]) -> Iterator[Path]:
    needs(os.geteuid() == 0, "root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True)
    needs(done.returncode == 0, "the right to mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


class FailsOnce(Disk):
    """Its n-th fsync of a file fails, and the ones after it succeed, as the kernel's do."""

    def __init__(self, at: int = 0) -> None:
        self.left = at

    def _fsync(self, descriptor: int, path: Path) -> None:
        self.left -= 1
        if self.left == -1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super()._fsync(descriptor, path)


def test_a_file_whose_fsync_failed_is_removed_for_its_next_one_would_succeed(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnable, match="cannot write"):
        FailsOnce().extend(tmp_path / "part", [b"never on the disk"], 0)
    assert not (tmp_path / "part").exists()
    (tmp_path / "whole").write_bytes(b"never on the disk")
    with pytest.raises(DeviceUnable, match="cannot write"):
        FailsOnce().sync_file(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_what_is_written_piece_by_piece_may_be_read_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Disk().extend(tmp_path / "part", [b"x"], 0)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "part").stat().st_mode) == 0o644

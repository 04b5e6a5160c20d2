"""The first boot's growth of the root, for real: a disk image, a partition table, ext4, a loop device.

The file system is not mounted meanwhile: the machines of CI may not resize one in use (CAP_SYS_RESOURCE).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "app" / "src" / "surefoot" / "fleet" / "root_size.sh"
GIB = 1 << 30
DISK_BYTES = 3 * GIB


def sh(*command: object, text: str | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Card:
    """A card of 3 GiB with an image of less on it, as it is before its first boot."""

    image: Path
    device: str
    root_number: int

    @property
    def root(self) -> str:
        return f"{self.device}p{self.root_number}"

    def grow(self, gib: int, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", script, str(gib), self.root], capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        )  # fmt: skip

    @property
    def table(self) -> str:
        return sh("sfdisk", "--dump", self.image)

    @property
    def partitions(self) -> list[str]:
        """Without the head: the second GPT header moves to the end of the disk, and nothing else with it."""
        return [line for line in self.table.splitlines() if "start=" in line]

    @property
    def root_bytes(self) -> int:
        return int(sh("blockdev", "--getsize64", self.root))

    @property
    def file_system_bytes(self) -> int:
        facts = dict(line.split(":", 1) for line in sh("dumpe2fs", "-h", self.root).splitlines() if ":" in line)
        return int(facts["Block count"]) * int(facts["Block size"])

    @property
    def largest_free_bytes(self) -> int:
        areas = sh("sfdisk", "--list-free", "--bytes", "--output", "Size", self.image).split("Size")[-1].split()
        return max((int(area) for area in areas), default=0)


@pytest.fixture(params=["dos", "gpt"])
def card(request, tmp_path, has_tool, needs: Callable[[bool, str], None]) -> Iterator[Card]:
    needs(os.geteuid() == 0 and Path("/dev/loop-control").exists(), "root and loop devices")
    has_tool("sfdisk", "partx", "losetup", "mkfs.ext4", "resize2fs")
    image = tmp_path / "card.img"
    number = 2 if request.param == "dos" else 1
    tables = {
        # Raspberry Pi OS: boot, then root. Debian and Ubuntu: the root is the first, behind the small ones.
        "dos": "label: dos\nstart=8192, size=128MiB, type=c\nsize=512MiB, type=83\n",
        "gpt": "label: gpt\nstart=262144, size=512MiB, type=linux\n",
    }
    with image.open("wb") as stream:
        stream.truncate(704 << 20)
    sh("sfdisk", "--quiet", image, text=tables[request.param])
    with image.open("r+b") as stream:
        stream.truncate(DISK_BYTES)  # the image, written to a larger card
    device = sh("losetup", "--find", "--show", image).strip()
    try:
        sh("partx", "--add", device)
        sh("mkfs.ext4", "-q", f"{device}p{number}")
        yield Card(image, device, number)
    finally:
        sh("partx", "--delete", device)
        sh("losetup", "--detach", device)


def test_the_root_grows_to_its_limit_and_the_rest_stays_free_for_data(card):
    done = card.grow(1)
    assert done.returncode == 0, done.stderr
    assert card.root_bytes == card.file_system_bytes == GIB
    assert card.largest_free_bytes > 1.8 * GIB
    sh(
        "sfdisk", "--quiet", "--no-reread", "--force", "--append", card.image, text=",+\n"
    )  # /data, as its role makes it
    assert card.root_bytes == GIB


def test_a_second_run_changes_nothing(card):
    assert card.grow(1).returncode == 0
    before = card.table
    assert card.grow(1).returncode == 0
    assert card.table == before


def test_a_disk_without_the_room_is_left_as_it_was(card):
    before = card.partitions, card.file_system_bytes
    done = card.grow(64)
    assert done.returncode != 0
    assert "no room for 64 GiB" in done.stderr
    assert (card.partitions, card.file_system_bytes) == before


def test_a_root_that_something_else_grew_is_reported_and_never_shrunk(card):
    assert card.grow(2).returncode == 0
    before = card.table
    done = card.grow(1)
    assert done.returncode != 0
    assert "something grew it before" in done.stderr
    assert card.table == before


def test_the_check_would_see_a_root_that_takes_the_whole_card(card, tmp_path):
    """The mutant: what the images do by themselves (PITFALLS 51)."""
    text = SCRIPT.read_text()
    assert '", ${gib}GiB"' in text
    mutant = tmp_path / "mutant.sh"
    mutant.write_text(text.replace('", ${gib}GiB"', '", +"'))
    assert card.grow(1, mutant).returncode != 0  # it reads back what it did
    assert card.root_bytes > 2 * GIB
    assert card.largest_free_bytes < 0.5 * GIB

"""Cards to seed, and the real command that seeds them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from surefoot.cli import main

CMDLINES = {
    # As the images come: pi-gen 2024-2026, with another PARTUUID each.
    "raspios-trixie": "console=serial0,115200 console=tty1 root=PARTUUID=7351b90c-02 rootfstype=ext4 fsck.repair=yes"
    " rootwait resize",
    "raspios-bookworm": "console=serial0,115200 console=tty1 root=PARTUUID=8acef004-02 rootfstype=ext4 fsck.repair=yes"
    " rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot",
}
OPERATING_SYSTEMS = ("raspios-trixie", "raspios-bookworm", "ubuntu", "debian")
PASSPHRASE = "correct horse"
# What somebody may have put into the comment of a key: it must come out as it went in, and do nothing on the way.
COMMENT = """it's $(touch /pwned) `touch /pwned` "quoted" \\n &&"""


@dataclass(frozen=True)
class Desk:
    """An operator's desk: a key, an inventory, a list of known hosts, and cards."""

    folder: Path

    @property
    def inventory(self) -> Path:
        return self.folder / "hosts.ini"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def key(self) -> Path:
        return self.folder / "id"

    def card(self, system: str, name: str = "boot") -> Path:
        """A freshly written card's boot partition."""
        card = self.folder / name
        card.mkdir()
        if system in CMDLINES:
            (card / "cmdline.txt").write_text(CMDLINES[system] + "\n")
        return card

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """``surefoot device seed …`` in this process. Returns exit status, output, errors."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["device", "seed", *arguments])
        return status, out.getvalue(), err.getvalue()

    def arguments(self, system: str, card: Path, *more: str, host: str = "cam-1") -> list[str]:
        return [
            "--host", host, "--os", system, "--out", str(card), "--user", "fleet",
            "--authorized-key", f"{self.key}.pub", "--inventory", str(self.inventory),
            "--known-hosts", str(self.known_hosts), *more,
        ]  # fmt: skip

    def seed(self, system: str, card: Path, *more: str, host: str = "cam-1", status: int = 0) -> Any:
        """``surefoot device seed … --json``."""
        found, out, err = self.run(*self.arguments(system, card, *more, host=host), "--json")
        assert found == status, f"{found}\n{out}\n{err}"
        return json.loads(out)

    def everything(self) -> dict[str, tuple[bytes, int]]:
        """Every file here with its content and mode."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): (path.read_bytes(), path.stat().st_mode) for path in files}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_tool: Callable[..., None]) -> Desk:
    has_tool("ssh-keygen")
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SUREFOOT_WIFI_PASSPHRASE", PASSPHRASE)
    made = Desk(folder)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", COMMENT, "-f", str(made.key)], check=True)
    return made


@pytest.fixture
def has_tool(needs: Callable[[bool, str], None]) -> Callable[..., None]:
    """``has_tool("sfdisk", …)``: go on where they are all on PATH."""

    def check(*tools: str) -> None:
        missing = [tool for tool in tools if not _found(tool)]
        needs(not missing, " and ".join(missing))

    return check


def _found(tool: str) -> bool:
    folders = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]
    return any(os.access(Path(folder) / tool, os.X_OK) for folder in folders)


def user_data(card: Path) -> Any:
    """The cloud-config, as JSON."""
    head, _, body = (card / "user-data").read_text().partition("\n")
    assert head == "#cloud-config"
    return json.loads(body)

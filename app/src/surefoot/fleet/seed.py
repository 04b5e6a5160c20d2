"""Seeds a host: reads what is there, and writes all that first contact needs, or nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

from surefoot.durable import Disk, read_bounded
from surefoot.errors import BadRequest
from surefoot.fleet import cloudinit, cmdline, contact, firstrun
from surefoot.fleet.identity import HostKey, find_host_key
from surefoot.fleet.plan import Plan

MOST_TEXT_BYTES = 4 << 20
SECRET, PUBLIC = 0o600, 0o644
# Where a host key is in a seed, and how that seed names its host.
HOLDS_KEY = {"user-data": '"hostname": "{}"', "firstrun.sh": "\nHOST={}\n"}


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where to write. ``folder`` is the card's mounted boot partition, or what becomes a medium named CIDATA."""

    folder: Path
    inventory: Path | None = None
    known_hosts: Path | None = None


class Seeded(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and the lines for the operator's own files. No secret is in here."""

    host: str
    operating_system: str
    files: list[str]
    changed: list[str]
    fingerprint: str
    known_hosts_line: str
    inventory_line: str


def earlier_host_key(folder: Path, host: str) -> HostKey | None:
    """The key of an earlier seed of the same host in that folder, so that a second run changes nothing."""
    for name, mark in HOLDS_KEY.items():
        text = _text(folder / name)
        if mark.format(host) in text and (key := find_host_key(text)) is not None:
            return key
    return None


def seed(plan: Plan, places: Places, *, replace: bool, disk: Disk) -> Seeded:
    """Write the files of a first boot, and add the host to inventory and known_hosts.

    Everything is prepared under temporary names beside its place and put there only when all of it is, so that a
    refusal or a full disk leaves everything as it was.

    Args:
        plan: the host.
        places: where to.
        replace: let the host have another key or other values than the operator's files say now.
        disk: the durable writer.

    Raises:
        BadRequest: the folder is not what that operating system needs, or the host is known otherwise.
        DeviceUnable: the disk does not take it.
    """
    if not places.folder.is_dir():
        raise BadRequest(f"{places.folder} is no folder", hint="mount the card's boot partition and name it with --out")
    own_known_hosts = places.known_hosts is not None and places.known_hosts != Path.home() / ".ssh" / "known_hosts"
    named = _plain(places.known_hosts) if own_known_hosts and places.known_hosts else ""
    line = contact.inventory_line(plan, named)
    wanted = {places.folder / name: text for name, text in _boot_files(plan, places.folder).items()}
    secret = set(wanted)
    if places.known_hosts:
        file = places.known_hosts.resolve()  # a link stays a link
        wanted[file] = contact.with_known_host(_text(file), plan, replace=replace)
    if places.inventory:
        file = places.inventory.resolve()
        wanted[file] = contact.with_inventory_line(_text(file), plan, line, replace=replace)
    changed = {path: text.encode() for path, text in wanted.items() if not path.exists() or _text(path) != text}
    disk.write_all(changed, modes={path: SECRET if path in secret else _mode(path) for path in changed})
    return Seeded(
        host=plan.host,
        operating_system=plan.operating_system,
        files=[str(path) for path in wanted],
        changed=[str(path) for path in changed],
        fingerprint=plan.host_key.fingerprint,
        known_hosts_line=contact.known_hosts_line(plan),
        inventory_line=line,
    )


def _boot_files(plan: Plan, folder: Path) -> dict[str, str]:
    found = firstrun.files(plan) if plan.operating_system == "raspios-bookworm" else cloudinit.files(plan)
    if plan.raspberry_pi_os:
        if not (folder / "cmdline.txt").is_file():
            raise BadRequest(
                f"{folder} is not the boot partition of Raspberry Pi OS",
                found="no cmdline.txt in it",
                hint="write the image to the card, mount its first partition and name that with --out",
            )
        found["cmdline.txt"] = cmdline.seeded(_text(folder / "cmdline.txt"), plan)
    return found


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return read_bounded(path, MOST_TEXT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not text in UTF-8", found=str(error)) from error


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else PUBLIC


def _plain(path: Path) -> str:
    absolute = str(path.absolute())
    if not absolute.isprintable() or any(sign in absolute for sign in " \"'\\%#"):
        raise BadRequest(
            "the path of known_hosts cannot stand in an inventory",
            found=ascii(absolute),
            expected="a path without spaces, quotes, backslashes, '%' and '#'",
        )
    return absolute

"""Where the data lies, and whether it keeps what was written. Pure.

The promises rest on ext4 with a journal, ordered data and barriers. What the kernel does not show is not verified:
mountinfo leaves out what the superblock has by default, so there a missing ``data=writeback`` proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from surefoot.config import Config
from surefoot.watch.doctor.facts import Directory, Facts, Finding, Mount, Status

FEWEST_INODES = 256
COMFORT = 4  # times the reserve: below it the next installs come near the end
_VANISHES = {"tmpfs": "memory", "ramfs": "memory", "overlay": "an overlay", "squashfs": "a file system without writing"}
_CRIPPLED = ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "nfs", "nfs4", "cifs", "smb3", "9p")
_REMOUNT = "in /etc/fstab, then mount -o remount, or reboot"
_UNSEEN = "run surefoot doctor where /proc/fs/ext4 can be read (outside the container)"


def judge(facts: Facts, config: Config, configured: bool) -> Iterator[Finding]:
    """Findings in the order in which they are shown.

    Args:
        facts: as read.
        config: where data and run directory are, and what an install leaves free.
        configured: whether a configuration was found; without one a missing directory is no fault.
    """
    yield _root(facts)
    if not facts.live.data.exists and not configured:
        yield Finding(
            name="data",
            status="not verified",
            found=f"no configuration, and no {facts.live.data.path}",
            hint="name the device's configuration with --config",
        )
        return
    yield from _data(facts, config)
    yield _directory(
        "run-writable", facts.live.run, facts.live.uid, "made at each boot by the service that runs the app"
    )


def _root(facts: Facts) -> Finding:
    root = facts.root
    if root is None:
        return Finding(
            name="root", status="not verified", found="no mounts to be seen", hint="look at the mounts yourself"
        )
    if facts.overlayroot and not facts.container and root.kind != "overlay":
        return Finding(
            name="root",
            status="problem",
            found=f"{root.kind}, writable, though overlayroot is asked for",
            expected="an overlay over a read-only root",
            hint="install busybox and the overlay module, then update-initramfs -u and reboot; overlayroot says "
            "nothing when its initramfs lacks them",
        )
    how = "read-only" if "ro" in root.options else "an overlay" if root.kind == "overlay" else "writable"
    return Finding(name="root", status="ok", found=f"{root.kind}, {how}" if how != "an overlay" else how)


def _data(facts: Facts, config: Config) -> Iterator[Finding]:
    mount, data = facts.data, facts.live.data
    if mount is None:
        yield Finding(
            name="data-filesystem",
            status="not verified",
            found="no mounts to be seen",
            hint="look at the mounts yourself",
        )
    else:
        yield _filesystem(mount, data.path)
        if mount.kind in ("ext4", "ext3"):
            yield _journal(mount)
            yield _barriers(mount)
            yield _errors(mount)
            yield _damage(mount)
        if mount.kind not in _VANISHES:
            yield _atime(mount)
    yield _space(data, config.storage.reserve_bytes)
    yield _directory("data-writable", data, facts.live.uid, "made when the device is provisioned")


def _filesystem(mount: Mount, path: str) -> Finding:
    name, found = "data-filesystem", f"{mount.kind} on {mount.point} ({mount.source})"
    if mount.kind == "ext4":
        return Finding(name=name, status="ok", found=found)
    if mount.kind in _VANISHES:
        hint = f"mount a data partition at or above {path}; in a container, give it as a volume"
        where = _VANISHES[mount.kind]
        return Finding(
            name=name,
            status="problem",
            found=f"{found}: {where}, gone after a restart",
            expected="ext4 on a disk of its own",
            hint=hint,
        )
    if mount.kind in _CRIPPLED:
        return Finding(
            name=name,
            status="problem",
            found=f"{found}: no durable rename, or none of the locks",
            expected="ext4",
            hint=f"move {path} to a local ext4 partition",
        )
    return Finding(
        name=name,
        status="not verified",
        found=found,
        expected="ext4",
        hint="power cuts are only tested on ext4",
    )


def _journal(mount: Mount) -> Finding:
    mode = _value(mount, "data")
    if mode in ("ordered", "journal"):
        return Finding(name="data-journal", status="ok", found=f"data={mode}")
    expected = "data=ordered"
    if mode is None and not mount.details:
        return Finding(
            name="data-journal",
            status="not verified",
            found="the mount says nothing, and the superblock's default is not shown here",
            expected=expected,
            hint=_UNSEEN,
        )
    if mode is None:
        return Finding(
            name="data-journal",
            status="problem",
            found="no journal",
            expected=expected,
            hint="unmount, tune2fs -O has_journal, e2fsck -f, mount again",
        )
    return Finding(
        name="data-journal",
        status="problem",
        found=f"data={mode}: after a power cut a renamed file may hold old blocks",
        expected=expected,
        hint=f"take data={mode} out of the mount options {_REMOUNT}; "
        "if it is not there, tune2fs -o ^journal_data_writeback",
    )


def _barriers(mount: Mount) -> Finding:
    said = {*mount.options, *mount.details}
    if "nobarrier" in said or "barrier=0" in said:
        return Finding(
            name="data-barriers",
            status="problem",
            found="off: the disk may lose what it has acknowledged",
            expected="on",
            hint=f"take nobarrier or barrier=0 out {_REMOUNT}; if it is not there, tune2fs -o ^nobarrier",
        )
    if said & {"barrier", "barrier=1"}:
        return Finding(name="data-barriers", status="ok", found="on")
    return Finding(
        name="data-barriers",
        status="not verified",
        found="the mount says nothing, and the superblock's default is not shown here",
        expected="on",
        hint=_UNSEEN,
    )


def _errors(mount: Mount) -> Finding:
    what = _value(mount, "errors")
    if what in ("remount-ro", "panic"):
        return Finding(name="data-errors", status="ok", found=f"errors={what}")
    return Finding(
        name="data-errors",
        status="not verified" if what is None else "warning",
        found="not shown here" if what is None else f"errors={what}: goes on writing to a damaged file system",
        expected="errors=remount-ro",
        hint=_UNSEEN if what is None else f"add errors=remount-ro {_REMOUNT}",
    )


def _damage(mount: Mount) -> Finding:
    name = "data-damage"
    if mount.damage is None:
        return Finding(name=name, status="not verified", found="not shown here", expected="no errors", hint=_UNSEEN)
    if mount.damage == 0:
        return Finding(name=name, status="ok", found="no errors recorded")
    return Finding(
        name=name,
        status="problem",
        found=f"ext4 recorded {mount.damage} errors since its last check",
        expected="no errors",
        hint="unmount it and run e2fsck -f; if they come back, replace the card or disk",
    )


def _atime(mount: Mount) -> Finding:
    if "noatime" in mount.options or "ro" in mount.options:
        return Finding(name="data-atime", status="ok", found="noatime" if "noatime" in mount.options else "read-only")
    return Finding(
        name="data-atime",
        status="warning",
        found="reading a file writes its time",
        expected="noatime",
        hint=f"add noatime {_REMOUNT}: it spares the card",
    )


def _space(data: Directory, reserve_bytes: int) -> Finding:
    name = "data-space"
    if data.free_bytes is None:
        return Finding(name=name, status="not verified", found="cannot be asked here", hint="run as the app's user")
    few = data.free_inodes is not None and data.free_inodes < FEWEST_INODES
    inodes = f", {data.free_inodes} inodes" if few else ""
    status: Status = (
        "problem"
        if few or data.free_bytes < reserve_bytes
        else "warning"
        if data.free_bytes < COMFORT * reserve_bytes
        else "ok"
    )
    return Finding(
        name=name,
        status=status,
        found=f"{mebibytes(data.free_bytes)} free{inodes}",
        expected="" if status == "ok" else f"at least {mebibytes(COMFORT * reserve_bytes)}",
        hint="" if status == "ok" else "make room: a smaller storage.archive_bytes, or a larger partition",
    )


def _directory(name: str, found: Directory, uid: int, made: str) -> Finding:
    """A directory that the app writes to. One that this user may not write is only known to be right for another."""
    if found.read_only:
        return Finding(
            name=name,
            status="problem",
            found=f"{found.path} is on a file system mounted read-only",
            expected="writable",
            hint="look for I/O errors in the kernel's log and check the disk; in a container, mount the volume rw",
        )
    if not found.exists:
        return Finding(
            name=name,
            status="warning" if found.writable else "problem",
            found=f"no {found.path}" + ("" if found.writable else ", and this user cannot make it"),
            expected=made,
            hint="run playbooks/deploy.yml, or make it and give it to the app's user",
        )
    if found.writable:
        return Finding(name=name, status="ok", found=f"{found.path}, writable")
    other = found.owner_uid != uid
    return Finding(
        name=name,
        status="not verified" if other else "problem",
        found=f"{found.path} belongs to user {found.owner_uid}; this is user {uid}, who may not write there",
        expected="writable by the app's user",
        hint=f"run as user {found.owner_uid}" if other else "chmod u+rwx",
    )


def _value(mount: Mount, key: str) -> str | None:
    """The value of ``key=value``: from what ext4 says of itself, else from the mount."""
    for option in (*mount.details, *mount.options):
        name, equals, value = option.partition("=")
        if name == key and equals:
            return value
    return None


def mebibytes(count: int) -> str:
    """A size for people."""
    return f"{count / (1 << 20):,.0f} MiB" if count < 10 << 30 else f"{count / (1 << 30):,.0f} GiB"

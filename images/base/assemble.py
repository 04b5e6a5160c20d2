"""Unpacks locked .debs into one tar, a file system to stand on; runs nothing of the target. Same in, same out."""

from __future__ import annotations

import io
import lzma
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from images.base.debian import Problem

USER = 10001  # who the app is in every image; the devices' roles give this user its folders
Entries = dict[str, tuple[tarfile.TarInfo, bytes]]

MOST_DEB_BYTES = 64 * 1024 * 1024

# Debian merged / into /usr: the packages still say /lib, the file system has links.
MERGED = ("bin", "lib", "lib64", "sbin")
# For a person at a prompt, or for maintainer scripts; a licence (usr/share/doc/*/copyright) is kept.
LEFT_OUT = re.compile(
    r"usr/share/(man|info|locale|lintian|bug|doc-base|common-licenses/.*~|menu|pixmaps|applications)(/|$)"
    r"|usr/share/doc/[^/]+/(?!copyright$)"
    r"|usr/share/ca-certificates/"
)


def members(deb: Path) -> tuple[str, list[tuple[tarfile.TarInfo, bytes]]]:
    """The control paragraph of a .deb, and its files with their contents.

    Raises:
        Problem: it is not a .deb as Debian bookworm has them.
    """
    if deb.stat().st_size > MOST_DEB_BYTES:
        raise Problem(f"{deb} is larger than {MOST_DEB_BYTES} bytes")
    archive = deb.read_bytes()
    parts: dict[str, bytes] = {}
    at = 8
    while archive.startswith(b"!<arch>\n") and at + 60 <= len(archive):
        name, size = archive[at : at + 16].decode("ascii").strip(" /"), int(archive[at + 48 : at + 58])
        parts[name] = archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    if not {"control.tar.xz", "data.tar.xz"} <= set(parts):
        raise Problem(f"{deb} is not a .deb with xz members: it holds {sorted(parts)}")
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(parts["control.tar.xz"]))) as control:
        paragraph = control.extractfile("./control")
        text = paragraph.read().decode() if paragraph else ""
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(parts["data.tar.xz"]))) as data:
        files = []
        for member in data:
            content = data.extractfile(member) if member.isreg() else None
            files.append((member, content.read() if content else b""))
    return text, files


def assemble(debs: Iterable[Path], target: Path) -> None:
    """Write the file system of ``debs`` as a tar: merged /usr, users, certificates and the list of packages with it."""
    entries: Entries = {}
    paragraphs = []
    for deb in debs:
        paragraph, files = members(deb)
        paragraphs.append(paragraph.rstrip("\n").replace("\n", "\nStatus: install ok installed\n", 1))
        for member, content in files:
            place = _place(member.name)
            if place and (place not in entries or not member.isdir()):
                member.name = place
                if member.islnk():
                    member.linkname = _place(member.linkname)
                entries[place] = (member, content)
    for name, content in _configured(entries, paragraphs):
        entries[name] = (_file(name, content), content)
    tmp = tarfile.TarInfo("tmp")
    tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
    entries["tmp"] = (tmp, b"")
    for name in MERGED:
        if f"usr/{name}" in entries:
            link = tarfile.TarInfo(name)
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, f"usr/{name}", 0o777
            entries[name] = (link, b"")
    _write(entries, target)


def _place(name: str) -> str:
    """Where a member lies in the merged file system; empty for the root."""
    path = posixpath.normpath(name).lstrip("/.") if name not in (".", "./") else ""
    first = path.partition("/")[0]
    return f"usr/{path}" if first in MERGED else path


def _configured(entries: Entries, paragraphs: list[str]) -> Iterator[tuple[str, bytes]]:
    """What the packages' scripts would have written, as far as anything reads it."""

    def content(name: str) -> bytes:
        return entries[name][1] if name in entries else b""

    if "usr/share/base-passwd/passwd.master" in entries:
        home = f"surefoot:*:{USER}:{USER}::/data/surefoot:/usr/sbin/nologin\n".encode()
        yield "etc/passwd", content("usr/share/base-passwd/passwd.master") + home
        yield "etc/group", content("usr/share/base-passwd/group.master") + f"surefoot:*:{USER}:\n".encode()
        yield "etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"
    certificates = sorted(name for name in entries if re.match(r"usr/share/ca-certificates/.*\.crt$", name))
    yield "etc/ssl/certs/ca-certificates.crt", b"".join(content(name) for name in certificates)
    yield "var/lib/dpkg/status", ("\n\n".join(paragraphs) + "\n").encode()


def _file(name: str, content: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    return entry


def _write(entries: Entries, target: Path) -> None:
    for name in list(entries):
        while name := posixpath.dirname(name):
            if name not in entries:
                folder = tarfile.TarInfo(name)
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                entries[name] = (folder, b"")
    kept = {name: entry for name, entry in entries.items() if not LEFT_OUT.match(name)}
    partial = target.with_name(target.name + ".part")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
        for last in (False, True):  # a hard link comes after what it names
            for name in sorted(kept):
                member, content = kept[name]
                if member.islnk() is last:
                    member.uname = member.gname = ""
                    tar.addfile(member, io.BytesIO(content))
    partial.rename(target)

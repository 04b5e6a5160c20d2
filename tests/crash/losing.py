"""What a power cut does to bytes that were never synced: a simple model of a file system and its cache.

The real operation runs on a real folder and its primitives are recorded. They are then replayed on a model in which
every file and every directory has a content in the cache and one on the disk; fsync copies the first to the second.
Images of the disk are made after each primitive and put back on a real folder, where the real recovery runs. The model
is harsher than ext4 (a file's data and its name, and any two directories, are lost independently), keeps its promise
that a rename happens whole or not at all, and knows no torn sectors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.crash.cuts import FastDisk


class Recorded(NamedTuple):
    """One primitive. ``path`` and ``more`` are relative to the folder; ``data`` is what was written."""

    name: str
    path: str
    more: str = ""
    data: bytes = b""


class RecordingDisk(FastDisk):
    """Runs the real primitives and keeps a record of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder, list[Recorded]()

    def _note(self, name: str, path: Path, more: Path | None = None, data: bytes = b"") -> None:
        inside = str(more.relative_to(self.folder)) if more else ""
        self.record.append(Recorded(name, str(path.relative_to(self.folder)), inside, data))

    def _create(self, path: Path, mode: int) -> int:
        self._note("create", path)
        return super()._create(path, mode)

    def _open_log(self, path: Path, mode: int) -> int:
        self._note("open log", path)
        return super()._open_log(path, mode)

    def _write(self, descriptor: int, data: bytes, path: Path) -> None:
        self._note("write", path, data=bytes(data))
        super()._write(descriptor, data, path)

    def _fsync(self, descriptor: int, path: Path) -> None:
        self._note("fsync", path)

    def _syncfs(self, path: Path) -> None:
        self._note("syncfs", path)

    def _rename(self, source: Path, target: Path) -> None:
        self._note("rename", source, target)
        super()._rename(source, target)

    def _unlink(self, path: Path) -> None:
        self._note("unlink", path)
        super()._unlink(path)

    def _mkdir(self, path: Path, mode: int) -> None:
        self._note("mkdir", path)
        super()._mkdir(path, mode)

    def _rmdir(self, path: Path) -> None:
        self._note("unlink", path)
        super()._rmdir(path)


Image = dict[str, "bytes | None"]  # by path; None is a directory


class Node:
    """A file (``bytes``) or a directory (names to nodes), in the cache and on the disk."""

    def __init__(self, content: bytes | dict[str, Node], disk: bytes | dict[str, Node] | None = None) -> None:
        self.cache = content
        self.disk: bytes | dict[str, Node] = disk if disk is not None else (b"" if isinstance(content, bytes) else {})
        self.bond = [self]  # directories that a rename changed together: they are kept or lost together

    def sync(self) -> None:
        """What is in the cache is on the disk."""
        for node in self.bond:
            node.disk = dict(node.cache) if isinstance(node.cache, dict) else node.cache
            node.bond = [node]

    def tie(self, other: Node) -> None:
        """A rename moved something from one to the other."""
        if other not in self.bond:
            together = self.bond + other.bond
            for node in together:
                node.bond = together


class Model:
    """The file system: begins with a folder that is all on the disk."""

    def __init__(self, folder: Path) -> None:
        self.root = self._load(folder)

    def _load(self, path: Path) -> Node:
        node = Node({child.name: self._load(child) for child in path.iterdir()} if path.is_dir() else path.read_bytes())
        node.sync()
        return node

    def _at(self, path: str) -> Node:
        node = self.root
        for part in Path(path).parts:
            assert isinstance(node.cache, dict)
            node = node.cache[part]
        return node

    def _names(self, path: str) -> tuple[dict[str, Node], str]:
        node = self._at(str(Path(path).parent))
        assert isinstance(node.cache, dict)
        return node.cache, Path(path).name

    def play(self, one: Recorded) -> None:
        """One primitive."""
        if one.name == "fsync":
            self._at(one.path).sync()
            return
        if one.name == "syncfs":
            self._sync_all(self.root)
            return
        names, name = self._names(one.path)
        if one.name in ("create", "open log"):
            node = names.setdefault(name, Node(b""))
            if one.name == "create":
                node.cache = b""
        elif one.name == "mkdir":
            names.setdefault(name, Node({}))
        elif one.name == "unlink":
            del names[name]
        elif one.name == "write":
            node = names[name]
            assert isinstance(node.cache, bytes)
            node.cache += one.data
        elif one.name == "rename":
            node = names.pop(name)
            target, new = self._names(one.more)
            target[new] = node
            self._at(str(Path(one.path).parent)).tie(self._at(str(Path(one.more).parent)))

    def _sync_all(self, node: Node) -> None:
        for child in node.cache.values() if isinstance(node.cache, dict) else ():
            self._sync_all(child)
        node.sync()

    def image(self, kept: Callable[[Node], bool]) -> Image:
        """The disk after the cut. ``kept(node)``: what the cache held of it reached the disk in time."""
        found: Image = {}
        self._see(self.root, "", kept, {}, found)
        return found

    def _see(self, node: Node, path: str, kept: Callable[[Node], bool], decided: dict[int, bool], found: Image) -> None:
        one = node.bond[0]
        if id(one) not in decided:
            decided[id(one)] = kept(one)
        content = node.cache if decided[id(one)] else node.disk
        found[path] = content if isinstance(content, bytes) else None
        for name, child in content.items() if isinstance(content, dict) else ():
            self._see(child, f"{path}/{name}" if path else name, kept, decided, found)


LOSSES: dict[str, Callable[[random.Random], Callable[[Node], bool]]] = {
    "nothing unsynced arrived": lambda _: lambda node: False,
    "names arrived, data did not": lambda _: lambda node: isinstance(node.cache, dict),
    "data arrived, names did not": lambda _: lambda node: isinstance(node.cache, bytes),
    "some of both arrived": lambda chance: lambda node: chance.random() < 0.5,
}


def images(
    prepared: Path, record: list[Recorded], scratch: Path, chance: random.Random
) -> Iterator[tuple[str, Path, bool]]:
    """Folders as a cut after each primitive may leave them: what was lost, the folder, whether it was the last one.

    The same image is given once.
    """
    model, seen = Model(prepared), set[int]()
    for number, one in enumerate(record):
        model.play(one)
        for loss, decide in LOSSES.items():
            image = model.image(decide(chance))
            fingerprint = hash(frozenset(image.items()))
            last = number == len(record) - 1
            if fingerprint in seen and not last:
                continue
            seen.add(fingerprint)
            folder = scratch / f"image-{number}"
            for path, content in image.items():
                if content is None:
                    (folder / path).mkdir()
                else:
                    (folder / path).write_bytes(content)
            yield f"after {number} {one.name} {one.path}: {loss}", folder, last

# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
"""The apps of a device: a folder for each, one for each with its settings, a link, and marks of how far each has come.

    FOLDER/ID/complete       all of the app is on the disk, and it was proved
    FOLDER/ID/image          what the engine knows its image by; or
    FOLDER/ID/venv/          its environment

What is on trial, confirmed and returned to is an app with its settings, ID@DIGEST of the settings:

    FOLDER/current           names the one that the unit starts
    FOLDER/ID@D/complete     its settings are on the disk
    FOLDER/ID@D/tries        it is on trial: how often it was started since it was switched to
    FOLDER/ID@D/confirmed    it has passed a trial
    FOLDER/ID@D/before       the confirmed one that it came after, which to return to
    FOLDER/ID@D/left         the one that a rollback left for it
    FOLDER/ID@D/image, venv  a link to the app's own
    FOLDER/ID@D/surefoot.toml  the configuration that it runs with
    FOLDER/ID@D/outside/     what it needs outside of FOLDER, such as its unit, by the paths from the root

Each change is one rename, made durable before the next. A cut leaves the old or the new, and ``current`` never names
what is not complete. The standard library alone: there is no app of ours on a device yet when this runs.

This file is also the device's own program, which the unit runs before each start of the app: ``surefoot-trial FOLDER
MOST INSTEAD UNIT``. What is on trial is started at most MOST times; then the device returns to the one before, with
nobody's help. Where a start cannot be counted, INSTEAD is made a link to the one before, which is started instead.
An older unit that is returned to calls it with the same words: a later version of this takes them too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

MOST_OUTSIDE_BYTES = 1 << 20
MOST_TRIES = 1_000_000  # what a number that cannot be read counts as


class AppError(Exception):
    """What was asked for cannot be done. Carries the four fields of our error messages."""

    def __init__(self, what: str, found: str = "", expected: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.error = {"what": what, "found": found, "expected": expected, "hint": hint}

    def __str__(self) -> str:
        labels = (("found", "found"), ("expected", "expected"), ("what to do", "hint"))
        said = [f"{label}: {self.error[field]}" for label, field in labels if self.error[field]]
        return "; ".join([self.error["what"], *said])


class Outside(NamedTuple):
    """A file that an app needs outside of its folder. ``path``: from the root."""

    path: str
    content: str
    mode: int = 0o644


def app_of(name: str) -> str:
    """The app alone, of one with its settings."""
    return name.partition("@")[0]


class Apps:
    """Those of one device.

    Args:
        folder: where they are.
        step: called before each change of the disk, with what it is; tests cut there.
        root: that files outside of the folder are below.
    """

    def __init__(self, folder: Path, step: Callable[[str], None] = lambda _: None, root: Path = Path("/")) -> None:
        self.folder = folder
        self._step = step
        self._root = root

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def current(self) -> str | None:
        """The app that the unit starts."""
        try:
            return str((self.folder / "current").readlink())
        except OSError:
            return None

    @property
    def before(self) -> str | None:
        """The app to return to."""
        return self._noted("before", self.current) or None

    def is_(self, mark: str, app: str | None) -> bool:
        """Whether an app carries a mark: ``complete`` or ``confirmed``."""
        return app is not None and (self.folder / app / mark).is_file()

    def tries(self, app: str | None) -> int | None:
        """How often an app on trial was started; nothing where it is on none."""
        if not self.is_("tries", app):
            return None
        noted = self._noted("tries", app)
        return int(noted) if noted.isascii() and noted.isdigit() else MOST_TRIES

    def may_return_to(self, app: str | None) -> bool:
        """Whether an app is there whole and has passed a trial."""
        return self.whole(app) and self.is_("confirmed", app)

    def whole(self, app: str | None) -> bool:
        """Whether an app and its settings are there."""
        return app is not None and self.is_("complete", app) and self.is_("complete", app_of(app))

    @property
    def on_trial(self) -> bool:
        """Whether ``current`` has yet to be confirmed."""
        return not self.is_("confirmed", self.current) or self.tries(self.current) is not None

    @property
    def good(self) -> str | None:
        """The app that has passed its trial last."""
        return next(
            (app for app in (None if self.on_trial else self.current, self.before) if self.is_("confirmed", app)), None
        )

    @property
    def returned(self) -> bool:
        """Whether a rollback has brought ``current``, and nothing was deployed since."""
        return self.before is not None and self._noted("left", self.current) == self.before

    def image(self, app: str) -> str:
        """What the engine knows its image by; empty where nobody noted it."""
        return self._noted("image", app)

    def _noted(self, name: str, app: str | None) -> str:
        try:
            return (self.folder / str(app) / name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return ""

    def spare(self) -> list[str]:
        """Those that nothing returns to. Settings before the app: a cut in between leaves none without its app."""
        kept = {self.current, self.before, *self._apps_kept()}
        found = (path for path in self.folder.iterdir() if path.is_dir() and not path.is_symlink())
        spare = [path.name for path in found if path.name not in kept and not path.name.startswith(".")]
        return sorted(spare, key=lambda name: ("@" not in name, name))

    def _apps_kept(self) -> set[str]:
        return {app_of(name) for name in (self.current, self.before) if name}

    # -- what changes it -------------------------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One change at a time. The lock is on the folder itself, and goes with this process.

        Raises:
            AppError: another deploy is at work here.
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                hint = "wait for its end, and deploy again"
                raise AppError("another deploy is at work on this device", str(self.folder), hint=hint) from error
            yield
        finally:
            os.close(descriptor)

    def begin(self, app: str) -> Path:
        """A folder for an app. What an interrupted install has left is removed, unless a link names it."""
        if self.is_kept(app):
            return self.folder / app
        self.remove(app)
        self._step(f"mkdir {app}")
        (self.folder / app).mkdir(mode=0o755)
        sync_directory(self.folder)
        return self.folder / app

    def is_kept(self, app: str) -> bool:
        """Whether what the unit starts, or what to return to, is this app."""
        return app in self._apps_kept()

    def prepare(self, name: str, outside: Iterable[Outside] = ()) -> None:
        """Complete an app with settings, whose ``surefoot.toml`` is there already.

        Args:
            name: of both.
            outside: what it needs outside of this folder. It is kept here, and comes there by :meth:`place`.
        """
        if not self.is_("complete", app_of(name)):
            raise AppError("an app that is not complete is never given settings", found=name)
        folder = self.folder / name
        for part in ("venv", "image"):
            if (self.folder / app_of(name) / part).exists():
                self._link(folder / part, f"../{app_of(name)}/{part}")
        for each in outside:
            kept = folder / "outside" / each.path.lstrip("/")
            kept.parent.mkdir(parents=True, exist_ok=True)
            self._write(kept, each.content, each.mode)
        self._step(f"sync {name}")
        os.sync()  # the configuration, which somebody else wrote, too
        self.mark("complete", name)

    def at(self, path: str) -> Path:
        """A file outside of the folder."""
        return self._root / path.lstrip("/")

    def place(self, name: str | None) -> list[Path]:
        """Make what lies outside of this folder what an app and its settings need. Returns the files that were not."""
        kept = self.folder / str(name) / "outside"
        placed = []
        for source in sorted(path for path in kept.rglob("*") if path.is_file()):
            target = self._root / source.relative_to(kept)
            content = source.read_text(encoding="utf-8")
            if text(target) != content:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._write(target, content, source.stat().st_mode & 0o777)
                placed.append(target)
        return placed

    def note_image(self, app: str, image: str) -> None:
        """Remember what the engine knows an app's image by."""
        self._write(self.folder / app / "image", f"{image}\n")

    def mark(self, mark: str, app: str) -> None:
        """Give an app a mark, such as ``complete`` after all of it was synced."""
        self._write(self.folder / app / mark, "")

    def unmark(self, mark: str, app: str) -> None:
        """Take it away."""
        self._step(f"unlink {app}/{mark}")
        (self.folder / app / mark).unlink(missing_ok=True)
        sync_directory(self.folder / app)

    def begin_trial(self, app: str, left: str = "") -> None:
        """Before the switch to an app: count its starts from now on. ``left``: what a rollback leaves for it."""
        if left:
            self._write(self.folder / app / "left", f"{left}\n")
        else:
            self.unmark("left", app)
        self._write(self.folder / app / "tries", "0\n")

    def confirm(self, app: str) -> None:
        """Its trial has passed. The count goes first: after a cut in between it serves on, and is confirmed later."""
        self.unmark("tries", app)
        self.mark("confirmed", app)

    def switch(self, app: str) -> None:
        """Let ``current`` name an app, which remembers the last that passed a trial. One rename, back as forth."""
        if not self.whole(app):
            raise AppError("an app that is not complete is never switched to", found=app)
        if self.current != app:
            if self.good not in (None, app):
                self._write(self.folder / app / "before", f"{self.good}\n")
            self._link(self.folder / "current", app)

    def start(self, most: int) -> str:
        """What the device does before each start of the app: count it where it is on trial, and end a trial that fails.

        Args:
            most: starts of one trial.

        Returns:
            What was done, in words; empty where nothing was.
        """
        app, before, tries = self.current, self.before, self.tries(self.current)
        if app is None or before is None or tries is None or not self.may_return_to(before):
            return ""
        if tries < most:
            self._write(self.folder / app / "tries", f"{tries + 1}\n")
            return f"{app} is on trial: start {tries + 1} of {most}"
        self._link(self.folder / "current", before)
        self.spoil(app)
        return f"{app} was started {most} times and never confirmed: returned to {before}"

    def choose(self, most: str) -> tuple[str | None, str]:
        """What the device starts now: where that cannot be counted, the one before, which was confirmed.

        Args:
            most: as :meth:`start` takes it, as it was given on a command line.

        Returns:
            Its name, and what was done, in words; empty where nothing was.
        """
        app, before = self.current, self.before
        try:
            said = self.start(int(most))
            return self.current, said
        except (OSError, ValueError) as error:
            said = f"this start of {app} could not be counted: {error}"
        if self.current == app and self.tries(app) is not None and self.may_return_to(before):
            return before, f"{said}; {before}, which was confirmed, is started instead"
        return self.current, said

    def spoil(self, app: str) -> None:
        """After a failed trial: proved anew before it is tried again. The app itself too, but where it is in use."""
        self.unmark("complete", app)
        in_use = {app_of(name) for name in (self.current, self.before) if name not in (None, app)}
        if app_of(app) not in {app, *in_use}:
            self.unmark("complete", app_of(app))

    def link(self, path: Path, target: Path) -> bool:
        """Let a link outside of the folder name something in it. Returns whether it did not."""
        wanted = os.path.relpath(target, path.parent)
        if path.is_symlink() and str(path.readlink()) == wanted:
            return False
        self._link(path, wanted)
        return True

    def remove(self, app: str) -> None:
        """Remove an app's folder, its marks first."""
        path = self.folder / app
        if path.is_dir():
            self.unmark("complete", app)
            self._step(f"rmtree {app}")
            shutil.rmtree(path)
            sync_directory(self.folder)

    def _write(self, path: Path, text: str, mode: int = 0o644) -> None:
        part = path.with_name(f".{path.name}.part")
        self._step(f"write {path.name}")
        with part.open("w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        self._place(part, path)

    def _link(self, path: Path, target: str) -> None:
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        self._step(f"symlink {path.name}")
        part.symlink_to(target)
        self._place(part, path)

    def _place(self, part: Path, path: Path) -> None:
        self._step(f"rename {path.name}")
        part.replace(path)
        self._step(f"sync {path.name}")
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def text(path: Path) -> str:
    """What a small file holds; nothing where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(MOST_OUTSIDE_BYTES)
    except (OSError, ValueError):
        return ""


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(folder: str, most: str, instead: str, unit: str) -> None:
    """The device's own program. Whatever happens, an app is started: nobody is there to read an error."""
    apps, link = Apps(Path(folder)), Path(instead)
    app, said = apps.choose(most)
    if said:
        _say(said)
    try:
        if app is None or app == apps.current:
            link.unlink(missing_ok=True)
        else:
            apps.link(link, apps.folder / app)
        placed = apps.place(app)
    except (OSError, ValueError) as error:
        _say(f"{app} is started without all that it needs: {error}")
        return
    if placed:  # systemd ends this start, and makes another one by the unit that is there now
        _say(f"{', '.join(map(str, placed))}: made what {app} needs")
        for command in (["daemon-reload"], ["--no-block", "restart", unit]):
            subprocess.run(["/usr/bin/systemctl", *command], check=False, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*sys.argv[1:])

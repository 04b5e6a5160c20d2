# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
"""How an app comes onto a device beside the one that runs: as an image of Docker, or as a virtual environment.

Each proves what it made by running ``surefoot doctor`` of it, which loads every runtime and computes with it; before it
serves also by its ``surefoot model verify --golden`` on what the device holds. One that this device confirmed before
and that is too old for that is returned to by its ``surefoot model verify``. The standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ansible_collections.surefoot.edge.plugins.module_utils.app_artifact import settings
from ansible_collections.surefoot.edge.plugins.module_utils.app_store import AppError, Apps, app_of

MOST_SUMS_BYTES = 1 << 20
MOST_MEMBERS = 10_000
# What the doctor finds of the app itself; the rest is the device's, and no fault of a new app.
# What click says of an option that it does not know, with this status.
NO_OPTION, USAGE = "No such option", 2
ABOUT_THE_APP = ("app", "architecture", "python", "runtimes")
# As the unit runs it, without a network and without the device's data.
RESTRICTED = (
    "--network=none", "--read-only", "--tmpfs=/tmp:size=16m", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    "--no-healthcheck", "--log-driver=none",
)  # fmt: skip


class Done(NamedTuple):
    """How a command ended. 124 and 127 as a shell says them: out of time, and not there."""

    status: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The end of what it said, in one line."""
        return " ".join((self.err.strip() or self.out.strip()).splitlines()[-5:])[-600:] or f"exit status {self.status}"


def run(command: Sequence[str | Path], timeout_s: float = 300.0, **more: Any) -> Done:
    """Run a command to its end."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    try:
        done = subprocess.run(
            [str(word) for word in command], env=environment, capture_output=True, text=True, errors="replace",
            timeout=timeout_s, check=False, cwd="/", stdin=subprocess.DEVNULL, **more,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Done(124, "", f"{command[0]} did not end in {timeout_s:g} s")
    except OSError as error:
        return Done(127, "", str(error))
    return Done(done.returncode, done.stdout, done.stderr)


def judged(done: Done) -> str:
    """What is wrong with an app, by what its doctor said; empty where nothing is."""
    try:
        findings: list[Mapping[str, str]] = json.loads(done.out)["findings"]
        bad = [
            f"{each['name']}: {each['found']}"
            for each in findings
            if each["status"] == "problem" and (each["name"] in ABOUT_THE_APP or each["name"].startswith("runtime/"))
        ]
        return "; ".join(bad) if {each["name"] for each in findings} >= {"app", "runtimes"} else done.last_words
    except (ValueError, LookupError, TypeError):
        return done.last_words


class Room(NamedTuple):
    """Where an app proves itself on the device's models, and what it may take for that beside the one that serves."""

    data: Path
    most_memory_bytes: int
    options: Sequence[str] = ()  # of `docker run`, such as the devices of an accelerator
    timeout_s: float = 600.0


class Proof(NamedTuple):
    """The models that an app will serve, as far as it has said, and what its proof was short of."""

    models: list[str]
    short_of: str = ""


def proved(verify: Callable[[Sequence[str]], Done], app: str, confirmed: bool) -> Proof:
    """What an app's ``surefoot model verify`` comes to.

    Args:
        verify: runs it with these options.
        app: its name.
        confirmed: whether this device has confirmed it before, with these settings. No other may be too old for golden
            cases: what it says instead is that every byte of the models is what it was, and that it can read the state.

    Raises:
        AppError: it cannot serve what the device holds, or did not say.
    """
    done = verify(["--golden"])
    if confirmed and done.status == USAGE and NO_OPTION in done.err and "--golden" in done.err:
        _whole(verify([]), app)
        return Proof([], f"{app} is too old for golden cases and was proved by digests alone")
    return Proof(golden(done, app))


def _whole(done: Done, app: str) -> None:
    try:
        said = json.loads(done.out)
        bad = [each["name"] for each in said["models"] if not each["ok"]]
        reason = f"damaged: {', '.join(bad)}" if bad else "" if said["ok"] and done.status == 0 else done.last_words
    except (ValueError, LookupError, TypeError):
        reason = done.last_words
    if reason:
        raise AppError(
            f"app {app} cannot serve what this device holds",
            found=reason,
            expected="every state read, and every byte of the models what it was",
            hint="nothing was changed, what served goes on serving; mend the models first",
        )


def golden(done: Done, app: str) -> list[str]:
    """The models that an app can serve, by what its ``surefoot model verify --golden`` said.

    Raises:
        AppError: there is one that it cannot serve, or it did not say.
    """
    reasons: list[str] = []
    names: list[str] = []
    try:
        said = json.loads(done.out)
        if "models" in said:
            reasons = [f"{each['name']}: {why}" for each in said["models"] for why in each["golden"]["reasons"]]
            reasons += [each["name"] for each in said["models"] if not each["golden"]["ok"]] if not reasons else []
            names = [each["name"] for each in said["models"] if each["golden"]["version"] is not None]
        else:
            reasons = ["; ".join(str(said[field]) for field in ("what", "found", "expected") if said[field])]
    except (ValueError, LookupError, TypeError, AttributeError):
        reasons = [done.last_words]
    if reasons:
        raise AppError(
            f"app {app} cannot serve what this device holds",
            found="; ".join(reasons)[-1500:],
            expected="every state read, every active model loaded, its golden cases agreed",
            hint="nothing was changed, what served goes on serving; mend the app, or bring the models first",
        )
    return names


class Engine(Protocol):
    """What brings apps onto a device."""

    def has(self, app: str) -> bool:
        """Whether an app is there, whole and proved."""

    def take(self, app: str, archive: Path | None) -> bool:
        """Bring it and prove it; False where an archive is needed and none was given."""

    def golden(self, app: str, room: Room, confirmed: bool) -> Proof:
        """Let it prove itself on the device's models, which it only reads: see :func:`proved`."""

    def remove(self, app: str) -> None:
        """Remove it."""


class Images:
    """Apps as images of Docker."""

    def __init__(self, apps: Apps, names: Sequence[str], timeout_s: float = 300.0) -> None:
        self._apps = apps
        self._names = names  # digests; which one an engine takes for the image's name depends on its store
        self._timeout_s = timeout_s

    def has(self, app: str) -> bool:
        """Whether an app is there, whole and proved, and nobody has taken its image away."""
        return self._apps.is_("complete", app) and self.held() is not None

    def take(self, app: str, archive: Path | None) -> bool:
        """Bring an image into the engine and prove it.

        Returns:
            False where an archive is needed and none was given: the engine does not hold the image, or holds a damaged
            one, which was removed.

        Raises:
            AppError: it cannot be loaded, or does not run here.
        """
        self._apps.begin(app)
        self._apps.note_image(app, self._names[0])  # so that whatever an interruption leaves is found again
        reason = ""
        for _ in range(2):  # what a power cut damaged is not mended by loading over it: containerd#10655
            image = self.held()
            if image is None:
                if archive is None:
                    return False
                image = self._load(archive)
            reason = self.prove(image)
            if not reason:
                break
            run(["docker", "image", "rm", "--force", image])
        else:
            raise AppError(
                "the image does not run on this device",
                found=reason,
                expected="a doctor that finds its runtimes working",
                hint="what runs was not touched; build the image again, and deploy again",
            )
        # With a name of its own: a later image takes the archive's name away, and `docker image prune` what has none.
        run(["docker", "tag", image, f"surefoot-app:{app}"])
        os.sync()
        self._apps.note_image(app, image)
        self._apps.mark("complete", app)
        return True

    def held(self) -> str | None:
        """What the engine knows the image by, if it holds it."""
        for name in self._names:
            done = run(["docker", "image", "inspect", "--format", "{{.Id}}", name])
            if done.status == 0:
                return done.out.strip()
        return None

    def _load(self, archive: Path) -> str:
        done = run(["docker", "load", "--quiet", "--input", archive], 1800.0)
        image = self.held() if done.status == 0 else None
        if image is None:
            raise AppError(
                "the image could not be loaded",
                found=done.last_words,
                expected=f"an image {self._names[0]}",
                hint="see whether its disk is full or damaged, and deploy again",
            )
        return image

    def prove(self, image: str) -> str:
        """What is wrong with an image, empty where it runs."""
        name = f"surefoot-proof-{os.getpid()}"
        done = run(["docker", "run", "--rm", f"--name={name}", *RESTRICTED, image, "doctor", "--json"], self._timeout_s)
        if done.status == 124:
            run(["docker", "rm", "--force", name])
        return judged(done)

    def golden(self, app: str, room: Room, confirmed: bool) -> Proof:
        """Let an app prove itself on the device's models: see :func:`proved`."""
        return proved(lambda options: self._verify(app, room, options), app, confirmed)

    def _verify(self, app: str, room: Room, options: Sequence[str]) -> Done:
        name = f"surefoot-golden-{os.getpid()}"
        limits = (
            f"--memory={room.most_memory_bytes}", f"--memory-swap={room.most_memory_bytes}", "--pids-limit=256",
            "--cpu-shares=256", "--oom-score-adj=500",  # what serves comes first
        )  # fmt: skip
        done = run(
            ["docker", "run", "--rm", f"--name={name}", *RESTRICTED, *limits, f"--volume={room.data}:{room.data}:ro",
             *room.options, self._apps.image(app) or self._names[0], *_verify_command(self._apps, app, options)],
            room.timeout_s,
        )  # fmt: skip
        if done.status == 124:
            run(["docker", "rm", "--force", name])
        return done

    def remove(self, app: str) -> None:
        """Remove an app and its image, or settings of an app alone."""
        image = self._apps.image(app)
        if image and app == app_of(app):
            run(["docker", "image", "rm", "--force", image])
        self._apps.remove(app)


class Environments:
    """Apps as virtual environments, made from a bundle without a network."""

    def __init__(self, apps: Apps, python: Path, user: int, timeout_s: float = 300.0) -> None:
        self._apps = apps
        self._python = python
        self._user = user
        self._timeout_s = timeout_s

    def has(self, app: str) -> bool:
        """Whether an app is there, whole and proved."""
        return self._apps.is_("complete", app)

    def take(self, app: str, archive: Path | None) -> bool:
        """Make an environment and prove it.

        Returns:
            False where no archive was given.

        Raises:
            AppError: the bundle is damaged, cannot be installed, or does not run here.
        """
        if self._apps.is_kept(app) and not self._prove(app):
            self._apps.mark("complete", app)
            return True
        if archive is None:
            return False
        folder = self._apps.begin(app)
        bundle = folder / "bundle"
        for left in (bundle, folder / "venv"):
            shutil.rmtree(left, ignore_errors=True)
        _unpack(archive, bundle)
        _check(bundle, app)
        # In its final place: the environment's programs name it.
        self._must([self._python, "-I", "-m", "venv", folder / "venv"], "an environment could not be made")
        pip = [self._python_of(app), "-I", "-m", "pip", "--isolated", "--disable-pip-version-check"]
        self._must(
            [*pip, "install", "--quiet", "--no-index", "--no-cache-dir", "--find-links", bundle / "wheels",
             "--require-hashes", "--requirement", bundle / "requirements.lock"],
            "the bundle's wheels could not be installed",
        )  # fmt: skip
        self._must([*pip, "check"], "the bundle's wheels do not fit each other")
        shutil.rmtree(bundle)
        reason = self._prove(app)
        if reason:
            raise AppError(
                "the app does not run on this device",
                found=reason,
                expected="a doctor that finds its runtimes working",
                hint="what runs was not touched; build the bundle for this device, and deploy again",
            )
        os.sync()
        self._apps.mark("complete", app)
        return True

    def _python_of(self, app: str) -> Path:
        return self._apps.folder / app / "venv" / "bin" / "python"

    def _prove(self, app: str) -> str:
        doctor = [self._python_of(app), "-I", "-B", "-m", "surefoot", "doctor", "--json"]
        return judged(run(doctor, self._timeout_s, user=self._user, group=self._user, extra_groups=[]))

    def golden(self, app: str, room: Room, confirmed: bool) -> Proof:
        """Let an app prove itself on the device's models: see :func:`proved`."""
        return proved(lambda options: self._verify(app, room, options), app, confirmed)

    def _verify(self, app: str, room: Room, options: Sequence[str]) -> Done:
        may = {
            "User": self._user, "MemoryMax": room.most_memory_bytes, "MemorySwapMax": 0, "TasksMax": 256,
            "CPUWeight": 25, "OOMScoreAdjust": 500,  # what serves comes first
            "RuntimeMaxSec": room.timeout_s, "PrivateNetwork": "yes", "ProtectSystem": "strict", "ProtectHome": "yes",
            "PrivateTmp": "yes", "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "LimitCORE": 0,
            "Environment": "OPENBLAS_NUM_THREADS=1 MALLOC_ARENA_MAX=2 LC_ALL=C.UTF-8",
        }  # fmt: skip
        python = [self._python_of(app), "-I", "-B", "-m", "surefoot"]
        return run(
            ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit=surefoot-golden-{os.getpid()}",
             *(f"--property={name}={value}" for name, value in may.items()),
             *python, *_verify_command(self._apps, app, options)],
            room.timeout_s + 30.0,
        )  # fmt: skip

    def _must(self, command: Sequence[str | Path], what: str) -> None:
        done = run(command, 1800.0, umask=0o022)
        if done.status != 0:
            raise AppError(what, found=done.last_words, hint="what runs was not touched; deploy again")

    def remove(self, app: str) -> None:
        """Remove an app and its environment, or settings of an app alone."""
        self._apps.remove(app)


def _verify_command(apps: Apps, app: str, options: Sequence[str]) -> list[str]:
    # With the configuration that it will serve with, not the one of the app that serves.
    return ["--config", str(apps.folder / app / "surefoot.toml"), "model", "verify", *options, "--json"]


def _unpack(archive: Path, folder: Path) -> None:
    """Files and folders below the archive's one folder, nothing else: no links, no devices, no way out."""
    folder.mkdir()
    with tarfile.open(archive, "r:gz") as tar:
        for number, member in enumerate(tar):
            parts = Path(member.name).parts[1:]
            if number >= MOST_MEMBERS or ".." in parts or not (member.isdir() or member.isfile()):
                raise AppError("the bundle holds what no bundle has", found=member.name)
            target = folder.joinpath(*parts)
            source = tar.extractfile(member)
            if source is None:
                target.mkdir(exist_ok=True)
                continue
            with target.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)


def _check(bundle: Path, app: str) -> None:
    """Every file is what the list of checksums says, none is missing and none too many."""
    with (bundle / "SHA256SUMS").open(encoding="utf-8") as stream:
        listed = dict(reversed(line.split("  ", 1)) for line in stream.read(MOST_SUMS_BYTES).splitlines())
    found = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    found.pop("SHA256SUMS")
    bad = sorted(set(listed) ^ set(found))
    bad += [name for name, path in found.items() if name in listed and _digest(path) != listed[name]]
    if bad:
        raise AppError("the bundle is damaged", found=", ".join(bad[:5]), hint="build or fetch it again")
    said = settings((bundle / "bundle.conf").read_text(encoding="utf-8"))
    if said.get("id") != app:
        raise AppError("the bundle is another one than it was taken for", found=said.get("id", ""), expected=app)


def _digest(path: Path) -> str:
    seen = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            seen.update(part)
    return seen.hexdigest()

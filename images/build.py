"""Builds images: `make image-rpi` and its like. Needs a Docker engine with buildx; runs nothing of the target.

Writes dist/surefoot-VERSION-TARGET.docker.tar, which `docker load` takes, with its SBOM and licences beside it.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import datetime
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement

from images.base import assemble
from images.base.debian import LOCK, Problem, digest, fetch, read_lock
from images.sbom import write_beside
from images.wheels import install
from surefoot import __version__

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
DIST = ROOT / "dist"
FILES = ("images/versions.hcl", "images/docker-bake.hcl")
MOST_EDGETPU_BYTES = 16 * 1024 * 1024


def capture(*line: str) -> str:
    """What a command prints."""
    return subprocess.run(line, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def variables() -> dict[str, str]:
    """What the bake file is told about this commit."""
    epoch = capture("git", "log", "-1", "--format=%ct")
    created = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    dirty = "-dirty" if capture("git", "status", "--porcelain", "--untracked-files=no") else ""
    return {
        "VERSION": __version__,
        "REVISION": capture("git", "rev-parse", "HEAD") + dirty,
        "CREATED": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "SOURCE_DATE_EPOCH": epoch,
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",  # they would name this machine, and no two would be the same
        "BUILDX_GIT_LABELS": "0",
    }


class Buildx:
    """`docker buildx` with this commit's variables."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.environment = {**os.environ, **variables()}

    def __call__(self, *arguments: str) -> str:
        """Run it. Returns what it printed on standard output; BUILD_PROGRESS=plain shows its progress."""
        quiet = os.environ.get("BUILD_PROGRESS") != "plain" or "--print" in arguments
        done = subprocess.run(
            ["docker", "buildx", *arguments, *([] if "--print" in arguments else ["--progress=plain"])],
            env=self.environment, cwd=ROOT, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None,
        )  # fmt: skip
        if done.returncode != 0:
            raise Problem(_why(done.stderr or "the build failed"))
        return done.stdout

    def bake(self, *arguments: str) -> str:
        """`docker buildx bake` with our files."""
        return self("bake", *(f"--file={file}" for file in FILES), *arguments)

    def targets(self, names: list[str]) -> dict[str, Any]:
        """The targets that ``names`` stand for, as bake resolves them."""
        resolved: dict[str, Any] = json.loads(self.bake("--print", *names))["target"]
        return resolved


def _why(output: str) -> str:
    """What to tell a person of all that a failed build printed: our own refusal, else its end."""
    plain = re.sub(r"^#\d+ [\d.]+ ", "", output, flags=re.MULTILINE)
    ours = re.search(r"^surefoot: (.*(?:\n  .*)*)", plain, re.MULTILINE)
    return ours[1] if ours else f"the build failed\n{plain[-3000:]}"


def _certificates() -> Path:
    """The CAs that this machine trusts; a site's own is among them."""
    named = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    return Path(named or "/etc/ssl/certs/ca-certificates.crt")


def _pip_settings(path: Path) -> Path:
    """What a closed site tells pip (its mirror, its proxy), as a file that a build step reads as a secret."""
    wanted = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
    settings = {"cert": "/etc/ssl/certs/ca-certificates.crt"}
    listed = capture(sys.executable, "-m", "pip", "config", "list")
    for key, value in re.findall(r"^(?:global|:env:|install|download)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE):
        reachable = " ".join(word for word in value.split() if not word.startswith("file:"))
        if key in wanted and reachable:
            settings[key] = reachable
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    if proxy:
        settings.setdefault("proxy", proxy)
    parser = configparser.RawConfigParser()
    parser["global"] = settings
    with path.open("w") as file:
        parser.write(file)
    path.chmod(0o600)
    return path


def need_engine() -> None:
    """Say what is missing where no engine answers."""
    for line in (["docker", "version"], ["docker", "buildx", "version"]):
        if shutil.which("docker") is None or subprocess.run(line, capture_output=True, check=False).returncode != 0:
            raise Problem(
                f"`{' '.join(line)}` does not answer: images need a Docker engine from version 26 with buildx\n"
                "  what to do: start it, or name it in DOCKER_HOST; on Debian 12 as root, tests/parts/engine brings one"
            )


def fresh(folder: Path, key: str) -> bool:
    """Whether ``folder`` was filled for ``key``; an emptied one otherwise."""
    stamp = folder / ".made-from"
    if stamp.exists() and stamp.read_text() == key:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return False


def bases() -> None:
    """Our own Debian, for each architecture and for the build stages: build/base."""
    packages = read_lock()
    fetch(packages, BUILD / "debs")
    key = digest(LOCK) + digest(Path(assemble.__file__))
    if fresh(BUILD / "base", key):
        return
    for section, architecture in (("base", "amd64"), ("base", "arm64"), ("tools", "amd64")):
        files = [BUILD / "debs" / p.file for p in packages if (p.section, p.architecture) == (section, architecture)]
        assemble.assemble(files, BUILD / "base" / f"{section}-{architecture}.tar")
    (BUILD / "base" / ".made-from").write_text(key)


def app() -> None:
    """The app's wheel: build/app."""
    shutil.rmtree(BUILD / "app", ignore_errors=True)
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*line, "--wheel-dir", BUILD / "app", ROOT / "app"], check=True)


def edgetpu() -> None:
    """Google's runtime, if its address and hash were given: build/edgetpu."""
    url, wanted = os.environ.get("EDGETPU_URL", ""), os.environ.get("EDGETPU_SHA256", "")
    if fresh(BUILD / "edgetpu", url + wanted):
        return
    if url:
        if not re.fullmatch(r"[0-9a-f]{64}", wanted):
            raise Problem("EDGETPU_URL is given without EDGETPU_SHA256: a download without a hash is not taken")
        target = BUILD / "edgetpu" / "libedgetpu.deb"
        with urllib.request.urlopen(url, timeout=60) as reply:  # noqa: S310  # checked against a hash just below
            target.write_bytes(reply.read(MOST_EDGETPU_BYTES))
        if digest(target) != wanted:
            target.unlink()
            raise Problem(f"{url} is not the file that EDGETPU_SHA256 names")
    (BUILD / "edgetpu" / ".made-from").write_text(url + wanted)


def wheelhouse(buildx: Buildx, target: dict[str, Any]) -> Path:
    """The wheels of a target: build/wheels/…, downloaded once for each lock, then used without a network."""
    args = target["args"]
    lock = ROOT / args["LOCK"]
    architecture = target["platforms"][0].removeprefix("linux/")
    folder = BUILD / "wheels" / f"{lock.stem}-{architecture}-{args['PYTHON_VERSION']}"
    key = hashlib.sha256(lock.read_bytes() + args["GLIBC"].encode()).hexdigest()
    if not fresh(folder, key):
        settings = _pip_settings(buildx.scratch / "pip.conf")
        buildx(
            "build", "--file=images/Dockerfile", "--target=downloaded", "--network=host",
            f"--platform={target['platforms'][0]}", *(f"--build-arg={name}={value}" for name, value in args.items()),
            f"--secret=id=ca,src={_certificates()}", f"--secret=id=pip,src={settings}",
            f"--output=type=local,dest={folder}", ".",
        )  # fmt: skip
        (folder / ".made-from").write_text(key)
    return folder


def _python_of(target: dict[str, Any]) -> install.Target:
    args, architecture = target["args"], target["platforms"][0].removeprefix("linux/")
    return install.Target(architecture, args["PYTHON_VERSION"], args["GLIBC"])


def need_lock(lock: Path, target: install.Target, app: Path = ROOT / "app" / "pyproject.toml") -> None:
    """The lock has what the app asks for, and of each runtime that it has a version that the app takes."""
    try:
        lines = install.flatten(lock.read_text(), target).split("\n")
    except install.Refused as refusal:
        raise Problem(str(refusal)) from refusal
    pinned = dict(line.partition(" ")[0].split("==") for line in lines if line)
    project: dict[str, Any] = msgspec.toml.decode(app.read_bytes())["project"]
    runtimes = {line for extra in project["optional-dependencies"].values() for line in extra}
    for line in [*project["dependencies"], *sorted(runtimes)]:
        asked = Requirement(line)
        if asked.marker is not None and not asked.marker.evaluate(target.markers):
            continue
        found = pinned.get(asked.name)
        if found is None and line in runtimes:
            continue
        if found is None or not asked.specifier.contains(found, prereleases=True):
            raise Problem(
                f"lock out of date: the app asks for {line}, and {os.path.relpath(lock, ROOT)} has {found or 'none'}"
                f" for {target.name}\n  what to do: make lock"
            )


def need_bases(name: str, target: dict[str, Any]) -> None:
    """A vendor's base is pinned by digest in a release, and of the target's architecture always."""
    if not target["args"]["PYTHON_VERSION"]:
        raise Problem("BASE_IMAGE is given without PYTHON_VERSION: name the minor version of its Python, such as 3.11")
    for role, context in target.get("contexts", {}).items():
        image = context.removeprefix("docker-image://")
        if image == context:
            continue
        if "@sha256:" not in image:
            print(f"surefoot: base not pinned: {name} takes {image} as its {role}", file=sys.stderr)
            if os.environ.get("RELEASE") == "1":
                raise Problem("a release is built from pinned bases only\n  what to do: make pin-bases, with a network")
        offered = _platforms(image)
        wanted = target["platforms"][0] if role == "base" else "linux/amd64"
        if offered and wanted not in offered:
            raise Problem(f"{image} is for {', '.join(offered)}, and {name} needs a {role} for {wanted}")


def _platforms(image: str) -> list[str]:
    """What an image is for, as the engine or its registry says; nothing where neither has it."""
    for line in (
        ["docker", "image", "inspect", "--format", '{"os":"{{.Os}}","architecture":"{{.Architecture}}"}', image],
        ["docker", "buildx", "imagetools", "inspect", "--format", "{{json .Image}}", image],
    ):
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            said: dict[str, Any] = json.loads(done.stdout)
            return [f"{said['os']}/{said['architecture']}"] if "os" in said else sorted(said)
    return []


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One build at a time: they share build/, and an engine of version 26 mixes up parallel ones."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / ".building").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def wheels(names: list[str]) -> None:
    """Resolve the wheels of targets, checked by hash and tag, and build no image."""
    need_engine()
    with tempfile.TemporaryDirectory() as scratch, alone():
        bases()
        buildx = Buildx(Path(scratch))
        for name, target in buildx.targets(names).items():
            need_lock(ROOT / target["args"]["LOCK"], _python_of(target))
            folder = wheelhouse(buildx, target)
            files = list(folder.glob("*.whl"))
            size = sum(file.stat().st_size for file in files)
            python, platform = target["args"]["PYTHON_VERSION"], target["platforms"][0]
            print(f"{name}: {len(files)} wheels, {size / 1e6:.1f} MB, for Python {python} on {platform}; none was run")


def forget_registries(archive: Path) -> None:
    """Take out of an archive's index where its layers were once pushed to: BuildKit notes it, and it is nobody's
    business, nor the same after each build."""
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        at = next(number for number, member in enumerate(members) if member.name == "index.json")
        end = [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in members[at:]]
    index = json.loads(end[0][1])
    for manifest in index["manifests"]:
        notes = manifest.get("annotations", {})
        for name in [name for name in notes if name.startswith("containerd.io/distribution.source.")]:
            del notes[name]
    end[0] = (end[0][0], json.dumps(index, separators=(",", ":")).encode())
    with archive.open("r+b") as file:
        file.truncate(file.seek(end[0][0].offset))
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in end:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def build(names: list[str], into: Path = DIST, *options: str) -> list[Path]:
    """Build the targets, with further options of bake. Returns their archives."""
    need_engine()
    into.mkdir(parents=True, exist_ok=True)
    archives = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as held:
        buildx = Buildx(Path(scratch))
        targets = buildx.targets(names)
        for name, target in targets.items():
            need_bases(name, target)
            need_lock(ROOT / target["args"]["LOCK"], _python_of(target))
        held.enter_context(alone())
        bases()
        app()
        edgetpu()
        for name, target in targets.items():
            archive = into / f"surefoot-{__version__}-{name}.docker.tar"
            folders = {"wheelhouse": wheelhouse(buildx, target), "debs": BUILD / "debs", "edgetpu": BUILD / "edgetpu"}
            made = Path(scratch) / "metadata.json"
            buildx.bake(
                name, *options, f"--metadata-file={made}",
                *(f"--set={name}.contexts.{context}={folder}" for context, folder in folders.items()),
                "--set", f"{name}.tags=surefoot:{__version__}-{name}",
                "--set", f"{name}.output=type=docker,dest={archive}",
            )  # fmt: skip
            forget_registries(archive)
            write_beside(archive, f"surefoot-{name}", __version__)
            print(f"{os.path.relpath(archive)}  {json.loads(made.read_text())[name]['containerimage.digest']}")
            archives.append(archive)
    return archives


def main() -> int:
    """Build what the command line names."""
    parser = argparse.ArgumentParser(prog="images.build", description=__doc__)
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="a target or group of images/docker-bake.hcl")
    parser.add_argument("--into", type=Path, default=DIST, help="where the archives go (default: dist)")
    parser.add_argument(
        "--no-cache", action="store_const", const=["--no-cache"], default=[], help="build every step again"
    )
    parser.add_argument("--wheels-only", action="store_true", help="only bring the wheels, checked by hash and tag")
    given = parser.parse_args()
    try:
        if given.wheels_only:
            wheels(given.targets)
        else:
            build(given.targets, given.into.absolute(), *given.no_cache)
    except (Problem, subprocess.CalledProcessError) as problem:
        print(f"surefoot: {problem}".replace("surefoot: surefoot: ", "surefoot: "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

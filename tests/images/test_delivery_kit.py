"""`make offline-kit`: what it gathers works without a network, and half of one is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from images import push
from images.base.debian import KIT_LOCK, read_sections
from images.kit import gather
from surefoot import __version__
from surefoot.errors import BadRequest, UntrustedRelease
from surefoot.release import kit
from surefoot.release.keys import Keyring
from tests.app.release.publishing import PASSPHRASE, Publisher
from tests.conftest import ROOT


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path / "publisher")
    made.now = datetime.now(timezone.utc)
    made.publish()
    return made


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """Stands for what `make image-…` and `make bundle-macos` leave: a kit copies it, whatever it is."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for target in ("rpi", "jetson-jp6"):
        push.archive_of(target, folder).write_bytes(f"image {target}".encode())
        (folder / f"surefoot-{__version__}-{target}.licences.txt").write_text("Apache-2.0")
    (folder / f"surefoot-{__version__}-macos-arm64.tar.gz").write_bytes(b"bundle")
    return folder


def make(platform: str, publisher: Publisher, dist: Path, **more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "images.kit.gather", platform, "--dist", str(dist)]
    line += ["--repository", str(publisher.repository), "--keys", str(publisher.keys)]
    environment = {**os.environ, "SUREFOOT_PASSPHRASE": PASSPHRASE, **more}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


def kits(dist: Path) -> list[str]:
    return sorted(path.name for path in dist.iterdir() if path.is_dir())


def test_a_kit_for_a_board_brings_all_that_its_apt_needs_for_docker(
    publisher: Publisher, dist: Path, tmp_path: Path, needs: Callable[[bool, str], None]
) -> None:
    needs(shutil.which("apt-get") is not None, "Debian's apt")
    done = make("rpi", publisher, dist)
    assert done.returncode == 0, done.stderr
    made = dist / f"kit-{__version__}-rpi"
    found = kit.verify(made, publisher.root, now=publisher.now)
    assert found.kit.platform == "rpi" and found.fresh
    names = set(found.kit.files)
    assert {f"surefoot-{__version__}-rpi.docker.tar", f"surefoot-{__version__}-rpi.licences.txt"} < names
    assert not [name for name in names if "jetson" in name or "macos" in name or name.endswith(".pem")]
    # A device's apt with no other source, and no package installed yet: it finds everything here, and checks it.
    options, packages = bare_apt(tmp_path / "apt", made / "debs" / "arm64")
    subprocess.run(["apt-get", *options, "update", "-qq"], check=True, capture_output=True)
    download = ["apt-get", *options, "install", "--yes", "--download-only", "--no-install-recommends", "docker.io"]
    assert subprocess.run(download, capture_output=True, text=True, check=False).returncode == 0
    # The mutant: without containerd the same question has no answer.
    text = packages.read_text()
    packages.write_text("\n\n".join(p for p in text.split("\n\n") if not p.startswith("Package: containerd\n")))
    subprocess.run(["apt-get", *options, "update", "-qq"], check=True, capture_output=True)
    refused = subprocess.run(download, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "containerd" in refused.stdout


def bare_apt(state: Path, debs: Path) -> tuple[list[str], Path]:
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    (state / "parts" / "kit.list").write_text(f"deb [trusted=yes] file:{debs} ./\n")
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "",
        "Dir::State": state, "Dir::State::status": state / "status", "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": state / "parts",
    }  # fmt: skip
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")], debs / "Packages"


def test_a_kit_lists_every_package_that_a_role_installs() -> None:
    def read(role: str, part: str) -> Any:
        return yaml.safe_load((ROOT / "roles" / role / part / "main.yml").read_text())

    wanted = {"python3-venv", "nftables", *read("base", "defaults")["base_packages"]}
    wanted |= set(read("container_engine", "vars")["__container_engine_releases"]["debian"]["12"].values())
    wanted |= {name for mode in read("telemetry", "vars")["__telemetry_modes"].values() for name in mode["packages"]}
    wanted |= set(read("readonly_root", "vars")["__readonly_root_packages"]["debian"])
    (section,) = read_sections(KIT_LOCK.with_name("packages"))
    assert set(section.names) == wanted


@pytest.mark.parametrize(
    ("platform", "holds"),
    [
        ("jetson", f"surefoot-{__version__}-jetson-jp6.docker.tar"),
        ("macos", f"surefoot-{__version__}-macos-arm64.tar.gz"),
    ],
)
def test_a_kit_for_a_platform_that_is_not_debian_brings_no_debs(publisher, dist, platform, holds):
    done = make(platform, publisher, dist)
    assert done.returncode == 0, done.stderr
    made = dist / f"kit-{__version__}-{platform}"
    found = kit.verify(made, publisher.root, now=publisher.now)
    assert holds in found.kit.files and not [name for name in found.kit.files if name.startswith("debs/")]
    assert holds in (made / "README.txt").read_text()


def test_a_device_installs_the_release_from_the_kit(signed_repository, device, dist):
    line = [sys.executable, "-m", "images.kit.gather", "macos", "--dist", str(dist)]
    line += ["--repository", str(signed_repository.path), "--keys", str(signed_repository.keys)]
    line += ["--passphrase-file", str(signed_repository.keys / "passphrase")]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=300)
    folder = dist / f"kit-{__version__}-macos"
    device.json("kit", "verify", str(folder), "--root", str(signed_repository.root))
    done = device.json("model", "install", "fashion-mnist", "--version", "1.0.0",
                       "--repository", str(folder / "repository"), "--root", str(signed_repository.root))  # fmt: skip
    assert done["changed"] is True
    assert not [path for path in folder.rglob("*") if path.suffix == ".pem" or path.name == "passphrase"]


def test_what_was_not_built_is_named_with_the_command_that_builds_it(publisher, dist):
    done = make("generic", publisher, dist)
    assert done.returncode == 1 and "make image-generic" in done.stderr
    assert kits(dist) == []


def test_a_wrong_passphrase_is_found_before_anything_is_gathered(publisher, dist):
    done = make("jetson", publisher, dist, SUREFOOT_PASSPHRASE="wrong")
    assert done.returncode == 1 and "check the passphrase" in done.stderr
    assert kits(dist) == []


class Interrupted(BaseException):
    """Somebody pulled the plug."""


def ring(publisher: Publisher) -> Keyring:
    return Keyring(publisher.keys, PASSPHRASE)


def test_an_interrupted_kit_is_never_taken_for_a_whole_one_and_the_next_run_makes_it(publisher, dist, monkeypatch):
    def cut(*_: object, **__: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(gather.kit, "seal", cut)
        with pytest.raises(Interrupted):
            gather.gather("jetson", publisher.repository, ring(publisher), dist=dist, now=publisher.now)
    assert kits(dist) == [f".tmp-kit-{__version__}-jetson"]
    with pytest.raises(UntrustedRelease, match="there is no whole kit"):
        kit.verify(dist / kits(dist)[0], publisher.root, now=publisher.now)
    made = gather.gather("jetson", publisher.repository, ring(publisher), dist=dist, now=publisher.now)
    assert kits(dist) == [made.name] and kit.verify(made, publisher.root, now=publisher.now)


def test_a_kit_that_fails_leaves_the_one_before_as_it_was(publisher, dist):
    made = gather.gather("jetson", publisher.repository, ring(publisher), dist=dist, now=publisher.now)
    before = (made / kit.FILE_NAME).read_bytes()
    shutil.copy(publisher.keys / "snapshot.pem", publisher.repository / "snapshot.pem")
    with pytest.raises((BadRequest, UntrustedRelease), match=r"snapshot\.pem"):
        gather.gather("jetson", publisher.repository, ring(publisher), dist=dist, now=publisher.now)
    assert (made / kit.FILE_NAME).read_bytes() == before and kit.verify(made, publisher.root, now=publisher.now)

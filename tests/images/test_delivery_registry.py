"""Pushing to a real registry, and reading digests from one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images import push
from surefoot import __version__
from tests.conftest import ROOT
from tests.images.conftest import Image
from tests.parts import registry
from tests.parts.docker import Engine
from tests.parts.registry import Registry

NEXT = f"{__version__}.1"  # a version that nothing else has


@pytest.fixture
def store(needs: Callable[[bool, str], None], tmp_path: Path) -> Iterator[Registry]:
    needs(
        shutil.which("docker-registry") is not None or shutil.which("apt-get") is not None, "Debian's docker-registry"
    )
    with registry.running(tmp_path / "registry") as running:
        yield running


class Shop:
    """A dist folder with small archives of the same form as the images', and the commands of `make`."""

    NAME = "surefoot-delivery"

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.dist = folder

    def archive(self, target: str, architecture: str, content: str = "one") -> None:
        source = self.dist / "source"
        source.mkdir(parents=True, exist_ok=True)
        (source / "file").write_text(f"{target} {content}")
        (source / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
        destination = push.archive_of(target, self.dist)
        self.engine.docker(
            "buildx", "build", "--quiet", f"--platform=linux/{architecture}", "--provenance=false",
            f"--tag={self.NAME}:{target}", f"--output=type=docker,dest={destination}", str(source),
        )  # fmt: skip

    def run(self, module: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", module, *arguments]
        environment = {**self.engine.environment, **more}
        return subprocess.run(
            line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
        )  # fmt: skip

    def push(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("images.push", *arguments, "--dist", str(self.dist))


@pytest.fixture
def shop(engine: Engine, tmp_path: Path) -> Iterator[Shop]:
    yield Shop(engine, tmp_path / "dist")
    tags = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", Shop.NAME).stdout.split()
    if tags:
        engine.docker("image", "rm", *tags, check=False)  # another worker may have been first


def test_a_devices_engine_pulls_its_architecture_by_one_name_and_gets_what_was_built(shop, store, old_engine):
    shop.archive("generic-amd64", "amd64")
    shop.archive("generic-arm64", "arm64")
    name = f"{store.address}/edge/surefoot"
    done = shop.push(name, "generic")
    assert done.returncode == 0, done.stderr
    both = f"{name}:{__version__}-generic"
    for architecture in ("amd64", "arm64"):
        target = f"generic-{architecture}"
        built = push.manifest_digest(push.archive_of(target, shop.dist))
        assert f"{name}:{__version__}-{target}@{built}" in done.stdout
        assert store.digest("edge/surefoot", f"{__version__}-{target}") == built
        old_engine.docker("pull", "--quiet", f"--platform=linux/{architecture}", both)
        shown = old_engine.docker("image", "inspect", "--format", "{{.Architecture}} {{.Id}}", both).stdout.split()
        assert shown == [architecture, configuration(push.archive_of(target, shop.dist))]
        old_engine.docker("image", "rm", both)
    again = shop.push(name, "generic")
    assert again.returncode == 0 and again.stdout.count("(was there)") == 2


def configuration(archive: Path) -> str:
    """By which Docker 20.10 knows an image: the digest of its configuration, which names every layer."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("manifest.json")
        assert member is not None
        return "sha256:" + json.load(member)[0]["Config"].rpartition("/")[2]


def test_a_version_that_is_published_is_never_replaced(shop, store):
    name = f"{store.address}/edge/surefoot"
    shop.archive("rpi", "arm64")
    assert shop.push(name, "rpi").returncode == 0
    before = store.blobs()
    shop.archive("rpi", "arm64", "another")
    done = shop.push(name, "rpi")
    assert done.returncode == 1 and "published already with another content" in done.stderr
    assert store.blobs() == before


def test_without_a_platform_all_that_was_built_is_pushed(shop, store):
    shop.archive("rpi", "arm64")
    shop.archive("jetson-jp6", "arm64")
    done = shop.push(f"{store.address}/edge/surefoot")
    assert [line.split("@")[0].rpartition(":")[2] for line in done.stdout.splitlines()] == [
        f"{__version__}-rpi", f"{__version__}-jetson-jp6",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("REGISTRY", "rpi"), "make image-rpi"),
        (("REGISTRY", "toaster"), "no platform 'toaster'"),
        (("REGISTRY",), "there is no image of"),
        (("surefoot", "rpi"), "expected host[:port]/name"),
        (("https://registry.example.com/x", "rpi"), "expected host[:port]/name"),
        (("", "rpi"), "expected host[:port]/name"),
    ],
)
def test_a_mistake_is_said_before_anything_is_pushed(shop, store, arguments, said):
    done = shop.push(*(word.replace("REGISTRY", f"{store.address}/x") for word in arguments))
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert not store.blobs()


def test_a_registry_that_does_not_answer_is_said_with_what_to_do(shop):
    shop.archive("rpi", "arm64")
    done = shop.push("127.0.0.1:1/edge/surefoot", "rpi")
    assert done.returncode == 1 and "refused" in done.stderr and "docker login" in done.stderr


def versions(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_pinning_writes_the_digests_that_the_registry_has_and_nothing_else(shop, store, tmp_path):
    shop.archive("generic-amd64", "amd64")
    shop.archive("generic-arm64", "arm64")
    name = f"{store.address}/vendor/base"
    assert shop.push(name, "generic").returncode == 0
    image = f"{name}:{__version__}-generic"
    text = (
        '# a comment\nvariable "JP_BASE" { default = "IMAGE" }\nvariable "JP_DIGEST" { default = "" }\n'
        'variable "PYTHON_3_10" { default = "IMAGE" }\nvariable "PYTHON_3_10_DIGEST" { default = "sha256:OLD" }\n'
    ).replace("IMAGE", image)
    file = versions(tmp_path / "versions.hcl", text)
    done = shop.run("images.pins", str(file))
    assert done.returncode == 0, done.stderr
    digest = store.digest("vendor/base", f"{__version__}-generic")
    expected = text.replace('DIGEST" { default = "" }', f'DIGEST" {{ default = "{digest}" }}').replace(
        "sha256:OLD", digest
    )
    assert file.read_text() == expected


def test_where_one_base_cannot_be_read_nothing_is_changed(shop, store, tmp_path):
    shop.archive("rpi", "arm64")
    assert shop.push(f"{store.address}/vendor/base", "rpi").returncode == 0
    text = (
        f'variable "A_BASE" {{ default = "{store.address}/vendor/base:{__version__}-rpi" }}\n'
        'variable "A_DIGEST" { default = "" }\n'
        'variable "B_BASE" { default = "127.0.0.1:1/vendor/base:1" }\nvariable "B_DIGEST" { default = "" }\n'
    )
    file = versions(tmp_path / "versions.hcl", text)
    done = shop.run("images.pins", str(file))
    assert done.returncode == 1 and file.read_text() == text
    assert "cannot read the digest of 127.0.0.1:1/vendor/base:1" in done.stderr
    assert "versions.hcl is as it was; run this where the registry answers" in done.stderr


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize(
    ("pushed", "offered"), [("rpi", "linux/arm64"), ("generic-amd64", "linux/amd64"), ("generic", "linux/amd64")]
)
def test_a_base_that_only_a_registry_has_must_be_for_the_target(shop, store, pushed, offered, pinned):
    for target in push.targets_of(pushed):
        shop.archive(target, "amd64" if target == "generic-amd64" else "arm64")
    name = f"{store.address}/vendor/base"
    assert shop.push(name, pushed).returncode == 0
    image = f"{name}@{store.digest('vendor/base', f'{__version__}-{pushed}')}"
    tag = f"{name}:{__version__}-{pushed}"
    # The interpreter of its build stage is asked about after it, and this one cannot be read.
    done = shop.run("images.build", "jetson-jp6", BASE_IMAGE=image if pinned else tag, PYTHON_VERSION="3.x")
    assert done.returncode == 1
    refused = f"is for {offered}, and jetson-jp6 needs a base for linux/arm64" in done.stderr
    assert refused == (pushed == "generic-amd64"), done.stderr


MOST_UPDATE_BYTES = 2_000_000


def next_version(folder: Path) -> Path:
    """This tree as the next commit would be: another version and one more line of code, nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    package = folder / "app" / "src" / "surefoot" / "__init__.py"
    package.write_text(package.read_text().replace(__version__, NEXT) + "\nADDED = 1\n")
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *who, "commit", "--quiet", "--all", "--message", "Next"], cwd=folder, check=True)
    (folder / "build").mkdir()
    for downloaded in ("base", "debs", "edgetpu", "wheels"):
        subprocess.run(["cp", "--archive", "--link", ROOT / "build" / downloaded, folder / "build"], check=True)
    return folder


@pytest.mark.timeout(900)
def test_an_update_of_the_app_alone_ships_less_than_two_megabytes(
    store: Registry, built: Callable[..., Image], engine: Engine
) -> None:
    """Two versions built for real, pushed for real; counted are the bytes of the blobs that were new."""
    first = built("generic-amd64").archive.parent
    clone = next_version(first.with_name(f"{first.name}-next"))
    environment = {**engine.environment, "PYTHONPATH": str(clone / "app" / "src")}
    reference = f"{store.address}/edge/surefoot"

    def run(folder: Path, *arguments: str) -> str:
        line = [sys.executable, "-m", *arguments]
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    environment["PYTHONPATH"] = str(ROOT / "app" / "src")
    run(ROOT, "images.push", reference, "generic-amd64", "--dist", str(first))
    before = store.blobs()
    environment["PYTHONPATH"] = str(clone / "app" / "src")
    run(clone, "images.build", "generic-amd64")
    assert f"{reference}:{NEXT}-generic-amd64@" in run(clone, "images.push", reference, "generic-amd64")
    new = {digest: size for digest, size in store.blobs().items() if digest not in before}
    print(f"first push {sum(before.values()):,} bytes; update {sum(new.values()):,} bytes in {len(new)} blobs")
    assert 0 < sum(new.values()) < MOST_UPDATE_BYTES
    assert sum(before.values()) > 10 * MOST_UPDATE_BYTES, "the mutant: a whole image is far beyond the bound"
    assert (
        f"version {NEXT}"
        in engine.docker("run", "--rm", "--network=none", f"{reference}:{NEXT}-generic-amd64", "--version").stdout
    )
    engine.docker("image", "rm", f"{reference}:{NEXT}-generic-amd64")

"""Bad input to a build: each has its own message, which says what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from images import build, pins
from images.base import debian
from images.wheels.install import Refused, Target, flatten
from tests.conftest import ROOT
from tests.images.conftest import Builder, Image

HASH = "--hash=sha256:" + "0" * 64
PI = Target("arm64", "3.11", "2.36")


def test_a_universal_lock_is_read_with_the_targets_markers_and_not_this_machines() -> None:
    lock = (
        f"a==1 ; python_version < '3.11' \\\n    {HASH}\nb==2 ; platform_machine == 'aarch64' \\\n    {HASH}\n"
        f"c==3 ; sys_platform == 'darwin' \\\n    {HASH}\n    # via d\n"
    )
    assert flatten(lock, PI) == f"b==2 {HASH}\n"
    assert flatten(lock, Target("amd64", "3.10", "2.35")) == f"a==1 {HASH}\n"


@pytest.mark.parametrize("line", ["a>=1", "a", "a==1.*", "a==1,<2"])
def test_an_unpinned_dependency_is_refused(line: str) -> None:
    with pytest.raises(Refused, match=r"unpinned dependency: a.*no exact version; run make lock"):
        flatten(f"{line} {HASH}\n", PI)


def test_a_dependency_without_a_hash_is_refused() -> None:
    with pytest.raises(Refused, match=r"unpinned dependency: a==1 has no hash; run make lock"):
        flatten("a==1\n", PI)


def test_a_wheel_that_exists_for_no_such_target_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "device.lock"
    lock.write_text(f"tflite-runtime==2.14.0 {HASH}\n")
    script = ROOT / "images" / "wheels" / "install.py"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "tflite_runtime-2.14.0-cp311-cp311-manylinux2014_x86_64.whl").touch()
    done = subprocess.run(
        [sys.executable, script, "install", "--lock", lock, "--architecture=arm64", "--python=3.11", "--glibc=2.36",
         "--wheels", wheels, "--into", tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "surefoot: no wheel of tflite-runtime==2.14.0 fits Linux arm64, Python 3.11, glibc 2.36" in done.stderr
    assert "what to do: pin a version that has one" in done.stderr


def test_a_list_of_packages_that_changed_after_its_lock_is_refused(tmp_path: Path) -> None:
    for file in (debian.LOCK, debian.PACKAGES):
        (tmp_path / file.name).write_text(file.read_text())
    lock, packages = tmp_path / debian.LOCK.name, tmp_path / debian.PACKAGES.name
    assert debian.read_lock(lock) == debian.read_lock()
    packages.write_text(packages.read_text().replace("tini\n", "tini\ndumb-init\n"))
    with pytest.raises(debian.Problem, match=r"lock out of date.*run make lock-base"):
        debian.read_lock(lock)


@pytest.mark.parametrize(
    ("lock", "target"),
    [
        ("requirements/device.lock", Target("amd64", "3.11", "2.36")),
        ("requirements/device.lock", PI),
        ("images/generic/openvino.lock", Target("amd64", "3.11", "2.36")),
        ("images/jetson/jp6.lock", Target("arm64", "3.10", "2.35")),
        ("images/jetson/jp7.lock", Target("arm64", "3.12", "2.39")),
    ],
)
def test_a_lock_that_the_app_has_outgrown_is_refused(lock: str, target: Target, tmp_path: Path) -> None:
    build.need_lock(ROOT / lock, target)
    text = (ROOT / "app" / "pyproject.toml").read_text()
    app = tmp_path / "pyproject.toml"
    for before, after, said in (
        ('"click>=8.1"', '"click>=99"', "the app asks for click>=99, and"),
        ('"click>=8.1"', '"click>=8.1", "added>=1"', f"the app asks for added>=1, and {lock} has none"),
    ):
        assert before in text
        app.write_text(text.replace(before, after))
        with pytest.raises(debian.Problem, match=f"lock out of date: {said}(.|\\n)*what to do: make lock"):
            build.need_lock(ROOT / lock, target, app)


def test_a_lock_with_a_runtime_that_the_app_no_longer_takes_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "app" / "pyproject.toml").read_text()
    app = tmp_path / "pyproject.toml"
    app.write_text(text.replace('"ai-edge-litert>=2.0"', '"ai-edge-litert>=99"'))
    with pytest.raises(debian.Problem, match="the app asks for ai-edge-litert>=99"):
        build.need_lock(ROOT / "requirements" / "device.lock", PI, app)
    build.need_lock(ROOT / "images" / "jetson" / "jp6.lock", Target("arm64", "3.10", "2.35"), app)  # it has none


def test_a_package_that_the_mirror_no_longer_has_says_that_the_lock_is_out_of_date(
    tmp_path: Path, needs: Callable[[bool, str], None]
) -> None:
    needs(any(source.exists() for source in debian.SOURCES), "Debian sources for apt")
    tini = next(package for package in debian.read_lock() if package.name == "tini")
    gone = tini._replace(version="0.1.0-1", path="pool/main/t/tini/tini_0.1.0-1_amd64.deb")
    with pytest.raises(debian.Problem, match=r"lock out of date(.|\n)*run make lock-base(.|\n)*0.1.0-1"):
        debian.fetch([gone], tmp_path)


def test_a_package_that_is_not_the_locked_file_is_refused(tmp_path: Path) -> None:
    tini = next(package for package in debian.read_lock() if package.name == "tini")
    (tmp_path / tini.file).write_bytes(b"another")
    with pytest.raises(debian.Problem, match=r"is not the file that debian\.lock names"):
        debian.fetch([tini], tmp_path)


def test_a_base_of_the_wrong_architecture_is_refused(builder: Builder, built: Callable[..., Image]) -> None:
    done = builder("jetson-jp6", BASE_IMAGE=built("generic-amd64").name, PYTHON_VERSION="3.11")
    assert done.returncode == 1
    assert "is for linux/amd64, and jetson-jp6 needs a base for linux/arm64" in done.stderr


def test_a_base_without_the_version_of_its_python_is_refused(builder: Builder) -> None:
    done = builder("jetson-jp6", BASE_IMAGE="example")
    assert done.returncode == 1
    assert "name the minor version of its Python" in done.stderr


def test_a_release_refuses_a_base_that_is_not_pinned(builder: Builder) -> None:
    done = builder("jetson-jp6", RELEASE="1")
    assert done.returncode == 1
    assert "base not pinned: jetson-jp6 takes" in done.stderr
    assert "what to do: make pin-bases" in done.stderr


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("", "EDGETPU_URL is given without EDGETPU_SHA256"),
        ("0" * 63, "a download without a hash is not taken"),
        ("0" * 64, "is not the file that EDGETPU_SHA256 names"),
    ],
)
def test_an_edge_tpu_library_that_is_not_the_file_of_its_hash_is_refused(
    named: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    deb = tmp_path / "libedgetpu.deb"
    deb.write_bytes(b"a double")
    monkeypatch.setenv("EDGETPU_URL", deb.as_uri())
    monkeypatch.setenv("EDGETPU_SHA256", named)
    for _ in range(2):  # and what was refused is not there the next time
        with pytest.raises(debian.Problem, match=said):
            build.edgetpu()
    assert list((tmp_path / "build" / "edgetpu").iterdir()) == []
    monkeypatch.setenv("EDGETPU_SHA256", debian.digest(deb))
    build.edgetpu()
    assert (tmp_path / "build" / "edgetpu" / "libedgetpu.deb").read_bytes() == b"a double"


@pytest.mark.parametrize(("kit", "python", "glibc", "cuda"), [("jp6", "3.10", "2.35", 12), ("jp7", "3.12", "2.39", 13)])
def test_a_lock_of_jetsons_is_pinned_and_hashed_for_its_own_python(
    kit: str, python: str, glibc: str, cuda: int
) -> None:
    """That each has a wheel with such tags is asked with a network: `python -m images.build --wheels-only`."""
    versions = (ROOT / "images" / "versions.hcl").read_text()
    for name, value in (("PYTHON", python), ("GLIBC", glibc)):
        assert f'variable "{kit.upper()}_{name}" {{ default = "{value}" }}' in versions
    lock = (ROOT / "images" / "jetson" / f"{kit}.lock").read_text()
    flat = flatten(lock, Target("arm64", python, glibc))
    names = {line.partition("==")[0] for line in flat.splitlines()}
    assert {"numpy", "onnxruntime", "tuf", "uvloop"} <= names
    assert f"cuda-bindings=={cuda}." in flat
    assert "ai-edge-litert" not in names


def test_pinning_writes_every_digest_that_the_registry_gives_and_nothing_else() -> None:
    text = pins.VERSIONS.read_text()
    asked: list[str] = []

    def answer(image: str) -> str:
        asked.append(image)
        return f"sha256:{len(asked):064x}"

    pinned = pins.pin(text, answer)
    assert len(asked) == text.count("_DIGEST")
    assert pinned.count("sha256:") == len(asked)
    assert [line for line in pinned.splitlines() if "sha256" not in line] == [
        line for line in text.splitlines() if "_DIGEST" not in line
    ]


def test_without_an_engine_the_message_says_how_to_get_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "images.build", "rpi"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///nowhere"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "images need a Docker engine" in done.stderr
    assert "what to do" in done.stderr

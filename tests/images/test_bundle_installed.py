"""The bundle installed, updated, cut, returned from and removed: real wheels, a real environment, the real app.

The bundle is made for this machine by the same builder. Not verified on a Mac: launchctl is a double that starts the
job as its plist says.
"""

from __future__ import annotations

import hashlib
import os
import plistlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3

from images import bundle
from images.wheels.check import read_lock
from tests.images.macs import HERE, INSIDE, LABEL, PYTHON, ROOT, Mac
from tests.parts.unpack import unpack


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of this machine, packed as one that a bundle carries."""
    base = Path(sys.base_prefix)
    archive = tmp_path_factory.mktemp("interpreter") / "python.tar.gz"

    def lean(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        unwanted = {"test", "site-packages", "dist-packages", "__pycache__", "idlelib", "tkinter"}
        return None if unwanted & set(Path(entry.name).parts) else entry

    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add((base / "bin" / f"python{PYTHON}").resolve(), f"python/bin/python{PYTHON}")
        tar.add(base / "lib" / f"python{PYTHON}", f"python/lib/python{PYTHON}", filter=lean)
    return archive


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, interpreter: Path) -> tuple[Path, Path]:
    """The whole bundle, and another without runtimes that carries an interpreter; unpacked."""
    lock = ROOT / "requirements" / "device.lock"
    lean = tmp_path_factory.mktemp("lean") / "device.lock"
    runtimes = {"onnxruntime", "ai-edge-litert", "ml-dtypes", "protobuf"}
    lean.write_text(
        "".join(str(pin) for name, pin in read_lock(lock.read_text(), HERE).items() if name not in runtimes)
    )
    folders = []
    for name, locked, app, extra in (("whole", lock, bundle.APP, None), ("lean", lean, "surefoot", interpreter)):
        out = tmp_path_factory.mktemp(name)
        archive, least = bundle.build(HERE, locked, ROOT / "build" / "wheels" / f"here-{name}", out, extra, app, INSIDE)
        assert least == ""
        unpack(archive, out)
        folders.append(out / archive.name.removesuffix(".tar.gz"))
    return folders[0], folders[1]


def identity(folder: Path) -> str:
    line = next(line for line in (folder / "bundle.conf").read_text().splitlines() if line.startswith("bundle_id="))
    return line.split("'")[1]


def running(mac: Mac) -> str:
    """The version whose process answers."""
    pid, version = (mac.data / "run" / "started").read_text().split()
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    assert f"/versions/{version}/venv/bin/python" in command
    url = f"http://127.0.0.1:{(mac.data / 'port').read_text().strip()}"
    assert urllib3.request("GET", f"{url}/v2/health/live", retries=False, timeout=10.0).status == 200
    return version


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, bundles: tuple[Path, Path]) -> Iterator[Mac]:
    """Both versions once installed, first then second, each by the real steps."""
    mac = Mac(tmp_path_factory.mktemp("installed mac"))
    mac.data.mkdir(parents=True)
    for name in ("logs", "run"):
        (mac.data / name).mkdir()
    (mac.data / "surefoot.toml").write_text('data_dir = "."\nrun_dir = "run"\n[gateway]\nport = 0\n')
    first, second = bundles
    done(mac.run(first / "install.sh", "--user", "--python", sys.executable))
    assert running(mac) == identity(first)
    done(mac.run(second / "install.sh", "--user"))
    assert running(mac) == identity(second)
    yield mac
    mac.run(mac.app / "current" / "uninstall.sh")


@pytest.fixture
def mac(prepared: Mac, bundles: tuple[Path, Path]) -> Mac:
    """The first version runs, the second is there."""
    for order in ("cut", "refuse", "dead"):
        (prepared.launchd / order).unlink(missing_ok=True)
    done(prepared.run(bundles[0] / "install.sh", "--user", "--python", sys.executable))
    assert running(prepared) == identity(bundles[0])
    (prepared.launchd / "calls").unlink()
    return prepared


def test_an_update_and_a_rollback_each_end_with_that_version_answering(mac, bundles):
    first, second = map(identity, bundles)
    assert f"to return to: {first}" in done(mac.run(bundles[1] / "install.sh", "--user"))
    assert running(mac) == second
    # The second carries an interpreter; what runs is that one.
    assert str(mac.app / "pythons") in (mac.app / "current" / "venv" / "pyvenv.cfg").read_text()
    rollback = mac.app / "current" / "install.sh"
    assert f"returned to {first}" in done(mac.run(rollback, "--rollback"))
    assert running(mac) == first
    assert f"returned to {second}" in done(mac.run(rollback, "--rollback", shell="bash"))
    assert running(mac) == second


def test_a_second_run_changes_nothing(mac, bundles):
    pid = (mac.data / "run" / "started").read_text()
    assert "nothing to change" in done(mac.run(bundles[0] / "install.sh", "--user", "--python", sys.executable))
    assert (mac.data / "run" / "started").read_text() == pid
    assert mac.calls() == [f"print gui/{os.getuid()}/{LABEL}"]


def test_launchd_is_asked_in_the_words_of_today(mac, bundles):
    done(mac.run(bundles[1] / "install.sh", "--user"))
    domain = f"gui/{os.getuid()}"
    changes = [call for call in mac.calls() if not call.startswith("print ")]
    assert changes == [f"bootout {domain}/{LABEL}", f"enable {domain}/{LABEL}", f"bootstrap {domain} {mac.plist}"]
    job = plistlib.loads(mac.plist.read_bytes())
    assert job["ProgramArguments"] == ["/bin/sh", str(mac.app / "current" / "run.sh"), str(mac.data)]
    assert "UserName" not in job


@pytest.mark.parametrize("fault", ["refuse", "dead"])
def test_a_version_that_does_not_come_up_gives_way_to_the_one_before(mac, bundles, fault):
    first, second = map(identity, bundles)
    (mac.app / "versions" / second / "confirmed").unlink(missing_ok=True)
    (mac.launchd / fault).write_text("bootstrap")
    result = mac.run(bundles[1] / "install.sh", "--user", "--wait", "3")
    assert result.returncode == 1
    assert f"version {second} does not answer" in result.stderr
    assert f"returned to {first}" in result.stderr
    assert running(mac) == first
    assert not (mac.app / "versions" / second / "confirmed").exists()
    # And it is not what anything returns to.
    result = mac.run(mac.app / "current" / "install.sh", "--rollback", "--dry-run")
    assert second not in result.stdout


def test_wherever_an_install_is_cut_a_whole_version_starts_and_the_next_run_ends_it(mac, bundles):
    """The cut kills the installer before each call of launchctl, as a power cut there would."""
    first, second = map(identity, bundles)
    for number in range(1, 30):
        (mac.launchd / "calls").unlink(missing_ok=True)
        (mac.app / "versions" / second / "confirmed").unlink(missing_ok=True)
        (mac.launchd / "cut").write_text(str(number))
        result = mac.run(bundles[1] / "install.sh", "--user")
        if result.returncode == 0:
            break
        assert result.returncode < 0, result.stderr
        (mac.launchd / "cut").unlink()
        version = (mac.app / "current").readlink().name
        assert version in (first, second)
        assert (mac.app / "versions" / version / "complete").exists()
        assert (mac.app / "versions" / first / "confirmed").exists()
        if version == second:
            assert (mac.app / "versions" / second / "before").read_text() == first
        done(mac.run(bundles[0] / "install.sh", "--user", "--python", sys.executable))
        assert running(mac) == first
    assert number > 4, "cut nowhere"


def test_a_bundle_of_other_wheels_than_its_lock_installs_nothing(mac, bundles, tmp_path):
    """Past the checksums: the lock's own hashes hold too."""
    first = identity(bundles[0])
    broken = tmp_path / "broken"
    shutil.copytree(bundles[0], broken)
    lock = broken / "requirements.lock"
    lock.write_text(lock.read_text().replace("anyio==4", "anyio==3"))
    conf = broken / "bundle.conf"
    conf.write_text(conf.read_text().replace(first, "9.9.9-broken"))
    (broken / "SHA256SUMS").unlink()
    (broken / "SHA256SUMS").write_text(bundle.sums(broken))
    result = mac.run(broken / "install.sh", "--user", "--python", sys.executable)
    assert result.returncode == 1
    assert "pip could not install the bundle's wheels" in result.stderr
    assert not (mac.app / "versions" / "9.9.9-broken" / "complete").exists()
    assert running(mac) == first
    assert mac.calls() == []


def test_the_uninstaller_keeps_the_data_unless_it_is_named(mac, bundles):
    config = mac.data / "surefoot.toml"
    uninstall = mac.app / "current" / "uninstall.sh"
    assert "would keep the data" in done(mac.run(uninstall, "--dry-run"))
    assert running(mac)
    assert "the data stays" in done(mac.run(uninstall))
    assert not mac.app.exists()
    assert not mac.plist.exists()
    assert config.exists()
    assert [call for call in mac.calls() if call.startswith("bootout")] == [f"bootout gui/{os.getuid()}/{LABEL}"]
    # Again, from the bundle: nothing is there any more.
    assert "nothing is installed" in mac.run(bundles[0] / "uninstall.sh", "--user").stderr
    # For the tests after this one, whatever their order.
    kept = config.read_text()
    done(mac.run(bundles[1] / "install.sh", "--user"))
    done(mac.run(mac.app / "current" / "uninstall.sh", "--remove-data"))
    assert not mac.data.exists()
    for name in ("logs", "run"):
        (mac.data / name).mkdir(parents=True)
    config.write_text(kept)
    done(mac.run(bundles[1] / "install.sh", "--user"))


# -- what launchd starts --------------------------------------------------------------------------------------------


@pytest.fixture
def versions(tmp_path: Path) -> Callable[[], str]:
    """An unconfirmed version after a confirmed one, each with a double of the app that says which it is."""
    for name, after in (("old", None), ("new", "old")):
        folder = tmp_path / "versions" / name
        (folder / "venv" / "bin").mkdir(parents=True)
        shutil.copy(INSIDE / "run.sh", folder)
        (folder / "venv" / "bin" / "python").write_text(f"#!/bin/sh\necho {name}\n")
        (folder / "venv" / "bin" / "python").chmod(0o755)
        (folder / "before").write_text(after) if after else (folder / "confirmed").touch()
    (tmp_path / "current").symlink_to("versions/new")
    for name in ("logs", "run"):
        (tmp_path / "data" / name).mkdir(parents=True)

    def start() -> str:
        command = ["sh", str(tmp_path / "current" / "run.sh"), str(tmp_path / "data")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return start


def test_a_version_that_never_answered_is_started_three_times_then_the_one_before(versions):
    assert [versions() for _ in range(5)] == ["new", "new", "new", "old", "old"]


def test_a_version_that_has_answered_is_started_for_ever(versions, tmp_path):
    (tmp_path / "versions" / "new" / "confirmed").touch()
    assert {versions() for _ in range(6)} == {"new"}


@pytest.mark.parametrize("content", ["", "new", "new many\n", "new -1\n", "new 99\n"])
def test_a_count_that_makes_no_sense_counts_as_used_up(versions, tmp_path, content):
    (tmp_path / "data" / "run" / "tries").write_text(content)
    assert versions() == "old"


def test_a_start_that_cannot_be_counted_is_not_tried(versions, tmp_path):
    (tmp_path / "data" / "run" / "tries").mkdir()
    assert versions() == "old"


def test_what_a_failing_start_says_does_not_fill_the_disk(versions, tmp_path):
    log = tmp_path / "data" / "logs" / "launchd.log"
    log.write_bytes(bytes(2 << 20))
    versions()
    assert log.stat().st_size == 0


def test_the_bundle_s_interpreter_is_named_by_its_checksum(bundles, interpreter):
    digest = hashlib.sha256(interpreter.read_bytes()).hexdigest()
    assert f"{digest}  interpreter/python.tar.gz\n" in (bundles[1] / "SHA256SUMS").read_text()

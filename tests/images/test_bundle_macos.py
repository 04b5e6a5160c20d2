"""What the bundle for macOS holds, and what its installer refuses. Not verified on a Mac: its commands are doubles."""

from __future__ import annotations

import fcntl
import hashlib
import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images import bundle
from images.wheels.check import Refused, Target, read_folder
from tests.images import wheelwright
from tests.images.macs import HERE, INSIDE, MAC, PYTHON, Mac, small_bundle
from tests.parts.unpack import unpack

SCRIPTS = sorted(INSIDE.glob("*.sh"))


@pytest.fixture
def mac(tmp_path: Path) -> Mac:
    return Mac(tmp_path / "mac")


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("surefoot: ")
    return done.stderr


# -- the builder ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real bundle for macOS, of the real lock and the real wheels."""
    out = tmp_path_factory.mktemp("dist")
    assert bundle.main(["macos-arm64", "--out", str(out)]) == 0
    return next(out.glob("*.tar.gz"))


def test_the_bundle_holds_the_lock_s_wheels_for_apple_silicon_and_says_what_they_need(built, tmp_path):
    assert built.name == "surefoot-0.1.0-macos-arm64.tar.gz"
    unpack(built, tmp_path)
    folder = tmp_path / "surefoot-0.1.0-macos-arm64"
    wheels = read_folder([folder / "wheels"])
    target = Target.of(["macosx_14_0_arm64"], "3.11")
    assert {"surefoot", "numpy", "onnxruntime", "ai-edge-litert"} <= {wheel.name for wheel in wheels}
    assert [wheel.path.name for wheel in wheels if not wheel.tags & target.tags] == []
    conf = (folder / "bundle.conf").read_text()
    assert "bundle_least_macos='14.0'" in conf
    assert "bundle_machine='arm64'" in conf
    assert (folder / "SHA256SUMS").read_text().splitlines() == [
        line for line in bundle.sums(folder).splitlines() if not line.endswith("  SHA256SUMS")
    ]
    assert "NOT VERIFIED ON A MAC" in (folder / "README.txt").read_text()


def test_the_same_commit_built_twice_gives_the_same_bytes(built, tmp_path, capsys):
    umask = os.umask(0o077)
    try:
        assert bundle.main(["macos-arm64", "--out", str(tmp_path)]) == 0
    finally:
        os.umask(umask)
    assert (tmp_path / built.name).read_bytes() == built.read_bytes()
    printed = capsys.readouterr().out
    assert hashlib.sha256(built.read_bytes()).hexdigest() in printed
    assert "needs macOS 14.0 or newer on Apple silicon, Python 3.11; not verified on a Mac" in printed


def test_another_time_gives_other_bytes(built, tmp_path, monkeypatch):
    """The comparison above can fail."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    assert bundle.main(["macos-arm64", "--out", str(tmp_path)]) == 0
    assert (tmp_path / built.name).read_bytes() != built.read_bytes()


def test_a_dependency_without_a_wheel_for_the_target_is_named(tmp_path, capsys):
    """tflite-runtime has wheels for Linux alone."""
    lock = tmp_path / "lock"
    lock.write_text("tflite-runtime==2.14.0 --hash=sha256:" + "0" * 64 + "\n")
    places = ["--lock", str(lock), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path)]
    assert bundle.main(["macos-arm64", *places]) == 2
    assert "tflite-runtime==2.14.0 has no wheel for macosx_14_0_arm64, CPython 3.11" in capsys.readouterr().err
    assert list(tmp_path.glob("*.tar.gz")) == []


def test_a_cache_of_exactly_the_lock_s_wheels_needs_no_network(tmp_path, monkeypatch):
    path = wheelwright.make(tmp_path / "cache", "one")
    wheelwright.make(tmp_path / "cache", "old")
    monkeypatch.setattr(sys, "executable", "/nowhere")
    pins = bundle.read_lock(wheelwright.pin(path), MAC)
    bundle.fetch(pins, MAC, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [path]
    path.write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError):
        bundle.fetch(pins, MAC, tmp_path / "cache")


@pytest.mark.parametrize(
    ("tags", "least"),
    [
        (["py3-none-any"], "11.0"),
        (["cp311-cp311-macosx_10_9_universal2"], "11.0"),
        (["cp311-cp311-macosx_12_0_arm64", "cp311-cp311-macosx_13_0_arm64"], "13.0"),
        (["cp311-cp311-macosx_11_0_arm64.macosx_13_0_arm64"], "11.0"),
    ],
)
def test_the_least_macos_is_that_of_the_most_demanding_wheel(tmp_path, tags, least):
    for number, tag in enumerate(tags):
        wheelwright.make(tmp_path, f"wheel{number}", tag)
    assert bundle.least_macos(read_folder([tmp_path]), Target.of(["macosx_14_0_arm64"], "3.11")) == least


@pytest.mark.parametrize("named", ["", "0" * 64])
def test_an_interpreter_is_taken_only_with_its_checksum(tmp_path, capsys, named):
    archive = tmp_path / "python.tar.gz"
    archive.write_bytes(b"some interpreter")
    arguments = ["--interpreter", str(archive), "--out", str(tmp_path / "dist")]
    assert bundle.main(["macos-arm64", *arguments, "--interpreter-sha256", named]) == 2
    assert "python.tar.gz is not the interpreter that was named" in capsys.readouterr().err


# -- the installer's preflight --------------------------------------------------------------------------------------


def test_an_older_macos_is_refused_with_the_version_that_is_needed(mac, tmp_path):
    folder = small_bundle(tmp_path, MAC)
    for version in ("13.7.1", "13", "11.0"):
        mac.machine(macos=version)
        said = refusal(mac.run(folder / "install.sh", "--user", "--dry-run"))
        assert f"found: {version}" in said
        assert "expected: 14.0 or newer" in said


@pytest.mark.parametrize("version", ["14.0", "14", "14.6.1", "15.1", "26.0"])
def test_a_macos_that_is_new_enough_passes(mac, tmp_path, version):
    folder = small_bundle(tmp_path, MAC)
    mac.machine(macos=version)
    python = mac.interpreter(f"{PYTHON} cpython arm64")
    done = mac.run(folder / "install.sh", "--user", "--dry-run", "--python", str(python))
    assert done.returncode == 0, done.stderr
    assert "would install 1.0-" in done.stdout


@pytest.mark.parametrize("version", ["", "Sonoma", "14.x"])
def test_a_macos_that_does_not_say_its_version_is_refused(mac, tmp_path, version):
    mac.machine(macos=version)
    assert "cannot tell the version of macOS" in refusal(
        mac.run(small_bundle(tmp_path, MAC) / "install.sh", "--user", "--dry-run")
    )


def test_a_mac_with_an_intel_processor_is_refused(mac, tmp_path):
    mac.machine(processor="x86_64", silicon="0")
    said = refusal(mac.run(small_bundle(tmp_path, MAC) / "install.sh", "--user", "--dry-run"))
    assert "found: x86_64" in said
    assert "no bundle for Intel Macs" in said


def test_a_shell_under_rosetta_is_told_how_to_leave_it(mac, tmp_path):
    mac.machine(processor="x86_64", silicon="1")
    assert "arch -arm64" in refusal(mac.run(small_bundle(tmp_path, MAC) / "install.sh", "--user", "--dry-run"))


def test_another_system_is_refused(mac, tmp_path):
    said = refusal(mac.run(small_bundle(tmp_path, MAC) / "install.sh", "--user", "--dry-run"))
    assert "found: Linux" in said
    assert "expected: Darwin" in said


@pytest.mark.parametrize("says", ["3.9 cpython arm64", f"{PYTHON} cpython x86_64", f"{PYTHON} pypy arm64", ""])
def test_another_python_is_refused(mac, tmp_path, says):
    mac.machine()
    python = mac.interpreter(says)
    done = mac.run(small_bundle(tmp_path, MAC) / "install.sh", "--user", "--dry-run", "--python", str(python))
    said = refusal(done)
    assert f"is Python {says}" in said
    assert f"expected: Python {PYTHON} cpython arm64" in said


def test_without_an_interpreter_it_says_where_to_get_one(mac, tmp_path):
    mac.machine()
    mac.double(f"python{PYTHON}", "echo broken >&2; exit 1\n")
    said = refusal(mac.run(small_bundle(tmp_path, MAC) / "install.sh", "--user", "--dry-run"))
    assert "does not run" in said
    assert "python.org" in said


def test_too_little_room_is_refused(mac, tmp_path):
    said = refusal(mac.run(small_bundle(tmp_path, HERE, needed_kb=1 << 50) / "install.sh", "--user", "--dry-run"))
    assert "too little room" in said
    assert "expected: 1125899906842624 KiB" in said


@pytest.mark.parametrize("damage", ["flipped", "missing", "no list"])
def test_a_damaged_bundle_is_refused(mac, tmp_path, damage):
    folder = small_bundle(tmp_path, HERE)
    wheel = next((folder / "wheels").iterdir())
    if damage == "flipped":
        wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    elif damage == "missing":
        wheel.unlink()
    else:
        (folder / "SHA256SUMS").write_text("")
    said = refusal(mac.run(folder / "install.sh", "--user", "--dry-run"))
    assert "the bundle is damaged" in said
    assert damage == "no list" or wheel.name in said


def test_a_running_install_is_refused_and_a_lock_left_behind_is_not(mac, tmp_path):
    folder = small_bundle(tmp_path, HERE)
    mac.app.mkdir(parents=True)
    lock = mac.app / "install.lock"
    command = (folder / "install.sh", "--user", "--dry-run", "--python", sys.executable)
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another install or uninstall is running" in refusal(mac.run(*command))
    assert lock.exists()
    assert mac.run(*command).returncode == 0


def test_a_dry_run_changes_nothing(mac, tmp_path):
    folder = small_bundle(tmp_path, HERE)
    done = mac.run(folder / "install.sh", "--user", "--dry-run", "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    assert str(mac.plist) in done.stdout
    assert "would replace: nothing" in done.stdout
    assert list(mac.home.iterdir()) == []
    assert mac.calls() == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--root", "relative"), "must be a whole path"),
        (("--root", "/"), "will not use /"),
        (("--data", "/tmp/it's"), "a character that is not taken"),
        (("--root", "/tmp/x", "--data", "/tmp/x/data"), "must not lie in"),
        (("--root", "/tmp/x/app", "--data", "/tmp/x"), "must not lie in"),
        (("--root",), "needs a value"),
        (("--wait", "soon"), "whole seconds"),
        (("--frobnicate",), "unknown option"),
        (("--rollback",), "no version to return to"),
    ],
)
def test_a_mistaken_option_is_refused(mac, tmp_path, arguments, reason):
    done = mac.run(small_bundle(tmp_path, HERE) / "install.sh", "--user", "--dry-run", *arguments)
    assert done.returncode == 1
    assert reason in done.stderr


def test_a_daemon_needs_root_to_place_it_and_another_user_to_run_it(mac, tmp_path):
    folder = small_bundle(tmp_path, HERE)
    places = ("--root", str(tmp_path / "app"), "--data", str(tmp_path / "data"), "--launchd", str(tmp_path / "daemons"))
    command = (folder / "install.sh", *places, "--python", sys.executable)
    if os.geteuid() != 0:
        assert "placed by root" in refusal(mac.run(*command))
    else:
        assert "who is not root" in refusal(mac.run(*command))
        assert "who is not root" in refusal(mac.run(*command, "--run-as", "root"))
        assert "no user nobody-of-that-name" in refusal(mac.run(*command, "--run-as", "nobody-of-that-name"))
    assert not (tmp_path / "app").exists()


# -- the scripts and the job ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_posix(needs, shell, script):
    needs(shutil.which(shell.split()[0]) is not None, shell)
    subprocess.run([*shell.split(), "-n", str(script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_use_nothing_that_a_mac_lacks(script):
    """No GNU options, and none of the shell that bash 3.2 or POSIX lacks."""
    gnu = r"readlink -f|sed -i|stat -c|mv -T|cp -a|date -d|mktemp|realpath|timeout "
    shell = r"\[\[|^\s*(?:local|declare|flock) |<\("
    code = "\n".join(line.split(" #")[0] for line in script.read_text().splitlines() if not line.startswith("#"))
    assert re.findall(f"{gnu}|{shell}", code, re.MULTILINE) == []


@pytest.mark.parametrize("user", ["", "kiosk"])
def test_the_job_is_filled_in_and_keeps_the_app_alive(tmp_path, user):
    root = tmp_path / "a place & more"
    plist = tmp_path / "job.plist"
    subprocess.run(
        [sys.executable, str(INSIDE / "place.py"), "job", str(INSIDE / "job.plist"), str(plist),
         "label=io.surefoot.app", f"root={root}", "data=/the data", f"user={user}"],
        check=True,
    )  # fmt: skip
    job = plistlib.loads(plist.read_bytes())
    assert "@" not in plist.read_text().replace("@label@", "@label@")
    assert job["Label"] == "io.surefoot.app"
    assert job["ProgramArguments"] == ["/bin/sh", f"{root}/current/run.sh", "/the data"]
    assert job["KeepAlive"] is True
    assert job["RunAtLoad"] is True
    assert job["ThrottleInterval"] >= 10
    assert job["ExitTimeOut"] > 30, "longer than gateway.drain_timeout_s"
    assert job["EnvironmentVariables"]["ORT_DISABLE_TELEMETRY"] == "1"
    assert job.get("UserName") == (user or None)
    assert plist.stat().st_mode & 0o777 == 0o644


def test_a_bundle_s_identity_follows_its_content(tmp_path):
    def identity(folder: Path) -> str:
        return next(line for line in (folder / "bundle.conf").read_text().splitlines() if line.startswith("bundle_id"))

    first, second = small_bundle(tmp_path / "1", HERE), small_bundle(tmp_path / "2", MAC)
    again = tmp_path / "again"
    bundle.assemble(again, read_folder([tmp_path / "1" / "wheels"]), None, bundle.facts([], HERE, None, "1.0"), INSIDE)
    assert identity(first) == identity(again) != identity(second)


def test_a_wheel_for_another_platform_never_gets_into_a_bundle(tmp_path):
    wheel = wheelwright.make(tmp_path / "cache", "one", "cp311-cp311-macosx_15_0_arm64")
    with pytest.raises(Refused, match="is not for macosx_14_0_arm64"):
        bundle.check(read_folder([wheel.parent]), Target.of(["macosx_14_0_arm64"], "3.11"))


def test_every_option_is_documented():
    text = (bundle.ROOT / "docs" / "macos.md").read_text()
    check = bundle.ROOT / "images" / "wheels" / "check.py"
    python = "".join(path.read_text() for path in (Path(bundle.__file__), check))
    shell = "".join((INSIDE / name).read_text() for name in ("install.sh", "uninstall.sh"))
    found = set(re.findall(r"add_argument\(\s*\"(--[a-z0-9-]+)", python))
    found |= set(re.findall(r"^ +(--[a-z-]+)\)", shell, re.MULTILINE))
    assert {"--rollback", "--remove-data", "--interpreter-sha256", "--require", "--user"} <= found
    assert {name for name in found if not re.search(rf"[`\[ ]{name}[`\] ]", text)} == set()

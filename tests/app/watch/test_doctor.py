"""What the doctor finds on boards that are not here (doubles, see tests/boards), and what it makes of a sick one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from surefoot.config import Config
from surefoot.errors import BadRequest
from surefoot.watch.doctor import conditions, live, reading
from surefoot.watch.doctor.diagnosis import Configuration, Diagnosis, diagnose
from surefoot.watch.doctor.facts import Facts, Finding, Proof
from surefoot.watch.doctor.files import MOST_NAMES, Files
from tests.boards import NAMES, change, put, unpack

DATA = Path("/data/surefoot")
EXT4 = "proc/fs/ext4/nvme0n1p3/options"  # of pi5, the healthy one
ROOT_MOUNT = "22 1 179:2 / / rw,noatime - ext4 /dev/root rw\n"


def facts_of(folder: Path) -> Facts:
    return reading.read(Files(folder), live.recorded(folder), DATA)


def judged(folder: Path, config: Config | None = None) -> Diagnosis:
    configuration = Configuration(config=config or Config(), path="surefoot.toml")
    return diagnose(facts_of(folder), configuration)


def finding(folder: Path, name: str, config: Config | None = None) -> Finding:
    (one,) = [each for each in judged(folder, config).findings if each.name == name]
    return one


@pytest.fixture
def board(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: unpack(name, tmp_path / name)


@pytest.fixture
def pi5(board) -> Path:
    return board("pi5")


# -- the boards as they come -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_command_judges_a_recorded_board_and_says_that_it_is_recorded(name, board):
    folder = board(name)
    command = [sys.executable, "-m", "surefoot", "doctor", "--facts", str(folder)]
    shown = subprocess.run(command, capture_output=True, text=True)
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    seen = json.loads(done.stdout)
    assert f"recorded facts from {folder}, not this machine" in shown.stdout
    assert seen["facts"]["recorded"] == str(folder)
    assert done.returncode == shown.returncode == (0 if seen["ok"] else 4)
    assert "not verified" in {each["status"] for each in seen["findings"] if each["name"] == "runtimes"}


def test_a_sealed_raspberry_pi_5_is_well(pi5):
    seen = judged(pi5)
    assert [each for each in seen.findings if each.status not in ("ok", "not verified")] == []
    assert seen.facts.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert seen.facts.live.page_size_bytes == 16384
    assert finding(pi5, "root").found == "an overlay"


def test_a_stock_raspberry_pi_has_its_memory_limits_off_and_is_told_how_to_turn_them_on(board):
    found = finding(board("pi4"), "memory-cgroup")
    assert found.status == "problem"
    assert "cgroup_enable=memory" in found.hint


def test_a_jetson_is_known_with_its_release_and_reads_past_a_sensor_that_is_off(board):
    facts = facts_of(board("orin-nano"))
    assert facts.tegra == "36.4.0"
    assert [zone.name for zone in facts.zones] == ["cpu-thermal", "gpu-thermal"]
    assert facts.zones[0].passive_c == 99.0


@pytest.mark.parametrize(
    ("release", "status"), [("R36 (release), REVISION: 4.3", "ok"), ("R35 (release), REVISION: 4.1", "warning")]
)
def test_another_tegra_release_than_the_images_is_a_warning(board, release, status):
    folder = board("orin-nano")
    put(folder, "etc/nv_tegra_release", f"# {release}, GCID: 1, BOARD: generic")
    assert finding(folder, "tegra-release").status == status


def test_a_jetson_whose_release_is_hidden_by_a_container_is_not_verified(board):
    folder = board("orin-nano")
    (folder / "etc/nv_tegra_release").unlink()
    put(folder, ".dockerenv", "")
    found = finding(folder, "tegra-release")
    assert (found.status, found.hint) == ("not verified", "run surefoot doctor outside the container too")


def test_a_raspberry_pi_is_known_in_a_container_that_hides_the_device_tree(board):
    folder = board("pi4")
    (folder / "proc/device-tree/model").unlink()
    assert facts_of(folder).board == "Raspberry Pi 4 Model B Rev 1.4"


def test_a_32_bit_system_under_a_64_bit_kernel_is_a_problem(board):
    folder = board("pi4")
    change(folder, pointer_bits=32)
    found = finding(folder, "architecture")
    assert found.status == "problem"
    assert "64-bit system" in found.hint


@pytest.mark.parametrize(("python", "status"), [("3.9.2", "problem"), ("3.13.0", "ok"), ("3.14.0", "problem")])
def test_a_python_that_the_app_is_not_tested_on_is_a_problem(pi5, python, status):
    change(pi5, python=python)
    assert finding(pi5, "python").status == status


def test_an_empty_folder_is_not_verified_and_no_crash(tmp_path):
    put(tmp_path, "live.json", '{"now": "2026-06-01T12:00:00Z", "data": {"path": "/d"}, "run": {"path": "/r"}}')
    statuses = {each.name: each.status for each in judged(tmp_path).findings}
    unknown = ("board", "kernel", "page-size", "memory-cgroup", "root", "data-filesystem", "heat", "memory", "python")
    assert {name: statuses[name] for name in unknown} == dict.fromkeys(unknown, "not verified")


def test_a_folder_without_a_recording_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "surefoot", "doctor", "--facts", str(tmp_path), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "BadRequest"


def test_a_mac_has_no_such_files_and_what_they_would_say_is_not_verified(tmp_path):
    """A double: its live.json is what the macOS branch of live.py would ask; never run on a Mac."""
    put(
        tmp_path,
        "live.json",
        '{"system": "darwin", "machine": "arm64", "python": "3.12.8", "board": "Mac14,3", "release": "macOS 15.1",'
        ' "page_size_bytes": 16384, "now": "2026-06-01T12:00:00Z", "data": {"path": "/data/surefoot", "exists": true,'
        ' "writable": true, "free_bytes": 90000000000}, "run": {"path": "/r", "exists": true, "writable": true}}',
    )
    seen = judged(tmp_path)
    assert seen.ok
    statuses = {each.name: each.status for each in seen.findings}
    assert [statuses[name] for name in ("board", "kernel", "memory-cgroup", "data-writable")] == ["ok"] * 4
    assert [statuses[name] for name in ("clock", "heat", "memory", "data-filesystem")] == ["not verified"] * 4


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", 'engine="podman"', "podman"),
        ("run/systemd/container", "systemd-nspawn", "systemd-nspawn"),
        (
            "proc/self/mountinfo",
            "22 1 0:29 / / ro - overlay overlay rw,lowerdir=/var/lib/containerd/io/1/fs,upperdir=/var/x",
            "container",
        ),
        ("etc/nothing", "", ""),
    ],
)
def test_a_container_is_known_by_the_mark_of_its_engine_or_by_its_layers(pi5, path, text, kind):
    put(pi5, path, text)
    assert facts_of(pi5).container == kind


# -- storage ---------------------------------------------------------------------------------------------------------


def test_a_writeback_mount_that_the_superblock_hides_is_a_problem(pi5):
    """mountinfo shows no ``data=`` where it is the superblock's own default; ext4's own list does."""
    put(pi5, EXT4, "rw\nbarrier\nerrors=remount-ro\ndata=writeback")
    assert finding(pi5, "data-journal").status == "problem"


def test_the_check_of_the_mount_alone_would_miss_it(pi5, monkeypatch):
    """The mutant: without ext4's own list, nothing more than "not verified" can be said."""
    put(pi5, EXT4, "rw\nbarrier\nerrors=remount-ro\ndata=writeback")
    monkeypatch.setattr(reading, "_with_ext4_options", lambda files, mount: mount)
    assert finding(pi5, "data-journal").status == "not verified"


@pytest.mark.parametrize(
    ("options", "name", "status"),
    [
        ("rw\nbarrier\nerrors=remount-ro", "data-journal", "problem"),  # no journal at all
        ("rw\nbarrier\nerrors=panic\ndata=journal", "data-journal", "ok"),
        ("rw\nbarrier\nerrors=panic\ndata=journal", "data-errors", "ok"),
        ("rw\nnobarrier\ndata=ordered", "data-barriers", "problem"),
        ("rw\nbarrier\nerrors=continue\ndata=ordered", "data-errors", "warning"),
    ],
)
def test_what_ext4_says_of_itself_is_judged(pi5, options, name, status):
    put(pi5, EXT4, options)
    assert finding(pi5, name).status == status


@pytest.mark.parametrize(
    ("own", "of_super", "name", "status"),
    [
        ("rw,noatime", "rw,data=writeback", "data-journal", "problem"),
        ("rw,noatime", "rw,data=ordered", "data-journal", "ok"),
        ("rw,noatime", "rw", "data-journal", "not verified"),
        ("rw,noatime", "rw,nobarrier", "data-barriers", "problem"),
        ("rw,noatime", "rw,barrier=0", "data-barriers", "problem"),
        ("rw,noatime", "rw", "data-barriers", "not verified"),
        ("rw,relatime", "rw", "data-atime", "warning"),
    ],
)
def test_where_ext4_cannot_be_asked_the_mount_is_judged_and_silence_proves_nothing(pi5, own, of_super, name, status):
    (pi5 / EXT4).unlink()
    put(pi5, "proc/self/mountinfo", f"{ROOT_MOUNT}40 22 8:3 / /data {own} shared:4 - ext4 /dev/sda3 {of_super}")
    assert finding(pi5, name).status == status


@pytest.mark.parametrize(
    ("kind", "status"),
    [("overlay", "problem"), ("tmpfs", "problem"), ("vfat", "problem"), ("nfs4", "problem"), ("btrfs", "not verified")],
)
def test_data_on_anything_but_ext4_is_not_passed(pi5, kind, status):
    put(pi5, "proc/self/mountinfo", f"{ROOT_MOUNT}40 22 0:3 / /data rw,noatime - {kind} somewhere rw")
    assert finding(pi5, "data-filesystem").status == status


def test_the_last_of_two_mounts_on_one_point_counts_and_names_with_spaces_are_read():
    text = (
        f"{ROOT_MOUNT}30 22 0:9 / /data rw - ext4 /dev/a rw\n31 22 0:9 / /data rw - tmpfs none rw\n"
        "32 22 0:9 / /my\\040data rw - ext4 /dev/b rw\nnonsense\n"
    )
    mounts = reading.parse_mounts(text)
    assert [reading.mount_of(path, mounts).kind for path in ("/data/x", "/database")] == ["tmpfs", "ext4"]
    assert reading.mount_of("/my data/x", mounts).source == "/dev/b"


def test_a_read_only_root_that_was_asked_for_and_did_not_come_is_a_problem(pi5):
    put(pi5, "proc/self/mountinfo", ROOT_MOUNT)
    assert finding(pi5, "root").status == "problem"
    put(pi5, "proc/cmdline", "root=/dev/x overlayroot=disabled")
    assert finding(pi5, "root").status == "ok"
    put(pi5, "proc/cmdline", "root=/dev/x")
    put(pi5, "etc/overlayroot.conf", '#overlayroot="x"\noverlayroot="tmpfs:recurse=0"')
    assert finding(pi5, "root").status == "problem"


@pytest.mark.parametrize(
    ("free", "inodes", "status"),
    [(1 << 30, 9999, "ok"), (40 << 20, 9999, "warning"), (15 << 20, 9999, "problem"), (1 << 30, 3, "problem")],
)
def test_room_is_judged_by_what_an_install_must_leave_free(pi5, free, inodes, status):
    change(pi5, data={"free_bytes": free, "free_inodes": inodes})
    assert finding(pi5, "data-space").status == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"read_only": True, "writable": False}, "problem"),
        ({"writable": False, "owner_uid": 990}, "not verified"),
        ({"writable": False, "owner_uid": 1000}, "problem"),
        ({"exists": False, "writable": True}, "warning"),
        ({"exists": False, "writable": False}, "problem"),
    ],
)
@pytest.mark.parametrize("which", ["data", "run"])
def test_a_directory_that_cannot_be_written_is_told_apart_from_one_that_another_user_owns(pi5, which, changes, status):
    change(pi5, **{which: changes})
    assert finding(pi5, f"{which}-writable").status == status


def test_without_a_configuration_a_missing_data_directory_is_no_fault(pi5):
    change(pi5, data={"exists": False, "writable": False})
    seen = diagnose(facts_of(pi5), Configuration(config=Config()))
    assert seen.ok
    assert {each.name: each.status for each in seen.findings}["data"] == "not verified"


# -- clock, heat, power, memory --------------------------------------------------------------------------------------


def test_a_clock_before_the_time_floor_is_a_problem_whatever_is_synchronised(pi5):
    put(pi5, "data/surefoot/trust/time-floor", "2026-07-01T00:00:00Z\n2026-07-01T00:00:00Z 00")
    assert finding(pi5, "clock").status == "problem"
    change(pi5, now="1970-01-01T00:00:10Z")
    (pi5 / "data/surefoot/trust/time-floor").unlink()
    assert finding(pi5, "clock").status == "problem"


@pytest.mark.parametrize(
    ("synchronised", "mode", "status"),
    [
        (False, "auto", "warning"),
        (None, "auto", "not verified"),
        (False, "trusted", "ok"),
        (True, "untrusted", "warning"),
    ],
)
def test_a_clock_is_judged_as_updates_judge_it(pi5, synchronised, mode, status):
    from surefoot.config import Trust

    change(pi5, synchronised=synchronised)
    assert finding(pi5, "clock", Config(trust=Trust(clock=mode))).status == status


def sticky_bits_are_not_now(folder: Path) -> None:
    change(folder, vcgencmd="throttled=0x50000")
    found = finding(folder, "throttling")
    assert (found.status, found.found) == ("warning", "since the boot: under-voltage, throttled")


def test_sticky_throttling_bits_are_not_read_as_now(pi5):
    sticky_bits_are_not_now(pi5)


def test_reading_sticky_bits_as_now_would_be_seen(pi5, monkeypatch):
    """The mutant: all bits in one."""
    monkeypatch.setattr(conditions, "SINCE_BOOT", 0)
    with pytest.raises(AssertionError):
        sticky_bits_are_not_now(pi5)


@pytest.mark.parametrize(
    ("printed", "status", "found"),
    [
        ("throttled=0x1", "problem", "now: under-voltage"),
        ("throttled=0x50005", "problem", "now: under-voltage, throttled; since the boot: under-voltage, throttled"),
        ("throttled=0x8", "warning", "now: soft temperature limit"),
        ("throttled=0x80000", "warning", "since the boot: soft temperature limit"),
        ("throttled=0x0", "ok", "nothing now, nothing since the boot"),
    ],
)
def test_throttling_is_told_flag_by_flag(pi5, printed, status, found):
    change(pi5, vcgencmd=printed)
    assert (finding(pi5, "throttling").status, finding(pi5, "throttling").found) == (status, found)


@pytest.mark.parametrize("soc", ["soc", "soc@107c000000"])
def test_the_firmware_file_is_hexadecimal_and_stands_in_for_vcgencmd(pi5, soc):
    change(pi5, vcgencmd="")
    put(pi5, f"sys/devices/platform/{soc}/{soc}:firmware/get_throttled", "50000")
    assert facts_of(pi5).throttling.bits == 0x50000


def test_the_voltage_alarm_is_the_last_resort_and_says_how_little_it_knows(pi5):
    change(pi5, vcgencmd="")
    assert "under-voltage only" in finding(pi5, "throttling").found
    put(pi5, "sys/class/hwmon/hwmon2/in0_lcrit_alarm", "1")
    assert finding(pi5, "throttling").status == "problem"
    (pi5 / "sys/class/hwmon/hwmon2/name").unlink()
    assert finding(pi5, "throttling").status == "not verified"


@pytest.mark.parametrize(
    ("board_name", "celsius", "status"),
    [
        ("pi4", 79, "ok"),
        ("pi4", 81, "warning"),
        ("pi4", 106, "problem"),
        ("orin-nano", 90, "ok"),
        ("orin-nano", 99, "warning"),
        ("orin-nano", 100, "problem"),
    ],
)
def test_heat_is_judged_by_the_limits_of_its_own_zone(board, board_name, celsius, status):
    folder = board(board_name)
    put(folder, "sys/class/thermal/thermal_zone0/temp", str(celsius * 1000))
    assert finding(folder, "heat").status == status


def test_a_fan_that_starts_is_no_limit(pi5):
    """The Pi 5's zone has a trip of kind active at 50 °C; it runs at 61."""
    assert facts_of(pi5).zones[0].passive_c is None


def test_memory_is_what_is_left_of_the_container_s_own_limit(pi5):
    put(pi5, "sys/fs/cgroup/memory.max", str(300 << 20))
    put(pi5, "sys/fs/cgroup/memory.current", str(280 << 20))
    put(pi5, "sys/fs/cgroup/memory.stat", f"anon 1\ninactive_file {10 << 20}")
    found = finding(pi5, "memory")
    assert (found.status, found.found.split(" available")[0]) == ("problem", "30 MiB")
    put(pi5, "sys/fs/cgroup/memory.max", "max")
    assert finding(pi5, "memory").status == "ok"


def test_swap_on_the_card_is_a_warning_and_compressed_memory_is_not(board):
    assert finding(board("pi4"), "swap").status == "warning"
    assert finding(board("pi5"), "swap").status == "ok"


def test_a_preload_that_did_not_load_is_told_from_one_that_did(pi5):
    change(pi5, preload="/usr/lib/libjemalloc.so.2")
    assert finding(pi5, "jemalloc").status == "warning"
    put(pi5, "proc/self/maps", "7f00-7f01 r-xp 00000000 00:1d 5 /usr/lib/libjemalloc.so.2")
    assert finding(pi5, "jemalloc").found == "preloaded; this process runs on it on pages of 16384 bytes"


@pytest.mark.parametrize(
    ("table", "status"), [("memory\t4\t12\t1", "ok"), ("memory\t0\t12\t0", "problem"), ("pids\t8\t1\t1", "problem")]
)
def test_the_memory_control_group_of_version_1_is_read_from_its_table(pi5, table, status):
    put(pi5, "proc/self/mountinfo", ROOT_MOUNT + "31 22 0:9 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids")
    put(pi5, "proc/cgroups", f"#subsys_name\thierarchy\tnum_cgroups\tenabled\n{table}")
    assert finding(pi5, "memory-cgroup").status == status


# -- runtimes, as plain values ---------------------------------------------------------------------------------------


def with_proofs(*proofs: Proof) -> dict[str, str]:
    from datetime import datetime, timezone

    import msgspec

    from surefoot.watch.doctor import usable
    from surefoot.watch.doctor.facts import Directory, Live

    now = datetime(2026, 6, 1, tzinfo=timezone.utc)
    here = Live(now=now, data=Directory(path="/d"), run=Directory(path="/r"))
    facts = msgspec.structs.replace(Facts(live=here, app="1", floor=now), proofs=proofs)
    return {each.name: each.status for each in usable.judge(facts, ("onnxruntime", "tflite"))}


def test_one_wanted_runtime_that_works_is_enough_and_a_missing_library_is_not_verified():
    assert with_proofs(
        Proof(runtime="onnxruntime", outcome="works", used="CPU"), Proof(runtime="tflite", outcome="missing")
    ) == {"runtimes": "ok", "runtime/onnxruntime": "ok", "runtime/tflite": "not verified"}


def test_no_wanted_runtime_that_works_is_a_problem_even_where_another_one_does():
    assert with_proofs(Proof(runtime="hailo", outcome="works"))["runtimes"] == "problem"


def test_an_accelerator_that_is_offered_and_does_not_come_is_a_problem_of_its_own():
    statuses = with_proofs(
        Proof(runtime="onnxruntime", outcome="works", used="CPU", offered=("CUDA", "CPU")),
        Proof(runtime="onnxruntime", provider="CUDA", outcome="refused", reason="no libcudart"),
    )
    assert statuses == {"runtimes": "ok", "runtime/onnxruntime": "ok", "runtime/onnxruntime/CUDA": "problem"}


# -- reading ---------------------------------------------------------------------------------------------------------


def test_reads_are_bounded_in_bytes_and_in_names(tmp_path):
    (tmp_path / "long").write_text("x" * 5000)
    many = tmp_path / "many"
    many.mkdir()
    for number in range(MOST_NAMES + 10):
        (many / str(number)).touch()
    files = Files(tmp_path)
    assert len(files.text("/long", 100)) == 100
    assert len(files.names("/many")) == MOST_NAMES


def test_a_pipe_or_a_device_in_the_place_of_a_file_is_nothing_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    files = Files(tmp_path)
    assert [files.text(path) for path in ("/pipe", "/endless", "/nothing", "/")] == [""] * 4


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_judged_and_never_end_the_doctor(name, board):
    seed = int(os.environ.get("SUREFOOT_SEED", "5"))
    print(f"SUREFOOT_SEED={seed}")
    chance, folder = random.Random(seed), board(name)
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.name != live.RECORDED):
        whole = path.read_bytes()
        for _ in range(20):
            at = chance.randrange(len(whole) + 1)
            junk = chance.choice([b"", b" ", b"\n", b"-1", b"9" * 40, b"=", b"\\777", b"\xff", b"\0"])
            path.write_bytes(whole[:at] + junk + whole[at + chance.randrange(9) :] * chance.randrange(2))
            assert judged(folder).findings
        path.write_bytes(whole)


def test_a_recorded_time_without_its_zone_is_refused(pi5):
    change(pi5, now="2026-06-01T12:00:00")
    with pytest.raises(BadRequest, match="no recorded board"):
        live.recorded(pi5)

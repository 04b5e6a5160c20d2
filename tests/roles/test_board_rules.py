"""What the hardware roles make of what a board says: functions of plain values, on doubles of boards (tests/boards)."""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import boards

ROOT = Path(__file__).parents[2]


def plugin(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "plugins" / f"{path}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pi, jetson, mac = plugin("filter/raspberry_pi"), plugin("filter/jetson"), plugin("filter/macos")
questions, answers = plugin("filter/questions").questions, plugin("filter/answers").answers

STOCK = "console=serial0,115200 console=tty1 root=PARTUUID=0a1b2c3d-02 rootfstype=ext4 rootwait\n"
CONFIG = "arm_64bit=1\n[cm5]\ndtoverlay=dwc2,dr_mode=host\n"
MEMORY = ["cgroup_enable=memory"]


def raspberry(tmp_path: Path, name: str = "pi4", **more: str) -> dict[str, str]:
    """What a recorded Raspberry Pi says to the role's questions."""
    board = boards.unpack(name, tmp_path / name)

    def text(path: str) -> str:
        return (board / path).read_text().replace("\0", "") if (board / path).exists() else ""

    said = {
        "model": text("proc/device-tree/model"),
        "userland": "arm64\n",
        "folder": "/boot/firmware\n",
        "cmdline": STOCK,
        "config": CONFIG,
        "before": "",
        "writable": "yes\n",
        "booted": text("proc/cmdline"),
        "controllers": text("sys/fs/cgroup/cgroup.controllers"),
        "cgroups": "",
        "identity": "",
        "driver": "kernel/drivers/watchdog/bcm2835_wdt.ko\n",
        "throttled": text("sys/devices/platform/soc/soc:firmware/get_throttled"),
        "nodes": "",
        "seen_coral_usb": "",
        "seen_coral_pcie": "",
        "seen_hailo": "",
    }
    return said | more


def wanted(**more: Any) -> dict[str, Any]:
    return {"kernel_options": MEMORY, "watchdog": True, "accelerators": [], "group": "10001"} | more


# -- questions and answers ---------------------------------------------------------------------------------------------


def test_a_question_that_fails_or_hangs_on_input_leaves_the_others_their_answers() -> None:
    script = questions({"one": "printf 'a\\nb\\n'", "two": "no-such-command; cat", "three": "exit 7", "four": "echo d"})
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    assert answers(done.stdout.splitlines()) == {"one": "a\nb\n", "two": "", "three": "", "four": "d\n"}


def test_an_answer_is_bounded() -> None:
    done = subprocess.run(
        ["sh", "-c", questions({"much": "yes", "next": "echo here"})],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    said = answers(done.stdout.splitlines())
    assert len(said["much"]) == 65536
    assert said["next"] == "here\n"


def test_the_nul_of_a_device_tree_is_no_part_of_its_text() -> None:
    assert answers(["model " + base64.b64encode(b"Raspberry Pi 5\0").decode()]) == {"model": "Raspberry Pi 5"}


# -- Raspberry Pi ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "now", "since_boot"),
    [
        ("throttled=0x0", [], []),
        ("throttled=0x50000", [], ["under-voltage", "throttled"]),
        ("throttled=0x50005\n", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        ("a000a", ["frequency capped", "soft temperature limit"], ["frequency capped", "soft temperature limit"]),
        ("throttled=0xf000f", list(pi.FLAGS), list(pi.FLAGS)),
    ],
)
def test_throttling_since_the_boot_is_not_read_as_now(said: str, now: list[str], since_boot: list[str]) -> None:
    told = pi.throttling(said)
    assert (told["now"], told["since_boot"]) == (now, since_boot)


@pytest.mark.parametrize("said", ["", "error=2", "VCHI initialization failed", "throttled=0x", "throttled=-1"])
def test_an_answer_that_is_no_number_is_not_read_as_no_throttling(said: str, tmp_path: Path) -> None:
    assert pi.throttling(said) is None
    report = pi.raspberry_pi(raspberry(tmp_path, throttled=said), wanted())["report"]
    assert report["throttling"] == "not known"
    assert report["warnings"] == ["throttling is not known: neither vcgencmd nor the firmware's file answers"]


def test_under_voltage_is_a_warning(tmp_path: Path) -> None:
    now = pi.raspberry_pi(raspberry(tmp_path, throttled="throttled=0x10001"), wanted())["report"]["warnings"]
    assert [line.split(":")[0] for line in now] == ["under-voltage now", "under-voltage since the boot"]


def test_a_stock_system_gets_its_memory_control_group_on_one_line(tmp_path: Path) -> None:
    files = pi.raspberry_pi(raspberry(tmp_path), wanted())["files"]
    assert files[0]["content"] == STOCK.rstrip() + " cgroup_enable=memory\n"
    assert files[0]["keep"] == "/boot/firmware/cmdline.txt.before-surefoot"


@pytest.mark.parametrize("end", ["", "\n", " \n", "\n\n"])
def test_the_end_of_the_command_line_stays_as_it_was(end: str) -> None:
    line = STOCK.rstrip()
    changed = pi.with_words(line + end, MEMORY)
    assert changed == f"{line} cgroup_enable=memory{end}"
    assert pi.with_words(changed, MEMORY) == changed
    assert pi.without_words(changed, MEMORY, line) == line + end


@pytest.mark.parametrize("there", ["cgroup_enable=memory", "cgroup_enable=cpuset,memory"])
def test_an_option_that_is_there_is_not_added_again(there: str) -> None:
    line = f"root=/dev/mmcblk0p2 {there} rootwait\n"
    assert pi.with_words(line, MEMORY) == line


@pytest.mark.parametrize("other", ["cgroup_enable=cpuset", "cgroup_disable=memory", "xcgroup_enable=memory"])
def test_a_word_that_only_looks_like_it_is_not_taken_for_it(other: str) -> None:
    assert pi.with_words(f"root=/dev/sda {other}\n", MEMORY) == f"root=/dev/sda {other} cgroup_enable=memory\n"


def test_after_writing_a_reboot_is_due_until_the_kernel_itself_has_the_option(tmp_path: Path) -> None:
    written = STOCK.rstrip() + " cgroup_enable=memory\n"
    before = pi.raspberry_pi(raspberry(tmp_path, cmdline=written, identity="x"), wanted())
    assert before["files"] == []
    assert before["report"]["reboot_due"] == [
        "cgroup_enable=memory is in /boot/firmware/cmdline.txt and not yet in /proc/cmdline"
    ]
    after = pi.raspberry_pi(raspberry(tmp_path, "pi5", cmdline=written, identity="x"), wanted())
    assert (after["report"]["reboot_due"], after["unmet"]) == ([], [])


def test_a_kernel_that_ignores_the_option_is_a_failure_and_no_due_reboot(tmp_path: Path) -> None:
    said = raspberry(tmp_path, booted=STOCK.rstrip() + " cgroup_disable=memory cgroup_enable=memory", identity="x")
    judged = pi.raspberry_pi(said, wanted())
    assert judged["report"]["reboot_due"] == []
    assert judged["unmet"] == [
        "the kernel was booted with cgroup_enable=memory and its memory control group is still off"
    ]


def test_the_memory_control_group_is_read_where_new_kernels_no_longer_list_it(tmp_path: Path) -> None:
    new = raspberry(tmp_path, controllers="cpuset cpu io memory pids", cgroups="cpuset 0 99 1\npids 0 99 1\n")
    old = raspberry(tmp_path, controllers="", cgroups="#subsys_name h n enabled\nmemory 8 88 1\n")
    off = raspberry(tmp_path, controllers="", cgroups="memory 0 88 0\n")
    assert [pi.memory_cgroup(said) for said in (new, old, off)] == [True, True, False]


def test_words_for_this_board_are_not_written_below_a_filter_for_another(tmp_path: Path) -> None:
    (_, config) = pi.raspberry_pi(raspberry(tmp_path), wanted())["files"]
    assert config["content"] == CONFIG + pi.BLOCK
    assert pi.watchdog_set(config["content"], pi.filters_of("Raspberry Pi 4 Model B Rev 1.4")) is True
    assert pi.watchdog_set(CONFIG + "dtparam=watchdog=on\n", pi.filters_of("Raspberry Pi 4 Model B Rev 1.4")) is None


@pytest.mark.parametrize(
    ("config", "board", "said"),
    [
        ("dtparam=watchdog=on", "Raspberry Pi 4 Model B", True),
        ("dtparam=i2c_arm=on,watchdog", "Raspberry Pi 4 Model B", True),
        ("dtparam=watchdog=off\n[all]\ndtparam=watchdog=on", "Raspberry Pi 4 Model B", True),
        ("dtparam=watchdog=on\ndtparam=watchdog=off", "Raspberry Pi 4 Model B", False),
        ("[pi5]\ndtparam=watchdog=on", "Raspberry Pi 5 Model B", True),
        ("[pi5]\ndtparam=watchdog=on", "Raspberry Pi 4 Model B", None),
        ("[pi4]\ndtparam=watchdog=on", "Raspberry Pi Compute Module 4", True),
        ("[cm4]\ndtparam=watchdog=on", "Raspberry Pi 4 Model B", None),
        ("[pi500]\ndtparam=watchdog=on", "Raspberry Pi 500 Rev 1.0", True),
        ("[gpio4=1]\ndtparam=watchdog=on", "Raspberry Pi 4 Model B", None),
        ("#dtparam=watchdog=on", "Raspberry Pi 4 Model B", None),
        ("[none]\ndtparam=watchdog=on", "Raspberry Pi 4 Model B", None),
    ],
)
def test_only_the_filters_of_this_board_count(config: str, board: str, said: bool | None) -> None:
    assert pi.watchdog_set(config, pi.filters_of(board)) is said


def test_a_board_that_has_its_watchdog_gets_no_line_for_it(tmp_path: Path) -> None:
    said = raspberry(tmp_path, identity="Broadcom BCM2835 Watchdog timer\n")
    assert [file["path"] for file in pi.raspberry_pi(said, wanted())["files"]] == ["/boot/firmware/cmdline.txt"]
    off = pi.raspberry_pi(said | {"config": "dtparam=watchdog=off\n"}, wanted())["files"]
    assert off[1]["content"] == "dtparam=watchdog=off\n" + pi.BLOCK


def test_a_watchdog_that_is_no_longer_wanted_loses_our_line_and_no_other(tmp_path: Path) -> None:
    theirs = CONFIG + "dtparam=watchdog=on\n"
    said = raspberry(tmp_path, config=theirs + pi.BLOCK)
    assert pi.raspberry_pi(said, wanted(watchdog=False))["files"][1]["content"] == theirs


def test_undoing_leaves_what_was_there_before_and_what_others_added_since() -> None:
    said = {
        "folder": "/boot/firmware",
        "before": "root=/dev/sda cgroup_enable=memory\n",
        "cmdline": "root=/dev/sda cgroup_enable=memory quiet ours=1 overlayroot=tmpfs\n",
        "config": CONFIG + pi.BLOCK + "gpu_mem=16\n",
    }
    cmdline, config = pi.raspberry_pi_undone(said, ["cgroup_enable=memory", "ours=1"])
    assert cmdline["content"] == "root=/dev/sda cgroup_enable=memory quiet overlayroot=tmpfs\n"
    assert config["content"] == CONFIG + "gpu_mem=16\n"


def test_undoing_where_the_role_never_ran_changes_nothing() -> None:
    said = {
        "folder": "/boot/firmware",
        "before": "",
        "cmdline": "root=/dev/sda cgroup_enable=memory\n",
        "config": CONFIG,
    }
    assert pi.raspberry_pi_undone(said, MEMORY) == []
    assert pi.raspberry_pi_undone({"folder": "", "before": "", "cmdline": "", "config": ""}, MEMORY) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model": "Raspberry Pi 3 Model B Plus Rev 1.3"}, "wrong hardware; found Raspberry Pi 3 Model B Plus Rev 1.3"),
        ({"model": ""}, "wrong hardware; found no model in the device tree"),
        ({"userland": "armhf"}, "wrong system; found armhf, expected arm64"),
        ({"folder": ""}, "no boot files; found no cmdline.txt"),
        ({"cmdline": STOCK + "quiet\n"}, "/boot/firmware/cmdline.txt is damaged; found 2 lines"),
        ({"cmdline": "DO NOT EDIT THIS FILE\n"}, "/boot/firmware/cmdline.txt is damaged; found 1 lines"),
        ({"cmdline": ""}, "/boot/firmware/cmdline.txt is damaged; found 0 lines"),
        ({"config": "\ufffd\ufffd"}, "the boot files in /boot/firmware are damaged"),
        ({"writable": ""}, "/boot/firmware is read-only"),
        ({"driver": ""}, "no watchdog; found a kernel without bcm2835_wdt"),
    ],
)
def test_a_board_that_cannot_be_set_up_is_refused_with_the_reason(
    change: dict[str, str], problem: str, tmp_path: Path
) -> None:
    judged = pi.raspberry_pi(raspberry(tmp_path, **change), wanted())
    assert judged["problems"][0].startswith(problem)
    assert judged["files"] == []


@pytest.mark.parametrize("name", ["pi4", "pi5"])
def test_the_recorded_boards_are_taken(name: str, tmp_path: Path) -> None:
    assert pi.raspberry_pi(raspberry(tmp_path, name), wanted())["problems"] == []


def test_an_accelerator_whose_device_belongs_to_another_group_is_a_failure(tmp_path: Path) -> None:
    said = raspberry(tmp_path, nodes="/dev/apex_0 10001\n/dev/hailo0 0\n", seen_coral_pcie="x", seen_hailo="x")
    both = wanted(accelerators=["coral_pcie", "hailo"])
    assert pi.raspberry_pi(said, both)["unmet"] == ["/dev/hailo0 belongs to group 0, expected 10001"]
    assert pi.raspberry_pi(said, wanted(accelerators=["coral_pcie"]))["unmet"] == []


# -- Jetson ------------------------------------------------------------------------------------------------------------

IMAGES = {"jetson-jp6": ["36.4"], "jetson-jp7": ["38", "39"]}
SYMBOLS = {"overlay": "OVERLAY_FS", "veth": "VETH", "nf_tables": "NF_TABLES", "nft_compat": "NFT_COMPAT"}
NEEDS = {"docker": ["overlay", "veth", "iptable_filter|nft_compat"], "nftables": ["nf_tables"]}


def orin(tmp_path: Path, **more: str) -> dict[str, str]:
    """What the recorded Orin Nano says, with a kernel that has all that is asked for."""
    board = boards.unpack("orin-nano", tmp_path / "orin-nano")
    said = {
        "model": (board / "proc/device-tree/model").read_text().replace("\0", ""),
        "release": (board / "etc/nv_tegra_release").read_text().splitlines()[0],
        "core": "",
        "modules": "listed\noverlay\nveth\nnft_compat\nnf_tables\n",
        "config": "",
        "modes": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=0 >\n",
        "mode": "NV Power Mode: 15W\n0\n",
        "status": "pmode:0000\n",
        "clocks": "",
        "toolkit": "NVIDIA Container Toolkit CLI version 1.16.2\n",
        "runtimes": "",
    }
    return said | more


def asked(**more: Any) -> dict[str, Any]:
    rest = {"image": "", "power_mode": "", "lock_clocks": False, "kernel_needs": ["docker"]}
    return {"images": IMAGES, "modules": NEEDS, "symbols": SYMBOLS, **rest, **more}


@pytest.mark.parametrize(
    ("text", "package", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "", "36.4.3"),
        ("# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic", "36.4.0-20240912", "39.2.0"),
        ("", "36.4.0-20240912212859", "36.4.0"),
        ("", "", ""),
        ("R36", "none", ""),
    ],
)
def test_the_release_is_read_from_its_file_or_its_package(text: str, package: str, release: str) -> None:
    assert jetson.release_of(text, package) == release


@pytest.mark.parametrize(
    ("release", "images"),
    [("36.4.7", ["jetson-jp6"]), ("36.40.1", []), ("39.2.0", ["jetson-jp7"]), ("3.8", []), ("35.4.1", [])],
)
def test_a_release_fits_an_image_by_whole_numbers(release: str, images: list[str]) -> None:
    assert jetson.images_for(release, IMAGES) == images


@pytest.mark.parametrize(
    ("said", "wish", "problem"),
    [
        ({"model": "Raspberry Pi 5 Model B"}, {}, "wrong hardware; found Raspberry Pi 5 Model B"),
        ({"release": ""}, {}, "no Jetson Linux; found neither nv_tegra_release nor nvidia-l4t-core"),
        ({"release": "# R35 (release), REVISION: 4.1,"}, {}, "Jetson Linux 35.4.1 is none that an image runs on"),
        ({}, {"image": "jetson-jp7"}, "Jetson Linux 36.4.0 is none that jetson-jp7 runs on"),
        ({}, {"image": "jetson-jp5"}, "jetson_image is unknown; found jetson-jp5"),
        ({}, {"power_mode": "40W"}, "jetson_power_mode is unknown; found 40W, expected one of 0 15W, 2 MAXN_SUPER"),
        (
            {"modules": "listed\noverlay\nnf_tables\n"},
            {},
            "the kernel lacks what docker needs; found no veth, iptable_fil",
        ),
        ({"modules": ""}, {}, "it cannot be told whether the kernel has what docker needs"),
    ],
)
def test_a_jetson_that_does_not_fit_is_refused_with_the_reason(
    said: dict[str, str], wish: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    assert jetson.jetson(orin(tmp_path, **said), asked(**wish))["problems"][0].startswith(problem)


def test_the_recorded_orin_nano_is_taken_for_jetpack_6_and_with_another_release_for_7(tmp_path: Path) -> None:
    assert jetson.jetson(orin(tmp_path), asked(image="jetson-jp6", power_mode="MAXN_SUPER"))["problems"] == []
    seven = orin(tmp_path, release="# R39 (release), REVISION: 2.0, GCID: 45755727")
    assert jetson.jetson(seven, asked(image="jetson-jp7"))["problems"] == []


def test_a_module_that_was_configured_and_not_installed_is_missing(tmp_path: Path) -> None:
    config = "CONFIG_OVERLAY_FS=y\nCONFIG_VETH=m\nCONFIG_NFT_COMPAT=m\n# CONFIG_NF_TABLES is not set\n"
    listed = orin(tmp_path, modules="listed\noverlay\n", config=config)
    assert jetson.missing_modules(listed, NEEDS["docker"], SYMBOLS) == ["veth", "iptable_filter|nft_compat"]
    only_config = orin(tmp_path, modules="", config=config)
    assert jetson.missing_modules(only_config, NEEDS["docker"], SYMBOLS) == []
    assert jetson.missing_modules(only_config, NEEDS["nftables"], SYMBOLS) == ["nf_tables"]


def test_what_only_a_lockdown_needs_is_reported_unless_it_is_asked_for(tmp_path: Path) -> None:
    said = orin(tmp_path, modules="listed\noverlay\nveth\nnft_compat\n")
    told = jetson.jetson(said, asked())
    assert told["problems"] == []
    assert told["report"]["warnings"] == [
        "the kernel lacks nf_tables, which nftables needs; what stands on it will refuse"
    ]
    assert jetson.jetson(said, asked(kernel_needs=["docker", "nftables"]))["problems"] != []


def test_the_fan_profile_that_nvpmodel_keeps_beside_the_mode_stays(tmp_path: Path) -> None:
    said = orin(tmp_path, status="pmode:0000 fmode:fan_mode_cool\n")
    assert jetson.power_mode(said, "MAXN_SUPER")["status"] == "pmode:0002 fmode:fan_mode_cool\n"
    assert jetson.power_mode(orin(tmp_path, status=""), "2")["status"] == "pmode:0002\n"


def test_a_mode_that_waits_for_a_reboot_is_said_to_wait_and_one_that_was_lost_is_a_failure(tmp_path: Path) -> None:
    waits = jetson.jetson(orin(tmp_path, status="pmode:0002\n"), asked(power_mode="MAXN_SUPER"))
    assert waits["report"]["reboot_due"] == ["power mode MAXN_SUPER is kept for the next boot"]
    assert waits["unmet"] == []
    lost = jetson.jetson(orin(tmp_path), asked(power_mode="MAXN_SUPER"))
    assert lost["unmet"] == ["the power mode is 0 now and 0 at the next boot, expected 2"]


def test_clocks_are_held_only_if_every_cpu_that_is_on_has_one_frequency() -> None:
    line = "cpu{}: Online={} Governor=schedutil MinFreq={} MaxFreq=1510400 CurrentFreq=1510400 IdleStates: WFI=1 c7=1\n"
    held, moves = line.format(0, 1, 1510400), line.format(1, 1, 729600)
    off = line.format(2, 0, 729600)
    assert jetson.clocks_locked(held + off) is True
    assert jetson.clocks_locked(held + moves) is False
    assert jetson.clocks_locked("") is None


def test_a_docker_that_does_not_know_the_runtime_is_reported(tmp_path: Path) -> None:
    unknown = jetson.jetson(orin(tmp_path, runtimes='{"runc": {"path": "runc"}}'), asked())
    assert unknown["report"]["warnings"][0].startswith("Docker does not know the runtime nvidia yet")
    known = jetson.jetson(orin(tmp_path, runtimes='{"nvidia": {"path": "nvidia-container-runtime"}}'), asked())
    assert known["report"]["warnings"] == []


# -- Mac ---------------------------------------------------------------------------------------------------------------

MINI = (
    "AC Power:\n Sleep On Power Button 1\n autorestart          0\n disksleep            10\n sleep                1\n"
)
POWER = {"sleep": 0, "disksleep": 0, "autorestart": 1}


def mini(**more: str) -> dict[str, str]:
    said = {
        "system": "Darwin\n",
        "machine": "arm64\n",
        "silicon": "1\n",
        "version": "14.5\n",
        "user": "0\n",
        "power": MINI,
        "capabilities": "Capabilities for AC Power:\n sleep\n disksleep\n autorestart\n",
        "python": "3.11 arm64 /usr/local/bin/python3.11\n",
        "filevault": "FileVault is Off.\n",
        "job": "",
        "before": "",
    }
    return said | more


def judge(said: dict[str, str]) -> dict[str, Any]:
    result: dict[str, Any] = mac.macos(said, "14.0", "3.11", POWER)
    return result


def test_a_mac_that_sleeps_is_set_by_one_call_and_one_that_does_not_is_left_alone() -> None:
    assert judge(mini())["set"] == ["sleep", "0", "disksleep", "0", "autorestart", "1"]
    awake = MINI.replace("10", "0").replace("sleep                1", "sleep                0 (sleep prevented by a)")
    assert judge(mini(power=awake.replace("autorestart          0", "autorestart          1")))["set"] == []


def test_a_setting_that_pmset_took_and_did_nothing_with_is_a_failure() -> None:
    assert judge(mini())["unmet"] == [
        "sleep is not 0 everywhere",
        "disksleep is not 0 everywhere",
        "autorestart is not 1 everywhere",
    ]


def test_every_source_of_power_counts() -> None:
    book = "Battery Power:\n sleep 1\n disksleep 0\nAC Power:\n sleep 0\n disksleep 0\n"
    judged = judge(mini(power=book, capabilities=" sleep\n disksleep\n"))
    assert judged["set"] == ["sleep", "0", "disksleep", "0"]
    assert judged["report"]["warnings"] == ["this Mac has no setting autorestart: it stays as it is"]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"system": "Linux"}, "wrong system; found Linux, expected Darwin"),
        (
            {"machine": "x86_64", "silicon": "1"},
            "wrong processor; found x86_64, expected arm64: this shell runs under Rosetta",
        ),
        (
            {"machine": "x86_64", "silicon": ""},
            "wrong processor; found x86_64, expected arm64: there is no bundle for Intel",
        ),
        ({"version": "13.6.9"}, "macOS is too old; found 13.6.9, expected 14.0 or newer"),
        ({"version": ""}, "macOS is too old; found no answer"),
        ({"user": "501"}, "power settings are root's"),
        ({"python": ""}, "no usable Python; found none, expected 3.11 arm64"),
        ({"python": "3.11 x86_64 /usr/local/bin/python3.11"}, "no usable Python; found 3.11 x86_64"),
    ],
)
def test_a_machine_that_is_no_such_mac_is_refused_with_the_reason(said: dict[str, str], problem: str) -> None:
    assert judge(mini(**said))["problems"][0].startswith(problem)


def test_versions_of_macos_are_compared_as_numbers() -> None:
    assert [judge(mini(version=version))["problems"] for version in ("14.0", "15.1", "26.5", "14")][:3] == [[], [], []]


def test_undoing_puts_back_each_source_of_power_once() -> None:
    before = json.dumps({"AC Power": {"sleep": 1, "autorestart": 0}, "Battery Power": {"sleep": 1}})
    now = "Battery Power:\n sleep 0\nAC Power:\n sleep 0\n autorestart 1\n"
    assert mac.macos_undone(mini(before=before, power=now)) == [
        ["-c", "sleep", "1", "autorestart", "0"],
        ["-b", "sleep", "1"],
    ]
    assert (
        mac.macos_undone(mini(before=before, power="Battery Power:\n sleep 1\nAC Power:\n sleep 1\n autorestart 0\n"))
        == []
    )
    assert mac.macos_undone(mini()) == []

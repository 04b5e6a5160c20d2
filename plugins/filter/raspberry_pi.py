# Licensed under the Apache License, Version 2.0: see LICENSE in the root of the collection.
"""What a Raspberry Pi is, and what its boot files should say. Pure: the role reads and writes.

Sources: raspberrypi.com/documentation/computers (config_txt.html, configuration.html, os.html#get_throttled), the
device tree parameters in the firmware's boot/overlays/README, and the kernel's Documentation/admin-guide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

DOCUMENTATION = """
name: raspberry_pi
short_description: What a Raspberry Pi is, and what its boot files should say
description:
  - Judges what the role P(surefoot.edge.raspberry_pi#role) read from a board. Reads and writes nothing itself.
positional: _input, wanted
options:
  _input:
    description: What the board said, by P(surefoot.edge.answers#filter).
    type: dict
    required: true
  wanted:
    description: What the role wants, as C(kernel_options), C(watchdog), C(accelerators) and C(group).
    type: dict
    required: true
author: [The Surefoot authors]
"""

EXAMPLES = """
board: "{{ asked.stdout_lines | surefoot.edge.answers | surefoot.edge.raspberry_pi(wanted) }}"
"""

RETURN = """
_value:
  description:
    - V(problems), why the role will not work here; V(files), boot files to write; V(unmet), what should have come of an
      earlier run and has not; and V(report), for the operator, with V(throttling), V(reboot_due) and V(warnings).
  type: dict
"""

BOARD = re.compile(r"Raspberry Pi (?P<module>Compute Module )?(?P<generation>[45])(?P<keyboard>00)?\b")
KEPT = ".before-surefoot"  # added to the name of a boot file as it was before the first change
BLOCK = """\
# Surefoot: the hardware watchdog. [all], since a filter above may be for another board.
[all]
dtparam=watchdog=on
"""
MEMORY = "cgroup_enable=memory"
ON = ("", "on", "yes", "true", "1")

# os.html#get_throttled: the same four flags, now from bit 0 and since the boot from bit 16, where they stick.
FLAGS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
SINCE_BOOT = 16
POWER = "use the board's own power supply and a short cable"


def throttling(said: str) -> dict[str, Any] | None:
    """Decode ``throttled=0x50000`` of vcgencmd, or the bare hexadecimal digits of the firmware driver's file."""
    found = re.fullmatch(r"(?:throttled=0x)?([0-9a-fA-F]{1,8})", said.strip())
    if not found:
        return None
    bits = int(found[1], 16)
    return {
        "bits": f"0x{bits:x}",
        "now": [flag for bit, flag in enumerate(FLAGS) if bits >> bit & 1],
        "since_boot": [flag for bit, flag in enumerate(FLAGS, SINCE_BOOT) if bits >> bit & 1],
    }


def has_word(option: str, words: Sequence[str]) -> bool:
    """Whether a command line has an option. ``cgroup_enable=`` takes several names in one word."""
    name, _, value = option.partition("=")
    together = [word.partition("=")[2].split(",") for word in words if word.startswith("cgroup_enable=")]
    return option in words or (name == "cgroup_enable" and any(value in names for names in together))


def with_words(text: str, options: Sequence[str]) -> str:
    """The one line of cmdline.txt with what is missing at its end, so that it wins over what stands before it."""
    words = text.split()
    missing = [option for option in options if not has_word(option, words)]
    line, end = text.rstrip(), text[len(text.rstrip()) :]
    return " ".join([line, *missing]) + end if missing else text


def without_words(text: str, options: Sequence[str], before: str) -> str:
    """The line without those ``options`` that were not there before the first change."""
    ours = set(options) - set(before.split())
    line, end = text.rstrip(), text[len(text.rstrip()) :]
    return " ".join(word for word in line.split(" ") if word not in ours) + end


def watchdog_set(text: str, filters: Sequence[str]) -> bool | None:
    """What config.txt says of the watchdog on this board, None if nothing. The last word counts.

    Filters that are not certain to hold for the board (a serial number, a GPIO, a monitor) are read as not holding.
    """
    holds, said = True, None
    for line in (line.strip() for line in text.splitlines()):
        if header := re.fullmatch(r"\[(.+)\]", line):
            holds = header[1].lower() == "all" or (header[1].lower() in filters)
        elif holds and line.startswith("dtparam="):
            for parameter in line.partition("=")[2].split(","):
                name, _, value = parameter.strip().partition("=")
                if name == "watchdog":
                    said = value.strip() in ON
    return said


def filters_of(board: str) -> list[str]:
    """The model filters of config.txt that hold for a board (config_txt.html#model-filters)."""
    found = BOARD.match(board)
    if not found:
        return []
    generation = found["generation"]
    own = f"cm{generation}" if found["module"] else f"pi{generation}{found['keyboard'] or ''}"
    return sorted({f"pi{generation}", own})


def memory_cgroup(answers: dict[str, str]) -> bool | None:
    """Whether the memory controller is on. Newer kernels do not list it in /proc/cgroups (raspberrypi/linux#6980)."""
    if answers["controllers"].strip():
        return "memory" in answers["controllers"].split()
    for line in answers["cgroups"].splitlines():
        fields = line.split()
        if fields and fields[0] == "memory":
            return fields[-1] == "1"
    return None


def _problems(answers: dict[str, str], board: str, watchdog: bool) -> list[str]:
    if not BOARD.match(board):
        return [f"wrong hardware; found {board or 'no model in the device tree'}, expected a Raspberry Pi 4 or 5"]
    found = []
    userland, folder = answers["userland"].strip(), answers["folder"].strip()
    if userland != "arm64":
        found.append(f"wrong system; found {userland or 'no dpkg'}, expected arm64: install the 64-bit system")
    if not folder:
        found.append("no boot files; found no cmdline.txt, expected one in /boot/firmware or /boot")
        return found
    lines = [line for line in answers["cmdline"].splitlines() if line.strip()]
    if len(lines) != 1 or not re.search(r"\broot=", lines[0]):
        found.append(f"{folder}/cmdline.txt is damaged; found {len(lines)} lines, expected one line that names root=")
    if "\ufffd" in answers["cmdline"] + answers["config"]:
        found.append(f"the boot files in {folder} are damaged; found bytes that are no text, expected text")
    if answers["writable"].strip() != "yes":
        found.append(f"{folder} is read-only, expected writable: mount -o remount,rw {folder}, or a maintenance boot")
    if watchdog and not answers["identity"].strip() and "bcm2835_wdt" not in answers["driver"]:
        found.append(
            "no watchdog; found a kernel without bcm2835_wdt, expected Raspberry Pi's own: use it, or set "
            "raspberry_pi_watchdog: false"
        )
    return found


def _config(answers: dict[str, str], board: str, watchdog: bool) -> str:
    text = answers["config"]
    if not watchdog:
        return text.replace(BLOCK, "")
    said = watchdog_set(text, filters_of(board))
    # A board whose kernel already has the device needs no line, unless one turns it off.
    if said or (said is None and answers["identity"].strip()):
        return text
    return text + ("" if text.endswith("\n") or not text else "\n") + BLOCK


def _files(folder: str, found: dict[str, str], wanted: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"path": f"{folder}/{name}", "content": wanted[name], "keep": f"{folder}/{name}{KEPT}"}
        for name in found
        if wanted[name] != found[name]
    ]


def _warnings(told: dict[str, Any] | None, answers: dict[str, str], accelerators: Sequence[str]) -> list[str]:
    warnings = []
    if told is None:
        warnings.append("throttling is not known: neither vcgencmd nor the firmware's file answers")
    for when, flags in (("now", told["now"]), ("since the boot", told["since_boot"])) if told else ():
        if flags:
            hint = POWER if FLAGS[0] in flags else "cool it: heat sink, fan, shade"
            warnings.append(f"{' and '.join(flags)} {when}: {hint}")
    warnings += [
        f"{name} is not there: look at its driver, its cable and its power"
        for name in accelerators
        if not answers[f"seen_{name}"].strip()
    ]
    return warnings


def _unmet(answers: dict[str, str], wanted: dict[str, Any], booted: Sequence[str]) -> list[str]:
    found = []
    if MEMORY in wanted["kernel_options"] and has_word(MEMORY, booted) and memory_cgroup(answers) is False:
        found.append(f"the kernel was booted with {MEMORY} and its memory control group is still off")
    for node, group in (line.split() for line in answers["nodes"].splitlines()):
        named = "hailo" if "hailo" in node else "coral_pcie"
        if named in wanted["accelerators"] and group != str(wanted["group"]):
            found.append(f"{node} belongs to group {group}, expected {wanted['group']}")
    return found


def raspberry_pi(answers: dict[str, str], wanted: dict[str, Any]) -> dict[str, Any]:
    """Judge a board; see RETURN."""
    board, folder = answers["model"].strip(), answers["folder"].strip()
    options, watchdog = wanted["kernel_options"], wanted["watchdog"]
    problems = _problems(answers, board, watchdog)
    found = {"cmdline.txt": answers["cmdline"], "config.txt": answers["config"]}
    right = {
        "cmdline.txt": with_words(answers["cmdline"], options),
        "config.txt": _config(answers, board, watchdog),
    }
    booted, told = answers["booted"].split(), throttling(answers["throttled"])
    missing = [option for option in options if not has_word(option, booted)]
    reboot_due = [f"{option} is in {folder}/cmdline.txt and not yet in /proc/cmdline" for option in missing]
    if watchdog and not answers["identity"].strip():
        reboot_due.append(f"dtparam=watchdog=on is in {folder}/config.txt and there is no watchdog device yet")
    return {
        "problems": problems,
        "files": [] if problems else _files(folder, found, right),
        "unmet": _unmet(answers, wanted, booted),
        "report": {
            "board": board,
            "throttling": told or "not known",
            "reboot_due": [] if problems else reboot_due,
            "warnings": _warnings(told, answers, wanted["accelerators"]),
        },
    }


def raspberry_pi_undone(answers: dict[str, str], kernel_options: Sequence[str]) -> list[dict[str, str]]:
    """The boot files as they would be without what the role did. Where it never changed one, none."""
    folder = answers["folder"].strip()
    found = {"cmdline.txt": answers["cmdline"], "config.txt": answers["config"]}
    wanted = {
        "cmdline.txt": without_words(answers["cmdline"], kernel_options, answers["before"])
        if answers["before"].strip()
        else answers["cmdline"],
        "config.txt": answers["config"].replace(BLOCK, ""),
    }
    return _files(folder, found, wanted)


class FilterModule:
    """See DOCUMENTATION."""

    def filters(self) -> dict[str, object]:
        """The filters of this file, by name."""
        return {"raspberry_pi": raspberry_pi, "raspberry_pi_undone": raspberry_pi_undone}

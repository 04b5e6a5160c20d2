# Licensed under the Apache License, Version 2.0: see LICENSE in the root of the collection.
"""What a Jetson is, and how it should be set. Pure: the role reads and writes.

Sources: docs.nvidia.com/jetson/archives/r36.4.4 and r39.2, Developer Guide, "Platform Power and Performance"
(nvpmodel, jetson_clocks). That nvpmodel keeps the mode for the next boot in /var/lib/nvpmodel/status, and what it says
where a mode needs a reboot, was seen by users and is in no guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENTATION = """
name: jetson
short_description: What a Jetson is, and how it should be set
description:
  - Judges what the role P(surefoot.edge.jetson#role) read from a board. Reads and writes nothing itself.
positional: _input, wanted
options:
  _input:
    description: What the board said, by P(surefoot.edge.answers#filter).
    type: dict
    required: true
  wanted:
    description:
      - What the role wants, as C(images), C(image), C(power_mode), C(lock_clocks) and C(kernel_needs), and its tables
        C(modules) and C(symbols).
    type: dict
    required: true
author: [The Surefoot authors]
"""

EXAMPLES = """
board: "{{ asked.stdout_lines | surefoot.edge.answers | surefoot.edge.jetson(wanted) }}"
"""

RETURN = """
_value:
  description:
    - V(problems), why the role will not work here; V(mode), the power mode, with the C(id) that is wanted, the
      C(current) one, the one of the C(next) boot and the text of C(status) for it; V(unmet), what should have come of
      an earlier run and has not; and V(report), for the operator.
  type: dict
"""

HERE = "expected an NVIDIA Jetson"


def release_of(text: str, package: str) -> str:
    """``36.4.0`` from ``# R36 (release), REVISION: 4.0, …`` of nv_tegra_release, or nvidia-l4t-core's version."""
    if found := re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text):
        return f"{found[1]}.{found[2]}"
    package_found = re.match(r"\d+(?:\.\d+)+", package)
    return package_found[0] if package_found else ""


def images_for(release: str, images: Mapping[str, Sequence[str]]) -> list[str]:
    """The images that run on a release of Jetson Linux."""
    return [name for name, accepted in images.items() if any(f"{release}.".startswith(f"{each}.") for each in accepted)]


def missing_modules(answers: Mapping[str, str], needed: Sequence[str], symbols: Mapping[str, str]) -> list[str] | None:
    """Which of ``needed`` (``a|b``: one of them) the kernel lacks, None where it does not tell.

    The module's name counts, in modules.builtin or modules.dep. Only a kernel without these lists is asked for its
    configuration: a module that it was configured for may still not be installed.
    """
    names = {name.replace("-", "_") for name in answers["modules"].split()}
    if not names:
        built = {line.partition("=")[0] for line in answers["config"].splitlines() if line[-2:] in ("=y", "=m")}
        names = {module for module, symbol in symbols.items() if f"CONFIG_{symbol}" in built}
        if not built:
            return None
    return [each for each in needed if not names & set(each.split("|"))]


def power_mode(answers: Mapping[str, str], wanted: str) -> dict[str, Any]:
    """The modes that /etc/nvpmodel.conf has, the current one, and the text that keeps another for the next boot."""
    modes = {int(number): name for number, name in re.findall(r"POWER_MODEL ID=(\d+) NAME=(\S+)", answers["modes"])}
    default = re.search(r"PM_CONFIG DEFAULT=(\d+)", answers["modes"])
    kept = re.search(r"pmode:\s*(\d+)", answers["status"])
    said = re.search(r"NV Power Mode: (\S+)\s+(\d+)", answers["mode"])
    number = next((key for key, name in modes.items() if wanted in (name, str(key))), None)
    line = f"pmode:{number or 0:04d}"
    return {
        "modes": modes,
        "id": number,
        "current": int(said[2]) if said else None,
        "next": int((kept or default or [0, -1])[1]),
        # What else nvpmodel keeps there (the fan's profile) stays.
        "status": re.sub(r"pmode:\s*\d+", line, answers["status"]) if kept else f"{line}\n{answers['status']}",
    }


def clocks_locked(text: str) -> bool | None:
    """Whether ``jetson_clocks --show`` gives each CPU that is on one frequency only. None where it says nothing."""
    cpus = re.findall(r"^cpu\d+: Online=1 .*?MinFreq=(\d+) MaxFreq=(\d+)", text, re.MULTILINE)
    return all(least == most for least, most in cpus) if cpus else None


def _problems(answers: Mapping[str, str], wanted: Mapping[str, Any], release: str, mode: dict[str, Any]) -> list[str]:
    board, images = answers["model"].strip(), wanted["images"]
    if not re.search(r"\bJetson\b", board):
        return [f"wrong hardware; found {board or 'no model in the device tree'}, {HERE}"]
    table = ", ".join(f"{name} on {' or '.join(accepted)}" for name, accepted in images.items())
    if not release:
        return [f"no Jetson Linux; found neither nv_tegra_release nor nvidia-l4t-core, expected one of {table}"]
    found = []
    fitting, image = images_for(release, images), wanted["image"]
    if image and image not in images:
        found.append(f"jetson_image is unknown; found {image}, expected one of {', '.join(images)}")
    elif not fitting or (image and image not in fitting):
        found.append(
            f"Jetson Linux {release} is none that {image or 'an image'} runs on; expected {table}: flash such a release"
            + (f", or take {' or '.join(fitting)}" if fitting else "")
        )
    if wanted["power_mode"] and mode["id"] is None:
        known = ", ".join(f"{number} {name}" for number, name in mode["modes"].items()) or "none in /etc/nvpmodel.conf"
        found.append(f"jetson_power_mode is unknown; found {wanted['power_mode']}, expected one of {known}")
    for need in wanted["kernel_needs"]:
        missing = missing_modules(answers, wanted["modules"][need], wanted["symbols"])
        if missing is None:
            found.append(f"it cannot be told whether the kernel has what {need} needs; found no list of modules")
        elif missing:
            found.append(
                f"the kernel lacks what {need} needs; found no {', '.join(missing)}: build them, or another release"
            )
    return found


def _runtimes(text: str) -> set[str] | None:
    try:
        return set(json.loads(text))
    except ValueError:
        return None  # no engine that answers yet


def _warnings(answers: Mapping[str, str], wanted: Mapping[str, Any]) -> list[str]:
    warnings = []
    for need in [name for name in wanted["modules"] if name not in wanted["kernel_needs"]]:
        if missing := missing_modules(answers, wanted["modules"][need], wanted["symbols"]):
            warnings.append(f"the kernel lacks {', '.join(missing)}, which {need} needs; what stands on it will refuse")
    runtimes = _runtimes(answers["runtimes"])
    if runtimes is not None and "nvidia" not in runtimes:
        warnings.append(
            "Docker does not know the runtime nvidia yet: add it to container_engine_settings and run container_engine"
        )
    return warnings


def jetson(answers: Mapping[str, str], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a board; see RETURN."""
    release = release_of(answers["release"], answers["core"])
    mode = power_mode(answers, str(wanted["power_mode"]))
    problems = _problems(answers, wanted, release, mode)
    locked = clocks_locked(answers["clocks"])
    waits = mode["id"] is not None and mode["current"] != mode["id"]
    unmet = []
    if not answers["toolkit"].strip():
        unmet.append("nvidia-ctk does not answer, though its package is installed")
    if waits and mode["next"] != mode["id"]:
        unmet.append(
            f"the power mode is {mode['current']} now and {mode['next']} at the next boot, expected {mode['id']}"
        )
    if wanted["lock_clocks"] and not locked:
        unmet.append("jetson_clocks --show says that the clocks still move")
    name = mode["modes"].get(mode["current"], mode["current"])
    return {
        "problems": problems,
        "mode": mode,
        "unmet": unmet,
        "report": {
            "board": answers["model"].strip(),
            "jetson_linux": release,
            "images": images_for(release, wanted["images"]),
            "power_mode": "not known" if name is None else name,
            "clocks": {True: "locked", False: "move", None: "not known"}[locked],
            "reboot_due": [f"power mode {mode['modes'][mode['id']]} is kept for the next boot"] if waits else [],
            "warnings": [] if problems else _warnings(answers, wanted),
        },
    }


class FilterModule:
    """See DOCUMENTATION."""

    def filters(self) -> dict[str, object]:
        """The filters of this file, by name."""
        return {"jetson": jetson}

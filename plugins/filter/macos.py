# Licensed under the Apache License, Version 2.0: see LICENSE in the root of the collection.
"""What a Mac is, and how its power settings should be. Pure: the role reads and writes.

Sources: pmset(1), sw_vers(1), fdesetup(8), launchctl(1) of macOS 14.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

DOCUMENTATION = """
name: macos
short_description: What a Mac is, and how its power settings should be
description:
  - Judges what the role P(surefoot.edge.macos#role) read from a Mac. Reads and writes nothing itself.
positional: _input, least_version, python_version, power
options:
  _input:
    description: What the Mac said, by P(surefoot.edge.answers#filter).
    type: dict
    required: true
  least_version:
    description: The oldest macOS that will do.
    type: str
    required: true
  python_version:
    description: The Python that must be there, as MAJOR.MINOR. Empty where none is needed.
    type: str
    required: true
  power:
    description: Settings of pmset and their values.
    type: dict
    required: true
author: [The Surefoot authors]
"""

EXAMPLES = """
mac: "{{ asked.stdout_lines | surefoot.edge.answers | surefoot.edge.macos('14.0', '3.11', {'sleep': 0}) }}"
"""

RETURN = """
_value:
  description:
    - V(problems), why the role will not work here; V(set), the arguments of pmset that are needed; V(before), the
      settings as they are, in JSON; V(unmet), what an earlier run should have set and has not; and V(report), for the
      operator.
  type: dict
"""

SOURCES = {"AC Power": "-c", "Battery Power": "-b", "UPS Power": "-u"}


def settings(text: str) -> dict[str, dict[str, int]]:
    """``pmset -g custom``: the settings of each source of power. What is no number is left out."""
    found: dict[str, dict[str, int]] = {}
    source = ""
    for line in text.splitlines():
        if header := re.match(r"(\S.*):\s*$", line):
            source = header[1]
        elif (setting := re.match(r"\s+(\S+)\s+(\d+)\b", line)) and source:
            found.setdefault(source, {})[setting[1]] = int(setting[2])
    return found


def at_least(found: str, least: str) -> bool:
    """Compare versions by their numbers."""
    return [int(part) for part in re.findall(r"\d+", found)] >= [int(part) for part in re.findall(r"\d+", least)]


def _problems(answers: Mapping[str, str], least_version: str, python_version: str) -> list[str]:
    system, machine, version = (answers[name].strip() for name in ("system", "machine", "version"))
    if system != "Darwin":
        return [f"wrong system; found {system or 'no uname'}, expected Darwin"]
    found = []
    if machine != "arm64":
        rosetta = answers["silicon"].strip() == "1"
        hint = "this shell runs under Rosetta: arch -arm64" if rosetta else "there is no bundle for Intel Macs"
        found.append(f"wrong processor; found {machine}, expected arm64: {hint}")
    if not at_least(version, least_version):
        found.append(f"macOS is too old; found {version or 'no answer'}, expected {least_version} or newer")
    if answers["user"].strip() != "0":
        found.append("power settings are root's; found another user, expected root (ansible_become: true)")
    if python_version and answers["python"].split()[:2] != [python_version, "arm64"]:
        found.append(
            f"no usable Python; found {answers['python'].strip() or 'none'}, expected {python_version} arm64 with venv "
            'and ssl: install it from python.org, or set macos_python_version: "" for a bundle that carries one'
        )
    return found


def macos(
    answers: Mapping[str, str], least_version: str, python_version: str, power: Mapping[str, int]
) -> dict[str, Any]:
    """Judge a Mac; see RETURN."""
    problems = _problems(answers, least_version, python_version)
    now = settings(answers["power"])
    # A MacBook has no autorestart; pmset takes the word and does nothing.
    known = set(answers["capabilities"].split()) | {name for values in now.values() for name in values}
    takes = {name: int(value) for name, value in power.items() if name in known}
    other = [name for name, value in takes.items() if any(values.get(name, value) != value for values in now.values())]
    warnings = [f"this Mac has no setting {name}: it stays as it is" for name in power if name not in known]
    if "On" in answers["filevault"]:
        warnings.append("FileVault is on: after a power cut nothing serves until somebody unlocks the disk at the Mac")
    return {
        "problems": problems,
        "set": [word for name, value in takes.items() for word in (name, str(value))] if other else [],
        "before": json.dumps(
            {source: {name: values[name] for name in takes if name in values} for source, values in now.items()}
        ),
        "unmet": [f"{name} is not {takes[name]} everywhere" for name in other],
        "report": {
            "macos": answers["version"].strip(),
            "python": answers["python"].strip() or "none",
            "power": {
                source: {name: values[name] for name in takes if name in values} for source, values in now.items()
            },
            "job": "loaded" if answers["job"].strip() else "not loaded",
            "warnings": warnings,
        },
    }


def macos_undone(answers: Mapping[str, str]) -> list[list[str]]:
    """The arguments of pmset that bring back what was before, one list for each source of power."""
    try:
        before = json.loads(answers["before"])
    except ValueError:
        return []  # the role never ran here
    now = settings(answers["power"])
    return [
        [SOURCES[source], *(word for name, value in values.items() for word in (name, str(value)))]
        for source, values in before.items()
        if source in SOURCES and any(now.get(source, {}).get(name) != value for name, value in values.items())
    ]


class FilterModule:
    """See DOCUMENTATION."""

    def filters(self) -> dict[str, object]:
        """The filters of this file, by name."""
        return {"macos": macos, "macos_undone": macos_undone}

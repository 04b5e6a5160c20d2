"""The lines by which the operator's tools find a host and know it again: known_hosts and the inventory.

Both work on text: what is there stays as it is, and a host is never given another key or address silently.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import shlex
from collections.abc import Sequence

from surefoot.errors import BadRequest
from surefoot.fleet.plan import Plan

GROUP = "surefoot"


def known_hosts_line(plan: Plan) -> str:
    """The line of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
    return f"{','.join(plan.names)} {plan.host_key.public}"


def with_known_host(text: str, plan: Plan, *, replace: bool) -> str:
    """The text of a known_hosts file with the host in it.

    Args:
        text: what the file says now; may be empty.
        plan: the host.
        replace: drop what it says of the host's names.

    Raises:
        BadRequest: one of the names is known with another key, and it was not to be replaced.
    """
    kept: list[str] = []
    missing = list(plan.names)
    for number, line in enumerate(text.splitlines(), 1):
        names, key = _known(line)
        ours = [name for name in plan.names if _named(name, names)]
        if ours and key != plan.host_key.public:
            if not replace:
                raise BadRequest(
                    f"{ours[0]} is known with another key",
                    found=f"line {number} of known_hosts",
                    expected=plan.host_key.public,
                    hint="if this card replaces that installation, run it again with --replace; else choose another"
                    " --host",
                )
            names = [name for name in names if name not in ours and not name.startswith("|1|")]
            if not names:
                continue
            line = " ".join([",".join(names), *line.split()[1:]])
        elif ours:
            missing = [name for name in missing if name not in ours]
        kept.append(line)
    if missing:
        kept.append(f"{','.join(missing)} {plan.host_key.public}")
    return "".join(f"{line}\n" for line in kept)


def _known(line: str) -> tuple[list[str], str]:
    fields = line.split()
    if len(fields) < 3 or fields[0].startswith(("#", "@")):
        return [], ""
    return fields[0].split(","), " ".join(fields[1:3])


def _named(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or _is_hash_of(name, pattern) for pattern in patterns)


def _is_hash_of(name: str, pattern: str) -> bool:
    """Whether a hashed entry, ``|1|salt|hash``, stands for the name."""
    parts = pattern.split("|")
    if len(parts) != 4 or parts[:2] != ["", "1"]:
        return False
    try:
        salt, expected = base64.b64decode(parts[2]), base64.b64decode(parts[3])
    except binascii.Error:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), expected)


def inventory_line(plan: Plan, known_hosts: str = "") -> str:
    """The host's line of an inventory in Ansible's INI format.

    Args:
        plan: the host.
        known_hosts: path of the file that holds its key, where that is not the one ssh reads by itself.
    """
    address = plan.names[-1] if plan.static or plan.raspberry_pi_os else plan.host
    values = {"ansible_host": address, "ansible_user": plan.user, "ansible_python_interpreter": "/usr/bin/python3"}
    if known_hosts:
        values["ansible_ssh_common_args"] = f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={known_hosts}"
    return " ".join([plan.host, *(f"{name}={shlex.quote(value)}" for name, value in values.items())])


def with_inventory_line(text: str, plan: Plan, line: str, *, replace: bool) -> str:
    """The text of an INI inventory with the host in it.

    Raises:
        BadRequest: it is not in that format, or has the host with other values and that was not to be replaced.
    """
    lines = text.splitlines()
    first = next((row.strip() for row in lines if row.strip() and not row.strip().startswith(("#", ";"))), "[")
    if first.startswith(("---", "{")) or first.endswith(":"):
        raise BadRequest(
            "that inventory is not in the INI format",
            found=first[:60],
            expected="lines such as: host ansible_host=192.0.2.7",
            hint="name another file beside it, such as hosts.ini: Ansible reads every file of an inventory's folder",
        )
    section = ""
    for number, row in enumerate(lines):
        if row.strip().startswith("["):
            section = row.strip()
        # A line in [group:vars] or [group:children] names no host.
        if row.split()[:1] != [plan.host] or ":" in section or row == line:
            continue
        if "=" not in row:  # the host as a member of another group
            continue
        if not replace:
            raise BadRequest(
                f"{plan.host} is in the inventory with other values",
                found=f"line {number + 1}: {row}",
                expected=line,
                hint="run it again with --replace, or choose another --host",
            )
        lines[number] = line
    if line not in lines:
        lines += [*([""] if lines else []), f"[{GROUP}]", line] if section != f"[{GROUP}]" else [line]
    return "".join(f"{row}\n" for row in lines)

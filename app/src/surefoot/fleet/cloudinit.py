"""The files of cloud-init's NoCloud source, for Raspberry Pi OS trixie, Ubuntu and Debian.

References: https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html and
https://netplan.readthedocs.io/en/stable/netplan-yaml/.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surefoot.fleet.plan import Plan, Wired

ROOT_SIZE_SCRIPT = Path(__file__).with_name("root_size.sh").read_text()
ROOT_SIZE = "/usr/local/sbin/surefoot-root-size"
# Where Raspberry Pi OS and Ubuntu for the Raspberry Pi mount the partition that holds the seed.
BOOT = "/boot/firmware"
# Not to be taken for a first boot again, even where the medium with the seed is gone by then.
KEPT = {"growpart": {"mode": "off"}, "resize_rootfs": False, "ssh_deletekeys": False}


def files(plan: Plan) -> dict[str, str]:
    """Name and content of each file."""
    meta = {"dsmode": "local", "instance-id": plan.instance, "local-hostname": plan.host}
    return {
        "meta-data": _lines(meta),
        "network-config": _lines({"network": network(plan)}),
        "user-data": "#cloud-config\n" + _lines(user_data(plan)),
    }


def user_data(plan: Plan) -> dict[str, Any]:
    """The cloud-config.

    `user` and not `users`: the distribution's first user is renamed and keeps its groups (gpio, video, …). Root grows
    to a limit by a command of ours and in no other way, so that /data fits behind it.
    """
    user: dict[str, Any] = {
        "name": plan.user,
        "shell": "/bin/bash",
        "lock_passwd": not plan.password_hash,
        "ssh_authorized_keys": list(plan.authorised_keys),
        "sudo": "ALL=(ALL) NOPASSWD:ALL",  # a list, too, is fine from cloud-init 23 on
    }
    if plan.password_hash:
        user["passwd"] = plan.password_hash
    written = [
        {"path": ROOT_SIZE, "permissions": "0755", "content": ROOT_SIZE_SCRIPT},
        {"path": "/etc/cloud/cloud.cfg.d/99-surefoot.cfg", "permissions": "0644", "content": _lines(KEPT)},
    ]
    config: dict[str, Any] = {
        "hostname": plan.host,
        "manage_etc_hosts": "localhost",
        "timezone": plan.time_zone,
        "user": user,
        "disable_root": True,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": plan.host_key.private, "ed25519_public": plan.host_key.public},
        "growpart": {"mode": "off"},
        "resize_rootfs": False,
        "write_files": written,
    }
    commands: list[list[str]] = [[ROOT_SIZE, str(plan.root_gib)]]
    if plan.raspberry_pi_os:
        # The image's own unit would replace the host key; its sshd is off until asked for.
        config["bootcmd"] = [["systemctl", "mask", "--now", "regenerate_ssh_host_keys.service"]]
        commands.append(["systemctl", "enable", "--now", "ssh"])
        if plan.wifi:
            commands.append(["rfkill", "unblock", "wifi"])
    # Every user of the device can read that partition. network-config is read at the first boot only.
    commands.append(["sh", "-c", f"test ! -e {BOOT}/user-data || sed -i '/^\"ssh_keys\":/d' {BOOT}/user-data"])
    commands.append(["rm", "-f", f"{BOOT}/network-config"])
    config["runcmd"] = commands
    return config


def network(plan: Plan) -> dict[str, Any]:
    """netplan, version 2. DHCP but for the interface that has a fixed address."""
    wired: dict[str, Any] = {"optional": True, **_addresses(None if plan.wifi else plan.static)}
    # Raspberry Pi OS renders for NetworkManager, by name; a PC's cards are called enp3s0 and the like.
    ethernets = {"eth0": wired} if plan.raspberry_pi_os else {"wired": {"match": {"name": "e*"}, **wired}}
    config: dict[str, Any] = {"version": 2, "ethernets": ethernets}
    if plan.wifi:
        wireless = {
            "optional": True,
            "regulatory-domain": plan.wifi.country,
            # 64 hexadecimal digits are taken for the key itself.
            "access-points": {plan.wifi.ssid: {"password": plan.wifi.psk}},
            **_addresses(plan.static),
        }
        config["wifis"] = {"wlan0": wireless}
    return config


def _addresses(static: Wired | None) -> dict[str, Any]:
    if static is None:
        return {"dhcp4": True}
    found: dict[str, Any] = {"dhcp4": False, "addresses": [static.address]}
    if static.gateway:
        found["routes"] = [{"to": "default" if ":" not in static.gateway else "::/0", "via": static.gateway}]
    if static.dns:
        found["nameservers"] = {"addresses": list(static.dns)}
    return found


def _lines(value: dict[str, Any]) -> str:
    """JSON, one top-level key a line.

    JSON is YAML (1.2, and what PyYAML reads of it is enough as long as it is ASCII), needs no library, and its quoting
    leaves nothing to guess. A line a key lets a first boot remove one with sed: the last one sorts after ssh_keys.
    """
    parts = [f"{json.dumps(key)}: {json.dumps(part)}" for key, part in sorted(value.items())]
    return "{\n" + ",\n".join(parts) + "\n}\n"

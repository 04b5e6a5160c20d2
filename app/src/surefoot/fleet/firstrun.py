"""The files of a first boot without cloud-init: Raspberry Pi OS bookworm, as Raspberry Pi Imager seeds it."""

from __future__ import annotations

import re
import shlex
import uuid
from pathlib import Path

from surefoot.fleet.cloudinit import BOOT, ROOT_SIZE_SCRIPT
from surefoot.fleet.plan import Plan, Wired

STEPS = Path(__file__).with_name("firstrun.sh").read_text()
MARK = "# -- values --\n"


def files(plan: Plan) -> dict[str, str]:
    """Name and content of each file."""
    values = {
        "BOOT": BOOT,
        "HOST": plan.host,
        "LOGIN": plan.user,
        "PASSWORD_HASH": plan.password_hash,
        "AUTHORISED_KEYS": "\n".join(plan.authorised_keys),
        "HOST_KEY": plan.host_key.private.rstrip("\n"),
        "HOST_KEY_PUBLIC": plan.host_key.public,
        "TIME_ZONE": plan.time_zone,
        "WIRED": _wired(plan),
        "WIFI": _wifi(plan),
        "ROOT_GIB": str(plan.root_gib),
        "ROOT_SIZE_SCRIPT": ROOT_SIZE_SCRIPT.rstrip("\n"),
    }
    head, steps = STEPS.split(MARK)
    return {"firstrun.sh": head + "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()) + steps}


def _wired(plan: Plan) -> str:
    if plan.wifi or plan.static is None:
        return ""  # NetworkManager's own default, which is DHCP
    return _connection("surefoot-wired", "ethernet", plan, [])


def _wifi(plan: Plan) -> str:
    if plan.wifi is None:
        return ""
    ssid = plan.wifi.ssid
    if not re.fullmatch(r"[A-Za-z0-9_-]+", ssid):  # the bytes in decimal: a keyfile's way to write any name
        ssid = "".join(f"{byte};" for byte in ssid.encode())
    wifi = ["[wifi]", "mode=infrastructure", f"ssid={ssid}", ""]
    return _connection(
        "surefoot-wifi", "wifi", plan, [*wifi, "[wifi-security]", "key-mgmt=wpa-psk", f"psk={plan.wifi.psk}", ""]
    )


def _connection(name: str, kind: str, plan: Plan, more: list[str]) -> str:
    # The same id at each run, so that a second one changes nothing.
    lines = ["[connection]", f"id={name}", f"uuid={uuid.uuid5(uuid.NAMESPACE_DNS, f'{plan.instance}.{name}')}"]
    lines += [f"type={kind}", "", *more]
    for family in (4, 6):
        lines += [f"[ipv{family}]", *_addresses(plan.static, family), ""]
    return "\n".join(lines).rstrip("\n")


def _addresses(static: Wired | None, family: int) -> list[str]:
    if static is None or (":" in static.address) != (family == 6):
        return ["method=auto"]
    found = ["method=manual", f"address1={static.address}" + (f",{static.gateway}" if static.gateway else "")]
    servers = [server for server in static.dns if (":" in server) == (family == 6)]
    return found + ([f"dns={';'.join(servers)};"] if servers else [])

"""``surefoot device``: prepares new devices, beside the operator."""

from __future__ import annotations

import os
from pathlib import Path

import click

from surefoot.cli.output import emit, json_option
from surefoot.durable import Disk, read_bounded
from surefoot.errors import BadRequest
from surefoot.fleet import plan as planning
from surefoot.fleet.identity import authorised_keys, check_password_hash, make_host_key
from surefoot.fleet.seed import Places, Seeded, earlier_host_key, seed

WIFI_VARIABLE = "SUREFOOT_WIFI_PASSPHRASE"
MOST_BYTES = 1 << 16
READABLE = click.Path(path_type=Path, dir_okay=False, exists=True)
WRITABLE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def device() -> None:
    """Prepare new devices."""


@device.command("seed")
@click.option("--host", required=True, metavar="NAME", help="Name of the host, without a domain.")
@click.option(
    "--os",
    "operating_system",
    required=True,
    type=click.Choice(planning.OPERATING_SYSTEMS),
    help="What is on the card or disk.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The card's mounted boot partition; elsewhere the folder that becomes a medium named CIDATA.",
)
@click.option("--user", required=True, metavar="NAME", help="Who Ansible logs in as; gets sudo without a password.")
@click.option(
    "--authorized-key",
    "key_files",
    required=True,
    multiple=True,
    type=READABLE,
    help="Public SSH keys that may log in. May be given more than once.",
)
@click.option(
    "--password-hash-file",
    type=READABLE,
    help="First line is a hashed password for the console. Without it the user has none; SSH never takes one.",
)
@click.option("--wifi-ssid", default="", metavar="NAME", help="Wi-Fi network to join.")
@click.option(
    "--wifi-passphrase-file",
    type=READABLE,
    help=f"First line is the network's passphrase. Default: ${WIFI_VARIABLE}, else you are asked.",
)
@click.option("--wifi-country", default="", metavar="CODE", help="Where the Wi-Fi is used, such as GB.")
@click.option(
    "--address",
    default="",
    metavar="ADDRESS/LENGTH",
    help="Fixed address, of the Wi-Fi if there is one. Default: DHCP.",
)
@click.option("--gateway", default="", metavar="ADDRESS", help="Router, with --address.")
@click.option(
    "--dns", multiple=True, metavar="ADDRESS", help="Name server, with --address. May be given more than once."
)
@click.option(
    "--root-size",
    "root_gib",
    type=int,
    default=planning.DEFAULT_ROOT_GIB,
    show_default=True,
    metavar="GIB",
    help="How large the root may grow. The rest of the disk is left for /data.",
)
@click.option("--timezone", "time_zone", default="Etc/UTC", show_default=True, metavar="NAME", help="Time zone.")
@click.option("--inventory", type=WRITABLE, help="Inventory (INI) to add the host to.")
@click.option("--known-hosts", type=WRITABLE, help="SSH's list of known hosts to add the host's key to.")
@click.option("--replace", is_flag=True, help="Let a known host have another key or other values.")
@json_option
def seed_command(
    host: str,
    operating_system: planning.OperatingSystem,
    out: Path,
    user: str,
    key_files: tuple[Path, ...],
    password_hash_file: Path | None,
    wifi_ssid: str,
    wifi_passphrase_file: Path | None,
    wifi_country: str,
    address: str,
    gateway: str,
    dns: tuple[str, ...],
    root_gib: int,
    time_zone: str,
    inventory: Path | None,
    known_hosts: Path | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Write what a new device reads at its first boot, so that Ansible can reach it and know it for certain.

    The host's SSH key is made here, and its public half is written to --known-hosts: the first login is checked like
    every later one. The root's growth is limited, so that /data fits. A second run with the same --out changes
    nothing. Not verified on hardware.
    """
    if not address and (gateway or dns):
        raise BadRequest("--gateway and --dns belong to a fixed address", hint="give --address too")
    if not wifi_ssid and (wifi_passphrase_file or wifi_country):
        raise BadRequest("--wifi-passphrase-file and --wifi-country belong to a network", hint="give --wifi-ssid too")
    keys = [key for file in key_files for key in authorised_keys(_text(file), str(file))]
    hashed = _line(password_hash_file) if password_hash_file else ""
    host, user = planning.check_host(host), planning.check_user(user)
    plan = planning.Plan(
        host=host,
        operating_system=operating_system,
        user=user,
        authorised_keys=tuple(dict.fromkeys(keys)),
        host_key=earlier_host_key(out, host) or make_host_key(),
        password_hash=check_password_hash(hashed, (user, host)) if password_hash_file else "",
        root_gib=planning.check_root_gib(root_gib),
        time_zone=planning.check_time_zone(time_zone),
        static=planning.check_static(address, gateway, dns) if address else None,
        wifi=planning.check_wifi(wifi_ssid, _wifi_passphrase(wifi_passphrase_file), wifi_country, operating_system)
        if wifi_ssid
        else None,
    )
    places = Places(folder=out, inventory=inventory, known_hosts=known_hosts)
    done = seed(plan, places, replace=replace, disk=Disk())
    emit(as_json, done, lambda: _sentences(done))


def _sentences(done: Seeded) -> str:
    wrote = [f"wrote {path}" for path in done.changed] or ["nothing to change"]
    return "\n".join(
        [
            *wrote,
            f"host key {done.fingerprint}",
            "",
            f"known_hosts  {done.known_hosts_line}",
            f"inventory    {done.inventory_line}",
            "",
            f"What was written for {done.host}'s first boot holds secrets: keep the card, and keep no copy.",
        ]
    )


def _wifi_passphrase(file: Path | None) -> str:
    if file is not None:
        return _line(file)
    if WIFI_VARIABLE in os.environ:
        return os.environ[WIFI_VARIABLE]
    return str(click.prompt("Passphrase of the Wi-Fi network", hide_input=True, err=True, default=""))


def _line(file: Path) -> str:
    return _text(file).split("\n")[0].rstrip("\r")


def _text(file: Path) -> str:
    try:
        return read_bounded(file, MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read {file}", found=str(error)) from error

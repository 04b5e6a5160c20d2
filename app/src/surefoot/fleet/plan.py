"""What a new host shall be, checked before anything is written."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import zoneinfo
from typing import Literal, get_args

import msgspec

from surefoot.errors import BadRequest
from surefoot.fleet.identity import HostKey

OperatingSystem = Literal["raspios-trixie", "raspios-bookworm", "ubuntu", "debian"]
OPERATING_SYSTEMS: tuple[OperatingSystem, ...] = get_args(OperatingSystem)
DEFAULT_ROOT_GIB = 8
LEAST_ROOT_GIB, MOST_ROOT_GIB = 4, 1024
# RFC 1123, 2.1: what a host name's label may be. In lower case, so that every tool finds the same host.
HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# What Raspberry Pi OS's userconf takes, and useradd(8) elsewhere.
USER = re.compile(r"[a-z][a-z0-9-]{0,31}")
RESERVED_HOSTS = {"all", "localhost", "ungrouped"}  # they mean something else to Ansible, or to everybody
# Names that Debian's base-passwd and usual packages take: users and groups.
RESERVED_USERS = {
    "adm", "audio", "avahi", "backup", "bin", "cdrom", "crontab", "daemon", "default", "dialout", "dip", "disk",
    "fax", "floppy", "games", "gnats", "input", "irc", "kmem", "list", "lp", "mail", "man", "messagebus", "netdev",
    "news", "nobody", "nogroup", "operator", "plugdev", "polkitd", "proxy", "render", "root", "sasl", "shadow",
    "src", "ssh", "sshd", "staff", "sudo", "sync", "sys", "systemd-network", "systemd-resolve", "systemd-timesync",
    "tape", "tty", "users", "utmp", "uucp", "video", "voice", "www-data",
}  # fmt: skip
PSK_ROUNDS, PSK_BYTES = 4096, 32  # IEEE 802.11i, H.4.1


class Wifi(msgspec.Struct, frozen=True):
    """A network to join. ``psk`` is 64 hexadecimal digits, ``country`` a two-letter code."""

    ssid: str
    psk: str
    country: str


class Wired(msgspec.Struct, frozen=True):
    """A fixed address: ``192.0.2.7/24``, the router, name servers."""

    address: str
    gateway: str
    dns: tuple[str, ...]

    @property
    def ip(self) -> str:
        """The address without its prefix length."""
        return self.address.split("/", maxsplit=1)[0]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A host to be. ``static`` belongs to Wi-Fi where there is one, else to the cable."""

    host: str
    operating_system: OperatingSystem
    user: str
    authorised_keys: tuple[str, ...]
    host_key: HostKey
    password_hash: str = ""
    wifi: Wifi | None = None
    static: Wired | None = None
    root_gib: int = DEFAULT_ROOT_GIB
    time_zone: str = "Etc/UTC"

    @property
    def raspberry_pi_os(self) -> bool:
        """Its boot partition has a cmdline.txt that takes part in the first boot."""
        return self.operating_system.startswith("raspios")

    @property
    def instance(self) -> str:
        """cloud-init's name of this installation: another host key is another installation."""
        return f"surefoot-{self.host}-{hashlib.sha256(self.host_key.public.encode()).hexdigest()[:12]}"

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it will be called by. Raspberry Pi OS answers to NAME.local (multicast DNS)."""
        local = (f"{self.host}.local",) if self.raspberry_pi_os else ()
        return (self.host, *local, *((self.static.ip,) if self.static else ()))


def check_host(name: str) -> str:
    """A host's name, without a domain.

    Raises:
        BadRequest: it is none.
    """
    if not HOST.fullmatch(name) or name in RESERVED_HOSTS or name.isdigit():
        raise BadRequest(
            "that is no name for a host",
            found=ascii(name),
            expected="one label: 1 to 63 of a-z, 0-9 and '-', not at either end, not digits alone; no domain",
        )
    return name


def check_user(name: str) -> str:
    """A login name.

    Raises:
        BadRequest: it is none, or belongs to the system.
    """
    if not USER.fullmatch(name) or name in RESERVED_USERS:
        raise BadRequest(
            "that is no name for a user",
            found=ascii(name),
            expected="1 to 32 of a-z, 0-9 and '-', a letter first, and no user or group of the system",
        )
    return name


def check_time_zone(name: str) -> str:
    """A name of the time zone database.

    Raises:
        BadRequest: there is no such zone.
    """
    known = zoneinfo.available_timezones()
    if not re.fullmatch(r"[A-Za-z0-9_+/-]{1,64}", name) or (known and name not in known):
        raise BadRequest("that is no time zone", found=ascii(name), expected="a name such as Europe/London or Etc/UTC")
    return name


def check_wifi(ssid: str, passphrase: str, country: str, operating_system: OperatingSystem) -> Wifi:
    """A Wi-Fi network, its passphrase turned into the key that is derived from it.

    Args:
        ssid: the network's name.
        passphrase: 8 to 63 printable ASCII characters, or the key itself as 64 hexadecimal digits.
        country: ISO 3166 code; without it the radio stays off.
        operating_system: what will use it.

    Raises:
        BadRequest: one of them is not usable. The passphrase is never in the message.
    """
    if operating_system == "debian":
        raise BadRequest(
            "Debian's cloud images cannot join a Wi-Fi network",
            found="--wifi-ssid with --os debian",
            hint="first contact by cable; they carry neither wpasupplicant nor firmware",
        )
    # Quotes and backslashes are legal in a name, but not every renderer between here and the radio escapes them.
    if not 1 <= len(ssid.encode()) <= 32 or not ssid.isprintable() or any(sign in ssid for sign in '"\\'):
        raise BadRequest(
            "that Wi-Fi name cannot be used",
            found=ascii(ssid),
            expected="1 to 32 bytes, printable, without double quotes and backslashes",
        )
    if not re.fullmatch(r"[A-Z]{2}", country):
        raise BadRequest(
            "Wi-Fi needs the country it is used in",
            found=ascii(country) if country else "none",
            expected="two capital letters, such as GB",
            hint="--wifi-country: without it the radio stays off",
        )
    return Wifi(ssid, _psk(ssid, passphrase), country)


def _psk(ssid: str, passphrase: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{64}", passphrase):
        return passphrase.lower()
    if not 8 <= len(passphrase) <= 63 or not all(" " <= sign <= "~" for sign in passphrase):
        raise BadRequest(
            "that Wi-Fi passphrase cannot be one",
            found=f"{len(passphrase)} characters",
            expected="8 to 63 printable ASCII characters, or a key of 64 hexadecimal digits",
        )
    return hashlib.pbkdf2_hmac("sha1", passphrase.encode(), ssid.encode(), PSK_ROUNDS, PSK_BYTES).hex()


def check_static(address: str, gateway: str, dns: tuple[str, ...]) -> Wired:
    """A fixed address.

    Raises:
        BadRequest: one of them is none, or they do not fit together.
    """
    try:
        interface = ipaddress.ip_interface(address)
        servers = tuple(str(ipaddress.ip_address(server)) for server in dns)
        router = ipaddress.ip_address(gateway) if gateway else None
    except ValueError as error:
        raise BadRequest("that is no address", found=str(error), expected="such as --address 192.0.2.7/24") from error
    network = interface.network
    if "/" not in address or interface.ip in (network.network_address, network.broadcast_address):
        raise BadRequest(
            "that address is not one of a host in its network",
            found=address,
            expected="a host's address and the length of its network's prefix, such as 192.0.2.7/24",
        )
    if router is not None and (router not in network or router == interface.ip):
        raise BadRequest("that router is not in the network", found=gateway, expected=f"another host in {network}")
    return Wired(str(interface), str(router or ""), servers)


def check_root_gib(gib: int) -> int:
    """How large the root may grow, in GiB.

    Raises:
        BadRequest: too small for a system and its updates, or beyond any card.
    """
    if not LEAST_ROOT_GIB <= gib <= MOST_ROOT_GIB:
        raise BadRequest(
            "the root cannot have that size", found=f"{gib} GiB", expected=f"{LEAST_ROOT_GIB} to {MOST_ROOT_GIB} GiB"
        )
    return gib

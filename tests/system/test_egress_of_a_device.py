"""What leaves a sealed device: every packet on its wire, from before it boots."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.system.conftest import Sealing
from tests.system.sealing import SERVES

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]
HEAD, PACKET = struct.Struct("<IHHiIII"), struct.Struct("<IIII")
ETHERNET, ARP, IPV4, IPV6 = 14, 0x0806, 0x0800, 0x86DD
OWN = bytes.fromhex("525400123456")  # QEMU's first card


def _sent(capture: Path) -> list[str]:
    """What the device sent, in words, but for its answers to the operator's SSH."""
    data, found = capture.read_bytes(), list[str]()
    place = HEAD.size
    while place + PACKET.size <= len(data):
        _, _, length, _ = PACKET.unpack_from(data, place)
        frame = data[place + PACKET.size : place + PACKET.size + length]
        place += PACKET.size + length
        if frame[6:12] != OWN:
            continue
        kind = int.from_bytes(frame[12:14], "big")
        packet = frame[ETHERNET:]
        if kind == IPV4:
            protocol, start = packet[9], (packet[0] & 15) * 4
            source, target = (int.from_bytes(packet[start + at : start + at + 2], "big") for at in (0, 2))
            if protocol == 6 and source == 22:
                continue
            found.append(f"IPv4 {'.'.join(map(str, packet[16:20]))} protocol {protocol} port {target}")
        elif kind == IPV6:
            found.append(f"IPv6 {packet[24:40].hex(':', 2)} next {packet[6]} type {packet[40]}")
        elif kind != ARP:
            found.append(f"ethernet {kind:#06x}")
    return found


def test_nothing_leaves_a_device_but_what_is_listed(sealed_device: Sealing, tmp_path: Path) -> None:
    capture = tmp_path / "wire.pcap"
    dump = ("-object", f"filter-dump,id=wire,netdev=net,file={capture}")
    device = sealed_device(boots=True, more=dump)
    machine = device.machine.start()
    machine.wait(SERVES)
    assert '"locked": true' in machine.run("surefoot-egress status")
    ask = (
        "python3 -c 'import socket; s = socket.socket(socket.{family}, socket.{kind}); s.settimeout(3); "
        's.{verb}((\\"{address}\\", {port}))\''
    )
    tries = [
        ask.format(family="AF_INET", kind="SOCK_STREAM", verb="connect", address="10.0.2.2", port=80),
        ask.format(family="AF_INET6", kind="SOCK_STREAM", verb="connect", address="2001:db8::1", port=80),
        "getent ahosts example.com",
        "ping -c 1 -W 2 10.0.2.2",
    ]
    for line in (*tries, "systemctl start docker; sleep 5", *tries, "systemctl restart docker; sleep 5", *tries):
        machine.run(line, check=False)
    machine.shut_down()
    sent = _sent(capture)
    # Neighbour discovery and the joining of its own multicast groups, by the kernel, stay on the wire.
    left = [
        each
        for each in sent
        if not (each.startswith("IPv6 ff02") and each.rpartition(" ")[2] in ("0", "135", "133", "143"))
    ]
    assert left == [], "\n".join(sorted(set(left)))

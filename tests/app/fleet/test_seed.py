"""What a seed says, and that it is written whole or not at all."""

from __future__ import annotations

import json
import stat
import subprocess

import pytest

from surefoot.errors import BadRequest
from surefoot.fleet import plan as planning
from tests.app.fleet.conftest import OPERATING_SYSTEMS, PASSPHRASE, user_data

WIFI = ("--wifi-ssid", "Bob's net", "--wifi-country", "GB")


@pytest.mark.parametrize("system", OPERATING_SYSTEMS)
def test_a_second_run_changes_nothing(desk, system):
    card = desk.card(system)
    assert desk.seed(system, card)["changed"]
    before = desk.everything()
    assert desk.seed(system, card)["changed"] == []
    assert desk.everything() == before


@pytest.mark.parametrize("system", OPERATING_SYSTEMS)
def test_only_the_operator_can_read_what_holds_secrets(desk, system):
    done = desk.seed(system, desk.card(system))
    secret = [name for name, (content, _) in desk.everything().items() if b"PRIVATE KEY" in content and name != "id"]
    assert secret
    for name in secret:
        assert stat.S_IMODE((desk.folder / name).stat().st_mode) == 0o600
    assert "PRIVATE KEY" not in json.dumps(done)


@pytest.mark.parametrize("system", ["raspios-trixie", "raspios-bookworm", "ubuntu"])
def test_a_wifi_passphrase_is_nowhere_in_clear(desk, system):
    card = desk.card(system)
    desk.seed(system, card, *WIFI)
    derived = planning.check_wifi("Bob's net", PASSPHRASE, "GB", system).psk
    contents = [content for content, _ in desk.everything().values()]
    assert any(derived.encode() in content for content in contents)
    assert not any(PASSPHRASE.encode() in content for content in contents)


def test_the_wifi_key_is_the_one_of_the_standard():
    # IEEE 802.11i-2004, H.4.3, test case 1.
    psk = planning.check_wifi("IEEE", "password", "GB", "ubuntu").psk
    assert psk == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"


@pytest.mark.parametrize("system", ["raspios-trixie", "raspios-bookworm"])
def test_nothing_that_grows_the_root_stays_on_the_kernel_command_line(desk, system):
    card = desk.card(system)
    desk.seed(system, card)
    line = (card / "cmdline.txt").read_text()
    assert " resize" not in line  # what resize_early looks for
    assert "firstboot" not in line  # what bookworm's initramfs looks for
    assert "root=PARTUUID=" in line
    assert "rootwait" in line


@pytest.mark.parametrize("system", ["raspios-trixie", "ubuntu", "debian"])
def test_cloud_init_grows_nothing_by_itself(desk, system):
    card = desk.card(system)
    desk.seed(system, card, "--root-size", "12")
    config = user_data(card)
    assert (config["growpart"], config["resize_rootfs"]) == ({"mode": "off"}, False)
    assert config["runcmd"][0] == ["/usr/local/sbin/surefoot-root-size", "12"]


@pytest.mark.parametrize("system", ["raspios-trixie", "ubuntu", "debian"])
def test_nobody_logs_in_by_password_and_the_user_has_none(desk, system):
    card = desk.card(system)
    desk.seed(system, card)
    config = user_data(card)
    assert config["ssh_pwauth"] is False
    assert config["user"]["lock_passwd"] is True
    assert "passwd" not in config["user"]


def test_the_first_boot_takes_the_host_key_off_the_boot_partition_and_leaves_a_valid_seed(desk, tmp_path):
    card = desk.card("raspios-trixie")
    desk.seed("raspios-trixie", card, *WIFI)
    for command in user_data(card)["runcmd"][-2:]:
        subprocess.run([part.replace("/boot/firmware", str(card)) for part in command], check=True)
    left = user_data(card)
    assert "ssh_keys" not in left
    assert left["growpart"] == {"mode": "off"}
    assert not (card / "network-config").exists()


def test_another_installation_of_a_known_host_is_refused_and_can_replace_it(desk):
    desk.known_hosts.write_text("# mine\nother ssh-rsa AAAA\n")
    first = desk.seed("ubuntu", desk.card("ubuntu"))
    before = desk.everything()
    second = desk.card("ubuntu", "second")
    refused = desk.seed("ubuntu", second, status=2)
    assert "another key" in refused["what"]
    assert desk.everything() == before
    done = desk.seed("ubuntu", second, "--replace")
    text = desk.known_hosts.read_text()
    assert text.startswith("# mine\nother ssh-rsa AAAA\n")
    assert done["known_hosts_line"] in text
    assert first["known_hosts_line"] not in text


def test_a_hashed_entry_of_known_hosts_counts_as_known(desk):
    desk.seed("ubuntu", desk.card("ubuntu"))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(desk.known_hosts)], check=True, capture_output=True)
    assert "cam-1" not in desk.known_hosts.read_text()
    assert "another key" in desk.seed("ubuntu", desk.card("ubuntu", "second"), status=2)["what"]


def test_two_hosts_in_one_folder_do_not_get_the_same_key(desk):
    card = desk.card("ubuntu")
    assert desk.seed("ubuntu", card)["fingerprint"] != desk.seed("ubuntu", card, host="cam-2")["fingerprint"]


def test_a_host_with_other_values_in_the_inventory_is_refused(desk):
    desk.inventory.write_text("[surefoot]\ncam-1 ansible_host=192.0.2.1\n")
    before = desk.everything()
    assert "other values" in desk.seed("ubuntu", desk.card("ubuntu"), status=2)["what"]
    assert desk.everything() == before


def hash_of(password: str) -> str:
    made = subprocess.run(["openssl", "passwd", "-6", password], check=True, capture_output=True, text=True)
    return made.stdout.strip()


@pytest.mark.parametrize("password", ["raspberry", "ubuntu", "pi", "jetson", "nvidia", "fleet", "cam-1"])
def test_the_hash_of_a_default_password_is_refused(desk, has_tool, password):
    has_tool("openssl")
    card = desk.card("ubuntu")
    (desk.folder / "hash").write_text(hash_of(password))
    before = desk.everything()
    refused = desk.seed("ubuntu", card, "--password-hash-file", "hash", status=2)
    assert refused["what"] == "that is the hash of a default password"
    assert desk.everything() == before


def test_the_hash_of_another_password_is_taken_for_the_console(desk, has_tool):
    has_tool("openssl")
    hashed = hash_of("nobody looks this up")
    (desk.folder / "hash").write_text(hashed)
    card = desk.card("ubuntu")
    desk.seed("ubuntu", card, "--password-hash-file", "hash")
    assert user_data(card)["user"]["passwd"] == hashed
    assert user_data(card)["ssh_pwauth"] is False


LONG = "a" * 64
BAD = {
    "a plain password": (["--password-hash-file", "bad"], "raspberry2026", "no hashed password"),
    "an old hash": (["--password-hash-file", "bad"], "$1$abcdefgh$PN9y4IT8Cem9.nTYVSWSm1", "no hashed password"),
    "a private key": (["--authorized-key", "id"], "", "private key"),
    "no key at all": (["--authorized-key", "bad"], "hello\n", "no usable key"),
    "an empty key file": (["--authorized-key", "bad"], "# nothing\n", "holds no key"),
    "a key with options": (["--authorized-key", "bad"], 'command="sh" ssh-ed25519 AAAA\n', "no usable key"),
    "a network name with a newline": (["--wifi-ssid", "a\nb", "--wifi-country", "GB"], "", "Wi-Fi name"),
    "a network name with a quote": (["--wifi-ssid", 'a"b', "--wifi-country", "GB"], "", "Wi-Fi name"),
    "a network name that is too long": (["--wifi-ssid", "é" * 17, "--wifi-country", "GB"], "", "Wi-Fi name"),
    "no country": (["--wifi-ssid", "net"], "", "country"),
    "a short passphrase": (
        ["--wifi-ssid", "net", "--wifi-country", "GB", "--wifi-passphrase-file", "bad"], "short", "passphrase",
    ),
    "a country without a network": (["--wifi-country", "GB"], "", "belong to a network"),
    "an address without a prefix": (["--address", "192.0.2.7"], "", "not one of a host"),
    "a network's address": (["--address", "192.0.2.0/24"], "", "not one of a host"),
    "nonsense for an address": (["--address", "here"], "", "no address"),
    "a router elsewhere": (["--address", "192.0.2.7/24", "--gateway", "198.51.100.1"], "", "router"),
    "a router without an address": (["--gateway", "192.0.2.1"], "", "fixed address"),
    "a root that is too small": (["--root-size", "1"], "", "root cannot have that size"),
    "an unknown time zone": (["--timezone", "Mars/Olympus"], "", "no time zone"),
    "a shell's time zone": (["--timezone", "$(reboot)"], "", "no time zone"),
    "a user of the system": (["--user", "root"], "", "name for a user"),
    "a user that is a shell's word": (["--user", "a;reboot"], "", "name for a user"),
    "a host with a domain": (["--host", "cam.example.org"], "", "name for a host"),
    "a host in capitals": (["--host", "Cam-1"], "", "name for a host"),
    "a host that is too long": (["--host", LONG], "", "name for a host"),
    "a host with a newline": (["--host", "cam\n- evil"], "", "name for a host"),
    "a host that is a shell's word": (["--host", "$(reboot)"], "", "name for a host"),
    "a folder that is not there": (["--out", "nowhere"], "", "no folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("system", ["ubuntu", "raspios-bookworm"])
def test_bad_input_is_refused_with_a_message_and_nothing_is_written(desk, system, case):
    more, content, message = BAD[case]
    card = desk.card(system)
    (desk.folder / "bad").write_text(content)
    before = desk.everything()
    refused = desk.seed(system, card, *more, status=2)
    assert message in refused["what"] + refused["expected"]
    assert desk.everything() == before
    assert not list(desk.folder.rglob(".tmp-*"))


def test_a_card_that_is_not_raspberry_pi_os_is_refused(desk):
    refused = desk.seed("raspios-trixie", desk.card("ubuntu"), status=2)
    assert "cmdline.txt" in refused["found"]


def test_an_inventory_in_yaml_is_refused_and_left_alone(desk):
    desk.inventory.write_text("---\nsurefoot:\n  hosts:\n")
    before = desk.everything()
    assert "INI" in desk.seed("ubuntu", desk.card("ubuntu"), status=2)["what"]
    assert desk.everything() == before


def test_a_refused_place_for_one_file_leaves_all_the_others_unwritten(desk):
    card = desk.card("ubuntu")
    before = desk.everything()
    desk.seed("ubuntu", card, "--inventory", str(desk.folder / "none" / "hosts.ini"), status=4)
    assert desk.everything() == before


def test_a_link_to_a_list_of_known_hosts_stays_a_link(desk):
    real = desk.folder / "dotfiles"
    real.write_text("other ssh-rsa AAAA\n")
    desk.known_hosts.symlink_to(real)
    done = desk.seed("ubuntu", desk.card("ubuntu"))
    assert desk.known_hosts.is_symlink()
    assert real.read_text() == f"other ssh-rsa AAAA\n{done['known_hosts_line']}\n"


def test_wifi_is_refused_where_the_image_cannot_join_one():
    with pytest.raises(BadRequest, match="Debian's cloud images"):
        planning.check_wifi("net", PASSPHRASE, "GB", "debian")


def test_the_passphrase_is_never_in_a_message(desk):
    (desk.folder / "bad").write_text("hunter2")
    arguments = desk.arguments("ubuntu", desk.card("ubuntu"), "--wifi-passphrase-file", "bad", *WIFI)
    status, out, err = desk.run(*arguments)
    assert status == 2
    assert "passphrase" in err
    assert "hunter2" not in out + err

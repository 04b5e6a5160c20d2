"""The kernel command line of Raspberry Pi OS, which starts the first boot and grows the root."""

from __future__ import annotations

from surefoot.errors import BadRequest
from surefoot.fleet.cloudinit import BOOT
from surefoot.fleet.plan import Plan

# What grows the root over the whole card. bookworm: the initramfs and init act on this script's name. trixie: the
# initramfs acts on any word that begins with "resize" (raspberrypi-sys-mods, local-premount/resize_early).
GROWS = ("resize", "init=/usr/lib/raspberrypi-sys-mods/firstboot", "init=/usr/lib/raspi-config/init_resize.sh")
REPLACED = ("ds=nocloud", "systemd.run", "systemd.unit=kernel-command-line.target", "cfg80211.ieee80211_regdom=")


def seeded(text: str, plan: Plan) -> str:
    """The line with nothing in it that grows the root, and with what starts this seed.

    Raises:
        BadRequest: the text is no kernel command line.
    """
    words = text.split()
    if len(text.strip().splitlines()) != 1 or not any(word.startswith("root=") for word in words):
        raise BadRequest("cmdline.txt is not the command line of a kernel", expected="one line with root=… in it")
    kept = [word for word in words if not word.startswith((*GROWS, *REPLACED))]
    if plan.wifi:
        kept.append(f"cfg80211.ieee80211_regdom={plan.wifi.country}")
    if plan.operating_system == "raspios-trixie":
        # With its name here cloud-init knows at later boots that this is the same installation.
        kept.append(f"ds=nocloud;i={plan.instance}")
    else:
        kept.append(f"systemd.run={BOOT}/firstrun.sh")
        kept.append("systemd.run_success_action=reboot")
        kept.append("systemd.unit=kernel-command-line.target")
    return " ".join(kept) + "\n"

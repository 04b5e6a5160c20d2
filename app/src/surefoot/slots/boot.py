"""Which boot this is: tries of a trial are counted once in each."""

from __future__ import annotations

import sys
from pathlib import Path

from surefoot.errors import DeviceUnable

LINUX_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4)
MACOS_BOOT_ID = b"kern.bootsessionuuid"  # sysctl(3)
MOST_BYTES = 64


def boot_id() -> str:
    """A value that is another after each boot.

    Raises:
        DeviceUnable: the kernel does not say, so that a try cannot be counted.
    """
    try:
        if sys.platform == "darwin":
            import ctypes

            value = ctypes.create_string_buffer(MOST_BYTES)
            size = ctypes.c_size_t(MOST_BYTES)
            if ctypes.CDLL(None).sysctlbyname(MACOS_BOOT_ID, value, ctypes.byref(size), None, 0) != 0:
                raise OSError("sysctlbyname failed")
            return value.value.decode()
        return LINUX_BOOT_ID.read_text(encoding="ascii")[:MOST_BYTES].strip()
    except OSError as error:
        raise DeviceUnable("cannot tell one boot from the next", found=str(error)) from error

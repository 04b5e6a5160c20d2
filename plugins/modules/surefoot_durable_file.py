#!/usr/bin/python
# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 Ansible reads the documentation before the imports
"""Ansible module: write a small file so that a power cut leaves the old one or the new one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: surefoot_durable_file
short_description: Write a small file so that a power cut leaves the old one or the new one
version_added: 0.1.0
description:
  - Writes beside the file, puts that onto the disk, takes the file's name by one rename, and puts the folder onto the
    disk. For files without which a device does not boot.
  - M(ansible.builtin.copy) renames as well, but what it wrote may reach the disk after the rename, and a power cut in
    between leaves an empty file. Its backups have a colon in their names, which a FAT refuses.
author:
  - The Surefoot authors (@surefoot)
attributes:
  check_mode:
    description: Can run in check mode and return the changed status prediction without writing.
    support: full
  diff_mode:
    description: Returns the file before and after.
    support: full
  platform:
    description: Where the module runs.
    support: full
    platforms: posix
options:
  path:
    description: The file. Its folder must be there.
    type: path
    required: true
  content:
    description: What should be in it.
    type: str
    required: true
  keep:
    description: Where to keep the file as it was before the first change. What is already there is left alone.
    type: path
"""

EXAMPLES = r"""
- name: Set the kernel's command line
  surefoot.edge.surefoot_durable_file:
    path: /boot/firmware/cmdline.txt
    content: "console=tty1 root=PARTUUID=0a1b2c3d-02 rootwait cgroup_enable=memory\n"
    keep: /boot/firmware/cmdline.txt.before-surefoot
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /boot/firmware/cmdline.txt
"""

import os
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MODE = 0o644  # of a file that was not there; a FAT has its own


def read(path):
    """The text of a file, None where there is none. Bytes that are no text survive."""
    try:
        return Path(path).read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return None


def write(path, text, mode=MODE):
    """Write, flush, rename, flush the folder. A failure before the rename leaves the file as it was."""
    part = f"{path}.surefoot-part"
    Path(part).unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode(errors="surrogateescape"))
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(part, path)  # noqa: PTH104  # one name for what the tests watch
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120  # text is wanted
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def bring(path, content, keep, check_mode):
    """Bring the file to its content. Returns what was there, None for no file."""
    before = read(path)
    if before != content and not check_mode:
        mode = MODE if before is None else stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116  # one name for the tests
        if keep and before is not None and read(keep) is None:
            write(keep, before, mode)
        write(path, content, mode)
    return before


def main():
    """One task."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "keep": {"type": "path"},
        },
        supports_check_mode=True,
    )
    path, content = module.params["path"], module.params["content"]
    try:
        before = bring(path, content, module.params["keep"], module.check_mode)
    except OSError as failure:
        module.fail_json(
            msg=f"{path} cannot be written and is as it was; found {failure}, expected a writable folder with room"
        )
    else:
        module.exit_json(
            changed=before != content,
            path=path,
            diff={"before_header": path, "after_header": path, "before": before or "", "after": content},
        )


if __name__ == "__main__":
    main()

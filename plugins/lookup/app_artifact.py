# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 Ansible reads the documentation before the imports
"""What an archive of the app holds, read on the controller."""

from __future__ import annotations

DOCUMENTATION = """
name: app_artifact
short_description: What an archive of the app is, without unpacking it
description:
  - Reads the index of a Docker archive or the C(bundle.conf) of a bundle, as C(make image-generic) and
    C(make bundle-linux) write them. No layer and no wheel is read.
author:
  - The Surefoot authors (@surefoot)
options:
  _terms:
    description: Paths on the controller.
    required: true
"""

EXAMPLES = """
- name: Say which app it is
  ansible.builtin.debug:
    msg: "{{ lookup('surefoot.edge.app_artifact', 'dist/surefoot-0.1.0-rpi.docker.tar').id }}"
"""

RETURN = """
_raw:
  description: For each path what is in it.
  type: list
  elements: dict
  contains:
    kind: {description: V(image) or V(bundle)., type: str}
    name: {description: Of the file., type: str}
    id: {description: Version and the first twelve digits of its digest., type: str, sample: 0.1.0-766d4f6d59f1}
    version: {description: Of the app., type: str}
    system: {description: As C(uname -s) says it., type: str}
    machine: {description: As C(uname -m) says it., type: str}
    python: {description: The Python that a bundle is for., type: str}
    images: {description: Digests that an engine may know the image by., type: list, elements: str}
    bytes: {description: Of the archive., type: int}
    needed_bytes: {description: What it takes beside the archive., type: int}
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.surefoot.edge.plugins.module_utils.app_artifact import ArtifactError, describe


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """What is in each archive."""
        try:
            return [describe(term) for term in terms]
        except ArtifactError as error:
            raise AnsibleLookupError(str(error)) from error

# Licensed under the Apache License, Version 2.0: see LICENSE in the root of the collection.
"""Variables that look like one of a role and are none."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unknown_variables
short_description: Names of variables that look like one of a role of this collection, and are none
description:
  - A mistyped variable does nothing and says nothing. This finds those that begin with a role's name and are not in its
    C(meta/argument_specs.yml), and those that differ from a known name by a letter or two.
author: [The Surefoot authors]
options:
  _terms:
    description: Roles to look at. None means every role of the collection, and the playbooks' own short names.
"""

EXAMPLES = """
- name: Refuse variables that no role knows
  ansible.builtin.assert:
    that: query('surefoot.edge.unknown_variables') | length == 0
"""

RETURN = """
_raw:
  description: Each unknown name, with the known one that is nearest.
  type: list
  elements: str
"""

ROLES = Path(__file__).resolve().parents[2] / "roles"
# Short names for the command line, where they are the same for every device.
SHORTHANDS = {"surefoot_version", "surefoot_steps", "surefoot_status_json", "surefoot_what"}
NEAR = 0.9  # of difflib's ratio: a letter in ten


def known_names(role: str) -> set[str]:
    """The variables of all entry points of a role."""
    specs = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    return {name for entry in specs.values() for name in entry.get("options") or {}}


def unknown(names: list[str], known: set[str], prefixes: set[str]) -> list[str]:
    """Those of ``names`` that are not ``known`` and begin with one of ``prefixes``, or are nearly a known one."""
    found = []
    for name in sorted(set(names) - known):
        ours = name.startswith(tuple(f"{prefix}_" for prefix in prefixes))
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6 if ours else NEAR)
        if ours or near:
            found.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return found


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """The unknown names among the variables of the host."""
        roles = {path.name for path in ROLES.iterdir() if path.is_dir()}
        looked_at = set(terms) or roles
        known = set().union(*(known_names(role) for role in looked_at))
        if not terms:
            looked_at |= {"surefoot"}
            known |= SHORTHANDS
        names = [name for name in variables or {} if re.match(r"[a-z]", name) and not name.startswith("ansible_")]
        return unknown(names, known, looked_at)

# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 Ansible reads the documentation before the imports
"""Variables that look like one of a role and are none."""

from __future__ import annotations

DOCUMENTATION = """
name: unknown_variables
short_description: Names of variables that look like one of a role of this collection, and are none
description:
  - A mistyped variable does nothing and says nothing. This finds those that begin with a role's name and are not in its
    C(meta/argument_specs.yml), and those that differ from a known name by a letter or two.
  - A role named by one plain word, such as C(base), does not own every variable that begins with it. There a name is
    only found where its next word is one of that role's too (C(base_time_x), and not C(base_url)).
author:
  - The Surefoot authors (@surefoot)
options:
  _terms:
    description: Roles to look at. None means every role of the collection.
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

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.lookup import LookupBase

ROLES = Path(__file__).resolve().parents[2] / "roles"
NEAR = 0.9  # of difflib's ratio: a letter in ten
HINT = 0.6  # of the same: what is worth naming, for a name that is ours and unknown
# The prefix of the collection itself, though it has no underscore.
OWN = "surefoot"


def known_names(role: str) -> set[str]:
    """The variables of all entry points of a role."""
    with (ROLES / role / "meta" / "argument_specs.yml").open(encoding="utf-8") as stream:
        specs = yaml_load(stream)["argument_specs"]
    return {name for entry in specs.values() for name in entry.get("options") or {}}


def unknown(names: Iterable[str], known: Mapping[str, set[str]], looked_at: Collection[str]) -> list[str]:
    """Those of ``names`` that no role knows, and that begin as a role ``looked_at`` or are nearly a name of it.

    Args:
        names: of variables.
        known: the variables of each role there is.
        looked_at: names of roles.

    Returns:
        Each with what it may have been meant to be.
    """
    candidates = set().union(*(known[role] for role in looked_at))
    found = []
    for name in sorted(set(names).difference(*known.values())):
        ours = any(_belongs(name, role, known[role]) for role in looked_at)
        near = difflib.get_close_matches(name, candidates, n=1, cutoff=HINT if ours else NEAR)
        if ours or near:
            found.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return found


def _belongs(name: str, role: str, known: set[str]) -> bool:
    """Whether a variable can only be meant for this role."""
    if not name.startswith(f"{role}_"):
        return False
    word = len(role.split("_"))
    return word > 1 or role == OWN or name.split("_")[word] in {each.split("_")[word] for each in known}


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """The unknown names among the variables of the host."""
        roles = [path.parents[1].name for path in ROLES.glob("*/meta/argument_specs.yml")]
        known = {role: known_names(role) for role in roles}
        for term in terms:
            if term not in known:
                raise AnsibleLookupError(f"no role is named {term}; there are {', '.join(sorted(known))}")
        # What begins with an underscore is a role's own, and ansible_… is Ansible's.
        names = [name for name in variables or {} if re.match(r"(?!ansible_)[a-z]", name)]
        return unknown(names, known, terms or known)

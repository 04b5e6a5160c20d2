# Licensed under the Apache License, Version 2.0: see LICENSE in the root of the collection.
"""What a device answered."""

from __future__ import annotations

import base64

DOCUMENTATION = """
name: answers
short_description: What a device said to a script of questions
description:
  - Reads what a script made by P(surefoot.edge.questions#filter) printed.
positional: _input
options:
  _input:
    description: Lines of its output.
    type: list
    elements: str
    required: true
author: [The Surefoot authors]
"""

EXAMPLES = """
kernel: "{{ (asked.stdout_lines | surefoot.edge.answers).kernel }}"
"""

RETURN = """
_value:
  description: The answers by the name of the question, as they were said. Empty where nothing was said.
  type: dict
"""


def answers(lines: list[str]) -> dict[str, str]:
    """Undo the base64. The NUL at the end of a device tree's strings is dropped."""
    said = {}
    for line in lines:
        name, _, text = line.partition(" ")
        said[name] = base64.b64decode(text).decode(errors="replace").replace("\0", "")
    return said


class FilterModule:
    """See DOCUMENTATION."""

    def filters(self) -> dict[str, object]:
        """The filters of this file, by name."""
        return {"answers": answers}

# Licensed under the Apache License, Version 2.0: see LICENSE in the root of the collection.
"""One script that asks a device many things."""

from __future__ import annotations

DOCUMENTATION = """
name: questions
short_description: One shell script that asks a device many things
description:
  - A task costs a third of a second on a device, a question in a script next to nothing.
  - The script prints a line for each question, its name and what the command said, for P(surefoot.edge.answers#filter).
  - A command that fails or is missing says nothing; the script goes on.
positional: _input
options:
  _input:
    description: Shell commands by the name of the question. They only read.
    type: dict
    required: true
author: [The Surefoot authors]
"""

EXAMPLES = """
script: "{{ {'model': 'cat /proc/device-tree/model', 'kernel': 'uname -r'} | surefoot.edge.questions }}"
"""

RETURN = """
_value:
  description: A script for POSIX sh.
  type: str
"""

MOST_BYTES = 65536  # of an answer: more is cut off


def questions(commands: dict[str, str]) -> str:
    """A script that runs each command and prints its name and its output, in base64, on one line."""
    told = f"2>/dev/null </dev/null | head -c {MOST_BYTES} | base64 | tr -d '\\n'; echo"
    return "\n".join(f"printf '%s ' {name}; {{ {command}\n}} {told}" for name, command in commands.items())


class FilterModule:
    """See DOCUMENTATION."""

    def filters(self) -> dict[str, object]:
        """The filters of this file, by name."""
        return {"questions": questions}
